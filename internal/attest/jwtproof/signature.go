package jwtproof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	_ "crypto/sha256" // for crypto.SHA256.New
	_ "crypto/sha512" // for crypto.SHA384.New and crypto.SHA512.New
)

// algorithm is one of RFC 7518, section 3, or RFC 8037, section 3.1.
type algorithm struct {
	// fits tells whether a key of this type may be used with the algorithm.
	fits func(crypto.PublicKey) bool
	// verify is asked only for keys that fit.
	verify func(public crypto.PublicKey, input string, signature []byte) bool
}

// algorithms is closed, and holds none that are symmetric: a public key can then never be taken for a MAC key.
var algorithms = map[string]algorithm{
	"RS256": rsaAlgorithm(crypto.SHA256, verifyPKCS1),
	"RS384": rsaAlgorithm(crypto.SHA384, verifyPKCS1),
	"RS512": rsaAlgorithm(crypto.SHA512, verifyPKCS1),
	"PS256": rsaAlgorithm(crypto.SHA256, verifyPSS),
	"PS384": rsaAlgorithm(crypto.SHA384, verifyPSS),
	"PS512": rsaAlgorithm(crypto.SHA512, verifyPSS),
	"ES256": ecAlgorithm(crypto.SHA256, elliptic.P256()),
	"ES384": ecAlgorithm(crypto.SHA384, elliptic.P384()),
	"ES512": ecAlgorithm(crypto.SHA512, elliptic.P521()),
	"EdDSA": {
		fits: func(public crypto.PublicKey) bool { _, ok := public.(ed25519.PublicKey); return ok },
		verify: func(public crypto.PublicKey, input string, signature []byte) bool {
			return ed25519.Verify(public.(ed25519.PublicKey), []byte(input), signature)
		},
	},
}

// verifySignature checks a token against a key. The caller has held the algorithm against the issuer's list.
func (k *key) verifySignature(t jws) error {
	alg, ok := algorithms[t.alg]
	if !ok {
		return fmt.Errorf("alg %q is not known", excerpt(t.alg, 16))
	}
	if k.identity.alg != "" && k.identity.alg != t.alg {
		return fmt.Errorf("alg is %s, the key is for %s", t.alg, k.identity.alg)
	}
	if !alg.fits(k.public) {
		return fmt.Errorf("alg %s does not fit the key", t.alg)
	}
	if !alg.verify(k.public, t.input, t.signature) {
		return errors.New("signature is wrong")
	}
	return nil
}

func rsaAlgorithm(hash crypto.Hash, verify func(*rsa.PublicKey, crypto.Hash, []byte, []byte) error) algorithm {
	return algorithm{
		fits: func(public crypto.PublicKey) bool { _, ok := public.(*rsa.PublicKey); return ok },
		verify: func(public crypto.PublicKey, input string, signature []byte) bool {
			return verify(public.(*rsa.PublicKey), hash, digest(hash, input), signature) == nil
		},
	}
}

func verifyPKCS1(public *rsa.PublicKey, hash crypto.Hash, digest, signature []byte) error {
	return rsa.VerifyPKCS1v15(public, hash, digest, signature)
}

func verifyPSS(public *rsa.PublicKey, hash crypto.Hash, digest, signature []byte) error {
	// RFC 7518, section 3.5: the salt is as long as the hash.
	return rsa.VerifyPSS(public, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
}

func ecAlgorithm(hash crypto.Hash, curve elliptic.Curve) algorithm {
	size := (curve.Params().BitSize + 7) / 8
	return algorithm{
		fits: func(public crypto.PublicKey) bool {
			p, ok := public.(*ecdsa.PublicKey)
			return ok && p.Curve == curve
		},
		verify: func(public crypto.PublicKey, input string, signature []byte) bool {
			// RFC 7518, section 3.4: r and s, each as long as the order, and nothing else.
			if len(signature) != 2*size {
				return false
			}
			r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
			return ecdsa.Verify(public.(*ecdsa.PublicKey), digest(hash, input), r, s)
		},
	}
}

func digest(hash crypto.Hash, input string) []byte {
	h := hash.New()
	h.Write([]byte(input)) // a hash never fails
	return h.Sum(nil)
}
