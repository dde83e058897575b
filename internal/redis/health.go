package redis

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// tripAfter is how many operations in a row get no answer until Redis counts as away.
	tripAfter = 3
	// probeEvery is how often a Redis that is away is looked for.
	probeEvery = 250 * time.Millisecond
)

// health knows whether Redis is there, and whether it takes writes. While it doesn't answer no call waits for it; one goroutine
// looks for it.
type health struct {
	client *Client

	isAway atomic.Bool // and so nothing is asked of it
	isMute atomic.Bool // writes get no answer, and so none is tried
	mu     sync.Mutex
	// silentReads and silentWrites are how many in a row got no answer.
	silentReads, silentWrites int
	// reads and writes are why an operation of that sort failed last, until one works.
	reads, writes fault
	wake          chan struct{} // of the prober; made by init
	once          sync.Once
}

type fault struct {
	why   string
	since time.Time
}

// away says that an operation of that sort isn't worth trying.
func (h *health) away(writes bool) bool { return h.isAway.Load() || writes && h.isMute.Load() }

func (h *health) prober() chan struct{} {
	h.once.Do(func() { h.wake = make(chan struct{}, 1) })
	return h.wake
}

func (h *health) worked(writes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silentReads, h.reads = 0, fault{}
	if !writes {
		return
	}
	h.silentWrites = 0
	h.isMute.Store(false)
	if h.writes.why != "" {
		h.writes = fault{}
		h.client.cfg.Log.Info("redis takes writes again")
	}
}

// failed notes a failure. What got no answer counts against Redis being there; a connection that was refused is enough.
func (h *health) failed(writes bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, why := h.client.cfg.Now(), describe(err)
	f, silent := &h.reads, &h.silentReads
	if writes {
		f, silent = &h.writes, &h.silentWrites
	}
	if f.why == "" {
		f.since = now
		h.client.cfg.Log.Warn("redis fails", "writes", writes, "why", why)
	}
	f.why = why
	if answered(err) {
		*silent = 0
		return
	}
	*silent++
	dial, isNet := errors.AsType[*net.OpError](err)
	refused := isNet && dial.Op == "dial"
	switch {
	case h.isAway.Load() || *silent < tripAfter && !refused:
		return
	case writes && !refused:
		h.isMute.Store(true) // the next reads tell whether it is away altogether
	default:
		h.reads = fault{why, now}
		h.isAway.Store(true)
		h.client.cfg.Log.Warn("redis is away: it is done without until it answers", "why", why)
	}
	select {
	case h.prober() <- struct{}{}:
	default:
	}
}

// run looks for a Redis that doesn't answer, with one command at a time, until ctx ends.
func (h *health) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.prober():
		}
		for h.isAway.Load() || h.isMute.Load() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(probeEvery + rand.N(probeEvery/4)):
			}
			h.probe(ctx)
		}
	}
}

func (h *health) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, h.client.cfg.Timeout)
	defer cancel()
	if !h.isAway.Load() {
		err := h.client.rdb.Set(ctx, h.client.cfg.Prefix+":probe", "", time.Second).Err()
		if err == nil {
			h.worked(true)
		} else if answered(err) {
			h.isMute.Store(false) // whoever writes next is told
		}
		return
	}
	err := h.client.rdb.Ping(ctx).Err()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil && !answered(err) {
		h.reads.why = describe(err)
		return
	}
	h.silentReads, h.silentWrites, h.reads = 0, 0, fault{}
	h.isAway.Store(false)
	h.client.cfg.Log.Info("redis is back")
	h.client.waiting.wakeAll()
}

// reason tells in one line what is wrong; empty if nothing is known to be.
func (h *health) reason() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.isAway.Load():
		return "away since " + stamp(h.reads.since) + " (" + h.reads.why + "): memory and back-ends serve"
	case h.reads.why != "":
		return "reads fail since " + stamp(h.reads.since) + " (" + h.reads.why + ")"
	case h.writes.why != "":
		return "writes fail since " + stamp(h.writes.since) + " (" + h.writes.why + "): nothing new is shared"
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Status tells in one line what is wrong with Redis as far as is known; empty if nothing is.
func (c *Client) Status() string {
	if why := c.health.reason(); why != "" || !c.cfg.Keyring.Locked() {
		return why
	}
	return lockedReason
}

// Up says that Redis isn't known to be away.
func (c *Client) Up() bool { return !c.health.away(false) }
