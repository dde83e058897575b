package vault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	// retries bounds how often a request that Vault didn't begin with is repeated; the waits between double from firstWait, each cut at
	// random by up to half.
	retries   = 3
	firstWait = 100 * time.Millisecond
)

var (
	// errTimeout is the cause of a context that Config.Timeout ended, and not the caller.
	errTimeout = errors.New("no answer of Vault in time")
	// errNotBegun is for what Vault has surely not begun with: it can be repeated without a lease too many.
	errNotBegun = fmt.Errorf("%w: not begun", ErrUnavailable)
	// errForbidden is for what its policies forbid, or a token that it doesn't know.
	errForbidden = fmt.Errorf("%w: permission denied", ErrRefused)
	// errBreakerOpen means that nothing was sent.
	errBreakerOpen = fmt.Errorf("%w: nothing is sent for a moment, after failures in a row", ErrUnavailable)
)

// sort sorts an error of the library into this package's. No token gets into it: Vault repeats none, and the library's errors hold the
// URL, whose path and query are the configuration's.
func sort(ctx context.Context, call Call, err error) error {
	verb := "read"
	if call.Write {
		verb = "write"
	}
	said, ok := errors.AsType[*api.ResponseError](err)
	if !ok {
		if ctx.Err() != nil {
			if cause := context.Cause(ctx); errors.Is(cause, errTimeout) {
				err = cause
			}
			return fmt.Errorf("%w: %s %s: %w", ErrUnavailable, verb, call.Path, err)
		}
		if wrapped, is := errors.AsType[*url.Error](err); is {
			err = wrapped.Err
		}
		kind := ErrUnavailable
		if op, is := errors.AsType[*net.OpError](err); errors.Is(err, syscall.ECONNREFUSED) || is && op.Op == "dial" {
			kind = errNotBegun
		}
		return fmt.Errorf("%w: %s %s: %s", kind, verb, call.Path, clip(err.Error()))
	}
	kind := ErrRefused
	switch {
	case said.StatusCode == http.StatusForbidden:
		kind = errForbidden
	case said.StatusCode == http.StatusServiceUnavailable || said.StatusCode == http.StatusTooManyRequests || said.StatusCode == http.StatusPreconditionFailed:
		kind = errNotBegun // sealed or without an active node, beyond a quota, behind what was just written
	case said.StatusCode >= 500:
		kind = ErrUnavailable
	}
	return fmt.Errorf("%w: %s %s: HTTP %d %q", kind, verb, call.Path, said.StatusCode, clip(strings.Join(said.Errors, "; ")))
}

// pause waits after the nth attempt, from 0, and says whether there is still time for another.
func pause(ctx context.Context, n int) bool {
	wait := firstWait << n
	wait -= time.Duration(rand.Int64N(int64(wait / 2)))
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= wait {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// callerLeft says whether it was the caller who ended ctx: then how the call went says nothing about Vault.
func callerLeft(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimeout)
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	case errors.Is(err, ErrRefused):
		return "refused"
	}
	return "failed"
}

// clip bounds words of the server's in a log line.
func clip(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
