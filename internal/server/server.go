// Package server is the broker's transports: gRPC and HTTP/JSON for callers, gRPC for operators, and plain HTTP for
// metrics and probes. A transport decodes to [broker.Request] and encodes the result; none decides anything. errors.go
// holds the one table that says what a caller is told of an error.
package server

import (
	"context"
	"log/slog"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/revocation"
)

// Broker is the pipeline; *broker.Broker is one. Its methods are safe for concurrent use.
type Broker interface {
	Issue(ctx context.Context, req broker.Request) (broker.Issued, error)
	ExplainAccess(ctx context.Context, req broker.Request) (broker.Access, error)
	WhoIs(ctx context.Context, req broker.Request) (attest.Identity, error)
	ListRoles(ctx context.Context, req broker.Request) ([]policy.RoleInfo, error)
	OpenGatewaySession(ctx context.Context, req broker.Request) (broker.GatewayKey, error)
	Sign(ctx context.Context, req broker.SignRequest) (broker.SignedRequests, error)
	ExplainDecision(requestID string) (broker.Explained, error)
	ExplainIdentity(id attest.Identity, role string) broker.Explained
	Revoke(ctx context.Context, s revocation.Scope, requestID, by string) (revocation.Revocation, error)
}

// Readiness says whether this process can do its work. Reasons may name troubles that leave it ready.
type Readiness struct {
	Ready   bool
	Reasons []string
}

// Limits of every listener, in bytes and streams. A token of 16 KiB fits a header.
const (
	maxHeaderBytes = 32 << 10
	maxBodyBytes   = 64 << 10
	maxStreams     = 256 // of one connection
	// maxMetadataBytes is less for gRPC: the proof is in the message, and metadata stays for as long as nobody reads an answer.
	maxMetadataBytes = 8 << 10
	streamWorkers    = 256  // goroutines that serve calls; further calls get one of their own
	maxOpenStreams   = 4096 // half of them one peer's; of gRPC and of HTTP/2 each
	maxWatches       = 64
)

// Times after which a peer that doesn't move is let go.
const (
	handshakeTimeout = 10 * time.Second
	headerTimeout    = 5 * time.Second
	readTimeout      = 10 * time.Second // header and body
	idleTimeout      = 2 * time.Minute
	refusalTime      = 10 * time.Millisecond // for the message of a call that is refused
)

// Options are what the transports share. Every field but Floors is required.
type Options struct {
	Log *slog.Logger
	// RequestTimeout bounds the time that one call may take, from its decoded request on.
	RequestTimeout time.Duration
	// Floors are the least life left of what is handed to SDKs, by surface; zero leaves it to the role.
	Floors Floors
	// Account is the AWS account, 12 digits, in the ARNs of STS answers.
	Account string
}

// Floors are broker.Request.Floor of the surfaces that SDKs speak to.
type Floors struct{ STS, Container, OAuth time.Duration }

// Server is one listener with what answers on it.
type Server struct {
	listener *Listener
	serve    func() error
	drain    func(context.Context) error
	cut      func()
	stopping atomic.Bool
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve answers until Shutdown, and then returns nil. Call it once.
func (s *Server) Serve() error {
	err := s.serve()
	if s.stopping.Load() {
		return nil
	}
	return err
}

// Shutdown takes no more connections and waits for the calls under way. When ctx ends first, it cuts them off and returns
// the context's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopping.Store(true)
	defer s.listener.Close() //nolint:errcheck // for a server that was never served; otherwise it is closed by now
	err := s.drain(ctx)
	if err != nil {
		s.cut()
	}
	return err
}

// logPanic writes what a recovered panic said and where it came from; it never sees the request's values.
func logPanic(log *slog.Logger, requestID string, p any) {
	log.Error("panic", "request_id", requestID, "panic", clip(panicText(p)), "stack", string(debug.Stack()))
}

func panicText(p any) string {
	switch p := p.(type) {
	case error:
		return p.Error()
	case string:
		return p
	default: // a value may hold anything: not printed
		return "a value that is no text"
	}
}

// clip bounds what a text that isn't ours takes in a log.
func clip(s string) string {
	const most = 1024
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
