package exchange

import (
	"context"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// CallerToken is the TokenSource that passes on the JWT which proved the caller, after the broker has verified it. It is the one
// exception to the rule that proofs are never forwarded: the back-end has to trust the same issuer, and decides by the token's own
// claims.
type CallerToken struct{}

// Token implements TokenSource. It returns ErrRefused for a caller that proved itself otherwise, or that somebody acts for: the
// back-end would see one of two.
func (CallerToken) Token(_ context.Context, req Request, expires time.Time) (secret.Secret, error) {
	switch {
	case req.Proof.Kind != attest.KindJWT:
		return secret.Secret{}, fmt.Errorf("%w: the caller's own token is to be shown, and it has shown %q", ErrRefused, req.Proof.Kind)
	case req.Identity.Actor != nil:
		return secret.Secret{}, fmt.Errorf("%w: the caller's own token is to be shown, and somebody acts for the caller", ErrRefused)
	case req.Identity.Expires.After(expires.Add(expirySlack)): // a grant is of whole seconds
		return secret.Secret{}, fmt.Errorf("%w: the caller's token ends at %s, %s was granted", ErrRefused,
			req.Identity.Expires.UTC().Format(time.RFC3339), expires.UTC().Format(time.RFC3339))
	}
	return req.Proof.Data, nil
}
