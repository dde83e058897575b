package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	grantType = "urn:ietf:params:oauth:grant-type:token-exchange"
	tokenType = "urn:ietf:params:oauth:token-type:jwt" //nolint:gosec // the name of a type
	metadata  = "/.well-known/oauth-authorization-server"
)

// exchanged wants a successful answer of RFC 8693, section 2.2.1.
func exchanged(_ *Target, a *answer) string {
	var got struct {
		AccessToken     string  `json:"access_token"`
		IssuedTokenType string  `json:"issued_token_type"`
		TokenType       string  `json:"token_type"`
		ExpiresIn       float64 `json:"expires_in"`
	}
	if err := json.Unmarshal(a.body, &got); a.status != http.StatusOK || err != nil {
		return a.String() + ", and no answer of a token endpoint"
	}
	if got.AccessToken == "" || got.IssuedTokenType == "" || got.TokenType == "" || got.ExpiresIn <= 0 {
		return fmt.Sprintf("an access_token of %d bytes, issued_token_type %q, token_type %q, expires_in %v",
			len(got.AccessToken), clip(got.IssuedTokenType), clip(got.TokenType), got.ExpiresIn)
	}
	return ""
}

// described wants metadata that lead here.
func described(t *Target, a *answer) string {
	var got struct {
		Issuer        string   `json:"issuer"`
		TokenEndpoint string   `json:"token_endpoint"`
		GrantTypes    []string `json:"grant_types_supported"`
	}
	if err := json.Unmarshal(a.body, &got); a.status != http.StatusOK || err != nil {
		return a.String() + ", and no metadata"
	}
	at, err := url.Parse(got.TokenEndpoint)
	if err != nil || got.Issuer == "" || at.Path != t.Endpoint.Path || !slices.Contains(got.GrantTypes, grantType) {
		return fmt.Sprintf("issuer %q, token_endpoint %q, grant_types_supported %q", clip(got.Issuer), clip(got.TokenEndpoint), clip(strings.Join(got.GrantTypes, " ")))
	}
	return ""
}

func oauthChecks(t *Target) []check {
	form := func(changes ...string) url.Values {
		f := url.Values{"grant_type": {grantType}, "subject_token": {t.Token}, "subject_token_type": {tokenType}, "audience": {t.Role}}
		for i := 0; i < len(changes); i += 2 {
			if f.Set(changes[i], changes[i+1]); changes[i+1] == "" {
				f.Del(changes[i])
			}
		}
		return f
	}
	good, bad := request{form: form()}, []int{400}
	request400 := refused(bad, "invalid_request")
	return []check{
		{"success", "200 with access_token, issued_token_type, token_type, expires_in", "RFC 8693, 2.2.1", good, exchanged},
		{"content-type", "application/json", "RFC 6749, 5.1", good, contentType("application/json")},
		{"no-store", "Cache-Control: no-store", "RFC 6749, 5.1", good, noStore},
		{"metadata", "metadata with issuer, this token_endpoint, and the grant type", "RFC 8414, 3.2", request{method: http.MethodGet, path: metadata}, described},
		{"error-shape", `{"error":"...","error_description":"..."} as application/json, no-store`, "RFC 6749, 5.2", request{form: form("subject_token", "x.y.z")}, all(contentType("application/json"), noStore, jsonShape("error"))},
		{"no-grant-type", "400 invalid_request", "RFC 6749, 5.2", request{form: form("grant_type", "")}, request400},
		{"other-grant-type", "400 unsupported_grant_type", "RFC 6749, 5.2", request{form: form("grant_type", "password")}, refused(bad, "unsupported_grant_type")},
		{"no-subject-token", "400 invalid_request", "RFC 8693, 2.1", request{form: form("subject_token", "")}, request400},
		{"no-subject-token-type", "400 invalid_request", "RFC 8693, 2.1", request{form: form("subject_token_type", "")}, request400},
		{"other-subject-token-type", "400 invalid_request", "RFC 8693, 2.1", request{form: form("subject_token_type", "urn:ietf:params:oauth:token-type:saml2")}, request400},
		{"bad-subject-token", "400 invalid_request", "RFC 8693, 2.2.2", request{form: form("subject_token", t.Token+"x")}, request400},
		{"actor-without-type", "400 invalid_request", "RFC 8693, 2.1", request{form: form("actor_token", t.Token)}, request400},
		{"type-without-actor", "400 invalid_request", "RFC 8693, 2.1", request{form: form("actor_token_type", tokenType)}, request400},
		{"unknown-target", "400 invalid_target", "RFC 8693, 2.2.2", request{form: form("audience", "conformance-no-such-role")}, refused(bad, "invalid_target")},
		{"other-requested-type", "400 invalid_request", "RFC 8693, 2.2.2", request{form: form("requested_token_type", "urn:ietf:params:oauth:token-type:saml2")}, request400},
		{"twice", "400 invalid_request: subject_token twice", "RFC 6749, 3.2", request{body: form().Encode() + "&subject_token=other"}, request400},
		{"query-and-body", "refused: audience in the query", urlsAreKept, request{form: form(), query: "audience=other"}, refused(clientFault)},
		{"query", "refused: everything in the query", urlsAreKept, request{query: form().Encode()}, refused(clientFault)},
		{"get", "refused: GET", "RFC 6749, 3.2", request{method: http.MethodGet, query: form().Encode()}, refused(clientFault)},
		{"json", "refused: a form that calls itself JSON", "RFC 6749, 3.2", request{form: form(), typ: "application/json"}, refused(clientFault)},
		{"oversize", "400 or 413 for a form of 1 MB", "bounded work", request{form: form("state", strings.Repeat("x", 1<<20))}, refused([]int{400, 413})},
		{"client-authentication", "401 invalid_client, or 400, for a client that is unknown", "RFC 6749, 5.2", request{form: form(), header: http.Header{"Authorization": {"Basic bm9ib2R5Om5vdGhpbmc="}}}, refused([]int{400, 401}, "invalid_client")},
	}
}
