package policy

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy/iam"
)

const (
	maxValueBytes = 128
	maxPathBytes  = 1024
)

var attributeName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

// template is a session policy with placeholders in its resources and condition values.
type template struct {
	doc iam.Document
	// texts holds every string of doc that has placeholders, cut up.
	texts map[string][]piece
	// fixed is the whole as text if it has no placeholders.
	fixed string
	limit int
	// variables says that it has policy variables, which the object store alone can fill in.
	variables bool
}

// piece is a literal, or a placeholder: then literal is empty.
type piece struct{ literal, placeholder string }

// parseTemplate parses a role's session policy for a back-end that takes limit bytes.
func parseTemplate(text, role string, limit int) (*template, error) {
	doc, err := iam.ParseTemplate(text)
	if err != nil {
		return nil, err
	}
	// The role's name doesn't depend on the identity. Its grammar is within the set that values are from.
	doc, err = doc.Replace(func(s string) (string, error) { return strings.ReplaceAll(s, "{{role}}", role), nil })
	if err != nil {
		return nil, err
	}
	t := &template{doc: doc, texts: map[string][]piece{}, limit: limit, variables: doc.HasVariables()}
	shortest, err := doc.Replace(func(s string) (string, error) {
		pieces, err := cut(s)
		if err != nil {
			return "", err
		}
		if strings.Contains(s, "{{") {
			t.texts[s] = pieces
		}
		return join(pieces, func(string) (string, error) { return "x", nil })
	})
	if err != nil {
		return nil, err
	}
	if n := len(shortest.String()); n > limit {
		return nil, fmt.Errorf("it takes at least %d bytes, and the exchanger takes at most %d", n, limit)
	}
	if len(t.texts) == 0 {
		t.fixed = doc.String()
	}
	return t, nil
}

// cut cuts a string into literals and placeholders.
func cut(s string) ([]piece, error) {
	var pieces []piece
	afterPlaceholder := false
	for rest := s; ; {
		literal, after, found := strings.Cut(rest, "{{")
		if literal != "" {
			pieces = append(pieces, piece{literal: literal})
		}
		if !found {
			return pieces, nil
		}
		name, tail, closed := strings.Cut(after, "}}")
		attr, isAttr := strings.CutPrefix(name, "attrs.")
		known := name == "subject" || name == "tenant" || isAttr && attributeName.MatchString(attr)
		if !closed || !known {
			return nil, fmt.Errorf("in %q: expected {{subject}}, {{tenant}}, {{role}} or {{attrs.NAME}}", s)
		}
		// With "{{tenant}}-{{subject}}", subject c of tenant a-b would get what subject b-c of tenant a gets.
		if afterPlaceholder && !strings.ContainsAny(literal, "/:,") {
			return nil, fmt.Errorf("in %q: expected a slash, colon or comma between two placeholders", s)
		}
		pieces = append(pieces, piece{placeholder: name})
		afterPlaceholder, rest = true, tail
	}
}

func join(pieces []piece, value func(placeholder string) (string, error)) (string, error) {
	var b strings.Builder
	for _, p := range pieces {
		if p.placeholder == "" {
			b.WriteString(p.literal)
			continue
		}
		v, err := value(p.placeholder)
		if err != nil {
			return "", err
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// render fills in the identity's values. They go into the parsed strings, never into JSON. An error is a denial: a value
// is missing or not of the closed set, or with these values the document is larger than the back-end takes.
func (t *template) render(id *attest.Identity) (iam.Document, string, error) {
	if t.fixed != "" {
		return t.doc, t.fixed, nil
	}
	doc, err := t.doc.Replace(func(s string) (string, error) {
		pieces, ok := t.texts[s]
		if !ok {
			return s, nil
		}
		return join(pieces, func(placeholder string) (string, error) { return placeholderValue(id, placeholder) })
	})
	if err != nil {
		return iam.Document{}, "", err
	}
	text := doc.String()
	if len(text) > t.limit {
		return iam.Document{}, "", fmt.Errorf("the session policy comes to %d bytes, and the exchanger takes at most %d", len(text), t.limit)
	}
	return doc, text, nil
}

// placeholderValue is the identity's value for a placeholder, or why there is none that may enter a policy.
func placeholderValue(id *attest.Identity, placeholder string) (string, error) {
	switch placeholder {
	case "subject":
		return checkValue(placeholder, id.Subject)
	case "tenant":
		return checkValue(placeholder, id.Tenant)
	}
	name := strings.TrimPrefix(placeholder, "attrs.")
	values := id.Attrs[name]
	if len(values) != 1 {
		return "", fmt.Errorf("{{%s}} has %d values, expected one", placeholder, len(values))
	}
	if id.PathAttrs[name] {
		return checkPath(placeholder, values[0])
	}
	return checkValue(placeholder, values[0])
}

func checkValue(placeholder, value string) (string, error) {
	if !validValue(value) {
		return "", fmt.Errorf("{{%s}} is %.128q, expected 1 to %d of A-Z a-z 0-9 . _ @ = + - but neither . nor .. alone",
			placeholder, value, maxValueBytes)
	}
	return value, nil
}

func checkPath(placeholder, value string) (string, error) {
	if len(value) > maxPathBytes {
		return "", fmt.Errorf("{{%s}} has %d bytes, expected at most %d", placeholder, len(value), maxPathBytes)
	}
	for segment := range strings.SplitSeq(value, "/") {
		if !validValue(segment) {
			return "", fmt.Errorf("{{%s}} is %.128q, expected segments of 1 to %d of A-Z a-z 0-9 . _ @ = + - , not . or ..,"+
				" separated by single slashes", placeholder, value, maxValueBytes)
		}
	}
	return value, nil
}

// validValue is the closed set: there is no way to escape anything in a policy, so nothing that could mean
// something there gets in.
func validValue(s string) bool {
	if len(s) == 0 || len(s) > maxValueBytes || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		if !inValue(s[i]) {
			return false
		}
	}
	return true
}

func inValue(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._@=+-", c) >= 0
}
