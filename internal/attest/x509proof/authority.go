package x509proof

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/credbroker/credbroker/internal/attest"
)

// Subject says which subject alternative name is the identity.
type Subject string

// The values of Subject.
const (
	SubjectDNS   Subject = "dns"
	SubjectURI   Subject = "uri"
	SubjectEmail Subject = "email"
)

// subjectFields are the attributes that hold the names.
var subjectFields = map[Subject]string{SubjectDNS: "dns_names", SubjectURI: "uris", SubjectEmail: "email_addresses"}

// Authority is whose certificates are accepted. One of CAFile, BundleFile and WorkloadAPI says which its roots are.
type Authority struct {
	// Name is how the log calls it, and the Issuer of identities that aren't of a trust domain. Required.
	Name string
	// TrustDomain is the SPIFFE trust domain whose X.509-SVIDs these are; empty for certificates without SPIFFE IDs.
	TrustDomain string
	// Subject is for those; each certificate has exactly one name of this type. Required but with TrustDomain.
	Subject Subject
	// CAFile holds roots in PEM.
	CAFile string
	// BundleFile holds the trust domain's bundle in SPIFFE's JSON form.
	BundleFile string
	// WorkloadAPI is the address of a SPIFFE Workload API, "unix:///path" or "tcp://IP:port", which gives the bundle.
	WorkloadAPI string
	// CRLFile holds certificate revocation lists, in PEM. With it, each certificate below a root needs one of its issuer that is
	// current. Empty means that nothing is revoked.
	CRLFile string
}

// How long a bundle of a Workload API is used, and how often it is asked for.
const (
	refreshAfter = time.Minute
	maxStale     = 24 * time.Hour
	refreshGap   = 10 * time.Second
	fetchTimeout = 3 * time.Second
)

// maxFile is the most bytes of a file that is read.
const maxFile = 16 << 20

// authority is an Authority with its roots.
type authority struct {
	config Authority
	crls   []*crl // nil without a CRLFile
	// fetch gets the roots; nil if they came from a file and stay as they are.
	fetch func(context.Context) (*x509.CertPool, error)
	log   *slog.Logger

	mu      sync.Mutex // where roots are fetched
	current *rootSet
	lastTry time.Time
}

type rootSet struct {
	pool *x509.CertPool
	at   time.Time
}

func newAuthority(c Authority, o Options) (*authority, error) {
	a := &authority{config: c, log: o.Log}
	sources := 0
	for _, s := range []string{c.CAFile, c.BundleFile, c.WorkloadAPI} {
		if s != "" {
			sources++
		}
	}
	_, known := subjectFields[c.Subject]
	switch {
	case c.Name == "":
		return nil, errors.New("name: is empty")
	case sources != 1:
		return nil, fmt.Errorf("ca_file, bundle_file, workload_api: %d of them are set, expected one", sources)
	case c.TrustDomain == "" && c.CAFile == "":
		return nil, errors.New("bundle_file, workload_api: are for a trust domain")
	case c.TrustDomain == "" && !known:
		return nil, fmt.Errorf("subject: is %q, expected dns, uri or email", c.Subject)
	case c.TrustDomain != "" && !attest.ValidTrustDomain(c.TrustDomain):
		return nil, fmt.Errorf("trust_domain: %q is none", c.TrustDomain)
	}
	if c.CRLFile != "" {
		data, err := readFile(c.CRLFile)
		if err == nil {
			a.crls, err = parseCRLs(data)
		}
		if err != nil {
			return nil, fmt.Errorf("crl_file: %w", err)
		}
	}
	return a, a.open()
}

