package brokertest

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestSentinelFailsOver(t *testing.T) {
	for _, c := range []struct {
		name string
		opts SentinelOptions
	}{
		{"open", SentinelOptions{}},
		{"with passwords", SentinelOptions{Data: RedisOptions{Password: "data-pw"}, Sentinels: RedisOptions{Password: "sentinel-pw"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := StartSentinel(t, c.opts)
			if len(s.Addrs) != 3 || slices.Contains(s.Addrs, s.Primary()) {
				t.Fatalf("Sentinels %v, primary %s", s.Addrs, s.Primary())
			}
			from := s.Primary()
			want(t, "primary", from, s.Data[0].Addr)
			s.Data[0].CLI("SET", "k", "v")
			want(t, "copies", s.Data[0].CLI("WAIT", "1", "5000"), "1")

			killed := s.KillPrimary()
			want(t, "killed", killed.Addr, from)
			s.WaitFailover(from)
			want(t, "primary after the failover", s.Primary(), s.Data[1].Addr)
			want(t, "GET after the failover", s.Data[1].CLI("GET", "k"), "v")
			want(t, "SET after the failover", s.Data[1].CLI("SET", "k", "w"), "OK")

			killed.Start()
			Eventually(t, 20*time.Second, "old primary a replica", func() error {
				return holds(killed, []string{"INFO", "replication"}, "role:slave\n")
			})
			Eventually(t, 20*time.Second, "old primary in step", func() error { return holds(killed, []string{"GET", "k"}, "w") })
		})
	}
}

func TestRedisClusterSharesTheSlots(t *testing.T) {
	c := StartRedisCluster(t, RedisOptions{Save: true})
	if len(c.Addrs) != 3 || len(c.Nodes) != 3 {
		t.Fatalf("%d addresses and %d nodes", len(c.Addrs), len(c.Nodes))
	}
	for i := range 30 {
		want(t, "SET", c.Nodes[i%3].CLI("-c", "SET", fmt.Sprint("k", i), "v"), "OK")
	}
	for _, node := range c.Nodes {
		if node.CLI("DBSIZE") == "0" {
			t.Errorf("%s got none of 30 keys", node.Addr)
		}
	}
	want(t, "slot of foo", c.Nodes[0].CLI("CLUSTER", "KEYSLOT", "foo"), "12182")
	refused(t, c.Nodes[0], "MOVED 12182 "+c.Addrs[2], "GET", "foo")

	c.Nodes[1].Kill()
	Eventually(t, 20*time.Second, "cluster that misses a node", func() error {
		return holds(c.Nodes[0], []string{"CLUSTER", "INFO"}, "cluster_state:fail\n")
	})
	c.Nodes[1].Start()
	c.WaitReady()
	for i := range 30 {
		want(t, "GET after the restart", c.Nodes[0].CLI("-c", "GET", fmt.Sprint("k", i)), "v")
	}
}
