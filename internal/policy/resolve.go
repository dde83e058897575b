package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy/iam"
)

// maxAskedTTL is a year, the most that any STS takes; a caller that asks for more has mistaken the unit.
const maxAskedTTL = 31_536_000 * time.Second

var errNotAllowed = fmt.Errorf("%w: there is no such role, or its condition is false", ErrDenied)

// Resolve decides what the identity gets.
//
// Its errors are ErrDenied, with a cause for the log alone, or an [InputError]. A role that doesn't exist and one whose
// condition is false take the same path to the same error. A condition that can't be evaluated, a value that may not
// enter the session policy, and a session policy that these values make too large are denials as well: they are no
// fault in what the caller sent.
func (r *Rules) Resolve(id attest.Identity, w Wanted) (Grant, error) {
	role, ok := r.roles[w.Role]
	if !ok || role.Gateway != w.Gateway { // of the other sort is as good as none
		role = r.nobody
	}
	if err := role.admit(&id); err != nil {
		return Grant{}, err
	}
	// Before the TTL: whom the template denies must not learn from another error that the role is there.
	doc, session, err := role.sessionPolicy(&id, w.Policy)
	if err != nil {
		return Grant{}, err
	}
	if w.Signing && (role.template == nil || role.template.variables) {
		return Grant{}, fmt.Errorf("%w: role %s has neither operations nor a session policy that could be evaluated for a signature", ErrDenied, role.Name)
	}
	if !w.Signing {
		doc = iam.Document{}
	}
	tags, err := role.sessionTags(&id)
	if err != nil {
		return Grant{}, err
	}
	bound, err := role.bound(w.TTL, w.Floor)
	if err != nil {
		return Grant{}, err
	}
	proofLeft := max(id.Expires.Sub(w.Now), 0).Truncate(time.Second)
	if role.endsWithProof {
		if w.TTL == 0 {
			bound = role.TTL.Max
		}
		if proofLeft > bound {
			return Grant{}, ttlError("the proof ends in %s, and the credentials with it; expected one that ends within %s", proofLeft, bound)
		}
		bound = role.TTL.Max // whatever was asked for: they are the same
	}
	ttl, err := role.life(bound, proofLeft)
	if err != nil {
		return Grant{}, err
	}
	least := max(role.TTL.Min, min(w.Floor, ttl/4*3))
	return Grant{
		Role:          role.Name,
		Gateway:       role.Gateway,
		Rule:          role.Source,
		Exchanger:     role.Exchanger,
		Fallback:      role.Fallback,
		Policies:      slices.Clone(role.Policies),
		SessionPolicy: session,
		Document:      doc,
		SessionTags:   tags,
		Bound:         bound,
		TTL:           ttl,
		Min:           least,
		WithinProof:   role.TTL.WithinProof,
		Short:         least < w.Floor,
	}, nil
}

// MayBeGateway says whether some role for gateways is open to the identity now.
func (r *Rules) MayBeGateway(id attest.Identity) bool {
	return slices.ContainsFunc(r.gateways, func(role *role) bool { return role.admit(&id) == nil })
}

// admit returns nil if the identity may use the role.
func (r *role) admit(id *attest.Identity) error {
	ok, err := r.when.holds(id)
	if err != nil {
		return fmt.Errorf("%w: the condition of role %s: %w", ErrDenied, r.Name, err)
	}
	if !ok {
		return errNotAllowed
	}
	return nil
}

// bound is the life asked for, or the role's default, cut to the role's maximum. With a floor, the default is at least twice that:
// what is handed out with the floor left can then be kept for as long.
func (r *role) bound(asked, floor time.Duration) (time.Duration, error) {
	switch {
	case asked == 0:
		return min(max(r.TTL.Default, 2*floor), r.TTL.Max), nil
	case asked < 0 || asked%time.Second != 0 || asked > maxAskedTTL:
		return 0, ttlError("%s; expected whole seconds, up to %d of them", asked, maxAskedTTL/time.Second)
	case asked < r.floor:
		return 0, ttlError("%s; the role hands out no less than %s", asked, r.floor)
	}
	return min(asked, r.TTL.Max), nil
}

// life is bound, cut to what is left of the proof where the role says so.
func (r *role) life(bound, proofLeft time.Duration) (time.Duration, error) {
	if !r.TTL.WithinProof {
		return bound, nil
	}
	if proofLeft < r.floor {
		return 0, ttlError("the proof ends in %s; the role hands out no less than %s", proofLeft, r.floor)
	}
	return min(bound, proofLeft), nil
}

func ttlError(format string, args ...any) error {
	return &InputError{Reason: ErrInvalidTTL, Detail: fmt.Sprintf(format, args...)}
}

// sessionPolicy is the role's rendered session policy, or what the caller narrows it to.
//
// Without a template the caller's policy goes to the back-end as it is, rebuilt: there it is intersected with the role's
// policies. With one, it takes the template's place, so it must be contained in it. The two are never put together: the
// Allows of both would add up.
func (r *role) sessionPolicy(id *attest.Identity, wanted string) (iam.Document, string, error) {
	var doc iam.Document
	var text string
	if r.template != nil {
		var err error
		if doc, text, err = r.template.render(id); err != nil {
			return iam.Document{}, "", fmt.Errorf("%w: the session policy of role %s: %w", ErrDenied, r.Name, err)
		}
	}
	if wanted == "" {
		return doc, text, nil
	}
	if r.sessionPolicyBytes == 0 {
		return iam.Document{}, "", &InputError{ErrInvalidPolicy, "this role takes none"}
	}
	narrowed, err := iam.Parse(wanted)
	switch {
	case errors.Is(err, iam.ErrTooLarge):
		return iam.Document{}, "", &InputError{ErrPolicyTooLarge, err.Error()}
	case err != nil:
		return iam.Document{}, "", &InputError{ErrInvalidPolicy, err.Error()}
	}
	narrowedText := narrowed.String()
	if n := len(narrowedText); n > r.sessionPolicyBytes {
		return iam.Document{}, "", &InputError{ErrPolicyTooLarge, fmt.Sprintf("%d bytes in canonical form, expected at most %d", n, r.sessionPolicyBytes)}
	}
	if r.template != nil {
		if err := iam.Contains(doc, narrowed); err != nil {
			return iam.Document{}, "", &InputError{ErrPolicyWider, err.Error()}
		}
	}
	return narrowed, narrowedText, nil
}
