package vault_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/vault"
)

// login enables an auth method with a role whose tokens read kv/a.
func login(t *testing.T, v *brokertest.Vault, method, rolePath string, config, role brokertest.VaultData) {
	t.Helper()
	v.Policy("reader", map[string]string{"kv/a": "read"})
	v.Write("sys/auth/"+method, brokertest.VaultData{"type": method})
	if config != nil {
		path := "auth/" + method + "/config"
		if method == "aws" {
			path += "/client"
		}
		v.Write(path, config)
	}
	role["token_policies"], role["token_ttl"] = "reader", "20m"
	v.Write("auth/"+method+"/"+rolePath, role)
}

// refused fails the test unless a client with that login gets nowhere, and Vault's refusal is the reason.
func refused(t *testing.T, cfg vault.Config) {
	t.Helper()
	r := run(t, cfg)
	brokertest.Eventually(t, 10*time.Second, "a refusal", func() error {
		if !strings.Contains(r.Status(), "vault refused: ") {
			return errors.New(r.Status())
		}
		return nil
	})
	r.stop()
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestJWTLogin(t *testing.T) {
	t.Parallel()
	idp := brokertest.NewIDP(t, brokertest.WithTLS())
	v := startVault(t, brokertest.VaultOptions{})
	login(t, v, "jwt", "role/broker", brokertest.VaultData{"oidc_discovery_url": idp.URL, "oidc_discovery_ca_pem": readFile(t, idp.CAFile)},
		brokertest.VaultData{"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "bound_subject": "broker"})
	file := write(t, "jwt", idp.Token(map[string]any{"aud": "vault", "sub": "broker"})+"\n")
	r := run(t, vault.Config{Address: v.URL, Login: vault.JWT{Mount: "jwt", Role: "broker", Path: file}})
	r.ready(t)
	reads(t, r)
	refused(t, vault.Config{Address: v.URL, Login: vault.JWT{Mount: "jwt", Role: "broker", Path: write(t, "jwt", idp.Token(map[string]any{"aud": "vault"}))}})
}

func TestKubernetesLogin(t *testing.T) {
	t.Parallel()
	k := brokertest.StartKubernetes(t)
	k.CreateNamespace("broker")
	k.CreateServiceAccount("broker", "credbroker")
	k.CreateServiceAccount("broker", "other")
	v := startVault(t, brokertest.VaultOptions{})
	login(t, v, "kubernetes", "role/broker", brokertest.VaultData{
		"kubernetes_host": k.URL, "kubernetes_ca_cert": readFile(t, k.CAFile), "token_reviewer_jwt": readFile(t, k.ReviewerTokenFile()), "disable_local_ca_jwt": true,
	}, brokertest.VaultData{"bound_service_account_names": "credbroker", "bound_service_account_namespaces": "broker", "audience": "vault"})
	by := func(account, audience string) vault.Config {
		file := write(t, "token", k.Token("broker", account, []string{audience}, 10*time.Minute, ""))
		return vault.Config{Address: v.URL, Login: vault.JWT{Mount: "kubernetes", Role: "broker", Path: file}}
	}
	r := run(t, by("credbroker", "vault"))
	r.ready(t)
	reads(t, r)
	refused(t, by("other", "vault"))
	refused(t, by("credbroker", "somebody"))
}

func TestCertificateLogin(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{TLS: true})
	pair := func() (certFile, keyFile string) {
		dir := t.TempDir()
		certFile, keyFile = filepath.Join(dir, "crt"), filepath.Join(dir, "key")
		brokertest.WriteCertificate(t, certFile, keyFile)
		return certFile, keyFile
	}
	cert, key := pair()
	login(t, v, "cert", "certs/broker", nil, brokertest.VaultData{"certificate": readFile(t, cert)})
	for _, role := range []string{"", "broker"} {
		r := run(t, vault.Config{Address: v.URL, CAFile: v.CAFile, CertFile: cert, KeyFile: key, Login: vault.Certificate{Mount: "cert", Role: role}})
		r.ready(t)
		reads(t, r)
		r.stop()
	}
	cert, key = pair()
	refused(t, vault.Config{Address: v.URL, CAFile: v.CAFile, CertFile: cert, KeyFile: key, Login: vault.Certificate{Mount: "cert"}})
}

func TestWrappedSecretIDIsUsedOnce(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	l := appRole(t, v, 2*time.Second, 2*time.Second)
	l.Wrapped = true
	wrap := func() {
		if err := os.WriteFile(l.SecretIDFile, []byte(v.Wrap("auth/approle/role/broker/secret-id", nil, time.Minute)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wrap()
	r := run(t, vault.Config{Address: v.URL, Login: l})
	r.ready(t)
	reads(t, r)
	// The token can't be renewed further, and the wrapping token was used.
	brokertest.Eventually(t, 10*time.Second, "a reason", func() error {
		if !strings.Contains(r.Status(), "wrapping token was used already") {
			return errors.New(r.Status())
		}
		return nil
	})
	wrap()
	r.ready(t)
	reads(t, r)
}

// TestReplacedWrappingIsRefused: somebody took the secret ID out and wrapped something of their own.
func TestReplacedWrappingIsRefused(t *testing.T) {
	t.Parallel()
	v := startVault(t, brokertest.VaultOptions{})
	l := appRole(t, v, time.Hour, time.Hour)
	l.Wrapped = true
	v.Write("auth/approle/role/mallory", brokertest.VaultData{"token_policies": "reader"})
	for name, token := range map[string]string{
		"of another role":  v.Wrap("auth/approle/role/mallory/secret-id", nil, time.Minute),
		"of anything else": v.Wrap("sys/wrapping/wrap", brokertest.VaultData{"secret_id": "x"}, time.Minute),
	} {
		l.SecretIDFile = write(t, "secret-id", token)
		r := run(t, vault.Config{Address: v.URL, Login: l})
		brokertest.Eventually(t, 10*time.Second, "a refusal", func() error {
			if !strings.Contains(r.Status(), "somebody may have replaced it") {
				return errors.New(r.Status())
			}
			return nil
		})
		r.stop()
		// It was looked at, and not used.
		if status, body, err := v.Call(token, "PUT", "sys/wrapping/unwrap", nil); err != nil || status != 200 {
			t.Errorf("%s: %d %v %s", name, status, err, body)
		}
	}
}

// fields are those of the login that a stand-in for Vault got.
type fields map[string]string

func (f fields) claims(t *testing.T) (claims map[string]any) {
	t.Helper()
	if err := json.Unmarshal(payload(t, f["jwt"]), &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}
