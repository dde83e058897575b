package jwtproof

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// Defaults and bounds of an Issuer.
const (
	defaultSkew     = 30 * time.Second
	maxSkew         = 60 * time.Second
	defaultLifetime = time.Hour
	maxLifetime     = 25 * time.Hour // a managed identity's token lives 24 h, and begins 5 min before it was asked for
)

// Issuer is one issuer whose tokens are accepted.
type Issuer struct {
	// Name is how the log and the status call it.
	Name string
	// Profile says what platform's tokens these are; empty means ProfileOIDC.
	Profile Profile
	// Issuer is compared byte for byte with `iss`; for ProfileSPIFFE it is the trust domain's ID, spiffe://NAME. It is an https URL
	// where Keys.Discovery is set.
	Issuer string
	Keys   KeySource
	// GCP is for ProfileGCP, Azure for ProfileAzure.
	GCP   GCP
	Azure Azure
	// Audiences are the accepted values of `aud`; at least one.
	Audiences []string
	// SoleAudience refuses tokens that name any further audience.
	SoleAudience bool
	// AuthorizedParties are accepted as `azp`, besides Audiences. It is looked at in tokens that name several audiences,
	// and only there.
	AuthorizedParties []string
	// Types are the accepted values of the header `typ`, without case and "application/"; "" means that it may be
	// absent. Empty means JWT and absent.
	Types []string
	// Algorithms are the accepted values of `alg`: RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA. Empty
	// means RS256 and ES256.
	Algorithms []string
	// Skew is how far the issuer's clock may be off. Zero means 30 s; at most 60 s.
	Skew time.Duration
	// MaxLifetime is the most that `exp` may be after `iat`. Zero means 1 h, for ProfileAzure 25 h,
	// for ProfileGCPServiceAccount 15 min, which is the most there; at most 25 h.
	MaxLifetime time.Duration
	// SingleUse requires a `jti` and accepts each token once. It holds within one process.
	SingleUse bool
	// Attributes maps names of attributes to claims.
	Attributes map[string]Attribute
}

// issuer is a configured issuer with what was learned from it.
type issuer struct {
	config Issuer // normalized
	// files is a hash of what the configuration's files held, so that a changed file is a changed configuration.
	files   [sha256.Size]byte
	profile *profile
	// keys verify signatures; where they are nil, review has the API server do it.
	keys   *keyring
	review *reviewer
	// replay is nil unless SingleUse.
	replay    attest.Replay
	claims    map[string][]string // attribute to path of its claim
	pathAttrs map[string]bool
}

// normalize checks the configuration and fills in the defaults. Errors begin with the field.
func (c *Issuer) normalize() (claimPaths map[string][]string, err error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		fault("name: is empty")
	}
	if c.Issuer == "" {
		fault("issuer: is empty")
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		fault("audiences: at least one is needed, and none may be empty")
	}
	c.Algorithms = orDefault(c.Algorithms, "RS256", "ES256")
	for _, alg := range c.Algorithms {
		if _, ok := algorithms[alg]; !ok {
			fault("algorithms: %q is not one of %q", alg, slices.Sorted(maps.Keys(algorithms)))
		}
	}
	c.Types = orDefault(c.Types, "JWT", "")
	for i, typ := range c.Types {
		c.Types[i] = canonicalType(typ)
	}
	if c.Skew == 0 {
		c.Skew = defaultSkew
	}
	if c.Skew < 0 || c.Skew > maxSkew {
		fault("skew: is %s, expected 0 to %s", c.Skew, maxSkew)
	}
	if c.Profile == "" {
		c.Profile = ProfileOIDC
	}
	if c.MaxLifetime == 0 {
		c.MaxLifetime = cmp.Or(profiles[c.Profile].lifetime, defaultLifetime)
	}
	if c.MaxLifetime < 0 || c.MaxLifetime > maxLifetime {
		fault("max_lifetime: is %s, expected 0 to %s", c.MaxLifetime, maxLifetime)
	}
	if err := c.Profile.check(c); err != nil {
		faults = append(faults, err)
	}
	if err := c.Keys.check(c.Profile); err != nil {
		faults = append(faults, err)
	}
	claimPaths = make(map[string][]string, len(c.Attributes))
	for _, name := range slices.Sorted(maps.Keys(c.Attributes)) {
		if claimPaths[name], err = claimPath(c.Attributes[name].Claim); err != nil {
			fault("attributes.%s: %w", name, err)
		}
	}
	return claimPaths, errors.Join(faults...)
}

func orDefault(list []string, values ...string) []string {
	if len(list) == 0 {
		return values
	}
	return slices.Clone(list)
}

