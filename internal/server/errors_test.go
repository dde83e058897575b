package server

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/revocation"
	"github.com/credbroker/credbroker/internal/s3"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

const cause = "planted-cause"

type wantError struct {
	sentinel error
	code     string
	grpc     codes.Code
	http     int
	retry    bool
	sts      string // code and status
	oauth    string
}

// wantErrors is written out, and not taken from the table, so that a changed row is seen.
var wantErrors = []wantError{
	{broker.ErrForwardedToken, "forwarded_token_rejected", codes.PermissionDenied, 403, false, "AccessDenied 403", "invalid_request 400"},
	{attest.ErrUsed, "proof_already_used", codes.Unauthenticated, 401, true, "IDPRejectedClaim 403", "invalid_request 400"},
	{attest.ErrExpired, "proof_expired", codes.Unauthenticated, 401, false, "ExpiredTokenException 400", "invalid_request 400"},
	{errSigned, "unauthenticated", codes.Unauthenticated, 401, false, "SignatureDoesNotMatch 403", "invalid_request 400"},
	{errTooLarge, "invalid_request", codes.InvalidArgument, 400, false, "RequestEntityTooLarge 413", "invalid_request 400"},
	{errAction, "invalid_request", codes.InvalidArgument, 400, false, "InvalidAction 400", "invalid_request 400"},
	{errParameter, "invalid_request", codes.InvalidArgument, 400, false, "MissingParameter 400", "invalid_request 400"},
	{errRoleName, "invalid_request", codes.InvalidArgument, 400, false, "ValidationError 400", "invalid_target 400"},
	{errGrantType, "invalid_request", codes.InvalidArgument, 400, false, "ValidationError 400", "unsupported_grant_type 400"},
	{errClientAuth, "invalid_request", codes.InvalidArgument, 400, false, "ValidationError 400", "invalid_client 401"},
	{errTarget, "invalid_request", codes.InvalidArgument, 400, false, "ValidationError 400", "invalid_target 400"},
	{errForwarded, "invalid_request", codes.InvalidArgument, 400, false, "ValidationError 400", "invalid_request 400"},
	{attest.ErrMalformed, "unauthenticated", codes.Unauthenticated, 401, false, "InvalidIdentityToken 400", "invalid_request 400"},
	{attest.ErrRejected, "unauthenticated", codes.Unauthenticated, 401, false, "InvalidIdentityToken 400", "invalid_request 400"},
	{attest.ErrUnavailable, "identity_provider_unavailable", codes.Unavailable, 503, true, "IDPCommunicationError 400", "temporarily_unavailable 503"},
	{policy.ErrDenied, "permission_denied", codes.PermissionDenied, 403, false, "AccessDenied 403", "invalid_target 400"},
	{policy.ErrInvalidPolicy, "invalid_policy", codes.InvalidArgument, 400, false, "MalformedPolicyDocument 400", "invalid_request 400"},
	{policy.ErrPolicyTooLarge, "policy_too_large", codes.InvalidArgument, 400, false, "PackedPolicyTooLarge 400", "invalid_request 400"},
	{policy.ErrPolicyWider, "policy_too_wide", codes.InvalidArgument, 400, false, "MalformedPolicyDocument 400", "invalid_request 400"},
	{policy.ErrInvalidTTL, "invalid_ttl", codes.InvalidArgument, 400, false, "ValidationError 400", "invalid_request 400"},
	{broker.ErrInvalidRequest, "invalid_request", codes.InvalidArgument, 400, false, "ValidationError 400", "invalid_request 400"},
	{s3.ErrInvalid, "invalid_s3_request", codes.InvalidArgument, 400, false, "ValidationError 400", "invalid_request 400"},
	{s3.ErrUnsupported, "unsupported_s3_request", codes.Unimplemented, 501, false, "ValidationError 400", "invalid_request 400"},
	{broker.ErrBusy, "overloaded", codes.Unavailable, 503, true, "ServiceUnavailable 503", "temporarily_unavailable 503"},
	{cache.ErrBusy, "overloaded", codes.Unavailable, 503, true, "ServiceUnavailable 503", "temporarily_unavailable 503"},
	{broker.ErrRateLimited, "rate_limited", codes.ResourceExhausted, 429, true, "Throttling 400", "temporarily_unavailable 429"},
	{broker.ErrUnknownRequest, "not_found", codes.NotFound, 404, false, "InvalidAction 404", "invalid_request 404"},
	{revocation.ErrInvalid, "invalid_request", codes.InvalidArgument, 400, false, "ValidationError 400", "invalid_request 400"},
	{revocation.ErrFull, "overloaded", codes.Unavailable, 503, true, "ServiceUnavailable 503", "temporarily_unavailable 503"},
	{revocation.ErrNotShared, "exchange_unavailable", codes.Unavailable, 503, true, "ServiceUnavailable 503", "temporarily_unavailable 503"},
	{revocation.ErrNotEnded, "exchange_unavailable", codes.Unavailable, 503, true, "ServiceUnavailable 503", "temporarily_unavailable 503"},
	{exchange.ErrUnavailable, "exchange_unavailable", codes.Unavailable, 503, true, "ServiceUnavailable 503", "temporarily_unavailable 503"},
	{exchange.ErrRefused, "exchange_refused", codes.FailedPrecondition, 502, false, "InternalFailure 500", "server_error 502"},
	{exchange.ErrUnsafe, "exchange_unsafe", codes.Unavailable, 503, true, "ServiceUnavailable 503", "temporarily_unavailable 503"},
	{exchange.ErrBadResult, "exchange_bad_result", codes.Unavailable, 502, true, "InternalFailure 500", "server_error 502"},
	{audit.ErrUnavailable, "audit_unavailable", codes.Unavailable, 503, true, "ServiceUnavailable 503", "temporarily_unavailable 503"},
	{context.DeadlineExceeded, "deadline_exceeded", codes.DeadlineExceeded, 504, true, "ServiceUnavailable 503", "temporarily_unavailable 504"},
	{context.Canceled, "canceled", codes.Canceled, 499, false, "ServiceUnavailable 503", "temporarily_unavailable 499"},
	{errNoSuchPath, "not_found", codes.NotFound, 404, false, "InvalidAction 404", "invalid_request 404"},
	{errMethod, "method_not_allowed", codes.Unimplemented, 405, false, "MethodNotAllowed 405", "invalid_request 405"},
	{errors.New("anything else"), "internal", codes.Internal, 500, false, "InternalFailure 500", "server_error 500"},
}

