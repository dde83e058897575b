package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// foundInRedis is what a caller costs whose credentials another replica had made, against reading the same from Redis.
func foundInRedis(s *stage) []row {
	f := s.replicas()
	// Each asked again after all others, these are too many for the last replica's memory.
	tokens := make([]string, s.size(3000, 40))
	for i := range tokens {
		tokens[i] = s.token(fmt.Sprintf("shared-%d", i))
	}
	var next atomic.Int64
	request := func(int) *brokerv1.IssueCredentialsRequest {
		return issueRequest(tokens[int(next.Add(1))%len(tokens)], "bench")
	}
	each(s, len(tokens), grpcLoad(s.t, f.replicas[0].grpc, request, ""))

	rdb := goredis.NewClient(&goredis.Options{Addr: f.redis.Addr, PoolSize: inFlight})
	defer rdb.Close()
	entries, err := rdb.Keys(s.t.Context(), "credbroker:c:*").Result()
	if err != nil || len(entries) < len(tokens) {
		s.t.Fatalf("%d entries in Redis, expected %d: %v", len(entries), len(tokens), err)
	}
	var nextEntry atomic.Int64
	get := func(ctx context.Context, _ int) error {
		data, err := rdb.Get(ctx, entries[int(nextEntry.Add(1))%len(entries)]).Bytes()
		if err == nil && len(data) < 300 {
			err = fmt.Errorf("an entry of %d bytes", len(data))
		}
		return err
	}
	reader := f.replicas[2]
	ours := grpcLoad(s.t, reader.grpc, request, "")
	each(s, len(tokens), ours) // the replica has verified the tokens
	const inRedis, inMemory = "credbroker_shared_cache_hits_total", "credbroker_cache_hits_total"
	redisBefore, memoryBefore, mintsBefore := reader.metric(inRedis), reader.metric(inMemory), f.mints()
	c := s.versus(load{call: ours, pid: reader.pid()}, load{call: get})
	fromRedis, fromMemory := reader.metric(inRedis)-redisBefore, reader.metric(inMemory)-memoryBefore
	minted := f.mints() - mintsBefore
	s.profile(reader, "redis", ours)
	r := c.row("L2 hit, gRPC / Redis GET", atLeast(0.35, 0.5))
	r.Note = fmt.Sprintf("%.1f %% found in Redis, the rest in memory but for %g exchanges", 100*fromRedis/(fromRedis+fromMemory+minted), minted)
	return []row{r}
}

// each makes n calls, some at one time.
func each(s *stage, n int, do call) {
	s.t.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			for left.Add(-1) >= 0 {
				if err := do(s.t.Context(), worker); err != nil {
					s.t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// stampede is many first requests of one identity at one time, at three replicas: what counts is how many exchanges come of it.
func stampede(s *stage) []row {
	f := s.replicas()
	var clients []brokerv1.CredentialBrokerServiceClient
	for _, b := range f.replicas {
		for range 8 { // a replica takes 256 calls at one time on one connection
			clients = append(clients, dial(s.t, b.grpc))
		}
	}
	calls := s.size(10_000, 300)
	var mints []float64
	var slowest time.Duration
	for round := range s.rounds {
		token, before := s.token(fmt.Sprintf("stampede-%d", round)), f.mints()
		var wait sync.WaitGroup
		var failed atomic.Pointer[error]
		var keys sync.Map
		begin := time.Now()
		for i := range calls {
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
				defer cancel()
				got, err := clients[i%len(clients)].IssueCredentials(ctx, issueRequest(token, "bench"))
				if err != nil {
					failed.Store(&err)
					return
				}
				keys.Store(got.GetAccessKeyId(), true)
			})
		}
		wait.Wait()
		slowest = max(slowest, time.Since(begin))
		if err := failed.Load(); err != nil {
			s.t.Fatal(*err)
		}
		different := 0
		keys.Range(func(any, any) bool { different++; return true })
		if minted := f.mints() - before; int(minted) != different {
			s.t.Errorf("%d different keys of %g mints", different, minted)
		}
		mints = append(mints, f.mints()-before)
	}
	r := alone(fmt.Sprintf("%s first requests, 1 identity, 3 replicas", thousands(calls)), " mint", mints, atMost(1, 1))
	r.Note = fmt.Sprintf("all answered within %s", slowest.Round(time.Millisecond))
	return []row{r}
}

// mints is how many exchanges all replicas have made.
func (f *fleet) mints() float64 {
	sum := 0.0
	for _, b := range f.replicas {
		sum += b.metric(`credbroker_exchanges_total{exchanger="minio",outcome="ok"}`)
	}
	return sum
}

func thousands(n int) string {
	text := fmt.Sprint(n)
	if len(text) > 3 {
		text = text[:len(text)-3] + "," + text[len(text)-3:]
	}
	return text
}
