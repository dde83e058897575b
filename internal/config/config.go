// Package config reads the broker's one configuration file.
//
// [Load] decodes the file strictly, lays CREDBROKER__ environment variables over it, fills in defaults, checks every value
// and the files it names, and returns either a usable [Config] or a [Faults] with everything that is wrong, each with its
// line. No secret stands in the file: only paths of files that hold them.
package config

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/credbroker/credbroker/internal/policy"
)

// maxFileBytes bounds the configuration file.
const maxFileBytes = 4 << 20

// Config is a checked configuration. Nobody changes one after it was loaded, but for AddDevelopmentIssuer.
type Config struct {
	// Replicas says how many brokers share this configuration: "single", or "many", which takes a Redis. Default single.
	Replicas string `yaml:"replicas"`
	// Issuer is the broker's own OIDC issuer, which the object stores trust.
	Issuer OwnIssuer `yaml:"issuer"`
	// Listeners are where the broker can be reached.
	Listeners Listeners `yaml:"listeners"`
	// Issuers are the issuers whose JWTs are taken as proof; at most 256. Default none.
	Issuers []Issuer `yaml:"issuers"`
	// AWS says which signed AWS requests are taken as proof. Default none.
	AWS AWS `yaml:"aws"`
	// X509 says which client certificates are taken as proof; at most 64. Default none, and then listeners ask for none by themselves.
	X509 []X509 `yaml:"x509"`
	// AccessKeys are keys whose holders prove themselves to the STS query API by signing with them; at most 64. Default none.
	AccessKeys []AccessKey `yaml:"access_keys"`
	// GatewayKeys are gateways that hold keys which last; at most 16. Default none.
	GatewayKeys []GatewayKey `yaml:"gateway_keys"`
	// Vault is where the broker gets what it shall not hold itself. Default none.
	Vault Vault `yaml:"vault"`
	// Exchangers are the back-ends that credentials come from, by name (^[a-z0-9][a-z0-9_-]{0,62}$); at most 64.
	// Default none.
	Exchangers map[string]Exchanger `yaml:"exchangers"`
	// Roles are what identities may ask for; policy.Compile checks them. Default none.
	Roles []policy.Role `yaml:"roles"`
	// STS is the STS query API for SDKs.
	STS STS `yaml:"sts"`
	// ContainerCredentials is the endpoint that AWS SDKs ask in containers.
	ContainerCredentials Surface `yaml:"container_credentials"`
	// TokenExchange is the endpoint of OAuth 2.0 Token Exchange (RFC 8693).
	TokenExchange Surface `yaml:"token_exchange"`
	// Cache bounds the memory cache.
	Cache Cache `yaml:"cache"`
	// Redis is what replicas have in common. Default none.
	Redis Redis `yaml:"redis"`
	// Audit says where decisions are written.
	Audit Audit `yaml:"audit"`
	// Log says what the process tells of itself on standard error.
	Log Log `yaml:"log"`
	// Limits bound the work in hand.
	Limits Limits `yaml:"limits"`
	// Shutdown says how the process stops.
	Shutdown Shutdown `yaml:"shutdown"`
	// Debug opens what only a developer needs.
	Debug Debug `yaml:"debug"`

	path    string // of the file; empty if there was none
	origins origins
}

// OwnIssuer is the broker as an OIDC issuer.
type OwnIssuer struct {
	// URL is the `iss` of minted tokens, and the base of /.well-known/openid-configuration and /jwks; no "/" at its end.
	// Default: the HTTP listener's own address, if that is on loopback; else it is required once there is an exchanger.
	// Never empty after Load.
	URL string `yaml:"url"`
	// KeyRotation is how long one signing key signs: 10m to 720h. Default 24h.
	KeyRotation time.Duration `yaml:"key_rotation"`
	// InsecurePlaintext allows an http URL beyond loopback. Default false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// Transit is a key of Vault's that signs, in place of keys of the broker's own. Default none.
	Transit TransitKey `yaml:"transit"`
}

// TransitKey is a key of Vault's Transit engine.
type TransitKey struct {
	// Mount is where the engine is. Default transit.
	Mount string `yaml:"mount"`
	// Key is the key's name. Default none.
	Key string `yaml:"key"`
}

// Enabled reports whether there is such a key.
func (k *TransitKey) Enabled() bool { return k.Key != "" }

// Cache bounds the memory cache of credentials.
type Cache struct {
	// MaxBytes is what all entries may take together, and as much what is remembered of verified tokens: 1MiB to 16GiB.
	// Default 64MiB.
	MaxBytes int64 `yaml:"max_bytes"`
}

