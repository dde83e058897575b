package attest

import (
	"context"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/secret"
)

// The identity headers of Kong, which say whom it has authenticated.
const (
	GatewayConsumerID = "x-consumer-id"
	GatewayCustomID   = "x-consumer-custom-id"
	GatewayUsername   = "x-consumer-username"
	GatewayCredential = "x-credential-identifier" //nolint:gosec // a header's name
	GatewayGroups     = "x-authenticated-groups"
	GatewayScopes     = "x-authenticated-scope"
)

// GatewayHeaders are all of them, in the order in which they are signed.
var GatewayHeaders = []string{GatewayConsumerID, GatewayCustomID, GatewayUsername, GatewayCredential, GatewayGroups, GatewayScopes}

// GatewaySession lets a gateway that has proven itself speak for its consumers, by a key that ends within the hour.
type GatewaySession struct {
	// KeyID names the session; it is no secret. Key signs for it (HMAC-SHA-256).
	KeyID string
	Key   secret.Secret
	// SecondKey is taken as well if it isn't zero: a static key's, while it is being replaced. Sessions have none.
	SecondKey secret.Secret
	// Gateway is who opened it.
	Gateway Identity
	Expires time.Time
}

// GatewaySessions keeps sessions until they end.
type GatewaySessions interface {
	// Open keeps a session. The error is ErrUnavailable, or the context's.
	Open(ctx context.Context, s GatewaySession) error
	// Find returns the session of a key ID. The error is ErrRejected if there is none, ErrUnavailable if that can't be known, or the
	// context's.
	Find(ctx context.Context, keyID string) (GatewaySession, error)
}

// MaxGatewaySessions is how many a GatewaySessionMemory keeps.
const MaxGatewaySessions = 4096

// GatewaySessionMemory is a GatewaySessions in this process.
type GatewaySessionMemory struct{ open memory[GatewaySession] }

// NewGatewaySessionMemory returns one that goes by a clock.
func NewGatewaySessionMemory(now func() time.Time) *GatewaySessionMemory {
	return &GatewaySessionMemory{newMemory(now, MaxGatewaySessions, func(s GatewaySession) time.Time { return s.Expires })}
}

// Open implements GatewaySessions.
func (m *GatewaySessionMemory) Open(_ context.Context, s GatewaySession) error {
	if !m.open.keep(s.KeyID, s) {
		return fmt.Errorf("%w: %d gateway sessions are open, and there is no room for more", ErrUnavailable, MaxGatewaySessions)
	}
	return nil
}

// Find implements GatewaySessions.
func (m *GatewaySessionMemory) Find(_ context.Context, keyID string) (GatewaySession, error) {
	s, ok := m.open.find(keyID)
	if !ok {
		return GatewaySession{}, fmt.Errorf("%w: there is no gateway session of this key ID, or it has ended", ErrRejected)
	}
	return s, nil
}
