package server

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/secret"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// nobody is a ResponseWriter for benchmarks: it keeps nothing.
type nobody struct{ h http.Header }

func (n nobody) Header() http.Header         { return n.h }
func (n nobody) Write(p []byte) (int, error) { return len(p), nil }
func (n nobody) WriteHeader(int)             {}

// BenchmarkHTTPHandler is what the transport adds to the pipeline, without the network.
func BenchmarkHTTPHandler(b *testing.B) {
	o, _ := testOptions()
	h := newHTTPAPI(&fakeBroker{}, fakeDocuments{}, o)
	const body = `{"role":"reports","ttl_seconds":900}`
	req := httptest.NewRequest(http.MethodPost, "/v1/credentials", nil)
	req.Header = bearerHeader(strings.Repeat("t", 800))
	req.ContentLength = int64(len(body))
	w := nobody{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		req.Body = io.NopCloser(strings.NewReader(body))
		h.ServeHTTP(w, req)
	}
}

// BenchmarkSTSHandler is the same for the STS query API.
func BenchmarkSTSHandler(b *testing.B) {
	o, _ := testOptions()
	h := newHTTPAPI(longToken{&fakeBroker{}}, fakeDocuments{}, o)
	body := webIdentity + strings.Repeat("t", 800)
	req := httptest.NewRequest(http.MethodPost, "/sts", nil)
	req.Header = formHeader()
	req.ContentLength = int64(len(body))
	w := nobody{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		req.Body = io.NopCloser(strings.NewReader(body))
		h.ServeHTTP(w, req)
	}
}

// longToken issues session tokens as long as MinIO's.
type longToken struct{ *fakeBroker }

func (l longToken) Issue(ctx context.Context, req broker.Request) (broker.Issued, error) {
	issued, err := l.fakeBroker.Issue(ctx, req)
	issued.SessionToken = secret.New(strings.Repeat("t", 700))
	return issued, err
}

// BenchmarkHTTP and BenchmarkHTTPNoop compare the whole way with a handler that does nothing.
func BenchmarkHTTP(b *testing.B) { benchmarkHTTP(b, "/v1/credentials") }

func BenchmarkHTTPNoop(b *testing.B) { benchmarkHTTP(b, "/noop") }

func benchmarkHTTP(b *testing.B, path string) {
	o, _ := testOptions()
	api := newHTTPAPI(&fakeBroker{}, fakeDocuments{}, o)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/noop" {
			api.ServeHTTP(w, r)
		}
	})
	base := "http://" + serving(b, serveHTTP(listenLoopback(b, TLSFiles{}), h, readTimeout, o.Log))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, _ := http.NewRequestWithContext(b.Context(), http.MethodPost, base+path, strings.NewReader(`{"role":"reports"}`))
			req.Header = bearerHeader(strings.Repeat("t", 800))
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}

func BenchmarkGRPC(b *testing.B) {
	conn, _ := grpcServer(b, &fakeBroker{}, alwaysReady)
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	in := &brokerv1.IssueCredentialsRequest{Proof: proofOf(strings.Repeat("t", 800)), Role: "reports"}
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := client.IssueCredentials(b.Context(), in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkAppendIssued(b *testing.B) {
	i, dst := issuedCredentials(), make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		dst = appendIssued(dst[:0], i, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	}
}
