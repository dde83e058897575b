package broker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
)

// maxRevokedMeanwhile bounds how often one call begins again.
const maxRevokedMeanwhile = 3

// credentials returns what the grant stands for, none of it from before the last revocation that concerns it.
func (b *Broker) credentials(ctx context.Context, d *decision, grant policy.Grant, req Request) (c exchange.Credentials, hit bool, err error) {
	wanted := exchange.Request{Identity: *d.Identity, Grant: grant, Proof: req.Proof, Correlation: req.Correlation}
	for range maxRevokedMeanwhile {
		wanted.RevokedAt = b.cfg.Revoked.Since(grant.Role, d.Identity)
		if c, hit, err = b.newestOf(ctx, d, wanted); err != nil {
			return exchange.Credentials{}, false, err
		}
		if b.cfg.Revoked.Since(grant.Role, d.Identity).Equal(wanted.RevokedAt) {
			return c, hit, nil
		}
	}
	return exchange.Credentials{}, false, fmt.Errorf("%w: revoked while they were made, %d times", exchange.ErrUnavailable, maxRevokedMeanwhile)
}

// newestOf returns kept credentials, or some by an exchange that callers with the same key share. Those that will end soon are renewed
// behind the caller's back.
func (b *Broker) newestOf(ctx context.Context, d *decision, wanted exchange.Request) (c exchange.Credentials, hit bool, err error) {
	id, grant := wanted.Identity, wanted.Grant
	targets, err := b.targets(grant)
	if err != nil {
		return exchange.Credentials{}, false, err
	}
	parts := keyParts(id, grant, targets, wanted.RevokedAt)
	key := b.cfg.Keyer.Key(parts...)
	if c, err := b.cfg.Store.Get(ctx, key); err == nil && usable(c, grant, id, b.cfg.Now()) {
		if b.due(c, grant, key) {
			b.renew(d, c, wanted, parts)
		}
		return c, true, nil
	}
	var caller departure
	entry := d.Entry
	c, minted, err := b.cfg.Store.Fetch(ctx, cache.Wanted{
		Names: b.cfg.Keyer.Names(parts...), Flight: b.flightKey(parts, grant, id),
		Usable: func(c exchange.Credentials) bool { return usable(c, grant, id, b.cfg.Now()) },
		Mint: func(ctx context.Context) (exchange.Credentials, error) {
			start := b.cfg.Now()
			c, err := b.mint(ctx, wanted)
			if err == nil && caller.minted(c) {
				err = b.recordMint(decision{entry}, start, c, nil)
			}
			return c, err
		},
	})
	if err != nil {
		if c, ok := caller.leave(); ok {
			err = errors.Join(err, b.recordMint(decision{entry}, entry.Time, c, nil))
		}
	}
	return c, err == nil && !minted, err
}

// targets are what credentials of the grant are good for: of its exchanger and of its fall-back.
func (b *Broker) targets(grant policy.Grant) ([]string, error) {
	var out []string
	for _, name := range []string{grant.Exchanger, grant.Fallback} {
		x, ok := b.cfg.Exchangers[name]
		switch {
		case ok:
			out = append(out, name, x.Target)
		case name != "": // policy.Compile has seen to it; a reload can't remove an exchanger
			return nil, fmt.Errorf("exchanger %q is not there", name)
		}
	}
	return out, nil
}

// departure settles who audits what was minted for a caller that left meanwhile: others will be handed it.
type departure struct {
	mu   sync.Mutex
	left bool
	made *exchange.Credentials
}

// minted notes the credentials and says whether their caller has left.
func (p *departure) minted(c exchange.Credentials) (left bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made = &c
	return p.left
}

// leave notes that the caller leaves without credentials, and returns those that were minted for it, if any were.
func (p *departure) leave() (exchange.Credentials, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = true
	if p.made == nil {
		return exchange.Credentials{}, false
	}
	return *p.made, true
}

// flightKey tells apart what can't share an exchange: credentials that end with the proof are of no use to a caller whose
// proof ends sooner.
func (b *Broker) flightKey(parts []string, grant policy.Grant, id attest.Identity) cache.Key {
	if grant.WithinProof {
		parts = append(slices.Clip(parts), strconv.FormatInt(id.Expires.Unix(), 10))
	}
	return b.cfg.Keyer.Key(parts...)
}

