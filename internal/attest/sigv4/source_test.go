package sigv4_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/sigv4"
	"github.com/credbroker/credbroker/internal/secret"
)

// vaultKeys is a source whose key and error can be changed.
type vaultKeys struct {
	mu    sync.Mutex
	id    string
	key   string
	err   error
	wait  chan struct{}
	asked atomic.Int32
}

func (s *vaultKeys) Key(ctx context.Context) (string, secret.Secret, error) {
	s.asked.Add(1)
	s.mu.Lock()
	id, key, err, wait := s.id, s.key, s.err, s.wait
	s.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return "", secret.Secret{}, ctx.Err()
		}
	}
	return id, secret.New(key), err
}

func (s *vaultKeys) set(id, key string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.key, s.err = id, key, err
}

// elsewhere is a verifier with a key of a source, by name "kept", beside the key keyID.
func elsewhere(t *testing.T, sources ...*vaultKeys) *sigv4.Verifier {
	t.Helper()
	keys := []sigv4.Key{{Name: "vault", AccessKeyID: keyID, SecretAccessKey: secret.New(theKey)}}
	for _, s := range sources {
		keys = append(keys, sigv4.Key{Name: "kept", Source: s})
	}
	v, err := sigv4.New(keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func shown(t *testing.T, v *sigv4.Verifier, id, key string) (string, error) {
	t.Helper()
	c := goodCall()
	c.id, c.secret, c.at = id, key, time.Now().UTC()
	got, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindSigV4, Data: secret.New(c.proof(t))})
	return got.Subject, err
}

func TestKeysOfASource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &vaultKeys{id: "AKIDKEPT", key: "first"}
		v := elsewhere(t, s)
		expect := func(what, id, key string, want error) {
			t.Helper()
			name, err := shown(t, v, id, key)
			if !errors.Is(err, want) || err == nil && name != "kept" {
				t.Errorf("%s: %q, %v", what, name, err)
			}
		}
		expect("its key", "AKIDKEPT", "first", nil)
		expect("another secret", "AKIDKEPT", "second", attest.ErrRejected)
		expect("another ID", "AKIDNONE", "first", attest.ErrRejected)
		expect("no secret", "AKIDNONE", "", attest.ErrRejected)
		for range 100 {
			expect("junk", "AKIDNONE", "x", attest.ErrRejected)
		}
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times within ten seconds", n)
		}
		s.set("AKIDKEPT", "second", nil)
		time.Sleep(9 * time.Second)
		expect("what it was, in the tenth second", "AKIDKEPT", "first", nil)
		time.Sleep(time.Second)
		expect("what it was, after ten seconds", "AKIDKEPT", "first", attest.ErrRejected)
		expect("what it is, after ten seconds", "AKIDKEPT", "second", nil)

		s.set("AKIDKEPT", "second", errors.New("not there"))
		time.Sleep(10 * time.Second)
		expect("what can't be read", "AKIDKEPT", "second", attest.ErrUnavailable)
		expect("an unknown ID, that may be there", "AKIDNONE", "x", attest.ErrUnavailable)
		asked := s.asked.Load()
		for range 100 {
			expect("what can't be read", "", "", attest.ErrMalformed)
			expect("what can't be read", "AKIDKEPT", "second", attest.ErrUnavailable)
		}
		if s.asked.Load() != asked {
			t.Error("asked again within a second")
		}
		if name, err := shown(t, v, keyID, theKey); name != "vault" || err != nil {
			t.Errorf("a key at hand, while another can't be read: %q, %v", name, err)
		}
		s.set("AKIDKEPT", "second", nil)
		time.Sleep(time.Second)
		expect("what can be read again", "AKIDKEPT", "second", nil)
	})
}

// TestTheFirstKeyOfAnIDCounts says that nobody takes over another's key ID by what he writes into a source.
func TestTheFirstKeyOfAnIDCounts(t *testing.T) {
	v := elsewhere(t, &vaultKeys{id: "AKIDKEPT", key: "first"}, &vaultKeys{id: "AKIDKEPT", key: "second"}, &vaultKeys{id: keyID, key: "third"})
	for key, want := range map[string]error{"first": nil, "second": attest.ErrRejected} {
		if _, err := shown(t, v, "AKIDKEPT", key); !errors.Is(err, want) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := shown(t, v, keyID, "third"); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("the ID of a key at hand: %v", err)
	}
}

// TestWhoLeavesDoesNotFailOthers has many wait for a source, and the one that asks it leave.
func TestWhoLeavesDoesNotFailOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &vaultKeys{id: "AKIDKEPT", key: "first", wait: make(chan struct{})}
		v := elsewhere(t, s)
		c := goodCall()
		c.id, c.secret, c.at = "AKIDKEPT", "first", time.Now().UTC()
		proof := attest.Proof{Kind: attest.KindSigV4, Data: secret.New(c.proof(t))}
		first, leave := context.WithCancel(t.Context())
		var left error
		go func() { _, left = v.Verify(first, proof) }()
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := v.Verify(impatient, proof); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who waits for its turn for too long: %v", err)
		}
		errs := make(chan error, 3)
		for range cap(errs) {
			go func() {
				_, err := v.Verify(t.Context(), proof)
				errs <- err
			}()
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		close(s.wait)
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if !errors.Is(left, context.Canceled) {
			t.Error(left)
		}
		if n := s.asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestWhyASourceFails(t *testing.T) {
	_, err := shown(t, elsewhere(t, &vaultKeys{err: errors.New("kv/data/x: permission denied")}), "AKIDKEPT", "x")
	if err == nil || !strings.Contains(err.Error(), "access key kept: kv/data/x: permission denied") {
		t.Error(err)
	}
}
