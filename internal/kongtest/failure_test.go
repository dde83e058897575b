package kongtest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// patiently sends a request until it has a status, for as long as given.
func patiently(t *testing.T, within time.Duration, what, url string, h http.Header, want int) (*http.Response, string) {
	t.Helper()
	var resp *http.Response
	var body string
	brokertest.Eventually(t, within, what, func() error {
		resp, body = Do(t, "GET", url, h, nil)
		if resp.StatusCode != want {
			return fmt.Errorf("%s %s", resp.Status, body)
		}
		return nil
	})
	return resp, body
}

// With the broker down, credentials are used until they end, and then there are none; they are renewed before, if it is up.
func TestCredentialsAreRenewedAndNeverLate(t *testing.T) {
	w := newWorld(t)
	g := Start(t, Options{Config: declared(
		service("minio", w.minio.Endpoint, "/s3", keyAuth, w.plugin("ttl: 13")),
		service("patient", w.minio.Endpoint, "/other", keyAuth, w.plugin("ttl: 13, return_broker_error: true")),
	)})
	w.ready(g)
	url := g.URL + "/s3/reports/acme/none"
	// In use, they never end: each renewal comes before, and nobody waits for it.
	before := w.issued()
	for began := time.Now(); time.Since(began) < 15*time.Second; time.Sleep(100 * time.Millisecond) {
		if resp, body := Do(t, "GET", url, header("alice"), nil); resp.StatusCode != http.StatusNotFound {
			t.Fatalf("after %s: %s %s", time.Since(began), resp.Status, body)
		}
	}
	if renewed := w.issued() - before; renewed < 2 || renewed > 20 {
		t.Errorf("renewed %d times within 15 s, of a life of 13 s", renewed)
	}

	w.Stop()
	stopped := time.Now()
	for {
		resp, body := Do(t, "GET", url, header("alice"), nil)
		if resp.StatusCode == http.StatusNotFound && time.Since(stopped) < 14*time.Second {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "<Code>ServiceUnavailable</Code>") {
			t.Fatalf("after %s: %s %s", time.Since(stopped), resp.Status, body)
		}
		break
	}
	if left := time.Since(stopped); left < time.Second {
		t.Errorf("with the broker down, credentials were used for %s", left)
	}

	// The sessions were in the broker's memory: another is opened.
	w.Start()
	patiently(t, 20*time.Second, "credentials after a restart", url, header("alice"), http.StatusNotFound)

	// Who has no access any more is refused by the next renewal, while the credentials would still be good.
	w.WriteConfig(strings.Replace(w.config("{default: 15m, max: 15m, min: 12s}"), carolID, aliceID, 1))
	patiently(t, 20*time.Second, "alice is refused", url, header("alice"), http.StatusForbidden)
	if resp, body := Do(t, "GET", g.URL+"/other/reports/acme/none", header("alice"), nil); resp.StatusCode != http.StatusForbidden || resp.Header.Get("Content-Type") != "application/json" || !strings.Contains(body, "permission_denied") {
		t.Errorf("the broker's error: %s %v %s", resp.Status, resp.Header, body)
	}
}

// Kong without a proof that holds gets no session, and says so in its log alone.
func TestWithoutAProofThereIsNothing(t *testing.T) {
	w := newWorld(t)
	w.writeToken(-time.Hour)
	g := Start(t, Options{Config: declared(service("minio", w.minio.Endpoint, "/s3", keyAuth, w.plugin("")))})
	resp, body := Do(t, "GET", g.URL+"/s3/reports/acme/none", header("alice"), nil)
	if resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(body, "session") || !strings.Contains(g.Log(), "no gateway session: the broker says 401 unauthenticated") {
		t.Errorf("%s %s\n%s", resp.Status, body, g.Log())
	}
	// A token that the platform has renewed is read without a restart.
	w.writeToken(5 * time.Minute)
	patiently(t, 20*time.Second, "a session", g.URL+"/s3/reports/acme/none", header("alice"), http.StatusNotFound)
	if strings.Contains(g.Log(), "alice-key") {
		t.Error("a consumer's key is in the log")
	}
}
