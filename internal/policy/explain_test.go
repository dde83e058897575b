package policy_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/policy"
)

func TestAllowed(t *testing.T) {
	named := func(name, when string) policy.Role {
		return role(func(r *policy.Role) { r.Name, r.When, r.Description = name, when, "about "+name })
	}
	unrenderable := named("d", "true")
	unrenderable.SessionPolicy = resourceTemplate("b/{{attrs.groups}}/*").SessionPolicy
	short := named("b", `"staff" in identity.attrs.groups`)
	short.TTL = policy.TTL{Default: time.Minute, Max: 2 * time.Minute}
	short.SessionPolicy = homeTemplate
	// A role whose TTL this proof can't serve is still one that the identity may use.
	within := named("e", "true")
	within.TTL = policy.TTL{Default: 3 * time.Hour, Max: 3 * time.Hour, Min: 2 * time.Hour, WithinProof: true}

	rules := compile(t, within, unrenderable, named("c", "false"), short, named("a", "true"), named("f", "identity.attrs.missing == []"))
	want := []policy.RoleInfo{
		{Name: "a", Description: "about a", DefaultTTL: 15 * time.Minute, MaxTTL: time.Hour},
		{Name: "b", Description: "about b", DefaultTTL: time.Minute, MaxTTL: 2 * time.Minute},
		{Name: "e", Description: "about e", DefaultTTL: 3 * time.Hour, MaxTTL: 3 * time.Hour},
	}
	if got := rules.Allowed(alice()); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestExplain(t *testing.T) {
	when := `identity.tenant == "corp" && (identity.subject == "bob" || identity.subject == "carol") && "x" in identity.attrs.missing && ` +
		`identity.attrs.groups.exists(g, g == "staff")`
	rules := compile(t,
		role(func(r *policy.Role) { r.When = when }),
		role(func(r *policy.Role) { r.Name, r.SessionPolicy = "home", homeTemplate }),
		role(func(r *policy.Role) { r.Name, r.Source = "plain", "broker.yaml:60" }),
		role(func(r *policy.Role) {
			r.Name, r.SessionPolicy = "bad-value", resourceTemplate("{{attrs.groups}}").SessionPolicy
		}),
		role(func(r *policy.Role) { r.Name, r.When, r.SessionPolicy = "closed", "false", homeTemplate }),
	)
	const rendered = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports/alice/*"]},` +
		`{"Effect":"Deny","Action":["s3:*"],"Resource":["arn:aws:s3:::reports/alice/locked/*"]}]}`
	isAlice := policy.Finding{Check: `identity.subject == "alice"`, Passed: true}
	for name, want := range map[string]policy.Explanation{
		"reports": {Exists: true, Rule: "broker.yaml:41", When: when, Findings: []policy.Finding{
			{Check: `identity.tenant == "corp"`, Passed: true},
			{Check: `identity.subject == "bob" || identity.subject == "carol"`, Detail: "false"},
			{Check: `"x" in identity.attrs.missing`, Detail: "it can't be evaluated for this identity: no such key: missing"},
			{Check: `identity.attrs.groups.exists(g, g == "staff")`, Passed: true},
		}},
		"home": {Exists: true, Allowed: true, Rule: "broker.yaml:41", When: isAlice.Check, Policies: []string{"reports-rw"}, SessionPolicy: rendered,
			Findings: []policy.Finding{isAlice, {Check: "session policy", Passed: true}}},
		"plain": {Exists: true, Allowed: true, Rule: "broker.yaml:60", When: isAlice.Check, Policies: []string{"reports-rw"},
			Findings: []policy.Finding{isAlice}},
		"bad-value": {Exists: true, Rule: "broker.yaml:41", When: isAlice.Check,
			Findings: []policy.Finding{isAlice, {Check: "session policy", Detail: "{{attrs.groups}} has 2 values, expected one"}}},
		"closed": {Exists: true, Rule: "broker.yaml:41", When: "false",
			Findings: []policy.Finding{{Check: "false", Detail: "false"}, {Check: "session policy", Passed: true}}},
		"unknown": {Findings: []policy.Finding{{Check: "role", Detail: "there is no such role"}}},
		"../x":    {Findings: []policy.Finding{{Check: "role", Detail: "no role can have such a name: it does not match ^[a-z0-9][a-z0-9_-]{0,62}$"}}},
	} {
		got := rules.Explain(alice(), name)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
		if name != "../x" {
			_, err := rules.Resolve(alice(), policy.Wanted{Role: name, Now: now})
			if (err == nil) != got.Allowed {
				t.Errorf("%s: explained as allowed: %t, but Resolve says %v", name, got.Allowed, err)
			}
		}
	}
}
