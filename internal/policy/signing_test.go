package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/policy/iam"
)

func TestGrantsForSignatures(t *testing.T) {
	document := func(resource string) string {
		return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::` + resource + `"}]}`
	}
	role := func(name string) policy.Role {
		return policy.Role{Name: name, When: `identity.subject == "alice"`, Exchanger: "minio", Policies: []string{"reports-rw"}}
	}
	roles := []policy.Role{role("home"), role("listed"), role("open"), role("variable")}
	roles[0].SessionPolicy = document("home/{{subject}}/*")
	roles[1].Operations = []string{"s3:PutObject", "s3:Get*"}
	roles[3].SessionPolicy = document("home/${aws:username}/*")
	rules, err := policy.Compile(roles, map[string]policy.Backend{"minio": {AllowedPolicies: []string{"reports-rw"}, SessionPolicyBytes: 2048}})
	if err != nil {
		t.Fatal(err)
	}
	alice := attest.Identity{Subject: "alice"}
	grant := func(name string) policy.Grant {
		t.Helper()
		g, err := rules.Resolve(alice, policy.Wanted{Role: name, Signing: true})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	for _, tc := range []struct {
		role, action, resource string
		want                   bool
	}{
		{"home", "s3:GetObject", "home/alice/a", true},
		{"home", "s3:GetObject", "home/bob/a", false},
		{"home", "s3:PutObject", "home/alice/a", false},
		{"listed", "s3:PutObject", "any/key", true},
		{"listed", "s3:GetObjectTagging", "any/key", true},
		{"listed", "s3:DeleteObject", "any/key", false},
		{"listed", "s3:ListBucket", "any/", false},
	} {
		if got := grant(tc.role).Permits(tc.action, iam.ARNPrefix+tc.resource, iam.Values{}); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	// What can't be evaluated is not signed for.
	for _, name := range []string{"open", "variable", "none"} {
		if g, err := rules.Resolve(alice, policy.Wanted{Role: name, Signing: true}); !errors.Is(err, policy.ErrDenied) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
	if _, err := rules.Resolve(attest.Identity{Subject: "bob"}, policy.Wanted{Role: "home", Signing: true}); !errors.Is(err, policy.ErrDenied) {
		t.Error(err)
	}
	// A grant of credentials permits no signatures, and its operations are its session policy.
	g, err := rules.Resolve(alice, policy.Wanted{Role: "listed"})
	if err != nil || g.Permits("s3:PutObject", iam.ARNPrefix+"any/key", iam.Values{}) ||
		g.SessionPolicy != `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","s3:PutObject"],"Resource":["arn:aws:s3:::*"]}]}` || g.SessionPolicy != grant("listed").SessionPolicy {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestFaultsOfOperations(t *testing.T) {
	role := policy.Role{Name: "a", When: "true", Exchanger: "minio", Policies: []string{"p"}, Operations: []string{"s3:GetObject"}}
	for want, change := range map[string]func(*policy.Role, *policy.Backend){
		"roles[0].operations: there is a session_policy as well": func(r *policy.Role, _ *policy.Backend) { r.SessionPolicy = "{}" },
		"roles[0].operations[1]: \"admin:*\"":                    func(r *policy.Role, _ *policy.Backend) { r.Operations = append(r.Operations, "admin:*") },
		"roles[0].operations: 65 of them":                        func(r *policy.Role, _ *policy.Backend) { r.Operations = make([]string, 65) },
		"roles[0].operations: the exchanger minio honours no":    func(_ *policy.Role, b *policy.Backend) { b.SessionPolicyBytes = 0 },
		"roles[0].operations: the role is for gateways":          func(r *policy.Role, _ *policy.Backend) { r.Gateway, r.Exchanger, r.Policies = true, "", nil },
	} {
		r, b := role, policy.Backend{AllowedPolicies: []string{"p"}, SessionPolicyBytes: 2048}
		change(&r, &b)
		if _, err := policy.Compile([]policy.Role{r}, map[string]policy.Backend{"minio": b}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
