package redis_test

import (
	"context"
	"encoding/base64"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/redis"
)

func leaseName(key cache.Key) string {
	return "credbroker:l:{" + base64.RawURLEncoding.EncodeToString(key[:]) + "}"
}

func take(t *testing.T, c *redis.Client, key cache.Key) cache.Lease {
	t.Helper()
	l, err := c.Lease(t.Context(), key, key)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func found(l cache.Lease) string {
	c, err := l.Found()
	if err != nil {
		return err.Error()
	}
	return c.AccessKeyID
}

// subscribed waits until so many clients hear what lands.
func subscribed(t *testing.T, server *brokertest.Redis, n string) {
	t.Helper()
	eventually(t, "subscriptions", func() error {
		if got := server.CLI("PUBSUB", "NUMSUB", "credbroker:landed"); got != "credbroker:landed\n"+n {
			return errors.New(got)
		}
		return nil
	})
}

func TestALeaseIsHeldByOneReplica(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	one, two := connect(t, at(server.Addr)), connect(t, at(server.Addr))
	subscribed(t, server, "2")
	key := keyer.Key("a")
	held := take(t, one, key)
	if !held.Held() || found(held) != cache.ErrMiss.Error() {
		t.Fatalf("held %v, found %s", held.Held(), found(held))
	}
	other := take(t, two, key)
	if other.Held() {
		t.Fatal("two replicas hold it")
	}
	another := take(t, two, keyer.Key("b"))
	if !another.Held() {
		t.Error("the lease of another key isn't free")
	}
	another.Drop(t.Context())

	start, woken := time.Now(), make(chan error)
	go func() { woken <- other.Wait(t.Context()) }()
	if err := held.Land(t.Context(), key, credentials("a", time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := <-woken; err != nil || time.Since(start) > 2*time.Second {
		t.Errorf("woken after %s: %v", time.Since(start), err)
	}
	after := take(t, two, key)
	if found(after) != "AKa" || !after.Held() {
		t.Errorf("held %v, found %s", after.Held(), found(after))
	}
	after.Drop(t.Context())
	if server.CLI("EXISTS", leaseName(key)) != "0" {
		t.Error("the lease outlives its drop")
	}
}

func TestADroppedLeaseWakesWhoeverWaits(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	one, two := connect(t, at(server.Addr)), connect(t, at(server.Addr))
	subscribed(t, server, "2")
	key := keyer.Key("a")
	held := take(t, one, key)
	var wait sync.WaitGroup
	for range 3 {
		other := take(t, two, key)
		wait.Go(func() {
			start := time.Now()
			if err := other.Wait(t.Context()); err != nil || time.Since(start) > 2*time.Second {
				t.Errorf("woken after %s: %v", time.Since(start), err)
			}
		})
	}
	held.Drop(t.Context())
	wait.Wait()
	if l := take(t, two, key); !l.Held() || found(l) != cache.ErrMiss.Error() {
		t.Errorf("held %v, found %s", l.Held(), found(l))
	} else {
		l.Drop(t.Context())
	}
}

// The lease of a replica that died frees itself, and whoever waited comes back without being woken.
func TestADeadHoldersLeaseEnds(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	key := keyer.Key("a")
	server.CLI("SET", leaseName(key), "of-a-dead-one", "PX", "3000")
	start := time.Now()
	for {
		l := take(t, c, key)
		if l.Held() {
			l.Drop(t.Context())
			break
		}
		if err := l.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 2*time.Second || took > 6*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A lease lives for as long as its holder works.
func TestAHeldLeaseIsRenewed(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	one, two := connect(t, at(server.Addr)), connect(t, at(server.Addr))
	key := keyer.Key("a")
	held := take(t, one, key)
	for start := time.Now(); time.Since(start) < 4*time.Second; {
		l := take(t, two, key)
		if l.Held() {
			t.Fatalf("lost after %s", time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := l.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	held.Drop(t.Context())
	if l := take(t, two, key); !l.Held() {
		t.Error("it isn't free")
	} else {
		l.Drop(t.Context())
	}
}

// A holder that was too slow must not end another's lease.
func TestALostLeaseIsLeftAlone(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	key := keyer.Key("a")
	held := take(t, c, key)
	server.CLI("SET", leaseName(key), "another's", "PX", "60000")
	held.Drop(t.Context())
	if got := server.CLI("GET", leaseName(key)); got != "another's" {
		t.Errorf("the lease is now %q", got)
	}
}

// Word that was lost with the connection must not leave anybody waiting.
func TestALostConnectionWakesEverybody(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	proxy := brokertest.StartProxy(t, server.Addr)
	c := connect(t, at(proxy.Addr))
	subscribed(t, server, "1")
	key := keyer.Key("a")
	server.CLI("SET", leaseName(key), "of-another", "PX", "60000")
	l := take(t, c, key)
	start := time.Now()
	proxy.Cut(brokertest.Refuse)
	if err := l.Wait(t.Context()); err != nil || time.Since(start) > 2*time.Second {
		t.Errorf("woken after %s: %v", time.Since(start), err)
	}
}

func TestNoiseOnTheChannelWakesNobody(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	subscribed(t, server, "1")
	key := keyer.Key("a")
	server.CLI("SET", leaseName(key), "of-another", "PX", "60000")
	l := take(t, c, key)
	other := keyer.Key("b")
	for _, noise := range []string{"", "x", string(key[:31]), string(key[:]) + "x", string(other[:])} {
		server.CLI("PUBLISH", "credbroker:landed", noise)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := l.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// Whoever can write to Redis can't keep a key from being renewed by a lease that never ends.
func TestALeaseThatNoReplicaTookEnds(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	for name, plant := range map[string][]string{
		"without an end": {"SET", leaseName(keyer.Key("a")), "mine"},
		"for an hour":    {"SET", leaseName(keyer.Key("a")), "mine", "EX", "3600"},
	} {
		server.CLI(plant...)
		l := take(t, c, keyer.Key("a"))
		if l.Held() {
			t.Fatalf("%s: taken", name)
		}
		if err := l.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "an end", func() error {
			l := take(t, c, keyer.Key("a"))
			defer l.Drop(t.Context())
			if !l.Held() {
				return errors.New(name + ": still held")
			}
			return nil
		})
	}
}

// An entry that somebody spoiled keeps nobody from the lease.
func TestALeaseIsTakenWhateverTheEntryIs(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	server.CLI("LPUSH", entryName(keyer.Key("a")), "x")
	l := take(t, c, keyer.Key("a"))
	defer l.Drop(t.Context())
	if !l.Held() {
		t.Error("not taken")
	}
}

func TestWhatHasEndedIsNotKept(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	c := connect(t, at(server.Addr))
	put(t, c, keyer.Key("a"), "a")
	if err := c.Put(t.Context(), keyer.Key("a"), credentials("b", 0)); err != nil {
		t.Error(err)
	}
	if got := got(t, c, keyer.Key("a")); got != cache.ErrMiss.Error() {
		t.Errorf("got %s", got)
	}
}
