package x509proof

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

var now = time.Unix(1_800_000_000, 0)

// ca is an authority of a test, or an intermediate one.
type ca struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
	last int64
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCA(t *testing.T, name string) *ca {
	t.Helper()
	key := newKey(t)
	template := authorityTemplate(name)
	return &ca{t: t, cert: create(t, template, template, key.Public(), key), key: key}
}

func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(48 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
}

func create(t *testing.T, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// below makes an intermediate authority.
func (c *ca) below(name string, change func(*x509.Certificate)) *ca {
	c.t.Helper()
	key, template := newKey(c.t), authorityTemplate(name)
	c.last++
	template.SerialNumber = big.NewInt(1000 + c.last)
	if change != nil {
		change(template)
	}
	return &ca{t: c.t, cert: create(c.t, template, c.cert, key.Public(), c.key), key: key}
}

// issue makes a client's certificate, good but for the change.
func (c *ca) issue(change func(*x509.Certificate)) *x509.Certificate {
	c.t.Helper()
	return c.issueTo(newKey(c.t).Public(), change)
}

func (c *ca) issueTo(public crypto.PublicKey, change func(*x509.Certificate)) *x509.Certificate {
	c.t.Helper()
	c.last++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(c.last), Subject: pkix.Name{CommonName: "admin.corp.example"}, DNSNames: []string{"reports.corp.example"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	return create(c.t, template, c.cert, public, c.key)
}

// crl makes a list of revoked serial numbers.
func (c *ca) crl(change func(*x509.RevocationList), serials ...*big.Int) []byte {
	c.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour)}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: now})
	}
	if change != nil {
		change(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, c.cert, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func (c *ca) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

func file(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newVerifier(t *testing.T, authorities ...Authority) *Verifier {
	t.Helper()
	v, err := New(authorities, Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func proof(certs ...*x509.Certificate) attest.Proof {
	var der []byte
	for _, c := range certs {
		der = append(der, c.Raw...)
	}
	return attest.Proof{Kind: attest.KindX509, Data: secret.New(string(der))}
}

func mustFail(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("error is %v, expected %v with %q", err, want, text)
	}
}

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestGoodCertificateBecomesAnIdentity(t *testing.T) {
	root := newCA(t, "root")
	middle := root.below("middle", nil)
	v := newVerifier(t, Authority{Name: "other", Subject: SubjectDNS, CAFile: file(t, newCA(t, "other").pem())},
		Authority{Name: "corp", Subject: SubjectDNS, CAFile: file(t, root.pem())})
	leaf := middle.issue(func(c *x509.Certificate) {
		c.DNSNames = []string{"Reports.corp.example"}
		c.IPAddresses, c.EmailAddresses, c.URIs = []net.IP{net.IPv4(10, 0, 0, 1)}, []string{"a@corp.example"}, []*url.URL{parseURL(t, "urn:a:b")}
		c.SerialNumber = big.NewInt(255)
	})
	got, err := v.Verify(context.Background(), proof(leaf, middle.cert))
	want := attest.Identity{
		Kind: attest.KindX509, Issuer: "corp", Subject: "reports.corp.example", Expires: leaf.NotAfter,
		Attrs: map[string][]string{
			"dns_names": {"reports.corp.example"}, "ip_addresses": {"10.0.0.1"}, "email_addresses": {"a@corp.example"}, "uris": {"urn:a:b"}, "serial_number": {"ff"},
		},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
	short := root.below("short", func(c *x509.Certificate) { c.NotAfter = now.Add(time.Minute) })
	if got, err := v.Verify(context.Background(), proof(short.issue(nil), short.cert)); err != nil || !got.Expires.Equal(short.cert.NotAfter) {
		t.Errorf("%v, %v: expected the end of the chain's first", got.Expires, err)
	}
	for subject, want := range map[Subject]string{SubjectURI: "urn:a:b", SubjectEmail: "a@corp.example"} {
		v := newVerifier(t, Authority{Name: "corp", Subject: subject, CAFile: file(t, root.pem())})
		if got, err := v.Verify(context.Background(), proof(leaf, middle.cert)); err != nil || got.Subject != want {
			t.Errorf("%s: %q, %v", subject, got.Subject, err)
		}
	}
}

func TestEachCheckOfACertificate(t *testing.T) {
	root, stranger := newCA(t, "root"), newCA(t, "root") // of one name
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	noAuthority := root.below("leaf as authority", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	rejected := attest.ErrRejected
	for name, tc := range map[string]struct {
		certs []*x509.Certificate
		want  error
		text  string
	}{
		"another root":             {[]*x509.Certificate{stranger.issue(nil)}, rejected, "leads to no root"},
		"another root, sent along": {[]*x509.Certificate{stranger.issue(nil), stranger.cert}, rejected, "leads to no root"},
		"the middle left out":      {[]*x509.Certificate{root.below("m", nil).issue(nil)}, rejected, "leads to no root"},
		"issued by no authority":   {[]*x509.Certificate{noAuthority.issue(nil), noAuthority.cert}, rejected, "leads to no root"},
		"expired":                  {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })}, rejected, "expired"},
		"not begun":                {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) })}, rejected, "not yet valid"},
		"a server's":               {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}, rejected, "incompatible key usage"},
		"for no use":               {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.ExtKeyUsage = nil })}, rejected, "lacks client authentication"},
		"for any use":              {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })}, rejected, "lacks client authentication"},
		"an authority's":           {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.IsCA = true })}, rejected, "is an authority's"},
		"one that signs":           {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })}, rejected, "is an authority's"},
		"one that signs lists":     {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })}, rejected, "is an authority's"},
		"for encryption":           {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })}, rejected, "isn't for digital signatures"},
		"a short key":              {[]*x509.Certificate{root.issueTo(&weak.PublicKey, nil)}, rejected, "RSA key of 1024 bits"},
		"no name but the common":   {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.DNSNames = nil })}, rejected, "has 0 dns_names"},
		"two names":                {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "b.example") })}, rejected, "has 2 dns_names"},
		"a wildcard":               {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.DNSNames = []string{"*.corp.example"} })}, rejected, "no DNS name of one host"},
		"a name with a dot behind": {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.DNSNames = []string{"corp.example."} })}, rejected, "no DNS name of one host"},
		"a name with a space":      {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.EmailAddresses = []string{"a b@c"} })}, rejected, "email_addresses holds"},
		"65 names":                 {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.EmailAddresses = strings.Fields(strings.Repeat("a@b ", 65)) })}, rejected, "email_addresses holds"},
		"a SPIFFE ID of nobody's":  {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.URIs = []*url.URL{parseURL(t, "spiffe://prod.example/a")} })}, rejected, `trust domain "prod.example" is not configured`},
		"a SPIFFE ID in capitals":  {[]*x509.Certificate{root.issue(func(c *x509.Certificate) { c.URIs = []*url.URL{parseURL(t, "SPIFFE://prod.example/A%2e")} })}, rejected, "SPIFFE ID"},
		"no certificate":           {nil, attest.ErrMalformed, "0 certificates"},
		"nine certificates":        {append([]*x509.Certificate{root.issue(nil)}, root.cert, root.cert, root.cert, root.cert, root.cert, root.cert, root.cert, root.cert), attest.ErrMalformed, "9 certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, Authority{Name: "corp", Subject: SubjectDNS, CAFile: file(t, root.pem())})
			_, err := v.Verify(context.Background(), proof(tc.certs...))
			mustFail(t, err, tc.want, tc.text)
		})
	}
	v := newVerifier(t, Authority{Name: "corp", Subject: SubjectEmail, CAFile: file(t, root.pem())})
	_, err = v.Verify(context.Background(), proof(root.issue(func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b@c"} })))
	mustFail(t, err, rejected, "no e-mail address")
	good := proof(root.issue(nil))
	_, err = v.Verify(context.Background(), attest.Proof{Kind: attest.KindJWT, Data: good.Data})
	mustFail(t, err, attest.ErrMalformed, `kind "jwt"`)
	_, err = v.Verify(context.Background(), attest.Proof{Kind: attest.KindX509, Data: secret.New(good.Data.Reveal() + "x")})
	mustFail(t, err, attest.ErrMalformed, "x509:")
	strong, err := rsa.GenerateKey(rand.Reader, minRSABits)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newVerifier(t, Authority{Name: "corp", Subject: SubjectDNS, CAFile: file(t, root.pem())}).Verify(context.Background(), proof(root.issueTo(&strong.PublicKey, nil))); err != nil {
		t.Errorf("RSA of %d bits: %v", minRSABits, err)
	}
	byTheClock, err := New([]Authority{{Name: "corp", Subject: SubjectDNS, CAFile: file(t, root.pem())}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = byTheClock.Verify(context.Background(), good) // made for another time
	mustFail(t, err, rejected, "not yet valid")
	_, err = v.Verify(context.Background(), attest.Proof{Kind: attest.KindX509, Data: secret.New(strings.Repeat(good.Data.Reveal(), 1+maxBytes/good.Data.Len()))})
	mustFail(t, err, attest.ErrMalformed, "at most 65536")
	if _, err := newVerifier(t).Verify(context.Background(), good); !errors.Is(err, rejected) || !strings.Contains(err.Error(), "no authority is configured") {
		t.Error(err)
	}
}

func svid(t *testing.T, c *ca, id string, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	return c.issue(func(cert *x509.Certificate) {
		cert.DNSNames, cert.URIs = nil, []*url.URL{parseURL(t, id)}
		cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		if change != nil {
			change(cert)
		}
	})
}

func TestSVIDs(t *testing.T) {
	prod, dev, corp := newCA(t, "prod"), newCA(t, "dev"), newCA(t, "corp")
	bundle := spiffebundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("prod.example"), []*x509.Certificate{prod.cert})
	data, err := bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t,
		Authority{Name: "prod", TrustDomain: "prod.example", BundleFile: file(t, data)}, Authority{Name: "dev", TrustDomain: "dev.example", CAFile: file(t, dev.pem())},
		Authority{Name: "corp", Subject: SubjectURI, CAFile: file(t, corp.pem())})
	leaf := svid(t, prod, "spiffe://prod.example/ns/prod/sa/reports", nil)
	got, err := v.Verify(context.Background(), proof(leaf))
	want := attest.Identity{
		Kind: attest.KindSPIFFE, Issuer: "spiffe://prod.example", Subject: "spiffe://prod.example/ns/prod/sa/reports", Expires: leaf.NotAfter,
		Attrs: map[string][]string{"trust_domain": {"prod.example"}, "path": {"/ns/prod/sa/reports"}}, PathAttrs: map[string]bool{"path": true},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
	raw := func(uri string) *x509.Certificate { // as nobody's library writes it
		der, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)}})
		if err != nil {
			t.Fatal(err)
		}
		return svid(t, prod, "spiffe://prod.example/a", func(c *x509.Certificate) {
			c.URIs, c.ExtraExtensions = nil, []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}}
		})
	}
	if _, err := v.Verify(context.Background(), proof(raw("spiffe://prod.example/a"))); err != nil {
		t.Error(err)
	}
	// What has the form of a URI elsewhere is none of the subject's names.
	elsewhere := svid(t, prod, "spiffe://prod.example/a", func(c *x509.Certificate) {
		uri := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte("spiffe://prod.example/b")}
		issuers, err := asn1.Marshal([]asn1.RawValue{uri})
		if err != nil {
			t.Fatal(err)
		}
		uri.Bytes = []byte("spiffe://prod.example/a")
		subjects, err := asn1.Marshal([]asn1.RawValue{uri, {Class: asn1.ClassUniversal, Tag: 6, Bytes: []byte{42, 3}}})
		if err != nil {
			t.Fatal(err)
		}
		c.URIs, c.ExtraExtensions = nil, []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 18}, Value: issuers}, {Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: subjects}}
	})
	if id, err := v.Verify(context.Background(), proof(elsewhere)); err != nil || id.Subject != "spiffe://prod.example/a" {
		t.Errorf("%q, %v", id.Subject, err)
	}
	if _, err := v.Verify(context.Background(), proof(svid(t, prod, "spiffe://prod.example/a", func(c *x509.Certificate) { c.ExtKeyUsage = nil }))); err != nil {
		t.Errorf("an SVID needs no extended key usage: %v", err)
	}
	for name, tc := range map[string]struct {
		cert *x509.Certificate
		want string
	}{
		"a scheme in capitals":          {raw("SPIFFE://prod.example/a"), "doesn't begin with spiffe://"},
		"an empty fragment":             {raw("spiffe://prod.example/a#"), "something else than"},
		"an empty query":                {raw("spiffe://prod.example/a?"), "something else than"},
		"another domain's authority":    {svid(t, dev, "spiffe://prod.example/a", nil), "leads to no root"},
		"another authority altogether":  {svid(t, corp, "spiffe://prod.example/a", nil), "leads to no root"},
		"an unknown domain":             {svid(t, prod, "spiffe://prod.example.evil/a", nil), "is not configured"},
		"a domain of a plain authority": {svid(t, corp, "spiffe://corp.example/a", nil), "is not configured"},
		"the domain's own ID":           {svid(t, prod, "spiffe://prod.example", nil), "without a path"},
		"dot segments":                  {svid(t, prod, "spiffe://prod.example/a/../b", nil), "dot segment"},
		"an escape":                     {svid(t, prod, "spiffe://prod.example/a%2fb", nil), "something else than"},
		"a query":                       {svid(t, prod, "spiffe://prod.example/a?b", nil), "something else than"},
		"a port":                        {svid(t, prod, "spiffe://prod.example:1/a", nil), "trust domain isn't"},
		"a user":                        {svid(t, prod, "spiffe://a@prod.example/a", nil), "trust domain isn't"},
		"two URIs":                      {svid(t, prod, "spiffe://prod.example/a", func(c *x509.Certificate) { c.URIs = append(c.URIs, parseURL(t, "https://a.example")) }), "beside 1 other"},
		"two SPIFFE IDs":                {svid(t, prod, "spiffe://prod.example/a", func(c *x509.Certificate) { c.URIs = append(c.URIs, parseURL(t, "spiffe://dev.example/a")) }), "beside 1 other"},
		"an authority":                  {svid(t, prod, "spiffe://prod.example/a", func(c *x509.Certificate) { c.IsCA = true }), "is an authority's"},
		"a server's":                    {svid(t, prod, "spiffe://prod.example/a", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), "incompatible key usage"},
		"expired":                       {svid(t, prod, "spiffe://prod.example/a", func(c *x509.Certificate) { c.NotAfter = now }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "expired" {
				v = newVerifier(t, Authority{Name: "prod", TrustDomain: "prod.example", BundleFile: file(t, data)})
				v.now = func() time.Time { return now.Add(time.Second) }
			}
			_, err := v.Verify(context.Background(), proof(tc.cert))
			mustFail(t, err, attest.ErrRejected, tc.want)
		})
	}
}

