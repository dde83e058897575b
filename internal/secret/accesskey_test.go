package secret_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/secret"
)

func TestReadAccessKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.json")
	for text, ok := range map[string]bool{
		`{"access_key_id":"a","secret_access_key":"planted"}`: true, ` {"secret_access_key":"planted", "access_key_id":"a"}` + "\n": true,
		`{"access_key_id":"a"}`: false, `{"access_key_id":"a","secret_access_key":""}`: false, `{"secret_access_key":"planted"}`: false,
		`{"access_key_id":"","secret_access_key":"planted"}`: false, `{"access_key_id":"a","secret_access_key":"planted","more":1}`: false,
		`{"access_key_id":"a","access_key_id":"b","secret_access_key":"planted"}`: false, `["planted"]`: false, "planted": false, "": false,
		`{"access_key_id":"a","secret_access_key":"planted"}` + strings.Repeat(" ", 4<<10): false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		id, key, err := secret.ReadAccessKey(file)
		if (err == nil) != ok || ok && (id != "a" || key.Reveal() != "planted") || !ok && (id != "" || !key.IsZero()) || err != nil && (strings.Contains(err.Error(), "planted") || !strings.Contains(err.Error(), file)) {
			t.Errorf("%.80s: %q, %v", text, id, err)
		}
	}
	if _, _, err := secret.ReadAccessKey(file + ".not"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
