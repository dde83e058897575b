package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// KindVaultRead is the exchanger that reads credentials from a path of Vault's.
const KindVaultRead = "vault-read"

// VaultRead is a path of Vault's that gives credentials.
type VaultRead struct {
	// Path is below /v1/, as in aws/sts/reports or kv/data/reports. Required with vault-read.
	Path string `yaml:"path"`
	// Write asks by writing instead of reading. Default false.
	Write bool `yaml:"write"`
	// Parameters go along; {{ttl}} stands for the life that is granted, as in 900s; at most 16. Default none.
	Parameters map[string]string `yaml:"parameters"`
	// MinTTL is the least life that the path gives, such as 15m of AWS STS: roles whose ttl.min is less are faults. 0s to 12h. vault-read.
	// Default 0s.
	MinTTL time.Duration `yaml:"min_ttl"`
	// Fields say what the answer calls the parts of credentials.
	Fields VaultFields `yaml:"fields"`
}

// VaultFields are names of members of an answer's data; members of members are separated by dots, as in data.access_key for KV
// version 2.
type VaultFields struct {
	// AccessKeyID is the access key's. Default access_key.
	AccessKeyID string `yaml:"access_key_id"`
	// SecretAccessKey is the secret key's. Default secret_key.
	SecretAccessKey string `yaml:"secret_access_key"`
	// SessionToken is the session token's; "" if there is none. Default session_token.
	SessionToken string `yaml:"session_token"`
	// Expires is the end's, in RFC 3339 or Unix seconds. Default none: the lease's end counts.
	Expires string `yaml:"expires"`
}

// VaultKey is an access key in Vault.
type VaultKey struct {
	// Path is below /v1/, as in kv/data/credbroker/access-keys/NAME. Required.
	Path string `yaml:"path"`
	// Fields say what the answer calls the parts of the key.
	Fields KeyFields `yaml:"fields"`
}

// KeyFields are those of VaultFields that a key which lasts has.
type KeyFields struct {
	// AccessKeyID is the access key's. Default access_key.
	AccessKeyID string `yaml:"access_key_id"`
	// SecretAccessKey is the secret key's. Default secret_key.
	SecretAccessKey string `yaml:"secret_access_key"`
}

// VaultPKI is a role of Vault's PKI engine that signs client certificates.
type VaultPKI struct {
	// Mount is where the engine is. Default pki.
	Mount string `yaml:"mount"`
	// Role is the engine's role, which has to allow the policies' names as common names. Required.
	Role string `yaml:"role"`
	// TTL is the life of certificates: 10m to 24h. Credentials end with their certificate at the latest, which is replaced after half
	// of its life. Default 1h.
	TTL time.Duration `yaml:"ttl"`
}

func defaultVaultRead() VaultRead {
	return VaultRead{Fields: VaultFields{AccessKeyID: "access_key", SecretAccessKey: "secret_key", SessionToken: "session_token"}}
}

var (
	vaultField     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}$`)
	vaultParameter = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
)

// vaultRead checks an exchanger of kind vault-read.
func (v *validator) vaultRead(path string, e *Exchanger) {
	at := path + ".vault"
	v.vaultFields(path, e.Vault.Path, e.Vault.Fields)
	v.duration(at+".min_ttl", e.Vault.MinTTL, 0, 12*time.Hour)
	if v.count(at+".parameters", len(e.Vault.Parameters), 0, 16) {
		for _, name := range slices.Sorted(maps.Keys(e.Vault.Parameters)) {
			value := e.Vault.Parameters[name]
			if !vaultParameter.MatchString(name) {
				v.fault(join(at+".parameters", name), "%.64q; expected a name that matches %s", name, vaultParameter)
			}
			v.text(join(at+".parameters", name), value)
			if strings.Contains(value, "{{") && value != "{{ttl}}" {
				v.fault(join(at+".parameters", name), "%.64q; expected {{ttl}} alone, or text without {{", value)
			}
		}
	}
}

// vaultFields checks where something is read, and what its parts are called.
func (v *validator) vaultFields(path, in string, f VaultFields) {
	at := path + ".vault"
	v.needsVault(path)
	if in == "" {
		v.required(at+".path", in)
	} else if len(in) > 512 || !vaultPath.MatchString(in) {
		v.fault(at+".path", "%.64q; expected a path below /v1/ without a slash around it, such as aws/sts/reports", in)
	}
	for key, field := range map[string]string{"access_key_id": f.AccessKeyID, "secret_access_key": f.SecretAccessKey, "session_token": f.SessionToken, "expires": f.Expires} {
		optional := key == "session_token" || key == "expires"
		if (!optional || field != "") && !vaultField.MatchString(field) {
			v.fault(at+".fields."+key, "%.64q; expected a name, or names separated by dots", field)
		}
	}
}

// identityRole checks a minio-web-identity exchanger that shows Vault's identity tokens.
func (v *validator) identityRole(path string, e *Exchanger) {
	v.needsVault(path + ".identity_role")
	if !vaultName.MatchString(e.IdentityRole) {
		v.fault(path+".identity_role", "%.64q; expected a name that matches %s", e.IdentityRole, vaultName)
	}
	if len(e.AllowedPolicies) > 0 {
		v.fault(path+".allowed_policies", "the policies of Vault's identity tokens stand in the template of Vault's role; expected none")
	}
}

// parent checks where a minio-assume-role exchanger has its parent's key from.
func (v *validator) parent(path string, e *Exchanger) {
	if !v.keyInVault(path, path+".parent_file", e.ParentFile) {
		return
	}
	v.vaultFields(path, e.Vault.Path, e.Vault.Fields)
	for _, key := range []string{"write", "parameters", "min_ttl", "fields.session_token", "fields.expires"} {
		if _, written := v.origins[path+".vault."+key]; written {
			v.fault(path+".vault."+key, "a parent's key has none; expected none")
		}
	}
}

// keyInVault says whether a key is in Vault, by what stands in the file, and checks that it is in one place alone.
func (v *validator) keyInVault(path, fileKey, file string) bool {
	if _, written := v.origins[path+".vault"]; !written {
		v.required(fileKey, file)
		return false
	}
	if file != "" {
		v.fault(fileKey, "the key is in Vault (vault.path); expected one of them")
	}
	return true
}

// pki checks who signs the certificates of a minio-certificate exchanger.
func (v *validator) pki(path string, e *Exchanger) {
	v.needsVault(path + ".pki")
	for key, file := range map[string]string{"cert_file": e.CertFile, "key_file": e.KeyFile} {
		if file != "" {
			v.fault(path+"."+key, "Vault signs the certificates (pki); expected one or the other")
		}
	}
	if !vaultPath.MatchString(e.PKI.Mount) {
		v.fault(path+".pki.mount", "%.64q; expected the mount's path without a slash around it", e.PKI.Mount)
	}
	if !vaultName.MatchString(e.PKI.Role) {
		v.fault(path+".pki.role", "%.64q; expected a name that matches %s", e.PKI.Role, vaultName)
	}
	v.duration(path+".pki.ttl", e.PKI.TTL, 10*time.Minute, 24*time.Hour)
}
