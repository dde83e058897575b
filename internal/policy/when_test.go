package policy_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy"
)

func withWhen(when string) policy.Role { return role(func(r *policy.Role) { r.When = when }) }

// gateway is alice, for whom a gateway acts.
func gateway() attest.Identity {
	id := alice()
	id.Actor = &attest.Identity{Kind: attest.KindOIDC, Issuer: "https://mesh.example", Subject: "kong"}
	return id
}

func TestConditions(t *testing.T) {
	for when, want := range map[string]bool{
		`true`:                    true,
		`false`:                   false,
		`identity.kind == "oidc"`: true,
		`identity.issuer == "https://other.example"`:                              false,
		`identity.tenant == "corp" && identity.subject.startsWith("al")`:          true,
		`identity.subject.endsWith("ce") && identity.subject.contains("lic")`:     true,
		`"staff" in identity.attrs.groups`:                                        true,
		`"Staff" in identity.attrs.groups`:                                        false,
		`"x" in identity.attrs.groups || "analysts" in identity.attrs["groups"]`:  true,
		`has(identity.attrs.department)`:                                          true,
		`has(identity.attrs.missing)`:                                             false,
		`"groups" in identity.attrs && !("missing" in identity.attrs)`:            true,
		`identity.attrs.department == ["finance"]`:                                true,
		`identity.attrs.groups[0] == "staff" && size(identity.attrs.groups) == 2`: true,
		`identity.attrs.groups.exists(g, g.matches("^(analysts|admins)$"))`:       true,
		`identity.attrs.groups.all(g, g == "staff")`:                              false,
		`identity.attrs.groups.exists_one(g, g == "staff")`:                       true,
		`identity.attrs.exists(name, name == "home")`:                             true,
		`identity.actor == null && !has(identity.actor)`:                          true,
		`has(identity.actor) && identity.actor.subject == "kong"`:                 false,
		`(has(identity.actor) ? identity.actor : identity).subject == "alice"`:    true,
		`identity.subject == identity.tenant + "lice"`:                            false,
		`has(identity.tenant) && has(identity.attrs) && has(identity.kind)`:       true,
	} {
		grant, err := compile(t, withWhen(when)).Resolve(alice(), policy.Wanted{Role: "reports", Now: now})
		if (err == nil) != want || want && grant.Role != "reports" {
			t.Errorf("%s: got %v, %v", when, grant, err)
		}
	}
	for _, when := range []string{
		`has(identity.actor) && identity.actor.subject == "kong" && identity.actor.issuer == "https://mesh.example"`,
		`identity.actor != null && identity.actor.actor == null && !has(identity.actor.tenant) && !has(identity.actor.attrs)`,
	} {
		if _, err := compile(t, withWhen(when)).Resolve(gateway(), policy.Wanted{Role: "reports", Now: now}); err != nil {
			t.Errorf("%s, with an actor: %v", when, err)
		}
	}
}

func TestConditionThatFailsIsANo(t *testing.T) {
	for when, cause := range map[string]string{
		`identity.attrs.missing[0] == "x"`:       "no such key: missing",
		`!("x" in identity.attrs.missing)`:       "no such key: missing",
		`identity.attrs.groups[2] == "x"`:        "index out of bounds",
		`identity.actor.subject != "kong"`:       "there is no actor",
		`identity.actor.actor.subject != "kong"`: "there is no actor",
	} {
		text := wantRefusal(t, compile(t, withWhen(when)), alice(), policy.Wanted{Role: "reports"}, policy.ErrDenied)
		if !strings.Contains(text, cause) {
			t.Errorf("%s: %s; want the cause %q", when, text, cause)
		}
	}
}

