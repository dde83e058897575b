// Package breaker keeps callers from waiting on a server that is known to be away.
package breaker

import (
	"sync"
	"time"
)

const (
	// breakAfter is how many failures in a row open the breaker.
	breakAfter = 5
	// breakFor is how long it stays open before one attempt may look again. It is short: callers come back at once when
	// the server does.
	breakFor = 500 * time.Millisecond
)

// Sign is what an attempt showed of the server.
type Sign int

const (
	// NoSign means that the attempt ended for a reason of the caller's.
	NoSign Sign = iota
	// Alive means that the server answered.
	Alive
	// Away means that it could not be reached, or said "later".
	Away
)

// Breaker keeps callers from waiting on a server that is known to be away, and the server from all of them at once when it
// comes back. The zero value is closed.
type Breaker struct {
	mu        sync.Mutex
	failures  int // in a row
	openUntil time.Time
	probing   bool
}

// Permit is leave for one attempt. Its Done must be called.
type Permit struct {
	breaker *Breaker
	probe   bool // the one attempt that may look whether the server is back
}

// Allow gives leave for an attempt, or doesn't.
func (b *Breaker) Allow(now time.Time) (Permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakAfter {
		return Permit{breaker: b}, true
	}
	if b.probing || now.Before(b.openUntil) {
		return Permit{}, false
	}
	b.probing = true
	return Permit{breaker: b, probe: true}, true
}

// Done tells what the attempt showed. While the breaker is open, failures of attempts that began before it opened count for
// nothing: they would keep it open for as long as they trickle in.
func (p Permit) Done(s Sign, now time.Time) {
	b := p.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.probe {
		b.probing = false
	}
	switch {
	case s == Alive:
		b.failures = 0
	case s == Away && (p.probe || b.failures < breakAfter):
		b.failures++
		b.openUntil = now.Add(breakFor)
	}
}

// Open says that nothing is sent but to look.
func (b *Breaker) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures >= breakAfter
}
