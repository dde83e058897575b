package attest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/secret"
)

// Minted is what is remembered of credentials that were minted, so that who signs with them can be told who that is. They themselves
// can't be made of it: of the session token there is a hash.
type Minted struct {
	AccessKeyID     string
	SecretAccessKey secret.Secret
	Token           [sha256.Size]byte
	// Issuer and Subject are those of the identity that the credentials were minted for.
	Issuer, Subject string
	Role            string
	Expires         time.Time
}

// MintedKeys keeps what was minted until it ends.
type MintedKeys interface {
	// Keep keeps one. The error is ErrUnavailable, or the context's.
	Keep(ctx context.Context, m Minted) error
	// Find returns that of an access key ID. The error is ErrRejected if there is none, ErrUnavailable if that can't be known, or the
	// context's.
	Find(ctx context.Context, accessKeyID string) (Minted, error)
}

// MaxMinted is how many a MintedMemory keeps: 32 MB or so.
const MaxMinted = 65_536

// MintedMemory is a MintedKeys in this process.
type MintedMemory struct{ kept memory[Minted] }

// NewMintedMemory returns one that goes by a clock.
func NewMintedMemory(now func() time.Time) *MintedMemory {
	return &MintedMemory{newMemory(now, MaxMinted, func(m Minted) time.Time { return m.Expires })}
}

// Keep implements MintedKeys.
func (m *MintedMemory) Keep(_ context.Context, minted Minted) error {
	if !m.kept.keep(minted.AccessKeyID, minted) {
		return fmt.Errorf("%w: %d minted keys are remembered, and there is no room for more", ErrUnavailable, MaxMinted)
	}
	return nil
}

// Find implements MintedKeys.
func (m *MintedMemory) Find(_ context.Context, accessKeyID string) (Minted, error) {
	minted, ok := m.kept.find(accessKeyID)
	if !ok {
		return Minted{}, fmt.Errorf("%w: no such key was minted here, or it has ended", ErrRejected)
	}
	return minted, nil
}
