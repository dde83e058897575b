package minio

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

// maxAnswer bounds a response of MinIO's STS; a real one has about 2 KiB.
const maxAnswer = 64 << 10

// errTooLarge is for a body beyond maxAnswer.
var errTooLarge = fmt.Errorf("answer larger than %d bytes", maxAnswer)

// failure is why a call of the STS brought no credentials.
type failure struct {
	status  int    // HTTP status; 0 if there was no answer
	code    string // of the STS error document
	message string
	err     error
}

// asError sorts a failure into package exchange's errors.
func (f *failure) asError() error {
	switch {
	case f.later():
		return fmt.Errorf("%w: %s", exchange.ErrUnavailable, f)
	case f.lacksKeys():
		return fmt.Errorf("%w: MinIO can't read the broker's keys: %s", exchange.ErrUnavailable, f)
	case f.unknownPolicies():
		return fmt.Errorf("%w: %s", errUnknownPolicies, f)
	case f.status >= 400:
		return fmt.Errorf("%w: %s", exchange.ErrRefused, f)
	default: // 200 with nonsense, or a redirect, which isn't followed
		return fmt.Errorf("%w: %s", exchange.ErrBadResult, f)
	}
}

// later: there was no answer, or it was "not now".
func (f *failure) later() bool {
	return f.status == 0 || f.status >= 500 || f.status == http.StatusTooManyRequests
}

// unknownPolicies: the token holds, and MinIO has none of the policies in it.
func (f *failure) unknownPolicies() bool {
	return f.status >= 400 && strings.HasPrefix(f.message, "None of the given policies")
}

// lacksKeys: MinIO wanted to read the issuer's keys, as it does whenever a token doesn't hold under those it has, and could
// not. What it then says is its HTTP client's error, or the status line it got, and nothing of its own.
func (f *failure) lacksKeys() bool {
	if f.status < 400 {
		return false
	}
	word, _, _ := strings.Cut(f.message, " ")
	status, err := strconv.Atoi(word)
	return strings.HasPrefix(f.message, `Get "`) || err == nil && http.StatusText(status) != ""
}

func (f *failure) String() string {
	switch {
	case f.code != "":
		return fmt.Sprintf("HTTP %d %q %q", f.status, clip(f.code), clip(f.message))
	case f.status != 0:
		return fmt.Sprintf("HTTP %d: %s", f.status, clip(f.err.Error()))
	default:
		return clip(f.err.Error())
	}
}

// show calls AssumeRoleWithWebIdentity once. No DurationSeconds is sent: with one, MinIO's credentials may outlive the
// token; without, they end with it.
func (x *WebIdentity) show(ctx context.Context, token secret.Secret, sessionPolicy string, corr exchange.Correlation) (exchange.Credentials, *failure) {
	provider, err := credentials.NewSTSWebIdentity(x.cfg.Endpoint,
		func() (*credentials.WebIdentityToken, error) {
			return &credentials.WebIdentityToken{Token: token.Reveal()}, nil
		}, credentials.WithPolicy(sessionPolicy))
	if err != nil {
		return exchange.Credentials{}, &failure{err: err}
	}
	return ask(ctx, provider, x.transport, corr, token)
}

// ask makes one call. Shown is what must not get into an error, though the server may repeat it.
func ask(ctx context.Context, provider *credentials.Credentials, transport http.RoundTripper, corr exchange.Correlation, shown secret.Secret) (exchange.Credentials, *failure) {
	trip := &roundTrip{base: transport, correlation: corr}
	client := &http.Client{
		Transport:     trip,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	v, err := provider.GetWithContext(&credentials.CredContext{Client: client, Context: ctx})
	if err != nil {
		return exchange.Credentials{}, trip.failure(err, shown)
	}
	return exchange.Credentials{
		AccessKeyID:     v.AccessKeyID,
		SecretAccessKey: secret.New(v.SecretAccessKey),
		SessionToken:    secret.New(v.SessionToken),
		Expires:         v.Expiration,
	}, nil
}

// roundTrip carries one call: it adds the headers that tie logs together, bounds the answer and notes how it went, which the
// client library doesn't tell.
type roundTrip struct {
	base        http.RoundTripper
	correlation exchange.Correlation
	status      int
	body        *boundedBody
}

// RoundTrip implements http.RoundTripper.
func (t *roundTrip) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", "credbroker")
	for name, value := range map[string]string{
		"X-Request-Id":      t.correlation.RequestID,
		"X-Kong-Request-Id": t.correlation.KongRequestID,
		"traceparent":       t.correlation.TraceParent,
	} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	t.status = resp.StatusCode
	t.body = &boundedBody{ReadCloser: resp.Body, left: maxAnswer}
	resp.Body = t.body
	return resp, nil
}

// failure describes err. Neither a URL nor what was shown gets into it.
func (t *roundTrip) failure(err error, shown secret.Secret) *failure {
	f := &failure{status: t.status}
	if doc, ok := errors.AsType[credentials.ErrorResponse](err); ok {
		f.code, f.message = doc.STSError.Code, doc.STSError.Message
		if !shown.IsZero() && strings.Contains(f.code+f.message, shown.Reveal()) {
			f.code, f.message = secret.Redacted, secret.Redacted
		}
		f.err = errors.New(f.code)
		return f
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	f.err = errors.New("the answer isn't an STS document")
	switch {
	case t.body != nil && errors.Is(t.body.err, errTooLarge):
		f.err = errTooLarge
	case t.body != nil && t.body.err != nil: // the connection broke while the answer came
		f.status, f.err = 0, t.body.err
	case t.status == 0:
		f.err = err
	}
	return f
}

// boundedBody ends with errTooLarge instead of going on for ever.
type boundedBody struct {
	io.ReadCloser
	left int
	err  error // what ended it, but for io.EOF
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		b.err = errTooLarge
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

func newTransport(caFile string, c *contact) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                  nil, // the token goes to MinIO and nowhere else
		DialContext:            c.count((&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext),
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    2 * time.Second,
		MaxIdleConnsPerHost:    64,
		MaxConnsPerHost:        256,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", caFile)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

// clip bounds words of the server's in a log line.
func clip(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
