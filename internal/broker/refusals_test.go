package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		req      broker.Request
		want     error
		decision audit.Decision
	}{
		"no proof":        {ask("", "reports"), attest.ErrMalformed, audit.Denied},
		"another kind":    {broker.Request{Proof: attest.Proof{Kind: "aws", Data: secret.New("x")}, Role: "reports"}, attest.ErrMalformed, audit.Denied},
		"rejected":        {ask("bad", "reports"), attest.ErrRejected, audit.Denied},
		"not now":         {ask("later", "reports"), attest.ErrUnavailable, audit.Failed},
		"not in group":    {ask("bob|engineering", "reports"), policy.ErrDenied, audit.Denied},
		"no such role":    {ask("alice|finance", "nothing"), policy.ErrDenied, audit.Denied},
		"role traversal":  {ask("alice|finance", "../../sys/seal"), policy.ErrDenied, audit.Denied},
		"hostile subject": {ask("a*|finance", "folder"), policy.ErrDenied, audit.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			got, err := w.Issue(t.Context(), c.req)
			if !errors.Is(err, c.want) || got.AccessKeyID != "" {
				t.Errorf("got %+v, %v", got, err)
			}
			e := w.audit.last(t)
			if e.Decision != c.decision || e.Code == "" || e.AccessKeyID != "" || e.Result != "" {
				t.Errorf("audited %+v", e)
			}
			if strings.Contains(e.Role, "/") {
				t.Errorf("a role that is none is audited: %q", e.Role)
			}
			if w.backend.count() != 0 {
				t.Error("the back-end was asked")
			}
		})
	}
}

func TestNothingIsHandedOutThatIsNotAudited(t *testing.T) {
	w := newWorld(t)
	w.audit.err = fmt.Errorf("%w: disk full", audit.ErrUnavailable)
	for range 2 { // the second finds the credentials in the cache
		got, err := w.Issue(t.Context(), ask("alice|finance", "reports"))
		if !errors.Is(err, audit.ErrUnavailable) || got.AccessKeyID != "" || !got.SecretAccessKey.IsZero() {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	if _, err := w.ExplainAccess(t.Context(), ask("alice|finance", "")); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("ExplainAccess: %v", err)
	}
	if _, err := w.Issue(t.Context(), ask("bad", "reports")); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("a refusal stays what it is: %v", err)
	}
	w.audit.err = nil
	if got, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil || !got.Hit {
		t.Errorf("when the log is back: %+v, %v", got, err)
	}
}

func TestBackEndErrorsComeThroughAndAreNotCached(t *testing.T) {
	for _, want := range []error{exchange.ErrUnavailable, exchange.ErrRefused, exchange.ErrUnsafe, exchange.ErrBadResult} {
		w := newWorld(t)
		w.backend.err = fmt.Errorf("%w: why", want)
		if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); !errors.Is(err, want) || w.audit.last(t).Decision != audit.Failed {
			t.Errorf("got %v, audited %s", err, w.audit.last(t).Decision)
		}
		w.backend.err = nil
		if got, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil || got.Hit {
			t.Errorf("after %v: %+v, %v", want, got, err)
		}
	}
}

func TestCredentialsThatLiveTooLongOrTooShortAreRefused(t *testing.T) {
	for life, ok := range map[time.Duration]bool{
		10*time.Minute + 2*time.Second: true, 10*time.Minute + 3*time.Second: false,
		58 * time.Second: true, 57 * time.Second: false, -time.Hour: false, 8000 * 24 * time.Hour: false,
	} {
		w := newWorld(t)
		w.backend.life = life
		_, err := w.Issue(t.Context(), ask("alice|finance", "reports"))
		if ok && err != nil || !ok && !errors.Is(err, exchange.ErrBadResult) {
			t.Errorf("life %s: %v", life, err)
		}
		if !ok {
			w.backend.life = 0
			if got, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil || got.Hit {
				t.Errorf("life %s was cached: %+v, %v", life, got, err)
			}
		}
	}
}

func TestTenThousandFirstRequestsAreOneMint(t *testing.T) {
	w := newWorld(t)
	w.backend.wait = make(chan struct{})
	var wait sync.WaitGroup
	var failed atomic.Int32
	for range 10_000 {
		wait.Go(func() {
			if got, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil || got.AccessKeyID != "AK1" {
				failed.Add(1)
			}
		})
	}
	close(w.backend.wait)
	wait.Wait()
	if failed.Load() != 0 || w.backend.count() != 1 {
		t.Errorf("%d failed, %d exchanges", failed.Load(), w.backend.count())
	}
}

