package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// runningAgent is the program `broker agent` in a process of its own.
type runningAgent struct {
	t         *testing.T
	cmd       *exec.Cmd
	log       string // file
	Address   string
	TokenFile string
}

// startAgent starts an agent for w's broker on a free port of loopback, or as args say, and doesn't wait.
func startAgent(t *testing.T, env []string, args ...string) *runningAgent {
	t.Helper()
	dir := t.TempDir()
	a := &runningAgent{t: t, log: filepath.Join(dir, "log"), TokenFile: filepath.Join(dir, "token")}
	a.Address = fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(t, 1)[0])
	log, err := os.Create(a.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if !slices.Contains(args, "--no-authorization") {
		args = append(args, "--listen", a.Address, "--authorization-file", a.TokenFile)
	}
	a.cmd = exec.Command(brokertest.BrokerProgram(t), append([]string{"agent"}, args...)...)
	a.cmd.Env = append(os.Environ(), env...)
	a.cmd.Stdout, a.cmd.Stderr = log, log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.stop)
	return a
}

// stop ends the agent as a service manager does, and fails if it doesn't end well.
func (a *runningAgent) stop() {
	if a.cmd.ProcessState != nil {
		return
	}
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	if err := a.cmd.Wait(); err != nil || a.t.Failed() {
		data, _ := os.ReadFile(a.log)
		a.t.Errorf("agent: %v\n%s", err, data)
	}
}

// uri is where a role's credentials are.
func (a *runningAgent) uri(role string) string {
	return "http://" + a.Address + "/v1/container-credentials/" + role
}

// waitReady waits until the agent has credentials.
func (a *runningAgent) waitReady() {
	a.t.Helper()
	brokertest.Eventually(a.t, 20*time.Second, "the agent is ready", func() error {
		status, body, err := brokertest.Get("http://" + a.Address + "/healthz")
		if err == nil && status != http.StatusOK {
			err = errors.New(body)
		}
		return err
	})
}

// fromEnvironment is what aws-sdk-go-v2 makes of the environment.
func fromEnvironment(t *testing.T, env map[string]string) aws.Config {
	t.Helper()
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_REGION", "us-east-1")
	for k, v := range env {
		t.Setenv(k, v)
	}
	cfg, err := awsconfig.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestAgentServesAnSDKThatKnowsNothingOfIt(t *testing.T) {
	w := startWorld(t)
	notify := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	a := startAgent(t, []string{"NOTIFY_SOCKET=" + notify}, "--endpoint", w.HTTP, "--token-file", w.tokenFile(w.token(nil)), "--role", "reports", "--listen", "unix:"+socket)
	_ = systemd.SetReadDeadline(time.Now().Add(20 * time.Second))
	word := make([]byte, 64)
	if n, err := systemd.Read(word); err != nil || string(word[:n]) != "READY=1" {
		t.Fatalf("systemd hears %q, %v", word[:n], err)
	}
	a.waitReady()

	cfg := fromEnvironment(t, map[string]string{
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": a.uri("reports"), "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": a.TokenFile, "AWS_ENDPOINT_URL_S3": w.minio.Endpoint,
	})
	client := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	put := func(key string) error {
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("reports"), Key: aws.String(key), Body: strings.NewReader("x")})
		return err
	}
	if err := put("alice/agent"); err != nil {
		t.Error(err)
	}
	if err := put("bob/agent"); err == nil {
		t.Error("the agent's credentials reach another's folder")
	}

	// A socket that only this user may connect to can do without a token.
	bare := filepath.Join(t.TempDir(), "bare.sock")
	startAgent(t, nil, "--endpoint", w.HTTP, "--token-file", w.tokenFile(w.token(nil)), "--role", "reports", "--no-authorization", "--listen", "unix:"+bare)
	brokertest.Eventually(t, 20*time.Second, "the agent without a token answers", func() error {
		status, got, err := askSocket(t, bare, "")
		if err == nil && (status != http.StatusOK || got["AccessKeyId"] == "") {
			err = fmt.Errorf("HTTP %d", status)
		}
		return err
	})

	// The broker's end is not the agent's, nor its clients'.
	w.Stop()
	cfg.Credentials.(*aws.CredentialsCache).Invalidate()
	if err := put("alice/agent-alone"); err != nil {
		t.Errorf("with the broker away: %v", err)
	}

	// The same by the socket, with the same token.
	token, _ := os.ReadFile(a.TokenFile)
	for _, c := range []struct {
		token  string
		status int
	}{{string(token), 200}, {"another-token-of-32-characters!!", 401}} {
		if status, got, err := askSocket(t, socket, c.token); status != c.status || err != nil || (c.status == 200) != (got["AccessKeyId"] != "") {
			t.Errorf("by the socket: %d, %v", status, err)
		}
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	a.stop()
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket is left behind")
	}
	said, _ := os.ReadFile(a.log)
	for _, secret := range append(w.minio.Secrets(), string(token)) {
		if bytes.Contains(said, []byte(secret)) {
			t.Error("a secret is in the log")
		}
	}
}

// askSocket asks an agent at a Unix socket for credentials of the role reports.
func askSocket(t *testing.T, socket, token string) (status int, got map[string]string, err error) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, "http://agent/v1/container-credentials/reports", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&got)
	return resp.StatusCode, got, err
}

// Its clients may start first: they wait for the broker as long as SDKs do, and hear what is wrong otherwise.
func TestAgentStartedFirst(t *testing.T) {
	w := newWorld(t)
	a := startAgent(t, nil, "--endpoint", w.HTTP, "--token-file", w.tokenFile(w.token(nil)), "--role", "reports,none")
	brokertest.Eventually(t, 20*time.Second, "the agent listens", func() error {
		status, _, err := brokertest.Get("http://" + a.Address + "/healthz")
		if err == nil && status != http.StatusServiceUnavailable {
			t.Fatalf("/healthz says %d without a broker", status)
		}
		return err
	})
	type result struct {
		status int
		body   string
	}
	early := make(chan result, 1)
	ask := func(role string) result {
		token, _ := os.ReadFile(a.TokenFile)
		req, _ := http.NewRequest(http.MethodGet, a.uri(role), nil)
		req.Header.Set("Authorization", string(token))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return result{body: err.Error()}
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return result{resp.StatusCode, string(body)}
	}
	go func() { early <- ask("reports") }()
	w.Start()
	w.minio.Start()
	w.furnish()
	if got := <-early; got.status != 200 && got.status != 503 {
		t.Errorf("early: %+v", got)
	}
	brokertest.Eventually(t, 20*time.Second, "the agent has credentials", func() error {
		if got := ask("reports"); got.status != 200 {
			return errors.New(got.body)
		}
		return nil
	})
	if got := ask("none"); got.status != 403 || !strings.Contains(got.body, `"permission_denied"`) {
		t.Errorf("a role that is not: %+v", got)
	}
	if status, _, _ := brokertest.Get("http://" + a.Address + "/healthz"); status != 503 {
		t.Errorf("/healthz says %d with one role of two", status)
	}
}
