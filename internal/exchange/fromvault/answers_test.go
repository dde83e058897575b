package fromvault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/exchange/fromvault"
	"github.com/credbroker/credbroker/internal/vault"
)

// answering is a client of a stand-in for Vault that answers with data: as a Vault with other settings could, or somebody in its place.
func answering(t *testing.T, data func(r *http.Request) map[string]any) *vault.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"data": data(r)})
	}))
	t.Cleanup(s.Close)
	file := t.TempDir() + "/token"
	brokertest.WriteFile(t, file, []byte("hvs.x"))
	c, err := vault.New(vault.Config{Address: s.URL, Login: vault.TokenFile{Path: file}, Timeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	run(t, c.Run)
	return c
}

func TestIdentityTokensThatOutliveTheGrantAreRefused(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(time.Minute)
	token := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for name, c := range map[string]struct {
		token any
		want  error
	}{
		"ends with the grant": {token(fmt.Sprintf(`{"exp":%d}`, end.Unix())), nil},
		"ends later":          {token(fmt.Sprintf(`{"exp":%d}`, end.Add(10*time.Second).Unix())), exchange.ErrBadResult},
		"never ends":          {token(`{}`), exchange.ErrBadResult},
		"ends as text":        {token(`{"exp":"1"}`), exchange.ErrBadResult},
		"two parts":           {"e30.e30", exchange.ErrBadResult},
		"no base64":           {"e30.!.c2ln", exchange.ErrBadResult},
		"no text":             {5, exchange.ErrBadResult},
		"too large":           {strings.Repeat("x", 17<<10), exchange.ErrBadResult},
	} {
		t.Run(name, func(t *testing.T) {
			client := answering(t, func(*http.Request) map[string]any { return map[string]any{"token": c.token} })
			got, err := fromvault.IdentityTokens{Client: client, Role: "r"}.Token(t.Context(), request("alice", time.Minute), end)
			if !errors.Is(err, c.want) || c.want == nil && got.Reveal() != c.token {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestCertificatesThatAreNotWhatWasAskedForAreRefused(t *testing.T) {
	t.Parallel()
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		key    any
		want   error
	}{
		"as asked for":        {nil, nil, nil},
		"another common name": {func(x *x509.Certificate) { x.Subject.CommonName = "consoleAdmin" }, nil, exchange.ErrBadResult},
		"for another key":     {nil, ca.Public(), exchange.ErrBadResult},
		"a server's":          {func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, nil, exchange.ErrBadResult},
		"ended":               {func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Second) }, nil, exchange.ErrBadResult},
	} {
		t.Run(name, func(t *testing.T) {
			client := answering(t, func(r *http.Request) map[string]any {
				var body struct{ CSR string }
				_ = json.NewDecoder(r.Body).Decode(&body)
				block, _ := pem.Decode([]byte(body.CSR))
				csr, err := x509.ParseCertificateRequest(block.Bytes)
				if err != nil {
					return nil
				}
				template := &x509.Certificate{
					SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: csr.Subject.CommonName}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
					ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
				}
				if c.change != nil {
					c.change(template)
				}
				public := csr.PublicKey
				if c.key != nil {
					public = c.key
				}
				der, err := x509.CreateCertificate(rand.Reader, template, template, public, ca)
				if err != nil {
					return nil
				}
				return map[string]any{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
			})
			_, err := fromvault.NewCertificates(fromvault.CertificatesConfig{Client: client, Mount: "pki", Role: "r", TTL: time.Hour}).Certificate(t.Context(), "readonly")
			if !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	for name, text := range map[string]any{"no PEM": "x", "no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "none": nil} {
		client := answering(t, func(*http.Request) map[string]any { return map[string]any{"certificate": text} })
		if _, err := fromvault.NewCertificates(fromvault.CertificatesConfig{Client: client, Mount: "pki", Role: "r", TTL: time.Hour}).Certificate(t.Context(), "readonly"); !errors.Is(err, exchange.ErrBadResult) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
