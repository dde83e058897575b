// Package broker is the pipeline: a proof becomes an identity, the identity a grant, the grant credentials, and every
// decision a line in the audit log. [Broker.Issue] is the product; read it first.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/revocation"
	"github.com/credbroker/credbroker/internal/s3"
)

// Errors of the pipeline itself; those of attest, policy, exchange and audit come through it as they are.
var (
	// ErrInvalidRequest means that the request lacks something or holds something that no request may.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrBusy means that the broker has as much in hand as it allows itself: retry.
	ErrBusy = errors.New("too many requests in flight")
	// ErrRateLimited means that this identity had too many new credentials minted within a minute, or asked too often which
	// roles it may use: retry later.
	ErrRateLimited = errors.New("too many costly calls by this identity")
	// ErrForwardedToken means that the token which a gateway has forwarded is not accepted, or is of somebody else than the consumer: the
	// gateway's own proof and word held.
	ErrForwardedToken = errors.New("the forwarded token is not accepted")
	// ErrUnknownRequest means that no decision with that request ID is remembered.
	ErrUnknownRequest = errors.New("no such decision is remembered")
)

// Request is what a transport hands in. Everything in it is untrusted but Source and Floor.
type Request struct {
	Proof attest.Proof
	// Actor is the proof of who acts for the one that Proof proves; nil if that one acts itself.
	Actor *attest.Proof
	// Forwarded is a token of a gateway's consumer, beside the gateway's word as Proof; nil if there is none.
	Forwarded *attest.Proof
	// Role, Policy and TTL are for Issue alone. Policy is a narrowing IAM policy or empty; TTL is zero for the role's default.
	Role   string
	Policy string
	TTL    time.Duration
	// Floor is for Issue alone, and the transport's: policy.Wanted.Floor.
	Floor time.Duration
	// Session is a name that the caller gives this use of its identity, for the audit log alone; what the proof says goes before it.
	Session string

	// Correlation holds the request ID, which is required, and what else the caller sent to find the call by.
	Correlation exchange.Correlation
	// Source is the peer's address; the zero value on a Unix socket.
	Source netip.Addr
}

// Issued is what Issue hands out.
type Issued struct {
	exchange.Credentials
	Role string
	// Hit says that the credentials came from the cache.
	Hit bool
	// Short says that the role doesn't live long enough for Request.Floor.
	Short bool
}

// Access is what an identity may know about itself.
type Access struct {
	Identity attest.Identity
	Roles    []policy.RoleInfo
}

// Outcome is what became of one call, for metrics. All its words are from closed sets.
type Outcome struct {
	Event    string
	Decision audit.Decision
	Code     string // empty if allowed
	Result   string // hit, mint or empty
	Latency  time.Duration
}

// Config is what a Broker is made of. Every field is required unless its comment says otherwise.
type Config struct {
	Store         *cache.Store
	Keyer         *cache.Keyer
	Audit         audit.Log
	Fingerprinter audit.Fingerprinter
	Exchangers    map[string]Exchanger
	// Code gives an error's code (docs/errors.md), for audit and metrics. It is the transports' table.
	Code func(error) string
	Log  *slog.Logger
	// MaxInFlight bounds the calls in hand at one time.
	MaxInFlight int
	// MaxMints bounds the new credentials for one identity in one minute, and as well its questions which roles it may use.
	MaxMints int
	// Sessions keeps gateway sessions; nil if there can be none.
	Sessions attest.GatewaySessions
	// Revoked is what was revoked; nil if nothing can be.
	Revoked *revocation.List
	// Minted remembers what is minted, and MintedVerifier takes what was signed with it, for WhoIs alone; nil if it isn't remembered.
	Minted         attest.MintedKeys
	MintedVerifier attest.Verifier
	// Observe is told of every call; optional.
	Observe func(Outcome)
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Exchanger is an exchange.Exchanger as the pipeline knows it.
type Exchanger struct {
	exchange.Exchanger
	// Target tells apart what credentials of exchangers with the same name are good for: the back-end's URL.
	Target string
	// S3 is where the credentials are good for requests to be signed; without endpoints, none are.
	S3 s3.Target
}

// Rulebook is what a reload replaces as a whole: who is believed, and what they may do.
type Rulebook struct {
	Verifiers map[attest.Kind]attest.Verifier
	Rules     *policy.Rules
	LoadedAt  time.Time
}

// Broker is safe for concurrent use.
type Broker struct {
	cfg      Config
	book     atomic.Pointer[Rulebook]
	inFlight chan struct{}
	// mints counts exchanges: without a bound, one caller could have a new key minted with every call, by asking for another
	// TTL or another narrowing each time. Accesses counts questions that evaluate every role.
	mints, accesses *perMinute
	recent          *recentDecisions
	renewals        *renewals
	signer          *s3.Signer
	busyLogged      atomic.Int64 // the second in which the last refusal for being busy was logged
}

// New returns a broker that decides by book.
func New(cfg Config, book Rulebook) *Broker {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Outcome) {}
	}
	b := &Broker{
		cfg:      cfg,
		inFlight: make(chan struct{}, cfg.MaxInFlight),
		mints:    newPerMinute(cfg.MaxMints),
		accesses: newPerMinute(cfg.MaxMints),
		recent:   newRecentDecisions(),
		renewals: newRenewals(),
		signer:   s3.NewSigner(cfg.Now),
	}
	b.book.Store(&book)
	return b
}

