package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/credbroker/credbroker/internal/brokertest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// threats.md: 10,000 concurrent misses are one mint, on three replicas.
func TestTenThousandFirstRequestsAreOneMint(t *testing.T) {
	f := newFleet(t)
	f.configure("", "redis: {", "redis: {timeout: 5s, ") // all share two cores with the race detector
	f.start()
	for n := range f.replicas {
		f.at(n).mustIssue(f.tokenOf(0), "") // it has the identity provider's keys, which few can wait for
	}
	token := f.tokenOf(1)
	before := f.mints()

	const conns = 8 // a replica takes 256 streams of one connection
	var clients []brokerv1.CredentialBrokerServiceClient
	for _, b := range f.replicas {
		for range conns {
			c, err := grpc.NewClient(b.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			clients = append(clients, brokerv1.NewCredentialBrokerServiceClient(c))
		}
	}
	var wait sync.WaitGroup
	var keys sync.Map
	var failed atomic.Int32
	in := &brokerv1.IssueCredentialsRequest{Proof: &brokerv1.Proof{Proof: &brokerv1.Proof_Jwt{Jwt: token}}, Role: "reports"}
	for n := range 10_000 {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			got, err := clients[n%len(clients)].IssueCredentials(ctx, in)
			if err != nil {
				if failed.Add(1) <= 3 {
					t.Error(err)
				}
				return
			}
			keys.Store(got.GetAccessKeyId(), true)
		})
	}
	wait.Wait()
	different := 0
	keys.Range(func(any, any) bool { different++; return true })
	if failed.Load() > 0 || different != 1 || f.mints()-before != 1 {
		t.Errorf("%d of 10,000 failed; %d different keys, %d mints", failed.Load(), different, f.mints()-before)
	}
}

// threats.md: the leader dies mid-flight. Its lease frees itself, and one of the others mints.
func TestAReplicaKilledWhileItMints(t *testing.T) {
	f := startFleet(t)
	for n := range f.replicas {
		f.at(n).mustIssue(f.tokenOf(n), "")
	}
	before := f.mints()
	f.toMinIO.Cut(brokertest.Blackhole)
	token := f.tokenOf(7)
	go func() { _, _ = f.at(0).issue(token, "") }()
	brokertest.Eventually(t, 10*time.Second, "the lease", func() error {
		if !strings.Contains(f.redis.CLI("KEYS", "credbroker:l:*"), "credbroker:l:") {
			return errNotYet
		}
		return nil
	})
	var wait sync.WaitGroup
	var answers [3]answer
	start := time.Now()
	for n := 1; n < 3; n++ {
		wait.Go(func() {
			var err error
			if answers[n], err = f.at(n).issue(token, ""); err != nil || answers[n].Status != http.StatusOK {
				t.Errorf("replica %d: %d %+v, %v", n, answers[n].Status, answers[n].Error, err)
			}
		})
	}
	f.kill(0)
	f.toMinIO.Heal()
	wait.Wait()
	if answers[1].AccessKeyID != answers[2].AccessKeyID || f.mints()-before != 1 {
		t.Errorf("keys %s and %s by %d mints", answers[1].AccessKeyID, answers[2].AccessKeyID, f.mints()-before)
	}
	t.Logf("answered %s after the kill", time.Since(start))
}

// A replica killed under load fails nobody else, and comes back to what the others share.
func TestAReplicaKilledUnderLoad(t *testing.T) {
	f := startFleet(t)
	f.at(0).mustIssue(f.tokenOf(0), "")
	f.replicas = f.replicas[1:] // nobody asks the one that dies
	stop := f.load(5)
	f.callsGoOn(20)
	doomed := f.Broker
	f.replicas = append(f.replicas, doomed)
	f.kill(2)
	f.replicas = f.replicas[:2]
	f.callsGoOn(20)
	doomed.Start()
	w := *f.world
	if a := w.mustIssue(f.tokenOf(3), ""); !strings.Contains(lastLine(doomed), `"result":"hit"`) {
		t.Errorf("%s wasn't found in Redis after the restart", a.AccessKeyID)
	}
	stop()
}

func lastLine(b *brokertest.Broker) string {
	lines := b.Audit()
	return lines[len(lines)-1]
}

