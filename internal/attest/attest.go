// Package attest says what a proof of identity and an identity are. Each protocol that turns one into the other
// is a subpackage.
package attest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/secret"
)

// Kind names a kind of proof or of identity. It is a closed set: a metric label and a word of roles' conditions.
type Kind string

// The kinds of proofs. One of a kind can prove identities of several.
const (
	// KindJWT is a JSON Web Token of a configured issuer.
	KindJWT Kind = "jwt"
	// KindAWS is a GetCallerIdentity request of AWS STS that the caller signed. It is a kind of identity as well.
	KindAWS Kind = "aws"
	// KindX509 is the client certificate of the connection. It is a kind of identity as well.
	KindX509 Kind = "x509"
	// KindGateway is a gateway's word on a consumer that it has verified, under the key of a session (GatewaySession).
	KindGateway Kind = "gateway"
	// KindSigV4 is a request for STS that was signed with an access key which the broker knows.
	KindSigV4 Kind = "sigv4"
	// KindMinted is the same with credentials that the broker minted. It is a kind of identity as well, of who has such credentials: that
	// proves who somebody is to whoever asks, and gives no role, so that credentials can't beget others.
	KindMinted Kind = "minted"
)

// The kinds of identities.
const (
	// KindOIDC is a subject of an OpenID Connect issuer.
	KindOIDC Kind = "oidc"
	// KindGCP is a service account of Google Cloud.
	KindGCP Kind = "gcp"
	// KindAzure is a service principal of Microsoft Entra.
	KindAzure Kind = "azure"
	// KindKubernetes is a service account of Kubernetes.
	KindKubernetes Kind = "kubernetes"
	// KindSPIFFE is a workload with a SPIFFE ID.
	KindSPIFFE Kind = "spiffe"
	// KindKong is a consumer of Kong.
	KindKong Kind = "kong"
	// KindAccessKey is the holder of an access key of the configuration's.
	KindAccessKey Kind = "access_key"
	// KindStaticKey is a gateway that has a key which lasts.
	KindStaticKey Kind = "static_key"
)

// IssuerAccessKeys is the issuer of KindAccessKey: the configuration vouches for its keys.
const IssuerAccessKeys = "access_keys"

// IssuerGatewayKeys is the same of KindStaticKey.
const IssuerGatewayKeys = "gateway_keys"

// Errors of [Verifier.Verify]. The text wrapped around them is for the log alone; a caller learns only which of
// the three it was, and of the first two not even that, unless it was ErrUsed or ErrExpired.
var (
	// ErrMalformed means that the proof is not what its kind says: it could not be parsed.
	ErrMalformed = errors.New("malformed proof")
	// ErrRejected means that the proof was read and does not hold: signature, time, audience, issuer.
	ErrRejected = errors.New("proof rejected")
	// ErrUsed is an ErrRejected: the proof is for a single use, and was used before.
	ErrUsed = fmt.Errorf("%w: it was used before", ErrRejected)
	// ErrExpired is an ErrRejected: the proof held once, in every other respect holds still, and has ended.
	ErrExpired = fmt.Errorf("%w: it has expired", ErrRejected)
	// ErrUnavailable means that the proof could not be judged now, since what it takes (an issuer's keys, say)
	// can't be reached. The same proof may pass later.
	ErrUnavailable = errors.New("proof can't be verified now")
)

// Proof is what a caller shows. It is untrusted in every part.
type Proof struct {
	Kind Kind
	// Data is the proof itself: for KindJWT the compact JWT (RFC 7519); for KindAWS what package awsiam says; for KindX509 the
	// certificates that the connection's peer sent, in DER, one after the other, the leaf first: TLS has seen to it that the peer has
	// the leaf's key, and to nothing else; for KindGateway, KindSigV4 and KindMinted what packages gateway and sigv4 say.
	Data secret.Secret
}

// Identity is who a verifier found the caller to be. It is a value: nobody changes one after Verify returned it.
type Identity struct {
	Kind Kind
	// Issuer is who vouches for the subject, byte for byte as configured (an OIDC issuer's URL).
	Issuer string
	// Tenant separates subjects of one issuer that may carry the same name; empty where there is no such thing.
	Tenant string
	// Subject is unique and never reassigned within (Kind, Issuer, Tenant).
	Subject string
	// Session is a name that the subject chose for this use of it (an AWS role's session). It is for the audit log alone: rules don't see
	// it, and credentials don't depend on it.
	Session string
	// Attrs are further facts from the proof, by configured name, each with one value or more.
	Attrs map[string][]string
	// PathAttrs names the attributes whose values are paths, in which "/" separates segments.
	PathAttrs map[string]bool
	// Expires is when the proof ends.
	Expires time.Time
	// Actor is who acts for the subject (RFC 8693, section 4.1); nil if the subject acts itself.
	Actor *Identity
}

// Verifier turns one kind of proof into an identity.
type Verifier interface {
	// Verify returns the identity, or an error that is (errors.Is) ErrMalformed, ErrRejected or ErrUnavailable,
	// or the context's. It is safe for concurrent use.
	Verify(ctx context.Context, p Proof) (Identity, error)
}
