package kongtest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestWhatClientsMayNotDo(t *testing.T) {
	w := newWorld(t)
	e := newEcho(t)
	anonymous := "{name: key-auth, config: {key_names: [apikey], anonymous: " + anonID + "}}"
	g := Start(t, Options{Config: declared(
		service("minio", w.minio.Endpoint, "/s3", keyAuth, w.plugin("")),
		service("echo", e.URL, "/echo", keyAuth, "{name: request-transformer, config: {add: {headers: ['X-Amz-Acl:private']}}}", w.plugin("")),
		service("anonymous", e.URL, "/anonymous", anonymous, w.plugin("")),
		service("open", e.URL, "/open", w.plugin("")),
		service("half", e.URL, "/half", authenticated("nil"), w.plugin("")),
		service("whole", e.URL, "/whole", authenticated(`{id="00000000-0000-0000-0000-000000000009"}`), w.plugin("")),
		service("shared", e.URL, "/shared", sharedCredential, w.plugin("send_groups: false")),
		service("staff", e.URL, "/staff", keyAuth, w.pluginFor("staff", "")),
		service("nogroups", e.URL, "/nogroups", keyAuth, w.pluginFor("staff", "send_groups: false")),
		service("inject", e.URL, "/inject", keyAuth, w.plugin("mode: inject, inject_headers: {secret_access_key: X-Upstream-Secret}")),
	)})
	w.ready(g)
	t.Run("nobody is anybody", func(t *testing.T) { nobody(t, g, e) })
	t.Run("groups", func(t *testing.T) { groups(t, g) })
	t.Run("stripped", func(t *testing.T) { stripped(t, g, e) })
	t.Run("kept and signed", func(t *testing.T) { kept(t, g, e) })
	t.Run("bodies that can't be signed anew", func(t *testing.T) { framed(t, g, e) })
	t.Run("paths", func(t *testing.T) { paths(t, g, e) })
	t.Run("spoofed consumers", func(t *testing.T) { w.spoofed(t, g) })
	t.Run("two consumers racing", func(t *testing.T) { w.racing(t) })
	t.Run("injected", func(t *testing.T) { injected(t, g, e) })
	t.Run("no access", func(t *testing.T) {
		resp, body := Do(t, "GET", g.URL+"/s3/reports/nobody/x", header("carol"), nil)
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(body, "<Code>AccessDenied</Code>") || strings.Contains(body, "role") {
			t.Errorf("%s %s", resp.Status, body)
		}
	})
}

func nobody(t *testing.T, g *Gateway, e *echo) {
	forged := []string{"X-Consumer-Id", aliceID, "X-Consumer-Username", "alice", "X-Consumer-Custom-Id", "acme", "X-Credential-Identifier", "alice-key"}
	for path, h := range map[string]http.Header{
		"/anonymous/x": {}, "/open/x": {}, "/anonymous/y": header("nobody", forged...), "/open/y": header("alice", forged...),
	} {
		before := e.got()
		resp, body := Do(t, "GET", g.URL+path, h, nil)
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "<Code>AccessDenied</Code>") {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
		if e.got() != before {
			t.Errorf("%s: it reached the upstream", path)
		}
	}
	// A consumer without a credential, as some plugins leave it; and a word of somebody on the way that it is an anonymous one.
	for path, h := range map[string]http.Header{"/half/x": {}, "/whole/x": {"X-Anonymous-Consumer": {"true"}}} {
		if resp, body := Do(t, "GET", g.URL+path, h, nil); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
	if resp, body := Do(t, "GET", g.URL+"/whole/x", nil, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s", resp.Status, body)
	}
	// One credential of two consumers' is not one consumer.
	_, acme := Do(t, "GET", g.URL+"/shared/x", http.Header{"X-Who": {"acme"}}, nil)
	_, umbrella := Do(t, "GET", g.URL+"/shared/x", http.Header{"X-Who": {"umbrella"}}, nil)
	if acme == "" || acme == umbrella {
		t.Errorf("%q and %q", acme, umbrella)
	}
	// With a credential, the same route is somebody's.
	if resp, body := Do(t, "GET", g.URL+"/anonymous/x", header("alice"), nil); resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s", resp.Status, body)
	}
}

