package iam

// Match reports whether name is one that the pattern stands for: "*" is any text, "?" any one byte (as MinIO has it).
// There is no escape. It takes at most len(pattern)·len(name) steps.
func Match(pattern, name string) bool {
	return cover(pattern, name, func(p, c byte) bool { return p == '?' || p == c })
}

// PatternContains reports whether every name that inner stands for is one that outer stands for. It may say no to a
// containment that holds ("*?" and "?*"), but never yes to one that doesn't.
//
// It matches outer against inner letter by letter: a "*" of inner is only covered by a "*" of outer, a "?" by "?" or
// "*". That "?" doesn't cover a letter beyond ASCII makes it hold whether "?" is one byte (MinIO) or one character (AWS).
func PatternContains(outer, inner string) bool {
	return cover(outer, inner, func(p, c byte) bool {
		return p == c || p == '?' && c != '*' && c < 0x80
	})
}

// cover reports whether the pattern covers all of s, where a byte of the pattern other than "*" covers one byte of s as
// one says. On a mismatch only the latest "*" needs to be tried again, one byte further on: an earlier one that took
// more would leave less for the rest.
func cover(pattern, s string, one func(p, c byte) bool) bool {
	p, i := 0, 0
	star, resume := -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, i
			p++
		case p < len(pattern) && one(pattern[p], s[i]):
			p++
			i++
		case star >= 0:
			resume++
			p, i = star+1, resume
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
