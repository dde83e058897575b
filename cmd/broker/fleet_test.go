package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// fleet is three replicas behind a load balancer, with a Redis between them, and a MinIO that trusts what is behind the
// balancer. Replicas are asked directly; the balancer is for MinIO.
type fleet struct {
	*world   // its Broker is the first replica
	replicas []*brokertest.Broker
	redis    *brokertest.Redis // nil unless standalone
	// toRedis and toMinIO are where the replicas reach the two.
	toRedis, toMinIO *brokertest.Proxy
	sealing, hmac    string // key files
	settings         string // Redis's, in the configuration
}

// newFleet prepares a fleet with one Redis behind a proxy and starts nothing but the Redis.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	redis := brokertest.StartRedis(t, brokertest.RedisOptions{Password: "redis-password-canary"})
	proxy := brokertest.StartProxy(t, redis.Addr)
	f := newFleetOver(t, fmt.Sprintf("addresses: [%q]", proxy.Addr), "redis-password-canary")
	f.redis, f.toRedis = redis, proxy
	return f
}

// newFleetOver prepares a fleet with the Redis that the settings name.
func newFleetOver(t *testing.T, settings, password string) *fleet {
	t.Helper()
	dir := t.TempDir()
	f := &fleet{sealing: filepath.Join(dir, "sealing.keys"), hmac: filepath.Join(dir, "hmac.keys")}
	writeKeys(t, f.sealing, newKeyLine())
	writeKeys(t, f.hmac, newKeyLine())
	passwordFile := filepath.Join(dir, "password")
	writeKeys(t, passwordFile, password)
	f.settings = fmt.Sprintf("replicas: many\nredis: {%s, password_file: %s, sealing_keys_file: %s, key_hmac_keys_file: %s}\n", settings, passwordFile, f.sealing, f.hmac)

	balancer := startBalancer(t)
	for range 3 {
		b := brokertest.NewBroker(t, brokertest.BrokerOptions{Env: []string{"CREDBROKER__ISSUER__URL=http://" + balancer.addr}})
		f.replicas = append(f.replicas, b)
	}
	balancer.balance(f.replicas)
	f.world = &world{t: t, idp: brokertest.NewIDP(t), Broker: f.replicas[0]}
	f.minio = brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: "http://" + balancer.addr})
	f.toMinIO = brokertest.StartProxy(t, strings.TrimPrefix(f.minio.Endpoint, "http://"))
	f.configure("")
	return f
}

// startFleet is newFleet with all started.
func startFleet(t *testing.T) *fleet {
	t.Helper()
	f := newFleet(t)
	f.start()
	return f
}

func (f *fleet) start() {
	f.t.Helper()
	for _, b := range f.replicas {
		b.Start()
	}
	f.minio.Start()
	f.furnish()
}

// configure writes the same configuration for all, with changes to the text in pairs of old and new.
func (f *fleet) configure(moreRoles string, changes ...string) {
	f.t.Helper()
	text := f.settings + strings.Replace(f.config(moreRoles), f.minio.Endpoint, "http://"+f.toMinIO.Addr, 1)
	for _, b := range f.replicas {
		b.WriteConfig(strings.NewReplacer(changes...).Replace(text))
	}
}

// at is the world with another replica.
func (f *fleet) at(n int) *world {
	w := *f.world
	w.Broker = f.replicas[n]
	return &w
}

// mints counts, over all replicas' audit logs, what was minted.
func (f *fleet) mints() int {
	f.t.Helper()
	n := 0
	for _, b := range f.replicas {
		for _, line := range b.Audit() {
			if strings.Contains(line, `"result":"mint"`) {
				n++
			}
		}
	}
	return n
}

func newKeyLine() string {
	var key [32]byte
	_, _ = rand.Read(key[:])
	return base64.StdEncoding.EncodeToString(key[:])
}

func writeKeys(t *testing.T, path string, lines ...string) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// balancer gives each new connection to the next of its backends that can be reached.
type balancer struct {
	addr     string
	backends atomic.Pointer[[]string]
	next     atomic.Int64
}

func (b *balancer) balance(replicas []*brokertest.Broker) {
	var backends []string
	for _, r := range replicas {
		backends = append(backends, strings.TrimPrefix(r.HTTP, "http://"))
	}
	b.backends.Store(&backends)
}

func startBalancer(t *testing.T) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{addr: listener.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { b.serve(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		conns.Wait()
	})
	return b
}

