package brokertest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); tasks.Wait() })
	return l.Addr().String()
}

func connect(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a line, if there is one, and returns the line that comes back in time.
func ask(c net.Conn, line string, within time.Duration) (string, error) {
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := c.Write([]byte(line)); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

// passes checks that the connection works.
func passes(t *testing.T, c net.Conn, line string) {
	t.Helper()
	got, err := ask(c, line, 10*time.Second)
	if err != nil || got != line {
		t.Fatalf("got %q and %v, want %q", got, err, line)
	}
}

// silent checks that nothing comes back and the connection stays.
func silent(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if got, err := ask(c, line, 150*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %q and %v, want silence", got, err)
	}
}

func TestProxyRefuses(t *testing.T) {
	p := StartProxy(t, echo(t))
	c := connect(t, p)
	passes(t, c, "one\n")
	for range 3 {
		p.Cut(Refuse)
		p.Cut(Refuse) // twice is fine
		if _, err := ask(c, "two\n", 10*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a connection that was open: %v, want an end of it", err)
		}
		if _, err := net.Dial("tcp", p.Addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("a new connection: %v, want a refusal", err)
		}
		p.Heal()
		c = connect(t, p)
		passes(t, c, "three\n")
	}
}

func TestProxyBlackholes(t *testing.T) {
	p := StartProxy(t, echo(t))
	old := connect(t, p)
	passes(t, old, "one\n")
	p.Cut(Blackhole)
	silent(t, old, "two\n")
	fresh := connect(t, p)
	silent(t, fresh, "three\n")
	p.Heal()
	for c, missed := range map[net.Conn]string{old: "two\n", fresh: "three\n"} {
		if got, err := ask(c, "", 10*time.Second); err != nil || got != missed {
			t.Errorf("after the cut: got %q and %v, want %q", got, err, missed)
		}
		passes(t, c, "four\n")
	}
}

func TestProxyChangesFromOneCutToTheOther(t *testing.T) {
	p := StartProxy(t, echo(t))
	p.Cut(Refuse)
	p.Cut(Blackhole)
	c := connect(t, p)
	silent(t, c, "one\n")
	p.Cut(Refuse)
	if _, err := ask(c, "two\n", 10*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a blackholed connection, refused then: %v, want an end of it", err)
	}
	p.Heal()
	passes(t, connect(t, p), "three\n")
}

func TestProxyDelaysEachDirection(t *testing.T) {
	const delay = 80 * time.Millisecond
	p := StartProxy(t, echo(t))
	c := connect(t, p)
	for _, d := range []struct{ toTarget, toClient time.Duration }{{delay, 0}, {0, delay}, {delay, delay}, {0, 0}} {
		p.Delay(d.toTarget, d.toClient)
		started := time.Now()
		passes(t, c, "x\n")
		if took, least := time.Since(started), d.toTarget+d.toClient; took < least {
			t.Errorf("delays %v and %v: it took %v", d.toTarget, d.toClient, took)
		}
	}
	p.Delay(time.Hour, time.Hour)
	silent(t, c, "late\n") // and the end of the test doesn't wait an hour
}

func TestProxyEndsConnectionsOfATargetThatIsGone(t *testing.T) {
	r := StartRedis(t, RedisOptions{})
	p := StartProxy(t, r.Addr)
	c := connect(t, p)
	if got, err := ask(c, "PING\r\n", 10*time.Second); got != "+PONG\r\n" {
		t.Fatalf("PING: %q, %v", got, err)
	}
	r.Kill()
	for range 2 {
		if _, err := ask(c, "", 10*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want an end of the connection", err)
		}
		c = connect(t, p) // accepted, for the proxy lives, and ended
	}
	r.Start()
	if got, err := ask(connect(t, p), "PING\r\n", 10*time.Second); got != "+PONG\r\n" {
		t.Errorf("PING after the start: %q, %v", got, err)
	}
}
