package brokertest

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// redisAdmin is the ACL user of the tests themselves, so that a server's passwords and rules don't stand in their way.
const redisAdmin = "brokertest"

// Redis is a real Redis server in a process of its own on loopback.
type Redis struct {
	// Addr is host:port.
	Addr string
	// CAFile holds the root of its certificate; empty without TLS.
	CAFile string
	// ClientCertFile and ClientKeyFile are what it demands of clients; empty without RedisOptions.ClientCertificates.
	ClientCertFile, ClientKeyFile string
	// Dir holds its configuration and data.
	Dir string

	process
	server, cli   string
	kind          []string // further arguments of the program
	adminPassword string
	memory        []string // settings that FreeMemory goes back to
	tls           *tls.Config
}

// RedisOptions say what differs from a server without passwords and TLS that forgets all when it ends.
type RedisOptions struct {
	// Password is the default user's.
	Password string
	// ACL are further users: "user broker on >pw ~credbroker:* +@all -@dangerous". "user default off" leaves them alone.
	ACL []string
	// TLS makes it speak TLS and nothing else, with a certificate of its own making.
	TLS bool
	// ClientCertificates makes it demand a certificate of clients; with TLS alone.
	ClientCertificates bool
	// Args are further lines of redis.conf.
	Args []string
	// Save keeps what it holds across Kill and Stop, in an append-only file.
	Save bool

	adminPassword string // a random one if empty; redis-cli follows a cluster's redirections with the same
}

// NewRedis prepares a server with a port and data of its own and doesn't start it.
func NewRedis(t testing.TB, opts RedisOptions) *Redis {
	t.Helper()
	return newRedis(t, "redis", opts)
}

// newRedis is NewRedis for programs of several kinds; name is for messages.
func newRedis(t testing.TB, name string, opts RedisOptions, kind ...string) *Redis {
	t.Helper()
	dir := t.TempDir()
	port := holdPort(t)
	r := &Redis{
		Addr: fmt.Sprintf("127.0.0.1:%d", port), Dir: dir,
		process: process{t: t, name: name, LogFile: filepath.Join(dir, "log")}, server: Tool(t, "redis-server"), cli: Tool(t, "redis-cli"), kind: kind, adminPassword: cmp.Or(opts.adminPassword, random(16)),
	}
	lines := []string{"bind 127.0.0.1", "dir " + dir, fmt.Sprintf("user %s on >%s ~* &* +@all", redisAdmin, r.adminPassword)}
	if len(kind) == 0 {
		// Uncompressed, so that a test can search a dump for what mustn't be there. A replica's copy begins at once, not
		// after a wait for others.
		lines = append(lines, `save ""`, "rdbcompression no", "repl-diskless-sync-delay 0")
	}
	if opts.Save {
		lines = append(lines, "appendonly yes")
	}
	if opts.Password != "" {
		lines = append(lines, "requirepass "+opts.Password)
	}
	if opts.TLS {
		lines = append(append(lines, "port 0", fmt.Sprintf("tls-port %d", port)), r.makeCertificates(opts.ClientCertificates)...)
	} else {
		lines = append(lines, fmt.Sprintf("port %d", port))
	}
	lines = append(append(lines, opts.ACL...), opts.Args...)
	writeFile(t, filepath.Join(dir, "redis.conf"), []byte(strings.Join(lines, "\n")+"\n"))
	r.endsWithTest(r.Kill)
	return r
}

// StartRedis is NewRedis and Start.
func StartRedis(t testing.TB, opts RedisOptions) *Redis {
	t.Helper()
	r := NewRedis(t, opts)
	r.Start()
	return r
}

// Launch starts the process and doesn't wait until it serves.
func (r *Redis) Launch() {
	r.t.Helper()
	r.run(exec.Command(r.server, append([]string{filepath.Join(r.Dir, "redis.conf")}, r.kind...)...))
}

// Start launches the server and waits until it answers. It may be called again after Kill or Stop: the port stays.
func (r *Redis) Start() {
	r.t.Helper()
	r.Launch()
	r.WaitReady()
}

// WaitReady waits until the server answers PING.
func (r *Redis) WaitReady() {
	r.t.Helper()
	r.waitUntil("ready", 20*time.Second, func() error {
		c, err := r.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		return c.command("PING", "+PONG")
	})
}

