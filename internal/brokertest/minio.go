package brokertest

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// ClientID is the OpenID client ID that test servers are configured with.
const ClientID = "credbroker"

// MinIO is a real MinIO server in a process of its own on loopback.
type MinIO struct {
	// Endpoint is its URL.
	Endpoint string
	// CAFile holds the root of its certificate; empty without TLS.
	CAFile string

	process
	program, mc, dir                 string
	address, user, secret            string
	clientSecret, discover, auditURL string
	certificates                     bool // AssumeRoleWithCertificate is on
	transport                        *http.Transport
}

// MinIOOptions say what differs from a well-configured MinIO.
type MinIOOptions struct {
	// IssuerURL is the OIDC issuer it trusts; none if empty.
	IssuerURL string
	// NoClientSecret leaves out MINIO_IDENTITY_OPENID_CLIENT_SECRET, which makes it accept forged tokens.
	NoClientSecret bool
	// AuditURL is where it posts a line of JSON for each request that it has answered; nowhere if empty.
	AuditURL string
	// TLS makes it serve https, with a certificate of its own making.
	TLS bool
	// IssuerCAFile is a root that it trusts besides the system's; with TLS alone.
	IssuerCAFile string
	// ClientCAFile is a root of client certificates, for AssumeRoleWithCertificate; with TLS alone.
	ClientCAFile string
}

// NewMinIO prepares a server with a port and data of its own and doesn't start it.
func NewMinIO(t testing.TB, opts MinIOOptions) *MinIO {
	t.Helper()
	dir := t.TempDir()
	m := &MinIO{
		process: process{t: t, name: "MinIO", LogFile: filepath.Join(dir, "minio.log")}, program: Tool(t, "minio"), mc: Tool(t, "mc"), dir: dir,
		address: fmt.Sprintf("127.0.0.1:%d", FreePorts(t, 1)[0]), user: "root-" + random(4), secret: random(16),
		certificates: opts.ClientCAFile != "", auditURL: opts.AuditURL,
	}
	if opts.IssuerURL != "" {
		m.discover = opts.IssuerURL + "/.well-known/openid-configuration"
	}
	m.Endpoint = "http://" + m.address
	m.transport = http.DefaultTransport.(*http.Transport).Clone()
	if opts.TLS {
		m.Endpoint = "https://" + m.address
		m.makeCertificate(opts.IssuerCAFile, opts.ClientCAFile)
	}
	if opts.IssuerURL != "" && !opts.NoClientSecret {
		m.clientSecret = random(32)
	}
	m.endsWithTest(func() {
		m.Kill()
		m.transport.CloseIdleConnections()
	})
	return m
}

// StartMinIO is NewMinIO and Start.
func StartMinIO(t testing.TB, opts MinIOOptions) *MinIO {
	t.Helper()
	m := NewMinIO(t, opts)
	m.Start()
	return m
}

// Launch starts the process and doesn't wait until it serves: without an issuer that answers, it won't in full.
func (m *MinIO) Launch() {
	m.t.Helper()
	cmd := exec.Command(m.program, "server", "--quiet", "--certs-dir", filepath.Join(m.dir, "certs"), "--address", m.address, filepath.Join(m.dir, "data"))
	cmd.Env = append(os.Environ(),
		"MINIO_ROOT_USER="+m.user, "MINIO_ROOT_PASSWORD="+m.secret, "MINIO_BROWSER=off",
	)
	if m.discover != "" {
		cmd.Env = append(cmd.Env, "MINIO_IDENTITY_OPENID_CONFIG_URL="+m.discover, "MINIO_IDENTITY_OPENID_CLIENT_ID="+ClientID,
			"MINIO_IDENTITY_OPENID_CLAIM_NAME=policy")
	}
	if m.auditURL != "" {
		cmd.Env = append(cmd.Env, "MINIO_AUDIT_WEBHOOK_ENABLE_TEST=on", "MINIO_AUDIT_WEBHOOK_ENDPOINT_TEST="+m.auditURL)
	}
	if m.certificates {
		cmd.Env = append(cmd.Env, "MINIO_IDENTITY_TLS_ENABLE=on")
	}
	if m.clientSecret != "" {
		cmd.Env = append(cmd.Env, "MINIO_IDENTITY_OPENID_CLIENT_SECRET="+m.clientSecret)
	}
	m.run(cmd)
}

