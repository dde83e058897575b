package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

// backdate is how far `iat` lies before the broker's clock: MinIO refuses a token whose `iat` is a second ahead of its own.
const backdate = 30 * time.Second

// ErrNotAllowed means that a token was asked for that its source must not mint. It is a fault in the broker or its
// configuration, never the caller's.
var ErrNotAllowed = fmt.Errorf("%w: the token source may not mint that", exchange.ErrRefused)

// SourceConfig configures a Source.
type SourceConfig struct {
	// Audience is `aud`: the client ID that MinIO is configured with.
	Audience string
	// AllowedPolicies is everything that tokens of this source may name.
	AllowedPolicies []string
	// Dangerous allows AllowedPolicies to hold consoleAdmin and diagnostics.
	Dangerous bool
	// NoPolicies is for audiences that take none, as AWS: then AllowedPolicies is empty, and so is what tokens name.
	NoPolicies bool
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Source mints tokens for one audience, out of a list of policies that no role can widen. It is an exchange.TokenSource.
type Source struct {
	issuer *Issuer
	cfg    SourceConfig
}

// Source returns a token source. It fails if the audience or the list is empty, or holds a dangerous policy that
// cfg.Dangerous doesn't allow.
func (i *Issuer) Source(cfg SourceConfig) (*Source, error) {
	if cfg.Audience == "" || cfg.NoPolicies != (len(cfg.AllowedPolicies) == 0) {
		return nil, errors.New("a token source needs an audience, and allowed policies or none at all")
	}
	for _, p := range cfg.AllowedPolicies {
		// MinIO takes a comma for a separator, so a name with one would be two.
		if p == "" || strings.ContainsAny(p, ", ") {
			return nil, fmt.Errorf("allowed policy %q: not the name of one policy", p)
		}
		if policy.Dangerous(p) && !cfg.Dangerous {
			return nil, fmt.Errorf("allowed policy %q reaches beyond objects: it needs `dangerous: true`", p)
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.AllowedPolicies = slices.Clone(cfg.AllowedPolicies)
	return &Source{issuer: i, cfg: cfg}, nil
}

// claims of a minted token. MinIO reads the first six; the others are for its audit log and for policy variables.
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience string   `json:"aud"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	Policies []string `json:"policy,omitempty"`
	ID       string   `json:"jti"`

	Role            string `json:"credbroker_role"`
	IdentityIssuer  string `json:"credbroker_issuer"`
	IdentitySubject string `json:"credbroker_subject"`
	RequestID       string `json:"credbroker_request_id,omitempty"`
}

// Token mints a JWT (RFC 7519) that names the grant's policies and ends at expires, cut to whole seconds. It returns
// ErrNotAllowed for policies that aren't all of the source's, for none, and for an end that, so cut, has passed;
// exchange.ErrUnavailable as long as the other replicas don't know the key.
func (s *Source) Token(ctx context.Context, req exchange.Request, expires time.Time) (secret.Secret, error) {
	if len(req.Grant.Policies) == 0 && !s.cfg.NoPolicies {
		return secret.Secret{}, fmt.Errorf("%w: no policy", ErrNotAllowed)
	}
	for _, p := range req.Grant.Policies {
		if !slices.Contains(s.cfg.AllowedPolicies, p) {
			return secret.Secret{}, fmt.Errorf("%w: policy %q of role %q isn't one of the exchanger's allowed_policies", ErrNotAllowed, p, req.Grant.Role)
		}
	}
	if why := s.issuer.Status(); why != "" && s.issuer.transit == nil {
		return secret.Secret{}, fmt.Errorf("%w: %s", exchange.ErrUnavailable, why)
	}
	now := s.cfg.Now()
	expires = expires.Truncate(time.Second)
	if !expires.After(now) {
		return secret.Secret{}, fmt.Errorf("%w: a token that has ended", ErrNotAllowed)
	}
	return s.issuer.sign(ctx, claims{
		Issuer: s.issuer.cfg.URL, Subject: Subject(req.Identity), Audience: s.cfg.Audience,
		IssuedAt: now.Add(-backdate).Unix(), Expires: expires.Unix(),
		Policies: req.Grant.Policies, ID: randomID(),
		Role: req.Grant.Role, IdentityIssuer: req.Identity.Issuer, IdentitySubject: req.Identity.Subject,
		RequestID: req.Correlation.RequestID,
	})
}

// Subject is the `sub` of tokens minted for an identity: its kind and a hash over who it is, each part preceded by its
// length. MinIO makes its parent user of sub, a colon and iss, so no two identities may share a sub, whatever their names.
func Subject(id attest.Identity) string {
	h := sha256.New()
	for who := &id; who != nil; who = who.Actor {
		for _, part := range []string{string(who.Kind), who.Issuer, who.Tenant, who.Subject} {
			var length [8]byte
			binary.BigEndian.PutUint64(length[:], uint64(len(part)))
			h.Write(length[:])
			h.Write([]byte(part))
		}
	}
	return string(id.Kind) + "_" + encode(h.Sum(nil))
}

// sign makes a compact JWS with ES256 (RFC 7515, RFC 7518 section 3.4).
func (i *Issuer) sign(ctx context.Context, c claims) (secret.Secret, error) {
	if i.transit != nil {
		k, err := i.transit.current(ctx, i.cfg.Now())
		if err != nil {
			return secret.Secret{}, err
		}
		input, err := signingInput(k.id, c)
		if err != nil {
			return secret.Secret{}, err
		}
		signature, err := i.transit.sign(ctx, k, input)
		if err != nil {
			return secret.Secret{}, err
		}
		return secret.New(input + "." + signature), nil
	}
	k := i.keys.Load().current
	input, err := signingInput(k.id, c)
	if err != nil {
		return secret.Secret{}, err
	}
	digest := sha256.Sum256([]byte(input))
	r, sig, err := ecdsa.Sign(rand.Reader, k.private, digest[:])
	if err != nil {
		return secret.Secret{}, fmt.Errorf("sign: %w", err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	sig.FillBytes(signature[32:])
	return secret.New(input + "." + encode(signature[:])), nil
}

// signingInput is header and payload in base64url, with a dot between (RFC 7515, section 5.1).
func signingInput(keyID string, c claims) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": keyID})
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	return encode(header) + "." + encode(payload), nil
}

func randomID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // crypto/rand.Read never fails
	return encode(id[:])
}
