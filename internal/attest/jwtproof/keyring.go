package jwtproof

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// How long keys are used, and how often they are asked for.
const (
	// refreshAfter is the age at which a key set is fetched again, while it goes on being used.
	refreshAfter = 10 * time.Minute
	// maxStale is the age at which a key set that couldn't be refreshed is used no more.
	maxStale = 24 * time.Hour
	// refreshGap is the least time from one fetch to the next while there is a usable set, whatever the reason: a flood
	// of tokens with unknown kids costs the issuer no more than this.
	refreshGap = 30 * time.Second
	// retryGap is the same while there is no usable set. It is short, because nobody gets in until there is one.
	retryGap = 2 * time.Second
	// maxWaiting bounds the tokens that wait for one issuer's keys.
	maxWaiting = 512
)

// keyring holds the keys of one issuer as far as they are known.
type keyring struct {
	name string // of the issuer, for the log
	// fetch gets the set from the issuer; nil if it came from a file and stays as it is.
	fetch func(context.Context) (*keySet, error)
	now   func() time.Time
	log   *slog.Logger

	current atomic.Pointer[fetched]
	waiting atomic.Int32

	mu      sync.Mutex
	flight  *flight   // the fetch under way; nil if there is none
	lastTry time.Time // when the last fetch began, or ended if it failed; zero before the first
	lastErr error     // how the last fetch ended
}

// fetched is a key set with its age.
type fetched struct {
	*keySet
	at time.Time
}

// flight is one fetch that any number of callers wait for.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

// staticKeyring holds keys that were read from a file.
func staticKeyring(name string, set *keySet, now func() time.Time) *keyring {
	r := &keyring{name: name, now: now}
	r.current.Store(&fetched{keySet: set})
	return r
}

// usable returns the set in use, or nil. It is all that a remembered token pays for.
func (r *keyring) usable(now time.Time) *fetched {
	set := r.current.Load()
	if set == nil || r.fetch == nil {
		return set
	}
	age := now.Sub(set.at)
	if age >= maxStale {
		return nil
	}
	if age >= refreshAfter {
		r.refresh(now, refreshGap)
	}
	return set
}

// holds reports whether the very same key is still among the issuer's.
func (r *keyring) holds(id keyIdentity, now time.Time) bool {
	set := r.usable(now)
	if set == nil {
		return false
	}
	k := set.keys[id.kid]
	return k != nil && k.identity == id
}

// lookup returns the key that the issuer calls kid. It fetches the keys if there are none, or once if they don't hold
// that one. Errors are attest.ErrRejected, attest.ErrUnavailable or the context's.
func (r *keyring) lookup(ctx context.Context, kid string) (*key, error) {
	now := r.now()
	set := r.usable(now)
	if set != nil {
		if k := set.keys[kid]; k != nil {
			return k, nil
		}
	}
	gap := refreshGap
	if set == nil {
		gap = retryGap
	}
	if r.fetch != nil {
		if err := r.wait(ctx, r.refresh(now, gap)); err != nil {
			return nil, err
		}
		set = r.current.Load() // fetched now or less than gap ago
	}
	if k := set.keys[kid]; k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("%w: kid %q is not among the %d keys of issuer %s", attest.ErrRejected, excerpt(kid, 64), len(set.keys), r.name)
}

// refresh returns the fetch under way, or starts one, or returns the ended one if that began less than gap ago.
func (r *keyring) refresh(now time.Time, gap time.Duration) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight != nil {
		return r.flight
	}
	f := &flight{done: make(chan struct{})}
	if now.Sub(r.lastTry) < gap {
		f.err = r.lastErr
		close(f.done)
		return f
	}
	r.flight, r.lastTry = f, now
	go r.fly(f)
	return f
}

// fly runs a fetch. It belongs to no caller, so that none who goes away ends it for the others; it ends by itself.
func (r *keyring) fly(f *flight) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	set, err := r.fetch(ctx)
	if err == nil {
		r.report(set)
		r.current.Store(&fetched{keySet: set, at: r.now()})
	} else {
		r.log.Warn("keys not fetched", "issuer", r.name, "error", err.Error())
	}
	r.mu.Lock()
	r.flight, r.lastErr = nil, err
	if err != nil {
		r.lastTry = r.now() // a slow failure has a pause behind it as well
	}
	r.mu.Unlock()
	f.err = err
	close(f.done)
}

// wait waits for a fetch. Tokens that nobody has checked yet wait here, so they must not take up all that the process may
// have in hand: beyond maxWaiting they are turned away at once.
func (r *keyring) wait(ctx context.Context, f *flight) error {
	if r.waiting.Add(1) > maxWaiting {
		r.waiting.Add(-1)
		return fmt.Errorf("%w: issuer %s: %d tokens wait for its keys already", attest.ErrUnavailable, r.name, maxWaiting)
	}
	defer r.waiting.Add(-1)
	select {
	case <-f.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.err != nil {
		return fmt.Errorf("%w: issuer %s: keys not fetched: %w", attest.ErrUnavailable, r.name, textOnly(f.err))
	}
	return nil
}

// textOnly hides what an error is from errors.Is and keeps its text: the deadline of a fetch isn't the caller's own.
func textOnly(err error) error { return errors.New(excerpt(err.Error(), 512)) }

// report logs a set that differs from the one in use.
func (r *keyring) report(set *keySet) {
	if old := r.current.Load(); old != nil && old.summary() == set.summary() {
		return
	}
	level := slog.LevelInfo
	if len(set.malformed) > 0 || len(set.keys) == 0 {
		level = slog.LevelWarn
	}
	r.log.Log(context.Background(), level, "keys fetched", "issuer", r.name,
		"keys", len(set.keys), "foreign", set.foreign, "malformed", len(set.malformed), "first_fault", set.firstFault())
}

// summary is equal for sets that hold the same.
func (s *keySet) summary() string {
	identities := make(map[string]keyIdentity, len(s.keys))
	for kid, k := range s.keys {
		identities[kid] = k.identity
	}
	return fmt.Sprint(identities, s.foreign, s.malformed)
}

func (s *keySet) firstFault() string {
	if len(s.malformed) == 0 {
		return ""
	}
	return s.malformed[0]
}

// status tells why tokens of this issuer can't be verified, or soon can't; empty if there is no reason.
func (r *keyring) status(now time.Time) string {
	r.mu.Lock()
	err := r.lastErr
	r.mu.Unlock()
	set := r.current.Load()
	switch {
	case err != nil && (set == nil || now.Sub(set.at) >= maxStale):
		return fmt.Sprintf("issuer %s: keys not fetched: %s", r.name, excerpt(err.Error(), 512))
	case err != nil:
		return fmt.Sprintf("issuer %s: keys are %s old and were not refreshed: %s",
			r.name, now.Sub(set.at).Truncate(time.Second), excerpt(err.Error(), 512))
	case set != nil && len(set.keys) == 0:
		return fmt.Sprintf("issuer %s: publishes no usable key (%d foreign, %d malformed) %s",
			r.name, set.foreign, len(set.malformed), set.firstFault())
	}
	return ""
}
