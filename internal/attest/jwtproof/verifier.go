// Package jwtproof verifies JSON Web Tokens of configured issuers (RFC 7519, RFC 7515, RFC 8725).
//
// The order of the checks is that of [Verifier.Verify]: parse strictly, choose the issuer, verify the signature with that
// issuer's keys and no others, and only then read what the token says. The signature layer (jws.go, jwk.go, signature.go)
// knows nothing of claims, the claims (claims.go, attributes.go) nothing of keys. What a platform's tokens have beyond any JWT is
// its profile (profile.go, and a file for each platform).
package jwtproof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// Options are what a Verifier needs besides its issuers. The zero value works.
type Options struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log hears of fetched key sets and failed fetches; nil means nobody does. It never hears of tokens.
	Log *slog.Logger
	// Previous is the verifier that this one replaces, if any. Issuers that did not change, in configuration or files,
	// keep their keys and remembered tokens; those that did keep only which single-use tokens were used. Previous goes on
	// working.
	Previous *Verifier
	// Replay remembers which single-use tokens were used, for all replicas; nil means that each issuer's are remembered in
	// this process.
	Replay attest.Replay
	// MemoryBytes bounds what is remembered of verified tokens, at about 1 KiB each; 64 MiB at least. Previous's memory stays
	// as large as it was.
	MemoryBytes int64
}

// Verifier accepts tokens of its issuers. It is safe for concurrent use. What it holds ends by itself: a fetch under way within
// 5 s, idle connections within 10 s.
type Verifier struct {
	issuers map[string]*issuer // by `iss`
	now     func() time.Time
	memory  *memory
}

var _ attest.Verifier = (*Verifier)(nil)

// New reads the files that the issuers name and returns a verifier. It reaches no network: keys are fetched when the
// first token needs them. The error holds every fault, each with the name of its issuer and the field as the
// configuration file calls it.
func New(issuers []Issuer, o Options) (*Verifier, error) {
	v := &Verifier{issuers: make(map[string]*issuer, len(issuers)), now: o.Now}
	if v.now == nil {
		v.now = time.Now
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var previous map[string]*issuer
	if o.Previous != nil {
		previous, v.memory = o.Previous.issuers, o.Previous.memory
	} else {
		v.memory = newMemory(max(o.MemoryBytes, defaultMemoryBytes))
	}
	var faults []error
	names := map[string]bool{}
	for _, c := range issuers {
		is, err := newIssuer(c, previous[c.Issuer], v.now, o.Replay, log)
		switch {
		case err != nil:
			faults = append(faults, inIssuer(c.Name, err)...)
			continue
		case names[c.Name]:
			faults = append(faults, fmt.Errorf("issuer %q: name: is there twice", c.Name))
		case v.issuers[c.Issuer] != nil:
			faults = append(faults, fmt.Errorf("issuer %q: issuer: %s is there twice", c.Name, c.Issuer))
		}
		names[c.Name], v.issuers[c.Issuer] = true, is
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return v, nil
}

// inIssuer puts the issuer's name before each of the joined faults.
func inIssuer(name string, err error) []error {
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	}
	out := make([]error, len(list))
	for i, e := range list {
		out[i] = fmt.Errorf("issuer %q: %w", name, e)
	}
	return out
}

// Verify implements attest.Verifier for attest.KindJWT: Issuer is `iss`, Subject `sub`, Expires `exp`, Attrs as
// configured; what a profile makes of them is said there. attest.ErrUnavailable means that the issuer's keys can't be had, or that its memory of single-use tokens is
// full or can't be asked.
func (v *Verifier) Verify(ctx context.Context, p attest.Proof) (attest.Identity, error) {
	token := p.Data.Reveal()
	if p.Kind != attest.KindJWT || len(token) > maxToken {
		return attest.Identity{}, fmt.Errorf("%w: kind %q of %d bytes, expected %q of at most %d",
			attest.ErrMalformed, p.Kind, len(token), attest.KindJWT, maxToken)
	}
	name := v.memory.name(token)
	if id, ok := v.recall(name); ok {
		return id, nil
	}
	t, err := parseJWS(token)
	if err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrMalformed, err)
	}
	is, err := v.issuerOf(t.payload)
	if err != nil {
		return attest.Identity{}, err
	}
	if !slices.Contains(is.config.Algorithms, t.alg) {
		return attest.Identity{}, fmt.Errorf("%w: alg %q is none of %q", attest.ErrRejected, excerpt(t.alg, 16), is.config.Algorithms)
	}
	if is.review != nil {
		return v.reviewed(ctx, is, token, t, name)
	}
	k, err := is.keys.lookup(ctx, t.kid)
	if err != nil {
		return attest.Identity{}, err
	}
	if err := k.verifySignature(t); err != nil {
		return attest.Identity{}, fmt.Errorf("%w: kid %q: %w", attest.ErrRejected, excerpt(t.kid, 64), err)
	}
	// From here on the payload is the issuer's word.
	c, id, err := v.read(is, t)
	if err != nil {
		return attest.Identity{}, err
	}
	return v.accept(ctx, is, &c, id, name, k.identity, c.expires)
}

