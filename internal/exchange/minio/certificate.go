package minio

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

// Certificates is where client certificates come from.
type Certificates interface {
	// Certificate returns one whose subject's common name is a policy of MinIO's. Its errors are those of exchange.Exchanger.
	Certificate(ctx context.Context, policy string) (*tls.Certificate, error)
}

// CertificateFiles are the paths of one certificate with its intermediates, and of its key, in PEM. They are read for each exchange.
type CertificateFiles struct{ CertFile, KeyFile string }

// Certificate implements Certificates.
func (f CertificateFiles) Certificate(context.Context, string) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%w: client certificate: %w", exchange.ErrUnavailable, err)
	}
	return &c, nil
}

// CertificateConfig configures a Certificate.
type CertificateConfig struct {
	Server
	Certificates Certificates
	// AllowedPolicies are the policy names that roles may ask for, one each.
	AllowedPolicies []string
}

// Certificate is an exchange.Exchanger by AssumeRoleWithCertificate. MinIO gives the credentials the policy that the certificate's
// common name names, and takes no session policy there: whatever that policy doesn't deny they may do, make themselves keys that never
// end among it. Run must run for as long as it is used.
type Certificate struct {
	cfg      CertificateConfig
	attempts *exchange.Attempts

	mu sync.Mutex
	// connections are those under the last certificate of each policy: on one that is open, MinIO sees the certificate that
	// it was opened with.
	connections map[string]*connection
}

type connection struct {
	leaf      [sha256.Size]byte
	transport *http.Transport
}

// NewCertificate returns an exchanger for one MinIO. Nothing is sent yet.
func NewCertificate(cfg CertificateConfig) (*Certificate, error) {
	if _, err := newTransport(cfg.CAFile, new(contact)); err != nil {
		return nil, err
	}
	return &Certificate{
		cfg: cfg, connections: map[string]*connection{},
		attempts: exchange.NewAttempts(exchange.AttemptsConfig{Timeout: cfg.Timeout, Observe: cfg.Observe}),
	}, nil
}

// CertificateHonours is what a Certificate with these allowed policies honours of a grant.
func CertificateHonours(allowedPolicies []string) policy.Backend {
	return policy.Backend{AllowedPolicies: slices.Clone(allowedPolicies), MaxPolicies: 1, MinTTL: minDuration, MaxTTL: maxTTL}
}

// Status implements exchange.Exchanger.
func (x *Certificate) Status() string { return x.attempts.Status() }

// Run closes the connections when ctx ends.
func (x *Certificate) Run(ctx context.Context) {
	<-ctx.Done()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.connections {
		c.transport.CloseIdleConnections()
	}
}

// Exchange implements exchange.Exchanger.
func (x *Certificate) Exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	return x.attempts.Exchange(ctx, func(ctx context.Context) (exchange.Credentials, error) {
		if len(req.Grant.Policies) != 1 || req.Grant.SessionPolicy != "" { // policy.Compile has seen to it
			return exchange.Credentials{}, fmt.Errorf("%w: a certificate stands for one policy and takes no session policy", exchange.ErrRefused)
		}
		d, err := duration(req, time.Now())
		if err != nil {
			return exchange.Credentials{}, err
		}
		name := req.Grant.Policies[0]
		certificate, err := x.cfg.Certificates.Certificate(ctx, name)
		if err != nil {
			return exchange.Credentials{}, err
		}
		transport, err := x.transport(name, certificate)
		if err != nil {
			return exchange.Credentials{}, err
		}
		provider := credentials.New(&certificateProvider{endpoint: x.cfg.Endpoint, duration: d})
		c, failure := ask(ctx, provider, transport, req.Correlation, secret.Secret{})
		if failure != nil {
			return exchange.Credentials{}, failure.asError()
		}
		return c, exchange.Check(c, time.Now().Add(d), time.Now())
	})
}

// transport is that of a policy's certificate, made anew when the certificate is another one.
func (x *Certificate) transport(policy string, c *tls.Certificate) (*http.Transport, error) {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("%w: client certificate: %w", exchange.ErrRefused, err)
	}
	switch {
	case leaf.Subject.CommonName != policy:
		return nil, fmt.Errorf("%w: the client certificate is for the policy %q and not for %q", exchange.ErrRefused, clip(leaf.Subject.CommonName), policy)
	case time.Now().After(leaf.NotAfter):
		return nil, fmt.Errorf("%w: the client certificate ended at %s", exchange.ErrUnavailable, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	sum := sha256.Sum256(c.Certificate[0])
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.connections[policy]
	if old != nil && old.leaf == sum {
		return old.transport, nil
	}
	transport, err := newTransport(x.cfg.CAFile, new(contact))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", exchange.ErrUnavailable, err)
	}
	transport.TLSClientConfig.Certificates = []tls.Certificate{*c}
	x.connections[policy] = &connection{leaf: sum, transport: transport}
	if old != nil {
		old.transport.CloseIdleConnections()
	}
	return transport, nil
}

// certificateProvider calls AssumeRoleWithCertificate by the client that it is given. That of minio-go wants to add the certificate to
// an http.Transport itself, for each call.
type certificateProvider struct {
	endpoint string
	duration time.Duration
}

// RetrieveWithCredContext implements credentials.Provider.
func (p *certificateProvider) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	query := url.Values{
		"Action": {"AssumeRoleWithCertificate"}, "Version": {credentials.STSVersion}, "DurationSeconds": {strconv.Itoa(int(p.duration / time.Second))},
	}
	req, err := http.NewRequestWithContext(cc.Context, http.MethodPost, p.endpoint+"/?"+query.Encode(), http.NoBody)
	if err != nil {
		return credentials.Value{}, err
	}
	resp, err := cc.Client.Do(req)
	if err != nil {
		return credentials.Value{}, err
	}
	defer resp.Body.Close() //nolint:errcheck // read-only
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return credentials.Value{}, err
	}
	if resp.StatusCode != http.StatusOK {
		var refusal credentials.ErrorResponse
		if err := xml.Unmarshal(data, &refusal); err != nil {
			return credentials.Value{}, err
		}
		return credentials.Value{}, refusal
	}
	var answer struct {
		XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleWithCertificateResponse"`
		Given   struct {
			AccessKeyID     string    `xml:"AccessKeyId"`
			SecretAccessKey string    `xml:"SecretAccessKey"`
			SessionToken    string    `xml:"SessionToken"`
			Expiration      time.Time `xml:"Expiration"`
		} `xml:"AssumeRoleWithCertificateResult>Credentials"`
	}
	if err := xml.Unmarshal(data, &answer); err != nil {
		return credentials.Value{}, err
	}
	return credentials.Value{
		AccessKeyID: answer.Given.AccessKeyID, SecretAccessKey: answer.Given.SecretAccessKey, SessionToken: answer.Given.SessionToken,
		Expiration: answer.Given.Expiration,
	}, nil
}

// Retrieve implements credentials.Provider.
func (*certificateProvider) Retrieve() (credentials.Value, error) {
	return credentials.Value{}, errors.New("there is no client")
}

// IsExpired implements credentials.Provider.
func (*certificateProvider) IsExpired() bool { return true }
