package minio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
)

// errUnknownPolicies is MinIO's word that none of the token's policies exists. It says so of its built-in policies, too,
// for a moment after its start.
var errUnknownPolicies = fmt.Errorf("%w: none of the policies exists there", exchange.ErrRefused)

// WebIdentityConfig configures a WebIdentity.
type WebIdentityConfig struct {
	Server
	// ClientID is the client ID that MinIO is configured with: `aud` of the tokens.
	ClientID string
	// Tokens makes what is shown to MinIO.
	Tokens exchange.TokenSource
	// AllowedPolicies are the policy names that roles may ask for.
	AllowedPolicies []string
	// Dangerous lets policies do more than handle objects and buckets: administer MinIO, or make keys that never end. Without
	// it every credential has a session policy.
	Dangerous bool
	// Log is told when the self-test's verdict changes; nothing is logged if nil.
	Log *slog.Logger
}

// WebIdentity is an exchange.Exchanger by AssumeRoleWithWebIdentity. Run must run for as long as it is used.
//
// No key of MinIO's exists here. MinIO's own check of tokens is weak when it was set up without a client secret, so the
// exchanger tests it (selftest.go) and exchanges nothing at a server that it hasn't seen to refuse a forged token.
type WebIdentity struct {
	cfg       WebIdentityConfig
	transport *http.Transport
	attempts  *exchange.Attempts
	contact   contact
	selfTest  selfTest
}

// NewWebIdentity returns an exchanger for one MinIO. Nothing is sent yet.
func NewWebIdentity(cfg WebIdentityConfig) (*WebIdentity, error) {
	x := &WebIdentity{selfTest: newSelfTest()}
	var err error
	if x.transport, err = newTransport(cfg.CAFile, &x.contact); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	x.cfg = cfg
	x.attempts = exchange.NewAttempts(exchange.AttemptsConfig{
		Timeout: cfg.Timeout, Observe: cfg.Observe,
		Again: func(err error) bool { return errors.Is(err, errUnknownPolicies) },
		Away:  x.selfTest.forget, // it may come back as another server, or without its client secret
	})
	return x, nil
}

// WebIdentityHonours is what a WebIdentity with these allowed policies honours of a grant.
func WebIdentityHonours(allowedPolicies []string) policy.Backend {
	return policy.Backend{AllowedPolicies: slices.Clone(allowedPolicies), SessionPolicyBytes: sessionPolicyBytes, MaxTTL: maxTTL}
}

// CallerTokenHonours is what a WebIdentity honours that shows the callers' own tokens: those name the policies, and their end is the
// credentials'.
func CallerTokenHonours() policy.Backend {
	return policy.Backend{SessionPolicyBytes: sessionPolicyBytes, MaxTTL: maxTTL, NeedsSessionPolicy: true, EndsWithProof: true}
}

// Exchange implements exchange.Exchanger. The credentials live for Grant.TTL, cut to whole seconds.
func (x *WebIdentity) Exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	c, err := x.attempts.Exchange(ctx, func(ctx context.Context) (exchange.Credentials, error) { return x.once(ctx, req) })
	if errors.Is(err, errUnknownPolicies) && !x.selfTest.settled(time.Now()) {
		return exchange.Credentials{}, fmt.Errorf("%w: MinIO has just come back and doesn't know the policies yet: %s", exchange.ErrUnavailable, err.Error())
	}
	return c, err
}

// once makes sure that the server is safe, mints a token, shows it, and checks what comes back.
func (x *WebIdentity) once(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
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
	c, failure := x.show(ctx, token, boundary(req.Grant, x.cfg.Dangerous), req.Correlation)
	if failure != nil {
		return exchange.Credentials{}, failure.asError()
	}
	if err := exchange.Check(c, end, time.Now()); err != nil {
		return exchange.Credentials{}, err
	}
	if x.selfTest.doubt(x.contact.times.Load()) {
		if err := x.ensureSafe(ctx); err != nil {
			return exchange.Credentials{}, err
		}
	}
	return c, nil
}

// Status implements exchange.Exchanger.
func (x *WebIdentity) Status() string { return x.selfTest.status() }
