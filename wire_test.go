package credbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/server"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
	"github.com/credbroker/credbroker/prove"
)

// fakePipeline stands behind a broker's real listeners.
type fakePipeline struct {
	server.Broker
	mu   sync.Mutex
	last broker.Request
	err  error
}

var wireExpires = time.Now().Add(time.Hour).Truncate(time.Second)

func (f *fakePipeline) Issue(_ context.Context, req broker.Request) (broker.Issued, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = req
	return broker.Issued{Role: req.Role, Credentials: exchange.Credentials{
		AccessKeyID: "KEY", SecretAccessKey: secret.New("s3cr3t/+"), SessionToken: secret.New("t0k.en"), Expires: wireExpires,
	}}, f.err
}

// listeners serves a pipeline on both of a broker's listeners and returns their URLs, with TLS if files has a certificate.
func listeners(t *testing.T, f server.Broker, files server.TLSFiles) []string {
	t.Helper()
	o := server.Options{Log: slog.New(slog.DiscardHandler), RequestTimeout: 10 * time.Second}
	s := ""
	if files.Cert != "" {
		s = "s"
	}
	var urls []string
	for _, scheme := range []string{"http", "grpc"} {
		l, err := server.Listen("127.0.0.1:0", files, server.ListenOptions{MaxConns: 100})
		if err != nil {
			t.Fatal(err)
		}
		ready := func() server.Readiness { return server.Readiness{Ready: true} }
		var srv *server.Server
		if scheme == "http" {
			srv = server.NewHTTP(l, f, nil, o)
		} else {
			srv = server.NewGRPC(l, f, ready, o)
		}
		done := make(chan error, 1)
		go func() { done <- srv.Serve() }()
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = srv.Shutdown(ctx)
			<-done
		})
		urls = append(urls, scheme+s+"://"+srv.Addr().String())
	}
	return urls
}

