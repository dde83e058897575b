package minio

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

// How often Run tests, by what the last test said.
const (
	testEvery         = 10 * time.Minute
	testEveryUnknown  = time.Second
	testEveryAccepted = 5 * time.Second
	// settleTime is how long after its return a MinIO may not know its policies yet.
	settleTime = 5 * time.Second
)

// verdict is what is known of how a MinIO treats forged tokens.
type verdict int

const (
	// unknown: it could not be asked, was still starting, or answered something else.
	unknown verdict = iota
	// refused: it refused the forged token for its signature or key.
	refused
	// accepted: the forged token's signature passed.
	accepted
)

// selfTest keeps the verdict. One test runs at a time.
type selfTest struct {
	running chan struct{} // a lock that can be waited for with a context

	mu      sync.Mutex
	verdict verdict
	forged  bool      // the last verdict that was not unknown was accepted
	odd     bool      // the last answer wasn't understood
	detail  string    // what the last answer was, where it told nothing
	count   int       // tests that were made
	lastAt  time.Time // of the last test
	told    verdict   // the last that note called news
	losses  int       // times that contact was lost
	awayAt  time.Time // the last of them
	contact int64     // the contact that the last test was made over
}

func newSelfTest() selfTest {
	return selfTest{running: make(chan struct{}, 1), detail: "not asked yet"}
}

// Run tests the server now and again until ctx ends.
func (x *WebIdentity) Run(ctx context.Context) {
	defer x.transport.CloseIdleConnections()
	tick := time.NewTicker(testEveryUnknown)
	defer tick.Stop()
	for {
		if x.selfTest.due(time.Now()) {
			x.testUnlessTested(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// AcceptsForgedTokens says whether the forged token was accepted by the last answer that told either way.
func (x *WebIdentity) AcceptsForgedTokens() bool {
	x.selfTest.mu.Lock()
	defer x.selfTest.mu.Unlock()
	return x.selfTest.forged
}

// ensureSafe returns nil if the server is known to refuse forged tokens, and asks it if nothing is known.
func (x *WebIdentity) ensureSafe(ctx context.Context) error {
	if x.selfTest.current() == unknown {
		x.testUnlessTested(ctx)
	}
	s := &x.selfTest
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.verdict == refused:
		return nil
	case s.verdict == accepted:
		return fmt.Errorf("%w: MinIO accepts forged tokens: set MINIO_IDENTITY_OPENID_CLIENT_SECRET", exchange.ErrUnsafe)
	case s.odd:
		return fmt.Errorf("%w: MinIO's answer to a forged token wasn't understood: %s", exchange.ErrUnsafe, s.detail)
	default:
		return fmt.Errorf("%w: self-test: %s", exchange.ErrUnavailable, s.detail)
	}
}

// testUnlessTested tests the server; whoever had to wait for another's test takes that one's word.
func (x *WebIdentity) testUnlessTested(ctx context.Context) {
	before := x.selfTest.tests()
	select {
	case x.selfTest.running <- struct{}{}:
		defer func() { <-x.selfTest.running }()
	case <-ctx.Done():
		return
	}
	if x.selfTest.tests() != before {
		return
	}
	x.test(ctx)
}

// test tests the server once and keeps the outcome, unless the caller's leaving was the outcome.
func (x *WebIdentity) test(ctx context.Context) {
	ctx, cancel := exchange.WithTimeout(ctx, x.cfg.Timeout)
	defer cancel()
	losses, contacts := x.selfTest.contactLosses(), x.contact.times.Load()
	v, odd, detail := x.ask(ctx)
	if x.contact.times.Load() != contacts {
		contacts++ // made by the question itself; whatever was made after it counts as unknown
	}
	if v == unknown && exchange.CallerLeft(ctx) {
		return
	}
	x.selfTest.tested(contacts)
	if !x.selfTest.note(v, odd, detail, losses, time.Now()) {
		return
	}
	switch v := x.selfTest.current(); {
	case odd:
		x.cfg.Log.Warn("MinIO's answer to a forged token wasn't understood", "endpoint", x.cfg.Endpoint, "answer", detail)
	case v == accepted:
		x.cfg.Log.Error("MinIO accepts forged tokens, nothing is issued: set MINIO_IDENTITY_OPENID_CLIENT_SECRET on it", "endpoint", x.cfg.Endpoint)
	case v == refused:
		x.cfg.Log.Info("MinIO refuses forged tokens, as it should", "endpoint", x.cfg.Endpoint)
	default:
		x.cfg.Log.Warn("nothing is issued", "endpoint", x.cfg.Endpoint, "cause", x.selfTest.status())
	}
}

// ask shows the server a token that anyone could have forged where MinIO runs without a client secret: signed by HMAC with
// the empty key, under the client ID for a key ID. It names a policy that doesn't exist, so that it could do nothing.
func (x *WebIdentity) ask(ctx context.Context) (v verdict, odd bool, detail string) {
	token, err := forge(x.cfg.ClientID, time.Now())
	if err != nil {
		return unknown, false, err.Error()
	}
	_, f := x.show(ctx, token, "", exchange.Correlation{})
	switch {
	case f == nil:
		return accepted, false, ""
	case f.later():
		return unknown, false, f.String()
	case f.lacksKeys():
		return unknown, false, "MinIO can't read the broker's keys: " + f.String()
	case f.unknownPolicies():
		return accepted, false, ""
	case f.status >= 400 && refusesSignature(f.message):
		return refused, false, ""
	default:
		return unknown, true, f.String()
	}
}

// refusesSignature knows what MinIO says of a token whose signature doesn't hold, or whose key isn't for HMAC. That it has no
// key of that ID proves nothing: its own client ID is another one then, and may be open.
func refusesSignature(message string) bool {
	return strings.Contains(message, "signature is invalid") || strings.Contains(message, "key is of invalid type")
}

func forge(clientID string, now time.Time) (secret.Secret, error) {
	var random [16]byte
	_, _ = rand.Read(random[:]) // crypto/rand.Read never fails
	id := base64.RawURLEncoding.EncodeToString(random[:])
	header, err := json.Marshal(map[string]string{"alg": "HS256", "typ": "JWT", "kid": clientID})
	if err != nil {
		return secret.Secret{}, err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": "credbroker-self-test", "sub": "credbroker-self-test-" + id, "aud": clientID,
		"iat": now.Add(-30 * time.Second).Unix(), "exp": now.Add(time.Minute).Unix(),
		"policy": []string{"credbroker-self-test-" + id},
	})
	if err != nil {
		return secret.Secret{}, err
	}
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	mac := hmac.New(sha256.New, nil)
	mac.Write([]byte(input))
	return secret.New(input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))), nil
}