// Whatever happens to Redis under load, no call fails; /readyz and the metrics say it; and all is well again without a
// restart.
func TestRedisFailsUnderLoad(t *testing.T) {
	f := startFleet(t)
	f.mustIssue(f.tokenOf(0), "")
	for _, way := range []struct {
		name         string
		break_, mend func()
		says         string
		up           string
	}{
		{"killed", f.redis.Kill, f.redis.Start, "redis: away since", "0"},
		{"frozen", f.redis.Pause, f.redis.Resume, "redis: away since", "0"},
		{"cut off", func() { f.toRedis.Cut(brokertest.Refuse) }, f.toRedis.Heal, "redis: away since", "0"},
		{"blackholed", func() { f.toRedis.Cut(brokertest.Blackhole) }, f.toRedis.Heal, "redis: away since", "0"},
		{"slow", func() { f.toRedis.Delay(0, time.Second) }, func() { f.toRedis.Delay(0, 0) }, "redis: away since", "0"},
		{"read-only", func() { f.redis.SetReadOnly(true) }, func() { f.redis.SetReadOnly(false) }, "redis: writes fail since", "1"},
		{"out of memory", f.redis.ExhaustMemory, f.redis.FreeMemory, "redis: writes fail since", "1"},
	} {
		t.Run(way.name, func(t *testing.T) {
			stop := f.load(1 << 30) // every call is another identity's, so that all go to Redis
			f.callsGoOn(20)
			way.break_()
			f.callsGoOn(20)
			for n := range f.replicas {
				f.readyzSays(n, way.says)
				if got := f.at(n).metric("credbroker_redis_up"); got != way.up {
					t.Errorf("credbroker_redis_up is %s", got)
				}
			}
			f.callsGoOn(20)
			way.mend()
			for n := range f.replicas {
				brokertest.Eventually(t, 10*time.Second, "recovery", func() error {
					_, body, err := brokertest.Get(f.replicas[n].Ops + "/readyz")
					if err != nil || strings.Contains(body, "redis:") || f.at(n).metric("credbroker_redis_up") != "1" {
						return fmt.Errorf("%s %w", body, err)
					}
					return nil
				})
			}
			f.callsGoOn(20)
			t.Logf("%d calls", stop())
			token := f.token(map[string]any{"sub": strings.ReplaceAll("after-"+way.name, " ", "-")})
			a := f.at(1).mustIssue(token, "")
			brokertest.Eventually(t, 5*time.Second, "sharing", func() error {
				if b := f.at(2).mustIssue(token, ""); b.AccessKeyID != a.AccessKeyID {
					return fmt.Errorf("%s and %s", a.AccessKeyID, b.AccessKeyID)
				}
				return nil
			})
		})
	}
}

func TestSentinelFailsOverUnderLoad(t *testing.T) {
	sentinel := brokertest.StartSentinel(t, brokertest.SentinelOptions{Data: brokertest.RedisOptions{Password: "data"}})
	f := newFleetOver(t, fmt.Sprintf("mode: sentinel, master_name: %s, addresses: [%s]", sentinel.MasterName, quoted(sentinel.Addrs)), "data")
	f.start()
	f.mustIssue(f.tokenOf(0), "")
	stop := f.load(1 << 30)
	f.callsGoOn(20)
	old := sentinel.Primary()
	sentinel.KillPrimary()
	f.callsGoOn(20)
	sentinel.WaitFailover(old)
	for n := range f.replicas {
		brokertest.Eventually(t, 20*time.Second, "recovery", func() error {
			if got := f.at(n).metric("credbroker_redis_up"); got != "1" {
				return fmt.Errorf("credbroker_redis_up is %s", got)
			}
			return nil
		})
	}
	f.callsGoOn(20)
	t.Logf("%d calls", stop())
	a, b := f.at(1).mustIssue(f.token(map[string]any{"sub": "after"}), ""), answer{}
	brokertest.Eventually(t, 5*time.Second, "sharing", func() error {
		if b = f.at(2).mustIssue(f.token(map[string]any{"sub": "after"}), ""); b.AccessKeyID != a.AccessKeyID {
			return errNotYet
		}
		return nil
	})
}

func TestAFleetOverACluster(t *testing.T) {
	cluster := brokertest.StartRedisCluster(t, brokertest.RedisOptions{Password: "data"})
	f := newFleetOver(t, fmt.Sprintf("mode: cluster, addresses: [%s]", quoted(cluster.Addrs)), "data")
	f.start()
	f.mustIssue(f.tokenOf(0), "")
	before := f.mints()
	var wait sync.WaitGroup
	for i := range 30 {
		for n := range f.replicas {
			wait.Go(func() { f.at(n).mustIssue(f.tokenOf(1000+i), "") })
		}
	}
	wait.Wait()
	if got := f.mints() - before; got != 30 {
		t.Errorf("%d mints for 30 identities", got)
	}
}

func quoted(list []string) string { return `"` + strings.Join(list, `", "`) + `"` }
