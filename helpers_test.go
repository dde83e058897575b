package credbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/prove"
)

func TestMain(m *testing.M) {
	code := m.Run()
	brokertest.RemoveBrokerProgram()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() // brokertest's
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// standIn is a broker without a network. It gives numbered credentials of a minute unless told otherwise.
type standIn struct {
	mu     sync.Mutex
	life   time.Duration
	delay  time.Duration // of each answer
	err    error
	same   bool // the same credentials over and over, as long as they last
	calls  []time.Time
	last   Credentials
	closed bool
}

var errAway = unreachable("broker.example", errors.New("connection refused"))

func (s *standIn) sign(context.Context, proofs, signWant) (Signatures, error) {
	return Signatures{}, errAway
}

func (s *standIn) issue(ctx context.Context, _ proofs, w want) (Credentials, error) {
	s.mu.Lock()
	s.calls = append(s.calls, time.Now())
	n, delay := len(s.calls), s.delay
	s.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return Credentials{}, unreachable("broker.example", ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return Credentials{}, s.err
	}
	if !s.same || !s.last.Expires.After(time.Now()) {
		s.last = Credentials{
			AccessKeyID: fmt.Sprintf("KEY-%d", n), SecretAccessKey: secret.New("planted-secret"), SessionToken: secret.New("planted-session"),
			Expires: time.Now().Add(s.life), Role: w.role, RequestID: fmt.Sprintf("request-%d", n),
		}
	}
	return s.last, nil
}

func (s *standIn) close() { s.closed = true }

// set changes how the broker behaves from now on.
func (s *standIn) set(change func(*standIn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *standIn) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// newStandIn is a client of a stand-in whose credentials live a minute. It is closed with the test.
func newStandIn(t *testing.T) (*standIn, *Client) {
	t.Helper()
	s := &standIn{life: time.Minute}
	c := newClient(s, prove.Token("planted-token"))
	t.Cleanup(func() { _ = c.Close() })
	return s, c
}

// key is the access key that a caller gets now.
func key(t *testing.T, c *Client, opts ...RoleOption) string {
	t.Helper()
	got, _, err := c.current(t.Context(), newWant("reports", opts))
	if err != nil {
		t.Fatal(err)
	}
	return got.AccessKeyID
}
