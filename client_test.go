package credbroker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/prove"
)

func TestCredentialsThatHaveEndedOnArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.life = 0
		if _, err := c.Credentials(t.Context(), "reports"); err == nil || !strings.Contains(err.Error(), "this machine's clock says 2000-01-01T00:00:00Z") {
			t.Errorf("got %v", err)
		}
		s.life = time.Nanosecond
		if _, err := c.Credentials(t.Context(), "reports"); err != nil {
			t.Error(err)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.delay = time.Minute
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, _, err := c.current(t.Context(), newWant("reports", nil)); !errors.Is(err, ErrClosed) {
				t.Errorf("who waits for a renewal gets %v", err)
			}
		})
		wait.Go(func() {
			if _, err := c.Credentials(t.Context(), "reports"); !errors.Is(err, ErrClosed) {
				t.Errorf("a call under way ends with %v", err)
			}
		})
		synctest.Wait()
		start := time.Now()
		_ = c.Close()
		_ = c.Close()
		if time.Since(start) != 0 || !s.closed {
			t.Errorf("it took %s; transport closed: %t", time.Since(start), s.closed)
		}
		wait.Wait()
		for name, call := range map[string]func() error{
			"Credentials": func() error { _, err := c.Credentials(t.Context(), "reports"); return err },
			"AWS":         func() error { _, err := c.AWS("reports").Retrieve(t.Context()); return err },
			"MinIO":       func() error { _, err := c.MinIO("other").RetrieveWithCredContext(nil); return err },
		} {
			if err := call(); !errors.Is(err, ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
		if n := s.count(); n != 2 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestWantsThatHaveEndedAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newStandIn(t)
		for i := range 1000 {
			key(t, c, WithPolicy(fmt.Sprint(i)))
			time.Sleep(time.Second) // a minute's worth of them is alive
		}
		if n := len(c.renewals); n > 2*fewRenewals {
			t.Errorf("%d are remembered", n)
		}
		if got, again := key(t, c, WithPolicy("999")), key(t, c, WithPolicy("999")); got != again {
			t.Errorf("%s, then %s", got, again)
		}
	})
}

func TestWhatIsWrongIsSaidWithoutAsking(t *testing.T) {
	s, c := newStandIn(t)
	for name, call := range map[string]func() error{
		"no role":       func() error { _, err := c.Credentials(t.Context(), ""); return err },
		"broken role":   func() error { _, err := c.Credentials(t.Context(), "\xff"); return err },
		"broken policy": func() error { _, err := c.Credentials(t.Context(), "r", WithPolicy("\xff")); return err },
		"zero TTL":      func() error { _, err := c.Credentials(t.Context(), "r", WithTTL(0)); return err },
		"negative TTL":  func() error { _, err := c.Credentials(t.Context(), "r", WithTTL(-time.Minute)); return err },
		"broken TTL":    func() error { _, err := c.AWS("r", WithTTL(1500*time.Millisecond)).Retrieve(t.Context()); return err },
		"TTL of 999 ms": func() error {
			_, err := c.MinIO("r", WithTTL(999*time.Millisecond)).RetrieveWithCredContext(nil)
			return err
		},
		"no role for AWS": func() error { _, err := c.AWS("").Retrieve(t.Context()); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "credbroker: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.count() != 0 || len(c.renewals) != 0 {
		t.Errorf("%d calls, %d renewals", s.count(), len(c.renewals))
	}
}

func TestWhatIsHeldIsNotServedAfterClose(t *testing.T) {
	_, c := newStandIn(t)
	key(t, c)
	held := c.renewals[newWant("reports", nil)]
	fresh := &renewal{client: c, want: newWant("other", nil)} // found just before Close
	_ = c.Close()
	if _, _, err := c.current(t.Context(), held.want); !errors.Is(err, ErrClosed) {
		t.Errorf("held: %v", err)
	}
	if _, _, err := fresh.current(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("fresh: %v", err)
	}
}

func TestWhoGivesUpLearnsWhatTheBrokerSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.err = &Error{Code: CodeOverloaded, Retryable: true, RetryAfter: 5 * time.Second}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := c.current(ctx, newWant("reports", nil))
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, s.err) || !strings.Contains(err.Error(), `no credentials of the role "reports"`) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAProverThatFailsSendsNothing(t *testing.T) {
	fault := errors.New("no token yet")
	s := &standIn{life: time.Minute}
	c := newClient(s, prove.TokenFunc(func(context.Context) (string, error) { return "token", fault }))
	defer c.Close()
	_, err := c.Credentials(t.Context(), "reports")
	if !errors.Is(err, fault) || !strings.Contains(err.Error(), "no proof of identity: ") || s.count() != 0 {
		t.Errorf("%d calls, %v", s.count(), err)
	}
}
