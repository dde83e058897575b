package fromvault_test

import (
	"errors"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/exchange/fromvault"
	"github.com/credbroker/credbroker/internal/vault"
)

// TestAWSEngineAssumesARoleForAsLongAsGranted has Vault's AWS engine ask a stand-in for STS. Its leases can't be renewed or shortened, so
// that the granted life has to go along.
func TestAWSEngineAssumesARoleForAsLongAsGranted(t *testing.T) {
	t.Parallel()
	const role = "arn:aws:iam::123456789012:role/reports"
	sts := brokertest.NewAWSSTS(t)
	sts.Add(brokertest.AWSKey{ID: "AKIAVAULT", Secret: "vault-secret", Principal: brokertest.AWSPrincipal{Account: "123456789012", ARN: "arn:aws:iam::123456789012:user/vault", UserID: "AIDAVAULT"}})
	sts.AddRole(brokertest.AWSRole{ARN: role, Principal: "arn:aws:iam::123456789012:user/vault"})
	v := brokertest.StartVault(t, brokertest.VaultOptions{CAFiles: []string{sts.CAFile}})
	v.Write("sys/mounts/aws", brokertest.VaultData{"type": "aws"})
	v.Write("aws/config/root", brokertest.VaultData{"access_key": "AKIAVAULT", "secret_key": "vault-secret", "region": "eu-west-1", "sts_endpoint": "https://" + sts.Addr, "sts_region": "eu-west-1"})
	v.Write("aws/roles/credbroker", brokertest.VaultData{"credential_type": "assumed_role", "role_arns": role, "default_sts_ttl": "1h", "max_sts_ttl": "1h"})
	v.Prepare(nil, "aws", "approle")
	roleID, secretID := v.AppRoleFiles("credbroker")
	client, err := vault.New(vault.Config{Address: v.URL, Login: vault.AppRole{Mount: "approle", Role: "credbroker", RoleIDFile: roleID, SecretIDFile: secretID}, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	run(t, client.Run)
	fields := fromvault.Fields{AccessKeyID: "access_key", SecretAccessKey: "secret_key", SessionToken: "session_token"}
	for _, write := range []bool{false, true} {
		x := fromvault.NewCredentials(fromvault.CredentialsConfig{Client: client, Path: "aws/sts/credbroker", Write: write, Parameters: map[string]string{"ttl": fromvault.TTLParameter}, Fields: fields})
		c, err := x.Exchange(t.Context(), request("alice", 16*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		within(t, c, 16*time.Minute)
		if s := sts.Session(c.AccessKeyID); s.Role != role || s.Secret != c.SecretAccessKey.Reveal() || s.SessionToken != c.SessionToken.Reveal() {
			t.Errorf("%s isn't what STS gave", c.AccessKeyID)
		}
	}
	// Without the parameter the engine gives an hour, which can't be shortened.
	x := fromvault.NewCredentials(fromvault.CredentialsConfig{Client: client, Path: "aws/sts/credbroker", Fields: fields})
	if _, err := x.Exchange(t.Context(), request("alice", 16*time.Minute)); !errors.Is(err, exchange.ErrBadResult) {
		t.Errorf("%v", err)
	}
}
