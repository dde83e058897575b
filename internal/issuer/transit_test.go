package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/vault"
)

// transitVault starts a Vault with a key, and returns it with a client that may do what deploy/vault/issuer.hcl allows.
func transitVault(t *testing.T) (*brokertest.Vault, TransitConfig) {
	t.Helper()
	v := brokertest.StartVault(t, brokertest.VaultOptions{})
	v.Write("sys/mounts/transit", brokertest.VaultData{"type": "transit"})
	v.Write("transit/keys/credbroker", brokertest.VaultData{"type": "ecdsa-p256"})
	v.Policy("issuer", map[string]string{"transit/keys/credbroker": "read", "transit/sign/credbroker/sha2-256": "update"})
	return v, TransitConfig{Client: runVault(t, v.URL, v.Token(time.Hour, "issuer")), Mount: "transit", Key: "credbroker"}
}

func runVault(t *testing.T, address, token string) *vault.Client {
	t.Helper()
	file := t.TempDir() + "/token"
	brokertest.WriteFile(t, file, []byte(token))
	c, err := vault.New(vault.Config{Address: address, Login: vault.TokenFile{Path: file}, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)
	return c
}

// background runs something until the test ends.
func background(t *testing.T, run func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

// transitIssuer is an issuer whose versions sign once they have been published for a time.
func transitIssuer(t *testing.T, cfg TransitConfig, published time.Duration) (*Issuer, *Source) {
	t.Helper()
	iss, err := New(Config{URL: testURL, Transit: &cfg})
	if err != nil {
		t.Fatal(err)
	}
	iss.transit.publishFor = published
	return iss, newSource(t, iss, SourceConfig{})
}

func kid(t *testing.T, iss *Issuer, s *Source) string {
	t.Helper()
	token, err := s.Token(t.Context(), request("reports-rw"), time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	header, claims := verify(t, iss.JWKS(t.Context()), token.Reveal())
	if header["alg"] != "ES256" || claims["iss"] != testURL {
		t.Errorf("%v %v", header, claims)
	}
	return header["kid"].(string)
}

func published(t *testing.T, iss *Issuer) []string {
	t.Helper()
	var set struct {
		Keys []struct{ Kid string }
	}
	if err := json.Unmarshal(iss.JWKS(t.Context()), &set); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, k := range set.Keys {
		ids = append(ids, k.Kid)
	}
	return ids
}

func TestVersionOfTransitSignsOnceItWasPublishedAndReplicasAgree(t *testing.T) {
	v, cfg := transitVault(t)
	const wait = 3 * time.Second
	one, oneSource := transitIssuer(t, cfg, wait)
	two, twoSource := transitIssuer(t, cfg, wait)
	background(t, one.Run)
	// The first version signs at once: there is no other.
	first := kid(t, one, oneSource)
	if other := kid(t, two, twoSource); other != first {
		t.Fatalf("replicas sign with %s and %s", first, other)
	}
	v.Write("transit/keys/credbroker/rotate", nil)
	rotated := time.Now()
	brokertest.Eventually(t, 10*time.Second, "two versions published", func() error {
		if ids := published(t, one); len(ids) != 2 {
			return fmt.Errorf("%v", ids)
		}
		return nil
	})
	if time.Since(rotated) > wait-time.Second {
		t.Fatal("it took too long to be of use here")
	}
	if now := kid(t, one, oneSource); now != first {
		t.Error("the new version signs at once")
	}
	brokertest.Eventually(t, 10*time.Second, "the new version signs", func() error {
		now := kid(t, one, oneSource)
		if now == first {
			return errors.New("it doesn't")
		}
		if early := time.Since(rotated); early < wait-100*time.Millisecond {
			t.Errorf("it signs after %s", early)
		}
		return nil
	})
	_ = two.JWKS(t.Context()) // as at its next look
	if a, b := kid(t, one, oneSource), kid(t, two, twoSource); a != b {
		t.Errorf("replicas sign with %s and %s", a, b)
	}
	if ids := one.KeyIDs(); len(ids) != 2 || ids[1] != first {
		t.Errorf("%v", ids)
	}
}

func TestVersionThatMayNotSignAnyMoreDoesNot(t *testing.T) {
	v, cfg := transitVault(t)
	iss, s := transitIssuer(t, cfg, time.Hour)
	first := kid(t, iss, s)
	v.Write("transit/keys/credbroker/rotate", nil)
	v.Write("transit/keys/credbroker/config", brokertest.VaultData{"min_encryption_version": 2}) // as after a leak
	brokertest.Eventually(t, 5*time.Second, "the new version published", func() error {
		if len(published(t, iss)) != 2 {
			return errors.New("it isn't")
		}
		return nil
	})
	if now := kid(t, iss, s); now == first {
		t.Error("the old version signs")
	}
}

func TestIssuerOutlivesVaultAndStartsWithoutIt(t *testing.T) {
	v, cfg := transitVault(t)
	if idle, err := New(Config{URL: "https://broker", RotateEvery: time.Hour, Transit: &cfg}); err != nil || !strings.Contains(idle.Status(), "not read yet") || idle.KeyIDs() != nil {
		t.Errorf("before it looked: %v", err)
	}
	iss, s := transitIssuer(t, cfg, time.Hour)
	kid(t, iss, s)
	want := string(iss.JWKS(t.Context()))
	v.Kill()
	time.Sleep(lookAgain) // so that the next look isn't too soon to be one
	start := time.Now()
	if got := string(iss.JWKS(t.Context())); got != want || time.Since(start) > 3*time.Second {
		t.Errorf("after %s: %s", time.Since(start), got)
	}
	if _, err := s.Token(t.Context(), request("reports-rw"), time.Now().Add(time.Minute)); !errors.Is(err, exchange.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if !strings.Contains(iss.Status(), "last known versions") {
		t.Errorf("%q", iss.Status())
	}
	late, lateSource := transitIssuer(t, cfg, time.Hour)
	if got := string(late.JWKS(t.Context())); got != `{"keys":[]}` || !strings.Contains(late.Status(), "never read: vault unavailable") {
		t.Errorf("%s %q", got, late.Status())
	}
	if _, err := lateSource.Token(t.Context(), request("reports-rw"), time.Now().Add(time.Minute)); !errors.Is(err, exchange.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	v.Start()
	brokertest.Eventually(t, 10*time.Second, "it signs again", func() error {
		_, err := lateSource.Token(t.Context(), request("reports-rw"), time.Now().Add(time.Minute))
		return err
	})
}

// TestWhatIsNoAnswerOfTransitIsRefused has a stand-in answer, as a Vault with other settings or somebody in between could.
func TestWhatIsNoAnswerOfTransitIsRefused(t *testing.T) {
	v, cfg := transitVault(t)
	key, err := cfg.Client.Do(t.Context(), vault.Call{Path: "transit/keys/credbroker"})
	if err != nil {
		t.Fatal(err)
	}
	_ = v
	good := key.Data["keys"].(map[string]any)["1"].(map[string]any)
	with := func(name string, value any) map[string]any {
		out := map[string]any{}
		for k, v := range good {
			out[k] = v
		}
		out[name] = value
		return out
	}
	private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	p384 := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	rsa := "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALqcGT4m4sLtnsnoM8Ju8GJ0bC0y3dVS\nF6kPcb8CqFjVYcJfQ0MPyBcm8nKZ1T9hYQzYhW2iYPtu6oJYzKcPzS0CAwEAAQ==\n-----END PUBLIC KEY-----\n"
	for name, c := range map[string]struct {
		keyType   string
		keys      map[string]any
		signature string
		want      error
	}{
		"another type":          {"ed25519", map[string]any{"1": good}, "", exchange.ErrUnavailable},
		"no versions":           {"ecdsa-p256", map[string]any{}, "", exchange.ErrUnavailable},
		"no number":             {"ecdsa-p256", map[string]any{"one": good}, "", exchange.ErrUnavailable},
		"version 0":             {"ecdsa-p256", map[string]any{"0": good}, "", exchange.ErrUnavailable},
		"version -1":            {"ecdsa-p256", map[string]any{"-1": good}, "", exchange.ErrUnavailable},
		"a curve of NIST's":     {"ecdsa-p256", map[string]any{"1": with("public_key", p384)}, "", exchange.ErrUnavailable},
		"no key in the PEM":     {"ecdsa-p256", map[string]any{"1": with("public_key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")}, "", exchange.ErrUnavailable},
		"no signature":          {"ecdsa-p256", map[string]any{"1": good}, "", exchange.ErrBadResult},
		"no":                    {"ecdsa-p256", map[string]any{"1": good}, "no", exchange.ErrRefused},
		"no time":               {"ecdsa-p256", map[string]any{"1": with("creation_time", "")}, "", exchange.ErrUnavailable},
		"no PEM":                {"ecdsa-p256", map[string]any{"1": with("public_key", "x")}, "", exchange.ErrUnavailable},
		"another curve":         {"ecdsa-p256", map[string]any{"1": with("public_key", rsa)}, "", exchange.ErrUnavailable},
		"a signature of none":   {"ecdsa-p256", map[string]any{"1": good}, "vault:v1:" + strings.Repeat("A", 86), exchange.ErrBadResult},
		"of another version":    {"ecdsa-p256", map[string]any{"1": good}, "vault:v2:" + strings.Repeat("A", 86), exchange.ErrBadResult},
		"of another length":     {"ecdsa-p256", map[string]any{"1": good}, "vault:v1:AAAA", exchange.ErrBadResult},
		"in another marshaling": {"ecdsa-p256", map[string]any{"1": good}, "vault:v1:MEUCIQ==", exchange.ErrBadResult},
	} {
		t.Run(name, func(t *testing.T) {
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				data := map[string]any{"type": c.keyType, "keys": c.keys}
				if r.Method == http.MethodPut && c.signature == "no" {
					http.Error(w, `{"errors":["unsupported"]}`, http.StatusBadRequest)
					return
				}
				if r.Method == http.MethodPut {
					data = map[string]any{"signature": c.signature}
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
			}))
			t.Cleanup(web.Close)
			_, s := transitIssuer(t, TransitConfig{Client: runVault(t, web.URL, "hvs.x"), Mount: "transit", Key: "credbroker"}, 0)
			if _, err := s.Token(t.Context(), request("reports-rw"), time.Now().Add(time.Minute)); !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestVaultIsNotAskedByEachWhoAsks bounds what anybody can have asked of Vault by asking for the JWK set.
func TestVaultIsNotAskedByEachWhoAsks(t *testing.T) {
	var asked atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/keys/") {
			asked.Add(1)
		}
		http.Error(w, `{"errors":["later"]}`, http.StatusBadRequest)
	}))
	t.Cleanup(web.Close)
	iss, _ := transitIssuer(t, TransitConfig{Client: runVault(t, web.URL, "hvs.x"), Mount: "transit", Key: "credbroker"}, 0)
	start := time.Now()
	for range 100 {
		iss.JWKS(t.Context())
	}
	if most := int64(time.Since(start)/lookAgain) + 1; asked.Load() == 0 || asked.Load() > most {
		t.Errorf("asked %d times, at most %d were allowed", asked.Load(), most)
	}
}
