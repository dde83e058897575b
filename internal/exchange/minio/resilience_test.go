package minio_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	minioexchange "github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/issuer"
)

func TestASlowMinIOIsGivenUpInTime(t *testing.T) {
	release := make(chan struct{})
	x := standInExchanger(t, standIn(t, func(http.ResponseWriter, *http.Request) { <-release }), 300*time.Millisecond)
	defer close(release)
	start := time.Now()
	_, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
	if !errors.Is(err, exchange.ErrUnavailable) || time.Since(start) > 3*time.Second {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}

func TestABreakerSparesADeadMinIOAndLetsItComeBack(t *testing.T) {
	var calls atomic.Int32
	var up atomic.Bool
	x := standInExchanger(t, standIn(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if up.Load() {
			credentialsFor(time.Minute)(w, r)
			return
		}
		w.WriteHeader(http.StatusBadGateway)
	}), 5*time.Second)
	try := func() error {
		_, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
		return err
	}
	deadline := time.Now().Add(1500 * time.Millisecond)
	for time.Now().Before(deadline) {
		if err := try(); !errors.Is(err, exchange.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	}
	if n := calls.Load(); n > 12 {
		t.Errorf("%d calls in 1.5 s at a server that is down", n)
	}
	up.Store(true)
	brokertest.Eventually(t, 2*time.Second, "the exchange works again", try)
}

func TestAnOpenBreakerSaysUnavailableAndSendsNothing(t *testing.T) {
	var calls atomic.Int32
	x := standInExchanger(t, standIn(t, func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(http.StatusBadGateway)
	}), 100*time.Millisecond)
	brokertest.Eventually(t, 5*time.Second, "an exchange sends nothing", func() error {
		before := calls.Load()
		if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, exchange.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if calls.Load() != before {
			return errors.New("it sent something")
		}
		return nil
	})
}

func TestARetryHealsABlip(t *testing.T) {
	var calls atomic.Int32
	x := standInExchanger(t, standIn(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		credentialsFor(time.Minute)(w, r)
	}), 5*time.Second)
	if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); err != nil {
		t.Error(err)
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
}

func TestARefusalIsNotRetried(t *testing.T) {
	var calls atomic.Int32
	x := standInExchanger(t, standIn(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		say(400, closedAnswer)(w, r)
	}), 5*time.Second)
	_, _ = x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

func TestMinIOsCertificateIsChecked(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if forged(r) {
			say(400, closedAnswer)(w, r)
			return
		}
		credentialsFor(time.Minute)(w, r)
	}))
	defer server.Close()
	server.Config.ErrorLog = nil
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	iss, _ := issuer.New(issuer.Config{URL: "https://broker.example", RotateEvery: time.Hour})
	tokens, _ := iss.Source(issuer.SourceConfig{Audience: "a", AllowedPolicies: []string{"readonly"}})
	for file, want := range map[string]error{"": exchange.ErrUnavailable, ca: nil} {
		x, err := minioexchange.NewWebIdentity(minioexchange.WebIdentityConfig{
			Server: minioexchange.Server{Endpoint: server.URL, CAFile: file, Timeout: time.Second}, ClientID: "a", Tokens: tokens, AllowedPolicies: []string{"readonly"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, want) {
			t.Errorf("CA file %q: %v", file, err)
		}
	}
	if _, err := minioexchange.NewWebIdentity(minioexchange.WebIdentityConfig{Server: minioexchange.Server{CAFile: filepath.Join(t.TempDir(), "none")}}); err == nil {
		t.Error("a CA file that isn't there: no error")
	}
}

func TestASlowBodyIsGivenUpInTime(t *testing.T) {
	release := make(chan struct{})
	x := standInExchanger(t, standIn(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "<Assume")
		w.(http.Flusher).Flush()
		<-release
	}), 300*time.Millisecond)
	defer close(release)
	start := time.Now()
	_, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
	if !errors.Is(err, exchange.ErrUnavailable) || time.Since(start) > 3*time.Second {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}

