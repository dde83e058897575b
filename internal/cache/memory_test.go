package cache_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/cache/cachetest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var keyer = cache.NewKeyer(secret.New(strings.Repeat("k", 32)))

func TestMemory(t *testing.T) {
	cachetest.Run(t, func(_ *testing.T, clock *cachetest.Clock) cache.Cache {
		return cache.NewMemory(cache.MemoryConfig{MaxBytes: 64 << 20, Now: clock.Now})
	})
}

func credentials(size int, expires time.Time) exchange.Credentials {
	return exchange.Credentials{
		AccessKeyID: "AKIA", SecretAccessKey: secret.New("secret"), SessionToken: secret.New(strings.Repeat("t", size)), Expires: expires,
	}
}

func TestMemoryStaysWithinItsBytes(t *testing.T) {
	const most = 1 << 20
	m := cache.NewMemory(cache.MemoryConfig{MaxBytes: most})
	for i := range 5000 {
		if err := m.Put(t.Context(), keyer.Key(fmt.Sprint(i)), credentials(1024, time.Now().Add(time.Hour))); err != nil {
			t.Fatal(err)
		}
	}
	s := m.Stats()
	if s.Bytes > most || s.Bytes < most/2 || s.Entries+s.Evictions != 5000 {
		t.Errorf("%+v, at most %d bytes", s, most)
	}
}

// oneShard gives keys of the same shard: those with the same first byte.
func oneShard(n int) []cache.Key {
	var keys []cache.Key
	for i := 0; len(keys) < n; i++ {
		if k := keyer.Key(fmt.Sprint(i)); k[0] == 0 {
			keys = append(keys, k)
		}
	}
	return keys
}

// share is what a Memory must have so that a shard has room for so many entries with tokens of 1000 bytes.
func share(t *testing.T, entries int64) int64 {
	t.Helper()
	m := cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 20})
	_ = m.Put(t.Context(), keyer.Key("a"), credentials(1000, time.Now().Add(time.Hour)))
	return 64 * entries * m.Stats().Bytes
}

func TestMemoryDropsTheLeastRecentlyUsed(t *testing.T) {
	keys := oneShard(5)
	m := cache.NewMemory(cache.MemoryConfig{MaxBytes: share(t, 3)})
	put := func(i int) { _ = m.Put(t.Context(), keys[i], credentials(1000, time.Now().Add(time.Hour))) }
	put(0)
	put(1)
	put(2)
	if s := m.Stats(); s.Entries != 3 || s.Evictions != 0 {
		t.Errorf("what has room was dropped: %+v", s)
	}
	_, _ = m.Get(t.Context(), keys[0])
	put(1)
	put(3) // in the place of 2
	put(4) // in the place of 0
	for i, kept := range []bool{false, true, false, true, true} {
		if _, err := m.Get(t.Context(), keys[i]); (err == nil) != kept {
			t.Errorf("entry %d: %v, kept is to be %v", i, err, kept)
		}
	}
	if s := m.Stats(); s.Entries != 3 || s.Evictions != 2 || s.Bytes != share(t, 3)/64 {
		t.Errorf("%+v", s)
	}
}

func TestMemoryKeepsNoEntryLargerThanItsShare(t *testing.T) {
	for size, entries := range map[int]int64{1000: 1, 1001: 0} {
		m := cache.NewMemory(cache.MemoryConfig{MaxBytes: share(t, 1)})
		keys := oneShard(2)
		_ = m.Put(t.Context(), keys[0], credentials(10, time.Now().Add(time.Hour)))
		_ = m.Put(t.Context(), keys[1], credentials(size, time.Now().Add(time.Hour)))
		_, err := m.Get(t.Context(), keys[1])
		if (err == nil) != (entries == 1) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if s := m.Stats(); s.Entries != 1 || s.Evictions != entries {
			t.Errorf("%d bytes: the small one was to make room for what is kept alone: %+v", size, s)
		}
	}
}

