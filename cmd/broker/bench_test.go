package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credbroker/credbroker"
	"github.com/credbroker/credbroker/internal/brokertest"
)

// TestBenchMeasuresEachHop runs the command over HTTP and gRPC against a real broker, Redis and MinIO.
func TestBenchMeasuresEachHop(t *testing.T) {
	w := startWorld(t)
	redis := brokertest.StartRedis(t, brokertest.RedisOptions{Password: "redis-password-canary"})
	token := w.tokenFile(w.token(nil))
	if err := w.put(w.mustIssue(w.token(nil), ""), "alice/probe"); err != nil {
		t.Fatal(err)
	}
	common := []string{
		"bench", "--token-file", token, "--role", "reports", "--duration", "200ms", "--concurrency", "3",
		"--redis", redis.Addr, "--redis-password-file", w.tokenFile("redis-password-canary"), "--minio", w.minio.Endpoint, "--bucket", "reports", "--key", "alice/probe",
	}
	for _, endpoint := range []string{w.HTTP, "grpc://" + w.GRPC} {
		stdout, stderr, err := runProgram(t, "", nil, append(common, "--endpoint", endpoint, "--json")...)
		if err != nil {
			t.Fatal(err, stderr)
		}
		var got benchResult
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Hops) != 3 || got.Interrupted || got.Concurrency != 3 {
			t.Errorf("%+v", got)
		}
		for _, h := range got.Hops {
			if h.Calls == 0 || len(h.Errors) > 0 || h.P50 == 0 || h.P99 < h.P50 || h.Max < h.P99 || h.PerSecond <= 0 {
				t.Errorf("%+v", h)
			}
		}
	}
	stdout, stderr, err := runProgram(t, "", nil, append(common, "--endpoint", w.HTTP)...)
	if err != nil || strings.Count(stdout, "\n") != 4 || strings.Count(stdout, "none") != 3 {
		t.Errorf("%v %s\n%s", err, stderr, stdout)
	}
	if _, stderr, err := runProgram(t, "", nil, append(common, "--endpoint", w.HTTP, "--role", "other")...); err == nil || !strings.Contains(stderr, "permission_denied") {
		t.Errorf("a role that isn't there: %v %s", err, stderr)
	}
}

// The password goes nowhere in plaintext unasked.
func TestBenchKeepsThePasswordOfRedis(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1:6379": true, "redis.internal:6379": false} {
		f := benchFlags{concurrency: 1, duration: time.Second, redis: address, redisPasswordFile: "pw"}
		f.client.endpoint, f.client.proof, f.client.role = "https://b:1", proofFlags{kind: "file", tokenFile: "t"}, "r"
		if err := f.check(); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
		f.redisTLS.Enabled = true
		if err := f.check(); err != nil {
			t.Errorf("%s with TLS: %v", address, err)
		}
		f.redisTLS.Enabled, f.client.plaintext = false, true
		if err := f.check(); err != nil {
			t.Errorf("%s, asked to: %v", address, err)
		}
		f.client.plaintext, f.redisPasswordFile = false, ""
		if err := f.check(); err != nil {
			t.Errorf("%s without a password: %v", address, err)
		}
	}
}

func TestBenchPrintsWhatItHasWhenInterrupted(t *testing.T) {
	w := startWorld(t)
	cmd := exec.Command(brokertest.BrokerProgram(t), "bench", "--endpoint", w.HTTP, "--token-file", w.tokenFile(w.token(nil)), "--role", "reports", "--duration", "1h", "--json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	brokertest.Eventually(t, 20*time.Second, "calls", func() error {
		if len(w.Audit()) < 50 {
			return errNotYet
		}
		return nil
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err, stderr.String())
	}
	var got benchResult
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil || !got.Interrupted || len(got.Hops) != 1 || got.Hops[0].Calls < 10 || len(got.Hops[0].Errors) > 0 {
		t.Errorf("%v %+v", err, got)
	}
}

func TestBenchCountsErrorsByCode(t *testing.T) {
	var calls atomic.Int64
	h := hop{"broker", brokerCode, func(context.Context, int) error {
		switch calls.Add(1) {
		case 1, 2:
			return &credbroker.Error{Code: credbroker.CodeRateLimited}
		case 3:
			return credbroker.ErrUnreachable
		case 4:
			return context.DeadlineExceeded
		case 5:
			return errors.New("something")
		}
		return nil
	}}
	got := h.measure(t.Context(), 1, 300*time.Millisecond)
	want := map[string]int64{"rate_limited": 2, "unreachable": 1, "timeout": 1, "other": 1}
	for code, n := range want {
		if got.Errors[code] != n {
			t.Errorf("%s: %d, want %d", code, got.Errors[code], n)
		}
	}
	if got.Calls != calls.Load()-5 || got.Calls < 1 {
		t.Errorf("%d calls counted of %d", got.Calls, calls.Load())
	}
	many := map[string]int64{}
	for i := range 100 {
		many[boundedCode(many, strings.Repeat("x", i+1))]++
	}
	if len(many) != 17 || many["other"] != 84 {
		t.Errorf("%d codes, %d others", len(many), many["other"])
	}
}

func TestLatenciesAreRightToThreePercent(t *testing.T) {
	for _, n := range []uint64{0, 1, 31, 32, 63, 64, 65, 127, 128, 1e3, 1e6, 1e9, 1<<40 - 1, 1 << 40, 1<<63 - 1} {
		end := upperEnd(bucketOf(n))
		if end < n || float64(end-n) > 0.0315*float64(n) {
			t.Errorf("%d is counted as %d", n, end)
		}
		if n > 0 && bucketOf(n) < bucketOf(n-1) {
			t.Errorf("%d is in an earlier bucket than its predecessor", n)
		}
	}
	var l latencies
	if l.quantile(0.5) != 0 || l.max() != 0 {
		t.Error("nothing was measured")
	}
	all := make([]time.Duration, 10_000)
	for i := range all {
		all[i] = time.Duration(rand.ExpFloat64() * float64(time.Millisecond))
		l.add(all[i])
	}
	slices.Sort(all)
	for _, q := range []float64{0.5, 0.99, 1} {
		got, want := l.quantile(q), all[int(q*float64(len(all)))-1]
		if got < want || float64(got-want) > 0.0315*float64(want) {
			t.Errorf("quantile %g is %s, want %s", q, got, want)
		}
	}
	if l.max() != all[len(all)-1] || l.count() != int64(len(all)) {
		t.Errorf("max %s, %d of them", l.max(), l.count())
	}
}
