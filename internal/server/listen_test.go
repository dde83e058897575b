package server

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// servedName is the name in the certificate that a new connection is shown.
func servedName(t *testing.T, address string, cfg *tls.Config) (name string, resumed bool, err error) {
	t.Helper()
	conn, err := (&tls.Dialer{Config: cfg}).Dial("tcp", address)
	if err != nil {
		return "", false, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	// TLS 1.3 tells of a refused client certificate only after the handshake.
	if _, err := io.WriteString(conn, "GET /jwks HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
		return "", false, err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return "", false, err
	}
	state := conn.(*tls.Conn).ConnectionState()
	return state.PeerCertificates[0].Subject.CommonName, state.DidResume, nil
}

func TestCertificatesAreReloaded(t *testing.T) {
	ca, oldClients, newClients := newAuthority(t, "servers"), newAuthority(t, "old"), newAuthority(t, "new")
	files := ca.files(oldClients)
	l := listenLoopback(t, files)
	o, _ := testOptions()
	address := serving(t, NewHTTP(l, &fakeBroker{}, fakeDocuments{}, o))
	oldClient, newClient := ca.client(oldClients), ca.client(newClients)
	oldClient.ClientSessionCache = tls.NewLRUClientSessionCache(10)

	expect := func(name string, cfg *tls.Config, ok bool) {
		t.Helper()
		if got, _, err := servedName(t, address, cfg); (err == nil) != ok || ok && got != name {
			t.Errorf("got %q, %v; want %q, %v", got, err, name, ok)
		}
	}
	expect("server", oldClient, true)
	if _, resumed, err := servedName(t, address, oldClient); !resumed || err != nil {
		t.Errorf("the client holds no session to resume later: %v", err)
	}
	expect("", newClient, false)

	ca.renew(files, "renewed")
	writeFile(t, files.ClientCA, newClients.pem)
	expect("server", oldClient, true) // nothing changes by itself
	if err := l.Certificates.Reload(); err != nil {
		t.Fatal(err)
	}
	expect("", oldClient, false)
	expect("renewed", newClient, true)

	for name, broken := range map[string]string{"certificate": files.Cert, "key": files.Key, "client CA": files.ClientCA} {
		good, _ := os.ReadFile(broken)
		writeFile(t, broken, []byte("garbage"))
		if err := l.Certificates.Reload(); err == nil || !strings.Contains(err.Error(), broken) {
			t.Errorf("broken %s: %v", name, err)
		}
		expect("renewed", newClient, true)
		writeFile(t, broken, good)
	}
	_ = os.Remove(files.ClientCA)
	if err := l.Certificates.Reload(); err == nil {
		t.Error("missing client CA: no error")
	}
	// A key that isn't the certificate's.
	_, key := ca.pair("other")
	writeFile(t, files.Key, key)
	if err := l.Certificates.Reload(); err == nil {
		t.Error("foreign key: no error")
	}
	expect("renewed", newClient, true)
}

func TestListenRefusesHalfASetting(t *testing.T) {
	ca := newAuthority(t, "servers")
	whole := ca.files(ca)
	for name, c := range map[string]struct {
		files   TLSFiles
		require bool
	}{
		"certificate without key":     {TLSFiles{Cert: whole.Cert}, false},
		"key without certificate":     {TLSFiles{Key: whole.Key}, false},
		"client CA alone":             {TLSFiles{ClientCA: whole.ClientCA}, false},
		"required without TLS":        {TLSFiles{}, true},
		"required without client CA":  {TLSFiles{Cert: whole.Cert, Key: whole.Key}, true},
		"files that aren't there":     {TLSFiles{Cert: "/none", Key: "/none"}, false},
		"client CA that isn't there":  {TLSFiles{Cert: whole.Cert, Key: whole.Key, ClientCA: "/none"}, false},
		"client CA that is no such":   {TLSFiles{Cert: whole.Cert, Key: whole.Key, ClientCA: whole.Key}, false},
		"certificate that is the key": {TLSFiles{Cert: whole.Key, Key: whole.Key}, false},
	} {
		if l, err := Listen("127.0.0.1:0", c.files, ListenOptions{MaxConns: 1, RequireClientCert: c.require}); err == nil {
			l.Close()
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Listen("127.0.0.1:no", TLSFiles{}, ListenOptions{MaxConns: 1}); err == nil {
		t.Error("bad address: no error")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l, err := Listen("127.0.0.1:0", TLSFiles{}, ListenOptions{MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	o, _ := testOptions()
	address := serving(t, NewHTTP(l, &fakeBroker{}, fakeDocuments{}, o))
	answered := func(conn net.Conn, within time.Duration) bool {
		_ = conn.SetDeadline(time.Now().Add(within))
		_, _ = io.WriteString(conn, "HEAD /jwks HTTP/1.1\r\nHost: b\r\n\r\n")
		_, err := conn.Read(make([]byte, 4096))
		return err == nil
	}
	var conns []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	if !answered(conns[0], 5*time.Second) || !answered(conns[1], 5*time.Second) {
		t.Error("connections below the bound are not served")
	}
	if answered(conns[2], 50*time.Millisecond) {
		t.Error("a third connection was served")
	}
	conns[0].Close()
	conns[2].Close()
	again, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !answered(again, 5*time.Second) {
		t.Error("a closed connection keeps its place")
	}
}

func TestClosingEndsAnAcceptThatWaitsForRoom(t *testing.T) {
	l, err := Listen("127.0.0.1:0", TLSFiles{}, ListenOptions{MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ended := make(chan error)
	go func() { _, err := l.Accept(); ended <- err }()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("Accept returned a connection")
	}
	if err := l.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestSocketIsPrivateAndReplacedOnlyIfStale(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0)) // the worst there is
	dir, err := os.MkdirTemp("", "s")     // t.TempDir() may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "admin.sock")
	listen := func() (*Listener, error) { return ListenSocket(path, ListenOptions{MaxConns: 4}) }

	l, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if second, err := listen(); err == nil {
		second.Close()
		t.Error("a socket in use was replaced")
	}
	l.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket outlives its listener: %v", err)
	}

	// What a killed process leaves: a socket without a listener.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err = listen()
	if err != nil {
		t.Fatal(err)
	}
	// A later process's socket is not removed by an earlier one's end.
	_ = os.Remove(path)
	writeFile(t, path, []byte("mine"))
	l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("somebody else's file was removed: %v", err)
	}
	if second, err := listen(); err == nil {
		second.Close()
		t.Error("a file that is no socket was replaced")
	}
	if _, err := ListenSocket(filepath.Join(dir, "none", "s"), ListenOptions{MaxConns: 1}); err == nil {
		t.Error("no directory: no error")
	}
	if _, err := ListenSocket(filepath.Join(dir, strings.Repeat("s", 120)), ListenOptions{MaxConns: 1}); err == nil {
		t.Error("a name that is too long: no error")
	}
}
