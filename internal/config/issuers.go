package config

import (
	"cmp"
	"maps"
	"net/url"
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

// Issuer is an issuer of JWTs that are taken as proof. Exactly one of Discovery, JWKSURL, JWKSFile, PEM, WorkloadAPI and TokenReview
// says where its keys come from.
type Issuer struct {
	// Name is ^[a-z0-9][a-z0-9_-]{0,62}$ and unique; a metric label. Required.
	Name string `yaml:"name"`
	// Profile says whose tokens they are: oidc, aws, gcp, gcp_service_account, azure, kubernetes or spiffe. All but oidc have checks and
	// attributes of their own (docs/proofs). Default oidc.
	Profile string `yaml:"profile"`
	// Issuer is byte-equal to the token's `iss`, and unique: an https URL (OpenID Connect Core, section 2). For spiffe it is
	// spiffe://TRUST-DOMAIN, for gcp_service_account the account's e-mail address. Required but for gcp.
	Issuer string `yaml:"issuer"`
	// Discovery gets the keys by <issuer>/.well-known/openid-configuration. Default true if there is no other source.
	Discovery bool `yaml:"discovery"`
	// JWKSURL is where the keys are; for spiffe, the trust domain's bundle. Default for gcp_service_account and azure: where Google and
	// Microsoft have them.
	JWKSURL string `yaml:"jwks_url"`
	// JWKSFile is a file that holds the keys (RFC 7517, section 5), or the trust domain's bundle.
	JWKSFile string `yaml:"jwks_file"`
	// WorkloadAPI is the address of a SPIFFE Workload API that gives the trust domain's bundle: unix:///path or tcp://IP:port. For spiffe.
	WorkloadAPI string `yaml:"workload_api"`
	// TokenReview asks a Kubernetes API server about each token. For kubernetes.
	TokenReview TokenReview `yaml:"token_review"`
	// GCP says whose tokens of Google are taken. For gcp.
	GCP GCP `yaml:"gcp"`
	// Azure says whose tokens of the tenant are taken. For azure.
	Azure Azure `yaml:"azure"`
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
	// Default [JWT, ""], and JOSE for spiffe.
	Types []string `yaml:"types"`
	// Algorithms are the signature algorithms taken: RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA. Default
	// [RS256, ES256]; for aws [RS256, ES384].
	Algorithms []string `yaml:"algorithms"`
	// Skew is how far clocks may differ: 1s to 60s. Default 30s.
	Skew time.Duration `yaml:"skew"`
	// MaxLifetime is the longest life (`exp` - `iat`) of a token: 1s to 25h; for gcp_service_account 15m. Default 1h; for azure 25h,
	// for gcp_service_account 15m.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// SingleUse takes each token once: `jti` is required and remembered, in Redis where replicas are many. Default false.
	SingleUse bool `yaml:"single_use"`
	// Attributes of the identity, by name (^[a-z][a-z0-9_]{0,62}$), and the claims they come from; at most 64. Default none.
	Attributes map[string]Attribute `yaml:"attributes"`
}

// TokenReview says how to reach a Kubernetes API server.
type TokenReview struct {
	// URL is the API server's; in a cluster https://kubernetes.default.svc.
	URL string `yaml:"url"`
	// CAFile holds the only roots to trust for it. Default, with URL: what a pod has of its cluster.
	CAFile string `yaml:"ca_file"`
	// TokenFile holds a token that may create tokenreviews; it is read each time. Default, with URL: the pod's own.
	TokenFile string `yaml:"token_file"`
}

// GCP says whose tokens of Google are taken; one of the lists has an entry.
type GCP struct {
	// ProjectNumbers are projects whose instances are taken; at most 1024. Default none.
	ProjectNumbers []string `yaml:"project_numbers"`
	// ServiceAccounts are e-mail addresses of accounts that are taken wherever they run; at most 1024. Default none.
	ServiceAccounts []string `yaml:"service_accounts"`
}

// Azure says whose tokens of a tenant are taken.
type Azure struct {
	// ObjectIDs are those of service principals (`oid`); at most 1024. Default any of the tenant.
	ObjectIDs []string `yaml:"object_ids"`
	// AppIDs are client IDs (`appid`, `azp`); at most 1024. Default any of the tenant.
	AppIDs []string `yaml:"app_ids"`
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
	i.Profile = ProfileOIDC
	i.AudienceMatch = AudienceContains
	i.Types = []string{"JWT", ""}
	i.Algorithms = []string{"RS256", "ES256"}
	i.Skew = 30 * time.Second
	i.MaxLifetime = time.Hour
}

// Values of Issuer.Profile.
const (
	ProfileOIDC              = "oidc"
	ProfileAWS               = "aws"
	ProfileGCP               = "gcp"
	ProfileGCPServiceAccount = "gcp_service_account"
	ProfileAzure             = "azure"
	ProfileKubernetes        = "kubernetes"
	ProfileSPIFFE            = "spiffe"
)

const (
	maxLifetime  = 25 * time.Hour   // of a managed identity's token
	maxSignedJWT = 15 * time.Minute // of what a service account of Google signs
	// Where a pod has what it needs to ask its API server.
	podFiles = "/var/run/secrets/kubernetes.io/serviceaccount/"
)

func (i *Issuer) hasKeySource() bool {
	return i.JWKSURL != "" || i.JWKSFile != "" || i.PEM != (PEM{}) || i.WorkloadAPI != "" || i.TokenReview != (TokenReview{})
}

// derive fills in the defaults that depend on the profile; written says whether a key was given a value.
func (i *Issuer) derive(written func(key string) bool) {
	if i.Profile == ProfileGCP && i.Issuer == "" {
		i.Issuer = "https://accounts.google.com"
	}
	if !i.Discovery && !i.hasKeySource() {
		switch i.Profile {
		case ProfileGCPServiceAccount: // only once the address has the form of one: it becomes a part of the URL
			if serviceAccountEmail.MatchString(i.Issuer) {
				i.JWKSURL = "https://www.googleapis.com/service_accounts/v1/jwk/" + i.Issuer
			}
		case ProfileAzure:
			i.JWKSURL = azureKeys(i.Issuer)
		}
	}
	if !written("discovery") && !i.hasKeySource() && i.Profile != ProfileSPIFFE {
		i.Discovery = true
	}
	if r := &i.TokenReview; r.URL != "" {
		r.CAFile, r.TokenFile = cmp.Or(r.CAFile, podFiles+"ca.crt"), cmp.Or(r.TokenFile, podFiles+"token")
	}
	if !written("max_lifetime") {
		switch i.Profile {
		case ProfileAzure:
			i.MaxLifetime = maxLifetime
		case ProfileGCPServiceAccount:
			i.MaxLifetime = maxSignedJWT
		}
	}
	if !written("types") && i.Profile == ProfileSPIFFE {
		i.Types = append(i.Types, "JOSE")
	}
	if !written("algorithms") && i.Profile == ProfileAWS {
		i.Algorithms = []string{"RS256", "ES384"}
	}
}

var (
	serviceAccountEmail = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}@[a-z0-9][a-z0-9.-]{0,200}\.gserviceaccount\.com$`)
	azureIssuer         = regexp.MustCompile(`^https://(?:sts\.windows\.net|sts\.chinacloudapi\.cn|login\.microsoftonline\.(?:com|us)|login\.partner\.microsoftonline\.cn)/` +
		`([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(v2\.0)?$`)
	trustDomainID = regexp.MustCompile(`^spiffe://[a-z0-9._-]{1,255}$`)
	projectNumber = regexp.MustCompile(`^[0-9]{1,20}$`)
)

