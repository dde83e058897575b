package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

// newWorldOfTwo has a second exchanger, "second", which is the fall-back of the role "reports".
func newWorldOfTwo(t *testing.T, change ...func(*broker.Config)) (w *world, second *backend) {
	t.Helper()
	second = &backend{}
	w = newWorld(t, append(change, func(c *broker.Config) {
		second.now = c.Now
		c.Exchangers["second"] = broker.Exchanger{Exchanger: second, Target: "http://second"}
	})...)
	all := roles()
	all[0].Fallback = "second"
	rules, err := policy.Compile(all, map[string]policy.Backend{"minio": honours, "second": honours})
	if err != nil {
		t.Fatal(err)
	}
	book := w.Rulebook()
	book.Rules = rules
	w.Replace(book)
	return w, second
}

func TestFallbackServesWhileTheExchangerIsAway(t *testing.T) {
	w, second := newWorldOfTwo(t)
	w.backend.err = fmt.Errorf("%w: no route", exchange.ErrUnavailable)
	issued, err := w.Issue(t.Context(), ask("alice|finance", "reports"))
	if err != nil || issued.Hit || second.count() != 1 {
		t.Fatalf("%+v, %v", issued, err)
	}
	if e := w.audit.last(t); e.Exchanger != "second" || e.Result != "mint" {
		t.Errorf("%+v", e)
	}
	if !strings.Contains(w.slog.String(), "its fall-back is asked") {
		t.Error(w.slog.String())
	}
	// What it gave is kept as the role's, and a hit names nobody.
	w.backend.err = nil
	if issued, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil || !issued.Hit || w.audit.last(t).Exchanger != "" {
		t.Errorf("%+v, %v", issued, err)
	}
	if _, err := w.Issue(t.Context(), ask("bob|finance", "reports")); err != nil || w.audit.last(t).Exchanger != "minio" || second.count() != 1 {
		t.Errorf("back again: %+v, %v", w.audit.last(t), err)
	}
}

func TestFallbackIsNotAskedWhereItsWordWouldNotCount(t *testing.T) {
	for name, c := range map[string]struct {
		role string
		err  error
	}{
		"refused":              {"reports", exchange.ErrRefused},
		"unsafe":               {"reports", exchange.ErrUnsafe},
		"a bad result":         {"reports", exchange.ErrBadResult},
		"the caller left":      {"reports", context.Canceled},
		"a role that has none": {"folder", exchange.ErrUnavailable},
	} {
		w, second := newWorldOfTwo(t)
		w.backend.err = c.err
		if _, err := w.Issue(t.Context(), ask("alice|finance", c.role)); !errors.Is(err, c.err) || second.count() != 0 {
			t.Errorf("%s: %v, asked %d times", name, err, second.count())
		}
	}
}

func TestBothAway(t *testing.T) {
	w, second := newWorldOfTwo(t)
	w.backend.err, second.err = fmt.Errorf("%w: the first", exchange.ErrUnavailable), fmt.Errorf("%w: the second", exchange.ErrRefused)
	_, err := w.Issue(t.Context(), ask("alice|finance", "reports"))
	if !errors.Is(err, exchange.ErrRefused) || errors.Is(err, exchange.ErrUnavailable) || !strings.Contains(err.Error(), "the first") {
		t.Errorf("%v", err)
	}
}

func TestFallbacksResultIsLookedAtAsWell(t *testing.T) {
	w, second := newWorldOfTwo(t)
	w.backend.err = exchange.ErrUnavailable
	second.life = 1 << 50
	if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); !errors.Is(err, exchange.ErrBadResult) {
		t.Errorf("%v", err)
	}
}

// Credentials of a role are good for its targets: another fall-back makes others of them.
func TestFallbackIsPartOfTheKey(t *testing.T) {
	keyer := cache.NewKeyer(secret.New(strings.Repeat("k", 32)))
	share := func(c *broker.Config) { c.Keyer = keyer }
	w, second := newWorldOfTwo(t, share)
	if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil {
		t.Fatal(err)
	}
	book := w.Rulebook()
	w.Replace(w.book(t, roles()))
	if issued, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil || issued.Hit {
		t.Errorf("%+v, %v", issued, err)
	}
	w.Replace(book)
	if issued, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil || !issued.Hit || second.count() != 0 {
		t.Errorf("%+v, %v", issued, err)
	}
}

// The proof reaches the exchanger, for those that pass it on.
func TestTheProofGoesWithTheExchange(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil || w.backend.calls[0].Proof.Data.Reveal() != "alice|finance" {
		t.Errorf("%+v, %v", w.backend.calls, err)
	}
}

// Whoever moves to another team gets none of the former team's credentials, though it is the same identity and role.
func TestSessionTagsArePartOfTheKey(t *testing.T) {
	w := newWorld(t)
	rules, err := policy.Compile([]policy.Role{{Name: "tagged", When: "true", Exchanger: "minio", SessionTags: map[string]string{"team": "{{attrs.groups}}"}}},
		map[string]policy.Backend{"minio": {SessionTags: true}})
	if err != nil {
		t.Fatal(err)
	}
	book := w.Rulebook()
	book.Rules = rules
	w.Replace(book)
	for _, c := range []struct {
		token string
		hit   bool
	}{{"alice|finance", false}, {"alice|finance", true}, {"alice|audit", false}} {
		if issued, err := w.Issue(t.Context(), ask(c.token, "tagged")); err != nil || issued.Hit != c.hit {
			t.Errorf("%s: %+v, %v", c.token, issued, err)
		}
	}
}
