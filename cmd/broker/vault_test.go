package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// vaultSection is the broker's way into a Vault that deploy/vault/prepare.sh prepared with an AppRole.
func vaultSection(v *brokertest.Vault) string {
	role, secret := v.AppRoleFiles("credbroker")
	return fmt.Sprintf("vault: {address: %s, ca_file: %q, timeout: 2s, auth: {method: approle, role: credbroker, role_id_file: %s, secret_id_file: %s}}\n",
		v.URL, v.CAFile, role, secret)
}

// without waits until /readyz gives no reason that begins so.
func (w *world) without(reason string) {
	w.t.Helper()
	brokertest.Eventually(w.t, 20*time.Second, "no reason "+reason, func() error {
		_, body, err := brokertest.Get(w.Ops + "/readyz")
		if err == nil && strings.Contains(body, reason) {
			err = errors.New(body)
		}
		return err
	})
}

func TestVaultSignsTheBrokersTokens(t *testing.T) {
	v := brokertest.StartVault(t, brokertest.VaultOptions{TLS: true})
	v.Prepare(nil, "issuer", "approle")
	v.Prepare(nil, "issuer", "approle") // again, which changes nothing
	w := newWorld(t)
	w.WriteConfig(w.config("") + vaultSection(v) + "issuer: {transit: {key: credbroker}}\n")
	w.Start()
	w.minio.Start()
	w.furnish()
	w.without(`"vault: `)

	a := w.mustIssue(w.token(nil), "")
	if err := w.put(a, "alice/a"); err != nil {
		t.Error(err)
	}
	if up := w.metric("credbroker_vault_up"); up != "1" {
		t.Errorf("credbroker_vault_up %s", up)
	}

	// Sealed: what is cached is served, what isn't can't be had, and /readyz stays ready and says why.
	v.Seal()
	if cached := w.mustIssue(w.token(nil), ""); cached.AccessKeyID != a.AccessKeyID {
		t.Error("other credentials")
	}
	bob := w.token(map[string]any{"sub": "bob"})
	if refused, err := w.issue(bob, ""); err != nil || refused.Error.Code != "exchange_unavailable" || !refused.Error.Retryable {
		t.Errorf("%+v %v", refused, err)
	}
	brokertest.Eventually(t, 15*time.Second, "a reason", func() error {
		status, body, err := brokertest.Get(w.Ops + "/readyz")
		if err == nil && (status != 200 || !strings.Contains(body, `"vault: `)) {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	v.Unseal()
	brokertest.Eventually(t, 10*time.Second, "bob's credentials", func() error {
		got, err := w.issue(bob, "")
		if err == nil && got.Status != 200 {
			err = errors.New(got.Error.Code)
		}
		return err
	})

	// Rotated in Vault: MinIO takes what is signed before and after.
	v.Write("transit/keys/credbroker/rotate", nil)
	if err := w.put(w.mustIssue(w.token(map[string]any{"sub": "carol"}), ""), "carol/a"); err != nil {
		t.Error(err)
	}
	v.Write("transit/keys/credbroker/config", brokertest.VaultData{"min_encryption_version": 2}) // signs by the new one now
	time.Sleep(time.Second)                                                                      // the least time between two looks
	brokertest.Eventually(t, 15*time.Second, "credentials by the new version", func() error {
		got, err := w.issue(w.token(map[string]any{"sub": "dave"}), "")
		if err == nil && got.Status != 200 {
			err = errors.New(got.Error.Code)
		}
		return err
	})
}

func TestVaultIdentityTokensReachMinIO(t *testing.T) {
	v := brokertest.StartVault(t, brokertest.VaultOptions{})
	env := []string{"CLIENT_ID=" + brokertest.ClientID, "POLICIES=reports-rw", "IDENTITY_ISSUER=" + v.URL, "IDENTITY_TTL=10m"}
	v.Prepare(env, "identity", "approle")
	w := newWorld(t)
	w.minio = brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: v.URL + "/v1/identity/oidc"})
	config := strings.Replace(w.config(""), "allowed_policies: [reports-rw]", "identity_role: credbroker", 1)
	config = strings.Replace(config, "    policies: [reports-rw]\n", "", 1)
	w.WriteConfig(config + vaultSection(v))
	w.Start()
	w.minio.Start()
	w.furnish()
	w.without(`"vault: `)
	a := w.mustIssue(w.token(nil), "")
	if err := w.put(a, "alice/a"); err != nil {
		t.Error(err)
	}
	if err := w.put(a, "bob/a"); !accessDenied(err) {
		t.Errorf("the session policy doesn't bound it: %v", err)
	}
	// Vault's tokens live for ten minutes, whatever was granted; more than granted is refused.
	if left := time.Until(a.ExpiresAt); left > 10*time.Minute || left < 9*time.Minute {
		t.Errorf("%s", left)
	}
	if refused, err := w.issue(w.token(map[string]any{"sub": "bob"}), `,"ttl_seconds":300`); err != nil || refused.Error.Code != "exchange_bad_result" {
		t.Errorf("%+v %v", refused, err)
	}
}

// TestVaultGivesParentsAndCertificates is what only the wiring can get wrong; internal/exchange/fromvault tests the rest.
func TestVaultGivesParentsAndCertificates(t *testing.T) {
	v := brokertest.StartVault(t, brokertest.VaultOptions{})
	v.Prepare([]string{"POLICIES=reports-rw"}, "parent", "certificates", "approle")
	v.Write("kv/data/credbroker/parent", brokertest.VaultData{"data": brokertest.VaultData{"id": "parent", "key": "parent-secret-key"}})
	_, root, err := v.Call("", http.MethodGet, "pki/ca/pem", nil)
	if err != nil {
		t.Fatal(err)
	}
	ca := t.TempDir() + "/ca.pem"
	brokertest.WriteFile(t, ca, root)
	w := newWorld(t)
	w.minio = brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: w.HTTP, TLS: true, ClientCAFile: ca})
	plain := w.config("")
	_, rest, _ := strings.Cut(plain, "limits:")
	before, _, _ := strings.Cut(plain, "exchangers:")
	rest = strings.Replace(rest, "    policies: [reports-rw]\n", "", 1)
	w.WriteConfig(before + fmt.Sprintf(`exchangers:
  minio: {kind: minio-assume-role, endpoint: %[1]q, ca_file: %[2]q, vault: {path: kv/data/credbroker/parent, fields: {access_key_id: data.id, secret_access_key: data.key}}}
  certificate: {kind: minio-certificate, endpoint: %[1]q, ca_file: %[2]q, dangerous: true, allowed_policies: [reports-rw], pki: {role: credbroker}}
limits:`, w.minio.Endpoint, w.minio.CAFile) + strings.Replace(rest, "min: 5s", "min: 15m", 1) +
		"  - {name: by-certificate, when: 'true', exchanger: certificate, policies: [reports-rw], ttl: {default: 16m, max: 1h, min: 15m}}\n" + vaultSection(v))
	w.Start()
	w.minio.Start()
	w.furnish()
	w.minio.AddUser("parent", "parent-secret-key", "reports-rw")
	w.without(`"vault: `)
	if err := w.put(w.mustIssue(w.token(nil), `,"ttl_seconds":1000`), "alice/a"); err != nil {
		t.Errorf("by the parent's key: %v", err)
	}
	out, stderr, err := runProgram(t, w.token(nil), nil, "get", "--endpoint", w.HTTP, "--token-file", "-", "--role", "by-certificate", "--format", "json")
	var a answer
	if err != nil || json.Unmarshal([]byte(out), &a) != nil {
		t.Fatalf("by certificate: %v: %s", err, stderr)
	}
	if err := w.put(a, "alice/b"); err != nil {
		t.Errorf("by certificate: %v", err)
	}
}
