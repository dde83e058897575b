package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// latencies counts durations in buckets whose width grows with them, so that it takes the same 16 KiB for any number of them
// and is right to 3 %. It is safe for concurrent use.
type latencies struct {
	buckets [64 * perOctave]atomic.Int64
	longest atomic.Int64
}

// perOctave is how many buckets there are from one power of two to the next; a power of two itself.
const perOctave = 32

func (l *latencies) add(d time.Duration) {
	ns := uint64(max(d, 0))
	l.buckets[bucketOf(ns)].Add(1)
	for most := l.longest.Load(); int64(ns) > most && !l.longest.CompareAndSwap(most, int64(ns)); most = l.longest.Load() {
	}
}

// bucketOf is the identity below perOctave; from there on a number's highest bit and the five after it tell its bucket.
func bucketOf(n uint64) int {
	shift := max(bits.Len64(n)-bits.Len(perOctave), 0)
	return shift*perOctave + int(n>>shift)
}

// upperEnd is the largest number of a bucket.
func upperEnd(bucket int) uint64 {
	shift := max(bucket/perOctave-1, 0)
	return (uint64(bucket-shift*perOctave)+1)<<shift - 1
}

func (l *latencies) count() (n int64) {
	for i := range l.buckets {
		n += l.buckets[i].Load()
	}
	return n
}

// quantile is a duration that the share q of all, between 0 and 1, doesn't exceed; 0 if there are none.
func (l *latencies) quantile(q float64) time.Duration {
	total, seen := l.count(), int64(0)
	for i := range l.buckets {
		seen += l.buckets[i].Load()
		if seen > 0 && float64(seen) >= q*float64(total) {
			return min(time.Duration(upperEnd(i)), l.max())
		}
	}
	return 0
}

func (l *latencies) max() time.Duration { return time.Duration(l.longest.Load()) }
