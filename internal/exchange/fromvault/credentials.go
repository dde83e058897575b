// Package fromvault gets from Vault what exchanges take: whole credentials (Credentials), and for exchanges at MinIO identity tokens
// (IdentityTokens).
package fromvault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	stdjson "encoding/json"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/revocation"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/vault"
)

const (
	// expirySlack is for leases in whole seconds and the time that an answer takes.
	expirySlack = 2 * time.Second
	// maxField bounds a field of credentials; a session token of AWS may have some KiB.
	maxField = 16 << 10
	// revokeTimeout bounds the end of a lease that is of no use.
	revokeTimeout = 5 * time.Second
)

// TTLParameter is the value of a parameter in whose place the granted life stands, as in 900s.
const TTLParameter = "{{ttl}}"

// Fields say where in the answer's data the parts of credentials are, members of members separated by dots.
type Fields struct {
	AccessKeyID, SecretAccessKey string
	// SessionToken is empty if there is none.
	SessionToken string
	// Expires holds an end in RFC 3339 or Unix seconds; the lease's end counts if empty.
	Expires string
}

// CredentialsConfig configures Credentials.
type CredentialsConfig struct {
	Client *vault.Client
	// Path is below /v1/, as in aws/sts/reports. Write asks by PUT, else by GET.
	Path  string
	Write bool
	// Parameters go along; TTLParameter stands for the granted life.
	Parameters map[string]string
	Fields     Fields
	Log        *slog.Logger
	// Observe is told of each exchange, as that of the other exchangers is. Optional.
	Observe func(outcome string, took time.Duration)
}

// Credentials is an exchange.Exchanger that reads credentials from a path of Vault's: of its AWS secrets engine (aws/sts/ROLE), of an
// engine for MinIO, or of any other that gives keys with an end. Run must run for as long as it is used.
//
// What such a path gives is often leased: it lives until its lease ends, and the lease ends with the broker's Vault token at the latest.
// There is one lease for each identity and grant, which is renewed when the same is asked for again and ended when that is revoked.
type Credentials struct {
	cfg    CredentialsConfig
	leases leases
}

// NewCredentials returns an exchanger. Nothing is sent yet.
func NewCredentials(cfg CredentialsConfig) *Credentials {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration) {}
	}
	return &Credentials{cfg: cfg, leases: leases{held: map[string]*lease{}}}
}

// CredentialsHonour is what such an exchanger honours of a grant: nothing but its life, of which Vault gives minTTL at least. What
// credentials may do is up to Vault's role.
func CredentialsHonour(minTTL time.Duration) policy.Backend { return policy.Backend{MinTTL: minTTL} }

// Status implements exchange.Exchanger: the Vault client has a status of its own.
func (x *Credentials) Status() string { return "" }

// Run forgets leases that have ended, until ctx ends.
func (x *Credentials) Run(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			x.leases.sweep(now)
		}
	}
}

// Exchange implements exchange.Exchanger.
func (x *Credentials) Exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	start := time.Now()
	c, err := x.exchange(ctx, req)
	x.cfg.Observe(exchange.Outcome(err), time.Since(start))
	return c, err
}

func (x *Credentials) exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	if len(req.Grant.Policies) > 0 || req.Grant.SessionPolicy != "" {
		return exchange.Credentials{}, fmt.Errorf("%w: a path of Vault's honours neither policies nor a session policy", exchange.ErrRefused)
	}
	l, err := x.leases.take(ctx, req)
	if err != nil {
		return exchange.Credentials{}, err
	}
	defer x.leases.give(l)
	end := endOf(req)
	if c, ok := x.again(ctx, l, end); ok {
		return c, nil
	}
	return x.read(ctx, l, end)
}

// endOf is when what is granted ends.
func endOf(req exchange.Request) time.Time {
	end := time.Now().Add(req.Grant.TTL)
	if req.Grant.WithinProof && end.After(req.Identity.Expires) {
		end = req.Identity.Expires
	}
	return end
}

