package minio_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	minioexchange "github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/issuer"
	"github.com/credbroker/credbroker/internal/secret"
)

const (
	aliceOnly   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports/alice/*"]}]}`
	parentsFile = `{"access_key_id":%q,"secret_access_key":%q}`
)

// put says whether an object can be put.
func put(t *testing.T, m *brokertest.MinIO, c exchange.Credentials, key string) error {
	t.Helper()
	client := m.Client(c.AccessKeyID, c.SecretAccessKey.Reveal(), c.SessionToken.Reveal())
	_, err := client.PutObject(t.Context(), "reports", key, strings.NewReader("x"), 1, minio.PutObjectOptions{})
	return err
}

func runs(t *testing.T, x interface{ Run(context.Context) }) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); x.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func TestAssumeRoleAtMinIO(t *testing.T) {
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{})
	server.MakeBucket("reports")
	server.PutPolicy("reports-rw", reportsRW)
	server.AddUser("parent", "first-secret-key", "reports-rw")
	file := filepath.Join(t.TempDir(), "parent.json")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf(parentsFile, "parent", "first-secret-key"))
	x, err := minioexchange.NewAssumeRole(minioexchange.AssumeRoleConfig{
		Server: minioexchange.Server{Endpoint: server.Endpoint, Timeout: 5 * time.Second}, Parent: minioexchange.KeyFile(file), Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, x)
	whole, err := x.Exchange(t.Context(), request(15*time.Minute, ""))
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(whole.Expires); left > 15*time.Minute+time.Second || left < 14*time.Minute {
		t.Errorf("lives %s", left)
	}
	if err := put(t, server, whole, "bob/x"); err != nil {
		t.Error(err)
	}
	narrow, err := x.Exchange(t.Context(), request(time.Hour, aliceOnly))
	if err != nil {
		t.Fatal(err)
	}
	if err := put(t, server, narrow, "alice/x"); err != nil {
		t.Error(err)
	}
	if err := put(t, server, narrow, "bob/x"); minio.ToErrorResponse(err).Code != "AccessDenied" {
		t.Errorf("the session policy doesn't count: %v", err)
	}
	canMakeNoKeys(t, server, whole)

	// Another key of the parent's is in force with the next exchange, and the old one no more.
	server.AddUser("parent", "second-secret-key", "")
	if _, err := x.Exchange(t.Context(), request(15*time.Minute, "")); !errors.Is(err, exchange.ErrRefused) || strings.Contains(err.Error(), "first-secret-key") {
		t.Errorf("under the old key: %v", err)
	}
	write(fmt.Sprintf(parentsFile, "parent", "second-secret-key"))
	if _, err := x.Exchange(t.Context(), request(15*time.Minute, "")); err != nil {
		t.Errorf("under the new key: %v", err)
	}
	for name, text := range map[string]string{
		"empty": "", "no JSON": "second-secret-key", "another member": `{"access_key_id":"a","secret_access_key":"planted-secret","x":1}`,
		"no key": `{"access_key_id":"a"}`, "no ID": `{"secret_access_key":"planted-secret"}`, "twice": `{"access_key_id":"a","access_key_id":"b","secret_access_key":"planted-secret"}`,
	} {
		write(text)
		if _, err := minioexchange.KeyFile(file).Key(t.Context()); !errors.Is(err, exchange.ErrUnavailable) || strings.Contains(err.Error(), "secret-key") || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := minioexchange.KeyFile(file + "x").Key(t.Context()); !errors.Is(err, exchange.ErrUnavailable) {
		t.Errorf("no file: %v", err)
	}
}

// canMakeNoKeys fails if credentials can make themselves a key that never ends.
func canMakeNoKeys(t *testing.T, server *brokertest.MinIO, c exchange.Credentials) {
	t.Helper()
	if out, err := server.TryMC(c.AccessKeyID, c.SecretAccessKey.Reveal(), c.SessionToken.Reveal(), "admin", "accesskey", "create", "them/"); err == nil {
		t.Errorf("credentials made themselves a key: %s", out)
	}
}

func TestCertificateAtMinIO(t *testing.T) {
	ca := brokertest.NewClientCA(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{TLS: true, ClientCAFile: ca.File})
	server.MakeBucket("reports")
	server.PutPolicy("reports-rw", reportsRW)
	server.PutPolicy("nothing", strings.Replace(reportsRW, "Allow", "Deny", 1))
	files := minioexchange.CertificateFiles{CertFile: filepath.Join(t.TempDir(), "c.crt"), KeyFile: filepath.Join(t.TempDir(), "c.key")}
	x, err := minioexchange.NewCertificate(minioexchange.CertificateConfig{
		Server:       minioexchange.Server{Endpoint: server.Endpoint, CAFile: server.CAFile, Timeout: 5 * time.Second},
		Certificates: files, AllowedPolicies: []string{"reports-rw", "nothing"},
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, x)
	if _, err := x.Exchange(t.Context(), request(15*time.Minute, "", "reports-rw")); !errors.Is(err, exchange.ErrUnavailable) || x.Status() == "" {
		t.Errorf("no certificate: %v, %q", err, x.Status())
	}
	ca.Issue("reports-rw", time.Hour, files.CertFile, files.KeyFile)
	c, err := x.Exchange(t.Context(), request(15*time.Minute, "", "reports-rw"))
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(c.Expires); left > 15*time.Minute+time.Second || left < 14*time.Minute {
		t.Errorf("lives %s", left)
	}
	if err := put(t, server, c, "alice/x"); err != nil {
		t.Error(err)
	}
	if x.Status() != "" {
		t.Error(x.Status())
	}
	for name, policies := range map[string][]string{"another policy": {"nothing"}, "none": nil, "two": {"nothing", "reports-rw"}} {
		if _, err := x.Exchange(t.Context(), request(15*time.Minute, "", policies...)); !errors.Is(err, exchange.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := x.Exchange(t.Context(), request(15*time.Minute, aliceOnly, "reports-rw")); !errors.Is(err, exchange.ErrRefused) {
		t.Errorf("a session policy, which MinIO passes over: %v", err)
	}
	// Another certificate is in force at once: no connection under the old one is used.
	ca.Issue("nothing", time.Hour, files.CertFile, files.KeyFile)
	if c, err = x.Exchange(t.Context(), request(15*time.Minute, "", "nothing")); err != nil {
		t.Fatal(err)
	}
	if err := put(t, server, c, "alice/x"); minio.ToErrorResponse(err).Code != "AccessDenied" {
		t.Errorf("under the policy that denies: %v", err)
	}
	ca.Issue("reports-rw", -time.Minute, files.CertFile, files.KeyFile)
	if _, err := x.Exchange(t.Context(), request(15*time.Minute, "", "reports-rw")); !errors.Is(err, exchange.ErrUnavailable) || !strings.Contains(err.Error(), "ended at") {
		t.Errorf("a certificate that ended: %v", err)
	}
	brokertest.NewClientCA(t).Issue("reports-rw", time.Hour, files.CertFile, files.KeyFile)
	if c, err := x.Exchange(t.Context(), request(15*time.Minute, "", "reports-rw")); err == nil {
		t.Errorf("MinIO takes a stranger's certificate: %s", c.AccessKeyID)
	}
}

func TestLivesThatDurationsCantGive(t *testing.T) {
	x, err := minioexchange.NewAssumeRole(minioexchange.AssumeRoleConfig{Server: minioexchange.Server{Endpoint: "http://127.0.0.1:1", Timeout: time.Second}, Parent: fixedKey{}})
	if err != nil {
		t.Fatal(err)
	}
	within := request(time.Hour, "")
	within.Grant.WithinProof, within.Identity.Expires = true, time.Now().Add(15*time.Minute+time.Second)
	for name, req := range map[string]exchange.Request{"too short": request(15*time.Minute-time.Second, ""), "the proof ends too soon": within} {
		if _, err := x.Exchange(t.Context(), req); !errors.Is(err, exchange.ErrRefused) || !strings.Contains(err.Error(), "no less than 15m0s") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type fixedKey struct{}

func (fixedKey) Key(context.Context) (minioexchange.Key, error) {
	return minioexchange.Key{AccessKeyID: "a", SecretAccessKey: secret.New("b")}, nil
}

// MinIO keeps to the duration; this one doesn't.
func TestResultsOfDurationsAreLookedAt(t *testing.T) {
	for name, c := range map[string]struct {
		life time.Duration
		want error
	}{"as granted": {20 * time.Minute, nil}, "longer": {20*time.Minute + 5*time.Second, exchange.ErrBadResult}, "over": {-time.Second, exchange.ErrBadResult}} {
		url := standIn(t, func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("Action") != "AssumeRole" || r.FormValue("DurationSeconds") != "1200" || r.FormValue("Policy") == "" {
				t.Errorf("%v", r.Form)
			}
			_, _ = w.Write([]byte(strings.ReplaceAll(answer(in(c.life)), "WithWebIdentity", "")))
		})
		x, err := minioexchange.NewAssumeRole(minioexchange.AssumeRoleConfig{Server: minioexchange.Server{Endpoint: url, Timeout: time.Second}, Parent: fixedKey{}})
		if err != nil {
			t.Fatal(err)
		}
		runs(t, x)
		if _, err := x.Exchange(t.Context(), request(20*time.Minute, "")); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The caller's own token: MinIO trusts the identity provider itself, and its claim names the policies.
func TestCallersOwnTokenAtMinIO(t *testing.T) {
	iss := serveIssuer(t) // plays the identity provider
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: iss.url})
	server.MakeBucket("reports")
	server.PutPolicy("reports-rw", reportsRW)
	ends := time.Now().Add(10 * time.Minute).Truncate(time.Second)
	token := providersToken(t, iss, ends)
	passing, err := minioexchange.NewWebIdentity(minioexchange.WebIdentityConfig{
		Server: minioexchange.Server{Endpoint: server.Endpoint, Timeout: 5 * time.Second}, ClientID: brokertest.ClientID, Tokens: exchange.CallerToken{},
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, passing)
	req := request(10*time.Minute, aliceOnly)
	req.Proof = attest.Proof{Kind: attest.KindJWT, Data: token}
	req.Identity.Expires, req.Grant.WithinProof = ends, true
	c, err := passing.Exchange(t.Context(), req)
	if err != nil || !c.Expires.Equal(ends) {
		t.Fatalf("ends at %s, %v", c.Expires, err)
	}
	if err := put(t, server, c, "alice/x"); err != nil {
		t.Error(err)
	}
	if err := put(t, server, c, "bob/x"); minio.ToErrorResponse(err).Code != "AccessDenied" {
		t.Errorf("the session policy doesn't bound the token: %v", err)
	}
	for name, change := range map[string]func(*exchange.Request){
		"another kind of proof":   func(r *exchange.Request) { r.Proof.Kind = attest.KindAWS },
		"somebody acts":           func(r *exchange.Request) { r.Identity.Actor = &attest.Identity{Subject: "gateway"} },
		"it lives longer than so": func(r *exchange.Request) { r.Grant.WithinProof, r.Grant.TTL = false, 9*time.Minute },
	} {
		other := req
		change(&other)
		if _, err := passing.Exchange(t.Context(), other); !errors.Is(err, exchange.ErrRefused) || strings.Contains(err.Error(), token.Reveal()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// providersToken is a token as an identity provider gives it to its users.
func providersToken(t *testing.T, iss *served, ends time.Time) secret.Secret {
	t.Helper()
	source, err := iss.Source(issuer.SourceConfig{Audience: brokertest.ClientID, AllowedPolicies: []string{"reports-rw"}})
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token(t.Context(), request(time.Until(ends), "", "reports-rw"), ends)
	if err != nil {
		t.Fatal(err)
	}
	return token
}
