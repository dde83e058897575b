package kongtest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// What users of other plugins rely on: where a request goes, and what of it is kept.
func TestOptions(t *testing.T) {
	w := newWorld(t)
	e, other := newEcho(t), newEcho(t)
	_, port := hostPort(other.URL)
	elsewhere := fmt.Sprintf(`{name: pre-function, config: {access: ['kong.service.set_target("127.0.0.1", %s)']}}`, port)
	g := Start(t, Options{Config: declared(
		service("plain", e.URL, "/plain", keyAuth, w.plugin("")),
		service("override", e.URL, "/override", keyAuth, w.plugin("override_target_host: localhost, override_target_port: "+port+", override_target_protocol: http")),
		service("altered", e.URL, "/altered", keyAuth, elsewhere, w.plugin("use_altered_target: true")),
		service("undone", e.URL, "/undone", keyAuth, elsewhere, w.plugin("")),
		service("preserve", e.URL, "/preserve", keyAuth, w.plugin("preserve_auth_header: true, preserve_auth_header_key: X-Client-Authorization")),
		service("query", e.URL, "/query", keyAuth, w.plugin("sign_query: true, region: eu-west-1")),
	)})
	w.readyAt(g, "/plain/x")
	host, otherHost := strings.TrimPrefix(e.URL, "http://"), strings.TrimPrefix(other.URL, "http://")
	for path, tc := range map[string]struct {
		upstream *echo
		host     string
	}{
		"/plain/x": {e, host}, "/override/x": {other, "localhost:" + port}, "/altered/x": {other, otherHost}, "/undone/x": {e, host},
	} {
		if resp, body := Do(t, "GET", g.URL+path, header("alice"), nil); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s", path, resp.Status, body)
		}
		if got := tc.upstream.got(); got == nil || got.Host != tc.host || got.Header.Get("Authorization") == "" {
			t.Errorf("%s: it didn't come where it should, as %s", path, tc.host)
		}
		tc.upstream.forget()
	}
	h := header("alice", "Authorization", "Bearer mine", "X-Client-Authorization", "Bearer forged", "X_Client_Authorization", "Bearer forged")
	if resp, body := Do(t, "GET", g.URL+"/preserve/x", h, nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, body)
	}
	got := e.got().Header
	if values := got["X-Client-Authorization"]; len(values) != 1 || values[0] != "Bearer mine" || !strings.HasPrefix(got.Get("Authorization"), "AWS4-") || len(got["X_client_authorization"]) > 0 {
		t.Errorf("%v", got)
	}
	// By query there is nothing in headers, and it is good for a minute.
	if resp, body := Do(t, "GET", g.URL+"/query/x?X-Amz-Expires=604800&a=b", header("alice", "Authorization", "Bearer mine"), nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, body)
	}
	query := e.got().URL.Query()
	if e.got().Header.Get("Authorization") != "" || len(query["X-Amz-Expires"]) != 1 || query.Get("X-Amz-Expires") != "60" || query.Get("a") != "b" || !strings.Contains(query.Get("X-Amz-Credential"), "/eu-west-1/s3/") {
		t.Errorf("%v %v", query, e.got().Header)
	}
	// Such a signature and a trailer don't go together.
	h = header("alice", "X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "Content-Encoding", "aws-chunked")
	if resp, _ := Do(t, "PUT", g.URL+"/query/x", h, []byte("0\r\n\r\n")); resp.StatusCode != http.StatusNotImplemented {
		t.Errorf("a trailer and a signature in the query: %s", resp.Status)
	}
}
