package vault

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// maxAnswer bounds an answer; a JWK set of 100 keys or a certificate chain has about 30 KiB.
	maxAnswer = 1 << 20
	// maxQuestion bounds a request's body, which is kept for a redirect.
	maxQuestion = 1 << 20
)

var (
	errTooLarge = fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	// errRedirect is for a Location that isn't the same path on a node of the deployment.
	errRedirect = errors.New("it redirects to a server that isn't one of vault.address and vault.nodes")
)

// transport bounds answers and follows a standby's redirect to the active node, once, if that is one of the deployment's.
type transport struct {
	base  *http.Transport
	nodes []string // scheme://host:port
}

func newTransport(cfg Config) (*transport, error) {
	t := &transport{base: &http.Transport{
		Proxy:                  nil, // the token goes to Vault and nowhere else
		DialContext:            (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    2 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    64,
		MaxConnsPerHost:        256,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}}
	for _, node := range append([]string{cfg.Address}, cfg.Nodes...) {
		u, err := url.Parse(node)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("vault: %q is no URL", node)
		}
		t.nodes = append(t.nodes, origin(u))
	}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("vault: ca_file: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("vault: ca_file: %s holds no certificate in PEM", cfg.CAFile)
		}
		t.base.TLSClientConfig.RootCAs = roots
	}
	if cfg.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
			return &c, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("vault: cert_file: %w", err)
		}
		t.base.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return t, nil
}

// origin is scheme, host and port of a URL.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(io.LimitReader(req.Body, maxQuestion+1))
		_ = req.Body.Close()
		if err != nil {
			return nil, err
		}
		if len(body) > maxQuestion {
			return nil, fmt.Errorf("a request of more than %d bytes", maxQuestion)
		}
	}
	resp, err := t.send(req, req.URL, body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 && resp.StatusCode != http.StatusNotModified {
		target, err := resp.Location()
		_ = resp.Body.Close()
		if err != nil || target.User != nil || target.Path != req.URL.Path || target.RawQuery != req.URL.RawQuery || !slices.Contains(t.nodes, origin(target)) {
			return nil, errRedirect
		}
		if resp, err = t.send(req, target, body); err != nil {
			return nil, err
		}
		if resp.StatusCode >= 300 && resp.StatusCode < 400 {
			_ = resp.Body.Close()
			return nil, errors.New("one node redirects to another, and that again")
		}
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxAnswer}
	return resp, nil
}

func (t *transport) send(req *http.Request, to *url.URL, body []byte) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.URL, out.Host = to, to.Host
	out.Header.Set("User-Agent", "credbroker")
	if req.Body != nil {
		out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	return t.base.RoundTrip(out)
}

// boundedBody ends with errTooLarge instead of going on for ever.
type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
