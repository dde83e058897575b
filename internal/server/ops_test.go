package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

func opsServer(t *testing.T, ready func() Readiness, profiling bool) string {
	t.Helper()
	o, _ := testOptions()
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("m 1\n")) })
	return "http://" + serving(t, NewOps(listenLoopback(t, TLSFiles{}), metrics, ready, profiling, o.Log))
}

func TestOps(t *testing.T) {
	var ready atomic.Bool
	base := opsServer(t, func() Readiness {
		if ready.Load() {
			return Readiness{Ready: true}
		}
		return Readiness{Reasons: []string{`a "b"`, "c"}}
	}, false)
	expect := func(method, path string, wantStatus int, wantBody string) {
		t.Helper()
		got := send(t, method, base+path, nil, "")
		if got.status != wantStatus || wantBody != "" && got.body != wantBody || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: %d %q", method, path, got.status, got.body)
		}
	}
	expect("GET", "/healthz", 200, "ok\n")
	expect("GET", "/metrics", 200, "m 1\n")
	expect("GET", "/readyz", 503, `{"ready":false,"reasons":["a \"b\"","c"]}`+"\n")
	ready.Store(true)
	expect("GET", "/readyz", 200, `{"ready":true,"reasons":[]}`+"\n")
	expect("POST", "/readyz", 405, "")
	for _, path := range []string{"/", "/debug/pprof/", "/debug/pprof/profile", "/debug/pprof/heap", "/v1/roles", "/v1/credentials"} {
		expect("GET", path, 404, "")
	}
}

func TestOpsProfilesIfAsked(t *testing.T) {
	base := opsServer(t, alwaysReady, true)
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine"} {
		if got := send(t, "GET", base+path, nil, ""); got.status != 200 {
			t.Errorf("%s: %d", path, got.status)
		}
	}
	// The command line may hold what nobody should read.
	if got := send(t, "GET", base+"/debug/pprof/cmdline", nil, ""); got.status == 200 {
		t.Error("cmdline is shown")
	}
}

func TestOpsPanicIsAnswered(t *testing.T) {
	base := opsServer(t, func() Readiness { panic("planted") }, false)
	if got := send(t, "GET", base+"/readyz", nil, ""); got.status != 500 || strings.Contains(got.body, "planted") {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// stopper is a server with a call under way.
func stopper(t *testing.T, grpcToo bool) (s *Server, b *fakeBroker, result chan string, ended chan error) {
	t.Helper()
	b = &fakeBroker{block: make(chan struct{}), calls: make(chan struct{}, 1)}
	o, _ := testOptions()
	result, ended = make(chan string, 1), make(chan error, 1)
	l := listenLoopback(t, TLSFiles{})
	if grpcToo {
		s = NewGRPC(l, b, alwaysReady, o)
	} else {
		s = NewHTTP(l, b, fakeDocuments{}, o)
	}
	go func() { ended <- s.Serve() }()
	go func() {
		if grpcToo {
			_, err := brokerv1.NewCredentialBrokerServiceClient(dial(t, l.Addr().String())).ListRoles(context.Background(), &brokerv1.ListRolesRequest{})
			result <- status.Code(err).String()
			return
		}
		resp, err := http.Get("http://" + l.Addr().String() + "/v1/roles")
		if err != nil {
			result <- codes.Unavailable.String()
			return
		}
		resp.Body.Close()
		result <- http.StatusText(resp.StatusCode)
	}()
	<-b.calls
	return s, b, result, ended
}

func TestShutdownWaitsForCalls(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	for _, isGRPC := range []bool{false, true} {
		s, b, result, ended := stopper(t, isGRPC)
		stopped := make(chan error, 1)
		go func() { stopped <- s.Shutdown(context.Background()) }()
		select {
		case err := <-stopped:
			t.Errorf("Shutdown didn't wait: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		close(b.block)
		if got := <-result; got != "OK" {
			t.Errorf("the call under way: %s", got)
		}
		if err := <-stopped; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

func TestShutdownCutsWhenItsTimeIsUp(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	for _, isGRPC := range []bool{false, true} {
		s, _, result, ended := stopper(t, isGRPC)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		cancel()
		if got := <-result; got == "OK" {
			t.Error("the call under way was not cut")
		}
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

func TestShutdownEndsHealthWatches(t *testing.T) {
	o, _ := testOptions()
	l := listenLoopback(t, TLSFiles{})
	s := NewGRPC(l, &fakeBroker{}, alwaysReady, o)
	address := serving(t, s)
	watch, err := healthpb.NewHealthClient(dial(t, address)).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("watch: %v", err)
	}
}

func TestShutdownOfAServerThatNeverServed(t *testing.T) {
	o, _ := testOptions()
	for _, s := range []*Server{
		NewHTTP(listenLoopback(t, TLSFiles{}), &fakeBroker{}, fakeDocuments{}, o),
		NewGRPC(listenLoopback(t, TLSFiles{}), &fakeBroker{}, alwaysReady, o),
	} {
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Serve(); err != nil {
			t.Errorf("Serve afterwards: %v", err)
		}
		if _, err := s.listener.Accept(); err == nil {
			t.Error("the listener is still open")
		}
	}
}
