package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/credbroker/credbroker/internal/secret"
)

// namedFile is a file that the configuration names.
type namedFile struct {
	path, key string
	// reload says that a change of the file takes effect without a restart.
	reload bool
	// least and most bound the size of a file that holds a secret; most is 0 for others.
	least, most int
	// keys says that it is one for secret.ReadKeys.
	keys bool
}

// files are the files that the configuration names and the broker reads.
func (c *Config) files() []namedFile {
	var out []namedFile
	tls := func(key string, t TLS) {
		out = append(out,
			namedFile{path: t.CertFile, key: key + ".cert_file", reload: true},
			namedFile{path: t.KeyFile, key: key + ".key_file", reload: true},
			namedFile{path: t.ClientCAFile, key: key + ".client_ca_file", reload: true})
	}
	for _, l := range c.Listeners.public() {
		tls(l.path+".tls", l.TLS)
	}
	tls("listeners.admin.tls", c.Listeners.Admin.TLS)
	for n, i := range c.Issuers {
		at := index("issuers", n)
		out = append(out,
			namedFile{path: i.JWKSFile, key: at + ".jwks_file", reload: true},
			namedFile{path: i.PEM.File, key: at + ".pem.file", reload: true},
			namedFile{path: i.CAFile, key: at + ".ca_file", reload: true},
			namedFile{path: i.TokenReview.CAFile, key: at + ".token_review.ca_file", reload: true},
			namedFile{path: i.TokenReview.TokenFile, key: at + ".token_review.token_file", least: 1, most: 16 << 10}, // read for each review
			namedFile{path: i.BearerFile, key: at + ".bearer_file", least: 1, most: 16 << 10})                        // read at each fetch
	}
	out = append(out, namedFile{path: c.AWS.CAFile, key: "aws.ca_file", reload: true})
	for n, a := range c.X509 {
		at := index("x509", n)
		out = append(out,
			namedFile{path: a.CAFile, key: at + ".ca_file", reload: true},
			namedFile{path: a.BundleFile, key: at + ".bundle_file", reload: true},
			namedFile{path: a.CRLFile, key: at + ".crl_file", reload: true})
	}
	for n, k := range c.AccessKeys {
		out = append(out, namedFile{path: k.File, key: index("access_keys", n) + ".file", reload: true, least: 1, most: 4096})
	}
	for n, k := range c.GatewayKeys {
		out = append(out, namedFile{path: k.KeyFile, key: index("gateway_keys", n) + ".key_file", reload: true, keys: true})
	}
	for name, e := range c.Exchangers {
		at := join("exchangers", name)
		out = append(out,
			namedFile{path: e.CAFile, key: at + ".ca_file"},
			namedFile{path: e.ParentFile, key: at + ".parent_file", least: 1, most: 4096}, // read for each exchange, as the next two
			namedFile{path: e.CertFile, key: at + ".cert_file"},
			namedFile{path: e.KeyFile, key: at + ".key_file"})
	}
	if a := c.Vault.Auth; c.Vault.Enabled() {
		out = append(out,
			namedFile{path: c.Vault.CAFile, key: "vault.ca_file"},
			namedFile{path: c.Vault.CertFile, key: "vault.cert_file"}, // this and its key for each connection
			namedFile{path: c.Vault.KeyFile, key: "vault.key_file"},
			namedFile{path: a.RoleIDFile, key: "vault.auth.role_id_file", least: 1, most: 4096}) // at each login
		if a.Method == VaultJWT || a.Method == VaultKubernetes { // a Vault Agent may write its token later
			out = append(out, namedFile{path: a.TokenFile, key: "vault.auth.token_file", least: 1, most: 16 << 10})
		}
		if !a.SecretIDWrapped { // which may be brought later, too
			out = append(out, namedFile{path: a.SecretIDFile, key: "vault.auth.secret_id_file", least: 1, most: 4096})
		}
	}
	if r := c.Redis; r.Enabled() {
		out = append(out,
			namedFile{path: r.PasswordFile, key: "redis.password_file", least: 1, most: 4096}, // read for each connection
			namedFile{path: r.SentinelPasswordFile, key: "redis.sentinel_password_file", least: 1, most: 4096},
			namedFile{path: r.TLS.CAFile, key: "redis.tls.ca_file"},
			namedFile{path: r.TLS.CertFile, key: "redis.tls.cert_file"}, // read for each connection
			namedFile{path: r.TLS.KeyFile, key: "redis.tls.key_file"},
			namedFile{path: r.SealingKeysFile, key: "redis.sealing_keys_file", reload: true, keys: true},
			namedFile{path: r.KeyHMACKeysFile, key: "redis.key_hmac_keys_file", reload: true, keys: true})
	}
	out = append(out, namedFile{path: c.Audit.FingerprintKeyFile, key: "audit.fingerprint_key_file", least: 32, most: 4096})
	return slices.DeleteFunc(out, func(f namedFile) bool { return f.path == "" })
}

// CheckFiles tries to read every file that the configuration names. The error is a [Faults]. Load has done it already.
func (c *Config) CheckFiles() error {
	if faults := c.checkFiles(); len(faults) > 0 {
		faults.sort()
		return faults
	}
	return nil
}

func (c *Config) checkFiles() Faults {
	var faults Faults
	for _, f := range c.files() {
		if err := f.check(); err != nil {
			file, line := c.Locate(f.key)
			faults = append(faults, Fault{File: file, Line: line, Path: f.key, Problem: err.Error()})
		}
	}
	if len(faults) == 0 && c.Redis.Enabled() && !c.Redis.Transit.Enabled() {
		if _, err := c.Redis.ReadKeys(); err != nil { // each is sound, so they aren't independent
			file, line := c.Locate("redis.key_hmac_keys_file")
			faults = append(faults, Fault{File: file, Line: line, Path: "redis.key_hmac_keys_file", Problem: strings.TrimPrefix(err.Error(), "redis.key_hmac_keys_file: ")})
		}
	}
	return faults
}

func (f namedFile) check() error {
	// Opening a pipe would wait for whoever writes to it.
	info, err := os.Stat(f.path)
	if err != nil {
		return unreadable(f.path, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is no regular file; expected one", f.path)
	}
	if f.keys {
		_, err := secret.ReadKeys(f.path)
		if errors.Is(err, fs.ErrPermission) {
			return unreadable(f.path, err)
		}
		return err
	}
	if f.most > 0 {
		s, err := secret.ReadFile(f.path, f.most)
		if err != nil {
			return unreadable(f.path, err)
		}
		if s.Len() < f.least {
			return fmt.Errorf("%q holds %d bytes; expected at least %d", f.path, s.Len(), f.least)
		}
		return nil
	}
	file, err := os.Open(f.path)
	if err != nil {
		return unreadable(f.path, err)
	}
	defer file.Close() //nolint:errcheck // read-only
	if _, err := io.ReadFull(file, make([]byte, 1)); err != nil {
		return fmt.Errorf("%q is empty; expected PEM or JSON", f.path)
	}
	return nil
}

func unreadable(path string, err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		err = e.Err
	}
	return fmt.Errorf("%q can't be read: %w; expected a file that the broker may read", path, err)
}

// Watched are the files whose change takes effect without a restart, the configuration file first; each once.
func (c *Config) Watched() []string {
	var out []string
	if c.path != "" {
		out = append(out, c.path)
	}
	for _, f := range c.files() {
		if f.reload && !slices.Contains(out, f.path) {
			out = append(out, f.path)
		}
	}
	return out
}
