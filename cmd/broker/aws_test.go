package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/credbroker/credbroker"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/prove"
)

const (
	awsServerID = "https://broker.example"
	awsRole     = `
  - name: aws-reports
    when: identity.kind == "aws" && identity.tenant == "123456789012" && identity.attrs.role == ["reports-service"]
    exchanger: minio
    policies: [reports-rw]
`
)

var awsKey = brokertest.AWSKey{
	ID: "ASIAIOSFODNN7EXAMPLE", Secret: "planted-aws-secret", SessionToken: "planted-aws-token",
	Principal: brokertest.AWSPrincipal{
		Account: "123456789012", ARN: "arn:aws:sts::123456789012:assumed-role/reports-service/i-0123456789", UserID: "AROA1234567890EXAMPLE:i-0123456789",
	},
}

// awsEnv is what an instance's credentials look like to a program that has them.
var awsEnv = []string{
	"AWS_ACCESS_KEY_ID=" + awsKey.ID, "AWS_SECRET_ACCESS_KEY=" + awsKey.Secret, "AWS_SESSION_TOKEN=" + awsKey.SessionToken, "AWS_REGION=eu-west-1",
	"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
}

// awsSettings are a broker's, with the stand-in in the place of STS.
func awsSettings(sts *brokertest.AWSSTS, serverID string) string {
	return fmt.Sprintf(`
aws:
  server_id: %s
  accounts: ["123456789012"]
  ca_file: %s
  skew: 1s
  endpoints:
    ireland: {host: sts.eu-west-1.amazonaws.com, region: eu-west-1, address: %q}
`, serverID, sts.CAFile, sts.Addr)
}

