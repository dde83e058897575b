package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// decoder fills Go values from YAML nodes. It is stricter than the library's: unknown and duplicate keys, values of
// another type, anchors, aliases, merge keys and explicit tags are faults, each with its line. It follows the Go types, none
// of which holds itself, so its depth is bounded whatever the file's is.
type decoder struct {
	file    string
	origins origins
	faults  Faults
	// unreadable says that the text isn't one YAML document, so there is nothing to say about its content.
	unreadable bool
}

func (d *decoder) fault(line int, path, format string, args ...any) {
	d.faults = append(d.faults, Fault{File: d.file, Line: line, Path: path, Problem: fmt.Sprintf(format, args...)})
}

// yamlError is the form of the library's errors.
var yamlError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(.*)$`)

// document returns the root of the only document in data; nil if there is none, or a fault.
func (d *decoder) document(data []byte) *yaml.Node {
	switch {
	case len(data) > maxFileBytes:
		d.unreadable = true
		d.fault(1, "", "larger than %d bytes", maxFileBytes)
		return nil
	case !utf8.Valid(data):
		d.unreadable = true
		d.fault(1+bytes.Count(data[:invalid(data)], []byte("\n")), "", "not UTF-8")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			d.syntax(err)
		}
		return nil
	}
	if err := dec.Decode(&second); err == nil {
		d.unreadable = true
		d.fault(max(1, second.Line), "", "a second YAML document begins here; expected one")
		return nil
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
		return nil
	}
	if len(doc.Content) == 0 {
		return nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.MappingNode || isNull(root) {
		return root
	}
	d.fault(root.Line, "", "the file holds %s; expected keys and values", describe(root))
	return nil
}

// invalid is the offset of the first byte that isn't UTF-8.
func invalid(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
	return len(data)
}

// syntax reports text that isn't YAML. The library names the line where the construct begins, or the one before.
func (d *decoder) syntax(err error) {
	d.unreadable = true
	line, problem := 1, err.Error()
	if m := yamlError.FindStringSubmatch(problem); m != nil {
		problem = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	d.fault(line, "", "not YAML at this line or after it: %s", problem)
}

// defaulter is a value in a list or map that doesn't begin as its type's zero value.
type defaulter interface{ setDefaults() }

// value decodes a node into v. A null leaves the default in place.
func (d *decoder) value(n *yaml.Node, path string, v reflect.Value) {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fault(n.Line, path, "YAML anchors and aliases are not supported; write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n.Line, path, "YAML tags (%.64s) are not supported", n.Tag)
	case isNull(n):
	case isScalar(v.Type()):
		d.scalar(n, path, v)
	case v.Kind() == reflect.Struct:
		d.structure(n, path, v)
	case v.Kind() == reflect.Map:
		d.mapping(n, path, v)
	case v.Kind() == reflect.Slice:
		d.list(n, path, v)
	}
}

func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.fault(n.Line, path, "%s; expected %s", describe(n), expected(v.Type()))
		return
	}
	// Text that looks like something else to YAML (1.10, true, 2026-01-02) is not guessed at.
	if v.Kind() == reflect.String && n.ShortTag() != "!!str" {
		d.fault(n.Line, path, "%.64q is %s to YAML; expected text: put it in quotes", n.Value, describe(n))
		return
	}
	// Nor is quoted text taken as a number or a truth value.
	if want := tagOf(v.Type()); want != "!!str" && n.ShortTag() == "!!str" && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		d.fault(n.Line, path, "%.64q is text; expected %s, without quotes", n.Value, expected(v.Type()))
		return
	}
	if err := setScalar(v, n.Value); err != nil {
		d.fault(n.Line, path, "%v", err)
	}
}

func (d *decoder) structure(n *yaml.Node, path string, v reflect.Value) {
	known := fieldNames(v.Type())
	d.entries(n, path, func(key, value *yaml.Node, at string) {
		i, ok := known[key.Value]
		if !ok {
			keys := fieldList(v.Type())
			hint := nearest(key.Value, keys)
			if hint == "" {
				hint = "expected one of: " + strings.Join(keys, ", ")
			}
			d.fault(key.Line, at, "unknown key; %s", hint)
			return
		}
		d.value(value, at, v.Field(i))
	})
}

func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	d.entries(n, path, func(key, value *yaml.Node, at string) {
		if isNull(value) {
			d.fault(key.Line, at, "has no value; expected %s", expected(v.Type().Elem()))
			return
		}
		v.SetMapIndex(reflect.ValueOf(key.Value), d.element(value, at, v.Type().Elem()))
	})
}

func (d *decoder) list(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fault(n.Line, path, "%s; expected a list", describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(n.Content))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.origins[at] = origin{d.file, item.Line}
		if isNull(item) {
			d.fault(item.Line, at, "has no value; expected %s", expected(v.Type().Elem()))
		}
		out = reflect.Append(out, d.element(item, at, v.Type().Elem()))
	}
	v.Set(out)
}

func (d *decoder) element(n *yaml.Node, path string, t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if e, ok := p.Interface().(defaulter); ok {
		e.setDefaults()
	}
	d.value(n, path, p.Elem())
	return p.Elem()
}

// entries calls visit for each entry of a mapping, the first of its name.
func (d *decoder) entries(n *yaml.Node, path string, visit func(key, value *yaml.Node, at string)) {
	if n.Kind != yaml.MappingNode {
		d.fault(n.Line, path, "%s; expected keys and values", describe(n))
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind == yaml.AliasNode || key.Anchor != "":
			d.fault(key.Line, path, "YAML anchors and aliases are not supported; write the key out")
			continue
		case key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge":
			d.fault(key.Line, path, `YAML merge keys ("<<") are not supported; write the keys out`)
			continue
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" || key.Style&yaml.TaggedStyle != 0:
			d.fault(key.Line, path, "a key is %s; expected text: put it in quotes", describe(key))
			continue
		}
		at := join(path, key.Value)
		if line, ok := seen[key.Value]; ok {
			d.fault(key.Line, at, "duplicate key; it stands on line %d already", line)
			continue
		}
		seen[key.Value] = key.Line
		d.origins[at] = origin{d.file, key.Line}
		visit(key, value, at)
	}
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" && n.Anchor == "" && n.Style&yaml.TaggedStyle == 0
}

// describe says what a node is, in words.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "a truth value"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	}
	return "text"
}
