package server

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/credbroker/credbroker/internal/attest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

func gatewayHeader() http.Header {
	return http.Header{
		"Content-Type": {"application/json"}, "X-Credbroker-Gateway-Key-Id": {"KEYID"}, "X-Credbroker-Gateway-Timestamp": {"1"}, "X-Credbroker-Gateway-Nonce": {"n"},
		"X-Credbroker-Gateway-Mac": {"mac"}, "X-Consumer-Id": {"5b6a"}, "X-Credential-Identifier": {"key-1"}, "X-Consumer-Username": {"alice"},
	}
}

func gatewayServer(t *testing.T, b Broker) string {
	t.Helper()
	l, err := Listen("127.0.0.1:0", TLSFiles{}, ListenOptions{MaxConns: 10})
	if err != nil {
		t.Fatal(err)
	}
	o, _ := testOptions()
	return "http://" + serving(t, NewGateway(l, b, o))
}

// What is verified is what came: each part of the request is in its place.
func TestAGatewaysWordIsWrittenOfTheRequest(t *testing.T) {
	b := &fakeBroker{}
	base := gatewayServer(t, b)
	const ofNone = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	identity := "x-consumer-id:5b6a\nx-consumer-username:alice\nx-credential-identifier:key-1\nmac"
	for _, tc := range []struct{ method, path, body, want string }{
		{"GET", "/v1/roles", "", "credbroker-gateway/1\nKEYID\n1\nn\nGET\n/v1/roles\n\n" + ofNone + "\n" + identity},
		{"POST", "/v1/explain", "", "credbroker-gateway/1\nKEYID\n1\nn\nPOST\n/v1/explain\n\n" + ofNone + "\n" + identity},
	} {
		if got := send(t, tc.method, base+tc.path, gatewayHeader(), tc.body); got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if req, _ := b.asked(); req.Proof.Kind != attest.KindGateway || req.Proof.Data.Reveal() != tc.want || req.Actor != nil {
			t.Errorf("%s: %q", tc.path, req.Proof.Data.Reveal())
		}
	}
	// The hash is of the body as it came.
	hashes := map[string]bool{}
	for _, body := range []string{`{"role":"r"}`, `{"role":"r" }`, `{"role":"r","ttl_seconds":900}`, `{"role":"r"}` + strings.Repeat(" ", 8<<10)} {
		if got := send(t, "POST", base+"/v1/credentials", gatewayHeader(), body); got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
		req, _ := b.asked()
		hash := strings.Split(req.Proof.Data.Reveal(), "\n")[7]
		if len(hash) != 64 || hash == ofNone || hashes[hash] {
			t.Errorf("%q: hash %s", body, hash)
		}
		hashes[hash] = true
	}
}

func TestWhatAGatewayMayNotSend(t *testing.T) {
	b := &fakeBroker{}
	base := gatewayServer(t, b)
	for name, tc := range map[string]struct{ header, value, body string }{
		"a token":                         {"Authorization", "Bearer a", `{"role":"r"}`},
		"an empty token in the body":      {"", "", `{"role":"r","jwt":""}`},
		"scopes with underscores":         {"X_Authenticated_Scope", "admin", `{"role":"r"}`},
		"an AWS proof":                    {"", "", `{"role":"r","aws_proof":"a"}`},
		"an actor":                        {"", "", `{"role":"r","actor":{"jwt":"a"}}`},
		"an anonymous consumer":           {"X-Anonymous-Consumer", "true", `{"role":"r"}`},
		"an anonymous consumer, empty":    {"X-Anonymous-Consumer", "", `{"role":"r"}`},
		"a consumer with underscores":     {"X_Consumer_Id", "admin", `{"role":"r"}`},
		"a consumer with one underscore":  {"X-Consumer_Id", "admin", `{"role":"r"}`},
		"a consumer with dots":            {"X.Consumer.Id", "admin", `{"role":"r"}`},
		"a consumer without hyphens":      {"Xconsumerid", "admin", `{"role":"r"}`},
		"an anonymous one, spelt like it": {"X_Anonymous_Consumer", "true", `{"role":"r"}`},
		"a MAC with underscores":          {"X_Credbroker_Gateway_Mac", "mac", `{"role":"r"}`},
		"groups with underscores":         {"X_Authenticated_Groups", "admins", `{"role":"r"}`},
	} {
		h := gatewayHeader()
		if tc.header != "" {
			h[tc.header] = []string{tc.value}
		}
		if got := send(t, "POST", base+"/v1/credentials", h, tc.body); got.status != http.StatusBadRequest || got.header.Get("X-Credbroker-Error") != "invalid_request" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	for _, name := range []string{"X-Consumer-Id", "X-Credential-Identifier", "X-Authenticated-Groups"} {
		h := gatewayHeader()
		h[name] = []string{"a", "b"}
		if got := send(t, "POST", base+"/v1/credentials", h, `{"role":"r"}`); got.status != http.StatusBadRequest {
			t.Errorf("%s twice: %d %s", name, got.status, got.body)
		}
	}
	if _, n := b.asked(); n != 0 {
		t.Errorf("%d calls reached the pipeline", n)
	}
	// A token in the body is the consumer's, which is verified again.
	if got := send(t, "POST", base+"/v1/credentials", gatewayHeader(), `{"role":"r","jwt":"a"}`); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if req, _ := b.asked(); req.Proof.Kind != attest.KindGateway || req.Forwarded == nil || req.Forwarded.Kind != attest.KindJWT || req.Forwarded.Data.Reveal() != "a" {
		t.Errorf("%+v", req)
	}
	// A header of the word itself that is there twice is as good as none.
	h := gatewayHeader()
	h["X-Credbroker-Gateway-Mac"] = []string{"a", "b"}
	if got := send(t, "POST", base+"/v1/credentials", h, `{"role":"r"}`); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if req, _ := b.asked(); !strings.HasSuffix(req.Proof.Data.Reveal(), "key-1\n") {
		t.Errorf("%q", req.Proof.Data.Reveal())
	}
	for _, path := range []string{"/v1/gateway/sessions", "/v1/credentials/headers", "/jwks", "/.well-known/openid-configuration", "/openapi.yaml"} {
		if got := send(t, "POST", base+path, gatewayHeader(), `{"role":"r"}`); got.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, got.status)
		}
	}
}

