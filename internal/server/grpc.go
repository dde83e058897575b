package server

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/go-json-experiment/json"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// NewGRPC returns the public gRPC server: CredentialBrokerService, health (from ready) and reflection.
func NewGRPC(l *Listener, b Broker, ready func() Readiness, o Options) *Server {
	health := newHealth(ready)
	s, server := serveGRPC(l, interceptors{opts: o}, health.stop)
	brokerv1.RegisterCredentialBrokerServiceServer(s, &grpcAPI{broker: b})
	grpc_health_v1.RegisterHealthServer(s, health)
	reflection.Register(s)
	return server
}

// serveGRPC makes a gRPC server and the Server around it. stopping is called once a shutdown begins.
func serveGRPC(l *Listener, i interceptors, stopping func()) (*grpc.Server, *Server) {
	creds := insecure.NewCredentials()
	if l.Certificates != nil {
		creds = credentials.NewTLS(l.Certificates.Config())
	}
	s := grpc.NewServer(
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(maxBodyBytes),
		grpc.MaxHeaderListSize(maxMetadataBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.StaticStreamWindowSize(maxBodyBytes), // fixed: it would grow with what a peer sends
		grpc.InTapHandle(admitStreams(i.opts.RequestTimeout)),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: idleTimeout,
			// A long-lived client keeps its replica, but not for ever.
			MaxConnectionAge:      30 * time.Minute,
			MaxConnectionAgeGrace: time.Minute,
			Time:                  2 * time.Minute,
			Timeout:               20 * time.Second,
		}),
		// Clients may look after their connections, but not by the second.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 15 * time.Second, PermitWithoutStream: true}),
		// Kept goroutines keep their stacks, which a call's depth would grow anew each time.
		grpc.NumStreamWorkers(streamWorkers),
		grpc.UnaryInterceptor(i.unary),
		grpc.StreamInterceptor(i.stream),
	)
	return s, &Server{
		listener: l,
		serve:    func() error { return s.Serve(l.Listener) },
		drain: func(ctx context.Context) error {
			stopping()
			done := make(chan struct{})
			go func() { // Stop makes it return
				s.GracefulStop()
				close(done)
			}()
			select {
			case <-done:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		cut: s.Stop,
	}
}

// admitStreams bounds streams from their first frame, when no interceptor has seen them: how many there are, how many of them
// are one peer's, and how long a call may take with its message. A stream may hold 64 KiB that nobody has asked for yet.
func admitStreams(requestTimeout time.Duration) tap.ServerInHandle {
	open := newSources(maxOpenStreams, maxOpenStreams/2)
	return func(ctx context.Context, info *tap.Info) (context.Context, error) {
		var host netip.Addr
		if p, ok := peer.FromContext(ctx); ok {
			host = hostOf(p.Addr)
		}
		if !open.take(host) {
			if _, limited := ctx.Deadline(); !limited {
				return nil, errTooManyStreams
			}
			// grpc-go (1.85) keeps the timer of a stream that is refused here until it fires, and the peer says when. One that is
			// let in for a moment is ended with its timer.
			short, cancel := context.WithTimeout(ctx, refusalTime) //nolint:gosec // the stream's end ends it
			return context.WithValue(short, admittedKey{}, &admitted{cancel: cancel, refused: true}), nil
		}
		if info.FullMethodName == grpc_health_v1.Health_Watch_FullMethodName { // it lasts
			context.AfterFunc(ctx, func() { open.drop(host) })
			return ctx, nil
		}
		// The time of the whole call, its message included. It becomes the stream's own, so that ending it by hand would
		// lose the answer; the stream's end ends it.
		timed, cancel := context.WithTimeout(ctx, requestTimeout) //nolint:gosec // see above
		c := &admitted{cancel: cancel, drop: func() { open.drop(host) }}
		c.stop = context.AfterFunc(ctx, c.drop)
		return context.WithValue(timed, admittedKey{}, c), nil
	}
}

// admitted is a call whose stream was let in. If its message comes, the interceptor sees to its end; else the end of its
// stream does, which costs a goroutine.
type admitted struct {
	cancel  context.CancelFunc // never called: see above
	refused bool               // and so none of the rest
	drop    func()
	stop    func() bool
	corr    exchange.Correlation
}

var errTooManyStreams = status.Error(codes.ResourceExhausted, overloaded.message)

type admittedKey struct{}

func admittedOf(ctx context.Context) *admitted {
	a, _ := ctx.Value(admittedKey{}).(*admitted)
	return a
}

// end is called when the handler is done.
func (a *admitted) end() {
	if a.stop() {
		a.drop()
	}
}

// grpcAPI serves CredentialBrokerService. Its methods return the pipeline's errors; the interceptor makes statuses of them.
type grpcAPI struct {
	brokerv1.UnimplementedCredentialBrokerServiceServer
	broker Broker
}

// IssueCredentials implements brokerv1.CredentialBrokerServiceServer.
func (a *grpcAPI) IssueCredentials(ctx context.Context, in *brokerv1.IssueCredentialsRequest) (*brokerv1.IssueCredentialsResponse, error) {
	req := requestOf(ctx, in.GetProof(), in.GetActorProof())
	if in.GetRole() == "" {
		return nil, invalid(`"role" is missing`)
	}
	req.Role, req.Policy = in.GetRole(), in.GetPolicy()
	var err error
	if req.TTL, err = ttlOf(in.GetTtl()); err != nil {
		return nil, err
	}
	issued, err := a.broker.Issue(ctx, req)
	if err == nil {
		err = sendable(issued)
	}
	if err != nil {
		return nil, err
	}
	return &brokerv1.IssueCredentialsResponse{
		AccessKeyId:     issued.AccessKeyID,
		SecretAccessKey: issued.SecretAccessKey.Reveal(),
		SessionToken:    issued.SessionToken.Reveal(),
		ExpiresAt:       timestamppb.New(issued.Expires.Truncate(time.Second)),
		Role:            issued.Role,
		RequestId:       req.Correlation.RequestID,
	}, nil
}

// ExplainAccess implements brokerv1.CredentialBrokerServiceServer.
func (a *grpcAPI) ExplainAccess(ctx context.Context, in *brokerv1.ExplainAccessRequest) (*brokerv1.ExplainAccessResponse, error) {
	req := requestOf(ctx, in.GetProof(), in.GetActorProof())
	access, err := a.broker.ExplainAccess(ctx, req)
	if err != nil {
		return nil, err
	}
	return &brokerv1.ExplainAccessResponse{
		Identity:  identityToProto(&access.Identity),
		Roles:     rolesToProto(access.Roles),
		RequestId: req.Correlation.RequestID,
	}, nil
}

// ListRoles implements brokerv1.CredentialBrokerServiceServer.
func (a *grpcAPI) ListRoles(ctx context.Context, in *brokerv1.ListRolesRequest) (*brokerv1.ListRolesResponse, error) {
	req := requestOf(ctx, in.GetProof(), in.GetActorProof())
	roles, err := a.broker.ListRoles(ctx, req)
	if err != nil {
		return nil, err
	}
	return &brokerv1.ListRolesResponse{Roles: rolesToProto(roles), RequestId: req.Correlation.RequestID}, nil
}

// OpenGatewaySession implements brokerv1.CredentialBrokerServiceServer.
func (a *grpcAPI) OpenGatewaySession(ctx context.Context, in *brokerv1.OpenGatewaySessionRequest) (*brokerv1.OpenGatewaySessionResponse, error) {
	req := requestOf(ctx, in.GetProof(), nil)
	if in.GetRole() == "" {
		return nil, invalid(`"role" is missing`)
	}
	req.Role = in.GetRole()
	var err error
	if req.TTL, err = ttlOf(in.GetTtl()); err != nil {
		return nil, err
	}
	opened, err := a.broker.OpenGatewaySession(ctx, req)
	if err != nil {
		return nil, err
	}
	return &brokerv1.OpenGatewaySessionResponse{
		KeyId: opened.KeyID, Key: []byte(opened.Key.Reveal()), ExpiresAt: timestamppb.New(opened.Expires), Role: opened.Role,
		RequestId: req.Correlation.RequestID,
	}, nil
}

// ttlOf is zero if there is none.
func ttlOf(ttl *durationpb.Duration) (time.Duration, error) {
	if ttl == nil {
		return 0, nil
	}
	if !ttl.IsValid() || ttl.GetNanos() != 0 || ttl.GetSeconds() < 1 || ttl.GetSeconds() > maxTTLSeconds {
		return 0, invalid("the TTL is not a whole number of seconds, at least 1")
	}
	return ttl.AsDuration(), nil
}

// requestOf is what every call has: the proofs, the correlation and the peer.
func requestOf(ctx context.Context, proof, actor *brokerv1.Proof) broker.Request {
	req := broker.Request{Correlation: correlationOf(ctx)}
	var state *tls.ConnectionState
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			state = &info.State
		}
		if tcp, ok := p.Addr.(*net.TCPAddr); ok {
			if addr, ok := netip.AddrFromSlice(tcp.IP); ok {
				req.Source = addr.Unmap()
			}
		}
	}
	if proof.GetProof() == nil {
		req.Proof = peerProof(state)
	} else {
		req.Proof = proofIn(proof, state)
	}
	if actor != nil {
		p := proofIn(actor, state)
		req.Actor = &p
	}
	return req
}

