package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// rotate replaces a key file and waits until each replica has loaded it.
func (f *fleet) rotate(file string, lines ...string) {
	f.t.Helper()
	const loads = `credbroker_config_reloads_total{outcome="ok"}`
	var before []string
	for n := range f.replicas {
		before = append(before, f.at(n).metric(loads))
	}
	writeKeys(f.t, file, lines...)
	for n := range f.replicas {
		brokertest.Eventually(f.t, 10*time.Second, "reload", func() error {
			if f.at(n).metric(loads) == before[n] {
				return errNotYet
			}
			return nil
		})
	}
}

// Rotation of either key under load, by the steps of docs/redis.md, costs no exchange: also not for a replica that comes
// without a memory, after each step.
func TestKeysRotateUnderLoadWithoutAnExchange(t *testing.T) {
	f := startFleet(t)
	const identities = 10
	for i := range identities {
		f.mustIssue(f.tokenOf(i), "")
	}
	old := map[string]string{f.sealing: firstLineOf(t, f.sealing), f.hmac: firstLineOf(t, f.hmac)}
	before := f.mints()
	if before != identities {
		t.Fatalf("%d mints", before)
	}
	stop := f.load(identities)
	for _, file := range []string{f.sealing, f.hmac} {
		next := newKeyLine()
		for _, lines := range [][]string{{old[file], next}, {next, old[file]}} {
			f.rotate(file, lines...)
			f.callsGoOn(3 * identities)
			// A replica that nobody asks meanwhile: it has nothing in memory and must find all in Redis.
			fresh := f.another()
			for i := range identities {
				fresh.mustIssue(f.tokenOf(i), "")
			}
			fresh.Stop()
			for _, line := range fresh.Audit() {
				if !strings.Contains(line, `"result":"hit"`) {
					t.Errorf("a fresh replica: %s", line)
				}
			}
		}
	}
	t.Logf("%d calls", stop())
	if got := f.mints() - before; got != 0 {
		t.Errorf("%d exchanges more", got)
	}
}

// another starts one more replica.
func (f *fleet) another() *world {
	f.t.Helper()
	b := brokertest.NewBroker(f.t, brokertest.BrokerOptions{Env: []string{"CREDBROKER__ISSUER__URL=http://127.0.0.1:1"}})
	// It is asked for what the others minted at MinIO through their proxy: the target is part of an entry's key.
	b.WriteConfig(f.settings + strings.Replace(f.config(""), f.minio.Endpoint, "http://"+f.toMinIO.Addr, 1))
	b.Start()
	w := *f.world
	w.Broker = b
	return &w
}

func firstLineOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// A faulty key file changes nothing.
func TestAFaultyKeyFileIsRefused(t *testing.T) {
	f := startFleet(t)
	f.mustIssue(f.tokenOf(1), "")
	good := firstLineOf(t, f.sealing)
	for _, faulty := range [][]string{{"not a key"}, {good, good}, {firstLineOf(t, f.hmac)}} {
		writeKeys(t, f.sealing, faulty...)
		f.readyzSays(0, "the configuration on disk was refused")
		if a, err := f.at(1).issue(f.tokenOf(1), ""); err != nil || a.Status != http.StatusOK {
			t.Errorf("%d %+v, %v", a.Status, a.Error, err)
		}
		if strings.Contains(f.Log(), good) || strings.Contains(f.Log(), "not a key") {
			t.Error("the log holds what stands in the key file")
		}
		writeKeys(t, f.sealing, good)
		f.readyzSays(0, "")
	}
	if f.mints() != 1 {
		t.Errorf("%d mints", f.mints())
	}
}

// Nothing that passes to Redis, or lies there, is a secret.
func TestRedisSeesNoSecretOfTheFleet(t *testing.T) {
	f := newFleet(t)
	seen := f.redis.Monitor()
	f.start()
	secrets := []string{"alice-canary", "user1", "reports", f.idp.URL, f.minio.Endpoint, firstLineOf(t, f.sealing), firstLineOf(t, f.hmac)}
	for i := range 5 {
		token := f.token(map[string]any{"sub": "alice-canary"})
		if i > 0 {
			token = f.tokenOf(i)
		}
		for n := range f.replicas {
			a := f.at(n).mustIssue(token, "")
			secrets = append(secrets, token, a.AccessKeyID, a.SecretAccessKey, a.SessionToken)
		}
	}
	all := seen() + string(f.redis.Dump())
	for _, s := range secrets {
		if strings.Contains(all, s) {
			t.Errorf("Redis saw %.20q", s)
		}
	}
	for _, part := range []string{"credbroker:c:{", "credbroker:l:{", "credbroker:issuer-keys"} {
		if !strings.Contains(all, part) {
			t.Errorf("Redis saw no %s", part)
		}
	}
}

// Credentials in use are renewed before they end, once for all replicas; what was handed out is always good.
func TestAFleetRenewsCredentialsInUse(t *testing.T) {
	f := newFleet(t)
	f.configure("", "default: 15m, max: 1h, min: 5s", "default: 12s, max: 12s, min: 4s")
	f.start()
	token := f.tokenOf(1)
	keys := map[string]bool{}
	start := time.Now()
	for n := 0; time.Since(start) < 20*time.Second; n++ {
		a := f.at(n%3).mustIssue(token, "")
		keys[a.AccessKeyID] = true
		if left := time.Until(a.ExpiresAt); left < 4*time.Second-100*time.Millisecond {
			t.Errorf("handed out with %s left", left)
		}
		if n%50 == 0 {
			if err := f.put(a, "user1/x"); err != nil {
				t.Errorf("%s: %v", a.AccessKeyID, err)
			}
		}
	}
	renewals, others := 0, 0
	for _, b := range f.replicas {
		for _, line := range b.Audit() {
			switch {
			case !strings.Contains(line, `"result":"mint"`):
			case strings.Contains(line, `"event":"renew_credentials"`):
				renewals++
			default:
				others++
			}
		}
	}
	if others != 1 || renewals < 2 || renewals > 4 || len(keys) != 1+renewals {
		t.Errorf("%d renewals, %d other mints, %d keys handed out", renewals, others, len(keys))
	}
}
