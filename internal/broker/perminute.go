package broker

import (
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/cache"
)

// countedIdentities bounds the identities that are counted at one time; whoever comes after them within that minute is
// refused.
const countedIdentities = 1 << 17

// perMinute counts what identities do within a minute.
type perMinute struct {
	most int

	mu     sync.Mutex
	minute int64
	counts map[cache.Key]int
}

func newPerMinute(most int) *perMinute {
	return &perMinute{most: most, counts: map[cache.Key]int{}}
}

// allow counts one doing and says whether it may take place.
func (l *perMinute) allow(id cache.Key, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if minute := now.Unix() / 60; minute != l.minute {
		l.minute = minute
		l.counts = map[cache.Key]int{}
	}
	n, counted := l.counts[id]
	if n >= l.most || !counted && len(l.counts) >= countedIdentities {
		return false
	}
	l.counts[id] = n + 1
	return true
}
