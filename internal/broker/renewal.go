package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
)

const (
	// maxRenewals bounds the renewals under way at one time; what is due beyond that is renewed at a later call.
	maxRenewals = 64
	// countedRenewals bounds the keys whose last renewal is remembered.
	countedRenewals = 1 << 16
)

// renewals holds who is being renewed, and when who may be next.
//
// Only a call that was verified and authorised begins one, and what it gets begins none: what nobody asks for ends.
type renewals struct {
	underWay sync.WaitGroup

	mu    sync.Mutex
	count int
	// next is when a key may be tried again: a failure isn't repeated with every call.
	next map[cache.Key]time.Time
}

func newRenewals() *renewals { return &renewals{next: map[cache.Key]time.Time{}} }

// begin says whether a renewal of key may begin now, and if so, that none may until then.
func (r *renewals) begin(key cache.Key, now, until time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count >= maxRenewals || now.Before(r.next[key]) {
		return false
	}
	if len(r.next) >= countedRenewals {
		for k, t := range r.next {
			if !now.Before(t) {
				delete(r.next, k)
			}
		}
		if len(r.next) >= countedRenewals {
			return false
		}
	}
	r.count++
	r.next[key] = until
	r.underWay.Add(1)
	return true
}

func (r *renewals) end() {
	r.mu.Lock()
	r.count--
	r.mu.Unlock()
	r.underWay.Done()
}

// renewalWindow is how long before they can't be handed out any more credentials are renewed: 15 to 30 % of the life that
// can be used, by the key, so that what was minted together isn't renewed together.
func renewalWindow(grant policy.Grant, key cache.Key) time.Duration {
	jitter := float64(binary.BigEndian.Uint16(key[8:])) / math.MaxUint16
	return time.Duration(float64(grant.TTL-grant.Min) * (0.15 + 0.15*jitter))
}

// due says whether usable credentials will soon be so no more, and an exchange now would give better ones: a proof that ends
// soon can't.
func (b *Broker) due(c exchange.Credentials, grant policy.Grant, key cache.Key) bool {
	now, window := b.cfg.Now(), renewalWindow(grant, key)
	return c.Expires.Sub(now) < grant.Min+window && now.Add(grant.TTL).Sub(c.Expires) > window
}

// renew replaces credentials that are due, apart from the call, whose authority it has: d is that call's decision.
func (b *Broker) renew(d *decision, old exchange.Credentials, wanted exchange.Request, parts []string) {
	id, grant, names, now := wanted.Identity, wanted.Grant, b.cfg.Keyer.Names(parts...), b.cfg.Now()
	if !b.renewals.begin(names.Key, now, now.Add(min(renewalWindow(grant, names.Key)/4, 30*time.Second))) {
		return
	}
	entry := d.Entry
	entry.Event = eventRenew
	flight := b.flightKey(parts, grant, id)
	go func() {
		defer b.renewals.end()
		ctx := context.Background() // the flight's timeout bounds it
		_, err := b.cfg.Store.Renew(ctx, cache.Wanted{
			Names: names, Flight: flight,
			// What another replica has minted since is as good.
			Usable: func(c exchange.Credentials) bool {
				return usable(c, grant, id, b.cfg.Now()) && c.Expires.After(old.Expires) && !b.due(c, grant, names.Key)
			},
			Mint: func(ctx context.Context) (exchange.Credentials, error) {
				start := b.cfg.Now()
				c, err := b.mint(ctx, wanted)
				return c, b.recordMint(decision{entry}, start, c, err)
			},
		})
		if err != nil {
			b.cfg.Log.Warn("credentials not renewed ahead of their end", "request_id", wanted.Correlation.RequestID, "role", grant.Role, "cause", clip(err.Error()))
		}
	}()
}

// recordMint audits an exchange that no caller waits for: a renewal, or one whose caller left. What can't be audited isn't
// kept.
func (b *Broker) recordMint(d decision, start time.Time, c exchange.Credentials, err error) error {
	d.Time, d.Decision, d.Latency = start, outcome(err), b.cfg.Now().Sub(start)
	if err == nil {
		d.granted(c, false)
	} else {
		d.Code = b.cfg.Code(err)
	}
	if auditErr := b.cfg.Audit.Record(context.Background(), d.Entry); auditErr != nil {
		err = errors.Join(err, auditErr)
		d.Decision, d.Code, d.Result = audit.Failed, b.cfg.Code(auditErr), ""
	}
	b.cfg.Observe(Outcome{Event: d.Event, Decision: d.Decision, Code: d.Code, Result: d.Result, Latency: d.Latency})
	return err
}
