package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// staticLife is how long a word under a static key is good for what it gets: as long as under a session that was opened just then.
const staticLife = time.Hour

// StaticKeys finds keys that last by the name of their gateway, and leaves every other key ID to sessions. A gateway's identity is then of
// attest.KindStaticKey, Issuer "gateway_keys" and Subject its name. Of the two keys that it may have both are taken.
func StaticKeys(keys map[string][]secret.Secret, sessions attest.GatewaySessions, now func() time.Time) attest.GatewaySessions {
	if now == nil {
		now = time.Now
	}
	return &staticKeys{sessions, keys, now}
}

type staticKeys struct {
	attest.GatewaySessions
	keys map[string][]secret.Secret
	now  func() time.Time
}

// Find implements attest.GatewaySessions.
func (s *staticKeys) Find(ctx context.Context, keyID string) (attest.GatewaySession, error) {
	if sessionIDForm.MatchString(keyID) {
		return s.GatewaySessions.Find(ctx, keyID)
	}
	keys, ok := s.keys[keyID]
	if !ok {
		return attest.GatewaySession{}, fmt.Errorf("%w: there is no gateway of this name that has a key", attest.ErrRejected)
	}
	expires := s.now().Add(staticLife).Truncate(time.Second)
	found := attest.GatewaySession{
		KeyID: keyID, Key: keys[0], Expires: expires,
		Gateway: attest.Identity{Kind: attest.KindStaticKey, Issuer: attest.IssuerGatewayKeys, Subject: keyID, Expires: expires},
	}
	if len(keys) > 1 {
		found.SecondKey = keys[1]
	}
	return found, nil
}
