package revocation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/revocation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// board is a revocation.Board in memory.
type board struct {
	mu    sync.Mutex
	all   []revocation.Revocation
	until time.Time
	err   error
	saved int
}

func (b *board) Load(context.Context) ([]revocation.Revocation, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.all), b.err
}

func (b *board) Save(_ context.Context, all []revocation.Revocation, until time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.all, b.until = slices.Clone(all), until
		b.saved++
	}
	return b.err
}

func (b *board) set(all []revocation.Revocation, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all, b.err = all, err
}

func (b *board) get() ([]revocation.Revocation, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.all), b.until
}

func (b *board) saves() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.saved
}

// ended remembers what was to be ended.
type ended struct {
	mu   sync.Mutex
	list []revocation.Scope
	err  error
}

func (e *ended) end(_ context.Context, r revocation.Revocation) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, r.Scope)
	return e.err
}

func (e *ended) scopes() []revocation.Scope {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

func run(t *testing.T, l *revocation.List) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { l.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

var (
	alice  = &attest.Identity{Issuer: "https://idp", Subject: "alice"}
	bob    = &attest.Identity{Issuer: "https://idp", Subject: "bob"}
	other  = &attest.Identity{Issuer: "https://other", Subject: "alice"}
	byBob  = &attest.Identity{Issuer: "kong", Subject: "carol", Actor: bob}
	byBob2 = &attest.Identity{Issuer: "kong", Subject: "carol", Actor: &attest.Identity{Issuer: "kong", Subject: "x", Actor: bob}}
)

func TestWhatARevocationConcerns(t *testing.T) {
	type who struct {
		role string
		id   *attest.Identity
	}
	all := []who{{"reports", alice}, {"reports", bob}, {"backup", alice}, {"reports", other}, {"reports", byBob}, {"reports", byBob2}}
	for _, c := range []struct {
		scope revocation.Scope
		want  []int
	}{
		{revocation.Scope{Issuer: "https://idp", Subject: "alice"}, []int{0, 2}},
		{revocation.Scope{Issuer: "https://idp"}, []int{0, 1, 2, 4, 5}},
		{revocation.Scope{Issuer: "https://idp", Subject: "bob"}, []int{1, 4, 5}},
		{revocation.Scope{Issuer: "kong", Subject: "carol"}, []int{4, 5}},
		{revocation.Scope{Issuer: "kong", Subject: "x"}, []int{5}},
		{revocation.Scope{Role: "reports"}, []int{0, 1, 3, 4, 5}},
		{revocation.Scope{Role: "https://idp"}, nil},
		{revocation.Scope{Issuer: "reports"}, nil},
		{revocation.Scope{Issuer: "https://idp", Subject: "ALICE"}, nil},
	} {
		l := revocation.New(revocation.Config{})
		r, err := l.Revoke(t.Context(), c.scope)
		if err != nil {
			t.Fatal(err)
		}
		for i, w := range all {
			since, want := l.Since(w.role, w.id), slices.Contains(c.want, i)
			if since.IsZero() == want || want && !since.Equal(r.At) {
				t.Errorf("%+v: of %s for %+v: %v", c.scope, w.role, w.id, since)
			}
			if r.Concerns(w.role, w.id) != want {
				t.Errorf("%+v: concerns %s for %+v: %v", c.scope, w.role, w.id, !want)
			}
		}
	}
}

func TestScopesThatAreNone(t *testing.T) {
	long := strings.Repeat("x", 513)
	for _, s := range []revocation.Scope{
		{}, {Subject: "alice"}, {Issuer: "a", Role: "b"}, {Role: "b", Subject: "alice"}, {Issuer: long}, {Issuer: "a", Subject: long}, {Role: long},
	} {
		l := revocation.New(revocation.Config{})
		if r, err := l.Revoke(t.Context(), s); !errors.Is(err, revocation.ErrInvalid) || !r.At.IsZero() || l.Len() != 0 {
			t.Errorf("%.40v: %v", s, err)
		}
	}
}

func TestTheLastRevocationCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := revocation.New(revocation.Config{})
		var last time.Time
		for i, s := range []revocation.Scope{{Role: "reports"}, {Issuer: "https://idp"}, {Issuer: "https://idp", Subject: "alice"}, {Role: "reports"}, {Role: "reports"}} {
			if i < 4 { // the last one within the same microsecond
				time.Sleep(time.Second)
			}
			r, err := l.Revoke(t.Context(), s)
			if err != nil || !r.At.After(last) {
				t.Fatal(r, err)
			}
			last = r.At
			if since := l.Since("reports", alice); !since.Equal(last) {
				t.Errorf("%d: %s, not %s", i, since, last)
			}
		}
	})
}

