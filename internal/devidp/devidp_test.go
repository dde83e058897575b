package devidp_test

import (
	"io"
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
