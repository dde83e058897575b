package jwtproof_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/brokertest"
)

// These are the tokens that broke others, shown to the whole verifier.

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// withHeader signs good claims under another header.
func (f *fixture) withHeader(header map[string]any) string {
	return f.idp.Sign(header, f.goodClaims())
}

func (f *fixture) goodClaims() map[string]any {
	now := f.now().Unix()
	return map[string]any{"iss": f.idp.URL, "sub": "alice", "aud": "credbroker", "iat": now, "exp": now + 60}
}

func (f *fixture) payload(t *testing.T) string {
	t.Helper()
	data, err := json.Marshal(f.goodClaims())
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAlgNoneInAnyCaseIsRefused(t *testing.T) {
	f := newFixture(t)
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "NoNe", " none", "none ", ""} {
		f.expect(t, f.withHeader(map[string]any{"alg": alg}), attest.ErrRejected, "is none of")
		f.expect(t, b64(`{"alg":"`+alg+`","kid":"key-1"}`)+"."+b64(f.payload(t))+".", attest.ErrMalformed, "signature is empty")
	}
}

func TestPublicKeyAsHMACKeyIsRefused(t *testing.T) {
	f := newFixture(t)
	var set struct {
		Keys []map[string]string
	}
	if err := json.Unmarshal(f.idp.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	jwk, _ := json.Marshal(set.Keys[0])
	for _, secretKey := range [][]byte{jwk, []byte(set.Keys[0]["x"]), f.idp.JWKS(), nil} {
		// kid = client ID and an empty key is CVE-2026-33322.
		for _, kid := range []string{"key-1", "credbroker"} {
			input := b64(`{"alg":"HS256","typ":"JWT","kid":"`+kid+`"}`) + "." + b64(f.payload(t))
			mac := hmac.New(sha256.New, secretKey)
			mac.Write([]byte(input))
			f.expect(t, input+"."+b64(string(mac.Sum(nil))), attest.ErrRejected, `alg "HS256" is none of`)
		}
	}
}

func TestAlgorithmThatTheIssuerDoesNotListIsRefused(t *testing.T) {
	f := newFixture(t, func(is *jwtproof.Issuer) { is.Algorithms = []string{"RS256", "ES384"} })
	f.expect(t, f.idp.Token(nil), attest.ErrRejected, `alg "ES256" is none of`)
	// And one that it lists does not make a key of another kind fit.
	f.expect(t, f.withHeader(map[string]any{"alg": "ES384"}), attest.ErrRejected, "the key is for ES256")
}

func TestOddKidsAreOnlyEverLookedUp(t *testing.T) {
	f := newFixture(t)
	for _, kid := range []string{"../../../../dev/null", "' UNION SELECT 'key", "http://169.254.169.254/", "key-1\x00", "KEY-1", strings.Repeat("k", 256)} {
		f.expect(t, f.withHeader(map[string]any{"kid": kid}), attest.ErrRejected, "is not among the 1 keys")
	}
	for _, kid := range []any{nil, "", 1, []string{"key-1"}, strings.Repeat("k", 257)} {
		f.expect(t, f.withHeader(map[string]any{"kid": kid}), attest.ErrMalformed, "kid is")
	}
	f.expect(t, f.withHeader(map[string]any{"kid": strings.Repeat("k", 64<<10)}), attest.ErrMalformed, "at most 16384")
}

func TestKeysInTheTokenCauseNoConnection(t *testing.T) {
	evil := brokertest.NewIDP(t)
	f := newFixture(t)
	f.expect(t, f.idp.Token(nil), nil, "")
	before := f.idp.Requests(brokertest.JWKSPath)
	for name, value := range map[string]any{
		"jku": evil.URL + brokertest.JWKSPath, "x5u": evil.URL + "/cert", "jwk": json.RawMessage(evil.JWKS()),
		"x5c": []string{"AA=="}, "crit": []string{"exp"}, "b64": false, "zip": "DEF",
	} {
		token := evil.Sign(map[string]any{"kid": f.idp.KID(), name: value}, f.goodClaims())
		f.expect(t, token, attest.ErrMalformed, name+" is refused")
		f.expect(t, f.withHeader(map[string]any{name: value}), attest.ErrMalformed, name+" is refused")
	}
	if evil.Requests(brokertest.JWKSPath)+evil.Requests("/cert") != 0 || f.idp.Requests(brokertest.JWKSPath) != before {
		t.Error("a token caused a connection")
	}
}

func TestBombsAreRefusedBeforeWork(t *testing.T) {
	f := newFixture(t)
	for name, token := range map[string]string{
		"a million dots": strings.Repeat(".", 1_000_000),
		"16 KiB of dots": strings.Repeat(".", 16<<10),
		"five parts":     b64(`{"alg":"PBES2-HS256+A128KW","p2c":2147483647,"enc":"A128GCM"}`) + ".AA.AA.AA.AA",
		"deep header":    b64(`{"alg":"ES256","kid":"key-1","x":`+strings.Repeat("[", 4000)+strings.Repeat("]", 4000)+"}") + "." + b64(f.payload(t)) + ".AA",
		"deep payload":   f.idp.Sign(nil, `{"iss":"`+f.idp.URL+`","x":`+strings.Repeat(`[`, 4000)+strings.Repeat("]", 4000)+"}"),
		"JSON":           `{"payload":"e30","signatures":[{"protected":"e30","signature":"AA"}]}`,
	} {
		t.Run(name, func(t *testing.T) { f.expect(t, token, attest.ErrMalformed, "") })
	}
	if n := f.idp.Requests(brokertest.DiscoveryPath); n != 0 {
		t.Errorf("%d requests to the issuer", n)
	}
}

func TestChangedTokenIsRefused(t *testing.T) {
	f := newFixture(t)
	good := f.idp.Token(nil)
	parts := strings.Split(good, ".")
	other := strings.Split(f.idp.Token(map[string]any{"sub": "bob"}), ".")
	f.expect(t, parts[0]+"."+other[1]+"."+parts[2], attest.ErrRejected, "signature is wrong")
	f.expect(t, parts[0]+"."+parts[1]+"."+other[2], attest.ErrRejected, "signature is wrong")
	f.expect(t, good, nil, "")
	f.expect(t, parts[0]+"."+other[1]+"."+parts[2], attest.ErrRejected, "signature is wrong") // the good one is remembered now
}

func TestDuplicateClaimsAreRefused(t *testing.T) {
	f := newFixture(t)
	good := f.payload(t)
	for _, extra := range []string{`"sub":"root"`, `"iss":"` + f.idp.URL + `"`, `"x":1,"x":2`, `"x":{"y":1,"y":1}`} {
		f.expect(t, f.idp.Sign(nil, strings.TrimSuffix(good, "}")+","+extra+"}"), attest.ErrMalformed, "duplicate")
	}
	f.expect(t, f.idp.Sign(nil, good+`{}`), attest.ErrMalformed, "")
}

func TestIssuersKeysAreTheirOwn(t *testing.T) {
	c := newClock()
	a, b := brokertest.NewIDP(t, brokertest.WithClock(c.now)), brokertest.NewIDP(t, brokertest.WithClock(c.now))
	issuers := make([]jwtproof.Issuer, 2)
	for i, idp := range []*brokertest.IDP{a, b} {
		issuers[i] = jwtproof.Issuer{Name: fmt.Sprint("i", i), Issuer: idp.URL, Keys: jwtproof.KeySource{Discovery: true}, Audiences: []string{"credbroker"}}
	}
	v, err := jwtproof.New(issuers, jwtproof.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{clock: c, idp: a, verifier: v}
	if a.KID() != b.KID() {
		t.Fatal("the point of this test is that both call their key the same")
	}
	f.expect(t, a.Token(nil), nil, "")
	f.expect(t, b.Token(nil), nil, "")
	f.expect(t, a.Token(map[string]any{"iss": b.URL}), attest.ErrRejected, "signature is wrong")
	f.expect(t, b.Token(map[string]any{"iss": a.URL}), attest.ErrRejected, "signature is wrong")
}

func TestUnknownKidFloodCostsOneFetchPer30Seconds(t *testing.T) {
	f := newFixture(t)
	f.expect(t, f.idp.Token(nil), nil, "")
	flood := func(want int) {
		t.Helper()
		for i := range 200 {
			f.expect(t, f.withHeader(map[string]any{"kid": fmt.Sprint("unknown-", i)}), attest.ErrRejected, "is not among")
		}
		if n := f.idp.Requests(brokertest.JWKSPath); n != want {
			t.Errorf("%d fetches, expected %d", n, want)
		}
	}
	flood(1)
	f.advance(30*time.Second - 1)
	flood(1)
	f.advance(1)
	flood(2)
	f.expect(t, f.idp.Token(nil), nil, "")
}

func TestUnknownIssuersCauseNoConnection(t *testing.T) {
	evil := brokertest.NewIDP(t)
	f := newFixture(t)
	f.expect(t, evil.Token(map[string]any{"iat": f.now().Unix(), "exp": f.now().Unix() + 60}), attest.ErrRejected, "is not configured")
	if evil.Requests(brokertest.DiscoveryPath)+f.idp.Requests(brokertest.DiscoveryPath) != 0 {
		t.Error("a token of an unknown issuer caused a connection")
	}
}

func fail(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }
