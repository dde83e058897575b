// Package issuer is the broker's own OpenID Connect issuer, the one that MinIO is configured to trust.
//
// Its keys live in this process's memory alone, or in Vault alone (transit.go). What it mints is shown to the object store and to
// nobody else.
package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Config configures an Issuer.
type Config struct {
	// URL is `iss`, and the base of the two documents: <URL>/.well-known/openid-configuration and <URL>/jwks.
	URL string
	// RotateEvery is how long a key signs. A token is shown to MinIO at once and to nobody else, so that an interval of
	// minutes is long enough for a key to stay published after it signed.
	RotateEvery time.Duration
	// Board is where replicas see one another's public keys; nil if there is one broker alone.
	Board Board
	// Transit is the key in Vault that signs in place of keys of this process; nil for those. RotateEvery and Board aren't used then:
	// Vault rotates, and all replicas see the same versions.
	Transit *TransitConfig
	// Log hears of keys that can't be published; nobody does if nil.
	Log *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Issuer signs with one key and publishes three: the one before, the one that signs, and the next. So every key is
// published for a whole interval before it signs and for another after.
type Issuer struct {
	cfg       Config
	discovery []byte
	keys      atomic.Pointer[keySet]
	replicas  *replicas // nil without a board
	transit   *transit  // nil without a key in Vault; keys is nil with one
}

// keySet never changes once it is published.
type keySet struct {
	previous, current, next *key // previous is nil until the first rotation
	jwks                    []byte
}

// all are the keys of the set, the signing one first.
func (s *keySet) all() []*key {
	keys := []*key{s.current, s.next}
	if s.previous != nil {
		keys = append(keys, s.previous)
	}
	return keys
}

type key struct {
	id      string // RFC 7638 thumbprint
	private *ecdsa.PrivateKey
	x, y    string // base64url coordinates
}

// New returns an issuer with fresh keys. It answers from the first moment and depends on nothing; with a board, it mints
// once its keys are published there.
func New(cfg Config) (*Issuer, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.URL == "" || cfg.RotateEvery <= 0 && cfg.Transit == nil {
		return nil, errors.New("an issuer needs a URL, and an interval of rotation or a key in Vault")
	}
	discovery, err := json.Marshal(map[string]any{
		"issuer":                                cfg.URL,
		"jwks_uri":                              cfg.URL + "/jwks",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
	})
	if err != nil {
		return nil, err
	}
	if cfg.Transit != nil {
		return &Issuer{cfg: cfg, discovery: discovery, transit: newTransit(*cfg.Transit)}, nil
	}
	current, err := newKey()
	if err != nil {
		return nil, err
	}
	next, err := newKey()
	if err != nil {
		return nil, err
	}
	i := &Issuer{cfg: cfg, discovery: discovery}
	if cfg.Board != nil {
		i.replicas = newReplicas(cfg.Board)
	}
	return i, i.publish(&keySet{current: current, next: next})
}

// Discovery is the OpenID provider configuration document (OpenID Connect Discovery 1.0, section 3). Nobody changes it.
func (i *Issuer) Discovery() []byte { return i.discovery }

// URL is the issuer's, `iss`.
func (i *Issuer) URL() string { return i.cfg.URL }

// JWKS is the JWK set (RFC 7517, section 5) in force, with the other replicas' keys as they are now, or, if that can't be
// known within ctx or two seconds, as they were last known. Nobody changes it.
//
// With a key in Vault it is that of its versions, read again if a second has passed, and has none until they could be read once.
func (i *Issuer) JWKS(ctx context.Context) []byte {
	if i.transit != nil {
		return i.transit.jwks(ctx)
	}
	if i.replicas == nil {
		return i.keys.Load().jwks
	}
	i.look(ctx)
	set, err := marshalJWKS(i.served())
	if err != nil {
		return i.keys.Load().jwks
	}
	return set
}

// KeyIDs are the IDs of this broker's own keys, the signing one first.
func (i *Issuer) KeyIDs() []string {
	var ids []string
	if i.transit != nil {
		return i.transit.keyIDs(i.cfg.Now())
	}
	for _, k := range i.keys.Load().all() {
		ids = append(ids, k.id)
	}
	return ids
}

// Run rotates the keys every Config.RotateEvery, and publishes them to the other replicas, until ctx ends. A replica that
// can't publish its next key goes on with the one that it signs with.
func (i *Issuer) Run(ctx context.Context) {
	if i.transit != nil {
		i.transit.run(ctx)
		return
	}
	if i.replicas != nil {
		i.runReplicated(ctx)
		return
	}
	tick := time.NewTicker(i.cfg.RotateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// Making a key can't fail but for a broken random source, which crypto/rand makes fatal; a failure keeps the set.
			_ = i.rotate()
		}
	}
}

// rotate lets the next key sign and publishes the one after it. It is called by one goroutine at a time.
func (i *Issuer) rotate() error {
	next, err := newKey()
	if err != nil {
		return err
	}
	set := i.keys.Load()
	return i.publish(&keySet{previous: set.current, current: set.next, next: next})
}

func (i *Issuer) publish(set *keySet) (err error) {
	if set.jwks, err = marshalJWKS(set.all()); err != nil {
		return err
	}
	i.keys.Store(set)
	return nil
}

func marshalJWKS(keys []*key) ([]byte, error) {
	type jwk struct {
		KeyType   string `json:"kty"`
		Curve     string `json:"crv"`
		Use       string `json:"use"`
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		X         string `json:"x"`
		Y         string `json:"y"`
	}
	var doc struct {
		Keys []jwk `json:"keys"`
	}
	for _, k := range keys {
		doc.Keys = append(doc.Keys, jwk{"EC", "P-256", "sig", "ES256", k.id, k.x, k.y})
	}
	return json.Marshal(doc)
}

func newKey() (*key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	point, err := private.PublicKey.Bytes() // 4, then x and y of 32 bytes each (SEC 1, section 2.3.3)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	x, y := encode(point[1:33]), encode(point[33:])
	return &key{id: thumbprint(x, y), private: private, x: x, y: y}, nil
}

// thumbprint is RFC 7638's for a P-256 key: SHA-256 over its required members in lexical order.
func thumbprint(x, y string) string {
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	return encode(sum[:])
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
