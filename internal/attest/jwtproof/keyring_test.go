package jwtproof

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// fakeIssuer publishes what a test tells it to.
type fakeIssuer struct {
	mu      sync.Mutex
	kids    []string
	err     error
	delay   time.Duration
	fetches int
}

func (f *fakeIssuer) set(err error, kids ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.kids = err, kids
}

func (f *fakeIssuer) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fetches
}

func (f *fakeIssuer) fetch(ctx context.Context) (*keySet, error) {
	f.mu.Lock()
	f.fetches++
	delay, err := f.delay, f.err
	set := &keySet{keys: map[string]*key{}}
	for _, kid := range f.kids {
		set.keys[kid] = &key{identity: keyIdentity{kid: kid}}
	}
	f.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return set, err
}

func newFakeRing(kids ...string) (*fakeIssuer, *keyring) {
	f := &fakeIssuer{kids: kids}
	return f, &keyring{name: "corp", fetch: f.fetch, now: time.Now, log: slog.New(slog.DiscardHandler)}
}

func expectKey(t *testing.T, r *keyring, kid string, want error) {
	t.Helper()
	k, err := r.lookup(t.Context(), kid)
	if !errors.Is(err, want) || want == nil && (k == nil || k.identity.kid != kid) {
		t.Errorf("lookup of %s: %v, %v; expected %v", kid, k, err, want)
	}
}

func expectFetches(t *testing.T, f *fakeIssuer, want int) {
	t.Helper()
	synctest.Wait()
	if got := f.count(); got != want {
		t.Errorf("%d fetches, expected %d", got, want)
	}
}

func TestKeysAreFetchedAtTheFirstUseAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing("a")
		expectFetches(t, f, 0)
		for range 3 {
			expectKey(t, r, "a", nil)
		}
		time.Sleep(refreshAfter - 1)
		expectKey(t, r, "a", nil)
		expectFetches(t, f, 1)
	})
}

func TestUnknownKidsCostOneFetchPer30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing("a")
		expectKey(t, r, "a", nil)
		flood := func() {
			for i := range 100 {
				expectKey(t, r, fmt.Sprint("unknown-", i), attest.ErrRejected)
			}
		}
		flood()
		expectFetches(t, f, 1)
		time.Sleep(refreshGap - 1)
		flood()
		expectFetches(t, f, 1)
		time.Sleep(time.Nanosecond)
		flood()
		expectFetches(t, f, 2)
		time.Sleep(refreshGap)
		var wg sync.WaitGroup
		f.delay = time.Second
		for range 20 {
			wg.Go(flood)
		}
		wg.Wait()
		expectFetches(t, f, 3)
	})
}

func TestRotatedKeyIsFoundAndRemovedKeyIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing("a")
		expectKey(t, r, "a", nil)
		f.set(nil, "b")
		time.Sleep(refreshGap)
		expectKey(t, r, "b", nil)
		expectKey(t, r, "a", attest.ErrRejected)
	})
}

func TestUnknownKidIsUnavailableWhileTheIssuerIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing("a")
		expectKey(t, r, "a", nil)
		f.set(errors.New("down"))
		time.Sleep(refreshGap)
		expectKey(t, r, "b", attest.ErrUnavailable)
		expectKey(t, r, "b", attest.ErrUnavailable) // of the fetch just now
		expectKey(t, r, "a", nil)
		expectFetches(t, f, 2)
	})
}

func TestRefreshRunsBehindACallThatDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing("a")
		expectKey(t, r, "a", nil)
		f.delay = 3 * time.Second
		f.set(nil, "b")
		time.Sleep(refreshAfter)
		began := time.Now()
		expectKey(t, r, "a", nil)
		expectKey(t, r, "a", nil)
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %s", waited)
		}
		time.Sleep(4 * time.Second)
		expectFetches(t, f, 2)
		expectKey(t, r, "a", attest.ErrRejected)
	})
}

func TestLastGoodSetIsKeptForADayAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing("a")
		expectKey(t, r, "a", nil)
		id := keyIdentity{kid: "a"}
		f.set(errors.New("down"), "a")
		time.Sleep(time.Hour)
		for range 10 {
			expectKey(t, r, "a", nil)
		}
		expectFetches(t, f, 2) // a refused refresh is not tried again at once
		mustContain(t, errors.New(r.status(time.Now())), "issuer corp: keys are 1h0m0s old and were not refreshed: down")
		time.Sleep(maxStale - time.Hour - 1)
		expectKey(t, r, "a", nil)
		if !r.holds(id, time.Now()) {
			t.Error("key is not held")
		}
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		if r.holds(id, time.Now()) {
			t.Error("key is held after a day")
		}
		time.Sleep(retryGap)
		expectKey(t, r, "a", attest.ErrUnavailable)
		mustContain(t, errors.New(r.status(time.Now())), "issuer corp: keys not fetched: down")
		f.set(nil, "a")
		time.Sleep(retryGap)
		expectKey(t, r, "a", nil)
		if s := r.status(time.Now()); s != "" {
			t.Error(s)
		}
	})
}

