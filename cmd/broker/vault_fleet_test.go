package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// newVaultFleet is a fleet whose tokens Vault signs and whose keys Vault wraps: no replica has a file with a key.
func newVaultFleet(t *testing.T) (*fleet, *brokertest.Vault) {
	t.Helper()
	v := brokertest.StartVault(t, brokertest.VaultOptions{})
	v.Prepare(nil, "issuer", "sealing", "approle")
	f := newFleet(t)
	f.settings = strings.Replace(f.settings, fmt.Sprintf("sealing_keys_file: %s, key_hmac_keys_file: %s", f.sealing, f.hmac), "transit: {key: credbroker-sealing}", 1) +
		"issuer: {transit: {key: credbroker}}\n" + vaultSection(v)
	f.configure("")
	return f, v
}

func TestVaultWrapsTheKeysOfWhatIsInRedis(t *testing.T) {
	f, v := newVaultFleet(t)
	f.start()
	for _, b := range f.replicas {
		(&world{t: t, Broker: b}).without(`"redis: `)
	}
	alice := f.token(nil)
	a := f.at(0).mustIssue(alice, "")
	if err := f.put(a, "alice/a"); err != nil {
		t.Error(err)
	}
	brokertest.Eventually(t, 5*time.Second, "the same credentials from another replica", func() error {
		if b := f.at(1).mustIssue(alice, ""); b.AccessKeyID != a.AccessKeyID {
			return errors.New("others")
		}
		return nil
	})
	dump := string(f.redis.Dump())
	for what, text := range map[string]string{"access key": a.AccessKeyID, "secret key": a.SecretAccessKey, "session token": a.SessionToken} {
		if strings.Contains(dump, text) {
			t.Errorf("the %s is in Redis", what)
		}
	}
	if !strings.Contains(dump, "vault:v1:") {
		t.Error("no wrapped key is in Redis")
	}

	// A replica that starts while Vault is sealed does without Redis and says so, and has the keys once Vault is back.
	v.Seal()
	f.replicas[2].Stop()
	f.replicas[2].Start()
	late := f.at(2)
	brokertest.Eventually(t, 10*time.Second, "a reason", func() error {
		status, body, err := brokertest.Get(late.Ops + "/readyz")
		if err == nil && (status != http.StatusOK || !strings.Contains(body, "which Vault wraps, are not known yet") && !strings.Contains(body, "the keys that Vault wraps")) {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	if got, err := late.issue(alice, ""); err != nil || got.Error.Code != "exchange_unavailable" {
		t.Errorf("%d %+v %v", got.Status, got.Error, err)
	}
	v.Unseal()
	late.without(`"redis: `)
	if b := late.mustIssue(alice, ""); b.AccessKeyID != a.AccessKeyID {
		t.Error("other credentials than what lies in Redis")
	}
}

// ledger knows which requests can be served without Vault: those for credentials that some replica handed out, that have more left than
// the role's least life, and that the asked replica has seen.
type ledger struct {
	mu    sync.Mutex
	until map[string]time.Time // by replica and subject

	servable, lost, cold, coldFailed atomic.Int64
}

func (l *ledger) name(replica int, subject string) string { return fmt.Sprint(replica, " ", subject) }

func (l *ledger) servableNow(replica int, subject string, least time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.until[l.name(replica, subject)]) > least
}

func (l *ledger) served(replica int, subject string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until[l.name(replica, subject)] = until
}

// TestNothingServableIsLostWithoutVault puts three replicas under load, with identities that come back and ones that come once, while Vault
// is sealed, unsealed, killed and started, and the broker's tokens are revoked.
func TestNothingServableIsLostWithoutVault(t *testing.T) {
	const least = 7 * time.Second // the role's, and two for the request itself
	f, v := newVaultFleet(t)
	f.start()
	for _, b := range f.replicas {
		(&world{t: t, Broker: b}).without(`"redis: `)
	}
	l := &ledger{until: map[string]time.Time{}}
	stop := make(chan struct{})
	var load sync.WaitGroup
	ask := func(replica int, subject string) {
		servable := l.servableNow(replica, subject, least)
		got, err := f.at(replica).issue(f.token(map[string]any{"sub": subject}), `,"ttl_seconds":600`)
		switch {
		case err == nil && got.Status == http.StatusOK:
			l.served(replica, subject, got.ExpiresAt)
			if servable {
				l.servable.Add(1)
			} else {
				l.cold.Add(1)
			}
		case servable:
			l.servable.Add(1)
			l.lost.Add(1)
			t.Errorf("lost: replica %d, %s: %d %+v %v", replica, subject, got.Status, got.Error, err)
		default:
			l.cold.Add(1)
			l.coldFailed.Add(1)
			if err == nil && (got.Error.Code != "exchange_unavailable" || !got.Error.Retryable) {
				t.Errorf("a request that can't be served is told %+v", got.Error)
			}
		}
	}
	for worker := range 6 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				subject := fmt.Sprintf("regular-%d", n%5)
				if n%10 == 9 {
					subject = fmt.Sprintf("once-%d-%d", worker, n)
				}
				ask((worker+n)%3, subject)
			}
		})
	}
	phase := func(what string, long time.Duration) {
		time.Sleep(long) // the load is the test
		t.Logf("%s: %d servable, %d lost; %d others, %d of them refused", what, l.servable.Load(), l.lost.Load(), l.cold.Load(), l.coldFailed.Load())
	}
	phase("Vault there", 2*time.Second)
	if l.coldFailed.Load() > 0 {
		t.Error("requests fail while Vault is there")
	}
	v.Seal()
	phase("sealed", 2*time.Second)
	v.Unseal()
	phase("unsealed", 2*time.Second)
	v.Kill()
	phase("killed", 2*time.Second)
	v.Start()
	phase("started", 2*time.Second)
	refused := l.coldFailed.Load()
	for _, accessor := range v.List("auth/token/accessors") {
		if about := v.Write("auth/token/lookup-accessor", brokertest.VaultData{"accessor": accessor}); strings.HasPrefix(about["path"].(string), "auth/approle/") {
			v.Write("auth/token/revoke-accessor", brokertest.VaultData{"accessor": accessor})
		}
	}
	phase("tokens revoked", 2*time.Second)
	close(stop)
	load.Wait()
	if l.lost.Load() != 0 || l.servable.Load() < 100 {
		t.Errorf("%d lost of %d servable", l.lost.Load(), l.servable.Load())
	}
	if refused == 0 {
		t.Error("nothing was refused while Vault was away: the load proved nothing")
	}
	if now := l.coldFailed.Load(); now != refused {
		t.Errorf("%d requests were refused after the broker's tokens were revoked: it didn't log in anew in time", now-refused)
	}
}
