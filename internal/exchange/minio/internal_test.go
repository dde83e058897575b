package minio

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

var start = time.Unix(1_800_000_000, 0)

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

func TestTheServersWordsAreCut(t *testing.T) {
	for n, want := range map[int]int{299: 299, 300: 300, 301: 303} {
		if got := len(clip(strings.Repeat("x", n))); got != want {
			t.Errorf("%d bytes become %d, want %d", n, got, want)
		}
	}
}

func TestHonours(t *testing.T) {
	allowed := []string{"a"}
	b := WebIdentityHonours(allowed)
	allowed[0] = "consoleAdmin"
	if b.SessionPolicyBytes != 2048 || b.MaxTTL != 365*24*time.Hour || len(b.AllowedPolicies) != 1 || b.AllowedPolicies[0] != "a" {
		t.Errorf("%+v", b)
	}
}
