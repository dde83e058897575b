package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Values of Issuer.AudienceMatch.
const (
	// AudienceContains takes a token that has one of the issuer's audiences among its own.
	AudienceContains = "contains"
	// AudienceSole takes a token that has one of the issuer's audiences and no other.
	AudienceSole = "sole"
)

// Issuer is an OIDC issuer whose tokens are taken as proof. Exactly one of Discovery, JWKSURL, JWKSFile and PEM says where
// its keys come from.
type Issuer struct {
	// Name is ^[a-z0-9][a-z0-9_-]{0,62}$ and unique; a metric label. Required.
	Name string `yaml:"name"`
	// Issuer is byte-equal to the token's `iss`, and unique: an https URL (OpenID Connect Core, section 2). Required.
	Issuer string `yaml:"issuer"`
	// Discovery gets the keys by <issuer>/.well-known/openid-configuration. Default true if there is no other source.
	Discovery bool `yaml:"discovery"`
	// JWKSURL is where the keys are.
	JWKSURL string `yaml:"jwks_url"`
	// JWKSFile is a file that holds the keys (RFC 7517, section 5).
	JWKSFile string `yaml:"jwks_file"`
	// PEM is a file that holds one public key.
	PEM PEM `yaml:"pem"`
	// CAFile holds the only roots that Discovery and JWKSURL trust. Default: the system's.
	CAFile string `yaml:"ca_file"`
	// BearerFile holds a token that Discovery and JWKSURL send; it is read at each fetch. Default none.
	BearerFile string `yaml:"bearer_file"`
	// InsecurePlaintext allows http URLs beyond loopback. Default false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// Audiences are what the token's `aud` is compared with: 1 to 32. Required.
	Audiences []string `yaml:"audiences"`
	// AudienceMatch is contains or sole. Default contains.
	AudienceMatch string `yaml:"audience_match"`
	// AuthorizedParties are the `azp` values taken in a token that has several audiences; at most 32. Default none.
	AuthorizedParties []string `yaml:"authorized_parties"`
	// Types are the `typ` header values taken, without "application/" and in any case; "" is a token without one; 1 to 8.
	// Default [JWT, ""].
	Types []string `yaml:"types"`
	// Algorithms are the signature algorithms taken: RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA. Default
	// [RS256, ES256].
	Algorithms []string `yaml:"algorithms"`
	// Skew is how far clocks may differ: 1s to 60s. Default 30s.
	Skew time.Duration `yaml:"skew"`
	// MaxLifetime is the longest life (`exp` - `iat`) of a token: 1s to 24h. Default 1h.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// SingleUse takes each token once: `jti` is required and remembered, in Redis where replicas are many. Default false.
	SingleUse bool `yaml:"single_use"`
	// Attributes of the identity, by name (^[a-z][a-z0-9_]{0,62}$), and the claims they come from; at most 64. Default none.
	Attributes map[string]Attribute `yaml:"attributes"`
}

// PEM is a public key in a file.
type PEM struct {
	// File holds one PEM block, a public key or a certificate.
	File string `yaml:"file"`
	// KID is the `kid` of the tokens that the key signs, at most 255 bytes.
	KID string `yaml:"kid"`
}

// Attribute says which claim an attribute comes from.
type Attribute struct {
	// Claim is a claim's name, or a JSON pointer (RFC 6901) of at most 16 steps to one; at most 255 bytes. The claim `email` counts only if
	// email_verified is true. Required.
	Claim string `yaml:"claim"`
	// Path says that the values are paths, in which "/" separates segments. Default false.
	Path bool `yaml:"path"`
}

func (i *Issuer) setDefaults() {
	i.AudienceMatch = AudienceContains
	i.Types = []string{"JWT", ""}
	i.Algorithms = []string{"RS256", "ES256"}
	i.Skew = 30 * time.Second
	i.MaxLifetime = time.Hour
}

func (i *Issuer) hasKeySource() bool {
	return i.JWKSURL != "" || i.JWKSFile != "" || i.PEM != (PEM{})
}

// fetches reports whether the keys come over the network.
func (i *Issuer) fetches() bool { return i.Discovery || i.JWKSURL != "" }

// DevelopmentIssuer is the name that AddDevelopmentIssuer gives its issuer.
const DevelopmentIssuer = "development"

// AddDevelopmentIssuer adds the identity provider of `broker dev`, reached by url, to the issuers. The error is a [Faults]
// if the configuration has that name or issuer already.
func (c *Config) AddDevelopmentIssuer(url string) error {
	i := Issuer{
		Name: DevelopmentIssuer, Issuer: url, Discovery: true, Audiences: []string{"credbroker"},
		Attributes: map[string]Attribute{"groups": {Claim: "groups"}},
	}
	i.setDefaults()
	i.Algorithms = []string{"ES256"}
	c.Issuers = append(slices.Clone(c.Issuers), i)
	v := newValidator(c, nil)
	if v.issuers(); len(v.faults) > 0 {
		return v.faults
	}
	return nil
}

