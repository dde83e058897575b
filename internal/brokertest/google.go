package brokertest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Paths that a Google answers.
const (
	GoogleJWKSPath        = "/oauth2/v3/certs"                                       // keys of identity tokens, over https
	GoogleAccountJWKSPath = "/service_accounts/v1/jwk/"                              // and an account's e-mail address: the account's own keys, over https
	GoogleMetadataPath    = "/computeMetadata/v1/instance/"                          // what the metadata server says of the instance, over http
	GoogleIdentityPath    = GoogleMetadataPath + "service-accounts/default/identity" // its identity tokens
	GoogleAccessPath      = GoogleMetadataPath + "service-accounts/default/token"    // its access tokens
)

// GCEInstance is an instance of Compute Engine, as its identity tokens describe it.
type GCEInstance struct {
	ServiceAccount, UniqueID    string // e-mail address and ID of the account that it runs as
	ProjectID, Zone, ID, Name   string
	ProjectNumber, CreationTime int64
}

// Google is a stand-in on loopback for what Google has for workloads: an instance's metadata server, the keys that verify its
// identity tokens, and service accounts that sign JWTs. It is strict: the metadata server takes no request that
// the real one refuses, and knows no other parameter than those of its documentation. It is safe for concurrent use.
type Google struct {
	// MetadataHost is the metadata server's host:port, for GCE_METADATA_HOST.
	MetadataHost string
	// URL is where the keys are, by https; CAFile is its certificate.
	URL, CAFile string
	// IAMURL is the IAM Service Account Credentials API, over http: service accounts sign for the instance's access token.
	IAMURL string
	// Instance is whose metadata server it is. Change it before the first request.
	Instance GCEInstance

	Endpoints

	now    func() time.Time
	key    *jwtKey
	access string
}

// GoogleIssuer is the issuer of Google's identity tokens.
const GoogleIssuer = "https://accounts.google.com"

// NewGoogle starts one with an instance. Tokens are dated by now, or by time.Now if it is nil. It stops with the test.
func NewGoogle(t testing.TB, now func() time.Time) *Google {
	t.Helper()
	if now == nil {
		now = time.Now
	}
	g := &Google{now: now, key: rsaKey("google"), access: "ya29." + random(16), Instance: GCEInstance{
		ServiceAccount: "backup@example-project.iam.gserviceaccount.com", UniqueID: "112233445566778899001",
		ProjectID: "example-project", ProjectNumber: 123456789012, Zone: "europe-west1-b",
		ID: "4567890123456789012", Name: "backup-1", CreationTime: 1735689600,
	}}
	var metadata string
	serve(t, http.HandlerFunc(g.metadata), false, &metadata)
	g.MetadataHost = strings.TrimPrefix(metadata, "http://")
	g.CAFile = serve(t, http.HandlerFunc(g.keys), true, &g.URL)
	serve(t, http.HandlerFunc(g.signJWT), false, &g.IAMURL)
	return g
}

// Token signs what the metadata server gives for format=full: iss, sub, azp, aud, email, email_verified, iat now, exp in an hour, and
// google.compute_engine. An override replaces or adds a claim, or removes it if it is nil.
func (g *Google) Token(audience string, overrides map[string]any) string {
	i := g.Instance
	return g.Sign(nil, merge(merge(g.standard(audience), map[string]any{
		"email": i.ServiceAccount, "email_verified": true,
		"google": map[string]any{"compute_engine": map[string]any{
			"instance_creation_timestamp": i.CreationTime, "instance_id": i.ID, "instance_name": i.Name,
			"project_id": i.ProjectID, "project_number": i.ProjectNumber, "zone": i.Zone,
		}},
	}), overrides))
}

// standard are the claims of every identity token.
func (g *Google) standard(audience string) map[string]any {
	now := g.now().Unix()
	return map[string]any{
		"iss": GoogleIssuer, "sub": g.Instance.UniqueID, "azp": g.Instance.UniqueID, "aud": audience, "iat": now, "exp": now + 3600,
	}
}

// Sign signs whatever it is given with Google's key, as IDP.Sign does; the algorithm is RS256.
func (g *Google) Sign(header map[string]any, claims any) string { return g.key.sign(header, claims) }

