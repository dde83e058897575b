package exchange

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/internal/secret"
)

var start = time.Unix(1_800_000_000, 0)

func TestCheckToTheNanosecond(t *testing.T) {
	whole := Credentials{AccessKeyID: "AK", SecretAccessKey: secret.New("SK"), SessionToken: secret.New("ST")}
	end := start.Add(time.Minute)
	for name, c := range map[string]struct {
		expires time.Time
		want    error
	}{
		"zero":               {time.Time{}, ErrBadResult},
		"now":                {start, ErrBadResult},
		"just after now":     {start.Add(1), nil},
		"as granted":         {end, nil},
		"a second more":      {end.Add(time.Second), nil},
		"more than a second": {end.Add(time.Second + 1), ErrBadResult},
	} {
		whole.Expires = c.expires
		if err := Check(whole, end, start); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckWantsPrintableKeys(t *testing.T) {
	end := start.Add(time.Minute)
	for _, bad := range []string{"", " ", "a b", "a\nb", "a\x00", "\x7f", "ä"} {
		for _, c := range []Credentials{
			{AccessKeyID: bad, SecretAccessKey: secret.New("!"), SessionToken: secret.New("~"), Expires: end},
			{AccessKeyID: "!", SecretAccessKey: secret.New(bad), SessionToken: secret.New("~"), Expires: end},
			{AccessKeyID: "!", SecretAccessKey: secret.New("~"), SessionToken: secret.New(bad), Expires: end},
		} {
			if err := Check(c, end, start); !errors.Is(err, ErrBadResult) {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
	good := Credentials{AccessKeyID: "!~", SecretAccessKey: secret.New("!~"), SessionToken: secret.New("!~"), Expires: end}
	if err := Check(good, end, start); err != nil {
		t.Error(err)
	}
}

func TestPausesDoubleAndAreCutAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for n, most := range []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond} {
			lengths := map[time.Duration]bool{}
			for range 100 {
				before := time.Now()
				if !pause(t.Context(), n) {
					t.Fatal("no time")
				}
				took := time.Since(before)
				if took > most || took < most/2 {
					t.Errorf("before attempt %d: %s", n, took)
				}
				lengths[took] = true
			}
			if n > 0 && len(lengths) < 50 {
				t.Errorf("before attempt %d: only %d different pauses of 100", n, len(lengths))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if pause(ctx, 0) || pause(ctx, 1) {
			t.Error("time after the end")
		}
	})
}

// opened is a breaker that has just been opened at start.
func opened(t *testing.T) *breaker {
	t.Helper()
	b := &breaker{}
	for range breakAfter {
		p, ok := b.allow(start)
		if !ok {
			t.Fatal("open too early")
		}
		p.done(away, start)
	}
	if _, ok := b.allow(start.Add(breakFor - 1)); ok {
		t.Fatal("not open after failures in a row")
	}
	return b
}

func TestBreakerLetsOneLookAndClosesOnAnAnswer(t *testing.T) {
	b := opened(t)
	later := start.Add(breakFor)
	probe, ok := b.allow(later)
	if !ok {
		t.Fatal("still open after its time")
	}
	if _, ok := b.allow(later); ok {
		t.Error("two looks at once")
	}
	probe.done(away, later)
	if _, ok := b.allow(later.Add(breakFor - 1)); ok {
		t.Error("a failed look didn't open it again")
	}
	probe, ok = b.allow(later.Add(breakFor))
	if !ok {
		t.Fatal("no second look")
	}
	probe.done(alive, later.Add(breakFor))
	for range 3 {
		if _, ok := b.allow(later.Add(breakFor)); !ok {
			t.Error("an answer didn't close it")
		}
	}
}

func TestBreakerCountsOnlyFailuresInARow(t *testing.T) {
	b := &breaker{}
	for range 3 {
		for range breakAfter - 1 {
			p, _ := b.allow(start)
			p.done(away, start)
		}
		p, ok := b.allow(start)
		if !ok {
			t.Fatal("open too early")
		}
		p.done(alive, start)
	}
}

func TestBreakerIsNotHeldOpenByLateFailures(t *testing.T) {
	b := &breaker{}
	late, _ := b.allow(start)
	*b = *opened(t) //nolint:govet // nobody holds it
	late.done(away, start.Add(breakFor-1))
	probe, ok := b.allow(start.Add(breakFor))
	if !ok {
		t.Fatal("a failure from before it opened holds it open")
	}
	late.done(away, start.Add(breakFor))
	if _, ok := b.allow(start.Add(breakFor)); ok {
		t.Error("a failure from before it opened let a second look in")
	}
	probe.done(noSign, start.Add(breakFor))
	if _, ok := b.allow(start.Add(breakFor)); !ok {
		t.Error("a look that the caller ended wasn't given to the next")
	}
}

func TestBreakerIsShort(t *testing.T) {
	if breakFor > time.Second {
		t.Errorf("open for %s: recovery takes at most 2 s in all", breakFor)
	}
}

func TestEveryErrorHasItsOutcome(t *testing.T) {
	for want, err := range map[string]error{
		"ok": nil, "unavailable": errBreakerOpen, "refused": fmt.Errorf("%w: so", ErrRefused), "unsafe": ErrUnsafe,
		"bad_result": ErrBadResult, "failed": context.Canceled,
	} {
		if got := Outcome(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
