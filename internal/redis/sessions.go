package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// maxSession bounds a sealed session.
const maxSession = 64 << 10

// Sessions keeps gateway sessions, sealed, for all replicas. It implements attest.GatewaySessions.
type Sessions struct{ client *Client }

// Sessions returns those of this installation.
func (c *Client) Sessions() *Sessions { return &Sessions{c} }

func (s *Sessions) name(keyID string) string { return s.client.cfg.Prefix + ":gateway:{" + keyID + "}" }

// session is what is sealed.
type session struct {
	Key     []byte
	Expires time.Time
	Gateway attest.Identity
}

// Open implements attest.GatewaySessions.
func (s *Sessions) Open(ctx context.Context, open attest.GatewaySession) error {
	plain, err := json.Marshal(session{[]byte(open.Key.Reveal()), open.Expires, open.Gateway})
	if err != nil {
		return err
	}
	sealed := s.client.cfg.Keyring.Seal(s.client.sealedSessions, []byte(open.KeyID), plain)
	life := open.Expires.Sub(s.client.cfg.Now())
	if len(sealed) > maxSession || life < time.Millisecond {
		return fmt.Errorf("%w: a session of %d bytes that lives %s can't be kept", attest.ErrUnavailable, len(sealed), life)
	}
	err = s.client.do(ctx, "open_session", true, func(ctx context.Context) error {
		return s.client.rdb.Set(ctx, s.name(open.KeyID), sealed, life).Err()
	})
	if err != nil {
		return fmt.Errorf("%w: the session can't be kept: %w", attest.ErrUnavailable, err)
	}
	return nil
}

// Find implements attest.GatewaySessions. What doesn't open, is too big or of another type is none.
func (s *Sessions) Find(ctx context.Context, keyID string) (attest.GatewaySession, error) {
	var sealed []byte
	err := s.client.do(ctx, "find_session", false, func(ctx context.Context) (err error) {
		sealed, err = s.client.rdb.GetRange(ctx, s.name(keyID), 0, maxSession).Bytes()
		if errors.Is(err, goredis.Nil) {
			err = nil
		}
		return notWrongType(err)
	})
	if err != nil {
		return attest.GatewaySession{}, fmt.Errorf("%w: gateway sessions can't be read: %w", attest.ErrUnavailable, err)
	}
	none := fmt.Errorf("%w: there is no gateway session of this key ID, or it has ended", attest.ErrRejected)
	if len(sealed) == 0 || len(sealed) > maxSession {
		return attest.GatewaySession{}, none
	}
	plain, err := s.client.cfg.Keyring.Open(s.client.sealedSessions, []byte(keyID), sealed)
	if err != nil {
		s.client.cfg.Observe("open", "error", 0)
		return attest.GatewaySession{}, none
	}
	var found session
	if err := json.Unmarshal(plain, &found); err != nil || !found.Expires.After(s.client.cfg.Now()) {
		return attest.GatewaySession{}, none
	}
	return attest.GatewaySession{KeyID: keyID, Key: secret.New(string(found.Key)), Gateway: found.Gateway, Expires: found.Expires}, nil
}
