package deploytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// licences are those that modules of the product may have, by words that their texts hold, in the order in which they are looked for.
var licences = []struct{ name, words string }{
	{"Apache-2.0", "apache license"},
	{"MPL-2.0", "mozilla public license"},
	{"MIT", "permission is hereby granted, free of charge"},
	{"BSD", "redistribution and use in source and binary forms"},
	{"ISC", "permission to use, copy, modify, and"},
}

// forbidden are words of licences that nothing linked into the product may have: they bind who runs or links it.
var forbidden = regexp.MustCompile(`business source license|affero general public|server side public license|gnu general public license|elastic license|commons clause`)

// TestModulesOfTheProductHavePermissiveLicences reads the licence of each module that the program and the Go client link.
func TestModulesOfTheProductHavePermissiveLicences(t *testing.T) {
	root := brokertest.ModuleRoot(t)
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}", "./cmd/broker", ".", "./prove")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		module, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		if seen[module] || module == "" {
			continue
		}
		seen[module] = true
		texts, err := filepath.Glob(filepath.Join(dir, "[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*"))
		if err != nil || len(texts) == 0 {
			t.Errorf("%s has no licence", module)
			continue
		}
		for _, file := range texts {
			if info, err := os.Stat(file); err != nil || info.IsDir() {
				continue
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if name := licenceOf(string(data)); name == "" {
				t.Errorf("%s: %s is none of the licences that may be linked", module, filepath.Base(file))
			}
		}
	}
	if len(seen) < 50 || !seen["github.com/hashicorp/vault/api"] {
		t.Errorf("%d modules: %v", len(seen), seen)
	}
	for _, module := range []string{"github.com/hashicorp/vault", "github.com/minio/minio", "github.com/minio/madmin-go", "github.com/minio/pkg"} {
		if seen[module] {
			t.Errorf("%s is linked", module)
		}
	}
}

// licenceOf is the name of a licence that may be linked, by its text; empty for any other.
func licenceOf(text string) string {
	text = strings.Join(strings.Fields(strings.ToLower(text)), " ")
	// MPL-2.0 names the GPL and the AGPL as licences that a work may be under besides.
	if !strings.Contains(text, "mozilla public license version 2.0") && !strings.Contains(text, "mozilla public license, version 2.0") && forbidden.MatchString(text) {
		return ""
	}
	for _, l := range licences {
		if strings.Contains(text, l.words) {
			return l.name
		}
	}
	return ""
}

func TestLicencesThatMayNotBeLinkedAreKnown(t *testing.T) {
	for text, want := range map[string]string{
		"Business Source License 1.1":                           "",
		"GNU AFFERO\nGENERAL PUBLIC LICENSE Version 3":          "",
		"Server Side Public License":                            "",
		"Apache License Version 2.0":                            "Apache-2.0",
		"Apache License ... Commons Clause":                     "",
		"Mozilla Public License Version 2.0 ... GNU Affero ...": "MPL-2.0",
		"All rights reserved.":                                  "",
	} {
		if got := licenceOf(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
