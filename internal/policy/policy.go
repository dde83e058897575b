// Package policy decides: given an identity and what it asks for, may it, and what exactly does it get.
//
// Roles are compiled once into an immutable [Rules]. Deciding is pure: no I/O, no clock of its own, the same answer
// for the same input, and nothing is allowed that no rule allows.
package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/policy/iam"
)

// Errors of [Rules.Resolve]. ErrDenied is the same for a role that doesn't exist and one that the identity may not
// use. The others are about the caller's own input, come as an [InputError], and only after the role was allowed.
var (
	ErrDenied         = errors.New("access denied")
	ErrInvalidPolicy  = errors.New("invalid session policy")
	ErrPolicyTooLarge = errors.New("session policy too large")
	ErrPolicyWider    = errors.New("session policy is wider than the role's")
	ErrInvalidTTL     = errors.New("invalid TTL")
)

// InputError is a fault in what an authorized caller sent; Detail may be shown to that caller.
type InputError struct {
	// Reason is one of ErrInvalidPolicy, ErrPolicyTooLarge, ErrPolicyWider, ErrInvalidTTL.
	Reason error
	// Detail says what was wrong, where, and what was expected. It repeats no more than 64 bytes of the input.
	Detail string
}

func (e *InputError) Error() string { return e.Reason.Error() + ": " + e.Detail }

// Unwrap makes errors.Is(err, Reason) hold.
func (e *InputError) Unwrap() error { return e.Reason }

// Role is one entry of `roles` in the configuration.
type Role struct {
	// Name is ^[a-z0-9][a-z0-9_-]{0,62}$ and unique.
	Name string `yaml:"name"`
	// Description is shown to those who may use the role. Optional, at most 256 bytes.
	Description string `yaml:"description"`
	// When is a CEL expression of type bool over `identity`, at most 4096 bytes; required. `identity` has the strings
	// kind, issuer, tenant and subject, attrs (name → list of strings) and actor (an identity, or null). A misspelt
	// field is a fault. An error while it is evaluated (an attribute that this identity lacks, the cost limit) is a no.
	// The pattern of matches() must be a literal that matches the whole text: "^(a|b)$".
	When string `yaml:"when"`
	// Exchanger names the entry of `exchangers` that credentials come from. Required but with Gateway.
	Exchanger string `yaml:"exchanger"`
	// Fallback names the entry of `exchangers` that credentials come from while Exchanger is away. It must honour all that the role
	// needs. Optional.
	Fallback string `yaml:"fallback"`
	// Gateway gives no credentials: whoever may use the role may open a gateway session and speak for the consumers that it has
	// authenticated. Such a role has neither exchanger, policies nor session policy, and a TTL of at most an hour.
	Gateway bool `yaml:"gateway"`
	// Policies are the MinIO policies that the credentials carry, each of the exchanger's `allowed_policies`; at most 32.
	Policies []string `yaml:"policies"`
	// SessionPolicy is an IAM policy document (JSON, as iam.ParseTemplate takes it) that bounds the credentials further;
	// optional. In its resources and condition values `{{subject}}`, `{{tenant}}`, `{{role}}` and `{{attrs.NAME}}` stand
	// for values of the identity. A value is 1 to 128 of A-Z a-z 0-9 . _ @ = + - and not "." or ".."; an attribute that
	// is a path may be several of them with single slashes between, 1024 bytes in all; an attribute must have exactly
	// one value. Otherwise the identity is denied the role.
	SessionPolicy string `yaml:"session_policy"`
	// SessionTags are tags of AWS sessions, by key (^[A-Za-z0-9_.:/=+@-]{1,128}$, not beginning with aws:); at most 50. A value is text of at
	// most 256 bytes with placeholders as in SessionPolicy. Only aws-assume-role honours them. Optional.
	SessionTags map[string]string `yaml:"session_tags"`
	// Operations are the S3 actions (^s3:[A-Za-z*?]{1,64}$), at most 64, that the role's credentials are kept to: short for a session
	// policy that allows these on everything. Optional, and not beside SessionPolicy. The broker signs requests by roles that have one of the
	// two; a session policy must then be without policy variables.
	Operations []string `yaml:"operations"`
	// TTL bounds how long credentials of this role live.
	TTL TTL `yaml:"ttl"`

	// Source says where the role is written ("broker.yaml:41"). It is the audit log's `rule`.
	Source string `yaml:"-"`
}

