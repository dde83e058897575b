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
	"github.com/credbroker/credbroker/internal/revocation"
	"github.com/credbroker/credbroker/internal/s3"
)

// Errors of the transports themselves.
var (
	errNoSuchPath = errors.New("no such path")
	errMethod     = errors.New("method not allowed")
	errPanic      = errors.New("a panic was caught")
)

// Faults of a request's form for which the protocols of SDKs have words of their own.
var (
	errTooLarge   = invalid("the body is larger than 64 KiB")
	errAction     = invalid("the action or its version is not known")
	errParameter  = invalid("a parameter is missing")
	errRoleName   = invalid("the role is named by no role's name and no ARN of one")
	errGrantType  = invalid("the grant type is not token exchange")
	errClientAuth = invalid("the client tried to authenticate")
	errTarget     = invalid("no target, or targets that are not one role")
	errSigned     = fmt.Errorf("%w: a signed request", attest.ErrRejected)
	errForwarded  = invalid("the request was forwarded, or its target is a whole URI")
)

// public is all that a caller learns of an error. It depends on which sentinel the error is, never on its cause.
type public struct {
	code    string
	message string
	grpc    codes.Code
	http    int
	// retryAfter is when the same call may work; zero if it needs a change first.
	retryAfter time.Duration
	// sts is for the STS query API: an error of AssumeRoleWithWebIdentity or a common error of AWS's query APIs.
	sts named
	// oauth is for token exchange: an error of RFC 6749, section 5.2, or RFC 8693, section 2.2.2, whose statuses are 400 and 401; what is
	// the broker's fault has the words of RFC 6749, section 4.1.2.1.
	oauth named
}

// named is an error as a protocol calls it.
type named struct {
	code   string
	status int
}

func (p *public) retryable() bool { return p.retryAfter > 0 }

// The answers that more than one error gives, or that are needed by name.
var (
	unauthenticated = public{"unauthenticated", "the proof of identity is missing or was not accepted", codes.Unauthenticated, 401, 0, named{"InvalidIdentityToken", 400}, badRequest}
	notFound        = public{"not_found", "there is no such thing here", codes.NotFound, 404, 0, named{"InvalidAction", 404}, named{"invalid_request", 404}}
	overloaded      = public{"overloaded", "the broker has too much to do now", codes.Unavailable, 503, time.Second, later, unavailable}
	backEndAway     = public{"exchange_unavailable", "the object store's credential service can't be reached now", codes.Unavailable, 503, 2 * time.Second, later, unavailable}
	internal        = public{"internal", "something in the broker went wrong; its log has the request ID", codes.Internal, 500, 0, failure, named{"server_error", 500}}

	badRequest  = named{"invalid_request", 400}
	validation  = named{"ValidationError", 400}
	malformed   = named{"MalformedPolicyDocument", 400}
	later       = named{"ServiceUnavailable", 503}
	failure     = named{"InternalFailure", 500}
	unavailable = named{"temporarily_unavailable", 503}
	badGateway  = named{"server_error", 502}
)