// mint makes one exchange and has the last look at its result before that is kept and handed out.
func (b *Broker) mint(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	now := b.cfg.Now()
	if !b.mints.allow(identityOf(b.cfg.Keyer, req.Identity), now) {
		return exchange.Credentials{}, ErrRateLimited
	}
	c, err := b.exchange(ctx, req)
	if err != nil {
		return exchange.Credentials{}, err
	}
	// The exchanger has checked its own result, too.
	now = b.cfg.Now()
	switch {
	case c.AccessKeyID == "" || c.SecretAccessKey.IsZero():
		return exchange.Credentials{}, fmt.Errorf("%w: no key in it", exchange.ErrBadResult)
	case c.Expires.After(now.Add(req.Grant.TTL + expirySlack)):
		return exchange.Credentials{}, fmt.Errorf("%w: it lives until %s, %s was granted", exchange.ErrBadResult, c.Expires.UTC().Format(time.RFC3339), req.Grant.TTL)
	case req.Grant.WithinProof && c.Expires.After(req.Identity.Expires):
		return exchange.Credentials{}, fmt.Errorf("%w: it lives until %s, and the proof ends at %s", exchange.ErrBadResult, c.Expires.UTC().Format(time.RFC3339), req.Identity.Expires.UTC().Format(time.RFC3339))
	case c.Expires.Before(now.Add(req.Grant.Min - expirySlack)):
		return exchange.Credentials{}, fmt.Errorf("%w: it ends at %s, less than the %s that the role hands out at least", exchange.ErrBadResult, c.Expires.UTC().Format(time.RFC3339), req.Grant.Min)
	}
	b.remember(ctx, req, c)
	return c, nil
}

// remember keeps what was minted, so that who signs with it can be told who that is. That it couldn't be is no reason to hand out
// nothing: nobody is let in by it.
func (b *Broker) remember(ctx context.Context, req exchange.Request, c exchange.Credentials) {
	if b.cfg.Minted == nil {
		return
	}
	err := b.cfg.Minted.Keep(ctx, attest.Minted{
		AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, Token: sha256.Sum256([]byte(c.SessionToken.Reveal())),
		Issuer: req.Identity.Issuer, Subject: req.Identity.Subject, Role: req.Grant.Role, Expires: c.Expires,
	})
	if err != nil {
		b.cfg.Log.Warn("a minted key is not remembered: GetCallerIdentity won't know it", "request_id", req.Correlation.RequestID, "cause", clip(err.Error()))
	}
}

// exchange asks the grant's exchanger, and its fall-back if that one is away.
func (b *Broker) exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	name := req.Grant.Exchanger
	c, err := b.cfg.Exchangers[name].Exchange(ctx, req)
	if errors.Is(err, exchange.ErrUnavailable) && req.Grant.Fallback != "" && ctx.Err() == nil {
		b.cfg.Log.Warn("exchanger is away, its fall-back is asked", "request_id", req.Correlation.RequestID, "role", req.Grant.Role,
			"exchanger", name, "fallback", req.Grant.Fallback, "cause", clip(err.Error()))
		first := err
		name = req.Grant.Fallback
		if c, err = b.cfg.Exchangers[name].Exchange(ctx, req); err != nil {
			err = fmt.Errorf("%w; before that, %s: %s", err, req.Grant.Exchanger, first.Error()) // not both: the table asks for the first that matches
		}
	}
	c.Exchanger = name
	return c, err
}

// expirySlack is for whole seconds in expiry times and for the exchange's own time.
const expirySlack = 2 * time.Second

// usable says whether cached credentials are what this grant promises now.
func usable(c exchange.Credentials, grant policy.Grant, id attest.Identity, now time.Time) bool {
	if c.Expires.Sub(now) < grant.Min {
		return false
	}
	return !grant.WithinProof || !c.Expires.After(id.Expires)
}

// keyParts is everything that shaped the result, and nothing that moves with the clock. Lists are preceded by their
// length, so that no two different grants give the same parts.
func keyParts(id attest.Identity, g policy.Grant, targets []string, revokedAt time.Time) []string {
	parts := append(make([]string, 0, 24), "credentials/1")
	if !revokedAt.IsZero() {
		parts[0] += " since " + strconv.FormatInt(revokedAt.UnixMicro(), 10)
	}
	parts = appendIdentity(parts, &id)
	parts = append(parts, g.Role, strconv.Itoa(len(g.Policies)))
	parts = append(parts, g.Policies...)
	parts = append(parts, g.SessionPolicy, g.Bound.String(), strconv.Itoa(len(g.SessionTags)))
	for _, t := range g.SessionTags {
		parts = append(parts, t.Key, t.Value)
	}
	return append(parts, targets...)
}

// appendIdentity appends who somebody is, actors included; attributes are not part of it: what they gave is in the grant.
func appendIdentity(parts []string, id *attest.Identity) []string {
	for ; id != nil; id = id.Actor {
		parts = append(parts, "identity", string(id.Kind), id.Issuer, id.Tenant, id.Subject)
	}
	return append(parts, "end")
}

func identityOf(k *cache.Keyer, id attest.Identity) cache.Key {
	return k.Key(appendIdentity([]string{"identity/1"}, &id)...)
}
