package jwtproof

import (
	"reflect"
	"strings"
	"testing"
)

func attributeOf(t *testing.T, claim string, members ...string) []string {
	t.Helper()
	path, err := claimPath(claim)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseClaims(payload(members...))
	if err != nil {
		t.Fatal(err)
	}
	return c.attributes(map[string][]string{"x": path})["x"]
}

func TestAttributeValues(t *testing.T) {
	long := strings.Repeat("v", maxValueBytes)
	list := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`"g",`, n), ",") + "]" }
	for value, want := range map[string][]string{
		`"finance"`:             {"finance"},
		`"\u0066inance"`:        {"finance"},
		`["a","b","a"]`:         {"a", "b", "a"},
		`true`:                  {"true"},
		`false`:                 {"false"},
		`42`:                    {"42"},
		`-7`:                    {"-7"},
		`0`:                     {"0"},
		`9007199254740993`:      {"9007199254740993"},
		`""`:                    {""},
		`-0`:                    nil,
		`42.0`:                  nil,
		`1e3`:                   nil,
		`1E3`:                   nil,
		`null`:                  nil,
		`{}`:                    nil,
		`{"a":"b"}`:             nil,
		`[]`:                    nil,
		`["a",1]`:               nil,
		`[1,2]`:                 nil,
		`[["a"]]`:               nil,
		`"` + long + `"`:        {long},
		`"` + long + `v"`:       nil,
		`["a","` + long + `v"]`: nil,
		list(maxValues):         strings.Split(strings.Repeat("g", maxValues), ""),
		list(maxValues + 1):     nil,
	} {
		if got := attributeOf(t, "x", "x", value); !reflect.DeepEqual(got, want) {
			t.Errorf("%.60s gives %.60q, expected %.60q", value, got, want)
		}
	}
	if got := attributeOf(t, "x"); got != nil {
		t.Errorf("an absent claim gives %q", got)
	}
}

func TestAttributeIsFoundByNameOrPointer(t *testing.T) {
	members := []string{
		"realm_access", `{"roles":["r"],"a/b":{"m~n":"deep"},"":"empty","list":[{"n":"first"},"second"],"0":"zero"}`,
		"https://corp.example/groups", `["g"]`, "a.b", `"dotted"`, "/slash", `"s"`,
	}
	for claim, want := range map[string]string{
		"https://corp.example/groups":     "g",
		"a.b":                             "dotted",
		"/realm_access/roles":             "r",
		"/realm_access/roles/0":           "r",
		"/realm_access/a~1b/m~0n":         "deep",
		"/realm_access/":                  "empty",
		"/realm_access/0":                 "zero",
		"/realm_access/list/0/n":          "first",
		"/realm_access/list/1":            "second",
		"/~1slash":                        "s",
		"/https:~1~1corp.example~1groups": "g",
		"/realm_access/list/2":            "",
		"/realm_access/list/-1":           "",
		"/realm_access/list/01":           "",
		"/realm_access/list/-":            "",
		"/realm_access/list/x":            "",
		"/realm_access/none/x":            "",
		"/a.b/x":                          "",
		"/slash":                          "",
		"realm_access.roles":              "",
	} {
		got := attributeOf(t, claim, members...)
		if want == "" && got != nil || want != "" && !reflect.DeepEqual(got, []string{want}) {
			t.Errorf("%s is %q, expected %q", claim, got, want)
		}
	}
}

func TestClaimPathsAreChecked(t *testing.T) {
	for _, claim := range []string{"", "/a~2b", "/a~", strings.Repeat("/a", maxDepth+1)} {
		if path, err := claimPath(claim); err == nil {
			t.Errorf("%q: %q", claim, path)
		}
	}
	if path, err := claimPath(strings.Repeat("/a", maxDepth)); err != nil || len(path) != maxDepth {
		t.Error(path, err)
	}
}

func TestEmailCountsOnlyIfVerified(t *testing.T) {
	for _, claim := range []string{"email", "/email"} {
		if got := attributeOf(t, claim, "email", `"a@b.example"`, "email_verified", "true"); len(got) != 1 || got[0] != "a@b.example" {
			t.Errorf("%s: %q", claim, got)
		}
		for _, verified := range []string{"", "false", `"true"`, "1", "null", `[true]`} {
			if got := attributeOf(t, claim, "email", `"a@b.example"`, "email_verified", verified); got != nil {
				t.Errorf("%s with email_verified %s: %q", claim, verified, got)
			}
		}
		for _, email := range []string{`"a"`, `"a@b@c"`, `"@@"`, `""`, `["a@b.example","c@d.example"]`} {
			if got := attributeOf(t, claim, "email", email, "email_verified", "true"); got != nil {
				t.Errorf("%s %s: %q", claim, email, got)
			}
		}
	}
	if got := attributeOf(t, "/email/0", "email", `["a@b.example"]`); got != nil {
		t.Errorf("unverified, by a pointer: %q", got)
	}
	if got := attributeOf(t, "upn", "upn", `"a@b.example"`); len(got) != 1 {
		t.Errorf("the rule is for email alone: %q", got)
	}
}