// authenticated is a plugin that authenticates alice with some credential, and sets no header.
func authenticated(credential string) string {
	return fmt.Sprintf(`{name: pre-function, config: {access: ['kong.client.authenticate({id="%s", custom_id="acme"}, %s)']}}`, aliceID, credential)
}

// sharedCredential is a plugin that gives all its consumers the same credential.
const sharedCredential = `{name: pre-function, config: {access: ['local credential = {id="shared"} return function() kong.client.authenticate({id=kong.request.get_header("X-Who"), custom_id=kong.request.get_header("X-Who")}, credential) end']}}`

// A consumer's groups are those that Kong knows.
func groups(t *testing.T, g *Gateway) {
	spoof := []string{"X-Authenticated-Groups", "staff", "X-Consumer-Groups", "staff"}
	for path, want := range map[string]map[string]int{
		"/staff/x": {"alice": http.StatusOK, "bob": http.StatusForbidden}, "/nogroups/x": {"alice": http.StatusForbidden, "bob": http.StatusForbidden},
	} {
		for who, status := range want {
			if resp, body := Do(t, "GET", g.URL+path, header(who, spoof...), nil); resp.StatusCode != status {
				t.Errorf("%s as %s: %s %s", path, who, resp.Status, body)
			}
		}
	}
}

// What comes to the upstream, whatever a client sends: headers that speak for nobody but the broker.
func stripped(t *testing.T, g *Gateway, e *echo) {
	h := header("alice",
		"Authorization", "AWS4-HMAC-SHA256 Credential=mallory/20260101/us-east-1/s3/aws4_request", "Proxy-Authorization", "Basic eA==",
		"X-Amz-Security-Token", "mallory", "X-Amz-Date", "19990101T000000Z", "X-Amz-Credential", "mallory", "X-Amz-Signature", "mallory", "X-Amz-Expires", "604800",
		"X_Amz_Security_Token", "mallory", "X_amz_date", "mallory", "X.Amz.Copy.Source", "mallory", "X_Amz_Copy_Source", "mallory", "XAmzCopySource", "mallory",
		"X-Amz_Acl", "mallory", "Xamzsecuritytoken", "mallory", "X-Amz.Meta-A", "mallory",
		"X_Consumer_Username", "mallory", "X.Consumer.Id", "mallory", "X-Consumer-Groups", "mallory", "X-Authenticated-Groups", "mallory", "X-Authenticated-Userid", "mallory",
		"X_Credential_Identifier", "mallory", "X-Credbroker-Gateway-Mac", "mallory", "X_Credbroker_Gateway_Key_Id", "mallory", "X-Minio-Source-Mtime", "mallory", "X_minio_x", "mallory",
	)
	for _, query := range []string{
		"?X-Amz-Algorithm=mallory&X-Amz-Credential=mallory&X-Amz-Date=mallory&X-Amz-Expires=mallory&X-Amz-SignedHeaders=mallory&X-Amz-Signature=mallory&X-Amz-Security-Token=mallory",
		"?x-amz-credential=mallory&X-AMZ-SIGNATURE=mallory&X_Amz_Signature=mallory&%58-Amz-Signature=mallory&X%2DAmz%2DSignature=mallory",
		"?AWSAccessKeyId=mallory&Signature=mallory&Expires=mallory",
	} {
		if resp, body := Do(t, "GET", g.URL+"/echo/reports/acme/x"+query, h, nil); resp.StatusCode != http.StatusOK || body == "mallory" {
			t.Fatalf("%s %s", resp.Status, body)
		}
		got := e.got()
		if got.URL.RawQuery != "" {
			t.Errorf("%s: query %q", query, got.URL.RawQuery)
		}
		for name, values := range got.Header {
			if slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, "mallory") }) || strings.HasPrefix(name, "X-Consumer") || strings.HasPrefix(name, "X-Cred") {
				t.Errorf("%s: %q", name, values)
			}
		}
		if values := got.Header["Authorization"]; len(values) != 1 || !strings.HasPrefix(values[0], "AWS4-HMAC-SHA256 Credential=") {
			t.Errorf("%q", values)
		}
		if got.Header.Get("Apikey") != "" {
			t.Error("the consumer's key reaches the upstream")
		}
	}
}

