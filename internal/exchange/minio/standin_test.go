package minio_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	minioexchange "github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/issuer"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const closedAnswer = `<?xml version="1.0" encoding="UTF-8"?>
<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type></Type><Code>InvalidParameterValue</Code><Message>signature is invalid</Message></Error><RequestId>1</RequestId></ErrorResponse>`

func answer(expiration string) string {
	return fmt.Sprintf(`<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
		`<AccessKeyId>AK</AccessKeyId><SecretAccessKey>SK</SecretAccessKey><SessionToken>ST</SessionToken><Expiration>%s</Expiration>`+
		`</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, expiration)
}

// standIn is an STS that refuses forged tokens as MinIO does, and answers everything else with exchange.
func standIn(t *testing.T, exchange http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if forged(r) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, closedAnswer)
			return
		}
		exchange(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// forged says whether the token is HS256: its header then begins with {"alg":"HS256".
func forged(r *http.Request) bool {
	return strings.HasPrefix(r.FormValue("WebIdentityToken"), "eyJhbGciOiJIUzI1NiI")
}

func standInExchanger(t *testing.T, endpoint string, timeout time.Duration) *minioexchange.Exchanger {
	t.Helper()
	iss, err := issuer.New(issuer.Config{URL: "https://broker.example", RotateEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return newExchanger(t, iss, endpoint, timeout)
}

func in(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }

func TestAnswersThatAreNoCredentials(t *testing.T) {
	huge := strings.Repeat("<a/>", 1<<20)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		want   error
	}{
		"expired":            {say(200, answer(in(-time.Second))), exchange.ErrBadResult},
		"no expiry":          {say(200, answer("")), exchange.ErrBadResult},
		"year 9999":          {say(200, answer("9999-12-31T23:59:59Z")), exchange.ErrBadResult},
		"outlives the grant": {say(200, answer(in(63*time.Second))), exchange.ErrBadResult},
		"no access key":      {say(200, strings.Replace(answer(in(time.Minute)), "AK", "", 1)), exchange.ErrBadResult},
		"no secret key":      {say(200, strings.Replace(answer(in(time.Minute)), "SK", "", 1)), exchange.ErrBadResult},
		"no session token":   {say(200, strings.Replace(answer(in(time.Minute)), "ST", "", 1)), exchange.ErrBadResult},
		"empty":              {say(200, ""), exchange.ErrBadResult},
		"HTML":               {say(200, "<html><body>Welcome"), exchange.ErrBadResult},
		"JSON":               {say(200, `{"AccessKeyId":"AK"}`), exchange.ErrBadResult},
		"other namespace":    {say(200, strings.Replace(answer(in(time.Minute)), "sts.amazonaws.com", "evil.example", 1)), exchange.ErrBadResult},
		"endless":            {say(200, "<AssumeRoleWithWebIdentityResponse>"+huge), exchange.ErrBadResult},
		"endless error":      {say(400, huge), exchange.ErrRefused},
		"redirect":           {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://127.0.0.1:1/", 302) }, exchange.ErrBadResult},
		"redirect 307":       {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://127.0.0.1:1/", 307) }, exchange.ErrBadResult},
		"refused":            {say(403, closedAnswer), exchange.ErrRefused},
		"not found":          {say(404, "no"), exchange.ErrRefused},
		"broken":             {say(500, "no"), exchange.ErrUnavailable},
		"starting":           {say(503, closedAnswer), exchange.ErrUnavailable},
		"throttled":          {say(429, "slow down"), exchange.ErrUnavailable},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "<Assume")
		}, exchange.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			x := standInExchanger(t, standIn(t, c.answer), 2*time.Second)
			got, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
			if !errors.Is(err, c.want) || got.AccessKeyID != "" {
				t.Errorf("got %q, %v; want %v", got.AccessKeyID, err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "eyJ") || len(err.Error()) > 1000) {
				t.Errorf("the error holds a token, or too much: %v", err)
			}
		})
	}
}

func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestExpiryUpToTheGrantIsTaken(t *testing.T) {
	x := standInExchanger(t, standIn(t, func(w http.ResponseWriter, r *http.Request) { say(200, answer(in(60*time.Second)))(w, r) }), 2*time.Second)
	c, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
	if err != nil || c.AccessKeyID != "AK" || c.SecretAccessKey.Reveal() != "SK" || c.SessionToken.Reveal() != "ST" {
		t.Errorf("got %q, %v", c.AccessKeyID, err)
	}
}

