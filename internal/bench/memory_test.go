package bench

import (
	"fmt"
	"runtime"
	"time"
)

// heap is what the broker keeps in memory of an identity whose credentials it has: the credentials, the verified token, and
// what counts its mints.
func heap(s *stage) []row {
	p := s.pipeline(10, 1<<30)
	p.issueAll(s.size(9000, 10), func(i int) string { return s.token(fmt.Sprintf("before-%d", i)) }) // the memory of recent decisions is full
	n := s.size(30_000, 50)
	var rounds []float64
	for round := range s.rounds {
		before := liveHeap()
		p.issueAll(n/s.rounds, func(i int) string { return s.token(fmt.Sprintf("identity-%d-%d", round, i)) })
		rounds = append(rounds, float64(liveHeap()-before)/float64(n/s.rounds))
	}
	runtime.KeepAlive(p)
	return []row{alone("live heap per cached identity", "bytes", rounds, atMost(3000, 2000))}
}

// liveHeap is what is left on the heap after garbage collection.
func liveHeap() int64 {
	var stats runtime.MemStats
	for range 2 { // the second takes what finalizers and pools held
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// idle is what the program takes that nobody has called yet, and how long it takes to start.
func idle(s *stage) []row {
	var resident, ready []float64
	for range s.rounds {
		b := newReplica(s.t)
		ready = append(ready, b.start(b.http, s.config("http://127.0.0.1:1", "")).Seconds())
		time.Sleep(s.spell) // what the start left behind is part of it
		resident = append(resident, b.residentBytes())
		b.stop()
	}
	return []row{
		alone("idle RSS", "bytes", resident, atMost(60e6, 40e6)),
		alone("start to ready", "s", ready, atMost(0.300, 0.100)),
	}
}
