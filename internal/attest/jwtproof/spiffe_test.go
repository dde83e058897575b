package jwtproof_test

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/secret"
)

// TestBundlesOfATrustDomain gets them from each source, and follows them when keys change.
func TestBundlesOfATrustDomain(t *testing.T) {
	for name, source := range map[string]func(*brokertest.SPIFFE) jwtproof.KeySource{
		"file": func(s *brokertest.SPIFFE) jwtproof.KeySource { return jwtproof.KeySource{JWKSFile: s.BundleFile} },
		"HTTPS": func(s *brokertest.SPIFFE) jwtproof.KeySource {
			return jwtproof.KeySource{JWKSURL: s.URL + brokertest.SPIFFEBundlePath, CAFile: s.CAFile}
		},
		"Workload API": func(s *brokertest.SPIFFE) jwtproof.KeySource { return jwtproof.KeySource{WorkloadAPI: s.Address} },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			s := brokertest.NewSPIFFE(t, "prod.example", c.now)
			issuer := jwtproof.Issuer{Name: "prod", Profile: jwtproof.ProfileSPIFFE, Issuer: "spiffe://prod.example", Audiences: []string{"credbroker"}, Keys: source(s)}
			v, err := jwtproof.New([]jwtproof.Issuer{issuer}, jwtproof.Options{Now: c.now})
			if err != nil {
				t.Fatal(err)
			}
			verify := func(v *jwtproof.Verifier, token string) (attest.Identity, error) {
				return v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)})
			}
			svid := func() string { return s.JWTSVID(s.ID("/ns/prod/sa/reports"), []string{"credbroker"}, nil) }
			former := svid()
			id, err := verify(v, former)
			if err != nil || id.Subject != "spiffe://prod.example/ns/prod/sa/reports" || id.Kind != attest.KindSPIFFE || !reflect.DeepEqual(id.Attrs["path"], []string{"/ns/prod/sa/reports"}) {
				t.Fatalf("%+v, %v", id, err)
			}
			s.RotateJWT()
			c.advance(time.Minute) // an unknown kid asks again, but not at once
			if name == "file" {    // which is read anew by a reload
				if v, err = jwtproof.New([]jwtproof.Issuer{issuer}, jwtproof.Options{Now: c.now, Previous: v}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := verify(v, svid()); err != nil {
				t.Errorf("after a rotation: %v", err)
			}
			// A key that is withdrawn is good for nothing, remembered tokens included.
			s.Forget()
			c.advance(11 * time.Minute)
			if name == "file" {
				if v, err = jwtproof.New([]jwtproof.Issuer{issuer}, jwtproof.Options{Now: c.now, Previous: v}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := verify(v, svid()); err != nil {
				t.Errorf("after the former key is gone: %v", err)
			}
			brokertest.Eventually(t, 5*time.Second, "the former key is gone", func() error {
				if _, err := verify(v, former); err == nil {
					return errors.New("accepted")
				}
				return nil
			})
			if name == "Workload API" {
				s.FailWorkloads(errors.New("planted"))
				v, err := jwtproof.New([]jwtproof.Issuer{issuer}, jwtproof.Options{Now: c.now})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := verify(v, svid()); !errors.Is(err, attest.ErrUnavailable) || len(v.Status()) != 1 {
					t.Errorf("%v, %v", err, v.Status())
				}
			}
		})
	}
}

// TestBundlesOfOthers: neither the keys of another trust domain nor those that the bundle has for X.509 verify a token.
func TestBundlesOfOthers(t *testing.T) {
	c := newClock()
	prod, dev := brokertest.NewSPIFFE(t, "prod.example", c.now), brokertest.NewSPIFFE(t, "dev.example", c.now)
	for name, keys := range map[string]jwtproof.KeySource{
		"a Workload API of another trust domain": {WorkloadAPI: dev.Address},
		"another's bundle":                       {JWKSFile: dev.BundleFile},
	} {
		v, err := jwtproof.New([]jwtproof.Issuer{{
			Name: "prod", Profile: jwtproof.ProfileSPIFFE, Issuer: "spiffe://prod.example", Audiences: []string{"credbroker"}, Keys: keys,
		}}, jwtproof.Options{Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(prod.JWTSVID(prod.ID("/a"), []string{"credbroker"}, nil))}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// The bundle's keys for X.509 have no kid and another use; as a plain issuer's set it has no key at all.
	_, err := jwtproof.New([]jwtproof.Issuer{{Name: "oidc", Issuer: "https://prod.example", Audiences: []string{"a"}, Keys: jwtproof.KeySource{JWKSFile: prod.BundleFile}}}, jwtproof.Options{})
	if err == nil || !strings.Contains(err.Error(), "no usable key") {
		t.Error(err)
	}
	idp := brokertest.NewIDP(t)
	idp.Handle("/bundle", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(idp.JWKS()) })
	v, err := jwtproof.New([]jwtproof.Issuer{{
		Name: "prod", Profile: jwtproof.ProfileSPIFFE, Issuer: "spiffe://prod.example", Audiences: []string{"credbroker"}, Keys: jwtproof.KeySource{JWKSURL: idp.URL + "/bundle"},
	}}, jwtproof.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(idp.Token(map[string]any{"iss": nil, "sub": "spiffe://prod.example/a"}))})
	if !errors.Is(err, attest.ErrRejected) || !strings.Contains(err.Error(), "among the 0 keys") {
		t.Errorf("keys of use sig for an SVID: %v", err)
	}
}

// What this package takes as an SVID, go-spiffe does too, and sees the same identity in.
func TestSVIDsAreWhatGoSPIFFESays(t *testing.T) {
	s := brokertest.NewSPIFFE(t, "prod.example", time.Now)
	bundle, err := spiffebundle.Load(spiffeid.RequireTrustDomainFromString("prod.example"), s.BundleFile)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jwtproof.New([]jwtproof.Issuer{{
		Name: "prod", Profile: jwtproof.ProfileSPIFFE, Issuer: "spiffe://prod.example", Audiences: []string{"credbroker"}, Keys: jwtproof.KeySource{JWKSFile: s.BundleFile},
		Types: []string{"JWT", "JOSE", ""},
	}}, jwtproof.Options{})
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for _, id := range []string{
		"/a", "/ns/prod/sa/reports", "/A.b-c_d", "/a/.../b", "", "/", "/a/", "//a", "/a//b", "/.", "/..", "/a/../b", "/a%2fb", "/a b", "/é", "/a?b", "/a#b", "/a:b", "/a*",
	} {
		token := s.Sign(nil, map[string]any{"sub": "spiffe://prod.example" + id, "aud": []string{"credbroker"}, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()})
		got, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)})
		theirs, theirErr := jwtsvid.ParseAndValidate(token, bundle, []string{"credbroker"})
		if id == "" { // the trust domain's own, which go-spiffe takes
			theirErr = errors.New("no workload's")
		}
		if (err == nil) != (theirErr == nil) || err == nil && got.Subject != theirs.ID.String() {
			t.Errorf("%q: %v, go-spiffe: %v", id, err, theirErr)
		}
		if err == nil {
			accepted++
		}
	}
	if accepted != 4 {
		t.Errorf("%d accepted, expected 4", accepted)
	}
}
