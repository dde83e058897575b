package attest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Replay remembers which proofs were used up, for issuers whose proofs are good for one use.
type Replay interface {
	// Use marks the proof of that name as used for the rest of its life. It returns ErrUsed if it was used before, ErrRejected if
	// it was issued before the time that the memory vouches for, and ErrUnavailable if that can't be known or remembered. Issued
	// is the earliest that it can have been issued: a clock that ran ahead is taken off.
	Use(ctx context.Context, name [sha256.Size]byte, issued time.Time, life time.Duration) error
}

// MaxUsed is how many used proofs a ReplayMemory keeps: 4 MB or so. When as many are good for something still, further ones are
// refused.
const MaxUsed = 65_536

// ReplayMemory is a Replay in this process. It vouches for the time since it was made.
type ReplayMemory struct {
	now   func() time.Time
	began time.Time

	mu        sync.Mutex
	used      map[[sha256.Size]byte]time.Time // until when the proof could be accepted
	nextSweep time.Time
}

// NewReplayMemory returns one that goes by a clock.
func NewReplayMemory(now func() time.Time) *ReplayMemory {
	return &ReplayMemory{now: now, began: now(), used: map[[sha256.Size]byte]time.Time{}}
}

// Use implements Replay. The process before this one may have seen any proof that existed before this memory.
func (s *ReplayMemory) Use(_ context.Context, name [sha256.Size]byte, issued time.Time, life time.Duration) error {
	if issued.Before(s.began) {
		return fmt.Errorf("%w: proof is older than the memory of used ones, which began at %s",
			ErrRejected, s.began.UTC().Format(time.RFC3339))
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.used[name]; ok {
		return ErrUsed
	}
	if len(s.used) >= MaxUsed {
		s.sweep(now)
	}
	if len(s.used) >= MaxUsed {
		return errors.Join(ErrUnavailable, fmt.Errorf("%d used proofs are remembered, and there is no room for more", MaxUsed))
	}
	s.used[name] = now.Add(life)
	return nil
}

// sweep forgets what can't be accepted any more, at most once a second, since it looks at every entry.
func (s *ReplayMemory) sweep(now time.Time) {
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
