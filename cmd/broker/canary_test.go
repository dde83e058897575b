package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// TestNoSecretIsPrintedAnywhere runs a broker at its most talkative through everything that goes well and wrong, and looks for
// each secret that passed through it in all that it printed and answered.
func TestNoSecretIsPrintedAnywhere(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("planted-fingerprint-key-0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "CREDBROKER__LOG__LEVEL=debug", "CREDBROKER__DEBUG__PPROF=true", "CREDBROKER__AUDIT__FINGERPRINT_KEY_FILE="+key)
	w.WriteConfig(w.config("  - {name: unknown, when: \"true\", exchanger: minio, policies: [reports-rw], ttl: {within_proof: true}}\n"))
	w.Start()
	w.minio.Start()
	w.furnish()

	var seen strings.Builder // every answer that isn't credentials
	note := func(s string) { seen.WriteString(s + "\n") }
	secrets := map[string]string{"fingerprint key": "planted-fingerprint-key"}
	alice := w.token(nil)
	secrets["token"] = signature(alice)
	a := w.mustIssue(alice, "")
	w.mustIssue(alice, "") // a hit
	secrets["secret key"], secrets["session token"] = a.SecretAccessKey, a.SessionToken
	for i, s := range w.minio.Secrets() {
		secrets["MinIO secret "+string(rune('0'+i))] = s
	}

	// Refusals of every sort, each with a token of its own.
	refuse := func(name, token, extra string) {
		secrets[name] = signature(token)
		refused, err := w.issue(token, extra)
		if err != nil || refused.Status == http.StatusOK {
			t.Errorf("%s: %d, %v", name, refused.Status, err)
		}
		note(refused.Error.Code + refused.Error.Message)
	}
	refuse("expired", w.token(map[string]any{"exp": 1}), "")
	refuse("forbidden", w.token(map[string]any{"groups": "engineering"}), "")
	refuse("hostile subject", w.token(map[string]any{"sub": "a/../b"}), "")
	refuse("other issuer", w.token(map[string]any{"iss": "https://evil.example"}), "")
	refuse("too wide", w.token(map[string]any{"jti": "1"}), `,"policy":"{}"`)
	refuse("bad TTL", w.token(map[string]any{"jti": "2"}), `,"ttl_seconds":1`)
	refuse("unknown field", w.token(map[string]any{"jti": "3"}), `,"nonsense":"planted-nonsense"`)
	secrets["nonsense"] = "planted-nonsense"
	for name, token := range map[string]string{"no token": "planted.no.planted-signature", "garbage": "planted-garbage"} {
		refuse(name, token, "")
	}
	// The token where it doesn't belong: in a body field, the URL, a role.
	for _, send := range []func() (*http.Request, error){
		func() (*http.Request, error) {
			return http.NewRequest(http.MethodPost, w.HTTP+"/v1/credentials", strings.NewReader(`{"role":"`+alice+`","jwt":"`+alice+`"}`))
		},
		func() (*http.Request, error) {
			return http.NewRequest(http.MethodGet, w.HTTP+"/v1/roles?token="+alice, nil)
		},
		func() (*http.Request, error) {
			return http.NewRequest(http.MethodGet, w.HTTP+"/v1/"+alice, nil)
		},
	} {
		req, err := send()
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Request-Id", "id-"+signature(alice)[:20])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		note(string(body))
	}
	// A back-end that goes away, and comes back.
	w.minio.Kill()
	if gone, err := w.issue(alice, `,"ttl_seconds":700`); err != nil || gone.Status == http.StatusOK {
		t.Errorf("MinIO away: %d, %v", gone.Status, err)
	}
	for _, url := range []string{"/metrics", "/readyz", "/healthz", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1"} {
		_, body, err := brokertest.Get(w.Ops + url)
		if err != nil {
			t.Error(err)
		}
		note(body)
	}
	for _, args := range [][]string{{"status"}, {"explain", "none"}, {"reload"}} {
		out, stderr, _ := runProgram(t, "", nil, append([]string{"admin", "--socket", w.Socket}, args...)...)
		note(out + stderr)
	}
	w.Stop()

	everything := map[string]string{"log": w.Log(), "audit log": strings.Join(w.Audit(), "\n"), "answers": seen.String()}
	for where, text := range everything {
		for name, s := range secrets {
			// Request IDs of the caller's own choice are repeated, so only the rest of the signature counts.
			if strings.Contains(text, s) {
				t.Errorf("%s: %s is in it", where, name)
			}
		}
		for _, minted := range []string{"eyJhbGciOiJFUzI1NiI", "BEGIN"} {
			if strings.Contains(text, minted) {
				t.Errorf("%s: a token or a key is in it", where)
			}
		}
		if len(text) < 100 {
			t.Errorf("%s: %d bytes: nothing was looked at", where, len(text))
		}
	}
}

// signature is the part of a token that tells nothing and opens everything.
func signature(token string) string { return token[strings.LastIndexByte(token, '.')+1:] }
