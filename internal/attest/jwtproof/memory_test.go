package jwtproof_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/brokertest"
)

func TestRememberedTokenIsNotVerifiedAgain(t *testing.T) {
	f := newFixture(t)
	token := f.idp.Token(nil)
	f.expect(t, token, nil, "")
	// Verifying takes over a hundred allocations, remembering one.
	if n := testing.AllocsPerRun(10, func() { _, _ = f.verify(token) }); n > 10 {
		t.Errorf("a remembered token costs %v allocations", n)
	}
}

func TestRememberedTokenEndsWithItsLife(t *testing.T) {
	f := newFixture(t)
	token := f.idp.Token(nil)
	f.expect(t, token, nil, "")
	f.advance(5*time.Minute - 1)
	f.expect(t, token, nil, "")
	f.advance(1 + 30*time.Second)
	f.expect(t, token, attest.ErrRejected, "expired 30s ago")
}

func TestRememberedTokenIsHeldAgainstAClockThatWentBack(t *testing.T) {
	f := newFixture(t)
	for _, claims := range []map[string]any{nil, {"nbf": f.now().Unix(), "iat": f.now().Add(-time.Minute).Unix()}} {
		token := f.idp.Token(claims)
		f.expect(t, token, nil, "")
		f.advance(-30 * time.Second)
		f.expect(t, token, nil, "")
		f.advance(-1)
		f.expect(t, token, attest.ErrRejected, "")
		f.advance(30*time.Second + 1)
	}
}

func TestRememberedTokenDiesWithItsKey(t *testing.T) {
	f := newFixture(t)
	first := f.idp.KID()
	token := f.idp.Token(nil)
	f.expect(t, token, nil, "")
	f.idp.Rotate()
	f.idp.Publish(first, 0)
	f.advance(30 * time.Second)
	f.expect(t, f.idp.Token(nil), nil, "") // an unknown kid: the keys are fetched again
	f.expect(t, token, attest.ErrRejected, `kid "key-1" is not among`)
}

func TestRememberedTokenDiesWithItsIssuer(t *testing.T) {
	f := newFixture(t)
	token := f.idp.Token(nil)
	f.expect(t, token, nil, "")
	same := f.verifier
	for name, change := range map[string]func(*jwtproof.Issuer){
		"audience":   func(is *jwtproof.Issuer) { is.Audiences = []string{"other"} },
		"algorithms": func(is *jwtproof.Issuer) { is.Algorithms = []string{"RS256"} },
		"types":      func(is *jwtproof.Issuer) { is.Types = []string{"at+jwt"} },
		"lifetime":   func(is *jwtproof.Issuer) { is.MaxLifetime = time.Minute },
		"gone":       func(is *jwtproof.Issuer) { is.Issuer = "https://other.example" },
	} {
		before := f.issuer
		change(&f.issuer)
		f.verifier = f.replace(t, same)
		if _, err := f.verify(token); err == nil {
			t.Errorf("%s: the token is still accepted", name)
		}
		f.issuer = before
	}
}

func TestReloadThatChangesNothingKeepsKeysAndTokens(t *testing.T) {
	f := newFixture(t)
	token := f.idp.Token(nil)
	f.expect(t, token, nil, "")
	f.idp.Handle(brokertest.DiscoveryPath, fail)
	f.idp.Handle(brokertest.JWKSPath, fail)
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, token, nil, "")
	f.expect(t, f.idp.Token(map[string]any{"sub": "bob"}), nil, "")
	if n := f.idp.Requests(brokertest.JWKSPath); n != 1 {
		t.Errorf("%d fetches", n)
	}
	f.issuer.Skew = time.Minute // what doesn't concern the keys leaves them as they are
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, token, nil, "")
	f.issuer.Name = "another" // what may concern them drops them
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, token, attest.ErrUnavailable, "status 500")
}

func TestUsedTokensStayUsedOverAReload(t *testing.T) {
	f := newFixture(t, func(is *jwtproof.Issuer) { is.SingleUse = true })
	f.advance(time.Minute)
	token := f.idp.Token(map[string]any{"jti": "a"})
	f.expect(t, token, nil, "")
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, token, attest.ErrRejected, "used before")
	f.issuer.Skew = time.Minute
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, token, attest.ErrRejected, "used before")
	// Off and on again: what happened in between is not known, so older tokens are refused.
	f.issuer.SingleUse = false
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, token, nil, "")
	f.issuer.SingleUse = true
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, token, attest.ErrRejected, "older than the memory")
	// A new process knows nothing, and says so.
	f.verifier = f.replace(t, nil)
	f.expect(t, token, attest.ErrRejected, "older than the memory")
}

func TestKeyFilesAreReadAgainAtAReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwks.json")
	f := &fixture{clock: newClock()}
	f.idp = brokertest.NewIDP(t, brokertest.WithClock(f.now))
	write := func(data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(f.idp.JWKS())
	f.issuer = jwtproof.Issuer{Name: "corp", Issuer: f.idp.URL, Keys: jwtproof.KeySource{JWKSFile: path}, Audiences: []string{"credbroker"}}
	f.verifier = f.replace(t, nil)
	token := f.idp.Token(nil)
	f.expect(t, token, nil, "")
	first := f.idp.KID()
	f.idp.Rotate()
	f.idp.Publish(first, 0)
	write(f.idp.JWKS())
	f.expect(t, token, nil, "") // until the reload
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, token, attest.ErrRejected, "is not among")
	f.expect(t, f.idp.Token(nil), nil, "")
	write([]byte("{"))
	if _, err := jwtproof.New([]jwtproof.Issuer{f.issuer}, jwtproof.Options{Previous: f.verifier}); err == nil {
		t.Error("a broken key file was accepted")
	}
	f.expect(t, f.idp.Token(nil), nil, "")
	if n := f.idp.Requests(brokertest.DiscoveryPath); n != 0 {
		t.Errorf("%d requests to the issuer", n)
	}
}

func TestReloadWithAnotherKeySourceDropsTheKeys(t *testing.T) {
	f := newFixture(t)
	token := f.idp.Token(nil)
	f.expect(t, token, nil, "")
	f.idp.Handle(brokertest.DiscoveryPath, fail)
	f.idp.Handle(brokertest.JWKSPath, fail)
	f.issuer.Keys = jwtproof.KeySource{JWKSURL: f.idp.URL + brokertest.JWKSPath, CAFile: f.issuer.Keys.CAFile, AllowPlaintext: f.issuer.Keys.AllowPlaintext}
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, token, attest.ErrUnavailable, "status 500")
}
