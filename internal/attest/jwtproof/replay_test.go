package jwtproof

import (
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

func TestTokenIDIsUsedOnce(t *testing.T) {
	began := time.Unix(10_000, 0)
	s := newReplayStore(began)
	now := began.Add(time.Minute)
	if err := s.use(onceToken("a", now), now, replaySkew); err != nil {
		t.Fatal(err)
	}
	for _, later := range []time.Duration{0, time.Millisecond, 5*time.Minute + replaySkew - 1} {
		err := s.use(onceToken("a", now), now.Add(later), replaySkew)
		if !errors.Is(err, attest.ErrRejected) {
			t.Errorf("%s later: %v", later, err)
		}
		mustContain(t, err, "used before")
	}
	if err := s.use(onceToken("b", now), now, replaySkew); err != nil {
		t.Error(err)
	}
	err := s.use(onceToken("", now), now, replaySkew)
	if !errors.Is(err, attest.ErrRejected) {
		t.Error(err)
	}
	mustContain(t, err, "jti is missing")
}

func TestOneOfManyConcurrentUsesWins(t *testing.T) {
	now := time.Unix(10_000, 0)
	s := newReplayStore(now.Add(-time.Hour))
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if s.use(onceToken("a", now), now, replaySkew) == nil {
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
	s := newReplayStore(began)
	for offset, ok := range map[time.Duration]bool{
		-time.Second: false, 0: false, replaySkew - time.Second: false, replaySkew: true, time.Minute: true,
	} {
		iat := began.Add(offset)
		err := s.use(onceToken(fmt.Sprint(offset), iat), iat, replaySkew)
		if ok != (err == nil) || err != nil && !errors.Is(err, attest.ErrRejected) {
			t.Errorf("issued %s after the start: %v", offset, err)
		}
	}
}

func TestFullReplayStoreFailsClosed(t *testing.T) {
	now := time.Unix(10_000, 0)
	s := newReplayStore(now.Add(-time.Hour))
	for i := range maxTokenIDs {
		if err := s.use(onceToken(fmt.Sprint(i), now), now, replaySkew); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := s.use(onceToken("one more", now), now, replaySkew); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("one over the bound: %v", err)
	}
	// A token that was used is still known as such.
	if err := s.use(onceToken("7", now), now, replaySkew); !errors.Is(err, attest.ErrRejected) {
		t.Error(err)
	}
	last := now.Add(5*time.Minute + maxSkew) // the first moment at which none of them can be accepted
	if err := s.use(onceToken("late", last), last.Add(-1), replaySkew); !errors.Is(err, attest.ErrUnavailable) {
		t.Error(err)
	}
	if err := s.use(onceToken("late", last), last, replaySkew); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("swept twice within a second: %v", err)
	}
	if err := s.use(onceToken("late", last), last.Add(time.Second), replaySkew); err != nil || len(s.used) != 1 {
		t.Errorf("%v, %d left", err, len(s.used))
	}
}