// AccountToken signs what a service account has signed as a rule (projects.serviceAccounts.signJwt): iss and sub are its e-mail
// address, aud, iat now, exp in five minutes. An override replaces or adds a claim, or removes it if it is nil.
func (g *Google) AccountToken(email, audience string, overrides map[string]any) string {
	now := g.now().Unix()
	return g.SignJWT(email, nil, merge(map[string]any{"iss": email, "sub": email, "aud": audience, "iat": now, "exp": now + 300}, overrides))
}

// SignJWT signs whatever it is given with the key of a service account, as IDP.Sign does; the algorithm is RS256.
func (g *Google) SignJWT(email string, header map[string]any, claims any) string {
	return rsaKey(email).sign(header, claims)
}

// keys serves the JWK Sets.
func (g *Google) keys(w http.ResponseWriter, r *http.Request) {
	if g.intercept(w, r) {
		return
	}
	k := g.key
	if email, ok := strings.CutPrefix(r.URL.Path, GoogleAccountJWKSPath); ok && strings.Contains(email, "@") {
		k = rsaKey(email)
	} else if r.URL.Path != GoogleJWKSPath {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=20000")
	writeJSON(w, map[string]any{"keys": []any{
		k.jwk(map[string]any{"alg": "RS256", "use": "sig"}),
		rsaKey("google's next").jwk(map[string]any{"alg": "RS256", "use": "sig"}), // there is always one that doesn't sign yet
	}})
}

// metadata is the metadata server (https://cloud.google.com/compute/docs/metadata/querying-metadata and
// https://cloud.google.com/compute/docs/instances/verifying-instance-identity).
func (g *Google) metadata(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	w.Header().Set("Server", "Metadata Server for VM")
	if g.intercept(w, r) {
		return
	}
	if r.URL.Path == GoogleAccessPath && r.Method == http.MethodGet && r.Header.Get("Metadata-Flavor") == "Google" {
		writeJSON(w, map[string]any{"access_token": g.access, "expires_in": 3599, "token_type": "Bearer"})
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	audience, format := query["audience"], query.Get("format")
	switch {
	case r.Method != http.MethodGet:
		http.Error(w, "method", http.StatusMethodNotAllowed)
	case r.Header.Get("Metadata-Flavor") != "Google" || r.Header.Get("X-Forwarded-For") != "":
		http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
	case r.URL.Path != GoogleIdentityPath && r.URL.Path != strings.Replace(GoogleIdentityPath, "default", g.Instance.ServiceAccount, 1):
		http.NotFound(w, r)
	case err != nil || !known(query, "audience", "format", "licenses"):
		http.Error(w, "unknown parameter", http.StatusBadRequest)
	case len(audience) != 1 || audience[0] == "":
		http.Error(w, "non-empty audience parameter required", http.StatusBadRequest)
	case format == "full":
		_, _ = w.Write([]byte(g.Token(audience[0], nil)))
	case format == "" || format == "standard":
		_, _ = w.Write([]byte(g.Sign(nil, g.standard(audience[0]))))
	default:
		http.Error(w, "unknown format", http.StatusBadRequest)
	}
}

// signJWT is projects.serviceAccounts.signJwt
// (https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/signJwt).
func (g *Google) signJWT(w http.ResponseWriter, r *http.Request) {
	if g.intercept(w, r) {
		return
	}
	account, _ := strings.CutPrefix(r.URL.Path, "/v1/projects/-/serviceAccounts/")
	account, found := strings.CutSuffix(account, ":signJwt")
	var body struct{ Payload string }
	var claims map[string]any
	decode := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	decode.DisallowUnknownFields()
	switch err := decode.Decode(&body); {
	case r.Method != http.MethodPost || !found || !strings.Contains(account, "@"):
		http.NotFound(w, r)
	case r.Header.Get("Authorization") != "Bearer "+g.access:
		http.Error(w, `{"error":{"code":401,"status":"UNAUTHENTICATED"}}`, http.StatusUnauthorized)
	case err != nil || json.Unmarshal([]byte(body.Payload), &claims) != nil:
		http.Error(w, `{"error":{"code":400,"status":"INVALID_ARGUMENT"}}`, http.StatusBadRequest)
	default:
		writeJSON(w, map[string]any{"keyId": rsaKey(account).kid, "signedJwt": g.SignJWT(account, nil, body.Payload)})
	}
}

// known says whether a query has no other parameters than these, and each once at most.
func known(query url.Values, names ...string) bool {
	left := len(query)
	for _, name := range names {
		if values, ok := query[name]; ok && len(values) == 1 {
			left--
		}
	}
	return left == 0
}
