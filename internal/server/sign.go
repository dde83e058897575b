package server

import (
	"context"
	"time"

	"github.com/go-json-experiment/json"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/s3"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// signJSON is the body of a call for signatures.
type signJSON struct {
	JWT      string         `json:"jwt"`
	AWSProof string         `json:"aws_proof"`
	Actor    *signActorJSON `json:"actor"`
	Role     string         `json:"role"`
	Seconds  *int           `json:"expires_in_seconds"`
	Requests []signItemJSON `json:"requests"`
}

type signActorJSON struct {
	JWT      string `json:"jwt"`
	AWSProof string `json:"aws_proof"`
	Peer     bool   `json:"peer_certificate"`
}

type signItemJSON struct {
	Method      string            `json:"method"`
	Bucket      string            `json:"bucket"`
	Key         string            `json:"key"`
	Query       map[string]string `json:"query"`
	Headers     map[string]string `json:"headers"`
	PayloadHash string            `json:"payload_hash"`
	VirtualHost bool              `json:"virtual_host"`
	Endpoint    string            `json:"endpoint"`
}

type signedJSON struct {
	Signed      []signedItemJSON `json:"signed"`
	AccessKeyID string           `json:"access_key_id"`
	ExpiresAt   string           `json:"expires_at"`
	Role        string           `json:"role"`
	RequestID   string           `json:"request_id"`
}

type signedItemJSON struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Host    string            `json:"host"`
	Path    string            `json:"path"`
	Query   string            `json:"query"`
	Headers map[string]string `json:"headers"`
}

func (a *httpAPI) sign(ctx context.Context, c *httpCall) error    { return a.signed(ctx, c, false) }
func (a *httpAPI) presign(ctx context.Context, c *httpCall) error { return a.signed(ctx, c, true) }

func (a *httpAPI) signed(ctx context.Context, c *httpCall, presign bool) error {
	req, err := c.decodeSign()
	if err != nil {
		return err
	}
	req.Presign = presign
	signed, err := a.broker.Sign(ctx, req)
	if err != nil {
		return err
	}
	out := signedJSON{
		Signed: make([]signedItemJSON, len(signed.Requests)), AccessKeyID: signed.AccessKeyID, ExpiresAt: signed.Expires.UTC().Format(time.RFC3339),
		Role: signed.Role, RequestID: c.corr.RequestID,
	}
	for i, s := range signed.Requests {
		out.Signed[i] = signedItemJSON{s.Method, s.URL, s.Host, s.Path, s.Query, s.Headers}
	}
	return c.writeJSON(out)
}

func (c *httpCall) decodeSign() (broker.SignRequest, error) {
	data, err := c.readJSON()
	if err != nil {
		return broker.SignRequest{}, err
	}
	in, b, err := decodeSign(data)
	if err != nil {
		return broker.SignRequest{}, err
	}
	req, err := c.request(b)
	req.Role = in.Role
	out := broker.SignRequest{Request: req}
	if in.Seconds != nil {
		out.Window = time.Duration(*in.Seconds) * time.Second
	}
	for _, item := range in.Requests {
		out.Items = append(out.Items, broker.SignItem{
			Input: s3.Input{
				Method: item.Method, Bucket: item.Bucket, Key: item.Key, Query: item.Query, Headers: item.Headers, PayloadHash: item.PayloadHash,
			},
			VirtualHost: item.VirtualHost, Endpoint: item.Endpoint,
		})
	}
	return out, err
}

