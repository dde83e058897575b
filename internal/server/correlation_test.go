package server

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/credbroker/credbroker/internal/exchange"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

const goodTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestCorrelationGrammar(t *testing.T) {
	for _, c := range []struct {
		name            string
		id, kong, trace []string
		wantID          string // empty: a new one
		wantKong        bool
		wantTrace       bool
	}{
		{name: "nothing sent"},
		{name: "all good", id: []string{"aZ0._-"}, kong: []string{"0123456789abcdef"}, trace: []string{goodTrace}, wantID: "aZ0._-", wantKong: true, wantTrace: true},
		{name: "longest", id: []string{strings.Repeat("a", 64)}, kong: []string{strings.Repeat("f", 64)}, wantID: strings.Repeat("a", 64), wantKong: true},
		{name: "too long", id: []string{strings.Repeat("a", 65)}, kong: []string{strings.Repeat("f", 65)}, trace: []string{goodTrace + "0"}},
		{name: "empty", id: []string{""}, kong: []string{""}, trace: []string{""}},
		{name: "twice", id: []string{"a", "a"}, kong: []string{"a", "a"}, trace: []string{goodTrace, goodTrace}},
		{name: "line break", id: []string{"a\r\nX: y"}, kong: []string{"a\n"}, trace: []string{goodTrace[:54] + "\n"}},
		{name: "other characters", id: []string{"a b"}, kong: []string{"g"}, trace: []string{strings.ToUpper(goodTrace)}},
		{name: "just outside the ranges", id: []string{"a/b"}, kong: []string{"`"}, trace: []string{strings.Replace(goodTrace, "4bf", "4bg", 1)}},
		{name: "markup", id: []string{`"><script>`}, kong: []string{"/"}, trace: []string{"01" + goodTrace[2:]}},
		{name: "colon", id: []string{"a:"}, kong: []string{":"}, trace: []string{strings.Repeat("0", 55)}},
		{name: "brackets", id: []string{"["}, kong: []string{"A"}, trace: []string{"00-" + strings.Repeat("0", 32) + goodTrace[35:]}},
		{name: "at", id: []string{"@"}, trace: []string{goodTrace[:36] + strings.Repeat("0", 16) + "-01"}},
		{name: "brace", id: []string{"{"}, trace: []string{goodTrace[:52] + "_01"}},
		{name: "backquote", id: []string{"`"}, trace: []string{goodTrace[:35] + "_" + goodTrace[36:]}},
		{name: "not ASCII", id: []string{"é"}, trace: []string{goodTrace[:53] + "0g"}},
		{name: "short trace", trace: []string{goodTrace[:54]}},
		{name: "wide ranges", id: []string{"AZaz09"}, wantID: "AZaz09", kong: []string{"09af"}, wantKong: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := newCorrelation(c.id, c.kong, c.trace)
			if c.wantID != "" && got.RequestID != c.wantID || c.wantID == "" && !newID.MatchString(got.RequestID) {
				t.Errorf("request ID %q, want %q", got.RequestID, c.wantID)
			}
			if (got.KongRequestID != "") != c.wantKong || (got.TraceParent != "") != c.wantTrace {
				t.Errorf("%+v", got)
			}
		})
	}
}

var newID = regexp.MustCompile(`^[A-Z2-7]{26}$`)

func TestNewRequestIDsDiffer(t *testing.T) {
	if a, b := newCorrelation(nil, nil, nil), newCorrelation(nil, nil, nil); a.RequestID == b.RequestID {
		t.Error("the same request ID twice")
	}
}

func TestCorrelationReachesThePipeline(t *testing.T) {
	b := &fakeBroker{}
	want := exchange.Correlation{RequestID: "r-1", KongRequestID: "abc123", TraceParent: goodTrace}

	base, _ := httpServer(t, b)
	header := http.Header{"X-Request-Id": {"r-1"}, "X-Kong-Request-Id": {"abc123"}, "Traceparent": {goodTrace}}
	send(t, "GET", base+"/v1/roles", header, "")
	if got, _ := b.asked(); got.Correlation != want {
		t.Errorf("HTTP: %+v", got.Correlation)
	}

	conn, _ := grpcServer(t, b, alwaysReady)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "r-1", "x-kong-request-id", "abc123", "traceparent", goodTrace)
	resp, err := brokerv1.NewCredentialBrokerServiceClient(conn).ListRoles(ctx, &brokerv1.ListRolesRequest{})
	if got, _ := b.asked(); err != nil || got.Correlation != want || resp.GetRequestId() != "r-1" {
		t.Errorf("gRPC: %+v, %v", got.Correlation, err)
	}
}

func TestEveryAnswerHasARequestID(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	for _, path := range []string{"/", "/v1/roles", "/jwks", "/openapi.yaml", "/v1/credentials"} {
		if got := send(t, "GET", base+path, nil, ""); !newID.MatchString(got.header.Get("X-Request-Id")) {
			t.Errorf("%s: %q", path, got.header.Get("X-Request-Id"))
		}
	}
	conn, _ := grpcServer(t, b, alwaysReady)
	var header metadata.MD
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "a b", "x-request-id", "c")
	if _, err := brokerv1.NewCredentialBrokerServiceClient(conn).ListRoles(ctx, &brokerv1.ListRolesRequest{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if id := header.Get("x-request-id"); len(id) != 1 || !newID.MatchString(id[0]) {
		t.Errorf("gRPC: %q", id)
	}
}