func TestRevokedCertificates(t *testing.T) {
	root := newCA(t, "root")
	middle, other := root.below("middle", nil), root.below("other", nil)
	leaf, sibling := middle.issue(nil), middle.issue(nil)
	join := func(lists ...[]byte) []byte {
		var out []byte
		for _, l := range lists {
			out = append(out, l...)
		}
		return out
	}
	ended := func(l *x509.RevocationList) { l.NextUpdate = now }
	alias := &ca{t: t, cert: create(t, authorityTemplate("alias"), authorityTemplate("alias"), middle.key.Public(), middle.key), key: middle.key}
	impostor := &ca{t: t, key: newKey(t)}
	impostor.cert = create(t, authorityTemplate("middle"), authorityTemplate("middle"), impostor.key.Public(), impostor.key)
	for name, tc := range map[string]struct {
		lists []byte
		want  error
		text  string
	}{
		"nobody":                       {join(root.crl(nil), middle.crl(nil)), nil, ""},
		"another":                      {join(root.crl(nil), middle.crl(nil, sibling.SerialNumber)), nil, ""},
		"its number by another issuer": {join(root.crl(nil, leaf.SerialNumber), middle.crl(nil), other.crl(nil, leaf.SerialNumber)), nil, ""},
		"an old list and a new one":    {join(root.crl(nil), middle.crl(ended), middle.crl(nil)), nil, ""},
		"it":                           {join(root.crl(nil), middle.crl(nil, leaf.SerialNumber)), attest.ErrRejected, "is revoked"},
		"it, in a list that ended":     {join(root.crl(nil), middle.crl(ended, leaf.SerialNumber)), attest.ErrRejected, "is revoked"},
		"its issuer":                   {join(root.crl(nil, middle.cert.SerialNumber), middle.crl(nil)), attest.ErrRejected, "is revoked"},
		"no list of its issuer":        {root.crl(nil), attest.ErrUnavailable, "no current list"},
		"no list of the root":          {middle.crl(nil), attest.ErrUnavailable, "no current list"},
		"a list that ended":            {join(root.crl(nil), middle.crl(ended)), attest.ErrUnavailable, "no current list"},
		"a list that begins later":     {join(root.crl(nil), middle.crl(func(l *x509.RevocationList) { l.ThisUpdate = now.Add(time.Second) })), attest.ErrUnavailable, "no current list"},
		"a list in another name":       {join(root.crl(nil), alias.crl(nil)), attest.ErrUnavailable, "no current list"},
		"a list by an impostor":        {join(root.crl(nil), impostor.crl(nil)), attest.ErrUnavailable, "no current list"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, Authority{Name: "corp", Subject: SubjectDNS, CAFile: file(t, root.pem()), CRLFile: file(t, tc.lists)})
			for range 2 { // the second time, who signed the lists is known
				_, err := v.Verify(context.Background(), proof(leaf, middle.cert))
				if tc.want == nil {
					if err != nil {
						t.Error(err)
					}
					continue
				}
				mustFail(t, err, tc.want, tc.text)
			}
			if ended := strings.Contains(name, "ended") || strings.Contains(name, "an old list"); (len(v.Status()) == 1) != ended {
				t.Error(v.Status())
			}
		})
	}
}

