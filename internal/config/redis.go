package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/secret"
)

// Values of Config.Replicas.
const (
	ReplicasSingle = "single"
	ReplicasMany   = "many"
)

// Values of Redis.Mode.
const (
	RedisStandalone = "standalone"
	RedisSentinel   = "sentinel"
	RedisCluster    = "cluster"
)

// Redis is what the replicas have in common. Without addresses there is none.
type Redis struct {
	// Addresses are "host:port": of the one server, of the sentinels, or of some of the cluster's nodes; at most 32. Default
	// none: no Redis.
	Addresses []string `yaml:"addresses"`
	// Mode is "standalone", "sentinel" or "cluster". Default standalone.
	Mode string `yaml:"mode"`
	// MasterName is what the sentinels call the primary; required with sentinel, and for it alone.
	MasterName string `yaml:"master_name"`
	// Username is the ACL user. Default none: Redis's default user.
	Username string `yaml:"username"`
	// PasswordFile holds the user's password; it is read for every connection. Default none.
	PasswordFile string `yaml:"password_file"`
	// SentinelUsername is the ACL user at the sentinels. Default none.
	SentinelUsername string `yaml:"sentinel_username"`
	// SentinelPasswordFile holds its password; it is read at start. Default none.
	SentinelPasswordFile string `yaml:"sentinel_password_file"`
	// DB is the number of the database: 0 to 1023, 0 with cluster. Default 0.
	DB int `yaml:"db"`
	// TLS says how Redis is spoken to.
	TLS RedisTLS `yaml:"tls"`
	// InsecurePlaintext allows plaintext beyond loopback. Default false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// Timeout is for one operation, connecting included: 10ms to 5s. Default 250ms.
	Timeout time.Duration `yaml:"timeout"`
	// Prefix begins the names of all keys and channels: ^[a-z0-9][a-z0-9_-]{0,62}$. Default credbroker.
	Prefix string `yaml:"prefix"`
	// SealingKeysFile holds the AES-256 keys that values are sealed with, as secret.ReadKeys reads them. Required with
	// addresses.
	SealingKeysFile string `yaml:"sealing_keys_file"`
	// KeyHMACKeysFile holds the HMAC keys that names of entries are made with, in the same form, other keys. Required with
	// addresses.
	KeyHMACKeysFile string `yaml:"key_hmac_keys_file"`
	// Transit has both keys made and wrapped by Vault, in place of the key files. Default none.
	Transit RedisTransit `yaml:"transit"`
}

// RedisTransit is a key of Vault's Transit engine that wraps what seals entries.
type RedisTransit struct {
	// Mount is where the engine is. Default transit.
	Mount string `yaml:"mount"`
	// Key is the key's name. Default none.
	Key string `yaml:"key"`
	// RotateEvery is how long what it wraps is used: 72h to 2160h. Default 720h.
	RotateEvery time.Duration `yaml:"rotate_every"`
}

// Enabled reports whether there is such a key.
func (t *RedisTransit) Enabled() bool { return t.Key != "" }

// RedisTLS is TLS to Redis and its sentinels.
type RedisTLS struct {
	// Enabled turns TLS (1.2 or newer) on. Default false.
	Enabled bool `yaml:"enabled"`
	// CAFile holds the only roots to trust, PEM; read at start. Default the system's roots.
	CAFile string `yaml:"ca_file"`
	// CertFile holds a client certificate and its intermediates, PEM; read for every connection. It goes together with
	// KeyFile. Default none.
	CertFile string `yaml:"cert_file"`
	// KeyFile holds the private key of CertFile. Default none.
	KeyFile string `yaml:"key_file"`
	// ServerName is the name in Redis's certificate, if it isn't the host of the address. Default none.
	ServerName string `yaml:"server_name"`
}

// Enabled reports whether there is a Redis.
func (r *Redis) Enabled() bool { return len(r.Addresses) > 0 }

func defaultRedis() Redis {
	return Redis{
		Mode: RedisStandalone, Timeout: 250 * time.Millisecond, Prefix: "credbroker",
		Transit: RedisTransit{Mount: "transit", RotateEvery: 720 * time.Hour},
	}
}