func TestOneIdentityCantHaveKeysMintedWithoutEnd(t *testing.T) {
	w := newWorld(t)
	issue := func(token string, ttl int) error {
		r := ask(token, "reports")
		r.TTL = time.Duration(ttl) * time.Second
		_, err := w.Issue(t.Context(), r)
		return err
	}
	for i := range 5 {
		if err := issue("alice|finance", 100+i); err != nil {
			t.Fatal(err)
		}
	}
	if err := issue("alice|finance", 200); !errors.Is(err, broker.ErrRateLimited) {
		t.Errorf("the sixth: %v", err)
	}
	if err := issue("alice|finance", 100); err != nil {
		t.Errorf("a hit is no mint: %v", err)
	}
	if err := issue("bob|finance", 100); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	w.advance(time.Minute)
	if err := issue("alice|finance", 300); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

func TestCallsInHandAreBounded(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.MaxInFlight = 1 })
	w.backend.wait = make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := w.Issue(t.Context(), ask("alice|finance", "reports"))
		done <- err
	}()
	w.backend.wait <- struct{}{} // the first call is at the back-end, and stays there
	if _, err := w.ListRoles(t.Context(), ask("bob|x", "")); !errors.Is(err, broker.ErrBusy) {
		t.Errorf("a second call: %v", err)
	}
	if o := w.outcomes; len(o) != 1 || o[0].Code == "" || o[0].Decision != audit.Failed || !strings.Contains(w.slog.String(), "too many are in hand") {
		t.Errorf("the refusal isn't counted or logged: %+v %s", o, w.slog.String())
	}
	close(w.backend.wait)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := w.ListRoles(t.Context(), ask("bob|x", "")); err != nil {
		t.Errorf("when the first is through: %v", err)
	}
}

func TestACallerLearnsItsOwnRolesAlone(t *testing.T) {
	w := newWorld(t)
	access, err := w.ExplainAccess(t.Context(), ask("bob|engineering", ""))
	if err != nil || access.Identity.Subject != "bob" {
		t.Fatalf("got %+v, %v", access, err)
	}
	var names []string
	for _, r := range access.Roles {
		names = append(names, r.Name)
	}
	if got := strings.Join(names, " "); got != "bound folder" {
		t.Errorf("roles %q", got)
	}
	list, err := w.ListRoles(t.Context(), ask("alice|finance", ""))
	if err != nil || len(list) != 3 || w.audit.last(t).Event != "list_roles" {
		t.Errorf("got %+v, %v", list, err)
	}
	if list, err := w.ListRoles(t.Context(), ask("bad", "")); err == nil || list != nil {
		t.Errorf("got %+v, %v", list, err)
	}
}

