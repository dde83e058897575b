// Package x509proof verifies client certificates of TLS connections (RFC 5280), X.509-SVIDs of SPIFFE among them.
//
// TLS has seen to it that the caller holds the certificate's key. All else is checked here: whose authority it is (authority.go), the
// chain to that authority's roots, what the certificate may be used for, whether it was revoked (crl.go), and which of its subject
// alternative names is the identity. The subject's common name is never read.
package x509proof

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// Bounds of what a peer sends.
const (
	maxBytes        = 64 << 10
	maxCertificates = 8
	minRSABits      = 2048
)

// Options are what a Verifier needs besides its authorities. The zero value works.
type Options struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log hears of bundles that couldn't be fetched; nil means nobody does.
	Log *slog.Logger
}

// Verifier accepts certificates of its authorities. It is safe for concurrent use and holds nothing that needs closing.
type Verifier struct {
	plain        []*authority          // in the configuration's order
	trustDomains map[string]*authority // by name
	now          func() time.Time
}

var _ attest.Verifier = (*Verifier)(nil)

// New reads the files that the authorities name. It reaches no network: what a Workload API gives is fetched when the first
// certificate needs it. The error holds every fault, each with the authority's name and the field as the configuration file calls it.
func New(authorities []Authority, o Options) (*Verifier, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{trustDomains: map[string]*authority{}, now: o.Now}
	var faults []error
	for _, c := range authorities {
		a, err := newAuthority(c, o)
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("x509 %q: %w", c.Name, err))
		case c.TrustDomain == "":
			v.plain = append(v.plain, a)
		case v.trustDomains[c.TrustDomain] != nil:
			faults = append(faults, fmt.Errorf("x509 %q: trust_domain: %s is there twice", c.Name, c.TrustDomain))
		default:
			v.trustDomains[c.TrustDomain] = a
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return v, nil
}

// Verify implements attest.Verifier for attest.KindX509. A certificate with a SPIFFE ID is of its trust domain and of nobody else: the
// identity's Kind is attest.KindSPIFFE, Issuer spiffe://TRUST-DOMAIN, Subject the SPIFFE ID. Another one is of the first authority
// whose roots it leads to: Kind attest.KindX509, Issuer the authority's name, Subject its one name of the configured type.
// Expires is when the first certificate of the chain ends. attest.ErrUnavailable means that there is no current bundle or CRL.
func (v *Verifier) Verify(ctx context.Context, p attest.Proof) (attest.Identity, error) {
	if p.Kind != attest.KindX509 || p.Data.Len() > maxBytes {
		return attest.Identity{}, fmt.Errorf("%w: kind %q of %d bytes, expected %q of at most %d", attest.ErrMalformed, p.Kind, p.Data.Len(), attest.KindX509, maxBytes)
	}
	certs, err := x509.ParseCertificates([]byte(p.Data.Reveal()))
	if err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrMalformed, err)
	}
	if len(certs) == 0 || len(certs) > maxCertificates {
		return attest.Identity{}, fmt.Errorf("%w: %d certificates, expected 1 to %d", attest.ErrMalformed, len(certs), maxCertificates)
	}
	leaf := certs[0]
	if err := checkLeaf(leaf); err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrRejected, err)
	}
	if isSVID(leaf) {
		return v.svid(ctx, certs)
	}
	// Authorities of which another one's name is a fault can be told apart by their roots alone.
	err = fmt.Errorf("%w: no authority is configured for it", attest.ErrRejected)
	for _, a := range v.plain {
		chain, chainErr := a.chain(ctx, certs, v.now())
		if chainErr != nil {
			err = chainErr
			if errors.Is(chainErr, errOtherRoots) {
				continue
			}
			return attest.Identity{}, chainErr
		}
		return a.identity(leaf, chain)
	}
	return attest.Identity{}, err
}

