package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/policy"
)

func TestCompileRefuses(t *testing.T) {
	type edit = func(*policy.Role)
	for name, tc := range map[string]struct {
		edit       edit
		path, text string
	}{
		"no name":                  {func(r *policy.Role) { r.Name = "" }, "name", "does not match"},
		"name in upper case":       {func(r *policy.Role) { r.Name = "Reports" }, "name", "does not match"},
		"name with a slash":        {func(r *policy.Role) { r.Name = "../../sys/seal" }, "name", "does not match"},
		"name with a line end":     {func(r *policy.Role) { r.Name = "reports\n" }, "name", "does not match"},
		"name with a dash first":   {func(r *policy.Role) { r.Name = "-reports" }, "name", "does not match"},
		"name of 64 bytes":         {func(r *policy.Role) { r.Name = strings.Repeat("a", 64) }, "name", "does not match"},
		"description of 257 bytes": {func(r *policy.Role) { r.Description = strings.Repeat("a", 257) }, "description", "257 bytes"},
		"no condition":             {func(r *policy.Role) { r.When = "" }, "when", "required"},
		"no exchanger":             {func(r *policy.Role) { r.Exchanger = "" }, "exchanger", `no exchanger ""`},
		"unknown exchanger":        {func(r *policy.Role) { r.Exchanger = "mimio" }, "exchanger", "bare, bounded, longer, minio"},
		"no policies":              {func(r *policy.Role) { r.Policies = nil }, "policies", "at least one"},
		"no policies, but a session policy": {func(r *policy.Role) { r.Policies = nil; r.SessionPolicy = homeTemplate },
			"policies", "at least one"},
		"policy not allowed":      {func(r *policy.Role) { r.Policies = []string{"reports-ro", "consoleAdmin"} }, "policies[1]", "exchanger minio: reports-rw, reports-ro"},
		"policy in another case":  {func(r *policy.Role) { r.Policies = []string{"Reports-rw"} }, "policies[0]", "allowed_policies"},
		"policy twice":            {func(r *policy.Role) { r.Policies = []string{"reports-rw", "reports-rw"} }, "policies[1]", "already"},
		"33 policies":             {func(r *policy.Role) { r.Policies = slices.Repeat([]string{"reports-rw"}, 33) }, "policies", "33 of them"},
		"policies for none":       {func(r *policy.Role) { r.Exchanger = "bare" }, "policies", "honours no policies"},
		"session policy for none": {func(r *policy.Role) { r.Exchanger = "bare"; r.Policies = nil; r.SessionPolicy = homeTemplate }, "session_policy", "honours no session policy"},
		"a gateway's exchanger":   {func(r *policy.Role) { r.Gateway, r.Policies = true, nil }, "exchanger", "for gateways"},
		"a gateway's policies":    {func(r *policy.Role) { r.Gateway, r.Exchanger = true, "" }, "policies", "for gateways"},
		"a gateway's session policy": {func(r *policy.Role) {
			*r = policy.Role{Name: "g", When: "true", Gateway: true, SessionPolicy: homeTemplate}
		}, "session_policy", "for gateways"},
		"a gateway for over an hour": {func(r *policy.Role) {
			*r = policy.Role{Name: "g", When: "true", Gateway: true, TTL: policy.TTL{Max: time.Hour + time.Second}}
		}, "ttl.max", "at most 1h0m0s"},
		"a gateway without condition": {func(r *policy.Role) { *r = policy.Role{Name: "g", Gateway: true} }, "when", "required"},
		"negative ttl":                {func(r *policy.Role) { r.TTL.Default = -time.Second }, "ttl.default", "whole seconds"},
		"fractional ttl":              {func(r *policy.Role) { r.TTL.Max = 1500 * time.Millisecond }, "ttl.max", "whole seconds"},
		"ttl of a nanosecond":         {func(r *policy.Role) { r.TTL.Min = 1 }, "ttl.min", "whole seconds"},
		"max over twelve hours":       {func(r *policy.Role) { r.TTL.Max = 43_201 * time.Second }, "ttl.max", "at most 12h0m0s"},
		"default over max":            {func(r *policy.Role) { r.TTL = policy.TTL{Default: 61 * time.Second, Max: time.Minute} }, "ttl.default", "which is 1m0s"},
		"default over max by default": {func(r *policy.Role) { r.TTL.Default = 2 * time.Hour }, "ttl.default", "which is 1h0m0s"},
		"min over default":            {func(r *policy.Role) { r.TTL = policy.TTL{Min: 61 * time.Second, Default: time.Minute} }, "ttl.min", "which is 1m0s"},
		"max over the exchanger's": {func(r *policy.Role) {
			r.Exchanger, r.Policies = "bounded", []string{"p"}
			r.TTL = policy.TTL{Min: 15 * time.Minute, Max: 2*time.Hour + time.Second}
		}, "ttl.max", "grant at most 2h0m0s"},
		"default under the exchanger's": {func(r *policy.Role) {
			r.Exchanger, r.Policies = "bounded", []string{"p"}
			r.TTL.Default = 15*time.Minute - time.Second
		}, "ttl.default", "no less than 15m0s"},
		"more policies than one":                {func(r *policy.Role) { r.Exchanger, r.Policies = "single", []string{"p", "q"} }, "policies", "single honours at most 1"},
		"no session policy where one is needed": {func(r *policy.Role) { r.Exchanger, r.Policies = "passed", nil }, "session_policy", "it is required"},
		"unknown fall-back":                     {func(r *policy.Role) { r.Fallback = "none" }, "fallback", `no exchanger "none"`},
		"itself as fall-back":                   {func(r *policy.Role) { r.Fallback = "minio" }, "fallback", "another one"},
		"a fall-back without the policies":      {func(r *policy.Role) { r.Fallback = "bare" }, "policies", "bare honours no policies"},
		"a fall-back without a session policy": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.Fallback, r.SessionPolicy = "sessions", nil, "bare", homeTemplate
		}, "session_policy", "bare honours no session policy"},
		"a fall-back that needs a session policy": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.Fallback = "sessions", nil, "needy"
		}, "session_policy", "fall-back needy"},
		"a fall-back that ends otherwise": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.Fallback, r.SessionPolicy = "sessions", nil, "passed", homeTemplate
		}, "fallback", "end when the proof does"},
		"default under the fall-back's": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.Fallback = "minio", []string{"reports-rw"}, "slow"
			r.TTL.Default = 20*time.Minute - time.Second
		}, "ttl.default", "no less than 20m0s"},
		"max over the fall-back's": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.Fallback = "minio", []string{"reports-rw"}, "slow"
			r.TTL = policy.TTL{Default: time.Hour, Max: 3*time.Hour + time.Second}
		}, "ttl.max", "at most 3h0m0s"},
		"max over the exchanger's, not the fall-back's": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.Fallback = "slow", []string{"reports-rw"}, "minio"
			r.TTL = policy.TTL{Default: time.Hour, Max: 3*time.Hour + time.Second}
		}, "ttl.max", "at most 3h0m0s"},
		"max over the exchanger's, whose fall-back grants more": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.Fallback = "bounded", []string{"p"}, "longer"
			r.TTL = policy.TTL{Default: time.Hour, Max: 2*time.Hour + time.Second}
		}, "ttl.max", "at most 2h0m0s"},
		"default over max, and under the exchanger's": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.TTL = "bounded", []string{"p"}, policy.TTL{Default: 10 * time.Minute, Max: 5 * time.Minute}
		}, "ttl.default", "which is 5m0s"},
		"an unknown exchanger, with a fall-back that honours less": {func(r *policy.Role) { r.Exchanger, r.Fallback = "none", "bare" }, "exchanger", `no exchanger "none"`},
		"an unknown fall-back, of one that ends with the proof": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.SessionPolicy, r.Fallback = "passed", nil, homeTemplate, "none"
		}, "fallback", `no exchanger "none"`},
		"operations, and a fall-back without a session policy": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.Operations, r.Fallback = "sessions", nil, []string{"s3:GetObject"}, "bare"
		}, "operations", "bare honours no session policy"},
		"no session policy where both need one": {func(r *policy.Role) {
			r.Exchanger, r.Policies, r.Fallback = "passed", nil, "passed2"
		}, "session_policy", "it is required"},
		"a gateway's fall-back": {func(r *policy.Role) { r.Gateway, r.Exchanger, r.Policies, r.Fallback = true, "", nil, "minio" }, "fallback", "for gateways"},
	} {
		t.Run(name, func(t *testing.T) { wantFault(t, faults(t, role(tc.edit)), "roles[0]."+tc.path, tc.text) })
	}
}

