package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/config"
)

func readDoc(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(brokertest.ModuleRoot(t), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTheReadmesConfigurationIsSoundAndShort(t *testing.T) {
	_, text, ok := strings.Cut(readDoc(t, "README.md"), "```yaml\n")
	if !ok {
		t.Fatal("the README shows no configuration")
	}
	text, _, _ = strings.Cut(text, "```")
	cfg, err := config.Parse("README.md", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := compileRules(cfg, backends(cfg)); err != nil {
		t.Error(err)
	}
	if n := strings.Count(text, "\n"); n > 10 {
		t.Errorf("it has %d lines", n)
	}
}

func TestTheReadmesCommandsAreThere(t *testing.T) {
	text := readDoc(t, "README.md")
	root := newRootCommand()
	for _, m := range regexp.MustCompile("broker ((?:admin )?[a-z-]+)(?: --| REQUEST|`)").FindAllStringSubmatch(text, -1) {
		c, rest, err := root.Find(strings.Fields(m[1]))
		if err != nil || c == root || len(rest) > 0 {
			t.Errorf("README: `broker %s`: %v", m[1], err)
		}
	}
	makefile := readDoc(t, "Makefile")
	for _, m := range regexp.MustCompile(`(?m)^    make ([a-z]+)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(makefile, "\n"+m[1]+":") {
			t.Errorf("README: make %s isn't in the Makefile", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`((?:internal|cmd|deploy|docs|proto)/[a-z0-9_./-]*)`").FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join(brokertest.ModuleRoot(t), m[1])); err != nil {
			t.Errorf("README: %v", err)
		}
	}
}

// TestTheArchitecturesNamesAreThere looks for each function that the page names.
func TestTheArchitecturesNamesAreThere(t *testing.T) {
	text := readDoc(t, "docs/architecture.md")
	names := regexp.MustCompile("`([a-z]+)\\.\\(\\*([A-Za-z]+)\\)\\.([A-Za-z]+)`").FindAllStringSubmatch(text, -1)
	if len(names) < 5 {
		t.Fatalf("%d names: nothing is looked at", len(names))
	}
	for _, m := range names {
		pattern := `func \([a-z]* ?\*` + m[2] + `\) ` + m[3] + `\(`
		cmd := exec.Command("grep", "-rqE", "--include=*.go", "--exclude=*_test.go", pattern, "internal")
		cmd.Dir = brokertest.ModuleRoot(t)
		if err := cmd.Run(); err != nil {
			t.Errorf("%s isn't there", m[0])
		}
	}
}
