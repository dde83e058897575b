package prove

import (
	"context"
	"errors"
	"fmt"

	"github.com/credbroker/credbroker/internal/secret"
)

// maxToken is the largest token that a broker takes, in bytes.
const maxToken = 16 << 10

// TokenFile proves with the token that a file holds: one JWT of at most 16 KiB; a line ending after it doesn't count. The file
// is read anew for each proof. That is one small read for each call to the broker, some minutes apart, and it can't miss a
// rotation as watching the file or its times might.
//
// Typical paths are that of a projected Kubernetes service account token with the broker's audience, such as
// /var/run/secrets/tokens/credbroker, and whatever a CI system or a login helper writes. Whoever replaces the file should
// rename a new one over it, as the kubelet does, so that no half-written token is read.
//
// Prove fails if the file can't be read, is empty or too large, or holds something else than one token.
func TokenFile(path string) Prover {
	return proverFunc(func(context.Context) (Proof, error) {
		token, err := secret.ReadFile(path, maxToken)
		if err != nil {
			return Proof{}, fmt.Errorf("token: %w", err)
		}
		proof, err := tokenProof(token.Reveal())
		if err != nil {
			return Proof{}, fmt.Errorf("token: %s %w", path, err)
		}
		return proof, nil
	})
}

// TokenFunc proves with the tokens that f returns: JWTs of at most 16 KiB, in compact form. f is called for each proof, at times
// by several goroutines, so it should keep a token that is still good. It adapts other libraries' token sources, as in
//
//	prove.TokenFunc(func(context.Context) (string, error) {
//		token, err := source.Token() // golang.org/x/oauth2
//		if err != nil {
//			return "", err
//		}
//		return token.AccessToken, nil
//	})
//
// Prove returns f's errors, and fails if what f returns is no token.
func TokenFunc(f func(ctx context.Context) (string, error)) Prover {
	return proverFunc(func(ctx context.Context) (Proof, error) {
		token, err := f(ctx)
		if err != nil {
			return Proof{}, fmt.Errorf("token: %w", err)
		}
		proof, err := tokenProof(token)
		if err != nil {
			return Proof{}, fmt.Errorf("token: what was given %w", err)
		}
		return proof, nil
	})
}

// Token proves with one token: a JWT of at most 16 KiB, in compact form. Credentials can't be renewed once it has expired, so it
// suits what is done within a token's life. Prove fails if token isn't a token.
func Token(token string) Prover {
	return TokenFunc(func(context.Context) (string, error) { return token, nil })
}

type proverFunc func(ctx context.Context) (Proof, error)

func (f proverFunc) Prove(ctx context.Context) (Proof, error) { return f(ctx) }

// tokenProof checks that a token can be sent in a header (RFC 6750, section 2.1: b64token). Whether it's any good is for the
// broker to say. The errors go on after the name of where the token came from.
func tokenProof(token string) (Proof, error) {
	if token == "" {
		return Proof{}, errors.New("is empty")
	}
	if len(token) > maxToken {
		return Proof{}, fmt.Errorf("is larger than %d bytes", maxToken)
	}
	for i := range len(token) {
		switch c := token[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '.', c == '_', c == '~', c == '+', c == '/', c == '=':
		default:
			return Proof{}, fmt.Errorf("holds something else than one token: byte %d can't be part of a JWT", i+1)
		}
	}
	return NewProof(JWT, token), nil
}
