package brokertest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Broker is a real broker: the program, built with the race detector, in a process of its own on loopback.
type Broker struct {
	// HTTP and Ops are base URLs; GRPC is host:port; Socket is the admin socket.
	HTTP, Ops, GRPC, Socket string
	// ConfigFile and AuditFile are the files it reads and writes.
	ConfigFile, AuditFile string

	process
	program string
	env     []string
}

// BrokerOptions say what differs from an ordinary broker.
type BrokerOptions struct {
	// Config is the configuration file's text. Listeners, issuer.url and audit.path come by environment.
	Config string
	// Env are further variables.
	Env []string
	// CertFile and KeyFile make it speak TLS on its public listeners.
	CertFile, KeyFile string
}

// NewBroker prepares a broker with ports of its own and doesn't start it, so that its URL can be used first.
func NewBroker(t testing.TB, opts BrokerOptions) *Broker {
	t.Helper()
	dir := t.TempDir()
	ports := FreePorts(t, 3)
	b := &Broker{
		HTTP:       fmt.Sprintf("http://127.0.0.1:%d", ports[0]),
		GRPC:       fmt.Sprintf("127.0.0.1:%d", ports[1]),
		Ops:        fmt.Sprintf("http://127.0.0.1:%d", ports[2]),
		Socket:     filepath.Join(socketDir(t), "admin.sock"),
		ConfigFile: filepath.Join(dir, "broker.yaml"),
		AuditFile:  filepath.Join(dir, "audit.jsonl"),
		process:    process{t: t, name: "broker", LogFile: filepath.Join(dir, "broker.log")},
		program:    BrokerProgram(t),
	}
	b.env = append(os.Environ(),
		"CREDBROKER__LISTENERS__HTTP__ADDRESS="+strings.TrimPrefix(b.HTTP, "http://"),
		"CREDBROKER__LISTENERS__GRPC__ADDRESS="+b.GRPC,
		"CREDBROKER__LISTENERS__METRICS__ADDRESS="+strings.TrimPrefix(b.Ops, "http://"),
		"CREDBROKER__LISTENERS__ADMIN__SOCKET="+b.Socket,
		"CREDBROKER__AUDIT__PATH="+b.AuditFile,
	)
	if opts.CertFile != "" {
		b.HTTP = strings.Replace(b.HTTP, "http://", "https://", 1)
		for _, listener := range []string{"HTTP", "GRPC"} {
			b.env = append(b.env, "CREDBROKER__LISTENERS__"+listener+"__TLS__CERT_FILE="+opts.CertFile, "CREDBROKER__LISTENERS__"+listener+"__TLS__KEY_FILE="+opts.KeyFile)
		}
	}
	b.env = append(append(b.env, "CREDBROKER__ISSUER__URL="+b.HTTP), opts.Env...)
	b.WriteConfig(opts.Config)
	b.endsWithTest(b.Stop)
	return b
}

// StartBroker is NewBroker and Start.
func StartBroker(t testing.TB, opts BrokerOptions) *Broker {
	t.Helper()
	b := NewBroker(t, opts)
	b.Start()
	return b
}

// WriteConfig replaces the configuration file, in one step as an editor or ConfigMap does.
func (b *Broker) WriteConfig(text string) {
	b.t.Helper()
	next := b.ConfigFile + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Rename(next, b.ConfigFile); err != nil {
		b.t.Fatal(err)
	}
}

// Start runs the broker and waits until it is ready. It may be called again after Stop: ports and files stay.
func (b *Broker) Start() {
	b.t.Helper()
	b.Launch()
	b.WaitReady()
}

// Launch starts the process and doesn't wait until it is ready.
func (b *Broker) Launch() {
	b.t.Helper()
	cmd := exec.Command(b.program, "serve", "--config", b.ConfigFile)
	cmd.Env = b.env
	b.run(cmd)
}

// WaitReady waits until /readyz says that calls may come.
func (b *Broker) WaitReady() {
	b.t.Helper()
	b.waitUntil("ready", 20*time.Second, func() error {
		status, body, err := Get(b.Ops + "/readyz")
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("/readyz says %d: %s", status, body)
		}
		return nil
	})
}

// Stop ends the broker with SIGTERM and waits for it. Stopping twice is fine.
func (b *Broker) Stop() {
	b.t.Helper()
	b.terminate()
}

// Log is what the broker has printed so far.
func (b *Broker) Log() string {
	data, err := os.ReadFile(b.LogFile)
	if err != nil {
		return ""
	}
	return string(data)
}

// Audit is the audit log so far, a line each.
func (b *Broker) Audit() []string {
	data, err := os.ReadFile(b.AuditFile)
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

var program struct {
	once sync.Once
	path string
	err  error
}

// BrokerProgram builds the broker with the race detector, once for each test binary, and returns its path.
func BrokerProgram(t testing.TB) string {
	t.Helper()
	program.once.Do(func() {
		dir, err := os.MkdirTemp("", "credbroker-test-")
		if err != nil {
			program.err = err
			return
		}
		program.path = filepath.Join(dir, "broker")
		cmd := exec.Command("go", "build", "-race", "-o", program.path, "./cmd/broker")
		cmd.Dir = ModuleRoot(t)
		if out, err := cmd.CombinedOutput(); err != nil {
			program.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if program.err != nil {
		t.Fatal(program.err)
	}
	return program.path
}

// RemoveBrokerProgram removes what BrokerProgram built; call it at the end of TestMain.
func RemoveBrokerProgram() {
	if program.path != "" {
		_ = os.RemoveAll(filepath.Dir(program.path))
	}
}

// FreePorts returns TCP ports of 127.0.0.1 that stay the test's until its end, so that nobody else gets one before the test's own server
// does, or between two of its runs.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		ports[i] = holdPort(t)
	}
	return ports
}

// Eventually calls check until it returns nil, and fails the test with its last error after the deadline.
func Eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Get fetches a URL.
func Get(url string) (status int, body string, err error) {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	return resp.StatusCode, string(data), err
}

// socketDir is a directory with a short path: a Unix socket's path is limited to 107 bytes.
func socketDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "cb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	if i := bytes.IndexByte([]byte(s), '\n'); i >= 0 {
		s = s[i+1:]
	}
	return "...\n" + s
}
