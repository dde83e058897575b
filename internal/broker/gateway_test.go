package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

// gateways takes a consumer's name, by the gateway kong.
type gateways struct{ verifier }

func (g gateways) Verify(_ context.Context, p attest.Proof) (attest.Identity, error) {
	id := attest.Identity{Kind: attest.KindKong, Issuer: "kong", Subject: p.Data.Reveal(), Expires: g.now().Add(time.Hour)}
	if p.Data.Reveal() != "nobody's" {
		id.Actor = &attest.Identity{Kind: attest.KindOIDC, Issuer: "https://idp", Subject: "kong", Expires: g.now().Add(time.Hour)}
	}
	return id, nil
}

// brokenSessions keeps none.
type brokenSessions struct{ attest.GatewaySessions }

func (brokenSessions) Open(context.Context, attest.GatewaySession) error {
	return fmt.Errorf("%w: planted", attest.ErrUnavailable)
}

func gatewayRoles() []policy.Role {
	return []policy.Role{
		{Name: "gateway", Source: "f:1", When: `identity.subject == "kong" && !has(identity.actor)`, Gateway: true, TTL: policy.TTL{Default: 10 * time.Minute, Max: time.Hour, Min: time.Minute}},
		{Name: "anybodys", Source: "f:2", When: `true`, Gateway: true},
		{Name: "consumer", Source: "f:3", When: `identity.kind == "kong" && identity.subject == "5b6a" && identity.actor.subject == "kong"`, Exchanger: "minio", Policies: []string{"rw"}},
	}
}

func gatewayWorld(t *testing.T, roles []policy.Role, change ...func(*broker.Config)) (*world, *attest.GatewaySessionMemory) {
	t.Helper()
	var sessions *attest.GatewaySessionMemory
	w := newWorld(t, append([]func(*broker.Config){func(c *broker.Config) {
		sessions = attest.NewGatewaySessionMemory(c.Now)
		c.Sessions = sessions
	}}, change...)...)
	w.use(t, roles)
	return w, sessions
}

func (w *world) use(t *testing.T, roles []policy.Role) {
	t.Helper()
	book := w.book(t, roles)
	book.Verifiers[attest.KindGateway] = gateways{verifier{w.now}}
	w.Replace(book)
}

func consumer(name string) broker.Request {
	req := ask("", "consumer")
	req.Proof = attest.Proof{Kind: attest.KindGateway, Data: secret.New(name)}
	return req
}

