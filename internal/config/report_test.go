package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("f", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWarnings(t *testing.T) {
	got := mustParse(t, "").Warnings()
	want := []string{"issuers: ", "exchangers: ", "roles: ", "audit.path: ", "audit.fingerprint_key_file: "}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("empty: got %q", got)
	}
	got = mustParse(t, `
issuer: {url: "http://broker.example", insecure_plaintext: true}
listeners:
  grpc: {address: ":9443", insecure_plaintext: true}
  http: {address: "127.0.0.1:8443", insecure_plaintext: true}
  metrics: {address: "[::1]:9464"}
issuers:
  - {name: a, issuer: "http://a.example", insecure_plaintext: true, audiences: [x]}
  - {name: b, issuer: "http://b.example", insecure_plaintext: true, audiences: [x], jwks_file: /keys}
  - {name: c, issuer: "https://c.example", insecure_plaintext: true, audiences: [x], jwks_url: "http://c.example/keys"}
exchangers:
  m: {kind: minio-web-identity, endpoint: "http://m.example", insecure_plaintext: true, client_id: c, allowed_policies: [p], dangerous: true}
roles: [{name: r}, {name: s, when: 'identity.issuer == "https://c.example"'}]
audit: {path: /audit, fingerprint_key_file: /key}
debug: {pprof: true}
`).Warnings()
	want = []string{"issuer.url: ", "listeners.grpc: ", "issuers[0] (a): ", "issuers[2] (c): ", "exchangers.m: http", "exchangers.m: dangerous", "roles[0].when (r): ", "debug.pprof: "}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got %q", got)
	}
}

// Whoever speaks for a gateway's consumers by a key that lasts is named.
func TestWarningsNameGatewaysSecrets(t *testing.T) {
	got := mustParse(t, `
listeners: {gateway: {address: "127.0.0.1:8444"}}
gateway_keys: [{name: edge, key_file: /edge.keys}]
roles:
  - {name: a, gateway: true, when: 'identity.kind == "x509" && identity.subject == "kong"'}
  - {name: b, gateway: true, when: 'identity.kind == "spiffe"'}
  - {name: c, when: 'identity.kind == "x509"'}
`).Warnings()
	want := []string{"gateway_keys[0] (edge): /edge.keys is a secret", "roles[0] (a): a client certificate's key is a secret"}
	if len(got) < 2 || !slices.EqualFunc(slices.DeleteFunc(got, func(w string) bool { return !strings.Contains(w, "secret that lasts") }), want, strings.HasPrefix) {
		t.Errorf("got %q", got)
	}
}

func TestNeedsRestart(t *testing.T) {
	const before = `
log: {level: info}
exchangers:
  a: {kind: minio-web-identity, endpoint: "https://a.example", client_id: c, allowed_policies: [p]}
`
	started := mustParse(t, before)
	if got := mustParse(t, before+"roles: [{name: r}]\nissuers: [{name: a, issuer: 'https://a.example', audiences: [x]}]\n").NeedsRestart(started); len(got) != 0 {
		t.Errorf("roles and issuers alone: got %q", got)
	}
	changed := mustParse(t, `
log: {level: warn}
cache: {max_bytes: 1GiB}
exchangers:
  a: {kind: minio-web-identity, endpoint: "https://a.example", client_id: c, allowed_policies: [p, q]}
  b: {kind: minio-web-identity, endpoint: "https://b.example", client_id: c, allowed_policies: [p]}
`)
	b := []string{}
	for _, k := range []string{"allowed_policies", "ca_file", "caller_token", "cert_file", "client_id", "dangerous", "endpoint", "external_id", "identity_role", "insecure_plaintext",
		"key_file", "kind", "parent_file", "pki.mount", "pki.role", "pki.ttl", "region", "role_arn", "s3.endpoints", "s3.region", "source_identity", "timeout",
		"vault.fields.access_key_id", "vault.fields.expires", "vault.fields.secret_access_key", "vault.fields.session_token", "vault.min_ttl", "vault.parameters", "vault.path", "vault.write"} {
		b = append(b, "exchangers.b."+k)
	}
	want := slices.Concat([]string{"cache.max_bytes", "exchangers.a.allowed_policies"}, b, []string{"log.level"})
	if got := changed.NeedsRestart(started); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := started.NeedsRestart(changed); !slices.Equal(got, want) {
		t.Errorf("the other way: got %q, want %q", got, want)
	}
}

func TestAddDevelopmentIssuer(t *testing.T) {
	const url = "http://127.0.0.1:8444"
	c := mustParse(t, "")
	if err := c.AddDevelopmentIssuer(url); err != nil {
		t.Fatal(err)
	}
	i := c.Issuers[0]
	if i.Name != "development" || i.Issuer != url || !i.Discovery || i.Attributes["groups"].Claim != "groups" || !slices.Equal(i.Audiences, []string{"credbroker"}) {
		t.Errorf("got %+v", i)
	}
	for _, text := range []string{
		"issuers: [{name: development, issuer: 'https://a.example', audiences: [x]}]",
		"issuers: [{name: a, issuer: '" + url + "', audiences: [x]}]",
	} {
		if _, ok := errors.AsType[Faults](mustParse(t, text).AddDevelopmentIssuer(url)); !ok {
			t.Errorf("%s: added beside its double", text)
		}
	}
	if mustParse(t, "").AddDevelopmentIssuer("http://idp.example") == nil {
		t.Error("a plaintext issuer beyond loopback was added")
	}
}