// Stop ends the server in order: it says goodbye to replicas and writes what it has to. Stopping twice is fine.
func (r *Redis) Stop() {
	r.t.Helper()
	r.terminate()
}

// Pause freezes the server: connections stay and open, and nothing is answered.
func (r *Redis) Pause() {
	r.t.Helper()
	r.Signal(syscall.SIGSTOP)
}

// Resume undoes Pause. What clients sent meanwhile gets its answer.
func (r *Redis) Resume() {
	r.t.Helper()
	r.Signal(syscall.SIGCONT)
}

// CLI runs redis-cli as a user who may do everything and returns what it printed, without the last newline. An error
// reply fails the test.
func (r *Redis) CLI(args ...string) string {
	r.t.Helper()
	out, err := r.runCLI(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *Redis) runCLI(args ...string) (string, error) {
	host, port, _ := net.SplitHostPort(r.Addr)
	all := []string{"-h", host, "-p", port, "--user", redisAdmin, "--no-auth-warning", "-e"}
	if r.CAFile != "" {
		all = append(all, "--tls", "--cacert", r.CAFile)
	}
	if r.ClientCertFile != "" {
		all = append(all, "--cert", r.ClientCertFile, "--key", r.ClientKeyFile)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.cli, append(all, args...)...)
	cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+r.adminPassword)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("redis-cli %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// Dump is an RDB file of all the server holds.
func (r *Redis) Dump() []byte {
	r.t.Helper()
	r.CLI("SAVE")
	file := filepath.Join(r.Dir, "dump.rdb")
	data, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	// Or the next start would load it.
	if err := os.Remove(file); err != nil {
		r.t.Fatal(err)
	}
	return data
}

// SetReadOnly makes the server a replica of one that is gone, which reads still work on and writes don't (READONLY), or
// undoes that.
func (r *Redis) SetReadOnly(on bool) {
	r.t.Helper()
	if on {
		r.CLI("REPLICAOF", "127.0.0.1", "1") // nobody listens on tcpmux
	} else {
		r.CLI("REPLICAOF", "NO", "ONE")
	}
}

// ExhaustMemory makes every command that might need memory fail (OOM), until FreeMemory or the next start.
func (r *Redis) ExhaustMemory() {
	r.t.Helper()
	r.memory = strings.Split(r.CLI("CONFIG", "GET", "maxmemory", "maxmemory-policy"), "\n")
	r.CLI("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")
}

// FreeMemory undoes ExhaustMemory.
func (r *Redis) FreeMemory() {
	r.t.Helper()
	r.CLI(append([]string{"CONFIG", "SET"}, r.memory...)...)
}

// makeCertificates makes the server a certificate, and one for its clients if it demands such, and returns the
// configuration that uses them.
func (r *Redis) makeCertificates(clients bool) []string {
	r.t.Helper()
	r.CAFile = filepath.Join(r.Dir, "server.crt")
	key := filepath.Join(r.Dir, "server.key")
	WriteCertificate(r.t, r.CAFile, key)
	root, err := os.ReadFile(r.CAFile)
	if err != nil {
		r.t.Fatal(err)
	}
	r.tls = &tls.Config{RootCAs: x509.NewCertPool()}
	r.tls.RootCAs.AppendCertsFromPEM(root)
	lines := []string{"tls-cert-file " + r.CAFile, "tls-key-file " + key}
	if !clients {
		return append(lines, "tls-ca-cert-file "+r.CAFile, "tls-auth-clients no")
	}
	r.ClientCertFile, r.ClientKeyFile = filepath.Join(r.Dir, "client.crt"), filepath.Join(r.Dir, "client.key")
	WriteCertificate(r.t, r.ClientCertFile, r.ClientKeyFile)
	pair, err := tls.LoadX509KeyPair(r.ClientCertFile, r.ClientKeyFile)
	if err != nil {
		r.t.Fatal(err)
	}
	r.tls.Certificates = []tls.Certificate{pair}
	return append(lines, "tls-ca-cert-file "+r.ClientCertFile, "tls-auth-clients yes")
}

// holdPort returns a TCP port of 127.0.0.1 that stays the test's until its end, also while no server of its runs: a
// socket that is bound but doesn't listen keeps the kernel from handing the port out, and a server that sets
// SO_REUSEADDR, as all do, can still take it. Connecting to it then is refused.
func holdPort(t testing.TB) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	address, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return address.(*syscall.SockaddrInet4).Port
}
