package server

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
)

// ListenOptions say what kind of listener it shall be.
type ListenOptions struct {
	// MaxConns bounds the connections that are open at one time; further ones wait in the kernel's queue. Required.
	MaxConns int
	// MaxConnsPerHost bounds those of one peer's address (an IPv6 peer's /64); further ones are closed at once. Zero means
	// MaxConns.
	MaxConnsPerHost int
	// RequireClientCert refuses connections without a certificate of TLSFiles.ClientCA. Otherwise one is checked if it
	// is given.
	RequireClientCert bool
}

// Listener is a bounded listener and the TLS settings for what connects to it.
type Listener struct {
	net.Listener
	// Certificates is nil for plaintext.
	Certificates *Certificates
}

// Listen listens on a TCP address, "host:port", with TLS if files names a certificate. Its errors are those of the files
// and of net.Listen.
func Listen(address string, files TLSFiles, o ListenOptions) (*Listener, error) {
	var certificates *Certificates
	if files != (TLSFiles{}) || o.RequireClientCert {
		var err error
		if certificates, err = LoadCertificates(files, o.RequireClientCert); err != nil {
			return nil, err
		}
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: newBounded(l, o), Certificates: certificates}, nil
}

// bounded is a listener that accepts only while fewer than a number of its connections are open.
type bounded struct {
	net.Listener
	slots   chan struct{}
	sources *sources
	closed  chan struct{}
	once    sync.Once
}

func newBounded(l net.Listener, o ListenOptions) *bounded {
	each := cmp.Or(o.MaxConnsPerHost, o.MaxConns)
	return &bounded{Listener: l, slots: make(chan struct{}, o.MaxConns), sources: newSources(o.MaxConns, each), closed: make(chan struct{})}
}

func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.slots <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			<-b.slots
			return nil, err
		}
		host := hostOf(conn.RemoteAddr())
		if !host.IsValid() { // a Unix socket: whoever may connect is trusted alike
			return &boundedConn{Conn: conn, release: func() { <-b.slots }}, nil
		}
		if b.sources.take(host) {
			return &boundedConn{Conn: conn, release: func() { b.sources.drop(host); <-b.slots }}, nil
		}
		_ = conn.Close()
	}
}

// Close may be called twice: the server that serves the listener closes it as well.
func (b *bounded) Close() error {
	var err error
	b.once.Do(func() {
		close(b.closed)
		err = b.Listener.Close()
	})
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

type boundedConn struct {
	net.Conn
	release func()
	once    sync.Once
}

func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}
