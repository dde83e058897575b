package cache_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

// shared is a cache.Shared in memory, as several stores see it: leases live for leaseLife without word from their holder.
type shared struct {
	mu      sync.Mutex
	entries map[cache.Key]exchange.Credentials
	holder  map[cache.Key]time.Time // until when the lease is held
	woken   chan struct{}           // closed at each end of a lease, and made anew
	err     error
	putErr  error
	// leaseErr is for leases alone.
	leaseErr error
	finds    int
}

const leaseLife = 3 * time.Second

func newShared() *shared {
	return &shared{entries: map[cache.Key]exchange.Credentials{}, holder: map[cache.Key]time.Time{}, woken: make(chan struct{})}
}

func (s *shared) Get(ctx context.Context, key cache.Key) (exchange.Credentials, error) {
	c, _, err := s.Find(ctx, key)
	return c, err
}

func (s *shared) Find(_ context.Context, keys ...cache.Key) (exchange.Credentials, cache.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finds++
	return s.find(keys)
}

func (s *shared) find(keys []cache.Key) (exchange.Credentials, cache.Key, error) {
	if s.err != nil {
		return exchange.Credentials{}, cache.Key{}, s.err
	}
	for _, key := range keys {
		if c, ok := s.entries[key]; ok {
			return c, key, nil
		}
	}
	return exchange.Credentials{}, cache.Key{}, cache.ErrMiss
}

func (s *shared) Put(_ context.Context, key cache.Key, c exchange.Credentials) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.putErr != nil {
		return s.putErr
	}
	s.entries[key] = c
	return nil
}

func (s *shared) Delete(context.Context, cache.Key) error { return nil }

func (s *shared) Lease(_ context.Context, name cache.Key, keys ...cache.Key) (cache.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmp.Or(s.err, s.leaseErr); err != nil {
		return nil, err
	}
	l := &lease{shared: s, name: name, woken: s.woken}
	if time.Now().After(s.holder[name]) {
		l.held = true
		s.holder[name] = time.Now().Add(leaseLife)
	}
	l.found, _, l.err = s.find(keys)
	return l, nil
}

func (s *shared) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.holder)
}

type lease struct {
	shared *shared
	name   cache.Key
	held   bool
	woken  chan struct{}
	found  exchange.Credentials
	err    error
}

func (l *lease) Held() bool                           { return l.held }
func (l *lease) Found() (exchange.Credentials, error) { return l.found, l.err }

func (l *lease) Wait(ctx context.Context) error {
	select {
	case <-l.woken:
		return nil
	case <-time.After(leaseLife):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lease) Land(ctx context.Context, key cache.Key, c exchange.Credentials) error {
	err := l.shared.Put(ctx, key, c)
	l.Drop(ctx)
	return err
}

func (l *lease) Drop(context.Context) {
	if !l.held {
		return
	}
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	delete(l.shared.holder, l.name)
	close(l.shared.woken)
	l.shared.woken = make(chan struct{})
}

// replica is a store with a memory of its own, whose mints are counted.
type replica struct {
	*cache.Store
	mints atomic.Int32
	life  time.Duration // of what it mints
	takes time.Duration
	fail  error

	mu          sync.Mutex
	writeErrors []error
}

func newReplica(s cache.Shared) *replica {
	r := &replica{life: time.Hour, takes: time.Second}
	r.Store = cache.NewStore(cache.StoreConfig{
		Memory: cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 20}), Flight: cache.NewFlight(cache.FlightConfig{}), Shared: s, MaxUnshared: 2,
		OnWriteError: func(err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.writeErrors = append(r.writeErrors, err)
		},
	})
	return r
}

