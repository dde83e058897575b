package redis_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/redis"
)

// works waits until credentials can be kept and found again, and nothing is said to be wrong.
func works(t *testing.T, c *redis.Client) {
	t.Helper()
	eventually(t, "Redis", func() error {
		key := keyer.Key(fmt.Sprint(time.Now()))
		if err := c.Put(t.Context(), key, credentials("a", time.Minute)); err != nil {
			return err
		}
		if _, err := c.Get(t.Context(), key); err != nil {
			return err
		}
		if s := c.Status(); s != "" {
			return errors.New(s)
		}
		return nil
	})
}

func TestARedisThatIsGoneIsDoneWithoutAndFoundAgain(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	var seen observed
	c := connect(t, at(server.Addr), func(c *redis.Config) { c.Observe = seen.note })
	works(t, c)
	server.Kill()
	if _, err := c.Get(t.Context(), keyer.Key("a")); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	eventually(t, "notice", func() error {
		_, _ = c.Get(t.Context(), keyer.Key("a"))
		if c.Up() || !strings.Contains(c.Status(), "away since") {
			return errors.New(c.Status())
		}
		return nil
	})
	start := time.Now()
	for range 1000 {
		if _, err := c.Get(t.Context(), keyer.Key("a")); !errors.Is(err, cache.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > time.Second || seen.count("find skipped") < 1000 {
		t.Errorf("a thousand look-ups took %s; %d skipped", took, seen.count("find skipped"))
	}
	server.Start()
	works(t, c)
}

// Nobody waits for a Redis that doesn't answer for longer than the timeout, and after a few times nobody waits at all.
func TestASilentRedisIsDoneWithoutAndFoundAgain(t *testing.T) {
	for name, how := range map[string]func(*brokertest.Redis, *brokertest.Proxy) (undo func()){
		"frozen":     func(s *brokertest.Redis, _ *brokertest.Proxy) func() { s.Pause(); return s.Resume },
		"blackholed": func(_ *brokertest.Redis, p *brokertest.Proxy) func() { p.Cut(brokertest.Blackhole); return p.Heal },
		"slow": func(_ *brokertest.Redis, p *brokertest.Proxy) func() {
			p.Delay(0, time.Second)
			return func() { p.Delay(0, 0) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := brokertest.StartRedis(t, brokertest.RedisOptions{})
			proxy := brokertest.StartProxy(t, server.Addr)
			c := connect(t, at(proxy.Addr), func(c *redis.Config) { c.Timeout = 200 * time.Millisecond })
			works(t, c)
			undo := how(server, proxy)
			for range 3 {
				start := time.Now()
				if _, err := c.Get(t.Context(), keyer.Key("a")); !errors.Is(err, cache.ErrUnavailable) || time.Since(start) > 2*time.Second {
					t.Errorf("%v after %s", err, time.Since(start))
				}
			}
			if c.Up() || !strings.Contains(c.Status(), "no answer in time") {
				t.Errorf("status %q", c.Status())
			}
			undo()
			works(t, c)
		})
	}
}

// A Redis that answers, but not what is asked, is not away: reads go on where writes fail.
func TestARedisThatTakesNoWritesIsStillRead(t *testing.T) {
	for _, way := range []struct {
		name          string
		spoil, repair func(*brokertest.Redis)
		says          string
	}{
		{"read-only", func(s *brokertest.Redis) { s.SetReadOnly(true) }, func(s *brokertest.Redis) { s.SetReadOnly(false) }, "READONLY"},
		{"out of memory", (*brokertest.Redis).ExhaustMemory, (*brokertest.Redis).FreeMemory, "OOM"},
	} {
		t.Run(way.name, func(t *testing.T) {
			server := brokertest.StartRedis(t, brokertest.RedisOptions{})
			c := connect(t, at(server.Addr))
			put(t, c, keyer.Key("a"), "a")
			way.spoil(server)
			for range 5 {
				if err := c.Put(t.Context(), keyer.Key("b"), credentials("b", time.Minute)); !errors.Is(err, cache.ErrUnavailable) {
					t.Errorf("put: %v", err)
				}
				if _, err := c.Lease(t.Context(), keyer.Key("b"), keyer.Key("b")); !errors.Is(err, cache.ErrUnavailable) {
					t.Errorf("lease: %v", err)
				}
				if got := got(t, c, keyer.Key("a")); got != "AKa" {
					t.Errorf("get: %s", got)
				}
			}
			if !c.Up() || !strings.Contains(c.Status(), "writes fail since") || !strings.Contains(c.Status(), way.says) {
				t.Errorf("status %q", c.Status())
			}
			way.repair(server)
			works(t, c)
		})
	}
}

func TestSentinelFailover(t *testing.T) {
	servers := brokertest.StartSentinel(t, brokertest.SentinelOptions{
		Data:      brokertest.RedisOptions{Password: "replication", ACL: []string{aclUser}},
		Sentinels: brokertest.RedisOptions{Password: "replication", ACL: []string{aclSentinelUser}},
	})
	password := writeFile(t, "acl-password\n")
	c := connect(t, func(c *redis.Config) {
		c.Mode, c.Addresses, c.MasterName, c.PasswordFile = redis.Sentinel, servers.Addrs, servers.MasterName, password
		c.Username, c.SentinelUsername, c.SentinelPassword = "broker", "broker", secretOf("acl-password")
	})
	works(t, c)
	put(t, c, keyer.Key("a"), "a")
	for _, server := range servers.Data {
		eventually(t, "replication", func() error {
			if server.CLI("EXISTS", entryName(keyer.Key("a"))) != "1" {
				return errors.New("not there yet")
			}
			return nil
		})
	}
	old := servers.Primary()
	servers.KillPrimary()
	servers.WaitFailover(old)
	works(t, c)
	if got := got(t, c, keyer.Key("a")); got != "AKa" {
		t.Errorf("after the failover: %s", got)
	}
	for _, server := range slices.Concat(servers.Sentinels, servers.Data[1:]) {
		if denied := server.CLI("ACL", "LOG"); strings.TrimSpace(denied) != "" {
			t.Errorf("Redis denied: %s", denied)
		}
	}
	if l := take(t, c, keyer.Key("b")); !l.Held() {
		t.Error("no lease after the failover")
	} else {
		l.Drop(t.Context())
	}
}

func TestCluster(t *testing.T) {
	servers := brokertest.StartRedisCluster(t, brokertest.RedisOptions{ACL: []string{"user default off", aclUser + aclClusterMore}})
	password := writeFile(t, "acl-password\n")
	cluster := func(c *redis.Config) {
		c.Mode, c.Addresses, c.Username, c.PasswordFile = redis.Cluster, servers.Addrs, "broker", password
	}
	one, two := connect(t, cluster), connect(t, cluster)
	works(t, one)
	var keys []cache.Key
	for n := range 30 { // on all nodes
		key := keyer.Key("k", fmt.Sprint(n))
		keys = append(keys, key)
		put(t, one, key, fmt.Sprint(n))
		if got := got(t, two, key); got != "AK"+fmt.Sprint(n) {
			t.Errorf("%d: %s", n, got)
		}
	}
	if c, _, err := two.Find(t.Context(), keyer.Key("none"), keys[7], keys[3]); err != nil || c.AccessKeyID != "AK7" {
		t.Errorf("found %s, %v", c.AccessKeyID, err)
	}
	for n := range 10 {
		key := keyer.Key("l", fmt.Sprint(n))
		held := take(t, one, key)
		other, err := two.Lease(t.Context(), key, keyer.Key("other", fmt.Sprint(n)), key)
		if err != nil || !held.Held() || other.Held() {
			t.Fatal(err)
		}
		var wait sync.WaitGroup
		wait.Go(func() {
			if err := other.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		})
		if err := held.Land(t.Context(), key, credentials("x", time.Minute)); err != nil {
			t.Error(err)
		}
		wait.Wait()
		if got(t, two, key) != "AKx" {
			t.Error(n, got(t, two, key))
		}
	}
	post(t, one.Board(), "one", "keys")
	if names(t, two.Board()) != "one" {
		t.Error("no notice")
	}
	for _, node := range servers.Nodes {
		if denied := node.CLI("ACL", "LOG"); strings.TrimSpace(denied) != "" {
			t.Errorf("Redis denied: %s", denied)
		}
	}
	for n := range 20 {
		name := proof(fmt.Sprint(n))
		later := time.Now().Add(time.Minute)
		if first, second := one.Replay().Use(t.Context(), name, later, time.Minute), two.Replay().Use(t.Context(), name, later, time.Minute); first != nil || second == nil {
			t.Errorf("%d: %v, %v", n, first, second)
		}
	}
}

// The commands of docs/redis.md are all that the user needs.
const aclUser = "user broker on >acl-password resetkeys ~credbroker:* resetchannels &credbroker:* -@all " +
	"+getrange +set +del +get +publish +subscribe +pexpire +pttl +hset +hdel +hget +hkeys +hlen +hstrlen +hmget " +
	"+eval +evalsha +info +time +ping"

const aclClusterMore = " +cluster|slots +command"

const aclSentinelUser = "user broker on >acl-password resetkeys resetchannels allchannels -@all " +
	"+sentinel|get-master-addr-by-name +sentinel|sentinels +subscribe +ping"

func TestTheCommandsNeededAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.FieldsFunc(string(document), func(r rune) bool { return strings.ContainsRune(" \n`;,", r) })
	for _, word := range strings.Fields(aclUser + aclClusterMore + " " + aclSentinelUser) {
		if (word[0] == '+' || word[0] == '~' || word[0] == '&') && !slices.Contains(words, word) {
			t.Errorf("%s is not in docs/redis.md", word)
		}
	}
}

func TestACLUserOverTLS(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{TLS: true, ClientCertificates: true, ACL: []string{"user default off", aclUser}})
	file := writeFile(t, "acl-password\n")
	c := connect(t, at(server.Addr), func(c *redis.Config) {
		c.Username, c.PasswordFile, c.TLS = "broker", file, clientTLS(t, server)
	})
	works(t, c)
	subscribed(t, server, "1")
	l := take(t, c, keyer.Key("x"))
	if err := l.Land(t.Context(), keyer.Key("x"), credentials("x", time.Minute)); err != nil {
		t.Error(err)
	}
	post(t, c.Board(), "one", "keys")
	if names(t, c.Board()) != "one" || c.Board().Remove(t.Context(), "one") != nil {
		t.Error("no notice")
	}
	begun(t, server)
	if err := c.Replay().Use(t.Context(), proof("a"), time.Now(), time.Minute); err != nil {
		t.Error(err)
	}
	held := take(t, c, keyer.Key("renewed"))
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond) // past the first renewal
	defer cancel()
	<-ctx.Done()
	held.Drop(t.Context())
	if denied := server.CLI("ACL", "LOG"); strings.TrimSpace(denied) != "" {
		t.Errorf("Redis denied: %s", denied)
	}
	if s := c.Status(); s != "" {
		t.Error(s)
	}

	// The password is rotated: the file first, then Redis, which drops the connections of the old one.
	overwrite(t, file, "next-password\n")
	server.CLI("ACL", "SETUSER", "broker", "resetpass", ">next-password")
	server.CLI("CLIENT", "KILL", "USER", "broker")
	works(t, c)
}

