package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/policy"
)

// Kinds of exchanger.
const (
	// KindMinIOWebIdentity shows MinIO a token (AssumeRoleWithWebIdentity): of the broker's own issuer, of Vault's, or the caller's.
	KindMinIOWebIdentity = "minio-web-identity"
	// KindMinIOAssumeRole signs with the key of a parent user (AssumeRole).
	KindMinIOAssumeRole = "minio-assume-role"
	// KindMinIOCertificate shows MinIO a client certificate (AssumeRoleWithCertificate).
	KindMinIOCertificate = "minio-certificate"
	// KindAWSAssumeRole assumes a role of AWS with credentials that the broker's platform gives it (AssumeRole).
	KindAWSAssumeRole = "aws-assume-role"
	// KindAWSWebIdentity assumes one with a token of the broker's own issuer (AssumeRoleWithWebIdentity).
	KindAWSWebIdentity = "aws-web-identity"
)

// exchangerKeys are the keys that each kind takes, besides kind.
var exchangerKeys = map[string][]string{
	KindMinIOWebIdentity: {"endpoint", "insecure_plaintext", "ca_file", "timeout", "client_id", "allowed_policies", "dangerous", "identity_role", "caller_token", "s3"},
	KindMinIOAssumeRole:  {"endpoint", "insecure_plaintext", "ca_file", "timeout", "dangerous", "parent_file", "vault", "region", "s3"},
	KindMinIOCertificate: {"endpoint", "ca_file", "timeout", "allowed_policies", "dangerous", "cert_file", "key_file", "pki", "s3"},
	KindAWSAssumeRole:    {"region", "endpoint", "ca_file", "timeout", "role_arn", "external_id", "source_identity", "s3"},
	KindAWSWebIdentity:   {"region", "endpoint", "ca_file", "timeout", "role_arn", "client_id", "s3"},
	KindVaultRead:        {"vault", "s3"},
}

// Exchanger is a back-end that credentials come from. What a kind doesn't take is a fault.
type Exchanger struct {
	// Kind is one of the kinds above. Required.
	Kind string `yaml:"kind"`
	// Endpoint is MinIO's https URL, without a path. minio-*: required. aws-*: one of AWS STS in Region, as of a VPC; default the region's
	// own.
	Endpoint string `yaml:"endpoint"`
	// InsecurePlaintext allows an http endpoint beyond loopback. minio-web-identity, minio-assume-role. Default false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// CAFile holds the only roots that the endpoint's certificate may come from; read at start. minio-*, aws-*. Default: the system's.
	CAFile string `yaml:"ca_file"`
	// ClientID is the `aud` of minted tokens, MinIO's MINIO_IDENTITY_OPENID_CLIENT_ID. minio-web-identity: required. aws-web-identity: an
	// audience of AWS's identity provider; default sts.amazonaws.com.
	ClientID string `yaml:"client_id"`
	// AllowedPolicies are the only MinIO policies (^[A-Za-z0-9_.@=+-]{1,128}$) that may be asked for: 1 to 256. minio-web-identity:
	// required, but none with identity_role or caller_token. minio-certificate: required; common names of certificates.
	AllowedPolicies []string `yaml:"allowed_policies"`
	// Dangerous is needed for policies that do more than handle objects and buckets: consoleAdmin, diagnostics, and any with
	// admin: actions. Without it every credential is kept to s3: actions, and so from making itself keys that never end. MinIO can't
	// keep credentials of minio-certificate to that, so there it is required. minio-*. Default false.
	Dangerous bool `yaml:"dangerous"`
	// Timeout is for one exchange with its retries: 100ms to 30s. minio-*, aws-*. Default 5s.
	Timeout time.Duration `yaml:"timeout"`
	// IdentityRole is a role of Vault's identity tokens (identity/oidc/role/NAME): one of those is shown to MinIO in place of a token
	// of the broker's own. minio-web-identity. Default none.
	IdentityRole string `yaml:"identity_role"`
	// CallerToken shows MinIO the JWT that proved the caller in place of a token of the broker's own. minio-web-identity. Default false.
	CallerToken bool `yaml:"caller_token"`
	// ParentFile holds the key of the parent user as JSON: access_key_id, secret_access_key. It is read for each exchange.
	// minio-assume-role: required, or vault.path.
	ParentFile string `yaml:"parent_file"`
	// Region is MinIO's, which requests are signed for; minio-assume-role, default us-east-1. It is whose endpoint of STS is asked; aws-*,
	// required.
	Region string `yaml:"region"`
	// RoleARN is the role of AWS to assume. aws-*: required.
	RoleARN string `yaml:"role_arn"`
	// ExternalID is what that role's trust policy wants to hear, 2 to 1224 of A-Z a-z 0-9 _ + = , . @ : / -. aws-assume-role. Default none.
	ExternalID string `yaml:"external_id"`
	// SourceIdentity sets the session's name as its source identity, which roles that it assumes further keep; the role's trust policy has to
	// allow sts:SetSourceIdentity. aws-assume-role. Default false.
	SourceIdentity bool `yaml:"source_identity"`
	// CertFile holds a client certificate whose common name is a policy, and its intermediates, PEM; read for each exchange.
	// minio-certificate: required, with KeyFile, or pki.role.
	CertFile string `yaml:"cert_file"`
	// KeyFile holds the private key of CertFile.
	KeyFile string `yaml:"key_file"`
	// PKI has Vault sign the certificates in place of CertFile. minio-certificate. Default none.
	PKI VaultPKI `yaml:"pki"`
	// Vault is where in Vault credentials are read (vault-read), or the key of the parent user in place of ParentFile
	// (minio-assume-role).
	Vault VaultRead `yaml:"vault"`
	// S3 is where requests are signed for.
	S3 S3 `yaml:"s3"`
}

