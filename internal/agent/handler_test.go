package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker"
)

const token = "a-token-of-some-length"

func tokenFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// serve runs a handler for the role reports and returns its address.
func serve(t *testing.T, s *stand, auth *Authorization) (a *Agent, address string) {
	t.Helper()
	a = New(s.current, slog.New(slog.DiscardHandler), "reports")
	server := httptest.NewUnstartedServer(nil)
	server.Config.Handler = a.Handler(Hosts(server.Listener.Addr()), auth)
	server.Start()
	t.Cleanup(server.Close)
	return a, server.Listener.Addr().String()
}

// raw sends a request as it stands.
func raw(t *testing.T, address, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestHandlerAnswersAsAWSsContainersAndRefusesTheRest(t *testing.T) {
	expires := time.Date(2099, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	s := &stand{got: credentials("AKIA", expires)}
	auth, err := OpenAuthorization(tokenFile(t, token+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, address := serve(t, s, auth)
	_, port, _ := net.SplitHostPort(address)
	const path, with = "/v1/container-credentials/reports", "Authorization: " + token + "\r\n"
	for name, c := range map[string]struct {
		line, host, headers string
		status              int
		body                string
	}{
		"credentials":       {"GET " + path, address, with, 200, `{"AccessKeyId":"AKIA","SecretAccessKey":"canary-secret","Token":"canary-session","Expiration":"2099-01-02T02:04:05Z"}`},
		"localhost":         {"GET " + path, "LocalHost:" + port, with, 200, `"AKIA"`},
		"no token":          {"GET " + path, address, "", 401, `"unauthenticated"`},
		"wrong token":       {"GET " + path, address, "Authorization: " + token[1:] + "\r\n", 401, `"unauthenticated"`},
		"with a scheme":     {"GET " + path, address, "Authorization: Bearer " + token + "\r\n", 401, `"unauthenticated"`},
		"twice":             {"GET " + path, address, with + with, 401, `"unauthenticated"`},
		"rebound name":      {"GET " + path, "evil.example:" + port, with, 403, `"wrong_host"`},
		"no port":           {"GET " + path, "127.0.0.1", with, 403, `"wrong_host"`},
		"another port":      {"GET " + path, "127.0.0.1:1", with, 403, `"wrong_host"`},
		"absolute URI":      {"GET http://" + address + path, address, with, 403, `"forwarded"`},
		"Forwarded":         {"GET " + path, address, with + "Forwarded: for=1.2.3.4\r\n", 403, `"forwarded"`},
		"Via":               {"GET " + path, address, with + "Via: 1.1 x\r\n", 403, `"forwarded"`},
		"X-Forwarded-For":   {"GET " + path, address, with + "X-Forwarded-For: 1.2.3.4\r\n", 403, `"forwarded"`},
		"x_forwarded_proto": {"GET " + path, address, with + "x_forwarded_proto: http\r\n", 403, `"forwarded"`},
		"X-Real-IP":         {"GET " + path, address, with + "x-real-ip: 1.2.3.4\r\n", 403, `"forwarded"`},
		"POST":              {"POST " + path, address, with, 405, `"method_not_allowed"`},
		"PUT":               {"PUT " + path, address, with, 405, `"method_not_allowed"`},
		"body":              {"GET " + path, address, with + "Content-Length: 1\r\n", 400, `"invalid_request"`},
		"chunked body":      {"GET " + path, address, with + "Transfer-Encoding: chunked\r\n", 400, `"invalid_request"`},
		"query":             {"GET " + path + "?a=b", address, with, 400, `"invalid_request"`},
		"empty query":       {"GET " + path + "?", address, with, 400, `"invalid_request"`},
		"another role":      {"GET " + path + "s", address, with, 404, `"not_found"`},
		"no role":           {"GET /v1/container-credentials/", address, with, 404, `"not_found"`},
		"escaped":           {"GET /v1/container-credentials/%72eports", address, with, 404, `"not_found"`},
		"another path":      {"GET /latest/meta-data/", address, with, 404, `"not_found"`},
		"path, no token":    {"GET /latest/meta-data/", address, "", 401, `"unauthenticated"`},
	} {
		resp, body := raw(t, address, c.line+" HTTP/1.1\r\nHost: "+c.host+"\r\n"+c.headers+"Connection: close\r\n\r\n")
		if resp.StatusCode != c.status || !strings.Contains(body, c.body) {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
		h := resp.Header
		if h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "application/json" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", name, h)
		}
		if c.status != 200 && (strings.Contains(body, "canary") || !json.Valid([]byte(body))) {
			t.Errorf("%s: %s", name, body)
		}
	}
	if s.asked != 2 {
		t.Errorf("the source was asked %d times", s.asked)
	}
}

// What the broker said is told so that SDKs try again if it is of use, and what is this machine's own stays in the log.
func TestHandlerTellsWhatBecameOfTheBroker(t *testing.T) {
	refusal := func(code credbroker.Code, retryable bool, after time.Duration) error {
		return fmt.Errorf("no credentials of the role: %w", &credbroker.Error{Code: code, Message: "text", RequestID: "r7", Retryable: retryable, RetryAfter: after})
	}
	s := &stand{}
	_, address := serve(t, s, nil)
	for _, c := range []struct {
		err    error
		status int
		body   string
		retry  string
	}{
		{refusal("permission_denied", false, 0), 403, `{"code":"permission_denied","message":"text (request r7)"}`, ""},
		{refusal("unauthenticated", false, 0), 401, `"unauthenticated"`, ""},
		{refusal("proof_expired", false, 0), 401, `"proof_expired"`, ""},
		{refusal("proof_already_used", false, 0), 401, `"proof_already_used"`, ""},
		{refusal("invalid_policy", false, 0), 400, `"invalid_policy"`, ""},
		{refusal("overloaded", true, 1500*time.Millisecond), 503, `"overloaded"`, "2"},
		{refusal("exchange_unavailable", true, 0), 503, `"exchange_unavailable"`, ""},
		{fmt.Errorf("dial /secret/path: %w", credbroker.ErrUnreachable), 503, `"broker_unreachable"`, ""},
		{errors.New("open /secret/path"), 500, `"agent_error"`, ""},
	} {
		s.set(credbroker.Credentials{}, c.err)
		resp, body := raw(t, address, "GET /v1/container-credentials/reports HTTP/1.1\r\nHost: "+address+"\r\nConnection: close\r\n\r\n")
		if resp.StatusCode != c.status || !strings.Contains(body, c.body) || resp.Header.Get("Retry-After") != c.retry || strings.Contains(body, "/secret/") {
			t.Errorf("%v: %d %s, Retry-After %q", c.err, resp.StatusCode, body, resp.Header.Get("Retry-After"))
		}
	}
}

func TestHealthNeedsNoTokenAndIsForNoOtherHost(t *testing.T) {
	auth, err := OpenAuthorization(tokenFile(t, token))
	if err != nil {
		t.Fatal(err)
	}
	a, address := serve(t, &stand{}, auth)
	ask := func(host string) int {
		resp, _ := raw(t, address, "GET /healthz HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
		return resp.StatusCode
	}
	if got := ask(address); got != 503 {
		t.Errorf("without credentials: %d", got)
	}
	a.roles["reports"].note(slog.New(slog.DiscardHandler), credentials("A", time.Now().Add(time.Hour)), nil, time.Now())
	if ok, other := ask(address), ask("evil.example"); ok != 200 || other != 403 {
		t.Errorf("with credentials %d, for another host %d", ok, other)
	}
}
