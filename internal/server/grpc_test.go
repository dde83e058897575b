package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/credbroker/credbroker/internal/attest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

func proofOf(token string) *brokerv1.Proof {
	return &brokerv1.Proof{Proof: &brokerv1.Proof_Jwt{Jwt: token}}
}

func TestGRPCIssue(t *testing.T) {
	b := &fakeBroker{}
	conn, _ := grpcServer(t, b, alwaysReady)
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	resp, err := client.IssueCredentials(t.Context(), &brokerv1.IssueCredentialsRequest{
		Proof: proofOf("a.b.c"), Role: "reports", Policy: "{}", Ttl: durationpb.New(15 * time.Minute),
	})
	if err != nil || resp.GetAccessKeyId() != "AKIATEST" || resp.GetSecretAccessKey() != "s3cr3t/+key" || resp.GetSessionToken() != "t0k.en" ||
		!resp.GetExpiresAt().AsTime().Equal(expires.Truncate(time.Second)) || resp.GetRole() != "reports" || !newID.MatchString(resp.GetRequestId()) {
		t.Errorf("%v, %v", resp, err)
	}
	req, _ := b.asked()
	if req.Proof.Kind != attest.KindJWT || req.Proof.Data.Reveal() != "a.b.c" || req.Role != "reports" || req.Policy != "{}" || req.TTL != 15*time.Minute ||
		!req.Source.IsLoopback() || req.Correlation.RequestID != resp.GetRequestId() {
		t.Errorf("%+v", req)
	}
	if _, err := client.IssueCredentials(t.Context(), &brokerv1.IssueCredentialsRequest{Role: "r"}); err != nil {
		t.Error(err)
	}
	if req, _ := b.asked(); req.Proof.Kind != "" || !req.Proof.Data.IsZero() || req.TTL != 0 {
		t.Errorf("no proof: %+v", req)
	}
}

func TestGRPCExplainAndRoles(t *testing.T) {
	conn, _ := grpcServer(t, &fakeBroker{}, alwaysReady)
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	e, err := client.ExplainAccess(t.Context(), &brokerv1.ExplainAccessRequest{Proof: proofOf("a")})
	id := e.GetIdentity()
	if err != nil || id.GetSubject() != "alice" || id.GetActor().GetSubject() != "gw" || len(id.GetAttributes()["groups"].GetValues()) != 2 ||
		!id.GetExpiresAt().AsTime().Equal(expires) || len(e.GetRoles()) != 1 || e.GetRequestId() == "" {
		t.Errorf("%v, %v", e, err)
	}
	l, err := client.ListRoles(t.Context(), &brokerv1.ListRolesRequest{Proof: proofOf("a")})
	if err != nil || len(l.GetRoles()) != 1 || l.GetRoles()[0].GetMaxTtl().AsDuration() != time.Hour || l.GetRoles()[0].GetDefaultTtl().AsDuration() != 15*time.Minute {
		t.Errorf("%v, %v", l, err)
	}
}

func TestGRPCRequestsWithoutTheDocumentedForm(t *testing.T) {
	b := &fakeBroker{}
	conn, log := grpcServer(t, b, alwaysReady)
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	for name, in := range map[string]*brokerv1.IssueCredentialsRequest{
		"no role":     {Proof: proofOf("planted")},
		"TTL 0":       {Role: "r", Ttl: &durationpb.Duration{}},
		"TTL -1":      {Role: "r", Ttl: &durationpb.Duration{Seconds: -1}},
		"TTL 1.5":     {Role: "r", Ttl: &durationpb.Duration{Seconds: 1, Nanos: 5e8}},
		"TTL invalid": {Role: "r", Ttl: &durationpb.Duration{Seconds: 1, Nanos: -1}},
		"TTL huge":    {Role: "r", Ttl: &durationpb.Duration{Seconds: maxTTLSeconds + 1}},
	} {
		if _, err := client.IssueCredentials(t.Context(), in); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, n := b.asked(); n != 0 || strings.Contains(log.String(), "planted") {
		t.Errorf("%d reached the pipeline; log:\n%s", n, log)
	}
	for _, s := range []int64{1, maxTTLSeconds} {
		if _, err := client.IssueCredentials(t.Context(), &brokerv1.IssueCredentialsRequest{Role: "r", Ttl: &durationpb.Duration{Seconds: s}}); err != nil {
			t.Errorf("TTL %d: %v", s, err)
		}
	}
}

func TestGRPCPanicShowsNothing(t *testing.T) {
	conn, log := grpcServer(t, &fakeBroker{panic: "planted-panic"}, func() Readiness { panic("planted-panic") })
	_, err := brokerv1.NewCredentialBrokerServiceClient(conn).IssueCredentials(t.Context(), &brokerv1.IssueCredentialsRequest{Proof: proofOf("planted-token"), Role: "r"})
	if status.Code(err) != codes.Internal || strings.Contains(fmt.Sprint(status.Convert(err).Proto()), "planted") {
		t.Errorf("%v", err)
	}
	_, err = healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "planted") {
		t.Errorf("Check: %v", err)
	}
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "planted") {
		t.Errorf("Watch: %v", err)
	}
	if l := log.String(); strings.Count(l, "planted-panic") != 3 || !strings.Contains(l, "grpcAPI") || strings.Contains(l, "planted-token") {
		t.Errorf("log:\n%s", l)
	}
}

