// Package vault is the broker's own way into HashiCorp Vault: it logs in without a static secret where the platform allows it, keeps
// the token that it got alive, and sends requests with it.
//
// There is one token at a time, whatever the load: [Client.Run] renews it at two thirds of its life, logs in anew when Vault renews it
// no further, and revokes it at the end. Everybody else calls [Client.Do].
package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/credbroker/credbroker/internal/breaker"
	"github.com/credbroker/credbroker/internal/secret"
)

// Errors of [Client.Do]. What is wrapped around them is for the log alone.
var (
	// ErrUnavailable means that Vault could not be asked, is sealed, has no active node or said "later", or that the broker has no
	// token: retry.
	ErrUnavailable = errors.New("vault unavailable")
	// ErrRefused means that Vault understood and said no: its policies or engines and the broker's configuration disagree.
	ErrRefused = errors.New("vault refused")
)

// Config configures a Client.
type Config struct {
	// Address is Vault's URL, without a path.
	Address string
	// Nodes are the URLs of the deployment's other nodes, to which a standby may redirect. A redirect elsewhere is refused: it would take
	// the token there.
	Nodes []string
	// Namespace is Vault Enterprise's; none if empty.
	Namespace string
	// CAFile is a PEM file of the roots to trust; the system's if empty.
	CAFile string
	// CertFile and KeyFile are a client certificate, which is read for each connection; none if empty.
	CertFile, KeyFile string
	// Timeout bounds one call with its retries.
	Timeout time.Duration
	// Login says who the broker is.
	Login Login
	// Log hears of logins and of what goes wrong; nobody does if nil.
	Log *slog.Logger
	// Observe is told of what happens to the token - login, renew, revoke - and of calls - call -, each with ok, unavailable or
	// refused. Optional.
	Observe func(operation, outcome string, took time.Duration)
}

// Client sends requests to one Vault. It is safe for concurrent use. Run must run for as long as it is used.
type Client struct {
	cfg       Config
	api       *api.Client
	transport *transport
	breaker   breaker.Breaker

	cause atomic.Pointer[string] // of the last failure

	current atomic.Pointer[session]
	status  atomic.Pointer[string] // why there is no token, or why it isn't kept alive; nil if all is well
	dead    chan *session          // tokens that Vault knows no more
	mu      sync.Mutex
	changed chan struct{}       // closed and replaced when current or status changes
	checks  map[*session]*check // of the token in force alone
	lost    time.Time           // when a token was lost for the last time
}

// New returns a client. Nothing is sent yet.
func New(cfg Config) (*Client, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, string, time.Duration) {}
	}
	t, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, transport: t, dead: make(chan *session, 1), changed: make(chan struct{}), checks: map[*session]*check{}}
	// The library's own retries repeat what may have been done, and its redirects go anywhere: both are turned off.
	c.api, err = api.NewClient(&api.Config{
		Address: cfg.Address, HttpClient: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		MaxRetries: 0, DisableRedirects: true, Timeout: cfg.Timeout,
	})
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	// It reads VAULT_TOKEN, VAULT_NAMESPACE and VAULT_HEADERS, which are somebody else's: the configuration alone counts.
	c.api.ClearToken()
	c.api.SetHeaders(http.Header{"X-Vault-Request": {"true"}})
	if cfg.Namespace != "" {
		c.api.SetNamespace(cfg.Namespace)
	}
	return c, nil
}

// Call is one request. Path comes from the configuration alone, and never holds a caller's text.
type Call struct {
	// Write asks by PUT with Body, and else by GET with Query.
	Write bool
	// Path is below /v1/, as in "aws/sts/reports".
	Path  string
	Body  map[string]any
	Query map[string][]string
}

// Answer is what Vault says.
type Answer struct {
	// Data is the answer's `data`, with numbers as json.Number; nil if there is none.
	Data map[string]any
	// LeaseID is empty if nothing was leased.
	LeaseID string
	// LeaseFor is how long the lease lasts.
	LeaseFor  time.Duration
	Renewable bool
	// TokenEnds is when the token that asked ends as it stands now, and with it what it leased; zero if it doesn't.
	TokenEnds time.Time

	auth *api.SecretAuth
	wrap *api.SecretWrapInfo
}

// Text is a member of Data that is text, not empty, of at most limit bytes.
func (a Answer) Text(name string, limit int) (string, error) {
	s, ok := a.Data[name].(string)
	if !ok || s == "" || len(s) > limit {
		return "", fmt.Errorf("the answer has no text %q of 1 to %d bytes", name, limit)
	}
	return s, nil
}

// Number is a member of Data that is a whole number.
func (a Answer) Number(name string) (int64, error) {
	n, ok := a.Data[name].(json.Number)
	if !ok {
		return 0, fmt.Errorf("the answer has no number %q", name)
	}
	i, err := n.Int64()
	if err != nil {
		return 0, fmt.Errorf("%q of the answer is no whole number", name)
	}
	return i, nil
}

