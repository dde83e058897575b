package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

// issue asks, waits for what that set off, and returns the access key.
func (w *world) issue(t *testing.T, token, role string) string {
	t.Helper()
	issued, err := w.Issue(t.Context(), ask(token, role))
	w.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return issued.AccessKeyID
}

// The role "reports" gives 10 minutes, of which 9 can be used: it is renewed 81 to 162 seconds before the last.
const (
	surelyFresh = 9*time.Minute - 163*time.Second
	surelyDue   = 9*time.Minute - 80*time.Second
)

func TestCredentialsAreRenewedAheadOfTheirEnd(t *testing.T) {
	w := newWorld(t)
	if key := w.issue(t, "alice|finance", "reports"); key != "AK1" {
		t.Fatal(key)
	}
	w.advance(surelyFresh)
	if key := w.issue(t, "alice|finance", "reports"); key != "AK1" || w.backend.count() != 1 {
		t.Errorf("early: %s after %d exchanges", key, w.backend.count())
	}
	w.advance(surelyDue - surelyFresh)
	if key := w.issue(t, "alice|finance", "reports"); key != "AK1" || w.backend.count() != 2 {
		t.Errorf("when due: %s after %d exchanges; want the old key at once and a new one made", key, w.backend.count())
	}
	e := w.audit.lastOf(t, "renew_credentials") // which may have been written before the call's own
	if e.Result != "mint" || e.AccessKeyID != "AK2" || e.Decision != audit.Allowed || e.Identity.Subject != "alice" ||
		e.Role != "reports" || e.Rule != "b.yaml:1" || e.RequestID != "r1" || e.ProofFingerprint == "" || !e.Expires.Equal(w.now().Add(10*time.Minute)) {
		t.Errorf("audited %+v", e)
	}
	if key := w.issue(t, "alice|finance", "reports"); key != "AK2" || w.backend.count() != 2 {
		t.Errorf("then: %s after %d exchanges", key, w.backend.count())
	}
}

// A renewal needs a caller: what nobody asks for ends.
func TestARenewalRenewsNothing(t *testing.T) {
	w := newWorld(t)
	w.issue(t, "alice|finance", "reports")
	w.advance(surelyDue)
	w.issue(t, "alice|finance", "reports")
	w.advance(time.Hour)
	w.Wait()
	if w.backend.count() != 2 {
		t.Errorf("%d exchanges", w.backend.count())
	}
}

func TestACallThatIsRefusedRenewsNothing(t *testing.T) {
	w := newWorld(t)
	w.issue(t, "alice|finance", "reports")
	w.advance(surelyDue)
	w.Replace(w.book(t, roles()[1:]))
	if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err == nil {
		t.Fatal("the role is still there")
	}
	w.Wait()
	if w.backend.count() != 1 {
		t.Errorf("%d exchanges", w.backend.count())
	}
}

func TestAFailedRenewalIsAuditedAndNotRepeatedWithEveryCall(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.MaxMints = 1000 })
	w.issue(t, "alice|finance", "reports")
	w.advance(surelyDue)
	w.backend.err = fmt.Errorf("%w: down", exchange.ErrUnavailable)
	for range 10 {
		if key := w.issue(t, "alice|finance", "reports"); key != "AK1" {
			t.Errorf("got %s", key)
		}
	}
	if w.backend.count() != 2 {
		t.Errorf("%d exchanges", w.backend.count())
	}
	e := w.audit.entries[2] // after the mint and the first hit, or before that hit
	if e.Event != "renew_credentials" {
		e = w.audit.entries[1]
	}
	if e.Event != "renew_credentials" || e.Decision != audit.Failed || e.Code == "" || e.AccessKeyID != "" || e.Result != "" {
		t.Errorf("audited %+v", e)
	}
	w.backend.err = nil
	w.advance(31 * time.Second)
	w.issue(t, "alice|finance", "reports")
	if key := w.issue(t, "alice|finance", "reports"); key != "AK3" {
		t.Errorf("after the back-end recovered: %s", key)
	}
}

func TestARenewalThatCantBeAuditedIsNotKept(t *testing.T) {
	w := newWorld(t)
	w.issue(t, "alice|finance", "reports")
	w.advance(surelyDue)
	w.audit.err = audit.ErrUnavailable
	if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); !errors.Is(err, audit.ErrUnavailable) {
		t.Fatal(err)
	}
	w.Wait()
	w.audit.err = nil
	if key := w.issue(t, "alice|finance", "reports"); key != "AK1" || w.backend.count() != 2 {
		t.Errorf("%s after %d exchanges", key, w.backend.count())
	}
}

