package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// vaultsKey is what a Vault's AWS engine is given as its root key.
const vaultsKey, vaultsSecret = "VAULTSPARENTKEY", "planted-secret/of+vault=s"

// withVaultsKey is the configuration of a world where a Vault with an access key may use the role engine.
func withVaultsKey(t *testing.T, w *world) (config, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "vault.json")
	writeAccessKey(t, file, vaultsSecret)
	return w.config(`
  - name: engine
    when: identity.kind == "access_key" && identity.subject == "vault"
    exchanger: minio
    policies: [reports-rw]
    ttl: {max: 2h}
`) + fmt.Sprintf("access_keys: [{name: vault, file: %q}]\n", file), file
}

func writeAccessKey(t *testing.T, file, key string) {
	t.Helper()
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"access_key_id":%q,"secret_access_key":%q}`, vaultsKey, key), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestVaultsAWSEngineOnMinIO has a real Vault's AWS engine take the broker for AWS STS: so it gives out credentials of a real MinIO, which
// has no GetCallerIdentity and so is no STS to it.
func TestVaultsAWSEngineOnMinIO(t *testing.T) {
	address := fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(t, 1)[0])
	w := newWorld(t, "CREDBROKER__LISTENERS__STS__ADDRESS="+address)
	config, _ := withVaultsKey(t, w)
	w.WriteConfig(config)
	w.Start()
	w.minio.Start()
	w.furnish()
	v := brokertest.StartVault(t, brokertest.VaultOptions{})
	v.Write("sys/mounts/aws", brokertest.VaultData{"type": "aws"})
	for name, endpoint := range map[string]string{"at its own listener": "http://" + address, "on a path": w.HTTP + "/sts"} {
		t.Run(name, func(t *testing.T) {
			v.Write("aws/config/root", brokertest.VaultData{
				"access_key": vaultsKey, "secret_key": vaultsSecret, "region": "us-east-1",
				"iam_endpoint": endpoint, "sts_endpoint": endpoint, "sts_region": "us-east-1",
			})
			v.Write("aws/roles/reports", brokertest.VaultData{
				"credential_type": "assumed_role", "role_arns": "arn:aws:iam::000000000000:role/engine",
				"policy_document": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:PutObject"],"Resource":["arn:aws:s3:::reports/vault/*"]}]}`,
			})
			got := v.Write("aws/sts/reports", brokertest.VaultData{"ttl": "30m"})
			text := func(name string) string { s, _ := got[name].(string); return s }
			a := answer{issued: issued{AccessKeyID: text("access_key"), SecretAccessKey: text("secret_key"), SessionToken: text("session_token")}}
			if err := w.put(a, "vault/a"); err != nil {
				t.Error(err)
			}
			if err := w.put(a, "alice/a"); !accessDenied(err) {
				t.Errorf("outside of Vault's policy: %v", err)
			}
			if arn := text("arn"); !strings.HasPrefix(arn, "arn:aws:sts::000000000000:assumed-role/engine/vault-") {
				t.Errorf("%v", got)
			}
		})
	}
	audit := strings.Join(w.Audit(), "\n")
	for _, want := range []string{`"event":"who_is","decision":"allowed"`, `"kind":"access_key","issuer":"access_keys","subject":"vault","session":"vault-`, `"proof_kind":"sigv4"`} {
		if !strings.Contains(audit, want) {
			t.Errorf("the audit log lacks %s:\n%s", want, audit)
		}
	}
	if strings.Contains(audit+w.Log(), vaultsSecret) {
		t.Error("the key is in a log")
	}
}

