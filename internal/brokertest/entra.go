package brokertest

import (
	"crypto/rand"
	"crypto/sha1" // of a certificate, as RFC 7517 has it
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// EntraVersion is a version of Entra's access tokens: which one an application gets is a setting of the API that the token is for
// (requestedAccessTokenVersion in its manifest).
type EntraVersion int

// The versions, with the issuers https://sts.windows.net/TENANT/ and https://login.microsoftonline.com/TENANT/v2.0.
const (
	EntraV1 EntraVersion = 1
	EntraV2 EntraVersion = 2
)

// ManagedIdentity is a managed identity of Azure: a service principal that a resource uses.
type ManagedIdentity struct {
	ObjectID, AppID string
	// Resource is the Azure resource ID: of the resource that has the identity, or of the identity where it was assigned by a user.
	Resource string
}

// Entra is a stand-in on loopback for one tenant of Microsoft Entra and the managed identities of an App Service: the identity endpoint
// that azidentity asks, the tenant's keys, and its token endpoint for workloads of a federated Kubernetes cluster. It is strict: the
// endpoints know no other parameters than those of their documentation. It is safe for concurrent use.
type Entra struct {
	// TenantID is the tenant's.
	TenantID string
	// URL is where the keys and the token endpoint are, by https; CAFile is its certificate.
	URL, CAFile string
	// FederatedToken is the one token of a Kubernetes cluster that the token endpoint takes, and User the identity that it gives for it.
	FederatedToken string
	// IMDSHost is the host:port of a virtual machine's metadata service, which gives the System identity's tokens.
	IMDSHost string
	// IdentityEndpoint and IdentityHeader are for the environment variables IDENTITY_ENDPOINT and IDENTITY_HEADER.
	IdentityEndpoint, IdentityHeader string
	// Version is that of the tokens. Change it before the first request.
	Version EntraVersion
	// APIClientID is the client ID of the API that tokens are for. The endpoint's tokens of version 2 have it as `aud`, by whatever name
	// the API was asked for; those of version 1 have that name.
	APIClientID string
	// System is the App Service's own identity, User one that was assigned to it besides; it is asked for by its client ID (AppID),
	// its object ID or its resource ID. Change them before the first request.
	System, User ManagedIdentity

	Endpoints

	now  func() time.Time
	keys []entraKey // the last one signs
}

// entraKey is a key with its certificate, whose SHA-1 is the kid.
type entraKey struct {
	*jwtKey
	certificate []byte
}

// Paths of an Entra: of the identity endpoint, and below a tenant of the token endpoint.
const (
	EntraIdentityPath = "/msi/token"
	EntraTokenPath    = "/oauth2/v2.0/token"
)

// NewEntra starts one that issues tokens of version 1. They are dated by now, or by time.Now if it is nil. It stops with the test.
func NewEntra(t testing.TB, now func() time.Time) *Entra {
	t.Helper()
	if now == nil {
		now = time.Now
	}
	const group = "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourcegroups/reports/providers/"
	e := &Entra{
		now: now, Version: EntraV1, TenantID: "72f988bf-86f1-41af-91ab-2d7cd011db47",
		IdentityHeader: "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a", APIClientID: "c2a6d1f7-5b1e-4b0c-8d4a-3e5f7a9b2c04",
		FederatedToken: "eyJ.of.a-pod",
		System:         ManagedIdentity{"f1b3c1a2-8a4e-4c52-9a27-1d3c2d5c6f01", "5e29463d-71da-4fe0-8e69-999b57db23b0", group + "Microsoft.Web/sites/reports"},
		User:           ManagedIdentity{"0a9c7f5e-2d4b-4d0f-8b63-7c7b5a1e9d02", "7d1c5b0a-3f0e-4f2b-9a55-2e7a6c8b1f03", group + "Microsoft.ManagedIdentity/userAssignedIdentities/backup"},
	}
	for _, name := range []string{"entra's former", "entra"} {
		e.keys = append(e.keys, newEntraKey(t, name, now()))
	}
	var endpoint string
	serve(t, http.HandlerFunc(e.identity), false, &endpoint)
	e.IdentityEndpoint = endpoint + EntraIdentityPath
	e.CAFile = serve(t, http.HandlerFunc(e.tenant), true, &e.URL)
	var metadata string
	serve(t, http.HandlerFunc(e.imds), false, &metadata)
	e.IMDSHost = strings.TrimPrefix(metadata, "http://")
	return e
}

// Environ is what an App Service's process has in its environment, as NAME=VALUE.
func (e *Entra) Environ() []string {
	return []string{"IDENTITY_ENDPOINT=" + e.IdentityEndpoint, "IDENTITY_HEADER=" + e.IdentityHeader}
}

// FederatedEnviron is what a process in a federated cluster has in its environment, as NAME=VALUE; the token is written to tokenFile. It
// has to trust CAFile.
func (e *Entra) FederatedEnviron(t testing.TB, tokenFile string) []string {
	t.Helper()
	writeFile(t, tokenFile, []byte(e.FederatedToken))
	return []string{"AZURE_FEDERATED_TOKEN_FILE=" + tokenFile, "AZURE_CLIENT_ID=" + e.User.AppID, "AZURE_TENANT_ID=" + e.TenantID, "AZURE_AUTHORITY_HOST=" + e.URL + "/"}
}

// Issuer is the issuer of the tokens.
func (e *Entra) Issuer() string {
	if e.Version == EntraV2 {
		return "https://login.microsoftonline.com/" + e.TenantID + "/v2.0"
	}
	return "https://sts.windows.net/" + e.TenantID + "/"
}

// JWKSPath is where on URL the tenant's keys are.
func (e *Entra) JWKSPath() string {
	if e.Version == EntraV2 {
		return "/" + e.TenantID + "/discovery/v2.0/keys"
	}
	return "/" + e.TenantID + "/discovery/keys"
}

// Token signs what a managed identity gets for an audience: tid, oid and sub, idtyp, xms_mirid, appid or azp, ver; iat and nbf are five
// minutes ago, exp is 24 hours from now. An override replaces or adds a claim, or removes it if it is nil.
func (e *Entra) Token(id ManagedIdentity, audience string, overrides map[string]any) string {
	now := e.now().Unix()
	claims := map[string]any{
		"aud": audience, "iss": e.Issuer(), "iat": now - 300, "nbf": now - 300, "exp": now + 86400, "aio": "k2RgYFi1", "idtyp": "app",
		"oid": id.ObjectID, "rh": "1.AQEAv4j5cvGGr0GRqy180BHbR1.", "sub": id.ObjectID, "tid": e.TenantID, "uti": "5eQmHhk_p0K4m1v9", "xms_mirid": id.Resource,
	}
	if e.Version == EntraV2 {
		claims["azp"], claims["azpacr"], claims["ver"] = id.AppID, "2", "2.0"
	} else {
		claims["appid"], claims["appidacr"], claims["idp"], claims["ver"] = id.AppID, "2", e.Issuer(), "1.0"
	}
	return e.Sign(nil, merge(claims, overrides))
}

// Sign signs whatever it is given with the tenant's key, as IDP.Sign does; the algorithm is RS256. As Entra's, the header has x5t too in
// version 1.
func (e *Entra) Sign(header map[string]any, claims any) string {
	k, base := e.keys[len(e.keys)-1], map[string]any{}
	if e.Version == EntraV1 {
		base["x5t"] = k.kid
	}
	return k.sign(merge(base, header), claims)
}

// tenant serves what a tenant has.
func (e *Entra) tenant(w http.ResponseWriter, r *http.Request) {
	authority := "/" + e.TenantID + "/v2.0"
	switch {
	case e.intercept(w, r):
	case r.URL.Path == e.JWKSPath():
		e.keySet(w)
	case r.URL.Path == authority+"/.well-known/openid-configuration":
		writeJSON(w, map[string]any{
			"issuer": e.URL + authority, "authorization_endpoint": e.URL + "/" + e.TenantID + "/oauth2/v2.0/authorize",
			"token_endpoint": e.URL + "/" + e.TenantID + EntraTokenPath, "jwks_uri": e.URL + "/" + e.TenantID + "/discovery/v2.0/keys",
		})
	case r.URL.Path == "/"+e.TenantID+EntraTokenPath && r.Method == http.MethodPost:
		e.federated(w, r)
	default:
		http.NotFound(w, r)
	}
}

// federated is the token endpoint for the token of another issuer
// (https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow, the third case).
func (e *Entra) federated(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	// Microsoft's library adds scopes that are for users.
	scopes := slices.DeleteFunc(strings.Fields(r.PostFormValue("scope")), func(s string) bool { return s == "openid" || s == "offline_access" || s == "profile" })
	api, ok := strings.CutSuffix(strings.Join(scopes, " "), "/.default")
	for name, value := range map[string]string{
		"grant_type": "client_credentials", "client_id": e.User.AppID, "client_assertion": e.FederatedToken,
		"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
	} {
		ok = ok && r.PostFormValue(name) == value
	}
	if !ok {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(marshal(map[string]any{"error": "invalid_request", "error_description": "AADSTS900144: as told"}))
		return
	}
	writeJSON(w, map[string]any{"token_type": "Bearer", "expires_in": 86399, "ext_expires_in": 86399, "access_token": e.Token(e.User, e.audience(api), nil)})
}

// audience is the `aud` of tokens that are asked for an API by one of its names.
func (e *Entra) audience(api string) string {
	if e.Version == EntraV2 {
		return e.APIClientID
	}
	return api
}

// keySet serves the tenant's JWK Set. As Entra's, it names no alg, and has certificates.
func (e *Entra) keySet(w http.ResponseWriter) {
	var keys []any
	for _, k := range e.keys {
		members := map[string]any{"use": "sig", "x5t": k.kid, "x5c": []string{base64.StdEncoding.EncodeToString(k.certificate)}}
		if e.Version == EntraV2 {
			members["issuer"] = e.Issuer()
		}
		keys = append(keys, k.jwk(members))
	}
	writeJSON(w, map[string]any{"keys": keys})
}

func newEntraKey(t testing.TB, name string, now time.Time) entraKey {
	t.Helper()
	k := rsaKey(name)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "accounts.accesscontrol.windows.net"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(5 * 365 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.private.Public(), k.private)
	if err != nil {
		t.Fatal(err)
	}
	thumbprint := sha1.Sum(der)
	k.kid = base64url(thumbprint[:])
	return entraKey{k, der}
}

// identity is the endpoint of an App Service
// (https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference).
func (e *Entra) identity(w http.ResponseWriter, r *http.Request) {
	if e.intercept(w, r) {
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	refuse := func(status int, message string) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write(marshal(map[string]any{"statusCode": status, "message": message}))
	}
	id, found := e.chosen(query)
	switch {
	case r.Method != http.MethodGet || r.URL.Path != EntraIdentityPath:
		refuse(http.StatusNotFound, "no such endpoint")
	case r.Header.Get("X-Identity-Header") != e.IdentityHeader:
		refuse(http.StatusUnauthorized, "X-IDENTITY-HEADER is missing or wrong")
	case err != nil || query.Get("api-version") != "2019-08-01" ||
		!known(query, "api-version", "resource", "client_id", "object_id", "principal_id", "mi_res_id"):
		refuse(http.StatusBadRequest, "The api-version or a parameter is not known.")
	case query.Get("resource") == "":
		refuse(http.StatusBadRequest, "The resource is missing.")
	case !found:
		refuse(http.StatusBadRequest, "No managed identity was found for specified parameters.")
	default:
		writeJSON(w, map[string]any{
			"access_token": e.Token(id, e.audience(query.Get("resource")), nil), "client_id": id.AppID, "resource": query.Get("resource"), "token_type": "Bearer",
			"expires_on": strconv.FormatInt(e.now().Add(24*time.Hour).Unix(), 10),
		})
	}
}

// imds is the metadata service of a virtual machine
// (https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token#get-a-token-using-http).
func (e *Entra) imds(w http.ResponseWriter, r *http.Request) {
	if e.intercept(w, r) {
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	switch {
	case r.Method != http.MethodGet || r.URL.Path != "/metadata/identity/oauth2/token":
		http.NotFound(w, r)
	case r.Header.Get("Metadata") != "true" || r.Header.Get("X-Forwarded-For") != "":
		http.Error(w, `{"error":"invalid_request","error_description":"Required metadata header not specified"}`, http.StatusBadRequest)
	case err != nil || query.Get("api-version") != "2018-02-01" || query.Get("resource") == "" || !known(query, "api-version", "resource"):
		http.Error(w, `{"error":"invalid_request","error_description":"a parameter is missing or not known"}`, http.StatusBadRequest)
	default:
		writeJSON(w, map[string]any{
			"access_token": e.Token(e.System, e.audience(query.Get("resource")), nil), "client_id": e.System.AppID, "expires_in": "86399",
			"expires_on": strconv.FormatInt(e.now().Add(24*time.Hour).Unix(), 10), "resource": query.Get("resource"), "token_type": "Bearer",
		})
	}
}

// chosen is the identity that a query asks for.
func (e *Entra) chosen(query url.Values) (id ManagedIdentity, found bool) {
	for name, value := range map[string]string{
		"client_id": e.User.AppID, "object_id": e.User.ObjectID, "principal_id": e.User.ObjectID, "mi_res_id": e.User.Resource,
	} {
		if query.Has(name) {
			return e.User, strings.EqualFold(query.Get(name), value)
		}
	}
	return e.System, true
}