func TestAWrongPasswordIsSaidAndMendedWithoutARestart(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{Password: "right"})
	file := writeFile(t, "wrong")
	c := connect(t, at(server.Addr), func(c *redis.Config) { c.PasswordFile = file })
	if _, err := c.Get(t.Context(), keyer.Key("a")); !errors.Is(err, cache.ErrUnavailable) || !strings.Contains(c.Status(), "WRONGPASS") {
		t.Errorf("%v, status %q", err, c.Status())
	}
	overwrite(t, file, "right")
	works(t, c)
}

// A Redis that hangs on writes alone, as while it fails over by hand, is read and not written to.
func TestARedisThatHangsOnWritesIsStillRead(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	var seen observed
	c := connect(t, at(server.Addr), func(c *redis.Config) { c.Timeout, c.Observe = 250*time.Millisecond, seen.note })
	put(t, c, keyer.Key("a"), "a")
	server.CLI("CLIENT", "PAUSE", "60000", "WRITE")
	for n := range 20 {
		if err := c.Put(t.Context(), keyer.Key("b"), credentials("b", time.Minute)); !errors.Is(err, cache.ErrUnavailable) {
			t.Fatalf("put %d: %v", n, err)
		}
		if got := got(t, c, keyer.Key("a")); got != "AKa" {
			t.Errorf("read %d: %s", n, got)
		}
	}
	if failed, skipped := seen.count("put error"), seen.count("put skipped"); failed > 3 || failed+skipped != 20 {
		t.Errorf("%d puts were waited for, %d left out", failed, skipped)
	}
	if !c.Up() || !strings.Contains(c.Status(), "writes fail") {
		t.Errorf("up %v, status %q", c.Up(), c.Status())
	}
	server.CLI("CLIENT", "UNPAUSE")
	eventually(t, "writes", func() error { return c.Put(t.Context(), keyer.Key("b"), credentials("b", time.Minute)) })
	if c.Status() != "" {
		t.Errorf("status %q", c.Status())
	}
}
