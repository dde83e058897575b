package secret_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/secret"
)

func TestReadKeys(t *testing.T) {
	a, b := strings.Repeat("a", 32), strings.Repeat("b", 32)
	a64, b64 := base64.StdEncoding.EncodeToString([]byte(a)), base64.StdEncoding.EncodeToString([]byte(b))
	cases := []struct {
		text string
		want []string
		says string
	}{
		{a64, []string{a}, ""},
		{a64 + "\n", []string{a}, ""},
		{a64 + "\n" + b64 + "\n", []string{a, b}, ""},
		{a64 + "\r\n" + b64 + "\r\n", []string{a, b}, ""},
		{"", nil, "is empty"},
		{a64 + "\n" + b64 + "\n" + a64, nil, "3 lines"},
		{a64 + "\n\n", nil, "line 2"},
		{a64 + "\n" + a64, nil, "same key"},
		{base64.StdEncoding.EncodeToString([]byte("short")), nil, "a key of 5 bytes"},
		{base64.StdEncoding.EncodeToString([]byte(a + "x")), nil, "a key of 33 bytes"},
		{a64[:8] + "\r" + a64[8:], nil, "isn't standard base64"},
		{strings.TrimRight(a64, "="), nil, "isn't standard base64"},
		{strings.Repeat(a, 2), nil, "48 bytes"},
		{strings.Repeat(a64, 20), nil, "larger than 512"},
		{"not base64 at all, is it?", nil, "isn't standard base64"},
	}
	for _, c := range cases {
		path := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := secret.ReadKeys(path)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("%q: %v; want it to say %q", c.text, err, c.says)
			}
			if err != nil && c.text != "" && strings.Contains(err.Error(), c.text) {
				t.Errorf("the error quotes the file: %v", err)
			}
			continue
		}
		if err != nil || len(keys) != len(c.want) {
			t.Errorf("%q: %d keys, %v", c.text, len(keys), err)
			continue
		}
		for i, k := range keys {
			if k.Reveal() != c.want[i] {
				t.Errorf("%q: key %d differs", c.text, i)
			}
		}
	}
	if _, err := secret.ReadKeys(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that isn't there was read")
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(base64.StdEncoding.EncodeToString(make([]byte, 32)))
	f.Add("\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := secret.ParseKeys(secret.New(text))
		if err != nil {
			return
		}
		var again []string
		for _, k := range keys {
			if k.Len() != secret.KeySize {
				t.Errorf("a key of %d bytes", k.Len())
			}
			again = append(again, base64.StdEncoding.EncodeToString([]byte(k.Reveal())))
		}
		if got := strings.Join(again, "\n"); got != strings.ReplaceAll(text, "\r", "") {
			t.Errorf("%q was read as %q", text, got)
		}
	})
}
