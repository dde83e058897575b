package attest

import (
	"sync"
	"time"
)

// memory keeps values under IDs until they end, as many as there is room for.
type memory[T any] struct {
	now  func() time.Time
	most int
	ends func(T) time.Time

	mu        sync.Mutex
	byID      map[string]T
	nextSweep time.Time
}

func newMemory[T any](now func() time.Time, most int, ends func(T) time.Time) memory[T] {
	return memory[T]{now: now, most: most, ends: ends, byID: map[string]T{}}
}

// keep says whether there was room. Ended values make some, at most once a second, since every one is looked at.
func (m *memory[T]) keep(id string, v T) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := m.now(); len(m.byID) >= m.most && !now.Before(m.nextSweep) {
		m.nextSweep = now.Add(time.Second)
		for id, v := range m.byID {
			if !now.Before(m.ends(v)) {
				delete(m.byID, id)
			}
		}
	}
	if len(m.byID) >= m.most {
		return false
	}
	m.byID[id] = v
	return true
}

// find returns what is kept under an ID, if anything is that hasn't ended.
func (m *memory[T]) find(id string) (T, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.byID[id]
	return v, ok && m.now().Before(m.ends(v))
}
