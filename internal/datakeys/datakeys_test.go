package datakeys

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/vault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shared is a store in memory.
type shared struct {
	mu  sync.Mutex
	doc []byte
}

func (s *shared) Load(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doc, nil
}

func (s *shared) Swap(_ context.Context, former, document []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(s.doc, former) {
		return false, nil
	}
	s.doc = document
	return true, nil
}

func (s *shared) set(doc []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doc = doc
}

// world is a Vault, a store and a clock that replicas share.
type world struct {
	t      *testing.T
	vault  *brokertest.Vault
	client *vault.Client
	store  *shared
	now    time.Time
}

func start(t *testing.T) *world {
	t.Helper()
	v := brokertest.StartVault(t, brokertest.VaultOptions{})
	v.Prepare(nil, "sealing", "approle")
	role, id := v.AppRoleFiles("credbroker")
	c, err := vault.New(vault.Config{Address: v.URL, Login: vault.AppRole{Mount: "approle", Role: "credbroker", RoleIDFile: role, SecretIDFile: id}, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { c.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return &world{t: t, vault: v, client: c, store: &shared{}, now: time.Now().Truncate(time.Second)}
}

// replica has what was put in force there.
type replica struct {
	*Keys
	sealing, names []secret.Secret
}

func (w *world) replica() *replica {
	r := &replica{}
	r.Keys = New(Config{
		Client: w.client, Mount: "transit", Key: "credbroker-sealing", Store: w.store, RotateEvery: 720 * time.Hour, Now: func() time.Time { return w.now },
		Apply: func(sealing, names []secret.Secret) error {
			r.sealing, r.names = sealing, names
			return nil
		},
	})
	return r
}

func (w *world) look(replicas ...*replica) {
	w.t.Helper()
	for _, r := range replicas {
		if err := r.look(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
}

func same(a, b []secret.Secret) bool { return slices.EqualFunc(a, b, secret.Secret.Equal) }

func TestReplicasHaveTheSameKeysAndTheStoreHasNone(t *testing.T) {
	w := start(t)
	one, two := w.replica(), w.replica()
	w.look(one, two)
	if len(one.sealing) != 1 || !same(one.sealing, two.sealing) || !same(one.names, two.names) || one.sealing[0].Equal(one.names[0]) {
		t.Fatal("not the same keys, or one for both purposes")
	}
	for _, key := range append(one.sealing, one.names...) {
		if strings.Contains(string(w.store.doc), key.Reveal()) {
			t.Error("a key is in the store")
		}
	}
	if !strings.Contains(string(w.store.doc), `"vault:v1:`) {
		t.Errorf("%s", w.store.doc)
	}
}

func TestReplicasThatStartTogetherAgree(t *testing.T) {
	w := start(t)
	replicas := make([]*replica, 8)
	var all sync.WaitGroup
	for n := range replicas {
		replicas[n] = w.replica()
		all.Go(func() {
			if err := replicas[n].look(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, r := range replicas {
		if !same(r.sealing, replicas[0].sealing) {
			t.Fatal("different keys")
		}
	}
}

func TestRotationOpensWhatTheFormerKeySealed(t *testing.T) {
	w := start(t)
	one, two := w.replica(), w.replica()
	w.look(one, two)
	first := one.sealing[0]

	w.now = w.now.Add(720*time.Hour + time.Second)
	w.look(one, two)
	if len(one.sealing) != 2 || !one.sealing[0].Equal(first) || !same(one.sealing, two.sealing) {
		t.Fatal("the new key is used before all know it, or isn't there")
	}
	second := one.sealing[1]
	w.now = w.now.Add(spreadFor)
	w.look(one, two)
	if len(one.sealing) != 2 || !one.sealing[0].Equal(second) || !one.sealing[1].Equal(first) || !same(one.sealing, two.sealing) || len(one.names) != 2 {
		t.Fatal("the new key isn't used, or the former is gone")
	}
	w.now = w.now.Add(keepFor)
	w.look(one)
	if len(one.sealing) != 2 {
		t.Fatal("the former key is gone too early")
	}
	w.now = w.now.Add(2 * time.Second)
	w.look(one, two)
	if len(one.sealing) != 1 || !one.sealing[0].Equal(second) || !same(one.sealing, two.sealing) {
		t.Fatal("the former key is there still")
	}
}

func TestEmptiedStoreGetsTheSameKeysBack(t *testing.T) {
	w := start(t)
	one := w.replica()
	w.look(one)
	first := one.sealing[0]
	w.store.set(nil)
	two := w.replica()
	w.look(one, two)
	if !one.sealing[0].Equal(first) || !two.sealing[0].Equal(first) {
		t.Error("other keys")
	}
}

func TestWithoutVaultTheKeysStayAndNobodyElseGetsThem(t *testing.T) {
	w := start(t)
	one, late := w.replica(), w.replica()
	w.look(one)
	w.vault.Seal()
	w.look(one) // unwrapped once, and not again
	if err := late.look(t.Context()); !errors.Is(err, vault.ErrUnavailable) || late.sealing != nil {
		t.Errorf("%v", err)
	}
	w.now = w.now.Add(721 * time.Hour)
	w.look(one) // due, and not rotated
	if len(one.sealing) != 1 {
		t.Error("rotated without Vault")
	}
	w.vault.Unseal()
	brokertest.Eventually(t, 5*time.Second, "keys", func() error { return late.look(t.Context()) })
}

func TestDocumentsOfOthersAreRefused(t *testing.T) {
	w := start(t)
	one := w.replica()
	w.look(one)
	good := string(w.store.doc)
	before := one.sealing
	w.vault.Write("transit/keys/other", brokertest.VaultData{"type": "aes256-gcm96"})
	other := w.vault.Write("transit/datakey/plaintext/other", nil)["ciphertext"].(string)
	for name, doc := range map[string]string{
		"wrapped by another key": `{"format":1,"keys":[{"wrapped":"` + other + `","made":1}]}`,
		"not wrapped":            `{"format":1,"keys":[{"wrapped":"AAAA","made":1}]}`,
		"none":                   `{"format":1,"keys":[]}`,
		"three":                  `{"format":1,"keys":[` + strings.Repeat(`{"wrapped":"x","made":1},`, 2) + `{"wrapped":"x","made":1}]}`,
		"another format":         strings.Replace(good, `"format":1`, `"format":2`, 1),
		"more members":           strings.Replace(good, `"format":1`, `"format":1,"x":1`, 1),
		"no JSON":                "x",
	} {
		w.store.set([]byte(doc))
		if err := one.look(t.Context()); err == nil || !same(one.sealing, before) {
			t.Errorf("%s: %v", name, err)
		}
		if string(w.store.doc) != doc {
			t.Errorf("%s: it was written over", name)
		}
	}
	w.store.set([]byte(good))
	w.look(one)
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := parse(raw)
		if err == nil && raw != nil && (len(doc.Keys) < 1 || len(doc.Keys) > secret.MaxLiveKeys) {
			t.Errorf("%d keys", len(doc.Keys))
		}
	})
}
