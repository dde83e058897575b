package vault_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/vault"
)

// accessor is that of the token in force, by what it says of itself.
func accessor(t *testing.T, r *running) string {
	t.Helper()
	a, err := r.Do(t.Context(), vault.Call{Path: "auth/token/lookup-self"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Text("accessor", 100)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestTokenIsRenewedOncePerPeriodWhateverTheLoad(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	r := run(t, vault.Config{Address: v.URL, Login: appRole(t, v, 3*time.Second, time.Hour)})
	r.ready(t)
	first := accessor(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var load sync.WaitGroup
	for range 16 {
		load.Go(func() {
			for ctx.Err() == nil {
				if _, err := r.Do(ctx, vault.Call{Path: "kv/a"}); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	load.Wait()
	// Of 3 s each is renewed after nearly 2.
	if n := r.events.count("renew ok"); n != 2 {
		t.Errorf("%d renewals in 5 s; expected 2", n)
	}
	if n := r.events.count("login ok"); n != 1 {
		t.Errorf("%d logins; expected 1", n)
	}
	if now := accessor(t, r); now != first {
		t.Error("it is another token")
	}
	t.Logf("%d calls", r.events.count("call ok"))
}

func TestLogsInAnewWhenVaultRenewsNoFurther(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	r := run(t, vault.Config{Address: v.URL, Login: appRole(t, v, 2*time.Second, 3*time.Second)})
	r.ready(t)
	first := accessor(t, r)
	until := time.Now().Add(5 * time.Second) // by when the first has ended
	for time.Now().Before(until) {
		reads(t, r)
		time.Sleep(20 * time.Millisecond)
	}
	if now := accessor(t, r); now == first {
		t.Error("it is the same token")
	}
	if n := r.events.count("login ok"); n < 2 || n > 4 {
		t.Errorf("%d logins", n)
	}
	if status, _, err := v.Call("", http.MethodPut, "auth/token/lookup-accessor", brokertest.VaultData{"accessor": first}); err != nil || status == http.StatusOK {
		t.Errorf("the former token is still good: %d %v", status, err)
	}
}

func TestTokenIsRevokedAtTheEnd(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	login := appRole(t, v, time.Hour, time.Hour)
	for _, held := range []bool{false, true} {
		t.Run(fmt.Sprintf("held=%t", held), func(t *testing.T) {
			r := run(t, vault.Config{Address: v.URL, Login: login})
			r.ready(t)
			id := accessor(t, r)
			if held { // or the credentials that it leased would end
				r.Held(time.Now().Add(time.Minute))
			}
			r.stop()
			status, body, err := v.Call("", http.MethodPut, "auth/token/lookup-accessor", brokertest.VaultData{"accessor": id})
			if err != nil || (status == http.StatusOK) != held {
				t.Errorf("after the end: %d %v %s", status, err, body)
			}
			if _, err := r.Do(t.Context(), vault.Call{Path: "kv/a"}); !errors.Is(err, vault.ErrUnavailable) {
				t.Errorf("stopped, and it says %v", err)
			}
		})
	}
}

func TestRevokedTokenIsReplacedAndNoCallLost(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	r := run(t, vault.Config{Address: v.URL, Login: appRole(t, v, time.Hour, time.Hour)})
	r.ready(t)
	id := accessor(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for ctx.Err() == nil {
				if _, err := r.Do(ctx, vault.Call{Path: "kv/a"}); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	v.Write("auth/token/revoke-accessor", brokertest.VaultData{"accessor": id})
	brokertest.Eventually(t, 10*time.Second, "another token", func() error {
		if n := r.events.count("login ok"); n < 2 {
			return errors.New("the same")
		}
		return nil
	})
	cancel()
	load.Wait()
	if n := r.events.count("login ok"); n != 2 {
		t.Errorf("%d logins; expected 2", n)
	}
	reads(t, r)
}

func TestWhatPoliciesForbidIsRefusedWithoutAnotherLogin(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	r := run(t, vault.Config{Address: v.URL, Login: appRole(t, v, time.Hour, time.Hour)})
	r.ready(t)
	for range 5 {
		_, err := r.Do(t.Context(), vault.Call{Path: "kv/other"})
		if !errors.Is(err, vault.ErrRefused) || !strings.Contains(err.Error(), "read kv/other: HTTP 403") {
			t.Errorf("%v", err)
		}
	}
	if _, err := r.Do(t.Context(), vault.Call{Path: "kv/a/b"}); !errors.Is(err, vault.ErrRefused) {
		t.Errorf("%v", err)
	}
	if n := r.events.count("login ok"); n != 1 {
		t.Errorf("%d logins; expected 1", n)
	}
	reads(t, r)
}

// TestPoliciesThatForbidEvenToLookDoNotMakeItLogInWithEachCall: without lookup-self a refusal can't be told from a lost token.
func TestPoliciesThatForbidEvenToLookDoNotMakeItLogInWithEachCall(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	login := appRole(t, v, time.Hour, time.Hour)
	v.Write("auth/approle/role/broker", brokertest.VaultData{"token_no_default_policy": true})
	r := run(t, vault.Config{Address: v.URL, Login: login})
	r.ready(t)
	for range 3 {
		for range 5 {
			if _, err := r.Do(t.Context(), vault.Call{Path: "kv/other"}); !errors.Is(err, vault.ErrRefused) {
				t.Errorf("%v", err)
			}
		}
		time.Sleep(1100 * time.Millisecond) // for so long the answer to a look counts
	}
	if n := r.events.count("login ok"); n > 2 {
		t.Errorf("%d logins; expected 2 at most", n)
	}
}

func TestSealedAndKilledVaultIsDoneWithoutAndFoundAgain(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	r := run(t, vault.Config{Address: v.URL, Login: appRole(t, v, time.Hour, time.Hour), Timeout: 2 * time.Second})
	r.ready(t)
	for name, c := range map[string]struct{ out, back func() }{
		"sealed": {v.Seal, v.Unseal},
		"killed": {v.Kill, v.Start},
	} {
		c.out()
		start := time.Now()
		for range 10 {
			if _, err := r.Do(t.Context(), vault.Call{Path: "kv/a"}); !errors.Is(err, vault.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: ten calls took %s: the breaker didn't open", name, took)
		}
		if r.Status() == "" {
			t.Errorf("%s: the status says nothing", name)
		}
		c.back()
		brokertest.Eventually(t, 5*time.Second, "found again", func() error {
			_, err := r.Do(t.Context(), vault.Call{Path: "kv/a"})
			return err
		})
		if why := r.Status(); why != "" {
			t.Errorf("%s and back: %s", name, why)
		}
	}
	if n := r.events.count("login ok"); n != 1 {
		t.Errorf("%d logins; expected 1", n)
	}
}

func TestStartsBeforeVault(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	login := appRole(t, v, time.Hour, time.Hour)
	v.Kill()
	r := run(t, vault.Config{Address: v.URL, Login: login, Timeout: time.Second})
	brokertest.Eventually(t, 5*time.Second, "a reason", func() error {
		if !strings.Contains(r.Status(), "not logged in: vault unavailable") {
			return errors.New(r.Status())
		}
		return nil
	})
	start := time.Now()
	if _, err := r.Do(t.Context(), vault.Call{Path: "kv/a"}); !errors.Is(err, vault.ErrUnavailable) || time.Since(start) > time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
	v.Start()
	r.ready(t)
	reads(t, r)
}

func TestStandbysRedirectIsFollowedToConfiguredNodesAlone(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{Standby: true})
	login := appRole(t, v, time.Hour, time.Hour)
	r := run(t, vault.Config{Address: v.Standby, Nodes: []string{v.URL}, Login: login})
	r.ready(t)
	reads(t, r)

	astray := run(t, vault.Config{Address: v.Standby, Login: login})
	brokertest.Eventually(t, 5*time.Second, "a reason", func() error {
		if !strings.Contains(astray.Status(), "vault.nodes") {
			return errors.New(astray.Status())
		}
		return nil
	})
}

func TestRedirectsThatAreNone(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	for name, location := range map[string]string{
		"another path": v.URL + "/v1/sys/seal", "another query": v.URL + "/v1/auth/token/lookup-self?x=y", "with a user": strings.Replace(v.URL, "://", "://u:p@", 1) + "/v1/auth/token/lookup-self",
		"none": "", "elsewhere": "http://127.0.0.1:1/v1/auth/token/lookup-self",
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", location)
				w.WriteHeader(http.StatusTemporaryRedirect)
			}))
			defer s.Close()
			r := run(t, vault.Config{Address: s.URL, Nodes: []string{v.URL}, Login: vault.TokenFile{Path: write(t, "token", v.RootToken)}})
			if _, err := r.Do(t.Context(), vault.Call{Path: "auth/token/lookup-self"}); !errors.Is(err, vault.ErrUnavailable) {
				t.Errorf("%v", err)
			}
			r.stop()
		})
	}
	if status, _, err := v.Call("", http.MethodGet, "sys/seal-status", nil); err != nil || status != http.StatusOK {
		t.Error(status, err)
	}
}

func TestAnswersAreBoundedAndHeadersAreTheConfigurations(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "somebody-else's")
	t.Setenv("VAULT_NAMESPACE", "elsewhere")
	t.Setenv("VAULT_HEADERS", `{"X-Other":"1"}`)
	var headers http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers = r.Header.Clone()
		_, _ = w.Write([]byte(`{"data":{"a":"`))
		for range 2000 {
			_, _ = w.Write([]byte(strings.Repeat("x", 1<<10)))
		}
	}))
	defer s.Close()
	r := run(t, vault.Config{Address: s.URL, Namespace: "team/a", Login: vault.TokenFile{Path: write(t, "token", "hvs.mine")}})
	if _, err := r.Do(t.Context(), vault.Call{Path: "kv/a"}); !errors.Is(err, vault.ErrUnavailable) || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v", err)
	}
	r.stop()
	if headers.Get("X-Vault-Namespace") != "team/a" || headers.Get("X-Vault-Token") != "hvs.mine" || headers.Get("X-Other") != "" || headers.Get("X-Vault-Request") != "true" {
		t.Errorf("%v", headers)
	}
}