// Callers that hang up must neither open the breaker nor cost MinIO its good name.
func TestCallersThatLeaveSayNothingAboutMinIO(t *testing.T) {
	var slow atomic.Bool
	var tests atomic.Int32
	slow.Store(true)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case forged(r):
			tests.Add(1)
			say(400, closedAnswer)(w, r)
		case slow.Load():
			<-release
		default:
			credentialsFor(time.Minute)(w, r)
		}
	}))
	defer server.Close()
	defer close(release)
	x := standInExchanger(t, server.URL, 10*time.Second)
	minioexchange.AskNow(x)
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		start := time.Now()
		_, err := x.Exchange(ctx, request(time.Minute, "", "readonly"))
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, exchange.ErrUnavailable) || time.Since(start) > 5*time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
		cancel()
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.Exchange(gone, request(time.Minute, "", "readonly")); !errors.Is(err, context.Canceled) || errors.Is(err, exchange.ErrUnavailable) {
		t.Errorf("a caller that had left got %v", err)
	}
	slow.Store(false)
	start := time.Now()
	if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); err != nil || time.Since(start) > 5*time.Second {
		t.Errorf("the next caller got %v after %s", err, time.Since(start))
	}
	// Hanging up closes connections, and the first one anew is a reason to ask again.
	if n := tests.Load(); n > 2 {
		t.Errorf("%d self-tests", n)
	}
}

// For a moment after its start MinIO knows none of its built-in policies.
func TestUnknownPoliciesAreAskedForAgain(t *testing.T) {
	var calls, unknown atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case forged(r):
			say(400, closedAnswer)(w, r)
		case unknown.Load() < 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case calls.Add(1) <= unknown.Load():
			say(400, saying(unknownPolicy))(w, r)
		default:
			credentialsFor(time.Minute)(w, r)
		}
	}))
	defer server.Close()
	x := standInExchanger(t, server.URL, 5*time.Second)
	exchangeOnce := func() error {
		_, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
		return err
	}
	for _, step := range []struct {
		unknown, calls int32
		want           error
	}{{3, 4, nil}, {4, 4, exchange.ErrRefused}, {-1, 0, exchange.ErrUnavailable}, {4, 4, exchange.ErrUnavailable}, {3, 4, nil}} {
		calls.Store(0)
		unknown.Store(step.unknown)
		if err := exchangeOnce(); !errors.Is(err, step.want) || calls.Load() != step.calls {
			t.Errorf("%d answers of no policy: %v after %d calls, want %v after %d", step.unknown, err, calls.Load(), step.want, step.calls)
		}
	}
}

func TestMinIOThatCantReadTheKeysIsUnavailable(t *testing.T) {
	for message, want := range map[string]error{
		"Get &quot;https://broker.example/jwks&quot;: EOF": exchange.ErrUnavailable,
		"503 Service Unavailable":                          exchange.ErrUnavailable,
		"404 Not Found":                                    exchange.ErrUnavailable,
		"999 reasons":                                      exchange.ErrRefused,
		"the token has expired":                            exchange.ErrRefused,
		"":                                                 exchange.ErrRefused,
	} {
		x := standInExchanger(t, standIn(t, say(400, saying(message))), time.Second)
		if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, want) {
			t.Errorf("%q: %v", message, err)
		}
	}
}

// A MinIO that was replaced while nobody asked it anything: the verdict was seen over a connection that is gone.
func TestAMinIOThatCameBackOpenIsNotUsedOnce(t *testing.T) {
	iss := serveIssuer(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: iss.url})
	x := newExchanger(t, iss.Issuer, minioexchange.WebIdentityConfig{Server: minioexchange.Server{Endpoint: server.Endpoint}})
	if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	server.ForgetClientSecret()
	server.Start()
	if c, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, exchange.ErrUnsafe) || c.AccessKeyID != "" {
		t.Errorf("got %q, %v", c.AccessKeyID, err)
	}
}

// Time goes by between the grant and the token that is shown in the end; the proof's end stays where it is.
func TestCredentialsWithinTheProofNeverOutliveIt(t *testing.T) {
	iss := serveIssuer(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: iss.url})
	x := newExchanger(t, iss.Issuer, minioexchange.WebIdentityConfig{Server: minioexchange.Server{Endpoint: server.Endpoint}})
	req := request(time.Minute, "", "readonly")
	req.Grant.WithinProof, req.Identity.Expires = true, time.Now().Add(20*time.Second)
	c, err := x.Exchange(t.Context(), req)
	if err != nil || c.Expires.After(req.Identity.Expires) {
		t.Errorf("they end %s after the proof, %v", c.Expires.Sub(req.Identity.Expires), err)
	}
}
