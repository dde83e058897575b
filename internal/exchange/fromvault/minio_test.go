package fromvault_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/exchange/fromvault"
	minioexchange "github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/vault"
)

const reportsRW = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports/*"]}]}`

// prepared is a Vault after deploy/vault/prepare.sh, and a client with the login that the script made.
func prepared(t *testing.T, env []string, steps ...string) (*brokertest.Vault, *vault.Client) {
	t.Helper()
	v := brokertest.StartVault(t, brokertest.VaultOptions{})
	v.Prepare(env, append(steps, "approle")...)
	role, secret := v.AppRoleFiles("credbroker")
	c, err := vault.New(vault.Config{Address: v.URL, Login: vault.AppRole{Mount: "approle", Role: "credbroker", RoleIDFile: role, SecretIDFile: secret}, Timeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	run(t, c.Run)
	return v, c
}

func run(t *testing.T, runs func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { runs(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

func put(t *testing.T, m *brokertest.MinIO, c exchange.Credentials) error {
	t.Helper()
	client := m.Client(c.AccessKeyID, c.SecretAccessKey.Reveal(), c.SessionToken.Reveal())
	_, err := client.PutObject(t.Context(), "reports", "x", strings.NewReader("x"), 1, minio.PutObjectOptions{})
	return err
}

func TestCertificatesOfVaultReachMinIO(t *testing.T) {
	t.Parallel()
	v, client := prepared(t, []string{"POLICIES=reports-rw,Reports_ro.1"}, "certificates")
	_, root, err := v.Call("", http.MethodGet, "pki/ca/pem", nil)
	if err != nil {
		t.Fatal(err)
	}
	ca := t.TempDir() + "/ca.pem"
	brokertest.WriteFile(t, ca, root)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{TLS: true, ClientCAFile: ca})
	server.MakeBucket("reports")
	server.PutPolicy("reports-rw", reportsRW)
	server.PutPolicy("other", reportsRW)
	certificates := fromvault.NewCertificates(fromvault.CertificatesConfig{Client: client, Mount: "pki", Role: "credbroker", TTL: time.Hour})
	x, err := minioexchange.NewCertificate(minioexchange.CertificateConfig{
		Server:       minioexchange.Server{Endpoint: server.Endpoint, CAFile: server.CAFile, Timeout: 5 * time.Second},
		Certificates: certificates, AllowedPolicies: []string{"reports-rw", "other"},
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, x.Run)
	for range 2 {
		req := request("alice", 15*time.Minute)
		req.Grant.Policies = []string{"reports-rw"}
		c, err := x.Exchange(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if err := put(t, server, c); err != nil {
			t.Error(err)
		}
	}
	if _, err := certificates.Certificate(t.Context(), "Reports_ro.1"); err != nil { // no name of a host
		t.Error(err)
	}
	one, err := certificates.Certificate(t.Context(), "reports-rw")
	if err != nil {
		t.Fatal(err)
	}
	req := request("alice", 15*time.Minute)
	req.Grant.Policies = []string{"other"} // which Vault's role doesn't sign for
	if _, err := x.Exchange(t.Context(), req); !errors.Is(err, exchange.ErrRefused) {
		t.Errorf("%v", err)
	}
	// The role is gone: what was signed serves to its end.
	if status, _, err := v.Call("", http.MethodDelete, "pki/roles/credbroker", nil); err != nil || status/100 != 2 {
		t.Fatal(status, err)
	}
	if again, err := certificates.Certificate(t.Context(), "reports-rw"); err != nil || again != one {
		t.Errorf("%v %v", again == one, err)
	}
	fresh := fromvault.NewCertificates(fromvault.CertificatesConfig{Client: client, Mount: "pki", Role: "credbroker", TTL: time.Hour})
	if _, err := fresh.Certificate(t.Context(), "reports-rw"); !errors.Is(err, exchange.ErrRefused) {
		t.Errorf("%v", err)
	}
}

func TestCertificateIsReplacedAtHalfItsLifeAndUsedToItsEnd(t *testing.T) {
	t.Parallel()
	v, client := prepared(t, []string{"POLICIES=p"}, "certificates")
	certificates := fromvault.NewCertificates(fromvault.CertificatesConfig{Client: client, Mount: "pki", Role: "credbroker", TTL: 8 * time.Second})
	first, err := certificates.Certificate(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(4500 * time.Millisecond)
	second, err := certificates.Certificate(t.Context(), "p")
	if err != nil || second == first {
		t.Fatalf("%v %v", second == first, err)
	}
	v.Seal()
	time.Sleep(4500 * time.Millisecond)
	if again, err := certificates.Certificate(t.Context(), "p"); err != nil || again != second {
		t.Errorf("%v %v", again == second, err)
	}
	time.Sleep(time.Until(second.Leaf.NotAfter))
	if _, err := certificates.Certificate(t.Context(), "p"); !errors.Is(err, exchange.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestParentKeyOfVaultIsInForceAtOnce(t *testing.T) {
	t.Parallel()
	v, client := prepared(t, nil, "parent")
	set := func(key string) {
		v.Write("kv/data/credbroker/parent", brokertest.VaultData{"data": brokertest.VaultData{"access_key_id": "parent", "secret_access_key": key}})
	}
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{})
	server.MakeBucket("reports")
	server.PutPolicy("reports-rw", reportsRW)
	server.AddUser("parent", "first-secret-key", "reports-rw")
	set("first-secret-key")
	parent := fromvault.NewAccessKey(fromvault.AccessKeyConfig{
		Client: client, Path: "kv/data/credbroker/parent", AccessKeyID: "data.access_key_id", SecretAccessKey: "data.secret_access_key",
	})
	x, err := minioexchange.NewAssumeRole(minioexchange.AssumeRoleConfig{
		Server: minioexchange.Server{Endpoint: server.Endpoint, Timeout: 5 * time.Second}, Parent: parent, Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, x.Run)
	for _, key := range []string{"first-secret-key", "second-secret-key"} {
		server.AddUser("parent", key, "")
		set(key)
		c, err := x.Exchange(t.Context(), request("alice", 15*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if err := put(t, server, c); err != nil {
			t.Error(err)
		}
	}
	v.Seal()
	if _, err := x.Exchange(t.Context(), request("alice", 15*time.Minute)); err != nil {
		t.Errorf("without Vault: %v", err)
	}
	v.Unseal()
	v.Write("kv/data/credbroker/parent", brokertest.VaultData{"data": brokertest.VaultData{"access_key_id": "parent", "password": "second-secret-key"}})
	if _, err := parent.Key(t.Context()); !errors.Is(err, exchange.ErrRefused) || strings.Contains(err.Error(), "second-secret-key") {
		t.Errorf("%v", err)
	}
}
