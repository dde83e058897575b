package minio_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
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

// startIssuerAt serves an issuer's documents on loopback and returns its URL.
func startIssuerAt(t *testing.T) (*issuer.Issuer, string) {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	iss, err := issuer.New(issuer.Config{URL: server.URL, RotateEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	serve := func(doc func() []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(doc())
		}
	}
	mux.HandleFunc("/.well-known/openid-configuration", serve(iss.Discovery))
	mux.HandleFunc("/jwks", serve(iss.JWKS))
	return iss, server.URL
}

func newExchanger(t *testing.T, iss *issuer.Issuer, endpoint string, timeout time.Duration) *minioexchange.Exchanger {
	t.Helper()
	allowed := []string{"reports-rw", "readonly", "not-there"}
	tokens, err := iss.Source(issuer.SourceConfig{Audience: brokertest.ClientID, AllowedPolicies: allowed})
	if err != nil {
		t.Fatal(err)
	}
	x, err := minioexchange.New(minioexchange.Config{
		Endpoint: endpoint, ClientID: brokertest.ClientID, Tokens: tokens, AllowedPolicies: allowed, Timeout: timeout,
	})
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
	iss, url := startIssuerAt(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: url})
	server.MakeBucket("reports")
	server.PutPolicy("reports-rw", reportsRW)
	x := newExchanger(t, iss, server.Endpoint, 5*time.Second)
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

	t.Run("status is clean", func(t *testing.T) {
		if s := x.Status(); s != "" || x.AcceptsForgedTokens() {
			t.Errorf("status %q", s)
		}
	})

	t.Run("away it is unavailable in bounded time, back it works within 2 s", func(t *testing.T) {
		server.Stop()
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
		server.Start()
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
	iss, url := startIssuerAt(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: url, NoClientSecret: true})
	x := newExchanger(t, iss, server.Endpoint, 5*time.Second)
	if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, exchange.ErrUnsafe) {
		t.Fatalf("a MinIO without client secret was used: %v", err)
	}
	if !x.AcceptsForgedTokens() || !strings.Contains(x.Status(), "MINIO_IDENTITY_OPENID_CLIENT_SECRET") {
		t.Errorf("AcceptsForgedTokens %v, status %q", x.AcceptsForgedTokens(), x.Status())
	}
}

// TestFiftyAtOnce: credentials of concurrent exchanges are all different and all work.
func TestFiftyAtOnce(t *testing.T) {
	iss, url := startIssuerAt(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: url})
	x := newExchanger(t, iss, server.Endpoint, 20*time.Second)
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
}
