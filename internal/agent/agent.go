// Package agent answers as the credential endpoint of AWS's containers does (AWS SDKs and Tools Reference Guide, "Container credential
// provider"), with credentials that it gets from a broker ahead of the asking, for clients that can't prove who they are.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/credbroker/credbroker"
)

// Source gives credentials of a role that are valid now: (*credbroker.Client).Current is one. It is asked each second for each role, so it
// keeps what it has, and renews it before its end.
type Source func(ctx context.Context, role string, opts ...credbroker.RoleOption) (credbroker.Credentials, error)

// Agent keeps credentials of some roles and gives them to those who may ask.
type Agent struct {
	source Source
	log    *slog.Logger
	roles  map[string]*role
	ready  chan struct{}
}

// role is what the agent knows of a role for /healthz and the log. The credentials themselves are the source's.
type role struct {
	name string

	mu    sync.Mutex
	since time.Time // when the credentials with the key below were first seen
	key   string    // access key ID
	ends  time.Time // zero if there are none
	said  string    // what the log heard last; empty if all is well
}

// New returns an agent for roles, at least one. It asks nothing before Run.
func New(source Source, log *slog.Logger, roles ...string) *Agent {
	a := &Agent{source: source, log: log, roles: map[string]*role{}, ready: make(chan struct{})}
	for _, name := range roles {
		a.roles[name] = &role{name: name}
	}
	return a
}

// Ready is closed once every role has had credentials.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Run keeps credentials of all roles until ctx ends.
func (a *Agent) Run(ctx context.Context) {
	var all, first sync.WaitGroup
	for _, r := range a.roles {
		first.Add(1)
		all.Go(func() { a.keep(ctx, r, sync.OnceFunc(first.Done)) })
	}
	all.Go(func() {
		first.Wait()
		if ctx.Err() == nil {
			close(a.ready)
		}
	})
	all.Wait()
}

// keep asks for one role's credentials each second, so that the source renews them in time whether or not a client asks; held is called when
// there are some, or at the end.
func (a *Agent) keep(ctx context.Context, r *role, held func()) {
	defer held()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		got, err := a.source(ctx, r.name)
		if ctx.Err() != nil {
			return
		}
		r.note(a.log, got, err, time.Now())
		if err == nil {
			held()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// note remembers what became of a question, and logs it if it is news.
func (r *role) note(log *slog.Logger, got credbroker.Credentials, err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.ends = time.Time{}
		if reason := reasonOf(err); reason != r.said {
			r.said = reason
			log.Error("no credentials", "role", r.name, "error", err.Error())
		}
		return
	}
	r.ends = got.Expires
	if got.AccessKeyID != r.key {
		r.key, r.since, r.said = got.AccessKeyID, now, ""
		log.Info("credentials", "role", r.name, "expires", got.Expires.UTC().Format(time.RFC3339), "request_id", got.RequestID)
		return
	}
	// The client renews when 20 to 30 % of the life is left.
	if left, life := got.Expires.Sub(now), got.Expires.Sub(r.since); r.said == "" && left < life/8 {
		r.said = "not renewed"
		log.Warn("credentials are near their end and were not renewed: is the broker there?", "role", r.name, "left", left.Round(time.Second).String())
	}
}

// reasonOf tells errors apart as far as the log repeats none.
func reasonOf(err error) string {
	if refusal, ok := errors.AsType[*credbroker.Error](err); ok {
		return string(refusal.Code)
	}
	if errors.Is(err, credbroker.ErrUnreachable) {
		return "unreachable"
	}
	return "error"
}

// healthy says whether every role has valid credentials.
func (a *Agent) healthy(now time.Time) bool {
	for _, r := range a.roles {
		r.mu.Lock()
		valid := now.Before(r.ends)
		r.mu.Unlock()
		if !valid {
			return false
		}
	}
	return true
}
