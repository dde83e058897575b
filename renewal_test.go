package credbroker

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/prove"
)

func TestRenewalBeginsInTheLastPartOfTheLife(t *testing.T) {
	for range 50 { // it is jittered
		synctest.Test(t, func(t *testing.T) {
			s, c := newStandIn(t)
			s.life = 100 * time.Second
			if got := key(t, c); got != "KEY-1" {
				t.Fatalf("got %s", got)
			}
			time.Sleep(70*time.Second - time.Nanosecond)
			key(t, c)
			synctest.Wait()
			if n := s.count(); n != 1 {
				t.Fatalf("%d calls before 70 %% of the life", n)
			}
			time.Sleep(10*time.Second + time.Nanosecond)
			if got := key(t, c); got != "KEY-1" {
				t.Errorf("whoever starts a renewal is served what is there, not %s", got)
			}
			synctest.Wait()
			if got := key(t, c); got != "KEY-2" || s.count() != 2 {
				t.Errorf("after 80 %% of the life: %s, %d calls", got, s.count())
			}
		})
	}
}

func TestRenewalsOfAFleetAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := map[time.Time]bool{}
		for range 100 {
			_, c := newStandIn(t)
			key(t, c)
			times[c.renewals[newWant("reports", nil)].renewAt] = true
		}
		if len(times) < 90 {
			t.Errorf("100 clients renew at %d times", len(times))
		}
	})
}

func TestNothingIsAskedForWithoutCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		key(t, c)
		time.Sleep(time.Hour)
		if n := s.count(); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestCallersAreServedDuringASlowRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		key(t, c)
		s.set(func(s *standIn) { s.delay = 5 * time.Second })
		time.Sleep(50 * time.Second)
		for range 49 { // until 54.9 s
			start := time.Now()
			if got := key(t, c); got != "KEY-1" || time.Since(start) != 0 {
				t.Fatalf("got %s after %s", got, time.Since(start))
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond)
		if got := key(t, c); got != "KEY-2" || s.count() != 2 {
			t.Errorf("got %s, %d calls", got, s.count())
		}
	})
}

func TestOneFlightForAllCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.delay = time.Second
		var wait sync.WaitGroup
		for range 100 {
			wait.Go(func() { _ = key(t, c) })
			wait.Go(func() {
				if _, err := c.AWS("reports").Retrieve(t.Context()); err != nil {
					t.Error(err)
				}
			})
			wait.Go(func() {
				if _, err := c.MinIO("reports").RetrieveWithCredContext(nil); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if n := s.count(); n != 1 {
			t.Errorf("%d calls", n)
		}
		for _, opts := range [][]RoleOption{{WithTTL(time.Minute)}, {WithPolicy("{}")}, {WithPolicy("{}"), WithTTL(time.Minute)}, {WithTTL(2 * time.Minute)}} {
			key(t, c, opts...)
		}
		if n := s.count(); n != 5 {
			t.Errorf("%d calls for five different wants", n)
		}
	})
}

func TestACallerThatGivesUpLeavesTheFlightToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.delay = 5 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var first error
		var wait sync.WaitGroup
		wait.Go(func() { _, _, first = c.current(ctx, newWant("reports", nil)) })
		synctest.Wait()
		start := time.Now()
		wait.Go(func() { _ = key(t, c) })
		wait.Wait()
		if !errors.Is(first, context.DeadlineExceeded) {
			t.Errorf("the one that gave up: %v", first)
		}
		if took := time.Since(start); took != 5*time.Second || s.count() != 1 {
			t.Errorf("the other waited %s, for %d calls", took, s.count())
		}
	})
}

func TestTheLastCredentialsAreServedUntilTheyEndAndNotLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		key(t, c)
		end := time.Now().Add(time.Minute - lastMoment)
		s.set(func(s *standIn) { s.err = errAway })
		for time.Until(end) > time.Second {
			time.Sleep(time.Second)
			key(t, c)
		}
		time.Sleep(time.Until(end) - time.Nanosecond)
		if got := key(t, c); got != "KEY-1" {
			t.Errorf("at the last moment: %s", got)
		}
		time.Sleep(time.Nanosecond)
		_, _, err := c.current(t.Context(), newWant("reports", nil))
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "ended at 2000-01-01T00:01:00Z and were not renewed") {
			t.Errorf("after the end: %v", err)
		}
		if waited := time.Since(end); waited != waitMost {
			t.Errorf("waited for %s", waited)
		}
		s.set(func(s *standIn) { s.err = nil })
		if got := key(t, c); got == "KEY-1" {
			t.Errorf("once the broker was back: %s", got)
		}
		if took := time.Since(end) - waitMost; took > longestPause {
			t.Errorf("found the broker %s after its return", took)
		}
	})
}

func TestPausesGrowAndAreShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.err = errAway
		_, _, err := c.current(t.Context(), newWant("reports", nil))
		if !errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
		if n := len(s.calls); n < 6 || n > 9 {
			t.Errorf("%d calls within %s", n, waitMost)
		}
		longest := firstPause
		for i := range len(s.calls) - 1 {
			pause := s.calls[i+1].Sub(s.calls[i])
			if pause < longest*3/4 || pause > longest {
				t.Errorf("pause %d is %s; %s and a little less was expected", i, pause, longest)
			}
			longest = min(2*longest, longestPause)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for asked, expected := range map[time.Duration]time.Duration{2 * time.Second: 2 * time.Second, time.Hour: mostAsked} {
		synctest.Test(t, func(t *testing.T) {
			s, c := newStandIn(t)
			s.life = time.Hour
			key(t, c)
			time.Sleep(50 * time.Minute)
			s.set(func(s *standIn) { s.err = &Error{Code: CodeRateLimited, Retryable: true, RetryAfter: asked} })
			for s.count() < 3 {
				key(t, c)
				time.Sleep(100 * time.Millisecond)
			}
			if pause := s.calls[2].Sub(s.calls[1]); pause < expected || pause > expected+100*time.Millisecond {
				t.Errorf("asked for %s: asked again after %s", asked, pause)
			}
		})
	}
}

// What can't be helped by waiting is told at once, and the broker isn't asked with every request.
func TestARefusalIsToldAtOnceAndRemembered(t *testing.T) {
	refusal := &Error{Code: CodePermissionDenied, Message: "no", RequestID: "r"}
	for name, fault := range map[string]error{"refusal": refusal, "no broker": &errNotBroker{"HTTP status 404", "HTTP"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newStandIn(t)
				s.err = fault
				start := time.Now()
				for range 100 {
					if _, _, err := c.current(t.Context(), newWant("reports", nil)); !errors.Is(err, fault) {
						t.Fatal(err)
					}
				}
				if s.count() != 1 || time.Since(start) != 0 {
					t.Errorf("%d calls in %s", s.count(), time.Since(start))
				}
				for range 600 {
					time.Sleep(time.Second)
					_, _, _ = c.current(t.Context(), newWant("reports", nil))
				}
				if n := s.count(); n < 20 || n > 36 {
					t.Errorf("%d calls in ten minutes", n)
				}
				s.set(func(s *standIn) { s.err = nil })
				time.Sleep(mostPatience)
				key(t, c)
			})
		})
	}
}

func TestAProverThatFailsIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		noToken := errors.New("the token is being replaced")
		var mu sync.Mutex
		var fault error
		s := &standIn{life: time.Minute}
		c := newClient(s, prove.TokenFunc(func(context.Context) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			return "token", fault
		}))
		defer c.Close()
		key(t, c)
		mu.Lock()
		fault = noToken
		mu.Unlock()
		time.Sleep(50 * time.Second)
		if got := key(t, c); got != "KEY-1" {
			t.Errorf("while the prover fails: %s", got)
		}
		synctest.Wait()
		mu.Lock()
		fault = nil
		mu.Unlock()
		time.Sleep(firstPause)
		key(t, c)
		synctest.Wait()
		if got := key(t, c); got != "KEY-2" {
			t.Errorf("after: %s", got)
		}
	})
}

func TestABrokerThatComesBackIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.err = errAway
		time.AfterFunc(6*time.Second, func() { s.set(func(s *standIn) { s.err = nil }) })
		start := time.Now()
		key(t, c)
		if took := time.Since(start); took < 6*time.Second || took > 10*time.Second {
			t.Errorf("waited %s", took)
		}
	})
}

func TestAWaitIsBoundedAndTheCallGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.delay = 20 * time.Second
		start := time.Now()
		_, _, err := c.current(t.Context(), newWant("reports", nil))
		if !errors.Is(err, ErrUnreachable) || time.Since(start) != waitMost {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		key(t, c)
		if time.Since(start) != 20*time.Second || s.count() != 1 {
			t.Errorf("the next caller got its credentials after %s, by %d calls", time.Since(start), s.count())
		}
	})
}

// A broker answers from its cache; a client that is early gets what it has, and asks again in time.
func TestABrokerThatGivesTheSameCredentialsAgain(t *testing.T) {
	for _, life := range []time.Duration{10 * time.Second, time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s, c := newStandIn(t)
			s.life, s.same = life, true
			key(t, c)
			end := s.last.Expires
			s.set(func(s *standIn) { s.life = 2 * life })
			// The broker mints anew when a twentieth is left.
			time.AfterFunc(life*19/20, func() { s.set(func(s *standIn) { s.same = false }) })
			for time.Now().Before(end) {
				key(t, c)
				time.Sleep(life / 100)
			}
			if got := key(t, c); got == "KEY-1" {
				t.Error("they ended before they were renewed")
			}
			if n := s.count(); n > 40 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// The wall clock is set forward, or the machine sleeps: credentials end before any timer says that it is time.
func TestAClockThatIsSetForwardCostsNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.life = time.Hour
		key(t, c)
		r := c.renewals[newWant("reports", nil)]
		r.mu.Lock()
		r.ends = time.Now() // as if it were an hour later
		if r.renewAt != r.renewAt.Round(0) {
			t.Error("the time of the renewal goes by a clock that doesn't go while a machine sleeps")
		}
		r.mu.Unlock()
		if got := key(t, c); got != "KEY-2" {
			t.Errorf("got %s", got)
		}
	})
}
