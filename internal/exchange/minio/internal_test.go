package minio

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

var start = time.Unix(1_800_000_000, 0)

func TestCheckToTheNanosecond(t *testing.T) {
	whole := exchange.Credentials{AccessKeyID: "AK", SecretAccessKey: secret.New("SK"), SessionToken: secret.New("ST")}
	end := start.Add(time.Minute)
	for name, c := range map[string]struct {
		expires time.Time
		want    error
	}{
		"zero":               {time.Time{}, exchange.ErrBadResult},
		"now":                {start, exchange.ErrBadResult},
		"just after now":     {start.Add(1), nil},
		"as granted":         {end, nil},
		"a second more":      {end.Add(time.Second), nil},
		"more than a second": {end.Add(time.Second + 1), exchange.ErrBadResult},
	} {
		whole.Expires = c.expires
		if err := check(whole, end, start); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckWantsPrintableKeys(t *testing.T) {
	end := start.Add(time.Minute)
	for _, bad := range []string{"", " ", "a b", "a\nb", "a\x00", "\x7f", "ä"} {
		for _, c := range []exchange.Credentials{
			{AccessKeyID: bad, SecretAccessKey: secret.New("!"), SessionToken: secret.New("~"), Expires: end},
			{AccessKeyID: "!", SecretAccessKey: secret.New(bad), SessionToken: secret.New("~"), Expires: end},
			{AccessKeyID: "!", SecretAccessKey: secret.New("~"), SessionToken: secret.New(bad), Expires: end},
		} {
			if err := check(c, end, start); !errors.Is(err, exchange.ErrBadResult) {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
	good := exchange.Credentials{AccessKeyID: "!~", SecretAccessKey: secret.New("!~"), SessionToken: secret.New("!~"), Expires: end}
	if err := check(good, end, start); err != nil {
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

func TestARefusalFromBeforeALossCountsForNothing(t *testing.T) {
	s := newSelfTest()
	before := s.contactLosses()
	s.forget(start)
	s.note(refused, false, "", before, start)
	if s.current() != unknown || s.status() == "" {
		t.Errorf("verdict %d, status %q", s.current(), s.status())
	}
	s.note(refused, false, "", s.contactLosses(), start)
	if s.current() != refused || s.status() != "" {
		t.Errorf("verdict %d, status %q", s.current(), s.status())
	}
}

func TestWhatEachAnswerLeavesKnown(t *testing.T) {
	for name, c := range map[string]struct {
		before, v verdict
		odd       bool
		want      verdict
	}{
		"odd after refused":         {refused, unknown, true, refused},
		"odd after accepted":        {accepted, unknown, true, unknown},
		"odd after unknown":         {unknown, unknown, true, unknown},
		"unreachable after refused": {refused, unknown, false, unknown},
		"accepted after refused":    {refused, accepted, false, accepted},
		"refused after accepted":    {accepted, refused, false, refused},
	} {
		s := newSelfTest()
		s.note(c.before, false, "", 0, start)
		s.note(c.v, c.odd, "", 0, start)
		if got := s.current(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestForgettingKeepsAnAcceptance(t *testing.T) {
	s := newSelfTest()
	s.note(accepted, false, "", 0, start)
	s.forget(start)
	if s.current() != accepted {
		t.Error("an open MinIO was forgotten to be open")
	}
}

func TestWhenTheSelfTestIsDue(t *testing.T) {
	for name, c := range map[string]struct {
		v     verdict
		odd   bool
		every time.Duration
	}{
		"unknown":           {unknown, false, time.Second},
		"accepted":          {accepted, false, 5 * time.Second},
		"refused":           {refused, false, 10 * time.Minute},
		"odd after refused": {refused, true, time.Second},
	} {
		s := newSelfTest()
		if !s.due(start) {
			t.Errorf("%s: not due at first", name)
		}
		s.note(c.v, false, "", 0, start)
		if c.odd {
			s.note(unknown, true, "", 0, start)
		}
		if s.due(start.Add(c.every-1)) || !s.due(start.Add(c.every)) {
			t.Errorf("%s: not due every %s", name, c.every)
		}
	}
}

func TestSettledAfterFiveSeconds(t *testing.T) {
	for name, lose := range map[string]func(*selfTest){
		"forget":      func(s *selfTest) { s.forget(start) },
		"unreachable": func(s *selfTest) { s.note(unknown, false, "", 0, start) },
	} {
		s := newSelfTest()
		if !s.settled(start) {
			t.Errorf("%s: not settled though contact was never lost", name)
		}
		lose(&s)
		if s.settled(start.Add(settleTime-1)) || !s.settled(start.Add(settleTime)) {
			t.Errorf("%s: not settled after %s", name, settleTime)
		}
	}
	s := newSelfTest()
	s.note(unknown, true, "", 0, start)
	s.note(refused, false, "", 0, start)
	if !s.settled(start) {
		t.Error("an answer counts as a loss of contact")
	}
}

func TestTransportGoesStraightAndByTLS12(t *testing.T) {
	transport, err := newTransport("", new(contact))
	if err != nil {
		t.Fatal(err)
	}
	if transport.Proxy != nil || transport.TLSClientConfig.MinVersion != tls.VersionTLS12 || transport.TLSClientConfig.InsecureSkipVerify {
		t.Error("a proxy, an old TLS, or no check of certificates")
	}
	if transport.TLSHandshakeTimeout != 2*time.Second || transport.IdleConnTimeout != 30*time.Second || transport.MaxResponseHeaderBytes != 64<<10 || transport.MaxConnsPerHost != 256 {
		t.Error("a limit has changed")
	}
}

func TestEveryErrorHasItsOutcome(t *testing.T) {
	for want, err := range map[string]error{
		"ok": nil, "unavailable": errBreakerOpen, "refused": errUnknownPolicies, "unsafe": exchange.ErrUnsafe,
		"bad_result": exchange.ErrBadResult, "failed": context.Canceled,
	} {
		if got := outcome(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

func TestTheServersWordsAreCut(t *testing.T) {
	for n, want := range map[int]int{299: 299, 300: 300, 301: 303} {
		if got := len(clip(strings.Repeat("x", n))); got != want {
			t.Errorf("%d bytes become %d, want %d", n, got, want)
		}
	}
}

func TestHonours(t *testing.T) {
	allowed := []string{"a"}
	b := Honours(allowed)
	allowed[0] = "consoleAdmin"
	if b.SessionPolicyBytes != 2048 || b.MaxTTL != 365*24*time.Hour || len(b.AllowedPolicies) != 1 || b.AllowedPolicies[0] != "a" {
		t.Errorf("%+v", b)
	}
}
