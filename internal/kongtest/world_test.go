package kongtest

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/brokertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	brokertest.RemoveBrokerProgram()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// Consumers of the gateway, by the tenant that their custom ID names.
const (
	aliceID = "5b6ad3e2-2c0b-4a0a-8b1b-0c7b0f6a7e11"
	bobID   = "5b6ad3e2-2c0b-4a0a-8b1b-0c7b0f6a7e12"
	carolID = "5b6ad3e2-2c0b-4a0a-8b1b-0c7b0f6a7e13"
	anonID  = "5b6ad3e2-2c0b-4a0a-8b1b-0c7b0f6a7e14"
)

const bucketRW = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::reports","arn:aws:s3:::reports/*"]}]}`

// tenantOnly is what a consumer may do: all with objects below its custom ID, and list those.
const tenantOnly = `{"Version":"2012-10-17","Statement":[` +
	`{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject","s3:DeleteObject","s3:AbortMultipartUpload","s3:ListMultipartUploadParts",` +
	`"s3:PutObjectTagging","s3:GetObjectTagging"],"Resource":["arn:aws:s3:::reports/{{attrs.consumer_custom_id}}/*"]},` +
	`{"Effect":"Allow","Action":["s3:ListBucket"],"Resource":["arn:aws:s3:::reports"],"Condition":{"StringLike":{"s3:prefix":["{{attrs.consumer_custom_id}}/*"]}}},` +
	`{"Effect":"Allow","Action":["s3:GetBucketLocation"],"Resource":["arn:aws:s3:::reports"]}]}`

// world is a broker with a gateway listener, a MinIO that trusts it, and the platform that Kong runs on, which gives it tokens.
type world struct {
	*brokertest.Broker
	t         *testing.T
	idp       *brokertest.IDP
	minio     *brokertest.MinIO
	gateway   string // the listener's address
	tokenFile string
}

func newWorld(t *testing.T) *world { return newWorldOver(t, brokertest.MinIOOptions{}) }

// newWorldOver is newWorld with a MinIO that differs.
func newWorldOver(t *testing.T, store brokertest.MinIOOptions) *world {
	t.Helper()
	w := &world{t: t, idp: brokertest.NewIDP(t), tokenFile: filepath.Join(t.TempDir(), "token")}
	w.gateway = fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(t, 1)[0])
	w.Broker = brokertest.NewBroker(t, brokertest.BrokerOptions{Env: []string{"CREDBROKER__LISTENERS__GATEWAY__ADDRESS=" + w.gateway}})
	store.IssuerURL = w.HTTP
	w.minio = brokertest.NewMinIO(t, store)
	w.WriteConfig(w.config("{default: 15m, max: 15m, min: 12s}"))
	w.writeToken(5 * time.Minute)
	w.Start()
	w.minio.Start()
	w.minio.MakeBucket("reports")
	w.minio.PutPolicy("reports-rw", bucketRW)
	return w
}

// writeToken gives the gateway's workload a token.
func (w *world) writeToken(life time.Duration) {
	w.t.Helper()
	token := w.idp.Token(map[string]any{"sub": "kong", "exp": time.Now().Add(life).Unix()})
	if err := os.WriteFile(w.tokenFile, []byte(token+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// config is the broker's configuration with a lifetime of consumers' credentials.
func (w *world) config(ttl string) string {
	return fmt.Sprintf(`
issuers:
  - {name: test, issuer: %s, audiences: [credbroker], algorithms: [ES256]}
exchangers:
  minio: {kind: minio-web-identity, endpoint: %s, client_id: %s, allowed_policies: [reports-rw]}
limits: {max_mints: 100000}
shutdown: {drain: 0s}
roles:
  - name: kong
    gateway: true
    when: identity.kind == "oidc" && identity.subject == "kong"
    ttl: {default: 30m, max: 1h}
  - name: reports
    when: identity.kind == "kong" && identity.subject != "%s"
    exchanger: minio
    policies: [reports-rw]
    session_policy: |
      %s
    ttl: %s
  - name: staff
    when: identity.kind == "kong" && "staff" in identity.attrs.groups
    exchanger: minio
    policies: [reports-rw]
`, w.idp.URL, w.minio.Endpoint, brokertest.ClientID, carolID, tenantOnly, ttl)
}

// plugin is the plugin's configuration, with further settings in YAML's flow style: "mode: inject, ttl: 900".
func (w *world) plugin(more string) string { return w.pluginFor("reports", more) }

// pluginFor is plugin for another role.
func (w *world) pluginFor(role, more string) string {
	if more != "" {
		more = ", " + more
	}
	return fmt.Sprintf("{name: credential-broker, config: {broker_url: %q, session_url: %q, gateway_role: kong, role: %s, token_file: %q%s}}",
		"http://"+w.gateway, w.HTTP, role, w.tokenFile, more)
}

const consumers = `
consumers:
  - {id: ` + aliceID + `, username: alice, custom_id: acme, acls: [{group: staff}, {group: readers}], keyauth_credentials: [{id: 00000000-0000-0000-0000-000000000001, key: alice-key}]}
  - {id: ` + bobID + `, username: "bob b.", custom_id: umbrella, keyauth_credentials: [{id: 00000000-0000-0000-0000-000000000002, key: bob-key}]}
  - {id: ` + carolID + `, username: carol, custom_id: nobody, keyauth_credentials: [{id: 00000000-0000-0000-0000-000000000003, key: carol-key}]}
  - {id: ` + anonID + `, username: anonymous, custom_id: acme}
`

// ready waits until gateways are listened to: single-use words are not taken in the first seconds after the broker's start.
func (w *world) ready(g *Gateway) { w.readyAt(g, "/s3/reports/acme/none") }

func (w *world) readyAt(g *Gateway, path string) {
	w.t.Helper()
	brokertest.Eventually(w.t, 20*time.Second, "the gateway's word is taken", func() error {
		if resp, body := Do(w.t, "GET", g.URL+path, header("alice"), nil); resp.StatusCode >= http.StatusInternalServerError {
			return fmt.Errorf("%s %s", resp.Status, body)
		}
		return nil
	})
}

// header is a request header with a consumer's key, and more in pairs.
func header(who string, more ...string) http.Header {
	h := http.Header{"Apikey": {who + "-key"}}
	for i := 0; i+1 < len(more); i += 2 {
		h[more[i]] = append(h[more[i]], more[i+1])
	}
	return h
}
