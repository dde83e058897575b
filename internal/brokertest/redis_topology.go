package brokertest

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// Sentinel is a Redis primary, a replica of it, and three Sentinels that watch them and fail over when two agree. A
// primary that is silent for half a second counts as gone; a failover takes a second or two.
type Sentinel struct {
	// MasterName is what the Sentinels call the primary.
	MasterName string
	// Addrs are the Sentinels' addresses, host:port.
	Addrs []string
	// Data are the primary and the replica, as they were at the start.
	Data []*Redis
	// Sentinels are the Sentinels themselves.
	Sentinels []*Redis

	t testing.TB
}

// SentinelOptions say what differs from servers without passwords.
type SentinelOptions struct {
	// Data is for the primary and the replica, Sentinels for the Sentinels. None can have TLS.
	Data, Sentinels RedisOptions
}

// StartSentinel starts all servers and waits until every Sentinel knows all of them.
func StartSentinel(t testing.TB, opts SentinelOptions) *Sentinel {
	t.Helper()
	if opts.Data.TLS || opts.Sentinels.TLS {
		t.Fatal("StartSentinel knows no TLS")
	}
	s := &Sentinel{MasterName: "credbroker", t: t}
	if opts.Data.Password != "" {
		opts.Data.Args = append(slices.Clip(opts.Data.Args), "masterauth "+opts.Data.Password)
	}
	for range 2 {
		s.Data = append(s.Data, StartRedis(t, opts.Data))
	}
	primary, replica := s.Data[0], s.Data[1]
	host, port, _ := net.SplitHostPort(primary.Addr)
	replica.CLI("REPLICAOF", host, port)
	Eventually(t, 20*time.Second, "replica in step", func() error {
		return holds(replica, []string{"INFO", "replication"}, "master_link_status:up")
	})

	watch := []string{
		fmt.Sprintf("sentinel monitor %s %s %s 2", s.MasterName, host, port),
		fmt.Sprintf("sentinel down-after-milliseconds %s 500", s.MasterName),
		fmt.Sprintf("sentinel failover-timeout %s 3000", s.MasterName),
	}
	if opts.Data.Password != "" {
		watch = append(watch, fmt.Sprintf("sentinel auth-pass %s %s", s.MasterName, opts.Data.Password))
	}
	opts.Sentinels.Args = append(slices.Clip(opts.Sentinels.Args), watch...)
	for range 3 {
		node := newRedis(t, "Sentinel", opts.Sentinels, "--sentinel")
		node.Start()
		// By default they greet each other every two seconds and look for replicas every ten.
		node.CLI("SENTINEL", "DEBUG", "PUBLISH-PERIOD", "200", "INFO-PERIOD", "500")
		s.Sentinels = append(s.Sentinels, node)
		s.Addrs = append(s.Addrs, node.Addr)
	}
	for _, node := range s.Sentinels {
		Eventually(t, 20*time.Second, "Sentinel that knows all", func() error {
			return holds(node, []string{"INFO", "sentinel"}, "status=ok,address="+primary.Addr+",slaves=1,sentinels=3")
		})
	}
	return s
}

// Primary is the address of the primary, as the first Sentinel that runs has it.
func (s *Sentinel) Primary() string {
	s.t.Helper()
	for _, node := range s.Sentinels {
		if node.cmd != nil {
			return s.primaryOf(node)
		}
	}
	s.t.Fatal("no Sentinel runs")
	return ""
}

func (s *Sentinel) primaryOf(node *Redis) string {
	s.t.Helper()
	host, port, _ := strings.Cut(node.CLI("SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.MasterName), "\n")
	return net.JoinHostPort(host, port)
}

// KillPrimary kills the primary and returns it; its Start brings it back, as a replica.
func (s *Sentinel) KillPrimary() *Redis {
	s.t.Helper()
	primary := s.node(s.Primary())
	primary.Kill()
	return primary
}

// WaitFailover waits until all Sentinels that run have another primary than the one at the address, and it takes writes.
func (s *Sentinel) WaitFailover(from string) {
	s.t.Helper()
	for _, node := range s.Sentinels {
		if node.cmd == nil {
			continue
		}
		Eventually(s.t, 30*time.Second, "failover", func() error {
			now := s.primaryOf(node)
			if now == from {
				return fmt.Errorf("the Sentinel at %s still has %s as primary", node.Addr, from)
			}
			return holds(s.node(now), []string{"ROLE"}, "master\n")
		})
	}
}

// node is the data node with that address.
func (s *Sentinel) node(addr string) *Redis {
	s.t.Helper()
	i := slices.IndexFunc(s.Data, func(r *Redis) bool { return r.Addr == addr })
	if i < 0 {
		s.t.Fatalf("the primary is said to be %s, which is none of ours", addr)
	}
	return s.Data[i]
}

// RedisCluster is three Redis masters that share the slots between them, without replicas.
type RedisCluster struct {
	// Addrs are their addresses, host:port.
	Addrs []string
	// Nodes are the masters. One that was killed finds the others again after Start; what it held is gone unless
	// RedisOptions.Save is set.
	Nodes []*Redis
}

// StartRedisCluster starts the masters, all with the same options, and waits until each says that the cluster works.
func StartRedisCluster(t testing.TB, opts RedisOptions) *RedisCluster {
	t.Helper()
	if opts.TLS {
		t.Fatal("StartRedisCluster knows no TLS")
	}
	const slots, masters = 16384, 3
	c := &RedisCluster{}
	opts.adminPassword = random(16)
	bus := make([]int, masters)
	for i := range masters {
		bus[i] = holdPort(t)
		of := opts
		of.Args = append(slices.Clip(of.Args), "cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout 1000", fmt.Sprintf("cluster-port %d", bus[i]))
		node := StartRedis(t, of)
		node.CLI("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(slots*i/masters), fmt.Sprint(slots*(i+1)/masters-1))
		node.CLI("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
		c.Nodes = append(c.Nodes, node)
		c.Addrs = append(c.Addrs, node.Addr)
	}
	for i, node := range c.Nodes {
		host, port, _ := net.SplitHostPort(node.Addr)
		for _, other := range c.Nodes[:i] {
			other.CLI("CLUSTER", "MEET", host, port, fmt.Sprint(bus[i]))
		}
	}
	c.WaitReady()
	return c
}

// WaitReady waits until each node says that the cluster works: all slots are served.
func (c *RedisCluster) WaitReady() {
	t := c.Nodes[0].t
	t.Helper()
	for _, node := range c.Nodes {
		Eventually(t, 30*time.Second, "cluster ready", func() error {
			for _, line := range []string{"cluster_state:ok\n", "cluster_slots_ok:16384\n", "cluster_known_nodes:3\n"} {
				if err := holds(node, []string{"CLUSTER", "INFO"}, line); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// holds runs a command and says what is wrong if its output lacks a text.
func holds(r *Redis, command []string, text string) error {
	r.t.Helper()
	out, err := r.runCLI(command...)
	if err != nil {
		return err
	}
	if out = strings.ReplaceAll(out, "\r", ""); !strings.Contains(out, text) {
		return fmt.Errorf("%s: %s says %q, want %q in it", r.Addr, strings.Join(command, " "), out, text)
	}
	return nil
}