// issuerOf chooses the issuer whose keys the token has to verify with: that of its `iss`, else that of its trust domain.
func (v *Verifier) issuerOf(payload []byte) (*issuer, error) {
	iss, trustDomain, err := unverifiedIssuer(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", attest.ErrMalformed, err)
	}
	if is := v.issuers[iss]; is != nil {
		return is, nil
	}
	if is := v.issuers[trustDomain]; is != nil {
		return is, nil
	}
	return nil, fmt.Errorf("%w: issuer %q is not configured", attest.ErrRejected, excerpt(cmp.Or(iss, trustDomain), 128))
}

// read checks all that a token says, against the clock, the configuration and the profile.
func (v *Verifier) read(is *issuer, t jws) (claims, attest.Identity, error) {
	c, err := parseClaims(t.payload)
	if err == nil {
		err = is.check(&c, t.typ, v.now())
	}
	var id attest.Identity
	if err == nil {
		id, err = is.identity(&c)
	}
	if err == nil {
		err = c.checkExpiry(v.now(), is.config.Skew)
	}
	if err != nil {
		return claims{}, attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrRejected, err)
	}
	return c, id, nil
}

// accept takes a token that passed every check: for its one use, or to be remembered.
func (v *Verifier) accept(ctx context.Context, is *issuer, c *claims, id attest.Identity, name digestOf, k keyIdentity, until time.Time) (attest.Identity, error) {
	if is.replay != nil {
		if err := is.useOnce(ctx, c, v.now()); err != nil {
			return attest.Identity{}, err
		}
		return id, nil
	}
	v.memory.put(name, &remembered{
		issuer: is, key: k, identity: id, until: until,
		from: slices.MaxFunc([]time.Time{c.issuedAt, c.notBefore}, time.Time.Compare).Add(-is.config.Skew),
	})
	return id, nil
}

// recall returns what is remembered of a token, if every fact that can change still holds: the issuer is configured as it
// was, still has the key, and the clock is within the token's life.
func (v *Verifier) recall(name digestOf) (attest.Identity, bool) {
	e := v.memory.get(name)
	if e == nil {
		return attest.Identity{}, false
	}
	now := v.now()
	if v.issuers[e.identity.Issuer] != e.issuer || now.Before(e.from) || !now.Before(e.until) ||
		e.issuer.keys != nil && !e.issuer.keys.holds(e.key, now) {
		v.memory.forget(name)
		return attest.Identity{}, false
	}
	return e.identity, true
}

// check holds verified claims against the clock and the configuration.
func (is *issuer) check(c *claims, typ string, now time.Time) error {
	if c.issuer != is.config.Issuer && is.config.Profile != ProfileSPIFFE { // whose profile looks at the trust domain instead
		return errors.New("iss is not the issuer whose key verified the token")
	}
	if err := c.checkTimes(now, is.config.Skew, is.config.MaxLifetime); err != nil {
		return err
	}
	if err := c.checkAudience(&is.config); err != nil {
		return err
	}
	if err := checkType(typ, is.config.Types); err != nil {
		return err
	}
	return checkSubject(c.subject)
}

// Close closes the connections that are idle.
func (v *Verifier) Close() {
	for _, is := range v.issuers {
		if is.review != nil {
			is.review.client.CloseIdleConnections()
		}
	}
}

// Status tells, one line each and ordered by issuer, why tokens of an issuer can't be verified or soon can't. It is empty
// if all is well as far as is known: an issuer that was never asked is not in it.
func (v *Verifier) Status() []string {
	now := v.now()
	var reasons []string
	for _, iss := range slices.Sorted(maps.Keys(v.issuers)) {
		is := v.issuers[iss]
		reason := ""
		if is.review != nil {
			reason = is.review.status()
		} else {
			reason = is.keys.status(now)
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}
