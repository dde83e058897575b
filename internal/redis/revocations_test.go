package redis_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/revocation"
)

func TestRevocationsOfAllReplicas(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	one, two := connect(t, at(server.Addr)).Revocations(), connect(t, at(server.Addr)).Revocations()
	if got, err := one.Load(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	all := []revocation.Revocation{
		{Scope: revocation.Scope{Issuer: "https://planted", Subject: "alice"}, At: time.Now().UTC().Truncate(time.Microsecond)},
		{Scope: revocation.Scope{Role: "reports"}, At: time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)},
	}
	if err := one.Save(t.Context(), all, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, err := two.Load(t.Context()); err != nil || !slices.Equal(got, all) {
		t.Errorf("%v, %v", got, err)
	}
	if ttl := strings.TrimSpace(server.CLI("TTL", "credbroker:revoked")); ttl != "3600" && ttl != "3599" {
		t.Errorf("it stays for %s s", ttl)
	}
	if text := server.CLI("GET", "credbroker:revoked"); strings.Contains(text, "planted") {
		t.Errorf("it isn't sealed: %s", text)
	}
	// What others write is nothing.
	for _, write := range [][]string{
		{"SET", "credbroker:revoked", `[{"Role":"reports","At":"2099-01-01T00:00:00Z"}]`},
		{"SETRANGE", "credbroker:revoked", "5000000", "x"},
	} {
		server.CLI(write...)
		if got, err := two.Load(t.Context()); err != nil || len(got) != 0 {
			t.Errorf("%.60v: %v, %v", write, got, err)
		}
	}
	server.CLI("DEL", "credbroker:revoked")
	server.CLI("HSET", "credbroker:revoked", "a", "b")
	if got, err := two.Load(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("a hash: %v, %v", got, err)
	}
	server.Kill()
	if _, err := two.Load(t.Context()); err == nil {
		t.Error("nothing is wrong without Redis")
	}
	if err := two.Save(t.Context(), all, time.Now().Add(time.Hour)); err == nil {
		t.Error("nothing is wrong without Redis")
	}
}
