package vault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/secret"
)

const (
	// loginAgain is how soon a login is tried again, doubled with each failure up to loginAtMost, each cut at random by up to half.
	loginAgain  = 250 * time.Millisecond
	loginAtMost = 5 * time.Second
	// fileEvery is how often a token file is looked at.
	fileEvery = time.Second
	// checkEvery is the least time between two questions whether Vault still knows a token.
	checkEvery = time.Second
	// lostEvery is the least time between two logins in place of tokens that Vault doesn't know.
	lostEvery = 10 * time.Second
	// firstLogin is how long a call waits at most for the first login.
	firstLogin = 2 * time.Second
	// revokeTimeout bounds the revocation of a token.
	revokeTimeout = 2 * time.Second
)

// session is a token of Vault's. Only its end moves.
type session struct {
	token     secret.Secret
	renewable bool
	life      time.Duration // as it was given; 0 for a token without an end
	foreign   bool          // somebody else's: neither renewed nor revoked

	mu   sync.Mutex
	ends time.Time // zero for never
	held time.Time // until when what it leased lives
}

func (s *session) end() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ends
}

func (s *session) extend(ends time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = ends
}

func (s *session) hold(until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.After(s.held) {
		s.held = until
	}
}

// free says whether nothing would be lost with the token.
func (s *session) free(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.foreign && !s.held.After(now)
}

func (s *session) ended(now time.Time) bool {
	end := s.end()
	return !end.IsZero() && !now.Before(end)
}

// next is when to renew: at two thirds of what is left, but for some hundredths by chance, so that replicas that started together
// don't ask together.
func (s *session) next(now time.Time) time.Duration {
	end := s.end()
	if end.IsZero() {
		return time.Hour
	}
	left := end.Sub(now)
	return max(left*2/3-time.Duration(rand.Int64N(int64(max(left/20, 1)))), 50*time.Millisecond)
}

// Run keeps a token until ctx ends, and then revokes it, unless what it leased is still in somebody's hands: then it ends by itself.
func (c *Client) Run(ctx context.Context) {
	defer c.transport.base.CloseIdleConnections()
	for ctx.Err() == nil {
		s, ok := c.loginUntil(ctx)
		if !ok {
			break
		}
		former := c.current.Swap(s)
		c.say("")
		c.retire(ctx, former)
		c.keep(ctx, s)
	}
	c.retire(context.WithoutCancel(ctx), c.current.Swap(nil))
}

// loginUntil logs in as often as it takes.
func (c *Client) loginUntil(ctx context.Context) (*session, bool) {
	for n := 0; ; n++ {
		s, err := c.login(ctx)
		if err == nil {
			return s, true
		}
		if ctx.Err() != nil {
			return nil, false
		}
		c.say("not logged in: " + err.Error())
		if former := c.current.Load(); former != nil && former.ended(time.Now()) {
			c.current.CompareAndSwap(former, nil)
		}
		wait := min(loginAgain<<min(n, 10), loginAtMost)
		wait -= time.Duration(rand.Int64N(int64(wait / 2)))
		select {
		case <-ctx.Done():
			return nil, false
		case <-time.After(wait):
		}
	}
}

func (c *Client) login(ctx context.Context) (*session, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, errTimeout)
	defer cancel()
	s, err := c.cfg.Login.login(ctx, c)
	c.cfg.Observe("login", outcome(err), time.Since(start))
	if err != nil {
		c.cfg.Log.Warn("no login to Vault", "error", err.Error())
		return nil, err
	}
	c.cfg.Log.Info("logged in to Vault", "ends", s.end(), "renewable", s.renewable)
	return s, nil
}

// logIn shows fields to an auth method, at auth/MOUNT/PATH.
func (c *Client) logIn(ctx context.Context, mount, path string, fields map[string]any) (*session, error) {
	asked := time.Now()
	a, err := c.send(ctx, nil, Call{Write: true, Path: "auth/" + mount + "/" + path, Body: fields})
	if err != nil {
		return nil, err
	}
	if a.auth == nil || !printable(secret.New(a.auth.ClientToken)) {
		return nil, fmt.Errorf("%w: the login gave no token", ErrRefused)
	}
	s := &session{token: secret.New(a.auth.ClientToken), renewable: a.auth.Renewable, life: time.Duration(a.auth.LeaseDuration) * time.Second}
	if s.life > 0 {
		s.ends = asked.Add(s.life)
	}
	return s, nil
}

// keep renews a token, and returns when there has to be another.
func (c *Client) keep(ctx context.Context, s *session) {
	wait := s.next(time.Now())
	if s.foreign {
		wait = fileEvery
	}
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case lost := <-c.dead:
			if lost == s {
				c.cfg.Log.Warn("Vault knows the broker's token no more")
				return
			}
			continue
		case <-time.After(wait):
		}
		if s.foreign {
			if c.replaced(s) {
				return
			}
			continue
		}
		if !s.renewable {
			return
		}
		err := c.renew(ctx, s)
		if err == nil {
			c.say("")
			if time.Until(s.end()) < s.life*2/3 { // it is at the end of what Vault renews it to
				return
			}
			failures, wait = 0, s.next(time.Now())
			continue
		}
		c.say("the token is not renewed: " + err.Error())
		if errors.Is(err, ErrRefused) || s.ended(time.Now()) {
			return
		}
		wait = min(loginAgain<<min(failures, 10), loginAtMost, max(time.Until(s.end()), loginAgain))
		failures++
	}
}

