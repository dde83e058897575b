package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// pipeListener hands out in-memory connections, whose deadlines run on the test's clock.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipeListener) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipeListener) Addr() net.Addr { return peerAddr("pipe") }

func (p *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

func TestSlowlorisIsClosedByTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration
		head  string
	}{
		"nothing":       {headerTimeout, ""},
		"half a header": {headerTimeout, "GET /v1/roles HTTP/1.1\r\nHost: b\r\nX: "},
		"half a body":   {readTimeout, "POST /v1/explain HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newPipeListener()
				o, _ := testOptions()
				s := NewHTTP(&Listener{Listener: l}, &fakeBroker{}, fakeDocuments{}, o)
				go s.Serve() //nolint:errcheck // Shutdown ends it
				defer s.Shutdown(context.Background())
				start := time.Now()
				conn := l.dial()
				var writer sync.WaitGroup
				writer.Go(func() { // a byte now and then must not keep it open
					_, err := io.WriteString(conn, c.head)
					for err == nil {
						time.Sleep(time.Second)
						_, err = io.WriteString(conn, "a")
					}
				})
				_, _ = io.Copy(io.Discard, conn)
				defer writer.Wait()
				defer conn.Close()
				if took := time.Since(start); took < c.after || took > c.after+2*time.Second {
					t.Errorf("closed after %s", took)
				}
			})
		})
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		o, _ := testOptions()
		s := NewHTTP(&Listener{Listener: l}, &fakeBroker{}, fakeDocuments{}, o)
		go s.Serve() //nolint:errcheck // Shutdown ends it
		defer s.Shutdown(context.Background())
		conn := l.dial()
		defer conn.Close()
		start := time.Now()
		go io.WriteString(conn, "GET /jwks HTTP/1.1\r\nHost: b\r\n\r\n")
		data, _ := io.ReadAll(conn)
		if took := time.Since(start); !strings.HasPrefix(string(data), "HTTP/1.1 200") || took < idleTimeout || took > idleTimeout+time.Second {
			t.Errorf("closed after %s:\n%s", took, data)
		}
	})
}

func TestHTTPBombsAreBoundedAndOthersUnharmed(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	var attackers sync.WaitGroup
	stop := make(chan struct{})
	for _, bomb := range []string{
		"GET /v1/roles HTTP/1.1\r\nHost: b\r\nX: " + strings.Repeat("a", 256<<10) + "\r\n\r\n",
		"GET /v1/roles HTTP/1.1\r\nHost: b\r\n" + strings.Repeat("X: a\r\n", 50_000) + "\r\n",
		"GET /" + strings.Repeat("a", 256<<10) + " HTTP/1.1\r\nHost: b\r\n\r\n",
		"POST /v1/explain HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n" + strings.Repeat(" ", 1<<20),
		"POST /v1/explain HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("8000\r\n"+strings.Repeat(" ", 0x8000)+"\r\n", 4) + "0\r\n\r\n",
	} {
		attackers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				_, _ = io.WriteString(conn, bomb)
				line := make([]byte, 12)
				if _, err := io.ReadFull(conn, line); err == nil && string(line[:10]) != "HTTP/1.1 4" {
					t.Errorf("%.40q: %q", bomb, line)
				}
				conn.Close()
			}
		})
	}
	for range 100 {
		if got := send(t, "POST", base+"/v1/credentials", bearerHeader("a"), `{"role":"r"}`); got.status != 200 {
			t.Errorf("another client: %d", got.status)
		}
	}
	close(stop)
	attackers.Wait()
	if _, n := b.asked(); n != 100 {
		t.Errorf("%d calls reached the pipeline, want 100", n)
	}
}

