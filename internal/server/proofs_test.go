package server

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/credbroker/credbroker/internal/attest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

func jwtProof(token string) *brokerv1.Proof {
	return &brokerv1.Proof{Proof: &brokerv1.Proof_Jwt{Jwt: token}}
}

var peerCertificate = &brokerv1.Proof{Proof: &brokerv1.Proof_PeerCertificate{PeerCertificate: &brokerv1.PeerCertificate{}}}

// requesting makes a listener that asks for certificates without holding them against roots.
func requesting(t *testing.T, ca *authority) *Listener {
	t.Helper()
	files := ca.files(nil)
	files.Request = true
	l, err := Listen("127.0.0.1:0", files, ListenOptions{MaxConns: 10})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A client certificate is the proof where there is no other, and nowhere else; as an actor's it is asked for by name.
func TestClientCertificatesAsProofOverGRPC(t *testing.T) {
	ca, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
	b := &fakeBroker{}
	o, _ := testOptions()
	address := serving(t, NewGRPC(requesting(t, ca), b, alwaysReady, o))
	dialWith := func(cfg *tls.Config) brokerv1.CredentialBrokerServiceClient {
		return brokerv1.NewCredentialBrokerServiceClient(dial(t, address, grpc.WithTransportCredentials(credentials.NewTLS(cfg))))
	}
	known, unknown := dialWith(ca.client(clients)), dialWith(ca.client(nil))
	for name, tc := range map[string]struct {
		client       brokerv1.CredentialBrokerServiceClient
		proof, actor *brokerv1.Proof
		want, acts   attest.Kind
		hasActor     bool
	}{
		"nothing else":           {known, nil, nil, attest.KindX509, "", false},
		"an empty proof":         {known, &brokerv1.Proof{}, nil, attest.KindX509, "", false},
		"by name":                {known, peerCertificate, nil, attest.KindX509, "", false},
		"beside a token":         {known, jwtProof("a"), nil, attest.KindJWT, "", false},
		"beside an empty token":  {known, jwtProof(""), nil, "", "", false},
		"an actor":               {known, jwtProof("a"), peerCertificate, attest.KindJWT, attest.KindX509, true},
		"an actor's token":       {known, jwtProof("a"), jwtProof("b"), attest.KindJWT, attest.KindJWT, true},
		"an empty actor":         {known, jwtProof("a"), &brokerv1.Proof{}, attest.KindJWT, "", true},
		"an actor without token": {known, jwtProof("a"), jwtProof(""), attest.KindJWT, "", true},
		"none":                   {unknown, nil, nil, "", "", false},
		"none by name":           {unknown, peerCertificate, nil, "", "", false},
		"an actor without one":   {unknown, jwtProof("a"), peerCertificate, attest.KindJWT, "", true},
	} {
		calls := map[string]func() error{
			"issue": func() error {
				_, err := tc.client.IssueCredentials(t.Context(), &brokerv1.IssueCredentialsRequest{Proof: tc.proof, ActorProof: tc.actor, Role: "r"})
				return err
			},
			"explain": func() error {
				_, err := tc.client.ExplainAccess(t.Context(), &brokerv1.ExplainAccessRequest{Proof: tc.proof, ActorProof: tc.actor})
				return err
			},
			"list": func() error {
				_, err := tc.client.ListRoles(t.Context(), &brokerv1.ListRolesRequest{Proof: tc.proof, ActorProof: tc.actor})
				return err
			},
		}
		for method, call := range calls {
			if err := call(); err != nil {
				t.Fatal(err)
			}
			req, _ := b.asked()
			if req.Proof.Kind != tc.want || (req.Actor != nil) != tc.hasActor || req.Actor != nil && req.Actor.Kind != tc.acts {
				t.Errorf("%s, %s: %+v, actor %+v", name, method, req.Proof, req.Actor)
			}
			if tc.want == attest.KindX509 && commonName(t, b) != "client" {
				t.Errorf("%s: not the client's certificate", name)
			}
		}
	}
}

func TestClientCertificatesAsProofOverHTTP(t *testing.T) {
	ca, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
	b := &fakeBroker{}
	o, _ := testOptions()
	address := serving(t, NewHTTP(requesting(t, ca), b, fakeDocuments{}, o))
	client := func(cfg *tls.Config) *http.Client {
		transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	known, unknown := client(ca.client(clients)), client(ca.client(nil))
	for name, tc := range map[string]struct {
		client              *http.Client
		authorization, body string
		want, acts          attest.Kind
		hasActor            bool
	}{
		"nothing else":          {known, "", `{"role":"r"}`, attest.KindX509, "", false},
		"beside a token":        {known, "Bearer a", `{"role":"r"}`, attest.KindJWT, "", false},
		"beside another scheme": {known, "Basic a", `{"role":"r"}`, "", "", false},
		"beside an empty token": {known, "", `{"role":"r","jwt":""}`, "", "", false},
		"an actor":              {known, "Bearer a", `{"role":"r","actor":{"peer_certificate":true}}`, attest.KindJWT, attest.KindX509, true},
		"an actor's token":      {known, "", `{"role":"r","actor":{"jwt":"b"}}`, attest.KindX509, attest.KindJWT, true},
		"an empty actor":        {known, "Bearer a", `{"role":"r","actor":{"jwt":""}}`, attest.KindJWT, "", true},
		"an actor's request":    {unknown, "Bearer a", `{"role":"r","actor":{"aws_proof":"b"}}`, attest.KindJWT, attest.KindAWS, true},
		"none":                  {unknown, "", `{"role":"r"}`, "", "", false},
		"an actor without one":  {unknown, "Bearer a", `{"role":"r","actor":{"peer_certificate":true}}`, attest.KindJWT, "", true},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+"/v1/credentials", strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if tc.authorization != "" {
			req.Header.Set("Authorization", tc.authorization)
		}
		resp, err := tc.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		got, _ := b.asked()
		if resp.StatusCode != http.StatusOK || got.Proof.Kind != tc.want || (got.Actor != nil) != tc.hasActor || got.Actor != nil && got.Actor.Kind != tc.acts {
			t.Errorf("%s: %d, %+v, actor %+v", name, resp.StatusCode, got.Proof, got.Actor)
		}
	}
}
