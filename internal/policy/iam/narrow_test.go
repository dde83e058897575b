package iam_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/credbroker/credbroker/internal/policy/iam"
)

const (
	readHome = `{"Effect":"Allow","Action":["s3:GetObject","s3:List*"],"Resource":["arn:aws:s3:::reports","arn:aws:s3:::reports/alice/*"]}`
	writeTmp = `{"Effect":"Allow","Action":"s3:PutObject","Resource":"arn:aws:s3:::tmp/*","Condition":{"StringEquals":{"s3:x":["1","2"]}}}`
	noLocked = `{"Sid":"Locked","Effect":"Deny","Action":["s3:*"],"Resource":["arn:aws:s3:::reports/alice/locked/*"]}`
	noPlain  = `{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::*","Condition":{"Bool":{"aws:SecureTransport":"false"}}}`
	theRole  = readHome + "," + writeTmp + "," + noLocked + "," + noPlain
	denies   = "," + noLocked + "," + noPlain
)

func TestContainsAcceptsNarrowing(t *testing.T) {
	for name, inner := range map[string]string{
		"the same":             theRole,
		"in another order":     noPlain + "," + noLocked + "," + writeTmp + "," + readHome,
		"one action":           `{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::reports/alice/2026/*"}` + denies,
		"a narrower pattern":   `{"Effect":"Allow","Action":"s3:ListB*","Resource":"arn:aws:s3:::reports"}` + denies,
		"an added condition":   `{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::reports/alice/*","Condition":{"StringEquals":{"a":"b"}}}` + denies,
		"the same condition":   `{"Effect":"Allow","Action":"s3:PutObject","Resource":"arn:aws:s3:::tmp/x","Condition":{"StringEquals":{"s3:x":["2","1"]}}}` + denies,
		"an added Deny":        readHome + `,{"Effect":"Deny","Action":"s3:GetObject","Resource":"arn:aws:s3:::reports/alice/x"}` + denies,
		"Denies alone":         noLocked + "," + noPlain,
		"a Deny with no Sid":   readHome + `,{"Effect":"Deny","Resource":"arn:aws:s3:::reports/alice/locked/*","Action":"s3:*"},` + noPlain,
		"a Deny of all things": `{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::*"}` + denies,
	} {
		if err := iam.Contains(parse(t, statement(theRole)), parse(t, statement(inner))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A pattern of actions covers those it stands for, though it isn't GetObject.
func TestContainsAcceptsAnActionWithinAPattern(t *testing.T) {
	outer := parse(t, statement(`{"Effect":"Allow","Action":"s3:Put*","Resource":"arn:aws:s3:::b/*"}`))
	inner := parse(t, statement(`{"Effect":"Allow","Action":"s3:PutObject","Resource":"arn:aws:s3:::b/x"}`))
	if err := iam.Contains(outer, inner); err != nil {
		t.Error(err)
	}
}

func TestContainsRefusesWidening(t *testing.T) {
	const wider, dropped = "not within any single Allow", "does not repeat Deny"
	allow := func(action, resource string) string {
		return fmt.Sprintf(`{"Effect":"Allow","Action":%q,"Resource":"arn:aws:s3:::%s"}`, action, resource) + denies
	}
	for name, tc := range map[string]struct{ inner, want string }{
		"s3:* against s3:Get*":             {allow("s3:*", "reports/alice/x"), wider},
		"an action more":                   {allow("s3:PutObject", "reports/alice/x"), wider},
		"a wildcard more":                  {allow("s3:GetObject*", "reports/alice/x"), wider},
		"? in an action":                   {allow("s3:?etObject", "reports/alice/x"), wider},
		"action in another case":           {allow("s3:getobject", "reports/alice/x"), wider},
		"another bucket":                   {allow("s3:GetObject", "payroll/*"), wider},
		"the bucket's objects":             {allow("s3:GetObject", "reports/*"), wider},
		"a prefix of the bucket":           {allow("s3:GetObject", "report*"), wider},
		"a longer bucket":                  {allow("s3:GetObject", "reports*"), wider},
		"all buckets":                      {allow("s3:GetObject", "*"), wider},
		"? for a letter":                   {allow("s3:GetObject", "report?/alice/x"), wider},
		"? for the slash":                  {allow("s3:GetObject", "reports/alice?x"), wider},
		"bucket in another case":           {allow("s3:GetObject", "Reports/alice/x"), wider},
		"look-alike letter":                {allow("s3:GetObject", "repоrts/alice/x"), wider},
		"dot segments":                     {allow("s3:GetObject", "reports/../payroll/*"), wider},
		"another home that begins alike":   {allow("s3:GetObject", "reports/alice2/*"), wider},
		"action of one, resource of other": {allow("s3:PutObject", "reports"), wider},
		"the condition dropped":            {allow("s3:PutObject", "tmp/x"), wider},
		"the condition changed": {`{"Effect":"Allow","Action":"s3:PutObject","Resource":"arn:aws:s3:::tmp/x",
			"Condition":{"StringEquals":{"s3:x":["1","2","3"]}}}` + denies, wider},
		"the operator changed": {`{"Effect":"Allow","Action":"s3:PutObject","Resource":"arn:aws:s3:::tmp/x",
			"Condition":{"StringLike":{"s3:x":["1","2"]}}}` + denies, wider},
		"a second statement":        {readHome + `,{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::*"}` + denies, "Statement[1]"},
		"one of two resources":      {`{"Effect":"Allow","Action":"s3:GetObject","Resource":["arn:aws:s3:::reports","arn:aws:s3:::x"]}` + denies, wider},
		"one of two actions":        {`{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":"arn:aws:s3:::reports"}` + denies, wider},
		"covered by two, not one":   {`{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports","arn:aws:s3:::tmp/x"]}` + denies, wider},
		"the first Deny dropped":    {readHome + "," + noPlain, dropped + " number 3"},
		"the second Deny dropped":   {readHome + "," + noLocked, dropped + " number 4"},
		"a Deny turned into Allow":  {readHome + `,{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::reports/alice/locked/*"},` + noPlain, dropped},
		"a Deny with a Condition":   {readHome + "," + noPlain + `,{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::reports/alice/locked/*","Condition":{"StringEquals":{"a":"b"}}}`, dropped},
		"a Deny of fewer actions":   {readHome + "," + noPlain + `,{"Effect":"Deny","Action":"s3:Get*","Resource":"arn:aws:s3:::reports/alice/locked/*"}`, dropped},
		"a Deny of fewer resources": {readHome + "," + noPlain + `,{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::reports/alice/locked/a"}`, dropped},
		"a Deny without its Condition's value": {readHome + "," + noLocked +
			`,{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::*","Condition":{"Bool":{"aws:SecureTransport":"true"}}}`, dropped},
	} {
		t.Run(name, func(t *testing.T) {
			err := iam.Contains(parse(t, statement(theRole)), parse(t, statement(tc.inner)))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error that says %q", err, tc.want)
			}
		})
	}
}

// MinIO reads these as more than they say, AWS doesn't: neither must see anything wider.
func TestContainsKnowsMinIOsReading(t *testing.T) {
	for name, tc := range map[string]struct {
		outer, inner string // "actions on resources"
		want         bool
	}{
		"GetObjectVersion gives GetObject":                 {"s3:GetObjectV* on b", "s3:GetObjectVersion on b", false},
		"GetObjectVersion of itself":                       {"s3:GetObjectVersion on b", "s3:GetObjectVersion on b", true},
		"GetObjectVersion of both":                         {"s3:GetObject* on b", "s3:GetObjectVersion on b", true},
		"GetObject of GetObjectVersion":                    {"s3:GetObjectVersion on b", "s3:GetObject on b", false},
		"a bucket is called bucket/":                       {"s3:* on team-?", "s3:* on team-a", false},
		"a bucket of itself":                               {"s3:* on team-a", "s3:* on team-a", true},
		"a bucket of a prefix":                             {"s3:* on team-*", "s3:* on team-a", true},
		"a key with a slash behind it":                     {"s3:* on b/?", "s3:* on b/a", false},
		"a bucket isn't among its objects, as AWS sees it": {"s3:* on b/*", "s3:* on b", false},
		"objects aren't the bucket":                        {"s3:* on b", "s3:* on b/*", false},
	} {
		t.Run(name, func(t *testing.T) {
			build := func(s string) iam.Document {
				actions, resource, _ := strings.Cut(s, " on ")
				return parse(t, statement(fmt.Sprintf(`{"Effect":"Allow","Action":%q,"Resource":"arn:aws:s3:::%s"}`, actions, resource)))
			}
			if err := iam.Contains(build(tc.outer), build(tc.inner)); (err == nil) != tc.want {
				t.Errorf("got %v, want accepted: %t", err, tc.want)
			}
		})
	}
}

func truth(b bool) iam.Truth {
	if b {
		return iam.Met
	}
	return iam.NotMet
}

func TestEvaluate(t *testing.T) {
	doc := parse(t, statement(theRole+`,{"Effect":"Allow","Action":"s3:GetObjectVersion","Resource":"arn:aws:s3:::old"}`))
	yes := func(iam.Condition) iam.Truth { return iam.Met }
	no := func(iam.Condition) iam.Truth { return iam.NotMet }
	for _, tc := range []struct {
		action, resource string
		met              func(iam.Condition) iam.Truth
		want             iam.Decision
	}{
		{"s3:GetObject", "reports/alice/x", no, iam.Allowed},
		{"s3:ListBucket", "reports/", no, iam.Allowed},
		{"s3:ListBucket", "reports", no, iam.Allowed},
		{"s3:GetObject", "reports/alice/x", nil, iam.ExplicitDeny}, // plain HTTP isn't known not to be
		{"s3:GetObject", "reports/alice/x", yes, iam.ExplicitDeny},
		{"s3:GetObject", "reports/alice/locked/x", no, iam.ExplicitDeny},
		{"s3:GetObject", "reports/bob/x", no, iam.ImplicitDeny},
		{"s3:PutObject", "reports/alice/x", no, iam.ImplicitDeny},
		{"s3:PutObject", "tmp/x", no, iam.ImplicitDeny},
		{"s3:PutObject", "tmp/x", func(c iam.Condition) iam.Truth { return truth(c["StringEquals"] != nil) }, iam.Allowed},
		{"s3:GetObject", "old/", no, iam.Allowed},
		{"s3:getObject", "old/", no, iam.ImplicitDeny},
	} {
		if got := doc.Evaluate(tc.action, "arn:aws:s3:::"+tc.resource, tc.met); got != tc.want {
			t.Errorf("%s on %s: %d, want %d", tc.action, tc.resource, got, tc.want)
		}
	}
	conditional := parse(t, statement(writeTmp))
	if got := conditional.Evaluate("s3:PutObject", "arn:aws:s3:::tmp/x", nil); got != iam.ImplicitDeny {
		t.Errorf("an Allow under an unknown condition: %d", got)
	}
}

// drawDocument draws a policy over few actions, resources and conditions, so that two of them often overlap.
func drawDocument(t *rapid.T, label string) iam.Document {
	one := func(texts ...string) string { return rapid.SampledFrom(texts).Draw(t, label) }
	list := func(texts ...string) string {
		return `["` + strings.Join(rapid.SliceOfN(rapid.SampledFrom(texts), 1, 2).Draw(t, label), `","`) + `"]`
	}
	var statements []string
	for range rapid.IntRange(1, 3).Draw(t, label) {
		statements = append(statements, fmt.Sprintf(`{"Effect":%q,"Action":%s,"Resource":%s%s}`, one("Allow", "Allow", "Deny"),
			list("s3:*", "s3:Get*", "s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectV*", "s3:?etObject", "s3:Put*"),
			list("arn:aws:s3:::*", "arn:aws:s3:::b", "arn:aws:s3:::b?", "arn:aws:s3:::b*", "arn:aws:s3:::?", "arn:aws:s3:::b/*", "arn:aws:s3:::b/a", "arn:aws:s3:::b/?"),
			one("", "", `,"Condition":{"Bool":{"k":"1"}}`, `,"Condition":{"Bool":{"k":"2"}}`)))
	}
	doc, err := iam.Parse(statement(strings.Join(statements, ",")))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestContainsIsSound(t *testing.T) {
	accepted := 0
	actions := []string{"s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectVX", "s3:PutObject", "s3:DeleteObject", "s3:xetObject"}
	resources := []string{"b", "b/", "b/a", "b/a/", "b/ab", "b/*", "c", "c/", "bc", "bc/", "bc/a"}
	rapid.Check(t, func(t *rapid.T) {
		inner, outer := drawDocument(t, "inner"), drawDocument(t, "outer")
		// What outer denies is repeated half of the time, or little would ever be accepted.
		if rapid.Bool().Draw(t, "repeat") {
			for _, s := range outer.Statements {
				if s.Effect == iam.Deny {
					inner.Statements = append(inner.Statements, s)
				}
			}
		}
		if iam.Contains(outer, inner) != nil {
			return
		}
		accepted++
		holds := rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "condition")
		met := func(c iam.Condition) iam.Truth { return truth(c["Bool"]["k"][0] == holds) }
		for _, action := range actions {
			for _, resource := range resources {
				arn := iam.ARNPrefix + resource
				if inner.Evaluate(action, arn, met) == iam.Allowed && outer.Evaluate(action, arn, met) != iam.Allowed {
					t.Fatalf("%s on %s:\n%s\nallows what\n%s\ndoes not", action, arn, inner, outer)
				}
			}
		}
	})
	if accepted < 5 {
		t.Errorf("only %d documents were accepted: the test looks at nothing", accepted)
	}
}
