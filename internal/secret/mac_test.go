package secret_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"sync"
	"testing"

	"github.com/credbroker/credbroker/internal/secret"
)

func TestMACIsHMACSHA256(t *testing.T) {
	for _, key := range []string{strings.Repeat("k", 32), strings.Repeat("long", 40)} {
		m := secret.NewMAC(secret.New(key))
		var wait sync.WaitGroup
		for n := range 50 {
			wait.Go(func() {
				text := strings.Repeat("x", n*37)
				want := hmac.New(sha256.New, []byte(key))
				want.Write([]byte(text))
				if got := m.Sum(text); string(got[:]) != string(want.Sum(nil)) {
					t.Errorf("differs for %d bytes", len(text))
				}
			})
		}
		wait.Wait()
	}
}

func TestMACOfPartsTellsThemApart(t *testing.T) {
	m, other := secret.NewMAC(secret.New(strings.Repeat("k", 32))), secret.NewMAC(secret.New(strings.Repeat("l", 32)))
	seen := map[[32]byte][]string{}
	for _, parts := range [][]string{nil, {""}, {"", ""}, {"ab", "c"}, {"a", "bc"}, {"abc"}, {"a", "b", "c"}, {"\x00\x00\x00\x00\x00\x00\x00\x01a"}} {
		sum := m.SumParts(parts...)
		if with, taken := seen[sum]; taken {
			t.Errorf("%q and %q are the same", with, parts)
		}
		seen[sum] = parts
		if m.SumParts(parts...) != sum {
			t.Errorf("%q: another sum at the second time", parts)
		}
		if other.SumParts(parts...) == sum {
			t.Errorf("%q: the key doesn't count", parts)
		}
	}
}

func BenchmarkMAC(b *testing.B) {
	m := secret.NewMAC(secret.New(strings.Repeat("k", 32)))
	text := strings.Repeat("x", 1024)
	b.ReportAllocs()
	for b.Loop() {
		m.Sum(text)
	}
}