func (v *validator) redis() {
	r := &v.Redis
	v.oneOf("replicas", v.Replicas, ReplicasSingle, ReplicasMany)
	if !r.Enabled() {
		if v.Replicas == ReplicasMany {
			v.fault("replicas", `"many" takes a Redis that the replicas share; expected redis.addresses as well`)
		}
		if _, written := v.origins["redis"]; written {
			v.fault("redis.addresses", "it has no entry; expected host:port of the Redis, or no redis at all")
		}
		return
	}
	if v.count("redis.addresses", len(r.Addresses), 1, 32) {
		seen := map[string]string{}
		for n, a := range r.Addresses {
			at := index("redis.addresses", n)
			host, port, err := net.SplitHostPort(a)
			switch {
			case strings.Contains(a, "@"): // somebody's password
				v.fault(at, `the address holds more than host and port; expected "host:port", with redis.username and redis.password_file beside it`)
				continue
			case err != nil || !validHost(host) || !validPort(port) || port == "0":
				v.fault(at, `%.128q; expected "host:port", as in redis.internal:6379`, a)
			case !r.TLS.Enabled && !r.InsecurePlaintext && !isLoopback(host):
				v.fault(at, "%q is plaintext beyond loopback; expected redis.tls.enabled: true, or insecure_plaintext: true", a)
			}
			v.unique(at, a, seen)
		}
	}
	v.oneOf("redis.mode", r.Mode, RedisStandalone, RedisSentinel, RedisCluster)
	switch {
	case r.Mode == RedisStandalone && len(r.Addresses) > 1:
		v.fault("redis.addresses", "it has %d entries; expected one with mode standalone, or mode sentinel or cluster", len(r.Addresses))
	case r.Mode == RedisSentinel && r.MasterName == "":
		v.fault("redis.master_name", "it is required with mode sentinel")
	case r.Mode == RedisCluster && r.DB != 0:
		v.fault("redis.db", "%d; expected 0, the only one that a cluster has", r.DB)
	}
	if r.Mode != RedisSentinel && (r.MasterName != "" || r.SentinelUsername != "" || r.SentinelPasswordFile != "") {
		v.fault("redis.mode", "%q has no sentinels; expected sentinel, or none of master_name, sentinel_username and sentinel_password_file", r.Mode)
	}
	for key, text := range map[string]string{"master_name": r.MasterName, "username": r.Username, "sentinel_username": r.SentinelUsername, "tls.server_name": r.TLS.ServerName} {
		if text != "" {
			v.text("redis."+key, text)
		}
	}
	within(v, "redis.db", r.DB, 0, 1023)
	v.redisTLS(r.TLS)
	v.duration("redis.timeout", r.Timeout, 10*time.Millisecond, 5*time.Second)
	v.name("redis.prefix", r.Prefix)
	v.transit("redis.transit", TransitKey{r.Transit.Mount, r.Transit.Key})
	if r.Transit.Enabled() {
		v.duration("redis.transit.rotate_every", r.Transit.RotateEvery, 72*time.Hour, 2160*time.Hour)
		for key, file := range map[string]string{"sealing_keys_file": r.SealingKeysFile, "key_hmac_keys_file": r.KeyHMACKeysFile} {
			if file != "" {
				v.fault("redis."+key, "the keys are made and wrapped by Vault (redis.transit); expected one or the other")
			}
		}
		return
	}
	v.required("redis.sealing_keys_file", r.SealingKeysFile)
	v.required("redis.key_hmac_keys_file", r.KeyHMACKeysFile)
	if r.SealingKeysFile != "" && r.SealingKeysFile == r.KeyHMACKeysFile {
		v.fault("redis.key_hmac_keys_file", "it is the file of the sealing keys; expected one with keys of its own")
	}
}

func (v *validator) redisTLS(t RedisTLS) {
	switch {
	case !t.Enabled && t != (RedisTLS{}):
		v.fault("redis.tls.enabled", "it is false, and there are other keys beside it; expected true")
	case t.CertFile != "" && t.KeyFile == "":
		v.fault("redis.tls.cert_file", "there is no key_file; expected both or neither")
	case t.KeyFile != "" && t.CertFile == "":
		v.fault("redis.tls.key_file", "there is no cert_file; expected both or neither")
	}
}

// plaintext are the addresses that are spoken to in plaintext beyond loopback.
func (r *Redis) plaintext() []string {
	return slices.DeleteFunc(slices.Clone(r.Addresses), func(a string) bool {
		host, _, err := net.SplitHostPort(a)
		return err != nil || r.TLS.Enabled || isLoopback(host)
	})
}

// RedisKeys are the keys that the configuration's Redis needs.
type RedisKeys struct{ Sealing, KeyHMAC []secret.Secret }

// ReadKeys reads both key files. No key may serve for both.
func (r *Redis) ReadKeys() (RedisKeys, error) {
	sealing, err := secret.ReadKeys(r.SealingKeysFile)
	if err != nil {
		return RedisKeys{}, fmt.Errorf("redis.sealing_keys_file: %w", err)
	}
	hmac, err := secret.ReadKeys(r.KeyHMACKeysFile)
	if err != nil {
		return RedisKeys{}, fmt.Errorf("redis.key_hmac_keys_file: %w", err)
	}
	for _, key := range hmac {
		if slices.ContainsFunc(sealing, key.Equal) {
			return RedisKeys{}, errors.New("redis.key_hmac_keys_file: one of its keys is a sealing key as well; expected keys of its own")
		}
	}
	return RedisKeys{sealing, hmac}, nil
}
