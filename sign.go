package credbroker

import (
	"context"
	"errors"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// S3Request is a request of the S3 API that a broker shall sign. Nothing of it is escaped. docs/signing.md says what is taken.
type S3Request struct {
	// Method is required. Bucket is empty for the list of buckets, Key for what concerns a bucket as a whole.
	Method string `json:"method"`
	Bucket string `json:"bucket,omitzero"`
	Key    string `json:"key,omitzero"`
	// Query is the parameters; a sub-resource such as "uploads" has an empty value.
	Query map[string]string `json:"query,omitempty"`
	// Headers are to be signed besides the signature's own; each has to be one that the operation takes.
	Headers map[string]string `json:"headers,omitempty"`
	// PayloadHash is the SHA-256 of the body in lower-case hex, or empty to leave the body unsigned.
	PayloadHash string `json:"payload_hash,omitzero"`
	// VirtualHost puts the bucket's name before the host instead of into the path.
	VirtualHost bool `json:"virtual_host,omitzero"`
	// Endpoint is one of those that the broker is configured to sign for; empty for the first.
	Endpoint string `json:"endpoint,omitzero"`
}

// SignedRequest is to be sent as it is.
type SignedRequest struct {
	Method string `json:"method"`
	// URL is all of Host, Path and Query, which are escaped.
	URL   string `json:"url"`
	Host  string `json:"host"`
	Path  string `json:"path"`
	Query string `json:"query"`
	// Headers are all that were signed but for Host, by name in lower case.
	Headers map[string]string `json:"headers"`
}

// Apply gives a request the signed method, URL and headers; its body stays.
func (s SignedRequest) Apply(r *http.Request) error {
	u, err := r.URL.Parse(s.URL)
	if err != nil {
		return err
	}
	r.Method, r.URL, r.Host = s.Method, u, s.Host
	if r.Header == nil {
		r.Header = http.Header{}
	}
	for name, value := range s.Headers {
		r.Header.Set(name, value)
	}
	return nil
}

// Signatures are what a broker has signed. Until they end, whoever has one can send its request, also again.
type Signatures struct {
	// Requests are in the order in which they were asked for.
	Requests []SignedRequest
	// AccessKeyID is of the credentials that signed, which stay with the broker.
	AccessKeyID string
	// Expires is when the first of the signatures ends.
	Expires time.Time
	// Role is the role that was used.
	Role string
	// RequestID names the call in the broker's logs.
	RequestID string
}

// signWant is what is to be signed.
type signWant struct {
	role     string
	presign  bool
	window   time.Duration
	requests []S3Request
}

// SignRequest has the broker sign requests in their headers with credentials of a role, all of them or none: 1 to 16, for a window of whole
// seconds, up to 60; 60 if it is zero.
//
// Its errors are those of [Client.Credentials].
func (c *Client) SignRequest(ctx context.Context, role string, window time.Duration, requests ...S3Request) (Signatures, error) {
	return c.sign(ctx, signWant{role, false, window, requests})
}

// PresignURL is SignRequest with the signatures in the URLs.
func (c *Client) PresignURL(ctx context.Context, role string, window time.Duration, requests ...S3Request) (Signatures, error) {
	return c.sign(ctx, signWant{role, true, window, requests})
}

func (c *Client) sign(ctx context.Context, w signWant) (Signatures, error) {
	if err := (want{role: w.role, ttl: w.window, hasTTL: w.window != 0}).check(); err != nil {
		return Signatures{}, err
	}
	for _, r := range w.requests {
		if !utf8.ValidString(r.Bucket + r.Key) {
			return Signatures{}, errors.New("credbroker: bucket and key must be UTF-8")
		}
	}
	var got Signatures
	err := c.call(ctx, func(ctx context.Context, p proofs) (err error) {
		got, err = c.transport.sign(ctx, p, w)
		return err
	})
	return got, err
}

// sound says whether an answer holds as many signatures as were asked for.
func (s *Signatures) sound(w signWant) bool {
	return len(s.Requests) == len(w.requests) && s.AccessKeyID != "" && !s.Expires.IsZero()
}

func (t *httpTransport) sign(ctx context.Context, p proofs, w signWant) (Signatures, error) {
	path := "v1/sign"
	if w.presign {
		path = "v1/presign"
	}
	shown, err := newHTTPProofs(p)
	if err != nil {
		return Signatures{}, err
	}
	answer, err := t.post(ctx, path, p, struct {
		Role     string      `json:"role"`
		Seconds  int64       `json:"expires_in_seconds,omitzero"`
		Requests []S3Request `json:"requests"`
		httpProofs
	}{w.role, int64(w.window / time.Second), w.requests, shown})
	if err != nil {
		return Signatures{}, err
	}
	var body struct {
		Signed      []SignedRequest `json:"signed"`
		AccessKeyID string          `json:"access_key_id"`
		ExpiresAt   time.Time       `json:"expires_at"`
		Role        string          `json:"role"`
		RequestID   string          `json:"request_id"`
	}
	err = json.Unmarshal(answer, &body)
	got := Signatures{body.Signed, body.AccessKeyID, body.ExpiresAt, body.Role, body.RequestID}
	if err != nil || !got.sound(w) {
		return Signatures{}, &errNotBroker{"the answer holds no signatures", "HTTP"}
	}
	return got, nil
}

// signAnswer is a SignRequestResponse or a PresignURLResponse.
type signAnswer interface {
	GetSigned() []*brokerv1.SignedRequest
	GetAccessKeyId() string
	GetExpiresAt() *timestamppb.Timestamp
	GetRole() string
	GetRequestId() string
}

func (t *grpcTransport) sign(ctx context.Context, p proofs, w signWant) (Signatures, error) {
	subject, err := newGRPCProof(p.subject)
	if err != nil {
		return Signatures{}, err
	}
	var actor *brokerv1.Proof
	if p.actor != nil {
		if actor, err = newGRPCProof(*p.actor); err != nil {
			return Signatures{}, err
		}
	}
	var window *durationpb.Duration
	if w.window != 0 {
		window = durationpb.New(w.window)
	}
	requests := make([]*brokerv1.S3Request, len(w.requests))
	for i, r := range w.requests {
		requests[i] = &brokerv1.S3Request{
			Method: r.Method, Bucket: r.Bucket, Key: r.Key, Query: r.Query, Headers: r.Headers, PayloadHash: r.PayloadHash, VirtualHost: r.VirtualHost, Endpoint: r.Endpoint,
		}
	}
	var answer signAnswer
	if w.presign {
		answer, err = t.client.PresignURL(ctx, &brokerv1.PresignURLRequest{Proof: subject, ActorProof: actor, Role: w.role, Requests: requests, Window: window})
	} else {
		answer, err = t.client.SignRequest(ctx, &brokerv1.SignRequestRequest{Proof: subject, ActorProof: actor, Role: w.role, Requests: requests, Window: window})
	}
	if err != nil {
		return Signatures{}, t.refusal(ctx, err)
	}
	got := Signatures{AccessKeyID: answer.GetAccessKeyId(), Role: answer.GetRole(), RequestID: answer.GetRequestId()}
	if at := answer.GetExpiresAt(); at.IsValid() {
		got.Expires = at.AsTime()
	}
	for _, s := range answer.GetSigned() {
		got.Requests = append(got.Requests, SignedRequest{s.GetMethod(), s.GetUrl(), s.GetHost(), s.GetPath(), s.GetQuery(), s.GetHeaders()})
	}
	if !got.sound(w) {
		return Signatures{}, &errNotBroker{"the answer holds no signatures", "gRPC"}
	}
	return got, nil
}
