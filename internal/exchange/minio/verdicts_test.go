package minio_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	minioexchange "github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/issuer"
)

const unknownPolicy = "None of the given policies (`x`) are defined, credentials will not be generated"

// saying is MinIO's error document with another message.
func saying(message string) string {
	return strings.Replace(closedAnswer, "signature is invalid", message, 1)
}

func TestSelfTestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		body     string
		want     error
		accepted bool
	}{
		"success":             {200, answer(in(time.Minute)), exchange.ErrUnsafe, true},
		"unknown policy":      {400, saying(unknownPolicy), exchange.ErrUnsafe, true},
		"signature refused":   {400, closedAnswer, nil, false},
		"something else":      {400, saying("It is Tuesday"), exchange.ErrUnsafe, false},
		"a refusal with 302":  {302, closedAnswer, exchange.ErrUnsafe, false},
		"a refusal with 200":  {200, closedAnswer, exchange.ErrUnsafe, false},
		"still starting":      {503, closedAnswer, exchange.ErrUnavailable, false},
		"another client ID":   {400, saying("No public key found for kid credbroker"), exchange.ErrUnsafe, false},
		"unverifiable":        {400, saying("token is unverifiable: No public key found for kid credbroker"), exchange.ErrUnsafe, false},
		"key of another type": {400, saying("key is of invalid type"), nil, false},
		"keys out of reach":   {400, saying("Get &quot;https://broker.example/jwks&quot;: EOF"), exchange.ErrUnavailable, false},
		"keys not served":     {400, saying("503 Service Unavailable"), exchange.ErrUnavailable, false},
		"a page in between":   {403, "<html>signature is invalid</html>", exchange.ErrUnsafe, false},
	} {
		t.Run(name, func(t *testing.T) {
			var exchanges atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if forged(r) {
					say(c.status, c.body)(w, r)
					return
				}
				exchanges.Add(1)
				credentialsFor(time.Minute)(w, r)
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
			credentialsFor(time.Minute)(w, r)
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

func TestAMinIOThatComesBackOpenIsNotUsed(t *testing.T) {
	const closed, away, open = 0, 1, 2
	var state, exchanges atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch s := state.Load(); {
		case s == away:
			w.WriteHeader(http.StatusServiceUnavailable)
		case forged(r) && s == open:
			say(400, saying(unknownPolicy))(w, r)
		case forged(r):
			say(400, closedAnswer)(w, r)
		default:
			exchanges.Add(1)
			credentialsFor(time.Minute)(w, r)
		}
	}))
	defer server.Close()
	x := standInExchanger(t, server.URL, 2*time.Second)
	for _, step := range []struct {
		state int32
		want  error
	}{{closed, nil}, {away, exchange.ErrUnavailable}, {open, exchange.ErrUnsafe}} {
		state.Store(step.state)
		if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); !errors.Is(err, step.want) {
			t.Errorf("state %d: %v", step.state, err)
		}
	}
	if n := exchanges.Load(); n != 1 {
		t.Errorf("%d exchanges", n)
	}
}

func TestACallerThatLeavesTheSelfTestLeavesNoVerdict(t *testing.T) {
	var asked atomic.Int32
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !forged(r):
			credentialsFor(time.Minute)(w, r)
		case asked.Add(1) == 1:
			<-release
		default:
			say(400, closedAnswer)(w, r)
		}
	}))
	defer server.Close()
	defer close(release)
	x := standInExchanger(t, server.URL, 10*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := x.Exchange(ctx, request(time.Minute, "", "readonly")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if s := x.Status(); !strings.Contains(s, "not asked yet") {
		t.Errorf("status %q", s)
	}
	if _, err := x.Exchange(t.Context(), request(time.Minute, "", "readonly")); err != nil {
		t.Errorf("the next caller: %v", err)
	}
}

func TestChangesOfTheVerdictAreLogged(t *testing.T) {
	answers := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if body := <-answers; body != "" {
			say(400, body)(w, nil)
		} else {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	var out bytes.Buffer
	iss, err := issuer.New(issuer.Config{URL: "https://broker.example", RotateEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	x := newExchanger(t, iss, minioexchange.WebIdentityConfig{Server: minioexchange.Server{Endpoint: server.URL}, Log: slog.New(slog.NewTextHandler(&out, nil))})
	const starting, closed = "", closedAnswer
	for i, step := range []struct{ body, want string }{
		{starting, "level=WARN msg=\"nothing is issued"}, {starting, ""}, {closed, "level=INFO"}, {closed, ""}, {"odd", "level=WARN msg=\"MinIO's answer"},
		{"odd", ""}, {closed, "level=INFO"}, {saying(unknownPolicy), "level=ERROR"}, {saying(unknownPolicy), ""}, {starting, "level=WARN"}, {closed, "level=INFO"},
	} {
		out.Reset()
		answers <- step.body
		minioexchange.AskNow(x)
		if got := out.String(); step.want == "" && got != "" || !strings.Contains(got, step.want) {
			t.Errorf("step %d logs %q, want %q", i, got, step.want)
		}
		if strings.Contains(out.String(), "eyJ") {
			t.Errorf("step %d: a token in the log", i)
		}
	}
}

func TestAnUnreachableMinIODoesntStopCountingAsOpen(t *testing.T) {
	body := saying(unknownPolicy)
	status := 400
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { say(status, body)(w, r) }))
	defer server.Close()
	x := standInExchanger(t, server.URL, time.Second)
	for _, step := range []struct {
		status int
		body   string
		want   bool
	}{{400, saying(unknownPolicy), true}, {503, "", true}, {400, "odd", true}, {400, closedAnswer, false}, {503, "", false}} {
		status, body = step.status, step.body
		minioexchange.AskNow(x)
		if x.AcceptsForgedTokens() != step.want {
			t.Errorf("after %d %q: %v", step.status, step.body, !step.want)
		}
	}
}

func TestRunAsksUntilItKnows(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		say(400, closedAnswer)(w, r)
	}))
	defer server.Close()
	x := standInExchanger(t, server.URL, time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { x.Run(ctx); close(done) }()
	brokertest.Eventually(t, 5*time.Second, "the verdict is known", func() error {
		if s := x.Status(); s != "" {
			return errors.New(s)
		}
		return nil
	})
	cancel()
	<-done
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}