func TestListsThatSayLessThanTheySeemAreRefused(t *testing.T) {
	root := newCA(t, "root")
	extension := func(id asn1.ObjectIdentifier, critical bool) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: []byte{5, 0}}}
		}
	}
	entry := func(l *x509.RevocationList) {
		l.RevokedCertificateEntries = []x509.RevocationListEntry{{
			SerialNumber: big.NewInt(7), RevocationTime: now, ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{5, 0}}},
		}}
	}
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"delta":               {root.crl(extension(partial[0], true)), "extension 2.5.29.27"},
		"delta, not critical": {root.crl(extension(partial[0], false)), "extension 2.5.29.27"},
		"partitioned":         {root.crl(extension(partial[1], false)), "extension 2.5.29.28"},
		"unknown":             {root.crl(extension(asn1.ObjectIdentifier{1, 2, 3}, true)), "extension 1.2.3"},
		"indirect":            {root.crl(entry), "entry with the extension 2.5.29.29"},
		"a certificate":       {root.pem(), `PEM block "CERTIFICATE"`},
		"nothing":             {[]byte("x"), "holds no CRL"},
		"no list inside":      {pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("x")}), "crl_file: "},
	} {
		_, err := New([]Authority{{Name: "corp", Subject: SubjectDNS, CAFile: file(t, root.pem()), CRLFile: file(t, tc.data)}}, Options{})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigurationFaults(t *testing.T) {
	root := newCA(t, "root")
	good := file(t, root.pem())
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.issue(nil).Raw})
	empty, err := spiffebundle.New(spiffeid.RequireTrustDomainFromString("a.example")).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for want, a := range map[string]Authority{
		"name: is empty":         {Subject: SubjectDNS, CAFile: good},
		"0 of them are set":      {Name: "a", Subject: SubjectDNS},
		"2 of them are set":      {Name: "a", TrustDomain: "a.example", CAFile: good, BundleFile: good},
		"are for a trust domain": {Name: "a", Subject: SubjectDNS, BundleFile: good},
		`subject: is "cn"`:       {Name: "a", Subject: "cn", CAFile: good},
		`trust_domain: "A"`:      {Name: "a", TrustDomain: "A", CAFile: good},
		"ca_file: open":          {Name: "a", Subject: SubjectDNS, CAFile: "/nowhere"},
		"is no authority's":      {Name: "a", Subject: SubjectDNS, CAFile: file(t, leaf)},
		"holds no certificate":   {Name: "a", Subject: SubjectDNS, CAFile: file(t, []byte("x"))},
		`PEM block "X509 CRL"`:   {Name: "a", Subject: SubjectDNS, CAFile: file(t, root.crl(nil))},
		"ca_file: " + "":         {Name: "a", Subject: SubjectDNS, CAFile: file(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))},
		"crl_file: open":         {Name: "a", Subject: SubjectDNS, CAFile: good, CRLFile: "/nowhere"},
		"bundle_file: open":      {Name: "a", TrustDomain: "a.example", BundleFile: "/nowhere"},
		"bundle_file: " + "":     {Name: "a", TrustDomain: "a.example", BundleFile: good},
		"no authorities found":   {Name: "a", TrustDomain: "a.example", BundleFile: file(t, empty)},
		"workload_api: ":         {Name: "a", TrustDomain: "a.example", WorkloadAPI: "https://a"},
	} {
		if _, err := New([]Authority{a}, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, expected one with %q", err, want)
		}
	}
	twice := Authority{Name: "a", TrustDomain: "a.example", CAFile: good}
	if _, err := New([]Authority{twice, twice}, Options{}); err == nil || !strings.Contains(err.Error(), "is there twice") {
		t.Error(err)
	}
	big := file(t, make([]byte, maxFile+1))
	if _, err := New([]Authority{{Name: "a", Subject: SubjectDNS, CAFile: big}}, Options{}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
}
