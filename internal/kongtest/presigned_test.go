package kongtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// share is the host that clients see on the route for presigned URLs.
const share = "share.example"

// signer is what brings the broker to presign for somebody: a role that allows the folder acme.
const presigner = `  - name: share
    when: identity.kind == "oidc" && identity.subject == "alice"
    exchanger: minio
    policies: [reports-rw]
    session_policy: '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports/acme/*"]}]}'
    ttl: {default: 15m, max: 15m}
`

// presign has the broker presign a request for the host, and returns the URL and the headers that belong to it.
func (w *world) presign(t *testing.T, item, more string) (*url.URL, http.Header) {
	t.Helper()
	body := fmt.Sprintf(`{"role":"share","requests":[{%s,"endpoint":"https://%s"}]%s}`, item, share, more)
	h := http.Header{"Authorization": {"Bearer " + w.idp.Token(map[string]any{"sub": "alice"})}, "Content-Type": {"application/json"}}
	resp, text := Do(t, "POST", w.HTTP+"/v1/presign", h, []byte(body))
	var answer struct {
		Signed []struct {
			URL     string
			Headers map[string]string
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || resp.StatusCode != http.StatusOK || len(answer.Signed) != 1 {
		t.Fatalf("%s %s", resp.Status, text)
	}
	u, err := url.Parse(answer.Signed[0].URL)
	if err != nil || u.Host != share {
		t.Fatalf("%s: %v", answer.Signed[0].URL, err)
	}
	headers := http.Header{}
	for name, value := range answer.Signed[0].Headers {
		headers[http.CanonicalHeaderKey(name)] = []string{value}
	}
	return u, headers
}

// shared sends a request for the URL to the gateway, as a client does that finds it at the URL's host.
func shared(t *testing.T, g *Gateway, method string, u *url.URL, h http.Header, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, g.URL+u.RequestURI(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host, req.Header = u.Host, h.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// presignedService is the route of kong.yml.
func presignedService(name, url, path string) string {
	return fmt.Sprintf("  - name: %s\n    url: %s\n    routes:\n      - {name: %s, paths: [%s], strip_path: true, preserve_host: true}\n    plugins:\n      - {name: credential-broker-presigned}\n", name, url, name, path)
}

// TestPresignedURLsPass has a real broker's URLs go through the gateway to a real MinIO.
func TestPresignedURLsPass(t *testing.T) {
	w := newWorld(t)
	w.WriteConfig(strings.Replace(w.config("{default: 15m, max: 15m, min: 12s}")+presigner, "allowed_policies: [reports-rw]}",
		fmt.Sprintf("allowed_policies: [reports-rw], s3: {endpoints: [%s, \"https://%s\"]}}", w.minio.Endpoint, share), 1))
	w.Stop()
	w.Start()
	e := newEcho(t)
	g := Start(t, Options{Config: declared(presignedService("presigned", w.minio.Endpoint, "/"), presignedService("echo", e.URL, "/echo"))})
	var put *url.URL
	var headers http.Header
	brokertest.Eventually(t, 20*time.Second, "MinIO has found the broker", func() error {
		put, headers = w.presign(t, `"method":"PUT","bucket":"reports","key":"acme/a b+ü.txt","headers":{"x-amz-meta-by":"alice"}`, "")
		if resp, text := shared(t, g, "PUT", put, headers, "figures"); resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %s", resp.Status, text)
		}
		return nil
	})
	get, none := w.presign(t, `"method":"GET","bucket":"reports","key":"acme/a b+ü.txt"`, "")
	if resp, text := shared(t, g, "GET", get, none, ""); resp.StatusCode != http.StatusOK || text != "figures" || resp.Header.Get("X-Amz-Meta-By") != "alice" {
		t.Errorf("%s %s %v", resp.Status, text, resp.Header)
	}
	if resp, text := shared(t, g, "GET", get, http.Header{"Range": {"bytes=0-2"}}, ""); resp.StatusCode != http.StatusPartialContent || text != "fig" {
		t.Errorf("a range: %s %s", resp.Status, text)
	}
	if resp, _ := shared(t, g, "HEAD", get, none, ""); resp.StatusCode != http.StatusForbidden {
		t.Errorf("another method: %s", resp.Status)
	}

	// What a signature says, MinIO looks at; what it doesn't, the plugin.
	with := func(change func(url.Values)) *url.URL {
		u, q := *get, get.Query()
		change(q)
		u.RawQuery = q.Encode()
		return &u
	}
	set := func(name, value string) func(url.Values) { return func(q url.Values) { q.Set(name, value) } }
	otherPath, otherHost := *get, *get
	otherPath.RawPath, otherPath.Path = "", "/reports/acme/other.txt"
	otherHost.Host = "127.0.0.1"
	signature := get.Query().Get("X-Amz-Signature")
	w.minio.AddUser("lasting", "lasting-secret-key", "reports-rw")
	lasting, err := w.minio.Client("lasting", "lasting-secret-key", "").PresignedGetObject(t.Context(), "reports", "acme/a b+ü.txt", time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.forget()
	for what, tc := range map[string]struct {
		u      *url.URL
		h      http.Header
		method string
		status int
		text   string
	}{
		"another key":       {u: &otherPath, status: 403, text: "SignatureDoesNotMatch"},
		"another host":      {u: &otherHost, status: 403, text: "SignatureDoesNotMatch"},
		"a parameter more":  {u: with(set("response-content-type", "text/html")), status: 403, text: "SignatureDoesNotMatch"},
		"another signature": {u: with(set("X-Amz-Signature", strings.Repeat("0", 64))), status: 403, text: "SignatureDoesNotMatch"},
		"no signature":      {u: with(func(q url.Values) { q.Del("X-Amz-Signature") }), status: 403, text: "presigned"},
		"nothing of it":     {u: with(func(q url.Values) { clear(q) }), status: 403, text: "presigned"},
		"a signature of version 2": {u: with(func(q url.Values) {
			clear(q)
			q.Set("AWSAccessKeyId", "a")
			q.Set("Signature", "b")
			q.Set("Expires", "9999999999")
		}), status: 403, text: "presigned"},
		"a parameter of it twice":    {u: with(func(q url.Values) { q.Add("X-Amz-Signature", signature) }), status: 403, text: "presigned"},
		"one in another spelling":    {u: with(set("x-amz-signature", signature)), status: 403, text: "presigned"},
		"one of version 2 besides":   {u: with(set("AWSAccessKeyId", "a")), status: 403, text: "presigned"},
		"good for an hour":           {u: with(set("X-Amz-Expires", "3600")), status: 403, text: "too long"},
		"good for nothing":           {u: with(set("X-Amz-Expires", "0")), status: 403, text: "presigned"},
		"good for -1 s":              {u: with(set("X-Amz-Expires", "-1")), status: 403, text: "presigned"},
		"ended":                      {u: with(set("X-Amz-Date", time.Now().Add(-2*time.Minute).UTC().Format("20060102T150405Z"))), status: 403, text: "expired"},
		"of tomorrow":                {u: with(set("X-Amz-Date", time.Now().Add(24*time.Hour).UTC().Format("20060102T150405Z"))), status: 403, text: "expired"},
		"no date":                    {u: with(set("X-Amz-Date", "today")), status: 403, text: "presigned"},
		"another algorithm":          {u: with(set("X-Amz-Algorithm", "AWS4-ECDSA-P256-SHA256")), status: 403, text: "presigned"},
		"the host not signed":        {u: with(set("X-Amz-SignedHeaders", "range")), status: 403, text: "presigned"},
		"a key that lasts":           {u: lasting, status: 403, text: "presigned"},
		"a header beside it":         {u: get, h: http.Header{"Authorization": {"AWS4-HMAC-SHA256 Credential=a"}}, status: 400, text: "one auth mechanism"},
		"a copy that wasn't signed":  {u: put, h: http.Header{"X-Amz-Copy-Source": {"reports/umbrella/plans"}, "X-Amz-Meta-By": {"alice"}}, method: "PUT", status: 403, text: "not signed"},
		"the same, spelt otherwise":  {u: put, h: http.Header{"X_amz_copy_source": {"reports/umbrella/plans"}, "X-Amz-Meta-By": {"alice"}}, method: "PUT", status: 403, text: "not signed"},
		"an ACL that wasn't signed":  {u: put, h: http.Header{"X-Amz-Acl": {"public-read"}, "X-Amz-Meta-By": {"alice"}}, method: "PUT", status: 403, text: "not signed"},
		"a signed header twice":      {u: put, h: http.Header{"X-Amz-Meta-By": {"alice", "bob"}}, method: "PUT", status: 403, text: "not signed"},
		"dots in the path":           {u: &url.URL{Host: share, Opaque: "/reports/acme%2F..%2Fumbrella/x?" + get.RawQuery}, status: 400, text: "InvalidURI"},
		"a broken escape in a query": {u: &url.URL{Host: share, Opaque: "/reports/acme/x?%zz&" + get.RawQuery}, status: 400, text: "InvalidURI"},
	} {
		method := tc.method
		if method == "" {
			method = "GET"
		}
		if resp, text := shared(t, g, method, tc.u, tc.h, ""); resp.StatusCode != tc.status || !strings.Contains(text, tc.text) {
			t.Errorf("%s: %s %s", what, resp.Status, text)
		}
	}

	// What could speak for the client doesn't reach the store.
	echoed := *get
	echoed.Path, echoed.RawPath = "/echo"+get.Path, ""
	h := http.Header{"Cookie": {"a=b"}, "X-Consumer-Id": {aliceID}, "X_consumer_id": {aliceID}, "X-Minio-Force-Delete": {"true"}, "X-Credbroker-Gateway-Mac": {"x"}, "Accept": {"*/*"}}
	if resp, text := shared(t, g, "GET", &echoed, h, ""); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, text)
	}
	got := e.got()
	for name := range h {
		if name != "Accept" && len(got.Header[name]) > 0 {
			t.Errorf("%s came through", name)
		}
	}
	if got.Host != share || got.Header.Get("Accept") != "*/*" || got.URL.Query().Get("X-Amz-Signature") != signature {
		t.Errorf("%s %s %v", got.Host, got.URL, got.Header)
	}
}
