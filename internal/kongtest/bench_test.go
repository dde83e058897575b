package kongtest

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/credbroker/credbroker/internal/brokertest"
)

var table = flag.Bool("table", false, "measure, for a minute or two, and print the table of make bench-kong")

const (
	inFlight = 16
	rounds   = 5
	span     = 2 * time.Second
)

// sample is one run: how many requests a second, what each took, and what of a processor the gateway's worker used for one.
type sample struct {
	rate     float64
	p50, p99 time.Duration
	cpu      time.Duration
}

// load sends the same text over as many connections at a time, for as long as given; each answer must have a status.
func load(t *testing.T, address, text string, status int, connections int, long time.Duration, worker int) sample {
	t.Helper()
	began, before := time.Now(), processorTime(worker)
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wait sync.WaitGroup
	for range connections {
		wait.Go(func() {
			took, err := drive(address, text, status, began.Add(long))
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, took...), errors.Join(failed, err)
		})
	}
	wait.Wait()
	if failed != nil {
		t.Fatalf("%s: %v", text[:min(len(text), 60)], failed)
	}
	slices.Sort(all)
	n := len(all)
	return sample{
		rate: float64(n) / time.Since(began).Seconds(), p50: all[n/2], p99: all[n*99/100], cpu: (processorTime(worker) - before) / time.Duration(n),
	}
}

func drive(address, text string, status int, until time.Time) (took []time.Duration, err error) {
	var conn net.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	r := bufio.NewReader(nil)
	want := fmt.Sprintf("HTTP/1.1 %d", status)
	for len(took) == 0 || time.Now().Before(until) {
		if conn == nil {
			if conn, err = net.Dial("tcp", address); err != nil {
				return nil, err
			}
			r.Reset(conn)
		}
		began := time.Now()
		if _, err := io.WriteString(conn, text); err != nil {
			return nil, err
		}
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			return nil, fmt.Errorf("%q, expected %s: %w", line, want, err)
		}
		length, last := 0, false
		for line != "\r\n" {
			if line, err = r.ReadString('\n'); err != nil {
				return nil, err
			}
			last = last || line == "Connection: close\r\n"
			if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
				if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
					return nil, err
				}
			}
		}
		if _, err := r.Discard(length); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
		if last {
			_ = conn.Close()
			conn = nil
		}
	}
	return took, nil
}

