// Package deploytest holds the files below deploy/, and the Dockerfile, to what the program is: its configuration's names
// and defaults, the rules' outcome, and what a real MinIO makes of the policies. It has tests alone.
package deploytest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/config"
	"github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/policy"
)

const (
	exampleConfig = "deploy/policy/broker.yaml"
	composeConfig = "deploy/compose/broker.yaml"
	policyDir     = "deploy/policy/minio"
)

// inModule is the path of a file of the module.
func inModule(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(brokertest.ModuleRoot(t), filepath.FromSlash(name))
}

// read returns a file of the module.
func read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(inModule(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// files returns the files below a directory of the module that match a pattern, by their names in the module. What git and
// deploy/compose/setup.sh keep there is left out.
func files(t testing.TB, dir, pattern string) []string {
	t.Helper()
	root := brokertest.ModuleRoot(t)
	foreign := []string{".git", "deploy/compose/tls", "deploy/compose/secrets", "deploy/compose/data"}
	var found []string
	err := filepath.WalkDir(inModule(t, dir), func(file string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another test's, gone since it was listed
		}
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, file)
		name = filepath.ToSlash(name)
		if slices.Contains(foreign, name) && entry.IsDir() { // in a linked work tree, .git is a file
			return fs.SkipDir
		}
		if ok, _ := filepath.Match(pattern, entry.Name()); ok && !entry.IsDir() {
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no %s below %s", pattern, dir)
	}
	return found
}

// load parses a configuration of the module.
func load(t testing.TB, name string, environ ...string) *config.Config {
	t.Helper()
	cfg, err := config.Parse(name, []byte(read(t, name)), environ)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// compile compiles a configuration's roles as cmd/broker does.
func compile(t testing.TB, cfg *config.Config) *policy.Rules {
	t.Helper()
	backends := map[string]policy.Backend{}
	for name, e := range cfg.Exchangers {
		backends[name] = minio.WebIdentityHonours(e.AllowedPolicies)
	}
	rules, err := policy.Compile(cfg.Roles, backends)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// identity reads an identity in the form that `broker check-policy --as` takes.
func identity(t testing.TB, name string) attest.Identity {
	t.Helper()
	var in struct {
		Kind      attest.Kind         `json:"kind"`
		Issuer    string              `json:"issuer"`
		Subject   string              `json:"subject"`
		Attrs     map[string][]string `json:"attrs"`
		PathAttrs []string            `json:"path_attrs"`
	}
	if err := json.Unmarshal([]byte(read(t, name)), &in, json.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	id := attest.Identity{
		Kind: in.Kind, Issuer: in.Issuer, Subject: in.Subject, Attrs: in.Attrs, PathAttrs: map[string]bool{},
		Expires: time.Now().Add(time.Hour),
	}
	for _, attr := range in.PathAttrs {
		id.PathAttrs[attr] = true
	}
	return id
}

// settings reads NAME=VALUE lines; comments and section headers are left out. A name may stand there more than once.
func settings(text string) map[string][]string {
	out := map[string][]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, "="); ok && line[0] != '#' {
			out[name] = append(out[name], value)
		}
	}
	return out
}