func TestEveryErrorOverEveryTransport(t *testing.T) {
	for _, row := range table {
		if !slices.ContainsFunc(wantErrors, func(w wantError) bool { return errors.Is(w.sentinel, row.sentinel) }) {
			t.Errorf("no test for %v", row.sentinel)
		}
	}
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	conn, _ := grpcServer(t, b, alwaysReady)
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	for _, want := range wantErrors {
		t.Run(want.code, func(t *testing.T) {
			err := fmt.Errorf("%w: %s", want.sentinel, cause)
			if want.code != "internal" { // a sentinel counts before the context's error beneath it
				err = fmt.Errorf("%w %w", err, context.Canceled)
			}
			b.fail(err)
			if got := Code(err); got != want.code {
				t.Errorf("Code: %s, want %s", got, want.code)
			}
			checkHTTPError(t, base, want.code, want.http, want.retry)
			checkGRPCError(t, client, want.code, want.grpc, want.retry)
			checkSDKErrors(t, base, want)
		})
	}
}

func checkHTTPError(t *testing.T, base, code string, status int, retry bool) {
	header := bearerHeader("x.y.z")
	header.Set("X-Request-Id", "req-1")
	got := send(t, "POST", base+"/v1/credentials", header, `{"role":"reports"}`)
	var body struct {
		Error struct {
			Code, Message string
			RequestID     string `json:"request_id"`
			Retryable     bool
		}
	}
	if err := json.Unmarshal([]byte(got.body), &body); err != nil {
		t.Fatalf("%s: %v", got.body, err)
	}
	e := body.Error
	if got.status != status || e.Code != code || e.Retryable != retry || e.RequestID != "req-1" || e.Message == "" {
		t.Errorf("HTTP: %d %+v, want %d %s", got.status, e, status, code)
	}
	if strings.Contains(got.body, cause) || strings.Contains(fmt.Sprint(got.header), cause) {
		t.Errorf("the cause got out: %s", got.body)
	}
	if s, err := strconv.Atoi(got.header.Get("Retry-After")); retry != (err == nil && s >= 1) {
		t.Errorf("Retry-After: %q", got.header.Get("Retry-After"))
	}
	if (status == 401) != (got.header.Get("WWW-Authenticate") == "Bearer") {
		t.Errorf("WWW-Authenticate: %q", got.header.Get("WWW-Authenticate"))
	}
	for name, value := range map[string]string{
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Type": "application/json",
		"X-Request-Id": "req-1", "X-Credbroker-Error": code,
	} {
		if got.header.Get(name) != value {
			t.Errorf("%s: %q, want %q", name, got.header.Get(name), value)
		}
	}
}

