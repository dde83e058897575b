package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// program is the broker as it is shipped, built once; the tests of other packages have one with the race detector.
var program struct {
	once sync.Once
	dir  string
	err  error
}

func brokerProgram(t testing.TB) string {
	t.Helper()
	if !*tableFlag {
		return brokertest.BrokerProgram(t) // which other packages' tests have had compiled
	}
	program.once.Do(func() {
		if program.dir, program.err = os.MkdirTemp("", "credbroker-bench-"); program.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-o", program.dir, "./cmd/broker")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Dir = brokertest.ModuleRoot(t)
		if out, err := cmd.CombinedOutput(); err != nil {
			program.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if program.err != nil {
		t.Fatal(program.err)
	}
	return filepath.Join(program.dir, "broker")
}

// replica is the program in a process of its own.
type replica struct {
	http, ops, grpc string // URL, URL, host:port
	dir             string
	env             []string
	t               testing.TB
	cmd             *exec.Cmd
}

// newReplica takes ports and starts nothing, so that the URL can be used first. The configuration is a text for broker.yaml.
func newReplica(t testing.TB) *replica {
	t.Helper()
	ports := brokertest.FreePorts(t, 3)
	b := &replica{
		http: fmt.Sprintf("http://127.0.0.1:%d", ports[0]), grpc: fmt.Sprintf("127.0.0.1:%d", ports[1]), ops: fmt.Sprintf("http://127.0.0.1:%d", ports[2]),
		dir: t.TempDir(), t: t,
	}
	b.env = append(os.Environ(),
		"CREDBROKER__LISTENERS__HTTP__ADDRESS="+strings.TrimPrefix(b.http, "http://"),
		"CREDBROKER__LISTENERS__GRPC__ADDRESS="+b.grpc,
		"CREDBROKER__LISTENERS__METRICS__ADDRESS="+strings.TrimPrefix(b.ops, "http://"),
		"CREDBROKER__LISTENERS__ADMIN__SOCKET="+filepath.Join(b.dir, "s"),
		"CREDBROKER__AUDIT__PATH="+b.auditFile(),
		"CREDBROKER__DEBUG__PPROF=true",
	)
	t.Cleanup(b.stop)
	return b
}

func (b *replica) pid() int { return b.cmd.Process.Pid }

func (b *replica) auditFile() string { return filepath.Join(b.dir, "audit.jsonl") }

// start runs the program with a configuration and returns how long it took until it was ready.
func (b *replica) start(issuerURL, config string) time.Duration {
	b.t.Helper()
	file := filepath.Join(b.dir, "broker.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		b.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(b.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer log.Close()
	b.cmd = exec.Command(brokerProgram(b.t), "serve", "--config", file)
	b.cmd.Env = append(b.env, "CREDBROKER__ISSUER__URL="+issuerURL)
	b.cmd.Stdout, b.cmd.Stderr = log, log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	for {
		if resp, err := http.Get(b.ops + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(begin)
			}
		}
		if time.Since(begin) > 20*time.Second {
			b.t.Fatalf("the broker is not ready after 20 s:\n%s", b.log())
		}
		time.Sleep(time.Millisecond)
	}
}

func (b *replica) log() string {
	data, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	return string(data[max(0, len(data)-4096):])
}

func (b *replica) stop() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
	b.cmd = nil
}

// cpu is the processor time that a process has taken so far (proc(5), utime and stime; their unit is 10 ms); 0 for pid 0.
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	if pid == 0 {
		return 0
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// What precedes the last parenthesis is the number and the name; utime is the 14th field of all.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// residentBytes is the process's resident memory (proc(5), VmRSS).
func (b *replica) residentBytes() float64 {
	b.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pid()))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				b.t.Fatal(err)
			}
			return float64(kib) * 1024
		}
	}
	b.t.Fatalf("no VmRSS in %s", status)
	return 0
}

// metric is one sample of /metrics by its name with labels; 0 if it isn't there.
func (b *replica) metric(name string) float64 {
	b.t.Helper()
	_, text, err := brokertest.Get(b.ops + "/metrics")
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				b.t.Fatal(err)
			}
			return f
		}
	}
	return 0
}

// peer is this test binary run again as a server that answers every call with the same.
type peer struct {
	grpc, http string // host:port
	pid        int
}

// startPeer starts a peer that answers with what is in dir.
func startPeer(t testing.TB, dir string) peer {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), peerVariable+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := peer{pid: cmd.Process.Pid}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(line, &p.grpc, &p.http)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}
