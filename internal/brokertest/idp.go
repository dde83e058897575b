package brokertest

import (
	"crypto/elliptic"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Paths that an IDP answers.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	JWKSPath      = "/jwks"
)

// IDP is an OpenID Connect provider on loopback: discovery, JWKS and ES256 keys. It does what a test tells it to, wrong
// things included. It is safe for concurrent use.
type IDP struct {
	// URL is the issuer.
	URL string
	// CAFile is the provider's certificate; empty without WithTLS.
	CAFile string

	Endpoints

	now func() time.Time

	mu     sync.Mutex
	keys   []*idpKey // the last one signs
	serial int
}

type idpKey struct {
	*jwtKey
	copies int // how often it is in the JWKS
}

// IDPOption changes what NewIDP makes.
type IDPOption func(*idpOptions)

type idpOptions struct {
	tls bool
	now func() time.Time
}

// WithTLS makes the provider serve https, with a certificate that CAFile holds.
func WithTLS() IDPOption { return func(o *idpOptions) { o.tls = true } }

// WithClock makes tokens be dated by now instead of time.Now.
func WithClock(now func() time.Time) IDPOption { return func(o *idpOptions) { o.now = now } }

// NewIDP starts a provider with one key. It stops with the test.
func NewIDP(t testing.TB, opts ...IDPOption) *IDP {
	t.Helper()
	o := idpOptions{now: time.Now}
	for _, opt := range opts {
		opt(&o)
	}
	p := &IDP{now: o.now}
	p.Rotate()
	p.CAFile = serve(t, p, o.tls, &p.URL)
	return p
}

// Token signs a good token: iss, sub "alice", aud "credbroker", iat now, exp in 5 minutes. An override replaces or adds a
// claim, or removes it if it is nil.
func (p *IDP) Token(overrides map[string]any) string {
	now := p.now()
	return p.Sign(nil, merge(map[string]any{
		"iss": p.URL, "sub": "alice", "aud": "credbroker", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}, overrides))
}

// Sign signs whatever it is given with the current key and ES256. The header is {"alg":"ES256","typ":"JWT","kid":…} with
// the overrides, of which nil removes a member. Claims are marshaled; a string is taken as the raw payload.
func (p *IDP) Sign(header map[string]any, claims any) string {
	p.mu.Lock()
	k := p.keys[len(p.keys)-1]
	p.mu.Unlock()
	return k.sign(header, claims)
}

// Rotate makes a new key the one that signs, publishes it beside the older ones, and returns its kid.
func (p *IDP) Rotate() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serial++
	k := &idpKey{newECKey(fmt.Sprintf("key-%d", p.serial), elliptic.P256()), 1}
	p.keys = append(p.keys, k)
	return k.kid
}

// KID is the name of the key that signs.
func (p *IDP) KID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys[len(p.keys)-1].kid
}

// Publish says how often a key is in the JWKS: 0 hides it, 2 makes the set one with a duplicate kid.
func (p *IDP) Publish(kid string, copies int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.keys {
		if k.kid == kid {
			k.copies = copies
		}
	}
}

// ServeHTTP implements http.Handler.
func (p *IDP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case p.intercept(w, r):
	case r.URL.Path == DiscoveryPath:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(marshal(map[string]any{
			"issuer": p.URL, "jwks_uri": p.URL + JWKSPath,
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"ES256"},
		}))
	case r.URL.Path == JWKSPath:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(p.JWKS())
	default:
		http.NotFound(w, r)
	}
}

// JWKS is the JWK Set as it is published now.
func (p *IDP) JWKS() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := []map[string]any{}
	for _, k := range p.keys {
		for range k.copies {
			keys = append(keys, k.jwk(map[string]any{"use": "sig", "alg": "ES256"}))
		}
	}
	return marshal(map[string]any{"keys": keys})
}
