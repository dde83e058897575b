package jwtproof

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

const (
	memoryShards = 64
	// defaultMemoryBytes bounds the memory of verified tokens if no more is given.
	defaultMemoryBytes = 64 << 20
	// bytesForEach is what there is for one token on the average: it bounds how many there are.
	bytesForEach = 1024
)

// digestOf names a token in memory, so that the token itself is not kept.
type digestOf [sha256.Size]byte

// remembered is what verifying a token came to. What can change afterwards - the clock, the issuer's keys, the
// configuration - is checked again at each use.
type remembered struct {
	issuer *issuer
	key    keyIdentity
	// from and until bound the use; until is `exp` itself, without skew.
	from, until time.Time
	identity    attest.Identity
	bytes       int
}

// memory keeps verified tokens. Only tokens that passed every check get in, so nobody but the issuers' subjects can
// fill it.
type memory struct {
	mostEntries, mostBytes int // of a shard
	shards                 [memoryShards]memoryShard
	buffers                sync.Pool // of *[]byte, for name
}

type memoryShard struct {
	mu      sync.RWMutex
	entries map[digestOf]*remembered
	bytes   int
}

func newMemory(maxBytes int64) *memory {
	m := &memory{mostEntries: int(maxBytes / bytesForEach / memoryShards), mostBytes: int(maxBytes / memoryShards)}
	for i := range m.shards {
		m.shards[i].entries = map[digestOf]*remembered{}
	}
	return m
}

// name names a token. Hashing a string takes a copy of its bytes, whose memory is kept.
func (m *memory) name(token string) digestOf {
	b, ok := m.buffers.Get().(*[]byte)
	if !ok {
		b = new([]byte)
	}
	*b = append((*b)[:0], token...)
	sum := sha256.Sum256(*b)
	clear(*b)
	m.buffers.Put(b)
	return sum
}

// shard picks by the first byte: a digest is as good as random.
func (m *memory) shard(d digestOf) *memoryShard { return &m.shards[d[0]%memoryShards] }

func (m *memory) get(d digestOf) *remembered {
	s := m.shard(d)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[d]
}

func (m *memory) forget(d digestOf) {
	s := m.shard(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(d)
}

// put remembers an entry, and forgets others where there is no room.
func (m *memory) put(d digestOf, e *remembered) {
	e.bytes = sizeOf(e.identity)
	if e.bytes > m.mostBytes {
		return
	}
	s := m.shard(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(d)
	for len(s.entries) >= m.mostEntries || s.bytes+e.bytes > m.mostBytes {
		s.evict()
	}
	s.entries[d] = e
	s.bytes += e.bytes
}

// evict removes the one of a few entries, in the map's random order, that ends first.
func (s *memoryShard) evict() {
	var victim digestOf
	var end time.Time
	seen := 0
	for d, e := range s.entries {
		if seen == 0 || e.until.Before(end) {
			victim, end = d, e.until
		}
		if seen++; seen == 8 {
			break
		}
	}
	s.remove(victim)
}

func (s *memoryShard) remove(d digestOf) {
	if e, ok := s.entries[d]; ok {
		s.bytes -= e.bytes
		delete(s.entries, d)
	}
}

// sizeOf estimates what an identity takes in memory.
func sizeOf(id attest.Identity) int {
	const entry, value = 512, 16 // structs and map buckets; a string header
	n := entry + len(id.Subject)
	for name, values := range id.Attrs {
		n += 64 + len(name)
		for _, v := range values {
			n += value + len(v)
		}
	}
	return n
}
