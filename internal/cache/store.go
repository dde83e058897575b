package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
)

// Shared is a Cache that replicas have in common, with leases on what they mint.
type Shared interface {
	Cache
	// Find is Get for the first of the keys that has an entry, in one round trip.
	Find(ctx context.Context, keys ...Key) (exchange.Credentials, Key, error)
	// Lease asks for the lease of that name and looks for the entries again, in one round trip. The error is
	// ErrUnavailable or ctx's.
	Lease(ctx context.Context, name Key, keys ...Key) (Lease, error)
}

// Lease is the answer to a request for a lease: either it is held, or another replica holds it. Whoever asked ends it with
// Land, Drop or Wait, once.
type Lease interface {
	// Held says that this caller alone mints.
	Held() bool
	// Found returns the entry that was there when the lease was asked for, or ErrMiss.
	Found() (exchange.Credentials, error)
	// Wait returns nil when there is something to ask again for: the holder landed, dropped the lease or let it run out, or
	// word of it may have been lost. Its error is ctx's.
	Wait(ctx context.Context) error
	// Land keeps what was minted, then ends the lease and wakes those who wait, even if it couldn't be kept.
	Land(ctx context.Context, key Key, c exchange.Credentials) error
	// Drop ends the lease without a result and wakes those who wait; where another replica holds it, it does nothing to that.
	Drop(ctx context.Context)
}

// errElsewhere means that another replica holds the lease.
var errElsewhere = errors.New("another replica mints it")

// Wanted is what a Store is asked for.
type Wanted struct {
	Names Names
	// Flight tells apart calls that can't share a result; usually it is Names.Key.
	Flight Key
	// Usable says whether credentials that were found are good enough for this call.
	Usable func(exchange.Credentials) bool
	// Mint makes new ones.
	Mint func(context.Context) (exchange.Credentials, error)
}

// StoreConfig configures a Store.
type StoreConfig struct {
	Memory *Memory
	Flight *Flight
	// Shared is what other replicas see; nil if there are none.
	Shared Shared
	// MaxUnshared bounds the mints under way at one time while Shared is unavailable; others wait. It is for a back-end that
	// gets every replica's calls at once then. Required with Shared.
	MaxUnshared int
	// WriteTimeout bounds keeping a result in Shared, which no caller waits for; 10 seconds if zero.
	WriteTimeout time.Duration
	// MaxWait bounds the wait for another replica that is minting the same; beyond it this one mints as well. 6 seconds if zero:
	// a replica that died is waited for during 3, and within 6 anybody who can write to Shared could make callers wait.
	MaxWait time.Duration
	// OnWriteError is told when a result couldn't be kept in Shared; optional.
	OnWriteError func(error)
}

// Store finds credentials in memory, then in what replicas share, and has them minted once for all who ask at one time.
type Store struct {
	cfg      StoreConfig
	unshared chan struct{}
	// landing are results on their way to Shared: callers don't wait for that.
	landing sync.WaitGroup
	slots   chan struct{}
	stats   storeCounters
}

type storeCounters struct{ sharedHits, sharedMisses, unavailable, unshared atomic.Int64 }

// StoreStats only grow.
type StoreStats struct {
	// SharedHits and SharedMisses are look-ups in Shared that came to an end, Unavailable those that didn't.
	SharedHits, SharedMisses, Unavailable int64
	// Unshared are mints without a lease, since Shared was unavailable or another's lease went on for too long.
	Unshared int64
}

// maxLanding bounds the results on their way to Shared; beyond it, callers wait for theirs.
const maxLanding = 256

// NewStore returns a store.
func NewStore(cfg StoreConfig) *Store {
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = 10 * time.Second
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = 6 * time.Second
	}
	if cfg.OnWriteError == nil {
		cfg.OnWriteError = func(error) {}
	}
	return &Store{cfg: cfg, unshared: make(chan struct{}, max(cfg.MaxUnshared, 1)), slots: make(chan struct{}, maxLanding)}
}

// Get looks in memory alone. It returns ErrMiss, or ctx's error.
func (s *Store) Get(ctx context.Context, key Key) (exchange.Credentials, error) {
	return s.cfg.Memory.Get(ctx, key)
}

// Fetch returns usable credentials, minted if need be; minted says that this very call had that done. Errors are those of
// Flight.Do and of Mint: that Shared is unavailable makes no call fail.
func (s *Store) Fetch(ctx context.Context, w Wanted) (c exchange.Credentials, minted bool, err error) {
	fresh := false // read only if the flight, which sets it, has landed
	c, led, err := s.cfg.Flight.Do(ctx, w.Flight, func(ctx context.Context) (exchange.Credentials, error) {
		c, isNew, err := s.fill(ctx, w, true)
		fresh = isNew
		return c, err
	})
	return c, err == nil && led && fresh, err
}

// Renew is Fetch for a caller who still has something to serve: it doesn't wait for another replica, which is at it.
// Usable must refuse what is to be replaced. A nil error says that newer credentials are in memory.
func (s *Store) Renew(ctx context.Context, w Wanted) (minted bool, err error) {
	fresh := false
	_, led, err := s.cfg.Flight.Do(ctx, w.Flight, func(ctx context.Context) (exchange.Credentials, error) {
		c, isNew, err := s.fill(ctx, w, false)
		fresh = isNew
		return c, err
	})
	if errors.Is(err, errElsewhere) {
		return false, nil
	}
	return err == nil && led && fresh, err
}

