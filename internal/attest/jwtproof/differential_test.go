package jwtproof

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// FuzzAgainstGoJOSE holds what is taken of a token's form and claims against what go-jose and encoding/json read of them.
func FuzzAgainstGoJOSE(f *testing.F) {
	f.Add(unsigned(goodHead, `{"iss":"https://i","sub":"alice","aud":"a","iat":1,"exp":2}`))
	f.Add(unsigned(`{"alg":"RS256","kid":"k","typ":"at+jwt","x5t":"x"}`, `{"iss":"https://i","sub":"alice","aud":["a","b"],"iat":1,"exp":2,"nbf":1,"azp":"a","jti":"j"}`))
	f.Add(unsigned(`{"alg":"ES256","kid":"k","alg":"none"}`, `{"sub":"a","sub":"b"}`))
	var known []jose.SignatureAlgorithm
	for _, alg := range slices.Sorted(maps.Keys(algorithms)) {
		known = append(known, jose.SignatureAlgorithm(alg))
	}
	f.Fuzz(func(t *testing.T, token string) {
		ours, err := parseJWS(token)
		if err != nil || !slices.Contains(known, jose.SignatureAlgorithm(ours.alg)) {
			return
		}
		theirs, err := jose.ParseSignedCompact(token, known)
		if err != nil {
			t.Skip() // it may refuse more: a header's member of another type that means nothing here
		}
		head := theirs.Signatures[0].Protected
		typ, _ := head.ExtraHeaders[jose.HeaderType].(string)
		if head.Algorithm != ours.alg || head.KeyID != ours.kid || typ != ours.typ || string(theirs.UnsafePayloadWithoutVerification()) != string(ours.payload) {
			t.Errorf("%q is read as %+v; go-jose: %+v", token, ours, head)
		}
		c, err := parseClaims(ours.payload)
		if err != nil {
			return
		}
		var claims struct {
			Iss, Sub, Jti string
			Exp, Iat      int64
			Aud           any
		}
		if err := json.Unmarshal(ours.payload, &claims); err != nil {
			t.Fatalf("%q: %v", ours.payload, err)
		}
		var audience []string
		switch aud := claims.Aud.(type) {
		case string:
			audience = []string{aud}
		case []any:
			for _, one := range aud {
				text, _ := one.(string)
				audience = append(audience, text)
			}
		}
		// encoding/json takes names in any case, the last one counting: where there is one like these in another case, it reads another token.
		for name := range c.all {
			if lower := strings.ToLower(name); lower != name && slices.Contains([]string{"iss", "sub", "jti", "exp", "iat", "aud"}, lower) || strings.ContainsRune(name, 'ſ') {
				return
			}
		}
		if claims.Iss != c.issuer || claims.Sub != c.subject || claims.Jti != c.tokenID || claims.Exp != c.expires.Unix() || claims.Iat != c.issuedAt.Unix() || !slices.Equal(audience, c.audience) {
			t.Errorf("%q is read as %+v; encoding/json: %+v", ours.payload, c, claims)
		}
	})
}