func checkGRPCError(t *testing.T, client brokerv1.CredentialBrokerServiceClient, code string, want codes.Code, retry bool) {
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "req-2")
	var header metadata.MD
	_, err := client.IssueCredentials(ctx, &brokerv1.IssueCredentialsRequest{Role: "reports"}, grpc.Header(&header))
	s := status.Convert(err)
	if s.Code() != want || s.Message() == "" || strings.Contains(fmt.Sprint(s.Proto()), cause) {
		t.Errorf("gRPC: %v, want %v", s, want)
	}
	if !slices.Equal(header.Get("x-request-id"), []string{"req-2"}) {
		t.Errorf("header metadata: %v", header)
	}
	seen := 0
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			seen++
			if d.GetReason() != strings.ToUpper(code) || d.GetDomain() != "credbroker" {
				t.Errorf("ErrorInfo: %v", d)
			}
		case *errdetails.RequestInfo:
			seen++
			if d.GetRequestId() != "req-2" {
				t.Errorf("RequestInfo: %v", d)
			}
		case *errdetails.RetryInfo:
			seen += 10
			if d.GetRetryDelay().AsDuration() < time.Second {
				t.Errorf("RetryInfo: %v", d)
			}
		}
	}
	if want := map[bool]int{false: 2, true: 12}[retry]; seen != want {
		t.Errorf("details: %v", s.Details())
	}
}

// checkSDKErrors holds the answers of the three surfaces for SDKs against what each one's protocol has.
func checkSDKErrors(t *testing.T, base string, want wantError) {
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "X-Request-Id": {"req-3"}}
	check := func(surface string, a answer, code, wantCode string, message string) {
		t.Helper()
		if got := fmt.Sprint(code, " ", a.status); got != wantCode || message == "" || a.header.Get("X-Credbroker-Error") != want.code ||
			a.header.Get("X-Request-Id") != "req-3" || a.header.Get("Cache-Control") != "no-store" || (a.header.Get("Retry-After") != "") != want.retry {
			t.Errorf("%s: %s %q %v, want %s", surface, got, message, a.header, wantCode)
		}
		if strings.Contains(a.body, cause) {
			t.Errorf("%s: the cause got out: %s", surface, a.body)
		}
	}
	a := send(t, "POST", base+"/sts", form.Clone(), webIdentity)
	var sts struct {
		XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
		Type      string   `xml:"Error>Type"`
		Code      string   `xml:"Error>Code"`
		Message   string   `xml:"Error>Message"`
		RequestID string   `xml:"RequestId"`
	}
	if err := xml.Unmarshal([]byte(a.body), &sts); err != nil || sts.RequestID != "req-3" || a.header.Get("Content-Type") != "text/xml" || (sts.Type == "Receiver") != (a.status >= 500) {
		t.Errorf("STS: %v %s", err, a.body)
	}
	check("STS", a, sts.Code, want.sts, sts.Message)

	a = send(t, "GET", base+"/v1/container-credentials/reports", http.Header{"Authorization": {"x.y.z"}, "X-Request-Id": {"req-3"}}, "")
	var container struct{ Code, Message string }
	if err := json.Unmarshal([]byte(a.body), &container); err != nil {
		t.Errorf("container: %v %s", err, a.body)
	}
	check("container", a, container.Code, fmt.Sprint(want.code, " ", want.http), container.Message)

	a = send(t, "POST", base+"/oauth/token", form.Clone(), tokenExchange)
	var oauth struct {
		Error       string
		Description string `json:"error_description"`
	}
	if err := json.Unmarshal([]byte(a.body), &oauth); err != nil {
		t.Errorf("token exchange: %v %s", err, a.body)
	}
	check("token exchange", a, oauth.Error, want.oauth, oauth.Description)
}

