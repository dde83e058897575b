package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/revocation"
	"github.com/credbroker/credbroker/internal/s3"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ Broker = (*broker.Broker)(nil)

// fakeBroker answers with what it is given and remembers what it was asked.
type fakeBroker struct {
	panic any
	short bool          // what is issued is too short-lived
	block chan struct{} // calls wait for it, or for their context
	calls chan struct{} // if set, gets one for each call that began

	mu   sync.Mutex
	err  error
	last broker.Request
	n    int

	signing broker.SignRequest

	revoked              revocation.Scope
	revokedID, revokedBy string
	revocation           revocation.Revocation
}

// fail is what the calls from now on end with.
func (f *fakeBroker) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

var expires = time.Date(2030, 1, 2, 3, 4, 5, 678, time.UTC)

func issuedCredentials() broker.Issued {
	return broker.Issued{
		Credentials: exchange.Credentials{
			AccessKeyID: "AKIATEST", SecretAccessKey: secret.New("s3cr3t/+key"), SessionToken: secret.New("t0k.en"), Expires: expires,
		},
		Role: "reports",
	}
}

func someone() attest.Identity {
	return attest.Identity{
		Kind: attest.KindOIDC, Issuer: "https://idp.example", Subject: "alice", Expires: expires,
		Attrs: map[string][]string{"groups": {"a", "b"}}, Actor: &attest.Identity{Kind: attest.KindOIDC, Issuer: "https://idp.example", Subject: "gw", Expires: expires},
	}
}

func someRoles() []policy.RoleInfo {
	return []policy.RoleInfo{{Name: "reports", Description: "d", DefaultTTL: 15 * time.Minute, MaxTTL: time.Hour}}
}

