package minio

import (
	"sync"
	"time"
)

const (
	// breakAfter is how many failures in a row open the breaker.
	breakAfter = 5
	// breakFor is how long it stays open before one attempt may look again. It is short: callers come back at once when
	// MinIO does.
	breakFor = 500 * time.Millisecond
)

// breaker keeps callers from waiting on a server that is known to be away, and the server from all of them at once when it
// comes back.
type breaker struct {
	mu        sync.Mutex
	failures  int // in a row
	openUntil time.Time
	probing   bool
}

// allow says whether an attempt may be made. If so, done must be called with how it went.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakAfter {
		return true
	}
	if b.probing || now.Before(b.openUntil) {
		return false
	}
	b.probing = true
	return true
}

func (b *breaker) done(ok bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	if ok {
		b.failures = 0
		return
	}
	b.failures++
	b.openUntil = now.Add(breakFor)
}