func kept(t *testing.T, g *Gateway, e *echo) {
	hash := strings.Repeat("0a", 32)
	h := header("alice", "X-Amz-Meta-One", "a", "X-Amz-Meta-One", "b", "X-Amz-Meta-Under_Score.dot", "c", "X-Amz-Tagging", "a=b", "X-Amz-Copy-Source", "reports/acme/y",
		"X-Amz-Server-Side-Encryption", "AES256", "X-Amz-Content-Sha256", hash, "Content-Type", "text/x", "Range", "bytes=0-1", "Content-Md5", "x", "If-Match", "y")
	if resp, body := Do(t, "PUT", g.URL+"/echo/reports/acme/x?partNumber=1&a+b&uploadId=q%2Fz", h, []byte("body")); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, body)
	}
	got := e.got()
	if string(e.body) != "body" {
		t.Errorf("body %q", e.body)
	}
	_, list, _ := strings.Cut(got.Header.Get("Authorization"), "SignedHeaders=")
	list, _, _ = strings.Cut(list, ",")
	want := "content-md5;content-type;host;range;x-amz-acl;x-amz-content-sha256;x-amz-copy-source;x-amz-date;x-amz-meta-one;x-amz-meta-under_score.dot;" +
		"x-amz-security-token;x-amz-server-side-encryption;x-amz-tagging"
	if list != want {
		t.Errorf("signed: %s\nwant    %s", list, want)
	}
	for name, value := range map[string]string{"X-Amz-Meta-One": "a,b", "X-Amz-Content-Sha256": hash, "X-Amz-Acl": "private", "If-Match": "y", "X-Amz-Copy-Source": "reports/acme/y"} {
		if values := got.Header[name]; len(values) != 1 || values[0] != value {
			t.Errorf("%s: %q, want %q", name, values, value)
		}
	}
	if got.URL.RawQuery != "a%20b=&partNumber=1&uploadId=q%2Fz" {
		t.Errorf("query %q", got.URL.RawQuery)
	}
	if got.Header.Get("X-Kong-Request-Id") == "" {
		t.Error("the gateway's request ID doesn't reach the upstream")
	}
}