func open(t *testing.T, url string, opts ...Option) *Client {
	t.Helper()
	c, err := New(url, prove.Token("planted.token"), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestBothListenersGiveTheSame(t *testing.T) {
	f := &fakePipeline{}
	for _, url := range listeners(t, f, server.TLSFiles{}) {
		c := open(t, url)
		got, err := c.Credentials(t.Context(), "reports", WithPolicy(`{"a":"<é>"}`), WithTTL(90*time.Second))
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		if got.AccessKeyID != "KEY" || got.SecretAccessKey.Reveal() != "s3cr3t/+" || got.SessionToken.Reveal() != "t0k.en" ||
			!got.Expires.Equal(wireExpires) || got.Role != "reports" || got.RequestID != f.last.Correlation.RequestID || got.RequestID == "" {
			t.Errorf("%s: %+v", url, got)
		}
		if f.last.Proof.Kind != attest.KindJWT || f.last.Proof.Data.Reveal() != "planted.token" || f.last.Policy != `{"a":"<é>"}` || f.last.TTL != 90*time.Second {
			t.Errorf("%s sent %+v", url, f.last)
		}
		if _, err := c.Credentials(t.Context(), "reports"); err != nil || f.last.TTL != 0 || f.last.Policy != "" {
			t.Errorf("%s without options: %+v, %v", url, f.last, err)
		}
	}
}

// Every error that a broker can meet arrives as what docs/errors.md says, over both listeners.
func TestRefusals(t *testing.T) {
	f := &fakePipeline{}
	urls := listeners(t, f, server.TLSFiles{})
	for _, c := range []struct {
		err   error
		code  Code
		after time.Duration
	}{
		{attest.ErrRejected, CodeUnauthenticated, 0},
		{attest.ErrUnavailable, CodeIdentityProviderUnavailable, 2 * time.Second},
		{policy.ErrDenied, CodePermissionDenied, 0},
		{policy.ErrPolicyTooLarge, CodePolicyTooLarge, 0},
		{broker.ErrRateLimited, CodeRateLimited, 15 * time.Second},
		{exchange.ErrRefused, CodeExchangeRefused, 0},
		{exchange.ErrUnsafe, CodeExchangeUnsafe, 5 * time.Second},
		{context.DeadlineExceeded, CodeDeadlineExceeded, time.Second},
		{errors.New("anything"), CodeInternal, 0},
	} {
		f.err = c.err
		for _, url := range urls {
			_, err := open(t, url).Credentials(t.Context(), "reports")
			refusal, ok := errors.AsType[*Error](err)
			if !ok || refusal.Code != c.code || refusal.Retryable != (c.after > 0) || refusal.RetryAfter != c.after ||
				refusal.Message == "" || refusal.RequestID != f.last.Correlation.RequestID {
				t.Errorf("%s: %v became %#v", url, c.err, err)
			}
			if want := fmt.Sprintf("%s: %q (request %q", c.code, refusal.Message, refusal.RequestID); !strings.HasPrefix(err.Error(), want) ||
				strings.Contains(err.Error(), "try again") != refusal.Retryable {
				t.Errorf("it reads %s", err)
			}
		}
	}
}

func TestTheCodesAreTheBrokers(t *testing.T) {
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]bool{}
	for _, m := range regexp.MustCompile(`Code = "([a-z0-9_]+)"`).FindAllStringSubmatch(string(source), -1) {
		ours[m[1]] = true
		if !strings.Contains(string(docs), "| `"+m[1]+"` |") {
			t.Errorf("docs/errors.md doesn't have %s", m[1])
		}
	}
	for _, code := range server.Codes() {
		if !ours[code] {
			t.Errorf("the broker says %s, and there is no constant for it", code)
		}
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	files := server.TLSFiles{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	brokertest.WriteCertificate(t, files.Cert, files.Key)
	f := &fakePipeline{}
	for _, url := range listeners(t, f, files) {
		if _, err := open(t, url, WithCAFile(files.Cert)).Credentials(t.Context(), "reports"); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		f.last = broker.Request{}
		_, err := open(t, url).Credentials(t.Context(), "reports")
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate") || f.last.Role != "" {
			t.Errorf("%s with an unknown CA: %v", url, err)
		}
		// In plaintext to a TLS port: no answer, and no token that is understood.
		_, err = open(t, strings.Replace(url, "s://", "://", 1)).Credentials(t.Context(), "reports")
		if err == nil || f.last.Role != "" {
			t.Errorf("%s in plaintext: %v", url, err)
		}
	}
}

// Each kind of proof arrives as that kind, the subject's and the actor's.
func TestProofsArriveAsWhatTheyAre(t *testing.T) {
	dir := t.TempDir()
	files := server.TLSFiles{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Request: true}
	brokertest.WriteCertificate(t, files.Cert, files.Key)
	f := &fakePipeline{}
	proofs := map[attest.Kind]prove.Prover{
		attest.KindJWT: prove.Token("planted.token"), attest.KindX509: prove.ClientCertificate(),
		attest.KindAWS: provers(func(context.Context) (prove.Proof, error) {
			return prove.NewProof(prove.AWSRequest, "planted-request"), nil
		}),
	}
	for _, url := range listeners(t, f, files) {
		for kind, prover := range proofs {
			for actorKind, actor := range proofs {
				c, err := New(url, prover, WithActor(actor), WithCAFile(files.Cert), WithClientCertificateFiles(files.Cert, files.Key))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Credentials(t.Context(), "reports"); err != nil {
					t.Fatal(err)
				}
				if f.last.Proof.Kind != kind || f.last.Proof.Data.IsZero() || f.last.Actor == nil || f.last.Actor.Kind != actorKind || f.last.Actor.Data.IsZero() {
					t.Errorf("%s, %s for %s: %+v, %+v", url, actorKind, kind, f.last.Proof, f.last.Actor)
				}
				_ = c.Close()
			}
		}
		c := open(t, url, WithCAFile(files.Cert), WithClientCertificateFiles(files.Cert, filepath.Join(dir, "nowhere")))
		if _, err := c.Credentials(t.Context(), "reports"); err == nil || !strings.Contains(err.Error(), "client certificate") {
			t.Errorf("%s with no key: %v", url, err)
		}
		fault := errors.New("planted")
		c = open(t, url, WithCAFile(files.Cert), WithActor(provers(func(context.Context) (prove.Proof, error) { return prove.Proof{}, fault })))
		if _, err := c.Credentials(t.Context(), "reports"); !errors.Is(err, fault) || !strings.Contains(err.Error(), "actor") {
			t.Errorf("%s with an actor without a proof: %v", url, err)
		}
		unknown := provers(func(context.Context) (prove.Proof, error) { return prove.NewProof("palm", "planted"), nil })
		for _, o := range []Option{WithActor(unknown), func(*options) {}} {
			c, err := New(url, unknown, o, WithCAFile(files.Cert))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Credentials(t.Context(), "reports"); err == nil || !strings.Contains(err.Error(), `"palm" can't be sent`) || strings.Contains(err.Error(), "planted") {
				t.Errorf("%s with an unknown kind: %v", url, err)
			}
			_ = c.Close()
		}
		if c, err := New(url, prove.Token("t"), WithActor(unknown), WithCAFile(files.Cert)); err != nil {
			t.Error(err)
		} else if _, err := c.Credentials(t.Context(), "reports"); err == nil || !strings.Contains(err.Error(), `"palm" can't be sent`) {
			t.Errorf("%s with an unknown kind of actor's: %v", url, err)
		} else {
			_ = c.Close()
		}
	}
	if _, err := New("http://127.0.0.1:1", prove.Token("t"), WithClientCertificateFiles("a", "b")); !errors.Is(err, ErrEndpoint) {
		t.Errorf("a certificate in plaintext: %v", err)
	}
}

type provers func(context.Context) (prove.Proof, error)

func (p provers) Prove(ctx context.Context) (prove.Proof, error) { return p(ctx) }

func TestEndpoints(t *testing.T) {
	token := prove.Token("t")
	for url, expected := range map[string]error{
		"https://broker.example":                   nil,
		"https://broker.example:8443/under/a/path": nil,
		"grpcs://broker.example:9443":              nil,
		"grpcs://broker.example:9443/":             nil,
		"grpcs://[2001:db8::1]:9443":               nil,
		"http://127.0.0.1:8443":                    nil,
		"http://localhost":                         nil,
		"http://[::1]:1":                           nil,
		"grpc://127.0.0.9:9443":                    nil,
		"http://broker.example":                    ErrPlaintext,
		"grpc://broker.example:9443":               ErrPlaintext,
		"http://127.0.0.1.example":                 ErrPlaintext,
		"http://localhost.example":                 ErrPlaintext,
		"http://10.0.0.1":                          ErrPlaintext,
		"":                                         ErrEndpoint,
		"broker.example:9443":                      ErrEndpoint,
		"127.0.0.1:9443":                           ErrEndpoint,
		"ftp://broker.example":                     ErrEndpoint,
		"https://":                                 ErrEndpoint,
		"https://:8443":                            ErrEndpoint,
		"https://planted:planted@broker.example":   ErrEndpoint,
		"https://broker.example?planted":           ErrEndpoint,
		"https://broker.example?":                  ErrEndpoint,
		"https://broker.example#planted":           ErrEndpoint,
		"https://broker.example:port":              ErrEndpoint,
		"grpcs://broker.example":                   ErrEndpoint,
		"grpcs://broker.example:9443/path":         ErrEndpoint,
		"https://broker.example:8443/\x00":         ErrEndpoint,
	} {
		c, err := New(url, token)
		if !errors.Is(err, expected) || expected == nil && err != nil {
			t.Errorf("%q: %v", url, err)
		}
		if err != nil && strings.Contains(err.Error(), "planted") {
			t.Errorf("%q: it is repeated in %v", url, err)
		}
		if c != nil {
			_ = c.Close()
		}
	}
	for _, url := range []string{"http://broker.example", "grpc://broker.example:1"} {
		c, err := New(url, token, WithInsecurePlaintext())
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		_ = c.Close()
	}
	if _, err := New("https://broker.example", nil); err == nil {
		t.Error("there is no prover")
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{empty: "holds no PEM certificate", empty + "x": "no such file"} {
		if _, err := New("https://broker.example", token, WithCAFile(file)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	host := fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(t, 1)[0])
	for _, scheme := range []string{"http", "https", "grpc", "grpcs"} {
		start := time.Now()
		_, err := open(t, scheme+"://"+host).Credentials(t.Context(), "reports")
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "the broker at "+host+" can't be reached: ") || time.Since(start) > 2*time.Second {
			t.Errorf("%s after %s: %v", scheme, time.Since(start), err)
		}
	}
}

func TestACallEndsWithItsContextOrTheClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, scheme := range []string{"http", "https", "grpc", "grpcs"} {
		c := open(t, scheme+"://"+l.Addr().String())
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := c.Credentials(ctx, "reports")
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", scheme, err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := c.Credentials(t.Context(), "reports")
			ended <- err
		}()
		time.AfterFunc(50*time.Millisecond, func() { _ = c.Close() })
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("%s closed: %v", scheme, err)
		}
	}
}