func (r *replica) wanted(k *cache.Keyer, name string) cache.Wanted {
	names := k.Names(name)
	return cache.Wanted{
		Names: names, Flight: names.Key,
		Usable: func(c exchange.Credentials) bool { return time.Until(c.Expires) > time.Minute },
		Mint: func(ctx context.Context) (exchange.Credentials, error) {
			n := r.mints.Add(1)
			select {
			case <-time.After(r.takes):
			case <-ctx.Done():
				return exchange.Credentials{}, ctx.Err()
			}
			return exchange.Credentials{AccessKeyID: fmt.Sprintf("AK%d", n), Expires: time.Now().Add(r.life)}, r.fail
		},
	}
}

func (r *replica) fetch(t *testing.T, name string) (key string, minted bool) {
	t.Helper()
	c, minted, err := r.Fetch(t.Context(), r.wanted(keyer, name))
	if err != nil {
		t.Error(err)
	}
	return c.AccessKeyID, minted
}

// ended waits for all that was set off.
func ended(t *testing.T, s *shared, replicas ...*replica) {
	t.Helper()
	synctest.Wait()
	for _, r := range replicas {
		r.Wait()
	}
	if n := s.held(); n != 0 {
		t.Errorf("%d leases are still held", n)
	}
}

func TestReplicasMintOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		replicas := []*replica{newReplica(s), newReplica(s), newReplica(s)}
		var wait sync.WaitGroup
		var mints atomic.Int32
		start := time.Now()
		for n := range 3000 {
			wait.Go(func() {
				key, minted := replicas[n%3].fetch(t, "a")
				if minted {
					mints.Add(1)
				}
				if key != "AK1" {
					t.Errorf("got %s", key)
				}
			})
		}
		wait.Wait()
		total := replicas[0].mints.Load() + replicas[1].mints.Load() + replicas[2].mints.Load()
		if total != 1 || mints.Load() != 1 {
			t.Errorf("%d mints, %d calls say so", total, mints.Load())
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("it took %s: those who waited were not woken", took)
		}
		ended(t, s, replicas...)
		late := newReplica(s)
		if key, minted := late.fetch(t, "a"); key != "AK1" || minted || late.mints.Load() != 0 {
			t.Errorf("a replica that came later got %s, minted %v", key, minted)
		}
		if _, err := late.Get(t.Context(), keyer.Key("a")); err != nil {
			t.Error("what was found isn't in memory:", err)
		}
	})
}

func TestADeadReplicasLeaseIsWaitedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		if l, err := s.Lease(t.Context(), keyer.Names("a").Lease); err != nil || !l.Held() { // and never heard of again
			t.Fatal(err)
		}
		r := newReplica(s)
		start := time.Now()
		if _, minted := r.fetch(t, "a"); !minted {
			t.Error("it was not minted")
		}
		if took := time.Since(start); took < leaseLife || took > 3*leaseLife {
			t.Errorf("it took %s", took)
		}
		ended(t, s, r)
	})
}

// Nobody fails for the sake of another replica's failure: each tries for itself.
func TestAFailedMintIsNotSharedAcrossReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		bad, good := newReplica(s), newReplica(s)
		bad.fail = errWork
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, _, err := bad.Fetch(t.Context(), bad.wanted(keyer, "a")); !errors.Is(err, errWork) {
				t.Errorf("the one that failed: %v", err)
			}
		})
		synctest.Wait() // it holds the lease
		start := time.Now()
		if key, minted := good.fetch(t, "a"); key != "AK1" || !minted || time.Since(start) != 2*time.Second {
			t.Errorf("got %s, minted %v, after %s", key, minted, time.Since(start))
		}
		wait.Wait()
		ended(t, s, bad, good)
	})
}

func TestAPanickingMintEndsItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		r := newReplica(s)
		w := r.wanted(keyer, "a")
		w.Mint = func(context.Context) (exchange.Credentials, error) { panic("planted") }
		if _, _, err := r.Fetch(t.Context(), w); !errors.Is(err, cache.ErrPanicked) {
			t.Error(err)
		}
		ended(t, s, r)
	})
}

