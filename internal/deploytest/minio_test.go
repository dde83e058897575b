package deploytest

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/issuer"
	"github.com/credbroker/credbroker/internal/policy"
)

func TestMinIOEnvironmentMatchesTheBroker(t *testing.T) {
	const file = "deploy/minio/minio.env"
	cfg := load(t, exampleConfig)
	env := settings(read(t, file))
	want := map[string][]string{
		"MINIO_IDENTITY_OPENID_CONFIG_URL": {cfg.Issuer.URL + "/.well-known/openid-configuration"},
		"MINIO_IDENTITY_OPENID_CLIENT_ID":  {cfg.Exchangers["minio"].ClientID},
		"MINIO_IDENTITY_OPENID_CLAIM_NAME": {"policy"},
		"MINIO_BROWSER":                    {"off"},
	}
	// The client secret isn't among them: no line of it, rather than one with a value that everybody knows.
	if !maps.EqualFunc(env, want, slices.Equal) {
		t.Errorf("%s sets %q, expected %q", file, env, want)
	}
	for name, e := range cfg.Exchangers {
		if e.ClientID != cfg.Exchangers["minio"].ClientID {
			t.Errorf("exchanger %s has client ID %q, and MinIO knows one", name, e.ClientID)
		}
	}
}

// knownVariables are MinIO's own names. An unknown one would be ignored by MinIO without a word.
var knownVariables = []string{
	"MINIO_IDENTITY_OPENID_CONFIG_URL", "MINIO_IDENTITY_OPENID_CLIENT_ID", "MINIO_IDENTITY_OPENID_CLIENT_SECRET",
	"MINIO_IDENTITY_OPENID_CLAIM_NAME", "MINIO_IDENTITY_OPENID_ROLE_POLICY", "MINIO_CONFIG_ENV_FILE",
	"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_BROWSER", "MINIO_API_ROOT_ACCESS",
}

func TestMinIOVariablesAreSpeltRight(t *testing.T) {
	name := regexp.MustCompile(`\bMINIO_[A-Z_]+`)
	for _, file := range append(files(t, "deploy", "*"), "docs/threat-model.md", "scripts/demo/demo.sh") {
		for _, v := range name.FindAllString(read(t, file), -1) {
			if !slices.Contains(knownVariables, v) {
				t.Errorf("%s: MinIO has no variable %s", file, v)
			}
		}
	}
}

// TestTemporaryCredentialsMakeNoPermanentKeys shows on a real MinIO what the exchanger's session policy and the Deny in each
// policy are for: the holder of a temporary credential makes itself an access key without end, unless it is denied.
func TestTemporaryCredentialsMakeNoPermanentKeys(t *testing.T) {
	const withoutDeny = "without-deny"
	policies := []string{withoutDeny}
	mux := http.NewServeMux()
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	iss, err := issuer.New(issuer.Config{URL: web.URL, RotateEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(iss.Discovery()) })
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(iss.JWKS(r.Context())) })
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: web.URL})
	server.PutPolicy(withoutDeny, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::reports/*"]}]}`)
	for _, file := range files(t, policyDir, "*.json") {
		p := strings.TrimSuffix(path.Base(file), ".json")
		server.PutPolicy(p, read(t, file)) // fails the test if MinIO doesn't take it
		policies = append(policies, p)
	}
	tokens, err := iss.Source(issuer.SourceConfig{Audience: brokertest.ClientID, AllowedPolicies: policies})
	if err != nil {
		t.Fatal(err)
	}
	makeKey := func(p, session string, dangerous bool) (string, error) {
		x, err := minio.NewWebIdentity(minio.WebIdentityConfig{
			Server: minio.Server{Endpoint: server.Endpoint, Timeout: 10 * time.Second}, ClientID: brokertest.ClientID, Tokens: tokens, AllowedPolicies: policies, Dangerous: dangerous,
		})
		if err != nil {
			t.Fatal(err)
		}
		c, err := x.Exchange(t.Context(), exchange.Request{
			Identity: attest.Identity{Kind: attest.KindOIDC, Issuer: "https://login.corp.example", Subject: "mallory"},
			Grant:    policy.Grant{Policies: []string{p}, SessionPolicy: session, TTL: 5 * time.Minute},
		})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(brokertest.Tool(t, "mc"), "--config-dir", t.TempDir(), "--no-color", "admin", "accesskey", "create", "me/")
		host := strings.TrimPrefix(server.Endpoint, "http://")
		cmd.Env = append(cmd.Environ(), fmt.Sprintf("MC_HOST_me=http://%s:%s:%s@%s", c.AccessKeyID, c.SecretAccessKey.Reveal(), c.SessionToken.Reveal(), host))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := makeKey(withoutDeny, "", true); err != nil || !strings.Contains(out, "Expiration: NONE") {
		t.Errorf("a policy without the Deny, and no session policy: %v\n%s\nMinIO has changed: read deploy/minio/hardening.md again", err, out)
	}
	if out, err := makeKey(withoutDeny, "", false); err == nil || !strings.Contains(out, "Access Denied") {
		t.Errorf("with the exchanger's own session policy: a permanent key was made, or another error came: %v\n%s", err, out)
	}
	const session = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::*"]}]}`
	if out, err := makeKey(withoutDeny, session, true); err == nil || !strings.Contains(out, "Access Denied") {
		t.Errorf("with a session policy: a permanent key was made, or another error came: %v\n%s", err, out)
	}
	for _, p := range policies[1:] {
		if out, err := makeKey(p, "", true); err == nil || !strings.Contains(out, "Access Denied") {
			t.Errorf("policy %s: a permanent key was made, or another error came: %v\n%s", p, err, out)
		}
	}
}