func TestUnknownAndForbiddenAreTheSame(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	var answers []answer
	for _, why := range []string{"no such role", "when is false", "template value"} {
		b.fail(fmt.Errorf("%w: %s", policy.ErrDenied, why))
		header := bearerHeader("x")
		header.Set("X-Request-Id", "same")
		a := send(t, "POST", base+"/v1/credentials", header, `{"role":"a"}`)
		a.header.Del("Date")
		answers = append(answers, a)
	}
	for _, a := range answers[1:] {
		if fmt.Sprint(a) != fmt.Sprint(answers[0]) {
			t.Errorf("answers differ:\n%v\n%v", a, answers[0])
		}
	}
}

func TestInputErrorShowsItsDetailToTheAuthorised(t *testing.T) {
	detail := "ttl: 5s is less than 60s"
	input := &policy.InputError{Reason: policy.ErrInvalidTTL, Detail: detail}
	if p := publicOf(fmt.Errorf("x: %w", input)); p.code != "invalid_ttl" || !strings.HasSuffix(p.message, ": "+detail) {
		t.Errorf("%+v", p)
	}
	if p := publicOf(policy.ErrInvalidTTL); strings.Contains(p.message, ":") {
		t.Errorf("no detail was there: %q", p.message)
	}
	if p := publicOf(fmt.Errorf("%w: %w", policy.ErrDenied, input)); strings.Contains(p.message, detail) {
		t.Errorf("a denial shows a detail: %q", p.message)
	}
	if p := publicOf(&policy.InputError{Reason: policy.ErrInvalidPolicy, Detail: "a\xffb"}); !strings.HasSuffix(p.message, "a?b") {
		t.Errorf("not UTF-8: %q", p.message)
	}
}

func TestCodeOfNil(t *testing.T) {
	if Code(nil) != "" {
		t.Error("nil has a code")
	}
}

var docRow = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (\\w+) \\| (\\d+) \\| (no|\\d+s) \\| ([^|]+) \\| ([^|]+) \\|$")

func TestErrorsDocumentAgreesWithTheTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{}
	for _, m := range docRow.FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2:]
	}
	check := func(p public) {
		retry := "no"
		if p.retryable() {
			retry = p.retryAfter.String()
		}
		want := []string{p.grpc.String(), strconv.Itoa(p.http), retry}
		if got, ok := documented[p.code]; !ok || !slices.Equal(got[:3], want) {
			t.Errorf("%s: documented as %q, want %q", p.code, got, want)
		}
	}
	for _, row := range table {
		check(row.public)
	}
	check(internal)
	for _, row := range append(table, struct {
		sentinel error
		public
	}{nil, internal}) {
		m := regexp.MustCompile("(?m)^\\| `" + row.code + "` \\| ([A-Za-z0-9, ]+) \\| ([a-z0-9_, ]+) \\|$").FindStringSubmatch(string(text))
		for n, want := range []named{row.sts, row.oauth} {
			if m == nil || !slices.Contains(strings.Split(m[n+1], ", "), fmt.Sprint(want.code, " ", want.status)) {
				t.Errorf("%s: %q lacks %v", row.code, m, want)
			}
		}
	}
	if len(documented) != len(Codes()) {
		t.Errorf("%d codes documented, %d exist: %v", len(documented), len(Codes()), Codes())
	}
	for _, code := range Codes() {
		if !regexp.MustCompile(`^[a-z0-9_]+$`).MatchString(code) {
			t.Errorf("%q is no code", code)
		}
	}
}
