package broker

import (
	"slices"
	"sync"

	"github.com/credbroker/credbroker/internal/audit"
)

// recentLimit is how many decisions of each sort are remembered for explaining: about 8 MB together at most.
const recentLimit = 4096

// recentOperations is how many operations of a decision are remembered, of 1 or 2 KB each.
const recentOperations = 1

// Recorded is a decision as it was taken.
type Recorded struct {
	audit.Entry
	// Cause is the private cause of a refusal.
	Cause string
}

// recentDecisions remembers the last decisions by request ID. Those on identities and those on proofs that did not pass are
// kept apart: without a proof nobody can push out, or stand before, what was decided on somebody.
type recentDecisions struct {
	mu         sync.Mutex
	identified ring
	rejected   ring
}

func newRecentDecisions() *recentDecisions {
	return &recentDecisions{identified: newRing(recentLimit), rejected: newRing(recentLimit)}
}

func (r *recentDecisions) add(e audit.Entry, cause error) {
	rec := Recorded{Entry: e}
	rec.Operations = slices.Clip(e.Operations[:min(len(e.Operations), recentOperations)])
	if cause != nil {
		rec.Cause = clip(cause.Error())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Identity != nil {
		r.identified.add(rec)
	} else {
		r.rejected.add(rec)
	}
}

func (r *recentDecisions) find(requestID string) (Recorded, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec, ok := r.identified.find(requestID); ok {
		return rec, true
	}
	return r.rejected.find(requestID)
}

// ring keeps the newest records. A request ID may come from the caller and so come twice: the newest is the one it means.
type ring struct {
	records []Recorded
	next    int
	byID    map[string]int
}

func newRing(limit int) ring {
	return ring{records: make([]Recorded, limit), byID: make(map[string]int, limit)}
}

func (r *ring) add(rec Recorded) {
	if old := r.records[r.next].RequestID; old != "" && r.byID[old] == r.next {
		delete(r.byID, old)
	}
	r.records[r.next] = rec
	r.byID[rec.RequestID] = r.next
	r.next = (r.next + 1) % len(r.records)
}

func (r *ring) find(requestID string) (Recorded, bool) {
	i, ok := r.byID[requestID]
	if !ok {
		return Recorded{}, false
	}
	return r.records[i], true
}
