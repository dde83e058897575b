package kongtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
)

// signs makes the broker sign requests for its MinIO.
func (w *world) signs(t *testing.T) {
	t.Helper()
	w.WriteConfig(replaced(t, w.config("{default: 15m, max: 15m, min: 12s}"), "allowed_policies: [reports-rw]}",
		"allowed_policies: [reports-rw], s3: {endpoints: [\""+w.minio.Endpoint+"\"]}}"))
	w.Stop()
	w.Start()
}

// The broker signs each request: clients, names and bodies are as with a key in Kong, and there is none.
func TestSignRemote(t *testing.T) {
	w := newWorld(t)
	w.signs(t)
	e := newEcho(t)
	g := Start(t, Options{Config: declared(
		service("minio", w.minio.Endpoint, "/s3", keyAuth, w.plugin("mode: sign_remote")),
		service("minio-root", w.minio.Endpoint, "/", keyAuth, w.plugin("mode: sign_remote")),
		service("minio-query", w.minio.Endpoint, "/query", keyAuth, w.plugin("mode: sign_remote, sign_query: true")),
		service("echo", e.URL, "/echo", keyAuth, w.plugin("mode: sign_remote")),
	)})
	w.ready(g)
	for name, provider := range map[string]aws.CredentialsProvider{
		"anonymous": aws.AnonymousCredentials{}, "made-up": credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "secret", "token"),
	} {
		for _, path := range []string{"/s3", "/query"} {
			t.Run("aws-sdk-go-v2/"+name+path, func(t *testing.T) { w.throughAWS(t, awsClient(t, g.URL+path, provider), "acme/remote"+name+path[1:]) })
		}
	}
	t.Run("curl", func(t *testing.T) { w.throughCurl(t, g) })
	t.Run("awkward keys", func(t *testing.T) { w.awkward(t, g, "/s3") })
	t.Run("unsigned trailer", func(t *testing.T) { w.trailer(t, g) })
	t.Run("spoofed consumers", func(t *testing.T) { w.spoofed(t, g) })
	t.Run("bodies that can't be signed anew", func(t *testing.T) { framed(t, g, e) })
	t.Run("stripped", func(t *testing.T) { stripped(t, g, e) })
	t.Run("what isn't signed", func(t *testing.T) {
		for path, want := range map[string]int{
			"/s3/reports/umbrella/x": http.StatusForbidden, "/s3/reports/acme/x?torrent": http.StatusNotImplemented, "/s3/reports?policy": http.StatusNotImplemented,
			"/s3/reports/acme/x?versionId=a&versionId=b": http.StatusBadRequest,
		} {
			if resp, body := Do(t, "GET", g.URL+path, header("alice"), nil); resp.StatusCode != want || !strings.Contains(body, "<Error><Code>") {
				t.Errorf("%s: %s %s", path, resp.Status, body)
			}
		}
		if resp, body := Do(t, "GET", g.URL+"/s3/reports/nobody/x", header("carol"), nil); resp.StatusCode != http.StatusForbidden {
			t.Errorf("carol: %s %s", resp.Status, body)
		}
	})
}

// A key that lasts, two of which are good while one is replaced, and a consumer's own token that the broker verifies again.
func TestStaticKeysAndForwardedTokens(t *testing.T) {
	w := newWorld(t)
	first, second := base64.StdEncoding.EncodeToString(noise(t, 32)), base64.StdEncoding.EncodeToString(noise(t, 32))
	keys := filepath.Join(t.TempDir(), "edge.keys")
	write := func(lines ...string) {
		if err := os.WriteFile(keys, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first)
	w.WriteConfig(w.config("{default: 15m, max: 15m, min: 12s}") + `
  - name: edge
    gateway: true
    when: identity.kind == "static_key" && identity.subject == "edge"
  - name: tokens
    when: identity.kind == "kong" && identity.attrs.token_subject == ["alice"]
    exchanger: minio
    policies: [reports-rw]
gateway_keys:
  - {name: edge, key_file: ` + keys + `}
`)
	w.Stop()
	w.Start()
	static := func(key, more string) string {
		return fmt.Sprintf("{name: credential-broker, config: {broker_url: %q, role: reports, proof: static_key, static_key_id: edge, static_key: %q%s}}", "http://"+w.gateway, key, more)
	}
	jwt := "{name: jwt, config: {key_claim_name: sub, claims_to_verify: [exp]}}"
	e := newEcho(t)
	config := declared(
		service("static", w.minio.Endpoint, "/s3", keyAuth, static("{vault://env/edge-key}", "")),
		service("next", w.minio.Endpoint, "/next", keyAuth, static(second, "")),
		service("token", e.URL, "/token", jwt, w.pluginFor("tokens", "forward_jwt: true")),
		service("no-token", e.URL, "/no-token", jwt, w.pluginFor("tokens", "")),
	)
	secret, _ := json.Marshal(publicKey(t, w.idp))
	for name, id := range map[string]string{"alice": aliceID, "bob": bobID, "carol": carolID} {
		config = strings.Replace(config, "id: "+id+",", fmt.Sprintf("id: %s, jwt_secrets: [{id: jwt-%s, key: %s, algorithm: ES256, rsa_public_key: %s}],", id, name, name, secret), 1)
	}
	g := Start(t, Options{Config: config, Env: []string{"EDGE_KEY=" + first}})
	patiently(t, 20*time.Second, "a word under the key is taken", g.URL+"/s3/reports/acme/none", header("alice"), http.StatusNotFound)
	if resp, body := Do(t, "GET", g.URL+"/next/reports/acme/none", header("bob"), nil); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a key that isn't the broker's: %s %s", resp.Status, body)
	}
	write(first, second)
	patiently(t, 20*time.Second, "the next key is taken", g.URL+"/next/reports/umbrella/none", header("bob"), http.StatusNotFound)

	as := func(sub string) http.Header {
		return http.Header{"Authorization": {"Bearer " + w.idp.Token(map[string]any{"sub": sub})}}
	}
	for _, tc := range []struct {
		path, who string
		want      int
	}{{"/token/x", "alice", http.StatusOK}, {"/no-token/x", "alice", http.StatusForbidden}, {"/token/x", "carol", http.StatusForbidden}, {"/token/x", "bob", http.StatusForbidden}} { // whose username the broker isn't told, so it isn't his
		resp, body := Do(t, "GET", g.URL+tc.path, as(tc.who), nil)
		if resp.StatusCode != tc.want {
			t.Errorf("%s as %s: %s %s", tc.path, tc.who, resp.Status, body)
		}
		if tc.want == http.StatusForbidden && (!strings.Contains(body, "<Code>AccessDenied</Code>") || resp.Header.Get("Retry-After") != "") {
			t.Errorf("%s as %s: %v %s, and wants S3's AccessDenied without a retry", tc.path, tc.who, resp.Header, body)
		}
	}
	if got := e.got().Header; strings.Contains(fmt.Sprint(got), "Bearer") {
		t.Errorf("the token reaches the upstream: %v", got)
	}
}
