package jwtproof

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// useOnce marks a token as used. It comes after every other check: a token that fails one is not used up.
func (is *issuer) useOnce(ctx context.Context, c *claims, now time.Time) error {
	if c.tokenID == "" {
		return fmt.Errorf("%w: jti is missing, and tokens of this issuer are for a single use", attest.ErrRejected)
	}
	h := sha256.New()
	for _, part := range []string{"jti", c.issuer, c.tokenID} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part))) // a hash takes every write
		h.Write([]byte(part))
	}
	// The issuer's clock may run ahead by the skew: so much earlier may the token have existed. How long it could be
	// accepted goes not by the skew of now, which a reload may raise.
	return is.replay.Use(ctx, [sha256.Size]byte(h.Sum(nil)), c.issuedAt.Add(-is.config.Skew), c.expires.Add(maxSkew).Sub(now))
}