func TestNilIsEmpty(t *testing.T) {
	var l *revocation.List
	if !l.Since("reports", alice).IsZero() || l.Len() != 0 {
		t.Error("something is revoked")
	}
}

// TestARevocationIsForgotten when nothing from before it can be alive.
func TestARevocationIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		l := revocation.New(revocation.Config{Board: b})
		if _, err := l.Revoke(t.Context(), revocation.Scope{Role: "reports"}); err != nil {
			t.Fatal(err)
		}
		run(t, l)
		time.Sleep(12*time.Hour + 9*time.Minute)
		all, until := b.get()
		if l.Len() != 1 || len(all) != 1 {
			t.Errorf("forgotten too soon: %d, %v", l.Len(), all)
		}
		if left := time.Until(until); left < 30*time.Second {
			t.Errorf("the board keeps it for %s", left)
		}
		time.Sleep(time.Minute + 2*time.Second)
		if all, _ := b.get(); l.Len() != 0 || len(all) != 0 {
			t.Errorf("not forgotten: %d, %v", l.Len(), all)
		}
	})
}

func TestTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := revocation.New(revocation.Config{})
		for i := range 1024 {
			if _, err := l.Revoke(t.Context(), revocation.Scope{Role: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := l.Revoke(t.Context(), revocation.Scope{Role: "more"}); !errors.Is(err, revocation.ErrFull) || !r.At.IsZero() || !l.Since("more", alice).IsZero() {
			t.Error(err)
		}
		if _, err := l.Revoke(t.Context(), revocation.Scope{Role: "7"}); err != nil {
			t.Errorf("again: %v", err)
		}
		time.Sleep(13 * time.Hour)
		if _, err := l.Revoke(t.Context(), revocation.Scope{Role: "more"}); err != nil || l.Len() != 1 {
			t.Errorf("after half a day: %v", err)
		}
	})
}

// TestReplicasTellEachOther, whatever becomes of the board.
func TestReplicasTellEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		var lists [3]*revocation.List
		var ends [3]ended
		for i := range lists {
			lists[i] = revocation.New(revocation.Config{Board: b, End: ends[i].end})
			run(t, lists[i])
		}
		everybody := func(what string, role string, want int) {
			t.Helper()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			for i, l := range lists {
				if l.Since(role, alice).IsZero() || l.Len() != want {
					t.Errorf("%s: replica %d knows %d", what, i, l.Len())
				}
				if n := len(ends[i].scopes()); n != want {
					t.Errorf("%s: replica %d ended %d", what, i, n)
				}
			}
		}
		revoke := func(i int, role string) error {
			_, err := lists[i].Revoke(t.Context(), revocation.Scope{Role: role})
			return err
		}
		if err := revoke(0, "a"); err != nil {
			t.Fatal(err)
		}
		everybody("one revokes", "a", 1)
		saved := b.saves()
		time.Sleep(10 * time.Second)
		if b.saves() != saved {
			t.Error("the board is written though nothing is new")
		}

		if err := errors.Join(revoke(1, "b"), revoke(2, "c")); err != nil {
			t.Fatal(err)
		}
		everybody("two revoke", "b", 3)

		b.set(nil, nil)
		everybody("somebody wiped the board", "c", 3)
		if all, _ := b.get(); len(all) != 3 {
			t.Errorf("the board has %v", all)
		}

		b.set(nil, errors.New("gone"))
		if err := revoke(0, "d"); !errors.Is(err, revocation.ErrNotShared) {
			t.Error(err)
		}
		if lists[0].Since("d", alice).IsZero() {
			t.Error("not even here")
		}
		b.set(nil, nil)
		everybody("the board was away", "d", 4)

		b.set([]revocation.Revocation{{At: time.Now()}, {Scope: revocation.Scope{Issuer: "x", Role: "y"}, At: time.Now()}, {Scope: revocation.Scope{Role: "old"}, At: time.Now().Add(-13 * time.Hour)}}, nil)
		everybody("nonsense on the board", "d", 4)

		late := revocation.New(revocation.Config{Board: b})
		if err := late.Sync(t.Context()); err != nil || late.Since("a", alice).IsZero() {
			t.Errorf("who starts: %v", err)
		}
	})
}

