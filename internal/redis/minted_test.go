package redis_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestMintedKeysOfAllReplicas(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	one, two := connect(t, at(server.Addr)).Minted(), connect(t, at(server.Addr)).Minted()
	key := func(id string, life time.Duration) attest.Minted {
		return attest.Minted{
			AccessKeyID: id, SecretAccessKey: secret.New("planted-\x00\xff-key"), Token: [32]byte{1, 2, 3}, Issuer: "https://idp", Subject: "alice", Role: "reports",
			Expires: time.Now().Add(life).Truncate(time.Second).UTC(),
		}
	}
	a := key("AKIDA", time.Hour)
	if err := one.Keep(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	got, err := two.Find(t.Context(), "AKIDA")
	if err != nil || got.SecretAccessKey.Reveal() != a.SecretAccessKey.Reveal() || got.Token != a.Token || got.Issuer != a.Issuer || got.Subject != a.Subject || got.Role != a.Role || !got.Expires.Equal(a.Expires) || got.AccessKeyID != "AKIDA" {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, a)
	}
	// What lies in Redis names nobody, and ends.
	stored := strings.TrimSpace(server.CLI("KEYS", "*minted*"))
	if stored == "" || strings.Contains(stored, "AKIDA") || strings.Contains(stored, "\n") {
		t.Fatalf("the keys are %q", stored)
	}
	if ttl := server.CLI("TTL", stored); strings.TrimSpace(ttl) == "-1" {
		t.Error("it stays for ever")
	}
	if all := server.CLI("GET", stored); strings.Contains(all, "planted") || strings.Contains(all, "alice") || strings.Contains(all, "reports") {
		t.Errorf("it isn't sealed: %s", all)
	}
	// What lay in another place, or others write, is none.
	if err := one.Keep(t.Context(), key("AKIDB", time.Hour)); err != nil {
		t.Fatal(err)
	}
	for stored := range strings.FieldsSeq(server.CLI("KEYS", "*minted*")) {
		for change, args := range map[string][]string{"text": {"SET", stored, `{"Secret":"AAAA","Expires":"2099-01-01T00:00:00Z"}`}, "size": {"SETRANGE", stored, "9000", "x"}, "end": {"DEL", stored}} {
			server.CLI(args...)
			_, errA := two.Find(t.Context(), "AKIDA")
			_, errB := two.Find(t.Context(), "AKIDB")
			if !errors.Is(errA, attest.ErrRejected) && !errors.Is(errB, attest.ErrRejected) {
				t.Errorf("%s: %v, %v", change, errA, errB)
			}
		}
	}
	for _, c := range []attest.Minted{key("ended", -time.Second), func() attest.Minted { k := key("large", time.Hour); k.Subject = strings.Repeat("a", 9<<10); return k }()} {
		if err := one.Keep(t.Context(), c); !errors.Is(err, attest.ErrUnavailable) {
			t.Errorf("%s: %v", c.AccessKeyID, err)
		}
	}
	// Moved to another key's place, it is none.
	if err := errors.Join(one.Keep(t.Context(), a), one.Keep(t.Context(), key("AKIDB", time.Hour))); err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(server.CLI("KEYS", "*minted*"))
	value := [2]error{}
	server.CLI("COPY", names[0], names[1], "REPLACE")
	_, value[0] = two.Find(t.Context(), "AKIDA")
	_, value[1] = two.Find(t.Context(), "AKIDB")
	if (value[0] == nil) == (value[1] == nil) {
		t.Errorf("moved: %v", value)
	}
	server.Kill()
	if _, err := two.Find(t.Context(), "AKIDA"); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("without Redis: %v", err)
	}
	if err := one.Keep(t.Context(), a); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("without Redis: %v", err)
	}
}