// What another replica landed between the look and the lease is found with the lease.
func TestWhatLandedJustBeforeTheLeaseIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		r := newReplica(&landsBetween{s, exchange.Credentials{AccessKeyID: "AK-other", Expires: time.Now().Add(time.Hour)}})
		if key, minted := r.fetch(t, "a"); key != "AK-other" || minted || r.mints.Load() != 0 {
			t.Errorf("got %s, minted %v", key, minted)
		}
		ended(t, s, r)
	})
}

// landsBetween has something land after each miss.
type landsBetween struct {
	*shared
	c exchange.Credentials
}

func (l *landsBetween) Find(ctx context.Context, keys ...cache.Key) (exchange.Credentials, cache.Key, error) {
	c, key, err := l.shared.Find(ctx, keys...)
	_ = l.Put(ctx, keys[0], l.c)
	return c, key, err
}

func TestWhatIsSharedAndNotUsableIsMintedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		r := newReplica(s)
		_ = s.Put(t.Context(), keyer.Key("a"), exchange.Credentials{AccessKeyID: "old", Expires: time.Now().Add(time.Minute)})
		if key, minted := r.fetch(t, "a"); key != "AK1" || !minted {
			t.Errorf("got %s", key)
		}
		ended(t, s, r)
		if s.entries[keyer.Key("a")].AccessKeyID != "AK1" {
			t.Error("it was not shared")
		}
	})
}

func TestWithoutTheSharedCacheEachMintsForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		s.err = cache.ErrUnavailable
		one, two := newReplica(s), newReplica(s)
		one.fetch(t, "a")
		if key, minted := two.fetch(t, "a"); key != "AK1" || !minted {
			t.Errorf("got %s", key)
		}
		if key, minted := one.fetch(t, "a"); key != "AK1" || minted {
			t.Errorf("again: %s, minted %v", key, minted)
		}
		if got := one.Stats(); got.Unshared != 1 || got.Unavailable != 1 {
			t.Errorf("counted %+v", got)
		}
		s.err = nil
		if _, minted := two.fetch(t, "b"); !minted {
			t.Error("not minted")
		}
		ended(t, s, one, two)
		if key, minted := one.fetch(t, "b"); minted {
			t.Errorf("not shared when it was back: %s", key)
		}
	})
}

// At most MaxUnshared mints are under way while nothing is shared; the others wait, as long as their time allows.
func TestUnsharedMintsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		s.err = fmt.Errorf("%w: away", cache.ErrUnavailable)
		r := newReplica(s)
		start := time.Now()
		var wait sync.WaitGroup
		for n := range 10 {
			wait.Go(func() { r.fetch(t, fmt.Sprint(n)) })
		}
		wait.Wait()
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("ten mints of a second took %s, two at one time", took)
		}
		r.takes = time.Hour
		for n := range 2 {
			go func() { _, _, _ = r.Fetch(t.Context(), r.wanted(keyer, fmt.Sprint("slow", n))) }()
		}
		synctest.Wait()
		start = time.Now()
		if _, _, err := r.Fetch(t.Context(), r.wanted(keyer, "last")); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 30*time.Second {
			t.Errorf("one that waits: %v after %s", err, time.Since(start))
		}
		time.Sleep(time.Minute)
	})
}

func TestAMintThatCantBeSharedIsStillServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		s.putErr = errors.New("out of memory")
		r := newReplica(s)
		if key, minted := r.fetch(t, "a"); key != "AK1" || !minted {
			t.Errorf("got %s", key)
		}
		if key, minted := r.fetch(t, "a"); key != "AK1" || minted {
			t.Errorf("again: %s", key)
		}
		ended(t, s, r)
		if len(r.writeErrors) != 1 || !errors.Is(r.writeErrors[0], s.putErr) {
			t.Errorf("told of %v", r.writeErrors)
		}
	})
}

