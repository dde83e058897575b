// Package revocation knows what was revoked. Credentials that were made for an identity, an issuer or a role before a moment are not
// handed out after it, by any replica.
//
// A revocation forbids nothing: who is allowed to by the rules gets new credentials at once. It is forgotten when nothing that
// was made before it can be alive.
package revocation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

const (
	// most bounds the scopes that are revoked at one time.
	most = 1024
	// longest bounds each text of a scope, in bytes.
	longest = 512
	// keptFor is how long a revocation counts: the longest life of credentials, and more than clocks differ by.
	keptFor = 12*time.Hour + 10*time.Minute
	// syncEvery is how often the board is looked at.
	syncEvery = time.Second
	// endTimeout bounds ending what can be ended of one revocation.
	endTimeout = 30 * time.Second
)

var (
	// ErrInvalid is for a scope that is none.
	ErrInvalid = errors.New("nothing to revoke")
	// ErrFull means that most scopes are revoked already, none of which is old enough to be forgotten.
	ErrFull = fmt.Errorf("%d scopes are revoked already", most)
	// ErrNotShared means that the other replicas don't know yet. They will once the board is back.
	ErrNotShared = errors.New("revoked here, but the other replicas don't know yet")
	// ErrNotEnded means that not all that a back-end could end was ended: it lives to its own end, and is handed out no more.
	ErrNotEnded = errors.New("revoked, but not all leases were ended")
)

// Scope is what is revoked: all of a role, all of an issuer, or all of one subject of an issuer, in the audit log's words.
type Scope struct {
	Issuer, Subject string
	Role            string
}

// Valid returns ErrInvalid for what is no scope.
func (s Scope) Valid() error {
	switch {
	case (s.Issuer == "") == (s.Role == ""):
		return fmt.Errorf("%w: expected an issuer or a role, and one of them", ErrInvalid)
	case s.Role != "" && s.Subject != "":
		return fmt.Errorf("%w: a subject without its issuer", ErrInvalid)
	case len(s.Issuer) > longest || len(s.Subject) > longest || len(s.Role) > longest:
		return fmt.Errorf("%w: issuer, subject and role have at most %d bytes each", ErrInvalid, longest)
	}
	return nil
}

// Revocation says that what was made for Scope before At is revoked. At tells revocations of one scope apart, and is not compared with the
// clocks of those who make credentials.
type Revocation struct {
	Scope
	At time.Time
}

// Concerns says whether it is about credentials of a role for an identity: its own, or with it as an actor.
func (r Revocation) Concerns(role string, id *attest.Identity) bool {
	if r.Role != "" {
		return r.Role == role
	}
	for ; id != nil; id = id.Actor {
		if r.Issuer == id.Issuer && (r.Subject == "" || r.Subject == id.Subject) {
			return true
		}
	}
	return false
}

// Board is where replicas tell each other.
type Board interface {
	// Load returns what is there; nothing is no error.
	Load(ctx context.Context) ([]Revocation, error)
	// Save replaces what is there, until a time.
	Save(ctx context.Context, all []Revocation, until time.Time) error
}