// table is the one place where an error gets its code, text and status. The first row that matches counts, so a
// back-end's sentinel comes before the context's error that it may wrap.
var table = []struct {
	sentinel error
	public
}{
	// Before what was wrong with the token, which it wraps: a gateway is told apart from its consumer.
	{broker.ErrForwardedToken, public{"forwarded_token_rejected", "the token that the gateway has forwarded was not accepted, or is of somebody else than the consumer", codes.PermissionDenied, 403, 0, named{"AccessDenied", 403}, badRequest}},
	{attest.ErrUsed, public{"proof_already_used", "this proof was used before, and is for a single use: make another", codes.Unauthenticated, 401, time.Second, named{"IDPRejectedClaim", 403}, badRequest}},
	{attest.ErrExpired, public{"proof_expired", "the proof of identity has expired: bring a fresh one", codes.Unauthenticated, 401, 0, named{"ExpiredTokenException", 400}, badRequest}},
	{errSigned, public{"unauthenticated", "the request is not signed, or its signature, key or time is not one that is accepted", codes.Unauthenticated, 401, 0, named{"SignatureDoesNotMatch", 403}, badRequest}},
	{attest.ErrMalformed, unauthenticated},
	{attest.ErrRejected, unauthenticated},
	{attest.ErrUnavailable, public{"identity_provider_unavailable", "the proof can't be verified now: its issuer's keys, or the memory of used proofs, are out of reach", codes.Unavailable, 503, 2 * time.Second, named{"IDPCommunicationError", 400}, unavailable}},
	// One answer for a role that doesn't exist and one that the caller may not use.
	{policy.ErrDenied, public{"permission_denied", "the role doesn't exist, or this identity may not use it, or not for this", codes.PermissionDenied, 403, 0, named{"AccessDenied", 403}, named{"invalid_target", 400}}},
	{policy.ErrInvalidPolicy, public{"invalid_policy", "the narrowing policy is not valid", codes.InvalidArgument, 400, 0, malformed, badRequest}},
	{policy.ErrPolicyTooLarge, public{"policy_too_large", "the narrowing policy is too large", codes.InvalidArgument, 400, 0, named{"PackedPolicyTooLarge", 400}, badRequest}},
	{policy.ErrPolicyWider, public{"policy_too_wide", "the narrowing policy allows more than the role does", codes.InvalidArgument, 400, 0, malformed, badRequest}},
	{policy.ErrInvalidTTL, public{"invalid_ttl", "the TTL is not one that the role gives", codes.InvalidArgument, 400, 0, validation, badRequest}},
	{errTooLarge, invalidRequest("the body is larger than 64 KiB", named{"RequestEntityTooLarge", 413}, badRequest)},
	{errAction, invalidRequest("the Action or its Version is not one that there is here", named{"InvalidAction", 400}, badRequest)},
	{errParameter, invalidRequest("a parameter that the request needs is missing or empty", named{"MissingParameter", 400}, badRequest)},
	{errRoleName, invalidRequest("the role is neither arn:aws:iam::<12 digits>:role/<role> nor a role's name", validation, named{"invalid_target", 400})},
	{errGrantType, invalidRequest("grant_type is not urn:ietf:params:oauth:grant-type:token-exchange", validation, named{"unsupported_grant_type", 400})},
	{errClientAuth, invalidRequest("clients are not authenticated here: the subject's token is the proof", validation, named{"invalid_client", 401})},
	{errTarget, invalidRequest("audience, resource and scope name no role, or more than one", validation, named{"invalid_target", 400})},
	{errForwarded, invalidRequest("the request was forwarded, or its target is a whole URI: ask the broker directly", validation, badRequest)},
	{broker.ErrInvalidRequest, public{"invalid_request", "the request doesn't have the documented form", codes.InvalidArgument, 400, 0, validation, badRequest}},
	{s3.ErrInvalid, public{"invalid_s3_request", "a request to be signed is none that S3 takes", codes.InvalidArgument, 400, 0, validation, badRequest}},
	{s3.ErrUnsupported, public{"unsupported_s3_request", "a request to be signed is of a sort that is not signed here", codes.Unimplemented, 501, 0, validation, badRequest}},
	{broker.ErrBusy, overloaded},
	{cache.ErrBusy, overloaded},
	{broker.ErrRateLimited, public{"rate_limited", "too many costly calls by this identity within a minute", codes.ResourceExhausted, 429, 15 * time.Second, named{"Throttling", 400}, named{"temporarily_unavailable", 429}}},
	{broker.ErrUnknownRequest, notFound},
	{revocation.ErrInvalid, invalidRequest("what is to be revoked is an issuer, one of its subjects, or a role, in 512 bytes each", validation, badRequest)},
	{revocation.ErrFull, overloaded},
	{revocation.ErrNotShared, backEndAway}, // for the audit log alone: AdminService.Revoke answers with what is left
	{revocation.ErrNotEnded, backEndAway},
	{exchange.ErrUnavailable, backEndAway},
	{exchange.ErrRefused, public{"exchange_refused", "the object store refused to issue credentials; its settings and the broker's don't agree", codes.FailedPrecondition, 502, 0, failure, badGateway}},
	{exchange.ErrUnsafe, public{"exchange_unsafe", "the object store has not shown that it is safe to use", codes.Unavailable, 503, 5 * time.Second, later, unavailable}},
	{exchange.ErrBadResult, public{"exchange_bad_result", "the object store's answer was not a sound credential", codes.Unavailable, 502, 2 * time.Second, failure, badGateway}},
	{audit.ErrUnavailable, public{"audit_unavailable", "the decision can't be recorded now, so nothing was handed out", codes.Unavailable, 503, 2 * time.Second, later, unavailable}},
	{errNoSuchPath, notFound},
	{errMethod, public{"method_not_allowed", "the path doesn't have this method", codes.Unimplemented, 405, 0, named{"MethodNotAllowed", 405}, named{"invalid_request", 405}}},
	{context.DeadlineExceeded, public{"deadline_exceeded", "the call took too long", codes.DeadlineExceeded, 504, time.Second, later, named{"temporarily_unavailable", 504}}},
	{context.Canceled, public{"canceled", "the caller gave up", codes.Canceled, 499, 0, later, named{"temporarily_unavailable", 499}}},
}

// invalidRequest is the code invalid_request with a text that says more.
func invalidRequest(message string, sts, oauth named) public {
	return public{"invalid_request", message, codes.InvalidArgument, 400, 0, sts, oauth}
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
		if input, ok := errors.AsType[*s3.InputError](err); ok && errors.Is(input.Reason, table[i].sentinel) {
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
