package brokertest

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// SPIFFEBundlePath is where a SPIFFE serves its bundle.
const SPIFFEBundlePath = "/bundle.json"

// SPIFFE is a stand-in for a SPIFFE implementation with one trust domain: a Workload API on a Unix socket (spiffe_workloadapi.go), the
// trust domain's bundle by https and in a file, and an authority that issues SVIDs, wrong ones included. It is safe for
// concurrent use.
type SPIFFE struct {
	// TrustDomain is the trust domain's name.
	TrustDomain string
	// Address is the Workload API's, for SPIFFE_ENDPOINT_SOCKET.
	Address string
	// URL is where the bundle is, by https, at SPIFFEBundlePath; CAFile is its certificate.
	URL, CAFile string
	// BundleFile holds the bundle; it is replaced when the keys change.
	BundleFile string

	Endpoints

	t         testing.TB
	now       func() time.Time
	workloads *workloads

	changing sync.Mutex // orders changes of what was given out

	mu       sync.Mutex
	serial   int64             // of what was made last
	sequence int               // of the bundle
	cas      []tls.Certificate // the last one issues
	keys     []*jwtKey         // the last one signs
}

// NewSPIFFE starts one with a workload, spiffe://TRUST-DOMAIN/workload, and a key of each kind. SVIDs are dated by now, or by time.Now if
// it is nil. It stops with the test.
func NewSPIFFE(t testing.TB, trustDomain string, now func() time.Time) *SPIFFE {
	t.Helper()
	if now == nil {
		now = time.Now
	}
	s := &SPIFFE{TrustDomain: trustDomain, t: t, now: now, BundleFile: filepath.Join(t.TempDir(), "bundle.json")}
	s.workloads = startWorkloads(t, s)
	s.Address = "unix://" + s.workloads.socket
	s.RotateJWT()
	s.RotateX509()
	s.SetWorkloads(s.ID("/workload"))
	s.CAFile = serve(t, http.HandlerFunc(s.serveBundle), true, &s.URL)
	return s
}

// ID is the SPIFFE ID of a path in the trust domain.
func (s *SPIFFE) ID(path string) string { return "spiffe://" + s.TrustDomain + path }

// RotateJWT makes a new key the one that signs JWT-SVIDs, beside the former ones, and returns its kid.
func (s *SPIFFE) RotateJWT() string {
	s.mu.Lock()
	s.serial++
	key := newECKey(fmt.Sprintf("jwt-%d", s.serial), elliptic.P256())
	s.keys = append(s.keys, key)
	s.mu.Unlock()
	s.changed()
	return key.kid
}

// RotateX509 makes a new CA the one that issues X.509-SVIDs, beside the former ones.
func (s *SPIFFE) RotateX509() {
	s.mu.Lock()
	s.cas = append(s.cas, s.issue(nil, s.ID(""), func(c *x509.Certificate) {
		c.Subject.CommonName = "CA " + c.SerialNumber.String()
		c.NotAfter = s.now().Add(24 * time.Hour)
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	}))
	s.mu.Unlock()
	s.changed()
}

// Forget withdraws all keys and CAs but those in use: the bundle has no others from then on.
func (s *SPIFFE) Forget() {
	s.mu.Lock()
	s.keys, s.cas = s.keys[len(s.keys)-1:], s.cas[len(s.cas)-1:]
	s.mu.Unlock()
	s.changed()
}

// changed tells those who were given the bundle.
func (s *SPIFFE) changed() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	s.sequence++
	s.mu.Unlock()
	writeFile(s.t, s.BundleFile+".next", s.Bundle())
	replaceFile(s.t, s.BundleFile)
	s.workloads.changed()
}

func (s *SPIFFE) serveBundle(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.intercept(w, r):
	case r.URL.Path == SPIFFEBundlePath:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.Bundle())
	default:
		http.NotFound(w, r)
	}
}

// Bundle is the trust domain's bundle in SPIFFE's format
// (https://spiffe.io/docs/latest/spiffe-specs/spiffe_trust_domain_and_bundle, section 4): keys of both uses.
func (s *SPIFFE) Bundle() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []any
	for _, ca := range s.cas {
		k := jwtKey{private: ca.PrivateKey.(crypto.Signer)}
		keys = append(keys, k.jwk(map[string]any{"kid": nil, "use": "x509-svid", "x5c": []string{base64.StdEncoding.EncodeToString(ca.Leaf.Raw)}}))
	}
	for _, k := range s.keys {
		keys = append(keys, k.jwk(map[string]any{"use": "jwt-svid"}))
	}
	return marshal(map[string]any{"keys": keys, "spiffe_sequence": s.sequence, "spiffe_refresh_hint": 60})
}

// jwtBundle is the JWK Set that the Workload API gives. As SPIRE's, it says nothing of SPIFFE's uses.
func (s *SPIFFE) jwtBundle() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []any
	for _, k := range s.keys {
		keys = append(keys, k.jwk(nil))
	}
	return marshal(map[string]any{"keys": keys})
}

// x509Bundle is the CAs in DER, one after the other.
func (s *SPIFFE) x509Bundle() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []byte
	for _, ca := range s.cas {
		out = append(out, ca.Leaf.Raw...)
	}
	return out
}

// CAs is the CAs as PEM.
func (s *SPIFFE) CAs() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []byte
	for _, ca := range s.cas {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Leaf.Raw})...)
	}
	return out
}

// JWTSVID signs a JWT-SVID: sub the SPIFFE ID, aud, iat now, exp in five minutes, and no iss. An override replaces or adds a claim, or
// removes it if it is nil.
func (s *SPIFFE) JWTSVID(id string, audience []string, overrides map[string]any) string {
	now := s.now().Unix()
	return s.Sign(nil, merge(map[string]any{"sub": id, "aud": audience, "iat": now, "exp": now + 300}, overrides))
}

// Sign signs whatever it is given with the current key for JWT-SVIDs, as IDP.Sign does; the algorithm is ES256.
func (s *SPIFFE) Sign(header map[string]any, claims any) string {
	s.mu.Lock()
	k := s.keys[len(s.keys)-1]
	s.mu.Unlock()
	return k.sign(header, claims)
}

// X509SVID issues an X.509-SVID for a SPIFFE ID, good for an hour, by the current CA. If change isn't nil it makes of the certificate
// what it likes before it is signed: another name, other times, a CA.
func (s *SPIFFE) X509SVID(id string, change func(*x509.Certificate)) tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issue(&s.cas[len(s.cas)-1], id, change)
}

// X509SVIDBy is X509SVID by another certificate, such as one of X509SVID that was made a CA; it comes with its chain.
func (s *SPIFFE) X509SVIDBy(issuer tls.Certificate, id string, change func(*x509.Certificate)) tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	svid := s.issue(&issuer, id, change)
	svid.Certificate = append(svid.Certificate, issuer.Certificate...)
	return svid
}

// issue makes a key and its certificate, which signs itself if it has no issuer.
func (s *SPIFFE) issue(issuer *tls.Certificate, id string, change func(*x509.Certificate)) tls.Certificate {
	uri, err := url.Parse(id)
	if err != nil {
		s.t.Fatal(err)
	}
	s.serial++
	now := s.now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(s.serial), Subject: pkix.Name{Organization: []string{"SPIFFE"}}, URIs: []*url.URL{uri},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	key := newECKey("", elliptic.P256()).private
	parent := tls.Certificate{Leaf: template, PrivateKey: key}
	if issuer != nil {
		parent = *issuer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Leaf, key.Public(), parent.PrivateKey)
	if err != nil {
		s.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
