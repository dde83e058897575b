package jwtproof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// RSA moduli outside these bounds, in bits, are refused: shorter ones are weak, longer ones cost more than a check may.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// key is one public key that signatures may be verified with. It never changes.
type key struct {
	identity keyIdentity
	public   crypto.PublicKey // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// keyIdentity tells keys apart across fetches.
type keyIdentity struct {
	kid string
	// alg is the one algorithm that the issuer meant the key for (RFC 7517, section 4.4); empty if it didn't say.
	alg string
	// thumbprint is that of RFC 7638, with SHA-256.
	thumbprint [sha256.Size]byte
}

// keySet is what an issuer published, reduced to what can verify. It never changes.
type keySet struct {
	keys map[string]*key // by kid
	// foreign counts the keys that are for something else: encryption, symmetric, of an algorithm unknown here.
	foreign int
	// malformed says what was wrong with each key that claimed to be usable and wasn't.
	malformed []string
}

// webKey is a JSON Web Key (RFC 7517, section 4; RFC 7518, section 6; RFC 8037, section 2).
type webKey struct {
	Kty    jsontext.Value `json:"kty"`
	Use    jsontext.Value `json:"use"`
	KeyOps jsontext.Value `json:"key_ops"`
	Alg    jsontext.Value `json:"alg"`
	Kid    jsontext.Value `json:"kid"`
	Crv    jsontext.Value `json:"crv"`
	X      jsontext.Value `json:"x"`
	Y      jsontext.Value `json:"y"`
	N      jsontext.Value `json:"n"`
	E      jsontext.Value `json:"e"`
	D      jsontext.Value `json:"d"`
}

// errForeign marks a key that is sound and not for verifying signatures with.
var errForeign = errors.New("not a key to verify signatures with")

// parseJWKS reads a JWK Set (RFC 7517, section 5). One bad key doesn't spoil the set, so that an issuer can add a kind of
// key that is unknown here; two keys of one kid do, since nothing would say which of them is meant.
func parseJWKS(data []byte, use string) (*keySet, error) {
	var doc struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := decodeJSON(data, &doc); err != nil {
		return nil, err
	}
	if doc.Keys == nil {
		return nil, errors.New("keys is missing or null")
	}
	set := &keySet{keys: make(map[string]*key, len(doc.Keys))}
	taken := make(map[string]bool, len(doc.Keys))
	for i, raw := range doc.Keys {
		kid, k, err := parseJWK(raw, use)
		if errors.Is(err, errForeign) {
			set.foreign++
			continue
		}
		if kid != "" && taken[kid] {
			return nil, fmt.Errorf("keys[%d]: kid %q is there twice", i, excerpt(kid, 64))
		}
		taken[kid] = true
		if err != nil {
			set.malformed = append(set.malformed, fmt.Sprintf("keys[%d]: %s", i, err))
			continue
		}
		set.keys[kid] = k
	}
	return set, nil
}

// parseJWK returns the kid also when the rest of a signature key can't be read.
func parseJWK(data jsontext.Value, use string) (kid string, k *key, err error) {
	var w webKey
	if err := decodeJSON(data, &w); err != nil {
		return "", nil, err
	}
	alg, err := w.purpose(use)
	if err != nil {
		return "", nil, err
	}
	kid, _ = decodeString(w.Kid)
	if len(kid) == 0 || len(kid) > maxKeyID {
		return "", nil, fmt.Errorf("kid is missing, not a string, or not of 1 to %d bytes", maxKeyID)
	}
	if w.D != nil {
		return kid, nil, errors.New("holds a private key: whoever published it gave it away")
	}
	public, thumbprint, err := w.material()
	if err != nil {
		return kid, nil, err
	}
	k = &key{identity: keyIdentity{kid: kid, alg: alg, thumbprint: thumbprint}, public: public}
	if alg != "" && !algorithms[alg].fits(public) {
		return kid, nil, fmt.Errorf("alg %s does not fit the key", alg)
	}
	return kid, k, nil
}

// keyUse is the `use` that a key for tokens of a profile has, if it has one (RFC 7517, section 4.2;
// https://spiffe.io/docs/latest/spiffe-specs/spiffe_trust_domain_and_bundle, section 4.2.2).
func keyUse(p Profile) string {
	if p == ProfileSPIFFE {
		return "jwt-svid"
	}
	return "sig"
}

// purpose checks what the key is for and returns its `alg`, empty if it names none. A trust domain's bundle holds keys for two
// uses, so there a key has to name it.
func (w *webKey) purpose(wanted string) (alg string, err error) {
	if kty, _ := decodeString(w.Kty); !slices.Contains([]string{"RSA", "EC", "OKP"}, kty) {
		return "", errForeign // "oct" among them: a shared secret can't be in a public document
	}
	if use, _ := decodeString(w.Use); use != wanted && (w.Use != nil || wanted != "sig") {
		return "", errForeign
	}
	if w.KeyOps != nil && !slices.Contains(decodeStrings(w.KeyOps), "verify") {
		return "", errForeign
	}
	alg, _ = decodeString(w.Alg)
	if w.Alg != nil && algorithms[alg].verify == nil {
		return "", errForeign
	}
	return alg, nil
}

// material returns the public key and its thumbprint, which is over the required members alone, ordered by name.
func (w *webKey) material() (crypto.PublicKey, [sha256.Size]byte, error) {
	var canonical string
	var public crypto.PublicKey
	var err error
	switch kty, _ := decodeString(w.Kty); kty {
	case "RSA":
		public, canonical, err = w.rsaKey()
	case "EC":
		public, canonical, err = w.ecKey()
	default:
		public, canonical, err = w.okpKey()
	}
	return public, sha256.Sum256([]byte(canonical)), err
}

func (w *webKey) rsaKey() (crypto.PublicKey, string, error) {
	n, err := member("n", w.N)
	if err != nil {
		return nil, "", err
	}
	e, err := member("e", w.E)
	if err != nil {
		return nil, "", err
	}
	// RFC 7518, section 2: Base64urlUInt has no leading zero. Were it let pass, one key could have two thumbprints.
	if n[0] == 0 || e[0] == 0 {
		return nil, "", errors.New("n or e has a leading zero")
	}
	if len(e) > 4 {
		return nil, "", errors.New("e is larger than 32 bits")
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if err := checkRSA(public); err != nil {
		return nil, "", err
	}
	return public, fmt.Sprintf(`{"e":"%s","kty":"RSA","n":"%s"}`, encode(e), encode(n)), nil
}

func checkRSA(public *rsa.PublicKey) error {
	if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("RSA modulus has %d bits, expected %d to %d", bits, minRSABits, maxRSABits)
	}
	if public.N.Bit(0) == 0 || public.E < 3 || public.E%2 == 0 || public.E > 1<<31-1 {
		return errors.New("RSA modulus or exponent is even, or the exponent is not of 3 to 2^31-1")
	}
	return nil
}

// checkPublic says whether signatures can be verified with a key.
func checkPublic(public crypto.PublicKey) error {
	switch p := public.(type) {
	case *rsa.PublicKey:
		return checkRSA(p)
	case *ecdsa.PublicKey:
		if curves[p.Curve.Params().Name] == nil {
			return fmt.Errorf("curve %s is not known", p.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("%T can't verify signatures", public)
	}
	return nil
}

// curves are those of RFC 7518, section 6.2.1.1.
var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

func (w *webKey) ecKey() (crypto.PublicKey, string, error) {
	crv, _ := decodeString(w.Crv)
	curve := curves[crv]
	if curve == nil {
		return nil, "", fmt.Errorf("crv %q is not known", excerpt(crv, 16))
	}
	x, err := member("x", w.X)
	if err != nil {
		return nil, "", err
	}
	y, err := member("y", w.Y)
	if err != nil {
		return nil, "", err
	}
	// The length of both together is checked with the point.
	if size := (curve.Params().BitSize + 7) / 8; len(x) != size {
		return nil, "", fmt.Errorf("x is %d bytes, expected %d", len(x), size)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, "", err
	}
	return public, fmt.Sprintf(`{"crv":"%s","kty":"EC","x":"%s","y":"%s"}`, crv, encode(x), encode(y)), nil
}

func (w *webKey) okpKey() (crypto.PublicKey, string, error) {
	if crv, _ := decodeString(w.Crv); crv != "Ed25519" {
		return nil, "", fmt.Errorf("crv %q is not known", excerpt(crv, 16))
	}
	x, err := member("x", w.X)
	if err != nil {
		return nil, "", err
	}
	if len(x) != ed25519.PublicKeySize {
		return nil, "", fmt.Errorf("x is %d bytes, expected %d", len(x), ed25519.PublicKeySize)
	}
	return ed25519.PublicKey(x), fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":"%s"}`, encode(x)), nil
}

// member decodes a base64url member, which is not empty.
func member(name string, v jsontext.Value) ([]byte, error) {
	s, _ := decodeString(v)
	if s == "" {
		return nil, fmt.Errorf("%s is missing, empty or not a string", name)
	}
	b, err := decodeBase64(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// parsePEM reads one public key (PEM type "PUBLIC KEY", RFC 7468, section 13), which the configuration names kid.
func parsePEM(data []byte, kid string) (*keySet, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New(`no PEM block "PUBLIC KEY"`)
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("more than one PEM block, or text after it")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := checkPublic(public); err != nil {
		return nil, err
	}
	k := &key{public: public, identity: keyIdentity{kid: kid, thumbprint: sha256.Sum256(block.Bytes)}}
	return &keySet{keys: map[string]*key{kid: k}}, nil
}
