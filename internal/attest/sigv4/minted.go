package sigv4

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// Minted takes requests that were signed with credentials which the broker minted. It is safe for concurrent use.
type Minted struct {
	keys attest.MintedKeys
	now  func() time.Time
}

var _ attest.Verifier = (*Minted)(nil)

// NewMinted returns a verifier by what is remembered of credentials; now is the clock, time.Now if nil.
func NewMinted(keys attest.MintedKeys, now func() time.Time) *Minted {
	if now == nil {
		now = time.Now
	}
	return &Minted{keys, now}
}

// Verify implements attest.Verifier for attest.KindMinted: Kind is attest.KindMinted, Issuer and Subject are those that the credentials
// were minted for, Tenant their role, Session their access key ID; Expires is their end.
func (v *Minted) Verify(ctx context.Context, p attest.Proof) (attest.Identity, error) {
	if p.Kind != attest.KindMinted {
		return attest.Identity{}, fmt.Errorf("%w: kind %q", attest.ErrMalformed, p.Kind)
	}
	r, err := parse(p.Data.Reveal())
	if err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrMalformed, err)
	}
	if err := r.checkTime(v.now()); err != nil { // first: whoever repeats old requests isn't looked up
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrRejected, err)
	}
	key, err := v.keys.Find(ctx, r.accessKeyID)
	if err != nil {
		return attest.Identity{}, err
	}
	token := sha256.Sum256([]byte(r.token))
	if !r.holds(key.SecretAccessKey) || subtle.ConstantTimeCompare(token[:], key.Token[:]) != 1 {
		return attest.Identity{}, fmt.Errorf("%w: access key ID %.32q: another key has signed, or the session token is another's", attest.ErrRejected, r.accessKeyID)
	}
	return attest.Identity{
		Kind: attest.KindMinted, Issuer: key.Issuer, Tenant: key.Role, Subject: key.Subject, Session: key.AccessKeyID, Expires: key.Expires,
	}, nil
}
