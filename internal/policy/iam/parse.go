package iam

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a document. They keep every later step cheap.
const (
	// MaxBytes is the largest document as text.
	MaxBytes = 20 << 10
	// MaxStatements bounds the statements of a document.
	MaxStatements = 64
	// MaxList bounds the actions of a statement, its resources, the operators of its condition, the keys of an
	// operator and the values of a key.
	MaxList = 64
	// MaxStars bounds the "*" of one resource. MinIO matches by trying every way to place each of them: a pattern
	// with many keeps one of its cores busy for as long as its author likes.
	MaxStars = 4
)

// ErrTooLarge is returned for a document of more than MaxBytes.
var ErrTooLarge = fmt.Errorf("larger than %d bytes", MaxBytes)

var (
	// Session policies speak of S3 alone. MinIO ignores the resources of a statement that has an admin, STS or KMS
	// action, so "*" or "admin:*" on one bucket would be wider than it reads. Its actions are compared with case.
	actionGrammar   = regexp.MustCompile(`^s3:[A-Za-z*?]{1,64}$`)
	sidGrammar      = regexp.MustCompile(`^[A-Za-z0-9 ._-]{0,128}$`)
	operatorGrammar = regexp.MustCompile(`^[A-Za-z:]{1,64}$`)
	keyGrammar      = regexp.MustCompile(`^[A-Za-z0-9:/._-]{1,128}$`)
)

// Parse parses a policy from an untrusted source: without policy variables ("${"), which the object store would fill in
// with values nobody checked here.
//
// The document is an object of Version ("2012-10-17") and Statement (one object or a list of 1..MaxStatements); a
// statement has Effect, Action and Resource (one string or a list of 1..MaxList), and may have Sid and Condition.
// Anything else, NotAction, NotResource and Principal included, is refused, as are names given twice.
// Errors are ErrTooLarge or say what is wrong and where; they repeat at most 64 bytes of the text.
func Parse(text string) (Document, error) { return parse(text, false) }

// ParseTemplate is Parse for an operator's own text, in which policy variables such as ${aws:username} are allowed.
func ParseTemplate(text string) (Document, error) { return parse(text, true) }

func parse(text string, variables bool) (Document, error) {
	if len(text) > MaxBytes {
		return Document{}, ErrTooLarge
	}
	var root any
	if err := json.Unmarshal([]byte(text), &root); err != nil {
		return Document{}, syntaxError(err)
	}
	top, err := object("the policy", root, "Version", "Statement")
	if err != nil {
		return Document{}, err
	}
	if top["Version"] != Version {
		return Document{}, fmt.Errorf("the Version must be %q", Version)
	}
	list, ok := top["Statement"].([]any)
	if !ok {
		list = []any{top["Statement"]}
	}
	if len(list) == 0 || len(list) > MaxStatements {
		return Document{}, fmt.Errorf("Statement: %d of them, expected 1 to %d", len(list), MaxStatements)
	}
	doc := Document{make([]Statement, len(list))}
	for i, v := range list {
		p := parser{fmt.Sprintf("Statement[%d]", i), variables}
		if doc.Statements[i], err = p.statement(v); err != nil {
			return Document{}, err
		}
	}
	return doc, nil
}

// syntaxError says where the JSON is broken, without the library's quotation of names.
func syntaxError(err error) error {
	var at int64
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		at = syntax.ByteOffset
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return fmt.Errorf("at byte %d: a name that stands there already", at)
	}
	return fmt.Errorf("at byte %d: not valid JSON", at)
}

// object checks that v is an object with no other names than the given ones.
func object(path string, v any, names ...string) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: expected an object", path)
	}
	for _, name := range sortedKeys(m) {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("%s: %s is not allowed; expected %s", path, quote(name), strings.Join(names, ", "))
		}
	}
	return m, nil
}

// parser parses the parts of the statement at path.
type parser struct {
	path      string
	variables bool
}