// fill is the work of one flight.
func (s *Store) fill(ctx context.Context, w Wanted, wait bool) (c exchange.Credentials, minted bool, err error) {
	// Whoever missed the memory just before another's flight landed finds its result now.
	if c, err := s.cfg.Memory.Get(ctx, w.Names.Key); err == nil && w.Usable(c) {
		return c, false, nil
	}
	if s.cfg.Shared == nil {
		return s.mint(ctx, w, nil)
	}
	keys := append([]Key{w.Names.Key}, w.Names.Former...)
	c, under, err := s.cfg.Shared.Find(ctx, keys...)
	switch {
	case err == nil && w.Usable(c):
		s.stats.sharedHits.Add(1)
		s.adopt(ctx, w.Names.Key, under, c)
		return c, false, nil
	case err == nil, errors.Is(err, ErrMiss):
		s.stats.sharedMisses.Add(1)
	case ctx.Err() != nil:
		return exchange.Credentials{}, false, ctx.Err()
	default:
		s.stats.unavailable.Add(1)
		return s.mintUnshared(ctx, w)
	}
	patience, cancel := context.WithTimeout(ctx, s.cfg.MaxWait)
	defer cancel()
	for {
		lease, err := s.cfg.Shared.Lease(ctx, w.Names.Lease, keys...)
		if err != nil {
			if ctx.Err() != nil {
				return exchange.Credentials{}, false, ctx.Err()
			}
			s.stats.unavailable.Add(1)
			return s.mintUnshared(ctx, w)
		}
		if c, err := lease.Found(); err == nil && w.Usable(c) {
			s.later(lease.Drop)
			s.adopt(ctx, w.Names.Key, w.Names.Key, c)
			return c, false, nil
		}
		if lease.Held() {
			return s.mint(ctx, w, lease)
		}
		if !wait {
			s.later(lease.Drop)
			return exchange.Credentials{}, false, errElsewhere
		}
		if err := lease.Wait(patience); err != nil {
			if ctx.Err() != nil {
				return exchange.Credentials{}, false, ctx.Err()
			}
			return s.mintUnshared(ctx, w)
		}
	}
}

// mintUnshared mints without a lease: several replicas may do so for one key, and each for few keys at one time.
func (s *Store) mintUnshared(ctx context.Context, w Wanted) (exchange.Credentials, bool, error) {
	select {
	case s.unshared <- struct{}{}:
		defer func() { <-s.unshared }()
	case <-ctx.Done():
		return exchange.Credentials{}, false, ctx.Err()
	}
	s.stats.unshared.Add(1)
	return s.mint(ctx, w, nil)
}

// mint makes new credentials and keeps them. The lease, if there is one, ends with it, whatever happens.
func (s *Store) mint(ctx context.Context, w Wanted, lease Lease) (c exchange.Credentials, minted bool, err error) {
	landed := false
	if lease != nil {
		defer func() {
			if !landed { // Mint failed or panicked
				s.later(lease.Drop)
			}
		}()
	}
	if c, err = w.Mint(ctx); err != nil {
		return exchange.Credentials{}, false, err
	}
	landed = true
	s.remember(ctx, w.Names.Key, c)
	if lease != nil {
		s.later(func(ctx context.Context) {
			if err := lease.Land(ctx, w.Names.Key, c); err != nil {
				s.cfg.OnWriteError(err)
			}
		})
	}
	return c, true, nil
}

// adopt takes what was found in Shared into memory, and under the key in force if it was found under a former one.
func (s *Store) adopt(ctx context.Context, key, under Key, c exchange.Credentials) {
	s.remember(ctx, key, c)
	if under != key {
		s.later(func(ctx context.Context) {
			if err := s.cfg.Shared.Put(ctx, key, c); err != nil {
				s.cfg.OnWriteError(err)
			}
		})
	}
}

// remember keeps credentials in memory, which fails for an ended ctx alone.
func (s *Store) remember(ctx context.Context, key Key, c exchange.Credentials) {
	_ = s.cfg.Memory.Put(context.WithoutCancel(ctx), key, c)
}

// later does a write to Shared apart from the caller, or in its time if too many are under way.
func (s *Store) later(write func(context.Context)) {
	do := func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.cfg.WriteTimeout)
		defer cancel()
		write(ctx)
	}
	select {
	case s.slots <- struct{}{}:
		s.landing.Go(func() {
			defer func() { <-s.slots }()
			do()
		})
	default:
		do()
	}
}

// Wait returns when all results have come to Shared, or failed to. It is called when no more calls come.
func (s *Store) Wait() { s.landing.Wait() }

// Stats returns a snapshot.
func (s *Store) Stats() StoreStats {
	return StoreStats{
		SharedHits: s.stats.sharedHits.Load(), SharedMisses: s.stats.sharedMisses.Load(),
		Unavailable: s.stats.unavailable.Load(), Unshared: s.stats.unshared.Load(),
	}
}
