package broker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/policy"
)

func TestIssueMintsOnceThenHits(t *testing.T) {
	w := newWorld(t)
	first, err := w.Issue(t.Context(), ask("alice|finance", "reports"))
	if err != nil || first.AccessKeyID != "AK1" || first.Hit || first.Role != "reports" {
		t.Fatalf("got %+v, %v", first, err)
	}
	e := w.audit.last(t)
	if e.Decision != audit.Allowed || e.Result != "mint" || e.AccessKeyID != "AK1" || e.Rule != "b.yaml:1" || e.Role != "reports" || e.Code != "" ||
		e.RequestID != "r1" || e.KongRequestID != "k1" || e.TraceParent != "tp" || e.SourceAddress != "10.0.0.1" || e.ProofFingerprint == "" ||
		e.Identity.Subject != "alice" || !e.Expires.Equal(first.Expires) || e.RuleSet != w.Rulebook().Rules.Version() || e.Event != "issue_credentials" {
		t.Errorf("audited %+v", e)
	}
	second, err := w.Issue(t.Context(), ask("alice|finance", "reports"))
	if err != nil || second.AccessKeyID != "AK1" || !second.Hit || w.audit.last(t).Result != "hit" || w.backend.count() != 1 {
		t.Errorf("got %+v, %v after %d exchanges", second, err, w.backend.count())
	}
	if got := w.backend.calls[0].Correlation; got != ask("", "").Correlation {
		t.Errorf("the back-end got %+v", got)
	}
}

func TestAnEntryIsUsedOnlyWithTheRolesMinimumLeft(t *testing.T) {
	w := newWorld(t)
	for i, step := range []struct {
		advance time.Duration
		want    int
	}{{0, 1}, {9 * time.Minute, 1}, {time.Second, 2}} {
		w.advance(step.advance)
		if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil {
			t.Fatal(err)
		}
		if n := w.backend.count(); n != step.want {
			t.Errorf("step %d: %d exchanges, want %d", i, n, step.want)
		}
	}
}

func TestPolicyRunsBeforeTheCacheOnEveryCall(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil {
		t.Fatal(err)
	}
	w.Replace(w.book(t, roles()[1:]))
	if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); !errors.Is(err, policy.ErrDenied) {
		t.Errorf("after its role was removed: %v", err)
	}
}

func TestAReloadThatChangesNothingForARoleCostsNoExchange(t *testing.T) {
	w := newWorld(t)
	issue := func() {
		t.Helper()
		if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil {
			t.Fatal(err)
		}
	}
	issue()
	other := roles()
	other[1].Description, other[2].Policies, other[0].Source = "changed", []string{"rw"}, "b.yaml:99"
	w.Replace(w.book(t, other))
	issue()
	if n := w.backend.count(); n != 1 {
		t.Errorf("%d exchanges", n)
	}
	other[0].Policies = []string{"ro"}
	w.Replace(w.book(t, other))
	issue()
	if n := w.backend.count(); n != 2 {
		t.Errorf("after the role's policies changed: %d exchanges", n)
	}
}

func TestWhatShapesTheResultIsInTheKey(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.MaxMints = 100 })
	narrow := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::b/x"]}]}`
	asks := []broker.Request{ask("alice|finance", "reports"), ask("bob|finance", "reports"), ask("alice|finance", "folder"), ask("bob|finance", "folder")}
	ttl, policy := asks[0], asks[0]
	ttl.TTL, policy.Policy = 5*time.Minute, narrow
	asks = append(asks, ttl, policy)
	for round := range 2 {
		for _, a := range asks {
			if _, err := w.Issue(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.backend.count(); n != len(asks) {
			t.Errorf("round %d: %d exchanges for %d different requests", round, n, len(asks))
		}
	}
	// What is granted is the same, so the same entry serves: a TTL beyond the maximum is the maximum.
	a, b := asks[0], asks[0]
	a.TTL, b.TTL = time.Hour, 24*time.Hour
	before := w.backend.count()
	for _, r := range []broker.Request{a, b} {
		if _, err := w.Issue(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.backend.count(); n != before+1 {
		t.Errorf("%d exchanges for two TTLs that are cut to the same", n-before)
	}
}

func TestCredentialsWithinTheProofEndWithIt(t *testing.T) {
	w := newWorld(t)
	long, err := w.Issue(t.Context(), ask("alice|", "bound"))
	if err != nil || long.Expires.Sub(w.now()) != 10*time.Minute {
		t.Fatalf("got %s, %v", long.Expires.Sub(w.now()), err)
	}
	short, err := w.Issue(t.Context(), ask("alice|short", "bound"))
	if err != nil || short.Expires.Sub(w.now()) != 2*time.Minute || short.Hit {
		t.Errorf("a proof that ends sooner got credentials for %s, hit %v, %v", short.Expires.Sub(w.now()), short.Hit, err)
	}
	if again, err := w.Issue(t.Context(), ask("alice|", "bound")); err != nil || !again.Hit || again.Expires.After(w.now().Add(10*time.Minute)) {
		t.Errorf("a proof that lives on can use the shorter credentials: hit %v, %v", again.Hit, err)
	}
}
