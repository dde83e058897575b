package policy_test

import (
	"errors"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy"
)

// A role is for gateways or for credentials, and the other sort is as good as no role.
func TestRolesForGateways(t *testing.T) {
	roles := []policy.Role{
		{Name: "gateway", When: `identity.subject == "kong"`, Gateway: true},
		{Name: "plain", When: `true`, Exchanger: "minio", Policies: []string{"reports-rw"}},
	}
	compile := func(roles []policy.Role) *policy.Rules {
		rules, err := policy.Compile(roles, map[string]policy.Backend{"minio": {AllowedPolicies: []string{"reports-rw"}, SessionPolicyBytes: 2048}})
		if err != nil {
			t.Fatal(err)
		}
		return rules
	}
	rules := compile(roles)
	kong, alice := attest.Identity{Subject: "kong"}, attest.Identity{Subject: "alice"}
	grant, err := rules.Resolve(kong, policy.Wanted{Role: "gateway", Gateway: true})
	if err != nil || !grant.Gateway || grant.TTL != 15*time.Minute || grant.Exchanger != "" || len(grant.Policies) != 0 {
		t.Errorf("%+v, %v", grant, err)
	}
	for name, tc := range map[string]struct {
		id   attest.Identity
		want policy.Wanted
	}{
		"somebody else":              {alice, policy.Wanted{Role: "gateway", Gateway: true}},
		"credentials of a gateway's": {kong, policy.Wanted{Role: "gateway"}},
		"a session of another's":     {kong, policy.Wanted{Role: "plain", Gateway: true}},
	} {
		if grant, err := rules.Resolve(tc.id, tc.want); !errors.Is(err, policy.ErrDenied) {
			t.Errorf("%s: %+v, %v", name, grant, err)
		}
	}
	var input *policy.InputError
	if _, err := rules.Resolve(kong, policy.Wanted{Role: "gateway", Gateway: true, Policy: `{"Version":"2012-10-17"}`}); !errors.As(err, &input) {
		t.Errorf("a narrowed session: %v", err)
	}
	if !rules.MayBeGateway(kong) || rules.MayBeGateway(alice) || compile(roles[1:]).MayBeGateway(kong) {
		t.Error("MayBeGateway")
	}
	if got := rules.Allowed(kong); len(got) != 1 || got[0].Name != "plain" {
		t.Errorf("%+v", got)
	}
	roles[0].Gateway, roles[0].Exchanger, roles[0].Policies = false, "minio", []string{"reports-rw"}
	if compile(roles).Version() == rules.Version() {
		t.Error("the version doesn't tell them apart")
	}
}
