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

// Both ways to a role of AWS, with credentials that the platform gives and with none.
func TestRolesOfAWSAreAssumed(t *testing.T) {
	const (
		reports, archive = "arn:aws:iam::123456789012:role/reports", "arn:aws:iam::123456789012:role/archive"
		own              = "arn:aws:sts::123456789012:assumed-role/broker/i-1"
	)
	w := newWorld(t, "AWS_ACCESS_KEY_ID=ASIA1111111111BROKER", "AWS_SECRET_ACCESS_KEY=platforms-secret", "AWS_SESSION_TOKEN=platforms-token")
	s := brokertest.NewAWSSTS(t)
	s.Add(brokertest.AWSKey{ID: "ASIA1111111111BROKER", Secret: "platforms-secret", SessionToken: "platforms-token", Principal: brokertest.AWSPrincipal{Account: "123456789012", ARN: own}})
	s.AddRole(brokertest.AWSRole{ARN: reports, Principal: own, ExternalID: "credbroker"}, brokertest.AWSRole{ARN: archive, Issuer: w.HTTP, Audience: "sts.amazonaws.com"})
	w.WriteConfig(fmt.Sprintf(`
issuers:
  - {name: test, issuer: %s, audiences: [credbroker], algorithms: [ES256], attributes: {groups: {claim: groups}}}
exchangers:
  s3: {kind: aws-assume-role, endpoint: "https://%s", ca_file: %s, region: eu-west-1, role_arn: "%s", external_id: credbroker, source_identity: true}
  federated: {kind: aws-web-identity, endpoint: "https://%s", ca_file: %s, region: eu-west-1, role_arn: "%s"}
shutdown: {drain: 0s}
roles:
  - {name: reports, when: 'identity.subject == "alice"', exchanger: s3, session_tags: {team: "{{attrs.groups}}"}, ttl: {default: 20m}}
  - {name: archive, when: 'identity.subject == "alice"', exchanger: federated, session_policy: '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::archive/{{subject}}/*"]}]}'}
`, w.idp.URL, s.Addr, s.CAFile, reports, s.Addr, s.CAFile, archive))
	w.Start()
	a := w.mustIssue(w.token(nil), "")
	if got := s.Session(a.AccessKeyID); got.Role != reports || got.Tags["team"] != "finance" || !strings.HasPrefix(got.SourceIdentity, "alice-") {
		t.Errorf("%+v", got)
	}
	b, err := w.issueRole(w.token(nil), "archive", "")
	if got := s.Session(b.AccessKeyID); err != nil || got.Role != archive || !strings.Contains(got.Policy, "archive/alice/") {
		t.Errorf("%+v %+v %v", b, got, err)
	}
	if hit := w.mustIssue(w.token(nil), ""); hit.AccessKeyID != a.AccessKeyID {
		t.Error("not cached")
	}
	// Another team's tag takes other credentials.
	if other := w.mustIssue(w.token(map[string]any{"groups": []string{"audit"}}), ""); other.AccessKeyID == a.AccessKeyID {
		t.Error("tagged as before")
	}
}