func (f *fakeBroker) answer(ctx context.Context, req broker.Request) error {
	f.mu.Lock()
	f.last = req
	f.n++
	err := f.err
	f.mu.Unlock()
	if f.calls != nil {
		f.calls <- struct{}{}
	}
	if f.panic != nil {
		panic(f.panic)
	}
	if f.block != nil {
		select {
		case <-f.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (f *fakeBroker) asked() (broker.Request, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, f.n
}

func (f *fakeBroker) Issue(ctx context.Context, req broker.Request) (broker.Issued, error) {
	if err := f.answer(ctx, req); err != nil {
		return broker.Issued{}, err
	}
	issued := issuedCredentials()
	issued.Short = f.short
	return issued, nil
}

func (f *fakeBroker) ExplainAccess(ctx context.Context, req broker.Request) (broker.Access, error) {
	return broker.Access{Identity: someone(), Roles: someRoles()}, f.answer(ctx, req)
}

func (f *fakeBroker) WhoIs(ctx context.Context, req broker.Request) (attest.Identity, error) {
	return attest.Identity{Kind: attest.KindAccessKey, Issuer: attest.IssuerAccessKeys, Subject: "vault"}, f.answer(ctx, req)
}

func (f *fakeBroker) ListRoles(ctx context.Context, req broker.Request) ([]policy.RoleInfo, error) {
	return someRoles(), f.answer(ctx, req)
}

func (f *fakeBroker) OpenGatewaySession(ctx context.Context, req broker.Request) (broker.GatewayKey, error) {
	if err := f.answer(ctx, req); err != nil {
		return broker.GatewayKey{}, err
	}
	return broker.GatewayKey{KeyID: "KEYID", Key: secret.New("\x00\xff-key"), Expires: issuedCredentials().Expires, Role: "kong"}, nil
}

func (f *fakeBroker) Sign(ctx context.Context, req broker.SignRequest) (broker.SignedRequests, error) {
	f.mu.Lock()
	f.signing = req
	f.mu.Unlock()
	if err := f.answer(ctx, req.Request); err != nil {
		return broker.SignedRequests{}, err
	}
	return broker.SignedRequests{
		Requests: []s3.Signed{{
			Method: "GET", URL: "https://minio/b-1/k?x=y", Host: "minio", Path: "/b-1/k", Query: "x=y", Headers: map[string]string{"authorization": "AWS4 <\xff>"}, Expires: expires,
		}},
		AccessKeyID: "AKIATEST", Expires: expires, Role: "reports",
	}, nil
}

func (f *fakeBroker) Revoke(_ context.Context, s revocation.Scope, requestID, by string) (revocation.Revocation, error) {
	f.revoked, f.revokedBy, f.revokedID = s, by, requestID
	return f.revocation, f.err
}

func (f *fakeBroker) ExplainDecision(requestID string) (broker.Explained, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return broker.Explained{}, f.err
	}
	id := someone()
	return broker.Explained{
		Recorded: &broker.Recorded{Cause: "bad \xff"}, Identity: &id, Role: "reports", RuleSet: requestID,
		Explanation: policy.Explanation{Exists: true, Allowed: true, Rule: "broker.yaml:1", Findings: []policy.Finding{{Check: "c", Passed: true, Detail: "d"}}},
	}, nil
}

func (f *fakeBroker) ExplainIdentity(id attest.Identity, role string) broker.Explained {
	return broker.Explained{Identity: &id, Role: role}
}

type fakeDocuments struct{}

func (fakeDocuments) Discovery() []byte {
	return []byte(`{"issuer":"https://b","jwks_uri":"https://b/jwks"}`)
}
func (fakeDocuments) URL() string                 { return "https://b" }
func (fakeDocuments) JWKS(context.Context) []byte { return []byte(`{"keys":[]}`) }

// logged collects what was logged.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func testOptions() (Options, *logged) {
	out := &logged{}
	return Options{Log: slog.New(slog.NewTextHandler(out, nil)), RequestTimeout: 5 * time.Second, Account: "000000000000", Floors: Floors{20 * time.Minute, 21 * time.Minute, 22 * time.Minute}}, out
}

func listenLoopback(t testing.TB, files TLSFiles) *Listener {
	t.Helper()
	l, err := Listen("127.0.0.1:0", files, ListenOptions{MaxConns: 512})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serving runs a server until the test ends.
func serving(t testing.TB, s *Server) string {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s.Addr().String()
}

// httpServer runs a public HTTP server in plaintext and returns its base URL.
func httpServer(t testing.TB, b Broker) (string, *logged) {
	t.Helper()
	o, log := testOptions()
	return "http://" + serving(t, NewHTTP(listenLoopback(t, TLSFiles{}), b, fakeDocuments{}, o)), log
}

// grpcServer runs a public gRPC server in plaintext and returns a connection to it.
func grpcServer(t testing.TB, b Broker, ready func() Readiness) (*grpc.ClientConn, *logged) {
	t.Helper()
	o, log := testOptions()
	return dial(t, serving(t, NewGRPC(listenLoopback(t, TLSFiles{}), b, ready, o))), log
}

func alwaysReady() Readiness { return Readiness{Ready: true} }

func dial(t testing.TB, address string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

type answer struct {
	status int
	header http.Header
	body   string
}

// send makes one request over a connection of its own.
func send(t testing.TB, method, url string, header http.Header, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

func bearerHeader(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
}

// authority makes certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key, a.pem = a.sign(template, template, nil)
	block, _ := pem.Decode(a.pem)
	a.cert, _ = x509.ParseCertificate(block.Bytes)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// pair issues a certificate for 127.0.0.1 that both servers and clients may use.
func (a *authority) pair(name string) (cert, key []byte) {
	k, c := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return c, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// client is a client's TLS settings, with a certificate of from unless that is nil.
func (a *authority) client(from *authority) *tls.Config {
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AddCert(a.cert)
	if from != nil {
		pair, err := tls.X509KeyPair(from.pair("client"))
		if err != nil {
			a.t.Fatal(err)
		}
		// Unlike Certificates, this also shows a certificate that the server has not asked for.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return cfg
}

// files writes a server's files; clients may be nil.
func (a *authority) files(clients *authority) TLSFiles {
	dir := a.t.TempDir()
	f := TLSFiles{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	a.renew(f, "server")
	if clients != nil {
		f.ClientCA = filepath.Join(dir, "ca.pem")
		writeFile(a.t, f.ClientCA, clients.pem)
	}
	return f
}

func (a *authority) renew(f TLSFiles, name string) {
	cert, key := a.pair(name)
	writeFile(a.t, f.Cert, cert)
	writeFile(a.t, f.Key, key)
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// commonName is that of the certificate that was the proof of the last call.
func commonName(t *testing.T, b *fakeBroker) string {
	t.Helper()
	req, _ := b.asked()
	if req.Proof.Kind != attest.KindX509 {
		t.Fatalf("proof is of kind %q", req.Proof.Kind)
	}
	certs, err := x509.ParseCertificates([]byte(req.Proof.Data.Reveal()))
	if err != nil || len(certs) == 0 {
		t.Fatal(err)
	}
	return certs[0].Subject.CommonName
}
