package server

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestHTTPIssue(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	got := send(t, "POST", base+"/v1/credentials", bearerHeader("x.y-z_~+/="), `{"role":"reports","policy":"{}","ttl_seconds":900}`)
	want := `{"access_key_id":"AKIATEST","secret_access_key":"s3cr3t/+key","session_token":"t0k.en","expires_at":"2030-01-02T03:04:05Z","role":"reports","request_id":"` + got.header.Get("X-Request-Id") + `"}`
	if got.status != 200 || got.body != want || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s\nwant %s", got.status, got.body, want)
	}
	req, _ := b.asked()
	if req.Proof.Kind != attest.KindJWT || req.Proof.Data.Reveal() != "x.y-z_~+/=" || req.Role != "reports" || req.Policy != "{}" ||
		req.TTL != 900*time.Second || req.Source != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("%+v", req)
	}
	send(t, "POST", base+"/v1/credentials", http.Header{"Content-Type": {"application/json"}}, `{"role":"r","jwt":"from.the.body"}`)
	if req, _ := b.asked(); req.Proof.Data.Reveal() != "from.the.body" || req.TTL != 0 || req.Policy != "" {
		t.Errorf("%+v", req)
	}
}

func TestHTTPExplainAndRoles(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	for _, body := range []string{"", "{}", `{"jwt":"a"}`} {
		header := bearerHeader("a")
		if strings.Contains(body, "jwt") {
			header.Del("Authorization")
		}
		got := send(t, "POST", base+"/v1/explain", header, body)
		var v struct {
			Identity struct {
				Subject    string
				Attributes map[string][]string
				Actor      *struct{ Subject string }
			}
			Roles []struct {
				Name       string
				DefaultTTL int `json:"default_ttl_seconds"`
				MaxTTL     int `json:"max_ttl_seconds"`
			}
		}
		if err := json.Unmarshal([]byte(got.body), &v); err != nil || got.status != 200 || v.Identity.Subject != "alice" || v.Identity.Actor.Subject != "gw" ||
			len(v.Identity.Attributes["groups"]) != 2 || len(v.Roles) != 1 || v.Roles[0].DefaultTTL != 900 || v.Roles[0].MaxTTL != 3600 {
			t.Errorf("%q: %d %s %v", body, got.status, got.body, err)
		}
		if req, _ := b.asked(); req.Proof.Data.Reveal() != "a" {
			t.Errorf("%q: %+v", body, req)
		}
	}
	if got := send(t, "GET", base+"/v1/roles", bearerHeader("a"), ""); got.status != 200 || !strings.Contains(got.body, `"name":"reports"`) {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestHTTPRequestsWithoutTheDocumentedForm(t *testing.T) {
	b := &fakeBroker{}
	base, log := httpServer(t, b)
	plain := http.Header{"Content-Type": {"application/json"}}
	for _, c := range []struct {
		name, method, path string
		header             http.Header
		body               string
	}{
		{"not JSON", "POST", "/v1/credentials", plain, `role=planted`},
		{"empty", "POST", "/v1/credentials", plain, ``},
		{"array", "POST", "/v1/credentials", plain, `[{"role":"a"}]`},
		{"not ended", "POST", "/v1/credentials", plain, `{"role":"a"`},
		{"missing value", "POST", "/v1/credentials", plain, `{"role":}`},
		{"no role", "POST", "/v1/credentials", plain, `{}`},
		{"empty role", "POST", "/v1/credentials", plain, `{"role":""}`},
		{"null role", "POST", "/v1/credentials", plain, `{"role":null}`},
		{"role in another case", "POST", "/v1/credentials", plain, `{"Role":"a"}`},
		{"unknown field", "POST", "/v1/credentials", plain, `{"role":"a","planted":1}`},
		{"duplicate field", "POST", "/v1/credentials", plain, `{"role":"a","role":"b"}`},
		{"duplicate by escape", "POST", "/v1/credentials", plain, `{"role":"a","r\u006fle":"b"}`},
		{"trailing data", "POST", "/v1/credentials", plain, `{"role":"a"}{}`},
		{"trailing garbage", "POST", "/v1/credentials", plain, `{"role":"a"} x`},
		{"not UTF-8", "POST", "/v1/credentials", plain, "{\"role\":\"\xff\"}"},
		{"policy object", "POST", "/v1/credentials", plain, `{"role":"a","policy":{}}`},
		{"token number", "POST", "/v1/credentials", plain, `{"role":"a","jwt":1}`},
		{"two proofs", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","aws_proof":"b"}`},
		{"two proofs, the first empty", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"","aws_proof":"b"}`},
		{"actor as text", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":"b"}`},
		{"actor as null", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":null}`},
		{"actor without a proof", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{}}`},
		{"actor with two proofs", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{"jwt":"b","aws_proof":"c"}}`},
		{"actor with a proof twice", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{"jwt":"b","jwt":"c"}}`},
		{"actor with a number", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{"jwt":1}}`},
		{"actor with an object", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{"jwt":{}}}`},
		{"actor with an actor", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{"actor":{"jwt":"b"}}}`},
		{"actor without its certificate", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{"peer_certificate":false}}`},
		{"actor with a role", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{"role":"b"}}`},
		{"actor cut off", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{"jwt"`},
		{"two actors", "POST", "/v1/credentials", plain, `{"role":"a","jwt":"a","actor":{"jwt":"b"},"actor":{"jwt":"c"}}`},
		{"certificate as a field", "POST", "/v1/credentials", plain, `{"role":"a","peer_certificate":true}`},
		{"deep", "POST", "/v1/credentials", plain, `{"role":` + strings.Repeat("[", 20000)},
		{"TTL text", "POST", "/v1/credentials", plain, `{"role":"a","ttl_seconds":"3600"}`},
		{"TTL Go duration", "POST", "/v1/credentials", plain, `{"role":"a","ttl_seconds":"3600s"}`},
		{"TTL fraction", "POST", "/v1/credentials", plain, `{"role":"a","ttl_seconds":1.5}`},
		{"TTL exponent", "POST", "/v1/credentials", plain, `{"role":"a","ttl_seconds":1e3}`},
		{"TTL 0", "POST", "/v1/credentials", plain, `{"role":"a","ttl_seconds":0}`},
		{"TTL -1", "POST", "/v1/credentials", plain, `{"role":"a","ttl_seconds":-1}`},
		{"TTL -0", "POST", "/v1/credentials", plain, `{"role":"a","ttl_seconds":-0}`},
		{"TTL beyond 31 bits", "POST", "/v1/credentials", plain, `{"role":"a","ttl_seconds":2147483648}`},
		{"TTL huge", "POST", "/v1/credentials", plain, `{"role":"a","ttl_seconds":99999999999999999999}`},
		{"no content type", "POST", "/v1/credentials", http.Header{}, `{"role":"a"}`},
		{"form", "POST", "/v1/credentials", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, `{"role":"a"}`},
		{"content type with more", "POST", "/v1/credentials", http.Header{"Content-Type": {"application/json; charset=utf-16"}}, `{"role":"a"}`},
		{"content type twice", "POST", "/v1/credentials", http.Header{"Content-Type": {"application/json", "application/json"}}, `{"role":"a"}`},
		{"encoded", "POST", "/v1/credentials", http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, `{"role":"a"}`},
		{"too large", "POST", "/v1/credentials", plain, `{"role":"a"}` + strings.Repeat(" ", maxBodyBytes-11)},
		{"token in header and body", "POST", "/v1/credentials", bearerHeader("a"), `{"role":"a","jwt":"a"}`},
		{"token in header and empty in body", "POST", "/v1/credentials", bearerHeader("a"), `{"role":"a","jwt":""}`},
		{"two Authorization headers", "POST", "/v1/credentials", http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer a", "Bearer a"}}, `{"role":"a"}`},
		{"query", "POST", "/v1/credentials?role=b", plain, `{"role":"a"}`},
		{"token in the query", "GET", "/v1/roles?access_token=planted", nil, ``},
		{"empty query", "GET", "/v1/roles?", nil, ``},
		{"GET with body", "GET", "/v1/roles", nil, `{}`},
		{"explain with a role", "POST", "/v1/explain", plain, `{"role":"a"}`},
		{"explain with a policy", "POST", "/v1/explain", plain, `{"policy":"a"}`},
		{"explain with a TTL", "POST", "/v1/explain", plain, `{"ttl_seconds":1}`},
		{"explain without content type", "POST", "/v1/explain", nil, `{}`},
		{"header form with body", "POST", "/v1/credentials/headers", http.Header{"X-Credbroker-Role": {"a"}}, `{}`},
		{"header form without role", "GET", "/v1/credentials/headers", nil, ``},
		{"header form with empty role", "GET", "/v1/credentials/headers", http.Header{"X-Credbroker-Role": {""}}, ``},
		{"header form with two roles", "GET", "/v1/credentials/headers", http.Header{"X-Credbroker-Role": {"a", "a"}}, ``},
		{"header form with policy", "GET", "/v1/credentials/headers", http.Header{"X-Credbroker-Role": {"a"}, "X-Credbroker-Policy": {"{}"}}, ``},
		{"header form with two TTLs", "GET", "/v1/credentials/headers", http.Header{"X-Credbroker-Role": {"a"}, "X-Credbroker-Ttl-Seconds": {"60", "60"}}, ``},
		{"header form with empty TTL", "GET", "/v1/credentials/headers", http.Header{"X-Credbroker-Role": {"a"}, "X-Credbroker-Ttl-Seconds": {""}}, ``},
		{"header form with TTL sign", "GET", "/v1/credentials/headers", http.Header{"X-Credbroker-Role": {"a"}, "X-Credbroker-Ttl-Seconds": {"+60"}}, ``},
		{"header form with TTL 0", "GET", "/v1/credentials/headers", http.Header{"X-Credbroker-Role": {"a"}, "X-Credbroker-Ttl-Seconds": {"0"}}, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := send(t, c.method, base+c.path, c.header, c.body)
			if got.status != 400 || got.header.Get("X-Credbroker-Error") != "invalid_request" {
				t.Errorf("%d %s", got.status, got.body)
			}
			if strings.Contains(got.body, "planted") {
				t.Errorf("it repeats its input: %s", got.body)
			}
		})
	}
	if _, n := b.asked(); n != 0 {
		t.Errorf("%d of them reached the pipeline", n)
	}
	if strings.Contains(log.String(), "planted") || !strings.Contains(log.String(), "TTL is not a whole number") {
		t.Errorf("log:\n%s", log)
	}
}

func TestHTTPBoundsThatHold(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	for name, body := range map[string]string{
		"largest body": `{"role":"a"}` + strings.Repeat(" ", maxBodyBytes-12),
		"largest TTL":  `{"role":"a","ttl_seconds":2147483647}`,
		"smallest TTL": `{"role":"a","ttl_seconds":1}`,
	} {
		if got := send(t, "POST", base+"/v1/credentials", bearerHeader(strings.Repeat("t", 16<<10)), body); got.status != 200 {
			t.Errorf("%s with a token of 16 KiB: %d %s", name, got.status, got.body)
		}
	}
}

func TestHTTPWhatIsNoBearerTokenIsNoProof(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	for header, want := range map[string]string{
		"Bearer abc": "abc", "bearer abc": "abc", "BEARER  abc": "abc",
		"Basic YTpi": "", "Bearer": "", "Bearer ": "", "Bearer a b": "", "Bearer a, Bearer b": "", "Bearer a,b": "", "abc": "", "": "",
		"Bearer a\tb": "", "Bearer é": "", "DPoP abc": "", "Bearer\tabc": "",
	} {
		send(t, "GET", base+"/v1/roles", http.Header{"Authorization": {header}}, "")
		req, n := b.asked()
		if req.Proof.Data.Reveal() != want || (req.Proof.Kind == "") != (want == "") {
			t.Errorf("%q: %q (call %d)", header, req.Proof.Data.Reveal(), n)
		}
	}
}

func TestHTTPPathsAndMethods(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"GET", "/v1", 404, ""},
		{"POST", "/v1/credentials/", 404, ""},
		{"POST", "//v1/credentials", 404, ""},
		{"POST", "/v1/./credentials", 404, ""},
		{"POST", "/v1/x/../credentials", 404, ""},
		{"POST", "/V1/credentials", 404, ""},
		{"POST", "/v1%2Fcredentials", 404, ""},
		{"POST", "/%761/credentials", 404, ""},
		{"GET", "/metrics", 404, ""},
		{"GET", "/debug/pprof/", 404, ""},
		{"GET", "/v1/credentials", 405, "POST"},
		{"PUT", "/v1/credentials/headers", 405, "GET, POST"},
		{"HEAD", "/v1/roles", 405, "GET"},
		{"OPTIONS", "/v1/explain", 405, "POST"},
		{"POST", "/jwks", 405, "GET, HEAD"},
		{"HEAD", "/jwks", 200, ""},
		{"HEAD", "/.well-known/openid-configuration", 200, ""},
		{"GET", "/openapi.yaml", 200, ""},
	} {
		got := send(t, c.method, base+c.path, nil, "")
		if got.status != c.status || got.header.Get("Allow") != c.allow || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: %d, Allow %q; %s", c.method, c.path, got.status, got.header.Get("Allow"), got.body)
		}
		if c.status >= 400 && c.method != "HEAD" && !strings.HasPrefix(got.body, `{"error":{"code":"`) {
			t.Errorf("%s %s: %s", c.method, c.path, got.body)
		}
	}
	if _, n := b.asked(); n != 0 {
		t.Errorf("%d of them reached the pipeline", n)
	}
}

func TestHTTPIssuerDocumentsAnswerWhateverIsWrong(t *testing.T) {
	base, _ := httpServer(t, &fakeBroker{err: broker.ErrBusy, panic: "down"})
	for path, want := range map[string]string{
		"/.well-known/openid-configuration": string(fakeDocuments{}.Discovery()), "/jwks": string(fakeDocuments{}.JWKS(t.Context())),
	} {
		got := send(t, "GET", base+path, nil, "")
		if got.status != 200 || got.body != want || got.header.Get("Cache-Control") != "public, max-age=60" || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

func TestHTTPHeaderForm(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	for _, method := range []string{"GET", "POST"} {
		header := bearerHeader("a.b.c")
		header.Set("X-Credbroker-Role", "reports")
		header.Set("X-Credbroker-Ttl-Seconds", "900")
		got := send(t, method, base+"/v1/credentials/headers", header, "")
		for name, want := range map[string]string{
			"X-Credbroker-Access-Key-Id": "AKIATEST", "X-Credbroker-Secret-Access-Key": "s3cr3t/+key", "X-Credbroker-Session-Token": "t0k.en",
			"X-Credbroker-Expires-At": "2030-01-02T03:04:05Z", "X-Credbroker-Role": "reports", "Cache-Control": "no-store",
		} {
			if got.status != 204 || got.body != "" || got.header.Get(name) != want {
				t.Errorf("%s: %d, %s: %q, want %q", method, got.status, name, got.header.Get(name), want)
			}
		}
		if req, _ := b.asked(); req.Role != "reports" || req.TTL != 15*time.Minute || req.Proof.Data.Reveal() != "a.b.c" {
			t.Errorf("%+v", req)
		}
	}
}

func TestCredentialsThatAHeaderCannotCarryAreRefused(t *testing.T) {
	for _, bad := range []string{"a b", "a\r\nX-Evil: 1", "\x7f", "é", "\x00"} {
		for i := range 3 {
			c := exchange.Credentials{AccessKeyID: "a", SecretAccessKey: secret.New("b"), SessionToken: secret.New("c")}
			switch i {
			case 0:
				c.AccessKeyID = bad
			case 1:
				c.SecretAccessKey = secret.New(bad)
			case 2:
				c.SessionToken = secret.New(bad)
			}
			if got := Code(sendable(broker.Issued{Credentials: c})); got != "exchange_bad_result" {
				t.Errorf("%q in part %d: %q", bad, i, got)
			}
		}
	}
	if err := sendable(broker.Issued{Credentials: exchange.Credentials{AccessKeyID: "!~"}}); err != nil {
		t.Error(err)
	}
}

func TestHTTPIdentityHeadersChangeNothing(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	header := http.Header{"X-Credbroker-Role": {"r"}, "X-Request-Id": {"same"}, "Connection": {"X-Credbroker-Role, Authorization"}, "Authorization": {"Bearer t"}}
	send(t, "GET", base+"/v1/credentials/headers", header, "")
	want, _ := b.asked()
	for _, name := range []string{
		"X-Consumer-Id", "X-Consumer-Username", "X-Consumer-Custom-Id", "X_Consumer_Username", "X-Credential-Identifier", "X-Anonymous-Consumer",
		"X-Authenticated-Userid", "X-Authenticated-Groups", "X-Forwarded-For", "X-Real-Ip", "Forwarded", "X-Forwarded-User", "X-Forwarded-Client-Cert", "X-Amz-Security-Token",
	} {
		header[name] = []string{"admin"}
	}
	send(t, "GET", base+"/v1/credentials/headers", header, "")
	got, n := b.asked()
	got.Proof.Data, want.Proof.Data = secret.Secret{}, secret.Secret{}
	if n != 2 || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestHTTPPanicShowsNothing(t *testing.T) {
	for _, p := range []any{"planted-panic", fmt.Errorf("planted-panic"), struct{ s string }{"planted-panic"}} {
		base, log := httpServer(t, &fakeBroker{panic: p})
		got := send(t, "POST", base+"/v1/credentials", bearerHeader("planted.token"), `{"role":"planted-role"}`)
		if got.status != 500 || strings.Contains(got.body, "planted") || got.header.Get("X-Credbroker-Error") != "internal" {
			t.Errorf("%d %s", got.status, got.body)
		}
		if l := log.String(); !strings.Contains(l, "httpAPI") || strings.Contains(l, "planted.token") || strings.Contains(l, "planted-role") {
			t.Errorf("log:\n%s", l)
		}
		if _, text := p.(struct{ s string }); strings.Contains(log.String(), "planted-panic") == text {
			t.Errorf("log for %T:\n%s", p, log)
		}
	}
}

// raw writes bytes as they are and returns all that comes back until the server closes.
func raw(t *testing.T, base, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(8 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(bufio.NewReader(conn))
	return string(data)
}

func TestHTTPChunkedBodyEndsItsConnection(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	// To a proxy that believes Content-Length, the second request is part of the first one's body.
	smuggled := "GET /v1/roles HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer victim\r\n\r\n"
	got := raw(t, base, "POST /v1/credentials HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: 200\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"c\r\n{\"role\":\"a\"}\r\n0\r\n\r\n"+smuggled)
	if strings.Count(got, "HTTP/1.1 ") != 1 || !strings.Contains(got, "Connection: close\r\n") {
		t.Errorf("more than one answer:\n%s", got)
	}
	if _, n := b.asked(); n > 1 {
		t.Errorf("the smuggled request reached the pipeline")
	}
}

func TestHTTPAmbiguousFramingIsRefused(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	for _, header := range []string{
		"Content-Length: 2\r\nContent-Length: 3\r\n", "Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
		"Content-Length: +2\r\n", "Host: c\r\n", "Transfer-Encoding : chunked\r\n", "X: a\x00b\r\n",
	} {
		got := raw(t, base, "POST /v1/explain HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n"+header+"\r\n{}")
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") && !strings.HasPrefix(got, "HTTP/1.1 501 ") {
			t.Errorf("%q: %s", header, got)
		}
	}
	if _, n := b.asked(); n != 0 {
		t.Errorf("%d of them reached the pipeline", n)
	}
}

func TestHTTPBodyOfUnknownLengthIsBounded(t *testing.T) {
	base, _ := httpServer(t, &fakeBroker{})
	for pad, want := range map[int]string{12: "200", 11: "400"} {
		body := `{"role":"a"}` + strings.Repeat(" ", maxBodyBytes-pad)
		got := raw(t, base, fmt.Sprintf("POST /v1/credentials HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body))
		if !strings.HasPrefix(got, "HTTP/1.1 "+want) {
			t.Errorf("%d bytes: %.200s", len(body), got)
		}
	}
}
