package credbroker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/prove"
)

// callTimeout bounds one call to the broker, and the making of its proof. It is longer than a broker takes before it gives up by
// itself (limits.request_timeout, 10 s unless configured), so that its own word arrives.
const callTimeout = 30 * time.Second

// Secret is a text that redacts itself wherever it is printed, logged or encoded. Its Reveal method returns the text.
type Secret = secret.Secret

// Credentials are S3 credentials of one role. fmt, slog and encoding/json print them without their secrets.
type Credentials struct {
	// AccessKeyID is no secret.
	AccessKeyID string
	// SecretAccessKey signs requests.
	SecretAccessKey Secret
	// SessionToken goes with each request.
	SessionToken Secret
	// Expires is when the object store stops taking the credentials; whole seconds.
	Expires time.Time
	// Role is the role that they belong to.
	Role string
	// RequestID names the call that got them in the broker's logs.
	RequestID string
}

// Client is a broker's client. It is safe for concurrent use; a program needs one for each broker and identity. Close it.
type Client struct {
	prover    prove.Prover
	actor     prove.Prover // nil if the subject acts itself
	transport transport
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc

	beginning sync.Mutex     // orders begin and Close
	underWay  sync.WaitGroup // calls and renewals

	mu       sync.Mutex
	renewals map[want]*renewal
	sweepAt  int // how many renewals there may be before those are dropped that hold nothing
}

// transport speaks to a broker in one of its protocols.
type transport interface {
	// issue makes one call. Its errors are *Error, or wrap ErrUnreachable, or tell that the answer is no broker's.
	issue(ctx context.Context, p proofs, w want) (Credentials, error)
	// sign is the same for signatures.
	sign(ctx context.Context, p proofs, w signWant) (Signatures, error)
	close()
}

// proofs are what a call shows.
type proofs struct {
	subject prove.Proof
	actor   *prove.Proof // nil if the subject acts itself
}

// Option is an option of [New].
type Option func(*options)

type options struct {
	caFile    string
	plaintext bool
	userAgent string
	actor     prove.Prover
	// certificate is the client's; nil for none.
	certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
}

// WithActor shows a second proof beside the client's: of who acts for the one that the client's own prover proves (RFC 8693,
// section 1.1: delegation), as a gateway or an agent does with a user's token. Roles of the broker see both.
func WithActor(prover prove.Prover) Option { return func(o *options) { o.actor = prover } }

// WithClientCertificate has a certificate for each connection that the broker asks one for, as a tls.Config's GetClientCertificate does:
// go-spiffe's tlsconfig makes such a function of a Workload API. It is a proof by itself: [prove.ClientCertificate].
func WithClientCertificate(get func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) Option {
	return func(o *options) { o.certificate = get }
}

// WithClientCertificateFiles is WithClientCertificate with two PEM files: the certificate with those between it and its root, and its
// key. They are read for each connection, so they can be replaced.
func WithClientCertificateFiles(certFile, keyFile string) Option {
	return WithClientCertificate(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		return &c, nil
	})
}

// WithCAFile trusts the certificates of a PEM file, and no others, to vouch for the broker. Without it the system's are trusted.
// The file is read once, by New.
func WithCAFile(path string) Option { return func(o *options) { o.caFile = path } }

// WithInsecurePlaintext allows http:// and grpc:// beyond this machine: whoever is on the way can read the proof and the
// credentials.
func WithInsecurePlaintext() Option { return func(o *options) { o.plaintext = true } }

// WithUserAgent says who is calling; "credbroker-go" if not given.
func WithUserAgent(name string) Option { return func(o *options) { o.userAgent = name } }

// RoleOption narrows what is asked of a role.
type RoleOption func(*want)

// WithPolicy narrows the credentials by an IAM policy document (JSON): they allow what both it and the role allow. The broker
// bounds its size and says so with [CodePolicyTooLarge].
func WithPolicy(document string) RoleOption { return func(w *want) { w.policy = document } }

// WithTTL asks for credentials that live that long: whole seconds, at least one. More than the role's maximum gives the maximum.
// Without it they live as long as the role says.
func WithTTL(ttl time.Duration) RoleOption { return func(w *want) { w.ttl, w.hasTTL = ttl, true } }

// want is what is asked for. Equal wants share credentials.
type want struct {
	role   string
	policy string
	ttl    time.Duration
	hasTTL bool
}

func newWant(role string, opts []RoleOption) want {
	w := want{role: role}
	for _, opt := range opts {
		opt(&w)
	}
	return w
}