// proofIn is the proof that a message holds, or none.
func proofIn(in *brokerv1.Proof, state *tls.ConnectionState) attest.Proof {
	switch proof := in.GetProof().(type) {
	case *brokerv1.Proof_Jwt:
		return newProof(attest.KindJWT, proof.Jwt)
	case *brokerv1.Proof_AwsProof:
		return newProof(attest.KindAWS, proof.AwsProof)
	case *brokerv1.Proof_AwsRequest:
		return newProof(attest.KindAWS, awsLoginData(proof.AwsRequest))
	case *brokerv1.Proof_PeerCertificate:
		return peerProof(state)
	}
	return attest.Proof{}
}

// peerProof is the client certificate as a proof, or none.
func peerProof(state *tls.ConnectionState) attest.Proof {
	if state == nil {
		return attest.Proof{}
	}
	var der []byte
	for _, c := range state.PeerCertificates {
		der = append(der, c.Raw...)
	}
	return newProof(attest.KindX509, string(der))
}

// newProof is a proof, or none if it is empty.
func newProof(kind attest.Kind, data string) attest.Proof {
	if data == "" {
		return attest.Proof{}
	}
	return attest.Proof{Kind: kind, Data: secret.New(data)}
}

// awsLoginData writes a request by its parts as login data, the one form that is parsed.
func awsLoginData(r *brokerv1.AwsRequest) string {
	headers, err := json.Marshal(r.GetHeaders())
	if err != nil { // not UTF-8, which proto's strings are
		return ""
	}
	b64 := base64.StdEncoding.EncodeToString
	data, err := json.Marshal(map[string]string{
		"iam_http_request_method": http.MethodPost, "iam_request_url": b64([]byte(r.GetUrl())), "iam_request_body": b64([]byte(r.GetBody())),
		"iam_request_headers": b64(headers),
	})
	if err != nil {
		return ""
	}
	return string(data)
}

func identityToProto(id *attest.Identity) *brokerv1.Identity {
	if id == nil {
		return nil
	}
	out := &brokerv1.Identity{
		Kind:       string(id.Kind),
		Issuer:     id.Issuer,
		Tenant:     id.Tenant,
		Subject:    id.Subject,
		Attributes: make(map[string]*brokerv1.AttributeValues, len(id.Attrs)),
		Actor:      identityToProto(id.Actor),
	}
	for name, values := range id.Attrs {
		out.Attributes[name] = &brokerv1.AttributeValues{Values: values}
	}
	if !id.Expires.IsZero() {
		out.ExpiresAt = timestamppb.New(id.Expires)
	}
	return out
}

func rolesToProto(roles []policy.RoleInfo) []*brokerv1.Role {
	out := make([]*brokerv1.Role, len(roles))
	for i, r := range roles {
		out[i] = &brokerv1.Role{
			Name: r.Name, Description: r.Description,
			DefaultTtl: durationpb.New(r.DefaultTTL), MaxTtl: durationpb.New(r.MaxTTL),
		}
	}
	return out
}
