package minio

import (
	"testing"

	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/policy/iam"
)

func TestEveryGrantHasASessionPolicyUnlessDangerous(t *testing.T) {
	const own = `{"Version":"2012-10-17"}`
	for _, c := range []struct {
		dangerous     bool
		session, want string
	}{{false, "", objectsOnly}, {false, own, own}, {true, "", ""}, {true, own, own}} {
		if got := boundary(policy.Grant{SessionPolicy: c.session}, c.dangerous); got != c.want {
			t.Errorf("dangerous %v, session policy %q: got %q", c.dangerous, c.session, got)
		}
	}
	if doc, err := iam.Parse(objectsOnly); err != nil || doc.String() != objectsOnly {
		t.Errorf("the policy for all objects isn't canonical: %v", err)
	}
}
