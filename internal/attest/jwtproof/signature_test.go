package jwtproof

import (
	"crypto"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"testing"
)

// keysByType has one key of each type and curve.
func keysByType(t *testing.T) map[string]crypto.Signer {
	return map[string]crypto.Signer{
		"RSA": testRSA(), "P-256": testEC(t, elliptic.P256()), "P-384": testEC(t, elliptic.P384()),
		"P-521": testEC(t, elliptic.P521()), "Ed25519": testEd(t),
	}
}

var typeOf = map[string]string{
	"RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
	"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519",
}

func TestEachAlgorithmVerifiesWithItsKeyTypeAlone(t *testing.T) {
	keys := keysByType(t)
	for alg, kind := range typeOf {
		token := compact(`{"alg":"`+alg+`","kid":"k"}`, "payload", signer(t, alg, keys[kind]))
		parsed, err := parseJWS(token)
		if err != nil {
			t.Fatal(err)
		}
		for other, private := range keys {
			for _, keyAlg := range []string{"", alg} {
				k := &key{public: private.Public(), identity: keyIdentity{alg: keyAlg}}
				if err := k.verifySignature(parsed); (err == nil) != (other == kind) {
					t.Errorf("%s with a key of %s for %q: %v", alg, other, keyAlg, err)
				}
			}
		}
		wrong := parsed
		wrong.input += "x"
		k := &key{public: keys[kind].Public()}
		mustContain(t, k.verifySignature(wrong), "signature is wrong")
	}
	if len(typeOf) != len(algorithms) {
		t.Errorf("%d algorithms, %d tested", len(algorithms), len(typeOf))
	}
}

func TestAlgIsBoundToTheKeysAlg(t *testing.T) {
	parsed, err := parseJWS(compact(`{"alg":"RS256","kid":"k"}`, "payload", signer(t, "RS256", testRSA())))
	if err != nil {
		t.Fatal(err)
	}
	k := &key{public: testRSA().Public(), identity: keyIdentity{alg: "PS256"}}
	mustContain(t, k.verifySignature(parsed), "alg is RS256, the key is for PS256")
}

func TestUnknownAndSymmetricAlgorithmsAreNotThere(t *testing.T) {
	public := testRSA().Public()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	// The public key as an HMAC key, in the form that libraries once took.
	mac := func(input string) []byte {
		h := hmac.New(sha256.New, der)
		h.Write([]byte(input))
		return h.Sum(nil)
	}
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "hs256", "es256", "ES256K", "RSA1_5", "Ed25519"} {
		parsed, err := parseJWS(compact(`{"alg":"`+alg+`","kid":"k"}`, "payload", mac))
		if err != nil {
			t.Fatal(err)
		}
		k := &key{public: public}
		mustContain(t, k.verifySignature(parsed), "is not known")
	}
}

func TestPSSSaltIsAsLongAsTheHash(t *testing.T) {
	sum := digest(crypto.SHA256, "input")
	for _, salt := range []int{20, 31, 33, 64, rsa.PSSSaltLengthAuto} { // auto is the longest that fits
		signature, err := rsa.SignPSS(rand.Reader, testRSA(), crypto.SHA256, sum, &rsa.PSSOptions{SaltLength: salt})
		if err != nil {
			t.Fatal(err)
		}
		k := &key{public: testRSA().Public()}
		if err := k.verifySignature(jws{alg: "PS256", input: "input", signature: signature}); err == nil {
			t.Errorf("salt of %d bytes was accepted", salt)
		}
	}
}

func TestECDSASignatureHasOneLengthAndForm(t *testing.T) {
	private := testEC(t, elliptic.P256())
	k := &key{public: private.Public()}
	good := signer(t, "ES256", private)("input")
	if err := k.verifySignature(jws{alg: "ES256", input: "input", signature: good}); err != nil {
		t.Fatal(err)
	}
	asn1, err := private.Sign(rand.Reader, digest(crypto.SHA256, "input"), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	order := private.Params().N
	for name, signature := range map[string][]byte{
		"ASN.1":         asn1,
		"short":         good[:63],
		"long":          append(good[:64:64], 0),
		"zero":          make([]byte, 64),
		"one half":      good[:32],
		"a few bytes":   good[:8],
		"zero before s": append(append(good[:32:32], 0), good[32:]...),
		"r = n":         rawSignature(private.Curve, order, big.NewInt(1)),
		"padded half":   append(append(make([]byte, 2), good[:32]...), append(make([]byte, 2), good[32:]...)...),
	} {
		if err := k.verifySignature(jws{alg: "ES256", input: "input", signature: signature}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
