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