func TestWhatIsSentToMinIO(t *testing.T) {
	var seen *http.Request
	x := standInExchanger(t, standIn(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		say(200, answer(in(time.Minute)))(w, r)
	}), 2*time.Second)
	req := request(time.Minute, `{"Version":"2012-10-17"}`, "readonly")
	req.Correlation = exchange.Correlation{RequestID: "r1", KongRequestID: "k1", TraceParent: "00-x-y-01"}
	if _, err := x.Exchange(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if seen.Method != "POST" || seen.URL.RawQuery != "" || seen.FormValue("Action") != "AssumeRoleWithWebIdentity" || seen.FormValue("Policy") != req.Grant.SessionPolicy {
		t.Errorf("%s %s %v", seen.Method, seen.URL, seen.Form["Action"])
	}
	for _, never := range []string{"DurationSeconds", "RoleArn"} {
		if seen.Form.Has(never) {
			t.Errorf("%s is sent", never)
		}
	}
	for name, want := range map[string]string{"X-Request-Id": "r1", "X-Kong-Request-Id": "k1", "Traceparent": "00-x-y-01", "User-Agent": "credbroker"} {
		if got := seen.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestSelfTestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		body     string
		want     error
		accepted bool
	}{
		"success":            {200, answer(in(time.Minute)), exchange.ErrUnsafe, true},
		"unknown policy":     {400, strings.Replace(closedAnswer, "signature is invalid", "None of the given policies (`x`) are defined, credentials will not be generated", 1), exchange.ErrUnsafe, true},
		"signature refused":  {400, closedAnswer, nil, false},
		"something else":     {400, strings.Replace(closedAnswer, "signature is invalid", "It is Tuesday", 1), exchange.ErrUnsafe, false},
		"a refusal with 200": {200, closedAnswer, exchange.ErrUnsafe, false},
		"still starting":     {503, closedAnswer, exchange.ErrUnavailable, false},
		"a page in between":  {403, "<html>signature is invalid</html>", exchange.ErrUnsafe, false},
	} {
		t.Run(name, func(t *testing.T) {
			var exchanges atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if forged(r) {
					say(c.status, c.body)(w, r)
					return
				}
				exchanges.Add(1)
				say(200, answer(in(time.Minute)))(w, r)
			}))
			defer server.Close()
			x := standInExchanger(t, server.URL, time.Second)
			_, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if x.AcceptsForgedTokens() != c.accepted || (x.Status() == "") != (c.want == nil) {
				t.Errorf("accepts forged tokens: %v; status %q", x.AcceptsForgedTokens(), x.Status())
			}
			if n := exchanges.Load(); (n == 0) != (c.want != nil) {
				t.Errorf("%d exchanges were sent", n)
			}
		})
	}
}

func TestAnOddAnswerTakesNothingAwayFromASeenRefusal(t *testing.T) {
	var odd atomic.Bool
	var tests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !forged(r):
			say(200, answer(in(time.Minute)))(w, r)
		case odd.Load():
			tests.Add(1)
			say(400, "odd")(w, r)
		default:
			tests.Add(1)
			say(400, closedAnswer)(w, r)
		}
	}))
	defer server.Close()
	x := standInExchanger(t, server.URL, time.Second)
	exchange := func() error {
		_, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
		return err
	}
	for range 3 {
		if err := exchange(); err != nil {
			t.Fatal(err)
		}
	}
	if n := tests.Load(); n != 1 {
		t.Errorf("%d self-tests for three exchanges", n)
	}
	odd.Store(true)
	minioexchange.AskNow(x)
	if err := exchange(); err != nil || !strings.Contains(x.Status(), "wasn't understood") {
		t.Errorf("after an odd answer: %v, status %q", err, x.Status())
	}
}

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
			say(200, answer(in(time.Minute)))(w, r)
			return
		}
		w.WriteHeader(http.StatusBadGateway)
	}), 5*time.Second)
	try := func() error {
		_, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly"))
		return err
	}
	deadline := time.Now().Add(3 * time.Second)
	for time.Now().Before(deadline) {
		if err := try(); !errors.Is(err, exchange.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	}
	if n := calls.Load(); n > 20 {
		t.Errorf("%d calls in 3 s at a server that is down", n)
	}
	up.Store(true)
	brokertest.Eventually(t, 2*time.Second, "the exchange works again", try)
}

func TestARetryHealsABlip(t *testing.T) {
	var calls atomic.Int32
	x := standInExchanger(t, standIn(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		say(200, answer(in(time.Minute)))(w, r)
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
		say(200, answer(in(time.Minute)))(w, r)
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
		x, err := minioexchange.New(minioexchange.Config{Endpoint: server.URL, ClientID: "a", CAFile: file, Tokens: tokens, AllowedPolicies: []string{"readonly"}, Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, want) {
			t.Errorf("CA file %q: %v", file, err)
		}
	}
	if _, err := minioexchange.New(minioexchange.Config{CAFile: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a CA file that isn't there: no error")
	}
}

func TestACallerThatGoesEndsTheExchange(t *testing.T) {
	release := make(chan struct{})
	x := standInExchanger(t, standIn(t, func(http.ResponseWriter, *http.Request) { <-release }), 10*time.Second)
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := x.Exchange(ctx, request(time.Minute, "", "readonly")); err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}