func framed(t *testing.T, g *Gateway, e *echo) {
	before := e.got()
	for name, tc := range map[string]struct {
		status int
		header []string
	}{
		"chunks, signed":          {501, []string{"X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}},
		"chunks, signed, trailer": {501, []string{"X-Amz-Content-Sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER"}},
		"chunks and no hash":      {400, []string{"Content-Encoding", "aws-chunked"}},
		"chunks among others":     {400, []string{"Content-Encoding", "gzip, AWS-Chunked", "X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"}},
		"chunks in another line":  {400, []string{"Content-Encoding", "gzip", "Content-Encoding", "aws-chunked"}},
		"a decoded length":        {400, []string{"X-Amz-Decoded-Content-Length", "5", "X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"}},
		"a trailer":               {400, []string{"X-Amz-Trailer", "x-amz-checksum-crc32"}},
		"no hash at all":          {400, []string{"X-Amz-Content-Sha256", "mallory"}},
		"hex of another length":   {400, []string{"X-Amz-Content-Sha256", "0a"}},
		"two hashes":              {400, []string{"X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD", "X-Amz-Content-Sha256", strings.Repeat("0a", 32)}},
		"two types":               {400, []string{"Range", "bytes=0-1", "Range", "bytes=2-3"}},
	} {
		resp, body := Do(t, "PUT", g.URL+"/echo/reports/acme/x", header("alice", tc.header...), []byte("5\r\nhello\r\n0\r\n\r\n"))
		if resp.StatusCode != tc.status || !strings.Contains(body, "<Error><Code>") {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
	if e.got() != before {
		t.Error("one of them reached the upstream")
	}
}

func paths(t *testing.T, g *Gateway, e *echo) {
	before := e.got()
	for _, path := range []string{"/reports/acme%2F..%2Fumbrella/x", "/reports/acme%2f%2e%2e%2fumbrella", "/reports/acme%2F%2Fx", "/reports/a%00b", "/reports/a%0Ab", "/reports/a%2F.", "/reports/a?x=%zz", "/reports/a?%=1&y"} {
		// Sent as it is: net/url would have it its own way.
		if status, body := raw(t, g, "GET /anonymous"+path+" HTTP/1.1\r\nHost: x\r\napikey: alice-key\r\nConnection: close\r\n\r\n"); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if e.got() != before {
		t.Error("one of them reached the upstream")
	}
	// Kong resolves these before it routes: what is authorised, signed and sent is one value.
	for path, want := range map[string]string{"/echo/reports/acme/../x": "/reports/x", "/echo/reports//acme/./x": "/reports/acme/x", "/echo/reports/%7Ea%2Fb": "/reports/~a/b", "/echo/r/%e2%82%ac": "/r/%E2%82%AC"} {
		if status, body := raw(t, g, "GET "+path+" HTTP/1.1\r\nHost: x\r\napikey: alice-key\r\nConnection: close\r\n\r\n"); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
		if got := e.got().RequestURI; got != want {
			t.Errorf("%s: sent %s, want %s", path, got, want)
		}
	}
}

func (w *world) spoofed(t *testing.T, g *Gateway) {
	if resp, body := Do(t, "PUT", g.URL+"/s3/reports/acme/secret", header("alice"), []byte("alice's")); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, body)
	}
	for _, h := range []http.Header{
		header("bob"),
		header("bob", "X-Consumer-Id", aliceID, "X-Consumer-Custom-Id", "acme", "X-Consumer-Username", "alice", "X-Credential-Identifier", "00000000-0000-0000-0000-000000000001"),
		header("bob", "X_Consumer_Id", aliceID, "X_Consumer_Custom_Id", "acme"),
		header("bob", "X-Authenticated-Groups", "admins", "X-Consumer-Groups", "admins"),
	} {
		if resp, body := Do(t, "GET", g.URL+"/s3/reports/acme/secret", h, nil); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%v: %s %s", h, resp.Status, body)
		}
		if resp, body := Do(t, "PUT", g.URL+"/s3/reports/umbrella/mine", h, []byte("bob's")); resp.StatusCode != http.StatusOK {
			t.Errorf("%v: %s %s", h, resp.Status, body)
		}
	}
	if resp, body := Do(t, "GET", g.URL+"/s3/reports/acme/secret", header("mallory", "X-Consumer-Id", aliceID), nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("%s %s", resp.Status, body)
	}
}

// Both begin at once with an empty cache, on the one worker that there is: each gets one credential of its own.
func (w *world) racing(t *testing.T) {
	before := w.issued()
	fresh := Start(t, Options{Config: declared(service("echo", newEcho(t).URL, "/echo", keyAuth, w.plugin("ttl: 899")))})
	var mu sync.Mutex
	keys := map[string]map[string]int{"alice": {}, "bob": {}}
	var wait sync.WaitGroup
	for i := range 60 {
		who := []string{"alice", "bob"}[i%2]
		wait.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fresh.URL+"/echo/x", nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Apikey", who+"-key")
			key, err := answerOf(req)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			keys[who][key]++
			mu.Unlock()
		})
	}
	wait.Wait()
	if len(keys["alice"]) != 1 || len(keys["bob"]) != 1 {
		t.Errorf("%v", keys)
	}
	for key := range keys["alice"] {
		if keys["bob"][key] != 0 || key == "" {
			t.Errorf("shared: %v", keys)
		}
	}
	if after := w.issued(); after-before != 2 {
		t.Errorf("the broker was asked %d times for two consumers", after-before)
	}
}

// issued is how often the broker was asked for a consumer's credentials.
func (w *world) issued() int {
	n := 0
	for _, line := range w.Audit() {
		if strings.Contains(line, `"event":"issue_credentials"`) && strings.Contains(line, `"kong_request_id":"`) {
			n++
		}
	}
	return n
}

func injected(t *testing.T, g *Gateway, e *echo) {
	h := header("alice", "X-Upstream-Secret", "mallory", "X_Upstream_Secret", "mallory", "X-Aws-Session-Token", "mallory", "Authorization", "Bearer mallory")
	if resp, body := Do(t, "GET", g.URL+"/inject/x", h, nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, body)
	}
	got := e.got().Header
	for _, name := range []string{"X-Aws-Access-Key-Id", "X-Upstream-Secret", "X-Aws-Session-Token", "X-Aws-Expiration"} {
		if values := got[name]; len(values) != 1 || values[0] == "mallory" || values[0] == "" {
			t.Errorf("%s: %q", name, values)
		}
	}
	if got.Get("Authorization") != "" || got.Get("X_Upstream_Secret") != "" {
		t.Errorf("%v", got)
	}
}
