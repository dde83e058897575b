package brokertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Monitor starts to record every command that the server gets. The function it returns stops that and returns the
// commands, a line each; all that were sent before it was called are among them, unless the server ended first.
func (r *Redis) Monitor() func() string {
	r.t.Helper()
	c, err := r.dial()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := c.command("MONITOR", "+OK"); err != nil {
		c.Close()
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Time{})
	marker := "end-" + random(8)
	recorded := make(chan string, 1)
	go func() {
		var seen strings.Builder
		for {
			line, err := c.in.ReadString('\n')
			if err != nil || strings.Contains(line, marker) {
				recorded <- seen.String()
				return
			}
			seen.WriteString(line)
		}
	}()
	r.t.Cleanup(func() { c.Close() })
	return sync.OnceValue(func() string {
		// The stream is in the order of the commands: once it shows this one, it has shown all before.
		if end, err := r.dial(); err == nil {
			_ = end.command("ECHO "+marker, "$")
			end.Close()
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second)) // a server that is gone ends the stream by itself
		seen := <-recorded
		c.Close()
		return seen
	})
}

// redisConn is a connection that has authenticated.
type redisConn struct {
	net.Conn
	in *bufio.Reader
}

// dial connects as a user who may do everything. All on the connection has to be done within five seconds.
func (r *Redis) dial() (*redisConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var conn net.Conn
	var err error
	if r.tls != nil {
		conn, err = (&tls.Dialer{Config: r.tls}).DialContext(ctx, "tcp", r.Addr)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", r.Addr)
	}
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	c := &redisConn{Conn: conn, in: bufio.NewReader(conn)}
	if err := c.command("AUTH "+redisAdmin+" "+r.adminPassword, "+OK"); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// command sends a line and reads one, which has to begin as said.
func (c *redisConn) command(line, want string) error {
	if _, err := c.Write([]byte(line + "\r\n")); err != nil {
		return err
	}
	got, err := c.in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(got, want) {
		name, _, _ := strings.Cut(line, " ")
		return fmt.Errorf("%s: Redis says %q, want %q", name, strings.TrimSpace(got), want)
	}
	return nil
}
