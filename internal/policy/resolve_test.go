package policy_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/policy/iam"
)

func TestGrant(t *testing.T) {
	rules := compile(t, role(func(r *policy.Role) {
		r.Policies = []string{"reports-rw", "reports-ro"}
		r.TTL.WithinProof = true
	}))
	want := policy.Grant{
		Role: "reports", Rule: "broker.yaml:41", Exchanger: "minio", Policies: []string{"reports-ro", "reports-rw"},
		Bound: 15 * time.Minute, TTL: 15 * time.Minute, Min: time.Minute, WithinProof: true,
	}
	got := resolve(t, rules, alice(), policy.Wanted{Role: "reports"})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	got.Policies[0] = "consoleAdmin"
	if again := resolve(t, rules, alice(), policy.Wanted{Role: "reports"}); again.Policies[0] != "reports-ro" {
		t.Error("a change to a grant changed the rules")
	}
}

// Whoever may not use a role can't tell it from one that doesn't exist, or from no role's name at all.
func TestUnknownAndForbiddenAreTheSame(t *testing.T) {
	rules := compile(t, withWhen(`identity.subject == "bob"`))
	_, forbidden := rules.Resolve(alice(), policy.Wanted{Role: "reports", Now: now})
	for _, name := range []string{"", "unknown", "Reports", "REPORTS", "reports ", "../../sys/seal", "a%2fb", "reports\x00", "rеports",
		strings.Repeat("a", 1<<20)} {
		for _, w := range []policy.Wanted{{}, {TTL: -1}, {Policy: "{"}} {
			w.Role, w.Now = name, now
			grant, err := rules.Resolve(alice(), w)
			if err != forbidden || !reflect.DeepEqual(grant, policy.Grant{}) { //nolint:errorlint // the very same error
				t.Errorf("%.20q: %v, %v; want %v", name, grant, err, forbidden)
			}
		}
	}
	if !errors.Is(forbidden, policy.ErrDenied) || strings.Contains(forbidden.Error(), "reports") {
		t.Errorf("forbidden: %v", forbidden)
	}
}

// The stand-in for unknown roles lets nobody in, the empty identity included.
func TestUnknownRoleDeniesEveryIdentity(t *testing.T) {
	rules := compile(t, withWhen("true"))
	id := alice()
	id.Subject = ""
	wantRefusal(t, rules, id, policy.Wanted{Role: "other"}, policy.ErrDenied)
	resolve(t, rules, id, policy.Wanted{Role: "reports"})
}

func TestTTL(t *testing.T) {
	rules := compile(t, role(func(r *policy.Role) {
		r.TTL = policy.TTL{Default: 10 * time.Minute, Max: 30 * time.Minute, Min: 2 * time.Minute}
	}))
	for asked, want := range map[time.Duration]time.Duration{
		0:                            10 * time.Minute,
		2 * time.Minute:              2 * time.Minute,
		899 * time.Second:            899 * time.Second,
		30*time.Minute - time.Second: 30*time.Minute - time.Second,
		30 * time.Minute:             30 * time.Minute,
		30*time.Minute + time.Second: 30 * time.Minute,
		31_536_000 * time.Second:     30 * time.Minute,
	} {
		grant := resolve(t, rules, alice(), policy.Wanted{Role: "reports", TTL: asked})
		if grant.TTL != want || grant.Bound != want {
			t.Errorf("asked %s: bound %s, TTL %s; want %s", asked, grant.Bound, grant.TTL, want)
		}
	}
	for asked, want := range map[time.Duration]string{
		-time.Second:                "whole seconds",
		-1:                          "whole seconds",
		1:                           "whole seconds",
		15*time.Minute + 1:          "whole seconds",
		31_536_001 * time.Second:    "up to 31536000",
		1_000_000_000 * time.Second: "up to 31536000",
		2*time.Minute - time.Second: "no less than 2m0s",
		time.Second:                 "no less than 2m0s",
	} {
		text := wantRefusal(t, rules, alice(), policy.Wanted{Role: "reports", TTL: asked}, policy.ErrInvalidTTL)
		if !strings.Contains(text, want) {
			t.Errorf("asked %s: %s; want %q", asked, text, want)
		}
	}
}