func (s *KeySource) check(p Profile) error {
	sources := 0
	for _, set := range []bool{s.Discovery, s.JWKSURL != "", s.JWKSFile != "", s.PEMFile != "", s.WorkloadAPI != "", s.ReviewURL != ""} {
		if set {
			sources++
		}
	}
	remote := s.Discovery || s.JWKSURL != ""
	switch {
	case sources != 1:
		return fmt.Errorf("discovery, jwks_url, jwks_file, pem, workload_api, token_review: %d of them are set, expected one", sources)
	case s.ReviewURL != "" && p != ProfileKubernetes:
		return fmt.Errorf("token_review: is for profile %s alone", ProfileKubernetes)
	case s.WorkloadAPI != "" && p != ProfileSPIFFE:
		return fmt.Errorf("workload_api: is for profile %s alone", ProfileSPIFFE)
	case p == ProfileSPIFFE && (s.Discovery || s.PEMFile != ""):
		return fmt.Errorf("discovery, pem: a trust domain has neither; expected jwks_url or jwks_file with its bundle, or workload_api")
	case s.PEMFile != "" && (s.PEMKeyID == "" || len(s.PEMKeyID) > maxKeyID):
		return fmt.Errorf("pem.kid: is %d bytes, expected 1 to %d", len(s.PEMKeyID), maxKeyID)
	case !remote && s.ReviewURL == "" && (s.CAFile != "" || s.BearerFile != ""):
		return errors.New("ca_file, bearer_file: are for discovery and jwks_url")
	case s.ReviewURL != "" && s.BearerFile == "":
		return errors.New("token_review.token_file: is empty")
	}
	return nil
}

// newIssuer builds an issuer, reading its files. It takes the old one over if nothing changed, or, if something did and
// single use stays, its memory of used tokens: a reload is no way to use a token twice.
func newIssuer(c Issuer, old *issuer, now func() time.Time, replay attest.Replay, log *slog.Logger) (*issuer, error) {
	paths, err := c.normalize()
	if err != nil {
		return nil, err
	}
	p := profiles[c.Profile]
	is := &issuer{config: c, claims: paths, profile: &p, pathAttrs: maps.Clone(p.paths)}
	if is.pathAttrs == nil {
		is.pathAttrs = map[string]bool{}
	}
	for name, a := range c.Attributes {
		if a.Path {
			is.pathAttrs[name] = true
		}
	}
	if err := is.openKeys(now, log); err != nil {
		return nil, err
	}
	if old != nil && old.files == is.files && reflect.DeepEqual(old.config, is.config) {
		return old, nil
	}
	if old != nil && old.files == is.files && old.config.Name == is.config.Name && old.config.Keys == is.config.Keys {
		is.keys, is.review = old.keys, old.review // the same keys from the same place: what was learned holds
	}
	if c.SingleUse {
		switch {
		case replay != nil:
			is.replay = replay
		case old != nil && old.replay != nil:
			is.replay = old.replay
		default:
			is.replay = attest.NewReplayMemory(now)
		}
	}
	return is, nil
}

// openKeys reads the files of the key source; what is fetched over HTTP is fetched when a token needs it.
func (is *issuer) openKeys(now func() time.Time, log *slog.Logger) error {
	s := is.config.Keys
	var read bytes.Buffer
	open := func(field, path string) ([]byte, error) {
		if path == "" {
			return nil, nil
		}
		data, err := readFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		read.Write(data)
		return data, nil
	}
	roots, err := open("ca_file", s.CAFile)
	if err != nil {
		return err
	}
	jwks, err := open("jwks_file", s.JWKSFile)
	if err != nil {
		return err
	}
	pem, err := open("pem.file", s.PEMFile)
	if err != nil {
		return err
	}
	is.files = sha256.Sum256(read.Bytes())
	switch {
	case s.ReviewURL != "":
		is.review, err = newReviewer(&is.config, roots, log)
		return err
	case s.WorkloadAPI != "":
		fetch, err := workloadAPI(s.WorkloadAPI, is.config.Issuer)
		if err != nil {
			return fmt.Errorf("workload_api: %w", err)
		}
		is.keys = &keyring{name: is.config.Name, fetch: fetch, now: now, log: log}
	case s.JWKSFile != "":
		set, err := parseJWKS(jwks, keyUse(is.config.Profile))
		if err == nil && len(set.keys) == 0 {
			err = fmt.Errorf("no usable key (%d foreign, %d malformed) %s", set.foreign, len(set.malformed), set.firstFault())
		}
		if err != nil {
			return fmt.Errorf("jwks_file: %s: %w", s.JWKSFile, err)
		}
		is.keys = staticKeyring(is.config.Name, set, now)
	case s.PEMFile != "":
		set, err := parsePEM(pem, s.PEMKeyID)
		if err != nil {
			return fmt.Errorf("pem.file: %s: %w", s.PEMFile, err)
		}
		is.keys = staticKeyring(is.config.Name, set, now)
	default:
		r, err := newRemote(is.config.Issuer, s, keyUse(is.config.Profile), roots)
		if err != nil {
			return err
		}
		is.keys = &keyring{name: is.config.Name, fetch: r.fetch, now: now, log: log}
	}
	return nil
}
