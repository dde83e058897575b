// Package exchange says what it means to trade a grant for credentials. Each back-end is a subpackage.
package exchange

import (
	"context"
	"errors"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/revocation"
	"github.com/credbroker/credbroker/internal/secret"
)

// Errors of [Exchanger.Exchange]. The text wrapped around them is for the log alone.
var (
	// ErrUnavailable means that the back-end could not be asked or said "later": retry.
	ErrUnavailable = errors.New("back-end unavailable")
	// ErrRefused means that the back-end understood and said no: its configuration and the broker's disagree.
	ErrRefused = errors.New("back-end refused the exchange")
	// ErrUnsafe means that the broker refuses to use the back-end: it takes forged tokens, or wasn't yet seen to
	// refuse one.
	ErrUnsafe = errors.New("back-end is not safe to use")
	// ErrBadResult means that the back-end answered with something that isn't a sane credential: unparsable, no
	// expiry, expired, or living longer than what was granted.
	ErrBadResult = errors.New("back-end returned a bad credential")
)

// Credentials are short-lived S3 credentials.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey secret.Secret
	SessionToken    secret.Secret
	// Expires is when the object store stops taking them.
	Expires time.Time
	// Exchanger is who made them, by its name in the configuration; empty if somebody else had them made. It is no part of what is
	// kept for others.
	Exchanger string
}

// Correlation ties the parts of one call together across logs. Every field is checked for its grammar before it gets
// here, so that it may be sent on as a header.
type Correlation struct {
	RequestID     string
	KongRequestID string
	TraceParent   string
}

// Request is one exchange: who gets what.
type Request struct {
	Identity attest.Identity
	Grant    policy.Grant
	// Proof is what proved the identity. It is for a token source that passes it on, and for nothing else.
	Proof attest.Proof
	// RevokedAt is when what was made for the like was revoked last: what is made is to have nothing from before. Zero if it wasn't.
	RevokedAt time.Time
	// Correlation goes to the back-end as the headers X-Request-Id, X-Kong-Request-Id and traceparent.
	Correlation Correlation
}

// Exchanger trades a grant for credentials at one back-end. What a kind of it honours of a grant is known without one: its package has a
// function that returns the policy.Backend.
type Exchanger interface {
	// Exchange returns credentials that expire no later than Grant.TTL from now, or an error that is (errors.Is) one
	// of this package's, or the context's. It is safe for concurrent use.
	Exchange(ctx context.Context, req Request) (Credentials, error)
	// Status tells in one line why the exchanger can't be used now; empty if it can as far as is known.
	Status() string
}

// Revoker is an Exchanger that can end what it has made.
type Revoker interface {
	Exchanger
	// Revoke ends what this process has got from the back-end and the revocation is about. Its error is that of Exchange.
	Revoke(ctx context.Context, r revocation.Revocation) error
}

// TokenSource makes the token that a web-identity exchange shows to the back-end.
type TokenSource interface {
	// Token returns a JWT for the request that expires at the given time. Its errors are those of Exchange.
	Token(ctx context.Context, req Request, expires time.Time) (secret.Secret, error)
}

// Outcome is what an exchange is counted by: ok, unavailable, refused, unsafe, bad_result or failed.
func Outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	case errors.Is(err, ErrRefused):
		return "refused"
	case errors.Is(err, ErrUnsafe):
		return "unsafe"
	case errors.Is(err, ErrBadResult):
		return "bad_result"
	}
	return "failed"
}
