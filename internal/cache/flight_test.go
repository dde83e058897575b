package cache_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
)

var errWork = errors.New("work failed")

func TestFlightIsSharedByTenThousand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cache.NewFlight(cache.FlightConfig{})
		var calls, leaders atomic.Int32
		var wait sync.WaitGroup
		for range 10_000 {
			wait.Go(func() {
				c, led, err := f.Do(t.Context(), keyer.Key("a"), func(context.Context) (exchange.Credentials, error) {
					calls.Add(1)
					time.Sleep(time.Second)
					return exchange.Credentials{AccessKeyID: "AK"}, nil
				})
				if err != nil || c.AccessKeyID != "AK" {
					t.Errorf("got %q, %v", c.AccessKeyID, err)
				}
				if led {
					leaders.Add(1)
				}
			})
		}
		wait.Wait()
		if calls.Load() != 1 || leaders.Load() != 1 {
			t.Errorf("%d calls, %d leaders", calls.Load(), leaders.Load())
		}
	})
}

func TestFlightOfAnotherKeyIsAnother(t *testing.T) {
	f := cache.NewFlight(cache.FlightConfig{})
	for _, name := range []string{"a", "b"} {
		c, led, err := f.Do(t.Context(), keyer.Key(name), func(context.Context) (exchange.Credentials, error) {
			return exchange.Credentials{AccessKeyID: name}, nil
		})
		if err != nil || !led || c.AccessKeyID != name {
			t.Errorf("%s: got %q, led %v, %v", name, c.AccessKeyID, led, err)
		}
	}
}

func TestALeaderThatGivesUpFailsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cache.NewFlight(cache.FlightConfig{})
		work := func(ctx context.Context) (exchange.Credentials, error) {
			select {
			case <-ctx.Done():
				return exchange.Credentials{}, ctx.Err()
			case <-time.After(time.Second):
				return exchange.Credentials{AccessKeyID: "AK"}, nil
			}
		}
		leaderCtx, cancel := context.WithCancel(t.Context())
		leader := make(chan error, 1)
		go func() {
			_, _, err := f.Do(leaderCtx, keyer.Key("a"), work)
			leader <- err
		}()
		synctest.Wait()
		follower := make(chan error, 1)
		go func() {
			_, _, err := f.Do(t.Context(), keyer.Key("a"), work)
			follower <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-leader; !errors.Is(err, context.Canceled) {
			t.Errorf("leader: %v", err)
		}
		if err := <-follower; err != nil {
			t.Errorf("follower: %v", err)
		}
	})
}

func TestALeadersFailureIsTriedOnceMoreByTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cache.NewFlight(cache.FlightConfig{})
		var calls atomic.Int32
		run := func(fails int32) (failed int32) {
			calls.Store(0)
			var bad atomic.Int32
			var wait sync.WaitGroup
			for range 50 {
				wait.Go(func() {
					_, _, err := f.Do(t.Context(), keyer.Key("a"), func(context.Context) (exchange.Credentials, error) {
						n := calls.Add(1)
						time.Sleep(time.Second)
						if n <= fails {
							return exchange.Credentials{}, errWork
						}
						return exchange.Credentials{AccessKeyID: "AK"}, nil
					})
					if err != nil {
						bad.Add(1)
					}
				})
			}
			wait.Wait()
			return bad.Load()
		}
		if failed := run(1); failed != 1 || calls.Load() != 2 {
			t.Errorf("one failure: %d failed by %d calls, want the leader alone by 2", failed, calls.Load())
		}
		if failed := run(100); failed != 50 || calls.Load() != 2 {
			t.Errorf("nothing but failures: %d failed by %d calls, want all by 2", failed, calls.Load())
		}
	})
}

func TestFlightsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cache.NewFlight(cache.FlightConfig{MaxFlights: 1})
		go func() {
			_, _, _ = f.Do(t.Context(), keyer.Key("a"), func(context.Context) (exchange.Credentials, error) {
				time.Sleep(time.Second)
				return exchange.Credentials{}, nil
			})
		}()
		synctest.Wait()
		never := func(context.Context) (exchange.Credentials, error) { panic("called") }
		if _, _, err := f.Do(t.Context(), keyer.Key("b"), never); !errors.Is(err, cache.ErrBusy) {
			t.Errorf("got %v", err)
		}
		time.Sleep(2 * time.Second)
	})
}

func TestWorkThatHangsEndsAtTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cache.NewFlight(cache.FlightConfig{Timeout: 5 * time.Second})
		start := time.Now()
		_, _, err := f.Do(t.Context(), keyer.Key("a"), func(ctx context.Context) (exchange.Credentials, error) {
			<-ctx.Done()
			return exchange.Credentials{}, ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 5*time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
	})
}

func TestAPanicIsAnErrorWithoutItsText(t *testing.T) {
	var stack []byte
	f := cache.NewFlight(cache.FlightConfig{OnPanic: func(_ any, s []byte) { stack = s }})
	_, _, err := f.Do(t.Context(), keyer.Key("a"), func(context.Context) (exchange.Credentials, error) { panic("s3cret") })
	if !errors.Is(err, cache.ErrPanicked) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
	if len(stack) == 0 {
		t.Error("no stack was reported")
	}
}

func TestACallerThatHasGoneStartsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := cache.NewFlight(cache.FlightConfig{}).Do(ctx, keyer.Key("a"), func(context.Context) (exchange.Credentials, error) { panic("called") })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