// Do sends a request with the token in force. What Vault didn't begin with is repeated within Config.Timeout; a request that was refused
// for its token is repeated once with another. Errors are (errors.Is) ErrUnavailable, ErrRefused, or the context's.
func (c *Client) Do(ctx context.Context, call Call) (Answer, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, errTimeout)
	defer cancel()
	a, err := c.do(ctx, call)
	c.cfg.Observe("call", outcome(err), time.Since(start))
	return a, err
}

func (c *Client) do(ctx context.Context, call Call) (Answer, error) {
	s, err := c.session(ctx)
	if err != nil {
		return Answer{}, err
	}
	a, err := c.send(ctx, s, call)
	if !errors.Is(err, errForbidden) {
		return a, err
	}
	other, checkErr := c.check(ctx, s)
	if checkErr != nil {
		return Answer{}, checkErr
	}
	if other == s { // which Vault still knows: its policies say no
		return a, err
	}
	return c.send(ctx, other, call)
}

// send is one request with s's token, or without one if s is nil, repeated while Vault says that it didn't begin with it.
func (c *Client) send(ctx context.Context, s *session, call Call) (Answer, error) {
	for n := 0; ; n++ {
		a, err := c.attempt(ctx, s, call)
		if !errors.Is(err, errNotBegun) || n == retries || !pause(ctx, n) {
			return a, err
		}
	}
}

// attempt is one request that the breaker has a say in.
func (c *Client) attempt(ctx context.Context, s *session, call Call) (Answer, error) {
	permit, ok := c.breaker.Allow(time.Now())
	if !ok {
		return Answer{}, errBreakerOpen
	}
	seen := breaker.NoSign
	defer func() { permit.Done(seen, time.Now()) }()
	a, err := c.once(ctx, s, call)
	switch {
	case !errors.Is(err, ErrUnavailable):
		seen = breaker.Alive
	case callerLeft(ctx):
		return Answer{}, fmt.Errorf("the caller gave up: %w", ctx.Err())
	default:
		seen = breaker.Away
		cause := err.Error()
		c.cause.Store(&cause)
	}
	return a, err
}

func (c *Client) once(ctx context.Context, s *session, call Call) (Answer, error) {
	client := c.api
	if s != nil {
		token := s.token.Reveal()
		client = client.WithRequestCallbacks(func(r *api.Request) { r.ClientToken = token })
	}
	var got *api.Secret
	var err error
	if call.Write {
		got, err = client.Logical().WriteWithContext(ctx, call.Path, call.Body)
	} else {
		got, err = client.Logical().ReadWithDataWithContext(ctx, call.Path, call.Query)
	}
	if err != nil {
		return Answer{}, sort(ctx, call, err)
	}
	var a Answer
	if got == nil {
		if !call.Write { // that is how the library tells a 404
			return Answer{}, fmt.Errorf("%w: nothing is at %s", ErrRefused, call.Path)
		}
		return a, nil
	}
	a = Answer{
		Data: got.Data, LeaseID: got.LeaseID, LeaseFor: time.Duration(got.LeaseDuration) * time.Second, Renewable: got.Renewable,
		auth: got.Auth, wrap: got.WrapInfo,
	}
	if s != nil {
		a.TokenEnds = s.end()
	}
	return a, nil
}

// Revoke ends a lease (sys/leases/revoke).
func (c *Client) Revoke(ctx context.Context, leaseID string) error {
	_, err := c.Do(ctx, Call{Write: true, Path: "sys/leases/revoke", Body: map[string]any{"lease_id": leaseID}})
	return err
}

// Renew asks for a lease to end after life from now, up to a whole second (sys/leases/renew); Vault may cut it.
func (c *Client) Renew(ctx context.Context, leaseID string, life time.Duration) (Answer, error) {
	return c.Do(ctx, Call{Write: true, Path: "sys/leases/renew", Body: map[string]any{"lease_id": leaseID, "increment": int64((life + time.Second - 1) / time.Second)}})
}

// Held keeps the token that is in force from being revoked before ends: what it leased would end with it.
func (c *Client) Held(ends time.Time) {
	if s := c.current.Load(); s != nil {
		s.hold(ends)
	}
}

// Status tells in one line why Vault can't be used now; empty if it can as far as is known.
func (c *Client) Status() string {
	if why := c.status.Load(); why != nil {
		return *why
	}
	if c.current.Load() == nil {
		return "not logged in yet"
	}
	if cause := c.cause.Load(); cause != nil && c.breaker.Open() {
		return *cause
	}
	return ""
}

// TokenEnds is when the token in force ends as it stands now; zero if there is none, or it has no end.
func (c *Client) TokenEnds() time.Time {
	if s := c.current.Load(); s != nil {
		return s.end()
	}
	return time.Time{}
}

// printable says whether a token can stand in a header.
func printable(s secret.Secret) bool {
	return !s.IsZero() && strings.IndexFunc(s.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}
