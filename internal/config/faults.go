package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/credbroker/credbroker/internal/policy"
)

// Fault is one thing wrong with a configuration.
type Fault struct {
	// File is the file as it was named, or the environment variable that the value came from.
	File string
	// Line is counted from 1; 0 for an environment variable and where there is no file.
	Line int
	// Path is the key, as in "issuers[0].skew"; empty if the fault is the whole file's.
	Path string
	// Problem says what is wrong and what was expected.
	Problem string
}

// String is "file:line: key: problem".
func (f Fault) String() string {
	s := f.File
	if f.Line > 0 {
		s = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	if f.Path != "" {
		s += ": " + f.Path
	}
	return s + ": " + f.Problem
}

// Faults is everything that is wrong with a configuration, by line, and environment variables last.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

func (f Faults) sort() {
	slices.SortStableFunc(f, func(a, b Fault) int {
		if (a.Line == 0) != (b.Line == 0) {
			return cmp.Compare(b.Line, a.Line)
		}
		return cmp.Or(cmp.Compare(a.Line, b.Line), strings.Compare(a.File, b.File), strings.Compare(a.Path, b.Path))
	})
}

// origin is where a value was written.
type origin struct {
	file string // or the environment variable
	line int
}

// origins holds where keys are written, by path. The path "" is the file itself.
type origins map[string]origin

// of is where the key is written, or else the nearest key around it.
func (o origins) of(path string) origin {
	for path != "" {
		if at, ok := o[path]; ok {
			return at
		}
		path = parent(path)
	}
	return o[""]
}

// parent is the path of the key around a key; empty for one at the top.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// Locate says where a key is written: file and line, or an environment variable and 0. A key that is not written is
// found where the one around it is.
func (c *Config) Locate(path string) (file string, line int) {
	at := c.origins.of(path)
	return at.file, at.line
}

// PolicyFaults gives the faults of policy.Compile their places.
func (c *Config) PolicyFaults(in policy.Faults) Faults {
	out := make(Faults, len(in))
	for i, f := range in {
		file, line := c.Locate(f.Path)
		out[i] = Fault{File: file, Line: line, Path: f.Path, Problem: f.Problem}
	}
	out.sort()
	return out
}

// join is the path of a key in the mapping at path. Keys that could be mistaken for a path are quoted.
func join(path, key string) string {
	switch {
	case key == "" || strings.ContainsFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) || len(key) > 64:
		return fmt.Sprintf("%s[%.64q]", path, key)
	case path == "":
		return key
	}
	return path + "." + key
}

// nearest asks whether the known word nearest to an unknown one was meant; empty if none is near.
func nearest(unknown string, known []string) string {
	best, least := "", min(4, 1+len(unknown)/3)
	if len(unknown) > 128 {
		return ""
	}
	for _, k := range known {
		if n := distance(unknown, k); n <= least && (best == "" || n < least) {
			best, least = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %s?", best)
}

// distance is the number of bytes to add, drop or replace that makes one word the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
