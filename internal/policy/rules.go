package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/policy/iam"
)

// Bounds of a set of roles.
const (
	maxRoles            = 20_000
	maxPoliciesPerRole  = 32
	maxDescriptionBytes = 256
	// maxTTL is the longest life that AWS STS grants; nothing here is meant to live longer, whatever a back-end takes.
	maxTTL = 43_200 * time.Second
	// maxGatewayTTL is the longest life of a gateway session.
	maxGatewayTTL = time.Hour

	defaultMaxTTL = time.Hour
	defaultTTL    = 15 * time.Minute
	defaultMinTTL = time.Minute
)

var roleName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// ValidRoleName reports whether name matches ^[a-z0-9][a-z0-9_-]{0,62}$.
func ValidRoleName(name string) bool { return roleName.MatchString(name) }

// Rules are compiled roles. They never change and are safe for concurrent use.
type Rules struct {
	roles  map[string]*role
	sorted []*role
	// gateways are the roles for gateways.
	gateways []*role
	// nobody stands in for every role that doesn't exist: its condition is evaluated and is false.
	nobody  *role
	env     whenEnv
	version string
}

// role is a Role with its defaults filled in and its texts compiled.
type role struct {
	Role
	when condition
	// template is nil if the role has no session policy.
	template *template
	tags     []tagTemplate
	// sessionPolicyBytes is the largest session policy that exchanger and fall-back take; 0 if one takes none.
	sessionPolicyBytes int
	// floor is the shortest life that can be had: TTL.Min, or more where a back-end grants no less.
	floor time.Duration
	// endsWithProof is the back-ends'.
	endsWithProof bool
}

// Compile compiles roles against what each exchanger honours. Its error is a [Faults] with every fault there is; one
// faulty role makes the whole set unusable.
func Compile(roles []Role, backends map[string]Backend) (*Rules, error) {
	if len(roles) > maxRoles {
		return nil, Faults{{Path: "roles", Problem: fmt.Sprintf("%d of them, expected at most %d", len(roles), maxRoles)}}
	}
	env, err := newWhenEnv()
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	nobody, err := env.compile("identity.subject != identity.subject")
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	r := &Rules{roles: make(map[string]*role, len(roles)), nobody: &role{when: nobody}, env: env}
	c := compiler{env: env, backends: backends, names: make(map[string]string, len(roles))}
	for i, in := range roles {
		compiled := c.role(fmt.Sprintf("roles[%d]", i), in)
		r.roles[in.Name] = compiled
		r.sorted = append(r.sorted, compiled)
		if in.Gateway {
			r.gateways = append(r.gateways, compiled)
		}
	}
	if len(c.faults) > 0 {
		return nil, c.faults
	}
	slices.SortFunc(r.sorted, func(a, b *role) int { return strings.Compare(a.Name, b.Name) })
	r.version = r.hash()
	return r, nil
}

// Version tells sets of rules apart: 16 hex digits of a SHA-256 over all that they say. It is the same wherever the
// rules were loaded, and in whatever order they are written.
func (r *Rules) Version() string { return r.version }

// Len is the number of roles.
func (r *Rules) Len() int { return len(r.roles) }