// issueByAWS shows a proof to the broker.
func (w *world) issueByAWS(proof string) (answer, error) {
	data, err := json.Marshal(map[string]string{"role": "aws-reports", "aws_proof": proof})
	if err != nil {
		return answer{}, err
	}
	resp, err := http.Post(w.HTTP+"/v1/credentials", "application/json", bytes.NewReader(data))
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

// takesAWS waits until the broker takes proofs: that it vouches for their not having been used before.
func (w *world) takesAWS() {
	w.t.Helper()
	brokertest.Eventually(w.t, 20*time.Second, "AWS proofs are taken", func() error {
		a, err := w.issueByAWS(newAWSProof(w.t))
		if err == nil && a.Status != http.StatusOK {
			err = fmt.Errorf("%d %+v", a.Status, a.Error)
		}
		return err
	})
}

func awsProver(serverID string) prove.Prover {
	return prove.AWS(credentials.NewStaticCredentialsProvider(awsKey.ID, awsKey.Secret, awsKey.SessionToken), "eu-west-1", serverID)
}

func newAWSProof(t *testing.T) string {
	t.Helper()
	proof, err := awsProver(awsServerID).Prove(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return proof.Reveal()
}

func TestAWSIdentityToObject(t *testing.T) {
	w := newWorld(t)
	sts := brokertest.NewAWSSTS(t)
	sts.Add(awsKey)
	w.WriteConfig(awsSettings(sts, awsServerID) + w.config(awsRole))
	w.Start()
	w.minio.Start()
	w.furnish()
	w.takesAWS()

	t.Run("broker get", func(t *testing.T) {
		for _, endpoint := range []string{w.HTTP, "grpc://" + w.GRPC} {
			out, stderr, err := runProgram(t, "", awsEnv, "get", "--proof", "aws", "--aws-server-id", awsServerID, "--endpoint", endpoint, "--role", "aws-reports", "--format", "json")
			var a answer
			if err != nil || json.Unmarshal([]byte(out), &a) != nil {
				t.Fatalf("%v: %s%s", err, out, stderr)
			}
			if err := w.put(a, "from-aws"); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("broker prove", func(t *testing.T) {
		out, stderr, err := runProgram(t, "", awsEnv, "prove", "aws", "--aws-server-id", awsServerID)
		if err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		if a, err := w.issueByAWS(strings.TrimSpace(out)); err != nil || a.Status != http.StatusOK {
			t.Errorf("%d %+v, %v", a.Status, a.Error, err)
		}
		if strings.Contains(out, awsKey.Secret) {
			t.Error("the secret key is printed")
		}
	})
	t.Run("Go client", func(t *testing.T) {
		for _, endpoint := range []string{w.HTTP, "grpc://" + w.GRPC} {
			client, err := credbroker.New(endpoint, awsProver(awsServerID))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if got, err := client.Credentials(t.Context(), "aws-reports"); err != nil || got.Role != "aws-reports" {
				t.Errorf("%s: %v", endpoint, err)
			}
			if _, err := client.Credentials(t.Context(), "reports"); code(err) != credbroker.CodePermissionDenied {
				t.Errorf("%s: a role of others: %v", endpoint, err)
			}
		}
	})
	t.Run("for another broker", func(t *testing.T) {
		client, err := credbroker.New(w.HTTP, awsProver("https://other.example"))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		asked := len(sts.Requests())
		if _, err := client.Credentials(t.Context(), "aws-reports"); code(err) != credbroker.CodeUnauthenticated || len(sts.Requests()) != asked {
			t.Errorf("%v; STS was asked %d times", err, len(sts.Requests())-asked)
		}
	})
	t.Run("captured", func(t *testing.T) {
		proof := newAWSProof(t)
		if a, err := w.issueByAWS(proof); err != nil || a.Status != http.StatusOK {
			t.Fatalf("%d %+v, %v", a.Status, a.Error, err)
		}
		if a, err := w.issueByAWS(proof); err != nil || a.Error.Code != "unauthenticated" {
			t.Errorf("again: %d %+v, %v", a.Status, a.Error, err)
		}
		w.Signal(syscall.SIGTERM)
		w.Stop()
		w.Start()
		w.takesAWS()
		if a, err := w.issueByAWS(proof); err != nil || a.Status == http.StatusOK {
			t.Errorf("after a restart: %d %+v, %v", a.Status, a.Error, err)
		}
	})
	t.Run("reload", func(t *testing.T) {
		w.WriteConfig(awsSettings(sts, "https://renamed.example") + w.config(awsRole))
		brokertest.Eventually(t, 10*time.Second, "another server ID", func() error {
			a, err := w.issueByAWS(newAWSProof(t))
			if err == nil && a.Error.Code != "unauthenticated" {
				err = errors.New(a.Error.Code)
			}
			return err
		})
	})
	for _, line := range w.Audit() {
		if strings.Contains(line, "planted-aws") {
			t.Errorf("the audit log has a secret: %s", line)
		}
	}
	if !strings.Contains(strings.Join(w.Audit(), "\n"), `"subject":"AROA1234567890EXAMPLE","session":"i-0123456789"`) {
		t.Errorf("the audit log doesn't say who: %s", w.Audit())
	}
}

func code(err error) credbroker.Code {
	if e, ok := errors.AsType[*credbroker.Error](err); ok {
		return e.Code
	}
	return ""
}

// A proof that was used at one replica is used at all, also when Redis was restarted in between.
func TestAnAWSProofIsUsedOnceInAFleet(t *testing.T) {
	f := newFleet(t)
	sts := brokertest.NewAWSSTS(t)
	sts.Add(awsKey)
	f.settings += awsSettings(sts, awsServerID)
	f.configure(awsRole)
	f.start()
	f.takesAWS()
	proof := newAWSProof(t)
	if a, err := f.at(0).issueByAWS(proof); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%d %+v, %v", a.Status, a.Error, err)
	}
	for n := range 3 {
		if a, err := f.at(n).issueByAWS(proof); err != nil || a.Error.Code != "unauthenticated" {
			t.Errorf("at replica %d: %d %+v, %v", n, a.Status, a.Error, err)
		}
	}
	f.redis.Kill()
	if a, err := f.at(1).issueByAWS(newAWSProof(t)); err != nil || a.Error.Code != "identity_provider_unavailable" {
		t.Errorf("without Redis: %d %+v, %v", a.Status, a.Error, err)
	}
	f.redis.Start()
	f.at(1).takesAWS()
	for n := range 3 {
		if a, err := f.at(n).issueByAWS(proof); err != nil || a.Status == http.StatusOK {
			t.Errorf("at replica %d after Redis's restart: %d %+v, %v", n, a.Status, a.Error, err)
		}
	}
}