// Replace puts another rulebook in force. Calls under way finish by the one they began with.
func (b *Broker) Replace(book Rulebook) { b.book.Store(&book) }

// Wait returns when the renewals under way have ended. It is called when no more calls come.
func (b *Broker) Wait() { b.renewals.underWay.Wait() }

// Rulebook returns the one in force.
func (b *Broker) Rulebook() Rulebook { return *b.book.Load() }

// Issue exchanges a proof for credentials of a role.
//
// Its errors are (errors.Is) ErrInvalidRequest, ErrBusy, ErrRateLimited, those of attest.Verifier, policy.Rules.Resolve,
// exchange.Exchanger and cache.Flight, audit.ErrUnavailable, or the context's.
func (b *Broker) Issue(ctx context.Context, req Request) (Issued, error) {
	var issued Issued
	err := b.decide(req, eventIssue, func(book *Rulebook, d *decision) error {
		if err := b.identify(ctx, book, req, d); err != nil {
			return err
		}
		grant, err := book.Rules.Resolve(*d.Identity, policy.Wanted{Role: req.Role, Policy: req.Policy, TTL: req.TTL, Floor: req.Floor, Now: b.cfg.Now()})
		if err != nil {
			return err
		}
		d.Rule = grant.Rule
		creds, hit, err := b.credentials(ctx, d, grant, req)
		if err != nil {
			return err
		}
		d.granted(creds, hit)
		issued = Issued{Credentials: creds, Role: grant.Role, Hit: hit, Short: grant.Short}
		return nil
	})
	if err != nil {
		return Issued{}, err
	}
	return issued, nil
}

// ExplainAccess tells a caller who it is to the broker and which roles it may use. Its errors are those of Issue but for the
// policy's and the exchanger's.
func (b *Broker) ExplainAccess(ctx context.Context, req Request) (Access, error) {
	return b.access(ctx, req, eventExplain)
}

// WhoIs tells a caller who it is to the broker, and nothing of roles. It alone takes attest.KindMinted as a proof. Its errors are those of ExplainAccess but for ErrRateLimited.
func (b *Broker) WhoIs(ctx context.Context, req Request) (attest.Identity, error) {
	var id attest.Identity
	err := b.decide(req, eventWhoIs, func(book *Rulebook, d *decision) error {
		if req.Proof.Kind == attest.KindMinted && b.cfg.MintedVerifier != nil {
			withMinted := *book
			withMinted.Verifiers = map[attest.Kind]attest.Verifier{attest.KindMinted: b.cfg.MintedVerifier}
			book = &withMinted
		}
		if err := b.identify(ctx, book, req, d); err != nil {
			return err
		}
		id = *d.Identity
		return nil
	})
	if err != nil {
		return attest.Identity{}, err
	}
	return id, nil
}

// ListRoles lists the roles the caller may use. Its errors are those of ExplainAccess.
func (b *Broker) ListRoles(ctx context.Context, req Request) ([]policy.RoleInfo, error) {
	access, err := b.access(ctx, req, eventList)
	return access.Roles, err
}

