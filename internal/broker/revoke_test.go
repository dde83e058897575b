package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/revocation"
)

func newRevocableWorld(t *testing.T) (*world, *revocation.List) {
	t.Helper()
	var list *revocation.List
	w := newWorld(t, func(c *broker.Config) {
		list = revocation.New(revocation.Config{Now: c.Now})
		c.Revoked = list
	})
	return w, list
}

func TestWhatIsRevokedIsHandedOutNoMore(t *testing.T) {
	w, _ := newRevocableWorld(t)
	issue := func(token, role string) broker.Issued {
		t.Helper()
		issued, err := w.Issue(t.Context(), ask(token, role))
		if err != nil {
			t.Fatal(err)
		}
		return issued
	}
	alice, folder, bob := issue("alice|finance", "reports"), issue("alice|finance", "folder"), issue("bob|finance", "reports")
	for _, c := range []struct {
		scope              revocation.Scope
		alice, folder, bob bool // revoked
	}{
		{revocation.Scope{Issuer: "https://idp", Subject: "alice"}, true, true, false},
		{revocation.Scope{Role: "reports"}, true, false, true},
		{revocation.Scope{Issuer: "https://idp"}, true, true, true},
		{revocation.Scope{Issuer: "https://other"}, false, false, false},
	} {
		w.advance(time.Minute + time.Second) // so that the rate of mints is no matter
		before := w.now()
		r, err := w.Revoke(t.Context(), c.scope, "r9", "uid 0")
		if err != nil || r.At.Before(before) {
			t.Fatal(r, err)
		}
		e := w.audit.last(t)
		if e.Event != "revoke" || e.Decision != audit.Allowed || e.RequestID != "r9" || e.SourceAddress != "uid 0" || e.Role != c.scope.Role ||
			(e.Identity == nil) != (c.scope.Issuer == "") || e.Identity != nil && (e.Identity.Issuer != c.scope.Issuer || e.Identity.Subject != c.scope.Subject) || e.RuleSet == "" {
			t.Errorf("%+v: %+v", c.scope, e)
		}
		for what, was := range map[string]struct {
			issued  *broker.Issued
			token   string
			role    string
			revoked bool
		}{
			"alice": {&alice, "alice|finance", "reports", c.alice}, "folder": {&folder, "alice|finance", "folder", c.folder}, "bob": {&bob, "bob|finance", "reports", c.bob},
		} {
			now := issue(was.token, was.role)
			if now.Hit == was.revoked || (now.AccessKeyID == was.issued.AccessKeyID) == was.revoked {
				t.Errorf("%+v: %s: hit %v, %s after %s", c.scope, what, now.Hit, now.AccessKeyID, was.issued.AccessKeyID)
			}
			if again := issue(was.token, was.role); !again.Hit || again.AccessKeyID != now.AccessKeyID {
				t.Errorf("%+v: %s isn't kept any more", c.scope, what)
			}
			*was.issued = now
		}
	}
}

// TestRevokedWhileItWasMade is about callers that came before a revocation, and their exchange ends after it.
func TestRevokedWhileItWasMade(t *testing.T) {
	w, list := newRevocableWorld(t)
	w.backend.wait = make(chan struct{})
	got := make(chan broker.Issued, 1)
	go func() {
		issued, err := w.Issue(context.Background(), ask("alice|finance", "reports"))
		if err != nil {
			t.Error(err)
		}
		got <- issued
	}()
	w.backend.wait <- struct{}{}
	r, err := w.Revoke(t.Context(), revocation.Scope{Issuer: "https://idp", Subject: "alice"}, "r9", "")
	if err != nil {
		t.Fatal(err)
	}
	w.backend.wait <- struct{}{}
	for range 2 {
		w.backend.wait <- struct{}{}
	}
	if issued := <-got; issued.AccessKeyID != "AK2" {
		t.Errorf("%s was handed out", issued.AccessKeyID)
	}
	if calls := w.backend.calls; len(calls) != 2 || !calls[0].RevokedAt.IsZero() || !calls[1].RevokedAt.Equal(r.At) || !list.Since("reports", &calls[1].Identity).Equal(r.At) {
		t.Errorf("%d exchanges", len(calls))
	}
}

// TestRevokedAgainAndAgain ends.
func TestRevokedAgainAndAgain(t *testing.T) {
	w, _ := newRevocableWorld(t)
	w.backend.wait = make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		_, err := w.Issue(context.Background(), ask("alice|finance", "reports"))
		failed <- err
	}()
	for range 3 {
		w.backend.wait <- struct{}{}
		if _, err := w.Revoke(t.Context(), revocation.Scope{Role: "reports"}, "r9", ""); err != nil {
			t.Error(err)
		}
		w.backend.wait <- struct{}{}
	}
	if err := <-failed; !errors.Is(err, exchange.ErrUnavailable) || !strings.Contains(err.Error(), "revoked while") {
		t.Error(err)
	}
}

func TestRevocationsThatFail(t *testing.T) {
	w, list := newRevocableWorld(t)
	if r, err := w.Revoke(t.Context(), revocation.Scope{Role: "../x", Subject: "y"}, "r9", ""); !errors.Is(err, revocation.ErrInvalid) || !r.At.IsZero() {
		t.Error(err)
	}
	if e := w.audit.last(t); e.Event != "revoke" || e.Decision != audit.Failed || e.Code == "" || e.Role != "" {
		t.Errorf("%+v", e)
	}
	// What can't be audited is revoked all the same: it takes something away.
	w.audit.err = audit.ErrUnavailable
	if r, err := w.Revoke(t.Context(), revocation.Scope{Role: "reports"}, "r9", ""); !errors.Is(err, audit.ErrUnavailable) || r.At.IsZero() || list.Len() != 1 {
		t.Error(r, err)
	}
	if o := w.outcomes[len(w.outcomes)-1]; o.Event != "revoke" {
		t.Errorf("%+v", o)
	}
}
