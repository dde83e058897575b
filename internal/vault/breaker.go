package vault

import (
	"sync"
	"time"
)

const (
	// breakAfter is how many failures in a row open the breaker.
	breakAfter = 5
	// breakFor is how long it stays open before one attempt may look again. It is short: callers come back at once when
	// Vault does.
	breakFor = 500 * time.Millisecond
)

// sign is what an attempt showed of the server.
type sign int

const (
	// noSign: the attempt ended for a reason of the caller's.
	noSign sign = iota
	// alive: the server answered.
	alive
	// away: it could not be reached, or said "later".
	away
)

// breaker keeps callers from waiting on a server that is known to be away, and the server from all of them at once when it
// comes back. The zero value is closed.
type breaker struct {
	mu        sync.Mutex
	failures  int // in a row
	openUntil time.Time
	probing   bool
}

// permit is leave for one attempt. Its done must be called.
type permit struct {
	breaker *breaker
	probe   bool // the one attempt that may look whether the server is back
}

// allow gives leave for an attempt, or doesn't.
func (b *breaker) allow(now time.Time) (permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakAfter {
		return permit{breaker: b}, true
	}
	if b.probing || now.Before(b.openUntil) {
		return permit{}, false
	}
	b.probing = true
	return permit{breaker: b, probe: true}, true
}

// done tells what the attempt showed. While the breaker is open, failures of attempts that began before it opened count for
// nothing: they would keep it open for as long as they trickle in.
func (p permit) done(s sign, now time.Time) {
	b := p.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.probe {
		b.probing = false
	}
	switch {
	case s == alive:
		b.failures = 0
	case s == away && (p.probe || b.failures < breakAfter):
		b.failures++
		b.openUntil = now.Add(breakFor)
	}
}

// open says that nothing is sent.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures >= breakAfter
}
