package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// TestRevokedByOneReplicaHandedOutByNone goes through the command, the admin socket, Redis and all replicas.
func TestRevokedByOneReplicaHandedOutByNone(t *testing.T) {
	f := startFleet(t)
	issuer := f.idp.URL
	alice, bob := f.token(nil), f.token(map[string]any{"sub": "bob"})
	before := map[string]answer{alice: f.at(0).mustIssue(alice, ""), bob: f.at(0).mustIssue(bob, "")}
	for n := range f.replicas {
		if f.at(n).mustIssue(alice, "").AccessKeyID != before[alice].AccessKeyID {
			t.Errorf("replica %d has others", n)
		}
	}
	out, stderr, err := runProgram(t, "", nil, "admin", "--socket", f.replicas[1].Socket, "revoke", "--issuer", issuer, "--subject", "alice")
	if err != nil || !strings.Contains(out, fmt.Sprintf(`credentials for "alice" of %q from before 20`, issuer)) {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	var after string
	for n := range f.replicas {
		brokertest.Eventually(t, 5*time.Second, fmt.Sprintf("replica %d knows", n), func() error {
			a := f.at(n).mustIssue(alice, "")
			if a.AccessKeyID == before[alice].AccessKeyID {
				return errors.New("it hands out what is revoked")
			}
			if after == "" {
				after = a.AccessKeyID
			}
			if a.AccessKeyID != after {
				t.Errorf("replica %d has %s, others have %s", n, a.AccessKeyID, after)
			}
			return nil
		})
		if f.at(n).mustIssue(bob, "").AccessKeyID != before[bob].AccessKeyID {
			t.Errorf("replica %d has new ones for bob", n)
		}
	}
	if audit := strings.Join(f.replicas[1].Audit(), "\n"); !strings.Contains(audit, `"event":"revoke","decision":"allowed","request_id":`) || !strings.Contains(audit, fmt.Sprintf(`"identity":{"kind":"","issuer":%q,"subject":"alice"}`, issuer)) {
		t.Error("it isn't audited")
	}

	// Somebody who can write to Redis can undo nothing: neither by what he writes, nor by taking away.
	f.redis.CLI("SET", "credbroker:revoked", "junk")
	f.redis.CLI("DEL", "credbroker:revoked")
	brokertest.Eventually(t, 5*time.Second, "the revocation is in Redis again", func() error {
		if f.redis.CLI("EXISTS", "credbroker:revoked") != "1" {
			return errors.New("it isn't")
		}
		return nil
	})
	f.replicas[0].Stop()
	f.replicas[0].Start()
	if a := f.at(0).mustIssue(alice, ""); a.AccessKeyID != after {
		t.Errorf("after a restart: %s, expected %s", a.AccessKeyID, after)
	}
	if out, _, _ := runProgram(t, "", nil, "admin", "--socket", f.replicas[0].Socket, "status"); !strings.Contains(out, "1 roles, issuers and subjects") {
		t.Errorf("status doesn't tell: %s", out)
	}

	// Without Redis it is so here at once (of a replica whose keys all know: the first has new ones), and says that others don't know; they do once it is back.
	f.redis.Kill()
	out, stderr, err = runProgram(t, "", nil, "admin", "--socket", f.replicas[1].Socket, "revoke", "--role", "reports")
	if err == nil || !strings.Contains(out, "of role reports from before") || !strings.Contains(stderr, "the other replicas don't know yet") {
		t.Errorf("%v: %s%s", err, out, stderr)
	}
	if a := f.at(1).mustIssue(bob, ""); a.AccessKeyID == before[bob].AccessKeyID {
		t.Error("what is revoked is handed out")
	}
	f.redis.Start()
	brokertest.Eventually(t, 20*time.Second, "the others know", func() error {
		if f.at(2).mustIssue(bob, "").AccessKeyID == before[bob].AccessKeyID {
			return errors.New("they don't")
		}
		return nil
	})

	for _, args := range [][]string{{}, {"--subject", "alice"}, {"--role", "reports", "--issuer", issuer}} {
		if _, stderr, err := runProgram(t, "", nil, append([]string{"admin", "--socket", f.replicas[0].Socket, "revoke"}, args...)...); err == nil || !strings.Contains(stderr, "nothing to revoke") {
			t.Errorf("%v: %v: %s", args, err, stderr)
		}
	}
}

// TestRevocationEndsLeases has a real Vault's AWS engine lease what the broker hands out.
func TestRevocationEndsLeases(t *testing.T) {
	v, iam := brokertest.StartVault(t, brokertest.VaultOptions{}), brokertest.NewIAM(t)
	v.Write("sys/mounts/aws", brokertest.VaultData{"type": "aws"})
	v.Write("aws/config/root", brokertest.VaultData{"access_key": "AKIAVAULT", "secret_key": "x", "region": "us-east-1", "iam_endpoint": iam.URL, "sts_endpoint": iam.URL})
	v.Write("aws/config/lease", brokertest.VaultData{"lease": "1h", "lease_max": "12h"})
	v.Write("aws/roles/reports", brokertest.VaultData{"credential_type": "iam_user", "policy_document": `{"Version":"2012-10-17","Statement":[]}`})
	v.Policy("leases", map[string]string{"aws/creds/reports": "read", "sys/leases/renew": "update", "sys/leases/revoke": "update"})
	v.Prepare(nil, "aws", "approle")
	v.Write("auth/approle/role/credbroker", brokertest.VaultData{"token_policies": "leases"})
	w := newWorld(t)
	before, _, _ := strings.Cut(w.config(""), "exchangers:")
	w.WriteConfig(before + `exchangers:
  leased: {kind: vault-read, vault: {path: aws/creds/reports, fields: {session_token: ""}}}
roles:
  - {name: reports, when: 'true', exchanger: leased, ttl: {default: 30m}}
` + vaultSection(v))
	w.Start()
	w.without(`"vault: `)
	alice, bob := w.token(nil), w.token(map[string]any{"sub": "bob"})
	a, b := w.mustIssue(alice, ""), w.mustIssue(bob, "")
	if live, made := iam.Counts(); live != 2 || made != 2 {
		t.Fatalf("%d users of %d", live, made)
	}
	if out, stderr, err := runProgram(t, "", nil, "admin", "--socket", w.Socket, "revoke", "--issuer", w.idp.URL, "--subject", "alice"); err != nil {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	if leases := v.List("sys/leases/lookup/aws/creds/reports"); len(leases) != 1 {
		t.Errorf("%d leases", len(leases))
	}
	brokertest.Eventually(t, 10*time.Second, "alice's user gone", func() error {
		if live, _ := iam.Counts(); live != 1 {
			return fmt.Errorf("there are %d", live)
		}
		return nil
	})
	if again := w.mustIssue(bob, ""); again.AccessKeyID != b.AccessKeyID {
		t.Error("bob lost his")
	}
	if again := w.mustIssue(alice, ""); again.AccessKeyID == a.AccessKeyID {
		t.Error("alice gets what is revoked")
	}

	v.Seal()
	out, stderr, err := runProgram(t, "", nil, "admin", "--socket", w.Socket, "revoke", "--role", "reports")
	if err == nil || !strings.Contains(out, "are handed out no more") || !strings.Contains(stderr, "not all leases were ended") {
		t.Errorf("Vault sealed: %v: %s%s", err, out, stderr)
	}
	if again, err := w.issue(bob, ""); err != nil || again.Status != 503 {
		t.Errorf("bob still has something: %+v, %v", again, err)
	}
}
