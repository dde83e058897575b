package vault_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/vault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// events counts what a client tells of itself, as "login ok".
type events struct {
	mu   sync.Mutex
	seen map[string]int
}

func (e *events) observe(operation, outcome string, _ time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seen == nil {
		e.seen = map[string]int{}
	}
	e.seen[operation+" "+outcome]++
}

func (e *events) count(what string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen[what]
}

// running is a client whose Run runs.
type running struct {
	*vault.Client
	events *events
	// stop ends Run and waits for its end. Stopping twice is fine.
	stop func()
}

// run makes a client and runs it until the test ends.
func run(t *testing.T, cfg vault.Config) *running {
	t.Helper()
	r := &running{events: &events{}}
	cfg.Observe = r.events.observe
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	var err error
	if r.Client, err = vault.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(r.stop)
	return r
}

// ready waits until a client has a token.
func (r *running) ready(t *testing.T) {
	t.Helper()
	brokertest.Eventually(t, 20*time.Second, "logged in", func() error {
		if why := r.Status(); why != "" {
			return errors.New(why)
		}
		return nil
	})
}

// write writes a file of the test's own and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// appRole makes an AppRole with a policy that reads kv/a, and returns how to log in by it. Its tokens last ttl, and longest at all.
func appRole(t *testing.T, v *brokertest.Vault, ttl, longest time.Duration) vault.AppRole {
	t.Helper()
	v.Policy("reader", map[string]string{"kv/a": "read"})
	v.Write("auth/approle/role/broker", brokertest.VaultData{"token_policies": "reader", "token_ttl": ttl.String(), "token_max_ttl": longest.String()})
	return vault.AppRole{
		Mount: "approle", Role: "broker",
		RoleIDFile:   write(t, "role-id", v.Read("auth/approle/role/broker/role-id")["role_id"].(string)),
		SecretIDFile: write(t, "secret-id", v.Write("auth/approle/role/broker/secret-id", nil)["secret_id"].(string)+"\n"),
	}
}

// startVault starts a Vault with a secret at kv/a and AppRoles.
func startVault(t *testing.T, opts brokertest.VaultOptions) *brokertest.Vault {
	t.Helper()
	v := brokertest.StartVault(t, opts)
	v.Write("sys/mounts/kv", brokertest.VaultData{"type": "kv"})
	v.Write("kv/a", brokertest.VaultData{"b": "c"})
	v.Write("sys/auth/approle", brokertest.VaultData{"type": "approle"})
	return v
}

// reads fails the test unless the client reads kv/a.
func reads(t *testing.T, r *running) {
	t.Helper()
	a, err := r.Do(t.Context(), vault.Call{Path: "kv/a"})
	if err != nil || a.Data["b"] != "c" {
		t.Fatalf("%v %v", a.Data, err)
	}
}
