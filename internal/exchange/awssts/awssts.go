// Package awssts exchanges at AWS STS, for S3 itself beside MinIO: by AssumeRole with credentials that the broker's own platform gives it,
// or by AssumeRoleWithWebIdentity with a token of the broker's own issuer.
package awssts

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

const (
	// sessionPolicyBytes is the largest Policy, in bytes of plain text. AWS also bounds what it comes to packed, together with tags.
	sessionPolicyBytes = 2048
	// minDuration and maxDuration bound DurationSeconds; a role's own maximum may be less.
	minDuration = 15 * time.Minute
	maxDuration = 12 * time.Hour
	// maxAnswer bounds a response; a real one has about 2 KiB.
	maxAnswer = 64 << 10
	// proofMargin keeps credentials that must end within the proof from outliving it by the time that a call takes.
	proofMargin = 2 * time.Second
	// Audience is the `aud` of tokens for AWS, unless its identity provider lists another one.
	Audience = "sts.amazonaws.com"
)

// Config configures an Exchanger.
type Config struct {
	// RoleARN is the role of AWS to assume.
	RoleARN string
	// Region is whose endpoint is asked; Endpoint is another one of that region, as of a VPC, or empty.
	Region, Endpoint string
	// CAFile is a PEM file of the roots to trust for the endpoint; the system's if empty.
	CAFile string
	// Timeout bounds one exchange with its retries.
	Timeout time.Duration
	// Observe is told of each exchange. Optional.
	Observe func(outcome string, took time.Duration)

	// Credentials are the broker's own, which AssumeRole is signed with; nil to show a token.
	Credentials aws.CredentialsProvider
	// ExternalID is what the role's trust policy wants to hear; empty if nothing. SourceIdentity sets the caller as source identity.
	// With Credentials alone.
	ExternalID     string
	SourceIdentity bool

	// Tokens makes what AssumeRoleWithWebIdentity shows; nil with Credentials.
	Tokens exchange.TokenSource
}

// Exchanger is an exchange.Exchanger. Run must run for as long as it is used.
type Exchanger struct {
	cfg       Config
	client    *sts.Client
	transport *http.Transport
	attempts  *exchange.Attempts
}