// check finds what can be seen to be wrong without asking the broker.
func (w want) check() error {
	if w.role == "" {
		return errors.New("credbroker: no role was given")
	}
	if !utf8.ValidString(w.role) || !utf8.ValidString(w.policy) {
		return errors.New("credbroker: the role and the policy must be UTF-8")
	}
	if w.hasTTL && (w.ttl < time.Second || w.ttl%time.Second != 0) {
		return fmt.Errorf("credbroker: the TTL is %s; whole seconds are expected, at least one", w.ttl)
	}
	return nil
}

// New returns a client of the broker at endpoint, a URL as the package's documentation lists them, that proves itself with
// prover. It connects when it is first needed, so a broker that is away is no error here.
//
// Errors are [ErrEndpoint], [ErrPlaintext], and those of reading the CA file.
func New(endpoint string, prover prove.Prover, opts ...Option) (*Client, error) {
	o := options{userAgent: "credbroker-go"}
	for _, opt := range opts {
		opt(&o)
	}
	if prover == nil {
		return nil, errors.New("credbroker: a prover is needed")
	}
	at, err := parseEndpoint(endpoint, o)
	if err != nil {
		return nil, err
	}
	var t transport = newHTTP(at, o.userAgent)
	if at.grpc {
		if t, err = newGRPC(at, o.userAgent); err != nil {
			return nil, err
		}
	}
	c := newClient(t, prover)
	c.actor = o.actor
	return c, nil
}

func newClient(t transport, prover prove.Prover) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	return &Client{prover: prover, transport: t, ctx: ctx, cancel: cancel, renewals: map[want]*renewal{}, sweepAt: fewRenewals}
}

// Credentials asks the broker for credentials, once: it keeps nothing, and doesn't try again. S3 clients are better served by
// [Client.AWS] and [Client.MinIO], which do both.
//
// It takes 30 seconds at most, or until ctx ends. Errors are [*Error], or wrap [ErrUnreachable] or the prover's error, or
// [ErrClosed].
func (c *Client) Credentials(ctx context.Context, role string, opts ...RoleOption) (Credentials, error) {
	return c.issue(ctx, newWant(role, opts))
}

// Close ends what is under way, waits for it, and closes the connections. Providers of the client return [ErrClosed] from then
// on. It always returns nil, and may be called twice.
func (c *Client) Close() error {
	c.beginning.Lock()
	c.cancel()
	c.beginning.Unlock()
	c.underWay.Wait()
	c.transport.close()
	return nil
}

// begin counts something that Close waits for, until underWay.Done; it says no once the client is closed.
func (c *Client) begin() bool {
	c.beginning.Lock()
	defer c.beginning.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.underWay.Add(1)
	return true
}

// issue makes one call to the broker.
func (c *Client) issue(ctx context.Context, w want) (Credentials, error) {
	if err := w.check(); err != nil {
		return Credentials{}, err
	}
	var got Credentials
	err := c.call(ctx, func(ctx context.Context, p proofs) (err error) {
		got, err = c.transport.issue(ctx, p, w)
		return err
	})
	if err != nil {
		return Credentials{}, err
	}
	if now := time.Now(); !got.Expires.After(now) {
		return Credentials{}, fmt.Errorf("the broker's credentials ended at %s, and this machine's clock says %s: is it right?",
			got.Expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return got, nil
}

// call has the proofs made and shown, within callTimeout and until the client is closed.
func (c *Client) call(ctx context.Context, show func(context.Context, proofs) error) error {
	if !c.begin() {
		return ErrClosed
	}
	defer c.underWay.Done()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	p, err := c.prove(ctx)
	if err == nil {
		err = show(ctx, p)
	}
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return err
}

func (c *Client) prove(ctx context.Context) (p proofs, err error) {
	if p.subject, err = c.prover.Prove(ctx); err != nil {
		return proofs{}, fmt.Errorf("no proof of identity: %w", err)
	}
	if c.actor != nil {
		actor, err := c.actor.Prove(ctx)
		if err != nil {
			return proofs{}, fmt.Errorf("no proof of the actor's identity: %w", err)
		}
		p.actor = &actor
	}
	return p, nil
}

// sound says whether an answer holds what S3 credentials need, in characters that headers and files can carry.
func (c *Credentials) sound() bool {
	return c.AccessKeyID != "" && visible(c.AccessKeyID) && !c.SecretAccessKey.IsZero() && visible(c.SecretAccessKey.Reveal()) &&
		visible(c.SessionToken.Reveal()) && !c.Expires.IsZero()
}

func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
