package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/datakeys"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/issuer"
	"github.com/credbroker/credbroker/internal/metrics"
	"github.com/credbroker/credbroker/internal/redis"
	"github.com/credbroker/credbroker/internal/revocation"
	"github.com/credbroker/credbroker/internal/server"
	"github.com/credbroker/credbroker/internal/vault"
)

func newServeCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:     "serve",
		GroupID: "run",
		Short:   "Run the broker",
		Long: `serve runs the broker until SIGTERM. SIGHUP, or a change of the configuration's files, reloads rules, issuers and
certificates; a faulty file changes nothing and is reported in the log, in /readyz and by 'broker admin status'.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return serve(c.Context(), func() (*config.Config, error) { return config.Load(file, os.Environ()) })
		},
	}
	registerConfigFlag(c, &file)
	return c
}

// serve runs a broker until ctx ends. Notices are things that whoever looks at /readyz ought to know.
func serve(ctx context.Context, load func() (*config.Config, error), notices ...string) error {
	if err := forbidCoreDumps(); err != nil {
		return err
	}
	cfg, err := load()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.Log.Level}))
	p, err := assemble(cfg, load, log, notices)
	if err != nil {
		return err
	}
	return p.run(ctx)
}

// program is a broker with everything around it.
type program struct {
	cfg        *config.Config
	log        *slog.Logger
	startedAt  time.Time
	notices    []string
	audit      *audit.Writer
	issuer     *issuer.Issuer
	exchangers map[string]exchange.Exchanger
	memory     *cache.Memory
	store      *cache.Store
	redis      *redis.Client  // nil if there is none
	vault      *vault.Client  // nil if there is none
	dataKeys   *datakeys.Keys // nil if Vault wraps none
	revoked    *revocation.List
	broker     *broker.Broker
	reloader   *reloader
	transports *transports
	draining   atomic.Bool
}

// assemble makes the parts and opens the listeners; nothing runs yet.
func assemble(cfg *config.Config, load func() (*config.Config, error), log *slog.Logger, notices []string) (*program, error) {
	m := metrics.New(versionText())
	p := &program{cfg: cfg, log: log, startedAt: time.Now(), notices: append(cfg.Warnings(), notices...)}
	var err error
	var complained time.Time // OnError is called by one goroutine at a time
	if p.audit, err = audit.Open(audit.Config{Path: cfg.Audit.Path, OnError: func(err error) {
		m.AuditFailed()
		if now := time.Now(); now.Sub(complained) >= time.Second {
			complained = now
			log.Error("audit log can't be written", "error", err.Error())
		}
	}}); err != nil {
		return nil, err
	}
	fingerprinter, err := newFingerprinter(cfg.Audit.FingerprintKeyFile)
	if err != nil {
		return nil, err
	}
	client, keyring, keyer, err := newRedis(cfg, m, log)
	if err != nil {
		return nil, err
	}
	p.redis = client
	if p.vault, err = newVault(cfg, m, log); err != nil {
		return nil, err
	}
	p.dataKeys = newDataKeys(cfg, p.vault, client, keyring, keyer, log)
	owns := issuer.Config{URL: cfg.Issuer.URL, RotateEvery: cfg.Issuer.KeyRotation, Log: log}
	var replay attest.Replay // in memory
	var used attest.Replay = attest.NewReplayMemory(time.Now)
	var sessions attest.GatewaySessions = attest.NewGatewaySessionMemory(time.Now)
	if cfg.Replicas == config.ReplicasMany {
		owns.Board, replay, used = client.Board(), client.Replay(), client.Replay()
	}
	if key := cfg.Issuer.Transit; key.Enabled() { // whose versions all replicas see in Vault
		owns.Board, owns.Transit = nil, &issuer.TransitConfig{Client: p.vault, Mount: key.Mount, Key: key.Key}
	}
	if client != nil {
		sessions = client.Sessions()
	}
	minted, mintedVerifier := newMinted(cfg.STS.CallerIdentity, client)
	kept := kept{used: used, sessions: sessions, accessKeys: newAccessKeys(p.vault)}
	if p.issuer, err = issuer.New(owns); err != nil {
		return nil, err
	}
	if p.exchangers, err = newExchangers(cfg, p.issuer, p.vault, m, log); err != nil {
		return nil, err
	}
	verifier, err := newVerifiers(cfg, nil, replay, log)
	if err != nil {
		return nil, err
	}
	backends := backends(cfg)
	book, err := newRulebook(cfg, backends, verifier, kept, log)
	if err != nil {
		return nil, err
	}
	p.memory = cache.NewMemory(cache.MemoryConfig{MaxBytes: cfg.Cache.MaxBytes})
	stored := cache.StoreConfig{
		Memory: p.memory, MaxUnshared: cfg.Limits.MaxUnsharedMints,
		Flight: cache.NewFlight(cache.FlightConfig{OnPanic: func(_ any, stack []byte) {
			log.Error("panic during an exchange", "stack", string(stack))
		}}),
		OnWriteError: func(err error) { log.Debug("credentials not shared", "error", err) },
	}
	if client != nil {
		stored.Shared = client
	}
	p.store = cache.NewStore(stored)
	p.revoked = newRevocations(client, p.exchangers, log)
	p.broker = broker.New(broker.Config{
		Store:         p.store,
		Keyer:         keyer,
		Audit:         p.audit,
		Fingerprinter: fingerprinter,
		Exchangers:    asBrokerExchangers(cfg, p.exchangers),
		Code:          server.Code,
		Log:           log,
		MaxInFlight:   cfg.Limits.MaxInFlight,
		MaxMints:      cfg.Limits.MaxMints,
		Sessions:      sessions,

		Revoked: p.revoked, Minted: minted, MintedVerifier: mintedVerifier,
		Observe: m.Observe,
	}, book)
	p.reloader = &reloader{
		load: load, broker: p.broker, backends: backends, metrics: m, log: log, reopenAudit: p.audit.Reopen,
		replay: replay, kept: kept, keyring: keyring, keyer: keyer,
		started: cfg, watched: cfg.Watched(), seen: look(cfg.Watched()),
	}
	p.reloader.verifier.Store(verifier)
	if p.transports, err = listen(p, promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{})); err != nil {
		return nil, err
	}
	p.reloader.certificates = p.transports.certificates
	p.export(m)
	m.Loaded(book.LoadedAt)
	return p, nil
}

// run serves until ctx ends or a listener fails, then stops: not ready for the drain time, then no new calls, then the end
// by the deadline.
func (p *program) run(ctx context.Context) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var workers sync.WaitGroup
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	// Go ends a program that writes to a standard output nobody reads any more; the audit log reports it instead.
	signal.Ignore(syscall.SIGPIPE)
	workers.Go(func() { p.reloader.watch(background, hup) })
	workers.Go(func() { p.issuer.Run(background) })
	workers.Go(func() { p.memory.Run(background) })
	workers.Go(func() { p.revoked.Run(background) })
	if p.redis != nil {
		workers.Go(func() { p.redis.Run(background) })
	}
	if p.vault != nil {
		workers.Go(func() { p.vault.Run(background) })
	}
	if p.dataKeys != nil {
		workers.Go(func() { p.dataKeys.Run(background) })
	}
	for _, x := range p.exchangers {
		if x, ok := x.(interface{ Run(context.Context) }); ok {
			workers.Go(func() { x.Run(background) })
		}
	}

	// What was revoked is known before the first call, if it can be.
	if err := p.revoked.Sync(background); err != nil {
		p.log.Warn("what other replicas have revoked isn't known yet", "error", err.Error())
	}
	listeners, failed := errgroup.WithContext(ctx)
	p.transports.serve(listeners)
	book := p.broker.Rulebook()
	p.log.Info("broker started", "version", versionText(), "grpc", p.transports.grpc.Addr().String(), "http", p.transports.http.Addr().String(),
		"metrics", p.transports.ops.Addr().String(), "admin", cmp.Or(p.cfg.Listeners.Admin.Address, p.cfg.Listeners.Admin.Socket), "rule_set", book.Rules.Version(), "roles", book.Rules.Len(),
		"notices", p.notices)

	<-failed.Done()
	p.draining.Store(true)
	p.log.Info("stopping", "drain", p.cfg.Shutdown.Drain.String(), "deadline", p.cfg.Shutdown.Deadline.String())
	if ctx.Err() != nil {
		// Load balancers see /readyz fail and turn away before the listeners close.
		time.Sleep(p.cfg.Shutdown.Drain)
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.Shutdown.Deadline)
	defer cancel()
	err := p.transports.shutdown(deadline)
	err = errors.Join(err, listeners.Wait())
	p.finish(deadline)
	stopBackground()
	workers.Wait()
	if p.redis != nil {
		_ = p.redis.Close()
	}
	if closeErr := p.audit.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("audit log: %w", closeErr))
	}
	p.log.Info("stopped")
	return err
}

// finish waits, until ctx ends, for what calls have set off: renewals, and results on their way to the other replicas.
func (p *program) finish(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.broker.Wait()
		p.store.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		p.log.Warn("renewals under way were left")
	}
}

// ready says whether calls may be sent here, and everything that is wrong. Only what this process itself can't do without
// makes it not ready: a back-end that is down is down for every replica.
func (p *program) ready() server.Readiness {
	ready, reasons := true, slices.Clone(p.notices)
	if p.draining.Load() {
		ready, reasons = false, append(reasons, "stopping")
	}
	if err := p.audit.Healthy(); err != nil {
		ready, reasons = false, append(reasons, "audit log: "+err.Error())
	}
	if why := p.issuer.Status(); why != "" {
		// A key in Vault is a back-end's: without it cached credentials can be had still.
		ready, reasons = ready && p.cfg.Issuer.Transit.Enabled(), append(reasons, "issuer: "+why)
	}
	if p.redis != nil {
		if why := p.redis.Status(); why != "" {
			reasons = append(reasons, "redis: "+why)
		}
	}
	if p.vault != nil {
		if why := p.vault.Status(); why != "" {
			reasons = append(reasons, "vault: "+why)
		}
	}
	if p.dataKeys != nil {
		if why := p.dataKeys.Status(); why != "" {
			reasons = append(reasons, "redis: "+why)
		}
	}
	if fault := p.reloader.reason(); fault != "" {
		reasons = append(reasons, fault)
	}
	verifiers := p.broker.Rulebook().Verifiers
	for _, kind := range slices.Sorted(maps.Keys(verifiers)) {
		if v, ok := verifiers[kind].(interface{ Status() []string }); ok {
			reasons = append(reasons, v.Status()...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.exchangers)) {
		if s := p.exchangers[name].Status(); s != "" {
			reasons = append(reasons, "exchanger "+name+": "+s)
		}
	}
	return server.Readiness{Ready: ready, Reasons: reasons}
}

// export adds the values that are read when metrics are scraped.
func (p *program) export(m *metrics.Metrics) {
	for name, x := range p.exchangers {
		x, ok := x.(interface{ AcceptsForgedTokens() bool })
		if !ok {
			continue
		}
		m.Gauge("credbroker_minio_accepts_forged_tokens", "1 if the exchanger's MinIO took a forged token at the last self-test: nothing is issued from it.",
			map[string]string{"exchanger": name}, func() float64 {
				if x.AcceptsForgedTokens() {
					return 1
				}
				return 0
			})
	}
	m.Gauge("credbroker_cache_entries", "Credentials in the memory cache.", nil, func() float64 { return float64(p.memory.Stats().Entries) })
	m.Gauge("credbroker_cache_bytes", "Bytes that the memory cache holds.", nil, func() float64 { return float64(p.memory.Stats().Bytes) })
	m.Counter("credbroker_cache_hits_total", "Look-ups that found credentials.", nil, func() float64 { return float64(p.memory.Stats().Hits) })
	m.Counter("credbroker_cache_misses_total", "Look-ups that found none.", nil, func() float64 { return float64(p.memory.Stats().Misses) })
	m.Counter("credbroker_cache_evictions_total", "Credentials dropped to make room.", nil, func() float64 { return float64(p.memory.Stats().Evictions) })
	m.Gauge("credbroker_revocations", "Roles, issuers and subjects that are revoked and not forgotten yet.", nil, func() float64 { return float64(p.revoked.Len()) })
	if p.vault != nil {
		exportVault(m, p.vault)
	}
	if p.redis == nil {
		return
	}
	m.Gauge("credbroker_redis_up", "0 while Redis is away and is done without.", nil, func() float64 {
		if p.redis.Up() {
			return 1
		}
		return 0
	})
	m.Counter("credbroker_shared_cache_hits_total", "Look-ups in Redis that found usable credentials.", nil, func() float64 { return float64(p.store.Stats().SharedHits) })
	m.Counter("credbroker_shared_cache_misses_total", "Look-ups in Redis that found none.", nil, func() float64 { return float64(p.store.Stats().SharedMisses) })
	m.Counter("credbroker_unshared_mints_total", "Exchanges made without the other replicas, since Redis was away or refused.", nil, func() float64 { return float64(p.store.Stats().Unshared) })
}

// Reload implements server.Admin.
func (p *program) Reload(context.Context) (server.ReloadResult, error) {
	needsRestart, err := p.reloader.reload()
	result := server.ReloadResult{RuleSet: p.broker.Rulebook().Rules.Version(), NeedsRestart: needsRestart}
	if err != nil {
		result.Faults = strings.Split(err.Error(), "\n")
	}
	return result, nil
}

// Status implements server.Admin.
func (p *program) Status() server.Status {
	book, stats := p.broker.Rulebook(), p.memory.Stats()
	return server.Status{
		Version: versionText(), StartedAt: p.startedAt, RuleSet: book.Rules.Version(), Roles: book.Rules.Len(), RulesLoadedAt: book.LoadedAt,
		Readiness: p.ready(), KeyIDs: p.issuer.KeyIDs(), CacheEntries: stats.Entries, CacheBytes: stats.Bytes,
		Revocations: p.revoked.Len(),
	}
}