// Credentials that end with the proof are renewed only for a proof that ends later.
func TestARenewalThatGainsNothingIsNotMade(t *testing.T) {
	w := newWorld(t)
	if w.issue(t, "alice", "bound") != "AK1" { // as long as the proof: 10 minutes
		t.Fatal()
	}
	w.advance(8 * time.Minute)
	if _, err := w.Issue(t.Context(), ask("alice|short", "bound")); err != nil { // its proof ends with the credentials
		t.Fatal(err)
	}
	w.Wait()
	if w.backend.count() != 1 {
		t.Errorf("%d exchanges for a proof that ends with the credentials", w.backend.count())
	}
	if key := w.issue(t, "alice", "bound"); key != "AK1" || w.backend.count() != 2 {
		t.Errorf("%s after %d exchanges for a proof that ends later", key, w.backend.count())
	}
}

func TestRenewalsCountAgainstTheMintsOfTheIdentity(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.MaxMints = 1 })
	w.issue(t, "alice|finance", "reports")
	w.advance(surelyDue)
	w.issue(t, "alice", "folder") // which is the one mint of this minute
	if w.issue(t, "alice|finance", "reports"); w.backend.count() != 2 {
		t.Errorf("%d exchanges", w.backend.count())
	}
}

// A fleet must not renew in step: keys minted together are due at different times, the same key at the same on all replicas.
func TestRenewalIsJitteredByKey(t *testing.T) {
	due := func() map[int]int {
		w := newWorld(t, func(c *broker.Config) { c.MaxMints = 1000 })
		for n := range 200 {
			w.issue(t, fmt.Sprintf("user%d|finance", n), "reports")
		}
		at := map[int]int{}
		w.advance(surelyFresh)
		for second := 0; second <= 84; second += 4 {
			before := w.backend.count()
			for n := range 200 {
				if _, done := at[n]; done {
					continue
				}
				w.issue(t, fmt.Sprintf("user%d|finance", n), "reports")
				if w.backend.count() > before {
					before, at[n] = w.backend.count(), second
				}
			}
			w.advance(4 * time.Second)
		}
		return at
	}
	one := due()
	seconds := map[int]int{}
	for _, s := range one {
		seconds[s]++
	}
	for s, n := range seconds {
		if n > 40 {
			t.Errorf("%d of 200 renewed in second %d", n, s)
		}
	}
	if len(one) != 200 || len(seconds) < 15 {
		t.Errorf("%d renewed, in %d different steps of 4 s", len(one), len(seconds))
	}
	for n, s := range due() {
		if one[n] != s {
			t.Errorf("user%d: due in second %d here, %d there", n, one[n], s)
		}
	}
}

func TestManyCallsSetOffOneRenewal(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.MaxMints = 1000 })
	w.issue(t, "alice|finance", "reports")
	w.advance(surelyDue)
	w.backend.wait = make(chan struct{})
	for range 100 {
		if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil {
			t.Fatal(err)
		}
	}
	w.backend.wait <- struct{}{}
	w.backend.wait <- struct{}{}
	w.Wait()
	if w.backend.count() != 2 {
		t.Errorf("%d exchanges", w.backend.count())
	}
}

// A panic in the exchanger must not take the process along.
func TestAPanicInARenewalIsAnError(t *testing.T) {
	w := newWorld(t)
	w.issue(t, "alice|finance", "reports")
	w.advance(surelyDue)
	w.backend.panics = true
	w.issue(t, "alice|finance", "reports")
	if !strings.Contains(w.slog.String(), "not renewed") {
		t.Errorf("log: %s", w.slog.String())
	}
}

// Keys change when another HMAC key comes first; what was kept under the former one isn't found in memory, as it would be
// in what replicas share.
func TestAnotherHMACKeyMakesOtherKeys(t *testing.T) {
	keyer := cache.NewKeyer(secret.New(strings.Repeat("k", 32)))
	w := newWorld(t, func(c *broker.Config) { c.Keyer = keyer })
	w.issue(t, "alice|finance", "reports")
	keyer.Replace([]secret.Secret{secret.New(strings.Repeat("x", 32))})
	if w.issue(t, "alice|finance", "reports"); w.backend.count() != 2 {
		t.Errorf("%d exchanges", w.backend.count())
	}
}

// What was minted for a caller that left is handed to others: the audit log must know of it, once.
func TestAMintWhoseCallerLeftIsAudited(t *testing.T) {
	w := newWorld(t)
	w.backend.wait = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := w.Issue(ctx, ask("alice|finance", "reports"))
		failed <- err
	}()
	w.backend.wait <- struct{}{} // it is at the back-end
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	w.backend.wait <- struct{}{}
	for deadline := time.Now().Add(5 * time.Second); ; {
		w.audit.mu.Lock()
		n := len(w.audit.entries)
		w.audit.mu.Unlock()
		if n == 2 || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	e := w.audit.last(t)
	if len(w.audit.entries) != 2 || e.Event != "issue_credentials" || e.Result != "mint" || e.Decision != audit.Allowed || e.AccessKeyID != "AK1" || e.Identity.Subject != "alice" {
		t.Errorf("%d entries, the last %+v", len(w.audit.entries), e)
	}
	w.backend.wait = nil
	if key := w.issue(t, "alice|finance", "reports"); key != "AK1" || w.audit.last(t).Result != "hit" {
		t.Errorf("then %s, a %s", key, w.audit.last(t).Result)
	}
}
