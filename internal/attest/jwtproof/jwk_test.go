package jwtproof

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

func TestJWKThumbprintIsThatOfRFC7638(t *testing.T) {
	// RFC 7638, section 3.1.
	const n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs" +
		"tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbI" +
		"SD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	set, err := parseJWKS(jwks(`{"kty":"RSA","n":"`+n+`","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`), "sig")
	if err != nil {
		t.Fatal(err)
	}
	k := set.keys["2011-04-29"]
	if k == nil || encode(k.identity.thumbprint[:]) != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" || k.identity.alg != "RS256" {
		t.Errorf("got %+v, malformed %q", k, set.malformed)
	}
}

func TestEveryKeyTypeIsRead(t *testing.T) {
	set, err := parseJWKS(jwks(
		jwkOf(&testRSA().PublicKey, "rsa", `,"use":"sig","alg":"PS512"`),
		jwkOf(&testEC(t, elliptic.P256()).PublicKey, "p256", `,"key_ops":["verify"]`),
		jwkOf(&testEC(t, elliptic.P384()).PublicKey, "p384", `,"x5c":["ignored"],"unknown":{}`),
		jwkOf(&testEC(t, elliptic.P521()).PublicKey, "p521", `,"alg":"ES512"`),
		jwkOf(testEd(t).Public(), "ed", `,"alg":"EdDSA"`)), "sig")
	if err != nil || len(set.keys) != 5 || set.foreign != 0 || len(set.malformed) != 0 {
		t.Errorf("got %+v, %v", set, err)
	}
	seen := map[[32]byte]bool{}
	for _, k := range set.keys {
		seen[k.identity.thumbprint] = true
	}
	if len(seen) != 5 {
		t.Error("two keys share a thumbprint")
	}
}

func TestDuplicateKidRefusesTheSet(t *testing.T) {
	a := jwkOf(&testEC(t, elliptic.P256()).PublicKey, "k", "")
	b := jwkOf(testEd(t).Public(), "k", "")
	broken := `{"kty":"EC","kid":"k","crv":"P-256","x":"AA","y":"AA"}`
	for name, set := range map[string][]byte{"twice": jwks(a, a), "two types": jwks(a, b), "one broken": jwks(broken, a), "one broken after": jwks(a, broken)} {
		_, err := parseJWKS(set, "sig")
		if err == nil || !strings.Contains(err.Error(), `kid "k" is there twice`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A key for encryption may share the name: it is never a candidate.
	if set, err := parseJWKS(jwks(a, jwkOf(&testRSA().PublicKey, "k", `,"use":"enc"`)), "sig"); err != nil || len(set.keys) != 1 {
		t.Errorf("%+v, %v", set, err)
	}
}

func TestForeignKeysAreSkipped(t *testing.T) {
	ec := &testEC(t, elliptic.P256()).PublicKey
	foreign := []string{
		`{"kty":"oct","kid":"a","k":"c2VjcmV0","alg":"HS256"}`,
		`{"kty":"AKP","kid":"b","alg":"ML-DSA-44","pub":"AA"}`,
		`{"kid":"c"}`,
		`{"kty":7,"kid":"d"}`,
		jwkOf(ec, "e", `,"use":"enc"`), jwkOf(ec, "f", `,"use":7`), jwkOf(ec, "g", `,"use":null`),
		jwkOf(ec, "h", `,"key_ops":["encrypt"]`), jwkOf(ec, "i", `,"key_ops":[]`), jwkOf(ec, "j", `,"key_ops":"verify"`),
		jwkOf(ec, "k", `,"key_ops":["sign, verify"]`),
		jwkOf(ec, "l", `,"alg":"ECDH-ES"`), jwkOf(ec, "m", `,"alg":"HS256"`), jwkOf(ec, "n", `,"alg":7`), jwkOf(ec, "o", `,"alg":"none"`),
		jwkOf(ec, "p", `,"alg":""`),
	}
	set, err := parseJWKS(jwks(append(foreign, jwkOf(ec, "good", ""))...), "sig")
	if err != nil || len(set.keys) != 1 || set.keys["good"] == nil || set.foreign != len(foreign) || len(set.malformed) != 0 {
		t.Errorf("got %+v, %v; expected %d foreign", set, err, len(foreign))
	}
}

// A bundle of SPIFFE holds the keys of X.509-SVIDs as well: one that doesn't say what it's for is neither's.
func TestKeysOfABundleNameTheirUse(t *testing.T) {
	ec := &testEC(t, elliptic.P256()).PublicKey
	set, err := parseJWKS(jwks(jwkOf(ec, "a", ""), jwkOf(ec, "b", `,"use":"sig"`), jwkOf(ec, "c", `,"use":"x509-svid"`), jwkOf(ec, "good", `,"use":"jwt-svid"`)), "jwt-svid")
	if err != nil || len(set.keys) != 1 || set.keys["good"] == nil || set.foreign != 3 {
		t.Errorf("%+v, %v", set, err)
	}
}

// What the Workload API gives has to pass as a JWK Set's keys do.
func TestAuthoritiesOfABundleAreChecked(t *testing.T) {
	ec := &testEC(t, elliptic.P256()).PublicKey
	weak := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
	longest := strings.Repeat("k", maxKeyID)
	set := setOf(map[string]crypto.PublicKey{"": ec, longest + "k": ec, "weak": weak, longest: ec, "good": ec})
	if len(set.keys) != 2 || set.keys["good"] == nil || set.keys[longest] == nil || len(set.malformed) != 3 {
		t.Errorf("%+v", set)
	}
}

func TestMalformedKeysAreSkippedAndCounted(t *testing.T) {
	ec, rsaKey := &testEC(t, elliptic.P256()).PublicKey, &testRSA().PublicKey
	point, _ := ec.Bytes()
	x, y := encode(point[1:33]), encode(point[33:])
	p256 := func(kid, x, y string) string {
		return fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q}`, kid, x, y)
	}
	n := encode(rsaKey.N.Bytes())
	rs := func(kid, n, e string) string { return fmt.Sprintf(`{"kty":"RSA","kid":%q,"n":%q,"e":%q}`, kid, n, e) }
	even := new(big.Int).Sub(rsaKey.N, big.NewInt(1))
	bare := func(members string) string { return `{"kty":"EC","kid":"k",` + members + `}` }
	for name, tc := range map[string]struct{ key, want string }{
		"not an object":            {`"key"`, "unmarshal"},
		"no kid":                   {`{"kty":"EC","crv":"P-256","x":"` + x + `","y":"` + y + `"}`, "kid is missing"},
		"kid a number":             {`{"kty":"EC","kid":7,"crv":"P-256","x":"` + x + `","y":"` + y + `"}`, "kid is missing"},
		"kid empty":                {p256("", x, y), "kid is missing"},
		"kid too long":             {p256(strings.Repeat("k", maxKeyID+1), x, y), "not of 1 to 256 bytes"},
		"private key":              {jwkOf(ec, "k", `,"d":"AA"`), "holds a private key"},
		"unknown curve":            {bare(`"crv":"secp256k1","x":"` + x + `","y":"` + y + `"`), `crv "secp256k1" is not known`},
		"no curve":                 {bare(`"x":"` + x + `","y":"` + y + `"`), `crv "" is not known`},
		"curve of another size":    {bare(`"crv":"P-384","x":"` + x + `","y":"` + y + `"`), "x is 32 bytes, expected 48"},
		"not on the curve":         {p256("k", y, x), "not on curve"},
		"x short":                  {p256("k", encode(point[2:33]), y), "x is 31 bytes, expected 32"},
		"x short, y longer by it":  {p256("k", encode(point[1:32]), encode(point[32:])), "x is 31 bytes, expected 32"},
		"y long":                   {p256("k", x, encode(append([]byte{0}, point[33:]...))), "invalid"},
		"x missing":                {bare(`"crv":"P-256","y":"` + y + `"`), "x is missing"},
		"y missing":                {bare(`"crv":"P-256","x":"` + x + `"`), "y is missing"},
		"x a number":               {bare(`"crv":"P-256","x":7,"y":"` + y + `"`), "x is missing, empty or not a string"},
		"x with padding":           {p256("k", x+"=", y), "x: illegal base64"},
		"alg of another curve":     {jwkOf(ec, "k", `,"alg":"ES384"`), "alg ES384 does not fit"},
		"alg of another type":      {jwkOf(ec, "k", `,"alg":"RS256"`), "alg RS256 does not fit"},
		"RSA alg on Ed25519":       {jwkOf(testEd(t).Public(), "k", `,"alg":"PS256"`), "alg PS256 does not fit"},
		"X25519":                   {`{"kty":"OKP","kid":"k","crv":"X25519","x":"` + x + `"}`, `crv "X25519" is not known`},
		"Ed25519 short":            {`{"kty":"OKP","kid":"k","crv":"Ed25519","x":"` + encode(point[2:33]) + `"}`, "x is 31 bytes"},
		"Ed25519 without x":        {`{"kty":"OKP","kid":"k","crv":"Ed25519"}`, "x is missing"},
		"RSA n missing":            {`{"kty":"RSA","kid":"k","e":"AQAB"}`, "n is missing"},
		"RSA e missing":            {`{"kty":"RSA","kid":"k","n":"` + n + `"}`, "e is missing"},
		"RSA 2047 bits":            {rs("k", encode(new(big.Int).Rsh(rsaKey.N, 1).Bytes()), "AQAB"), "2047 bits"},
		"RSA 8193 bits":            {rs("k", encode(new(big.Int).SetBit(big.NewInt(1), 8192, 1).Bytes()), "AQAB"), "8193 bits"},
		"RSA modulus even":         {rs("k", encode(even.Bytes()), "AQAB"), "is even"},
		"RSA leading zero in n":    {rs("k", encode(append([]byte{0}, rsaKey.N.Bytes()...)), "AQAB"), "leading zero"},
		"RSA leading zero in e":    {rs("k", n, encode([]byte{0, 1, 0, 1})), "leading zero"},
		"RSA exponent 1":           {rs("k", n, encode([]byte{1})), "exponent"},
		"RSA exponent even":        {rs("k", n, encode([]byte{1, 0})), "exponent"},
		"RSA exponent of 2^31+1":   {rs("k", n, encode([]byte{0x80, 0, 0, 1})), "exponent"},
		"RSA exponent of 2^64+F4":  {rs("k", n, encode([]byte{1, 0, 0, 0, 0, 0, 1, 0, 1})), "e is larger than 32 bits"},
		"RSA exponent of 5 octets": {rs("k", n, encode([]byte{1, 0, 0, 0, 1})), "e is larger than 32 bits"},
	} {
		set, err := parseJWKS(jwks(tc.key, jwkOf(ec, "good", "")), "sig")
		if err != nil || len(set.keys) != 1 || len(set.malformed) != 1 || set.foreign != 0 {
			t.Errorf("%s: got %+v, %v", name, set, err)
		} else if !strings.Contains(set.malformed[0], "keys[0]: ") || !strings.Contains(set.malformed[0], tc.want) {
			t.Errorf("%s: fault is %q, expected %q", name, set.malformed[0], tc.want)
		}
	}
	nameless := `{"kty":"EC","crv":"P-256"}`
	if set, err := parseJWKS(jwks(nameless, nameless), "sig"); err != nil || len(set.malformed) != 2 {
		t.Errorf("two keys without a kid share none: %+v, %v", set, err)
	}
}