// open reads the roots, or prepares to fetch them.
func (a *authority) open() error {
	c := a.config
	if c.CAFile != "" {
		data, err := readFile(c.CAFile)
		if err != nil {
			return fmt.Errorf("ca_file: %w", err)
		}
		certs, err := parseRoots(data)
		if err != nil {
			return fmt.Errorf("ca_file: %s: %w", c.CAFile, err)
		}
		a.current = &rootSet{pool: poolOf(certs)}
		return nil
	}
	trustDomain := spiffeid.RequireTrustDomainFromString(c.TrustDomain) // it was checked to be one
	if c.BundleFile != "" {
		data, err := readFile(c.BundleFile)
		if err != nil {
			return fmt.Errorf("bundle_file: %w", err)
		}
		bundle, err := spiffebundle.Parse(trustDomain, data)
		if err != nil {
			return fmt.Errorf("bundle_file: %s: %w", c.BundleFile, err)
		}
		a.current = &rootSet{pool: poolOf(bundle.X509Authorities())}
		return nil
	}
	if err := workloadapi.ValidateAddress(c.WorkloadAPI); err != nil {
		return fmt.Errorf("workload_api: %w", err)
	}
	a.fetch = func(ctx context.Context) (*x509.CertPool, error) {
		bundles, err := workloadapi.FetchX509Bundles(ctx, workloadapi.WithAddr(c.WorkloadAPI))
		if err != nil {
			return nil, err
		}
		bundle, ok := bundles.Get(trustDomain)
		if !ok {
			return nil, fmt.Errorf("the Workload API has no bundle of %s", c.TrustDomain)
		}
		return poolOf(bundle.X509Authorities()), nil
	}
	return nil
}

// parseRoots reads authorities' certificates in PEM, each of which has to be one.
func parseRoots(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a PEM block %q, expected CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !c.IsCA {
			return nil, fmt.Errorf("certificate %d is no authority's", len(out)+1)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("holds no certificate in PEM")
	}
	return out, nil
}

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read-only
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, err
}

// errOtherRoots means that a certificate leads to none of an authority's roots: it may be another's.
var errOtherRoots = fmt.Errorf("%w: it leads to no root of the authority", attest.ErrRejected)

// chain verifies a certificate, and returns the chain that it holds by: from the leaf to a root.
func (a *authority) chain(ctx context.Context, certs []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	var chains [][]*x509.Certificate
	var err error
	var unknown x509.UnknownAuthorityError
	for _, missed := range []bool{false, true} { // the roots may have changed
		roots, rootsErr := a.roots(ctx, now, missed)
		if rootsErr != nil {
			return nil, rootsErr
		}
		if chains, err = verify(certs, roots, now); !errors.As(err, &unknown) {
			break
		}
	}
	switch {
	case errors.As(err, &unknown):
		return nil, fmt.Errorf("%w: %s", errOtherRoots, a.config.Name)
	case err != nil:
		return nil, fmt.Errorf("%w: authority %s: %w", attest.ErrRejected, a.config.Name, err)
	}
	if a.config.TrustDomain == "" && !slices.Contains(certs[0].ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return nil, fmt.Errorf("%w: extended key usage lacks client authentication", attest.ErrRejected)
	}
	if a.crls == nil {
		return chains[0], nil
	}
	for _, chain := range chains {
		if err = a.checkRevoked(chain, now); err == nil {
			return chain, nil
		}
	}
	return nil, err
}

func verify(certs []*x509.Certificate, roots *x509.CertPool, now time.Time) ([][]*x509.Certificate, error) {
	return certs[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: poolOf(certs[1:]), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// roots returns the roots, fetched anew if they are old, or, where one is missed, not very young.
func (a *authority) roots(ctx context.Context, now time.Time, missed bool) (*x509.CertPool, error) {
	if a.fetch == nil {
		return a.current.pool, nil
	}
	a.mu.Lock() // a fetch takes 3 s at most
	defer a.mu.Unlock()
	old := a.current == nil || now.Sub(a.current.at) >= refreshAfter
	if (old || missed) && now.Sub(a.lastTry) >= refreshGap {
		a.lastTry = now
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		if pool, err := a.fetch(ctx); err == nil {
			a.current = &rootSet{pool, now}
		} else {
			a.log.Warn("SPIFFE bundle not fetched", "authority", a.config.Name, "error", err.Error())
		}
	}
	if a.current == nil || now.Sub(a.current.at) >= maxStale {
		return nil, fmt.Errorf("%w: authority %s: there is no current bundle of trust domain %s", attest.ErrUnavailable, a.config.Name, a.config.TrustDomain)
	}
	return a.current.pool, nil
}