// One that is read and takes no writes gives no leases.
func TestWithoutALeaseEachMintsForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		s.leaseErr = fmt.Errorf("%w: read-only", cache.ErrUnavailable)
		r := newReplica(s)
		if key, minted := r.fetch(t, "a"); key != "AK1" || !minted || r.Stats().Unshared != 1 {
			t.Errorf("got %s, minted %v, %+v", key, minted, r.Stats())
		}
		_ = s.Put(t.Context(), keyer.Key("b"), exchange.Credentials{AccessKeyID: "AKb", Expires: time.Now().Add(time.Hour)})
		if key, minted := r.fetch(t, "b"); key != "AKb" || minted || len(r.writeErrors) != 0 {
			t.Errorf("what is there isn't read: %s; told of %v", key, r.writeErrors)
		}
	})
}

func TestAStoreAloneHasItsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(nil)
		for n, want := range []bool{true, false} {
			if key, minted := r.fetch(t, "a"); key != "AK1" || minted != want {
				t.Errorf("call %d: %s, minted %v", n, key, minted)
			}
		}
		w := r.wanted(keyer, "a")
		w.Usable = func(c exchange.Credentials) bool { return c.AccessKeyID != "AK1" }
		if minted, err := r.Renew(t.Context(), w); err != nil || !minted || r.Stats().Unshared != 0 {
			t.Errorf("minted %v, %v", minted, err)
		}
	})
}

func TestWithoutSomebodyToTellAFailedWriteIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		s.putErr = errors.New("out of memory")
		r := newReplica(s)
		r.Store = cache.NewStore(cache.StoreConfig{Memory: cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 20}), Flight: cache.NewFlight(cache.FlightConfig{}), Shared: s})
		if _, minted := r.fetch(t, "a"); !minted {
			t.Error("not minted")
		}
		r.Wait()
	})
}

// Not even a lease that is renewed for ever keeps callers from their credentials.
func TestWaitingForAnotherReplicaEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		s.holder[keyer.Names("a").Lease] = time.Now().Add(time.Hour)
		r := newReplica(s)
		start := time.Now()
		if key, minted := r.fetch(t, "a"); key != "AK1" || !minted || time.Since(start) != 6*time.Second+r.takes || r.Stats().Unshared != 1 {
			t.Errorf("%s, minted %v after %s, %+v", key, minted, time.Since(start), r.Stats())
		}
		synctest.Wait()
	})
}

// A result that Redis doesn't take in time is given up.
func TestASlowWriteIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowShared{newShared()}
		r := newReplica(s)
		if _, minted := r.fetch(t, "a"); !minted {
			t.Error("not minted")
		}
		start := time.Now()
		r.Wait()
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// slowShared gives leases whose results never land.
type slowShared struct{ *shared }

func (s *slowShared) Lease(ctx context.Context, name cache.Key, keys ...cache.Key) (cache.Lease, error) {
	l, err := s.shared.Lease(ctx, name, keys...)
	return slowLease{l}, err
}

type slowLease struct{ cache.Lease }

func (l slowLease) Land(ctx context.Context, _ cache.Key, _ exchange.Credentials) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestRenewReplacesWhatIsNotUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		one, two := newReplica(s), newReplica(s)
		one.fetch(t, "a")
		two.fetch(t, "a")
		ended(t, s, one, two)
		w := one.wanted(keyer, "a")
		w.Usable = func(c exchange.Credentials) bool { return c.AccessKeyID != "AK1" }
		if minted, err := one.Renew(t.Context(), w); err != nil || !minted {
			t.Errorf("minted %v, %v", minted, err)
		}
		ended(t, s, one, two)
		if c, _ := one.Get(t.Context(), keyer.Key("a")); c.AccessKeyID != "AK2" {
			t.Errorf("in memory is %s", c.AccessKeyID)
		}
		// The other takes what is there now.
		w = two.wanted(keyer, "a")
		w.Usable = func(c exchange.Credentials) bool { return c.AccessKeyID != "AK1" }
		if minted, err := two.Renew(t.Context(), w); err != nil || minted || two.mints.Load() != 0 {
			t.Errorf("minted %v, %v", minted, err)
		}
		if c, _ := two.Get(t.Context(), keyer.Key("a")); c.AccessKeyID != "AK2" {
			t.Errorf("in the other's memory is %s", c.AccessKeyID)
		}
	})
}

