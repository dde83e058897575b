package redis_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/cache/cachetest"
	"github.com/credbroker/credbroker/internal/redis"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestConformance(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	cachetest.Run(t, func(t *testing.T, clock *cachetest.Clock) cache.Cache {
		server.CLI("FLUSHALL")
		return connect(t, at(server.Addr), func(c *redis.Config) { c.Now = clock.Now })
	})
}

func entryName(key cache.Key) string {
	return "credbroker:c:{" + base64.RawURLEncoding.EncodeToString(key[:]) + "}"
}

// threats.md: corrupt, wrong type, too big: a miss, never a failure. A blob moved to another key is a miss as well.
func TestWhatSomebodyElseWroteIsAMiss(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	key, other := keyer.Key("a"), keyer.Key("b")
	for name, spoil := range map[string]func(){
		"corrupt":                 func() { server.CLI("SETRANGE", entryName(key), "40", "x") },
		"not sealed":              func() { server.CLI("SET", entryName(key), "AKIAIOSFODNN7EXAMPLE") },
		"empty":                   func() { server.CLI("SET", entryName(key), "") },
		"of another type":         func() { server.CLI("DEL", entryName(key)); server.CLI("LPUSH", entryName(key), "x") },
		"too big":                 func() { server.CLI("SETRANGE", entryName(key), "1000000", "x") },
		"with a byte more":        func() { server.CLI("APPEND", entryName(key), "x") },
		"moved from another key":  func() { server.CLI("RENAME", entryName(other), entryName(key)) },
		"copied from another key": func() { server.CLI("COPY", entryName(other), entryName(key), "REPLACE") },
	} {
		put(t, c, key, "a")
		put(t, c, other, "b")
		if got(t, c, key) != "AKa" {
			t.Fatal("not even put")
		}
		spoil()
		if _, err := c.Get(t.Context(), key); !errors.Is(err, cache.ErrMiss) {
			t.Errorf("%s: %v", name, err)
		}
		if c.Status() != "" {
			t.Errorf("%s: status %q", name, c.Status())
		}
		// Nor does it stand in the way of the next.
		put(t, c, key, "new")
		if got(t, c, key) != "AKnew" {
			t.Errorf("%s: %s after it was put again", name, got(t, c, key))
		}
	}
}

// The expiry inside the sealed value counts, not Redis's.
func TestAnEntryThatRedisKeepsTooLongIsAMiss(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	var ahead atomic.Int64
	c := connect(t, at(server.Addr), func(c *redis.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	put(t, c, keyer.Key("a"), "a")
	server.CLI("PERSIST", entryName(keyer.Key("a")))
	if got(t, c, keyer.Key("a")) != "AKa" {
		t.Error("it is not there")
	}
	ahead.Store(int64(time.Minute))
	if _, err := c.Get(t.Context(), keyer.Key("a")); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("got %v", err)
	}
}

func TestEntriesEndInRedis(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	put(t, c, keyer.Key("a"), "a")
	if ttl := server.CLI("PTTL", entryName(keyer.Key("a"))); len(strings.TrimSpace(ttl)) != 5 { // 5xxxx ms
		t.Errorf("PTTL is %s", ttl)
	}
}

func TestCredentialsTooBigAreNotShared(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	creds := credentials("a", time.Minute)
	creds.SessionToken = secret.New(strings.Repeat("x", 64<<10))
	if err := c.Put(t.Context(), keyer.Key("a"), creds); err == nil || errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("put: %v", err)
	}
	creds.SessionToken = secret.New(strings.Repeat("x", 64<<10-200))
	if err := c.Put(t.Context(), keyer.Key("a"), creds); err != nil || got(t, c, keyer.Key("a")) != "AKa" {
		t.Errorf("the largest: %v, %s", err, got(t, c, keyer.Key("a")))
	}
}

// Rotation of the sealing key, as the documentation says it is done, must keep what is there.
func TestSealingKeysRotate(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	keyrings := make([]*seal.Keyring, 2)
	clients := make([]*redis.Client, 2)
	for i := range clients {
		keyrings[i], _ = seal.NewKeyring([]secret.Secret{sealingKey("a")})
		clients[i] = connect(t, at(server.Addr), func(c *redis.Config) { c.Keyring = keyrings[i] })
	}
	key := keyer.Key("a")
	put(t, clients[0], key, "a")
	for step, keys := range [][]secret.Secret{{sealingKey("a"), sealingKey("b")}, {sealingKey("b"), sealingKey("a")}} {
		for i := range clients { // one after the other
			if err := keyrings[i].Replace(keys); err != nil {
				t.Fatal(err)
			}
			for n, c := range clients {
				if got(t, c, key) != "AKa" {
					t.Errorf("step %d: replica %d lost the entry when replica %d had rotated", step, n, i)
				}
				put(t, c, keyer.Key("new"), "new")
				for m, other := range clients {
					if got(t, other, keyer.Key("new")) != "AKnew" {
						t.Errorf("step %d: replica %d doesn't read what replica %d wrote", step, m, n)
					}
				}
			}
		}
	}
	put(t, clients[0], key, "a")
	for i := range clients {
		if err := keyrings[i].Replace([]secret.Secret{sealingKey("b")}); err != nil {
			t.Fatal(err)
		}
		if got(t, clients[i], key) != "AKa" {
			t.Errorf("replica %d lost what was sealed with the new key", i)
		}
	}
}

func TestFindReadsAllKeysInOneRoundTrip(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	var seen observed
	c := connect(t, at(server.Addr), func(c *redis.Config) { c.Observe = seen.note })
	put(t, c, keyer.Key("b"), "b")
	creds, under, err := c.Find(t.Context(), keyer.Key("a"), keyer.Key("b"), keyer.Key("c"))
	if err != nil || creds.AccessKeyID != "AKb" || under != keyer.Key("b") || seen.count("find ok") != 1 {
		t.Errorf("got %s under %x, %v, in %d operations", creds.AccessKeyID, under[:4], err, seen.count("find ok"))
	}
	put(t, c, keyer.Key("a"), "a")
	if creds, _, _ := c.Find(t.Context(), keyer.Key("a"), keyer.Key("b")); creds.AccessKeyID != "AKa" {
		t.Errorf("the first key doesn't come first: %s", creds.AccessKeyID)
	}
	// A foreign value under the first key doesn't hide the second.
	server.CLI("DEL", entryName(keyer.Key("a")))
	server.CLI("LPUSH", entryName(keyer.Key("a")), "x")
	if creds, _, err := c.Find(t.Context(), keyer.Key("a"), keyer.Key("b")); creds.AccessKeyID != "AKb" {
		t.Errorf("got %s, %v", creds.AccessKeyID, err)
	}
}

// Nothing that Redis is told, or keeps, holds a secret or names who it is for.
func TestRedisSeesNoSecret(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	seen := server.Monitor()
	put(t, c, keyer.Key("alice", "payroll"), "canary")
	_ = got(t, c, keyer.Key("alice", "payroll"))
	lease, err := c.Lease(t.Context(), keyer.Key("alice", "payroll"), keyer.Key("alice", "payroll"))
	if err != nil || lease.Land(t.Context(), keyer.Key("alice", "payroll"), credentials("canary", time.Minute)) != nil {
		t.Fatal(err)
	}
	all := seen() + string(server.Dump())
	for _, word := range []string{"planted-", "AKcanary", "alice", "payroll"} {
		if strings.Contains(all, word) {
			t.Errorf("Redis saw %q", word)
		}
	}
	if !strings.Contains(all, "credbroker:c:{") {
		t.Error("Redis saw nothing at all")
	}
}
