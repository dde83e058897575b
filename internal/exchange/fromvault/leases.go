package fromvault

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/revocation"
)

// maxLeases bounds the leases that are held at one time; each takes about 2 KiB here, and a place in Vault's storage.
const maxLeases = 1 << 14

// leases are what this process has read and is still good, one for each identity and grant, and another after each revocation.
type leases struct {
	mu   sync.Mutex
	held map[string]*lease
}

// lease is one of them. Its fields but the first four are for whoever holds its turn.
type lease struct {
	key   string
	req   exchange.Request // for whom and what, and nothing of the call
	turn  chan struct{}
	users int // guarded by leases.mu

	id          string // empty if nothing was leased
	renewable   bool
	credentials exchange.Credentials
}

// take returns the lease for a request and the turn to use it, which has to be given back.
func (s *leases) take(ctx context.Context, req exchange.Request) (*lease, error) {
	key, err := keyOf(req)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	l := s.held[key]
	if l == nil {
		if len(s.held) >= maxLeases {
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: %d leases are held already", exchange.ErrUnavailable, maxLeases)
		}
		l = &lease{key: key, req: essence(req), turn: make(chan struct{}, 1)}
		s.held[key] = l
	}
	l.users++
	s.mu.Unlock()
	return l, s.wait(ctx, l)
}

// hold is take for a lease that is known.
func (s *leases) hold(ctx context.Context, l *lease) error {
	s.mu.Lock()
	l.users++
	s.mu.Unlock()
	return s.wait(ctx, l)
}

func (s *leases) wait(ctx context.Context, l *lease) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		s.leave(l)
		return fmt.Errorf("the caller left before its turn: %w", ctx.Err())
	}
}

func (s *leases) give(l *lease) {
	<-l.turn
	s.leave(l)
}

// leave forgets a lease that nobody uses and that holds nothing.
func (s *leases) leave(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users == 0 && l.credentials.Expires.IsZero() && s.held[l.key] == l {
		delete(s.held, l.key)
	}
}

// concerned are those that a revocation is about.
func (s *leases) concerned(r revocation.Revocation) []*lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*lease
	for _, l := range s.held {
		if l.req.RevokedAt.Before(r.At) && r.Concerns(l.req.Grant.Role, &l.req.Identity) {
			out = append(out, l)
		}
	}
	return out
}

// sweep forgets what has ended.
func (s *leases) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.held {
		if l.users == 0 && !l.credentials.Expires.After(now) {
			delete(s.held, key)
		}
	}
}