// A renewal doesn't wait for a replica that is at it.
func TestRenewLeavesItToTheReplicaThatHoldsTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		r := newReplica(s)
		if _, err := s.Lease(t.Context(), keyer.Names("a").Lease); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if minted, err := r.Renew(t.Context(), r.wanted(keyer, "a")); err != nil || minted || time.Since(start) != 0 || r.mints.Load() != 0 {
			t.Errorf("minted %v, %v, after %s", minted, err, time.Since(start))
		}
	})
}

func TestAFailedRenewalIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		r := newReplica(s)
		r.fail = errWork
		if minted, err := r.Renew(t.Context(), r.wanted(keyer, "a")); !errors.Is(err, errWork) || minted {
			t.Errorf("minted %v, %v", minted, err)
		}
		ended(t, s, r)
	})
}

// While HMAC keys rotate, what was kept under the former name is found, and kept under the one in force.
func TestFormerNamesAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := secret.New(strings.Repeat("o", 32)), secret.New(strings.Repeat("n", 32))
		before, after := cache.NewKeyer(old, next), cache.NewKeyer(next, old)
		s := newShared()
		one, two := newReplica(s), newReplica(s)
		if _, minted, err := one.Fetch(t.Context(), one.wanted(before, "a")); err != nil || !minted {
			t.Fatal(err)
		}
		ended(t, s, one)
		c, minted, err := two.Fetch(t.Context(), two.wanted(after, "a"))
		if err != nil || minted || c.AccessKeyID != "AK1" || s.finds != 2 {
			t.Errorf("got %s, minted %v, %v, after %d look-ups", c.AccessKeyID, minted, err, s.finds)
		}
		ended(t, s, two)
		if _, there := s.entries[after.Key("a")]; !there || after.Key("a") == before.Key("a") {
			t.Error("it isn't kept under the name in force")
		}
	})
}

// Two replicas that don't agree yet which key comes first still mint once.
func TestReplicasMintOnceWhileKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := secret.New(strings.Repeat("a", 32)), secret.New(strings.Repeat("b", 32))
		keyers := []*cache.Keyer{cache.NewKeyer(a, b), cache.NewKeyer(b, a)}
		s := newShared()
		replicas := []*replica{newReplica(s), newReplica(s)}
		for n := range 20 {
			name := fmt.Sprint(n)
			one, two := keyers[0].Names(name), keyers[1].Names(name)
			if one.Lease != two.Lease || one.Key != two.Former[0] || two.Key != one.Former[0] || one.Key == two.Key {
				t.Errorf("names don't agree: %v and %v", one, two)
			}
			var wait sync.WaitGroup
			for i, r := range replicas {
				wait.Go(func() {
					if _, _, err := r.Fetch(t.Context(), r.wanted(keyers[i], name)); err != nil {
						t.Error(err)
					}
				})
			}
			wait.Wait()
		}
		if total := replicas[0].mints.Load() + replicas[1].mints.Load(); total != 20 {
			t.Errorf("%d mints of 20", total)
		}
		ended(t, s, replicas...)
	})
}

func TestACallerThatLeavesIsNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShared()
		r := newReplica(s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		start := time.Now()
		if _, _, err := r.Fetch(ctx, r.wanted(keyer, "a")); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		time.Sleep(time.Minute)
		ended(t, s, r)
		if key, minted := r.fetch(t, "a"); key != "AK1" || minted {
			t.Errorf("what it set off isn't there: %s", key)
		}
	})
}
