package minio_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	minioexchange "github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/issuer"
	"github.com/credbroker/credbroker/internal/policy"
)

const reportsRW = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports/*"]}]}`

// served is an issuer whose documents are served on loopback.
type served struct {
	*issuer.Issuer
	url string
	// answer replaces the documents if it isn't nil.
	answer atomic.Pointer[http.HandlerFunc]
}

func serveIssuer(t *testing.T) *served {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	iss, err := issuer.New(issuer.Config{URL: server.URL, RotateEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	s := &served{Issuer: iss, url: server.URL}
	serve := func(doc func() []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if answer := s.answer.Load(); answer != nil {
				(*answer)(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(doc())
		}
	}
	mux.HandleFunc("/.well-known/openid-configuration", serve(iss.Discovery))
	mux.HandleFunc("/jwks", serve(func() []byte { return iss.JWKS(t.Context()) }))
	return s
}

func newExchanger(t *testing.T, iss *issuer.Issuer, cfg minioexchange.WebIdentityConfig) *minioexchange.WebIdentity {
	t.Helper()
	allowed := []string{"reports-rw", "readonly", "not-there"}
	tokens, err := iss.Source(issuer.SourceConfig{Audience: brokertest.ClientID, AllowedPolicies: allowed})
	if err != nil {
		t.Fatal(err)
	}
	cfg.ClientID, cfg.Tokens, cfg.AllowedPolicies = brokertest.ClientID, tokens, allowed
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	x, err := minioexchange.NewWebIdentity(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func request(ttl time.Duration, session string, policies ...string) exchange.Request {
	return exchange.Request{
		Identity: attest.Identity{Kind: attest.KindOIDC, Issuer: "https://idp.example", Subject: "alice"},
		Grant:    policy.Grant{Role: "reports", Policies: policies, SessionPolicy: session, TTL: ttl},
	}
}

func TestExchangeAtRealMinIO(t *testing.T) {
	iss := serveIssuer(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: iss.url, TLS: true})
	server.MakeBucket("reports")
	server.PutPolicy("reports-rw", reportsRW)
	here := minioexchange.WebIdentityConfig{Server: minioexchange.Server{Endpoint: server.Endpoint, CAFile: server.CAFile}}
	x := newExchanger(t, iss.Issuer, here)
	put := func(c exchange.Credentials, key string) error {
		client := server.Client(c.AccessKeyID, c.SecretAccessKey.Reveal(), c.SessionToken.Reveal())
		_, err := client.PutObject(t.Context(), "reports", key, strings.NewReader("x"), 1, minio.PutObjectOptions{})
		return err
	}
	refused := func(err error) bool {
		return minio.ToErrorResponse(err).Code == "AccessDenied"
	}

	t.Run("credentials work at once and end as granted", func(t *testing.T) {
		before := time.Now()
		c, err := x.Exchange(t.Context(), request(3*time.Second, "", "reports-rw"))
		if err != nil {
			t.Fatal(err)
		}
		if end := c.Expires.Sub(before); end > 4*time.Second || end < time.Second {
			t.Errorf("they end in %s, 3 s were granted", end)
		}
		if err := put(c, "a"); err != nil {
			t.Errorf("put with fresh credentials: %v", err)
		}
		brokertest.Eventually(t, 10*time.Second, "credentials end", func() error {
			err := put(c, "a")
			if err == nil {
				return errors.New("they still work")
			}
			return nil
		})
		if late := time.Since(c.Expires); late > 3*time.Second {
			t.Errorf("they worked until %s after their end", late)
		}
	})

	t.Run("a session policy narrows the named policy", func(t *testing.T) {
		c, err := x.Exchange(t.Context(), request(time.Minute, strings.Replace(reportsRW, "reports/*", "reports/alice/*", 1), "reports-rw"))
		if err != nil {
			t.Fatal(err)
		}
		if err := put(c, "alice/a"); err != nil {
			t.Errorf("inside the session policy: %v", err)
		}
		if err := put(c, "bob/a"); !refused(err) {
			t.Errorf("outside the session policy: %v", err)
		}
	})

	t.Run("a session policy can't widen the named policy", func(t *testing.T) {
		wide := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::*"]}]}`
		c, err := x.Exchange(t.Context(), request(time.Minute, wide, "readonly"))
		if err != nil {
			t.Fatal(err)
		}
		if err := put(c, "a"); !refused(err) {
			t.Errorf("put with readonly: %v", err)
		}
	})

	t.Run("a policy that MinIO doesn't know is refused", func(t *testing.T) {
		if _, err := x.Exchange(t.Context(), request(time.Minute, "", "not-there")); !errors.Is(err, exchange.ErrRefused) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("a policy that the exchanger may not mint never reaches MinIO", func(t *testing.T) {
		if _, err := x.Exchange(t.Context(), request(time.Minute, "", "consoleAdmin")); !errors.Is(err, issuer.ErrNotAllowed) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("a MinIO with another client ID proves nothing", func(t *testing.T) {
		tokens, err := iss.Source(issuer.SourceConfig{Audience: "other", AllowedPolicies: []string{"readonly"}})
		if err != nil {
			t.Fatal(err)
		}
		other, err := minioexchange.NewWebIdentity(minioexchange.WebIdentityConfig{
			Server: minioexchange.Server{Endpoint: server.Endpoint, CAFile: server.CAFile, Timeout: time.Second}, ClientID: "other", Tokens: tokens,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, exchange.ErrUnsafe) || !strings.Contains(other.Status(), "kid other") {
			t.Errorf("%v, status %q", err, other.Status())
		}
	})

	t.Run("status is clean", func(t *testing.T) {
		if s := x.Status(); s != "" || x.AcceptsForgedTokens() {
			t.Errorf("status %q", s)
		}
	})

	t.Run("credentials of fifty exchanges at once all differ", func(t *testing.T) {
		keys := make(chan string, 50)
		for range cap(keys) {
			go func() {
				c, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
				if err != nil {
					t.Error(err)
				}
				keys <- c.AccessKeyID
			}()
		}
		var all []string
		for range cap(keys) {
			all = append(all, <-keys)
		}
		slices.Sort(all)
		if n := len(slices.Compact(all)); n != 50 {
			t.Errorf("%d different access keys of 50", n)
		}
	})

	t.Run("MinIO that can't read the keys is unavailable and heals", func(t *testing.T) {
		refuse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) })
		hangUp := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		for name, answer := range map[string]http.HandlerFunc{"503": refuse, "connection closed": hangUp} {
			iss.answer.Store(&answer)
			fresh := newExchanger(t, iss.Issuer, here)
			if _, err := fresh.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, exchange.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
			if s := fresh.Status(); !strings.Contains(s, "lost") && !strings.Contains(s, "can't read the broker's keys") {
				t.Errorf("%s: status %q", name, s)
			}
			iss.answer.Store(nil)
			brokertest.Eventually(t, 2*time.Second, "exchange works", func() error {
				_, err := fresh.Exchange(t.Context(), request(time.Minute, "", "readonly"))
				return err
			})
		}
	})

	t.Run("away it is unavailable in bounded time, back it works within 2 s", func(t *testing.T) {
		server.Kill()
		start := time.Now()
		if _, err := x.Exchange(t.Context(), request(time.Minute, "", "reports-rw")); !errors.Is(err, exchange.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("it took %s", took)
		}
		if !strings.Contains(x.Status(), "not known yet") {
			t.Errorf("after a lost connection the self-test's verdict stands: %q", x.Status())
		}

		// Started while its issuer is away, MinIO serves and its IAM doesn't.
		away := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) })
		iss.answer.Store(&away)
		server.Launch()
		brokertest.Eventually(t, 10*time.Second, "MinIO says that it starts", func() error {
			_, err := x.Exchange(t.Context(), request(time.Minute, "", "reports-rw"))
			if !errors.Is(err, exchange.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(err.Error(), "STS") {
				return err
			}
			return nil
		})
		iss.answer.Store(nil)
		server.WaitReady()
		brokertest.Eventually(t, 2*time.Second, "exchange works again", func() error {
			_, err := x.Exchange(t.Context(), request(time.Minute, "", "reports-rw"))
			return err
		})
	})

	t.Run("no minted token is in an error", func(t *testing.T) {
		_, err := x.Exchange(t.Context(), request(time.Minute, "", "not-there"))
		if err == nil || strings.Contains(err.Error(), "eyJ") {
			t.Errorf("got %v", err)
		}
	})
}

func TestOpenMinIOIsNotUsed(t *testing.T) {
	iss := serveIssuer(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: iss.url, NoClientSecret: true})
	x := newExchanger(t, iss.Issuer, minioexchange.WebIdentityConfig{Server: minioexchange.Server{Endpoint: server.Endpoint}})
	if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, exchange.ErrUnsafe) {
		t.Fatalf("a MinIO without client secret was used: %v", err)
	}
	if !x.AcceptsForgedTokens() || !strings.Contains(x.Status(), "MINIO_IDENTITY_OPENID_CLIENT_SECRET") {
		t.Errorf("AcceptsForgedTokens %v, status %q", x.AcceptsForgedTokens(), x.Status())
	}
}