func TestConditionRefusedAtLoad(t *testing.T) {
	for when, want := range map[string]string{
		`identity.subject ==`:                       "line 1, column",
		`true &&` + "\n" + `identity.subjekt == ""`: "line 2, column 9: undefined field 'subjekt'",
		`identity.subject`:                          "type string, expected bool",
		`identity.attrs.groups == "staff"`:          "no matching overload",
		`identity.attrs.groups.subject == ""`:       "does not support field selection",
		`user == "alice"`:                           "undeclared reference to 'user'",
		`identity.expires == ""`:                    "undefined field 'expires'",
		`now() == 0`:                                "undeclared reference to 'now'",
		`timestamp("2026-01-01T00:00:00Z") == timestamp("2026-01-01T00:00:00Z")`:   "undeclared reference to 'timestamp'",
		`duration("1s") == duration("1s")`:                                         "undeclared reference to 'duration'",
		`dyn(identity.subject) == 1`:                                               "undeclared reference to 'dyn'",
		`string(1) == "1"`:                                                         "undeclared reference to 'string'",
		`identity.attrs.groups.map(g, g) == []`:                                    "undeclared reference to 'map'",
		`identity.attrs.groups.filter(g, true) == []`:                              "undeclared reference to 'filter'",
		`Identity{subject: "alice"}.subject == "alice"`:                            "can't be made up",
		`google.protobuf.Int64Value{value: 1} == 1`:                                "google.protobuf.Int64Value",
		`identity == identity`:                                                     "it could cost",
		`identity.attrs.groups.exists(g, identity.attrs.groups.exists(h, g == h))`: "it could cost",
		`identity.subject.matches("alice")`:                                        "as a whole",
		`identity.subject.matches("^alice")`:                                       "as a whole",
		`identity.subject.matches("alice$")`:                                       "as a whole",
		`identity.subject.matches("^alice|bob$")`:                                  "as a whole",
		`identity.subject.matches("^alice$|bob")`:                                  "as a whole",
		`identity.subject.matches("(?m)^alice$")`:                                  "as a whole",
		`identity.subject.matches("^(alice$")`:                                     "as a whole",
		`identity.subject.matches("")`:                                             "as a whole",
		`matches(identity.subject, "a|b")`:                                         "as a whole",
		`identity.subject.matches("^" + identity.tenant + "$")`:                    "must be a literal",
		`identity.subject.matches(identity.tenant)`:                                "must be a literal",
		strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100):               "recursion",
		"true //" + strings.Repeat(" ", 4090):                                      "4097 bytes, expected at most 4096",
	} {
		wantFault(t, faults(t, withWhen(when)), "roles[0].when", want)
	}
	compile(t, withWhen("true //"+strings.Repeat(" ", 4089)))
}

// A large identity is stopped by count, whatever the estimate at load made of the expression.
func TestConditionCostIsBoundedAtRunTime(t *testing.T) {
	rules := compile(t, withWhen(`identity.attrs.groups.exists(g, g == "last")`))
	id := alice()
	id.Attrs["groups"] = append(make([]string, 1000), "last")
	resolve(t, rules, id, policy.Wanted{Role: "reports"})
	id.Attrs["groups"] = append(make([]string, 400_000), "last")
	text := wantRefusal(t, rules, id, policy.Wanted{Role: "reports"}, policy.ErrDenied)
	if !strings.Contains(text, "cost limit exceeded") {
		t.Error(text)
	}
}

func TestRulesAreSafeForConcurrentUse(t *testing.T) {
	rules := compile(t, role(func(r *policy.Role) {
		r.When = `identity.attrs.groups.exists(g, g == identity.subject)`
		r.SessionPolicy = homeTemplate
	}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := alice()
			id.Subject = fmt.Sprint("user", i)
			id.Attrs = map[string][]string{"groups": {id.Subject}}
			for range 50 {
				grant, err := rules.Resolve(id, policy.Wanted{Role: "reports", Now: now})
				if err != nil || !strings.Contains(grant.SessionPolicy, "reports/"+id.Subject+"/*") {
					t.Errorf("%s: %v, %v", id.Subject, grant, err)
				}
				rules.Allowed(id)
				rules.Explain(id, "reports")
			}
		})
	}
	wg.Wait()
}