func TestCompileTakesWhatIsJustWithin(t *testing.T) {
	for name, edit := range map[string]func(*policy.Role){
		"name of 63 bytes":         func(r *policy.Role) { r.Name = strings.Repeat("a", 63) },
		"name of one byte":         func(r *policy.Role) { r.Name = "0" },
		"name with all it may":     func(r *policy.Role) { r.Name = "0a_b-c" },
		"description of 256 bytes": func(r *policy.Role) { r.Description = strings.Repeat("a", 256) },
		"max of twelve hours":      func(r *policy.Role) { r.TTL.Max = 43_200 * time.Second },
		"all TTLs alike":           func(r *policy.Role) { r.TTL = policy.TTL{Default: time.Hour, Max: time.Hour, Min: time.Hour} },
		"the exchanger's bounds": func(r *policy.Role) {
			r.Exchanger, r.Policies = "bounded", []string{"p"}
			r.TTL = policy.TTL{Default: 15 * time.Minute, Max: 2 * time.Hour}
		},
		"as many policies as may be": func(r *policy.Role) { r.Exchanger, r.Policies = "single", []string{"p"} },
		"a fall-back as good":        func(r *policy.Role) { r.Fallback, r.TTL.Default = "slow", 20*time.Minute },
		"two that end with the proof": func(r *policy.Role) {
			r.Exchanger, r.Fallback, r.Policies, r.SessionPolicy = "passed", "passed2", nil, homeTemplate
		},
		"neither, where none is honoured": func(r *policy.Role) { r.Exchanger, r.Policies = "bare", nil },
	} {
		if _, err := policy.Compile([]policy.Role{role(edit)}, backends()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	names := make([]string, 32)
	for i := range names {
		names[i] = fmt.Sprint("p", i)
	}
	if _, err := policy.Compile([]policy.Role{role(func(r *policy.Role) { r.Policies = names })},
		map[string]policy.Backend{"minio": {AllowedPolicies: names}}); err != nil {
		t.Errorf("32 policies: %v", err)
	}
}

func TestCompileReportsEveryFaultAtOnce(t *testing.T) {
	all := faults(t,
		role(func(r *policy.Role) { r.Name = "Bad"; r.When = "" }),
		role(func(r *policy.Role) { r.Exchanger = "none"; r.SessionPolicy = "{"; r.TTL.Max = -1 }),
		role(func(r *policy.Role) { r.TTL.Max = 13 * time.Hour }),
	)
	var paths []string
	for _, f := range all {
		paths = append(paths, f.Path)
	}
	want := []string{"roles[0].name", "roles[0].when", "roles[1].exchanger", "roles[1].session_policy", "roles[1].ttl.max",
		"roles[2].name", "roles[2].ttl.max"}
	if !slices.Equal(paths, want) {
		t.Errorf("got %v\nwant %v", paths, want)
	}
	if text := all.Error(); strings.Count(text, "\n") != len(want)-1 || !strings.Contains(text, "roles[2].name: ") {
		t.Errorf("Error() = %s", text)
	}
}

func TestCompileNamesTheFirstRoleOfThatName(t *testing.T) {
	other := role(func(r *policy.Role) { r.Name = "other" })
	wantFault(t, faults(t, other, role(nil), role(nil)), "roles[2].name", `"reports" is the name of roles[1] already`)
}

func TestCompileBoundsTheNumberOfRoles(t *testing.T) {
	_, err := policy.Compile(make([]policy.Role, 20_001), backends())
	all, ok := errors.AsType[policy.Faults](err)
	if !ok {
		t.Fatal(err)
	}
	wantFault(t, all, "roles", "20001 of them")
	if all := faults(t, make([]policy.Role, 20_000)...); len(all) < 20_000 {
		t.Errorf("20,000 empty roles have only %d faults", len(all))
	}
}

func TestNoRolesAllowNothing(t *testing.T) {
	rules := compile(t)
	wantRefusal(t, rules, alice(), policy.Wanted{Role: "reports"}, policy.ErrDenied)
	if got := rules.Allowed(alice()); len(got) != 0 {
		t.Errorf("Allowed = %v", got)
	}
}

func TestTTLDefaults(t *testing.T) {
	for _, tc := range []struct{ in, want policy.TTL }{
		{policy.TTL{}, policy.TTL{Default: 15 * time.Minute, Max: time.Hour, Min: time.Minute}},
		{policy.TTL{Max: 5 * time.Minute}, policy.TTL{Default: 5 * time.Minute, Max: 5 * time.Minute, Min: time.Minute}},
		{policy.TTL{Default: 30 * time.Second}, policy.TTL{Default: 30 * time.Second, Max: time.Hour, Min: 30 * time.Second}},
		{policy.TTL{Max: 2 * time.Hour, Default: time.Hour, Min: 20 * time.Minute}, policy.TTL{Max: 2 * time.Hour, Default: time.Hour, Min: 20 * time.Minute}},
	} {
		rules := compile(t, role(func(r *policy.Role) { r.TTL = tc.in }))
		info := rules.Allowed(alice())[0]
		grant := resolve(t, rules, alice(), policy.Wanted{Role: "reports"})
		if got := (policy.TTL{Default: info.DefaultTTL, Max: info.MaxTTL, Min: grant.Min}); got != tc.want {
			t.Errorf("%+v: got %+v", tc.in, got)
		}
	}
}

func TestVersion(t *testing.T) {
	other := role(func(r *policy.Role) { r.Name = "other" })
	base := compile(t, role(nil), other).Version()
	if len(base) != 16 || strings.Trim(base, "0123456789abcdef") != "" {
		t.Errorf("Version() = %q", base)
	}
	for name, same := range map[string][]policy.Role{
		"again":            {role(nil), other},
		"another order":    {other, role(nil)},
		"another file":     {role(func(r *policy.Role) { r.Source = "elsewhere.yaml:1" }), other},
		"defaults spelled": {role(func(r *policy.Role) { r.TTL.Max = time.Hour }), other},
	} {
		if got := compile(t, same...).Version(); got != base {
			t.Errorf("%s: another version", name)
		}
	}
	if a, b := compile(t, role(func(r *policy.Role) { r.SessionPolicy = homeTemplate })).Version(),
		compile(t, role(func(r *policy.Role) { r.SessionPolicy = " " + homeTemplate })).Version(); a != b {
		t.Error("white space in the session policy made another version")
	}
	seen := map[string]string{base: "base"}
	for name, edit := range map[string]func(*policy.Role){
		"description": func(r *policy.Role) { r.Description = "d" },
		"when":        func(r *policy.Role) { r.When = "true" },
		"policies":    func(r *policy.Role) { r.Policies = []string{"reports-ro"} },
		"session":     func(r *policy.Role) { r.SessionPolicy = homeTemplate },
		"default":     func(r *policy.Role) { r.TTL.Default = time.Minute },
		"max":         func(r *policy.Role) { r.TTL.Max = 2 * time.Hour },
		"min":         func(r *policy.Role) { r.TTL.Min = 2 * time.Minute },
		"within":      func(r *policy.Role) { r.TTL.WithinProof = true },
		"exchanger":   func(r *policy.Role) { r.Exchanger, r.Policies = "bare", nil },
		"name":        func(r *policy.Role) { r.Name = "renamed" },
	} {
		v := compile(t, role(edit), other).Version()
		if twin, taken := seen[v]; taken {
			t.Errorf("%s and %s have the same version", name, twin)
		}
		seen[v] = name
	}
}

func TestValidRoleName(t *testing.T) {
	for name, want := range map[string]bool{"a": true, "reports-rw_2": true, "": false, "a/b": false, "a%2fb": false, "A": false, "a\x00": false, "а": false} {
		if policy.ValidRoleName(name) != want {
			t.Errorf("ValidRoleName(%q) is wrong", name)
		}
	}
}
