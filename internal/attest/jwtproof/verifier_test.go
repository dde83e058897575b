package jwtproof_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
)

// clock is a time that tests move by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Unix(1_800_000_000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// fixture is a provider and a verifier that accepts its tokens, on one clock.
type fixture struct {
	*clock
	idp      *brokertest.IDP
	issuer   jwtproof.Issuer
	verifier *jwtproof.Verifier
}

func newFixture(t *testing.T, changes ...func(*jwtproof.Issuer)) *fixture {
	t.Helper()
	f := &fixture{clock: newClock()}
	f.idp = brokertest.NewIDP(t, brokertest.WithClock(f.now))
	f.issuer = jwtproof.Issuer{
		Name: "corp", Issuer: f.idp.URL, Keys: jwtproof.KeySource{Discovery: true},
		Audiences: []string{"credbroker"}, Algorithms: []string{"ES256"},
	}
	for _, change := range changes {
		change(&f.issuer)
	}
	f.verifier = f.replace(t, nil)
	return f
}

// replace makes a verifier of the fixture's issuer as it is now.
func (f *fixture) replace(t *testing.T, previous *jwtproof.Verifier) *jwtproof.Verifier {
	t.Helper()
	v, err := jwtproof.New([]jwtproof.Issuer{f.issuer}, jwtproof.Options{Now: f.now, Previous: previous})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (f *fixture) verify(token string) (attest.Identity, error) {
	return f.verifier.Verify(context.Background(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)})
}

// expect verifies and holds the error against one of attest's, and its text; nil and "" mean that it passes.
func (f *fixture) expect(t *testing.T, token string, want error, text string) {
	t.Helper()
	_, err := f.verify(token)
	if !errors.Is(err, want) || want == nil && err != nil || err != nil && !strings.Contains(err.Error(), text) {
		t.Errorf("error is %v, expected %v with %q", err, want, text)
	}
}

func TestGoodTokenBecomesAnIdentity(t *testing.T) {
	f := newFixture(t, func(is *jwtproof.Issuer) {
		is.Attributes = map[string]jwtproof.Attribute{
			"groups": {Claim: "groups"}, "home": {Claim: "home_path", Path: true}, "email": {Claim: "email"}, "none": {Claim: "none"},
		}
	})
	token := f.idp.Token(map[string]any{
		"groups": []string{"finance", "eu"}, "home_path": "a/b", "email": "alice@corp.example", "email_verified": true, "nbf": f.now().Unix(),
	})
	want := attest.Identity{
		Kind: attest.KindOIDC, Issuer: f.idp.URL, Subject: "alice", Expires: f.now().Add(5 * time.Minute),
		Attrs:     map[string][]string{"groups": {"finance", "eu"}, "home": {"a/b"}, "email": {"alice@corp.example"}},
		PathAttrs: map[string]bool{"home": true},
	}
	for range 2 { // verified, then remembered
		got, err := f.verify(token)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; expected %+v", got, err, want)
		}
	}
	if s := f.verifier.Status(); s != nil {
		t.Error(s)
	}
	if n := f.idp.Requests(brokertest.JWKSPath); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// TestEachClaimIsChecked is about the wiring: the bounds of each check are tested where it stands.
