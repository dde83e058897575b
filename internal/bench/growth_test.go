package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/metrics"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/server"
)

// pipeline is the program without its transports and back-ends: credentials are made here, with session tokens of tokenBytes.
type pipeline struct {
	t      testing.TB
	broker *broker.Broker
}

// mint is an exchanger without a back-end.
type mint struct {
	serial atomic.Int64
	// ahead is how far the pipeline's clock is ahead, in nanoseconds. A broker mints for some 130,000 identities a minute at most;
	// here minutes pass faster.
	ahead atomic.Int64
}

func (m *mint) now() time.Time { return time.Now().Add(time.Duration(m.ahead.Load())) }

func (m *mint) Exchange(_ context.Context, req exchange.Request) (exchange.Credentials, error) {
	serial := m.serial.Add(1)
	if serial%100_000 == 0 {
		m.ahead.Add(int64(time.Minute))
	}
	return exchange.Credentials{
		AccessKeyID:     fmt.Sprintf("AKIA%016d", serial),
		SecretAccessKey: secret.New(fmt.Sprintf("%040d", serial)),
		SessionToken:    secret.New(fmt.Sprintf("%0*d", tokenBytes, serial)),
		Expires:         m.now().Add(req.Grant.TTL),
	}, nil
}

func (m *mint) Backend() policy.Backend {
	return policy.Backend{AllowedPolicies: []string{"everything"}, MaxTTL: 12 * time.Hour}
}

func (m *mint) Status() string { return "" }

// pipelineOver is the program without its transports, over one exchanger and with one role of it, called bench.
func (s *stage) pipelineOver(x exchange.Exchanger, honours policy.Backend, role policy.Role) *pipeline {
	s.t.Helper()
	role.Name, role.When, role.Exchanger, role.Source = "bench", `"finance" in identity.attrs.groups`, "x", "broker.yaml:1"
	return s.assemble([]policy.Role{role}, "x", x, honours, 64<<20, time.Now)
}

// pipeline makes one with so many roles, and so much memory for credentials and, as in the program, as much for verified tokens.
func (s *stage) pipeline(roles int, cacheBytes int64) *pipeline {
	s.t.Helper()
	list := make([]policy.Role, roles)
	for i := range list {
		list[i] = policy.Role{
			Name: fmt.Sprintf("role-%d", i), When: fmt.Sprintf(`"finance" in identity.attrs.groups || "team-%d" in identity.attrs.groups`, i),
			Exchanger: "mint", Policies: []string{"everything"}, TTL: policy.TTL{Default: time.Hour}, Source: fmt.Sprintf("broker.yaml:%d", 10+5*i),
		}
	}
	exchanger := &mint{}
	return s.assemble(list, "mint", exchanger, exchanger.Backend(), cacheBytes, exchanger.now)
}

func (s *stage) assemble(roles []policy.Role, name string, x exchange.Exchanger, honours policy.Backend, cacheBytes int64, now func() time.Time) *pipeline {
	s.t.Helper()
	rules, err := policy.Compile(roles, map[string]policy.Backend{name: honours})
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := audit.Open(audit.Config{Path: filepath.Join(s.t.TempDir(), "audit.jsonl")})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = log.Close() })
	key := secret.New(rand.Text() + rand.Text())
	b := broker.New(broker.Config{
		Store: cache.NewStore(cache.StoreConfig{Memory: cache.NewMemory(cache.MemoryConfig{MaxBytes: cacheBytes}), Flight: cache.NewFlight(cache.FlightConfig{})}),
		Keyer: cache.NewKeyer(key), Audit: log, Fingerprinter: audit.NewFingerprinter(key), Exchangers: map[string]broker.Exchanger{name: {Exchanger: x, Target: name}},
		Code: server.Code, Log: slog.New(slog.DiscardHandler), MaxInFlight: 4096, MaxMints: 100_000, Observe: metrics.New("bench").Observe,
		Now: now,
	}, broker.Rulebook{Verifiers: map[attest.Kind]attest.Verifier{attest.KindJWT: s.verifier(cacheBytes)}, Rules: rules, LoadedAt: time.Now()})
	return &pipeline{t: s.t, broker: b}
}

func (p *pipeline) issue(token, role string) broker.Issued {
	got, err := p.broker.Issue(p.t.Context(), broker.Request{
		Proof: attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)}, Role: role, Correlation: exchange.Correlation{RequestID: rand.Text()},
	})
	if err != nil {
		p.t.Error(err)
	}
	return got
}

// issueAll makes n calls for new tokens, some at one time.
func (p *pipeline) issueAll(n int, token func(i int) string) {
	p.t.Helper()
	var next atomic.Int64
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for i := int(next.Add(1)); i <= n && !p.t.Failed(); i = int(next.Add(1)) {
				p.issue(token(i), "role-3")
			}
		})
	}
	wait.Wait()
	if p.t.Failed() {
		p.t.FailNow()
	}
}

// manyRoles is what a cached call costs among many roles, against the same among few.
func manyRoles(s *stage) []row {
	few, many := s.pipeline(10, 64<<20), s.pipeline(s.size(10_000, 100), 64<<20)
	token := s.token("roles")
	var ours, peer []float64
	for range s.rounds {
		o, p := inTurns(s.size(20_000, 10), func(int) { many.issue(token, "role-7") }, func(int) { few.issue(token, "role-7") })
		ours, peer = append(ours, o), append(peer, p)
	}
	return []row{compared("a call among 10,000 roles / among 10", "s", ours, peer, atMost(1.5, 1.1))}
}

// manyIdentities is what a cached call costs among many identities, each as likely to call as the others, against the same among few.
func manyIdentities(s *stage) []row {
	counts := [2]int{1000, s.size(1_000_000, 2000)}
	calls := s.size(20_000, 10)
	var p [2]*pipeline
	var tokens [2][]string
	for i, count := range counts {
		p[i] = s.pipeline(10, 4<<30)
		// Of the many, only those tokens are kept that will be used, each once: some of all ages.
		kept := min(count, calls*s.rounds)
		tokens[i] = make([]string, kept)
		p[i].issueAll(count, func(n int) string {
			token := s.token(fmt.Sprintf("identity-%d", n))
			if step := count / kept; n%step == 0 && n/step <= kept {
				tokens[i][n/step-1] = token
			}
			return token
		})
	}
	next := [2]int{}
	again := func(i int) {
		next[i]++
		if got := p[i].issue(tokens[i][next[i]%len(tokens[i])], "role-3"); !got.Hit {
			s.t.Fatal("credentials were not in the cache")
		}
	}
	for i := range tokens {
		mathrand.Shuffle(len(tokens[i]), func(a, b int) { tokens[i][a], tokens[i][b] = tokens[i][b], tokens[i][a] })
	}
	runtime.GC() // or the first round has the last of the filling to clear away
	var ours, peer []float64
	for range s.rounds {
		o, p := inTurns(calls, func(int) { again(1) }, func(int) { again(0) })
		ours, peer = append(ours, o), append(peer, p)
	}
	return []row{compared("a call among 10⁶ cached identities / among 10³", "s", ours, peer, atMost(1.5, 1.1))}
}
