// Package devidp is the identity provider of `broker dev`: it gives anyone on this machine a token for any of its users,
// without a password. It exists to try the broker out, listens on loopback alone, and says what it is.
package devidp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// TokenLife is how long tokens of this provider live.
const TokenLife = 5 * time.Minute

const keyID = "development-only"

// Provider issues tokens for its users.
type Provider struct {
	url      string
	audience string
	users    map[string][]string
	key      *ecdsa.PrivateKey
}

// New returns a provider that is reached under url and issues tokens for audience. Users maps a name to its groups.
func New(url, audience string, users map[string][]string) (*Provider, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Provider{url: url, audience: audience, users: users, key: key}, nil
}

// Token returns a token for a user: claims sub and groups. It lives TokenLife, or as long as life says if that is shorter and not zero. It
// fails for a user that isn't there.
func (p *Provider) Token(user string, now time.Time, life time.Duration) (string, error) {
	groups, ok := p.users[user]
	if !ok {
		return "", fmt.Errorf("no user %q: start with --user %s:group1,group2", user, user)
	}
	if life <= 0 || life > TokenLife {
		life = TokenLife
	}
	header, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": keyID})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": p.url, "sub": user, "aud": p.audience, "groups": groups,
		"iat": now.Unix(), "exp": now.Add(life).Unix(),
	})
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, digest[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// Handler serves discovery, keys (as a JWK Set, and in PEM for who wants that, as Kong does) and `POST /token` (form fields user and life, in
// seconds; the token as text).
func (p *Provider) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "This is credbroker's DEVELOPMENT identity provider. It asks nobody for a password. POST /token with user=NAME.")
	})
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{
			"issuer": p.url, "jwks_uri": p.url + "/jwks", "token_endpoint": p.url + "/token",
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	point, err := p.key.PublicKey.Bytes() // uncompressed: 4, x, y
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		if err != nil {
			http.Error(w, "no key", http.StatusInternalServerError)
			return
		}
		writeJSON(w, map[string]any{"keys": []map[string]string{{
			"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": keyID,
			"x": base64.RawURLEncoding.EncodeToString(point[1:33]),
			"y": base64.RawURLEncoding.EncodeToString(point[33:]),
		}}})
	})
	der, errDER := x509.MarshalPKIXPublicKey(p.key.Public())
	mux.HandleFunc("GET /key.pem", func(w http.ResponseWriter, _ *http.Request) {
		if errDER != nil {
			http.Error(w, "no key", http.StatusInternalServerError)
			return
		}
		_ = pem.Encode(w, &pem.Block{Type: "PUBLIC KEY", Bytes: der})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		// A page in a browser on this machine must not be able to fetch a token.
		if "http://"+r.Host != p.url || r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			http.Error(w, "not for browsers", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 4096)
		life, _ := strconv.ParseUint(r.PostFormValue("life"), 10, 16) // what is none gives the usual one
		token, err := p.Token(r.PostFormValue("user"), time.Now(), time.Duration(life)*time.Second)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprintln(w, token)
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
