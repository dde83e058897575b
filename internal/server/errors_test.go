package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

const cause = "planted-cause"

type wantError struct {
	sentinel error
	code     string
	grpc     codes.Code
	http     int
	retry    bool
}

// wantErrors is written out, and not taken from the table, so that a changed row is seen.
var wantErrors = []wantError{
	{attest.ErrUsed, "proof_already_used", codes.Unauthenticated, 401, true},
	{attest.ErrMalformed, "unauthenticated", codes.Unauthenticated, 401, false},
	{attest.ErrRejected, "unauthenticated", codes.Unauthenticated, 401, false},
	{attest.ErrUnavailable, "identity_provider_unavailable", codes.Unavailable, 503, true},
	{policy.ErrDenied, "permission_denied", codes.PermissionDenied, 403, false},
	{policy.ErrInvalidPolicy, "invalid_policy", codes.InvalidArgument, 400, false},
	{policy.ErrPolicyTooLarge, "policy_too_large", codes.InvalidArgument, 400, false},
	{policy.ErrPolicyWider, "policy_too_wide", codes.InvalidArgument, 400, false},
	{policy.ErrInvalidTTL, "invalid_ttl", codes.InvalidArgument, 400, false},
	{broker.ErrInvalidRequest, "invalid_request", codes.InvalidArgument, 400, false},
	{broker.ErrBusy, "overloaded", codes.Unavailable, 503, true},
	{cache.ErrBusy, "overloaded", codes.Unavailable, 503, true},
	{broker.ErrRateLimited, "rate_limited", codes.ResourceExhausted, 429, true},
	{broker.ErrUnknownRequest, "not_found", codes.NotFound, 404, false},
	{exchange.ErrUnavailable, "exchange_unavailable", codes.Unavailable, 503, true},
	{exchange.ErrRefused, "exchange_refused", codes.FailedPrecondition, 502, false},
	{exchange.ErrUnsafe, "exchange_unsafe", codes.Unavailable, 503, true},
	{exchange.ErrBadResult, "exchange_bad_result", codes.Unavailable, 502, true},
	{audit.ErrUnavailable, "audit_unavailable", codes.Unavailable, 503, true},
	{context.DeadlineExceeded, "deadline_exceeded", codes.DeadlineExceeded, 504, true},
	{context.Canceled, "canceled", codes.Canceled, 499, false},
	{errNoSuchPath, "not_found", codes.NotFound, 404, false},
	{errMethod, "method_not_allowed", codes.Unimplemented, 405, false},
	{errors.New("anything else"), "internal", codes.Internal, 500, false},
}

func TestEveryErrorOverBothTransports(t *testing.T) {
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

var docRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\w+) \\| (\\d+) \\| (no|\\d+s) \\| ([^|]+) \\| ([^|]+) \\|$")

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
	if len(documented) != len(Codes()) {
		t.Errorf("%d codes documented, %d exist: %v", len(documented), len(Codes()), Codes())
	}
	for _, code := range Codes() {
		if !regexp.MustCompile(`^[a-z_]+$`).MatchString(code) {
			t.Errorf("%q is no code", code)
		}
	}
}
