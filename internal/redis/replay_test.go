package redis_test

import (
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/redis"
)

func proof(name string) [sha256.Size]byte { return sha256.Sum256([]byte(name)) }

// begun waits until Redis vouches for proofs from now on, for the tag of each of the names.
func begun(t *testing.T, server *brokertest.Redis) {
	t.Helper()
	eventually(t, "memory of used proofs", func() error {
		if n := strings.Count(server.CLI("KEYS", "credbroker:used:*"), "credbroker:used:"); n < 16 {
			return errors.New("not all tags have begun")
		}
		return nil
	})
	time.Sleep(2 * time.Millisecond) // what is issued now is issued later, by the millisecond that Redis keeps
}

func TestAProofIsUsedOnceOnAllReplicas(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	one, two := connect(t, at(server.Addr)).Replay(), connect(t, at(server.Addr)).Replay()
	begun(t, server)
	var won, refused atomic.Int32
	var wait sync.WaitGroup
	now := time.Now()
	for n := range 50 {
		r := one
		if n%2 == 1 {
			r = two
		}
		wait.Go(func() {
			switch err := r.Use(t.Context(), proof("a"), now, time.Minute); {
			case err == nil:
				won.Add(1)
			case errors.Is(err, attest.ErrRejected) && strings.Contains(err.Error(), "used before"):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if won.Load() != 1 || refused.Load() != 49 {
		t.Errorf("%d uses passed, %d were refused", won.Load(), refused.Load())
	}
	if err := two.Use(t.Context(), proof("b"), now, time.Minute); err != nil {
		t.Error(err)
	}
	for _, name := range strings.Fields(server.CLI("KEYS", "credbroker:used:*:*")) {
		if ttl := strings.TrimSpace(server.CLI("PTTL", name)); len(ttl) != 6 || ttl < "359000" || ttl > "360000" { // a minute, and five for clocks that differ
			t.Errorf("%s stays for %s ms", name, ttl)
		}
	}
}

// A Redis that can't vouch for a proof's whole life refuses it.
func TestProofsOlderThanTheMemoryAreRefused(t *testing.T) {
	for name, lose := range map[string]func(*brokertest.Redis){
		"flushed":   func(s *brokertest.Redis) { s.CLI("FLUSHALL") },
		"restarted": func(s *brokertest.Redis) { s.Kill(); s.Start() },
	} {
		t.Run(name, func(t *testing.T) {
			server := brokertest.StartRedis(t, brokertest.RedisOptions{Save: true})
			c := connect(t, at(server.Addr))
			begun(t, server)
			before := time.Now()
			if err := c.Replay().Use(t.Context(), proof("a"), before, time.Minute); err != nil {
				t.Fatal(err)
			}
			lose(server)
			eventually(t, "Redis", func() error {
				err := c.Replay().Use(t.Context(), proof("b"), before, time.Minute)
				if errors.Is(err, attest.ErrUnavailable) {
					return err
				}
				if !errors.Is(err, attest.ErrRejected) || !strings.Contains(err.Error(), "older than Redis's memory") {
					t.Errorf("issued before: %v", err)
				}
				return nil
			})
			if err := c.Replay().Use(t.Context(), proof("a"), before, time.Minute); !errors.Is(err, attest.ErrRejected) {
				t.Errorf("used before: %v", err)
			}
			if err := c.Replay().Use(t.Context(), proof("b2"), time.Now().Add(time.Second), time.Minute); err != nil {
				t.Errorf("issued after: %v", err)
			}
		})
	}
}

func TestARedisThatThrowsAwayCantVouch(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{Args: []string{"maxmemory 100mb", "maxmemory-policy volatile-lru"}})
	c := connect(t, at(server.Addr))
	later := time.Now().Add(time.Minute)
	if err := c.Replay().Use(t.Context(), proof("a"), later, time.Minute); !errors.Is(err, attest.ErrUnavailable) || !strings.Contains(err.Error(), "noeviction") {
		t.Errorf("got %v", err)
	}
	server.CLI("CONFIG", "SET", "maxmemory-policy", "noeviction")
	if err := c.Replay().Use(t.Context(), proof("a"), later, time.Minute); err != nil {
		t.Errorf("with noeviction: %v", err)
	}
	server.CLI("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	server.CLI("CONFIG", "SET", "maxmemory", "0")
	if err := c.Replay().Use(t.Context(), proof("b"), later, time.Minute); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

func TestReplayFailsClosed(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	begun(t, server)
	now := time.Now()
	for _, way := range []struct {
		name          string
		spoil, repair func()
	}{
		{"read-only", func() { server.SetReadOnly(true) }, func() { server.SetReadOnly(false) }},
		{"out of memory", server.ExhaustMemory, server.FreeMemory},
		{"gone", server.Kill, server.Start},
	} {
		way.spoil()
		if err := c.Replay().Use(t.Context(), proof(way.name), now, time.Minute); !errors.Is(err, attest.ErrUnavailable) {
			t.Errorf("%s: %v", way.name, err)
		}
		way.repair()
	}
	eventually(t, "Redis", func() error {
		err := c.Replay().Use(t.Context(), proof("after"), time.Now().Add(time.Minute), time.Minute)
		if errors.Is(err, attest.ErrRejected) { // an attempt whose answer was lost
			return nil
		}
		return err
	})
}

// What was thrown away in the meantime isn't vouched for when the server no longer throws away.
func TestProofsAreRefusedAfterAnEviction(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	begun(t, server)
	issued := time.Now()
	if err := c.Replay().Use(t.Context(), proof("a"), issued, time.Hour); err != nil {
		t.Fatal(err)
	}
	server.CLI("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
	server.CLI("CONFIG", "SET", "maxmemory", "1mb")
	if err := c.Replay().Use(t.Context(), proof("b"), issued, time.Hour); !errors.Is(err, attest.ErrUnavailable) || !strings.Contains(err.Error(), "noeviction") {
		t.Errorf("while it throws away: %v", err)
	}
	server.CLI("CONFIG", "SET", "maxmemory-policy", "noeviction")
	server.CLI("CONFIG", "SET", "maxmemory", "0")
	if n := strings.TrimSpace(server.CLI("KEYS", "credbroker:used:*:*")); n != "" {
		t.Fatalf("nothing was thrown away: %s", n)
	}
	if err := c.Replay().Use(t.Context(), proof("a"), issued, time.Hour); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("a proof whose mark was thrown away: %v", err)
	}
}

// A server whose clock is behind doesn't vouch for the time before its memory began.
func TestTheMemoryOfProofsBeginsByTheLaterClock(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr), func(c *redis.Config) { c.Now = func() time.Time { return time.Now().Add(10 * time.Minute) } })
	begun(t, server)
	if err := c.Replay().Use(t.Context(), proof("a"), time.Now().Add(9*time.Minute), time.Hour); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("from before by the broker's clock: %v", err)
	}
	if err := c.Replay().Use(t.Context(), proof("a"), time.Now().Add(11*time.Minute), time.Hour); err == nil {
		t.Error("used up, and good again")
	}
	if err := c.Replay().Use(t.Context(), proof("b"), time.Now().Add(11*time.Minute), time.Hour); err != nil {
		t.Error(err)
	}
}
