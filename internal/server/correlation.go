package server

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/credbroker/credbroker/internal/exchange"
)

// Header names in the form that net/http keys them by.
const (
	headerRequestID   = "X-Request-Id"
	headerKongID      = "X-Kong-Request-Id"
	headerTraceParent = "Traceparent"
)

// The same for gRPC metadata.
const (
	metaRequestID   = "x-request-id"
	metaKongID      = "x-kong-request-id"
	metaTraceParent = "traceparent"
)

func correlationOfHTTP(h http.Header) exchange.Correlation {
	return newCorrelation(h[headerRequestID], h[headerKongID], h[headerTraceParent])
}

func correlationOfGRPC(ctx context.Context) exchange.Correlation {
	return newCorrelation(metadata.ValueFromIncomingContext(ctx, metaRequestID),
		metadata.ValueFromIncomingContext(ctx, metaKongID), metadata.ValueFromIncomingContext(ctx, metaTraceParent))
}

// newCorrelation keeps what was sent exactly once and in its grammar. These values go into logs and into headers of other
// calls; what doesn't match is dropped without a word, since it is not worth failing a call for.
func newCorrelation(requestID, kongID, traceParent []string) exchange.Correlation {
	var c exchange.Correlation
	if len(requestID) == 1 && isRequestID(requestID[0]) {
		c.RequestID = requestID[0]
	} else {
		c.RequestID = rand.Text() // 26 letters and digits, at least 128 random bits
	}
	if len(kongID) == 1 && len(kongID[0]) <= 64 && isLowerHex(kongID[0]) {
		c.KongRequestID = kongID[0]
	}
	if len(traceParent) == 1 && isTraceParent(traceParent[0]) {
		c.TraceParent = traceParent[0]
	}
	return c
}

// isRequestID says whether s is ^[A-Za-z0-9._-]{1,64}$.
func isRequestID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// isTraceParent says whether s is a traceparent of version 00: version, trace ID, parent ID and flags in lower-case hex,
// neither ID all zeros (W3C Trace Context, section 3.2).
func isTraceParent(s string) bool {
	if len(s) != 55 || !strings.HasPrefix(s, "00-") || s[35] != '-' || s[52] != '-' {
		return false
	}
	trace, parent, flags := s[3:35], s[36:52], s[53:]
	return isLowerHex(trace) && isLowerHex(parent) && isLowerHex(flags) &&
		strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != ""
}

func isLowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}
