package fromvault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/vault"
)

// Certificates are client certificates that Vault's PKI engine signs on demand, a minio.Certificates. Their keys are made here and stay
// here: Vault sees the request alone. There is one for each policy, and another once half of its life has passed.
type Certificates struct {
	cfg CertificatesConfig

	mu     sync.Mutex
	issued map[string]*issued
}

// CertificatesConfig configures Certificates.
type CertificatesConfig struct {
	Client *vault.Client
	// Mount is where the engine is, and Role its role, which has to allow the policies' names as common names, and client certificates.
	Mount, Role string
	// TTL is the life to ask for.
	TTL time.Duration
}

// issued is the certificate for a policy. Its fields but the first are for whoever holds the turn.
type issued struct {
	turn        chan struct{}
	certificate *tls.Certificate
	from, until time.Time
}

// NewCertificates returns Certificates. Nothing is signed yet.
func NewCertificates(cfg CertificatesConfig) *Certificates {
	return &Certificates{cfg: cfg, issued: map[string]*issued{}}
}

// Certificate implements minio.Certificates. Policies are those of the exchanger's allow-list, so there are few.
func (s *Certificates) Certificate(ctx context.Context, policy string) (*tls.Certificate, error) {
	s.mu.Lock()
	i := s.issued[policy]
	if i == nil {
		i = &issued{turn: make(chan struct{}, 1)}
		s.issued[policy] = i
	}
	s.mu.Unlock()
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("the caller left before its turn: %w", ctx.Err())
	}
	now := time.Now()
	if i.certificate != nil && i.until.Sub(now) >= i.until.Sub(i.from)/2 {
		return i.certificate, nil
	}
	certificate, leaf, err := s.sign(ctx, policy)
	if err != nil {
		if i.certificate != nil && i.until.After(now) { // which is still good
			return i.certificate, nil
		}
		return nil, err
	}
	i.certificate, i.from, i.until = certificate, now, leaf.NotAfter
	return certificate, nil
}

// sign makes a key and has a certificate signed for it (POST /pki/sign/:name).
func (s *Certificates) sign(ctx context.Context, policy string) (*tls.Certificate, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: policy}}, key)
	if err != nil {
		return nil, nil, err
	}
	path := s.cfg.Mount + "/sign/" + s.cfg.Role
	a, err := s.cfg.Client.Do(ctx, vault.Call{Write: true, Path: path, Body: map[string]any{
		"csr":         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})),
		"common_name": policy, "exclude_cn_from_sans": true, "ttl": strconv.FormatInt(int64(s.cfg.TTL/time.Second), 10) + "s",
	}})
	if err != nil {
		return nil, nil, asExchange(err)
	}
	bad := func(err error) (*tls.Certificate, *x509.Certificate, error) {
		return nil, nil, fmt.Errorf("%w: %s: %w", exchange.ErrBadResult, path, err)
	}
	text, err := a.Text("certificate", 64<<10)
	if err != nil {
		return bad(err)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return bad(errors.New("it gave no certificate in PEM"))
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return bad(errors.New("it gave no certificate"))
	}
	switch public, _ := leaf.PublicKey.(*ecdsa.PublicKey); {
	case public == nil || !public.Equal(key.Public()):
		return bad(errors.New("the certificate is for another key"))
	case leaf.Subject.CommonName != policy: // which MinIO takes for the policy
		return bad(fmt.Errorf("the certificate's common name is %.64q; expected %q", leaf.Subject.CommonName, policy))
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return bad(errors.New("the certificate isn't a client's: set client_flag on Vault's role"))
	case !leaf.NotAfter.After(time.Now()):
		return bad(fmt.Errorf("the certificate ended at %s", stamp(leaf.NotAfter)))
	}
	// MinIO takes a leaf alone, and has the root configured.
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, leaf, nil
}