// decodeSign reads one JSON object and nothing after it: names are compared with case, and each is there once. The library's errors quote
// the input and are not passed on.
func decodeSign(data []byte) (signJSON, body, error) {
	var in signJSON
	if err := json.Unmarshal(data, &in, json.RejectUnknownMembers(true)); err != nil {
		return signJSON{}, body{}, invalid("the body is no JSON object of the documented form")
	}
	switch {
	case in.Role == "":
		return signJSON{}, body{}, invalid(`"role" is missing`)
	case len(in.Requests) == 0 || len(in.Requests) > broker.MaxSignatures:
		return signJSON{}, body{}, invalid(`"requests" has none, or too many`)
	case in.Seconds != nil && (*in.Seconds < 1 || *in.Seconds > int(s3.MaxWindow/time.Second)):
		return signJSON{}, body{}, invalid(`"expires_in_seconds" is not 1 to 60`)
	case in.JWT != "" && in.AWSProof != "":
		return signJSON{}, body{}, invalid("more than one proof")
	}
	var b body
	if in.JWT != "" || in.AWSProof != "" {
		p := oneProof(in.JWT, in.AWSProof)
		b.proof = &p
	}
	if a := in.Actor; a != nil {
		proof := oneProof(a.JWT, a.AWSProof)
		if n := count(a.JWT != "", a.AWSProof != "", a.Peer); n != 1 {
			return signJSON{}, body{}, invalid(`"actor" holds no proof, or more than one`)
		}
		b.actor = &actor{proof: proof, peer: a.Peer}
	}
	return in, b, nil
}

func oneProof(jwt, aws string) attest.Proof {
	if jwt != "" {
		return newProof(attest.KindJWT, jwt)
	}
	return newProof(attest.KindAWS, aws)
}

func count(conditions ...bool) (n int) {
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}

// SignRequest implements brokerv1.CredentialBrokerServiceServer.
func (a *grpcAPI) SignRequest(ctx context.Context, in *brokerv1.SignRequestRequest) (*brokerv1.SignRequestResponse, error) {
	req, signed, err := a.signed(ctx, in, false)
	if err != nil {
		return nil, err
	}
	return &brokerv1.SignRequestResponse{
		Signed: signedToProto(signed.Requests), AccessKeyId: signed.AccessKeyID, ExpiresAt: timestamppb.New(signed.Expires), Role: signed.Role,
		RequestId: req.Correlation.RequestID,
	}, nil
}

// PresignURL implements brokerv1.CredentialBrokerServiceServer.
func (a *grpcAPI) PresignURL(ctx context.Context, in *brokerv1.PresignURLRequest) (*brokerv1.PresignURLResponse, error) {
	req, signed, err := a.signed(ctx, in, true)
	if err != nil {
		return nil, err
	}
	return &brokerv1.PresignURLResponse{
		Signed: signedToProto(signed.Requests), AccessKeyId: signed.AccessKeyID, ExpiresAt: timestamppb.New(signed.Expires), Role: signed.Role,
		RequestId: req.Correlation.RequestID,
	}, nil
}

// signMessage is a SignRequestRequest or a PresignURLRequest.
type signMessage interface {
	GetProof() *brokerv1.Proof
	GetActorProof() *brokerv1.Proof
	GetRole() string
	GetRequests() []*brokerv1.S3Request
	GetWindow() *durationpb.Duration
}

func (a *grpcAPI) signed(ctx context.Context, in signMessage, presign bool) (broker.SignRequest, broker.SignedRequests, error) {
	req := broker.SignRequest{Request: requestOf(ctx, in.GetProof(), in.GetActorProof()), Presign: presign}
	req.Role = in.GetRole()
	if req.Role == "" {
		return req, broker.SignedRequests{}, invalid(`"role" is missing`)
	}
	var err error
	if req.Window, err = ttlOf(in.GetWindow()); err != nil {
		return req, broker.SignedRequests{}, err
	}
	for _, r := range in.GetRequests() {
		req.Items = append(req.Items, broker.SignItem{
			Input: s3.Input{
				Method: r.GetMethod(), Bucket: r.GetBucket(), Key: r.GetKey(), Query: r.GetQuery(), Headers: r.GetHeaders(), PayloadHash: r.GetPayloadHash(),
			},
			VirtualHost: r.GetVirtualHost(), Endpoint: r.GetEndpoint(),
		})
	}
	signed, err := a.broker.Sign(ctx, req)
	return req, signed, err
}

func signedToProto(list []s3.Signed) []*brokerv1.SignedRequest {
	out := make([]*brokerv1.SignedRequest, len(list))
	for i, s := range list {
		out[i] = &brokerv1.SignedRequest{Method: s.Method, Url: s.URL, Host: s.Host, Path: s.Path, Query: s.Query, Headers: s.Headers}
	}
	return out
}