// note keeps the outcome of a test that began when contact had been lost so many times, and says whether it is news. An
// answer that wasn't understood takes nothing away from a refusal that was seen; a server that can't be reached does: it may
// come back without its secret. So a refusal counts only if contact wasn't lost since it was asked for.
func (s *selfTest) note(v verdict, odd bool, detail string, losses int, now time.Time) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v == refused && losses != s.losses {
		v, detail = unknown, "contact was lost during the test"
	}
	if news = s.count == 0 || odd != s.odd || !odd && v != s.told; news && !odd {
		s.told = v
	}
	if !odd || s.verdict != refused {
		s.verdict = v
	}
	if v != unknown {
		s.forged = v == accepted
	}
	if v == unknown && !odd {
		s.awayAt = now
	}
	s.odd, s.detail = odd, detail
	s.count++
	s.lastAt = now
	return news
}

// forget makes the next exchange ask again, since contact was lost.
func (s *selfTest) forget(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.losses++
	s.awayAt = now
	if s.verdict == refused {
		s.verdict, s.detail = unknown, "to be asked again after contact was lost"
	}
}

// tested notes which contact the last test was made over.
func (s *selfTest) tested(contact int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.contact = contact
}

// doubt says whether a refusal was seen over another contact than the given one, and makes it be asked for again if so.
func (s *selfTest) doubt(contact int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.contact == contact {
		return false
	}
	if s.verdict == refused {
		s.verdict, s.detail = unknown, "to be asked again over a new connection"
	}
	return true
}

func (s *selfTest) contactLosses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.losses
}

// settled says whether the server has been there for so long that its word on policies is final.
func (s *selfTest) settled(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.awayAt) >= settleTime
}

func (s *selfTest) current() verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verdict
}

func (s *selfTest) tests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

func (s *selfTest) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	every := map[verdict]time.Duration{unknown: testEveryUnknown, accepted: testEveryAccepted, refused: testEvery}[s.verdict]
	if s.odd {
		every = testEveryUnknown
	}
	return now.Sub(s.lastAt) >= every
}

func (s *selfTest) status() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.verdict == accepted:
		return "MinIO accepts forged tokens, so nothing is issued: set MINIO_IDENTITY_OPENID_CLIENT_SECRET on it and restart it"
	case s.odd:
		return "MinIO's answer to the self-test wasn't understood: " + s.detail
	case s.verdict == unknown:
		return "not known yet whether MinIO refuses forged tokens: " + s.detail
	}
	return ""
}
