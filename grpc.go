package credbroker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/credbroker/credbroker/internal/secret"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
	"github.com/credbroker/credbroker/prove"
)

// errorDomain is the domain of a broker's google.rpc.ErrorInfo.
const errorDomain = "credbroker"

// grpcTransport speaks proto/broker/v1. Calls fail at once while there is no connection: those who can wait do so in renewal.
type grpcTransport struct {
	host   string
	conn   *grpc.ClientConn
	client brokerv1.CredentialBrokerServiceClient
}

func newGRPC(at endpoint, userAgent string) (*grpcTransport, error) {
	creds := insecure.NewCredentials()
	if at.tls != nil {
		creds = credentials.NewTLS(at.tls)
	}
	conn, err := grpc.NewClient("dns:///"+at.url.Host,
		grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent(userAgent),
		grpc.WithNoProxy(), // as over HTTP
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(idleTimeout),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		// The last step is short: a broker that is back shall be found soon.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		// A call over a dead connection ends it. The broker allows a ping every 15 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: connectTimeout}),
	)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEndpoint, err)
	}
	return &grpcTransport{host: at.url.Host, conn: conn, client: brokerv1.NewCredentialBrokerServiceClient(conn)}, nil
}

func (t *grpcTransport) close() { _ = t.conn.Close() } // it only fails if called twice

func newGRPCProof(proof prove.Proof) (*brokerv1.Proof, error) {
	switch proof.Kind() {
	case prove.JWT:
		return &brokerv1.Proof{Proof: &brokerv1.Proof_Jwt{Jwt: proof.Reveal()}}, nil
	case prove.AWSRequest:
		return &brokerv1.Proof{Proof: &brokerv1.Proof_AwsProof{AwsProof: proof.Reveal()}}, nil
	case prove.PeerCertificate:
		return &brokerv1.Proof{Proof: &brokerv1.Proof_PeerCertificate{PeerCertificate: &brokerv1.PeerCertificate{}}}, nil
	}
	return nil, fmt.Errorf("credbroker: proofs of kind %q can't be sent over gRPC", proof.Kind())
}

func (t *grpcTransport) issue(ctx context.Context, p proofs, w want) (Credentials, error) {
	req := &brokerv1.IssueCredentialsRequest{Role: w.role, Policy: w.policy}
	var err error
	if req.Proof, err = newGRPCProof(p.subject); err != nil {
		return Credentials{}, err
	}
	if p.actor != nil {
		if req.ActorProof, err = newGRPCProof(*p.actor); err != nil {
			return Credentials{}, err
		}
	}
	if w.hasTTL {
		req.Ttl = durationpb.New(w.ttl)
	}
	resp, err := t.client.IssueCredentials(ctx, req)
	if err != nil {
		return Credentials{}, t.refusal(ctx, err)
	}
	got := Credentials{
		AccessKeyID: resp.GetAccessKeyId(), SecretAccessKey: secret.New(resp.GetSecretAccessKey()), SessionToken: secret.New(resp.GetSessionToken()),
		Role: resp.GetRole(), RequestID: resp.GetRequestId(),
	}
	if at := resp.GetExpiresAt(); at.IsValid() {
		got.Expires = at.AsTime()
	}
	if !got.sound() {
		return Credentials{}, &errNotBroker{"the answer holds no credentials", "gRPC"}
	}
	return got, nil
}

// refusal turns a status into an error: a broker's own if it has the details that a broker's has.
func (t *grpcTransport) refusal(ctx context.Context, err error) error {
	s := status.Convert(err)
	refusal := &Error{Message: s.Message()}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == errorDomain {
				refusal.Code = Code(strings.ToLower(d.GetReason()))
			}
		case *errdetails.RequestInfo:
			refusal.RequestID = d.GetRequestId()
		case *errdetails.RetryInfo:
			refusal.Retryable, refusal.RetryAfter = true, max(0, d.GetRetryDelay().AsDuration())
		}
	}
	if refusal.Code.sane() {
		return refusal
	}
	if ended := ctx.Err(); ended != nil { // grpc's own error doesn't wrap it
		return unreachable(t.host, ended)
	}
	switch s.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		return unreachable(t.host, errors.New(clip(s.Message())))
	}
	return &errNotBroker{fmt.Sprintf("gRPC status %s", s.Code()), "gRPC"}
}

// clip keeps a text from elsewhere short and on one line.
func clip(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
