package redis

import (
	"context"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// maxSession bounds a sealed session.
const maxSession = 64 << 10

// Sessions keeps gateway sessions, sealed, for all replicas. It implements attest.GatewaySessions.
type Sessions struct{ kept records[session] }

// Sessions returns those of this installation.
func (c *Client) Sessions() *Sessions {
	return &Sessions{records[session]{client: c, what: "session", purpose: c.sealedSessions, most: maxSession}}
}

func (s *Sessions) name(keyID string) string {
	return s.kept.client.cfg.Prefix + ":gateway:{" + keyID + "}"
}

// session is what is sealed.
type session struct {
	Key     []byte
	Expires time.Time
	Gateway attest.Identity
}

// Open implements attest.GatewaySessions.
func (s *Sessions) Open(ctx context.Context, open attest.GatewaySession) error {
	record := session{[]byte(open.Key.Reveal()), open.Expires, open.Gateway}
	return s.kept.keep(ctx, s.name(open.KeyID), open.KeyID, record, open.Expires)
}

// Find implements attest.GatewaySessions.
func (s *Sessions) Find(ctx context.Context, keyID string) (attest.GatewaySession, error) {
	found, err := s.kept.find(ctx, s.name(keyID), keyID)
	if err != nil {
		return attest.GatewaySession{}, err
	}
	if !found.Expires.After(s.kept.client.cfg.Now()) {
		return attest.GatewaySession{}, fmt.Errorf("%w: the session of this key ID has ended", attest.ErrRejected)
	}
	return attest.GatewaySession{KeyID: keyID, Key: secret.New(string(found.Key)), Gateway: found.Gateway, Expires: found.Expires}, nil
}
