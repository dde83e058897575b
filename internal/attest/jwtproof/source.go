package jwtproof

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/secret"
)

// Bounds of what is read for keys.
const (
	maxDocument  = 256 << 10       // bytes of a discovery document, a JWKS or a key file
	maxBearer    = 16 << 10        // bytes of a bearer file
	fetchTimeout = 5 * time.Second // for one fetch: both requests of discovery together
)

// KeySource says where the keys of an issuer are. Exactly one of Discovery, JWKSURL, JWKSFile, PEMFile, WorkloadAPI and ReviewURL
// is set.
type KeySource struct {
	// Discovery fetches <issuer>/.well-known/openid-configuration and then the `jwks_uri` that it names. That may be on
	// another host, since the issuer says so itself, but never plain http unless it has the issuer's own origin.
	Discovery bool
	// JWKSURL is the URL of a JWK Set.
	JWKSURL string
	// JWKSFile is the path of a JWK Set, read by New alone.
	JWKSFile string
	// PEMFile is the path of one public key, read by New alone; PEMKeyID is the `kid` that tokens name it by.
	PEMFile, PEMKeyID string
	// WorkloadAPI is the address of a SPIFFE Workload API, "unix:///path" or "tcp://IP:port", which gives the trust domain's bundle.
	// For ProfileSPIFFE.
	WorkloadAPI string
	// ReviewURL is the URL of a Kubernetes API server, which is asked about each token (TokenReview) instead of having its keys here.
	// For ProfileKubernetes.
	ReviewURL string
	// CAFile is a PEM bundle. If set, only these roots are trusted for Discovery, JWKSURL and ReviewURL; empty means the system's.
	CAFile string
	// BearerFile holds a token that is read at each fetch and sent as `Authorization: Bearer` to JWKSURL or ReviewURL, or with
	// Discovery to the issuer's own origin and no other. Empty means none; ReviewURL needs one.
	BearerFile string
	// AllowPlaintext permits http beyond loopback.
	AllowPlaintext bool
}

// remote fetches key sets over HTTP.
type remote struct {
	issuer     string
	discovery  bool
	start      *url.URL // the issuer's with discovery, else that of the JWKS
	use        string   // of the keys
	bearerFile string
	plaintext  bool
	client     *http.Client
}

// newRemote takes the roots as a PEM bundle, nil for the system's.
func newRemote(issuer string, s KeySource, use string, roots []byte) (*remote, error) {
	r := &remote{issuer: issuer, discovery: s.Discovery, use: use, bearerFile: s.BearerFile}
	start, field := s.JWKSURL, "jwks_url"
	if s.Discovery {
		start, field = issuer, "issuer"
	}
	var err error
	r.plaintext = s.AllowPlaintext
	if r.start, err = parseURL(start, s.AllowPlaintext); err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if s.Discovery && strings.ContainsAny(issuer, "?#") {
		return nil, errors.New("issuer: has a query or a fragment, which discovery does not allow")
	}
	config, err := clientTLS(s.CAFile, roots)
	if err != nil {
		return nil, err
	}
	r.client = &http.Client{
		// A redirect would let a host that nobody configured supply the keys, so 3xx is a failure like any other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment, // TLS still ends at the issuer
			TLSClientConfig:        config,
			DisableKeepAlives:      true, // one fetch in ten minutes is not worth an open connection
			DisableCompression:     true, // so that the bound on the body is one on what the issuer sends
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
	return r, nil
}

// clientTLS takes the roots as a PEM bundle, nil for the system's.
func clientTLS(caFile string, roots []byte) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if roots != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(roots) {
			return nil, fmt.Errorf("ca_file: %s holds no certificate", caFile)
		}
	}
	return config, nil
}

// parseURL reads a URL that keys may come from.
func parseURL(text string, plaintext bool) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("not a URL: %s", excerpt(text, 128))
	}
	switch {
	case u.User != nil:
		return nil, errors.New("URL holds a user name or password")
	case u.Hostname() == "":
		return nil, fmt.Errorf("URL %s names no host", excerpt(text, 128))
	case u.Fragment != "":
		return nil, fmt.Errorf("URL %s has a fragment", excerpt(text, 128))
	case u.Scheme == "https":
	case u.Scheme == "http" && (plaintext || loopback(u.Hostname())):
	default:
		return nil, fmt.Errorf("URL %s is not https (http is for loopback, or insecure_plaintext)", excerpt(text, 128))
	}
	return u, nil
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// fetch gets the key set as it is now.
func (r *remote) fetch(ctx context.Context) (*keySet, error) {
	target, bearer := r.start.String(), r.bearerFile
	if r.discovery {
		jwks, err := r.discover(ctx)
		if err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		target = jwks.String()
		if !sameOrigin(jwks, r.start) {
			bearer = ""
		}
	}
	body, err := r.get(ctx, target, bearer)
	if err != nil {
		return nil, err
	}
	set, err := parseJWKS(body, r.use)
	if err != nil {
		return nil, fmt.Errorf("JWKS of %s: %w", excerpt(target, 128), err)
	}
	return set, nil
}

// discover returns the `jwks_uri` of the issuer (OpenID Connect Discovery 1.0, section 4).
func (r *remote) discover(ctx context.Context) (*url.URL, error) {
	// Section 4.1 of it: a slash at the end of the issuer is left out before the path is added.
	body, err := r.get(ctx, strings.TrimSuffix(r.issuer, "/")+"/.well-known/openid-configuration", r.bearerFile)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := decodeJSON(body, &doc); err != nil {
		return nil, err
	}
	if doc.Issuer != r.issuer {
		return nil, fmt.Errorf("the document is of issuer %q, expected %q", excerpt(doc.Issuer, 128), r.issuer)
	}
	u, err := parseURL(doc.JWKSURI, r.plaintext)
	if err != nil {
		return nil, fmt.Errorf("jwks_uri: %w", err)
	}
	if u.Scheme != "https" && !sameOrigin(u, r.start) {
		return nil, errors.New("jwks_uri is plain http on another origin than the issuer's")
	}
	return u, nil
}

// sameOrigin compares scheme, host and port as RFC 6454 does, but for default ports, which count as different when only
// one of the two is written out: the strict side.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

func (r *remote) get(ctx context.Context, target, bearerFile string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json") // Kubernetes has keys as the latter alone
	req.Header.Set("User-Agent", "credbroker")
	if bearerFile != "" {
		// Read each time: Kubernetes replaces such tokens within the hour.
		token, err := secret.ReadFile(bearerFile, maxBearer)
		if err != nil {
			return nil, fmt.Errorf("bearer_file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read-only
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: status %d, expected 200 (redirects are not followed)", excerpt(target, 128), resp.StatusCode)
	}
	body, err := readBounded(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", excerpt(target, 128), err)
	}
	return body, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxDocument {
		return nil, fmt.Errorf("larger than %d bytes", maxDocument)
	}
	return body, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read-only
	body, err := readBounded(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return body, nil
}
