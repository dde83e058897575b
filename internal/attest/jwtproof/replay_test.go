package jwtproof

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

const replaySkew = 30 * time.Second

func onceToken(id string, iat time.Time) *claims {
	return &claims{tokenID: id, issuedAt: iat, expires: iat.Add(5 * time.Minute)}
}

// fixture is a memory with a clock that tests set.
type fixture struct {
	*attest.ReplayMemory
	clock atomic.Int64
}

func newReplayMemoryAt(began time.Time) *fixture {
	f := &fixture{}
	f.clock.Store(began.UnixNano())
	f.ReplayMemory = attest.NewReplayMemory(func() time.Time { return time.Unix(0, f.clock.Load()) })
	return f
}

// use is what the verifier does with a token that passed all checks at that time.
func use(f *fixture, c *claims, now time.Time, skew time.Duration) error {
	f.clock.Store(now.UnixNano())
	is := &issuer{config: Issuer{Skew: skew}, replay: f.ReplayMemory}
	return is.useOnce(context.Background(), c, now)
}

func TestTokenIDIsUsedOnce(t *testing.T) {
	began := time.Unix(10_000, 0)
	s := newReplayMemoryAt(began)
	now := began.Add(time.Minute)
	if err := use(s, onceToken("a", now), now, replaySkew); err != nil {
		t.Fatal(err)
	}
	for _, later := range []time.Duration{0, time.Millisecond, 5*time.Minute + replaySkew - 1} {
		err := use(s, onceToken("a", now), now.Add(later), replaySkew)
		if !errors.Is(err, attest.ErrRejected) {
			t.Errorf("%s later: %v", later, err)
		}
		mustContain(t, err, "used before")
	}
	if err := use(s, onceToken("b", now), now, replaySkew); err != nil {
		t.Error(err)
	}
	err := use(s, onceToken("", now), now, replaySkew)
	if !errors.Is(err, attest.ErrRejected) {
		t.Error(err)
	}
	mustContain(t, err, "jti is missing")
}

func TestOneOfManyConcurrentUsesWins(t *testing.T) {
	now := time.Unix(10_000, 0)
	s := newReplayMemoryAt(now.Add(-time.Hour))
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if use(s, onceToken("a", now), now, replaySkew) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d uses passed", won.Load())
	}
}

func TestTokensOlderThanTheStoreAreRefused(t *testing.T) {
	began := time.Unix(10_000, 0)
	s := newReplayMemoryAt(began)
	for offset, ok := range map[time.Duration]bool{
		-time.Second: false, 0: false, replaySkew - time.Second: false, replaySkew: true, time.Minute: true,
	} {
		iat := began.Add(offset)
		err := use(s, onceToken(fmt.Sprint(offset), iat), iat, replaySkew)
		if ok != (err == nil) || err != nil && !errors.Is(err, attest.ErrRejected) {
			t.Errorf("issued %s after the start: %v", offset, err)
		}
	}
}

func TestFullReplayStoreFailsClosed(t *testing.T) {
	now := time.Unix(10_000, 0)
	s := newReplayMemoryAt(now.Add(-time.Hour))
	for i := range attest.MaxUsed {
		if err := use(s, onceToken(fmt.Sprint(i), now), now, replaySkew); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := use(s, onceToken("one more", now), now, replaySkew); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("one over the bound: %v", err)
	}
	// A token that was used is still known as such.
	if err := use(s, onceToken("7", now), now, replaySkew); !errors.Is(err, attest.ErrRejected) {
		t.Error(err)
	}
	last := now.Add(5*time.Minute + maxSkew) // the first moment at which none of them can be accepted
	if err := use(s, onceToken("late", last), last.Add(-1), replaySkew); !errors.Is(err, attest.ErrUnavailable) {
		t.Error(err)
	}
	if err := use(s, onceToken("late", last), last, replaySkew); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("swept twice within a second: %v", err)
	}
	if err := use(s, onceToken("late", last), last.Add(time.Second), replaySkew); err != nil {
		t.Error(err)
	}
	for i := range attest.MaxUsed - 1 { // all others are gone
		if err := use(s, onceToken("later "+fmt.Sprint(i), last), last.Add(time.Second), replaySkew); err != nil {
			t.Fatal(i, err)
		}
	}
}
