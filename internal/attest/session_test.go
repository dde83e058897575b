package attest_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestGatewaySessionsInMemory(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := attest.NewGatewaySessionMemory(func() time.Time { return now })
	open := func(id string, life time.Duration) error {
		return m.Open(t.Context(), attest.GatewaySession{KeyID: id, Key: secret.New("key of " + id), Expires: now.Add(life)})
	}
	if err := errors.Join(open("a", time.Minute), open("b", time.Hour)); err != nil {
		t.Fatal(err)
	}
	if s, err := m.Find(t.Context(), "a"); err != nil || s.Key.Reveal() != "key of a" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := m.Find(t.Context(), "c"); !errors.Is(err, attest.ErrRejected) {
		t.Error(err)
	}
	now = now.Add(time.Minute)
	if _, err := m.Find(t.Context(), "a"); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("at its end: %v", err)
	}
	for n := range attest.MaxGatewaySessions - 1 { // the ended one makes room
		if err := open(fmt.Sprint(n), time.Hour); err != nil {
			t.Fatal(n, err)
		}
	}
	if err := open("full", time.Hour); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("full: %v", err)
	}
	if _, err := m.Find(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}