// blind is a board that can be written, and not be read.
type blind struct{ *board }

func (blind) Load(context.Context) ([]revocation.Revocation, error) {
	return nil, errors.New("can't be read")
}

func TestABoardThatCannotBeReadOrHoldsTooMuch(t *testing.T) {
	b := &board{}
	l := revocation.New(revocation.Config{Board: blind{b}})
	if _, err := l.Revoke(t.Context(), revocation.Scope{Role: "a"}); !errors.Is(err, revocation.ErrNotShared) || b.saves() != 0 {
		t.Errorf("what others wrote is overwritten: %v", err)
	}
	full := make([]revocation.Revocation, 1024)
	for i := range full {
		full[i] = revocation.Revocation{Scope: revocation.Scope{Role: fmt.Sprint(i)}, At: time.Now()}
	}
	b.set(full, nil)
	l = revocation.New(revocation.Config{Board: b})
	if _, err := l.Revoke(t.Context(), revocation.Scope{Role: "a"}); !errors.Is(err, revocation.ErrNotShared) || !errors.Is(err, revocation.ErrFull) || b.saves() != 0 {
		t.Errorf("one too many: %v", err)
	}
	if l.Since("a", alice).IsZero() {
		t.Error("it isn't revoked here")
	}
}

// TestWhatCannotBeEnded is revoked all the same.
func TestWhatCannotBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, e := &board{}, &ended{err: errors.New("Vault is sealed")}
		l := revocation.New(revocation.Config{Board: b, End: e.end})
		r, err := l.Revoke(t.Context(), revocation.Scope{Role: "a"})
		if !errors.Is(err, revocation.ErrNotEnded) || errors.Is(err, revocation.ErrNotShared) || r.At.IsZero() || !strings.Contains(err.Error(), "Vault is sealed") {
			t.Error(err)
		}
		if !l.Since("a", alice).Equal(r.At) {
			t.Error("not revoked")
		}
		other := revocation.New(revocation.Config{Board: b, End: e.end})
		if err := other.Sync(t.Context()); !errors.Is(err, revocation.ErrNotEnded) || other.Since("a", alice).IsZero() {
			t.Error(err)
		}
	})
}

// TestABackEndThatHangsKeepsNobodyFromLearning, nor the program from ending.
func TestABackEndThatHangsKeepsNobodyFromLearning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		l := revocation.New(revocation.Config{Board: b, End: func(ctx context.Context, _ revocation.Revocation) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		run(t, l)
		for i := range 3 {
			b.set([]revocation.Revocation{{Scope: revocation.Scope{Role: fmt.Sprint(i)}, At: time.Now()}}, nil)
			time.Sleep(2 * time.Second)
			if l.Len() != i+1 {
				t.Errorf("it knows %d of %d", l.Len(), i+1)
			}
		}
		start := time.Now()
		if _, err := l.Revoke(t.Context(), revocation.Scope{Role: "mine"}); !errors.Is(err, revocation.ErrNotEnded) {
			t.Error(err)
		}
		if took := time.Since(start); took > 31*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}
