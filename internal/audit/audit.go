// Package audit writes one line for each decision, before its result leaves.
//
// A line is one JSON object (RFC 8259) in UTF-8 with its fields in this order. Required ones are always there, the others
// only if they aren't empty.
//
//	time               required: RFC 3339, UTC, microseconds: when the call came in
//	event              required: issue_credentials, explain_access, list_roles, open_gateway_session, sign_request,
//	                   presign_url, who_is, renew_credentials, revoke, audit_interrupted
//	decision           required: allowed, denied, failed
//	code               the error's code as in docs/errors.md
//	request_id         required
//	kong_request_id    Kong's ID of the same request
//	traceparent        W3C Trace Context
//	identity           who the proof showed; absent if it did not pass; of revoke, whose credentials are revoked, its kind empty:
//	  kind               required: what it is (oidc, aws, gcp, azure, kubernetes, spiffe, x509, access_key, minted)
//	  issuer             required: who vouches for the subject
//	  tenant             separates subjects of one issuer
//	  subject            required
//	  session            a name that the subject chose for this use of it
//	  attrs              name → list of strings, by name: what the rules saw, groups for instance
//	  actor              who acts for the subject; an identity again
//	proof_kind         required
//	proof_fingerprint  keyed hash of the proof: equal for equal proofs (Fingerprinter)
//	actor_proof_kind   the same of the actor's proof; absent if there is none
//	actor_proof_fingerprint
//	role               as asked
//	rule               where the rule that allowed it is written
//	rule_set           version of the rules in force
//	access_key_id      of the credentials handed out, or the key ID of a gateway session
//	expires            RFC 3339, UTC, microseconds: when they end
//	result             hit or mint
//	exchanger          that minted them; with mint alone
//	operations         what was to be signed, a list:
//	  operation          required: its name in the S3 API
//	  bucket, key        absent if there is none
//	  source             what is copied: bucket, slash, key
//	source_address     where the call came from; of revoke, who made it
//	latency_us         required: microseconds from request to this entry
//	truncated          true if something was cut to the bounds below
//
// There are at most 16 operations. A string is at most 1024 bytes of the original. An identity and its actors have at most 64 attribute names and values
// together, 16 KiB of them, and at most 4 actors. Whatever isn't printable is escaped, so that no string can end its line
// or move a terminal's cursor.
//
// A line "audit_interrupted" of the log's own precedes the first entries after a failed write: latency_us is how
// long nothing could be written. Its request_id and proof_kind are empty. A line that a full disk cut off stays as it is,
// ended by a line ending: it isn't valid JSON, and what it told of was not handed out.
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
	Event     string    // required: issue_credentials, explain_access, list_roles, ...
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
	// ActorProofKind and ActorProofFingerprint are those of the actor's proof.
	ActorProofKind        attest.Kind
	ActorProofFingerprint string

	Role    string // as asked; only if it has a role's form
	Rule    string // where the rule that allowed it is written
	RuleSet string // version of the rule set in force

	AccessKeyID string
	Expires     time.Time
	Result      string // hit or mint; empty if nothing was handed out
	Exchanger   string // that minted them: a role's own, or its fall-back; with mint alone

	// Operations are what was to be signed.
	Operations []Operation

	SourceAddress string
	Latency       time.Duration // written as latency_us
}

// Operation is a request of the S3 API.
type Operation struct {
	Name        string // required: "GetObject"
	Bucket, Key string
	// Source is what a copy reads: "bucket/key".
	Source string
}

// Log accepts entries.
type Log interface {
	// Record returns once the entry was accepted by write(2), or ErrUnavailable: after a second or two if the log is
	// stalled, after five if it is behind. It is safe for concurrent use.
	Record(ctx context.Context, e Entry) error
}
