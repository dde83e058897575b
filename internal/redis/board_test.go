package redis_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/redis"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
)

func post(t *testing.T, b *redis.Board, replica, notice string) {
	t.Helper()
	if err := b.Post(t.Context(), replica, []byte(notice), time.Hour); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, b *redis.Board) string {
	t.Helper()
	notices, err := b.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(slices.Sorted(maps.Keys(notices)), " ")
}

func TestNoticesAreSeenByAll(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	one, two := connect(t, at(server.Addr)).Board(), connect(t, at(server.Addr)).Board()
	if got := names(t, one); got != "" {
		t.Errorf("at first: %s", got)
	}
	post(t, one, "one", "keys of one")
	post(t, two, "two", "keys of two")
	post(t, one, "one", "newer keys of one")
	notices, err := two.Read(t.Context())
	if err != nil || len(notices) != 2 || string(notices["one"]) != "newer keys of one" || string(notices["two"]) != "keys of two" {
		t.Errorf("got %q, %v", notices, err)
	}
	if ttl := strings.TrimSpace(server.CLI("PTTL", "credbroker:issuer-keys")); len(ttl) != 7 { // 36xxxxx ms
		t.Errorf("the board stays for %s ms", ttl)
	}
	if err := two.Remove(t.Context(), "one"); err != nil || names(t, one) != "two" {
		t.Errorf("after it was removed: %s, %v", names(t, one), err)
	}
}

// threats.md: a raw JWK written to Redis is not served. Nor is anything else that wasn't sealed as this replica's notice.
func TestWhatSomebodyElsePutUpIsNotRead(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	b := c.Board()
	post(t, b, "good", "keys")
	post(t, b, "copied", "keys")
	jwk := `{"replica":"evil","posted":1800000000,"ends":1800000060,"keys":[{"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`
	server.CLI("HSET", "credbroker:issuer-keys", "evil", jwk)
	server.CLI("HSET", "credbroker:issuer-keys", "huge", strings.Repeat("x", 100_000))
	server.CLI("HSET", "credbroker:issuer-keys", strings.Repeat("n", 1000), "x")
	server.CLI("HSET", "credbroker:issuer-keys", "empty", "")
	// Another replica's notice under another name; credentials that this installation sealed.
	server.CLI("EVAL", "return redis.call('HSET', KEYS[1], 'moved', redis.call('HGET', KEYS[1], 'copied'))", "1", "credbroker:issuer-keys")
	put(t, c, keyer.Key("a"), "a")
	server.CLI("EVAL", "return redis.call('HSET', KEYS[1], 'credentials', redis.call('GET', KEYS[2]))", "2", "credbroker:issuer-keys", entryName(keyer.Key("a")))
	foreign := connect(t, at(server.Addr), func(c *redis.Config) {
		c.Keyring, _ = seal.NewKeyring([]secret.Secret{sealingKey("z")})
	})
	post(t, foreign.Board(), "of another installation", "keys")
	if got := names(t, b); got != "copied good" {
		t.Errorf("read %s", got)
	}
}

// A flood of entries is not read, and the error says what to do.
func TestTooManyNoticesAreAnError(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	b := connect(t, at(server.Addr)).Board()
	post(t, b, "one", "keys")
	fill := func(n int) {
		server.CLI("EVAL", fmt.Sprintf("for i = 1, %d do redis.call('HSET', KEYS[1], 'n' .. i, 'x') end return 1", n), "1", "credbroker:issuer-keys")
	}
	fill(1023)
	if got := names(t, b); got != "one" {
		t.Errorf("with 1,024 entries: %s", got)
	}
	fill(1024)
	if _, err := b.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "credbroker:issuer-keys") || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("with 1,025 entries: %v", err)
	}
}

func TestAWrongTypeIsAnErrorOfTheBoardAlone(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	server.CLI("SET", "credbroker:issuer-keys", "x")
	if _, err := c.Board().Read(t.Context()); err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("got %v", err)
	}
	var shared cache.Shared = c
	put(t, shared, keyer.Key("a"), "a")
	if got(t, c, keyer.Key("a")) != "AKa" {
		t.Error("the rest doesn't go on")
	}
}

// Installations that share a Redis and even their keys don't take each other's values.
func TestNothingMovesToAnotherInstallation(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	prefix := func(p string) func(*redis.Config) { return func(c *redis.Config) { c.Prefix = p } }
	staging, production := connect(t, at(server.Addr), prefix("staging")), connect(t, at(server.Addr), prefix("production"))
	post(t, staging.Board(), "r1", "keys of staging")
	key := keyer.Key("a")
	put(t, staging, key, "a")
	entry := strings.TrimPrefix(entryName(key), "credbroker")
	server.CLI("COPY", "staging:issuer-keys", "production:issuer-keys")
	server.CLI("COPY", "staging"+entry, "production"+entry)
	if got := names(t, production.Board()); got != "" {
		t.Errorf("production reads %q", got)
	}
	if got := got(t, production, key); got != cache.ErrMiss.Error() {
		t.Errorf("production finds %s", got)
	}
	if got(t, staging, key) != "AKa" || names(t, staging.Board()) != "r1" {
		t.Error("staging lost its own")
	}
}

func TestNoticesHaveABound(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	b := connect(t, at(server.Addr)).Board()
	most := 4<<10 - seal.Overhead
	post(t, b, strings.Repeat("r", 64), strings.Repeat("n", most))
	if err := b.Post(t.Context(), "r", make([]byte, most+1), time.Hour); err == nil {
		t.Error("a notice that nobody would read was put up")
	}
	if err := b.Post(t.Context(), strings.Repeat("r", 65), []byte("n"), time.Hour); err == nil {
		t.Error("a notice under a name that nobody would read was put up")
	}
	if got := names(t, b); got != strings.Repeat("r", 64) {
		t.Errorf("got %q", got)
	}
}
