package cache_test

import (
	"context"
	"errors"
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

func TestMemoryDropsTheLeastRecentlyUsed(t *testing.T) {
	// All keys of one shard: those with the same first byte.
	var keys []cache.Key
	for i := 0; len(keys) < 4; i++ {
		if k := keyer.Key(fmt.Sprint(i)); k[0] == 0 {
			keys = append(keys, k)
		}
	}
	m := cache.NewMemory(cache.MemoryConfig{MaxBytes: 64 * 3 * 1500}) // room for three in a shard
	for _, k := range keys[:3] {
		_ = m.Put(t.Context(), k, credentials(1000, time.Now().Add(time.Hour)))
	}
	_, _ = m.Get(t.Context(), keys[0])
	_ = m.Put(t.Context(), keys[3], credentials(1000, time.Now().Add(time.Hour)))
	for i, kept := range []bool{true, false, true, true} {
		if _, err := m.Get(t.Context(), keys[i]); (err == nil) != kept {
			t.Errorf("entry %d: %v, kept is to be %v", i, err, kept)
		}
	}
}

func TestMemoryKeepsNoEntryLargerThanItsShare(t *testing.T) {
	m := cache.NewMemory(cache.MemoryConfig{MaxBytes: 64 * 2000})
	_ = m.Put(t.Context(), keyer.Key("big"), credentials(4000, time.Now().Add(time.Hour)))
	if _, err := m.Get(t.Context(), keyer.Key("big")); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("got %v", err)
	}
	if s := m.Stats(); s.Entries != 0 || s.Evictions != 0 {
		t.Errorf("%+v", s)
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
