package brokertest

import (
	"bytes"
	"crypto/tls"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

// refused checks that redis-cli fails with an error that says so.
func refused(t *testing.T, r *Redis, says string, args ...string) {
	t.Helper()
	if out, err := r.runCLI(args...); err == nil || !strings.Contains(err.Error(), says) {
		t.Fatalf("%v: got %q and %v, want an error with %q", args, out, err, says)
	}
}

func TestRedisForgetsUnlessToldToSave(t *testing.T) {
	for _, c := range []struct {
		name string
		opts RedisOptions
		left string
	}{
		{"by default", RedisOptions{}, ""},
		{"with Save", RedisOptions{Save: true}, "v"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := StartRedis(t, c.opts)
			addr := r.Addr
			for _, end := range []func(){r.Kill, r.Stop} {
				want(t, "SET", r.CLI("SET", "k", "v"), "OK")
				r.Dump()
				end()
				if c, err := net.Dial("tcp", r.Addr); err == nil {
					c.Close()
					t.Fatal("something listens on the port of a server that ended")
				}
				r.Start()
				want(t, "address after the start", r.Addr, addr)
				want(t, "GET after the start", r.CLI("GET", "k"), c.left)
			}
		})
	}
}

func TestRedisEndsWithItsTest(t *testing.T) {
	var addr, dir string
	t.Run("inner", func(t *testing.T) {
		r := StartRedis(t, RedisOptions{})
		addr, dir = r.Addr, r.Dir
		r.Pause() // a frozen server has to go as well
	})
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the server still listens")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its directory: %v, want none", err)
	}
}

func TestRedisPausedAnswersNothingUntilResumed(t *testing.T) {
	r := StartRedis(t, RedisOptions{})
	c, err := r.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.Pause()
	_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if err := c.command("PING", "+PONG"); err == nil {
		t.Fatal("a paused server answers")
	}
	r.Resume()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if err := c.command("ECHO x", "+PONG"); err != nil {
		t.Fatalf("the answer to what was asked while it was paused: %v", err)
	}
	r.Pause()
	r.Stop() // doesn't hang
}

func TestRedisPasswordAndACL(t *testing.T) {
	r := StartRedis(t, RedisOptions{Password: "root-pw", ACL: []string{"user broker on >broker-pw ~credbroker:* +@all -@dangerous"}})
	as := func(user, password string, args ...string) []string {
		return append([]string{"--user", user, "--pass", password}, args...)
	}
	want(t, "default user", r.CLI(as("default", "root-pw", "PING")...), "PONG")
	want(t, "broker", r.CLI(as("broker", "broker-pw", "SET", "credbroker:x", "1")...), "OK")
	refused(t, r, "NOPERM", as("broker", "broker-pw", "SET", "other:x", "1")...)
	refused(t, r, "NOPERM", as("broker", "broker-pw", "FLUSHALL")...)
	c, err := net.Dial("tcp", r.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("PING\r\n"))
	answer := make([]byte, 64)
	n, _ := c.Read(answer)
	if !strings.HasPrefix(string(answer[:n]), "-NOAUTH") {
		t.Errorf("PING without a password: %q", answer[:n])
	}
}

func TestRedisTLS(t *testing.T) {
	r := StartRedis(t, RedisOptions{TLS: true})
	want(t, "PING by redis-cli", r.CLI("PING"), "PONG")
	stop := r.Monitor()
	r.CLI("SET", "seen", "1")
	if seen := stop(); !strings.Contains(seen, `"SET" "seen"`) {
		t.Errorf("MONITOR over TLS shows %q", seen)
	}
	if c, err := tls.Dial("tcp", r.Addr, nil); err == nil {
		c.Close()
		t.Error("its certificate is trusted without its root")
	}
	c, err := net.Dial("tcp", r.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("PING\r\n"))
	answer := make([]byte, 64)
	if n, _ := c.Read(answer); bytes.Contains(answer[:n], []byte("PONG")) {
		t.Error("it answers without TLS")
	}
}

func TestRedisDemandsClientCertificates(t *testing.T) {
	r := StartRedis(t, RedisOptions{TLS: true, ClientCertificates: true})
	want(t, "PING by redis-cli", r.CLI("PING"), "PONG")
	r.tls.Certificates = nil
	if c, err := r.dial(); err == nil {
		c.Close()
		t.Error("it serves a client without a certificate")
	}
}

func TestRedisMonitorSeesAllCommandsSoFar(t *testing.T) {
	r := StartRedis(t, RedisOptions{})
	stop := r.Monitor()
	var group sync.WaitGroup
	for _, key := range []string{"one", "two", "three", "four"} {
		group.Go(func() { _, _ = r.runCLI("SET", key, "canary-"+key) })
	}
	group.Wait()
	seen := stop()
	for _, key := range []string{"one", "two", "three", "four"} {
		if !strings.Contains(seen, `"SET" "`+key+`" "canary-`+key+`"`) {
			t.Errorf("SET %s is missing in:\n%s", key, seen)
		}
	}
	if strings.Contains(seen, r.adminPassword) {
		t.Error("it shows a password")
	}
	want(t, "stopping twice", stop(), seen)

	stop = r.Monitor()
	r.CLI("SET", "five", "1")
	r.Kill()
	_ = stop() // a server that is gone: an end all the same
}

func TestRedisDumpHoldsValuesInTheClear(t *testing.T) {
	r := StartRedis(t, RedisOptions{})
	value := strings.Repeat("canary", 100) // compression would hide it
	r.CLI("SET", "k", value)
	dump := r.Dump()
	if !bytes.HasPrefix(dump, []byte("REDIS")) || !bytes.Contains(dump, []byte(value)) {
		t.Errorf("a dump of %d bytes lacks the value", len(dump))
	}
}

func TestRedisReadOnly(t *testing.T) {
	r := StartRedis(t, RedisOptions{})
	r.CLI("SET", "k", "v")
	r.SetReadOnly(true)
	want(t, "GET", r.CLI("GET", "k"), "v")
	refused(t, r, "READONLY", "SET", "k", "w")
	r.SetReadOnly(false)
	want(t, "SET", r.CLI("SET", "k", "w"), "OK")
}

func TestRedisOutOfMemory(t *testing.T) {
	r := StartRedis(t, RedisOptions{Args: []string{"maxmemory 64mb", "maxmemory-policy allkeys-lru"}})
	r.CLI("SET", "k", "v")
	r.ExhaustMemory()
	want(t, "GET", r.CLI("GET", "k"), "v")
	refused(t, r, "OOM", "SET", "k", "w")
	r.FreeMemory()
	want(t, "SET", r.CLI("SET", "k", "w"), "OK")
	want(t, "limit", r.CLI("CONFIG", "GET", "maxmemory"), "maxmemory\n67108864")
	want(t, "policy", r.CLI("CONFIG", "GET", "maxmemory-policy"), "maxmemory-policy\nallkeys-lru")
}

func TestHeldPortIsNotHandedOut(t *testing.T) {
	held := map[int]bool{}
	for range 200 {
		port := FreePorts(t, 1)[0]
		if held[port] {
			t.Fatalf("port %d twice", port)
		}
		held[port] = true
	}
	for range 2000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if port := l.Addr().(*net.TCPAddr).Port; held[port] {
			t.Fatalf("port %d is held and handed out", port)
		}
	}
}
