package cache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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

// Work that fails at once must not be called again and again while those who shared it come back one by one.
func TestAFailureSharedByTenThousandCostsTwoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cache.NewFlight(cache.FlightConfig{})
		release := make(chan struct{})
		var calls, failed atomic.Int32
		var wait sync.WaitGroup
		for range 10_000 {
			wait.Go(func() {
				_, _, err := f.Do(t.Context(), keyer.Key("a"), func(context.Context) (exchange.Credentials, error) {
					calls.Add(1)
					<-release
					return exchange.Credentials{}, errWork
				})
				if errors.Is(err, errWork) {
					failed.Add(1)
				}
			})
		}
		synctest.Wait()
		close(release)
		wait.Wait()
		if calls.Load() != 2 || failed.Load() != 10_000 {
			t.Errorf("%d calls, %d failed", calls.Load(), failed.Load())
		}
	})
}

func TestWorkGoesOnWhenNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cache.NewFlight(cache.FlightConfig{})
		type name struct{}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), name{}, "leader"))
		landed := false
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		start := time.Now()
		_, _, err := f.Do(ctx, keyer.Key("a"), func(ctx context.Context) (exchange.Credentials, error) {
			time.Sleep(5 * time.Second)
			landed = ctx.Err() == nil && ctx.Value(name{}) == "leader"
			return exchange.Credentials{}, nil
		})
		if !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !landed {
			t.Error("the work was cut short, or lost the leader's values")
		}
	})
}

func TestFlightsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cache.NewFlight(cache.FlightConfig{MaxFlights: 2})
		do := func(name string) error {
			_, _, err := f.Do(t.Context(), keyer.Key(name), func(context.Context) (exchange.Credentials, error) {
				time.Sleep(time.Second)
				return exchange.Credentials{}, nil
			})
			return err
		}
		var wait sync.WaitGroup
		start := func(name string) {
			wait.Go(func() {
				if err := do(name); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
			synctest.Wait()
		}
		start("a")
		start("b")
		if err := do("c"); !errors.Is(err, cache.ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
		start("a") // joins
		wait.Wait()
		if err := do("c"); err != nil {
			t.Errorf("when the others have landed: %v", err)
		}
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

func TestWorkThatLeavesWithoutAResultIsAnError(t *testing.T) {
	f := cache.NewFlight(cache.FlightConfig{})
	leave := func(context.Context) (exchange.Credentials, error) {
		runtime.Goexit()
		return exchange.Credentials{}, nil
	}
	if _, _, err := f.Do(t.Context(), keyer.Key("a"), leave); !errors.Is(err, cache.ErrPanicked) {
		t.Errorf("got %v", err)
	}
	if _, led, err := f.Do(t.Context(), keyer.Key("a"), func(context.Context) (exchange.Credentials, error) {
		return exchange.Credentials{}, nil
	}); !led || err != nil {
		t.Errorf("the next: led %v, %v", led, err)
	}
}

func TestWithoutSettingsAFlightEndsAfterThirtySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, _, _ = cache.NewFlight(cache.FlightConfig{}).Do(t.Context(), keyer.Key("a"), func(ctx context.Context) (exchange.Credentials, error) {
			<-ctx.Done()
			return exchange.Credentials{}, ctx.Err()
		})
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestACallerThatHasGoneStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		called := false
		_, _, err := cache.NewFlight(cache.FlightConfig{}).Do(ctx, keyer.Key("a"), func(context.Context) (exchange.Credentials, error) {
			called = true
			return exchange.Credentials{}, nil
		})
		synctest.Wait()
		if !errors.Is(err, context.Canceled) || called {
			t.Errorf("got %v, called %v", err, called)
		}
	})
}

func BenchmarkFlight(b *testing.B) {
	f := cache.NewFlight(cache.FlightConfig{})
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		key := keyer.Key(fmt.Sprint(n.Add(1)))
		for pb.Next() {
			_, _, _ = f.Do(b.Context(), key, func(context.Context) (exchange.Credentials, error) { return exchange.Credentials{}, nil })
		}
	})
}