// processorTime is what a process has used so far, to 10 ms; 0 of none.
func processorTime(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if pid == 0 || err != nil {
		return 0
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// resident is a process's memory in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// worker is the process ID of a gateway's one worker.
func (g *Gateway) worker(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", g.PID(), g.PID()))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(data))[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// static is an nginx that answers 200 to everything, and reads what comes.
func static(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	address := fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(t, 1)[0])
	var temporary strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temporary, "%s_temp_path %s/%s; ", kind, dir, kind)
	}
	conf := fmt.Sprintf("daemon off; worker_processes 1; pid %s/pid; error_log %s/error.log; events {} http { access_log off; keepalive_requests 1000000000; client_max_body_size 0; %s"+
		"server { listen %s; location / { return 200 'a few bytes'; } } }", dir, dir, temporary.String(), address)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(brokertest.Tool(t, "nginx-lua"), "-p", dir, "-c", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	brokertest.Eventually(t, 10*time.Second, "the upstream", func() error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return "http://" + address
}

// median is the sample of the middle rate.
func median(samples []sample) sample {
	slices.SortFunc(samples, func(a, b sample) int { return int(a.rate - b.rate) })
	return samples[len(samples)/2]
}

func get(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: kong.example\r\napikey: alice-key\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
}

// TestTable measures what the plugin costs. Routes are measured in turns, so that all see the machine in the same moods; a row is the median
// of its rounds.
func TestTable(t *testing.T) {
	if !*table {
		t.Skip("make bench-kong measures")
	}
	w := newWorld(t)
	w.signs(t)
	upstream := static(t)
	limit := "{name: rate-limiting, config: {minute: 1000000000, limit_by: consumer}}"
	g := Start(t, Options{Config: declared(
		service("bare", upstream, "/bare", keyAuth),
		service("plugin", upstream, "/plugin", keyAuth, w.plugin("")),
		service("bare-limited", upstream, "/limited-bare", keyAuth, limit),
		service("plugin-limited", upstream, "/limited-plugin", keyAuth, limit, w.plugin("")),
		service("minio", w.minio.Endpoint, "/s3", keyAuth, w.plugin("")),
		service("remote", upstream, "/remote", keyAuth, w.plugin("mode: sign_remote")),
	)})
	w.ready(g)
	if _, err := w.minio.Root().PutObject(t.Context(), "reports", "acme/small", strings.NewReader("a few bytes"), 11, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	presigned, err := w.minio.Root().PresignedGetObject(t.Context(), "reports", "acme/small", time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	kong, store, pid := strings.TrimPrefix(g.URL, "http://"), strings.TrimPrefix(w.minio.Endpoint, "http://"), g.worker(t)
	rows := []struct{ name, address, text string }{
		{"gateway", kong, get("/bare/reports/acme/small")},
		{"gateway, signed", kong, get("/plugin/reports/acme/small")},
		{"gateway, limited", kong, get("/limited-bare/reports/acme/small")},
		{"gateway, limited, signed", kong, get("/limited-plugin/reports/acme/small")},
		{"MinIO", store, "GET " + presigned.RequestURI() + " HTTP/1.1\r\nHost: " + store + "\r\n\r\n"},
		{"gateway, signed, MinIO", kong, get("/s3/reports/acme/small")},
	}
	results := map[string][]sample{}
	for _, row := range rows { // warm: compiled, cached, connected
		load(t, row.address, row.text, http.StatusOK, inFlight, span/2, 0)
	}
	for range rounds {
		for _, row := range rows {
			worker := pid
			if row.address != kong {
				worker = 0
			}
			results[row.name] = append(results[row.name], load(t, row.address, row.text, http.StatusOK, inFlight, span, worker))
		}
	}
	fmt.Printf("\n%d in flight, one worker, an nginx upstream of one worker that answers 11 bytes (or MinIO); medians of %d rounds of %s\n\n", inFlight, rounds, span)
	fmt.Printf("%-28s %12s %10s %10s %14s\n", "", "requests/s", "p50", "p99", "worker's time")
	medians := map[string]sample{}
	for _, row := range rows {
		m := median(results[row.name])
		medians[row.name] = m
		fmt.Printf("%-28s %12.0f %10s %10s %14s\n", row.name, m.rate, m.p50.Round(time.Microsecond), m.p99.Round(time.Microsecond), m.cpu.Round(100*time.Nanosecond))
	}
	ratio := medians["gateway, signed"].rate / medians["gateway"].rate
	limited := medians["gateway, limited, signed"].rate / medians["gateway, limited"].rate
	w.hops(t, kong)
	fmt.Printf("signed / bare: %.2f; with rate limiting %.2f; target 0.75\n", ratio, limited)
	fmt.Printf("of the worker's time: %.2f; with rate limiting %.2f\n", float64(medians["gateway"].cpu)/float64(medians["gateway, signed"].cpu), float64(medians["gateway, limited"].cpu)/float64(medians["gateway, limited, signed"].cpu))
	small, large := uploads(t, w)
	fmt.Printf("the worker's memory after uploads of 1 MiB: %d KiB; after one of 512 MiB: %d KiB\n", small, large)
}

// hops prints what single requests take, one after another: through the gateway, through the gateway with the broker signing each, and a
// call of the broker alone, in turns.
func (w *world) hops(t *testing.T, kong string) {
	t.Helper()
	key := w.openSession(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	call := func(path, body string) sample {
		var took []time.Duration
		for range 300 {
			req := key.word(t, "http://"+w.gateway+path, body)
			began := time.Now()
			if _, err := answerOfClient(client, req); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return sample{rate: 1, p50: took[len(took)/2], p99: took[len(took)*99/100]}
	}
	single := func(path string) sample { return load(t, kong, get(path), http.StatusOK, 1, span/2, 0) }
	rows := []struct {
		name    string
		measure func() sample
	}{
		{"gateway", func() sample { return single("/bare/reports/acme/small") }},
		{"gateway, broker signs", func() sample { return single("/remote/reports/acme/small") }},
		{"broker signs", func() sample {
			return call("/v1/sign", `{"role":"reports","requests":[{"method":"GET","bucket":"reports","key":"acme/small"}]}`)
		}},
		{"broker has credentials", func() sample { return call("/v1/credentials", `{"role":"reports"}`) }},
	}
	results := map[string][]sample{}
	for range rounds {
		for _, row := range rows {
			results[row.name] = append(results[row.name], row.measure())
		}
	}
	middle := map[string]sample{}
	fmt.Printf("\n1 in flight\n\n")
	for _, row := range rows {
		slices.SortFunc(results[row.name], func(a, b sample) int { return int(a.p50 - b.p50) })
		m := results[row.name][rounds/2]
		middle[row.name] = m
		fmt.Printf("%-28s %12s %10s %10s\n", row.name, "", m.p50.Round(time.Microsecond), m.p99.Round(time.Microsecond))
	}
	added := middle["gateway, broker signs"].p50 - middle["gateway"].p50
	fmt.Printf("\nsign_remote adds %s, %.2f of a bare call of the broker; target 2\n", added.Round(time.Microsecond), float64(added)/float64(middle["broker signs"].p50))
}

// uploads are the worker's resident memory after small uploads and after a large one.
func uploads(t *testing.T, w *world) (small, large int) {
	t.Helper()
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer sink.Close()
	g := Start(t, Options{Config: declared(service("sink", sink.URL, "/s3", keyAuth, w.plugin("")))})
	w.ready(g)
	put := func(size int64) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, g.URL+"/s3/reports/acme/x", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = size
		req.Header.Set("Apikey", "alice-key")
		if _, err := answerOf(req); err != nil {
			t.Fatal(err)
		}
		return resident(t, g.worker(t))
	}
	for range 50 {
		small = put(1 << 20)
	}
	return small, put(512 << 20)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
