package brokertest

import (
	"context"
	"crypto/x509"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// workloads is the Workload API of a SPIFFE (https://spiffe.io/docs/latest/spiffe-specs/spiffe_workload_api). Every caller is entitled to the
// same SVIDs.
type workloads struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	spiffe *SPIFFE
	socket string

	mu      sync.Mutex
	ids     []string
	news    chan struct{} // closed when there is something new, and replaced
	calls   map[string]int
	failure error
}

func startWorkloads(t testing.TB, s *SPIFFE) *workloads {
	t.Helper()
	w := &workloads{spiffe: s, socket: filepath.Join(socketDir(t), "api.sock"), news: make(chan struct{}), calls: map[string]int{}}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(w.unary), grpc.StreamInterceptor(w.stream))
	workload.RegisterSpiffeWorkloadAPIServer(server, w)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("Workload API: %v", err)
		}
	})
	return w
}

// SetWorkloads says which SPIFFE IDs callers of the Workload API are entitled to, the default one first. With none they are refused.
func (s *SPIFFE) SetWorkloads(ids ...string) {
	s.workloads.mu.Lock()
	s.workloads.ids = ids
	s.workloads.mu.Unlock()
	s.workloads.changed()
}

// FailWorkloads has the Workload API refuse every call with an error; with nil it behaves again.
func (s *SPIFFE) FailWorkloads(err error) {
	s.workloads.mu.Lock()
	s.workloads.failure = err
	s.workloads.mu.Unlock()
	s.workloads.changed()
}

// WorkloadCalls is how many calls a method of the Workload API got, such as "FetchJWTSVID".
func (s *SPIFFE) WorkloadCalls(method string) int {
	s.workloads.mu.Lock()
	defer s.workloads.mu.Unlock()
	return s.workloads.calls["/SpiffeWorkloadAPI/"+method]
}

// changed has what is streamed sent again.
func (w *workloads) changed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.news)
	w.news = make(chan struct{})
}

func (w *workloads) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := w.check(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (w *workloads) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := w.check(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return next(srv, stream)
}

// check is what the specification of the endpoint asks for (https://spiffe.io/docs/latest/spiffe-specs/spiffe_workload_endpoint, section 5).
func (w *workloads) check(ctx context.Context, method string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[method]++
	if md, _ := metadata.FromIncomingContext(ctx); !slices.Equal(md.Get("workload.spiffe.io"), []string{"true"}) {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return w.failure
}

// state is what callers are entitled to now, and what is closed when that changes.
func (w *workloads) state() (ids []string, news <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure != nil {
		return nil, nil, w.failure
	}
	if len(w.ids) == 0 {
		return nil, nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	return w.ids, w.news, nil
}

// FetchJWTSVID implements workload.SpiffeWorkloadAPIServer.
func (w *workloads) FetchJWTSVID(_ context.Context, req *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if len(req.Audience) == 0 || slices.Contains(req.Audience, "") {
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	}
	ids, _, err := w.state()
	if err != nil {
		return nil, err
	}
	answer := &workload.JWTSVIDResponse{}
	for _, id := range ids {
		if req.SpiffeId == "" || req.SpiffeId == id {
			answer.Svids = append(answer.Svids, &workload.JWTSVID{SpiffeId: id, Svid: w.spiffe.JWTSVID(id, req.Audience, nil)})
		}
	}
	if len(answer.Svids) == 0 {
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	return answer, nil
}

// FetchJWTBundles implements workload.SpiffeWorkloadAPIServer.
func (w *workloads) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return w.send(stream.Context(), func([]string) error {
		return stream.Send(&workload.JWTBundlesResponse{Bundles: map[string][]byte{w.spiffe.ID(""): w.spiffe.jwtBundle()}})
	})
}

// FetchX509SVID implements workload.SpiffeWorkloadAPIServer.
func (w *workloads) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return w.send(stream.Context(), func(ids []string) error {
		answer := &workload.X509SVIDResponse{}
		for _, id := range ids {
			svid := w.spiffe.X509SVID(id, nil)
			key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
			if err != nil {
				return err
			}
			answer.Svids = append(answer.Svids, &workload.X509SVID{SpiffeId: id, X509Svid: svid.Certificate[0], X509SvidKey: key, Bundle: w.spiffe.x509Bundle()})
		}
		return stream.Send(answer)
	})
}

// FetchX509Bundles implements workload.SpiffeWorkloadAPIServer.
func (w *workloads) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return w.send(stream.Context(), func([]string) error {
		return stream.Send(&workload.X509BundlesResponse{Bundles: map[string][]byte{w.spiffe.ID(""): w.spiffe.x509Bundle()}})
	})
}

// send sends now and whenever something changes, until the caller has had enough.
func (w *workloads) send(ctx context.Context, once func(ids []string) error) error {
	for {
		ids, news, err := w.state()
		if err != nil {
			return err
		}
		if err := once(ids); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		}
	}
}
