// Package kongtest runs the plugin and the functions for Kong as they are shipped, in a real nginx with Lua, where Kong itself can't run.
// What is around them - phases, priorities, the sandbox, the rewriting of paths and headers, Kong's own plugins - is made in shim/ by what
// was measured on Kong 3.9, and does no more than that. No product code imports this package.
package kongtest

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/credbroker/credbroker/internal/brokertest"
)

//go:embed nginx.conf
var nginxConf string

// Gateway is nginx in the role of Kong, in processes of its own on loopback.
type Gateway struct {
	// URL is its base URL.
	URL string
	// Dir holds what it was started with, and error.log.
	Dir string

	t      testing.TB
	cmd    *exec.Cmd
	exited chan error
}

// Options say what it runs.
type Options struct {
	// Config is a declarative configuration of Kong, in YAML.
	Config string
	// SandboxRequires is untrusted_lua_sandbox_requires: what functions may require. There is none by default.
	SandboxRequires []string
	// Env are NAME=value of the environment, for {vault://env/name}.
	Env []string
	// CAFile are roots for https to the broker and to upstreams.
	CAFile string
	// Workers is 1 if zero.
	Workers int
}

// Prepare writes into dir what nginx-lua -p DIR -c FILE needs to be a gateway at a port of 127.0.0.1, and returns that file. Root is the
// directory of go.mod.
func Prepare(root, dir string, port int, opts Options) (file string, err error) {
	var config any
	if err := yaml.Unmarshal([]byte(opts.Config), &config); err != nil {
		return "", err
	}
	environment, err := json.Marshal(map[string]any{"config": config, "sandbox_requires": append([]string{}, opts.SandboxRequires...)})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "kong.json"), environment, 0o600); err != nil {
		return "", err
	}
	var names []string
	for _, variable := range opts.Env {
		name, _, _ := strings.Cut(variable, "=")
		names = append(names, name)
	}
	var conf bytes.Buffer
	if err := template.Must(template.New("").Parse(nginxConf)).Execute(&conf, map[string]any{
		"Dir": dir, "Port": port, "Workers": max(1, opts.Workers), "Env": names, "CAFile": opts.CAFile,
		"Root": os.Geteuid() == 0, // else its workers are nobody, who may not read what a test writes
		"Shim": filepath.Join(root, "internal", "kongtest", "shim"), "Deploy": filepath.Join(root, "deploy"),
	}); err != nil {
		return "", err
	}
	file = filepath.Join(dir, "nginx.conf")
	return file, os.WriteFile(file, conf.Bytes(), 0o600)
}

// Start runs a gateway until the test ends.
func Start(t testing.TB, opts Options) *Gateway {
	t.Helper()
	g, err := start(t, opts)
	if err != nil {
		t.Fatalf("%v\n%s", err, g.Log())
	}
	t.Cleanup(func() {
		g.Stop()
		if t.Failed() {
			log := g.Log()
			t.Logf("nginx log:\n%s", log[max(0, len(log)-6<<10):])
		}
	})
	return g
}

// Check is the error that a configuration is refused with, if it is.
func Check(t testing.TB, opts Options) error {
	t.Helper()
	g, err := start(t, opts)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, g.Log())
	}
	g.Stop()
	return nil
}

func start(t testing.TB, opts Options) (*Gateway, error) {
	t.Helper()
	dir := t.TempDir()
	g := &Gateway{t: t, Dir: dir}
	port := brokertest.FreePorts(t, 1)[0]
	file, err := Prepare(brokertest.ModuleRoot(t), dir, port, opts)
	if err != nil {
		return g, err
	}
	log, err := os.Create(filepath.Join(dir, "output.log"))
	if err != nil {
		return g, err
	}
	defer log.Close()
	g.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	g.cmd = exec.Command(brokertest.Tool(t, "nginx-lua"), "-p", dir, "-c", file)
	g.cmd.Env = append(os.Environ(), opts.Env...)
	g.cmd.Stdout, g.cmd.Stderr = log, log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := g.cmd.Start(); err != nil {
		return g, err
	}
	g.exited = make(chan error, 1)
	go func() { g.exited <- g.cmd.Wait() }()
	deadline := time.Now().Add(20 * time.Second)
	for {
		select {
		case err := <-g.exited:
			g.cmd = nil
			return g, fmt.Errorf("nginx ended: %w", err)
		default:
		}
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			return g, conn.Close()
		}
		if time.Now().After(deadline) {
			g.Stop()
			return g, fmt.Errorf("nginx doesn't listen: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Stop ends it. Stopping twice is fine.
func (g *Gateway) Stop() {
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.exited:
	case <-time.After(20 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.exited
		g.t.Errorf("nginx did not stop within 20 s of SIGTERM")
	}
	g.cmd = nil
}

// PID is the master's process ID.
func (g *Gateway) PID() int { return g.cmd.Process.Pid }

// Log is what it has logged so far.
func (g *Gateway) Log() string {
	var all strings.Builder
	for _, name := range []string{"output.log", "error.log"} {
		data, _ := os.ReadFile(filepath.Join(g.Dir, name))
		all.Write(data)
	}
	return all.String()
}

// Do sends a request as it is, and returns the answer, its body read into Body's place.
func Do(t testing.TB, method, url string, header http.Header, body []byte) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp, text.String()
}

var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}