func TestEachClaimIsChecked(t *testing.T) {
	f := newFixture(t)
	at := func(d time.Duration) int64 { return f.now().Add(d).Unix() }
	for name, tc := range map[string]struct {
		claims map[string]any
		want   error
		text   string
	}{
		"good":                 {nil, nil, ""},
		"expired":              {map[string]any{"iat": at(-time.Minute), "exp": at(-30 * time.Second)}, attest.ErrExpired, "expired"},
		"no exp":               {map[string]any{"exp": nil}, attest.ErrRejected, "exp is missing"},
		"no iat":               {map[string]any{"iat": nil}, attest.ErrRejected, "iat is missing"},
		"exp as text":          {map[string]any{"exp": "1800000300"}, attest.ErrRejected, "exp is not an integer"},
		"issued in the future": {map[string]any{"iat": at(31 * time.Second)}, attest.ErrRejected, "in the future"},
		"not yet valid":        {map[string]any{"nbf": at(31 * time.Second)}, attest.ErrRejected, "not valid for another"},
		"nbf as text":          {map[string]any{"nbf": "0"}, attest.ErrRejected, "nbf is not an integer"},
		"lives too long":       {map[string]any{"exp": at(time.Hour + time.Second)}, attest.ErrRejected, "at most 1h0m0s"},
		"longest life":         {map[string]any{"exp": at(time.Hour)}, nil, ""},
		"no aud":               {map[string]any{"aud": nil}, attest.ErrRejected, "aud is missing"},
		"empty aud":            {map[string]any{"aud": []string{}}, attest.ErrRejected, "aud is missing, empty"},
		"nested aud":           {map[string]any{"aud": [][]string{{"credbroker"}}}, attest.ErrRejected, "aud is missing, empty"},
		"aud with a suffix":    {map[string]any{"aud": "credbroker.evil.example"}, attest.ErrRejected, "holds none of"},
		"aud of a path":        {map[string]any{"aud": "https://evil/credbroker"}, attest.ErrRejected, "holds none of"},
		"several aud, no azp":  {map[string]any{"aud": []string{"credbroker", "x"}}, attest.ErrRejected, "azp is missing"},
		"several aud with azp": {map[string]any{"aud": []string{"credbroker", "x"}, "azp": "credbroker"}, nil, ""},
		"no sub":               {map[string]any{"sub": nil}, attest.ErrRejected, "sub is missing"},
		"empty sub":            {map[string]any{"sub": ""}, attest.ErrRejected, "sub is 0 bytes"},
		"sub not NFC":          {map[string]any{"sub": "e\u0301"}, attest.ErrRejected, "normalization form C"},
		"sub with a newline":   {map[string]any{"sub": "alice\nbob"}, attest.ErrRejected, "not printable"},
		"sub too long":         {map[string]any{"sub": strings.Repeat("a", 256)}, attest.ErrRejected, "sub is 256 bytes"},
		"no iss":               {map[string]any{"iss": nil}, attest.ErrMalformed, "iss is missing"},
		"iss as a list":        {map[string]any{"iss": []string{f.idp.URL}}, attest.ErrMalformed, "iss is missing or not a string"},
		"iss with a slash":     {map[string]any{"iss": f.idp.URL + "/"}, attest.ErrRejected, "is not configured"},
		"iss in capitals":      {map[string]any{"iss": strings.ToUpper(f.idp.URL)}, attest.ErrRejected, "is not configured"},
		"iss of another":       {map[string]any{"iss": "https://accounts.google.com"}, attest.ErrRejected, "is not configured"},
		"jti as a number":      {map[string]any{"jti": 7}, attest.ErrRejected, "jti is not a string"},
	} {
		t.Run(name, func(t *testing.T) { f.expect(t, f.idp.Token(tc.claims), tc.want, tc.text) })
	}
}

func TestSkewAndLifetimeAreTheIssuers(t *testing.T) {
	f := newFixture(t, func(is *jwtproof.Issuer) { is.Skew, is.MaxLifetime = time.Minute, 10*time.Minute })
	at := func(d time.Duration) int64 { return f.now().Add(d).Unix() }
	f.expect(t, f.idp.Token(map[string]any{"iat": at(-5 * time.Minute), "exp": at(-59 * time.Second)}), nil, "")
	f.expect(t, f.idp.Token(map[string]any{"iat": at(-5 * time.Minute), "exp": at(-60 * time.Second)}), attest.ErrRejected, "expired")
	f.expect(t, f.idp.Token(map[string]any{"exp": at(10 * time.Minute)}), nil, "")
	f.expect(t, f.idp.Token(map[string]any{"exp": at(10*time.Minute + time.Second)}), attest.ErrRejected, "at most 10m0s")
}