// again is what is held for the grant already, its lease renewed until end. Without a lease that can be, what is new enough will do.
func (x *Credentials) again(ctx context.Context, l *lease, end time.Time) (exchange.Credentials, bool) {
	now := time.Now()
	wanted := end.Sub(now)
	if l.id == "" && l.credentials.Expires.IsZero() || !l.credentials.Expires.After(now) {
		return exchange.Credentials{}, false
	}
	if left := l.credentials.Expires.Sub(now); left >= wanted*9/10 && left <= wanted+expirySlack {
		return l.credentials, true
	}
	if l.id == "" || !l.renewable {
		return exchange.Credentials{}, false
	}
	a, err := x.cfg.Client.Renew(ctx, l.id, wanted)
	if err != nil || a.LeaseFor < wanted*9/10 || a.LeaseFor > wanted+expirySlack {
		return exchange.Credentials{}, false // it is at the end of what Vault renews it to, or gone
	}
	l.credentials.Expires = earliest(now.Add(a.LeaseFor), end, a.TokenEnds)
	x.cfg.Client.Held(l.credentials.Expires)
	return l.credentials, true
}

// read reads new credentials and makes their lease end when what is granted does.
func (x *Credentials) read(ctx context.Context, l *lease, end time.Time) (exchange.Credentials, error) {
	asked := time.Now()
	a, err := x.cfg.Client.Do(ctx, x.call(end.Sub(asked)))
	if err != nil {
		return exchange.Credentials{}, asExchange(err)
	}
	c, err := x.parse(a, asked)
	if err == nil {
		c.Expires, err = x.bound(ctx, a, c.Expires, end)
	}
	if err != nil {
		x.discard(ctx, a.LeaseID)
		return exchange.Credentials{}, err
	}
	l.id, l.renewable, l.credentials = a.LeaseID, a.Renewable, c
	if a.LeaseID != "" {
		x.cfg.Client.Held(c.Expires)
	}
	return c, nil
}

func (x *Credentials) call(life time.Duration) vault.Call {
	call := vault.Call{Write: x.cfg.Write, Path: x.cfg.Path}
	parameters := maps.Clone(x.cfg.Parameters)
	for name, value := range parameters {
		if value == TTLParameter {
			parameters[name] = strconv.FormatInt(int64(life/time.Second), 10) + "s"
		}
	}
	if call.Write {
		call.Body = map[string]any{}
		for name, value := range parameters {
			call.Body[name] = value
		}
		return call
	}
	call.Query = map[string][]string{}
	for name, value := range parameters {
		call.Query[name] = []string{value}
	}
	return call
}

// bound has a lease end when what is granted does, as far as it can be renewed, and returns when the credentials end.
func (x *Credentials) bound(ctx context.Context, a vault.Answer, expires, end time.Time) (time.Time, error) {
	if expires.After(end.Add(expirySlack)) || a.Renewable && end.Sub(expires) > expirySlack {
		if a.LeaseID == "" || !a.Renewable {
			return time.Time{}, fmt.Errorf("%w: it lives until %s, but was granted until %s, and Vault can't shorten it: set the TTL of %s, or a parameter to %s",
				exchange.ErrBadResult, stamp(expires), stamp(end), x.cfg.Path, TTLParameter)
		}
		now := time.Now()
		renewed, err := x.cfg.Client.Renew(ctx, a.LeaseID, end.Sub(now))
		if err != nil {
			return time.Time{}, asExchange(err)
		}
		if expires = now.Add(renewed.LeaseFor); expires.After(end.Add(expirySlack)) {
			return time.Time{}, fmt.Errorf("%w: its lease lasts until %s, but was granted until %s: set the TTL of %s", exchange.ErrBadResult, stamp(expires), stamp(end), x.cfg.Path)
		}
	}
	if a.LeaseID == "" {
		return earliest(expires, end), nil
	}
	return earliest(expires, end, a.TokenEnds), nil
}

// parse takes the credentials out of an answer.
func (x *Credentials) parse(a vault.Answer, asked time.Time) (exchange.Credentials, error) {
	bad := func(err error) (exchange.Credentials, error) {
		return exchange.Credentials{}, fmt.Errorf("%w: %s: %w", exchange.ErrBadResult, x.cfg.Path, err)
	}
	access, err := text(a.Data, x.cfg.Fields.AccessKeyID)
	if err != nil {
		return bad(err)
	}
	key, err := text(a.Data, x.cfg.Fields.SecretAccessKey)
	if err != nil {
		return bad(err)
	}
	c := exchange.Credentials{AccessKeyID: access, SecretAccessKey: secret.New(key)}
	if x.cfg.Fields.SessionToken != "" {
		token, err := text(a.Data, x.cfg.Fields.SessionToken)
		if err != nil {
			return bad(err)
		}
		c.SessionToken = secret.New(token)
	}
	switch {
	case x.cfg.Fields.Expires != "":
		c.Expires, err = moment(a.Data, x.cfg.Fields.Expires)
		if err != nil {
			return bad(err)
		}
	case a.LeaseFor > 0:
		c.Expires = asked.Add(a.LeaseFor)
	default:
		return bad(errors.New("it has no lease, and no field says when it ends: keys without an end aren't handed out"))
	}
	if !c.Expires.After(time.Now()) {
		return bad(fmt.Errorf("it expired at %s", stamp(c.Expires)))
	}
	return c, nil
}

