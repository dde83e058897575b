package exchange

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/breaker"
)

const (
	// attempts bounds one exchange; the waits between them double from firstWait, each cut at random by up to half.
	attempts  = 4
	firstWait = 100 * time.Millisecond
	// expirySlack is for expiry times in whole seconds.
	expirySlack = time.Second
	// maxCause bounds what Status repeats of an error, in bytes.
	maxCause = 300
)

var (
	// errTimeout is the cause of a context that WithTimeout ended, and not the caller.
	errTimeout = errors.New("the back-end did not answer in time")
	// errBreakerOpen means that nothing was sent.
	errBreakerOpen = fmt.Errorf("%w: nothing is sent for a moment, after failures in a row", ErrUnavailable)
)

// AttemptsConfig configures Attempts.
type AttemptsConfig struct {
	// Timeout bounds one exchange with its retries. Required.
	Timeout time.Duration
	// Again says which errors besides ErrUnavailable are worth another attempt; none if nil.
	Again func(error) bool
	// Away is told when an attempt found the back-end away. Optional.
	Away func(now time.Time)
	// Observe is told of each exchange: ok, unavailable, refused, unsafe, bad_result, failed. Optional.
	Observe func(outcome string, took time.Duration)
}

// Attempts makes an exchange of single attempts at a back-end that may be away: retried with pauses, bounded in number and time,
// and not sent at all while the last ones failed in a row. It is safe for concurrent use.
type Attempts struct {
	cfg     AttemptsConfig
	breaker breaker.Breaker

	mu    sync.Mutex
	cause string // of the last failure; empty after a success
}

// NewAttempts returns the attempts at one back-end.
func NewAttempts(cfg AttemptsConfig) *Attempts {
	if cfg.Again == nil {
		cfg.Again = func(error) bool { return false }
	}
	if cfg.Away == nil {
		cfg.Away = func(time.Time) {}
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration) {}
	}
	return &Attempts{cfg: cfg}
}

// Exchange calls once until one attempt settles it, or attempts or time are used up. Its errors are those of once, which are
// those of [Exchanger.Exchange].
func (a *Attempts) Exchange(ctx context.Context, once func(context.Context) (Credentials, error)) (Credentials, error) {
	start := time.Now()
	ctx, cancel := WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	c, err := a.exchange(ctx, once)
	a.cfg.Observe(Outcome(err), time.Since(start))
	return c, err
}

func (a *Attempts) exchange(ctx context.Context, once func(context.Context) (Credentials, error)) (Credentials, error) {
	var last error
	for n := 0; n < attempts && pause(ctx, n); n++ {
		c, err := a.attempt(ctx, once)
		if !errors.Is(err, ErrUnavailable) && (err == nil || !a.cfg.Again(err)) {
			return c, err
		}
		if last == nil || !errors.Is(err, errBreakerOpen) { // which tells less than what opened it
			last = err
		}
	}
	if last == nil {
		return Credentials{}, fmt.Errorf("the caller had left before the exchange: %w", ctx.Err())
	}
	return Credentials{}, last
}

// attempt is one that the breaker has a say in.
func (a *Attempts) attempt(ctx context.Context, once func(context.Context) (Credentials, error)) (Credentials, error) {
	permit, ok := a.breaker.Allow(time.Now())
	if !ok {
		return Credentials{}, errBreakerOpen
	}
	seen := breaker.NoSign
	defer func() { permit.Done(seen, time.Now()) }()
	c, err := once(ctx)
	switch {
	case !errors.Is(err, ErrUnavailable):
		seen = breaker.Alive
		a.note("")
	case CallerLeft(ctx):
		return Credentials{}, fmt.Errorf("the caller gave up the exchange: %w", ctx.Err())
	default:
		seen = breaker.Away
		a.note(err.Error())
		a.cfg.Away(time.Now())
	}
	return c, err
}

func (a *Attempts) note(cause string) {
	if len(cause) > maxCause {
		cause = cause[:maxCause] + "..."
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cause = cause
}

// Status tells in one line why the last attempt failed; empty if it didn't.
func (a *Attempts) Status() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cause
}

// WithTimeout is context.WithTimeout, after which CallerLeft tells who ended the context.
func WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, errTimeout)
}

// CallerLeft says whether it was the caller who ended ctx: then how the call went says nothing about the back-end.
func CallerLeft(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout)
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

// Check returns ErrBadResult unless c is a whole credential that lives now and, to the second, no longer than until end.
func Check(c Credentials, end, now time.Time) error {
	switch {
	case !visible(c.AccessKeyID) || !visible(c.SecretAccessKey.Reveal()) || !visible(c.SessionToken.Reveal()):
		return fmt.Errorf("%w: access key, secret key or session token is missing, or isn't printable ASCII", ErrBadResult)
	case !c.Expires.After(now):
		return fmt.Errorf("%w: it expired at %s", ErrBadResult, c.Expires.UTC().Format(time.RFC3339))
	case c.Expires.After(end.Add(expirySlack)):
		return fmt.Errorf("%w: it lives until %s, but was granted until %s", ErrBadResult, c.Expires.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
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
