package iam_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/credbroker/credbroker/internal/policy/iam"
)

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "", false}, {"a", "a", true}, {"a", "b", false}, {"a", "ab", false}, {"ab", "a", false},
		{"*", "", true}, {"*", "a/b", true}, {"**", "", true}, {"a*", "a", true}, {"a*", "ab", true}, {"a*", "ba", false},
		{"*a", "a", true}, {"*a", "ba", true}, {"*a", "ab", false}, {"a*b", "ab", true}, {"a*b", "aXb", true}, {"a*b", "abX", false},
		{"a*b*c", "aXbYbZc", true}, {"a*b*c", "ac", false}, {"*ab", "aab", true}, {"*aab*", "aaab", true},
		{"?", "", false}, {"?", "a", true}, {"?", "ab", false}, {"a?c", "abc", true}, {"a?", "a", false}, {"*?", "", false}, {"*?", "a", true},
		{"a", "*", false}, {"?", "*", true}, {"??", "é", true}, {"A", "a", false},
	} {
		if got := iam.Match(tc.pattern, tc.name); got != tc.want {
			t.Errorf("Match(%q, %q) = %t", tc.pattern, tc.name, got)
		}
	}
}

func TestPatternContains(t *testing.T) {
	for _, tc := range []struct {
		outer, inner string
		want         bool
	}{
		{"a", "a", true}, {"*", "*", true}, {"*", "", true}, {"*", "a?b*", true}, {"a*", "a", true}, {"a*", "ab*", true}, {"a*c", "a*b*c", true},
		{"?", "?", true}, {"?", "a", true}, {"a?", "a?", true}, {"s3:*", "s3:Get*", true}, {"*/x/*", "b/x/y/x/*", true},
		{"a", "A", false}, {"a", "*", false}, {"a", "?", false}, {"?", "*", false}, {"??", "*", false}, {"a*", "*", false}, {"a*", "?*", false},
		{"*a", "*", false}, {"s3:Get*", "s3:*", false}, {"s3:Get*", "s3:G*", false}, {"b/*", "b*", false}, {"b/*", "b", false},
		{"b/a*z", "b/a*", false}, {"?", "", false}, {"", "a", false}, {"*a*", "*b*", false},
		{"*?", "?*", false}, // it holds, but is not seen
		// One character or two bytes: never taken for either.
		{"?", "é", false}, {"??", "é", false}, {"é", "é", true}, {"*", "é", true}, {"b?r", "bаr", false}, {"?", "\x7f", true}, {"?", "\x80", false},
	} {
		if got := iam.PatternContains(tc.outer, tc.inner); got != tc.want {
			t.Errorf("PatternContains(%q, %q) = %t", tc.outer, tc.inner, got)
		}
	}
}

func TestMatchTakesNoExponentialTime(t *testing.T) {
	start := time.Now()
	if iam.Match(strings.Repeat("*a", 100)+"b", strings.Repeat("a", 10_000)) {
		t.Error("matched")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// matchOracle says the same as Match by a table of all prefixes.
func matchOracle(pattern, name string) bool {
	row := make([]bool, len(name)+1)
	row[0] = true
	for i := range len(pattern) {
		next := make([]bool, len(name)+1)
		for j := range next {
			switch {
			case pattern[i] == '*':
				next[j] = row[j] || j > 0 && next[j-1]
			case j > 0:
				next[j] = row[j-1] && (pattern[i] == '?' || pattern[i] == name[j-1])
			}
		}
		row = next
	}
	return row[len(name)]
}

func FuzzWildcard(f *testing.F) {
	f.Add("a*b?c", "aXbYc", "a*")
	f.Add("*a*a*a", "aaaaaaab", "?*")
	f.Add("arn:aws:s3:::b/*", "arn:aws:s3:::b/x", "arn:aws:s3:::*")
	f.Fuzz(func(t *testing.T, pattern, name, outer string) {
		if len(pattern)+len(name)+len(outer) > 1000 {
			return
		}
		matched := iam.Match(pattern, name)
		if matched != matchOracle(pattern, name) {
			t.Errorf("Match(%q, %q) = %t", pattern, name, matched)
		}
		if !iam.PatternContains(pattern, pattern) || !iam.PatternContains("*", pattern) {
			t.Errorf("%q is not contained in itself or in *", pattern)
		}
		if matched && iam.PatternContains(outer, pattern) && !iam.Match(outer, name) {
			t.Errorf("%q contains %q, but does not match %q", outer, pattern, name)
		}
	})
}

// patterns are over few letters, so that they meet often.
var patterns = rapid.StringOfN(rapid.RuneFrom([]rune("ab/*?é")), 0, 6, -1)

// widened draws a pattern that tends to contain the given one.
func widened(t *rapid.T, pattern string) string {
	var b strings.Builder
	for _, r := range pattern {
		switch rapid.IntRange(0, 5).Draw(t, "widen") {
		case 0:
			b.WriteByte('*')
		case 1:
			b.WriteByte('?')
		case 2:
			b.WriteString("*" + string(r))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// named draws a name that the pattern stands for.
func named(t *rapid.T, pattern string) string {
	var b strings.Builder
	for i := range len(pattern) {
		switch pattern[i] {
		case '*':
			b.WriteString(rapid.StringOfN(rapid.RuneFrom([]rune("ab/*?é")), 0, 3, -1).Draw(t, "star"))
		case '?':
			b.WriteString(rapid.SampledFrom([]string{"a", "b", "/", "*", "\xc3"}).Draw(t, "mark"))
		default:
			b.WriteByte(pattern[i])
		}
	}
	return b.String()
}

func TestPatternContainsIsSound(t *testing.T) {
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		inner := patterns.Draw(t, "inner")
		outer := widened(t, inner)
		if rapid.Bool().Draw(t, "unrelated") {
			outer = patterns.Draw(t, "outer")
		}
		name := named(t, inner)
		if !iam.Match(inner, name) {
			t.Fatalf("the test is wrong: %q does not match %q", inner, name)
		}
		if !iam.PatternContains(outer, inner) {
			return
		}
		accepted++
		if !iam.Match(outer, name) {
			t.Fatalf("%q contains %q, but does not match %q", outer, inner, name)
		}
		// And so it is where "?" is one character.
		if runes := strings.NewReplacer("é", "x", "\xc3", "x"); !iam.Match(runes.Replace(outer), runes.Replace(name)) {
			t.Fatalf("by characters: %q contains %q, but does not match %q", outer, inner, name)
		}
	})
	if accepted < 10 {
		t.Errorf("only %d containments were accepted: the test looks at nothing", accepted)
	}
}