func TestMemoryTakesNoMoreThanItSays(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	const entries = 4000
	for _, size := range []int{20, 1024, 2048, 4096} {
		before := heap()
		m := cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 30})
		for i := range entries {
			_ = m.Put(t.Context(), keyer.Key(fmt.Sprint(i)), credentials(size, time.Now().Add(time.Hour)))
		}
		took, says := (heap()-before)/entries, m.Stats().Bytes/entries
		if took > says || says > took*4/3 || size == 1024 && took > 2048 {
			t.Errorf("tokens of %d bytes: an entry takes %d bytes and is counted with %d", size, took, says)
		}
	}
}

func TestMemoryForgetsWhatExpiredWhenItsShardIsUsed(t *testing.T) {
	keys := oneShard(6)
	for name, use := range map[string]func(*cache.Memory, time.Time){
		"Get": func(m *cache.Memory, _ time.Time) { _, _ = m.Get(t.Context(), keys[5]) },
		"Put": func(m *cache.Memory, now time.Time) { _ = m.Put(t.Context(), keys[5], credentials(1, now)) },
	} {
		now := time.Unix(1_800_000_000, 0)
		m := cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 20, Now: func() time.Time { return now }})
		for i, life := range []time.Duration{3, 1, 4, 2, 5} {
			_ = m.Put(t.Context(), keys[i], credentials(10, now.Add(life*time.Second)))
		}
		for left := int64(4); left >= 0; left-- {
			now = now.Add(time.Second)
			use(m, now)
			if s := m.Stats(); s.Entries != left || s.Evictions != 0 {
				t.Errorf("%s: %+v, want %d entries", name, s, left)
			}
		}
		if s := m.Stats(); s.Bytes != 0 {
			t.Errorf("%s: %d bytes of no entries", name, s.Bytes)
		}
	}
}

func TestMemoryForgetsWhatExpiredWithoutBeingAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 20})
		ctx, cancel := context.WithCancel(t.Context())
		go m.Run(ctx)
		for i := range 100 {
			_ = m.Put(ctx, keyer.Key(fmt.Sprint(i)), credentials(10, time.Now().Add(30*time.Second)))
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if s := m.Stats(); s.Entries != 0 || s.Bytes != 0 {
			t.Errorf("a minute after their end: %+v", s)
		}
		cancel()
		synctest.Wait()
	})
}

func TestMemoryCountsHitsAndMisses(t *testing.T) {
	m := cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 20})
	_ = m.Put(t.Context(), keyer.Key("a"), credentials(10, time.Now().Add(time.Hour)))
	_, _ = m.Get(t.Context(), keyer.Key("a"))
	_, _ = m.Get(t.Context(), keyer.Key("b"))
	if s := m.Stats(); s.Hits != 1 || s.Misses != 1 || s.Entries != 1 {
		t.Errorf("%+v", s)
	}
}

func BenchmarkMemoryGet(b *testing.B) {
	m := cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 30})
	keys := make([]cache.Key, 10_000)
	for i := range keys {
		keys[i] = keyer.Key(fmt.Sprint(i))
		_ = m.Put(b.Context(), keys[i], credentials(1024, time.Now().Add(time.Hour)))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := m.Get(b.Context(), keys[i%len(keys)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkMemoryHeap reports the live heap of one entry with a session token of 1 KiB.
func BenchmarkMemoryHeap(b *testing.B) {
	const entries = 100_000
	for b.Loop() {
		heap := func() uint64 {
			runtime.GC()
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			return s.HeapAlloc
		}
		before := heap()
		m := cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 30})
		for i := range entries {
			_ = m.Put(b.Context(), keyer.Key(fmt.Sprint(i)), credentials(1024, time.Now().Add(time.Hour)))
		}
		b.ReportMetric(float64(heap()-before)/entries, "B/entry")
		runtime.KeepAlive(m)
	}
}
