package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy"
)

const homeTemplate = `{"Version":"2012-10-17","Statement":[
	{"Sid":"Home","Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":"arn:aws:s3:::reports/{{subject}}/*"},
	{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::reports/{{subject}}/locked/*"}]}`

const narrowHome = `{"Version":"2012-10-17","Statement":[
	{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::reports/alice/2026/*"},
	{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::reports/alice/locked/*"}]}`

// resourceTemplate is a session policy on one resource.
func resourceTemplate(resource string) policy.Role {
	return role(func(r *policy.Role) {
		r.When = "true"
		r.SessionPolicy = fmt.Sprintf(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::%s"}}`, resource)
	})
}

func TestTemplateRenders(t *testing.T) {
	rules := compile(t, role(func(r *policy.Role) {
		r.SessionPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:ListBucket"],
			"Resource":["arn:aws:s3:::{{tenant}}","arn:aws:s3:::b/{{attrs.home}}/{{role}}-{{subject}}/*"],
			"Condition":{"StringLike":{"s3:prefix":["{{attrs.department}}/*","${aws:username}/*"]}}}]}`
	}))
	want := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:ListBucket"],` +
		`"Resource":["arn:aws:s3:::b/emea/alice/reports-alice/*","arn:aws:s3:::corp"],` +
		`"Condition":{"StringLike":{"s3:prefix":["${aws:username}/*","finance/*"]}}}]}`
	if got := resolve(t, rules, alice(), policy.Wanted{Role: "reports"}).SessionPolicy; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTemplateWithoutPlaceholdersIsTheSameForAll(t *testing.T) {
	rules := compile(t, resourceTemplate("b/{{role}}/*"))
	want := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::b/reports/*"]}]}`
	for _, id := range []attest.Identity{alice(), {Subject: "../*"}} {
		if got := resolve(t, rules, id, policy.Wanted{Role: "reports"}).SessionPolicy; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestTemplateRefusedAtLoad(t *testing.T) {
	for text, want := range map[string]string{
		"{{sub}}":        "expected {{subject}}",
		"{{ subject }}":  "expected {{subject}}",
		"{{Subject}}":    "expected {{subject}}",
		"{{issuer}}":     "expected {{subject}}",
		"{{}}":           "expected {{subject}}",
		"{{subject":      "expected {{subject}}",
		"{{subject}":     "expected {{subject}}",
		"{{{subject}}}":  "expected {{subject}}",
		"{{subject}}/{{": "expected {{subject}}",
		"{{attrs}}":      "expected {{subject}}",
		"{{attrs.}}":     "expected {{subject}}",
		"{{attrs.a b}}":  "expected {{subject}}",
		"{{attrs.a.b}}":  "expected {{subject}}",
		"{{attrs.é}}":    "expected {{subject}}",
		"{{attrs." + strings.Repeat("a", 64) + "}}": "expected {{subject}}",
		"{{tenant}}{{subject}}":                     "between two placeholders",
		"{{tenant}}-{{subject}}":                    "between two placeholders",
		"{{tenant}}{{role}}{{subject}}":             "between two placeholders",
		"{{tenant}}/{{attrs.a}}{{subject}}":         "between two placeholders",
	} {
		wantFault(t, faults(t, resourceTemplate(text)), "roles[0].session_policy", want)
	}
	for name, text := range map[string]string{
		"placeholder in an action":   `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:{{attrs.a}}","Resource":"arn:aws:s3:::b"}}`,
		"placeholder as effect":      `{"Version":"2012-10-17","Statement":{"Effect":"{{attrs.a}}","Action":"s3:*","Resource":"arn:aws:s3:::b"}}`,
		"placeholder as a Sid":       `{"Version":"2012-10-17","Statement":{"Sid":"{{role}}","Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::b"}}`,
		"placeholder as a statement": `{"Version":"2012-10-17","Statement":[{{attrs.a}}]}`,
		"placeholder before the ARN": `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"{{attrs.a}}arn:aws:s3:::b"}}`,
		"NotAction":                  `{"Version":"2012-10-17","Statement":{"Effect":"Allow","NotAction":"s3:*","Resource":"arn:aws:s3:::b"}}`,
		"no version":                 `{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::b"}}`,
		"not JSON":                   `{`,
		"white space":                ` `,
	} {
		t.Run(name, func(t *testing.T) {
			wantFault(t, faults(t, role(func(r *policy.Role) { r.SessionPolicy = text })), "roles[0].session_policy", "")
		})
	}
	for _, text := range []string{"{{attrs." + strings.Repeat("a", 63) + "}}", "{{tenant}}/{{subject}}", "{{tenant}}-x:{{subject}}",
		"{{tenant}},{{subject}}", "{{role}}{{subject}}", "{{subject}}{{role}}", "{{attrs.a_B-9}}", "a}}"} {
		compile(t, resourceTemplate(text))
	}
}

func TestTemplateSizeBoundary(t *testing.T) {
	fits := role(func(r *policy.Role) { r.SessionPolicy = sized(2048) })
	resolve(t, compile(t, fits), alice(), policy.Wanted{Role: "reports"})
	wantFault(t, faults(t, role(func(r *policy.Role) { r.SessionPolicy = sized(2049) })), "roles[0].session_policy", "at least 2049 bytes")

	// With placeholders, one that fits for some identity is taken.
	withSubject := func(n int) policy.Role {
		return role(func(r *policy.Role) { r.SessionPolicy = strings.Replace(sized(n), "xx", "/{{subject}}", 1) })
	}
	compile(t, withSubject(2048))
	wantFault(t, faults(t, withSubject(2049)), "roles[0].session_policy", "at least 2049 bytes")
}

func TestTemplateTooLargeForThisIdentityIsDenied(t *testing.T) {
	// Canonical size is 2048 with a subject of four bytes.
	text := strings.Replace(sized(2048), "xxxxx", "/{{subject}}", 1)
	rules := compile(t, role(func(r *policy.Role) { r.When, r.SessionPolicy = "true", text }))
	id := alice()
	id.Subject = "abcd"
	if grant := resolve(t, rules, id, policy.Wanted{Role: "reports"}); len(grant.SessionPolicy) != 2048 {
		t.Errorf("%d bytes", len(grant.SessionPolicy))
	}
	id.Subject = "abcde"
	if cause := wantRefusal(t, rules, id, policy.Wanted{Role: "reports"}, policy.ErrDenied); !strings.Contains(cause, "2049 bytes") {
		t.Error(cause)
	}
	if got := rules.Allowed(id); len(got) != 0 {
		t.Errorf("Allowed = %v", got)
	}
}

func TestTemplateValuesAreFromTheClosedSet(t *testing.T) {
	good := []string{"a", "A.b_c@d=e+f-9", "...", ".a", "a..b", strings.Repeat("a", 128), "azAZ09._@=+-"}
	bad := []string{"", ".", "..", strings.Repeat("a", 129), "a/b", "/", "a*", "?", "a b", "a\n", "a\x00", "é", "а", `a"b`, `a\`, "${aws:username}",
		"{{tenant}}", "a,b", "a:b", "a%2fb", "a`", "a[", "a{", "/a", "a<", "a#", "a&", "(", "~"}
	for _, placeholder := range []string{"{{subject}}", "{{tenant}}", "{{attrs.department}}"} {
		rules := compile(t, resourceTemplate("b/"+placeholder+"/*"))
		id := func(value string) attest.Identity {
			id := alice()
			id.Subject, id.Tenant = value, value
			id.Attrs["department"] = []string{value}
			return id
		}
		for _, value := range good {
			grant := resolve(t, rules, id(value), policy.Wanted{Role: "reports"})
			if !strings.Contains(grant.SessionPolicy, `:b/`+value+`/*"`) {
				t.Errorf("%s of %q: %s", placeholder, value, grant.SessionPolicy)
			}
		}
		for _, value := range bad {
			cause := wantRefusal(t, rules, id(value), policy.Wanted{Role: "reports"}, policy.ErrDenied)
			if !strings.Contains(cause, placeholder) {
				t.Errorf("%s of %q: %s", placeholder, value, cause)
			}
		}
	}
}

func TestTemplatePaths(t *testing.T) {
	rules := compile(t, resourceTemplate("b/{{attrs.home}}/*"))
	segment := strings.Repeat("a", 128)
	longest := strings.Repeat(segment+"/", 7) + strings.Repeat("b", 121)
	if len(longest) != 1024 {
		t.Fatal(len(longest))
	}
	id := alice()
	for _, value := range []string{"a", "a/b", "emea/alice/.x", segment + "/" + segment, longest} {
		id.Attrs["home"] = []string{value}
		if grant := resolve(t, rules, id, policy.Wanted{Role: "reports"}); !strings.Contains(grant.SessionPolicy, ":b/"+value+"/*") {
			t.Errorf("%q: %s", value, grant.SessionPolicy)
		}
	}
	for _, value := range []string{"", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "..", "a/*", "a/${x}", segment + "a/b", longest + "b", `a\b`, "a/\n"} {
		id.Attrs["home"] = []string{value}
		wantRefusal(t, rules, id, policy.Wanted{Role: "reports"}, policy.ErrDenied)
	}
	id.Attrs["home"] = []string{"a/b"}
	id.PathAttrs = nil
	wantRefusal(t, rules, id, policy.Wanted{Role: "reports"}, policy.ErrDenied)
}

func TestTemplateWantsExactlyOneValue(t *testing.T) {
	rules := compile(t, resourceTemplate("b/{{attrs.department}}/*"))
	id := alice()
	for _, values := range [][]string{nil, {}, {"a", "b"}, {"a", "a"}} {
		id.Attrs["department"] = values
		wantRefusal(t, rules, id, policy.Wanted{Role: "reports"}, policy.ErrDenied)
	}
	delete(id.Attrs, "department")
	if cause := wantRefusal(t, rules, id, policy.Wanted{Role: "reports"}, policy.ErrDenied); !strings.Contains(cause, "{{attrs.department}} has 0 values") {
		t.Error(cause)
	}
}
