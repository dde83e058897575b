package server

import (
	"encoding/base64"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/attest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// An AWS proof comes as text over both transports, and by its parts over gRPC.
func TestAWSProofs(t *testing.T) {
	b := &fakeBroker{}
	conn, _ := grpcServer(t, b, alwaysReady)
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	shown := func() string {
		req, _ := b.asked()
		if req.Proof.Kind != attest.KindAWS {
			t.Errorf("a proof of kind %q", req.Proof.Kind)
		}
		return req.Proof.Data.Reveal()
	}
	if _, err := client.ListRoles(t.Context(), &brokerv1.ListRolesRequest{Proof: &brokerv1.Proof{Proof: &brokerv1.Proof_AwsProof{AwsProof: "k8s-aws-v1.x"}}}); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "k8s-aws-v1.x" {
		t.Errorf("as text: %q", got)
	}
	parts := &brokerv1.AwsRequest{Url: "https://sts.amazonaws.com/", Body: "Action=x", Headers: map[string]string{"X-Amz-Date": "d", "é": "\""}}
	if _, err := client.ListRoles(t.Context(), &brokerv1.ListRolesRequest{Proof: &brokerv1.Proof{Proof: &brokerv1.Proof_AwsRequest{AwsRequest: parts}}}); err != nil {
		t.Fatal(err)
	}
	var login, headers map[string]string
	if err := json.Unmarshal([]byte(shown()), &login); err != nil {
		t.Fatal(err)
	}
	decoded := func(name string) string {
		data, err := base64.StdEncoding.DecodeString(login[name])
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	if err := json.Unmarshal([]byte(decoded("iam_request_headers")), &headers); err != nil || len(headers) != 2 || headers["X-Amz-Date"] != "d" || headers["é"] != "\"" {
		t.Errorf("headers %v, %v", headers, err)
	}
	if login["iam_http_request_method"] != "POST" || decoded("iam_request_url") != parts.Url || decoded("iam_request_body") != parts.Body || len(login) != 4 {
		t.Errorf("by its parts: %v", login)
	}

	base, _ := httpServer(t, b)
	plain := map[string][]string{"Content-Type": {"application/json"}}
	if got := send(t, "POST", base+"/v1/credentials", plain, `{"role":"r","aws_proof":"{\"a\":1}"}`); got.status != 200 || shown() != `{"a":1}` {
		t.Errorf("over HTTP: %d %s", got.status, got.body)
	}
	if got := send(t, "POST", base+"/v1/explain", plain, `{"aws_proof":"k8s-aws-v1.y"}`); got.status != 200 || shown() != "k8s-aws-v1.y" {
		t.Errorf("over HTTP: %d %s", got.status, got.body)
	}
	for name, c := range map[string]struct {
		header map[string][]string
		body   string
	}{
		"beside a token":         {plain, `{"role":"r","aws_proof":"a","jwt":"b"}`},
		"beside a bearer token":  {bearerHeader("b"), `{"role":"r","aws_proof":"a"}`},
		"empty, beside a bearer": {bearerHeader("b"), `{"role":"r","aws_proof":""}`},
		"as an object":           {plain, `{"role":"r","aws_proof":{"a":1}}`},
	} {
		if got := send(t, "POST", base+"/v1/credentials", c.header, c.body); got.status != 400 {
			t.Errorf("%s: %d", name, got.status)
		}
	}
}
