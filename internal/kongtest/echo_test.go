package kongtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// echo is an upstream that keeps what comes.
type echo struct {
	*httptest.Server
	mu   sync.Mutex
	last *http.Request
	body []byte
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	e := &echo{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		e.mu.Lock()
		e.last, e.body = r, body
		e.mu.Unlock()
		w.Header().Set("X-Amz-Request-Id", "STORE-ID")
		// Which key signed, for whoever races for it.
		_, key, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		key, _, _ = strings.Cut(key, "/")
		_, _ = fmt.Fprint(w, key)
	}))
	t.Cleanup(e.Close)
	return e
}

// got is the last request.
func (e *echo) got() *http.Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// forget is as if nothing had come.
func (e *echo) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last, e.body = nil, nil
}

// service is a service of a declarative configuration with one route at a path, which is stripped.
func service(name, url, path string, plugins ...string) string {
	return fmt.Sprintf("  - name: %s\n    url: %s\n    routes:\n      - {name: %s, paths: [%s]}\n    plugins:\n      - %s\n", name, url, name, path, strings.Join(plugins, "\n      - "))
}

const keyAuth = "{name: key-auth, config: {key_names: [apikey], hide_credentials: true}}"

// declared is a declarative configuration of services.
func declared(services ...string) string {
	return "_format_version: \"3.0\"\nservices:\n" + strings.Join(services, "") + consumers
}

// raw sends text as it is and returns the answer's status and what follows it.
func raw(t *testing.T, g *Gateway, text string) (int, string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// answerOf is the body of an answer of status 200.
func answerOf(req *http.Request) (string, error) { return answerOfClient(client, req) }

func answerOfClient(c *http.Client, req *http.Request) (string, error) {
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}
