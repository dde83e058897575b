package broker_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/secret"
)

// forgetful remembers nothing.
type forgetful struct{ attest.MintedKeys }

func (forgetful) Keep(context.Context, attest.Minted) error { return attest.ErrUnavailable }

func TestWhatIsMintedIsRemembered(t *testing.T) {
	var minted *attest.MintedMemory
	w := newWorld(t, func(c *broker.Config) {
		minted = attest.NewMintedMemory(c.Now)
		c.Minted, c.MintedVerifier = minted, verifier{c.Now}
	})
	issued, err := w.Issue(t.Context(), ask("alice|finance", "reports"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := minted.Find(t.Context(), issued.AccessKeyID)
	if err != nil || k.SecretAccessKey.Reveal() != issued.SecretAccessKey.Reveal() || k.Token != sha256.Sum256([]byte(issued.SessionToken.Reveal())) ||
		k.Issuer != "https://idp" || k.Subject != "alice" || k.Role != "reports" || !k.Expires.Equal(issued.Expires) {
		t.Errorf("%+v, %v", k, err)
	}
	// What was minted proves who somebody is, and nothing else by it.
	proof := ask("alice|finance", "reports")
	proof.Proof = attest.Proof{Kind: attest.KindMinted, Data: secret.New("alice|finance")}
	if id, err := w.WhoIs(t.Context(), proof); err != nil || id.Subject != "alice" {
		t.Errorf("%+v, %v", id, err)
	}
	if e := w.audit.last(t); e.Event != "who_is" || e.Identity == nil || e.ProofKind != attest.KindMinted || e.Decision != "allowed" {
		t.Errorf("%+v", e)
	}
	_, issueErr := w.Issue(t.Context(), proof)
	_, rolesErr := w.ListRoles(t.Context(), proof)
	_, sessionErr := w.OpenGatewaySession(t.Context(), proof)
	actor := ask("alice|finance", "reports")
	actor.Actor = &proof.Proof
	_, actorErr := w.Issue(t.Context(), actor)
	for _, err := range []error{issueErr, rolesErr, sessionErr, actorErr} {
		if !errors.Is(err, attest.ErrMalformed) {
			t.Error(err)
		}
	}
	if w.backend.count() != 1 {
		t.Errorf("%d exchanges", w.backend.count())
	}
}

func TestWhatCannotBeRememberedIsHandedOut(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.Minted = forgetful{} })
	if _, err := w.Issue(t.Context(), ask("alice|finance", "reports")); err != nil || !strings.Contains(w.slog.String(), "not remembered") {
		t.Errorf("%v %s", err, w.slog.String())
	}
	proof := ask("", "")
	proof.Proof = attest.Proof{Kind: attest.KindMinted, Data: secret.New("alice|finance")}
	if _, err := w.WhoIs(t.Context(), proof); !errors.Is(err, attest.ErrMalformed) {
		t.Errorf("without a verifier: %v", err)
	}
}

func TestFloorIsWhatIsLeftOfCachedCredentials(t *testing.T) {
	w := newWorld(t)
	req := ask("alice|finance", "reports")
	req.Floor, req.Session = 20*time.Minute, "ci-7"
	first, err := w.Issue(t.Context(), req)
	if err != nil || first.Short || !first.Expires.Equal(w.now().Add(40*time.Minute)) || w.audit.last(t).Identity.Session != "ci-7" {
		t.Fatalf("%+v, %v", first, err)
	}
	w.advance(20*time.Minute + time.Second) // 20 minutes less a second are left
	again, err := w.Issue(t.Context(), req)
	w.Wait()
	if err != nil || again.Hit || again.Expires.Sub(w.now()) < 20*time.Minute {
		t.Errorf("%+v, %v", again, err)
	}
}
