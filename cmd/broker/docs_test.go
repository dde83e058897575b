package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

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

// TestExamplesAreSound reads each configuration that docs/proofs and these pages show, with an exchanger and what TLS takes.
func TestExamplesAreSound(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(brokertest.ModuleRoot(t), "docs/proofs/*.md"))
	if err != nil || len(pages) < 8 {
		t.Fatal(pages, err)
	}
	examples := 0
	for _, page := range []string{"gateway", "kong", "exchangers", "vault", "signing"} {
		pages = append(pages, filepath.Join(brokertest.ModuleRoot(t), "docs", page+".md"))
	}
	for _, page := range pages {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split(string(data), "```yaml\n")[1:] {
			text, _, _ := strings.Cut(block, "```")
			if strings.HasPrefix(text, "volumes:") { // a pod's
				continue
			}
			name := fmt.Sprintf("%s, example %d", filepath.Base(page), i+1)
			if !strings.Contains(text, "exchangers:") {
				text += "exchangers:\n  minio: {kind: minio-web-identity, endpoint: \"http://127.0.0.1:9000\", client_id: c, allowed_policies: [reports-rw, reports-ro]}\n"
			}
			if filepath.Base(page) == "vault.md" && !strings.HasPrefix(text, "vault:") {
				text += "vault: {address: \"https://vault.internal:8200\", auth: {method: kubernetes, role: credbroker}}\n"
			}
			cfg, err := config.Parse(name, []byte(text), []string{"CREDBROKER__LISTENERS__GRPC__TLS__CERT_FILE=c", "CREDBROKER__LISTENERS__GRPC__TLS__KEY_FILE=k"})
			if err != nil {
				t.Error(err)
				continue
			}
			if _, err := compileRules(cfg, backends(cfg)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			examples++
		}
	}
	if examples < 20 {
		t.Errorf("%d examples", examples)
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

// TestTheGoClientsPageKnowsAllProofs looks for each value of --proof and each clue that auto goes by, in auto's order.
func TestTheGoClientsPageKnowsAllProofs(t *testing.T) {
	page := readDoc(t, "docs/go-client.md")
	_, table, ok := strings.Cut(page, "| Kind | By |")
	if !ok {
		t.Fatal("there is no table of what auto looks for")
	}
	at := 0
	for _, k := range proofKinds {
		for _, clue := range append(k.clues.env, k.clues.file) {
			i := strings.Index(table, "`"+clue+"`")
			if clue == "" {
				continue
			}
			if i < at {
				t.Errorf("%s: %s is missing, or not in order", k.name, clue)
			}
			at = i
		}
		if !strings.Contains(table, "`"+k.name+"`") {
			t.Errorf("%s is missing", k.name)
		}
	}
	for _, k := range proofKinds {
		if !strings.Contains(table[at:], "`"+k.clues.board+"`") && k.clues.board != "" {
			t.Errorf("%s is missing after the rest", k.clues.board)
		}
	}
	_, manifest, _ := strings.Cut(page, "```yaml\n")
	manifest, _, _ = strings.Cut(manifest, "```")
	var volume struct {
		Projected struct {
			Sources []struct {
				ServiceAccountToken struct {
					Path              string `yaml:"path"`
					Audience          string `yaml:"audience"`
					ExpirationSeconds int    `yaml:"expirationSeconds"`
				} `yaml:"serviceAccountToken"`
			} `yaml:"sources"`
		} `yaml:"projected"`
	}
	if err := yaml.Unmarshal([]byte(manifest), &volume); err != nil || len(volume.Projected.Sources) != 1 {
		t.Fatalf("%v: %s", err, manifest)
	}
	token := volume.Projected.Sources[0].ServiceAccountToken
	_, mounted, _ := strings.Cut(page, "to mount at `")
	mounted, _, _ = strings.Cut(mounted, "`")
	if mounted+"/"+token.Path != podToken || token.Audience == "" || token.ExpirationSeconds > 3600 { // issuers[].max_lifetime by default
		t.Errorf("at %s: %+v", mounted, token)
	}
}