// Config configures a List.
type Config struct {
	// Board is nil where there are no other replicas.
	Board Board
	// End ends what a back-end can of what a revocation is about. It is called once for each, here and on the other replicas.
	End func(context.Context, Revocation) error
	// Log is told what goes wrong behind everybody's back; nobody is if nil.
	Log *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// List holds what is revoked. It is safe for concurrent use; nil is an empty one.
type List struct {
	cfg     Config
	current atomic.Pointer[map[Scope]time.Time] // never changed, only replaced
	mu      sync.Mutex                          // for replacing it
	board   sync.Mutex                          // for dealing with the board
}

// New returns an empty list. Run must run for as long as it is used.
func New(cfg Config) *List {
	if cfg.End == nil {
		cfg.End = func(context.Context, Revocation) error { return nil }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &List{cfg: cfg}
	l.current.Store(&map[Scope]time.Time{})
	return l
}

// Since is when what concerns a role and an identity was revoked last; zero if it wasn't.
func (l *List) Since(role string, id *attest.Identity) time.Time {
	if l == nil {
		return time.Time{}
	}
	current := *l.current.Load()
	if len(current) == 0 {
		return time.Time{}
	}
	last := current[Scope{Role: role}]
	for ; id != nil; id = id.Actor {
		for _, at := range [...]time.Time{current[Scope{Issuer: id.Issuer}], current[Scope{Issuer: id.Issuer, Subject: id.Subject}]} {
			if at.After(last) {
				last = at
			}
		}
	}
	return last
}

// Len is how many scopes are revoked.
func (l *List) Len() int {
	if l == nil {
		return 0
	}
	return len(*l.current.Load())
}

// Revoke revokes what was made for a scope until now, tells the other replicas and ends what can be ended. Its errors are (errors.Is)
// ErrInvalid and ErrFull, after which nothing is revoked, and ErrNotShared and ErrNotEnded, after which it is.
func (l *List) Revoke(ctx context.Context, s Scope) (Revocation, error) {
	if err := s.Valid(); err != nil {
		return Revocation{}, err
	}
	r := Revocation{s, l.cfg.Now().UTC().Round(0).Truncate(time.Microsecond)}
	if last := (*l.current.Load())[s]; !r.At.After(last) { // by a clock that is ahead of this one
		r.At = last.Add(time.Microsecond)
	}
	if _, err := l.add(r); err != nil {
		return Revocation{}, err
	}
	var failed []error
	if err := l.Sync(ctx); err != nil {
		failed = append(failed, fmt.Errorf("%w: %w", ErrNotShared, err))
	}
	if err := l.end(ctx, r); err != nil {
		failed = append(failed, fmt.Errorf("%w: %w", ErrNotEnded, err))
	}
	return r, errors.Join(failed...)
}

// add puts revocations into the list and returns those that weren't known. With ErrFull, none is.
func (l *List) add(list ...Revocation) (added []Revocation, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := maps.Clone(*l.current.Load())
	now := l.cfg.Now()
	maps.DeleteFunc(next, func(_ Scope, at time.Time) bool { return forgotten(at, now) })
	for _, r := range list {
		if !forgotten(r.At, now) && r.At.After(next[r.Scope]) {
			next[r.Scope] = r.At
			added = append(added, r)
		}
	}
	if len(next) > most {
		return nil, ErrFull
	}
	l.current.Store(&next)
	return added, nil
}

func forgotten(at, now time.Time) bool { return !now.Before(at.Add(keptFor)) }

// end ends what can be ended of some revocations.
func (l *List) end(ctx context.Context, list ...Revocation) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	var failed []error
	for _, r := range list {
		failed = append(failed, l.cfg.End(ctx, r))
	}
	return errors.Join(failed...)
}

// Sync learns what the other replicas know, tells them what they don't, and ends what can be ended of the former. Nothing that one of
// them knows gets lost, whatever becomes of the board. Its errors are the board's, ErrFull and ErrNotEnded.
func (l *List) Sync(ctx context.Context) error {
	learnt, err := l.sync(ctx)
	if endErr := l.end(ctx, learnt...); endErr != nil {
		err = errors.Join(err, fmt.Errorf("%w: %w", ErrNotEnded, endErr))
	}
	return err
}

// sync is Sync without an end.
func (l *List) sync(ctx context.Context) (learnt []Revocation, err error) {
	if l.cfg.Board == nil {
		return nil, nil
	}
	l.board.Lock()
	defer l.board.Unlock()
	there, err := l.cfg.Board.Load(ctx)
	if err != nil {
		return nil, err
	}
	known := map[Scope]time.Time{}
	for _, r := range there {
		if r.Valid() == nil {
			known[r.Scope] = r.At
		}
	}
	if learnt, err = l.add(revocations(known)...); err != nil {
		return nil, err
	}
	for _, r := range learnt {
		l.cfg.Log.Info("revoked by another replica", "issuer", r.Issuer, "subject", r.Subject, "role", r.Role, "at", r.At)
	}
	current := *l.current.Load()
	if maps.EqualFunc(current, known, time.Time.Equal) {
		return learnt, nil
	}
	return learnt, l.cfg.Board.Save(ctx, revocations(current), l.cfg.Now().Add(keptFor))
}

func revocations(of map[Scope]time.Time) []Revocation {
	list := make([]Revocation, 0, len(of))
	for s, at := range of {
		list = append(list, Revocation{s, at})
	}
	return list
}

// Run keeps the list and the board the same, and forgets what is old, until ctx ends.
func (l *List) Run(ctx context.Context) {
	var ends sync.WaitGroup
	defer ends.Wait()
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, _ = l.add() // which forgets
		learnt, err := l.sync(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			l.cfg.Log.Warn("what is revoked can't be shared with the other replicas", "error", err.Error())
		}
		failing = err != nil
		if len(learnt) == 0 {
			continue
		}
		ends.Go(func() { // a back-end that doesn't answer keeps nobody from learning
			if err := l.end(ctx, learnt...); err != nil {
				l.cfg.Log.Warn("not all that was revoked could be ended", "error", err.Error())
			}
		})
	}
}
