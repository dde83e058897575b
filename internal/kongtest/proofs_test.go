package kongtest

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// TestEveryProofOfKong has the plugin prove what Kong is by each platform, and by a certificate, to a broker over TLS: who isn't the one that the
// broker's role names gets no session, though its proof holds.
func TestEveryProofOfKong(t *testing.T) {
	const audience = "https://broker.example"
	google, entra, mesh := brokertest.NewGoogle(t, nil), brokertest.NewEntra(t, nil), brokertest.NewSPIFFE(t, "prod.example", nil)
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	brokertest.WriteCertificate(t, ca, key)
	gateway := fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(t, 1)[0])
	b := brokertest.NewBroker(t, brokertest.BrokerOptions{CertFile: ca, KeyFile: key, Env: []string{"CREDBROKER__LISTENERS__GATEWAY__ADDRESS=" + gateway}})
	store := brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: b.HTTP, TLS: true, IssuerCAFile: ca})
	b.WriteConfig(fmt.Sprintf(`
exchangers:
  minio: {kind: minio-web-identity, endpoint: %q, ca_file: %q, client_id: %s, allowed_policies: [reports-rw]}
shutdown: {drain: 0s}
x509:
  - {name: mesh, trust_domain: prod.example, bundle_file: %q}
issuers:
  - {name: google, profile: gcp, jwks_url: %q, ca_file: %q, audiences: [%[7]s], gcp: {project_numbers: ["123456789012"]}}
  - {name: entra, profile: azure, issuer: %q, jwks_url: %q, ca_file: %q, audiences: [%[7]s]}
roles:
  - {name: kong-gcp, gateway: true, when: 'identity.kind == "gcp" && identity.attrs.instance_name == ["backup-1"]'}
  - {name: kong-azure, gateway: true, when: 'identity.kind == "azure" && identity.subject == "%[11]s"'}
  - {name: kong-mesh, gateway: true, when: 'identity.kind == "spiffe" && identity.subject == "spiffe://prod.example/kong"'}
  - {name: reports, when: 'identity.kind == "kong" && identity.attrs.consumer_custom_id == ["acme"]', exchanger: minio, policies: [reports-rw]}
`, store.Endpoint, store.CAFile, brokertest.ClientID, mesh.BundleFile, google.URL+brokertest.GoogleJWKSPath, google.CAFile, audience,
		entra.Issuer(), entra.URL+entra.JWKSPath(), entra.CAFile, entra.System.ObjectID))
	b.Start()
	store.Start()
	store.PutPolicy("reports-rw", bucketRW)

	svid := func(path string) string {
		c := mesh.X509SVID(mesh.ID(path), nil)
		der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		var chain []byte
		for _, each := range c.Certificate {
			chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: each})...)
		}
		name := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		brokertest.WriteFile(t, name+".crt", chain)
		brokertest.WriteFile(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		return fmt.Sprintf("proof: certificate, certificate_file: %q, key_file: %q", name+".crt", name+".key")
	}
	cloud := func(kind string) string { return fmt.Sprintf("proof: %s, audience: %q", kind, audience) }
	// ngx_lua holds certificates against names alone.
	public := strings.TrimPrefix(b.HTTP, "https://")
	port := public[strings.Index(public, ":"):]
	plugin := func(role, proof string) string {
		return fmt.Sprintf("{name: credential-broker, config: {broker_url: %q, session_url: %q, gateway_role: %s, role: reports, %s}}", "http://"+gateway, "https://localhost"+port, role, proof)
	}
	e := newEcho(t)
	var services []string
	good := map[string]string{"gcp": plugin("kong-gcp", cloud("gcp")), "azure": plugin("kong-azure", cloud("azure")), "certificate": plugin("kong-mesh", svid("/kong"))}
	bad := map[string]string{
		"another-audience": plugin("kong-gcp", fmt.Sprintf("proof: gcp, audience: %q", "https://other.example")), "anothers-role": plugin("kong-azure", cloud("gcp")),
		"a-certificate-of-the-mesh": plugin("kong-mesh", svid("/payments")), "no-certificate": plugin("kong-mesh", `proof: certificate, certificate_file: /none, key_file: /none`),
	}
	for _, plugins := range []map[string]string{good, bad} {
		for name, p := range plugins {
			services = append(services, service(name, e.URL, "/"+name, keyAuth, p))
		}
	}
	roots, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	brokertest.WriteFile(t, filepath.Join(dir, "roots.pem"), roots)
	g := Start(t, Options{Config: declared(services...), CAFile: filepath.Join(dir, "roots.pem"), Env: []string{
		"KONGTEST_HOSTS=metadata.google.internal=" + google.MetadataHost + " 169.254.169.254=" + entra.IMDSHost + " localhost=" + public,
	}})
	for name := range good {
		patiently(t, 30*time.Second, name, g.URL+"/"+name+"/x", header("alice"), http.StatusOK)
	}
	for name := range bad {
		if resp, body := Do(t, "GET", g.URL+"/"+name+"/x", header("alice"), nil); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
	audit := strings.Join(b.Audit(), "\n")
	for _, want := range []string{
		`"event":"open_gateway_session","decision":"allowed"`, `"actor":{"kind":"gcp"`, `"actor":{"kind":"azure"`, `"actor":{"kind":"spiffe","issuer":"spiffe://prod.example","subject":"spiffe://prod.example/kong"`,
		`"event":"open_gateway_session","decision":"denied","code":"permission_denied"`, `"subject":"spiffe://prod.example/payments"`,
	} {
		if !strings.Contains(audit, want) {
			t.Errorf("the audit log lacks %s", want)
		}
	}
}
