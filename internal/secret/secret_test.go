package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/credbroker/credbroker/internal/secret"
)

const planted = "planted-s3cret"

type holder struct {
	Public secret.Secret
	hidden secret.Secret
	nested struct{ deep *secret.Secret }
	list   []secret.Secret
	byName map[string]secret.Secret
}

func TestNoFormattingPathPrintsTheText(t *testing.T) {
	s := secret.New(planted)
	h := holder{Public: s, hidden: s, list: []secret.Secret{s}, byName: map[string]secret.Secret{"k": s}}
	h.nested.deep = &s

	var out bytes.Buffer
	for _, v := range []any{s, &s, h, &h, []any{s}, map[string]any{"a": s}, fmt.Errorf("wrapped: %v", s)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v) //nolint:govet // deliberate verb mismatch
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		if data, err := json.Marshal(v); err == nil {
			out.Write(data)
		}
		if data, err := yaml.Marshal(v); err == nil {
			out.Write(data)
		}
	}
	if data, err := xml.Marshal(s); err == nil {
		out.Write(data)
	}
	if err := gob.NewEncoder(&out).Encode(s); err == nil {
		t.Error("gob encoded a secret")
	}
	func() {
		defer func() { fmt.Fprint(&out, recover()) }()
		panic(h)
	}()
	if strings.Contains(out.String(), planted) || strings.Contains(out.String(), fmt.Sprintf("%x", planted)) {
		t.Errorf("a formatting path printed the secret:\n%s", out.String())
	}
	if !strings.Contains(out.String(), secret.Redacted) {
		t.Error("nothing was redacted: the test looks at nothing")
	}
}

func TestSecretIsNotDecodedFromText(t *testing.T) {
	var s secret.Secret
	if err := json.Unmarshal([]byte(`"x"`), &s); err == nil {
		t.Error("JSON made a secret")
	}
}

func TestEqualAndZero(t *testing.T) {
	if !secret.New("a").Equal(secret.New("a")) || secret.New("a").Equal(secret.New("b")) {
		t.Error("Equal is wrong")
	}
	var zero secret.Secret
	if !zero.IsZero() || zero.Reveal() != "" || !secret.New("").IsZero() || secret.New("x").IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for text, want := range map[string]string{"abc": "abc", "abc\n": "abc", "abc\r\n": "abc", "abc\n\n": "abc\n", " a ": " a "} {
		got, err := secret.ReadFile(write(text), 5)
		if err != nil || got.Reveal() != want {
			t.Errorf("%q: got %q, %v; want %q", text, got.Reveal(), err, want)
		}
	}
	for _, text := range []string{"", "\n", "123456"} {
		if _, err := secret.ReadFile(write(text), 5); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
	if _, err := secret.ReadFile(filepath.Join(dir, "none"), 5); err == nil {
		t.Error("missing file: no error")
	}
}

// A pipe is a file, too: one that nobody writes to holds nobody up.
func TestReadFileDoesntWaitForAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := secret.ReadFile(path, 100); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("got %v", err)
	}
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	go func() {
		time.Sleep(10 * time.Millisecond)
		_, _ = w.WriteString("planted")
		w.Close()
	}()
	if s, err := secret.ReadFile(path, 100); err != nil || s.Reveal() != "planted" {
		t.Errorf("got %d bytes, %v", s.Len(), err)
	}
}
