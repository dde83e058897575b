package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/prove"
)

// platforms are stand-ins and real servers of all that gives workloads an identity, and a broker over TLS that knows them.
type platforms struct {
	*world
	google     *brokertest.Google
	entra      *brokertest.Entra
	aws        *brokertest.AWSSTS
	kubernetes *brokertest.Kubernetes
	spiffe     *brokertest.SPIFFE
	ca         string // of the broker
	config     string
	gateways   string // roles for gateways, at the end of config
	gateway    string // host:port of its listener for gateways
}

const (
	audience   = "https://broker.example"
	gcpAccount = "backup@example-project.iam.gserviceaccount.com"
)

// startPlatforms starts everything.
func startPlatforms(t *testing.T) *platforms {
	t.Helper()
	dir := t.TempDir()
	p := &platforms{
		google: brokertest.NewGoogle(t, nil), entra: brokertest.NewEntra(t, nil), aws: brokertest.NewAWSSTS(t),
		kubernetes: brokertest.StartKubernetes(t), spiffe: brokertest.NewSPIFFE(t, "prod.example", nil), ca: filepath.Join(dir, "tls.crt"),
	}
	key, corp := filepath.Join(dir, "tls.key"), filepath.Join(dir, "corp-ca.pem")
	brokertest.WriteCertificate(t, p.ca, key)
	if err := os.WriteFile(corp, p.spiffe.CAs(), 0o600); err != nil { // which issues certificates without SPIFFE IDs, too
		t.Fatal(err)
	}
	p.gateway = fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(t, 1)[0])
	b := brokertest.NewBroker(t, brokertest.BrokerOptions{CertFile: p.ca, KeyFile: key})
	minio := brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: b.HTTP, TLS: true, IssuerCAFile: p.ca})
	p.world = &world{t: t, Broker: b, minio: minio, idp: brokertest.NewIDP(t)}
	p.kubernetes.CreateNamespace("prod")
	p.kubernetes.CreateServiceAccount("prod", "reports")
	p.kubernetes.CreatePod("prod", "reports-0", "reports")

	config := fmt.Sprintf(`
exchangers:
  minio: {kind: minio-web-identity, endpoint: %q, ca_file: %q, client_id: %s, allowed_policies: [reports-rw]}
shutdown: {drain: 0s}
listeners: {gateway: {address: %q}}
x509:
  - {name: prod, trust_domain: prod.example, bundle_file: %q}
  - {name: corp, ca_file: %q}
issuers:
  - {name: test, issuer: %q, audiences: [credbroker], algorithms: [ES256]}
`, minio.Endpoint, minio.CAFile, brokertest.ClientID, p.gateway, p.spiffe.BundleFile, corp, p.idp.URL)
	for _, issuer := range []string{
		fmt.Sprintf(`name: google, profile: gcp, jwks_url: %q, ca_file: %q, gcp: {project_numbers: ["123456789012"]}`, p.google.URL+brokertest.GoogleJWKSPath, p.google.CAFile),
		fmt.Sprintf(`name: backup, profile: gcp_service_account, issuer: %s, jwks_url: %q, ca_file: %q`, gcpAccount, p.google.URL+brokertest.GoogleAccountJWKSPath+gcpAccount, p.google.CAFile),
		fmt.Sprintf(`name: entra, profile: azure, issuer: %q, jwks_url: %q, ca_file: %q`, p.entra.Issuer(), p.entra.URL+p.entra.JWKSPath(), p.entra.CAFile),
		fmt.Sprintf(`name: aws, profile: aws, issuer: %q, jwks_url: %q, ca_file: %q`, brokertest.AWSTokenIssuer("123456789012"), p.aws.WebIdentityURL+brokertest.AWSJWKSPath, p.aws.CAFile),
		fmt.Sprintf(`name: cluster, profile: kubernetes, issuer: %q, token_review: {url: %q, ca_file: %q, token_file: %q}`, p.kubernetes.Issuer, p.kubernetes.URL, p.kubernetes.CAFile, p.kubernetes.ReviewerTokenFile()),
		fmt.Sprintf(`name: spiffe, profile: spiffe, issuer: "spiffe://prod.example", workload_api: %q`, p.spiffe.Address),
	} {
		config += "  - {" + issuer + ", audiences: [" + audience + "]}\n"
	}
	config += "roles:\n"
	for name, when := range map[string]string{
		"gcp":        `identity.kind == "gcp" && identity.tenant == "123456789012" && identity.attrs.instance_name == ["backup-1"]`,
		"gcp-signed": `identity.kind == "gcp" && identity.issuer == "` + gcpAccount + `"`,
		"azure":      `identity.kind == "azure" && identity.subject == "` + p.entra.System.ObjectID + `" && identity.attrs.resource_group == ["reports"]`,
		"aws":        `identity.kind == "aws" && identity.subject == "arn:aws:iam::123456789012:role/reports-service"`,
		"kubernetes": `identity.kind == "kubernetes" && identity.subject == "system:serviceaccount:prod:reports" && identity.attrs.pod == ["reports-0"]`,
		"spiffe":     `identity.kind == "spiffe" && identity.subject == "spiffe://prod.example/workload" && !has(identity.actor)`,
		"x509":       `identity.kind == "x509" && identity.issuer == "corp" && identity.subject == "reports.corp.example"`,
		"consumer":   `identity.kind == "kong" && identity.subject == "5b6ad3e2" && identity.actor.subject == "spiffe://prod.example/workload"`,
		"delegated":  `identity.issuer == "` + p.idp.URL + `" && identity.subject == "alice" && has(identity.actor) && identity.actor.subject == "spiffe://prod.example/workload"`,
	} {
		config += fmt.Sprintf("  - {name: %s, when: %q, exchanger: minio, policies: [reports-rw]}\n", name, when)
	}
	p.gateways = "  - {name: gateway, when: 'identity.subject == \"spiffe://prod.example/workload\"', gateway: true}\n"
	p.config = config
	b.WriteConfig(config + p.gateways)
	b.Start()
	minio.Start()
	p.furnish()
	return p
}

