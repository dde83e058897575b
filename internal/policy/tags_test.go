package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/policy"
)

// tagged is a role with session tags at an exchanger that honours them.
func tagged(tags map[string]string) policy.Role {
	return role(func(r *policy.Role) { r.Exchanger, r.Policies, r.SessionTags = "tagging", nil, tags })
}

func TestSessionTagsAreFilledIn(t *testing.T) {
	rules := compile(t, tagged(map[string]string{"team": "{{attrs.department}}", "Who": "{{tenant}}/{{subject}}", "role": "broker:{{role}}", "home": "{{attrs.home}}"}))
	g, err := rules.Resolve(alice(), policy.Wanted{Role: "reports", Now: now})
	want := []policy.Tag{{Key: "Who", Value: "corp/alice"}, {Key: "home", Value: "emea/alice"}, {Key: "role", Value: "broker:reports"}, {Key: "team", Value: "finance"}}
	if err != nil || !slices.Equal(g.SessionTags, want) {
		t.Errorf("%+v, %v", g.SessionTags, err)
	}
	if other := compile(t, tagged(map[string]string{"team": "x"})); other.Version() == rules.Version() {
		t.Error("the version doesn't tell")
	}
}

func TestSessionTagsDeny(t *testing.T) {
	rules := compile(t, tagged(map[string]string{"team": "{{attrs.groups}}"}), role(func(r *policy.Role) {
		r.Name, r.Exchanger, r.Policies, r.SessionTags = "long", "tagging", nil, map[string]string{"a": strings.Repeat("x", 252) + "{{subject}}"}
	}))
	for _, name := range []string{"reports", "long"} { // two values; 257 bytes
		if _, err := rules.Resolve(alice(), policy.Wanted{Role: name, Now: now}); !errors.Is(err, policy.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	hostile := alice()
	hostile.Tenant = "a b"
	rules = compile(t, tagged(map[string]string{"t": "{{tenant}}"}))
	if _, err := rules.Resolve(hostile, policy.Wanted{Role: "reports", Now: now}); !errors.Is(err, policy.ErrDenied) {
		t.Errorf("%v", err)
	}
}

func TestSessionTagsThatAreNone(t *testing.T) {
	many := map[string]string{}
	for n := range 51 {
		many[fmt.Sprint("k", n)] = "v"
	}
	for name, c := range map[string]struct {
		tags       map[string]string
		path, text string
	}{
		"too many":           {many, "session_tags", "51 of them"},
		"an empty key":       {map[string]string{"": "v"}, "session_tags", "expected a key"},
		"a key of 129":       {map[string]string{strings.Repeat("k", 129): "v"}, "session_tags", "expected a key"},
		"a key with a space": {map[string]string{"a b": "v"}, "session_tags", "expected a key"},
		"AWS's own":          {map[string]string{"AWS:x": "v"}, "session_tags", "aws:"},
		"one in two cases":   {map[string]string{"Team": "v", "team": "v"}, "session_tags", "there already"},
		"no value":           {map[string]string{"a": ""}, "session_tags.a", "1 to 256"},
		"a value of 257":     {map[string]string{"a": strings.Repeat("v", 257)}, "session_tags.a", "1 to 256"},
		"another character":  {map[string]string{"a": "v;"}, "session_tags.a", "1 to 256"},
		"beyond ASCII":       {map[string]string{"a": "vä"}, "session_tags.a", "1 to 256"},
		"no placeholder":     {map[string]string{"a": "{{x}}"}, "session_tags.a", "expected {{subject}}"},
	} {
		t.Run(name, func(t *testing.T) { wantFault(t, faults(t, tagged(c.tags)), "roles[0]."+c.path, c.text) })
	}
	wantFault(t, faults(t, role(func(r *policy.Role) { r.SessionTags = map[string]string{"a": "b"} })), "roles[0].session_tags", "minio honours no session tags")
	wantFault(t, faults(t, role(func(r *policy.Role) {
		r.Exchanger, r.Policies, r.Fallback, r.SessionTags = "tagging", nil, "sessions", map[string]string{"a": "b"}
	})), "roles[0].session_tags", "sessions honours no session tags")
	wantFault(t, faults(t, policy.Role{Name: "g", When: "true", Gateway: true, SessionTags: map[string]string{"a": "b"}}), "roles[0].session_tags", "for gateways")
	compile(t, tagged(map[string]string{strings.Repeat("k", 128): strings.Repeat("v", 256), "a": "A z_.:/=+@-"}))
}
