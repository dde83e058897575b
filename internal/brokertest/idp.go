package brokertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

	t   testing.TB
	now func() time.Time

	mu       sync.Mutex
	keys     []*idpKey // the last one signs
	serial   int
	handlers map[string]http.HandlerFunc
	requests map[string]int
}

type idpKey struct {
	kid     string
	private *ecdsa.PrivateKey
	copies  int // how often it is in the JWKS
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
	p := &IDP{t: t, now: o.now, handlers: map[string]http.HandlerFunc{}, requests: map[string]int{}}
	p.Rotate()
	server := httptest.NewUnstartedServer(p)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are part of the tests
	p.URL = "http://" + server.Listener.Addr().String()
	if o.tls {
		p.URL = "https://" + server.Listener.Addr().String()
		server.StartTLS()
		p.CAFile = filepath.Join(t.TempDir(), "idp-ca.pem")
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		if err := os.WriteFile(p.CAFile, cert, 0o600); err != nil {
			t.Fatal(err)
		}
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
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
	payload, raw := claims.(string)
	if !raw {
		payload = string(p.marshal(claims))
	}
	head := p.marshal(merge(map[string]any{"alg": "ES256", "typ": "JWT", "kid": k.kid}, header))
	input := base64url(head) + "." + base64url([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, digest[:])
	if err != nil {
		panic(err) // P-256 with the system's randomness does not fail
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + base64url(signature)
}

// Rotate makes a new key the one that signs, publishes it beside the older ones, and returns its kid.
func (p *IDP) Rotate() string {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serial++
	k := &idpKey{kid: fmt.Sprintf("key-%d", p.serial), private: private, copies: 1}
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

// Handle makes a path misbehave: h answers instead. With nil the path behaves again. Requests are counted all the same.
func (p *IDP) Handle(path string, h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handlers[path] = h
}

// Requests is how many requests the path got.
func (p *IDP) Requests(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests[path]
}

// ServeHTTP implements http.Handler.
func (p *IDP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests[r.URL.Path]++
	h := p.handlers[r.URL.Path]
	p.mu.Unlock()
	switch {
	case h != nil:
		h(w, r)
	case r.URL.Path == DiscoveryPath:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(p.marshal(map[string]any{
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
	keys := []map[string]string{}
	for _, k := range p.keys {
		point, err := k.private.PublicKey.Bytes() // 4, x, y
		if err != nil {
			panic(err) // a P-256 key always has a point
		}
		for range k.copies {
			keys = append(keys, map[string]string{
				"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": k.kid,
				"x": base64url(point[1:33]), "y": base64url(point[33:]),
			})
		}
	}
	return p.marshal(map[string]any{"keys": keys})
}

func (p *IDP) marshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // the test passed what JSON can't hold
	}
	return data
}

func merge(base, overrides map[string]any) map[string]any {
	maps.Copy(base, overrides)
	maps.DeleteFunc(base, func(_ string, v any) bool { return v == nil })
	return base
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
