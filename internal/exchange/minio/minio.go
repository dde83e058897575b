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

var (
	// errTimeout is the cause of a context that Config.Timeout ended, and not the caller.
	errTimeout = errors.New("MinIO did not answer in time")
	// errBreakerOpen means that nothing was sent.
	errBreakerOpen = fmt.Errorf("%w: nothing is sent for a moment, after failures in a row", exchange.ErrUnavailable)
	// errUnknownPolicies is MinIO's word that none of the token's policies exists. It says so of its built-in policies, too,
	// for a moment after its start.
	errUnknownPolicies = fmt.Errorf("%w: none of the policies exists there", exchange.ErrRefused)
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
	// Dangerous lets policies do more than handle objects and buckets: administer MinIO, or make keys that never end. Without
	// it every credential has a session policy.
	Dangerous bool
	// Timeout bounds one exchange with its retries.
	Timeout time.Duration
	// Log is told when the self-test's verdict changes; nothing is logged if nil.
	Log *slog.Logger
	// Observe is told of each exchange: ok, unavailable, refused, unsafe, bad_result, failed. Optional.
	Observe func(outcome string, took time.Duration)
}

// Exchanger is an exchange.Exchanger. Run must run for as long as it is used.
type Exchanger struct {
	cfg       Config
	transport *http.Transport
	contact   contact
	breaker   breaker
	selfTest  selfTest
}

// New returns an exchanger for one MinIO. Nothing is sent yet.
func New(cfg Config) (*Exchanger, error) {
	x := &Exchanger{selfTest: newSelfTest()}
	var err error
	if x.transport, err = newTransport(cfg.CAFile, &x.contact); err != nil {
		return nil, err
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	x.cfg = cfg
	return x, nil
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
	ctx, cancel := context.WithTimeoutCause(ctx, x.cfg.Timeout, errTimeout)
	defer cancel()
	c, err := x.exchange(ctx, req)
	x.cfg.Observe(outcome(err), time.Since(start))
	return c, err
}

// exchange attempts until one attempt settles it, or attempts or time are used up.
func (x *Exchanger) exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	var lastErr error
	for n := 0; n < attempts && pause(ctx, n); n++ {
		c, err := x.attempt(ctx, req)
		if !errors.Is(err, exchange.ErrUnavailable) && !errors.Is(err, errUnknownPolicies) {
			return c, err
		}
		if lastErr == nil || !errors.Is(err, errBreakerOpen) { // which tells less than what opened it
			lastErr = err
		}
	}
	if lastErr == nil {
		return exchange.Credentials{}, fmt.Errorf("the caller had left before the exchange: %w", ctx.Err())
	}
	if errors.Is(lastErr, errUnknownPolicies) && !x.selfTest.settled(time.Now()) {
		return exchange.Credentials{}, fmt.Errorf("%w: MinIO has just come back and doesn't know the policies yet: %s", exchange.ErrUnavailable, lastErr.Error())
	}
	return exchange.Credentials{}, lastErr
}

// pause waits before the nth attempt, from 0, and says whether there is still time for it.
func pause(ctx context.Context, n int) bool {
	if n == 0 {
		return ctx.Err() == nil
	}
	wait := firstWait << (n - 1)
	wait -= time.Duration(rand.Int64N(int64(wait / 2)))
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// attempt is one exchange that the breaker has a say in.
func (x *Exchanger) attempt(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	permit, ok := x.breaker.allow(time.Now())
	if !ok {
		return exchange.Credentials{}, errBreakerOpen
	}
	seen := noSign
	defer func() { permit.done(seen, time.Now()) }()
	c, err := x.once(ctx, req)
	switch {
	case !errors.Is(err, exchange.ErrUnavailable):
		seen = alive
	case callerLeft(ctx):
		return exchange.Credentials{}, fmt.Errorf("the caller gave up the exchange: %w", ctx.Err())
	default:
		seen = away
		// It may come back as another server, or without its client secret.
		x.selfTest.forget(time.Now())
	}
	return c, err
}

// callerLeft says whether it was the caller who ended ctx: then how the call went says nothing about MinIO.
func callerLeft(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout)
}

// once makes sure that the server is safe, mints a token, shows it, and checks what comes back.
func (x *Exchanger) once(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	if err := x.ensureSafe(ctx); err != nil {
		return exchange.Credentials{}, err
	}
	end := time.Now().Add(req.Grant.TTL)
	if req.Grant.WithinProof && end.After(req.Identity.Expires) { // time has gone by since the grant
		end = req.Identity.Expires
	}
	token, err := x.cfg.Tokens.Token(ctx, req, end)
	if err != nil {
		return exchange.Credentials{}, err
	}
	c, failure := x.assumeRole(ctx, token, x.boundary(req.Grant), req.Correlation)
	if failure != nil {
		return exchange.Credentials{}, failure.asError()
	}
	if err := check(c, end, time.Now()); err != nil {
		return exchange.Credentials{}, err
	}
	if x.selfTest.doubt(x.contact.times.Load()) {
		if err := x.ensureSafe(ctx); err != nil {
			return exchange.Credentials{}, err
		}
	}
	return c, nil
}

// check returns ErrBadResult unless c is a whole credential that lives now and, to the second, no longer than until end.
func check(c exchange.Credentials, end, now time.Time) error {
	switch {
	case !visible(c.AccessKeyID) || !visible(c.SecretAccessKey.Reveal()) || !visible(c.SessionToken.Reveal()):
		return fmt.Errorf("%w: access key, secret key or session token is missing, or isn't printable ASCII", exchange.ErrBadResult)
	case !c.Expires.After(now):
		return fmt.Errorf("%w: it expired at %s", exchange.ErrBadResult, c.Expires.UTC().Format(time.RFC3339))
	case c.Expires.After(end.Add(expirySlack)):
		return fmt.Errorf("%w: it lives until %s, but was granted until %s", exchange.ErrBadResult, c.Expires.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
	}
	return nil
}

// visible says whether s has characters, and only such as may stand in a header or an environment variable.
func visible(s string) bool {
	for _, b := range []byte(s) {
		if b <= ' ' || b > '~' {
			return false
		}
	}
	return s != ""
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
