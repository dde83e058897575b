package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ListenSocket listens on a Unix socket that only this process's user (and root) may connect to. What is left of an
// earlier process is replaced; a socket on which somebody listens, or a file that is no socket, is an error.
func ListenSocket(path string, o ListenOptions) (*Listener, error) {
	// The short name that it is first bound to would hide this from bind.
	if most := len(syscall.RawSockaddrUnix{}.Path) - 1; len(path) > most {
		return nil, fmt.Errorf("socket %s: the path is longer than %d bytes, so nobody could connect to it", path, most)
	}
	if err := checkStale(path); err != nil {
		return nil, err
	}
	// Between bind and chmod a socket has whatever mode the umask leaves. So it is made where nobody else can reach it
	// and is then moved to its place, which also replaces a stale one without a gap.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // an empty directory of mode 0700 does no harm
	private := filepath.Join(dir, "s")
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", private)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it would unlink the name it was bound to
	made, err := place(private, path)
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return &Listener{Listener: newBounded(&socketListener{Listener: l, path: path, made: made}, o)}, nil
}

// place gives the socket its mode and its name.
func place(private, path string) (os.FileInfo, error) {
	if err := os.Chmod(private, 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(private, path); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// checkStale says whether path may be replaced: it is not there, or is a socket that refuses connections.
func checkStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("socket %s: %w", path, err)
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("socket %s: something else has this name, and it is not replaced", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("socket %s: another process listens on it", path)
}

// socketListener removes its socket when it closes, unless a later process has put another in its place.
type socketListener struct {
	net.Listener
	path string
	made os.FileInfo
}

// Accept notes who is at the other end, as the connection's remote address: a Unix socket has no other.
func (s *socketListener) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &socketConn{Conn: conn, peer: peerAddr(peerCred(conn.(*net.UnixConn)))}, nil
}

type socketConn struct {
	net.Conn
	peer peerAddr
}

func (c *socketConn) RemoteAddr() net.Addr { return c.peer }

// peerAddr is a process of this machine, in words.
type peerAddr string

func (peerAddr) Network() string  { return "unix" }
func (p peerAddr) String() string { return string(p) }

func (s *socketListener) Close() error {
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(s.made, now) {
		_ = os.Remove(s.path)
	}
	return s.Listener.Close()
}
