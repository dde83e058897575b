package brokertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"testing"
	"time"
)

// ClientCA issues client certificates.
type ClientCA struct {
	// File is its own certificate, in PEM.
	File string

	t           testing.TB
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewClientCA makes one.
func NewClientCA(t testing.TB) *ClientCA {
	t.Helper()
	ca := &ClientCA{t: t, File: filepath.Join(t.TempDir(), "client-ca.crt")}
	var der []byte
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "client CA"}, NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, ca.key = ca.sign(template)
	var err error
	if ca.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writeFile(t, ca.File, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return ca
}

// Issue writes a client certificate of that common name, and its key, as PEM files.
func (ca *ClientCA) Issue(commonName string, life time.Duration, certFile, keyFile string) {
	ca.t.Helper()
	der, key := ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	writeFile(ca.t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	writeFile(ca.t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// sign completes a certificate for a new key; it is its own issuer while the CA has none.
func (ca *ClientCA) sign(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore = big.NewInt(time.Now().UnixNano()), time.Now().Add(-2*time.Hour)
	parent, by := ca.certificate, ca.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		ca.t.Fatal(err)
	}
	return der, key
}
