package seal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
)

func key(c string) secret.Secret { return secret.New(strings.Repeat(c, secret.KeySize)) }

func ring(t testing.TB, keys ...secret.Secret) *seal.Keyring {
	t.Helper()
	k, err := seal.NewKeyring(keys)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func opens(t *testing.T, k *seal.Keyring, purpose, name string, sealed []byte) bool {
	t.Helper()
	plain, err := k.Open(purpose, []byte(name), sealed)
	if err != nil && !errors.Is(err, seal.ErrOpen) || err == nil && string(plain) != "credentials" {
		t.Errorf("opened as %q, %v", plain, err)
	}
	return err == nil
}

func TestSealedOpensInItsPlaceAlone(t *testing.T) {
	k := ring(t, key("a"))
	sealed := k.Seal("cache", []byte("name"), []byte("credentials"))
	if len(sealed) != seal.Overhead+len("credentials") || bytes.Contains(sealed, []byte("credentials")) {
		t.Errorf("sealed to %q", sealed)
	}
	for _, c := range []struct {
		purpose, name string
		want          bool
	}{
		{"cache", "name", true}, {"cache", "name2", false}, {"cache", "nam", false}, {"keys", "name", false}, {"cachen", "ame", false}, {"", "", false},
	} {
		if got := opens(t, k, c.purpose, c.name, sealed); got != c.want {
			t.Errorf("opens at %q, %q: %v", c.purpose, c.name, got)
		}
	}
}

func TestEveryBitCounts(t *testing.T) {
	k := ring(t, key("a"), key("b"))
	sealed := k.Seal("cache", []byte("name"), []byte("credentials"))
	for i := range sealed {
		for bit := range 8 {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1 << bit
			if opens(t, k, "cache", "name", changed) {
				t.Errorf("opens with bit %d of byte %d flipped", bit, i)
			}
		}
		if opens(t, k, "cache", "name", sealed[:i]) {
			t.Errorf("opens cut to %d bytes", i)
		}
	}
	if opens(t, k, "cache", "name", append(bytes.Clone(sealed), 0)) {
		t.Error("opens with a byte more")
	}
}

// The version is associated data: a value of another format doesn't open even if its first byte is set right.
func TestNoncesDiffer(t *testing.T) {
	k := ring(t, key("a"))
	if bytes.Equal(k.Seal("c", nil, []byte("x")), k.Seal("c", nil, []byte("x"))) {
		t.Error("the same twice")
	}
}

func TestRotation(t *testing.T) {
	k := ring(t, key("a"))
	old := k.Seal("cache", []byte("name"), []byte("credentials"))
	steps := []struct {
		keys    []secret.Secret
		old     bool
		withOld bool // what is sealed now opens under the first key alone
	}{
		{[]secret.Secret{key("a"), key("b")}, true, true},
		{[]secret.Secret{key("b"), key("a")}, true, false},
		{[]secret.Secret{key("b")}, false, false},
	}
	first := ring(t, key("a"))
	for n, step := range steps {
		if err := k.Replace(step.keys); err != nil {
			t.Fatal(err)
		}
		if got := opens(t, k, "cache", "name", old); got != step.old {
			t.Errorf("step %d: the old value opens: %v", n, got)
		}
		now := k.Seal("cache", []byte("name"), []byte("credentials"))
		if got := opens(t, first, "cache", "name", now); got != step.withOld {
			t.Errorf("step %d: a new value opens under the old key: %v", n, got)
		}
	}
}

func TestKeysAreChecked(t *testing.T) {
	k := ring(t, key("a"))
	sealed := k.Seal("cache", []byte("name"), []byte("credentials"))
	for _, keys := range [][]secret.Secret{nil, {secret.New("short")}, {key("a"), key("b"), key("c")}, {{}}, {secret.New(strings.Repeat("a", 16))}} {
		if _, err := seal.NewKeyring(keys); err == nil {
			t.Errorf("%d keys were taken", len(keys))
		}
		if err := k.Replace(keys); err == nil || !opens(t, k, "cache", "name", sealed) {
			t.Errorf("%d keys put in force, or the former gone: %v", len(keys), err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := ring(f, key("a"), key("b"))
	f.Add(k.Seal("cache", []byte("name"), []byte("credentials")))
	f.Add([]byte{})
	f.Add([]byte("\x01aaaaaaaa"))
	mine := ring(f, key("c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := mine.Open("cache", []byte("name"), data); err == nil {
			t.Error("opened what this key never sealed")
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	k := ring(b, key("a"))
	sealed := k.Seal("cache", []byte("name"), bytes.Repeat([]byte("x"), 1200))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open("cache", []byte("name"), sealed); err != nil {
			b.Fatal(err)
		}
	}
}
