package fromvault

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/vault"
)

// maxToken bounds an identity token.
const maxToken = 16 << 10

// IdentityTokens is an exchange.TokenSource of Vault's identity tokens (GET identity/oidc/token/ROLE). Their claims and life are the
// role's in Vault, and their subject is the broker's own entity, whoever they are for: so what they may do at MinIO doesn't depend on
// the grant, and a session policy alone bounds it further.
type IdentityTokens struct {
	Client *vault.Client
	// Role is the name of the role.
	Role string
}

// Token implements exchange.TokenSource. A token that would live longer than until expires is ErrBadResult: Vault can't shorten it.
func (s IdentityTokens) Token(ctx context.Context, _ exchange.Request, expires time.Time) (secret.Secret, error) {
	path := "identity/oidc/token/" + s.Role
	a, err := s.Client.Do(ctx, vault.Call{Path: path})
	if err != nil {
		return secret.Secret{}, asExchange(err)
	}
	text, err := a.Text("token", maxToken)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("%w: %s: %w", exchange.ErrBadResult, path, err)
	}
	token := secret.New(text)
	end, err := endOfToken(token)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("%w: %s: %w", exchange.ErrBadResult, path, err)
	}
	if end.After(expires.Add(expirySlack)) {
		return secret.Secret{}, fmt.Errorf("%w: %s gives tokens until %s, but was granted until %s: set the ttl of the role in Vault to the least that roles grant",
			exchange.ErrBadResult, path, stamp(end), stamp(expires))
	}
	return token, nil
}

// endOfToken is `exp` of a JWT, whose signature is MinIO's to verify.
func endOfToken(token secret.Secret) (time.Time, error) {
	parts := strings.SplitN(token.Reveal(), ".", 4)
	if len(parts) != 3 {
		return time.Time{}, errors.New("it is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, errors.New("it is no JWT")
	}
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Expires <= 0 {
		return time.Time{}, errors.New("its exp is no number")
	}
	return time.Unix(claims.Expires, 0), nil
}
