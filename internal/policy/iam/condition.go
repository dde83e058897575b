package iam

import (
	"slices"
	"strconv"
	"strings"
)

// Truth is what is known of a condition.
type Truth int

// A condition is met, is not, or that can't be known here.
const (
	Unknown Truth = iota
	Met
	NotMet
)

// Values are what is known of a request's context.
type Values struct {
	// Known are the condition keys of which everything is known: one that isn't in Of has no value.
	Known []string
	Of    map[string]string
}

// Meets says whether the request meets the condition: every operator holds for each of its keys. Of operators and keys that aren't known here,
// and of values with policy variables, that is Unknown.
func (v Values) Meets(c Condition) Truth {
	result := Met
	for operator, keys := range c {
		for key, wanted := range keys {
			switch v.meets(operator, key, wanted) {
			case NotMet:
				return NotMet
			case Unknown:
				result = Unknown
			}
		}
	}
	return result
}

func (v Values) meets(operator, key string, wanted []string) Truth {
	value, there := v.Of[key]
	if !there && !slices.Contains(v.Known, key) || slices.ContainsFunc(wanted, hasVariable) {
		return Unknown
	}
	if operator == "Null" {
		return truth(slices.Contains(wanted, strconv.FormatBool(!there)))
	}
	// An operator that denies holds where the one that it denies doesn't, and so for a key without a value.
	positive, negated := strings.CutPrefix(operator, "StringNot")
	if negated {
		positive = "String" + positive
	}
	equal := equality(positive)
	if equal == nil {
		return Unknown
	}
	holds := there && slices.ContainsFunc(wanted, func(w string) bool { return equal(w, value) })
	return truth(holds != negated)
}

// equality is how an operator compares a value of the policy with the request's; nil if it isn't known here.
func equality(operator string) func(wanted, value string) bool {
	number := func(holds func(value, wanted int) bool) func(string, string) bool {
		return func(wanted, value string) bool {
			w, errWanted := strconv.Atoi(wanted)
			v, errValue := strconv.Atoi(value)
			return errWanted == nil && errValue == nil && holds(v, w)
		}
	}
	switch operator {
	case "StringEquals":
		return func(w, v string) bool { return w == v }
	case "StringEqualsIgnoreCase":
		return strings.EqualFold
	case "StringLike":
		return Match
	case "NumericEquals":
		return number(func(v, w int) bool { return v == w })
	case "NumericLessThan":
		return number(func(v, w int) bool { return v < w })
	case "NumericLessThanEquals":
		return number(func(v, w int) bool { return v <= w })
	case "NumericGreaterThan":
		return number(func(v, w int) bool { return v > w })
	case "NumericGreaterThanEquals":
		return number(func(v, w int) bool { return v >= w })
	}
	return nil
}

func truth(b bool) Truth {
	if b {
		return Met
	}
	return NotMet
}

func hasVariable(s string) bool { return strings.Contains(s, "${") }

// HasVariables reports whether policy variables ("${aws:username}") stand anywhere in the document: then only the object store, which
// fills them in, can evaluate it.
func (d Document) HasVariables() bool {
	found := false
	_, _ = d.Replace(func(s string) (string, error) { // which fails only if this does
		found = found || hasVariable(s)
		return s, nil
	})
	return found
}
