package brokertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"sync"
)

// jwtKey signs JWTs.
type jwtKey struct {
	kid, alg string // alg is RS256, ES256 or ES384
	private  crypto.Signer
}

// newECKey makes a key for ES256 (P-256) or ES384 (P-384).
func newECKey(kid string, curve elliptic.Curve) *jwtKey {
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err) // the system's randomness does not fail
	}
	return &jwtKey{kid, map[elliptic.Curve]string{elliptic.P256(): "ES256", elliptic.P384(): "ES384"}[curve], private}
}

var rsaKeys struct {
	sync.Mutex
	byName map[string]*rsa.PrivateKey
}

// rsaKey is a key for RS256. Making one takes a while, so a process has one for each name.
func rsaKey(name string) *jwtKey {
	rsaKeys.Lock()
	defer rsaKeys.Unlock()
	if rsaKeys.byName == nil {
		rsaKeys.byName = map[string]*rsa.PrivateKey{}
	}
	private := rsaKeys.byName[name]
	if private == nil {
		var err error
		if private, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			panic(err) // the system's randomness does not fail
		}
		rsaKeys.byName[name] = private
	}
	return &jwtKey{hexSHA256(name + private.N.String())[:40], "RS256", private}
}

// sign signs whatever it is given. The header is {"alg":…,"typ":"JWT","kid":…} with the overrides, of which nil removes a member; the
// key's own algorithm signs whatever it says. Claims are marshaled; a string is taken as the raw payload.
func (k *jwtKey) sign(header map[string]any, claims any) string {
	payload, raw := claims.(string)
	if !raw {
		payload = string(marshal(claims))
	}
	head := marshal(merge(map[string]any{"alg": k.alg, "typ": "JWT", "kid": k.kid}, header))
	input := base64url(head) + "." + base64url([]byte(payload))
	hash := crypto.SHA256
	if k.alg == "ES384" {
		hash = crypto.SHA384
	}
	digest := hash.New()
	digest.Write([]byte(input))
	return input + "." + base64url(k.signDigest(hash, digest.Sum(nil)))
}

func (k *jwtKey) signDigest(hash crypto.Hash, digest []byte) []byte {
	private, ok := k.private.(*ecdsa.PrivateKey)
	if !ok {
		signature, err := k.private.Sign(rand.Reader, digest, hash)
		if err != nil {
			panic(err) // RSA with a sound key does not fail
		}
		return signature
	}
	r, s, err := ecdsa.Sign(rand.Reader, private, digest)
	if err != nil {
		panic(err) // ECDSA with the system's randomness does not fail
	}
	size := (private.Params().BitSize + 7) / 8
	signature := make([]byte, 2*size)
	r.FillBytes(signature[:size])
	s.FillBytes(signature[size:])
	return signature
}

// jwk is the public key as a JWK of kty, kid and the key itself; overrides add members, and nil removes one.
func (k *jwtKey) jwk(overrides map[string]any) map[string]any {
	out := map[string]any{"kid": k.kid}
	switch public := k.private.Public().(type) {
	case *rsa.PublicKey:
		out["kty"], out["n"], out["e"] = "RSA", base64url(public.N.Bytes()), base64url(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4, x, y
		if err != nil {
			panic(err) // a key on a named curve always has a point
		}
		half := len(point) / 2
		out["kty"], out["crv"], out["x"], out["y"] = "EC", public.Params().Name, base64url(point[1:half+1]), base64url(point[half+1:])
	default:
		panic(fmt.Sprintf("no JWK for %T", public))
	}
	return merge(out, overrides)
}

func marshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // the test passed what JSON can't hold
	}
	return data
}

func merge(base, overrides map[string]any) map[string]any {
	maps.Copy(base, overrides)
	maps.DeleteFunc(base, func(_ string, v any) bool { return v == nil })
	return base
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