func TestOpenGatewaySession(t *testing.T) {
	w, sessions := gatewayWorld(t, gatewayRoles())
	got, err := w.OpenGatewaySession(context.Background(), ask("kong", "gateway"))
	if err != nil || len(got.KeyID) != 26 || got.Key.Len() != 32 || !got.Expires.Equal(w.now().Add(10*time.Minute)) || got.Role != "gateway" {
		t.Fatalf("%+v, %v", got, err)
	}
	kept, err := sessions.Find(context.Background(), got.KeyID)
	if err != nil || kept.Key.Reveal() != got.Key.Reveal() || kept.Gateway.Subject != "kong" || !kept.Expires.Equal(got.Expires) {
		t.Errorf("%+v, %v", kept, err)
	}
	e := w.audit.entries[0]
	if e.Event != "open_gateway_session" || e.Decision != audit.Allowed || e.AccessKeyID != got.KeyID || e.Rule != "f:1" || !e.Expires.Equal(got.Expires) || e.Result != "mint" {
		t.Errorf("%+v", e)
	}
	again, err := w.OpenGatewaySession(context.Background(), ask("kong", "gateway"))
	if err != nil || again.KeyID == got.KeyID || again.Key.Reveal() == got.Key.Reveal() {
		t.Errorf("a second one: %+v, %v", again, err)
	}
	long := ask("kong", "gateway")
	long.TTL = 2 * time.Hour
	if got, err := w.OpenGatewaySession(context.Background(), long); err != nil || !got.Expires.Equal(w.now().Add(time.Hour)) {
		t.Errorf("for two hours: %v, %v", got.Expires, err)
	}
	for name, tc := range map[string]struct {
		req  broker.Request
		want error
	}{
		"somebody else":              {ask("alice", "gateway"), policy.ErrDenied},
		"a role of credentials":      {ask("kong", "consumer"), policy.ErrDenied},
		"no role":                    {ask("kong", "nothing"), policy.ErrDenied},
		"a bad proof":                {ask("bad", "gateway"), attest.ErrRejected},
		"a consumer, whatever it is": {func() broker.Request { r := consumer("5b6a"); r.Role = "anybodys"; return r }(), policy.ErrDenied},
	} {
		if got, err := w.OpenGatewaySession(context.Background(), tc.req); !errors.Is(err, tc.want) || got.KeyID != "" || !got.Key.IsZero() {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// The other way round, a role for gateways gives no credentials, and isn't among those that do.
	if _, err := w.Issue(context.Background(), ask("kong", "gateway")); !errors.Is(err, policy.ErrDenied) {
		t.Error(err)
	}
	if roles, err := w.ListRoles(context.Background(), ask("kong", "")); err != nil || len(roles) != 0 {
		t.Errorf("%+v, %v", roles, err)
	}
}

func TestGatewaySessionsAreBounded(t *testing.T) {
	w, _ := gatewayWorld(t, gatewayRoles())
	for range 5 {
		if _, err := w.OpenGatewaySession(context.Background(), ask("kong", "gateway")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.OpenGatewaySession(context.Background(), ask("kong", "gateway")); !errors.Is(err, broker.ErrRateLimited) {
		t.Error(err)
	}
	w, _ = gatewayWorld(t, gatewayRoles(), func(c *broker.Config) { c.Sessions = brokenSessions{} })
	if got, err := w.OpenGatewaySession(context.Background(), ask("kong", "gateway")); !errors.Is(err, attest.ErrUnavailable) || got.KeyID != "" {
		t.Errorf("%+v, %v", got, err)
	}
	w, _ = gatewayWorld(t, gatewayRoles(), func(c *broker.Config) { c.Sessions = nil })
	if _, err := w.OpenGatewaySession(context.Background(), ask("kong", "gateway")); !errors.Is(err, policy.ErrDenied) {
		t.Error(err)
	}
	w, _ = gatewayWorld(t, gatewayRoles())
	w.audit.err = audit.ErrUnavailable
	if got, err := w.OpenGatewaySession(context.Background(), ask("kong", "gateway")); !errors.Is(err, audit.ErrUnavailable) || got.KeyID != "" || !got.Key.IsZero() {
		t.Errorf("unaudited: %+v, %v", got, err)
	}
}

// A gateway speaks only while a role lets it.
func TestAGatewaySpeaksWhileItMay(t *testing.T) {
	w, _ := gatewayWorld(t, gatewayRoles()[:1:1])
	w.use(t, append(gatewayRoles()[:1:1], gatewayRoles()[2]))
	if got, err := w.Issue(context.Background(), consumer("5b6a")); err != nil || got.Role != "consumer" {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := w.Issue(context.Background(), consumer("other")); !errors.Is(err, policy.ErrDenied) {
		t.Errorf("another consumer: %v", err)
	}
	if _, err := w.Issue(context.Background(), consumer("nobody's")); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("without a gateway: %v", err)
	}
	third := consumer("5b6a")
	third.Actor = by("kong")
	if _, err := w.Issue(context.Background(), third); !errors.Is(err, attest.ErrMalformed) {
		t.Errorf("an actor beside the gateway: %v", err)
	}
	w.use(t, gatewayRoles()[2:])
	if _, err := w.Issue(context.Background(), consumer("5b6a")); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("after the gateway's role is gone: %v", err)
	}
}