var (
	attributeName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
	jsonPointer   = regexp.MustCompile(`^(/([^~/]|~[01])*)+$`)
	mediaType     = regexp.MustCompile(`^[A-Za-z0-9!#$&^_.+-]{0,64}$`) // RFC 6838, section 4.2
)

var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func (v *validator) issuers() {
	if !v.count("issuers", len(v.Issuers), 0, 256) {
		return
	}
	names, urls := map[string]string{}, map[string]string{}
	for n := range v.Issuers {
		i, path := &v.Issuers[n], index("issuers", n)
		v.name(path+".name", i.Name)
		v.unique(path+".name", i.Name, names)
		v.url(path+".issuer", i.Issuer, i.InsecurePlaintext, anyPath)
		v.unique(path+".issuer", i.Issuer, urls)
		v.keySource(path, i)
		v.audiences(path, i)
		v.tokenForm(path, i)
		v.attributes(path+".attributes", i.Attributes)
	}
}

func (v *validator) keySource(path string, i *Issuer) {
	var sources []string
	for _, s := range []struct {
		key  string
		used bool
	}{{"discovery", i.Discovery}, {"jwks_url", i.JWKSURL != ""}, {"jwks_file", i.JWKSFile != ""}, {"pem", i.PEM != (PEM{})}} {
		if s.used {
			sources = append(sources, s.key)
		}
	}
	switch {
	case len(sources) == 0:
		v.fault(path+".discovery", "no source of keys; expected discovery: true, jwks_url, jwks_file or pem")
	case len(sources) > 1:
		v.fault(path+"."+sources[1], "several sources of keys (%s); expected one", strings.Join(sources, ", "))
	}
	if i.JWKSURL != "" {
		v.url(path+".jwks_url", i.JWKSURL, i.InsecurePlaintext, anyPath)
	}
	if i.PEM != (PEM{}) {
		v.required(path+".pem.file", i.PEM.File)
		v.text(path+".pem.kid", i.PEM.KID)
	}
	if i.CAFile != "" && !i.fetches() {
		v.fault(path+".ca_file", "keys are not fetched; expected discovery or jwks_url with it")
	}
	if i.BearerFile != "" && !i.fetches() {
		v.fault(path+".bearer_file", "keys are not fetched; expected discovery or jwks_url with it")
	}
}

func (v *validator) audiences(path string, i *Issuer) {
	v.texts(path+".audiences", i.Audiences, 1, 32)
	v.oneOf(path+".audience_match", i.AudienceMatch, AudienceContains, AudienceSole)
	v.texts(path+".authorized_parties", i.AuthorizedParties, 0, 32)
}

// tokenForm checks what says how a token has to be made.
func (v *validator) tokenForm(path string, i *Issuer) {
	v.types(path+".types", i.Types)
	v.algorithms(path+".algorithms", i.Algorithms)
	v.duration(path+".skew", i.Skew, time.Second, time.Minute)
	v.duration(path+".max_lifetime", i.MaxLifetime, time.Second, 24*time.Hour)
}

func (v *validator) types(path string, types []string) {
	if !v.count(path, len(types), 1, 8) {
		return
	}
	seen := map[string]string{}
	for n, t := range types {
		bare := strings.TrimPrefix(strings.ToLower(t), "application/")
		if !mediaType.MatchString(bare) || bare == "" && t != "" {
			v.fault(index(path, n), `%.64q; expected a media type like JWT or at+jwt, or "" for none`, t)
		}
		v.unique(index(path, n), bare, seen)
	}
}

func (v *validator) algorithms(path string, names []string) {
	if !v.count(path, len(names), 1, len(algorithms)) {
		return
	}
	seen := map[string]string{}
	for n, name := range names {
		v.oneOf(index(path, n), name, algorithms...)
		v.unique(index(path, n), name, seen)
	}
}

func (v *validator) attributes(path string, attributes map[string]Attribute) {
	if !v.count(path, len(attributes), 0, 64) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		at, claim := join(path, name), attributes[name].Claim
		if !attributeName.MatchString(name) {
			v.fault(at, "%.64q; expected an attribute name that matches %s", name, attributeName)
		}
		v.text(at+".claim", claim)
		if strings.HasPrefix(claim, "/") && (!jsonPointer.MatchString(claim) || strings.Count(claim, "/") > 16) {
			v.fault(at+".claim", `%.64q; expected a JSON pointer of at most 16 steps, in which "~" is followed by 0 or 1`, claim)
		}
	}
}
