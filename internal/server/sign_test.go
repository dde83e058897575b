package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/credbroker/credbroker/internal/attest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

const signBody = `{"role":"r","expires_in_seconds":5,"requests":[{"method":"GET","bucket":"b-1","key":"a \u00fc","query":{"x":"y"},"headers":{"range":"z"},` +
	`"payload_hash":"h","virtual_host":true,"endpoint":"https://e"}]}`

func TestSigningIsDecodedAndAnswered(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	conn, _ := grpcServer(t, b, alwaysReady)
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	check := func(presign bool) {
		t.Helper()
		b.mu.Lock()
		defer b.mu.Unlock()
		r := b.signing
		if r.Presign != presign || r.Window != 5*time.Second || r.Role != "r" || r.Proof.Kind != attest.KindJWT || len(r.Items) != 1 ||
			fmt.Sprint(r.Items[0]) != "{{GET b-1 a ü map[x:y] map[range:z] h} https://e true}" {
			t.Errorf("%+v", r)
		}
	}
	for path, presign := range map[string]bool{"/v1/sign": false, "/v1/presign": true} {
		got := send(t, "POST", base+path, bearerHeader("t"), signBody)
		want := `{"signed":[{"method":"GET","url":"https://minio/b-1/k?x=y","host":"minio","path":"/b-1/k","query":"x=y","headers":{"authorization":"AWS4 <` + "\ufffd" + `>"}}],` +
			`"access_key_id":"AKIATEST","expires_at":"2030-01-02T03:04:05Z","role":"reports","request_id":"` + got.header.Get("X-Request-Id") + `"}`
		if got.status != http.StatusOK || got.body != want || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %s", got.status, got.body)
		}
		check(presign)
	}
	items := []*brokerv1.S3Request{{
		Method: "GET", Bucket: "b-1", Key: "a ü", Query: map[string]string{"x": "y"}, Headers: map[string]string{"range": "z"}, PayloadHash: "h", VirtualHost: true, Endpoint: "https://e",
	}}
	proof := &brokerv1.Proof{Proof: &brokerv1.Proof_Jwt{Jwt: "t"}}
	if _, err := client.SignRequest(t.Context(), &brokerv1.SignRequestRequest{Proof: proof, Requests: items}); err == nil {
		t.Error("without a role")
	}
	if _, err := client.PresignURL(t.Context(), &brokerv1.PresignURLRequest{Proof: proof, Role: "r", Requests: items, Window: durationpb.New(time.Millisecond)}); err == nil {
		t.Error("a window of a millisecond")
	}
	if _, err := client.PresignURL(t.Context(), &brokerv1.PresignURLRequest{Proof: proof, Role: "r", Requests: items, Window: durationpb.New(5 * time.Second)}); err == nil {
		t.Error("a header that is not UTF-8 went by gRPC")
	}
	check(true)
}

func TestSigningsFormIsStrict(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	good := func(changed ...string) string { return strings.NewReplacer(changed...).Replace(signBody) }
	for name, body := range map[string]string{
		"no body": "", "a list": "[]", "no role": good(`"role":"r",`, ""), "no requests": `{"role":"r"}`, "an empty list": `{"role":"r","requests":[]}`,
		"17 requests":         `{"role":"r","requests":[{}` + strings.Repeat(",{}", 16) + `]}`,
		"another field":       good(`"role"`, `"more":1,"role"`),
		"a field of requests": good(`"method"`, `"more":1,"method"`),
		"a doubled name":      good(`"key":`, `"key":"b","key":`),
		"a doubled parameter": good(`"x":"y"`, `"x":"y","x":"z"`),
		"another case":        good(`"bucket"`, `"Bucket"`),
		"0 seconds":           good(`":5`, `":0`), "61 seconds": good(`":5`, `":61`), "half a second": good(`":5`, `":0.5`), "seconds in text": good(`":5`, `":"5"`),
		"a policy": good(`"role"`, `"policy":"{}","role"`), "two proofs": good(`"role"`, `"jwt":"a","aws_proof":"b","role"`), "a proof beside the header's": good(`"role"`, `"jwt":"a","role"`),
		"an actor of nothing": good(`"role"`, `"actor":{},"role"`), "an actor of two": good(`"role"`, `"actor":{"jwt":"a","peer_certificate":true},"role"`),
		"more after it": signBody + "{}", "not UTF-8": good(`"a \u00fc"`, "\"\xff\""), "a number for a key": good(`"a \u00fc"`, "7"),
	} {
		if got := send(t, "POST", base+"/v1/sign", bearerHeader("t"), body); got.status != http.StatusBadRequest || got.header.Get("X-Credbroker-Error") != "invalid_request" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	if _, n := b.asked(); n != 0 {
		t.Errorf("%d calls reached the pipeline", n)
	}
	for _, body := range []string{good(`"role"`, `"jwt":"a","role"`), good(`"role"`, `"aws_proof":"a","role"`)} {
		if got := send(t, "POST", base+"/v1/sign", http.Header{"Content-Type": {"application/json"}}, body); got.status != http.StatusOK {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	if got := send(t, "POST", base+"/v1/sign", bearerHeader("t"), good(`"role"`, `"actor":{"jwt":"a"},"role"`)); got.status != http.StatusOK {
		t.Errorf("%d %s", got.status, got.body)
	} else if req, _ := b.asked(); req.Actor == nil || req.Actor.Data.Reveal() != "a" {
		t.Errorf("%+v", req)
	}
}

// Gateways sign on their listener, in a consumer's name.
func TestGatewaysSign(t *testing.T) {
	b := &fakeBroker{}
	base := gatewayServer(t, b)
	for _, path := range []string{"/v1/sign", "/v1/presign"} {
		got := send(t, "POST", base+path, gatewayHeader(), signBody)
		req, _ := b.asked()
		if got.status != http.StatusOK || req.Proof.Kind != attest.KindGateway || !strings.Contains(req.Proof.Data.Reveal(), "\n"+path+"\n") {
			t.Errorf("%d %s %+v", got.status, got.body, req)
		}
	}
}

func FuzzDecodeSign(f *testing.F) {
	f.Add([]byte(signBody))
	f.Add([]byte(`{"role":"r","requests":[{}],"actor":{"peer_certificate":true},"jwt":"a"}`))
	f.Add([]byte(`{"role":"r","requests":[null],"expires_in_seconds":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, b, err := decodeSign(data)
		if err != nil {
			return
		}
		if in.Role == "" || len(in.Requests) == 0 || len(in.Requests) > 16 || in.Seconds != nil && (*in.Seconds < 1 || *in.Seconds > 60) {
			t.Errorf("%+v", in)
		}
		if b.actor != nil && !b.actor.peer && b.actor.proof.Data.IsZero() {
			t.Errorf("%+v", b.actor)
		}
	})
}
