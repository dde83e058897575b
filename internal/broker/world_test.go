package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
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
	empty *exchange.Credentials // what it gives instead
	wait  chan struct{}

	panics bool
}

func (b *backend) Exchange(_ context.Context, req exchange.Request) (exchange.Credentials, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wait != nil { // once to say that it came, once to be let go
		<-b.wait
		<-b.wait
	}
	b.calls = append(b.calls, req)
	if b.panics {
		panic("planted")
	}
	if b.err != nil {
		return exchange.Credentials{}, b.err
	}
	if b.empty != nil {
		return *b.empty, nil
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

// lastOf is the last entry of an event.
func (l *log) lastOf(t *testing.T, event string) audit.Entry {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range slices.Backward(l.entries) {
		if e.Event == event {
			return e
		}
	}
	t.Fatalf("no %s was audited", event)
	return audit.Entry{}
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
		Store: cache.NewStore(cache.StoreConfig{Memory: cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 20, Now: w.now}), Flight: cache.NewFlight(cache.FlightConfig{})}),
		Keyer: cache.NewKeyer(secret.New(strings.Repeat("k", 32))), Audit: w.audit, Fingerprinter: audit.NewFingerprinter(secret.New(strings.Repeat("f", 32))),
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
	return broker.Rulebook{Verifiers: map[attest.Kind]attest.Verifier{attest.KindJWT: verifier{w.now}}, Rules: rules, LoadedAt: w.now()}
}

func ask(token, role string) broker.Request {
	return broker.Request{
		Proof: attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)}, Role: role,
		Correlation: exchange.Correlation{RequestID: "r1", KongRequestID: "k1", TraceParent: "tp"}, Source: netip.MustParseAddr("10.0.0.1"),
	}
}
