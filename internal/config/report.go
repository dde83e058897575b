package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Warnings are what an operator ought to know of a configuration that is allowed: for check-config and /readyz.
func (c *Config) Warnings() []string {
	var out []string
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if plaintextURL(c.Issuer.URL) {
		warn("issuer.url: %s is plaintext: whoever is on the way can replace the keys that object stores trust", c.Issuer.URL)
	}
	for _, l := range c.Listeners.public() {
		if l.exposed() {
			warn("%s: %s is plaintext beyond loopback", l.path, l.Address)
		}
	}
	for n, i := range c.Issuers {
		if i.fetches() && (plaintextURL(i.Issuer) || plaintextURL(i.JWKSURL)) {
			warn("%s (%s): keys are fetched in plaintext: whoever is on the way can make tokens", index("issuers", n), i.Name)
		}
	}
	for n, k := range c.AccessKeys {
		where := ".file"
		if k.File == "" {
			where = ".vault.path"
		}
		warn("%s%s: it holds a key that lasts for as long as it stands there: whoever reads it is %s", index("access_keys", n), where, k.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Exchangers)) {
		e := c.Exchangers[name]
		if plaintextURL(e.Endpoint) {
			warn("exchangers.%s: %s is plaintext: whoever is on the way gets credentials", name, e.Endpoint)
		}
		if e.ParentFile != "" {
			warn("exchangers.%s.parent_file: it holds a key of MinIO's that lasts until somebody takes it away: whoever reads it has all that the parent user may", name)
		}
		if e.CertFile != "" {
			warn("exchangers.%s.key_file: whoever reads it has what MinIO gives to the certificate, until that ends", name)
		}
		if e.CallerToken {
			warn("exchangers.%s: caller_token: true: MinIO sees the callers' own tokens", name)
		}
		if e.Dangerous {
			warn("exchangers.%s: dangerous: true: its credentials may do what MinIO's policies allow beyond objects: administer it, or make keys that never end", name)
		}
	}
	for n, k := range c.GatewayKeys {
		warn("%s (%s): %s is a secret that lasts, and whoever has it speaks for all consumers of the gateway: replace it each month, or have the gateway prove itself as a workload", index("gateway_keys", n), k.Name, k.KeyFile)
	}
	for n, role := range c.Roles {
		if role.Gateway && strings.Contains(role.When, `"x509"`) {
			warn("%s (%s): a client certificate's key is a secret that lasts as long as the certificate, and whoever has it speaks for all consumers of the gateway: have the gateway prove itself as a workload", index("roles", n), role.Name)
		}
	}
	for _, a := range c.Redis.plaintext() {
		warn("redis.addresses: %s is plaintext: whoever is on the way gets Redis's password, and can keep replicas from sharing what they mint", a)
	}
	for _, a := range append([]string{c.Vault.Address}, c.Vault.Nodes...) {
		if plaintextURL(a) {
			warn("vault: %s is plaintext: whoever is on the way gets the broker's Vault token", a)
		}
	}
	if c.Vault.Auth.Method == VaultAppRole && !c.Vault.Auth.SecretIDWrapped {
		warn("vault.auth.secret_id_file: it holds a secret of the broker's that lasts as long as the AppRole says: wrap it, or log in as a workload")
	}
	if c.Replicas == ReplicasSingle && c.Redis.Enabled() {
		warn("replicas: single, and there is a Redis: a second replica's issuer keys would not be published")
	}
	if len(c.Issuers) == 0 && !c.AWS.Enabled() {
		warn("issuers: there are none: nobody can prove an identity")
	}
	if len(c.Exchangers) == 0 {
		warn("exchangers: there are none: no credentials can be had")
	}
	if len(c.Roles) == 0 {
		warn("roles: there are none: everything is denied")
	}
	if c.AWS.Enabled() && len(c.Issuers) > 0 || len(c.Issuers) > 1 {
		for i, role := range c.Roles {
			if !strings.Contains(role.When, "identity.issuer") && !strings.Contains(role.When, "identity.kind") {
				warn("%s.when (%s): there is more than one issuer and it doesn't mention identity.issuer or identity.kind: any of them can name a subject that it lets in", index("roles", i), role.Name)
			}
		}
	}
	if c.Audit.Path == "-" {
		warn(`audit.path: "-": the audit log goes to standard output`)
	}
	if c.Audit.FingerprintKeyFile == "" {
		warn("audit.fingerprint_key_file: there is none: proof fingerprints can't be compared across restarts")
	}
	if c.Debug.Pprof {
		warn("debug.pprof: profiles of the process are served on %s", c.Listeners.Metrics.Address)
	}
	return out
}

// NeedsRestart are the keys, sorted, whose values differ from those that the process was started with and that take effect
// at a restart alone: all but issuers, aws, x509, access_keys, gateway_keys and roles; of x509 whether there is any.
func (c *Config) NeedsRestart(started *Config) []string {
	is, was := c.values(), started.values()
	var out []string
	for path, value := range is {
		if before, ok := was[path]; !ok || !reflect.DeepEqual(before, value) {
			out = append(out, path)
		}
	}
	for path := range was {
		if _, ok := is[path]; !ok {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// values are the values outside issuers and roles, by path.
func (c *Config) values() map[string]any {
	out := map[string]any{}
	clone := *c
	clone.Exchangers = maps.Clone(c.Exchangers) // walk writes to it
	clone.AWS = AWS{}                           // takes effect at once
	clone.AccessKeys = nil                      // so do these
	clone.GatewayKeys = nil                     // and these
	clone.X509 = nil                            // and this, once listeners ask for certificates
	out["x509"] = len(c.X509) > 0
	walk(fieldsOf(&clone), "", func(path string, v reflect.Value) {
		if !perItem(path) {
			out[path] = v.Interface()
		}
	})
	return out
}