func TestWithoutKeysTheIssuerIsAskedEvery2Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing()
		f.set(errors.New("down"))
		if s := r.status(time.Now()); s != "" {
			t.Errorf("status before the first use: %s", s)
		}
		for range 10 {
			expectKey(t, r, "a", attest.ErrUnavailable)
		}
		expectFetches(t, f, 1)
		time.Sleep(retryGap - 1)
		expectKey(t, r, "a", attest.ErrUnavailable)
		expectFetches(t, f, 1)
		time.Sleep(time.Nanosecond)
		f.set(nil, "a")
		expectKey(t, r, "a", nil)
		expectFetches(t, f, 2)
	})
}

func TestOneCallersCancelDoesNotFailTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing("a")
		f.delay = 2 * time.Second
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.lookup(ctx, "a"); !errors.Is(err, context.Canceled) {
				t.Errorf("canceled caller got %v", err)
			}
		})
		synctest.Wait()
		for range 5 {
			wg.Go(func() { expectKey(t, r, "a", nil) })
		}
		cancel()
		wg.Wait()
		expectFetches(t, f, 1)
	})
}

func TestFetchIsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing("a")
		f.delay = time.Hour
		began := time.Now()
		_, err := r.lookup(t.Context(), "a")
		if waited := time.Since(began); waited != fetchTimeout {
			t.Errorf("waited %s", waited)
		}
		// The deadline was the fetch's: the caller's own isn't over.
		if !errors.Is(err, attest.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestEmptySetIsTakenAtItsWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFakeRing("a")
		expectKey(t, r, "a", nil)
		f.set(nil)
		time.Sleep(refreshAfter)
		expectKey(t, r, "a", nil)
		synctest.Wait()
		expectKey(t, r, "a", attest.ErrRejected)
		mustContain(t, errors.New(r.status(time.Now())), "issuer corp: publishes no usable key (0 foreign, 0 malformed)")
	})
}

func TestAnotherKeyUnderTheSameKidIsNotHeld(t *testing.T) {
	set := &keySet{keys: map[string]*key{"a": {identity: keyIdentity{kid: "a", thumbprint: [32]byte{1}}}}}
	r := staticKeyring("corp", set, time.Now)
	if !r.holds(keyIdentity{kid: "a", thumbprint: [32]byte{1}}, time.Now()) {
		t.Error("the key is not held")
	}
	for _, id := range []keyIdentity{{kid: "a", thumbprint: [32]byte{2}}, {kid: "b", thumbprint: [32]byte{1}}, {kid: "a", alg: "ES256", thumbprint: [32]byte{1}}} {
		if r.holds(id, time.Now()) {
			t.Errorf("%+v is held", id)
		}
	}
	expectKey(t, r, "b", attest.ErrRejected)
}

// Nobody has checked the tokens that wait for keys: they must not be able to take up all that the process has.
func TestTokensThatWaitForKeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		r := &keyring{name: "corp", now: time.Now, log: slog.New(slog.DiscardHandler), fetch: func(context.Context) (*keySet, error) {
			<-release
			return nil, errors.New("away")
		}}
		waiting := make(chan error, maxWaiting)
		for range maxWaiting {
			go func() {
				_, err := r.lookup(t.Context(), "a")
				waiting <- err
			}()
		}
		synctest.Wait()
		if _, err := r.lookup(t.Context(), "a"); !errors.Is(err, attest.ErrUnavailable) {
			t.Errorf("one more: %v", err)
		}
		if len(waiting) != 0 {
			t.Errorf("%d of those below the bound were turned away", len(waiting))
		}
		close(release)
		for range maxWaiting {
			<-waiting
		}
		// Those who come when the fetch has failed don't wait for another at once.
		if _, err := r.lookup(t.Context(), "a"); !errors.Is(err, attest.ErrUnavailable) {
			t.Errorf("afterwards: %v", err)
		}
		if n := r.waiting.Load(); n != 0 {
			t.Errorf("%d are still counted", n)
		}
	})
}

func TestAFetchThatFailedSlowlyHasAPauseBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetches := 0
		r := &keyring{name: "corp", now: time.Now, log: slog.New(slog.DiscardHandler), fetch: func(context.Context) (*keySet, error) {
			fetches++
			time.Sleep(fetchTimeout)
			return nil, errors.New("away")
		}}
		expectKey(t, r, "a", attest.ErrUnavailable)
		time.Sleep(retryGap - 1)
		expectKey(t, r, "a", attest.ErrUnavailable)
		if fetches != 1 {
			t.Errorf("%d fetches", fetches)
		}
		time.Sleep(time.Nanosecond)
		expectKey(t, r, "a", attest.ErrUnavailable)
		if fetches != 2 {
			t.Errorf("%d fetches after the pause", fetches)
		}
	})
}
