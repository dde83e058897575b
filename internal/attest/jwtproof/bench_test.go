package jwtproof

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
)

// benchVerifier returns a verifier and a token of about 1 KiB that it accepts.
func benchVerifier(b *testing.B) (*Verifier, attest.Proof) {
	idp := brokertest.NewIDP(b)
	v, err := New([]Issuer{{
		Name: "corp", Issuer: idp.URL, Keys: KeySource{Discovery: true}, Audiences: []string{"credbroker"},
		Attributes: map[string]Attribute{"groups": {Claim: "groups"}},
	}}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	token := idp.Token(map[string]any{"groups": strings.Fields(strings.Repeat("group-of-people ", 30))})
	p := attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)}
	if _, err := v.Verify(b.Context(), p); err != nil { // fetches the keys
		b.Fatal(err)
	}
	return v, p
}

// BenchmarkRemembered is what a token costs from its second use on; the goal is 5 % of BenchmarkES256Bare, and hashing.
func BenchmarkRemembered(b *testing.B) {
	v, p := benchVerifier(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHashing is the part of BenchmarkRemembered that no memory can save.
func BenchmarkHashing(b *testing.B) {
	_, p := benchVerifier(b)
	b.ReportAllocs()
	for b.Loop() {
		_ = sha256.Sum256([]byte(p.Data.Reveal()))
	}
}

// BenchmarkES256New is what a token costs at its first use, to be held against BenchmarkES256Bare.
func BenchmarkES256New(b *testing.B) {
	v, p := benchVerifier(b)
	name := digestOf(sha256.Sum256([]byte(p.Data.Reveal())))
	b.ReportAllocs()
	for b.Loop() {
		v.memory.forget(name)
		if _, err := v.Verify(b.Context(), p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkES256Bare is one signature check and nothing else.
func BenchmarkES256Bare(b *testing.B) {
	private := testEC(b, elliptic.P256())
	sum := sha256.Sum256([]byte("input"))
	r, s, err := ecdsa.Sign(rand.Reader, private, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !ecdsa.Verify(&private.PublicKey, sum[:], r, s) {
			b.Fatal("bad signature")
		}
	}
}
