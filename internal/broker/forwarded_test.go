package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

// named is a gateway's word on a consumer that has all names there are.
type named struct{ verifier }

func (g named) Verify(context.Context, attest.Proof) (attest.Identity, error) {
	return attest.Identity{
		Kind: attest.KindKong, Issuer: "kong", Subject: "5b6a", Expires: g.now().Add(2 * time.Hour),
		Attrs: map[string][]string{"consumer_custom_id": {"alice"}, "consumer_username": {"bob"}, "credential_id": {"carol"}, "groups": {"dave"}},
		Actor: &attest.Identity{Kind: attest.KindOIDC, Issuer: "https://idp", Subject: "kong", Expires: g.now().Add(2 * time.Hour)},
	}, nil
}

// Two identities in one request both hold and agree, or neither counts.
func TestAForwardedTokenIsVerifiedAgain(t *testing.T) {
	w, _ := gatewayWorld(t, append(gatewayRoles(), policy.Role{
		Name: "confirmed", Source: "f:4", When: `identity.kind == "kong" && identity.subject == "5b6a" && "alice" in identity.attrs.token_subject && size(identity.attrs.token_issuer) == 1`,
		Exchanger: "minio", Policies: []string{"rw"},
	}))
	book := w.Rulebook()
	book.Verifiers[attest.KindGateway] = named{verifier{w.now}}
	w.Replace(book)
	with := func(role string, forwarded *attest.Proof) broker.Request {
		req := consumer("5b6a")
		req.Role, req.Forwarded = role, forwarded
		return req
	}
	token := func(subject string) *attest.Proof {
		return &attest.Proof{Kind: attest.KindJWT, Data: secret.New(subject)}
	}
	for name, tc := range map[string]struct {
		req  broker.Request
		want error
	}{
		"no token":                       {with("consumer", nil), nil},
		"a role that needs one":          {with("confirmed", nil), policy.ErrDenied},
		"the consumer's custom ID":       {with("confirmed", token("alice")), nil},
		"its username":                   {with("consumer", token("bob")), nil},
		"its credential":                 {with("consumer", token("carol")), nil},
		"its ID":                         {with("consumer", token("5b6a")), nil},
		"of a group's name":              {with("consumer", token("dave")), broker.ErrForwardedToken},
		"somebody else's":                {with("consumer", token("mallory")), broker.ErrForwardedToken},
		"one that doesn't hold":          {with("consumer", token("bad")), broker.ErrForwardedToken},
		"another kind of proof":          {with("consumer", &attest.Proof{Kind: attest.KindAWS, Data: secret.New("alice")}), attest.ErrMalformed},
		"an empty one":                   {with("consumer", &attest.Proof{Kind: attest.KindJWT}), broker.ErrForwardedToken},
		"a token beside another token's": {func() broker.Request { r := ask("alice", "consumer"); r.Forwarded = token("alice"); return r }(), attest.ErrMalformed},
	} {
		if _, err := w.Issue(context.Background(), tc.req); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	// It ends when the first of both does.
	access, err := w.ExplainAccess(context.Background(), with("", token("alice")))
	if err != nil || !access.Identity.Expires.Before(w.now().Add(2*time.Hour)) || access.Identity.Subject != "5b6a" || access.Identity.Actor.Subject != "kong" {
		t.Errorf("%+v, %v", access.Identity, err)
	}
}