// Audit says where decisions are written.
type Audit struct {
	// Path is the file that entries are appended to; "-" is standard output. Default "-".
	Path string `yaml:"path"`
	// FingerprintKeyFile holds the HMAC key of proof fingerprints, at least 32 bytes. Default: a random key, so that
	// fingerprints can be compared until the next start alone.
	FingerprintKeyFile string `yaml:"fingerprint_key_file"`
}

// Log says what is logged.
type Log struct {
	// Level is the least level that is logged: debug, info, warn, error. Default info.
	Level slog.Level `yaml:"level"`
}

// Limits bound the work in hand.
type Limits struct {
	// MaxInFlight is how many calls are worked on at one time, 1 to 65536; more are refused. Default 4096.
	MaxInFlight int `yaml:"max_in_flight"`
	// MaxMints is how many new credentials one identity gets in a minute, 1 to 100000; cache hits don't count. Default 60. As
	// often it may ask which roles it may use.
	MaxMints int `yaml:"max_mints"`
	// MaxUnsharedMints is how many exchanges are under way at one time while Redis is away, when every replica makes its own:
	// 1 to 1024; further ones wait. Default 16.
	MaxUnsharedMints int `yaml:"max_unshared_mints"`
	// RequestTimeout ends a call: 100ms to 60s. Default 10s.
	RequestTimeout time.Duration `yaml:"request_timeout"`
}

// Shutdown says how the process stops.
type Shutdown struct {
	// Drain is how long /readyz fails before the listeners close: 0s to 60s. Default 2s.
	Drain time.Duration `yaml:"drain"`
	// Deadline is how long calls under way may take from then on: 1s to 10m. Default 20s.
	Deadline time.Duration `yaml:"deadline"`
}

// Debug opens what only a developer needs.
type Debug struct {
	// Pprof serves /debug/pprof on the metrics listener, which must then be on loopback. Default false.
	Pprof bool `yaml:"pprof"`
}

// defaults is the configuration that an empty file stands for.
func defaults() *Config {
	return &Config{
		Replicas:  ReplicasSingle,
		Issuer:    OwnIssuer{KeyRotation: 24 * time.Hour, Transit: TransitKey{Mount: "transit"}},
		Listeners: defaultListeners(),
		Cache:     Cache{MaxBytes: 64 << 20},
		AWS:       AWS{Skew: 30 * time.Second},
		STS:       defaultSTS(),
		Redis:     defaultRedis(),

		ContainerCredentials: Surface{MinLeft: defaultMinLeft},
		TokenExchange:        Surface{MinLeft: defaultMinLeft},
		Vault:                defaultVault(),
		Audit:                Audit{Path: "-"},
		Log:                  Log{Level: slog.LevelInfo},
		Limits:               Limits{MaxInFlight: 4096, MaxMints: 60, MaxUnsharedMints: 16, RequestTimeout: 10 * time.Second},
		Shutdown:             Shutdown{Drain: 2 * time.Second, Deadline: 20 * time.Second},
	}
}

// Load reads a configuration file of at most 4 MiB; an empty path stands for an empty file. Environ is as os.Environ gives
// it. The error is a [Faults], unless the file itself can't be read. It also checks that the files named in the
// configuration can be read.
func Load(path string, environ []string) (*Config, error) {
	var data []byte
	root := origin{file: "(no file)"} // in which there are no lines
	if path != "" {
		root = origin{path, 1}
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		defer f.Close() //nolint:errcheck // read-only
		if data, err = io.ReadAll(io.LimitReader(f, maxFileBytes+1)); err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
	}
	c, faults := parse(root, data, environ)
	c.path = path
	if faults = append(faults, c.checkFiles()...); len(faults) > 0 {
		faults.sort()
		return nil, faults
	}
	return c, nil
}

// Parse is Load for a file's text, without a look at the files that it names. Name stands for the file in faults. The
// error is a [Faults].
func Parse(name string, data []byte, environ []string) (*Config, error) {
	c, faults := parse(origin{name, 1}, data, environ)
	if len(faults) > 0 {
		return nil, faults
	}
	return c, nil
}

// parse returns what could be made of the text even if there are faults.
func parse(root origin, data []byte, environ []string) (*Config, Faults) {
	c := defaults()
	d := &decoder{file: root.file, origins: origins{"": root}}
	c.origins = d.origins
	if doc := d.document(data); doc != nil {
		d.value(doc, "", fieldsOf(c))
	}
	d.environment(c, environ)
	for i := range c.Roles {
		_, line := c.Locate(fmt.Sprintf("roles[%d]", i))
		c.Roles[i].Source = fmt.Sprintf("%s:%d", filepath.Base(root.file), line)
	}
	if !d.unreadable {
		v := newValidator(c, d.faults)
		v.derive()
		v.all()
		d.faults = append(d.faults, v.faults...)
	}
	d.faults.sort()
	return c, d.faults
}