func TestRequestTimeoutOnBothTransports(t *testing.T) {
	b := &fakeBroker{block: make(chan struct{})}
	o, _ := testOptions()
	o.RequestTimeout = 30 * time.Millisecond
	conn := dial(t, serving(t, NewGRPC(listenLoopback(t, TLSFiles{}), b, alwaysReady, o)))
	_, err := brokerv1.NewCredentialBrokerServiceClient(conn).ListRoles(t.Context(), &brokerv1.ListRolesRequest{})
	if status.Code(err) != codes.DeadlineExceeded || len(status.Convert(err).Details()) == 0 {
		t.Errorf("gRPC: %v", err)
	}
	base := "http://" + serving(t, NewHTTP(listenLoopback(t, TLSFiles{}), b, fakeDocuments{}, o))
	if got := send(t, "GET", base+"/v1/roles", nil, ""); got.status != 504 || got.header.Get("X-Credbroker-Error") != "deadline_exceeded" {
		t.Errorf("HTTP: %+v", got)
	}
}

func TestGRPCHealth(t *testing.T) {
	ready := make(chan bool, 100)
	now := true
	conn, _ := grpcServer(t, &fakeBroker{}, func() Readiness {
		select {
		case now = <-ready:
		default:
		}
		return Readiness{Ready: now}
	})
	client := healthpb.NewHealthClient(conn)
	check := func(service string) (healthpb.HealthCheckResponse_ServingStatus, error) {
		resp, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		return resp.GetStatus(), err
	}
	for _, service := range []string{"", "broker.v1.CredentialBrokerService"} {
		if s, err := check(service); s != healthpb.HealthCheckResponse_SERVING || err != nil {
			t.Errorf("%q: %v, %v", service, s, err)
		}
	}
	if _, err := check("other"); status.Code(err) != codes.NotFound {
		t.Errorf("other: %v", err)
	}
	ready <- false
	if s, err := check(""); s != healthpb.HealthCheckResponse_NOT_SERVING || err != nil {
		t.Errorf("not ready: %v, %v", s, err)
	}
	watch, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := watch.Recv(); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("%v, %v", m, err)
	}
	ready <- true
	if m, err := watch.Recv(); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", m, err)
	}
}

func TestGRPCReflection(t *testing.T) {
	conn, _ := grpcServer(t, &fakeBroker{}, alwaysReady)
	stream, err := reflectpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil || !strings.Contains(fmt.Sprint(resp), "broker.v1.CredentialBrokerService") || strings.Contains(fmt.Sprint(resp), "AdminService") {
		t.Errorf("%v, %v", resp, err)
	}
	_ = stream.CloseSend()
}

func TestGRPCBombsAreBoundedAndOthersUnharmed(t *testing.T) {
	b := &fakeBroker{}
	o, _ := testOptions()
	address := serving(t, NewGRPC(listenLoopback(t, TLSFiles{}), b, alwaysReady, o))
	attacker, other := brokerv1.NewCredentialBrokerServiceClient(dial(t, address)), brokerv1.NewCredentialBrokerServiceClient(dial(t, address))
	big := strings.Repeat("a", maxBodyBytes)
	for range 20 {
		if _, err := attacker.ListRoles(t.Context(), &brokerv1.ListRolesRequest{Proof: proofOf(big)}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("message bomb: %v", err)
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-bomb", big)
		if _, err := attacker.ListRoles(ctx, &brokerv1.ListRolesRequest{}); err == nil {
			t.Error("a metadata bomb passed")
		}
		if _, err := other.ListRoles(t.Context(), &brokerv1.ListRolesRequest{Proof: proofOf(strings.Repeat("t", 16<<10))}); err != nil {
			t.Errorf("another client: %v", err)
		}
	}
	if _, n := b.asked(); n != 20 {
		t.Errorf("%d calls reached the pipeline, want 20", n)
	}
}

func TestGRPCStreamsOfOneConnectionAreBounded(t *testing.T) {
	b := &fakeBroker{block: make(chan struct{}), calls: make(chan struct{}, 2*maxStreams)}
	conn, _ := grpcServer(t, b, alwaysReady)
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	done := make(chan error, maxStreams+20)
	for range maxStreams + 20 {
		go func() {
			_, err := client.ListRoles(context.Background(), &brokerv1.ListRolesRequest{})
			done <- err
		}()
	}
	for range maxStreams {
		<-b.calls
	}
	select {
	case <-b.calls:
		t.Error("more streams than allowed")
	case <-time.After(50 * time.Millisecond):
	}
	close(b.block)
	for range maxStreams + 20 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestGRPCClientCertificateReachesTheProof(t *testing.T) {
	ca, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
	b := &fakeBroker{}
	o, _ := testOptions()
	address := serving(t, NewGRPC(listenLoopback(t, ca.files(clients)), b, alwaysReady, o))
	call := func(cfg *tls.Config) error {
		conn := dial(t, address, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
		_, err := brokerv1.NewCredentialBrokerServiceClient(conn).ListRoles(t.Context(), &brokerv1.ListRolesRequest{})
		return err
	}
	if err := call(ca.client(nil)); err != nil {
		t.Error(err)
	}
	if req, _ := b.asked(); req.Proof.Kind != "" {
		t.Error("a certificate out of nothing")
	}
	if err := call(ca.client(clients)); err != nil {
		t.Error(err)
	}
	if name := commonName(t, b); name != "client" {
		t.Errorf("the proof's certificate is %q", name)
	}
	if err := call(ca.client(newAuthority(t, "strangers"))); status.Code(err) != codes.Unavailable {
		t.Errorf("a stranger's certificate: %v", err)
	}
}
