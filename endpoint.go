package credbroker

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
)

// endpoint is where a broker listens.
type endpoint struct {
	url  *url.URL
	grpc bool
	// tls is nil for plaintext.
	tls *tls.Config
}

// parseEndpoint refuses what isn't a plain URL of one of the four schemes, and plaintext where it isn't allowed.
func parseEndpoint(text string, o options) (endpoint, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return endpoint{}, ErrEndpoint
	}
	e := endpoint{url: u}
	secure := false
	switch u.Scheme {
	case "https":
		secure = true
	case "http":
	case "grpcs":
		e.grpc, secure = true, true
	case "grpc":
		e.grpc = true
	default:
		return endpoint{}, ErrEndpoint
	}
	if e.grpc && (u.Port() == "" || u.Path != "" && u.Path != "/") {
		return endpoint{}, fmt.Errorf("%w: gRPC needs a port, and has no paths", ErrEndpoint)
	}
	if !secure {
		if o.certificate != nil {
			return endpoint{}, fmt.Errorf("%w: a client certificate needs https:// or grpcs://", ErrEndpoint)
		}
		if !o.plaintext && !loopback(u.Hostname()) {
			return endpoint{}, ErrPlaintext
		}
		return e, nil
	}
	e.tls = &tls.Config{MinVersion: tls.VersionTLS12, GetClientCertificate: o.certificate}
	if o.caFile != "" {
		if e.tls.RootCAs, err = readRoots(o.caFile); err != nil {
			return endpoint{}, err
		}
	}
	return e, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file: %s holds no PEM certificate", path)
	}
	return pool, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
