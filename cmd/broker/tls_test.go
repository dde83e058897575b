package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// TestTheWholeWayOverTLS: nothing between the four is in plaintext, and a renewed certificate is served without a restart.
func TestTheWholeWayOverTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	brokertest.WriteCertificate(t, cert, key)
	idp := brokertest.NewIDP(t, brokertest.WithTLS())
	b := brokertest.NewBroker(t, brokertest.BrokerOptions{CertFile: cert, KeyFile: key})
	url := b.HTTP
	minio := brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: url, TLS: true, IssuerCAFile: cert})
	b.WriteConfig(fmt.Sprintf(`
issuers:
  - {name: test, issuer: %q, ca_file: %q, audiences: [credbroker]}
exchangers:
  minio: {kind: minio-web-identity, endpoint: %q, ca_file: %q, client_id: %s, allowed_policies: [reports-rw]}
roles:
  - {name: reports, when: identity.subject == "alice", exchanger: minio, policies: [reports-rw]}
shutdown: {drain: 0s}
`, idp.URL, idp.CAFile, minio.Endpoint, minio.CAFile, brokertest.ClientID))
	b.Start()
	minio.Start()
	minio.MakeBucket("reports")
	minio.PutPolicy("reports-rw", reportsRW)

	w := &world{t: t, Broker: b, minio: minio, idp: idp}
	get := []string{"get", "--endpoint", url, "--token-file", w.tokenFile(idp.Token(nil)), "--role", "reports", "--format", "json"}
	out, stderr, err := runProgram(t, "", nil, append(get, "--ca-file", cert)...)
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	var a answer
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		t.Fatal(err)
	}
	if err := w.put(a, "a"); err != nil {
		t.Error(err)
	}
	if _, stderr, err := runProgram(t, "", nil, get...); err == nil || !strings.Contains(stderr, "certificate") {
		t.Errorf("without the CA: %v: %s", err, stderr)
	}

	first := served(t, url)
	brokertest.WriteCertificate(t, cert, key)
	brokertest.Eventually(t, 10*time.Second, "the new certificate is served", func() error {
		if served(t, url) == first {
			return fmt.Errorf("still %s", first)
		}
		return nil
	})
}

// served is the serial number of the certificate that is served.
func served(t *testing.T, url string) string {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second}
	// What is served is looked at, not believed.
	conn, err := tls.DialWithDialer(&d, "tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}