func TestRolesAreListedOnlySoOften(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		if _, err := w.ListRoles(t.Context(), ask("alice|finance", "")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.ExplainAccess(t.Context(), ask("alice|finance", "")); !errors.Is(err, broker.ErrRateLimited) {
		t.Errorf("the sixth: %v", err)
	}
	if _, err := w.ListRoles(t.Context(), ask("bob|finance", "")); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	w.advance(time.Minute)
	if _, err := w.ListRoles(t.Context(), ask("alice|finance", "")); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

func TestOperatorsLearnWhy(t *testing.T) {
	w := newWorld(t)
	_, _ = w.Issue(t.Context(), ask("bob|engineering", "reports"))
	e, err := w.ExplainDecision("r1")
	if err != nil || e.Recorded.Decision != audit.Denied || e.Recorded.Cause == "" || e.Explanation.Allowed || e.Explanation.Rule != "b.yaml:1" || e.Identity.Subject != "bob" {
		t.Errorf("got %+v, %v", e, err)
	}
	if _, err := w.ExplainDecision("r2"); !errors.Is(err, broker.ErrUnknownRequest) {
		t.Errorf("a request that never was: %v", err)
	}
	if e := w.ExplainIdentity(attest.Identity{Subject: "x", Attrs: map[string][]string{"groups": {"finance"}}}, "reports"); !e.Explanation.Allowed {
		t.Errorf("got %+v", e)
	}
}

func TestOldDecisionsAreForgotten(t *testing.T) {
	w := newWorld(t)
	for i := range 4097 {
		r := ask("bad", "")
		r.Correlation.RequestID = fmt.Sprint(i)
		_, _ = w.ListRoles(t.Context(), r)
	}
	if _, err := w.ExplainDecision("0"); !errors.Is(err, broker.ErrUnknownRequest) {
		t.Errorf("the first of 4,097: %v", err)
	}
	for _, id := range []string{"1", "4096"} {
		if _, err := w.ExplainDecision(id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestLogAndOutcomesHoldNoSecret(t *testing.T) {
	w := newWorld(t)
	_, _ = w.Issue(t.Context(), ask("alice|finance", "reports"))
	_, _ = w.Issue(t.Context(), ask("planted-proof|x", "reports"))
	w.backend.err = exchange.ErrUnavailable
	_, _ = w.Issue(t.Context(), ask("carol|finance", "reports"))
	all := w.slog.String() + fmt.Sprintf("%+v %+v", w.outcomes, w.audit.entries)
	for _, s := range []string{"planted-secret-key", "planted-session-token"} {
		if strings.Contains(all, s) {
			t.Errorf("%s is in logs, outcomes or audit", s)
		}
	}
	if strings.Contains(all, "planted-proof|x") {
		t.Error("the proof is in logs, outcomes or audit")
	}
	if len(w.outcomes) != 3 {
		t.Errorf("%d outcomes", len(w.outcomes))
	}
}

func TestFreshCredentialsThatOutliveTheirProofAreRefused(t *testing.T) {
	w := newWorld(t)
	w.backend.life = 10*time.Minute + time.Second // within the slack, but after the proof
	if _, err := w.Issue(t.Context(), ask("alice|", "bound")); !errors.Is(err, exchange.ErrBadResult) {
		t.Errorf("got %v", err)
	}
	w.backend.life = 10 * time.Minute
	if _, err := w.Issue(t.Context(), ask("alice|", "bound")); err != nil {
		t.Errorf("with it: %v", err)
	}
}

func TestNobodyWithoutAProofStandsBeforeAnothersDecision(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil {
		t.Fatal(err)
	}
	for i := range 4097 { // with alice's request ID first, then with many
		r := ask("bad", "reports")
		if i > 0 {
			r.Correlation.RequestID = fmt.Sprint(i)
		}
		_, _ = w.Issue(t.Context(), r)
	}
	if e, err := w.ExplainDecision("r1"); err != nil || e.Identity == nil || e.Identity.Subject != "alice" {
		t.Errorf("got %+v, %v", e, err)
	}
	if _, err := w.ExplainDecision("4096"); err != nil {
		t.Errorf("a rejected proof's decision: %v", err)
	}
}

// panicking is a verifier that panics with what it was shown.
type panicking struct{}

func (panicking) Verify(_ context.Context, p attest.Proof) (attest.Identity, error) {
	panic("planted: " + p.Data.Reveal())
}

func TestAPanicIsAuditedAndTellsNothing(t *testing.T) {
	w := newWorld(t)
	book := w.Rulebook()
	book.Verifiers = map[attest.Kind]attest.Verifier{attest.KindJWT: panicking{}}
	w.Replace(book)
	_, err := w.Issue(t.Context(), ask("planted-proof", "reports"))
	if err == nil || w.audit.last(t).Decision != audit.Failed || w.audit.last(t).AccessKeyID != "" {
		t.Errorf("got %v, audited %+v", err, w.audit.last(t))
	}
	if strings.Contains(err.Error()+w.slog.String(), "planted") {
		t.Errorf("the panic's text is told: %v %s", err, w.slog.String())
	}
	if !strings.Contains(err.Error(), "identify") {
		t.Errorf("where it happened isn't told: %v", err)
	}
}

func TestCredentialsWithoutAKeyAreRefused(t *testing.T) {
	for name, c := range map[string]exchange.Credentials{
		"no access key": {SecretAccessKey: secret.New("s"), SessionToken: secret.New("t")},
		"no secret key": {AccessKeyID: "AK", SessionToken: secret.New("t")},
	} {
		w := newWorld(t)
		c.Expires = w.now().Add(10 * time.Minute)
		w.backend.empty = &c
		if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); !errors.Is(err, exchange.ErrBadResult) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Two proofs of one identity at the same time, one of which ends sooner: they can't share a flight.
func TestConcurrentProofsThatEndApartShareNothing(t *testing.T) {
	w := newWorld(t)
	w.backend.wait = make(chan struct{})
	lives := make(chan [2]time.Duration, 2)
	for token, most := range map[string]time.Duration{"alice|": 10 * time.Minute, "alice|short": 2 * time.Minute} {
		go func() {
			got, err := w.Issue(t.Context(), ask(token, "bound"))
			if err != nil {
				t.Error(err)
			}
			lives <- [2]time.Duration{got.Expires.Sub(w.now()), most}
		}()
	}
	for range 2 * 2 { // both come to the back-end, one after the other
		w.backend.wait <- struct{}{}
	}
	for range 2 {
		if l := <-lives; l[0] > l[1] {
			t.Errorf("credentials for %s with a proof for %s", l[0], l[1])
		}
	}
}
