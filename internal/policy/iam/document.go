// Package iam is the small part of the IAM policy language that session policies are written in: S3 actions on S3
// resources, allowed or denied, perhaps under conditions.
//
// A [Document] only comes out of a strict parser, in canonical form, and is written out again from its parsed values:
// nobody's own bytes are passed on. What a document means is what the object store makes of it. Where MinIO and AWS
// read a policy differently (documented at the places), the checks here hold for both.
//
// Conditions are compared, not evaluated.
package iam

import (
	"maps"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// Version is the only policy language version there is (the older one has no variables).
const Version = "2012-10-17"

// ARNPrefix begins every resource.
const ARNPrefix = "arn:aws:s3:::"

// Effect is what a statement does to the requests it matches.
type Effect string

// The two effects.
const (
	Allow Effect = "Allow"
	Deny  Effect = "Deny"
)

// Document is a policy. Nobody changes one after it was parsed.
type Document struct{ Statements []Statement }

// Statement allows or denies every action of Actions on every resource of Resources, if Condition is met.
type Statement struct {
	Effect Effect
	// Actions and Resources are patterns: "*" stands for any text and "?" for one character. They are sorted and
	// without duplicates, since their order means nothing.
	Actions, Resources []string
	// Condition is nil if there is none.
	Condition Condition
}

// Condition is operator ("StringLike") → key ("s3:prefix") → values, sorted and without duplicates.
type Condition map[string]map[string][]string

// Equal reports whether two conditions are written alike, but for order.
func (c Condition) Equal(d Condition) bool {
	return maps.EqualFunc(c, d, func(a, b map[string][]string) bool {
		return maps.EqualFunc(a, b, slices.Equal[[]string])
	})
}

// Equal reports whether two statements are written alike, but for order and Sid.
func (s Statement) Equal(t Statement) bool {
	return s.Effect == t.Effect && slices.Equal(s.Actions, t.Actions) && slices.Equal(s.Resources, t.Resources) &&
		s.Condition.Equal(t.Condition)
}

// Replace returns the document with every resource and every condition value replaced by what f makes of it, or f's
// first error. Nothing else of a document can be replaced.
func (d Document) Replace(f func(string) (string, error)) (Document, error) {
	statements := make([]Statement, len(d.Statements))
	for i, s := range d.Statements {
		resources, err := replaceAll(s.Resources, f)
		if err != nil {
			return Document{}, err
		}
		var condition Condition
		if s.Condition != nil {
			condition = make(Condition, len(s.Condition))
		}
		for _, operator := range sortedKeys(s.Condition) {
			keys := make(map[string][]string, len(s.Condition[operator]))
			for _, key := range sortedKeys(s.Condition[operator]) {
				if keys[key], err = replaceAll(s.Condition[operator][key], f); err != nil {
					return Document{}, err
				}
			}
			condition[operator] = keys
		}
		statements[i] = Statement{Effect: s.Effect, Actions: s.Actions, Resources: resources, Condition: condition}
	}
	return Document{statements}, nil
}

func replaceAll(texts []string, f func(string) (string, error)) ([]string, error) {
	replaced := make([]string, len(texts))
	for i, text := range texts {
		var err error
		if replaced[i], err = f(text); err != nil {
			return nil, err
		}
	}
	return canonical(replaced), nil
}

// canonical sorts a list in place and removes its duplicates.
func canonical(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// String is the document as compact JSON, always the same for equal documents. It has no Sids.
func (d Document) String() string {
	b := append(make([]byte, 0, 512), `{"Version":"`+Version+`","Statement":[`...)
	for i, s := range d.Statements {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"Effect":`...)
		b = appendString(b, string(s.Effect))
		b = appendList(append(b, `,"Action":`...), s.Actions)
		b = appendList(append(b, `,"Resource":`...), s.Resources)
		if s.Condition != nil {
			b = appendObject(append(b, `,"Condition":`...), s.Condition, func(b []byte, keys map[string][]string) []byte {
				return appendObject(b, keys, appendList)
			})
		}
		b = append(b, '}')
	}
	return string(append(b, `]}`...))
}

func appendObject[V any](b []byte, m map[string]V, appendValue func([]byte, V) []byte) []byte {
	b = append(b, '{')
	for i, key := range sortedKeys(m) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, key), ':')
		b = appendValue(b, m[key])
	}
	return append(b, '}')
}

func appendList(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

func appendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s) // it fails for invalid UTF-8 alone, which the parser refuses
	return b
}