func TestTTLWithinProof(t *testing.T) {
	within := compile(t, role(func(r *policy.Role) { r.TTL.WithinProof = true }))
	without := compile(t, role(nil))
	id := alice()
	for left, want := range map[time.Duration]time.Duration{
		time.Hour:                          15 * time.Minute,
		15 * time.Minute:                   15 * time.Minute,
		15*time.Minute - 1:                 15*time.Minute - time.Second,
		time.Minute:                        time.Minute,
		time.Minute + 999*time.Millisecond: time.Minute,
	} {
		id.Expires = now.Add(left)
		grant := resolve(t, within, id, policy.Wanted{Role: "reports"})
		if grant.TTL != want || grant.Bound != 15*time.Minute || !grant.WithinProof {
			t.Errorf("proof ends in %s: %+v; want TTL %s", left, grant, want)
		}
	}
	for left, want := range map[time.Duration]string{
		time.Minute - 1:  "the proof ends in 59s; the role hands out no less than 1m0s",
		20 * time.Second: "the proof ends in 20s",
		0:                "the proof ends in 0s",
		-time.Hour:       "the proof ends in 0s",
	} {
		id.Expires = now.Add(left)
		text := wantRefusal(t, within, id, policy.Wanted{Role: "reports"}, policy.ErrInvalidTTL)
		if !strings.Contains(text, want) {
			t.Errorf("proof ends in %s: %s; want %q", left, text, want)
		}
		if grant := resolve(t, without, id, policy.Wanted{Role: "reports"}); grant.TTL != 15*time.Minute || grant.WithinProof {
			t.Errorf("a role that isn't bound to the proof: %+v", grant)
		}
	}
}

func TestNarrowingWithoutATemplateIsPassedOnRebuilt(t *testing.T) {
	rules := compile(t, role(nil))
	// What it names is for the back-end to intersect with the role's policies.
	grant := resolve(t, rules, alice(), policy.Wanted{Role: "reports", Policy: ` {"Statement":{"Sid":"x","Resource":"arn:aws:s3:::*",
		"Action":["s3:PutObject","s3:GetObject"],"Effect":"Allow"},"Version":"2012-10-17"}`})
	want := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::*"]}]}`
	if grant.SessionPolicy != want {
		t.Errorf("got  %s\nwant %s", grant.SessionPolicy, want)
	}
}

func TestNarrowingATemplateReplacesIt(t *testing.T) {
	rules := compile(t, role(func(r *policy.Role) { r.SessionPolicy = homeTemplate }))
	grant := resolve(t, rules, alice(), policy.Wanted{Role: "reports", Policy: narrowHome})
	want := `{"Version":"2012-10-17","Statement":[` +
		`{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::reports/alice/2026/*"]},` +
		`{"Effect":"Deny","Action":["s3:*"],"Resource":["arn:aws:s3:::reports/alice/locked/*"]}]}`
	if grant.SessionPolicy != want {
		t.Errorf("got  %s\nwant %s", grant.SessionPolicy, want)
	}
	for name, wider := range map[string]string{
		"another home":      strings.ReplaceAll(narrowHome, "reports/alice/2026", "reports/bob"),
		"the Deny of bob":   strings.ReplaceAll(narrowHome, "alice/locked", "bob/locked"),
		"a wildcard":        strings.ReplaceAll(narrowHome, "alice/2026", "*"),
		"another action":    strings.ReplaceAll(narrowHome, "s3:GetObject", "s3:DeleteObject"),
		"the template read": strings.ReplaceAll(narrowHome, "reports/alice/2026", "reports/{{subject}}"),
	} {
		text := wantRefusal(t, rules, alice(), policy.Wanted{Role: "reports", Policy: wider}, policy.ErrPolicyWider)
		if strings.Contains(text, "locked") {
			t.Errorf("%s: the refusal shows the role's policy: %s", name, text)
		}
	}
}

func TestNarrowingRefusals(t *testing.T) {
	rules := compile(t, role(nil), role(func(r *policy.Role) { r.Name, r.Exchanger, r.Policies = "bare", "bare", nil }))
	for name, tc := range map[string]struct {
		role, policy string
		want         error
	}{
		"not JSON":                 {"reports", "{", policy.ErrInvalidPolicy},
		"white space":              {"reports", " ", policy.ErrInvalidPolicy},
		"NotAction":                {"reports", strings.ReplaceAll(narrowHome, `"Action"`, `"NotAction"`), policy.ErrInvalidPolicy},
		"a variable":               {"reports", strings.ReplaceAll(narrowHome, "2026", "${aws:username}"), policy.ErrInvalidPolicy},
		"an exchanger without any": {"bare", narrowHome, policy.ErrInvalidPolicy},
		"too large as it came":     {"reports", narrowHome + strings.Repeat(" ", iam.MaxBytes), policy.ErrPolicyTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefusal(t, rules, alice(), policy.Wanted{Role: tc.role, Policy: tc.policy}, tc.want)
		})
	}
}

// sized makes a policy whose canonical form has n bytes.
func sized(n int) string {
	doc := func(pad int) string {
		return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::b%s"]}]}`,
			strings.Repeat("x", pad))
	}
	return doc(n - len(doc(0)))
}

func TestNarrowingSizeBoundary(t *testing.T) {
	rules := compile(t, role(nil))
	if grant := resolve(t, rules, alice(), policy.Wanted{Role: "reports", Policy: "  " + sized(2048)}); len(grant.SessionPolicy) != 2048 {
		t.Errorf("%d bytes", len(grant.SessionPolicy))
	}
	text := wantRefusal(t, rules, alice(), policy.Wanted{Role: "reports", Policy: sized(2049)}, policy.ErrPolicyTooLarge)
	if !strings.Contains(text, "2049 bytes") || !strings.Contains(text, "at most 2048") {
		t.Error(text)
	}
}

