package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

// tokenExchange is a good call of the token endpoint.
const tokenExchange = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&audience=reports&subject_token=x.y.z&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt"

func TestTokenExchange(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	for name, body := range map[string]string{
		"audience":           tokenExchange,
		"audience as an ARN": strings.Replace(tokenExchange, "audience=", "audience=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2F", 1),
		"resource":           strings.Replace(tokenExchange, "audience=", "resource=urn%3Acredbroker%3Arole%3A", 1),
		"scope":              strings.Replace(tokenExchange, "audience=", "scope=role%3A", 1),
		"all three":          tokenExchange + "&resource=urn%3Acredbroker%3Arole%3Areports&scope=role%3Areports",
		"what it asks for":   tokenExchange + "&requested_token_type=urn%3Acredbroker%3Atoken-type%3As3-credentials",
		"unknown parameters": tokenExchange + "&client_id=a&planted=b&actor_token=&scope=",
	} {
		got := send(t, "POST", base+"/oauth/token", formHeader(), body)
		var a struct {
			AccessToken string `json:"access_token"`
			IssuedType  string `json:"issued_token_type"`
			TokenType   string `json:"token_type"`
			ExpiresIn   int64  `json:"expires_in"`
		}
		if err := json.Unmarshal([]byte(got.body), &a); err != nil || got.status != 200 || got.header.Get("Cache-Control") != "no-store" || got.header.Get("Pragma") != "no-cache" {
			t.Fatalf("%s: %d %s %v", name, got.status, got.body, err)
		}
		const want = `{"Version":1,"AccessKeyId":"AKIATEST","SecretAccessKey":"s3cr3t/+key","SessionToken":"t0k.en","Expiration":"2030-01-02T03:04:05Z"}`
		left := int64(time.Until(expires) / time.Second)
		if a.AccessToken != want || a.IssuedType != "urn:credbroker:token-type:s3-credentials" || a.TokenType != "N_A" || a.ExpiresIn < left-1 || a.ExpiresIn > left+2 {
			t.Errorf("%s: %+v", name, a)
		}
		req, _ := b.asked()
		if req.Proof.Kind != attest.KindJWT || req.Proof.Data.Reveal() != "x.y.z" || req.Role != "reports" || req.Actor != nil || req.Floor != 22*time.Minute || !req.Source.IsValid() {
			t.Errorf("%s: %+v", name, req)
		}
	}
	send(t, "POST", base+"/oauth/token", formHeader(), strings.Replace(tokenExchange, "ietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt", "credbroker%3Atoken-type%3Aaws-proof", 1)+
		"&actor_token=a.b.c&actor_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aid_token")
	if req, _ := b.asked(); req.Proof.Kind != attest.KindAWS || req.Actor == nil || req.Actor.Kind != attest.KindJWT || req.Actor.Data.Reveal() != "a.b.c" {
		t.Errorf("with an actor: %+v", req)
	}
}

func TestTokenExchangeRefusals(t *testing.T) {
	b := &fakeBroker{}
	base, log := httpServer(t, b)
	replace := func(old, new string) string { return strings.Replace(tokenExchange, old, new, 1) }
	const actorType = "&actor_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt"
	for name, tc := range map[string]struct {
		header http.Header
		body   string
		want   string
		status int
	}{
		"no body":                    {formHeader(), "", "invalid_request", 400},
		"another grant":              {formHeader(), replace("token-exchange", "jwt-bearer"), "unsupported_grant_type", 400},
		"client credentials":         {formHeader(), "grant_type=client_credentials", "unsupported_grant_type", 400},
		"no subject":                 {formHeader(), replace("x.y.z", ""), "invalid_request", 400},
		"no subject type":            {formHeader(), replace("subject_token_type", "b"), "invalid_request", 400},
		"a SAML assertion":           {formHeader(), replace("%3Ajwt", "%3Asaml2"), "invalid_request", 400},
		"a type in another case":     {formHeader(), replace("token-type%3Ajwt", "token-type%3AJWT"), "invalid_request", 400},
		"actor without a type":       {formHeader(), tokenExchange + "&actor_token=a", "invalid_request", 400},
		"a type without an actor":    {formHeader(), tokenExchange + actorType, "invalid_request", 400},
		"an actor of another type":   {formHeader(), tokenExchange + "&actor_token=a&actor_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Arefresh_token", "invalid_request", 400},
		"another result":             {formHeader(), tokenExchange + "&requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt", "invalid_request", 400},
		"rich authorization":         {formHeader(), tokenExchange + "&authorization_details=%5B%5D", "invalid_request", 400},
		"twice":                      {formHeader(), tokenExchange + "&audience=reports", "invalid_request", 400},
		"no target":                  {formHeader(), replace("audience", "b"), "invalid_target", 400},
		"two targets":                {formHeader(), tokenExchange + "&scope=role%3Aadmin", "invalid_target", 400},
		"another resource":           {formHeader(), replace("audience=", "resource=https%3A%2F%2F"), "invalid_target", 400},
		"two scopes":                 {formHeader(), replace("audience=reports", "scope=role%3Areports+role%3Aadmin"), "invalid_target", 400},
		"no role's name":             {formHeader(), replace("reports", "..%2Fplanted"), "invalid_target", 400},
		"a client's secret":          {formHeader(), tokenExchange + "&client_id=a&client_secret=planted", "invalid_client", 401},
		"a client's assertion":       {formHeader(), tokenExchange + "&client_assertion=planted", "invalid_client", 401},
		"client authentication":      {http.Header{"Content-Type": formHeader()["Content-Type"], "Authorization": {"Basic cGxhbnRlZA=="}}, tokenExchange, "invalid_client", 401},
		"a token as the client's":    {http.Header{"Content-Type": formHeader()["Content-Type"], "Authorization": {"Bearer planted"}}, tokenExchange, "invalid_client", 401},
		"JSON":                       {http.Header{"Content-Type": {"application/json"}}, `{"grant_type":"planted"}`, "invalid_request", 400},
		"a policy that nobody reads": {formHeader(), tokenExchange + "&policy=%7B%7D", "invalid_request", 400},
	} {
		got := send(t, "POST", base+"/oauth/token", tc.header, tc.body)
		if got.status != tc.status || !strings.HasPrefix(got.body, `{"error":"`+tc.want+`",`) || (tc.status == 401) != (got.header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		if strings.Contains(got.body, "planted") {
			t.Errorf("%s: it repeats its input: %s", name, got.body)
		}
	}
	if _, n := b.asked(); n != 0 || strings.Contains(log.String(), "planted") {
		t.Errorf("%d of them reached the pipeline\n%s", n, log)
	}
}

func TestAuthorizationServerMetadata(t *testing.T) {
	base, _ := httpServer(t, &fakeBroker{})
	got := send(t, "GET", base+"/.well-known/oauth-authorization-server", nil, "")
	const want = `{"issuer":"https://b","token_endpoint":"https://b/oauth/token","grant_types_supported":["urn:ietf:params:oauth:grant-type:token-exchange"],"response_types_supported":[],"token_endpoint_auth_methods_supported":["none"]}`
	if got.status != 200 || got.body != want {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestFormsHaveAtMost64Parameters(t *testing.T) {
	var pairs []string
	for n := range maxParameters {
		pairs = append(pairs, fmt.Sprintf("p%d=a", n))
	}
	if f, err := parseForm(strings.Join(pairs, "&")); err != nil || len(f) != maxParameters {
		t.Errorf("%d: %v", len(f), err)
	}
	if _, err := parseForm(strings.Join(append(pairs, "more=a"), "&")); err == nil {
		t.Error("one more was taken")
	}
}
