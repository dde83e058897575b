package credbroker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// waitMost bounds how long a caller waits when there are no valid credentials. It bridges a restart of the broker.
	waitMost = 15 * time.Second
	// firstPause and longestPause are between calls that fail; each pause is about twice the one before. A broker may ask for more,
	// up to mostAsked.
	firstPause   = 250 * time.Millisecond
	longestPause = 5 * time.Second
	mostAsked    = 5 * time.Minute
	// mostPatience takes longestPause's place where trying again soon is no use.
	mostPatience = 30 * time.Second
	// lastMoment is how long before their end credentials are no longer given out.
	lastMoment = time.Second
	// fewRenewals is how many different wants cost nothing to remember.
	fewRenewals = 64
)

// renewal keeps the credentials of one want. It has no goroutine of its own: callers start each call to the broker, one at a time.
type renewal struct {
	client *Client
	want   want

	mu      sync.Mutex
	held    Credentials   // zero before the first
	ends    time.Time     // when held is no longer given out
	renewAt time.Time     // when held should be replaced
	flight  chan struct{} // closed when the call under way ends; nil if there is none
	// What became of the last call, if it failed.
	err      error
	failures int
	retryAt  time.Time // no call before
}

// current returns valid credentials of w, and when to ask for them again; that is never after their end.
func (c *Client) current(ctx context.Context, w want) (got Credentials, again time.Time, err error) {
	if err := w.check(); err != nil {
		return Credentials{}, time.Time{}, err
	}
	r, err := c.renewal(w)
	if err != nil {
		return Credentials{}, time.Time{}, err
	}
	return r.current(ctx)
}

// renewal returns the one renewal of w.
func (c *Client) renewal(w want) (*renewal, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if r, ok := c.renewals[w]; ok {
		return r, nil
	}
	// A program that makes policies as it goes leaves many behind. Dropping those that hold nothing loses nothing.
	if len(c.renewals) >= c.sweepAt {
		now := time.Now()
		for w, r := range c.renewals {
			if r.idle(now) {
				delete(c.renewals, w)
			}
		}
		c.sweepAt = max(fewRenewals, 2*len(c.renewals))
	}
	r := &renewal{client: c, want: w}
	c.renewals[w] = r
	return r, nil
}

// idle says whether the renewal could as well be forgotten.
func (r *renewal) idle(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flight == nil && !now.Before(r.ends) && !now.Before(r.retryAt)
}

// current returns at once if there are valid credentials, and otherwise waits for a call that gets some.
func (r *renewal) current(ctx context.Context) (got Credentials, again time.Time, err error) {
	var deadline <-chan time.Time // runs once there is something to wait for
	for {
		flight, pause, err := r.look(&got, &again)
		if err != nil || !again.IsZero() {
			return got, again, err
		}
		if deadline == nil {
			timer := time.NewTimer(waitMost)
			defer timer.Stop()
			deadline = timer.C
		}
		select {
		case <-flight:
		case <-pause:
		case <-r.client.ctx.Done():
			return Credentials{}, time.Time{}, ErrClosed
		case <-ctx.Done():
			return Credentials{}, time.Time{}, r.none(context.Cause(ctx))
		case <-deadline:
			return Credentials{}, time.Time{}, r.none(nil)
		}
	}
}

// look starts a call to the broker if it is time for one. It then sets got and again if there are valid credentials; else it
// returns what to wait for - the call under way, or the time when the next may start - or why waiting is no use.
func (r *renewal) look(got *Credentials, again *time.Time) (flight <-chan struct{}, pause <-chan time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	// Either may come first: clocks are set, and machines sleep.
	due := !now.Before(r.renewAt) || !now.Before(r.ends)
	if r.flight == nil && due && !now.Before(r.retryAt) && !r.start() {
		return nil, nil, ErrClosed
	}
	if now.Before(r.ends) {
		// If it is time already, the new ones are some milliseconds away.
		*got, *again = r.held, earlier(r.ends, later(r.renewAt, now.Add(time.Second)))
		return nil, nil, nil
	}
	if r.flight != nil {
		return r.flight, nil, nil
	}
	if worthwhile, _ := retryable(r.err); !worthwhile {
		return nil, nil, r.noneLocked(nil)
	}
	return nil, time.After(r.retryAt.Sub(now)), nil
}

// start starts a call to the broker; it says no if the client is closed. The caller holds r.mu.
func (r *renewal) start() bool {
	c := r.client
	if !c.begin() {
		return false
	}
	r.flight = make(chan struct{})
	go func() {
		defer c.underWay.Done()
		got, err := c.issue(c.ctx, r.want) // no caller's context: they share the result
		r.mu.Lock()
		defer r.mu.Unlock()
		close(r.flight)
		r.flight = nil
		if err != nil {
			r.failed(err, time.Now())
		} else {
			r.renewed(got, time.Now())
		}
	}()
	return true
}

// renewed keeps what the broker gave and plans the next renewal.
func (r *renewal) renewed(got Credentials, now time.Time) {
	life := got.Expires.Sub(now)
	if got.AccessKeyID != r.held.AccessKeyID {
		r.renewAt = now.Add(time.Duration(float64(life) * (0.7 + 0.1*rand.Float64())))
	} else {
		// The broker's cache holds them still, and may be about to replace them.
		r.renewAt = earlier(got.Expires, now.Add(min(max(life/4, time.Second), mostPatience)))
	}
	// What is signed in the last moment arrives too late.
	r.ends = got.Expires.Add(-min(lastMoment, life/10))
	r.renewAt = r.renewAt.Round(0) // by the wall clock, as the expiry
	r.held, r.err, r.failures, r.retryAt = got, nil, 0, time.Time{}
}

// failed plans the next try. What must change first, at the broker or here, is asked for less often than what may pass by itself.
func (r *renewal) failed(err error, now time.Time) {
	worthwhile, asked := retryable(err)
	longest := mostPatience
	if worthwhile {
		longest = longestPause
	}
	pause := min(firstPause<<min(r.failures, 16), longest)
	pause = pause*3/4 + rand.N(pause/4)
	r.err, r.failures, r.retryAt = err, r.failures+1, now.Add(max(pause, min(asked, mostAsked)))
}

// none is the error of a caller that gets no credentials; why is its own reason to give up, if it has one.
func (r *renewal) none(why error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.noneLocked(why)
}

func (r *renewal) noneLocked(why error) error {
	text := fmt.Sprintf("no credentials of the role %q", r.want.role)
	if !r.held.Expires.IsZero() {
		text = fmt.Sprintf("the credentials of the role %q ended at %s and were not renewed", r.want.role, r.held.Expires.UTC().Format(time.RFC3339))
	}
	switch {
	case why != nil && r.err != nil:
		return fmt.Errorf("%s: %w; the broker's part in it: %w", text, why, r.err)
	case why != nil:
		return fmt.Errorf("%s: %w", text, why)
	case r.err != nil:
		return fmt.Errorf("%s: %w", text, r.err)
	}
	return fmt.Errorf("%s: the broker %w: no answer within %s", text, ErrUnreachable, waitMost)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