// TestWhatHasExpiredIsToldOnlyOfWhatHeldOnce: whoever shows what never held must not learn from another answer how near it came.
func TestWhatHasExpiredIsToldOnlyOfWhatHeldOnce(t *testing.T) {
	f := newFixture(t)
	over := map[string]any{"iat": f.now().Add(-time.Hour).Unix(), "exp": f.now().Add(-time.Minute).Unix()}
	with := func(name string, value any) string {
		claims := maps.Clone(over)
		claims[name] = value
		return f.idp.Token(claims)
	}
	good := f.idp.Token(over)
	for name, token := range map[string]string{
		"another audience": with("aud", "vault"), "another issuer": with("iss", f.idp.URL+"/"), "no subject": with("sub", ""), "too long a life": with("iat", 0),
		"another signature": good[:len(good)-8] + "AAAAAAAA",
	} {
		if _, err := f.verify(token); !errors.Is(err, attest.ErrRejected) || errors.Is(err, attest.ErrExpired) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.expect(t, good, attest.ErrExpired, "expired")
}

func TestTypIsChecked(t *testing.T) {
	f := newFixture(t)
	claims := map[string]any{"iss": f.idp.URL, "sub": "a", "aud": "credbroker", "iat": f.now().Unix(), "exp": f.now().Unix() + 60}
	f.expect(t, f.idp.Sign(map[string]any{"typ": nil}, claims), nil, "")
	f.expect(t, f.idp.Sign(map[string]any{"typ": "at+jwt"}, claims), attest.ErrRejected, `typ "at+jwt" is none of`)
	f.issuer.Types = []string{"at+jwt"}
	f.verifier = f.replace(t, nil)
	f.expect(t, f.idp.Sign(map[string]any{"typ": "at+jwt"}, claims), nil, "")
	f.expect(t, f.idp.Sign(nil, claims), attest.ErrRejected, `typ "JWT" is none of`) // an ID token is no access token
}

func TestOtherKindsOfProofAreMalformed(t *testing.T) {
	f := newFixture(t)
	_, err := f.verifier.Verify(t.Context(), attest.Proof{Kind: "aws", Data: secret.New(f.idp.Token(nil))})
	if !errors.Is(err, attest.ErrMalformed) {
		t.Error(err)
	}
	f.expect(t, "", attest.ErrMalformed, "")
	f.expect(t, "x", attest.ErrMalformed, "")
	f.expect(t, strings.Repeat("a", 16<<10), attest.ErrMalformed, "0 dots")
	f.expect(t, strings.Repeat("a", 16<<10+1), attest.ErrMalformed, `of 16385 bytes, expected "jwt" of at most 16384`)
	if n := f.idp.Requests(brokertest.DiscoveryPath); n != 0 {
		t.Errorf("%d requests to the issuer", n)
	}
}

func TestCallersContextEndsTheWait(t *testing.T) {
	f := newFixture(t)
	release := make(chan struct{})
	f.idp.Handle(brokertest.DiscoveryPath, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.verifier.Verify(ctx, attest.Proof{Kind: attest.KindJWT, Data: secret.New(f.idp.Token(nil))})
	if !errors.Is(err, context.Canceled) || errors.Is(err, attest.ErrUnavailable) {
		t.Error(err)
	}
}

func TestSingleUseTokens(t *testing.T) {
	f := newFixture(t, func(is *jwtproof.Issuer) { is.SingleUse = true })
	once := func(jti any) string { return f.idp.Token(map[string]any{"jti": jti}) }
	f.expect(t, once("early"), attest.ErrRejected, "older than the memory of used ones")
	f.advance(time.Minute)
	token := once("a")
	f.expect(t, token, nil, "")
	f.expect(t, token, attest.ErrRejected, "used before")
	f.expect(t, once("a"), attest.ErrRejected, "used before")
	f.expect(t, once(nil), attest.ErrRejected, "jti is missing")
	// A token that fails another check isn't used up by it.
	bad := f.idp.Token(map[string]any{"jti": "b", "aud": "x"})
	f.expect(t, bad, attest.ErrRejected, "holds none of")
	f.expect(t, once("b"), nil, "")
}

func TestErrorsHoldNoToken(t *testing.T) {
	f := newFixture(t)
	good := f.idp.Token(nil)
	parts := strings.Split(good, ".")
	for i, token := range []string{
		good + "x", parts[0] + "." + parts[1], parts[1] + "." + parts[0] + "." + parts[2], good[:len(good)-8] + "AAAAAAAA",
		f.idp.Token(map[string]any{"aud": "x"}), f.idp.Token(map[string]any{"iss": "x"}),
	} {
		_, err := f.verify(token)
		if err == nil {
			t.Errorf("token %d was accepted", i)
			continue
		}
		for _, part := range strings.Split(token, ".") {
			if strings.Contains(fmt.Sprintf("%+v", err), part[:min(len(part), 12)]) {
				t.Errorf("the error holds the token: %v", err)
			}
		}
	}
}
