package redis

import (
	"context"
	"errors"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/revocation"
)

// maxRevocations bounds what is sealed of all of them.
const maxRevocations = 4 << 20

// Revocations is the board on which replicas tell each other what is revoked, sealed. It implements revocation.Board.
type Revocations struct {
	kept records[[]revocation.Revocation]
}

// Revocations returns that of this installation.
func (c *Client) Revocations() *Revocations {
	return &Revocations{records[[]revocation.Revocation]{client: c, what: "revocations", purpose: c.sealedRevocations, most: maxRevocations}}
}

func (r *Revocations) name() string { return r.kept.client.cfg.Prefix + ":revoked" }

// Load implements revocation.Board. What doesn't open or is too big is nothing.
func (r *Revocations) Load(ctx context.Context) ([]revocation.Revocation, error) {
	list, err := r.kept.find(ctx, r.name(), "")
	if errors.Is(err, attest.ErrRejected) {
		return nil, nil
	}
	return list, err
}

// Save implements revocation.Board.
func (r *Revocations) Save(ctx context.Context, all []revocation.Revocation, until time.Time) error {
	return r.kept.keep(ctx, r.name(), "", all, until)
}
