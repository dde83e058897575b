package cache

import (
	"container/heap"
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

// shards spread the locks; a power of two. Keys are hashes, so their first byte spreads evenly.
const shards = 64

// entryOverhead is what an entry takes beyond its text at most: map slot, list element, heap slot and the entry itself.
const entryOverhead = 320

// MemoryConfig configures a Memory.
type MemoryConfig struct {
	// MaxBytes bounds what all entries take together, overhead included.
	MaxBytes int64
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Memory is a Cache in this process. Within each of its shards, what was used least recently goes first when room is
// needed. An expired entry is never returned. It is dropped at the next Get or Put of any key of its shard, and within a
// minute in any case while Run runs; the garbage collector then frees its text when it comes to it.
type Memory struct {
	now    func() time.Time
	shards [shards]shard
}

// Stats is a snapshot of a Memory. The last three only grow.
type Stats struct {
	Entries, Bytes          int64
	Hits, Misses, Evictions int64
}

type shard struct {
	mu      sync.Mutex
	most    int64
	entries map[Key]*entry
	recent  list.List // of *entry, the latest used first
	ends    expiries
	stats   Stats
}

// entry keeps its text in one string, so that it is one object for the garbage collector.
type entry struct {
	key              Key
	text             string
	idEnd, secretEnd int
	expires          time.Time
	element          *list.Element
	at               int // index in expiries
}

// size is what the entry takes. The fifth is for the allocator, which rounds sizes up.
func (e *entry) size() int64 { return int64(len(e.text)+len(e.text)/5) + entryOverhead }

// NewMemory returns an empty Memory.
func NewMemory(cfg MemoryConfig) *Memory {
	m := &Memory{now: cfg.Now}
	if m.now == nil {
		m.now = time.Now
	}
	for i := range m.shards {
		m.shards[i].most = cfg.MaxBytes / shards
		m.shards[i].entries = map[Key]*entry{}
	}
	return m
}

func (m *Memory) shard(key Key) *shard { return &m.shards[key[0]%shards] }

// Get implements Cache.
func (m *Memory) Get(ctx context.Context, key Key) (exchange.Credentials, error) {
	if err := ctx.Err(); err != nil {
		return exchange.Credentials{}, err
	}
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropExpired(m.now())
	e, ok := s.entries[key]
	if !ok {
		s.stats.Misses++
		return exchange.Credentials{}, ErrMiss
	}
	s.stats.Hits++
	s.recent.MoveToFront(e.element)
	return exchange.Credentials{
		AccessKeyID:     e.text[:e.idEnd],
		SecretAccessKey: secret.New(e.text[e.idEnd:e.secretEnd]),
		SessionToken:    secret.New(e.text[e.secretEnd:]),
		Expires:         e.expires,
	}, nil
}

// Put implements Cache. Credentials larger than a shard's share of the room are not kept.
func (m *Memory) Put(ctx context.Context, key Key, c exchange.Credentials) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e := &entry{
		key: key, text: c.AccessKeyID + c.SecretAccessKey.Reveal() + c.SessionToken.Reveal(), expires: c.Expires,
		idEnd: len(c.AccessKeyID), secretEnd: len(c.AccessKeyID) + c.SecretAccessKey.Len(),
	}
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.now()
	s.dropExpired(now)
	if old, ok := s.entries[key]; ok {
		s.drop(old)
	}
	if !c.Expires.After(now) || e.size() > s.most {
		return nil
	}
	for s.stats.Bytes+e.size() > s.most {
		s.drop(s.recent.Back().Value.(*entry))
		s.stats.Evictions++
	}
	s.entries[key] = e
	e.element = s.recent.PushFront(e)
	heap.Push(&s.ends, e)
	s.stats.Entries++
	s.stats.Bytes += e.size()
	return nil
}

// Delete implements Cache.
func (m *Memory) Delete(ctx context.Context, key Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.entries[key]; ok {
		s.drop(e)
	}
	return nil
}

// Run drops expired entries every minute until ctx ends, so that credentials don't outstay their use in a quiet shard.
func (m *Memory) Run(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.sweep()
		}
	}
}

func (m *Memory) sweep() {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		s.dropExpired(m.now())
		s.mu.Unlock()
	}
}

// Stats returns a snapshot, one shard after the other.
func (m *Memory) Stats() Stats {
	var sum Stats
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		sum.Entries += s.stats.Entries
		sum.Bytes += s.stats.Bytes
		sum.Hits += s.stats.Hits
		sum.Misses += s.stats.Misses
		sum.Evictions += s.stats.Evictions
		s.mu.Unlock()
	}
	return sum
}

func (s *shard) dropExpired(now time.Time) {
	for len(s.ends) > 0 && !s.ends[0].expires.After(now) {
		s.drop(s.ends[0])
	}
}

func (s *shard) drop(e *entry) {
	delete(s.entries, e.key)
	s.recent.Remove(e.element)
	heap.Remove(&s.ends, e.at)
	s.stats.Entries--
	s.stats.Bytes -= e.size()
}

// expiries is a heap of entries, the first to expire on top.
type expiries []*entry

func (x expiries) Len() int           { return len(x) }
func (x expiries) Less(i, j int) bool { return x[i].expires.Before(x[j].expires) }
func (x expiries) Swap(i, j int)      { x[i], x[j] = x[j], x[i]; x[i].at, x[j].at = i, j }
func (x *expiries) Push(e any)        { e.(*entry).at = len(*x); *x = append(*x, e.(*entry)) }
func (x *expiries) Pop() any {
	old := *x
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*x = old[:len(old)-1]
	return e
}
