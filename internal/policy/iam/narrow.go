package iam

import (
	"fmt"
	"slices"
	"strings"
)

// MinIO reads the first of these, where it is written out, as both. AWS doesn't.
const (
	getObjectVersion = "s3:GetObjectVersion"
	getObject        = "s3:GetObject"
)

// Contains returns nil if inner allows nothing that outer does not, under the same conditions, so that inner may take
// outer's place. Otherwise the error says which of inner's statements is wider, or that a Deny is missing.
//
// The check is sound and simple rather than complete: each Allow of inner must be covered by one single Allow of outer
// - every action and every resource by a pattern of that statement, and the same condition if that statement has one -
// and each Deny of outer must stand in inner, written alike but for order and Sid. Inner may add Denies and conditions.
func Contains(outer, inner Document) error {
	for i, s := range inner.Statements {
		if s.Effect == Allow && !slices.ContainsFunc(outer.Statements, func(o Statement) bool { return o.covers(s) }) {
			return fmt.Errorf("your Statement[%d] is not within any single Allow of the role's policy", i)
		}
	}
	for i, o := range outer.Statements {
		if o.Effect == Deny && !slices.ContainsFunc(inner.Statements, o.Equal) {
			return fmt.Errorf("it does not repeat Deny number %d of the role's policy", i+1)
		}
	}
	return nil
}

// covers reports whether the statement is an Allow of all that the Allow inner allows.
func (s Statement) covers(inner Statement) bool {
	return s.Effect == Allow &&
		(s.Condition == nil || s.Condition.Equal(inner.Condition)) &&
		allCovered(s.Actions, inner.Actions, actionContains) &&
		allCovered(s.Resources, inner.Resources, resourceContains)
}

func allCovered(outer, inner []string, contains func([]string, string) bool) bool {
	return !slices.ContainsFunc(inner, func(in string) bool { return !contains(outer, in) })
}

func actionContains(outer []string, inner string) bool {
	if inner == getObjectVersion && !slices.Contains(outer, inner) && !anyContains(outer, getObject) {
		return false
	}
	return anyContains(outer, inner)
}

// resourceContains also wants the inner pattern with a slash at its end covered, unless outer has the pattern itself:
// to MinIO a pattern stands for that name too ("arn:aws:s3:::reports" for what is done to the bucket, which it calls
// "reports/"), so that "arn:aws:s3:::team-?" covers less of MinIO than "arn:aws:s3:::team-a" does.
func resourceContains(outer []string, inner string) bool {
	if slices.Contains(outer, inner) {
		return true
	}
	return slices.ContainsFunc(outer, func(o string) bool {
		return PatternContains(o, inner) && PatternContains(o, inner+"/")
	})
}

func anyContains(outer []string, inner string) bool {
	return slices.ContainsFunc(outer, func(o string) bool { return PatternContains(o, inner) })
}

// Decision is what a document says of a request.
type Decision int

// The decisions. An explicit Deny outweighs every Allow; what no statement matches is denied implicitly.
const (
	ImplicitDeny Decision = iota
	Allowed
	ExplicitDeny
)

// Evaluate decides on an action ("s3:GetObject") on a resource ("arn:aws:s3:::bucket/key", or "arn:aws:s3:::bucket/" for
// the bucket itself) as MinIO does. Whether a condition is met is for met to say; nil stands for one that never knows. Of a condition of which
// that isn't known, an Allow doesn't count and a Deny does.
func (d Document) Evaluate(action, resource string, met func(Condition) Truth) Decision {
	decision := ImplicitDeny
	for _, s := range d.Statements {
		if !s.matches(action, resource) {
			continue
		}
		counts := Met
		if s.Condition != nil {
			counts = Unknown
			if met != nil {
				counts = met(s.Condition)
			}
		}
		switch {
		case s.Effect == Deny && counts != NotMet:
			return ExplicitDeny
		case s.Effect == Allow && counts == Met:
			decision = Allowed
		}
	}
	return decision
}

func (s Statement) matches(action, resource string) bool {
	return slices.ContainsFunc(s.Actions, func(p string) bool {
		return Match(p, action) || p == getObjectVersion && action == getObject
	}) && slices.ContainsFunc(s.Resources, func(p string) bool {
		return Match(p, resource) || p == strings.TrimSuffix(resource, "/")
	})
}
