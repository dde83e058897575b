package broker

import (
	"sync"

	"github.com/credbroker/credbroker/internal/audit"
)

// recentLimit is how many decisions are remembered for explaining: about 4 MB at most.
const recentLimit = 4096

// Recorded is a decision as it was taken.
type Recorded struct {
	audit.Entry
	// Cause is the private cause of a refusal.
	Cause string
}

// recentDecisions remembers the last decisions by request ID.
type recentDecisions struct {
	mu   sync.Mutex
	ring []Recorded
	next int
	byID map[string]int
}

func newRecentDecisions(limit int) *recentDecisions {
	return &recentDecisions{ring: make([]Recorded, limit), byID: make(map[string]int, limit)}
}

func (r *recentDecisions) add(e audit.Entry, cause error) {
	rec := Recorded{Entry: e}
	if cause != nil {
		rec.Cause = clip(cause.Error())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// A request ID may come from the caller and so come twice: the newest is the one it means.
	if old := r.ring[r.next].RequestID; old != "" && r.byID[old] == r.next {
		delete(r.byID, old)
	}
	r.ring[r.next] = rec
	r.byID[e.RequestID] = r.next
	r.next = (r.next + 1) % len(r.ring)
}

func (r *recentDecisions) find(requestID string) (Recorded, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.byID[requestID]
	if !ok {
		return Recorded{}, false
	}
	return r.ring[i], true
}
