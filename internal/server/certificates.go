package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// TLSFiles are the PEM files of one listener. Cert and Key go together; the zero value is plaintext.
type TLSFiles struct {
	// Cert holds the server's certificate and its intermediates, Key its private key.
	Cert, Key string
	// ClientCA holds the roots that client certificates come from; without it no client certificate is asked for, but with Request.
	ClientCA string
	// Request asks for a client certificate without holding it against roots: who takes it as a proof does that.
	Request bool
}

// Certificates are a listener's TLS settings, which change with their files.
type Certificates struct {
	files   TLSFiles
	require bool
	current atomic.Pointer[tls.Config]
}

// LoadCertificates reads the files. With require, a connection needs a client certificate.
func LoadCertificates(files TLSFiles, require bool) (*Certificates, error) {
	c := &Certificates{files: files, require: require}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the files again, for connections made from now on. If it returns an error, the old settings stay.
func (c *Certificates) Reload() error { return ReloadAll([]*Certificates{c}) }

// ReloadAll is Reload for several: all get their new settings, or none does.
func ReloadAll(all []*Certificates) error {
	read := make([]*tls.Config, len(all))
	for i, c := range all {
		var err error
		if read[i], err = c.read(); err != nil {
			return err
		}
	}
	for i, c := range all {
		c.current.Store(read[i])
	}
	return nil
}

func (c *Certificates) read() (*tls.Config, error) {
	if c.files.Cert == "" || c.files.Key == "" {
		return nil, errors.New("TLS needs a certificate file and a key file")
	}
	if c.require && c.files.ClientCA == "" {
		return nil, errors.New("a listener that requires client certificates needs a client CA file")
	}
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s with key %s: %w", c.files.Cert, c.files.Key, err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if c.files.Request {
		cfg.ClientAuth = tls.RequestClientCert
	}
	if c.files.ClientCA != "" {
		pem, err := os.ReadFile(c.files.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("client CA: %w", err)
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("client CA: %s holds no PEM certificate", c.files.ClientCA)
		}
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
		if c.require {
			cfg.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return cfg, nil
}

// Config is for tls.NewListener and its like: each handshake uses what was read last. crypto/tls holds the
// client certificate of a resumed session against the current roots as well.
func (c *Certificates) Config() *tls.Config {
	cfg := c.current.Load().Clone()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil }
	return cfg
}