func TestLoginsCarryNoTokenOfTheEnvironment(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "somebody-else's")
	tokens := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case tokens <- r.Header.Get("X-Vault-Token"):
		default:
		}
		_, _ = w.Write([]byte(`{"auth":{"client_token":"hvs.x","lease_duration":600}}`))
	}))
	defer s.Close()
	r := run(t, vault.Config{Address: s.URL, Login: vault.JWT{Mount: "jwt", Role: "r", Path: write(t, "jwt", "a.b.c")}})
	r.ready(t)
	if token := <-tokens; token != "" {
		t.Errorf("the login carries %q", token)
	}
	r.stop()
}

func TestUnknownCertificateIsRefused(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{TLS: true})
	login := appRole(t, v, time.Hour, time.Hour)
	r := run(t, vault.Config{Address: v.URL, CAFile: v.CAFile, Login: login})
	r.ready(t)
	reads(t, r)
	stranger := run(t, vault.Config{Address: v.URL, Login: login})
	brokertest.Eventually(t, 5*time.Second, "a reason", func() error {
		if !strings.Contains(stranger.Status(), "certificate") {
			return errors.New(stranger.Status())
		}
		return nil
	})
}

func TestTokenFileIsFollowed(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	v.Policy("reader", map[string]string{"kv/a": "read"})
	file := write(t, "token", v.Token(time.Hour, "reader")+"\n")
	r := run(t, vault.Config{Address: v.URL, Login: vault.TokenFile{Path: file}})
	r.ready(t)
	first := accessor(t, r)
	if err := os.WriteFile(file, []byte(v.Token(time.Hour, "reader")), 0o600); err != nil {
		t.Fatal(err)
	}
	brokertest.Eventually(t, 5*time.Second, "the other token", func() error {
		if accessor(t, r) == first {
			return errors.New("the same")
		}
		return nil
	})
	second := accessor(t, r)
	r.stop()
	for _, id := range []string{first, second} { // it's the Agent's to renew and to revoke
		if status, _, err := v.Call("", http.MethodPut, "auth/token/lookup-accessor", brokertest.VaultData{"accessor": id}); err != nil || status != http.StatusOK {
			t.Errorf("%d %v", status, err)
		}
	}
	if r.events.count("renew ok") != 0 {
		t.Error("it was renewed")
	}
}

func TestErrorsHoldNoToken(t *testing.T) {
	t.Parallel()
	file := write(t, "token", "hvs.canary")
	r := run(t, vault.Config{Address: "http://127.0.0.1:1", Login: vault.TokenFile{Path: file}, Timeout: time.Second})
	_, err := r.Do(t.Context(), vault.Call{Write: true, Path: "kv/a", Body: map[string]any{"x": "hvs.canary"}})
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("hvs.canary and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	brokertest.Eventually(t, 5*time.Second, "a reason", func() error {
		if why := r.Status(); !strings.Contains(why, "something else than one token") || strings.Contains(why, "canary") {
			return errors.New(why)
		}
		return nil
	})
}