// svid verifies an X.509-SVID (https://spiffe.io/docs/latest/spiffe-specs/x509-svid, section 5).
func (v *Verifier) svid(ctx context.Context, certs []*x509.Certificate) (attest.Identity, error) {
	leaf := certs[0]
	ids := uris(leaf)
	if len(ids) != 1 {
		return attest.Identity{}, fmt.Errorf("%w: SPIFFE ID beside %d other URIs", attest.ErrRejected, len(ids)-1)
	}
	id := ids[0]
	trustDomain, path, err := attest.ParseSPIFFEID(id)
	if err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrRejected, err)
	}
	a := v.trustDomains[trustDomain]
	if a == nil {
		return attest.Identity{}, fmt.Errorf("%w: trust domain %q is not configured", attest.ErrRejected, trustDomain)
	}
	chain, err := a.chain(ctx, certs, v.now())
	if err != nil {
		return attest.Identity{}, err
	}
	return attest.Identity{
		Kind: attest.KindSPIFFE, Issuer: "spiffe://" + trustDomain, Subject: id, Expires: end(chain),
		Attrs: map[string][]string{"trust_domain": {trustDomain}, "path": {path}}, PathAttrs: svidPaths,
	}, nil
}

var svidPaths = map[string]bool{"path": true}

// isSVID says whether a certificate claims a SPIFFE ID, of whatever form.
func isSVID(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return strings.EqualFold(u.Scheme, "spiffe") })
}

// uris are the certificate's URIs as they were written: crypto/x509 has them parsed, which loses the case of a scheme and an empty
// fragment, and what was signed is the text.
func uris(leaf *x509.Certificate) []string {
	var out []string
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(subjectAltName) {
			continue
		}
		var names asn1.RawValue
		_, _ = asn1.Unmarshal(e.Value, &names) // crypto/x509 has read it before
		for rest := names.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			rest, _ = asn1.Unmarshal(rest, &name)
			if name.Class == asn1.ClassContextSpecific && name.Tag == uriName {
				out = append(out, string(name.Bytes))
			}
		}
	}
	return out
}

// RFC 5280, section 4.2.1.6.
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

const uriName = 6

// checkLeaf checks what a certificate has to be like to be a client's, whoever issued it.
func checkLeaf(leaf *x509.Certificate) error {
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return errors.New("certificate is an authority's, no client's")
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("certificate isn't for digital signatures")
	}
	if public, ok := leaf.PublicKey.(*rsa.PublicKey); ok && public.N.BitLen() < minRSABits {
		return fmt.Errorf("RSA key of %d bits, expected at least %d", public.N.BitLen(), minRSABits)
	}
	return nil
}

// end is when the first certificate of a chain ends.
func end(chain []*x509.Certificate) time.Time {
	return slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
}

var (
	dnsName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	printable = regexp.MustCompile(`^[!-~]{1,255}$`)
)

// names returns the certificate's subject alternative names by attribute. DNS names are in lower case.
func names(leaf *x509.Certificate) map[string][]string {
	out := map[string][]string{}
	for _, name := range leaf.DNSNames {
		out["dns_names"] = append(out["dns_names"], strings.ToLower(name))
	}
	if texts := uris(leaf); len(texts) > 0 {
		out["uris"] = texts
	}
	if len(leaf.EmailAddresses) > 0 {
		out["email_addresses"] = leaf.EmailAddresses
	}
	for _, ip := range leaf.IPAddresses {
		out["ip_addresses"] = append(out["ip_addresses"], ip.String())
	}
	return out
}

// identity is whom a verified certificate of a plain authority is about.
func (a *authority) identity(leaf *x509.Certificate, chain []*x509.Certificate) (attest.Identity, error) {
	attrs := names(leaf)
	for name, values := range attrs {
		if len(values) > maxNames || slices.ContainsFunc(values, func(s string) bool { return !printable.MatchString(s) }) {
			return attest.Identity{}, fmt.Errorf("%w: %s holds more than %d names, or one that is not of 1 to 255 printable characters", attest.ErrRejected, name, maxNames)
		}
	}
	field := subjectFields[a.config.Subject]
	if len(attrs[field]) != 1 {
		return attest.Identity{}, fmt.Errorf("%w: certificate has %d %s, expected one", attest.ErrRejected, len(attrs[field]), field)
	}
	subject := attrs[field][0]
	if a.config.Subject == SubjectDNS && !dnsName.MatchString(subject) {
		return attest.Identity{}, fmt.Errorf("%w: %q is no DNS name of one host", attest.ErrRejected, subject)
	}
	if a.config.Subject == SubjectEmail && strings.Count(subject, "@") != 1 {
		return attest.Identity{}, fmt.Errorf("%w: %q is no e-mail address", attest.ErrRejected, subject)
	}
	attrs["serial_number"] = []string{leaf.SerialNumber.Text(16)}
	return attest.Identity{Kind: attest.KindX509, Issuer: a.config.Name, Subject: subject, Expires: end(chain), Attrs: attrs}, nil
}

const maxNames = 64