// azureKeys is where Microsoft has the keys of a tenant's issuer; empty if it is none.
func azureKeys(issuer string) string {
	m := azureIssuer.FindStringSubmatch(issuer)
	if m == nil {
		return ""
	}
	u, err := url.Parse(issuer)
	if err != nil {
		return ""
	}
	hosts := map[string]string{"sts.windows.net": "login.microsoftonline.com", "sts.chinacloudapi.cn": "login.partner.microsoftonline.cn"}
	path := "/discovery/keys"
	if m[2] != "" {
		path = "/discovery/v2.0/keys"
	}
	return "https://" + cmp.Or(hosts[u.Host], u.Host) + "/" + m[1] + path
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
	workloadAPI   = regexp.MustCompile(`^(unix:///[!-~]{1,200}|tcp://[0-9a-f.:\[\]]{1,64}:[0-9]{1,5})$`)
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
		v.profile(path, i)
		v.unique(path+".issuer", i.Issuer, urls)
		v.keySource(path, i)
		v.audiences(path, i)
		v.tokenForm(path, i)
		v.attributes(path+".attributes", i.Attributes)
	}
}

// profile checks what a profile needs of the issuer, and that nothing of another one is there.
func (v *validator) profile(path string, i *Issuer) {
	v.oneOf(path+".profile", i.Profile, ProfileOIDC, ProfileAWS, ProfileGCP, ProfileGCPServiceAccount, ProfileAzure, ProfileKubernetes, ProfileSPIFFE)
	issuer := path + ".issuer"
	switch {
	case i.Issuer == "":
		v.required(issuer, i.Issuer)
	case i.Profile == ProfileGCP && i.Issuer != "https://accounts.google.com":
		v.fault(issuer, "%.128q; expected https://accounts.google.com, or no issuer at all", i.Issuer)
	case i.Profile == ProfileGCPServiceAccount && !serviceAccountEmail.MatchString(i.Issuer):
		v.fault(issuer, "%.128q; expected a service account's e-mail address, such as backup@project.iam.gserviceaccount.com", i.Issuer)
	case i.Profile == ProfileAzure && azureKeys(i.Issuer) == "":
		v.fault(issuer, "%.128q; expected https://sts.windows.net/TENANT-ID/ or https://login.microsoftonline.com/TENANT-ID/v2.0, or a national cloud's", i.Issuer)
	case i.Profile == ProfileSPIFFE && !trustDomainID.MatchString(i.Issuer):
		v.fault(issuer, "%.128q; expected spiffe://TRUST-DOMAIN", i.Issuer)
	case i.Profile != ProfileSPIFFE && i.Profile != ProfileGCPServiceAccount:
		v.url(issuer, i.Issuer, i.InsecurePlaintext, anyPath)
	}
	if i.Profile == ProfileGCP {
		if v.count(path+".gcp.project_numbers", len(i.GCP.ProjectNumbers), 0, 1024) && v.count(path+".gcp.service_accounts", len(i.GCP.ServiceAccounts), 0, 1024) &&
			len(i.GCP.ProjectNumbers)+len(i.GCP.ServiceAccounts) == 0 {
			v.fault(path+".gcp", "Google signs tokens for everybody; expected project_numbers or service_accounts")
		}
		for n, number := range i.GCP.ProjectNumbers {
			if !projectNumber.MatchString(number) {
				v.fault(index(path+".gcp.project_numbers", n), "%.64q; expected a project's number, in quotes", number)
			}
		}
		v.texts(path+".gcp.service_accounts", i.GCP.ServiceAccounts, 0, 1024)
	} else if len(i.GCP.ProjectNumbers)+len(i.GCP.ServiceAccounts) > 0 {
		v.fault(path+".gcp", "the profile is %s; expected it with gcp alone", i.Profile)
	}
	if i.Profile == ProfileAzure {
		v.texts(path+".azure.object_ids", i.Azure.ObjectIDs, 0, 1024)
		v.texts(path+".azure.app_ids", i.Azure.AppIDs, 0, 1024)
	} else if len(i.Azure.ObjectIDs)+len(i.Azure.AppIDs) > 0 {
		v.fault(path+".azure", "the profile is %s; expected it with azure alone", i.Profile)
	}
	if i.Profile == ProfileGCPServiceAccount && i.MaxLifetime > maxSignedJWT {
		v.fault(path+".max_lifetime", "%s; expected at most %s for what a service account signs", i.MaxLifetime, maxSignedJWT)
	}
	reserved := jwtAttributes[i.Profile]
	for name := range i.Attributes {
		if slices.Contains(reserved, name) {
			v.fault(join(path+".attributes", name), "the profile %s sets it; expected another name", i.Profile)
		}
	}
}

