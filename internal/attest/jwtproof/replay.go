package jwtproof

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// maxTokenIDs is how many used tokens of one issuer are kept: 4 MB or so. When as many are unexpired, the issuer's
// further tokens are refused.
const maxTokenIDs = 65_536

// replayStore remembers the `jti` of every token of one issuer that was used, in this process.
type replayStore struct {
	began time.Time

	mu        sync.Mutex
	used      map[[sha256.Size]byte]time.Time // until when the token could be accepted
	nextSweep time.Time
}

func newReplayStore(now time.Time) *replayStore {
	return &replayStore{began: now, used: map[[sha256.Size]byte]time.Time{}}
}

// use marks the token as used, or returns attest.ErrRejected if it may have been used before, attest.ErrUnavailable if
// there is no room to remember it. It comes after every other check: a token that fails one is not used up.
func (s *replayStore) use(c *claims, now time.Time, skew time.Duration) error {
	if c.tokenID == "" {
		return fmt.Errorf("%w: jti is missing, and tokens of this issuer are for a single use", attest.ErrRejected)
	}
	// The process before this one may have seen any token that existed before this store. The issuer's clock may run
	// ahead by the skew, so a token dated up to that much later may have existed, too.
	if c.issuedAt.Before(s.began.Add(skew)) {
		return fmt.Errorf("%w: token is older than the memory of used tokens, which vouches for those issued from %s on",
			attest.ErrRejected, s.began.Add(skew).UTC().Format(time.RFC3339))
	}
	id := sha256.Sum256([]byte(c.tokenID))
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.used[id]; ok {
		return fmt.Errorf("%w: token was used before", attest.ErrRejected)
	}
	if len(s.used) >= maxTokenIDs {
		s.sweep(now)
	}
	if len(s.used) >= maxTokenIDs {
		return errors.Join(attest.ErrUnavailable, fmt.Errorf("%d used tokens are remembered, and there is no room for more", maxTokenIDs))
	}
	// Not the skew of now: a reload may raise it while this store stays.
	s.used[id] = c.expires.Add(maxSkew)
	return nil
}

// sweep forgets what can't be accepted any more, at most once a second, since it looks at every entry.
func (s *replayStore) sweep(now time.Time) {
	if now.Before(s.nextSweep) {
		return
	}
	s.nextSweep = now.Add(time.Second)
	for id, until := range s.used {
		if !now.Before(until) {
			delete(s.used, id)
		}
	}
}