// replaced says whether the token file holds another token than s.
func (c *Client) replaced(s *session) bool {
	file, ok := c.cfg.Login.(TokenFile)
	if !ok {
		return false
	}
	token, err := file.read()
	if err != nil {
		c.say(err.Error())
		return false
	}
	c.say("")
	return !token.Equal(s.token)
}

func (c *Client) renew(ctx context.Context, s *session) error {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, errTimeout)
	defer cancel()
	a, err := c.send(ctx, s, Call{Write: true, Path: "auth/token/renew-self", Body: map[string]any{"increment": int64(s.life / time.Second)}})
	if err == nil && a.auth == nil {
		err = fmt.Errorf("%w: the renewal gave no token", ErrRefused)
	}
	c.cfg.Observe("renew", outcome(err), time.Since(start))
	if err != nil {
		c.cfg.Log.Warn("Vault token not renewed", "error", err.Error())
		return err
	}
	s.extend(start.Add(time.Duration(a.auth.LeaseDuration) * time.Second))
	c.cfg.Log.Debug("Vault token renewed", "ends", s.end())
	return nil
}

// retire revokes a token that isn't used any more.
func (c *Client) retire(ctx context.Context, s *session) {
	if s == nil || s.foreign || s.ended(time.Now()) {
		return
	}
	if !s.free(time.Now()) {
		c.cfg.Log.Info("Vault token left to end by itself: credentials that it leased are in use", "ends", s.end())
		return
	}
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, revokeTimeout, errTimeout)
	defer cancel()
	_, err := c.once(ctx, s, Call{Write: true, Path: "auth/token/revoke-self"})
	c.cfg.Observe("revoke", outcome(err), time.Since(start))
	if err != nil {
		c.cfg.Log.Warn("Vault token not revoked: it ends by itself", "ends", s.end(), "error", err.Error())
	}
}

// say sets the status, and wakes who waits for a token.
func (c *Client) say(why string) {
	if why == "" {
		c.status.Store(nil)
	} else {
		c.status.Store(&why)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) news() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// session is the token in force. While the first login, or that in place of a lost token, is under way it is waited for.
func (c *Client) session(ctx context.Context) (*session, error) {
	patience := time.NewTimer(firstLogin)
	defer patience.Stop()
	for {
		news := c.news()
		if s := c.current.Load(); s != nil && !s.ended(time.Now()) {
			return s, nil
		}
		if why := c.status.Load(); why != nil {
			return nil, fmt.Errorf("%w: %s", ErrUnavailable, *why)
		}
		select {
		case <-news:
		case <-patience.C:
			return nil, fmt.Errorf("%w: the login takes long", ErrUnavailable)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: not logged in: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
}

// check is a question whether Vault still knows a token; its answer counts for checkEvery.
type check struct {
	done  chan struct{}
	until time.Time // this and the next are set before done is closed
	lost  bool
	err   error
}

// check finds out whether a token that was refused is still good: it returns the same one, or that which took its place.
func (c *Client) check(ctx context.Context, s *session) (*session, error) {
	if other := c.current.Load(); other != nil && other != s {
		return other, nil
	}
	c.mu.Lock()
	k := c.checks[s]
	begin := k == nil || isDone(k.done) && time.Now().After(k.until)
	if begin {
		k = &check{done: make(chan struct{})}
		c.checks = map[*session]*check{s: k}
	}
	c.mu.Unlock()
	if begin {
		c.ask(ctx, s, k)
	}
	select {
	case <-k.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	if k.err != nil {
		return nil, k.err
	}
	if !k.lost {
		return s, nil
	}
	return c.session(ctx)
}

// ask asks Vault for the token (auth/token/lookup-self, which the default policy allows), and has it replaced if it is lost.
func (c *Client) ask(ctx context.Context, s *session, k *check) {
	// Others wait for what is found: it doesn't end with whoever began it.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), c.cfg.Timeout, errTimeout)
	defer cancel()
	_, err := c.send(ctx, s, Call{Path: "auth/token/lookup-self"})
	switch {
	case errors.Is(err, errForbidden):
		k.lost = c.lose(s)
	case err != nil:
		k.err = err
	}
	k.until = time.Now().Add(checkEvery)
	close(k.done)
}

// lose has a token replaced that Vault doesn't know; but not again at once, or a policy that forbids even lookup-self would have the
// broker log in with each call.
func (c *Client) lose(s *session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.lost) < lostEvery {
		return false
	}
	if c.current.CompareAndSwap(s, nil) {
		c.lost = time.Now()
		c.status.Store(nil) // a login begins, which calls wait for
		select {
		case c.dead <- s:
		default:
		}
	}
	return true
}

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
