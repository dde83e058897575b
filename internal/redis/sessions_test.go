package redis_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestGatewaySessionsOfAllReplicas(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	one, two := connect(t, at(server.Addr)).Sessions(), connect(t, at(server.Addr)).Sessions()
	gateway := attest.Identity{
		Kind: attest.KindSPIFFE, Issuer: "spiffe://prod", Subject: "spiffe://prod/kong", Attrs: map[string][]string{"path": {"/kong"}}, PathAttrs: map[string]bool{"path": true},
		Expires: time.Now().Add(time.Minute).Truncate(time.Second).UTC(),
	}
	session := func(id string, life time.Duration) attest.GatewaySession {
		return attest.GatewaySession{KeyID: id, Key: secret.New("planted-\x00\xff-key"), Gateway: gateway, Expires: time.Now().Add(life).Truncate(time.Second).UTC()}
	}
	a := session("A", time.Hour)
	if err := one.Open(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	got, err := two.Find(t.Context(), "A")
	if err != nil || got.Key.Reveal() != a.Key.Reveal() || !reflect.DeepEqual(got.Gateway, gateway) || !got.Expires.Equal(a.Expires) || got.KeyID != "A" {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, a)
	}
	if ttl := server.CLI("TTL", "credbroker:gateway:{A}"); strings.TrimSpace(ttl) == "-1" {
		t.Error("it stays for ever")
	}
	if all := server.CLI("GET", "credbroker:gateway:{A}"); strings.Contains(all, "planted") || strings.Contains(all, "kong") {
		t.Errorf("it isn't sealed: %s", all)
	}
	// What others write is no session.
	server.CLI("COPY", "credbroker:gateway:{A}", "credbroker:gateway:{B}")
	server.CLI("SET", "credbroker:gateway:{C}", `{"Key":"AAAA","Expires":"2099-01-01T00:00:00Z"}`)
	server.CLI("HSET", "credbroker:gateway:{D}", "a", "b")
	server.CLI("SETRANGE", "credbroker:gateway:{E}", "70000", "x")
	for _, id := range []string{"B", "C", "D", "E", "F"} {
		if _, err := two.Find(t.Context(), id); !errors.Is(err, attest.ErrRejected) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := one.Open(t.Context(), session("G", -time.Second)); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("an ended one: %v", err)
	}
	large := session("H", time.Hour)
	large.Gateway.Attrs = map[string][]string{"a": {strings.Repeat("a", 64<<10)}}
	if err := one.Open(t.Context(), large); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("a large one: %v", err)
	}
	// Its end is what is sealed, not what Redis says.
	if err := one.Open(t.Context(), session("I", 2*time.Second)); err != nil {
		t.Fatal(err)
	}
	server.CLI("PERSIST", "credbroker:gateway:{I}")
	eventually(t, "the session has ended", func() error {
		if _, err := two.Find(t.Context(), "I"); !errors.Is(err, attest.ErrRejected) {
			return errors.New("still there")
		}
		return nil
	})
	server.Kill()
	if err := one.Open(t.Context(), session("J", time.Hour)); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("without Redis: %v", err)
	}
	if _, err := two.Find(t.Context(), "A"); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("without Redis: %v", err)
	}
}
