// Package brokertest runs real servers for tests - MinIO, Redis, Kubernetes' API, and the broker itself - and holds strict
// fakes for what can't run here. No product code imports it.
package brokertest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ModuleRoot is the directory of go.mod.
func ModuleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test's directory")
		}
		dir = parent
	}
}

// Tool returns the path of a pinned tool of scripts/tools.txt and installs it first if need be. A tool that can't be had
// fails the test: without it nothing would be tested.
func Tool(t testing.TB, name string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(ModuleRoot(t), "scripts", "tool"), name)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("scripts/tool %s: %v\n%s", name, err, stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}