// New returns an exchanger for one role of AWS. Nothing is sent yet.
func New(cfg Config) (*Exchanger, error) {
	if (cfg.Credentials == nil) == (cfg.Tokens == nil) {
		return nil, errors.New("either credentials or tokens are needed")
	}
	transport := &http.Transport{
		Proxy:                  nil, // tokens and signatures go to STS and nowhere else
		DialContext:            (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    2 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    64,
		MaxConnsPerHost:        256,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", cfg.CAFile)
		}
	}
	options := sts.Options{
		Region: cfg.Region, Credentials: cfg.Credentials, Retryer: aws.NopRetryer{}, // Attempts retries
		HTTPClient: &http.Client{
			Transport:     bounded{transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if cfg.Endpoint != "" {
		options.BaseEndpoint = aws.String(cfg.Endpoint)
	}
	return &Exchanger{
		cfg: cfg, transport: transport, client: sts.New(options),
		attempts: exchange.NewAttempts(exchange.AttemptsConfig{Timeout: cfg.Timeout, Observe: cfg.Observe}),
	}, nil
}

// AssumeRoleHonours is what an exchanger by AssumeRole honours of a grant, and WebIdentityHonours one by AssumeRoleWithWebIdentity. What a
// session may do is what the role of AWS may, cut by the session policy.
func AssumeRoleHonours() policy.Backend {
	b := WebIdentityHonours()
	b.SessionTags = true
	return b
}

// WebIdentityHonours is as AssumeRoleHonours says.
func WebIdentityHonours() policy.Backend {
	return policy.Backend{SessionPolicyBytes: sessionPolicyBytes, MinTTL: minDuration, MaxTTL: maxDuration}
}

// Status implements exchange.Exchanger.
func (x *Exchanger) Status() string { return x.attempts.Status() }

// Run closes the connections when ctx ends.
func (x *Exchanger) Run(ctx context.Context) {
	<-ctx.Done()
	x.transport.CloseIdleConnections()
}

// Exchange implements exchange.Exchanger.
func (x *Exchanger) Exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	return x.attempts.Exchange(ctx, func(ctx context.Context) (exchange.Credentials, error) {
		now := time.Now()
		d := req.Grant.TTL
		if req.Grant.WithinProof {
			d = min(d, req.Identity.Expires.Sub(now)-proofMargin)
		}
		if d = d.Truncate(time.Second); d < minDuration {
			return exchange.Credentials{}, fmt.Errorf("%w: %s are left, AWS grants no less than %s", exchange.ErrRefused, d, minDuration)
		}
		var given *types.Credentials
		var err error
		if x.cfg.Tokens != nil {
			given, err = x.show(ctx, req, d)
		} else {
			given, err = x.assume(ctx, req, d)
		}
		if err != nil {
			return exchange.Credentials{}, err
		}
		if given == nil || given.Expiration == nil {
			return exchange.Credentials{}, fmt.Errorf("%w: the answer has no credentials with an end", exchange.ErrBadResult)
		}
		c := exchange.Credentials{
			AccessKeyID: aws.ToString(given.AccessKeyId), SecretAccessKey: secret.New(aws.ToString(given.SecretAccessKey)),
			SessionToken: secret.New(aws.ToString(given.SessionToken)), Expires: *given.Expiration,
		}
		return c, exchange.Check(c, time.Now().Add(d), time.Now())
	})
}

// assume calls AssumeRole once (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html).
func (x *Exchanger) assume(ctx context.Context, req exchange.Request, d time.Duration) (*types.Credentials, error) {
	name := sessionName(&req.Identity)
	in := &sts.AssumeRoleInput{
		RoleArn: aws.String(x.cfg.RoleARN), RoleSessionName: aws.String(name), DurationSeconds: aws.Int32(int32(d / time.Second)),
		Policy: optional(req.Grant.SessionPolicy), ExternalId: optional(x.cfg.ExternalID),
	}
	if x.cfg.SourceIdentity {
		in.SourceIdentity = aws.String(name)
	}
	for _, tag := range req.Grant.SessionTags {
		in.Tags = append(in.Tags, types.Tag{Key: aws.String(tag.Key), Value: aws.String(tag.Value)})
	}
	out, err := x.client.AssumeRole(ctx, in)
	if err != nil {
		return nil, sorted(err, secret.Secret{})
	}
	return out.Credentials, nil
}

// show calls AssumeRoleWithWebIdentity once
// (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html).
func (x *Exchanger) show(ctx context.Context, req exchange.Request, d time.Duration) (*types.Credentials, error) {
	token, err := x.cfg.Tokens.Token(ctx, req, time.Now().Add(d))
	if err != nil {
		return nil, err
	}
	out, err := x.client.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String(x.cfg.RoleARN), RoleSessionName: aws.String(sessionName(&req.Identity)), WebIdentityToken: aws.String(token.Reveal()),
		DurationSeconds: aws.Int32(int32(d / time.Second)), Policy: optional(req.Grant.SessionPolicy),
	})
	if err != nil {
		return nil, sorted(err, token)
	}
	return out.Credentials, nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// sessionName says who a session is for, in CloudTrail and in the session's ARN: what AWS takes of the subject there (2 to 64 of A-Z a-z 0-9 _ + = ,
// . @ -), and what tells apart those that come to the same, as equal subjects of two issuers do.
func sessionName(id *attest.Identity) string {
	readable := strings.Map(func(r rune) rune {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("_+=,.@-", r)) {
			return r
		}
		return '_'
	}, id.Subject)
	h := sha256.New()
	for who := id; who != nil; who = who.Actor {
		for _, part := range []string{string(who.Kind), who.Issuer, who.Tenant, who.Subject} {
			fmt.Fprintf(h, "%d:%s", len(part), part)
		}
	}
	digest := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:10])
	return readable[:min(len(readable), 64-1-len(digest))] + "-" + digest
}

// later are the codes of STS that another attempt may not get.
var later = map[string]bool{
	"Throttling": true, "ThrottlingException": true, "RequestLimitExceeded": true, "TooManyRequestsException": true, "ServiceUnavailable": true,
	"InternalFailure": true, "InternalError": true, "IDPCommunicationError": true, "RequestTimeout": true,
}

// sorted sorts an error of the SDK into package exchange's. Of the SDK's own text only the code and what STS says get into it, and not what was
// shown.
func sorted(err error, shown secret.Secret) error {
	kind := exchange.ErrUnavailable
	text := "STS can't be reached, or its answer isn't one"
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		text = fmt.Sprintf("%q %q", clip(api.ErrorCode()), clip(api.ErrorMessage()))
		if !later[api.ErrorCode()] {
			kind = exchange.ErrRefused
		}
	}
	if resp, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status := resp.HTTPStatusCode()
		text = fmt.Sprintf("HTTP %d %s", status, text)
		switch {
		case status >= 500 || status == http.StatusTooManyRequests:
			kind = exchange.ErrUnavailable
		case status >= 200 && status < 400:
			kind = exchange.ErrBadResult
		}
	} else if op, ok := errors.AsType[*net.OpError](err); ok {
		text = op.Error()
	}
	if signing, ok := errors.AsType[*smithy.OperationError](err); ok && strings.Contains(signing.Err.Error(), "get credentials") {
		kind, text = exchange.ErrUnavailable, "the broker has no credentials of AWS: "+clip(signing.Err.Error())
	}
	if !shown.IsZero() && strings.Contains(text, shown.Reveal()) {
		text = secret.Redacted
	}
	return fmt.Errorf("%w: %s", kind, text)
}

// clip bounds words of the server's in a log line.
func clip(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// bounded bounds answers.
type bounded struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.base.RoundTrip(req)
	if err == nil {
		resp.Body = &body{ReadCloser: resp.Body, left: maxAnswer}
	}
	return resp, err
}

type body struct {
	io.ReadCloser
	left int
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("answer larger than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