// TTL bounds a credential's life. All values are whole seconds.
type TTL struct {
	// Default is the life when the caller asks for none. Zero means 15 minutes, or Max if that is less.
	Default time.Duration `yaml:"default"`
	// Max is the longest life; what a caller asks beyond it is cut to it. Zero means 1 hour; 12 hours is the
	// most there is.
	Max time.Duration `yaml:"max"`
	// Min is the least life left when credentials are handed out; a caller that asks for less is refused.
	// Zero means 1 minute, or Default if that is less.
	Min time.Duration `yaml:"min"`
	// WithinProof ends the credentials no later than the proof they were issued for.
	WithinProof bool `yaml:"within_proof"`
}

// Backend is what an exchanger honours of a grant. A role that needs more is a fault.
type Backend struct {
	// AllowedPolicies are the policy names the exchanger may ask for; nil if it honours no role policies.
	AllowedPolicies []string
	// SessionPolicyBytes is the largest session policy, in bytes of compact JSON; 0 if none is honoured.
	SessionPolicyBytes int
	// MaxPolicies is how many policies one credential can have; 0 means no bound.
	MaxPolicies int
	// MinTTL and MaxTTL bound the life that the back-end grants; zero MaxTTL means no bound.
	MinTTL, MaxTTL time.Duration
	// EndsWithProof says that the back-end has credentials end when the proof does, neither sooner nor later.
	EndsWithProof bool
	// SessionTags says that tags of sessions are honoured.
	SessionTags bool
	// NeedsSessionPolicy says that nothing but a session policy keeps credentials to what the role is for.
	NeedsSessionPolicy bool

	unknown bool // it stands in for one that isn't configured
}

// Dangerous says whether a MinIO policy is one of the built-in ones that administer MinIO itself.
func Dangerous(name string) bool { return name == "consoleAdmin" || name == "diagnostics" }

// Wanted is what the caller asks for.
type Wanted struct {
	Role string
	// Gateway asks for a gateway session instead of credentials.
	Gateway bool
	// Signing asks for a grant that says which S3 requests may be signed by it (Grant.Permits).
	Signing bool
	// Policy is the caller's narrowing policy, an IAM policy document in JSON; empty if it wants none.
	Policy string
	// TTL is the life asked for; zero if the caller leaves it to the role.
	TTL time.Duration
	// Floor is the least life left that serves a caller which renews early, as SDKs do; zero if the role's own does. It never
	// exceeds what the role allows: see Grant.Short.
	Floor time.Duration
	// Now is the time of the decision.
	Now time.Time
}

// Grant is what an identity gets. Everything in it but TTL is independent of the clock.
type Grant struct {
	Role string
	// Gateway says that the grant is a gateway session, and no credentials.
	Gateway bool
	// Rule says where the rule that allowed it is written.
	Rule string
	// Exchanger makes the credentials, and Fallback, unless it is empty, while that one is away.
	Exchanger, Fallback string
	// Policies are sorted and without duplicates.
	Policies []string
	// SessionPolicy is compact JSON, or empty.
	SessionPolicy string
	// Document is what SessionPolicy says, if Signing was asked for.
	Document iam.Document
	// SessionTags are sorted by key.
	SessionTags []Tag
	// Bound is the life asked for or configured, after the role's maximum: it does not move with the clock.
	Bound time.Duration
	// TTL is the life to mint now: Bound, cut to the proof's remaining life where the role says so.
	TTL time.Duration
	// Min is the least life left at hand-out.
	Min time.Duration
	// WithinProof says that credentials must not outlive the proof.
	WithinProof bool
	// Short says that Min is less than the floor that was wanted.
	Short bool
}

// Tag is a tag of a session.
type Tag struct{ Key, Value string }

// Permits says whether a request that takes an action ("s3:GetObject") on a resource ("arn:aws:s3:::bucket/key", or "arn:aws:s3:::bucket/")
// may be signed by the grant. Without Signing, none may.
func (g Grant) Permits(action, resource string, values iam.Values) bool {
	return g.Document.Evaluate(action, resource, values.Meets) == iam.Allowed
}

// Fault is one thing wrong with the configuration of roles.
type Fault struct {
	// Path is the key, as in "roles[2].ttl.max".
	Path string
	// Problem says what is wrong and what was expected.
	Problem string
}

// Faults is every fault of a set of roles.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fmt.Sprintf("%s: %s", fault.Path, fault.Problem)
	}
	return strings.Join(lines, "\n")
}