// pemFiles writes a certificate and its key.
func (p *platforms) pemFiles(c tls.Certificate) (certFile, keyFile string) {
	p.t.Helper()
	dir := p.t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	var certs []byte
	for _, der := range c.Certificate {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(certFile, certs, 0o600), os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)); err != nil {
		p.t.Fatal(err)
	}
	return certFile, keyFile
}

// get runs `broker get` over each protocol, and writes an object with what it prints.
func (p *platforms) get(t *testing.T, role string, env []string, args ...string) {
	t.Helper()
	for _, endpoint := range []string{p.HTTP, "grpcs://" + p.GRPC} {
		out, stderr, err := runProgram(t, "", env, append([]string{"get", "--endpoint", endpoint, "--ca-file", p.ca, "--role", role, "--format", "json"}, args...)...)
		var a answer
		if err != nil || json.Unmarshal([]byte(out), &a) != nil {
			t.Fatalf("%s: %v: %s%s", endpoint, err, out, stderr)
		}
		if err := p.put(a, "from-"+role); err != nil {
			t.Error(err)
		}
	}
}

// TestEachPlatformsIdentityToObject takes a proof of each platform through the whole product to an object in a real MinIO, and
// shows that it opens no role of another.
func TestEachPlatformsIdentityToObject(t *testing.T) {
	p := startPlatforms(t)
	principal := awsKey.Principal
	tokens := map[string]string{
		"gcp":        p.google.Token(audience, nil),
		"gcp-signed": p.google.AccountToken(gcpAccount, audience, nil),
		"azure":      p.entra.Token(p.entra.System, audience, nil),
		"aws":        p.aws.WebIdentityToken(principal, audience, "ES384", nil),
		"kubernetes": p.kubernetes.Token("prod", "reports", []string{audience}, time.Hour, "reports-0"),
		"spiffe":     p.spiffe.JWTSVID(p.spiffe.ID("/workload"), []string{audience}, nil),
	}
	for role, token := range tokens {
		t.Run(role, func(t *testing.T) {
			p.get(t, role, nil, "--token-file", p.tokenFile(token))
			for other := range tokens {
				if other == role {
					continue
				}
				_, stderr, err := runProgram(t, "", nil, "get", "--endpoint", p.HTTP, "--ca-file", p.ca, "--role", other, "--token-file", p.tokenFile(token))
				if err == nil || !strings.Contains(stderr, "permission_denied") {
					t.Errorf("role %s: %v: %s", other, err, stderr)
				}
			}
		})
	}
	p.aws.Add(awsKey)
	for kind, c := range map[string]struct {
		role string
		env  []string
	}{
		"gcp":        {"gcp", []string{"GCE_METADATA_HOST=" + p.google.MetadataHost}},
		"azure":      {"azure", p.entra.Environ()},
		"aws-token":  {"aws", append([]string{"AWS_ENDPOINT_URL_STS=" + p.aws.WebIdentityURL, "AWS_CA_BUNDLE=" + p.aws.CAFile}, awsEnv...)},
		"spiffe":     {"spiffe", []string{"SPIFFE_ENDPOINT_SOCKET=" + p.spiffe.Address}},
		"kubernetes": {"kubernetes", []string{"CREDBROKER_TOKEN_FILE=" + p.tokenFile(tokens["kubernetes"])}},
	} {
		t.Run("broker get --proof "+kind, func(t *testing.T) {
			p.get(t, c.role, c.env, "--proof", kind, "--audience", audience)
			out, stderr, err := runProgram(t, "", append(c.env, "CREDBROKER_AUDIENCE="+audience), "bench", "--proof", kind,
				"--endpoint", p.HTTP, "--ca-file", p.ca, "--role", c.role, "--duration", "100ms", "--concurrency", "4")
			if err != nil || !strings.Contains(out, "none") {
				t.Errorf("bench: %v: %s%s", err, out, stderr)
			}
		})
	}
	if n := p.google.Requests(brokertest.GoogleIdentityPath); n != 3 {
		t.Errorf("Google's metadata server was asked %d times by two calls and a bench", n)
	}
	workload := func(prover prove.Prover, opts ...credbroker.Option) *credbroker.Client {
		client, err := credbroker.New(p.HTTP, prover, append(opts, credbroker.WithCAFile(p.ca))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	svid := credbroker.WithClientCertificateFiles(p.pemFiles(p.spiffe.X509SVID(p.spiffe.ID("/workload"), nil)))
	t.Run("X.509-SVID", func(t *testing.T) {
		got, err := workload(prove.ClientCertificate(), svid).Credentials(t.Context(), "spiffe")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.put(answer{issued: issued{AccessKeyID: got.AccessKeyID, SecretAccessKey: got.SecretAccessKey.Reveal(), SessionToken: got.SessionToken.Reveal()}}, "from-svid"); err != nil {
			t.Error(err)
		}
		// It is the identity that the JWT-SVID has, so it shares its credentials.
		jwt, err := workload(prove.Token(tokens["spiffe"])).Credentials(t.Context(), "spiffe")
		if err != nil || jwt.AccessKeyID != got.AccessKeyID {
			t.Errorf("%v", err)
		}
	})
	t.Run("actor", func(t *testing.T) {
		alice := prove.Token(p.idp.Token(nil))
		if _, err := workload(alice, svid, credbroker.WithActor(prove.ClientCertificate())).Credentials(t.Context(), "delegated"); err != nil {
			t.Error(err)
		}
		if _, err := workload(alice, credbroker.WithActor(prove.Token(tokens["spiffe"]))).Credentials(t.Context(), "delegated"); err != nil {
			t.Error(err)
		}
		for name, client := range map[string]*credbroker.Client{
			"no actor": workload(alice, svid), "another actor": workload(alice, credbroker.WithActor(prove.Token(tokens["gcp"]))),
			"another subject": workload(prove.Token(p.idp.Token(map[string]any{"sub": "bob"})), credbroker.WithActor(prove.Token(tokens["spiffe"]))),
			"the wrong way":   workload(prove.Token(tokens["spiffe"]), credbroker.WithActor(alice)),
		} {
			if _, err := client.Credentials(t.Context(), "delegated"); code(err) != credbroker.CodePermissionDenied {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := workload(prove.Token(tokens["spiffe"]), credbroker.WithActor(alice)).Credentials(t.Context(), "spiffe"); code(err) != credbroker.CodePermissionDenied {
			t.Errorf("an actor where none may be: %v", err)
		}
	})
	t.Run("broker get --proof x509", func(t *testing.T) {
		cert, key := p.pemFiles(p.spiffe.X509SVID(p.spiffe.ID("/workload"), nil))
		p.get(t, "spiffe", nil, "--proof", "x509", "--client-cert", cert, "--client-key", key)
		cert, key = p.pemFiles(p.spiffe.X509SVID(p.spiffe.ID("/x"), func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"reports.corp.example"} }))
		p.get(t, "x509", []string{"CREDBROKER_CLIENT_CERT=" + cert, "CREDBROKER_CLIENT_KEY=" + key}, "--proof", "x509")
	})
	t.Run("certificate", func(t *testing.T) {
		files := func(change func(*x509.Certificate)) credbroker.Option {
			return credbroker.WithClientCertificateFiles(p.pemFiles(p.spiffe.X509SVID(p.spiffe.ID("/x"), change)))
		}
		named := files(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"reports.corp.example"} })
		if _, err := workload(prove.ClientCertificate(), named).Credentials(t.Context(), "x509"); err != nil {
			t.Error(err)
		}
		common := files(func(c *x509.Certificate) { c.URIs, c.Subject.CommonName = nil, "reports.corp.example" })
		if _, err := workload(prove.ClientCertificate(), common).Credentials(t.Context(), "x509"); code(err) != credbroker.CodeUnauthenticated {
			t.Errorf("a common name: %v", err)
		}
		stranger := brokertest.NewSPIFFE(t, "prod.example", nil)
		foreign := credbroker.WithClientCertificateFiles(p.pemFiles(stranger.X509SVID(p.spiffe.ID("/workload"), nil)))
		if _, err := workload(prove.ClientCertificate(), foreign).Credentials(t.Context(), "spiffe"); code(err) != credbroker.CodeUnauthenticated {
			t.Errorf("another authority's: %v", err)
		}
		if _, err := workload(prove.ClientCertificate()).Credentials(t.Context(), "x509"); code(err) != credbroker.CodeUnauthenticated {
			t.Errorf("none: %v", err)
		}
	})
	t.Run("gateway", func(t *testing.T) { p.speakFor(t) })
	audit := strings.Join(p.Audit(), "\n")
	for _, want := range []string{
		`"kind":"gcp","issuer":"https://accounts.google.com","tenant":"123456789012"`, `"kind":"azure"`, `"kind":"aws"`, `"kind":"kubernetes"`, `"kind":"x509","issuer":"corp"`,
		`"actor":{"kind":"spiffe","issuer":"spiffe://prod.example","subject":"spiffe://prod.example/workload"`, `"actor_proof_kind":"x509"`, `"proof_kind":"x509"`,
		`"event":"open_gateway_session"`, `"kind":"kong","issuer":"spiffe://prod.example/workload","tenant":"spiffe://prod.example","subject":"5b6ad3e2"`, `"proof_kind":"gateway"`,
	} {
		if !strings.Contains(audit, want) {
			t.Errorf("the audit log lacks %s", want)
		}
	}
	for name, token := range tokens {
		if strings.Contains(audit, token[len(token)-40:]) || strings.Contains(p.Log(), token[len(token)-40:]) {
			t.Errorf("the token of %s is in a log", name)
		}
	}
}
