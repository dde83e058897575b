package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// RoleInfo is a role as those see it who may use it.
type RoleInfo struct {
	Name, Description  string
	DefaultTTL, MaxTTL time.Duration
}

// Allowed returns the roles that Resolve would grant credentials of to the identity if it asked for nothing more, sorted by name.
func (r *Rules) Allowed(id attest.Identity) []RoleInfo {
	var allowed []RoleInfo
	for _, role := range r.sorted {
		if role.Gateway || role.admit(&id) != nil {
			continue
		}
		if _, _, err := role.sessionPolicy(&id, ""); err != nil {
			continue
		}
		allowed = append(allowed, RoleInfo{role.Name, role.Description, role.TTL.Default, role.TTL.Max})
	}
	return allowed
}

// Explanation says why an identity may use a role or not. It is for operators: it shows rules.
type Explanation struct {
	// Exists says whether there is a role of that name. If not, all else but Findings is empty.
	Exists bool
	// Allowed says that the condition holds and the session policy could be rendered.
	Allowed bool
	// Rule is the role's Source, When its condition.
	Rule, When string
	// Findings are what was checked, in order: each part of the condition, then the session policy.
	Findings []Finding
	// Policies and SessionPolicy are what the credentials would carry; empty if not Allowed.
	Policies      []string
	SessionPolicy string
}

// Finding is one thing that was checked.
type Finding struct {
	// Check is an expression of the condition, or words.
	Check  string
	Passed bool
	// Detail says why it did not pass.
	Detail string
}

// Explain explains what Resolve makes of the identity and the role's name. TTLs and narrowing are not looked at.
func (r *Rules) Explain(id attest.Identity, name string) Explanation {
	role, ok := r.roles[name]
	if !ok {
		detail := "there is no such role"
		if !ValidRoleName(name) {
			detail = "no role can have such a name: it does not match " + roleName.String()
		}
		return Explanation{Findings: []Finding{{Check: "role", Detail: detail}}}
	}
	e := Explanation{Exists: true, Rule: role.Source, When: role.When, Findings: r.explainCondition(&id, role)}
	admitted := role.admit(&id) == nil

	var session string
	var err error
	if role.template != nil {
		finding := Finding{Check: "session policy"}
		if _, session, err = role.template.render(&id); err != nil {
			finding.Detail = err.Error()
		}
		finding.Passed = err == nil
		e.Findings = append(e.Findings, finding)
	}
	if admitted && err == nil {
		e.Allowed, e.Policies, e.SessionPolicy = true, slices.Clone(role.Policies), session
	}
	return e
}

// explainCondition evaluates the parts between the outermost &&s on their own, since CEL stops at the first false one.
func (r *Rules) explainCondition(id *attest.Identity, role *role) []Finding {
	parts, err := r.env.parts(role.When)
	if err != nil {
		return []Finding{{Check: role.When, Detail: err.Error()}}
	}
	findings := make([]Finding, len(parts))
	for i, part := range parts {
		findings[i] = Finding{Check: part}
		f := &findings[i]
		c, err := r.env.compile(part)
		if err == nil {
			f.Passed, err = c.holds(id)
		}
		switch {
		case err != nil:
			f.Detail = fmt.Sprintf("it can't be evaluated for this identity: %v", err)
		case !f.Passed:
			f.Detail = "false"
		}
	}
	return findings
}
