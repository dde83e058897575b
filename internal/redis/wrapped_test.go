package redis_test

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/redis"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestWrappedKeysAreSwappedOnlyForWhatWasThere(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	keys := connect(t, at(server.Addr)).WrappedKeys()
	if doc, err := keys.Load(t.Context()); doc != nil || err != nil {
		t.Fatalf("%q %v", doc, err)
	}
	for _, step := range []struct {
		former, document string
		want             bool
	}{{"x", "a", false}, {"", "a", true}, {"", "b", false}, {"b", "c", false}, {"a", "b", true}} {
		var former []byte
		if step.former != "" {
			former = []byte(step.former)
		}
		if swapped, err := keys.Swap(t.Context(), former, []byte(step.document)); swapped != step.want || err != nil {
			t.Errorf("%+v: %t %v", step, swapped, err)
		}
	}
	if doc, err := keys.Load(t.Context()); string(doc) != "b" || err != nil {
		t.Errorf("%q %v", doc, err)
	}
	server.CLI("SET", "credbroker:keys", strings.Repeat("x", 5000))
	if _, err := keys.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("%v", err)
	}
}

// TestLockedKeyringKeepsRedisFromBeingUsed but for what isn't sealed: single-use proofs, and the wrapped keys themselves.
func TestLockedKeyringKeepsRedisFromBeingUsed(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	keyring, err := seal.NewLockedKeyring()
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, at(server.Addr), func(cfg *redis.Config) { cfg.Keyring = keyring })
	credentials := exchange.Credentials{AccessKeyID: "AK", SecretAccessKey: secret.New("SK"), SessionToken: secret.New("ST"), Expires: time.Now().Add(time.Hour)}
	var key cache.Key
	if err := c.Put(t.Context(), key, credentials); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("credentials: %v", err)
	}
	if err := c.Board().Post(t.Context(), "r", []byte("n"), time.Hour); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("issuer keys: %v", err)
	}
	if out := server.CLI("KEYS", "credbroker:c:*"); strings.Contains(out, "credbroker:c") {
		t.Errorf("it was written: %s", out)
	}
	if !strings.Contains(c.Status(), "Vault wraps") {
		t.Errorf("%q", c.Status())
	}
	if _, err := c.WrappedKeys().Load(t.Context()); err != nil {
		t.Error(err)
	}
	brokertest.Eventually(t, 10*time.Second, "single-use proofs", func() error {
		return c.Replay().Use(t.Context(), sha256.Sum256([]byte(time.Now().String())), time.Now(), time.Minute)
	})
	if err := keyring.Replace([]secret.Secret{sealingKey("a")}); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(t.Context(), key, credentials); err != nil || c.Status() != "" {
		t.Errorf("unlocked: %v, %q", err, c.Status())
	}
}
