package kongtest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// function is a function as it is shipped, but for the settings at its top, as a plugin of a declarative configuration.
func function(t *testing.T, plugin, file string, settings ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(brokertest.ModuleRoot(t), "deploy", "kong", "functions", file))
	if err != nil {
		t.Fatal(err)
	}
	code := string(text)
	for _, line := range settings {
		name, _, _ := strings.Cut(line, " =")
		pattern := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` = .*$`)
		if len(pattern.FindAllString(code, -1)) != 1 {
			t.Fatalf("%s: no one line %q", file, name)
		}
		code = pattern.ReplaceAllLiteralString(code, line)
	}
	quoted, err := json.Marshal(code) // which is YAML
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{name: %s, config: {access: [%s]}}", plugin, quoted)
}

func hostPort(url string) (string, string) {
	host, port, _ := strings.Cut(strings.TrimPrefix(url, "http://"), ":")
	return host, port
}

// The functions for those who can't install plugins, in a sandbox that lets them require what they say and no more.
func TestFunctions(t *testing.T) {
	w := newWorld(t)
	w.WriteConfig(w.config("{default: 15m, max: 15m, min: 5s}") + `
  - name: tokens
    when: identity.kind == "oidc" && identity.subject == "alice"
    exchanger: minio
    policies: [reports-rw]
`)
	w.Stop()
	w.Start()
	e := newEcho(t)
	host, port := hostPort(w.HTTP)
	bare := function(t, "pre-function", "pre-function.lua", fmt.Sprintf("local BROKER_HOST, BROKER_PORT, BROKER_TLS = %q, %s, false", host, port), `local ROLE = "tokens"`)
	withHTTP := function(t, "pre-function", "pre-function-http.lua", fmt.Sprintf("local BROKER = %q", w.HTTP), `local ROLE = "tokens"`)
	post := function(t, "post-function", "post-function.lua", fmt.Sprintf("local BROKER = %q", "http://"+w.gateway))

	t.Run("pre-function without require", func(t *testing.T) {
		g := Start(t, Options{Config: declared(service("echo", e.URL, "/echo", bare))})
		w.preFunction(t, g, e)
	})
	t.Run("pre-function with resty.http", func(t *testing.T) {
		g := Start(t, Options{Config: declared(service("echo", e.URL, "/echo", withHTTP)), SandboxRequires: []string{"resty.http", "cjson.safe"}})
		w.preFunction(t, g, e)
	})
	t.Run("post-function", func(t *testing.T) {
		session := w.openSession(t)
		anonymous := "{name: key-auth, config: {key_names: [apikey], anonymous: " + anonID + "}}"
		g := Start(t, Options{
			Config: declared(service("echo", e.URL, "/echo", keyAuth, post), service("open", e.URL, "/open", post), service("anonymous", e.URL, "/anonymous", anonymous, post)),
			Env:    []string{"CREDBROKER_KEY_ID=" + session.KeyID, "CREDBROKER_KEY=" + session.Key}, SandboxRequires: []string{"resty.http", "cjson.safe", "resty.sha256", "resty.openssl.hmac"},
		})
		w.postFunction(t, g, e)
	})
	t.Run("what may not be required is missed", func(t *testing.T) {
		g := Start(t, Options{Config: declared(service("echo", e.URL, "/echo", withHTTP))})
		if resp, _ := Do(t, "GET", g.URL+"/echo/x", http.Header{"Authorization": {"Bearer " + w.idp.Token(nil)}}, nil); resp.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s", resp.Status)
		}
	})
}

type session struct {
	KeyID string `json:"key_id"`
	Key   string `json:"key"`
}

