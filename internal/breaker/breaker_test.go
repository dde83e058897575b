package breaker

import (
	"testing"
	"time"
)

var start = time.Unix(1_800_000_000, 0)

// opened is a breaker that has just been opened at start.
func opened(t *testing.T) *Breaker {
	t.Helper()
	b := &Breaker{}
	for range breakAfter {
		p, ok := b.Allow(start)
		if !ok {
			t.Fatal("open too early")
		}
		p.Done(Away, start)
	}
	if _, ok := b.Allow(start.Add(breakFor - 1)); ok {
		t.Fatal("not open after failures in a row")
	}
	return b
}

func TestBreakerLetsOneLookAndClosesOnAnAnswer(t *testing.T) {
	b := opened(t)
	later := start.Add(breakFor)
	probe, ok := b.Allow(later)
	if !ok {
		t.Fatal("still open after its time")
	}
	if _, ok := b.Allow(later); ok {
		t.Error("two looks at once")
	}
	probe.Done(Away, later)
	if _, ok := b.Allow(later.Add(breakFor - 1)); ok {
		t.Error("a failed look didn't open it again")
	}
	probe, ok = b.Allow(later.Add(breakFor))
	if !ok {
		t.Fatal("no second look")
	}
	probe.Done(Alive, later.Add(breakFor))
	for range 3 {
		if _, ok := b.Allow(later.Add(breakFor)); !ok {
			t.Error("an answer didn't close it")
		}
	}
}

func TestBreakerCountsOnlyFailuresInARow(t *testing.T) {
	b := &Breaker{}
	for range 3 {
		for range breakAfter - 1 {
			p, _ := b.Allow(start)
			p.Done(Away, start)
		}
		p, ok := b.Allow(start)
		if !ok {
			t.Fatal("open too early")
		}
		p.Done(Alive, start)
	}
}

func TestBreakerIsNotHeldOpenByLateFailures(t *testing.T) {
	b := &Breaker{}
	late, _ := b.Allow(start)
	*b = *opened(t) //nolint:govet // nobody holds it
	late.Done(Away, start.Add(breakFor-1))
	probe, ok := b.Allow(start.Add(breakFor))
	if !ok {
		t.Fatal("a failure from before it opened holds it open")
	}
	late.Done(Away, start.Add(breakFor))
	if _, ok := b.Allow(start.Add(breakFor)); ok {
		t.Error("a failure from before it opened let a second look in")
	}
	probe.Done(NoSign, start.Add(breakFor))
	if _, ok := b.Allow(start.Add(breakFor)); !ok {
		t.Error("a look that the caller ended wasn't given to the next")
	}
}

func TestBreakerIsShort(t *testing.T) {
	if breakFor > time.Second {
		t.Errorf("open for %s: recovery takes at most 2 s in all", breakFor)
	}
}
