package main

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/metrics"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/server"
)

// watchEvery is how often the configuration's files are looked at. Looking (a stat each) works on every file system and
// through the symbolic links of a Kubernetes ConfigMap, where notification does not.
const watchEvery = time.Second

// retryEvery is how often a configuration that was refused is tried again: a file that it names and that isn't watched yet may have come.
const retryEvery = 10 * time.Second

// reloader puts a changed configuration in force, as a whole or not at all: rules, issuers, certificates and the keys of
// what is kept in Redis. What else changed waits for a restart.
type reloader struct {
	load     func() (*config.Config, error)
	broker   *broker.Broker
	backends map[string]policy.Backend
	metrics  *metrics.Metrics
	log      *slog.Logger
	// certificates read their files again.
	certificates []*server.Certificates
	reopenAudit  func() error
	replay       attest.Replay // nil where each issuer remembers for itself
	kept         kept
	// keyring and keyer get the keys of Redis's key files; keyring is nil without a Redis.
	keyring *seal.Keyring
	keyer   *cache.Keyer

	verifier atomic.Pointer[jwtproof.Verifier]
	fault    atomic.Pointer[string] // why the newest configuration was refused; nil if it is in force

	mu      sync.Mutex
	started *config.Config // what the process was started with
	watched []string
	seen    map[string]os.FileInfo
	tried   time.Time // when the last reload began
}

// reload reads the configuration and puts it in force. The error holds every fault; the old configuration then stays.
func (r *reloader) reload() (needsRestart []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reloadLocked(false)
}

// reloadLocked says nothing of a refusal that is only repeated.
func (r *reloader) reloadLocked(retried bool) (needsRestart []string, err error) {
	// Look before reading: a change while reading is then seen at the next look.
	seen := look(r.watched)
	r.tried = time.Now()
	needsRestart, err = r.replace()
	r.seen = seen
	if err != nil {
		fault := "the configuration on disk was refused, the former one stays in force: " + firstLine(err.Error())
		if was := r.fault.Swap(&fault); was == nil || *was != fault || !retried {
			r.metrics.LoadRefused()
			r.log.Error("configuration refused, the former one stays in force", "error", err.Error())
		}
		return nil, err
	}
	r.fault.Store(nil)
	book := r.broker.Rulebook()
	r.metrics.Loaded(book.LoadedAt)
	r.log.Info("configuration loaded", "rule_set", book.Rules.Version(), "roles", book.Rules.Len(), "needs_restart", needsRestart)
	return needsRestart, nil
}

func (r *reloader) replace() ([]string, error) {
	cfg, err := r.load()
	if err != nil {
		return nil, err
	}
	verifier, err := newVerifiers(cfg, r.verifier.Load(), r.replay, r.log)
	if err != nil {
		return nil, err
	}
	// Exchangers stay as they were started, so roles are held against those.
	book, err := newRulebook(cfg, r.backends, verifier, r.kept, r.log)
	if err != nil {
		return nil, err
	}
	var keys config.RedisKeys
	if r.keyring != nil && cfg.Redis.Enabled() && !cfg.Redis.Transit.Enabled() && !r.started.Redis.Transit.Enabled() {
		if keys, err = cfg.Redis.ReadKeys(); err != nil {
			return nil, err
		}
	}
	if err := server.ReloadAll(r.certificates); err != nil {
		return nil, err
	}
	if len(keys.Sealing) > 0 {
		if err := r.keyring.Replace(keys.Sealing); err != nil {
			return nil, err
		}
		r.keyer.Replace(keys.KeyHMAC)
	}
	r.broker.Replace(book)
	r.verifier.Store(verifier)
	r.watched = cfg.Watched()
	return cfg.NeedsRestart(r.started), nil
}

// watch reloads at each SIGHUP and whenever a watched file changed, until ctx ends. SIGHUP also reopens the audit log, so
// that it can be rotated.
func (r *reloader) watch(ctx context.Context, hup <-chan os.Signal) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			if err := r.reopenAudit(); err != nil {
				r.log.Error("audit log not reopened", "error", err.Error())
			}
			_, _ = r.reload() // it has logged what was wrong
		case <-tick.C:
			r.mu.Lock()
			changed := !same(r.seen, look(r.watched))
			if changed || r.fault.Load() != nil && time.Since(r.tried) >= retryEvery {
				_, _ = r.reloadLocked(!changed)
			}
			r.mu.Unlock()
		}
	}
}

// reason is why the newest configuration is not in force; empty if it is.
func (r *reloader) reason() string {
	if fault := r.fault.Load(); fault != nil {
		return *fault
	}
	return ""
}

func look(files []string) map[string]os.FileInfo {
	seen := make(map[string]os.FileInfo, len(files))
	for _, f := range files {
		seen[f], _ = os.Stat(f) // nil for what can't be looked at
	}
	return seen
}

func same(a, b map[string]os.FileInfo) bool {
	if len(a) != len(b) {
		return false
	}
	for name, was := range a {
		is, ok := b[name]
		if !ok || (was == nil) != (is == nil) {
			return false
		}
		if was != nil && (!os.SameFile(was, is) || was.Size() != is.Size() || !was.ModTime().Equal(is.ModTime())) {
			return false
		}
	}
	return true
}

func firstLine(s string) string {
	line, rest, _ := strings.Cut(s, "\n")
	if rest != "" {
		line += " (and more; see the log)"
	}
	return line
}
