package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
)

// Errors of the transports themselves.
var (
	errNoSuchPath = errors.New("no such path")
	errMethod     = errors.New("method not allowed")
	errPanic      = errors.New("a panic was caught")
)

// public is all that a caller learns of an error. It depends on which sentinel the error is, never on its cause.
type public struct {
	code    string
	message string
	grpc    codes.Code
	http    int
	// retryAfter is when the same call may work; zero if it needs a change first.
	retryAfter time.Duration
}

func (p *public) retryable() bool { return p.retryAfter > 0 }

// The answers that more than one error gives, or that are needed by name.
var (
	unauthenticated = public{code: "unauthenticated", message: "the proof of identity is missing or was not accepted", grpc: codes.Unauthenticated, http: 401}
	notFound        = public{code: "not_found", message: "there is no such thing here", grpc: codes.NotFound, http: 404}
	overloaded      = public{code: "overloaded", message: "the broker has too much to do now", grpc: codes.Unavailable, http: 503, retryAfter: time.Second}
	internal        = public{code: "internal", message: "something in the broker went wrong; its log has the request ID", grpc: codes.Internal, http: 500}
)

// table is the one place where an error gets its code, text and status. The first row that matches counts, so a
// back-end's sentinel comes before the context's error that it may wrap.
var table = []struct {
	sentinel error
	public
}{
	{attest.ErrUsed, public{"proof_already_used", "this proof was used before, and is for a single use: make another", codes.Unauthenticated, 401, time.Second}},
	{attest.ErrMalformed, unauthenticated},
	{attest.ErrRejected, unauthenticated},
	{attest.ErrUnavailable, public{"identity_provider_unavailable", "the proof can't be verified now: its issuer's keys, or the memory of used proofs, are out of reach", codes.Unavailable, 503, 2 * time.Second}},
	// One answer for a role that doesn't exist and one that the caller may not use.
	{policy.ErrDenied, public{"permission_denied", "the role doesn't exist or this identity may not use it", codes.PermissionDenied, 403, 0}},
	{policy.ErrInvalidPolicy, public{"invalid_policy", "the narrowing policy is not valid", codes.InvalidArgument, 400, 0}},
	{policy.ErrPolicyTooLarge, public{"policy_too_large", "the narrowing policy is too large", codes.InvalidArgument, 400, 0}},
	{policy.ErrPolicyWider, public{"policy_too_wide", "the narrowing policy allows more than the role does", codes.InvalidArgument, 400, 0}},
	{policy.ErrInvalidTTL, public{"invalid_ttl", "the TTL is not one that the role gives", codes.InvalidArgument, 400, 0}},
	{broker.ErrInvalidRequest, public{"invalid_request", "the request doesn't have the documented form", codes.InvalidArgument, 400, 0}},
	{broker.ErrBusy, overloaded},
	{cache.ErrBusy, overloaded},
	{broker.ErrRateLimited, public{"rate_limited", "too many costly calls by this identity within a minute", codes.ResourceExhausted, 429, 15 * time.Second}},
	{broker.ErrUnknownRequest, notFound},
	{exchange.ErrUnavailable, public{"exchange_unavailable", "the object store's credential service can't be reached now", codes.Unavailable, 503, 2 * time.Second}},
	{exchange.ErrRefused, public{"exchange_refused", "the object store refused to issue credentials; its settings and the broker's don't agree", codes.FailedPrecondition, 502, 0}},
	{exchange.ErrUnsafe, public{"exchange_unsafe", "the object store has not shown that it is safe to use", codes.Unavailable, 503, 5 * time.Second}},
	{exchange.ErrBadResult, public{"exchange_bad_result", "the object store's answer was not a sound credential", codes.Unavailable, 502, 2 * time.Second}},
	{audit.ErrUnavailable, public{"audit_unavailable", "the decision can't be recorded now, so nothing was handed out", codes.Unavailable, 503, 2 * time.Second}},
	{errNoSuchPath, notFound},
	{errMethod, public{"method_not_allowed", "the path doesn't have this method", codes.Unimplemented, 405, 0}},
	{context.DeadlineExceeded, public{"deadline_exceeded", "the call took too long", codes.DeadlineExceeded, 504, time.Second}},
	{context.Canceled, public{"canceled", "the caller gave up", codes.Canceled, 499, 0}},
}

// publicOf says what a caller is told of err. Anything that the table doesn't list is internal.
func publicOf(err error) public {
	for i := range table {
		if !errors.Is(err, table[i].sentinel) {
			continue
		}
		p := table[i].public
		// Only a caller that was authorised gets an InputError, and it is about that caller's own input.
		if input, ok := errors.AsType[*policy.InputError](err); ok && errors.Is(input.Reason, table[i].sentinel) {
			p.message += ": " + clip(strings.ToValidUTF8(input.Detail, "?"))
		}
		return p
	}
	return internal
}

// Code is the error's code, as docs/errors.md lists them; empty for nil.
func Code(err error) string {
	if err == nil {
		return ""
	}
	return publicOf(err).code
}

// Codes are all values of Code but the empty one, in the table's order: a closed set for metric labels.
func Codes() []string {
	var list []string
	seen := map[string]bool{}
	for _, row := range table {
		if !seen[row.code] {
			seen[row.code] = true
			list = append(list, row.code)
		}
	}
	return append(list, internal.code)
}

// invalid is a request that lacks the documented form. The cause, which is for the log, must repeat nothing of the request:
// a token may stand anywhere in it.
func invalid(cause string) error { return fmt.Errorf("%w: %s", broker.ErrInvalidRequest, cause) }
