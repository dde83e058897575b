package x509proof

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// crl is a certificate revocation list (RFC 5280, section 5). Its signature is checked once for each issuer that is met: issuers
// are of verified chains, so there are few.
type crl struct {
	list    *x509.RevocationList
	revoked map[string]bool // by serial number
	signed  sync.Map        // SHA-256 of an issuer's certificate → whether it signed the list
}

// Extensions of a list that make it say less than it seems to.
var partial = []asn1.ObjectIdentifier{{2, 5, 29, 27}, {2, 5, 29, 28}} // delta CRL indicator, issuing distribution point

func parseCRLs(data []byte) ([]*crl, error) {
	var out []*crl
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf(`holds a PEM block %q, expected "X509 CRL"`, block.Type)
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		for _, e := range list.Extensions {
			if e.Critical || slices.ContainsFunc(partial, e.Id.Equal) {
				return nil, fmt.Errorf("list %d has the extension %s; expected a complete list of one issuer", len(out)+1, e.Id)
			}
		}
		c := &crl{list: list, revoked: make(map[string]bool, len(list.RevokedCertificateEntries))}
		for _, entry := range list.RevokedCertificateEntries {
			for _, e := range entry.Extensions {
				if e.Critical { // a certificate of another issuer, for one (section 5.3.3)
					return nil, fmt.Errorf("list %d has an entry with the extension %s, which is not known", len(out)+1, e.Id)
				}
			}
			c.revoked[entry.SerialNumber.String()] = true
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("holds no CRL in PEM")
	}
	return out, nil
}

// signedBy says whether an issuer signed the list.
func (c *crl) signedBy(issuer *x509.Certificate) bool {
	if !bytes.Equal(c.list.RawIssuer, issuer.RawSubject) {
		return false
	}
	name := sha256.Sum256(issuer.Raw)
	if known, ok := c.signed.Load(name); ok {
		return known.(bool) //nolint:errcheck,forcetypeassert // see the next line but one
	}
	ok := c.list.CheckSignatureFrom(issuer) == nil
	c.signed.Store(name, ok)
	return ok
}

func (c *crl) current(now time.Time) bool {
	return !now.Before(c.list.ThisUpdate) && now.Before(c.list.NextUpdate)
}

// checkRevoked holds each certificate below the root against the lists of its issuer. Without a current one nothing is known of it.
func (a *authority) checkRevoked(chain []*x509.Certificate, now time.Time) error {
	for i, cert := range chain[:len(chain)-1] {
		known := false
		for _, c := range a.crls {
			if !c.signedBy(chain[i+1]) {
				continue
			}
			if c.revoked[cert.SerialNumber.String()] { // an old list is right in this
				return fmt.Errorf("%w: certificate %s of authority %s is revoked", attest.ErrRejected, cert.SerialNumber.Text(16), a.config.Name)
			}
			known = known || c.current(now)
		}
		if !known {
			return fmt.Errorf("%w: authority %s: crl_file has no current list of %q", attest.ErrUnavailable, a.config.Name, chain[i+1].Subject)
		}
	}
	return nil
}

// Status tells, one line each, which authorities' revocation lists have ended.
func (v *Verifier) Status() []string {
	var reasons []string
	now := v.now()
	all := slices.Clone(v.plain)
	for _, a := range v.trustDomains {
		all = append(all, a)
	}
	for _, a := range all {
		if slices.ContainsFunc(a.crls, func(c *crl) bool { return !now.Before(c.list.NextUpdate) }) {
			reasons = append(reasons, fmt.Sprintf("x509 %s: a list of crl_file has ended", a.config.Name))
		}
	}
	slices.Sort(reasons)
	return reasons
}
