package credbroker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/prove"
)

const (
	// maxAnswer bounds an answer in bytes, in either protocol. A broker's are a few KiB.
	maxAnswer = 256 << 10
	// connectTimeout bounds a connection, and again its TLS handshake.
	connectTimeout = 5 * time.Second
	// idleTimeout closes connections that have nothing to do. The calls of one client are minutes apart, and a connection that was
	// kept for so long may lead to a broker that is gone.
	idleTimeout = 30 * time.Second
)

// httpTransport speaks the HTTP API: internal/server/openapi.yaml.
type httpTransport struct {
	base, host, userAgent string // base has no path
	client                *http.Client
}

func newHTTP(at endpoint, userAgent string) *httpTransport {
	return &httpTransport{
		base: at.url.JoinPath("/").String(), host: at.url.Host, userAgent: userAgent,
		client: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig:     at.tls,
				DialContext:         (&net.Dialer{Timeout: connectTimeout}).DialContext,
				TLSHandshakeTimeout: connectTimeout,
				IdleConnTimeout:     idleTimeout,
				ForceAttemptHTTP2:   true,
				HTTP2:               &http.HTTP2Config{SendPingTimeout: connectTimeout, PingTimeout: connectTimeout},
			},
			// The proof goes where it was meant to go, and nowhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (t *httpTransport) close() { t.client.CloseIdleConnections() }

func (t *httpTransport) issue(ctx context.Context, p proofs, w want) (Credentials, error) {
	shown, err := newHTTPProofs(p)
	if err != nil {
		return Credentials{}, err
	}
	answer, err := t.post(ctx, "v1/credentials", p, struct {
		Role       string `json:"role"`
		Policy     string `json:"policy,omitzero"`
		TTLSeconds int64  `json:"ttl_seconds,omitzero"`
		httpProofs
	}{w.role, w.policy, int64(w.ttl / time.Second), shown})
	if err != nil {
		return Credentials{}, err
	}
	var body struct {
		AccessKeyID     string    `json:"access_key_id"`
		SecretAccessKey string    `json:"secret_access_key"`
		SessionToken    string    `json:"session_token"`
		ExpiresAt       time.Time `json:"expires_at"`
		Role            string    `json:"role"`
		RequestID       string    `json:"request_id"`
	}
	err = json.Unmarshal(answer, &body)
	got := Credentials{
		AccessKeyID: body.AccessKeyID, SecretAccessKey: secret.New(body.SecretAccessKey), SessionToken: secret.New(body.SessionToken),
		Expires: body.ExpiresAt, Role: body.Role, RequestID: body.RequestID,
	}
	if err != nil || !got.sound() { // the error could repeat a part of the answer
		return Credentials{}, &errNotBroker{"the answer holds no credentials", "HTTP"}
	}
	return got, nil
}

// httpProof is a proof as a request's body has it.
type httpProof struct {
	JWT             string `json:"jwt,omitzero"`
	AWSProof        string `json:"aws_proof,omitzero"`
	PeerCertificate bool   `json:"peer_certificate,omitzero"`
}

func newHTTPProof(proof prove.Proof) (httpProof, error) {
	switch proof.Kind() {
	case prove.JWT:
		return httpProof{JWT: proof.Reveal()}, nil
	case prove.AWSRequest:
		return httpProof{AWSProof: proof.Reveal()}, nil
	case prove.PeerCertificate:
		return httpProof{PeerCertificate: true}, nil
	}
	return httpProof{}, fmt.Errorf("credbroker: proofs of kind %q can't be sent over HTTP", proof.Kind())
}

// httpProofs are what of a call's proofs is in the body: a JWT is in the header, and a certificate what the broker looks at if there is
// neither.
type httpProofs struct {
	AWSProof string     `json:"aws_proof,omitzero"`
	Actor    *httpProof `json:"actor,omitzero"`
}

func newHTTPProofs(p proofs) (httpProofs, error) {
	subject, err := newHTTPProof(p.subject)
	if err != nil || p.actor == nil {
		return httpProofs{AWSProof: subject.AWSProof}, err
	}
	actor, err := newHTTPProof(*p.actor)
	return httpProofs{subject.AWSProof, &actor}, err
}

// post sends a body and returns what the broker says if that is no refusal.
func (t *httpTransport) post(ctx context.Context, path string, p proofs, body any) ([]byte, error) {
	req, err := t.request(ctx, path, p, body)
	if err != nil {
		return nil, err
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, unreachable(t.host, withoutURL(err))
	}
	defer resp.Body.Close() //nolint:errcheck // read-only
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, unreachable(t.host, fmt.Errorf("the answer broke off: %w", err))
	}
	if resp.StatusCode != http.StatusOK {
		return nil, t.refusal(resp, answer)
	}
	return answer, nil
}

func (t *httpTransport) request(ctx context.Context, path string, p proofs, body any) (*http.Request, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.base+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if p.subject.Kind() == prove.JWT {
		req.Header.Set("Authorization", "Bearer "+p.subject.Reveal())
	}
	req.Header.Set("User-Agent", t.userAgent)
	// Not sent: it tells net/http that the call may be repeated on a new connection if the broker closed the old one just now.
	req.Header["Idempotency-Key"] = nil
	return req, nil
}

// refusal turns an answer other than 200 into an error.
func (t *httpTransport) refusal(resp *http.Response, answer []byte) error {
	var body struct {
		Error struct {
			Code      Code   `json:"code"`
			Message   string `json:"message"`
			RequestID string `json:"request_id"`
			Retryable bool   `json:"retryable"`
		} `json:"error"`
	}
	if err := json.Unmarshal(answer, &body); err != nil || !body.Error.Code.sane() {
		text := fmt.Sprintf("HTTP status %d in words of its own", resp.StatusCode)
		switch resp.StatusCode {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return unreachable(t.host, errors.New(text)) // a gateway before it
		}
		return &errNotBroker{text, "HTTP"}
	}
	refusal := &Error{Code: body.Error.Code, Message: body.Error.Message, RequestID: body.Error.RequestID, Retryable: body.Error.Retryable}
	if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil && refusal.Retryable {
		refusal.RetryAfter = time.Duration(seconds) * time.Second
	}
	return refusal
}

// withoutURL drops what net/http puts around an error, which repeats the URL.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}
