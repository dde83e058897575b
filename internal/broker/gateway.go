package broker

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

// GatewayKey is the key of a gateway session.
type GatewayKey struct {
	// KeyID is 26 of A-Z 2-7; Key is 32 random bytes, the key of HMAC-SHA-256.
	KeyID   string
	Key     secret.Secret
	Expires time.Time
	Role    string
}

// OpenGatewaySession exchanges a proof for a key by which a gateway may speak for its consumers until the key ends, as long as it may
// use some role for gateways. To renew a session, open another before it ends.
//
// Its errors are those of Issue but for the exchanger's; attest.ErrUnavailable means as well that the session couldn't be kept.
func (b *Broker) OpenGatewaySession(ctx context.Context, req Request) (GatewayKey, error) {
	var opened GatewayKey
	err := b.decide(req, eventGateway, func(book *Rulebook, d *decision) error {
		if err := b.identify(ctx, book, req, d); err != nil {
			return err
		}
		// Before anything else, so that a gateway's own consumers can't open sessions, whatever a role says.
		if req.Proof.Kind == attest.KindGateway || b.cfg.Sessions == nil {
			return policy.ErrDenied
		}
		now := b.cfg.Now()
		grant, err := book.Rules.Resolve(*d.Identity, policy.Wanted{Role: req.Role, Gateway: true, Policy: req.Policy, TTL: req.TTL, Now: now})
		if err != nil {
			return err
		}
		d.Rule = grant.Rule
		if !b.mints.allow(identityOf(b.cfg.Keyer, *d.Identity), now) {
			return ErrRateLimited
		}
		var id [16]byte
		var key [32]byte
		_, _ = rand.Read(id[:]) // crypto/rand.Read never fails
		_, _ = rand.Read(key[:])
		session := attest.GatewaySession{
			KeyID: base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:]), Key: secret.New(string(key[:])),
			Gateway: *d.Identity, Expires: now.Add(grant.TTL).Truncate(time.Second),
		}
		if err := b.cfg.Sessions.Open(ctx, session); err != nil {
			return err
		}
		d.AccessKeyID, d.Expires, d.Result = session.KeyID, session.Expires, "mint"
		opened = GatewayKey{KeyID: session.KeyID, Key: session.Key, Expires: session.Expires, Role: grant.Role}
		return nil
	})
	if err != nil {
		return GatewayKey{}, err
	}
	return opened, nil
}