func (b *balancer) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	backends := *b.backends.Load()
	for range backends {
		server, err := net.Dial("tcp", backends[int(b.next.Add(1))%len(backends)])
		if err != nil {
			continue
		}
		defer server.Close()
		defer context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })()
		go func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		}()
		_, _ = io.Copy(client, server)
		return
	}
}

// load asks all replicas, as each of the identities, until stop is called, which returns how many calls there were. A call
// that fails is a failed test.
func (f *fleet) load(identities int) (stop func() int) {
	f.t.Helper()
	var done atomic.Bool
	var calls atomic.Int64
	var wait sync.WaitGroup
	for n := range f.replicas {
		for worker := range 2 {
			wait.Go(func() {
				w := f.at(n)
				for i := worker; !done.Load(); i++ {
					a, err := w.issue(f.tokenOf(i%identities), "")
					if err != nil || a.Status != http.StatusOK {
						f.t.Errorf("a call at replica %d failed: %d %+v, %v", n, a.Status, a.Error, err)
						return
					}
					calls.Add(1)
				}
			})
		}
	}
	return func() int {
		done.Store(true)
		wait.Wait()
		return int(calls.Load())
	}
}

func (f *fleet) tokenOf(n int) string {
	return f.token(map[string]any{"sub": fmt.Sprintf("user%d", n)})
}

// calls waits until so many more calls were made at each replica.
func (f *fleet) callsGoOn(n int) {
	f.t.Helper()
	var start []int
	for _, b := range f.replicas {
		start = append(start, len(b.Audit()))
	}
	brokertest.Eventually(f.t, 30*time.Second, "calls at each replica", func() error {
		for i, b := range f.replicas {
			if got := len(b.Audit()) - start[i]; got < n {
				return fmt.Errorf("replica %d: %d calls of %d", i, got, n)
			}
		}
		return nil
	})
}