func TestRSASizesAtTheBounds(t *testing.T) {
	for bits, ok := range map[int]bool{2047: false, 2048: true, 8192: true, 8193: false} {
		n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
		for e, fine := range map[int]bool{3: ok, 65537: ok, 1<<31 - 1: ok, 1<<31 + 1: false, 1: false, 4: false} {
			if err := checkRSA(&rsa.PublicKey{N: n, E: e}); (err == nil) != fine {
				t.Errorf("%d bits, e %d: %v", bits, e, err)
			}
		}
	}
}

func TestJWKSIsStrictJSON(t *testing.T) {
	good := jwkOf(&testEC(t, elliptic.P256()).PublicKey, "k", "")
	for name, data := range map[string]string{
		"empty": "", "array": `[]`, "null": `null`, "no keys": `{}`, "keys in capitals": `{"KEYS":[]}`, "keys is null": `{"keys":null}`,
		"keys is an object": `{"keys":{"k":` + good + `}}`, "duplicate keys": `{"keys":[],"keys":[` + good + `]}`,
		"trailing data": `{"keys":[]} x`, "a single key": good, "HTML": "<html>",
		"duplicate member of a key": `{"keys":[{"kty":"EC","kid":"k","kid":"k2","crv":"P-256"}]}`,
		"deep":                      `{"keys":[` + strings.Repeat("[", 100_000),
	} {
		if set, err := parseJWKS([]byte(data), "sig"); err == nil {
			t.Errorf("%s: got %+v", name, set)
		}
	}
	if set, err := parseJWKS([]byte(`{"keys":[]}`), "sig"); err != nil || len(set.keys) != 0 {
		t.Errorf("an empty set is one: %v", err)
	}
}

