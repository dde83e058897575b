package credbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/prove"
)

func TestOddAnswersOverHTTP(t *testing.T) {
	future := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	good := `{"access_key_id":"K","secret_access_key":"planted","session_token":"T","expires_at":"` + future + `","later":1}`
	var status int
	var body string
	var header http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for k, v := range header {
			w.Header()[k] = v
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer s.Close()
	c := open(t, s.URL)
	for _, a := range []struct {
		name   string
		status int
		body   string
		away   bool // ErrUnreachable
		ok     bool
	}{
		{"a broker's, with a field of the future", 200, good, false, true},
		{"empty", 200, "", false, false},
		{"a page", 200, "<html>planted", false, false},
		{"other JSON", 200, `{"planted":1}`, false, false},
		{"the wrong case", 200, strings.Replace(good, "access", "Access", 1), false, false},
		{"a name twice", 200, strings.Replace(good, "{", `{"access_key_id":"J",`, 1), false, false},
		{"a name twice at the end", 200, strings.Replace(good, "}", `,"later":2}`, 1), false, false},
		{"no expiry", 200, `{"access_key_id":"K","secret_access_key":"planted"}`, false, false},
		{"no secret", 200, strings.Replace(good, "planted", "", 1), false, false},
		{"a line break", 200, strings.Replace(good, "planted", `planted\n`, 1), false, false},
		{"too large", 200, strings.Repeat(" ", maxAnswer) + good, false, false},
		{"as large as may be", 200, strings.Repeat(" ", maxAnswer-len(good)) + good, false, true},
		{"another success", 204, "", false, false},
		{"a redirect", 307, "", false, false},
		{"not found", 404, "planted", false, false},
		{"a gateway's 502", 502, "planted", true, false},
		{"a gateway's 503", 503, "planted", true, false},
		{"a gateway's 504", 504, "planted", true, false},
		{"a gateway's 429", 429, "planted", true, false},
		{"a server's 500", 500, "planted", false, false},
		{"a code that forges", 403, `{"error":{"code":"a\nb"}}`, false, false},
		{"a code in capitals", 403, `{"error":{"code":"A"}}`, false, false},
		{"a code beyond z", 403, `{"error":{"code":"{"}}`, false, false},
		{"a code that is too long", 403, `{"error":{"code":"` + strings.Repeat("a", 65) + `"}}`, false, false},
		{"an error that breaks off", 403, `{"error":{"code":"internal"}`, false, false},
		{"an empty code", 403, `{"error":{"code":""}}`, false, false},
	} {
		status, body, header = a.status, a.body, http.Header{"Location": {s.URL + "/elsewhere"}}
		got, err := c.Credentials(t.Context(), "r")
		if _, refused := errors.AsType[*Error](err); refused {
			t.Errorf("%s: taken for a broker's word: %v", a.name, err)
		}
		if (err == nil) != a.ok || errors.Is(err, ErrUnreachable) != a.away {
			t.Errorf("%s: %v, %v", a.name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: repeated in %v", a.name, err)
		}
	}
	for text, after := range map[string]time.Duration{"7": 7 * time.Second, "0": 0, "": 0, "-1": 0, "soon": 0, "99999999999": 0} {
		status, body, header = 503, `{"error":{"code":"overloaded","message":"m","request_id":"i","retryable":true}}`, http.Header{"Retry-After": {text}}
		_, err := c.Credentials(t.Context(), "r")
		if refusal, ok := errors.AsType[*Error](err); !ok || refusal.RetryAfter != after || !refusal.Retryable {
			t.Errorf("Retry-After %q: %#v", text, err)
		}
	}
}

func TestARefusalForGoodHasNoRetryAfter(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"error":{"code":"` + strings.Repeat("a", 64) + `"}}`))
	}))
	defer s.Close()
	_, err := open(t, s.URL).Credentials(t.Context(), "r")
	if refusal, ok := errors.AsType[*Error](err); !ok || refusal.Retryable || refusal.RetryAfter != 0 {
		t.Errorf("got %#v", err)
	}
}

func TestAnAnswerThatBreaksOff(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(`{"access_key_id":"planted`))
	}))
	defer s.Close()
	_, err := open(t, s.URL).Credentials(t.Context(), "r")
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "broke off") || strings.Contains(err.Error(), "planted") {
		t.Errorf("got %v", err)
	}
}

func TestTheTokenDoesNotFollowARedirect(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	s := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusPermanentRedirect))
	defer s.Close()
	_, err := open(t, s.URL).Credentials(t.Context(), "r")
	if err == nil || elsewhere.Load() != 0 {
		t.Errorf("%v; the other was asked %d times", err, elsewhere.Load())
	}
}

func TestAPathBeforeTheAPI(t *testing.T) {
	var path, agent string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, agent = r.URL.Path, r.UserAgent()
		http.NotFound(w, r)
	}))
	defer s.Close()
	for url, expected := range map[string]string{s.URL: "/v1/credentials", s.URL + "/": "/v1/credentials", s.URL + "/a/b": "/a/b/v1/credentials"} {
		_, _ = open(t, url, WithUserAgent("test/1")).Credentials(t.Context(), "r")
		if path != expected || agent != "test/1" {
			t.Errorf("%s: asked for %s as %s", url, path, agent)
		}
	}
}

// A connection that the broker closed while it was idle must not cost a call.
func TestAConnectionClosedInBetween(t *testing.T) {
	future := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"access_key_id":"K","secret_access_key":"S","session_token":"T","expires_at":%q}`, future)
	}))
	defer s.Close()
	c := open(t, s.URL)
	for range 20 {
		if _, err := c.Credentials(t.Context(), "r"); err != nil {
			t.Fatal(err)
		}
		s.CloseClientConnections()
	}
}

func TestAKindThatCannotBeSent(t *testing.T) {
	for _, url := range []string{"https://broker.example", "grpcs://broker.example:1"} {
		c, err := New(url, proofOf("riddle"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Credentials(t.Context(), "r"); err == nil || !strings.Contains(err.Error(), `kind "riddle"`) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", url, err)
		}
		_ = c.Close()
	}
}

// proofOf proves with a proof of some kind.
type proofOf prove.Kind

func (k proofOf) Prove(context.Context) (prove.Proof, error) {
	return prove.NewProof(prove.Kind(k), "planted"), nil
}
