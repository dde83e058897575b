package redis_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/redis"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sealingKey(c string) secret.Secret { return secret.New(strings.Repeat(c, 32)) }

var keyer = cache.NewKeyer(secret.New(strings.Repeat("k", 32)))

// observed counts operations by name and outcome.
type observed struct {
	mu     sync.Mutex
	counts map[string]int
}

func (o *observed) note(operation, outcome string, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counts == nil {
		o.counts = map[string]int{}
	}
	o.counts[operation+" "+outcome]++
}

func (o *observed) count(what string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts[what]
}

// connect makes a client that runs until the test ends.
func connect(t testing.TB, change ...func(*redis.Config)) *redis.Client {
	t.Helper()
	keyring, err := seal.NewKeyring([]secret.Secret{sealingKey("a")})
	if err != nil {
		t.Fatal(err)
	}
	cfg := redis.Config{Mode: redis.Standalone, Timeout: 2 * time.Second, Prefix: "credbroker", Keyring: keyring, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	c, err := redis.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = c.Close()
	})
	return c
}

func at(addr string) func(*redis.Config) {
	return func(c *redis.Config) { c.Addresses = []string{addr} }
}

// credentials are ones with a name of their own that live so long.
func credentials(name string, life time.Duration) exchange.Credentials {
	return exchange.Credentials{
		AccessKeyID: "AK" + name, SecretAccessKey: secret.New("planted-secret-" + name), SessionToken: secret.New("planted-token-" + name),
		Expires: time.Now().Add(life),
	}
}

func put(t *testing.T, c cache.Cache, key cache.Key, name string) {
	t.Helper()
	if err := c.Put(t.Context(), key, credentials(name, time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// got says which access key the cache gives.
func got(t *testing.T, c cache.Cache, key cache.Key) string {
	t.Helper()
	creds, err := c.Get(t.Context(), key)
	if err != nil {
		return fmt.Sprint(err)
	}
	return creds.AccessKeyID
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	brokertest.Eventually(t, 10*time.Second, what, check)
}

func secretOf(s string) secret.Secret { return secret.New(s) }

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	overwrite(t, path, text)
	return path
}

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func clientTLS(t *testing.T, server *brokertest.Redis) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(server.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	certificate, err := tls.LoadX509KeyPair(server.ClientCertFile, server.ClientKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{certificate}}
}
