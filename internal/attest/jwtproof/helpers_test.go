package jwtproof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
)

// testRSA is made once, since making one takes a while.
var testRSA = sync.OnceValue(func() *rsa.PrivateKey {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return private
})

func testEC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func testEd(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

// jwkOf writes a public key as a JWK; extra are further members, as JSON with a comma before.
func jwkOf(public crypto.PublicKey, kid, extra string) string {
	members := ""
	switch p := public.(type) {
	case *rsa.PublicKey:
		members = fmt.Sprintf(`"kty":"RSA","n":%q,"e":"AQAB"`, encode(p.N.Bytes()))
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		if err != nil {
			panic(err)
		}
		size := len(point) / 2
		members = fmt.Sprintf(`"kty":"EC","crv":%q,"x":%q,"y":%q`, p.Curve.Params().Name, encode(point[1:1+size]), encode(point[1+size:]))
	case ed25519.PublicKey:
		members = fmt.Sprintf(`"kty":"OKP","crv":"Ed25519","x":%q`, encode(p))
	}
	return fmt.Sprintf(`{"kid":%q,%s%s}`, kid, members, extra)
}

func jwks(keys ...string) []byte { return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`) }

// compact makes the three parts; the signature is over what sign gets.
func compact(head, payload string, sign func(input string) []byte) string {
	input := encode([]byte(head)) + "." + encode([]byte(payload))
	return input + "." + encode(sign(input))
}

// signer returns the signing half of an algorithm.
func signer(t testing.TB, alg string, private crypto.Signer) func(string) []byte {
	t.Helper()
	hashes := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	return func(input string) []byte {
		hash := hashes[alg[2:]]
		var opts crypto.SignerOpts = hash
		data := []byte(input)
		switch alg[:2] {
		case "Ed":
			opts = crypto.Hash(0)
		case "PS":
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
			fallthrough
		default:
			data = digest(hash, input)
		}
		if ec, ok := private.(*ecdsa.PrivateKey); ok {
			r, s, err := ecdsa.Sign(rand.Reader, ec, data)
			if err != nil {
				t.Fatal(err)
			}
			return rawSignature(ec.Curve, r, s)
		}
		signature, err := private.Sign(rand.Reader, data, opts)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
}

func rawSignature(curve elliptic.Curve, r, s *big.Int) []byte {
	size := (curve.Params().BitSize + 7) / 8
	out := make([]byte, 2*size)
	r.FillBytes(out[:size])
	s.FillBytes(out[size:])
	return out
}

func mustContain(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, expected one with %q", err, want)
	}
}