// member is a member of data at a path of names.
func member(data map[string]any, path string) any {
	var at any = data
	for name := range strings.SplitSeq(path, ".") {
		object, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = object[name]
	}
	return at
}

// text is a member that may stand in a header or an environment variable.
func text(data map[string]any, path string) (string, error) {
	s, ok := member(data, path).(string)
	if !ok || s == "" || len(s) > maxField || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("its field %q is missing, or isn't printable ASCII of at most %d bytes", path, maxField)
	}
	return s, nil
}

// moment is a member that is a time.
func moment(data map[string]any, path string) (time.Time, error) {
	switch v := member(data, path).(type) {
	case string:
		if t, err := time.Parse(time.RFC3339, v); err == nil {
			return t, nil
		}
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && n > 0 {
			return time.Unix(n, 0), nil
		}
	case stdjson.Number:
		if n, err := v.Int64(); err == nil && n > 0 {
			return time.Unix(n, 0), nil
		}
	}
	return time.Time{}, fmt.Errorf("its field %q is neither a time of RFC 3339 nor Unix seconds", path)
}

// discard ends a lease that nobody gets to see.
func (x *Credentials) discard(ctx context.Context, id string) {
	if id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	if err := x.cfg.Client.Revoke(ctx, id); err != nil {
		x.cfg.Log.Warn("a lease that is of no use was not revoked: it ends by itself", "path", x.cfg.Path, "error", err.Error())
	}
}

// Revoke implements exchange.Revoker. What other replicas have leased is theirs to end.
func (x *Credentials) Revoke(ctx context.Context, r revocation.Revocation) error {
	var failures []error
	for _, l := range x.leases.concerned(r) {
		if err := x.leases.hold(ctx, l); err != nil {
			return errors.Join(append(failures, err)...)
		}
		if l.id != "" {
			if err := x.cfg.Client.Revoke(ctx, l.id); err != nil {
				failures = append(failures, asExchange(err))
			} else {
				l.id, l.credentials = "", exchange.Credentials{}
			}
		}
		x.leases.give(l)
	}
	return errors.Join(failures...)
}

// asExchange sorts an error of the Vault client into package exchange's.
func asExchange(err error) error {
	switch {
	case errors.Is(err, vault.ErrRefused):
		return fmt.Errorf("%w: %s", exchange.ErrRefused, err.Error())
	case errors.Is(err, vault.ErrUnavailable):
		return fmt.Errorf("%w: %s", exchange.ErrUnavailable, err.Error())
	}
	return err
}

// earliest is the earliest of times, of which zero ones don't count.
func earliest(first time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// keyOf names what a lease is for: an identity and what it was granted, since when.
func keyOf(req exchange.Request) (string, error) {
	var parts []string
	for id := &req.Identity; id != nil; id = id.Actor {
		parts = append(parts, string(id.Kind), id.Issuer, id.Tenant, id.Subject)
	}
	parts = append(parts, req.Grant.Role, req.Grant.Bound.String())
	if !req.RevokedAt.IsZero() {
		parts = append(parts, req.RevokedAt.UTC().Format(time.RFC3339Nano))
	}
	key, err := json.Marshal(parts)
	return string(key), err
}

// essence is of a request what says whether a revocation is about it.
func essence(req exchange.Request) exchange.Request {
	out := exchange.Request{RevokedAt: req.RevokedAt}
	out.Grant.Role = req.Grant.Role
	to := &out.Identity
	for id := &req.Identity; ; id = id.Actor {
		to.Issuer, to.Subject = id.Issuer, id.Subject
		if id.Actor == nil {
			return out
		}
		to.Actor = &attest.Identity{}
		to = to.Actor
	}
}