func (p parser) statement(v any) (Statement, error) {
	m, err := object(p.path, v, "Sid", "Effect", "Action", "Resource", "Condition")
	if err != nil {
		return Statement{}, err
	}
	if sid, ok := m["Sid"]; ok {
		if s, ok := sid.(string); !ok || !sidGrammar.MatchString(s) {
			return Statement{}, p.fault("Sid", "expected a string that matches %s", sidGrammar)
		}
	}
	var s Statement
	switch m["Effect"] {
	case string(Allow):
		s.Effect = Allow
	case string(Deny):
		s.Effect = Deny
	default:
		return Statement{}, p.fault("Effect", `expected "Allow" or "Deny"`)
	}
	if s.Actions, err = p.list("Action", m["Action"], checkAction); err != nil {
		return Statement{}, err
	}
	if s.Resources, err = p.list("Resource", m["Resource"], p.checkResource); err != nil {
		return Statement{}, err
	}
	if condition, ok := m["Condition"]; ok {
		if s.Condition, err = p.condition(condition); err != nil {
			return Statement{}, err
		}
	}
	return s, nil
}

func (p parser) condition(v any) (Condition, error) {
	operators, err := p.members("Condition", v, operatorGrammar)
	if err != nil {
		return nil, err
	}
	condition := make(Condition, len(operators))
	for _, operator := range sortedKeys(operators) {
		field := "Condition." + operator
		keys, err := p.members(field, operators[operator], keyGrammar)
		if err != nil {
			return nil, err
		}
		condition[operator] = make(map[string][]string, len(keys))
		for _, key := range sortedKeys(keys) {
			if condition[operator][key], err = p.list(field, keys[key], p.checkValue); err != nil {
				return nil, err
			}
		}
	}
	return condition, nil
}

// members checks an object whose names are free but for their grammar.
func (p parser) members(field string, v any, grammar *regexp.Regexp) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 || len(m) > MaxList {
		return nil, p.fault(field, "expected an object with 1 to %d members", MaxList)
	}
	for _, name := range sortedKeys(m) {
		if !grammar.MatchString(name) {
			return nil, p.fault(field, "%s does not match %s", quote(name), grammar)
		}
	}
	return m, nil
}

// list reads one string or a list of them.
func (p parser) list(field string, v any, check func(string) error) ([]string, error) {
	items, ok := v.([]any)
	if !ok {
		items = []any{v}
	}
	if len(items) == 0 || len(items) > MaxList {
		return nil, p.fault(field, "%d of them, expected 1 to %d", len(items), MaxList)
	}
	texts := make([]string, len(items))
	for i, item := range items {
		s, ok := item.(string)
		if !ok {
			return nil, p.fault(field, "expected a string or a list of strings")
		}
		if err := check(s); err != nil {
			return nil, p.fault(field, "%s: %w", quote(s), err)
		}
		texts[i] = s
	}
	return canonical(texts), nil
}

// ValidAction reports whether s is an action of S3 ("s3:GetObject", "s3:Get*").
func ValidAction(s string) bool { return actionGrammar.MatchString(s) }

func checkAction(s string) error {
	if !ValidAction(s) {
		return fmt.Errorf("it does not match %s", actionGrammar)
	}
	return nil
}

func (p parser) checkResource(s string) error {
	pattern, ok := strings.CutPrefix(s, ARNPrefix)
	switch {
	case !ok || pattern == "" || pattern[0] == '/':
		return fmt.Errorf("expected %s followed by a bucket, or a bucket, a slash and a key", ARNPrefix)
	case strings.Count(pattern, "*") > MaxStars:
		return fmt.Errorf(`more than %d "*"`, MaxStars)
	}
	return p.checkValue(s)
}

func (p parser) checkValue(s string) error {
	if !p.variables && strings.Contains(s, "${") {
		return errors.New("policy variables are not allowed")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("control characters are not allowed")
	}
	return nil
}

func (p parser) fault(field, format string, args ...any) error {
	return fmt.Errorf(p.path+"."+field+": "+format, args...)
}

// quote quotes the first 40 bytes of s.
func quote(s string) string {
	const most = 40
	if len(s) > most {
		return fmt.Sprintf("%q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
