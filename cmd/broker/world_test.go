package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/credbroker/credbroker/internal/brokertest"
)

const reportsRW = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports/*"]}]}`

// world is an identity provider, a real broker and a real MinIO that trusts it.
type world struct {
	*brokertest.Broker
	t     *testing.T
	idp   *brokertest.IDP
	minio *brokertest.MinIO
}

// newWorld prepares all three and starts the identity provider alone. Env are further variables for the broker.
func newWorld(t *testing.T, env ...string) *world {
	t.Helper()
	w := &world{t: t, idp: brokertest.NewIDP(t)}
	w.Broker = brokertest.NewBroker(t, brokertest.BrokerOptions{Env: env})
	w.minio = brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: w.HTTP})
	w.WriteConfig(w.config(""))
	return w
}

// startWorld starts the broker, then MinIO with the bucket reports and the policy reports-rw.
func startWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.Start()
	w.minio.Start()
	w.furnish()
	return w
}

func (w *world) furnish() {
	w.t.Helper()
	w.minio.MakeBucket("reports")
	w.minio.PutPolicy("reports-rw", reportsRW)
}

// config is the broker's configuration, with more roles if given.
func (w *world) config(moreRoles string) string {
	return fmt.Sprintf(`
issuers:
  - name: test
    issuer: %s
    audiences: [credbroker]
    algorithms: [ES256]
    attributes:
      groups: {claim: groups}
exchangers:
  minio:
    kind: minio-web-identity
    endpoint: %s
    client_id: %s
    allowed_policies: [reports-rw]
limits: {max_mints: 100000}
shutdown: {drain: 0s}
roles:
  - name: reports
    description: Own folder of the reports bucket
    when: '"finance" in identity.attrs.groups'
    exchanger: minio
    policies: [reports-rw]
    session_policy: |
      {"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports/{{subject}}/*"]}]}
    ttl: {default: 15m, max: 1h, min: 5s}
%s`, w.idp.URL, w.minio.Endpoint, brokertest.ClientID, moreRoles)
}

// token is a token of alice's, or as overridden.
func (w *world) token(overrides map[string]any) string {
	claims := map[string]any{"groups": []string{"finance"}}
	for k, v := range overrides {
		claims[k] = v
	}
	return w.idp.Token(claims)
}

// answer is what POST /v1/credentials says.
type answer struct {
	issued
	Status int
	Error  struct {
		Code, Message string
		RequestID     string `json:"request_id"`
		Retryable     bool
	}
}

// issue asks for credentials of the role reports over HTTP.
func (w *world) issue(token, extra string) (answer, error) {
	return w.issueRole(token, "reports", extra)
}

func (w *world) issueRole(token, role, extra string) (answer, error) {
	req, err := http.NewRequest(http.MethodPost, w.HTTP+"/v1/credentials", strings.NewReader(`{"role":"`+role+`"`+extra+`}`))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: resp.StatusCode}
	return a, json.Unmarshal(body, &a)
}

// mustIssue is issue that has to work.
func (w *world) mustIssue(token, extra string) answer {
	w.t.Helper()
	a, err := w.issue(token, extra)
	if err != nil || a.Status != http.StatusOK {
		w.t.Fatalf("got %d %+v, %v", a.Status, a.Error, err)
	}
	return a
}

// put writes an object with the given credentials.
func (w *world) put(a answer, key string) error {
	client := w.minio.Client(a.AccessKeyID, a.SecretAccessKey, a.SessionToken)
	_, err := client.PutObject(w.t.Context(), "reports", key, strings.NewReader("x"), 1, minio.PutObjectOptions{})
	return err
}

// runProgram runs the broker program as a command and returns what it printed.
func runProgram(t *testing.T, stdin string, env []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command(brokertest.BrokerProgram(t), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// tokenFile writes a token to a file.
func (w *world) tokenFile(token string) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// metric reads one sample of /metrics; name includes its labels.
func (w *world) metric(name string) string {
	w.t.Helper()
	_, body, err := brokertest.Get(w.Ops + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
