// Package prove makes the proofs of identity that a broker is shown.
//
// A [Prover] is asked before each call to the broker, so a proof that changes under way - a Kubernetes service account token
// that the kubelet rotates, a token that an identity provider gives out for an hour - is picked up without a restart. Make one
// with [TokenFile], [TokenFunc] or [Token], with [AWS], [AWSToken], [Azure], [GCP] or [SPIFFE] for what those platforms give to
// workloads, or implement the interface.
package prove

import (
	"context"
	"log/slog"

	"github.com/credbroker/credbroker/internal/secret"
)

// Kind says what a proof is, and so how it is sent.
type Kind string

// JWT is a token of an issuer that the broker is configured for, in compact form; at most 16 KiB. The broker knows by its `iss` and `sub`
// whose it is: an OpenID Connect issuer's, or that of a platform.
const JWT Kind = "jwt"

// A Prover makes proofs of who the caller is. It must be safe for concurrent use.
//
// Prove is called for each call to the broker, must come to an end once ctx does, and returns a proof that is good now. Its
// errors reach the application as they are, so they must not hold the proof.
type Prover interface {
	Prove(ctx context.Context) (Proof, error)
}

// Proof is what a broker is shown. It holds a secret and prints none: fmt, slog and JSON get its kind at most.
type Proof struct {
	kind Kind
	data secret.Secret
}

// NewProof is a proof of a kind, with what the kind says it consists of.
func NewProof(kind Kind, data string) Proof { return Proof{kind: kind, data: secret.New(data)} }

// Kind is the proof's kind.
func (p Proof) Kind() Kind { return p.kind }

// Reveal returns what NewProof was given. It is made to be sent to a broker, and nowhere else.
func (p Proof) Reveal() string { return p.data.Reveal() }

// String implements fmt.Stringer without the secret.
func (p Proof) String() string { return string(p.kind) + " proof " + secret.Redacted }

// GoString implements fmt.GoStringer without the secret.
func (p Proof) GoString() string { return p.String() }

// LogValue implements slog.LogValuer without the secret.
func (p Proof) LogValue() slog.Value { return slog.StringValue(p.String()) }