func (e *Exchanger) setDefaults() {
	e.Timeout, e.Vault, e.PKI = 5*time.Second, defaultVaultRead(), VaultPKI{Mount: "pki", TTL: time.Hour}
}

// needsIssuer says whether object stores have to reach the broker's own issuer.
func (c *Config) needsIssuer() bool {
	for _, e := range c.Exchangers {
		if e.Kind == KindAWSWebIdentity || e.Kind == KindMinIOWebIdentity && e.IdentityRole == "" && !e.CallerToken {
			return true
		}
	}
	return false
}

// policyName is narrower than what MinIO takes: the token's claim separates names by commas.
var policyName = regexp.MustCompile(`^[A-Za-z0-9_.@=+-]{1,128}$`)

func (v *validator) exchangers() {
	if !v.count("exchangers", len(v.Exchangers), 0, 64) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(v.Exchangers)) {
		e, path := v.Exchangers[name], join("exchangers", name)
		v.name(path, name)
		kinds := slices.Sorted(maps.Keys(exchangerKeys))
		v.oneOf(path+".kind", e.Kind, kinds...)
		keys, known := exchangerKeys[e.Kind]
		if !known {
			continue
		}
		v.onlyTakes(path, e.Kind, keys)
		v.s3(path+".s3", &e)
		if e.Kind == KindVaultRead {
			v.vaultRead(path, &e)
			continue
		}
		aws := e.Kind == KindAWSAssumeRole || e.Kind == KindAWSWebIdentity
		if !aws || e.Endpoint != "" {
			v.url(path+".endpoint", e.Endpoint, e.InsecurePlaintext, noPath)
		}
		v.duration(path+".timeout", e.Timeout, 100*time.Millisecond, 30*time.Second)
		switch e.Kind {
		case KindMinIOWebIdentity:
			v.text(path+".client_id", e.ClientID)
			v.tokens(path, &e)
		case KindMinIOAssumeRole:
			v.parent(path, &e)
			if e.Region != "" {
				v.text(path+".region", e.Region)
			}
		case KindAWSAssumeRole, KindAWSWebIdentity:
			v.awsRole(path, &e)
		case KindMinIOCertificate:
			v.certificate(path, &e)
		}
	}
}

// onlyTakes faults what is written and a kind has no use for.
func (v *validator) onlyTakes(path, kind string, keys []string) {
	seen := map[string]bool{"kind": true}
	for _, written := range slices.Sorted(maps.Keys(v.origins)) {
		rest, below := strings.CutPrefix(written, path+".")
		key := rest[:len(rest)-len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz0123456789_"))]
		if below && !seen[key] && !slices.Contains(keys, key) {
			seen[key] = true
			v.fault(join(path, key), "kind %s does not take it; it takes: %s", kind, strings.Join(keys, ", "))
		}
	}
}

// tokens checks what a minio-web-identity exchanger shows.
func (v *validator) tokens(path string, e *Exchanger) {
	switch {
	case e.CallerToken && e.IdentityRole != "":
		v.fault(path+".caller_token", "there is an identity_role as well; expected one of them")
	case e.IdentityRole != "":
		v.identityRole(path, e)
	case e.CallerToken:
		if len(e.AllowedPolicies) > 0 {
			v.fault(path+".allowed_policies", "the policies of callers' own tokens stand in their claims; expected none")
		}
		if e.Dangerous {
			v.fault(path+".dangerous", "callers' own tokens may name any policy; expected false: session policies keep them to objects")
		}
	default:
		v.allowedPolicies(path+".allowed_policies", e)
	}
}

var externalID = regexp.MustCompile(`^[A-Za-z0-9_+=,.@:/-]{2,}$`)

// awsRole checks what is aws-*'s own.
func (v *validator) awsRole(path string, e *Exchanger) {
	if !awsRegion.MatchString(e.Region) {
		v.fault(path+".region", "%.64q; expected a region of AWS, such as eu-west-1", e.Region)
	}
	if !awsRoleARN.MatchString(e.RoleARN) {
		v.fault(path+".role_arn", "%.128q; expected arn:aws:iam::ACCOUNT:role/NAME", e.RoleARN)
	}
	if e.ExternalID != "" && (!externalID.MatchString(e.ExternalID) || len(e.ExternalID) > 1224) {
		v.fault(path+".external_id", "%.64q; expected at most 1224 bytes that match %s", e.ExternalID, externalID)
	}
	if e.ClientID != "" {
		v.text(path+".client_id", e.ClientID)
	}
}

// certificate checks what is minio-certificate's own.
func (v *validator) certificate(path string, e *Exchanger) {
	if strings.HasPrefix(e.Endpoint, "http:") {
		v.fault(path+".endpoint", "%.64q has no TLS, and so no client certificates; expected https", e.Endpoint)
	}
	if _, written := v.origins[path+".pki"]; written {
		v.pki(path, e)
	} else {
		v.required(path+".cert_file", e.CertFile)
		v.required(path+".key_file", e.KeyFile)
	}
	v.allowedPolicies(path+".allowed_policies", e)
	if !e.Dangerous {
		v.fault(path+".dangerous", "MinIO takes no session policy with a certificate, so credentials can make themselves keys that never end unless their policy denies admin:CreateServiceAccount; expected true once it does")
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
