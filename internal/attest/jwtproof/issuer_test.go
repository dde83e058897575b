package jwtproof

import (
	"crypto/elliptic"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func writeFile(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func goodIssuer() Issuer {
	return Issuer{Name: "corp", Issuer: "https://login.example", Keys: KeySource{Discovery: true}, Audiences: []string{"broker"}}
}

func TestDefaults(t *testing.T) {
	is := goodIssuer()
	if _, err := is.normalize(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(is.Algorithms, []string{"RS256", "ES256"}) || !slices.Equal(is.Types, []string{"jwt", ""}) ||
		is.Skew != 30*time.Second || is.MaxLifetime != time.Hour {
		t.Errorf("%+v", is)
	}
}

func TestBoundsOfTheConfiguration(t *testing.T) {
	for _, change := range []func(*Issuer){
		func(is *Issuer) { is.Skew = time.Minute },
		func(is *Issuer) { is.MaxLifetime = 25 * time.Hour },
		func(is *Issuer) { is.Keys = KeySource{JWKSURL: "http://127.0.0.1:1/jwks"} },
		func(is *Issuer) { is.Keys = KeySource{JWKSURL: "http://localhost/jwks"} },
		func(is *Issuer) { is.Keys = KeySource{JWKSURL: "http://[::1]/jwks"} },
		func(is *Issuer) { is.Keys = KeySource{JWKSURL: "http://idp.example/jwks", AllowPlaintext: true} },
		func(is *Issuer) { is.Keys = KeySource{JWKSURL: "https://idp.example/jwks?tenant=a"} },
		func(is *Issuer) { is.Issuer, is.Keys = "urn:corp?#", KeySource{JWKSURL: "https://idp.example/jwks"} },
	} {
		is := goodIssuer()
		change(&is)
		v, err := New([]Issuer{is}, Options{})
		if err != nil {
			t.Error(err)
		} else if s := v.Status(); s != nil {
			t.Error(s)
		}
	}
}

func TestConfigurationFaultsNameIssuerAndField(t *testing.T) {
	ec := &testEC(t, elliptic.P256()).PublicKey
	goodPEM, goodJWKS := writeFile(t, pemOf(t, ec)), writeFile(t, jwks(jwkOf(ec, "k", "")))
	keys := func(s KeySource) func(*Issuer) { return func(is *Issuer) { is.Keys = s } }
	for want, change := range map[string]func(*Issuer){
		`name: is empty`:                            func(is *Issuer) { is.Name = "" },
		`issuer: is empty`:                          func(is *Issuer) { is.Issuer = "" },
		`audiences: at least one`:                   func(is *Issuer) { is.Audiences = nil },
		`audiences: at least one is needed, and`:    func(is *Issuer) { is.Audiences = []string{"a", ""} },
		`algorithms: "HS256" is not one of`:         func(is *Issuer) { is.Algorithms = []string{"ES256", "HS256"} },
		`algorithms: "none" is not one of`:          func(is *Issuer) { is.Algorithms = []string{"none"} },
		`skew: is 1m0.000000001s`:                   func(is *Issuer) { is.Skew = time.Minute + 1 },
		`skew: is -1ns`:                             func(is *Issuer) { is.Skew = -1 },
		`max_lifetime: is 25h0m0.000000001s`:        func(is *Issuer) { is.MaxLifetime = 25*time.Hour + 1 },
		`max_lifetime: is -1ns`:                     func(is *Issuer) { is.MaxLifetime = -1 },
		`attributes.g: claim is empty`:              func(is *Issuer) { is.Attributes = map[string]Attribute{"g": {}} },
		`token_review: 0 of them are set`:           keys(KeySource{}),
		`token_review: 2 of them are set`:           keys(KeySource{Discovery: true, JWKSURL: "https://a/"}),
		`token_review: 4 of them are set`:           keys(KeySource{Discovery: true, JWKSURL: "https://a/", JWKSFile: goodJWKS, PEMFile: goodPEM, PEMKeyID: "k"}),
		`pem.kid: is 0 bytes`:                       keys(KeySource{PEMFile: goodPEM}),
		`pem.kid: is 257 bytes`:                     keys(KeySource{PEMFile: goodPEM, PEMKeyID: strings.Repeat("k", 257)}),
		`ca_file, bearer_file: are for discovery`:   keys(KeySource{JWKSFile: goodJWKS, BearerFile: "x"}),
		`ca_file, bearer_file: are for`:             keys(KeySource{PEMFile: goodPEM, PEMKeyID: "k", CAFile: "x"}),
		`jwks_file: open`:                           keys(KeySource{JWKSFile: "/nonexistent"}),
		`pem.file: open`:                            keys(KeySource{PEMFile: "/nonexistent", PEMKeyID: "k"}),
		`ca_file: open`:                             keys(KeySource{Discovery: true, CAFile: "/nonexistent"}),
		`holds no certificate`:                      keys(KeySource{Discovery: true, CAFile: goodPEM}),
		`jwks_file: /`:                              keys(KeySource{JWKSFile: goodPEM}),
		`no usable key (0 foreign, 0 malformed)`:    keys(KeySource{JWKSFile: writeFile(t, jwks())}),
		`larger than 262144 bytes`:                  keys(KeySource{JWKSFile: writeFile(t, make([]byte, maxDocument+1))}),
		`no PEM block "PUBLIC KEY"`:                 keys(KeySource{PEMFile: goodJWKS, PEMKeyID: "k"}),
		`issuer: URL http://login.example is not h`: func(is *Issuer) { is.Issuer = "http://login.example" },
		`issuer: has a query or a fragment`:         func(is *Issuer) { is.Issuer = "https://login.example/?tenant=a" },
		`issuer: URL login.example names no host`:   func(is *Issuer) { is.Issuer = "login.example" },
		`issuer: URL holds a user name or password`: func(is *Issuer) { is.Issuer = "https://u:p@login.example" },
		`jwks_url: URL ftp://a/ is not https`:       keys(KeySource{JWKSURL: "ftp://a/", AllowPlaintext: true}),
		`jwks_url: URL http://10.0.0.1/ is not`:     keys(KeySource{JWKSURL: "http://10.0.0.1/"}),
		`jwks_url: URL http://localhost.evil/ is`:   keys(KeySource{JWKSURL: "http://localhost.evil/"}),
		`jwks_url: URL https://a/#b has a fragment`: keys(KeySource{JWKSURL: "https://a/#b"}),
		`jwks_url: not a URL`:                       keys(KeySource{JWKSURL: "https://a b/"}),
		`jwks_url: URL https:a names no host`:       keys(KeySource{JWKSURL: "https:a"}),
	} {
		is := goodIssuer()
		change(&is)
		_, err := New([]Issuer{is}, Options{})
		mustContain(t, err, want)
		if is.Name != "" {
			mustContain(t, err, `issuer "corp": `)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("the error holds a password: %v", err)
		}
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	a, b := goodIssuer(), goodIssuer()
	a.Audiences, a.Skew, b.Name, b.Keys = nil, -1, "dev", KeySource{}
	_, err := New([]Issuer{a, b}, Options{})
	for _, want := range []string{`issuer "corp": audiences:`, `issuer "corp": skew:`, `issuer "dev": discovery, jwks_url`} {
		mustContain(t, err, want)
	}
	other := goodIssuer()
	other.Issuer = "https://other.example"
	_, err = New([]Issuer{goodIssuer(), other}, Options{})
	mustContain(t, err, `issuer "corp": name: is there twice`)
	other = goodIssuer()
	other.Name = "other"
	_, err = New([]Issuer{goodIssuer(), other}, Options{})
	mustContain(t, err, `issuer "other": issuer: https://login.example is there twice`)
}

func TestKeyFileAtItsSizeBoundIsRead(t *testing.T) {
	set := jwks(jwkOf(&testEC(t, elliptic.P256()).PublicKey, "k", ""))
	is := goodIssuer()
	is.Keys = KeySource{JWKSFile: writeFile(t, append(set, strings.Repeat(" ", maxDocument-len(set))...))}
	if _, err := New([]Issuer{is}, Options{}); err != nil {
		t.Error(err)
	}
}
