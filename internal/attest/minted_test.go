package attest_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestMintedKeysInMemory(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := attest.NewMintedMemory(func() time.Time { return now })
	keep := func(id string, life time.Duration) error {
		return m.Keep(t.Context(), attest.Minted{AccessKeyID: id, SecretAccessKey: secret.New("key of " + id), Expires: now.Add(life)})
	}
	if err := errors.Join(keep("a", time.Minute), keep("b", time.Hour)); err != nil {
		t.Fatal(err)
	}
	if k, err := m.Find(t.Context(), "a"); err != nil || k.SecretAccessKey.Reveal() != "key of a" {
		t.Errorf("%+v, %v", k, err)
	}
	if _, err := m.Find(t.Context(), "c"); !errors.Is(err, attest.ErrRejected) {
		t.Error(err)
	}
	for n := range attest.MaxMinted - 2 {
		if err := keep(fmt.Sprint(n), time.Hour); err != nil {
			t.Fatal(n, err)
		}
	}
	if err := keep("full", time.Hour); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("full: %v", err)
	}
	now = now.Add(time.Minute)
	if _, err := m.Find(t.Context(), "a"); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("at its end: %v", err)
	}
	if err := keep("new", time.Hour); err != nil { // the ended one makes room
		t.Error(err)
	}
	if _, err := m.Find(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}
