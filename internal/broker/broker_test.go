package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// verifier takes tokens of the form subject, or subject|group; "bad" is rejected and "later" can't be judged now.
type verifier struct{ now func() time.Time }

func (v verifier) Verify(_ context.Context, p attest.Proof) (attest.Identity, error) {
	switch p.Data.Reveal() {
	case "bad":
		return attest.Identity{}, fmt.Errorf("%w: no good", attest.ErrRejected)
	case "later":
		return attest.Identity{}, fmt.Errorf("%w: no keys", attest.ErrUnavailable)
	}
	subject, group, _ := strings.Cut(p.Data.Reveal(), "|")
	id := attest.Identity{Kind: attest.KindOIDC, Issuer: "https://idp", Subject: subject, Attrs: map[string][]string{"groups": {group}}}
	id.Expires = v.now().Add(10 * time.Minute)
	if group == "short" {
		id.Expires = v.now().Add(2 * time.Minute)
	}
	return id, nil
}

// backend counts exchanges and gives credentials that live as granted, unless told otherwise.
type backend struct {
	now   func() time.Time
	mu    sync.Mutex
	calls []exchange.Request
	err   error
	life  time.Duration
	wait  chan struct{}
}

func (b *backend) Exchange(_ context.Context, req exchange.Request) (exchange.Credentials, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wait != nil { // once to say that it came, once to be let go
		<-b.wait
		<-b.wait
	}
	b.calls = append(b.calls, req)
	if b.err != nil {
		return exchange.Credentials{}, b.err
	}
	life := req.Grant.TTL
	if b.life != 0 {
		life = b.life
	}
	return exchange.Credentials{
		AccessKeyID: fmt.Sprintf("AK%d", len(b.calls)), SecretAccessKey: secret.New("planted-secret-key"),
		SessionToken: secret.New("planted-session-token"), Expires: b.now().Add(life),
	}, nil
}

func (b *backend) Backend() policy.Backend { return honours }
func (b *backend) Status() string          { return "" }
func (b *backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.calls)
}

var honours = policy.Backend{AllowedPolicies: []string{"rw", "ro"}, SessionPolicyBytes: 2048}

// log keeps entries, or fails.
type log struct {
	mu      sync.Mutex
	entries []audit.Entry
	err     error
}

func (l *log) Record(_ context.Context, e audit.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.entries = append(l.entries, e)
	return nil
}

func (l *log) last(t *testing.T) audit.Entry {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 {
		t.Fatal("nothing was audited")
	}
	return l.entries[len(l.entries)-1]
}

// world is a broker among fakes.
type world struct {
	*broker.Broker
	backend  *backend
	audit    *log
	slog     bytes.Buffer
	outcomes []broker.Outcome
	mu       sync.Mutex
	clock    time.Time
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func roles() []policy.Role {
	return []policy.Role{
		{Name: "reports", Description: "Reports", When: `"finance" in identity.attrs.groups`, Exchanger: "minio", Policies: []string{"rw"}, Source: "b.yaml:1",
			TTL: policy.TTL{Default: 10 * time.Minute, Max: time.Hour, Min: time.Minute}},
		{Name: "folder", When: `identity.subject != ""`, Exchanger: "minio", Policies: []string{"ro"}, Source: "b.yaml:2",
			SessionPolicy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::b/{{subject}}/*"]}]}`},
		{Name: "bound", When: `identity.subject != ""`, Exchanger: "minio", Policies: []string{"ro"}, Source: "b.yaml:3",
			TTL: policy.TTL{Default: time.Hour, Max: time.Hour, Min: time.Minute, WithinProof: true}},
	}
}

func newWorld(t *testing.T, change ...func(*broker.Config)) *world {
	t.Helper()
	w := &world{clock: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), audit: &log{}}
	w.backend = &backend{now: w.now}
	cfg := broker.Config{
		Cache: cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 20, Now: w.now}), Keyer: cache.NewKeyer(secret.New(strings.Repeat("k", 32))),
		Flight: cache.NewFlight(cache.FlightConfig{}), Audit: w.audit, Fingerprinter: audit.NewFingerprinter(secret.New(strings.Repeat("f", 32))),
		Exchangers: map[string]broker.Exchanger{"minio": {Exchanger: w.backend, Target: "http://minio"}},
		Code:       func(err error) string { return "code of " + strings.SplitN(err.Error(), ":", 2)[0] },
		Log:        slog.New(slog.NewJSONHandler(&w.slog, nil)), MaxInFlight: 20_000, MaxMints: 5, Now: w.now,
		Observe: func(o broker.Outcome) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.outcomes = append(w.outcomes, o)
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	w.Broker = broker.New(cfg, w.book(t, roles()))
	return w
}

func (w *world) book(t *testing.T, roles []policy.Role) broker.Rulebook {
	t.Helper()
	rules, err := policy.Compile(roles, map[string]policy.Backend{"minio": honours})
	if err != nil {
		t.Fatal(err)
	}
	return broker.Rulebook{Verifiers: map[attest.Kind]attest.Verifier{attest.KindOIDC: verifier{w.now}}, Rules: rules, LoadedAt: w.now()}
}

func ask(token, role string) broker.Request {
	return broker.Request{
		Proof: attest.Proof{Kind: attest.KindOIDC, Data: secret.New(token)}, Role: role,
		Correlation: exchange.Correlation{RequestID: "r1", KongRequestID: "k1", TraceParent: "tp"}, Source: netip.MustParseAddr("10.0.0.1"),
	}
}

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
