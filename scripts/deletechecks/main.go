// Command deletechecks takes the checks out of Go packages, one at a time, and runs the package's tests each time: a check
// that can go without a test noticing is printed, and the exit code is 1.
//
//	go run ./scripts/deletechecks [-accepted FILE] ./internal/issuer ./internal/policy
//
// A check is an operand of a condition: of an if, or of a case in a switch without a value. It is taken out by making it
// neutral: false in an or and where it stands alone, true in an and. The source tree isn't touched (go test -overlay).
//
// It complements gremlins, which shifts boundaries and negates comparisons, but doesn't look into cases.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	accepted := flag.String("accepted", "", "file of checks that may go: lines of FILE: FUNCTION: CHECK, and comments")
	flag.Parse()
	ok, err := run(*accepted, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "deletechecks:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// check is one operand, and how to take it out.
type check struct {
	file       string
	line       int
	function   string
	start, end int // offsets in the file
	text       string
	neutral    string // what is put behind the operand
}

// String is how -accepted names the check.
func (c check) String() string {
	return filepath.ToSlash(c.file) + ": " + c.function + ": " + c.text
}

func run(acceptedFile string, packages []string) (bool, error) {
	accepted, err := readAccepted(acceptedFile)
	if err != nil {
		return false, err
	}
	ok := true
	for _, dir := range packages {
		checks, err := find(filepath.Clean(dir))
		if err != nil {
			return false, err
		}
		fmt.Printf("%s: %d checks\n", dir, len(checks))
		lived := 0
		for _, c := range checks {
			if slices.Contains(accepted, c.String()) {
				continue
			}
			noticed, err := try(dir, c)
			if err != nil {
				return false, err
			}
			if !noticed {
				lived, ok = lived+1, false
				fmt.Printf("line %d: no test notices that this check is gone: %s\n", c.line, c)
			}
		}
		fmt.Printf("%s: %d of %d can go unnoticed\n", dir, lived, len(checks))
	}
	return ok, nil
}

func readAccepted(file string) ([]string, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read-only
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out, nil
}

// find lists the checks of a package's files, tests aside.
func find(dir string) ([]check, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("%s: no Go files (%w)", dir, err)
	}
	var checks []check
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file, src, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		function := ""
		add := func(e ast.Expr, neutral string) {
			start, end := set.Position(e.Pos()), set.Position(e.End())
			checks = append(checks, check{
				file: file, line: start.Line, function: function, start: start.Offset, end: end.Offset, neutral: neutral,
				text: strings.Join(strings.Fields(string(src[start.Offset:end.Offset])), " "),
			})
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				function = n.Name.Name
			case *ast.IfStmt:
				operands(n.Cond, "&& false", add)
			case *ast.SwitchStmt:
				if n.Tag != nil {
					return true
				}
				for _, clause := range n.Body.List {
					for _, e := range clause.(*ast.CaseClause).List {
						operands(e, "&& false", add)
					}
				}
			}
			return true
		})
	}
	return checks, nil
}

// operands calls add for each operand of a condition with what makes it neutral there.
func operands(e ast.Expr, neutral string, add func(ast.Expr, string)) {
	switch x := e.(type) {
	case *ast.ParenExpr:
		operands(x.X, neutral, add)
		return
	case *ast.BinaryExpr:
		switch x.Op {
		case token.LOR:
			operands(x.X, "&& false", add)
			operands(x.Y, "&& false", add)
			return
		case token.LAND:
			operands(x.X, "|| true", add)
			operands(x.Y, "|| true", add)
			return
		}
	}
	add(e, neutral)
}

// try runs the package's tests without the check and says whether they noticed.
func try(dir string, c check) (noticed bool, err error) {
	src, err := os.ReadFile(c.file)
	if err != nil {
		return false, err
	}
	tmp, err := os.MkdirTemp("", "deletechecks-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a temporary directory
	changed := filepath.Join(tmp, "file.go")
	text := string(src[:c.start]) + "((" + string(src[c.start:c.end]) + ") " + c.neutral + ")" + string(src[c.end:])
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		return false, err
	}
	absolute, err := filepath.Abs(c.file)
	if err != nil {
		return false, err
	}
	overlay := filepath.Join(tmp, "overlay.json")
	data, err := json.Marshal(map[string]map[string]string{"Replace": {absolute: changed}})
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(overlay, data, 0o600); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-count=1", "-failfast", "-timeout=60s", "-overlay", overlay, "./"+filepath.ToSlash(filepath.Clean(dir))) //nolint:gosec // our own arguments
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "[build failed]") {
		return false, fmt.Errorf("%s:%d: the changed file doesn't compile:\n%s", c.file, c.line, out)
	}
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		return false, err
	}
	return err != nil, nil
}
