package policy_test

import (
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/policy"
)

func TestFloorRaisesWhatIsLeftWithinTheRole(t *testing.T) {
	const floor = 20 * time.Minute
	for name, tc := range map[string]struct {
		ttl                policy.TTL
		asked, floor       time.Duration
		wantBound, wantMin time.Duration
		short              bool
	}{
		"no floor":                       {policy.TTL{}, 0, 0, 15 * time.Minute, time.Minute, false},
		"default below twice the floor":  {policy.TTL{}, 0, floor, 40 * time.Minute, floor, false},
		"default above it":               {policy.TTL{Default: time.Hour}, 0, floor, time.Hour, floor, false},
		"maximum below twice the floor":  {policy.TTL{Max: 30 * time.Minute}, 0, floor, 30 * time.Minute, floor, false},
		"maximum too short to keep any":  {policy.TTL{Max: 20 * time.Minute}, 0, floor, 20 * time.Minute, 15 * time.Minute, true},
		"the role's own least is more":   {policy.TTL{Min: 30 * time.Minute, Default: 40 * time.Minute}, 0, floor, 40 * time.Minute, 30 * time.Minute, false},
		"asked for less":                 {policy.TTL{}, 16 * time.Minute, floor, 16 * time.Minute, 12 * time.Minute, true},
		"asked for more than the role's": {policy.TTL{}, 2 * time.Hour, floor, time.Hour, floor, false},
	} {
		rules := compile(t, role(func(r *policy.Role) { r.TTL = tc.ttl }))
		got := resolve(t, rules, alice(), policy.Wanted{Role: "reports", TTL: tc.asked, Floor: tc.floor})
		if got.Bound != tc.wantBound || got.TTL != tc.wantBound || got.Min != tc.wantMin || got.Short != tc.short {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestFloorEndsWithTheProof(t *testing.T) {
	rules := compile(t, role(func(r *policy.Role) { r.TTL.WithinProof = true }))
	id := alice()
	id.Expires = now.Add(16 * time.Minute)
	got := resolve(t, rules, id, policy.Wanted{Role: "reports", Floor: 20 * time.Minute})
	if got.TTL != 16*time.Minute || got.Min != 12*time.Minute || !got.Short {
		t.Errorf("%+v", got)
	}
}