// TestAccessKeysBySDK has AWS's own client sign, and shows what becomes of others' signatures.
func TestAccessKeysBySDK(t *testing.T) {
	w := newWorld(t)
	config, file := withVaultsKey(t, w)
	w.WriteConfig(config)
	w.Start()
	client := func(id, key, token string) *sts.Client {
		return sts.New(sts.Options{
			Region: "eu-central-1", BaseEndpoint: aws.String(w.HTTP + "/sts"), RetryMaxAttempts: 1,
			Credentials: credentials.NewStaticCredentialsProvider(id, key, token),
		})
	}
	who, err := client(vaultsKey, vaultsSecret, "").GetCallerIdentity(t.Context(), nil)
	if err != nil || *who.Arn != "arn:aws:iam::000000000000:user/vault" || *who.Account != "000000000000" || *who.UserId != "vault" {
		t.Errorf("%+v, %v", who, err)
	}
	for name, c := range map[string]*sts.Client{
		"another secret": client(vaultsKey, vaultsSecret+"x", ""), "another key ID": client("VAULTSPARENTKEX", vaultsSecret, ""), "with a session token": client(vaultsKey, vaultsSecret, "t"),
	} {
		if _, err := c.GetCallerIdentity(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "api error SignatureDoesNotMatch: ") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::000000000000:role/engine"), RoleSessionName: aws.String("test")}); err == nil || !strings.Contains(err.Error(), "api error SignatureDoesNotMatch: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client(vaultsKey, vaultsSecret, "").AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::000000000000:role/reports"), RoleSessionName: aws.String("test")}); err == nil || !strings.Contains(err.Error(), "api error AccessDenied: ") {
		t.Errorf("a role of somebody else's: %v", err)
	}
	writeAccessKey(t, file, "another-secret")
	brokertest.Eventually(t, 20*time.Second, "the new key", func() error {
		_, err := client(vaultsKey, "another-secret", "").GetCallerIdentity(t.Context(), nil)
		return err
	})
	if _, err := client(vaultsKey, vaultsSecret, "").GetCallerIdentity(t.Context(), nil); err == nil {
		t.Error("the key before is taken still")
	}
}

// TestAccessKeysInVault has AWS's own client sign with a key that the broker reads from Vault.
func TestAccessKeysInVault(t *testing.T) {
	v := brokertest.StartVault(t, brokertest.VaultOptions{})
	v.Prepare(nil, "keys", "approle")
	inVault := func(id, key string) {
		t.Helper()
		v.Write("kv/data/credbroker/access-keys/vault", brokertest.VaultData{"data": brokertest.VaultData{"access_key_id": id, "secret_access_key": key}})
	}
	inVault(vaultsKey, vaultsSecret)
	w := newWorld(t)
	config, file := withVaultsKey(t, w)
	keyInVault := "vault: {path: kv/data/credbroker/access-keys/vault, fields: {access_key_id: data.access_key_id, secret_access_key: data.secret_access_key}}"
	config = strings.Replace(config, fmt.Sprintf("file: %q", file), keyInVault, 1) + vaultSection(v)
	w.WriteConfig(config)
	w.Start()
	w.minio.Start()
	w.furnish()
	w.without(`"vault: `)
	client := func(key string) *sts.Client {
		return sts.New(sts.Options{
			Region: "eu-central-1", BaseEndpoint: aws.String(w.HTTP + "/sts"), RetryMaxAttempts: 1,
			Credentials: credentials.NewStaticCredentialsProvider(vaultsKey, key, ""),
		})
	}
	role := &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::000000000000:role/engine"), RoleSessionName: aws.String("test")}
	got, err := client(vaultsSecret).AssumeRole(t.Context(), role)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{issued: issued{AccessKeyID: *got.Credentials.AccessKeyId, SecretAccessKey: *got.Credentials.SecretAccessKey, SessionToken: *got.Credentials.SessionToken}}
	if err := w.put(a, "alice/a"); err != nil {
		t.Error(err)
	}
	inVault(vaultsKey, "another-secret")
	brokertest.Eventually(t, 30*time.Second, "the new key", func() error {
		_, err := client("another-secret").GetCallerIdentity(t.Context(), nil)
		return err
	})
	if _, err := client(vaultsSecret).GetCallerIdentity(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "api error SignatureDoesNotMatch: ") {
		t.Errorf("the key before: %v", err)
	}

	v.Seal()
	w.WriteConfig(config + "log: {level: debug}\n")
	if out, stderr, err := runProgram(t, "", nil, "admin", "--socket", w.Socket, "reload"); err != nil {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	if _, err := client("another-secret").GetCallerIdentity(t.Context(), nil); err != nil {
		t.Errorf("Vault sealed and the configuration loaded again: %v", err)
	}
	v.Unseal()
	v.Delete("kv/metadata/credbroker/access-keys/vault")
	brokertest.Eventually(t, 30*time.Second, "a key that is gone to be taken no more", func() error {
		_, err := client("another-secret").GetCallerIdentity(t.Context(), nil)
		switch {
		case err == nil:
			return fmt.Errorf("it is taken still")
		case !strings.Contains(err.Error(), "api error IDPCommunicationError: "):
			return err
		}
		return nil
	})
	if log := strings.Join(w.Audit(), "\n") + w.Log(); strings.Contains(log, vaultsSecret) || strings.Contains(log, "another-secret") {
		t.Error("the key is in a log")
	}
}
