package brokertest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// Partition is a way in which a network can be cut.
type Partition int

const (
	// Refuse closes all connections and refuses new ones, as a host does whose service is gone.
	Refuse Partition = iota + 1
	// Blackhole lets nothing through: connections stay open and fall silent, and so do new ones. After Heal they go on
	// where they stopped, as TCP does after a loss.
	Blackhole
)

// Proxy passes TCP connections on to a target, and can be cut and slowed down.
type Proxy struct {
	// Addr is where it listens, host:port; it stays the same.
	Addr string

	t      testing.TB
	target string
	tasks  sync.WaitGroup

	mu                 sync.Mutex
	listener           net.Listener // nil while it refuses
	links              map[*link]bool
	open               chan struct{} // closed while traffic may pass
	toTarget, toClient time.Duration
}

// StartProxy starts a proxy for a target, host:port, which needn't run yet.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{
		Addr: fmt.Sprintf("127.0.0.1:%d", holdPort(t)), t: t, target: target,
		links: map[*link]bool{}, open: make(chan struct{}),
	}
	close(p.open)
	t.Cleanup(func() {
		p.Cut(Refuse)
		p.tasks.Wait()
	})
	p.Heal()
	return p
}

// Cut cuts the network until Heal. A cut may follow another of the other kind.
func (p *Proxy) Cut(how Partition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if how == Blackhole {
		p.listen()
		if p.passes() {
			p.open = make(chan struct{})
		}
		return
	}
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	for l := range p.links {
		l.close()
	}
}

// Heal undoes Cut. Delays stay.
func (p *Proxy) Heal() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listen()
	if !p.passes() {
		close(p.open)
	}
}

// Delay makes all that is read from either side wait before it is passed on, at most 32 KiB at a time.
func (p *Proxy) Delay(toTarget, toClient time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toTarget, p.toClient = toTarget, toClient
}

// passes tells, with the lock held, whether traffic passes.
func (p *Proxy) passes() bool {
	select {
	case <-p.open:
		return true
	default:
		return false
	}
}

// listen begins to accept connections, with the lock held, unless that is being done.
func (p *Proxy) listen() {
	p.t.Helper()
	if p.listener != nil {
		return
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", p.Addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.listener = listener
	p.tasks.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.accepted(listener, client)
		}
	})
}

// accepted serves a connection, unless the network was cut as it came.
func (p *Proxy) accepted(listener net.Listener, client net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != listener {
		client.Close()
		return
	}
	l := newLink(client)
	p.links[l] = true
	p.tasks.Go(func() {
		p.serve(l)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, l)
	})
}

// serve connects a client with the target and passes on what both say, until one of them is done.
func (p *Proxy) serve(l *link) {
	defer l.close()
	if !p.pause(l, nil) {
		return
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	server, err := dialer.DialContext(l.ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { p.copy(l, server, l.client, &p.toTarget) })
	both.Go(func() { p.copy(l, l.client, server, &p.toClient) })
	<-l.ctx.Done()
	l.client.Close()
	server.Close()
	both.Wait()
}

// copy passes on what one side says to the other, each piece after the delay, and ends the link when there's no more.
func (p *Proxy) copy(l *link, to, from net.Conn, delay *time.Duration) {
	defer l.close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !p.pause(l, delay) {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pause waits for the delay, if one is given, and until traffic may pass. It returns false if the link ends first.
func (p *Proxy) pause(l *link, delay *time.Duration) bool {
	var wait time.Duration
	if delay != nil {
		p.mu.Lock()
		wait = *delay
		p.mu.Unlock()
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-l.ctx.Done():
			return false
		}
	}
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
		return l.ctx.Err() == nil
	case <-l.ctx.Done():
		return false
	}
}

// link is a client's connection; closing it ends what serves it.
type link struct {
	client net.Conn
	ctx    context.Context
	close  context.CancelFunc
}

func newLink(client net.Conn) *link {
	ctx, cancel := context.WithCancel(context.Background())
	return &link{client: client, ctx: ctx, close: func() { cancel(); client.Close() }}
}
