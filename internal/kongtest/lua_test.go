package kongtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// docs/kong.md has every setting of the schema, and names no file that isn't there.
func TestTheDocumentHasEverySetting(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(brokertest.ModuleRoot(t), "docs", "kong.md"))
	if err != nil {
		t.Fatal(err)
	}
	schema := deployed(t, "plugins/credential-broker/schema.lua")
	_, fields, _ := strings.Cut(schema, "local config = ")
	fields, _, _ = strings.Cut(fields, "entity_checks")
	names := regexp.MustCompile(`(?m)^    \{ ([a-z_]+) = `).FindAllStringSubmatch(fields, -1)
	if len(names) < 25 {
		t.Fatalf("%d settings", len(names))
	}
	for _, name := range names {
		short := strings.TrimPrefix(name[1], "override_target")
		if !strings.Contains(string(text), "`"+name[1]+"`") && !strings.Contains(string(text), "`"+short+"`") {
			t.Errorf("docs/kong.md doesn't have %s", name[1])
		}
	}
	for _, match := range regexp.MustCompile("`(deploy/kong/[a-z./-]+|internal/[a-z]+)`").FindAllStringSubmatch(string(text), -1) {
		if _, err := os.Stat(filepath.Join(brokertest.ModuleRoot(t), match[1])); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"pre-function.lua", "pre-function-http.lua", "post-function.lua"} {
		_, row, _ := strings.Cut(string(text), "| `"+name+"` | ")
		row, _, _ = strings.Cut(row, "\n")
		for _, match := range regexp.MustCompile(`(?m)^local \w+ = require "([a-z0-9.]+)"`).FindAllStringSubmatch(deployed(t, "functions/"+name), -1) {
			if !strings.Contains(row, "`"+match[1]+"`") {
				t.Errorf("docs/kong.md doesn't say that %s requires %s: %s", name, match[1], row)
			}
		}
	}
}