// Elsewhere nobody reads identity headers.
func TestIdentityHeadersMeanNothingOnThePublicListener(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	if got := send(t, "POST", base+"/v1/credentials", gatewayHeader(), `{"role":"r"}`); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if req, _ := b.asked(); req.Proof.Kind != "" || !req.Proof.Data.IsZero() {
		t.Errorf("%+v", req.Proof)
	}
}

func TestGatewaySessionsOverBothTransports(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	got := send(t, "POST", base+"/v1/gateway/sessions", bearerHeader("t"), `{"role":"kong","ttl_seconds":60}`)
	want := `{"key_id":"KEYID","key":"AP8ta2V5","expires_at":"2030-01-02T03:04:05Z","role":"kong","request_id":"` + got.header.Get("X-Request-Id") + `"}`
	req, _ := b.asked()
	if got.status != http.StatusOK || got.body != want || got.header.Get("Cache-Control") != "no-store" || req.Role != "kong" || req.TTL != time.Minute || req.Proof.Kind != attest.KindJWT {
		t.Errorf("%d %s\nwant %s\n%+v", got.status, got.body, want, req)
	}
	for _, body := range []string{`{}`, `{"role":"kong","policy":"{}"}`, `{"role":"kong","actor":{"jwt":"a"}}`, `{"role":"kong","ttl_seconds":0}`} {
		if got := send(t, "POST", base+"/v1/gateway/sessions", bearerHeader("t"), body); got.status != http.StatusBadRequest {
			t.Errorf("%s: %d", body, got.status)
		}
	}
	b.fail(attest.ErrUnavailable)
	if got := send(t, "POST", base+"/v1/gateway/sessions", bearerHeader("t"), `{"role":"kong"}`); got.status != http.StatusServiceUnavailable || strings.Contains(got.body, "key_id") {
		t.Errorf("%d %s", got.status, got.body)
	}
	b.fail(nil)
	conn, _ := grpcServer(t, b, alwaysReady)
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	answer, err := client.OpenGatewaySession(t.Context(), &brokerv1.OpenGatewaySessionRequest{Proof: jwtProof("t"), Role: "kong", Ttl: durationpb.New(time.Minute)})
	req, _ = b.asked()
	if err != nil || answer.GetKeyId() != "KEYID" || string(answer.GetKey()) != "\x00\xff-key" || answer.GetRole() != "kong" || answer.GetExpiresAt().AsTime().Year() != 2030 ||
		answer.GetRequestId() == "" || req.TTL != time.Minute || req.Proof.Kind != attest.KindJWT {
		t.Errorf("%+v, %v", answer, err)
	}
	for _, in := range []*brokerv1.OpenGatewaySessionRequest{{Proof: jwtProof("t")}, {Proof: jwtProof("t"), Role: "r", Ttl: durationpb.New(time.Millisecond)}} {
		if _, err := client.OpenGatewaySession(t.Context(), in); err == nil {
			t.Errorf("%+v was taken", in)
		}
	}
	b.fail(attest.ErrRejected)
	if _, err := client.OpenGatewaySession(t.Context(), &brokerv1.OpenGatewaySessionRequest{Proof: jwtProof("t"), Role: "kong"}); err == nil {
		t.Error("taken")
	}
}
