package brokertest

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
)

// Endpoints counts requests by path, and lets a test answer some of them. It is part of the stand-ins that speak HTTP.
type Endpoints struct {
	mu       sync.Mutex
	handlers map[string]http.HandlerFunc
	requests map[string]int
}

// Handle makes a path misbehave: h answers instead. With nil the path behaves again. Requests are counted all the same.
func (e *Endpoints) Handle(path string, h http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.handlers == nil {
		e.handlers = map[string]http.HandlerFunc{}
	}
	e.handlers[path] = h
}

// Requests is how many requests the path got.
func (e *Endpoints) Requests(path string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests[path]
}

// intercept counts a request, and answers it if a test said how.
func (e *Endpoints) intercept(w http.ResponseWriter, r *http.Request) (answered bool) {
	e.mu.Lock()
	if e.requests == nil {
		e.requests = map[string]int{}
	}
	e.requests[r.URL.Path]++
	h := e.handlers[r.URL.Path]
	e.mu.Unlock()
	if h != nil {
		h(w, r)
	}
	return h != nil
}

// serve answers on loopback until the test ends. The base URL is http, and caFile empty, unless encrypted. The URL is set before anybody can ask:
// a server of an earlier test may still be asking the port's former owner.
func serve(t testing.TB, h http.Handler, encrypted bool, url *string) (caFile string) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are part of the tests
	*url = "http://" + server.Listener.Addr().String()
	if encrypted {
		*url = "https://" + server.Listener.Addr().String()
		server.StartTLS()
		caFile = filepath.Join(t.TempDir(), "ca.pem")
		writeFile(t, caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return caFile
}

// writeJSON writes a JSON document.
func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = w.Write(marshal(v))
}
