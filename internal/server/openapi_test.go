package server

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/credbroker/credbroker/internal/attest"
)

func openAPIDocument(t *testing.T) (*openapi3.T, routers.Router) {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return doc, router
}

func TestOpenAPIHasExactlyTheRoutes(t *testing.T) {
	doc, _ := openAPIDocument(t)
	if !strings.HasPrefix(doc.OpenAPI, "3.0.") {
		t.Errorf("version %s", doc.OpenAPI)
	}
	for path, route := range httpRoutes {
		item := doc.Paths.Value(path)
		if item == nil {
			t.Errorf("%s is served and not in the document", path)
			continue
		}
		for _, method := range route.methods {
			if method != http.MethodHead && item.GetOperation(method) == nil {
				t.Errorf("%s %s is served and not in the document", method, path)
			}
		}
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !slices.Contains(httpRoutes[path].methods, method) {
				t.Errorf("%s %s is in the document and not served", method, path)
			}
		}
	}
}

func TestOpenAPIHasExactlyTheCodes(t *testing.T) {
	doc, _ := openAPIDocument(t)
	var listed []string
	for _, v := range doc.Components.Schemas["Code"].Value.Enum {
		listed = append(listed, v.(string))
	}
	want := Codes()
	slices.Sort(listed)
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Errorf("document: %v\ntable:    %v", listed, want)
	}
}

// openAPICheck sends real requests and holds both sides of them against the document.
type openAPICheck struct {
	base   string
	router routers.Router
}

func (c openAPICheck) run(t *testing.T, method, path string, header http.Header, body string) (status int, requestFits bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	route, params, err := c.router.FindRoute(req)
	if err != nil {
		t.Fatal(err)
	}
	in := &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true},
	}
	requestErr := openapi3filter.ValidateRequest(t.Context(), in)
	req.Body = io.NopCloser(strings.NewReader(body))

	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: resp.StatusCode, Header: resp.Header, Options: in.Options}
	out.SetBodyBytes(data)
	if err := openapi3filter.ValidateResponse(t.Context(), out); err != nil {
		t.Errorf("%s %s: %d %s: %v", method, path, resp.StatusCode, bytes.TrimSpace(data), err)
	}
	return resp.StatusCode, requestErr == nil
}

func TestOpenAPIHoldsForRequestsAndAnswers(t *testing.T) {
	openapi3filter.RegisterBodyDecoder("application/yaml", openapi3filter.FileBodyDecoder)
	defer openapi3filter.UnregisterBodyDecoder("application/yaml")
	openapi3filter.RegisterBodyDecoder("text/xml", openapi3filter.PlainBodyDecoder)
	defer openapi3filter.UnregisterBodyDecoder("text/xml")
	_, router := openAPIDocument(t)
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	check := openAPICheck{base, router}
	form := bearerHeader("t")
	form.Set("X-Credbroker-Role", "r")

	for _, c := range []struct {
		method, path string
		header       http.Header
		body         string
		fits         bool
	}{
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r"}`, true},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","policy":"{}","ttl_seconds":900}`, true},
		{"POST", "/v1/credentials", http.Header{"Content-Type": {"application/json"}}, `{"role":"r","jwt":"t"}`, true},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","actor":{"jwt":"a"}}`, true},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","actor":{"peer_certificate":true}}`, true},
		{"POST", "/v1/explain", bearerHeader("t"), `{"actor":{"aws_proof":"k8s-aws-v1.a"}}`, true},
		{"POST", "/v1/explain", bearerHeader("t"), `{}`, true},
		{"POST", "/v1/explain", bearerHeader("t"), ``, true},
		{"GET", "/v1/roles", bearerHeader("t"), ``, true},
		{"POST", "/v1/gateway/sessions", bearerHeader("t"), `{"role":"kong","ttl_seconds":60}`, true},
		{"POST", "/v1/gateway/sessions", bearerHeader("t"), `{"role":"kong","policy":"{}"}`, false},
		{"POST", "/v1/sign", bearerHeader("t"), signBody, true},
		{"POST", "/v1/presign", bearerHeader("t"), `{"role":"r","requests":[{"method":"GET"}],"actor":{"jwt":"a"}}`, true},
		{"POST", "/v1/sign", bearerHeader("t"), `{"role":"r","requests":[]}`, false},
		{"POST", "/v1/sign", bearerHeader("t"), `{"role":"r","requests":[{"method":"GET"}],"expires_in_seconds":61}`, false},
		{"GET", "/v1/credentials/headers", form, ``, true},
		{"POST", "/v1/credentials/headers", form, ``, true},
		{"GET", "/.well-known/openid-configuration", http.Header{}, ``, true},
		{"GET", "/jwks", http.Header{}, ``, true},
		{"GET", "/openapi.yaml", http.Header{}, ``, true},
		{"GET", "/.well-known/oauth-authorization-server", http.Header{}, ``, true},
		{"POST", "/sts", formHeader(), webIdentity, true},
		{"POST", "/sts", formHeader(), webIdentity + "&DurationSeconds=900&RoleSessionName=app&Policy=%7B%7D", true},
		{"GET", "/v1/container-credentials/reports", http.Header{"Authorization": {"x.y.z"}}, ``, true},
		{"POST", "/oauth/token", formHeader(), tokenExchange, true},
		{"POST", "/sts", formHeader(), webIdentity + "&RoleSessionName=a", false},
		{"POST", "/oauth/token", formHeader(), strings.Replace(tokenExchange, "jwt", "saml2", 1), false},

		{"POST", "/v1/credentials", bearerHeader("t"), `{}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), ``, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":""}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":null}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":1}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","more":1}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","ttl_seconds":0}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","ttl_seconds":1.5}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","ttl_seconds":2147483648}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","ttl_seconds":"60"}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","actor":{}}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","actor":{"jwt":"a","peer_certificate":true}}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","actor":{"peer_certificate":false}}`, false},
		{"POST", "/v1/credentials", bearerHeader("t"), `{"role":"r","policy":{}}`, false},
		{"POST", "/v1/explain", bearerHeader("t"), `{"role":"r"}`, false},
		{"GET", "/v1/credentials/headers", bearerHeader("t"), ``, false},
	} {
		status, fits := check.run(t, c.method, c.path, c.header, c.body)
		if fits != c.fits || (status < 300) != c.fits {
			t.Errorf("%s %s %s: answered with %d; fits the document: %v, want %v", c.method, c.path, c.body, status, fits, c.fits)
		}
	}
	for _, want := range wantErrors {
		b.fail(want.sentinel)
		for _, path := range []string{"/v1/credentials", "/v1/explain"} {
			body := `{"role":"r"}`
			if path == "/v1/explain" {
				body = `{}`
			}
			if status, _ := check.run(t, "POST", path, bearerHeader("t"), body); status != want.http {
				t.Errorf("%s: %d, want %d", want.code, status, want.http)
			}
		}
	}
	// What an identity may lack.
	data := identityToJSON(&attest.Identity{Kind: attest.KindOIDC})
	if data.Actor != nil || data.Tenant != "" || identityToJSON(nil) != nil {
		t.Errorf("%+v", data)
	}
}
