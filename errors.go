package credbroker

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrUnreachable is in every error of a call that no broker answered: no connection, no trust in its certificate, no answer in
	// time, or a gateway's own "502". The same call may work later.
	ErrUnreachable = errors.New("can't be reached")
	// ErrClosed is returned by everything that is called after Close, and by what was under way.
	ErrClosed = errors.New("credbroker: the client is closed")
	// ErrEndpoint is New's for an endpoint that is no URL of a broker.
	ErrEndpoint = errors.New("credbroker: the endpoint must be a URL such as https://broker.internal:8443 or grpcs://broker.internal:9443")
	// ErrPlaintext is New's for an endpoint without TLS that isn't on this machine.
	ErrPlaintext = errors.New("credbroker: the endpoint is plaintext beyond this machine: use https:// or grpcs://, or allow it WithInsecurePlaintext")
)

// Code is what a broker calls the reason of a refusal. docs/errors.md says what each means and what to do.
type Code string

// The codes of docs/errors.md that a caller can meet. A newer broker may have more.
const (
	CodeUnauthenticated             Code = "unauthenticated"
	CodeProofAlreadyUsed            Code = "proof_already_used"
	CodeProofExpired                Code = "proof_expired"
	CodeIdentityProviderUnavailable Code = "identity_provider_unavailable"
	CodePermissionDenied            Code = "permission_denied"
	CodeForwardedTokenRejected      Code = "forwarded_token_rejected"
	CodeInvalidPolicy               Code = "invalid_policy"
	CodePolicyTooLarge              Code = "policy_too_large"
	CodePolicyTooWide               Code = "policy_too_wide"
	CodeInvalidTTL                  Code = "invalid_ttl"
	CodeInvalidRequest              Code = "invalid_request"
	CodeInvalidS3Request            Code = "invalid_s3_request"
	CodeUnsupportedS3Request        Code = "unsupported_s3_request"
	CodeOverloaded                  Code = "overloaded"
	CodeRateLimited                 Code = "rate_limited"
	CodeNotFound                    Code = "not_found"
	CodeExchangeUnavailable         Code = "exchange_unavailable"
	CodeExchangeRefused             Code = "exchange_refused"
	CodeExchangeUnsafe              Code = "exchange_unsafe"
	CodeExchangeBadResult           Code = "exchange_bad_result"
	CodeAuditUnavailable            Code = "audit_unavailable"
	CodeMethodNotAllowed            Code = "method_not_allowed"
	CodeDeadlineExceeded            Code = "deadline_exceeded"
	CodeCanceled                    Code = "canceled"
	CodeInternal                    Code = "internal"
)

// Error is a broker's refusal. Find it with errors.As or errors.AsType[*credbroker.Error].
type Error struct {
	// Code is the reason.
	Code Code
	// Message is the broker's text for people. It may change; don't parse it.
	Message string
	// RequestID names the call in the broker's logs.
	RequestID string
	// Retryable says that the same call may work later.
	Retryable bool
	// RetryAfter is how long the broker asks to wait before that; zero if it didn't say.
	RetryAfter time.Duration
}

// Error implements error. What came from the broker is quoted, so that it can't forge lines of a log or control a terminal.
func (e *Error) Error() string {
	hint := ""
	if e.Retryable {
		hint = "; try again"
	}
	return fmt.Sprintf("%s: %q (request %q%s)", e.Code, e.Message, e.RequestID, hint)
}

// errNotBroker is an answer that no broker gives.
type errNotBroker struct{ what, listener string }

func (e *errNotBroker) Error() string {
	return fmt.Sprintf("%s, which isn't what a broker sends: is the endpoint the URL of its %s listener?", e.what, e.listener)
}

// unreachable is the error of a call that got no answer from the broker at host.
func unreachable(host string, cause error) error {
	return fmt.Errorf("the broker at %s %w: %w", host, ErrUnreachable, cause)
}

// retryable says whether the same call may work later, and how long to wait before it if the broker said so.
func retryable(err error) (bool, time.Duration) {
	if refusal, ok := errors.AsType[*Error](err); ok {
		return refusal.Retryable, refusal.RetryAfter
	}
	return errors.Is(err, ErrUnreachable), 0
}

// sane says whether a code can be a broker's: lower-case letters, digits and underscores.
func (c Code) sane() bool {
	for i := range len(c) {
		if (c[i] < 'a' || c[i] > 'z') && (c[i] < '0' || c[i] > '9') && c[i] != '_' {
			return false
		}
	}
	return c != "" && len(c) <= 64
}
