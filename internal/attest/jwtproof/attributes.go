package jwtproof

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of an attribute. One beyond them is absent, so that a rule that needs it says no.
const (
	maxValues     = 256
	maxValueBytes = 1 << 10
)

// Attribute says which claim becomes an attribute of the identity.
//
// A claim that is a string, a boolean or an integer gives one value ("true", "42"), an array of strings gives each. With
// anything else - an object, a fraction, a mixed or empty array, more than 256 values or one of more than 1 KiB - the
// attribute is absent. The claim `email` counts only if `email_verified` is the boolean true and it holds exactly one "@".
type Attribute struct {
	// Claim is the claim's name ("groups", "https://corp.example/groups"), or a JSON pointer (RFC 6901) if it starts with
	// "/": "/realm_access/roles".
	Claim string
	// Path says that the values are paths, in which "/" separates segments.
	Path bool
}

// claimPath turns an Attribute.Claim into the names that lead to the value.
func claimPath(claim string) ([]string, error) {
	if claim == "" {
		return nil, errors.New("claim is empty")
	}
	if claim[0] != '/' {
		return []string{claim}, nil
	}
	p := jsontext.Pointer(claim)
	if !p.IsValid() {
		return nil, errors.New("claim starts with / and is not a JSON pointer")
	}
	path := slices.Collect(p.Tokens())
	if len(path) > maxDepth {
		return nil, errors.New("claim is a JSON pointer of more than " + strconv.Itoa(maxDepth) + " steps")
	}
	return path, nil
}

// attributes returns the identity's attributes; nil if there are none.
func (c *claims) attributes(paths map[string][]string) map[string][]string {
	var attrs map[string][]string
	for name, path := range paths {
		values := attributeValues(c.find(path))
		if len(values) == 0 || path[0] == "email" && !c.emailVerified(values) {
			continue
		}
		if attrs == nil {
			attrs = make(map[string][]string, len(paths))
		}
		attrs[name] = values
	}
	return attrs
}

// emailVerified: an address that the issuer didn't check is whatever the user typed.
func (c *claims) emailVerified(values []string) bool {
	return c.all["email_verified"].Kind() == 't' && len(values) == 1 && strings.Count(values[0], "@") == 1
}

// find walks to a claim; nil if it isn't there.
func (c *claims) find(path []string) jsontext.Value {
	v := c.all[path[0]]
	for _, name := range path[1:] {
		switch v.Kind() {
		case '{':
			var members map[string]jsontext.Value
			_ = decodeJSON(v, &members) // it is part of what was decoded before
			v = members[name]
		case '[':
			var items []jsontext.Value
			_ = decodeJSON(v, &items)
			i, _ := strconv.Atoi(name) // what isn't a plain number isn't what it is written as again
			if strconv.Itoa(i) != name || i < 0 || i >= len(items) {
				return nil
			}
			v = items[i]
		default:
			return nil
		}
	}
	return v
}

// attributeValues returns nil for what can't be an attribute.
func attributeValues(v jsontext.Value) []string {
	var values []string
	switch v.Kind() {
	case 't', 'f':
		values = []string{string(v)}
	case '0':
		if !isInteger(string(v)) {
			return nil
		}
		values = []string{string(v)}
	case '"':
		s, _ := decodeString(v)
		values = []string{s}
	case '[':
		values = decodeStrings(v)
	}
	if len(values) > maxValues || slices.ContainsFunc(values, func(s string) bool { return len(s) > maxValueBytes }) {
		return nil
	}
	return values
}

// isInteger tells whether a JSON number is a whole one in its one plain form. JSON's grammar has seen to leading zeros.
func isInteger(number string) bool {
	return !strings.ContainsAny(number, ".eE") && number != "-0"
}