func (r *Rules) hash() string {
	h := sha256.New()
	for _, role := range r.sorted {
		session := ""
		if role.template != nil {
			session = role.template.doc.String()
		}
		fmt.Fprintf(h, "%q %q %q %q %q %t %q %q %q %d %d %d %t\n", role.Name, role.Description, role.When, role.Exchanger, role.Fallback, role.Gateway, role.Policies,
			session, fmt.Sprint(role.SessionTags), role.TTL.Default, role.TTL.Max, role.TTL.Min, role.TTL.WithinProof)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// compiler compiles roles one by one and collects their faults.
type compiler struct {
	env      whenEnv
	backends map[string]Backend
	names    map[string]string // role name → path of the role that has it
	faults   Faults
}

func (c *compiler) fault(path, format string, args ...any) {
	c.faults = append(c.faults, Fault{Path: path, Problem: fmt.Sprintf(format, args...)})
}

func (c *compiler) role(path string, in Role) *role {
	out := &role{Role: in}
	out.Policies = slices.Sorted(slices.Values(in.Policies))
	c.name(path+".name", in.Name)
	if len(in.Description) > maxDescriptionBytes {
		c.fault(path+".description", "%d bytes, expected at most %d", len(in.Description), maxDescriptionBytes)
	}
	if in.When == "" {
		c.fault(path+".when", `it is required; "true" lets every verified identity in`)
	} else {
		var err error
		if out.when, err = c.env.compile(in.When); err != nil {
			c.fault(path+".when", "%v", err)
		}
	}
	if in.Gateway {
		for _, f := range []struct {
			key  string
			used bool
		}{{".exchanger", in.Exchanger != ""}, {".fallback", in.Fallback != ""}, {".policies", len(in.Policies) > 0}, {".session_policy", in.SessionPolicy != ""}, {".operations", len(in.Operations) > 0}, {".session_tags", len(in.SessionTags) > 0}} {
			if f.used {
				c.fault(path+f.key, "the role is for gateways, which get no credentials by it; expected none")
			}
		}
		out.TTL = c.ttl(path+".ttl", in.TTL, Backend{MaxTTL: maxGatewayTTL})
		out.floor = out.TTL.Min
		return out
	}
	backend := c.backend(path+".exchanger", in.Exchanger)
	c.policies(path+".policies", in.Policies, backend, in.Exchanger)
	out.sessionPolicyBytes = backend.SessionPolicyBytes
	switch {
	case in.SessionPolicy != "" && len(in.Operations) > 0:
		c.fault(path+".operations", "there is a session_policy as well; expected one of the two")
	case in.SessionPolicy != "":
		out.template = c.template(path+".session_policy", in, backend, in.Exchanger)
	case len(in.Operations) > 0:
		out.template = c.operations(path+".operations", in, backend, in.Exchanger)
	case backend.NeedsSessionPolicy:
		c.fault(path+".session_policy", "it is required: nothing else keeps what the exchanger %s gives to what the role is for", in.Exchanger)
	}
	out.tags = c.tags(path+".session_tags", in, backend, in.Exchanger)
	if in.Fallback != "" {
		backend = c.fallback(path, in, out, backend)
	}
	out.TTL = c.ttl(path+".ttl", in.TTL, backend)
	out.floor, out.endsWithProof = max(out.TTL.Min, backend.MinTTL), backend.EndsWithProof
	if out.endsWithProof {
		out.TTL.WithinProof = true
	}
	return out
}

// backend is what the named exchanger honours. Without one, what follows says what is wrong by itself, whatever the exchanger.
func (c *compiler) backend(path, name string) Backend {
	if backend, ok := c.backends[name]; ok {
		return backend
	}
	c.fault(path, "no exchanger %q; the configured ones are: %s", name, strings.Join(slices.Sorted(maps.Keys(c.backends)), ", "))
	return Backend{SessionPolicyBytes: iam.MaxBytes, SessionTags: true, unknown: true}
}

// fallback holds a role against its fall-back as well: whichever makes the credentials, they are good for the same. It returns what
// bounds their life with either.
func (c *compiler) fallback(path string, in Role, out *role, first Backend) Backend {
	if in.Fallback == in.Exchanger {
		c.fault(path+".fallback", "it is the role's exchanger; expected another one, or none")
		return first
	}
	second := c.backend(path+".fallback", in.Fallback)
	if first.unknown || second.unknown {
		return first
	}
	c.policies(path+".policies", in.Policies, second, in.Fallback)
	out.sessionPolicyBytes = min(out.sessionPolicyBytes, second.SessionPolicyBytes)
	if in.SessionPolicy != "" {
		c.template(path+".session_policy", in, second, in.Fallback)
	} else if len(in.Operations) > 0 {
		c.operations(path+".operations", in, second, in.Fallback)
	} else if second.NeedsSessionPolicy && !first.NeedsSessionPolicy {
		c.fault(path+".session_policy", "it is required: nothing else keeps what the fall-back %s gives to what the role is for", in.Fallback)
	}
	c.tags(path+".session_tags", in, second, in.Fallback)
	if first.EndsWithProof != second.EndsWithProof {
		c.fault(path+".fallback", "credentials of one of %s and %s end when the proof does, and those of the other don't; expected two of a kind", in.Exchanger, in.Fallback)
	}
	first.MinTTL = max(first.MinTTL, second.MinTTL)
	if first.MaxTTL == 0 || second.MaxTTL > 0 && second.MaxTTL < first.MaxTTL {
		first.MaxTTL = second.MaxTTL
	}
	return first
}

func (c *compiler) name(path, name string) {
	if !ValidRoleName(name) {
		c.fault(path, "%.64q does not match %s", name, roleName)
		return
	}
	if first, taken := c.names[name]; taken {
		c.fault(path, "%q is the name of %s already", name, first)
		return
	}
	c.names[name] = strings.TrimSuffix(path, ".name")
}

func (c *compiler) policies(path string, policies []string, backend Backend, exchanger string) {
	switch {
	case backend.unknown:
		return
	case len(policies) > maxPoliciesPerRole:
		c.fault(path, "%d of them, expected at most %d", len(policies), maxPoliciesPerRole)
		return
	case len(policies) == 0 && backend.AllowedPolicies != nil:
		c.fault(path, "the exchanger %s needs at least one policy", exchanger)
	case len(policies) > 0 && backend.AllowedPolicies == nil:
		c.fault(path, "the exchanger %s honours no policies; expected none", exchanger)
		return
	case backend.MaxPolicies > 0 && len(policies) > backend.MaxPolicies:
		c.fault(path, "%d of them; the exchanger %s honours at most %d", len(policies), exchanger, backend.MaxPolicies)
		return
	}
	for i, p := range policies {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !slices.Contains(backend.AllowedPolicies, p) {
			c.fault(at, "%.128q is not among the allowed_policies of the exchanger %s: %s", p, exchanger, strings.Join(backend.AllowedPolicies, ", "))
		} else if slices.Contains(policies[:i], p) {
			c.fault(at, "%q stands there already", p)
		}
	}
}

func (c *compiler) template(path string, in Role, backend Backend, exchanger string) *template {
	if backend.SessionPolicyBytes == 0 {
		c.fault(path, "the exchanger %s honours no session policy; expected none", exchanger)
		return nil
	}
	t, err := parseTemplate(in.SessionPolicy, in.Name, backend.SessionPolicyBytes)
	if err != nil {
		c.fault(path, "%v", err)
	}
	return t
}

// operations is the template that they are short for.
func (c *compiler) operations(path string, in Role, backend Backend, exchanger string) *template {
	if len(in.Operations) > iam.MaxList {
		c.fault(path, "%d of them, expected at most %d", len(in.Operations), iam.MaxList)
		return nil
	}
	for i, action := range in.Operations {
		if !iam.ValidAction(action) {
			c.fault(fmt.Sprintf("%s[%d]", path, i), "%.64q; expected an action of S3, as in s3:GetObject", action)
			return nil
		}
	}
	actions := slices.Compact(slices.Sorted(slices.Values(in.Operations)))
	in.SessionPolicy = iam.Document{Statements: []iam.Statement{{Effect: iam.Allow, Actions: actions, Resources: []string{iam.ARNPrefix + "*"}}}}.String()
	return c.template(path, in, backend, exchanger)
}

// ttl checks the bounds and fills in the defaults.
func (c *compiler) ttl(path string, ttl TTL, backend Backend) TTL {
	before := len(c.faults)
	for _, v := range []struct {
		key string
		d   time.Duration
	}{{".default", ttl.Default}, {".max", ttl.Max}, {".min", ttl.Min}} {
		if v.d < 0 || v.d%time.Second != 0 {
			c.fault(path+v.key, "%s; expected whole seconds", v.d)
		}
	}
	if len(c.faults) > before {
		return ttl
	}
	if ttl.Max == 0 {
		ttl.Max = defaultMaxTTL
	}
	if ttl.Default == 0 {
		ttl.Default = min(defaultTTL, ttl.Max)
	}
	if ttl.Min == 0 {
		ttl.Min = min(defaultMinTTL, ttl.Default)
	}
	if ttl.Max > maxTTL {
		c.fault(path+".max", "%s; expected at most %s", ttl.Max, maxTTL)
	}
	if backend.MaxTTL > 0 && ttl.Max > backend.MaxTTL {
		c.fault(path+".max", "%s; its exchangers grant at most %s", ttl.Max, backend.MaxTTL)
	}
	if ttl.Default > ttl.Max {
		c.fault(path+".default", "%s; expected at most ttl.max, which is %s", ttl.Default, ttl.Max)
	}
	if ttl.Min > ttl.Default {
		c.fault(path+".min", "%s; expected at most ttl.default, which is %s", ttl.Min, ttl.Default)
	}
	if ttl.Default < backend.MinTTL && ttl.Default <= ttl.Max {
		c.fault(path+".default", "%s; its exchangers grant no less than %s", ttl.Default, backend.MinTTL)
	}
	return ttl
}
