package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// A role whose exchanger is away, one whose callers show MinIO their own tokens, and what /readyz and the audit log say of it.
func TestFallbackAndCallersTokensReachMinIO(t *testing.T) {
	w := newWorld(t)
	w.minio = brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: w.idp.URL})
	parent := filepath.Join(t.TempDir(), "parent.json")
	if err := os.WriteFile(parent, []byte(`{"access_key_id":"parent","secret_access_key":"parents-secret-key"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const own = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports/{{subject}}/*"]}]}`
	w.WriteConfig(fmt.Sprintf(`
issuers:
  - {name: test, issuer: %s, audiences: [credbroker], algorithms: [ES256]}
exchangers:
  away: {kind: minio-assume-role, endpoint: "http://127.0.0.1:1", parent_file: %q, timeout: 200ms}
  parent: {kind: minio-assume-role, endpoint: %s, parent_file: %q}
  passing: {kind: minio-web-identity, endpoint: %s, client_id: %s, caller_token: true}
shutdown: {drain: 0s}
roles:
  - {name: reports, when: 'identity.subject == "alice"', exchanger: away, fallback: parent, session_policy: '%s', ttl: {default: 20m}}
  - {name: own, when: 'identity.subject == "alice"', exchanger: passing, session_policy: '%s'}
`, w.idp.URL, parent, w.minio.Endpoint, parent, w.minio.Endpoint, brokertest.ClientID, own, own))
	w.Start()
	w.minio.Start()
	w.furnish()
	w.minio.AddUser("parent", "parents-secret-key", "reports-rw")

	a := w.mustIssue(w.token(nil), "")
	if err := w.put(a, "alice/a"); err != nil {
		t.Error(err)
	}
	if err := w.put(a, "bob/a"); !accessDenied(err) {
		t.Errorf("the session policy doesn't bound it: %v", err)
	}
	_, ready, err := brokertest.Get(w.Ops + "/readyz")
	if err != nil || !strings.Contains(ready, "exchanger away: ") || strings.Contains(ready, "exchanger parent: ") {
		t.Errorf("%s %v", ready, err)
	}
	if log := strings.Join(w.Audit(), "\n"); !strings.Contains(log, `"result":"mint","exchanger":"parent"`) {
		t.Error(log)
	}

	ends := time.Now().Add(20 * time.Minute).Truncate(time.Second)
	token := w.token(map[string]any{"policy": "reports-rw", "exp": ends.Unix()})
	got, err := w.issueRole(token, "own", "")
	if err != nil || got.Status != 200 || !got.ExpiresAt.Equal(ends) {
		t.Fatalf("%+v %v", got, err)
	}
	if err := w.put(got, "alice/b"); err != nil {
		t.Error(err)
	}
	if err := w.put(got, "bob/b"); !accessDenied(err) {
		t.Errorf("the session policy doesn't bound the caller's token: %v", err)
	}
	for name, log := range map[string]string{"the audit log": strings.Join(w.Audit(), "\n"), "the log": w.Log()} {
		if strings.Contains(log, token) || strings.Contains(log, "parents-secret-key") {
			t.Errorf("%s holds a secret", name)
		}
	}
}
