package policy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy"
)

// now is the time of every decision in these tests.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// backends has one exchanger that honours everything, as MinIO's does, and poorer ones.
func backends() map[string]policy.Backend {
	return map[string]policy.Backend{
		"minio":   {AllowedPolicies: []string{"reports-rw", "reports-ro"}, SessionPolicyBytes: 2048},
		"bare":    {},
		"bounded": {AllowedPolicies: []string{"p"}, MinTTL: 15 * time.Minute, MaxTTL: 2 * time.Hour},
		"longer":  {AllowedPolicies: []string{"p"}, MaxTTL: 5 * time.Hour},
		"slow":    {AllowedPolicies: []string{"reports-rw"}, SessionPolicyBytes: 1024, MinTTL: 20 * time.Minute, MaxTTL: 3 * time.Hour},
		"single":  {AllowedPolicies: []string{"p", "q"}, MaxPolicies: 1},
		// Three that honour session policies alone: where there may be one, where there must be, and two where the proof's end is theirs.
		"sessions": {SessionPolicyBytes: 2048},
		"tagging":  {SessionPolicyBytes: 2048, SessionTags: true},
		"needy":    {SessionPolicyBytes: 2048, NeedsSessionPolicy: true},
		"passed":   {SessionPolicyBytes: 2048, NeedsSessionPolicy: true, EndsWithProof: true},
		"passed2":  {SessionPolicyBytes: 2048, NeedsSessionPolicy: true, EndsWithProof: true},
	}
}

func alice() attest.Identity {
	return attest.Identity{
		Kind:      attest.KindOIDC,
		Issuer:    "https://login.corp.example",
		Tenant:    "corp",
		Subject:   "alice",
		Attrs:     map[string][]string{"groups": {"staff", "analysts"}, "department": {"finance"}, "home": {"emea/alice"}},
		PathAttrs: map[string]bool{"home": true},
		Expires:   now.Add(time.Hour),
	}
}

// role is a valid role; edit it into the one a test needs.
func role(edit func(*policy.Role)) policy.Role {
	r := policy.Role{
		Name:      "reports",
		When:      `identity.subject == "alice"`,
		Exchanger: "minio",
		Policies:  []string{"reports-rw"},
		Source:    "broker.yaml:41",
	}
	if edit != nil {
		edit(&r)
	}
	return r
}

func compile(t testing.TB, roles ...policy.Role) *policy.Rules {
	t.Helper()
	rules, err := policy.Compile(roles, backends())
	if err != nil {
		t.Fatalf("Compile: %v", err)
	}
	return rules
}

// faults compiles roles that must not compile, and returns what is wrong with them.
func faults(t testing.TB, roles ...policy.Role) policy.Faults {
	t.Helper()
	rules, err := policy.Compile(roles, backends())
	all, ok := errors.AsType[policy.Faults](err)
	if !ok || rules != nil {
		t.Fatalf("Compile = %v, %v; want Faults", rules, err)
	}
	return all
}

// wantFault fails unless there is exactly one fault, at path, that says text.
func wantFault(t testing.TB, all policy.Faults, path, text string) {
	t.Helper()
	if len(all) != 1 || all[0].Path != path || !strings.Contains(all[0].Problem, text) {
		t.Errorf("faults:\n%v\nwant one at %s that says %q", all, path, text)
	}
}

func resolve(t testing.TB, rules *policy.Rules, id attest.Identity, w policy.Wanted) policy.Grant {
	t.Helper()
	w.Now = now
	grant, err := rules.Resolve(id, w)
	if err != nil {
		t.Fatalf("Resolve(%+v): %v", w, err)
	}
	return grant
}

// wantRefusal fails unless Resolve refuses with reason; it returns the error's text.
func wantRefusal(t testing.TB, rules *policy.Rules, id attest.Identity, w policy.Wanted, reason error) string {
	t.Helper()
	w.Now = now
	grant, err := rules.Resolve(id, w)
	if !errors.Is(err, reason) {
		t.Fatalf("Resolve(%+v) = %+v, %v; want %v", w, grant, err, reason)
	}
	_, isInput := errors.AsType[*policy.InputError](err)
	if wantInput := !errors.Is(reason, policy.ErrDenied); isInput != wantInput {
		t.Errorf("%v: an InputError: %t, want %t", err, isInput, wantInput)
	}
	if grant.Role != "" || grant.Policies != nil || grant.SessionPolicy != "" {
		t.Errorf("a refusal came with the grant %+v", grant)
	}
	return err.Error()
}
