package jwtproof

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// maxTokenIDs is how many used tokens of one issuer are kept: 4 MB or so. When as many are unexpired, the issuer's
// further tokens are refused.
const maxTokenIDs = 65_536

// useOnce marks a token as used. It comes after every other check: a token that fails one is not used up.
func (is *issuer) useOnce(ctx context.Context, c *claims, now time.Time) error {
	if c.tokenID == "" {
		return fmt.Errorf("%w: jti is missing, and tokens of this issuer are for a single use", attest.ErrRejected)
	}
	h := sha256.New()
	for _, part := range []string{"jti", c.issuer, c.tokenID} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part))) // a hash takes every write
		h.Write([]byte(part))
	}
	// The issuer's clock may run ahead by the skew: so much earlier may the token have existed. How long it could be
	// accepted goes not by the skew of now, which a reload may raise.
	return is.replay.Use(ctx, [sha256.Size]byte(h.Sum(nil)), c.issuedAt.Add(-is.config.Skew), c.expires.Add(maxSkew).Sub(now))
}

// replayMemory is an attest.Replay in this process, for one issuer.
type replayMemory struct {
	now   func() time.Time
	began time.Time

	mu        sync.Mutex
	used      map[[sha256.Size]byte]time.Time // until when the token could be accepted
	nextSweep time.Time
}

func newReplayMemory(now func() time.Time) *replayMemory {
	return &replayMemory{now: now, began: now(), used: map[[sha256.Size]byte]time.Time{}}
}

// Use implements attest.Replay. The process before this one may have seen any token that existed before this memory.
func (s *replayMemory) Use(_ context.Context, name [sha256.Size]byte, issued time.Time, life time.Duration) error {
	if issued.Before(s.began) {
		return fmt.Errorf("%w: token is older than the memory of used tokens, which began at %s",
			attest.ErrRejected, s.began.UTC().Format(time.RFC3339))
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.used[name]; ok {
		return fmt.Errorf("%w: token was used before", attest.ErrRejected)
	}
	if len(s.used) >= maxTokenIDs {
		s.sweep(now)
	}
	if len(s.used) >= maxTokenIDs {
		return errors.Join(attest.ErrUnavailable, fmt.Errorf("%d used tokens are remembered, and there is no room for more", maxTokenIDs))
	}
	s.used[name] = now.Add(life)
	return nil
}

// sweep forgets what can't be accepted any more, at most once a second, since it looks at every entry.
func (s *replayMemory) sweep(now time.Time) {
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