func pemOf(t *testing.T, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestParsePEM(t *testing.T) {
	ec := &testEC(t, elliptic.P256()).PublicKey
	for _, public := range []any{ec, &testRSA().PublicKey, testEd(t).Public()} {
		set, err := parsePEM(pemOf(t, public), "k1")
		if err != nil || set.keys["k1"] == nil || set.keys["k1"].identity.kid != "k1" {
			t.Errorf("%T: %+v, %v", public, set, err)
		}
	}
	good := pemOf(t, ec)
	small := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1022, 1), E: 65537}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, data := range map[string][]byte{
		`no PEM block "PUBLIC KEY"`: nil,
		`no PEM block "PUBLIC`:      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}),
		"more than one PEM block":   append(good[:len(good):len(good)], good...),
		"or text after it":          append(good[:len(good):len(good)], "x"...),
		"asn1":                      pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
		"1023 bits":                 pemOf(t, small),
		"curve P-224 is not known":  pemOf(t, &p224.PublicKey),
		"can't verify signatures":   pemOf(t, x25519.PublicKey()),
	} {
		_, err := parsePEM(data, "k1")
		mustContain(t, err, want)
	}
}

func FuzzParseJWKS(f *testing.F) {
	f.Add(jwks())
	f.Add(jwks(jwkOf(&testRSA().PublicKey, "rsa", `,"use":"sig","alg":"RS256"`)))
	f.Add(jwks(`{"kty":"EC","kid":"k","crv":"P-256","x":"AA","y":"AA"}`, `{"kty":"oct","kid":"o","k":"AA"}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"e","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parseJWKS(data, "sig")
		if err != nil {
			return
		}
		for kid, k := range set.keys {
			if kid == "" || k.identity.kid != kid || k.public == nil || k.identity.alg != "" && !algorithms[k.identity.alg].fits(k.public) {
				t.Errorf("%s gave %+v", data, k)
			}
			// A key may say no to a signature, never panic.
			for alg := range algorithms {
				if k.verifySignature(jws{alg: alg, input: "a.b", signature: make([]byte, 64)}) == nil {
					t.Errorf("%s verifies zeros with %s", data, alg)
				}
			}
		}
	})
}
