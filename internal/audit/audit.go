// Package audit writes one line for each decision, before its result leaves.
package audit

import (
	"context"
	"errors"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// ErrUnavailable means that an entry was not accepted in time: what it describes must not happen.
var ErrUnavailable = errors.New("audit log unavailable")

// Decision is how a call ended.
type Decision string

// The decisions.
const (
	Allowed Decision = "allowed" // credentials were handed out, or the question was answered
	Denied  Decision = "denied"  // the proof or the policy said no
	Failed  Decision = "failed"  // allowed, but a back-end or the caller's own input stood in the way
)

// Entry is one decision. It holds no secret. Empty fields are left out of the line, but for those marked required.
type Entry struct {
	Time      time.Time // required; written as RFC 3339 in UTC with microseconds
	Event     string    // required: issue_credentials, explain_access, list_roles, admin_...
	Decision  Decision  // required
	Code      string    // error code as docs/errors.md has it; empty if allowed
	RequestID string    // required

	KongRequestID string
	TraceParent   string

	// Identity is nil if the proof did not pass.
	Identity *attest.Identity
	// ProofKind is required; ProofFingerprint is a keyed hash of the proof.
	ProofKind        attest.Kind
	ProofFingerprint string

	Role    string // as asked; only if it has a role's form
	Rule    string // where the rule that allowed it is written
	RuleSet string // version of the rule set in force

	AccessKeyID string
	Expires     time.Time
	Result      string // hit or mint; empty if nothing was handed out

	SourceAddress string
	Latency       time.Duration // written as latency_us
}

// Log accepts entries.
type Log interface {
	// Record returns once the entry was accepted by write(2), or ErrUnavailable, after at most a second. It is safe
	// for concurrent use.
	Record(ctx context.Context, e Entry) error
}
