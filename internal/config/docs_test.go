package config

import (
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func readDocument(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// documented is what the document has to say of a key.
type documented struct{ typ, fallback, variable string }

// describeKeys lists every key that a configuration may have, as the document writes it.
func describeKeys(v reflect.Value, path string, out map[string]documented) {
	if d, ok := v.Addr().Interface().(defaulter); ok {
		d.setDefaults()
	}
	t := v.Type()
	switch {
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			if k := key(t.Field(i)); k != "" {
				describeKeys(v.Field(i), strings.TrimPrefix(path+"."+k, "."), out)
			}
		}
	case t.Kind() == reflect.Map:
		describeKeys(reflect.New(t.Elem()).Elem(), path+".NAME", out)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		describeKeys(reflect.New(t.Elem()).Elem(), path+"[]", out)
	default:
		d := documented{typ: "text", fallback: fmt.Sprint(v.Interface()), variable: "–"}
		switch {
		case t == durationType:
			d.typ, d.fallback = "duration", short(time.Duration(v.Int()))
		case t == levelType:
			d.fallback = strings.ToLower(slog.Level(v.Int()).String())
		case t == sizeType:
			d.typ, d.fallback = "size", fmt.Sprintf("%dMiB", v.Int()>>20)
		case t.Kind() == reflect.Int:
			d.typ = "number"
		case t.Kind() == reflect.Bool:
			d.typ = "true or false"
		case t.Kind() == reflect.Slice:
			d.typ = "list of text"
		}
		if v.IsZero() {
			d.fallback = ""
		}
		if isScalar(t) && !strings.Contains(path, "[]") {
			d.variable = "`" + envName(path) + "`"
		}
		out[path] = d
	}
}

var documentRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\| (.+) \\| (.+) \\| (.+) \\|$")

func TestEveryKeyIsDocumented(t *testing.T) {
	keys := map[string]documented{}
	describeKeys(fieldsOf(defaults()), "", keys)
	seen := map[string]bool{}
	for _, row := range documentRow.FindAllStringSubmatch(readDocument(t), -1) {
		path, typ, fallback, variable := row[1], row[3], row[4], row[5]
		want, ok := keys[path]
		if !ok || seen[path] {
			t.Errorf("the document names %s, which isn't a key, or stands there twice", path)
			continue
		}
		seen[path] = true
		if typ != want.typ && (want.typ != "text" || typ != "path" && typ != "URL") {
			t.Errorf("%s: documented as %s, is %s", path, typ, want.typ)
		}
		if want.typ != "list of text" && !strings.HasPrefix(fallback, want.fallback) {
			t.Errorf("%s: default documented as %s, is %s", path, fallback, want.fallback)
		}
		if variable != want.variable {
			t.Errorf("%s: variable documented as %s, is %s", path, variable, want.variable)
		}
	}
	for path := range keys {
		if !seen[path] {
			t.Errorf("the document lacks %s", path)
		}
	}
}

func TestDocumentedExampleIsSound(t *testing.T) {
	_, text, ok := strings.Cut(readDocument(t), "```yaml\n")
	if !ok {
		t.Fatal("there is no example")
	}
	text, _, _ = strings.Cut(text, "```")
	c, err := Parse("example.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Issuers) != 2 || len(c.Roles) != 2 || len(c.Warnings()) != 0 {
		t.Errorf("%d issuers, %d roles, warnings %q", len(c.Issuers), len(c.Roles), c.Warnings())
	}
}
