package attest_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

func TestReplayMemory(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := attest.NewReplayMemory(func() time.Time { return now })
	name := func(n int) (out [sha256.Size]byte) {
		binary.BigEndian.PutUint64(out[:], uint64(n))
		return out
	}
	use := func(n int, issued time.Time) error { return m.Use(t.Context(), name(n), issued, time.Minute) }
	if err := use(0, now); err != nil {
		t.Fatal(err)
	}
	if err := use(0, now); !errors.Is(err, attest.ErrUsed) {
		t.Errorf("again: %v", err)
	}
	if err := use(1, now.Add(-1)); !errors.Is(err, attest.ErrRejected) || errors.Is(err, attest.ErrUsed) {
		t.Errorf("from before it began: %v", err)
	}
	for n := range attest.MaxUsed - 1 {
		if err := use(1+n, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := use(-1, now); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("full: %v", err)
	}
	// What can't be accepted any more is forgotten, but nobody looks through all of it for each proof.
	now = now.Add(time.Minute)
	if err := use(-1, now); err != nil {
		t.Errorf("after the others have ended: %v", err)
	}
	if err := use(0, now); err != nil {
		t.Errorf("its name is free again: %v", err)
	}
	if err := use(-1, now); !errors.Is(err, attest.ErrUsed) {
		t.Errorf("one that has not ended: %v", err)
	}
}
