package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/revocation"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

type fakeAdmin struct{ err error }

func (f fakeAdmin) Reload(context.Context) (ReloadResult, error) {
	return ReloadResult{RuleSet: "v2", Faults: []string{"broker.yaml:3: x"}, NeedsRestart: []string{"listeners"}}, f.err
}

func (fakeAdmin) Status() Status {
	return Status{
		Version: "v1", StartedAt: expires, RuleSet: "v2", Roles: 3, RulesLoadedAt: expires, Readiness: Readiness{true, []string{"slow"}},
		KeyIDs: []string{"k"}, CacheEntries: 4, CacheBytes: 5, Revocations: 6,
	}
}

// adminServer runs an admin server on a socket.
func adminServer(t *testing.T, b Broker, a Admin) (brokerv1.AdminServiceClient, *grpc.ClientConn, *logged) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := ListenSocket(filepath.Join(dir, "s"), ListenOptions{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	o, log := testOptions()
	serving(t, NewAdmin(l, b, a, o))
	conn := dial(t, "unix:"+filepath.Join(dir, "s"))
	return brokerv1.NewAdminServiceClient(conn), conn, log
}

func TestAdmin(t *testing.T) {
	b := &fakeBroker{}
	client, conn, log := adminServer(t, b, fakeAdmin{})

	s, err := client.GetStatus(t.Context(), &brokerv1.GetStatusRequest{})
	if err != nil || s.GetVersion() != "v1" || !s.GetStartedAt().AsTime().Equal(expires) || s.GetRuleSet() != "v2" || s.GetRoles() != 3 || !s.GetReady() ||
		s.GetReasons()[0] != "slow" || s.GetKeyIds()[0] != "k" || s.GetCacheEntries() != 4 || s.GetCacheBytes() != 5 || s.GetRevocations() != 6 || !s.GetRulesLoadedAt().AsTime().Equal(expires) {
		t.Errorf("%v, %v", s, err)
	}
	r, err := client.ReloadRules(t.Context(), &brokerv1.ReloadRulesRequest{})
	if err != nil || r.GetRuleSet() != "v2" || len(r.GetFaults()) != 1 || len(r.GetNeedsRestart()) != 1 {
		t.Errorf("%v, %v", r, err)
	}
	e, err := client.Explain(t.Context(), &brokerv1.ExplainRequest{Question: &brokerv1.ExplainRequest_RequestId{RequestId: "req-9"}})
	if err != nil || e.GetRecorded().GetCause() != "bad ?" || e.GetIdentity().GetSubject() != "alice" || !e.GetAllowed() || e.GetRuleSet() != "req-9" || len(e.GetFindings()) != 1 {
		t.Errorf("%v, %v", e, err)
	}
	b.fail(fmt.Errorf("%w: x", broker.ErrUnknownRequest))
	if _, err := client.Explain(t.Context(), &brokerv1.ExplainRequest{Question: &brokerv1.ExplainRequest_RequestId{}}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown request: %v", err)
	}

	want := fmt.Sprintf(`peer="unix uid=%d gid=%d pid=%d"`, os.Getuid(), os.Getgid(), os.Getpid())
	if l := log.String(); strings.Count(l, want) != 4 || !strings.Contains(l, "/broker.v1.AdminService/ReloadRules") || !strings.Contains(l, "code=not_found") {
		t.Errorf("log:\n%s", l)
	}
	// The public service is not there.
	if _, err := brokerv1.NewCredentialBrokerServiceClient(conn).ListRoles(t.Context(), &brokerv1.ListRolesRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("the public service on the admin socket: %v", err)
	}
}

func TestAdminRevokes(t *testing.T) {
	b := &fakeBroker{revocation: revocation.Revocation{At: expires}}
	client, _, log := adminServer(t, b, fakeAdmin{})
	r, err := client.Revoke(t.Context(), &brokerv1.RevokeRequest{Issuer: "https://idp", Subject: "alice"})
	if err != nil || !r.GetRevokedAt().AsTime().Equal(expires) || len(r.GetProblems()) != 0 {
		t.Errorf("%v, %v", r, err)
	}
	if b.revoked != (revocation.Scope{Issuer: "https://idp", Subject: "alice"}) || b.revokedID == "" || !strings.Contains(b.revokedBy, "uid") {
		t.Errorf("%+v by %q, request %q", b.revoked, b.revokedBy, b.revokedID)
	}
	// What is left to do isn't an error: it is revoked.
	b.err = errors.Join(fmt.Errorf("%w: Redis is away", revocation.ErrNotShared), fmt.Errorf("%w: Vault is sealed", revocation.ErrNotEnded))
	r, err = client.Revoke(t.Context(), &brokerv1.RevokeRequest{Role: "reports"})
	if err != nil || len(r.GetProblems()) != 2 || !strings.Contains(r.GetProblems()[0], "Redis is away") || !strings.Contains(r.GetProblems()[1], "Vault is sealed") || b.revoked.Role != "reports" {
		t.Errorf("%v, %v", r, err)
	}
	b.err, b.revocation = revocation.ErrInvalid, revocation.Revocation{}
	if _, err := client.Revoke(t.Context(), &brokerv1.RevokeRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "Revoke") {
		t.Error("the call isn't logged")
	}
}

func TestPublicListenerHasNoAdminService(t *testing.T) {
	conn, _ := grpcServer(t, &fakeBroker{}, alwaysReady)
	if _, err := brokerv1.NewAdminServiceClient(conn).GetStatus(t.Context(), &brokerv1.GetStatusRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v", err)
	}
}

func TestAdminHypothesis(t *testing.T) {
	client, _, _ := adminServer(t, &fakeBroker{}, fakeAdmin{err: errors.New("planted")})
	ask := func(h *brokerv1.Hypothesis) (*brokerv1.ExplainResponse, error) {
		return client.Explain(t.Context(), &brokerv1.ExplainRequest{Question: &brokerv1.ExplainRequest_Hypothesis{Hypothesis: h}})
	}
	chain := func(n int) *brokerv1.Identity {
		id := &brokerv1.Identity{Kind: "oidc", Issuer: "i", Tenant: "t", Subject: "s", ExpiresAt: timestamppb.New(expires), Attributes: map[string]*brokerv1.AttributeValues{"g": {Values: []string{"a"}}}}
		for range n {
			id = &brokerv1.Identity{Subject: "s", Actor: id}
		}
		return id
	}
	e, err := ask(&brokerv1.Hypothesis{Identity: chain(0), Role: "r"})
	id := e.GetIdentity()
	if err != nil || e.GetRole() != "r" || id.GetKind() != "oidc" || id.GetIssuer() != "i" || id.GetTenant() != "t" || id.GetSubject() != "s" ||
		!id.GetExpiresAt().AsTime().Equal(expires) || id.GetAttributes()["g"].GetValues()[0] != "a" || e.GetRecorded() != nil {
		t.Errorf("%v, %v", e, err)
	}
	if _, err := ask(&brokerv1.Hypothesis{Identity: chain(maxActors), Role: "r"}); err != nil {
		t.Errorf("longest chain: %v", err)
	}
	for name, h := range map[string]*brokerv1.Hypothesis{
		"no identity": {Role: "r"}, "no role": {Identity: chain(0)}, "chain too long": {Identity: chain(maxActors + 1), Role: "r"},
		"no time": {Identity: &brokerv1.Identity{ExpiresAt: &timestamppb.Timestamp{Nanos: -1}}, Role: "r"},
	} {
		if _, err := ask(h); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.Explain(t.Context(), &brokerv1.ExplainRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no question: %v", err)
	}
	if _, err := client.ReloadRules(t.Context(), &brokerv1.ReloadRulesRequest{}); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "planted") {
		t.Errorf("failed reload: %v", err)
	}
}

func TestAdminOverTCPNeedsAClientCertificate(t *testing.T) {
	ca, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
	l, err := Listen("127.0.0.1:0", ca.files(clients), ListenOptions{MaxConns: 4, RequireClientCert: true})
	if err != nil {
		t.Fatal(err)
	}
	o, log := testOptions()
	address := serving(t, NewAdmin(l, &fakeBroker{}, fakeAdmin{}, o))
	for name, c := range map[string]struct {
		from *authority
		want codes.Code
	}{"none": {nil, codes.Unavailable}, "a stranger's": {newAuthority(t, "strangers"), codes.Unavailable}, "the right one": {clients, codes.OK}} {
		conn := dial(t, address, grpc.WithTransportCredentials(credentials.NewTLS(ca.client(c.from))))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if _, err := brokerv1.NewAdminServiceClient(conn).GetStatus(ctx, &brokerv1.GetStatusRequest{}); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if l := log.String(); strings.Count(l, "admin call") != 1 || !strings.Contains(l, `peer="CN=client serial `) {
		t.Errorf("log:\n%s", l)
	}
}
