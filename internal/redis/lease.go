package redis

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
)

// leaseLife is how long a lease lives without word from its holder, who renews it at a third of that: so long others wait
// for a holder that died.
const leaseLife = 3 * time.Second

// dropScript ends a lease if it is still the caller's, and wakes those who wait in either case.
var dropScript = goredis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1`)

// renewScript lengthens a lease if it is still the caller's.
var renewScript = goredis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0`)

func (c *Client) leaseName(name cache.Key) string {
	return c.cfg.Prefix + ":l:{" + encode(name[:]) + "}"
}
func (c *Client) channel() string { return c.cfg.Prefix + ":landed" }

// lease implements cache.Lease.
type lease struct {
	client *Client
	name   cache.Key
	token  string
	held   bool
	found  exchange.Credentials
	err    error // of found
	woken  *waiter
	beat   *time.Timer // starts heartbeat; only if held
	ended  chan struct{}
}

// Lease implements cache.Shared.
func (c *Client) Lease(ctx context.Context, name cache.Key, keys ...cache.Key) (cache.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := &lease{client: c, name: name, token: rand.Text(), ended: make(chan struct{})}
	l.woken = c.waiting.add(name) // before the lease is asked for, so that no word of its holder is missed
	var taken *goredis.BoolCmd
	var left *goredis.DurationCmd
	reads := make([]*goredis.StringCmd, len(keys))
	err := c.do(ctx, "lease", true, func(ctx context.Context) error {
		pipe := c.rdb.Pipeline()
		taken = pipe.SetNX(ctx, c.leaseName(name), l.token, leaseLife)
		left = pipe.PTTL(ctx, c.leaseName(name))
		c.readAll(ctx, pipe, keys, reads)
		_, err := pipe.Exec(ctx)
		if taken.Err() == nil {
			return nil // whatever the entries are
		}
		return err
	})
	if err != nil {
		c.waiting.remove(l.woken)
		return nil, err
	}
	l.held = taken.Val()
	if l.held {
		c.waiting.remove(l.woken)
		l.beat = time.AfterFunc(leaseLife/3, l.heartbeat)
	} else if left.Err() == nil && (left.Val() == -1 || left.Val() > leaseLife) {
		// No replica takes a lease like that. It gets an end, or nobody would ever have the key renewed.
		_ = c.do(ctx, "end_lease", true, func(ctx context.Context) error { return c.rdb.PExpire(ctx, c.leaseName(name), leaseLife).Err() })
	}
	// The entries are read after the lease is taken: so says the order within one node. Entries of other names may lie on
	// another one.
	if l.found, _, l.err = c.firstOf(keys, reads); l.held && l.err != nil && (len(keys) > 1 || keys[0] != name) {
		l.found, _, l.err = c.Find(ctx, keys...)
	}
	return l, nil
}

// heartbeat renews the lease until it ends, or is another's.
func (l *lease) heartbeat() {
	tick := time.NewTicker(leaseLife / 3)
	defer tick.Stop()
	for l.renew() {
		select {
		case <-l.ended:
			return
		case <-tick.C:
		}
	}
}

// renew says whether to go on: not if the lease is known to be lost.
func (l *lease) renew() bool {
	ctx, cancel := context.WithTimeout(context.Background(), l.client.cfg.Timeout)
	defer cancel()
	mine := 1
	_ = l.client.do(ctx, "renew_lease", true, func(ctx context.Context) error {
		n, err := renewScript.Run(ctx, l.client.rdb, []string{l.client.leaseName(l.name)}, l.token, leaseLife.Milliseconds()).Int()
		if err == nil {
			mine = n
		}
		return err
	})
	return mine == 1
}

// Held implements cache.Lease.
func (l *lease) Held() bool { return l.held }

// Found implements cache.Lease.
func (l *lease) Found() (exchange.Credentials, error) { return l.found, l.err }

// Wait implements cache.Lease.
func (l *lease) Wait(ctx context.Context) error {
	defer l.client.waiting.remove(l.woken)
	timer := time.NewTimer(leaseLife + mathrand.N(leaseLife/8))
	defer timer.Stop()
	select {
	case <-l.woken.woken:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Land implements cache.Lease.
func (l *lease) Land(ctx context.Context, key cache.Key, creds exchange.Credentials) error {
	err := l.client.Put(ctx, key, creds)
	l.Drop(ctx)
	return err
}

// Drop implements cache.Lease. If Redis can't be told, the lease runs out.
func (l *lease) Drop(ctx context.Context) {
	if !l.held {
		l.client.waiting.remove(l.woken)
		return
	}
	close(l.ended)
	l.beat.Stop()
	_ = l.client.do(ctx, "drop_lease", true, func(ctx context.Context) error {
		return dropScript.Run(ctx, l.client.rdb, []string{l.client.leaseName(l.name)}, l.token, l.client.channel(), string(l.name[:])).Err()
	})
}

// waiting holds those who wait for a lease that another replica holds.
type waiting struct {
	mu sync.Mutex
	by map[cache.Key]map[*waiter]struct{}
}

type waiter struct {
	name  cache.Key
	woken chan struct{} // holds one at most
}

func (w *waiting) add(name cache.Key) *waiter {
	it := &waiter{name: name, woken: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[cache.Key]map[*waiter]struct{}{}
	}
	if w.by[name] == nil {
		w.by[name] = map[*waiter]struct{}{}
	}
	w.by[name][it] = struct{}{}
	return it
}

func (w *waiting) remove(it *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.by[it.name], it)
	if len(w.by[it.name]) == 0 {
		delete(w.by, it.name)
	}
}

func (w *waiting) wake(name cache.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for it := range w.by[name] {
		it.wake()
	}
}

func (w *waiting) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, those := range w.by {
		for it := range those {
			it.wake()
		}
	}
}

func (it *waiter) wake() {
	select {
	case it.woken <- struct{}{}:
	default:
	}
}

// listen hears which leases ended, until ctx ends. Whenever word may have been lost, everybody is woken to look again.
func (c *Client) listen(ctx context.Context) {
	for ctx.Err() == nil {
		c.receive(ctx)
		c.waiting.wakeAll()
		select {
		case <-ctx.Done():
		case <-time.After(probeEvery + mathrand.N(probeEvery/4)):
		}
	}
}

// receive hears over one subscription, until it fails.
func (c *Client) receive(ctx context.Context) {
	sub := c.rdb.Subscribe(ctx, c.channel())
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // a blocked read doesn't look at ctx
	defer sub.Close()                                          //nolint:errcheck // nothing is lost with it
	quiet := false
	for {
		message, err := sub.ReceiveTimeout(ctx, leaseLife)
		if err != nil {
			// A silence may be that of a connection that died: one question tells.
			if timeout, ok := err.(interface{ Timeout() bool }); !ok || !timeout.Timeout() || quiet || sub.Ping(ctx) != nil {
				return
			}
			quiet = true
			continue
		}
		quiet = false
		switch m := message.(type) {
		case *goredis.Subscription:
			c.waiting.wakeAll()
		case *goredis.Message:
			var name cache.Key
			if copy(name[:], m.Payload) == len(name) && len(m.Payload) == len(name) {
				c.waiting.wake(name)
			}
		}
	}
}