// oddGRPC answers as no broker does.
type oddGRPC struct {
	brokerv1.UnimplementedCredentialBrokerServiceServer
	answer *brokerv1.IssueCredentialsResponse
	err    error
}

func (o *oddGRPC) IssueCredentials(context.Context, *brokerv1.IssueCredentialsRequest) (*brokerv1.IssueCredentialsResponse, error) {
	return o.answer, o.err
}

func TestOddAnswersOverGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	odd := &oddGRPC{}
	s := grpc.NewServer()
	brokerv1.RegisterCredentialBrokerServiceServer(s, odd)
	go func() { _ = s.Serve(l) }()
	defer s.Stop()
	c := open(t, "grpc://"+l.Addr().String())

	future := timestamppb.New(time.Now().Add(time.Hour))
	for name, answer := range map[string]*brokerv1.IssueCredentialsResponse{
		"empty":          {},
		"no expiry":      {AccessKeyId: "K", SecretAccessKey: "planted"},
		"no secret":      {AccessKeyId: "K", ExpiresAt: future},
		"no key":         {SecretAccessKey: "planted", ExpiresAt: future},
		"a line break":   {AccessKeyId: "K\n", SecretAccessKey: "planted", ExpiresAt: future},
		"a space":        {AccessKeyId: "K", SecretAccessKey: "planted ", ExpiresAt: future},
		"not ASCII":      {AccessKeyId: "K", SecretAccessKey: "planted", SessionToken: "é", ExpiresAt: future},
		"broken expiry":  {AccessKeyId: "K", SecretAccessKey: "planted", ExpiresAt: &timestamppb.Timestamp{Seconds: 1 << 60}},
		"much too large": {AccessKeyId: strings.Repeat("K", maxAnswer), SecretAccessKey: "planted", ExpiresAt: future},
	} {
		odd.answer = answer
		if got, err := c.Credentials(t.Context(), "r"); err == nil || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for code, away := range map[codes.Code]bool{
		codes.Unavailable: true, codes.ResourceExhausted: true, codes.DeadlineExceeded: true,
		codes.Unimplemented: false, codes.PermissionDenied: false, codes.Internal: false, codes.Unknown: false,
	} {
		odd.err = status.Error(code, "a\nforged line")
		_, err := c.Credentials(t.Context(), "r")
		if err == nil || errors.Is(err, ErrUnreachable) != away || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: %v", code, err)
		}
	}
}

func TestTextFromElsewhereIsClipped(t *testing.T) {
	for text, expected := range map[string]string{
		"a b~é": "a b~é", "a\nb\x00c\x7fd\x1f": "a b c d ", "\xff": "?",
		strings.Repeat("a", 256): strings.Repeat("a", 256), strings.Repeat("a", 257): strings.Repeat("a", 256) + "...",
	} {
		if got := clip(text); got != expected {
			t.Errorf("%q became %q", text, got)
		}
	}
}
