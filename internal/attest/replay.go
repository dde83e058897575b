package attest

import (
	"context"
	"crypto/sha256"
	"time"
)

// Replay remembers which proofs were used up, for issuers whose proofs are good for one use.
type Replay interface {
	// Use marks the proof of that name as used for the rest of its life. It returns ErrRejected if it was used before, or
	// was issued before the time that the memory vouches for, and ErrUnavailable if that can't be known or remembered. Issued
	// is the earliest that it can have been issued: a clock that ran ahead is taken off.
	Use(ctx context.Context, name [sha256.Size]byte, issued time.Time, life time.Duration) error
}