func TestHTTP2(t *testing.T) {
	ca, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
	b := &fakeBroker{}
	o, _ := testOptions()
	address := serving(t, NewHTTP(listenLoopback(t, ca.files(clients)), b, fakeDocuments{}, o))
	transport := &http.Transport{TLSClientConfig: ca.client(clients), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	get := func(header http.Header) (*http.Response, error) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/v1/roles", nil)
		req.Header = header
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return resp, err
	}
	resp, err := get(bearerHeader(strings.Repeat("t", 16<<10)))
	if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	if req, _ := b.asked(); req.Proof.Kind != attest.KindJWT || req.Proof.Data.Len() != 16<<10 {
		t.Errorf("%+v", req)
	}
	if resp, err := get(http.Header{"X-Bomb": {strings.Repeat("a", 128<<10)}}); err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("header bomb: %v", resp.Status)
	}
	if resp, err := get(nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %v, %v", resp, err)
	}
}

func TestHTTP2RapidResetLeavesOthersUnharmed(t *testing.T) {
	ca := newAuthority(t, "servers")
	b := &fakeBroker{}
	o, _ := testOptions()
	address := serving(t, NewHTTP(listenLoopback(t, ca.files(nil)), b, fakeDocuments{}, o))
	attack := &http.Transport{TLSClientConfig: ca.client(nil), ForceAttemptHTTP2: true, MaxConnsPerHost: 1}
	other := &http.Transport{TLSClientConfig: ca.client(nil)}
	defer attack.CloseIdleConnections()
	defer other.CloseIdleConnections()
	var resets sync.WaitGroup
	for range 2000 {
		resets.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/v1/roles", nil)
			time.AfterFunc(time.Millisecond, cancel)
			if resp, err := attack.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
			cancel()
		})
	}
	for range 20 {
		resp, err := (&http.Client{Transport: other, Timeout: 5 * time.Second}).Get("https://" + address + "/jwks")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("another client: %v, %v", resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	resets.Wait()
}

func TestTLSOlderThan12IsRefused(t *testing.T) {
	ca := newAuthority(t, "servers")
	o, _ := testOptions()
	address := serving(t, NewHTTP(listenLoopback(t, ca.files(nil)), &fakeBroker{}, fakeDocuments{}, o))
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		cfg := ca.client(nil)
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, version
		conn, err := (&tls.Dialer{Config: cfg}).Dial("tcp", address)
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
	if resp, err := http.Get("http://" + address + "/jwks"); err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Error(fmt.Sprint("plaintext on a TLS listener: ", resp.Status))
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// Streams of HTTP/2 are counted before their bodies are read, whatever connections they come on.
func TestHTTP2StreamsOfOneHostAreBounded(t *testing.T) {
	o, _ := testOptions()
	api := newHTTPAPI(&fakeBroker{}, fakeDocuments{}, o)
	ask := func(host string, major int, body io.Reader) int {
		r := httptest.NewRequest(http.MethodPost, "/v1/credentials", body)
		r.RemoteAddr, r.ProtoMajor = host, major
		r.Header = bearerHeader("a")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		return w.Code
	}
	full := strings.NewReader
	never, end := io.Pipe()
	var waiting sync.WaitGroup
	for range maxOpenStreams / 2 {
		waiting.Go(func() { ask("192.0.2.1:1", 2, never) })
	}
	open := func() int {
		api.open.mu.Lock()
		defer api.open.mu.Unlock()
		return api.open.total
	}
	for deadline := time.Now().Add(10 * time.Second); open() < maxOpenStreams/2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d are counted", open())
		}
	}
	if got := ask("192.0.2.1:2", 2, full(`{"role":"r"}`)); got != http.StatusServiceUnavailable {
		t.Errorf("one more of the same host: %d", got)
	}
	if got := ask("192.0.2.1:2", 1, full(`{"role":"r"}`)); got != http.StatusOK {
		t.Errorf("HTTP/1, which has its connections counted: %d", got)
	}
	if got := ask("192.0.2.2:1", 2, full(`{"role":"r"}`)); got != http.StatusOK {
		t.Errorf("another host: %d", got)
	}
	_ = end.Close()
	waiting.Wait()
	if got := ask("192.0.2.1:2", 2, full(`{"role":"r"}`)); got != http.StatusOK {
		t.Errorf("afterwards: %d", got)
	}
}
