// Package minio exchanges at a MinIO server by AssumeRoleWithWebIdentity, with tokens of the broker's own issuer.
//
// No key of MinIO's exists here. MinIO's own check of tokens is weak when it was set up without a client secret, so the
// exchanger tests it (selftest.go) and exchanges nothing at a server that it hasn't seen to refuse a forged token.
package minio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
)

const (
	// sessionPolicyBytes is the largest `Policy` that MinIO takes, in bytes of compact JSON.
	sessionPolicyBytes = 2048
	// maxTTL is the longest life that MinIO gives (DurationSeconds, AssumeRoleWithWebIdentity).
	maxTTL = 365 * 24 * time.Hour
	// attempts bounds one exchange; the waits between them double from firstWait, each cut at random by up to half.
	attempts  = 4
	firstWait = 100 * time.Millisecond
	// expirySlack is for expiry times in whole seconds.
	expirySlack = time.Second
)

// Config configures an Exchanger.
type Config struct {
	// Endpoint is MinIO's S3 URL, without a path.
	Endpoint string
	// CAFile is a PEM file of the roots to trust for Endpoint; the system's if empty.
	CAFile string
	// ClientID is the client ID that MinIO is configured with: `aud` of the tokens.
	ClientID string
	// Tokens mints what is shown to MinIO.
	Tokens exchange.TokenSource
	// AllowedPolicies are the policy names that roles may ask for.
	AllowedPolicies []string
	// Timeout bounds one exchange with its retries.
	Timeout time.Duration
	Log     *slog.Logger
	// Observe is told of each exchange: ok, unavailable, refused, unsafe, bad_result, failed. Optional.
	Observe func(outcome string, took time.Duration)
}

// Exchanger is an exchange.Exchanger. Run must run for as long as it is used.
type Exchanger struct {
	cfg       Config
	transport *http.Transport
	breaker   breaker
	selfTest  selfTest
}

// New returns an exchanger for one MinIO. Nothing is sent yet.
func New(cfg Config) (*Exchanger, error) {
	transport, err := newTransport(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration) {}
	}
	return &Exchanger{cfg: cfg, transport: transport, selfTest: newSelfTest()}, nil
}

// Honours is what an exchanger with these allowed policies honours of a grant.
func Honours(allowedPolicies []string) policy.Backend {
	return policy.Backend{AllowedPolicies: slices.Clone(allowedPolicies), SessionPolicyBytes: sessionPolicyBytes, MaxTTL: maxTTL}
}

// Backend implements exchange.Exchanger.
func (x *Exchanger) Backend() policy.Backend { return Honours(x.cfg.AllowedPolicies) }

// Exchange implements exchange.Exchanger. The credentials live for Grant.TTL, cut to whole seconds.
func (x *Exchanger) Exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Timeout)
	defer cancel()
	c, err := x.exchange(ctx, req)
	x.cfg.Observe(outcome(err), time.Since(start))
	return c, err
}

func (x *Exchanger) exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	var lastErr error
	for attempt := range attempts {
		if attempt > 0 {
			wait := firstWait << (attempt - 1)
			wait -= time.Duration(rand.Int64N(int64(wait / 2)))
			select {
			case <-ctx.Done():
				return exchange.Credentials{}, lastErr
			case <-time.After(wait):
			}
		}
		c, err := x.attempt(ctx, req)
		if err == nil || !errors.Is(err, exchange.ErrUnavailable) {
			return c, err
		}
		lastErr = err
	}
	return exchange.Credentials{}, lastErr
}

// attempt is one exchange: the server is known to be safe, a token is minted, shown, and the result checked.
func (x *Exchanger) attempt(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	if !x.breaker.allow(time.Now()) {
		return exchange.Credentials{}, fmt.Errorf("%w: the breaker is open after failures in a row", exchange.ErrUnavailable)
	}
	c, err := x.once(ctx, req)
	unavailable := errors.Is(err, exchange.ErrUnavailable)
	x.breaker.done(!unavailable, time.Now())
	if unavailable {
		// It may come back as another server, or without its client secret.
		x.selfTest.forget()
	}
	return c, err
}

func (x *Exchanger) once(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	if err := x.ensureSafe(ctx); err != nil {
		return exchange.Credentials{}, err
	}
	expires := time.Now().Add(req.Grant.TTL)
	token, err := x.cfg.Tokens.Token(ctx, req, expires)
	if err != nil {
		return exchange.Credentials{}, err
	}
	c, failure := x.assumeRole(ctx, token, req.Grant.SessionPolicy, req.Correlation)
	if failure != nil {
		return exchange.Credentials{}, failure.asError()
	}
	switch now := time.Now(); {
	case c.AccessKeyID == "" || c.SecretAccessKey.IsZero() || c.SessionToken.IsZero():
		return exchange.Credentials{}, fmt.Errorf("%w: access key, secret key or session token is missing", exchange.ErrBadResult)
	case !c.Expires.After(now):
		return exchange.Credentials{}, fmt.Errorf("%w: it expired at %s", exchange.ErrBadResult, c.Expires.UTC().Format(time.RFC3339))
	case c.Expires.After(expires.Add(expirySlack)):
		return exchange.Credentials{}, fmt.Errorf("%w: it lives until %s, longer than the %s that were granted", exchange.ErrBadResult, c.Expires.UTC().Format(time.RFC3339), req.Grant.TTL)
	}
	return c, nil
}

// Status implements exchange.Exchanger.
func (x *Exchanger) Status() string { return x.selfTest.status() }

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, exchange.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, exchange.ErrRefused):
		return "refused"
	case errors.Is(err, exchange.ErrUnsafe):
		return "unsafe"
	case errors.Is(err, exchange.ErrBadResult):
		return "bad_result"
	}
	return "failed"
}
