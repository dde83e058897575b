package agent

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestAuthorizationMakesItsFileOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := OpenAuthorization(file); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Fatal(info, err)
	}
	data, _ := os.ReadFile(file)
	a, err := OpenAuthorization(file)
	if err != nil || !a.Accepts([]string{string(data)}) || len(data) != 52 {
		t.Errorf("%v; %d bytes", err, len(data))
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("it leaves %v", left)
	}
	if _, err := OpenAuthorization(filepath.Join(dir, "no", "token")); err == nil {
		t.Error("it made a directory")
	}
}

func TestAuthorizationFollowsItsFile(t *testing.T) {
	file := tokenFile(t, token+"\r\n")
	a, err := OpenAuthorization(file)
	if err != nil || !a.Accepts([]string{token}) {
		t.Fatal(err)
	}
	other := strings.Repeat("o", 16)
	if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if a.Accepts([]string{token}) || !a.Accepts([]string{other}) {
		t.Error("the former token counts")
	}
	if a.Accepts(nil) || a.Accepts([]string{other, other}) || a.Accepts([]string{""}) {
		t.Error("none or two count")
	}
	_ = os.Remove(file)
	if a.Accepts([]string{other}) || a.Accepts([]string{""}) {
		t.Error("without a file, something counts")
	}
}

func TestAuthorizationRefusesWhatIsNoToken(t *testing.T) {
	for _, text := range []string{"", "\n", strings.Repeat("x", 15), strings.Repeat("x", 15) + "\n", "two tokens of one file", "two-lines-of\none-long-file", "not-of-ascii-é-at-all", strings.Repeat("x", 4097), strings.Repeat("x", 1<<20)} {
		if _, err := OpenAuthorization(tokenFile(t, text)); err == nil {
			t.Errorf("%.20q is taken", text)
		}
	}
	if _, err := OpenAuthorization(tokenFile(t, strings.Repeat("x", 4096)+"\r\n")); err != nil {
		t.Error(err)
	}
}

func TestAddressesThatOthersReachAreRefused(t *testing.T) {
	for text, want := range map[string]Address{
		"127.0.0.1:8450":      {"tcp", "127.0.0.1:8450"},
		"127.8.9.1:0":         {"tcp", "127.8.9.1:0"},
		"[::1]:80":            {"tcp", "[::1]:80"},
		"169.254.170.23:80":   {"tcp", "169.254.170.23:80"},
		"[fd00:ec2::23]:80":   {"tcp", "[fd00:ec2::23]:80"},
		"unix:/run/a.sock":    {"unix", "/run/a.sock"},
		"[FD00:EC2:0::23]:80": {"tcp", "[fd00:ec2::23]:80"},
	} {
		if got, err := ParseAddress(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", ":8450", "0.0.0.0:80", "[::]:80", "10.0.0.1:80", "169.254.169.254:80", "169.254.170.2:80", "[fe80::1%eth0]:80", "[::1%lo]:80", "localhost:80",
		"[::ffff:127.0.0.1]:80", "[::ffff:10.0.0.1]:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "unix:", "unix:a.sock", "unix:@a", "tcp:127.0.0.1:80",
	} {
		if got, err := ParseAddress(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

func TestHosts(t *testing.T) {
	for text, want := range map[string][]string{
		"127.0.0.1:8450":    {"127.0.0.1:8450", "localhost:8450"},
		"[::1]:8450":        {"[::1]:8450", "localhost:8450"},
		"127.0.0.1:80":      {"127.0.0.1:80", "localhost:80", "127.0.0.1", "localhost"},
		"169.254.170.23:80": {"169.254.170.23:80", "169.254.170.23"},
		"[fd00:ec2::23]:80": {"[fd00:ec2::23]:80", "[fd00:ec2::23]"},
	} {
		at, err := net.ResolveTCPAddr("tcp", text)
		if err != nil {
			t.Fatal(err)
		}
		if got := Hosts(at); !slices.Equal(got, want) {
			t.Errorf("%s: %q", text, got)
		}
	}
	if Hosts(&net.UnixAddr{Name: "/run/a.sock", Net: "unix"}) != nil {
		t.Error("a socket has a host")
	}
}
