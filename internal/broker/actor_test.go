package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

// by has somebody act in a request.
func by(token string) *attest.Proof {
	return &attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)}
}

func delegated() []policy.Role {
	direct := policy.Role{
		Name: "direct", Source: "f:1", When: `!has(identity.actor)`, Exchanger: "minio", Policies: []string{"rw"},
		TTL: policy.TTL{Min: time.Minute, Default: 5 * time.Minute, Max: time.Hour},
	}
	through, any, within := direct, direct, direct
	through.Name, through.When = "through", `identity.subject == "alice" && has(identity.actor) && identity.actor.subject == "kong"`
	any.Name, any.When = "any", `identity.subject == "alice"`
	within.Name, within.When, within.TTL.WithinProof = "within", "true", true
	return []policy.Role{direct, through, any, within}
}

func TestActorAndSubjectAreBothDecidedOn(t *testing.T) {
	w := newWorld(t)
	w.Replace(w.book(t, delegated()))
	issue := func(subject, role string, actor *attest.Proof) error {
		req := ask(subject, role)
		req.Actor = actor
		_, err := w.Issue(context.Background(), req)
		return err
	}
	for name, tc := range map[string]struct {
		subject, role string
		actor         *attest.Proof
		want          error
	}{
		"the actor that it takes":           {"alice", "through", by("kong"), nil},
		"none where one is needed":          {"alice", "through", nil, policy.ErrDenied},
		"another actor":                     {"alice", "through", by("mallory"), policy.ErrDenied},
		"the actor as the subject":          {"kong", "through", by("alice"), policy.ErrDenied},
		"the actor alone":                   {"kong", "through", nil, policy.ErrDenied},
		"one where none may be":             {"alice", "direct", by("kong"), policy.ErrDenied},
		"one of whom nothing is said":       {"alice", "any", by("kong"), nil},
		"a bad subject with a good actor":   {"bad", "any", by("kong"), attest.ErrRejected},
		"a bad actor":                       {"alice", "any", by("bad"), attest.ErrRejected},
		"an actor that can't be judged":     {"alice", "any", by("later"), attest.ErrUnavailable},
		"an actor without a proof":          {"alice", "any", &attest.Proof{}, attest.ErrMalformed},
		"an actor with an empty proof":      {"alice", "any", by(""), attest.ErrMalformed},
		"an actor of a kind that isn't had": {"alice", "any", &attest.Proof{Kind: attest.KindAWS, Data: secret.New("x")}, attest.ErrMalformed},
	} {
		if err := issue(tc.subject, tc.role, tc.actor); !errors.Is(err, tc.want) || tc.want == nil && err != nil {
			t.Errorf("%s: %v, expected %v", name, err, tc.want)
		}
	}
}

// What one actor was given is no other's, nor the subject's own.
func TestActorsShareNoCredentials(t *testing.T) {
	w := newWorld(t)
	w.Replace(w.book(t, delegated()))
	for _, actor := range []*attest.Proof{nil, by("kong"), by("agent"), nil, by("kong"), by("agent")} {
		req := ask("alice", "any")
		req.Actor = actor
		if _, err := w.Issue(context.Background(), req); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.backend.calls); n != 3 {
		t.Errorf("%d exchanges, expected 3", n)
	}
	entries := w.audit.entries
	e := entries[1]
	if e.Identity.Actor == nil || e.Identity.Actor.Subject != "kong" || e.Identity.Actor.Issuer != "https://idp" || e.ActorProofKind != attest.KindJWT ||
		e.ActorProofFingerprint == "" || e.ActorProofFingerprint == e.ProofFingerprint || entries[0].ActorProofKind != "" || entries[0].ActorProofFingerprint != "" {
		t.Errorf("%+v", e)
	}
}

// Neither proof may outlive the other in what is within it.
func TestTheFirstProofToEndCounts(t *testing.T) {
	for name, tc := range map[string]struct{ subject, actor string }{"the actor's": {"alice", "kong|short"}, "the subject's": {"alice|short", "kong"}} {
		w := newWorld(t)
		w.Replace(w.book(t, delegated()))
		req := ask(tc.subject, "within")
		req.Actor = by(tc.actor)
		got, err := w.Issue(context.Background(), req)
		if err != nil || got.Expires.Sub(w.now()) > 2*time.Minute {
			t.Errorf("%s: %v, %v", name, got.Expires.Sub(w.now()), err)
		}
	}
}