func (f *fleet) readyzSays(n int, text string) {
	f.t.Helper()
	brokertest.Eventually(f.t, 10*time.Second, "/readyz", func() error {
		status, body, err := brokertest.Get(f.replicas[n].Ops + "/readyz")
		if err != nil || status != http.StatusOK || !strings.Contains(body, text) {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		return nil
	})
}

// kill ends a replica with SIGKILL.
func (f *fleet) kill(n int) {
	f.t.Helper()
	f.replicas[n].Signal(syscall.SIGKILL)
	f.replicas[n].Stop()
}

func TestAReplicaFindsWhatAnotherMinted(t *testing.T) {
	f := startFleet(t)
	first := f.mustIssue(f.tokenOf(1), "")
	for n := range f.replicas {
		again := f.at(n).mustIssue(f.tokenOf(1), "")
		if again.AccessKeyID != first.AccessKeyID || again.SessionToken != first.SessionToken {
			t.Errorf("replica %d gave %s, the first %s", n, again.AccessKeyID, first.AccessKeyID)
		}
	}
	if err := f.put(first, "user1/x"); err != nil {
		t.Error(err)
	}
	if f.mints() != 1 {
		t.Errorf("%d mints", f.mints())
	}
	if got := f.at(1).metric("credbroker_shared_cache_hits_total"); got != "1" {
		t.Errorf("shared hits of the second: %s", got)
	}
}

func TestEveryReplicaServesTheIssuerKeysOfAll(t *testing.T) {
	f := startFleet(t)
	for n := range f.replicas { // MinIO asks whichever replica the balancer gives it
		for i := range 5 {
			f.at(n).mustIssue(f.tokenOf(100*n+i), "")
		}
	}
	kids := func(n int) int {
		var set struct{ Keys []map[string]string }
		_, body, err := brokertest.Get(f.replicas[n].HTTP + "/jwks")
		if err != nil || json.Unmarshal([]byte(body), &set) != nil {
			t.Fatal(body, err)
		}
		return len(set.Keys)
	}
	// threats.md: a raw JWK written to Redis is not served.
	f.redis.CLI("HSET", "credbroker:issuer-keys", "evil", `{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","kid":"evil"}`)
	for n := range f.replicas {
		if got := kids(n); got != 6 {
			t.Errorf("replica %d serves %d keys, want two of each", n, got)
		}
	}
	f.redis.Kill()
	for n := range f.replicas {
		if got := kids(n); got != 6 {
			t.Errorf("replica %d serves %d keys without Redis", n, got)
		}
	}
	f.redis.Start()
	for n := range f.replicas { // Redis forgot all, and the replicas put theirs up again
		for i := range 3 {
			f.at(n).mustIssue(f.tokenOf(1000+100*n+i), "")
		}
		if got := kids(n); got != 6 {
			t.Errorf("replica %d serves %d keys after Redis forgot them", n, got)
		}
	}
}

// A replica that starts without Redis answers, says why it isn't ready, and exchanges nothing until its keys are published.
func TestAReplicaWithoutRedisAtItsStartWaitsForIt(t *testing.T) {
	f := newFleet(t)
	f.redis.Kill()
	f.replicas[0].Launch()
	brokertest.Eventually(t, 20*time.Second, "/readyz", func() error {
		status, body, err := brokertest.Get(f.Ops + "/readyz")
		if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, "never published") || !strings.Contains(body, "redis: away") {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		return nil
	})
	if status, body, err := brokertest.Get(f.HTTP + "/jwks"); err != nil || status != http.StatusOK || strings.Count(body, `"kid"`) != 2 {
		t.Errorf("JWKS: %d %s %v", status, body, err)
	}
	f.minio.Start()
	f.furnish()
	if a, err := f.issue(f.tokenOf(1), ""); err != nil || a.Error.Code != "exchange_unavailable" && a.Error.Code != "exchange_unsafe" {
		t.Errorf("got %d %+v, %v", a.Status, a.Error, err)
	}
	f.redis.Start()
	f.WaitReady()
	brokertest.Eventually(t, 10*time.Second, "credentials", func() error { return f.works(f.token(nil), 1) })
}

func TestSingleUseTokensAreUsedOnceOnAllReplicas(t *testing.T) {
	f := newFleet(t)
	f.configure("", "algorithms: [ES256]", "algorithms: [ES256]\n    single_use: true")
	f.start()
	token := func(id string) string {
		return f.token(map[string]any{"jti": id, "iat": time.Now().Add(29 * time.Second).Unix(), "exp": time.Now().Add(time.Minute).Unix()})
	}
	once := token("a")
	if a, err := f.at(0).issue(once, ""); err != nil || a.Status != http.StatusOK && a.Error.Code != "unauthenticated" {
		t.Fatalf("%+v %v", a, err)
	}
	brokertest.Eventually(t, 40*time.Second, "a token that is taken", func() error {
		once = token(fmt.Sprint(time.Now().UnixNano()))
		a, err := f.at(0).issue(once, "")
		if err != nil || a.Status != http.StatusOK {
			return fmt.Errorf("%d %+v %w", a.Status, a.Error, err)
		}
		return nil
	})
	for n := range f.replicas {
		if a, err := f.at(n).issue(once, ""); err != nil || a.Status != http.StatusUnauthorized {
			t.Errorf("again at replica %d: %d %+v, %v", n, a.Status, a.Error, err)
		}
	}
	f.redis.Kill()
	if a, err := f.at(1).issue(token("b"), ""); err != nil || a.Error.Code != "identity_provider_unavailable" || !a.Error.Retryable {
		t.Errorf("without Redis: %d %+v, %v", a.Status, a.Error, err)
	}
}

// A fleet as it would be run: TLS on both sides, a user of its own with the commands of docs/redis.md.
func TestAFleetOverTLSWithAnACLUser(t *testing.T) {
	document, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rules, found := strings.Cut(string(document), "ACL SETUSER broker on >PASSWORD ")
	rules, _, _ = strings.Cut(rules, "```")
	if !found {
		t.Fatal("docs/redis.md has no ACL SETUSER")
	}
	redis := brokertest.StartRedis(t, brokertest.RedisOptions{
		TLS: true, ClientCertificates: true, ACL: []string{"user default off", "user broker on >acl-password " + strings.Join(strings.Fields(rules), " ")},
	})
	f := newFleetOver(t, fmt.Sprintf("addresses: [%q], username: broker, tls: {enabled: true, ca_file: %s, cert_file: %s, key_file: %s}",
		redis.Addr, redis.CAFile, redis.ClientCertFile, redis.ClientKeyFile), "acl-password")
	f.start()
	first := f.mustIssue(f.tokenOf(1), "")
	if again := f.at(2).mustIssue(f.tokenOf(1), ""); again.AccessKeyID != first.AccessKeyID || f.mints() != 1 {
		t.Errorf("%s and %s by %d mints", first.AccessKeyID, again.AccessKeyID, f.mints())
	}
	f.readyzSays(0, "")
	if denied := strings.TrimSpace(redis.CLI("ACL", "LOG")); denied != "" {
		t.Errorf("Redis denied: %s", denied)
	}
}

var errNotYet = errors.New("not yet")