func (b *Broker) access(ctx context.Context, req Request, event string) (Access, error) {
	var access Access
	err := b.decide(req, event, func(book *Rulebook, d *decision) error {
		if err := b.identify(ctx, book, req, d); err != nil {
			return err
		}
		if !b.accesses.allow(identityOf(b.cfg.Keyer, *d.Identity), b.cfg.Now()) {
			return ErrRateLimited
		}
		access = Access{Identity: *d.Identity, Roles: book.Rules.Allowed(*d.Identity)}
		return nil
	})
	if err != nil {
		return Access{}, err
	}
	return access, nil
}

// identify attests the proofs and notes the identity in the decision. Who acts for somebody else is an identity only together with
// the one it acts for: both proofs hold, or neither counts.
func (b *Broker) identify(ctx context.Context, book *Rulebook, req Request, d *decision) error {
	id, err := b.attest(ctx, book, req.Proof, &d.ProofFingerprint)
	if err != nil {
		return err
	}
	if req.Actor != nil {
		if id.Actor != nil {
			return fmt.Errorf("%w: an actor beside a gateway, which is one", attest.ErrMalformed)
		}
		actor, err := b.attest(ctx, book, *req.Actor, &d.ActorProofFingerprint)
		if err != nil {
			return fmt.Errorf("the actor: %w", err)
		}
		id.Actor = &actor
		if actor.Expires.Before(id.Expires) {
			id.Expires = actor.Expires
		}
	}
	if id.Session == "" {
		id.Session = req.Session
	}
	if req.Forwarded != nil {
		if err := b.confirm(ctx, book, req, &id); err != nil {
			return err
		}
	}
	d.Identity = &id
	return nil
}

// confirm verifies the token that a gateway has forwarded and adds what it says to the consumer's identity. Two identities in one request
// both hold and agree, or neither counts: the token's subject is the consumer's ID, custom ID or username, or what its credential is called.
func (b *Broker) confirm(ctx context.Context, book *Rulebook, req Request, id *attest.Identity) error {
	if req.Proof.Kind != attest.KindGateway || req.Forwarded.Kind != attest.KindJWT {
		return fmt.Errorf("%w: a forwarded token without a gateway's word", attest.ErrMalformed)
	}
	var fingerprint string // the token's issuer and subject are in the identity
	token, err := b.attest(ctx, book, *req.Forwarded, &fingerprint)
	if err != nil {
		for _, rejected := range []error{attest.ErrUsed, attest.ErrExpired, attest.ErrMalformed, attest.ErrRejected} {
			if errors.Is(err, rejected) {
				return fmt.Errorf("%w: %w", ErrForwardedToken, err)
			}
		}
		return fmt.Errorf("the forwarded token: %w", err)
	}
	names := slices.Concat([]string{id.Subject}, id.Attrs["consumer_custom_id"], id.Attrs["consumer_username"], id.Attrs["credential_id"])
	if !slices.Contains(names, token.Subject) {
		return fmt.Errorf("%w: it is of somebody else than the consumer", ErrForwardedToken)
	}
	id.Attrs = maps.Clone(id.Attrs)
	id.Attrs["token_issuer"], id.Attrs["token_subject"] = []string{token.Issuer}, []string{token.Subject}
	if token.Expires.Before(id.Expires) {
		id.Expires = token.Expires
	}
	return nil
}

func (b *Broker) attest(ctx context.Context, book *Rulebook, p attest.Proof, fingerprint *string) (attest.Identity, error) {
	verifier, ok := book.Verifiers[p.Kind]
	if !ok || p.Data.IsZero() {
		return attest.Identity{}, errNoProof
	}
	*fingerprint = b.cfg.Fingerprinter.Fingerprint(p.Data)
	id, err := verifier.Verify(ctx, p)
	// A gateway speaks only while it may be one, however long its session has to live.
	if err == nil && p.Kind == attest.KindGateway && (id.Actor == nil || !book.Rules.MayBeGateway(*id.Actor)) {
		return attest.Identity{}, fmt.Errorf("%w: its gateway may be one no more", attest.ErrRejected)
	}
	return id, err
}
