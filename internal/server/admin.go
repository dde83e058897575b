package server

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/revocation"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// Admin is what operators may do with the process.
type Admin interface {
	// Reload reads the configuration again. Faults of the configuration are part of the result, not an error.
	Reload(ctx context.Context) (ReloadResult, error)
	Status() Status
}

// ReloadResult is what became of a reload.
type ReloadResult struct {
	// RuleSet is the version of the rules in force after it.
	RuleSet string
	// Faults are why the configuration was refused; empty if it is in force.
	Faults []string
	// NeedsRestart are the settings that changed but stay as they are until a restart.
	NeedsRestart []string
}

// Status is what GetStatus reports.
type Status struct {
	Version       string
	StartedAt     time.Time
	RuleSet       string
	Roles         int
	RulesLoadedAt time.Time
	Readiness     Readiness
	KeyIDs        []string
	CacheEntries  int64
	CacheBytes    int64
	Revocations   int
}

// NewAdmin returns the server of AdminService. Whoever can connect to its listener may use all of it.
func NewAdmin(l *Listener, b Broker, a Admin, o Options) *Server {
	s, server := serveGRPC(l, interceptors{opts: o, note: noteAdminCall(o.Log)}, func() {})
	brokerv1.RegisterAdminServiceServer(s, &adminAPI{broker: b, admin: a})
	return server
}

// noteAdminCall logs who called what, and how it ended.
func noteAdminCall(log *slog.Logger) func(context.Context, string, error) {
	return func(ctx context.Context, method string, err error) {
		log.LogAttrs(ctx, slog.LevelInfo, "admin call",
			slog.String("request_id", correlationOf(ctx).RequestID), slog.String("method", method),
			slog.String("peer", adminPeer(ctx)), slog.String("code", Code(err)))
	}
}

// adminPeer names the caller: its process at a Unix socket, else its certificate and address.
func adminPeer(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
		cert := info.State.PeerCertificates[0]
		return clip(cert.Subject.String()) + " serial " + cert.SerialNumber.String() + " from " + p.Addr.String()
	}
	return p.Addr.String()
}

type adminAPI struct {
	brokerv1.UnimplementedAdminServiceServer
	broker Broker
	admin  Admin
}

// Explain implements brokerv1.AdminServiceServer.
func (a *adminAPI) Explain(_ context.Context, in *brokerv1.ExplainRequest) (*brokerv1.ExplainResponse, error) {
	switch q := in.GetQuestion().(type) {
	case *brokerv1.ExplainRequest_RequestId:
		e, err := a.broker.ExplainDecision(q.RequestId)
		if err != nil {
			return nil, err
		}
		return explainedToProto(e), nil
	case *brokerv1.ExplainRequest_Hypothesis:
		id, err := identityFromProto(q.Hypothesis.GetIdentity(), maxActors)
		if err != nil {
			return nil, err
		}
		if q.Hypothesis.GetRole() == "" {
			return nil, invalid(`"role" is missing`)
		}
		return explainedToProto(a.broker.ExplainIdentity(*id, q.Hypothesis.GetRole())), nil
	default:
		return nil, invalid("no question")
	}
}

// ReloadRules implements brokerv1.AdminServiceServer.
func (a *adminAPI) ReloadRules(ctx context.Context, _ *brokerv1.ReloadRulesRequest) (*brokerv1.ReloadRulesResponse, error) {
	r, err := a.admin.Reload(ctx)
	if err != nil {
		return nil, err
	}
	return &brokerv1.ReloadRulesResponse{RuleSet: r.RuleSet, Faults: r.Faults, NeedsRestart: r.NeedsRestart}, nil
}

// Revoke implements brokerv1.AdminServiceServer. What was revoked but is not known or ended everywhere is no error.
func (a *adminAPI) Revoke(ctx context.Context, in *brokerv1.RevokeRequest) (*brokerv1.RevokeResponse, error) {
	scope := revocation.Scope{Issuer: in.GetIssuer(), Subject: in.GetSubject(), Role: in.GetRole()}
	r, err := a.broker.Revoke(ctx, scope, correlationOf(ctx).RequestID, adminPeer(ctx))
	if r.At.IsZero() {
		return nil, err
	}
	out := &brokerv1.RevokeResponse{RevokedAt: timestamppb.New(r.At)}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			out.Problems = append(out.Problems, strings.ToValidUTF8(strings.TrimSpace(line), "?"))
		}
	}
	return out, nil
}

// GetStatus implements brokerv1.AdminServiceServer.
func (a *adminAPI) GetStatus(context.Context, *brokerv1.GetStatusRequest) (*brokerv1.GetStatusResponse, error) {
	s := a.admin.Status()
	return &brokerv1.GetStatusResponse{
		Version:       s.Version,
		StartedAt:     timestamppb.New(s.StartedAt),
		RuleSet:       s.RuleSet,
		Roles:         int32(s.Roles),
		RulesLoadedAt: timestamppb.New(s.RulesLoadedAt),
		Ready:         s.Readiness.Ready,
		Reasons:       s.Readiness.Reasons,
		KeyIds:        s.KeyIDs,
		CacheEntries:  s.CacheEntries,
		CacheBytes:    s.CacheBytes,
		Revocations:   int32(s.Revocations),
	}, nil
}

// maxActors bounds the chain of actors in a hypothesis.
const maxActors = 4

func identityFromProto(in *brokerv1.Identity, actors int) (*attest.Identity, error) {
	if in == nil || actors < 0 {
		return nil, invalid("the identity is missing, or its chain of actors is too long")
	}
	id := &attest.Identity{
		Kind: attest.Kind(in.GetKind()), Issuer: in.GetIssuer(), Tenant: in.GetTenant(), Subject: in.GetSubject(),
		Attrs: make(map[string][]string, len(in.GetAttributes())),
	}
	for name, values := range in.GetAttributes() {
		id.Attrs[name] = values.GetValues()
	}
	if t := in.GetExpiresAt(); t != nil {
		if !t.IsValid() {
			return nil, invalid("expires_at is no time")
		}
		id.Expires = t.AsTime()
	}
	if in.GetActor() != nil {
		actor, err := identityFromProto(in.GetActor(), actors-1)
		if err != nil {
			return nil, err
		}
		id.Actor = actor
	}
	return id, nil
}

func explainedToProto(e broker.Explained) *brokerv1.ExplainResponse {
	out := &brokerv1.ExplainResponse{
		Identity:      identityToProto(e.Identity),
		Role:          e.Role,
		Allowed:       e.Explanation.Allowed,
		Rule:          e.Explanation.Rule,
		When:          e.Explanation.When,
		Policies:      e.Explanation.Policies,
		SessionPolicy: e.Explanation.SessionPolicy,
		RuleSet:       e.RuleSet,
	}
	for _, f := range e.Explanation.Findings {
		out.Findings = append(out.Findings, &brokerv1.Finding{Check: f.Check, Passed: f.Passed, Detail: strings.ToValidUTF8(f.Detail, "?")})
	}
	if r := e.Recorded; r != nil {
		out.Recorded = &brokerv1.RecordedDecision{
			Time:     timestamppb.New(r.Time),
			Decision: string(r.Decision),
			Code:     r.Code,
			Cause:    strings.ToValidUTF8(r.Cause, "?"), // it may quote its input; protobuf takes nothing else
			RuleSet:  r.RuleSet,
		}
	}
	return out
}
