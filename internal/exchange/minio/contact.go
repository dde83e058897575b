package minio

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// contact knows when there was no connection to the server any more and then one again: what answers now may be another
// server than the one that was tested, or the same without its client secret.
type contact struct {
	open  atomic.Int64
	times atomic.Int64 // times that contact was made anew
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// count wraps a dialer.
func (c *contact) count(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if c.open.Add(1) == 1 {
			c.times.Add(1)
		}
		return &countedConn{Conn: conn, contact: c}, nil
	}
}

type countedConn struct {
	net.Conn
	contact *contact
	once    sync.Once
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.once.Do(func() { c.contact.open.Add(-1) })
	return c.Conn.Close()
}