// jwtAttributes are the attributes that each profile sets by itself.
var jwtAttributes = map[string][]string{
	ProfileAWS:               {"account", "arn", "source_region", "org_id"},
	ProfileGCP:               {"service_account", "project_id", "project_number", "zone", "instance_id", "instance_name"},
	ProfileGCPServiceAccount: {"service_account"},
	ProfileAzure:             {"app_id", "object_id", "subscription_id", "resource_group", "resource_type", "resource_name"},
	ProfileKubernetes:        {"namespace", "service_account", "service_account_uid", "pod", "pod_uid", "node"},
	ProfileSPIFFE:            {"trust_domain", "path"},
}

func (v *validator) keySource(path string, i *Issuer) {
	var sources []string
	for _, s := range []struct {
		key  string
		used bool
	}{
		{"discovery", i.Discovery}, {"jwks_url", i.JWKSURL != ""}, {"jwks_file", i.JWKSFile != ""}, {"pem", i.PEM != (PEM{})},
		{"workload_api", i.WorkloadAPI != ""}, {"token_review", i.TokenReview != (TokenReview{})},
	} {
		if s.used {
			sources = append(sources, s.key)
		}
	}
	switch {
	case len(sources) == 0:
		v.fault(path+".discovery", "no source of keys; expected discovery: true, jwks_url, jwks_file or pem (for spiffe: jwks_url, jwks_file or workload_api)")
	case len(sources) > 1:
		v.fault(path+"."+sources[1], "several sources of keys (%s); expected one", strings.Join(sources, ", "))
	}
	if i.TokenReview != (TokenReview{}) {
		v.required(path+".token_review.url", i.TokenReview.URL)
		if i.TokenReview.URL != "" {
			v.url(path+".token_review.url", i.TokenReview.URL, i.InsecurePlaintext, noSlash)
		}
		if i.Profile != ProfileKubernetes {
			v.fault(path+".token_review", "the profile is %s; expected it with kubernetes alone", i.Profile)
		}
	}
	if i.WorkloadAPI != "" {
		if !workloadAPI.MatchString(i.WorkloadAPI) {
			v.fault(path+".workload_api", "%.128q; expected unix:///path or tcp://IP:port", i.WorkloadAPI)
		}
		if i.Profile != ProfileSPIFFE {
			v.fault(path+".workload_api", "the profile is %s; expected it with spiffe alone", i.Profile)
		}
	}
	if i.Profile == ProfileSPIFFE && (i.Discovery || i.PEM != (PEM{})) {
		v.fault(path+".profile", "a trust domain has neither discovery nor a PEM file; expected jwks_url, jwks_file or workload_api")
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
	v.duration(path+".max_lifetime", i.MaxLifetime, time.Second, maxLifetime)
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