// Start launches the server and waits until its IAM answers. It may be called again after Stop: port and data stay.
func (m *MinIO) Start() {
	m.t.Helper()
	m.Launch()
	m.WaitReady()
}

// WaitReady waits until the server's IAM answers.
func (m *MinIO) WaitReady() {
	m.t.Helper()
	m.waitUntil("ready", 60*time.Second, func() error {
		// IAM is up once the STS refuses for a reason of its own: 4xx and no "try again"; or 501 without an issuer.
		client := http.Client{Transport: m.transport, Timeout: 5 * time.Second}
		resp, err := client.PostForm(m.Endpoint, map[string][]string{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "WebIdentityToken": {"x"}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented {
			return fmt.Errorf("the STS says %s", resp.Status)
		}
		return nil
	})
}

// ForgetClientSecret makes the next start one without MINIO_IDENTITY_OPENID_CLIENT_SECRET.
func (m *MinIO) ForgetClientSecret() { m.clientSecret = "" }

// MC runs the MinIO client with root's key under the alias `root` and returns what it printed.
func (m *MinIO) MC(args ...string) string {
	m.t.Helper()
	out, err := m.runMC("root", m.user+":"+m.secret, args)
	if err != nil {
		m.t.Fatalf("mc %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TryMC runs the MinIO client with these credentials under the alias `them`, and returns what it printed and whether it failed.
func (m *MinIO) TryMC(accessKey, secretKey, sessionToken string, args ...string) (string, error) {
	m.t.Helper()
	return m.runMC("them", accessKey+":"+secretKey+":"+sessionToken, args)
}

func (m *MinIO) runMC(alias, key string, args []string) (string, error) {
	cmd := exec.Command(m.mc, append([]string{"--config-dir", filepath.Join(m.dir, "mc"), "--no-color"}, args...)...)
	scheme, host, _ := strings.Cut(m.Endpoint, "://")
	cmd.Env = append(os.Environ(), fmt.Sprintf("MC_HOST_%s=%s://%s@%s", alias, scheme, key, host))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// MakeBucket makes a bucket.
func (m *MinIO) MakeBucket(name string) {
	m.t.Helper()
	m.MC("mb", "--ignore-existing", "root/"+name)
}

// PutPolicy makes a policy of an IAM document.
func (m *MinIO) PutPolicy(name, document string) {
	m.t.Helper()
	file := filepath.Join(m.dir, name+".json")
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.MC("admin", "policy", "create", "root", name, file)
}

// Client is an S3 client with the given credentials.
func (m *MinIO) Client(accessKey, secretKey, sessionToken string) *minio.Client {
	m.t.Helper()
	c, err := minio.New(m.address, &minio.Options{
		Creds: credentials.NewStaticV4(accessKey, secretKey, sessionToken), Region: "us-east-1", MaxRetries: 1,
		Secure: m.CAFile != "", Transport: m.transport,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// Root is an S3 client with root's key.
func (m *MinIO) Root() *minio.Client { return m.Client(m.user, m.secret, "") }

// Secrets are the keys that nobody but MinIO and its operator may ever see.
func (m *MinIO) Secrets() []string { return []string{m.secret, m.clientSecret} }

// AddUser makes a user with a policy, or gives one that is there another secret key.
func (m *MinIO) AddUser(accessKey, secretKey, policy string) {
	m.t.Helper()
	m.MC("admin", "user", "add", "root", accessKey, secretKey)
	if policy != "" {
		m.MC("admin", "policy", "attach", "root", policy, "--user", accessKey)
	}
}

// makeCertificate makes the server a certificate where it and mc look for such, and trusts the CAs that are given.
func (m *MinIO) makeCertificate(cas ...string) {
	m.t.Helper()
	m.CAFile = filepath.Join(m.dir, "certs", "public.crt")
	WriteCertificate(m.t, m.CAFile, filepath.Join(m.dir, "certs", "private.key"))
	copyFile(m.t, filepath.Join(m.dir, "mc", "certs", "CAs", "root.crt"), m.CAFile)
	for i, ca := range cas {
		if ca != "" {
			copyFile(m.t, filepath.Join(m.dir, "certs", "CAs", fmt.Sprintf("%d.crt", i)), ca)
		}
	}
	public, err := os.ReadFile(m.CAFile)
	if err != nil {
		m.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(public)
	m.transport.TLSClientConfig = &tls.Config{RootCAs: roots}
}

// random returns n random bytes in hex.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
