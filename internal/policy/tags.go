package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/credbroker/credbroker/internal/attest"
)

// Bounds of AWS on tags of a session (https://docs.aws.amazon.com/STS/latest/APIReference/API_Tag.html).
const (
	maxTags     = 50
	maxTagValue = 256
)

var tagKey = regexp.MustCompile(`^[A-Za-z0-9_.:/=+@-]{1,128}$`)

// tagTemplate is a tag whose value may have placeholders.
type tagTemplate struct {
	key    string
	pieces []piece
}

// tags compiles a role's session tags, by key.
func (c *compiler) tags(path string, in Role, backend Backend, exchanger string) []tagTemplate {
	if len(in.SessionTags) == 0 {
		return nil
	}
	if !backend.SessionTags {
		c.fault(path, "the exchanger %s honours no session tags; expected none", exchanger)
		return nil
	}
	if len(in.SessionTags) > maxTags {
		c.fault(path, "%d of them, expected at most %d", len(in.SessionTags), maxTags)
		return nil
	}
	var out []tagTemplate
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(in.SessionTags)) {
		folded := strings.ToLower(key) // AWS tells them apart no further
		pieces, err := cut(strings.ReplaceAll(in.SessionTags[key], "{{role}}", in.Name))
		switch {
		case !tagKey.MatchString(key) || strings.HasPrefix(folded, "aws:"):
			c.fault(path, "%.64q; expected a key that matches %s and doesn't begin with aws:", key, tagKey)
		case seen[folded] != "":
			c.fault(path, "%.64q stands there already as %.64q", key, seen[folded])
		case err != nil:
			c.fault(path+"."+key, "%v", err)
		case !validTagLiterals(pieces):
			c.fault(path+"."+key, "%.64q; expected 1 to %d of A-Z a-z 0-9 _ . : / = + @ - and space, with placeholders", in.SessionTags[key], maxTagValue)
		}
		seen[folded] = key
		out = append(out, tagTemplate{key: key, pieces: pieces})
	}
	return out
}

func validTagLiterals(pieces []piece) bool {
	if len(pieces) == 0 {
		return false
	}
	for _, p := range pieces {
		if len(p.literal) > maxTagValue || strings.ContainsFunc(p.literal, func(r rune) bool {
			return r > 0x7f || !inValue(byte(r)) && !strings.ContainsRune(":/ ", r)
		}) {
			return false
		}
	}
	return true
}

// sessionTags fills in the identity's values. An error is a denial, as with a session policy.
func (r *role) sessionTags(id *attest.Identity) ([]Tag, error) {
	var out []Tag
	for _, t := range r.tags {
		value, err := join(t.pieces, func(placeholder string) (string, error) { return placeholderValue(id, placeholder) })
		if err == nil && len(value) > maxTagValue {
			err = fmt.Errorf("it comes to %d bytes, and AWS takes at most %d", len(value), maxTagValue)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: the session tag %s of role %s: %w", ErrDenied, t.key, r.Name, err)
		}
		out = append(out, Tag{Key: t.key, Value: value})
	}
	return out, nil
}