// openSession opens a gateway session as somebody does who writes it into a vault of Kong's.
func (w *world) openSession(t *testing.T) session {
	t.Helper()
	w.writeToken(5 * time.Minute)
	token, err := os.ReadFile(w.tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	resp, body := Do(t, "POST", w.HTTP+"/v1/gateway/sessions", http.Header{"Authorization": {"Bearer " + strings.TrimSpace(string(token))}, "Content-Type": {"application/json"}}, []byte(`{"role":"kong"}`))
	var s session
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Key == "" {
		t.Fatalf("%s %s", resp.Status, body)
	}
	return s
}

// word is a request that says who alice is, under the session's key.
func (s session) word(t *testing.T, url, body string) *http.Request {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	at, nonce, hash := fmt.Sprint(time.Now().Unix()), rand.Text(), sha256.Sum256([]byte(body))
	lines := []string{"credbroker-gateway/1", s.KeyID, at, nonce, "POST", req.URL.Path, "", hex.EncodeToString(hash[:])}
	for _, header := range [][2]string{{"x-consumer-id", aliceID}, {"x-consumer-custom-id", "acme"}, {"x-credential-identifier", "c1"}} {
		req.Header.Set(header[0], header[1])
		lines = append(lines, header[0]+":"+header[1])
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(strings.Join(lines, "\n") + "\n"))
	for name, value := range map[string]string{"Key-Id": s.KeyID, "Timestamp": at, "Nonce": nonce, "Mac": hex.EncodeToString(mac.Sum(nil))} {
		req.Header.Set("X-Credbroker-Gateway-"+name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	return req
}

// works sees that the upstream gets one of each, the client's own copies gone, and that MinIO takes it.
func (w *world) works(t *testing.T, h http.Header) {
	t.Helper()
	for _, name := range []string{"X-Aws-Access-Key-Id", "X-Aws-Secret-Access-Key", "X-Aws-Session-Token", "X-Aws-Expiration"} {
		if values := h[name]; len(values) != 1 || values[0] == "mallory" {
			t.Errorf("%s: %q", name, values)
		}
	}
	if h.Get("Authorization") != "" || h.Get("X_Aws_Session_Token") != "" {
		t.Errorf("%v", h)
	}
	c := w.minio.Client(h.Get("X-Aws-Access-Key-Id"), h.Get("X-Aws-Secret-Access-Key"), h.Get("X-Aws-Session-Token"))
	if _, err := c.GetBucketLocation(t.Context(), "reports"); err != nil {
		t.Error(err)
	}
}

func (w *world) preFunction(t *testing.T, g *Gateway, e *echo) {
	t.Helper()
	forged := []string{"X-Aws-Access-Key-Id", "mallory", "X-Aws-Session-Token", "mallory", "X_Aws_Session_Token", "mallory"}
	with := func(authorization string) http.Header {
		return header("x", append(forged, "Authorization", authorization)...)
	}
	for range 2 { // the second over the same connection to the broker
		if resp, body := Do(t, "GET", g.URL+"/echo/x", with("Bearer "+w.idp.Token(nil)), nil); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s", resp.Status, body)
		}
		w.works(t, e.got().Header)
	}
	before := e.got()
	expired := w.idp.Token(map[string]any{"exp": time.Now().Add(-5 * time.Minute).Unix(), "iat": time.Now().Add(-time.Hour).Unix()})
	for name, tc := range map[string]struct {
		authorization string
		want          int
	}{
		"expired": {"Bearer " + expired, http.StatusUnauthorized}, "none": {"", http.StatusUnauthorized}, "another scheme": {"Basic eA==", http.StatusUnauthorized},
		"somebody without the role": {"Bearer " + w.idp.Token(map[string]any{"sub": "bob"}), http.StatusForbidden},
		"a header in it":            {"Bearer a\tX-Credbroker-Role: admin", http.StatusUnauthorized},
	} {
		if resp, body := Do(t, "GET", g.URL+"/echo/x", with(tc.authorization), nil); resp.StatusCode != tc.want || strings.Contains(body, "secret") {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
	if e.got() != before {
		t.Error("a request without credentials reached the upstream")
	}
}

func (w *world) postFunction(t *testing.T, g *Gateway, e *echo) {
	t.Helper()
	forged := []string{"X-Aws-Access-Key-Id", "mallory", "X_Aws_Session_Token", "mallory", "X-Consumer-Id", aliceID, "X-Credential-Identifier", "x", "Authorization", "Bearer mallory"}
	patiently(t, 20*time.Second, "the word of the gateway is taken", g.URL+"/echo/x", header("alice", forged...), http.StatusOK)
	w.works(t, e.got().Header)
	key := e.got().Header.Get("X-Aws-Access-Key-Id")
	patiently(t, time.Second, "bob", g.URL+"/echo/x", header("bob", forged...), http.StatusOK)
	w.works(t, e.got().Header)
	if e.got().Header.Get("X-Aws-Access-Key-Id") == key {
		t.Error("alice's credentials are bob's")
	}
	asked := w.issued()
	for range 5 {
		patiently(t, time.Second, "alice", g.URL+"/echo/x", header("alice"), http.StatusOK)
		if e.got().Header.Get("X-Aws-Access-Key-Id") != key {
			t.Error("alice has other credentials")
		}
	}
	if w.issued() != asked {
		t.Error("what is kept is asked for again")
	}
	before := e.got()
	for path, h := range map[string]http.Header{"/open/x": header("nobody", forged...), "/anonymous/x": header("nobody", forged...), "/echo/x": header("nobody", forged...)} {
		if resp, body := Do(t, "GET", g.URL+path, h, nil); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
	if resp, body := Do(t, "GET", g.URL+"/echo/x", header("carol"), nil); resp.StatusCode != http.StatusForbidden {
		t.Errorf("carol: %s %s", resp.Status, body)
	}
	if e.got() != before {
		t.Error("a request without credentials reached the upstream")
	}
}