// The order is condition, then the role's session policy, then narrowing and TTL: nothing about TTLs or policies is told to
// those who may not use the role, or for whom its session policy can't be made.
func TestOrderOfChecks(t *testing.T) {
	id := alice()
	id.Subject = "a/b"
	rules := compile(t,
		role(func(r *policy.Role) { r.SessionPolicy = homeTemplate; r.When = "true" }),
		role(func(r *policy.Role) { r.Name = "closed"; r.SessionPolicy = homeTemplate; r.When = "false" }))
	bad := policy.Wanted{TTL: -1, Policy: "{"}

	bad.Role = "closed"
	wantRefusal(t, rules, id, bad, policy.ErrDenied)
	bad.Role = "reports"
	wantRefusal(t, rules, id, bad, policy.ErrDenied)
	wantRefusal(t, rules, alice(), bad, policy.ErrInvalidPolicy)
	bad.Policy = ""
	wantRefusal(t, rules, id, bad, policy.ErrDenied)
	wantRefusal(t, rules, alice(), bad, policy.ErrInvalidTTL)
}

func TestLifeIsNoShorterThanTheExchangersGrant(t *testing.T) {
	rules := compile(t, role(func(r *policy.Role) {
		r.Exchanger, r.Policies = "bounded", []string{"p"}
		r.TTL = policy.TTL{Default: 20 * time.Minute, Max: time.Hour, WithinProof: true}
	}))
	id := alice()
	for asked, want := range map[time.Duration]bool{15 * time.Minute: true, 15*time.Minute - time.Second: false, 0: true} {
		g, err := rules.Resolve(id, policy.Wanted{Role: "reports", TTL: asked, Now: now})
		if (err == nil) != want || err != nil && !errors.Is(err, policy.ErrInvalidTTL) || err == nil && g.Min != time.Minute {
			t.Errorf("%s: %+v, %v", asked, g, err)
		}
	}
	id.Expires = now.Add(15*time.Minute - time.Second)
	if _, err := rules.Resolve(id, policy.Wanted{Role: "reports", Now: now}); !errors.Is(err, policy.ErrInvalidTTL) {
		t.Errorf("a proof that ends sooner than the exchanger's least: %v", err)
	}
}

func TestFallbackIsGranted(t *testing.T) {
	rules := compile(t, role(func(r *policy.Role) {
		r.Fallback, r.TTL.Default, r.SessionPolicy = "slow", 20*time.Minute, homeTemplate
	}))
	g, err := rules.Resolve(alice(), policy.Wanted{Role: "reports", Now: now})
	if err != nil || g.Exchanger != "minio" || g.Fallback != "slow" {
		t.Errorf("%+v, %v", g, err)
	}
	// What a caller narrows to has to fit into the smaller of both.
	long := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::` + strings.Repeat("x", 1100) + `/*"]}]}`
	if _, err := rules.Resolve(alice(), policy.Wanted{Role: "reports", Policy: long, Now: now}); !errors.Is(err, policy.ErrPolicyTooLarge) {
		t.Errorf("a policy too large for the fall-back: %v", err)
	}
	if other := compile(t, role(nil)); other.Version() == rules.Version() {
		t.Error("the version doesn't tell")
	}
}

// Where credentials end with the proof, a proof that lives longer than the role or the caller wants has none.
func TestCredentialsThatEndWithTheProof(t *testing.T) {
	rules := compile(t, role(func(r *policy.Role) {
		r.Exchanger, r.Policies, r.SessionPolicy = "passed", nil, homeTemplate
		r.TTL = policy.TTL{Default: 10 * time.Minute, Max: 30 * time.Minute, Min: 5 * time.Minute}
	}))
	for name, c := range map[string]struct {
		left, asked time.Duration
		want        bool
	}{
		"as long as the role's":              {30 * time.Minute, 0, true},
		"longer than the role's":             {30*time.Minute + time.Second, 0, false},
		"as long as asked":                   {20 * time.Minute, 20 * time.Minute, true},
		"longer than asked":                  {20*time.Minute + time.Second, 20 * time.Minute, false},
		"longer than the role's, asked more": {31 * time.Minute, time.Hour, false},
		"the least":                          {5 * time.Minute, 0, true},
		"too short":                          {5*time.Minute - time.Second, 0, false},
		"over":                               {-time.Second, 0, false},
	} {
		id := alice()
		id.Expires = now.Add(c.left)
		g, err := rules.Resolve(id, policy.Wanted{Role: "reports", TTL: c.asked, Now: now})
		if (err == nil) != c.want || err != nil && !errors.Is(err, policy.ErrInvalidTTL) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (g.TTL != c.left || g.Bound != 30*time.Minute || !g.WithinProof) {
			t.Errorf("%s: %+v", name, g)
		}
	}
}
