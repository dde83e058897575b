package vault

import (
	"context"
	"errors"
	"fmt"

	"github.com/credbroker/credbroker/internal/secret"
)

const (
	maxToken    = 16 << 10 // a Vault token or a JWT
	maxSecretID = 4 << 10
)

// Login is a way to say to Vault who the broker is: TokenFile, AppRole, JWT, Certificate, AWS, GCP or Azure. What it reads from files it
// reads anew for each login.
type Login interface {
	// login returns a token. Its errors are those of Client.Do, or say what on this machine is wrong.
	login(ctx context.Context, c *Client) (*session, error)
}

// TokenFile takes the token that somebody else keeps alive, as a Vault Agent does (sink "file"). The file is looked at each second.
type TokenFile struct{ Path string }

func (f TokenFile) login(context.Context, *Client) (*session, error) {
	token, err := f.read()
	if err != nil {
		return nil, err
	}
	return &session{token: token, foreign: true}, nil
}

func (f TokenFile) read() (secret.Secret, error) {
	token, err := secret.ReadFile(f.Path, maxToken)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("token file: %w", err)
	}
	if !printable(token) {
		return secret.Secret{}, fmt.Errorf("token file: %s holds something else than one token", f.Path)
	}
	return token, nil
}

// JWT logs in with a JWT from a file: the auth methods jwt and kubernetes take it in the same form.
type JWT struct{ Mount, Role, Path string }

func (l JWT) login(ctx context.Context, c *Client) (*session, error) {
	token, err := secret.ReadFile(l.Path, maxToken)
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	return c.logIn(ctx, l.Mount, "login", map[string]any{"role": l.Role, "jwt": token.Reveal()})
}

// Certificate logs in with the client certificate of the connection (auth method cert).
type Certificate struct {
	Mount string
	// Role is the name of a certificate role; whichever matches if empty.
	Role string
}

func (l Certificate) login(ctx context.Context, c *Client) (*session, error) {
	fields := map[string]any{}
	if l.Role != "" {
		fields["name"] = l.Role
	}
	return c.logIn(ctx, l.Mount, "login", fields)
}

// AppRole logs in with a role ID and a secret ID, each from a file.
type AppRole struct {
	Mount string
	// Role is the name of the AppRole; needed where the secret ID is wrapped.
	Role string
	// RoleIDFile holds the role ID.
	RoleIDFile string
	// SecretIDFile holds the secret ID, or with Wrapped the token that it is wrapped in, which is good for one login; a token
	// refreshed there later is used for the next one.
	SecretIDFile string
	Wrapped      bool
}

func (l AppRole) login(ctx context.Context, c *Client) (*session, error) {
	role, err := secret.ReadFile(l.RoleIDFile, maxSecretID)
	if err != nil {
		return nil, fmt.Errorf("role ID: %w", err)
	}
	id, err := secret.ReadFile(l.SecretIDFile, maxSecretID)
	if err != nil {
		return nil, fmt.Errorf("secret ID: %w", err)
	}
	if l.Wrapped {
		if id, err = l.unwrap(ctx, c, id); err != nil {
			return nil, err
		}
	}
	return c.logIn(ctx, l.Mount, "login", map[string]any{"role_id": role.Reveal(), "secret_id": id.Reveal()})
}

// unwrap takes a secret ID out of its wrapping. Somebody who could read the wrapping token on its way could have unwrapped it and
// wrapped something else: so it's looked first at where Vault says that the token was made, which can't be forged.
func (l AppRole) unwrap(ctx context.Context, c *Client, token secret.Secret) (secret.Secret, error) {
	const used = "the secret ID's wrapping token was used already, or has ended: put a new one into the file, and if nobody else should have had it, see who did"
	if !printable(token) {
		return secret.Secret{}, errors.New("secret ID: the file holds something else than one wrapping token")
	}
	// Unwrapping takes the wrapping token for the token of the request.
	wrapping := &session{token: token, foreign: true}
	a, err := c.send(ctx, nil, Call{Write: true, Path: "sys/wrapping/lookup", Body: map[string]any{"token": token.Reveal()}})
	if errors.Is(err, ErrRefused) {
		return secret.Secret{}, fmt.Errorf("%w: %s", err, used)
	}
	if err != nil {
		return secret.Secret{}, err
	}
	made, err := a.Text("creation_path", 1024)
	if err != nil {
		return secret.Secret{}, err
	}
	if want := "auth/" + l.Mount + "/role/" + l.Role + "/secret-id"; made != want {
		return secret.Secret{}, fmt.Errorf("%w: the secret ID's wrapping token was made by %q; expected %q: somebody may have replaced it", ErrRefused, clip(made), want)
	}
	a, err = c.send(ctx, wrapping, Call{Write: true, Path: "sys/wrapping/unwrap"})
	if errors.Is(err, ErrRefused) {
		return secret.Secret{}, fmt.Errorf("%w: %s", err, used)
	}
	if err != nil {
		return secret.Secret{}, err
	}
	id, err := a.Text("secret_id", maxSecretID)
	if err != nil {
		return secret.Secret{}, err
	}
	return secret.New(id), nil
}
