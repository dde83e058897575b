package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
)

const testURL = "https://broker.example:8443"

func newIssuer(t *testing.T) *Issuer {
	t.Helper()
	iss, err := New(Config{URL: testURL, RotateEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return iss
}

func newSource(t *testing.T, iss *Issuer, cfg SourceConfig) *Source {
	t.Helper()
	if cfg.Audience == "" {
		cfg.Audience = "credbroker"
	}
	if cfg.AllowedPolicies == nil {
		cfg.AllowedPolicies = []string{"reports-rw", "readonly"}
	}
	s, err := iss.Source(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func request(policies ...string) exchange.Request {
	return exchange.Request{
		Identity:    attest.Identity{Kind: attest.KindOIDC, Issuer: "https://idp.example", Subject: "alice"},
		Grant:       policy.Grant{Role: "reports", Policies: policies},
		Correlation: exchange.Correlation{RequestID: "r1"},
	}
}

// verify checks a token as a stranger would: with the published keys, by crypto/ecdsa alone.
func verify(t *testing.T, jwks []byte, token string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	decode := func(s string) []byte {
		b, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i, m := range []*map[string]any{&header, &claims} {
		if err := json.Unmarshal(decode(parts[i]), m); err != nil {
			t.Fatal(err)
		}
	}
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		if k["kid"] != header["kid"] {
			continue
		}
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, decode(k["x"]), decode(k["y"])))
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		sig := decode(parts[2])
		if len(sig) != 64 || !ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
			t.Fatal("the signature doesn't hold")
		}
		return header, claims
	}
	t.Fatalf("key %v isn't published", header["kid"])
	return nil, nil
}

func TestTokenSaysThisAndNoMore(t *testing.T) {
	iss := newIssuer(t)
	now := time.Unix(1_800_000_000, 700_000_000)
	s := newSource(t, iss, SourceConfig{Now: func() time.Time { return now }})
	token, err := s.Token(t.Context(), request("reports-rw"), now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	header, claims := verify(t, iss.JWKS(t.Context()), token.Reveal())
	if header["alg"] != "ES256" || header["typ"] != "JWT" || len(header) != 3 {
		t.Errorf("header %v", header)
	}
	want := map[string]any{
		"iss": testURL, "aud": "credbroker", "sub": Subject(request().Identity),
		"iat": float64(1_800_000_000 - 30), "exp": float64(1_800_000_060), "policy": []any{"reports-rw"},
		"credbroker_role": "reports", "credbroker_issuer": "https://idp.example", "credbroker_subject": "alice", "credbroker_request_id": "r1",
	}
	jti, _ := claims["jti"].(string)
	if len(jti) != 22 {
		t.Errorf("jti %q", jti)
	}
	delete(claims, "jti")
	got, _ := json.Marshal(claims)
	if expected, _ := json.Marshal(want); string(got) != string(expected) {
		t.Errorf("got  %s\nwant %s", got, expected)
	}
}

func TestEveryTokenHasAnIDOfItsOwn(t *testing.T) {
	iss := newIssuer(t)
	s := newSource(t, iss, SourceConfig{})
	seen := map[any]bool{}
	for range 50 {
		token, err := s.Token(t.Context(), request("readonly"), time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		_, claims := verify(t, iss.JWKS(t.Context()), token.Reveal())
		seen[claims["jti"]] = true
	}
	if len(seen) != 50 {
		t.Errorf("%d different IDs", len(seen))
	}
}

func TestOnlyAllowedPoliciesAreMinted(t *testing.T) {
	s := newSource(t, newIssuer(t), SourceConfig{})
	for name, policies := range map[string][]string{
		"none": nil, "another": {"payroll-rw"}, "one of two": {"readonly", "payroll-rw"}, "administrator": {"consoleAdmin"},
		"two in one": {"readonly,reports-rw"}, "case": {"ReadOnly"}, "empty": {""},
	} {
		if _, err := s.Token(t.Context(), request(policies...), time.Now().Add(time.Minute)); !errors.Is(err, ErrNotAllowed) || !errors.Is(err, exchange.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Token(t.Context(), request("readonly", "reports-rw"), time.Now().Add(time.Minute)); err != nil {
		t.Errorf("all that is allowed: %v", err)
	}
}

func TestATokenEndsAfterItBegins(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := newSource(t, newIssuer(t), SourceConfig{Now: func() time.Time { return now }})
	// The last but one is cut to now.
	for _, end := range []time.Time{now.Add(-time.Second), now, now.Add(time.Second - 1), {}} {
		if _, err := s.Token(t.Context(), request("readonly"), end); !errors.Is(err, ErrNotAllowed) {
			t.Errorf("until %s: %v", end, err)
		}
	}
	if _, err := s.Token(t.Context(), request("readonly"), now.Add(time.Second)); err != nil {
		t.Error(err)
	}
}

func TestAnIssuerNeedsURLAndInterval(t *testing.T) {
	for _, cfg := range []Config{{RotateEvery: time.Hour}, {URL: testURL}, {URL: testURL, RotateEvery: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
	if _, err := New(Config{URL: testURL, RotateEvery: 1}); err != nil {
		t.Error(err)
	}
}

func TestSourceRefusesWhatIsDangerous(t *testing.T) {
	iss := newIssuer(t)
	for _, p := range []string{"consoleAdmin", "diagnostics", "", "a,b", "a b"} {
		if _, err := iss.Source(SourceConfig{Audience: "a", AllowedPolicies: []string{"readonly", p}}); err == nil {
			t.Errorf("%q: no error", p)
		}
	}
	for _, p := range []string{"consoleAdmin", "diagnostics"} {
		if _, err := iss.Source(SourceConfig{Audience: "a", AllowedPolicies: []string{p}, Dangerous: true}); err != nil {
			t.Errorf("%q, said to be dangerous: %v", p, err)
		}
	}
	if _, err := iss.Source(SourceConfig{AllowedPolicies: []string{"a"}}); err == nil {
		t.Error("no audience: no error")
	}
	if _, err := iss.Source(SourceConfig{Audience: "a"}); err == nil {
		t.Error("no policies: no error")
	}
	// Unless there are to be none, as for AWS.
	s, err := iss.Source(SourceConfig{Audience: "a", NoPolicies: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Token(t.Context(), exchange.Request{}, time.Now().Add(time.Hour)); err != nil {
		t.Errorf("a token without policies, as it should be: %v", err)
	}
}

func TestAllowedPoliciesCantBeChangedLater(t *testing.T) {
	allowed := []string{"readonly"}
	s := newSource(t, newIssuer(t), SourceConfig{AllowedPolicies: allowed})
	allowed[0] = "consoleAdmin"
	if _, err := s.Token(t.Context(), request("consoleAdmin"), time.Now().Add(time.Minute)); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("got %v", err)
	}
}

func TestNoTwoIdentitiesShareASubject(t *testing.T) {
	id := func(kind attest.Kind, issuer, tenant, subject string, actor *attest.Identity) attest.Identity {
		return attest.Identity{Kind: kind, Issuer: issuer, Tenant: tenant, Subject: subject, Actor: actor}
	}
	gateway := id("oidc", "i", "", "gw", nil)
	all := []attest.Identity{
		id("oidc", "i", "", "s", nil), id("oidc", "is", "", "", nil), id("oidc", "", "i", "s", nil), id("oidc", "i", "s", "", nil),
		id("oidc", "i:s", "", "", nil), id("oidc", "i", "", ":s", nil), id("oidci", "", "", "s", nil), id("aws", "i", "", "s", nil),
		id("oidc", "i", "", "s", &gateway), gateway,
	}
	seen := map[string]int{}
	for i, who := range all {
		sub := Subject(who)
		if other, ok := seen[sub]; ok {
			t.Errorf("%+v and %+v share %s", all[other], who, sub)
		}
		seen[sub] = i
		if sub != Subject(who) || !strings.HasPrefix(sub, string(who.Kind)+"_") || len(sub) != len(who.Kind)+1+43 {
			t.Errorf("subject %q", sub)
		}
	}
	with := all[0]
	with.Attrs, with.Expires = map[string][]string{"groups": {"x"}}, time.Now()
	if Subject(with) != Subject(all[0]) {
		t.Error("attributes change the subject")
	}
}

// The thumbprint of the key in RFC 7517, appendix A.1, by the rules of RFC 7638.
func TestThumbprint(t *testing.T) {
	const x, y = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
	if got := thumbprint(x, y); got != "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s" {
		t.Errorf("got %s", got)
	}
}

func TestDocuments(t *testing.T) {
	iss := newIssuer(t)
	const want = `{"id_token_signing_alg_values_supported":["ES256"],"issuer":"` + testURL + `","jwks_uri":"` + testURL +
		`/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"]}`
	if got := string(iss.Discovery()); got != want {
		t.Errorf("discovery %s", got)
	}
	if strings.Contains(string(iss.JWKS(t.Context())), `"d"`) {
		t.Error("a private key is published")
	}
}

func kids(t *testing.T, iss *Issuer) []string {
	t.Helper()
	var set struct {
		Keys []struct {
			KID, Kty, Crv, Use, Alg string
		}
	}
	if err := json.Unmarshal(iss.JWKS(t.Context()), &set); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, k := range set.Keys {
		if k.Kty != "EC" || k.Crv != "P-256" || k.Use != "sig" || k.Alg != "ES256" {
			t.Errorf("key %+v", k)
		}
		out = append(out, k.KID)
	}
	if ids := iss.KeyIDs(); !slices.Equal(ids, out) {
		t.Errorf("KeyIDs %v, published %v", ids, out)
	}
	return out
}

func TestAKeyIsPublishedAnIntervalBeforeItSignsAndOneAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t)
		s := newSource(t, iss, SourceConfig{})
		go iss.Run(t.Context())
		published := map[string]int{} // intervals by key
		var signers []string
		for interval := range 6 {
			ids := kids(t, iss)
			for _, id := range ids {
				published[id]++
			}
			token, err := s.Token(t.Context(), request("readonly"), time.Now().Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			header, _ := verify(t, iss.JWKS(t.Context()), token.Reveal())
			kid := header["kid"].(string)
			if slices.Contains(signers, kid) {
				t.Errorf("interval %d: %s signs again", interval, kid)
			}
			signers = append(signers, kid)
			if interval > 0 && published[kid] != 2 {
				t.Errorf("interval %d: %s signs and was published for %d intervals", interval, kid, published[kid])
			}
			if interval > 0 && !slices.Contains(ids, signers[interval-1]) {
				t.Errorf("interval %d: the former signer is gone", interval)
			}
			if interval > 1 && slices.Contains(ids, signers[interval-2]) {
				t.Errorf("interval %d: the signer before the former is still there", interval)
			}
			time.Sleep(time.Hour + time.Second)
			synctest.Wait()
		}
	})
}
