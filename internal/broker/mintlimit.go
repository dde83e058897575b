package broker

import (
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/cache"
)

// mintIdentities bounds the identities that are counted at one time. A back-end doesn't come near it within a minute.
const mintIdentities = 1 << 17

// mintLimiter counts exchanges by identity within a minute. Without it one caller could have a new key minted with every
// call, by asking for another TTL or another narrowing each time.
type mintLimiter struct {
	most int

	mu     sync.Mutex
	minute int64
	counts map[cache.Key]int
}

func newMintLimiter(most int) *mintLimiter {
	return &mintLimiter{most: most, counts: map[cache.Key]int{}}
}

// allow counts one exchange and says whether it may take place.
func (l *mintLimiter) allow(id cache.Key, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if minute := now.Unix() / 60; minute != l.minute {
		l.minute = minute
		l.counts = map[cache.Key]int{}
	}
	n, counted := l.counts[id]
	if n >= l.most || !counted && len(l.counts) >= mintIdentities {
		return false
	}
	l.counts[id] = n + 1
	return true
}
