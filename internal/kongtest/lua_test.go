package kongtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/brokertest"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = brokertest.ModuleRoot(t)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, out)
	}
	return string(out)
}

func TestSpecs(t *testing.T) {
	out := run(t, brokertest.Tool(t, "lua-busted"), "--helper=internal/kongtest/spec/helper.lua", "--lpath=deploy/?.lua;internal/kongtest/shim/?.lua",
		"--output=TAP", "internal/kongtest/spec")
	if !strings.Contains(out, "ok 1 ") || strings.Contains(out, "not ok") {
		t.Errorf("%s", out)
	}
}

func TestLuaIsClean(t *testing.T) {
	run(t, brokertest.Tool(t, "lua-check"), "--config", ".luacheckrc", "deploy/kong", "internal/kongtest")
}

// Nothing of the tests is in what is shipped.
func TestThePluginStandsAlone(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(brokertest.ModuleRoot(t), "deploy", "kong", "plugins", "*", "*.lua"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(text), "\n"); lines > 400 {
			t.Errorf("%s has %d lines", file, lines)
		}
		for _, word := range []string{"kongtest", "nginx.sha256", "openssl"} {
			if strings.Contains(string(text), word) {
				t.Errorf("%s names %s", file, word)
			}
		}
	}
}
