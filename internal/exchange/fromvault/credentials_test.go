package fromvault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/exchange/fromvault"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/revocation"
	"github.com/credbroker/credbroker/internal/vault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine is a Vault with an AWS engine over a stand-in for IAM, and the broker's client of it.
type engine struct {
	*brokertest.Vault
	iam    *brokertest.IAM
	client *vault.Client
}

// start makes an engine whose leases last lease at first, and longest at all.
func start(t *testing.T, lease, longest time.Duration) *engine {
	t.Helper()
	e := &engine{Vault: brokertest.StartVault(t, brokertest.VaultOptions{}), iam: brokertest.NewIAM(t)}
	e.Write("sys/mounts/aws", brokertest.VaultData{"type": "aws"})
	e.Write("aws/config/root", brokertest.VaultData{"access_key": "AKIAVAULT", "secret_key": "x", "region": "us-east-1", "iam_endpoint": e.iam.URL, "sts_endpoint": e.iam.URL})
	e.Write("aws/config/lease", brokertest.VaultData{"lease": lease.String(), "lease_max": longest.String()})
	e.Write("aws/roles/reports", brokertest.VaultData{"credential_type": "iam_user", "policy_document": `{"Version":"2012-10-17","Statement":[]}`})
	e.Write("sys/mounts/kv", brokertest.VaultData{"type": "kv", "options": brokertest.VaultData{"version": "2"}})
	e.Policy("broker", map[string]string{"aws/creds/reports": "read,update", "kv/data/*": "read", "sys/leases/renew": "update", "sys/leases/revoke": "update"})
	file := t.TempDir() + "/token"
	brokertest.WriteFile(t, file, []byte(e.Token(time.Hour, "broker")))
	var err error
	if e.client, err = vault.New(vault.Config{Address: e.URL, Login: vault.TokenFile{Path: file}, Timeout: 5 * time.Second}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { e.client.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return e
}

// awsFields are what the AWS engine calls the parts of credentials.
var awsFields = fromvault.Fields{AccessKeyID: "access_key", SecretAccessKey: "secret_key"}

func (e *engine) exchanger(write bool) *fromvault.Credentials {
	return fromvault.NewCredentials(fromvault.CredentialsConfig{Client: e.client, Path: "aws/creds/reports", Write: write, Fields: awsFields})
}

func request(subject string, ttl time.Duration) exchange.Request {
	return exchange.Request{
		Identity: attest.Identity{Kind: attest.KindJWT, Issuer: "https://idp.example", Subject: subject},
		Grant:    policy.Grant{Role: "reports", Bound: ttl, TTL: ttl},
	}
}

// within fails the test unless credentials end about then.
func within(t *testing.T, c exchange.Credentials, want time.Duration) {
	t.Helper()
	if left := time.Until(c.Expires); left > want || left < want-5*time.Second {
		t.Errorf("they live for %s; expected %s", left, want)
	}
}

func TestLeaseIsCutToTheGrantAndRenewedForTheSameOne(t *testing.T) {
	t.Parallel()
	e := start(t, time.Hour, 12*time.Hour)
	for _, write := range []bool{false, true} {
		x := e.exchanger(write)
		_, before := e.iam.Counts()
		first, err := x.Exchange(t.Context(), request("alice", 20*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		within(t, first, 20*time.Minute) // though the engine gives an hour
		again, err := x.Exchange(t.Context(), request("alice", 20*time.Minute))
		if err != nil || again.AccessKeyID != first.AccessKeyID {
			t.Errorf("%v %v", again.AccessKeyID, err)
		}
		other, err := x.Exchange(t.Context(), request("alice", 30*time.Minute)) // another bound is another grant
		if err != nil || other.AccessKeyID == first.AccessKeyID {
			t.Errorf("%v %v", other.AccessKeyID, err)
		}
		if _, made := e.iam.Counts(); made-before != 2 {
			t.Errorf("%d users were made; expected 2", made-before)
		}
	}
}

func TestLeaseThatEndsSoonIsRenewedInsteadOfMadeAnew(t *testing.T) {
	t.Parallel()
	e := start(t, time.Hour, 12*time.Hour)
	x := e.exchanger(false)
	short := request("alice", 4*time.Second)
	first, err := x.Exchange(t.Context(), short)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	again, err := x.Exchange(t.Context(), short)
	if err != nil || again.AccessKeyID != first.AccessKeyID || !again.Expires.After(first.Expires) {
		t.Errorf("%v, until %s, after %s: %v", again.AccessKeyID == first.AccessKeyID, again.Expires, first.Expires, err)
	}
	if live, made := e.iam.Counts(); live != 1 || made != 1 {
		t.Errorf("%d users of %d", live, made)
	}
	// Nobody asks any more: the lease ends, and the user with it.
	brokertest.Eventually(t, 15*time.Second, "the user gone", func() error {
		if live, _ := e.iam.Counts(); live != 0 {
			return errors.New("it is there")
		}
		return nil
	})
}

func TestBurstMakesOneLease(t *testing.T) {
	t.Parallel()
	e := start(t, time.Hour, 12*time.Hour)
	x := e.exchanger(false)
	var all sync.WaitGroup
	keys := make([]string, 64)
	for n := range keys {
		all.Go(func() {
			c, err := x.Exchange(t.Context(), request("alice", 15*time.Minute))
			if err != nil {
				t.Error(err)
			}
			keys[n] = c.AccessKeyID
		})
	}
	all.Wait()
	if _, made := e.iam.Counts(); made != 1 {
		t.Errorf("%d leases for one burst", made)
	}
	for _, key := range keys {
		if key != keys[0] {
			t.Error("different keys")
		}
	}
}

func TestRevocationEndsTheLeasesThatItIsAbout(t *testing.T) {
	t.Parallel()
	e := start(t, time.Hour, 12*time.Hour)
	x := e.exchanger(false)
	byBob := request("carol", 15*time.Minute)
	byBob.Identity.Actor = &attest.Identity{Kind: attest.KindGateway, Issuer: "https://idp.example", Subject: "bob"}
	for _, req := range []exchange.Request{request("alice", 15*time.Minute), request("alice", 20*time.Minute), request("bob", 15*time.Minute), byBob, request("carol", 15*time.Minute)} {
		if _, err := x.Exchange(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	issuer, at := byBob.Identity.Issuer, time.Now()
	revoke := func(s revocation.Scope, left, made int) {
		t.Helper()
		if err := x.Revoke(t.Context(), revocation.Revocation{Scope: s, At: at}); err != nil {
			t.Fatal(err)
		}
		brokertest.Eventually(t, 10*time.Second, "users gone", func() error {
			if live, n := e.iam.Counts(); live != left || n != made {
				return fmt.Errorf("%d of %d are there; expected %d of %d", live, n, left, made)
			}
			return nil
		})
	}
	revoke(revocation.Scope{Issuer: issuer, Subject: "alice"}, 3, 5)
	revoke(revocation.Scope{Issuer: issuer, Subject: "alice"}, 3, 5)
	again := request("alice", 15*time.Minute)
	again.RevokedAt = at
	if _, err := x.Exchange(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	revoke(revocation.Scope{Issuer: issuer, Subject: "alice"}, 4, 6) // what was made since stays
	revoke(revocation.Scope{Issuer: issuer, Subject: "bob"}, 2, 6)   // an actor's, too
	revoke(revocation.Scope{Issuer: "https://other.example"}, 2, 6)
	revoke(revocation.Scope{Role: "another"}, 2, 6)
	at = at.Add(time.Second)
	revoke(revocation.Scope{Role: again.Grant.Role}, 0, 6)
}

// TestALeaseFromBeforeARevocationIsNotUsedAfterIt is about a revocation that hasn't got to the leases yet.
func TestALeaseFromBeforeARevocationIsNotUsedAfterIt(t *testing.T) {
	t.Parallel()
	e := start(t, time.Hour, 12*time.Hour)
	x := e.exchanger(false)
	req := request("alice", 15*time.Minute)
	before, err := x.Exchange(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	req.RevokedAt = time.Now()
	after, err := x.Exchange(t.Context(), req)
	if err != nil || after.AccessKeyID == before.AccessKeyID {
		t.Errorf("%v, %v", after.AccessKeyID, err)
	}
}

func TestLeaseAtTheEndOfItsRenewalsIsMadeAnew(t *testing.T) {
	t.Parallel()
	e := start(t, 3*time.Second, 5*time.Second)
	x := e.exchanger(false)
	req := request("alice", 4*time.Second)
	first, err := x.Exchange(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	within(t, first, 4*time.Second) // though the engine gives three seconds at first
	time.Sleep(3 * time.Second)
	again, err := x.Exchange(t.Context(), req)
	if err != nil || again.AccessKeyID == first.AccessKeyID {
		t.Errorf("%v %v", again.AccessKeyID, err)
	}
}

func TestCredentialsWithoutLease(t *testing.T) {
	t.Parallel()
	e := start(t, time.Hour, time.Hour)
	kv := func(path string) *fromvault.Credentials {
		return fromvault.NewCredentials(fromvault.CredentialsConfig{Client: e.client, Path: "kv/data/" + path, Fields: fromvault.Fields{
			AccessKeyID: "data.id", SecretAccessKey: "data.key", SessionToken: "data.token", Expires: "data.until",
		}})
	}
	put := func(path string, until any) {
		e.Write("kv/data/"+path, brokertest.VaultData{"data": brokertest.VaultData{"id": "ID", "key": "KEY", "token": "TOKEN", "until": until}})
	}
	now := time.Now()
	put("rfc", now.Add(5*time.Minute).Format(time.RFC3339))
	put("unix", now.Add(5*time.Minute).Unix())
	put("past", now.Add(-time.Minute).Format(time.RFC3339))
	put("far", now.Add(time.Hour).Format(time.RFC3339))
	put("never", "never")
	put("newline", now.Add(5*time.Minute).Unix())
	e.Write("kv/data/newline", brokertest.VaultData{"data": brokertest.VaultData{"id": "I\nD", "key": "KEY", "token": "TOKEN", "until": now.Add(5 * time.Minute).Unix()}})
	for path, want := range map[string]error{
		"rfc": nil, "unix": nil, "past": exchange.ErrBadResult, "far": exchange.ErrBadResult, "never": exchange.ErrBadResult,
		"newline": exchange.ErrBadResult, "missing": exchange.ErrRefused,
	} {
		c, err := kv(path).Exchange(t.Context(), request("alice", 10*time.Minute))
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
		if want == nil && (c.AccessKeyID != "ID" || c.SecretAccessKey.Reveal() != "KEY" || c.SessionToken.Reveal() != "TOKEN") {
			t.Errorf("%s: %v", path, c)
		}
		if err != nil && (strings.Contains(err.Error(), "KEY") || strings.Contains(err.Error(), "TOKEN")) {
			t.Errorf("%s: it repeats a secret: %v", path, err)
		}
	}
	// Without a lease, and nothing that says when it ends.
	x := fromvault.NewCredentials(fromvault.CredentialsConfig{Client: e.client, Path: "kv/data/rfc", Fields: fromvault.Fields{AccessKeyID: "data.id", SecretAccessKey: "data.key"}})
	if _, err := x.Exchange(t.Context(), request("alice", 10*time.Minute)); !errors.Is(err, exchange.ErrBadResult) {
		t.Errorf("%v", err)
	}
}

func TestGrantsThatAPathCanNotHonourAreRefused(t *testing.T) {
	t.Parallel()
	e := start(t, time.Hour, time.Hour)
	for _, change := range []func(*policy.Grant){
		func(g *policy.Grant) { g.Policies = []string{"readonly"} },
		func(g *policy.Grant) { g.SessionPolicy = "{}" },
	} {
		req := request("alice", time.Minute)
		change(&req.Grant)
		if _, err := e.exchanger(false).Exchange(t.Context(), req); !errors.Is(err, exchange.ErrRefused) {
			t.Errorf("%v", err)
		}
	}
	e.Kill()
	if _, err := e.exchanger(false).Exchange(t.Context(), request("alice", time.Minute)); !errors.Is(err, exchange.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
