package config

import (
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/credbroker/credbroker/internal/policy"
)

// KindMinIOWebIdentity is the exchanger that shows MinIO a token of the broker's own issuer
// (AssumeRoleWithWebIdentity).
const KindMinIOWebIdentity = "minio-web-identity"

// Exchanger is a back-end that credentials come from.
type Exchanger struct {
	// Kind is minio-web-identity or vault-read. Required.
	Kind string `yaml:"kind"`
	// Endpoint is the back-end's https URL, without a path. Required.
	Endpoint string `yaml:"endpoint"`
	// InsecurePlaintext allows an http endpoint beyond loopback. Default false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// CAFile holds the only roots that the endpoint's certificate may come from; read at start. Default: the system's.
	CAFile string `yaml:"ca_file"`
	// ClientID is the `aud` of minted tokens, MinIO's MINIO_IDENTITY_OPENID_CLIENT_ID. Required.
	ClientID string `yaml:"client_id"`
	// AllowedPolicies are the only MinIO policies (^[A-Za-z0-9_.@=+-]{1,128}$) that minted tokens may name: 1 to 256.
	// Required.
	AllowedPolicies []string `yaml:"allowed_policies"`
	// Dangerous is needed for policies that do more than handle objects and buckets: consoleAdmin, diagnostics, and any with
	// admin: actions. Without it every credential is kept to s3: actions, and so from making itself keys that never end.
	// Default false.
	Dangerous bool `yaml:"dangerous"`
	// Timeout is for one exchange with its retries: 100ms to 30s. Default 5s.
	Timeout time.Duration `yaml:"timeout"`
	// IdentityRole is a role of Vault's identity tokens (identity/oidc/role/NAME): one of those is shown to MinIO in place of a token
	// of the broker's own. minio-web-identity. Default none.
	IdentityRole string `yaml:"identity_role"`
	// Vault is where in Vault credentials are read. vault-read.
	Vault VaultRead `yaml:"vault"`
}

func (e *Exchanger) setDefaults() { e.Timeout, e.Vault = 5*time.Second, defaultVaultRead() }

// policyName is narrower than what MinIO takes: the token's claim separates names by commas.
var policyName = regexp.MustCompile(`^[A-Za-z0-9_.@=+-]{1,128}$`)

func (v *validator) exchangers() {
	if !v.count("exchangers", len(v.Exchangers), 0, 64) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(v.Exchangers)) {
		e, path := v.Exchangers[name], join("exchangers", name)
		v.name(path, name)
		v.oneOf(path+".kind", e.Kind, KindMinIOWebIdentity, KindVaultRead)
		if e.Kind == KindVaultRead {
			v.vaultRead(path, &e)
			continue
		}
		if _, written := v.origins[path+".vault"]; written {
			v.fault(path+".vault", "kind %s does not take it; expected kind %s", e.Kind, KindVaultRead)
		}
		v.url(path+".endpoint", e.Endpoint, e.InsecurePlaintext, noPath)
		v.text(path+".client_id", e.ClientID)
		v.duration(path+".timeout", e.Timeout, 100*time.Millisecond, 30*time.Second)
		if e.IdentityRole != "" {
			v.identityRole(path, &e)
			continue
		}
		v.allowedPolicies(path+".allowed_policies", &e)
	}
}

func (v *validator) allowedPolicies(path string, e *Exchanger) {
	if !v.count(path, len(e.AllowedPolicies), 1, 256) {
		return
	}
	seen := map[string]string{}
	for n, p := range e.AllowedPolicies {
		at := index(path, n)
		if !policyName.MatchString(p) {
			v.fault(at, "%.64q; expected a policy name that matches %s", p, policyName)
		}
		v.unique(at, p, seen)
		if policy.Dangerous(p) && !e.Dangerous {
			v.fault(at, "%q rules over MinIO itself; expected another policy, or dangerous: true", p)
		}
	}
}
