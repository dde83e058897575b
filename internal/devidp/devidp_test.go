package devidp_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/devidp"
	"github.com/credbroker/credbroker/internal/secret"
)

// start serves a provider with alice (developers) and bob (nothing).
func start(t *testing.T) (url string) {
	t.Helper()
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	p, err := devidp.New(server.URL, "credbroker", map[string][]string{"alice": {"developers"}, "bob": {}})
	if err != nil {
		t.Fatal(err)
	}
	handler = p.Handler()
	return server.URL
}

func fetch(t *testing.T, url, user string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url+"/token", strings.NewReader("user="+user))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if len(header) == 2 {
		req.Header.Set(header[0], header[1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

func TestItsTokensPassTheVerifier(t *testing.T) {
	url := start(t)
	status, token := fetch(t, url, "alice")
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, token)
	}
	v, err := jwtproof.New([]jwtproof.Issuer{{
		Name: "development", Issuer: url, Keys: jwtproof.KeySource{Discovery: true}, Audiences: []string{"credbroker"}, SoleAudience: true,
		Algorithms: []string{"ES256"}, Types: []string{"JWT"}, Attributes: map[string]jwtproof.Attribute{"groups": {Claim: "groups"}},
	}}, jwtproof.Options{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)})
	if err != nil {
		t.Fatal(err)
	}
	if id.Subject != "alice" || id.Attrs["groups"][0] != "developers" || time.Until(id.Expires) > devidp.TokenLife {
		t.Errorf("%+v", id)
	}
}

func TestItKnowsItsUsersAlone(t *testing.T) {
	if status, body := fetch(t, start(t), "mallory"); status != http.StatusNotFound || !strings.Contains(body, "--user mallory") {
		t.Errorf("%d %s", status, body)
	}
}

func TestAnotherNameForThisMachineGetsNoToken(t *testing.T) {
	url := start(t)
	req, err := http.NewRequest(http.MethodPost, url+"/token", strings.NewReader("user=alice"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "rebound.example"
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("%d", resp.StatusCode)
	}
}

func TestAPageInABrowserGetsNoToken(t *testing.T) {
	url := start(t)
	for _, header := range [][]string{{"Origin", "https://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}} {
		if status, body := fetch(t, url, "alice", header...); status != http.StatusForbidden || strings.Contains(body, "eyJ") {
			t.Errorf("%v: %d %s", header, status, body)
		}
	}
}

// Who shows what happens after a token's end has no five minutes to wait for it; and some want the key in PEM.
func TestShortTokensAndTheKeyInPEM(t *testing.T) {
	p, err := devidp.New("http://127.0.0.1:1", "credbroker", map[string][]string{"alice": nil})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p.Handler())
	t.Cleanup(server.Close)
	now := time.Unix(1_700_000_000, 0)
	for life, want := range map[time.Duration]time.Duration{0: devidp.TokenLife, -time.Second: devidp.TokenLife, time.Hour: devidp.TokenLife, 20 * time.Second: 20 * time.Second} {
		token, err := p.Token("alice", now, life)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil || !strings.Contains(string(payload), fmt.Sprintf(`"exp":%d,`, now.Add(want).Unix())) {
			t.Errorf("%s: %s %v", life, payload, err)
		}
	}
	resp, err := http.Get(server.URL + "/key.pem") //nolint:noctx // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	block, _ := pem.Decode(text)
	if err != nil || block == nil {
		t.Fatalf("%s %v", text, err)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	// It verifies what the provider signs.
	token, err := p.Token("alice", now, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndex(token, ".")
	signed, mark := token[:at], token[at+1:]
	signature, err := base64.RawURLEncoding.DecodeString(mark)
	digest := sha256.Sum256([]byte(signed))
	public, ok := key.(*ecdsa.PublicKey)
	if err != nil || !ok || !ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		t.Errorf("another key: %v", err)
	}
}
