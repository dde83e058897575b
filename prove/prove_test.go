package prove_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/prove"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func reveal(t *testing.T, p prove.Prover) string {
	t.Helper()
	proof, err := p.Prove(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if proof.Kind() != prove.JWT {
		t.Errorf("kind %q", proof.Kind())
	}
	return proof.Reveal()
}

func TestTokenFileFollowsRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	write(t, path, "first\n")
	p := prove.TokenFile(path)
	if got := reveal(t, p); got != "first" {
		t.Fatalf("got %q", got)
	}
	// The same size and, for all that a clock can tell, the same time.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "other\n")
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if got := reveal(t, p); got != "other" {
		t.Errorf("after it was written: %q", got)
	}
	// As the kubelet does: token → ..data/token, and ..data is a link that is replaced.
	for _, version := range []string{"v1", "v2"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "token"), version)
		if err := os.Symlink(version, filepath.Join(dir, "next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if got := reveal(t, prove.TokenFile(filepath.Join(dir, "..data", "token"))); got != version {
			t.Errorf("after the link moved: %q", got)
		}
	}
	// It may be away for a moment.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Prove(t.Context()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("away: %v", err)
	}
	write(t, path, "third")
	if got := reveal(t, p); got != "third" {
		t.Errorf("back: %q", got)
	}
}

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	most := strings.Repeat("a", 16<<10)
	for name, c := range map[string]struct {
		text, token string
		fault       string // of a file
	}{
		"plain":                  {"eyJ.eyJ.-_~+/=", "eyJ.eyJ.-_~+/=", ""},
		"ends and range":         {"azAZ09", "azAZ09", ""},
		"a line ending":          {"t\n", "t", ""},
		"a DOS line ending":      {"t\r\n", "t", ""},
		"the largest":            {most, most, ""},
		"larger":                 {most + "a", "", "larger than 16384 bytes"},
		"empty":                  {"", "", "is empty"},
		"a line ending alone":    {"\n", "", "is empty"},
		"two lines":              {"planted\nplanted", "", "holds something else than one token: byte 8 can't"},
		"two line endings":       {"planted\n\n", "", "byte 8 can't"},
		"a space":                {"planted ", "", "byte 8 can't"},
		"the scheme before it":   {"Bearer planted", "", "byte 7 can't"},
		"JSON":                   {`{"planted":1}`, "", "byte 1 can't"},
		"a byte order mark":      {"\ufeffplanted", "", "byte 1 can't"},
		"NUL":                    {"planted\x00", "", "byte 8 can't"},
		"next to the characters": {"planted@", "", "byte 8 can't"},
	} {
		write(t, path, c.text)
		proof, err := prove.TokenFile(path).Prove(t.Context())
		if c.fault == "" {
			if err != nil || proof.Reveal() != c.token {
				t.Errorf("%s: %q, %v", name, proof.Reveal(), err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.fault) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := prove.Token(c.text).Prove(t.Context()); err == nil || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s, not from a file: %v", name, err)
		}
	}
	if _, err := prove.TokenFile(t.TempDir()).Prove(t.Context()); err == nil {
		t.Error("a directory is no token")
	}
	if got := reveal(t, prove.Token("one.two")); got != "one.two" {
		t.Errorf("got %q", got)
	}
}

func TestTokenFuncIsAskedEachTime(t *testing.T) {
	n, fault := 0, error(nil)
	type key struct{}
	p := prove.TokenFunc(func(ctx context.Context) (string, error) {
		if ctx.Value(key{}) != "here" {
			t.Error("it doesn't get the caller's context")
		}
		n++
		return fmt.Sprintf("token-%d", n), fault
	})
	ctx := context.WithValue(t.Context(), key{}, "here")
	for _, expected := range []string{"token-1", "token-2"} {
		if proof, err := p.Prove(ctx); err != nil || proof.Reveal() != expected {
			t.Errorf("got %q, %v", proof.Reveal(), err)
		}
	}
	fault = errors.New("not now")
	if _, err := p.Prove(ctx); !errors.Is(err, fault) {
		t.Errorf("got %v", err)
	}
}

func TestAProofPrintsNoSecret(t *testing.T) {
	p := prove.NewProof(prove.JWT, "planted")
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", p, &p, struct{ inner prove.Proof }{p})
	}
	if hex := fmt.Sprintf("%x %X", p, p); strings.Contains(strings.ToLower(hex), fmt.Sprintf("%x", "planted")) {
		t.Errorf("in hex: %s", hex)
	}
	data, err := json.Marshal(struct{ P prove.Proof }{p})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(data)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "p", p)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "p", &p)
	if strings.Contains(out.String(), "planted") {
		t.Errorf("it is in:\n%s", out.String())
	}
	if got := p.String(); got != "jwt proof [redacted]" {
		t.Errorf("it prints as %q", got)
	}
}
