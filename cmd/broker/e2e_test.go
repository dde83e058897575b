package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/minio-go/v7"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/credbroker/credbroker/internal/brokertest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

func accessDenied(err error) bool { return minio.ToErrorResponse(err).Code == "AccessDenied" }

func TestTheWholeWay(t *testing.T) {
	w := startWorld(t)
	alice := w.token(nil)

	t.Run("credentials reach one folder and nothing else", func(t *testing.T) {
		a := w.mustIssue(alice, "")
		if err := w.put(a, "alice/a"); err != nil {
			t.Error(err)
		}
		if err := w.put(a, "bob/a"); !accessDenied(err) {
			t.Errorf("another's folder: %v", err)
		}
	})
	t.Run("a narrowing policy narrows", func(t *testing.T) {
		a := w.mustIssue(alice, `,"policy":"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"s3:PutObject\"],\"Resource\":[\"arn:aws:s3:::reports/alice/x/*\"]}]}"`)
		if err := w.put(a, "alice/x/1"); err != nil {
			t.Error(err)
		}
		if err := w.put(a, "alice/y"); !accessDenied(err) {
			t.Errorf("outside the narrowing policy: %v", err)
		}
	})
	t.Run("a widening policy is refused", func(t *testing.T) {
		a, err := w.issue(alice, `,"policy":"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"s3:PutObject\"],\"Resource\":[\"arn:aws:s3:::reports/*\"]}]}"`)
		if err != nil || a.Status != 400 || a.Error.Code != "policy_too_wide" {
			t.Errorf("got %d %+v, %v", a.Status, a.Error, err)
		}
	})
	t.Run("gRPC gives the same", func(t *testing.T) {
		conn, err := grpc.NewClient(w.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		resp, err := brokerv1.NewCredentialBrokerServiceClient(conn).IssueCredentials(t.Context(), &brokerv1.IssueCredentialsRequest{
			Proof: &brokerv1.Proof{Proof: &brokerv1.Proof_Jwt{Jwt: alice}}, Role: "reports",
		})
		if err != nil {
			t.Fatal(err)
		}
		a := answer{issued: issued{AccessKeyID: resp.GetAccessKeyId(), SecretAccessKey: resp.GetSecretAccessKey(), SessionToken: resp.GetSessionToken()}}
		if err := w.put(a, "alice/grpc"); err != nil {
			t.Error(err)
		}
	})
	t.Run("the header form gives the same", func(t *testing.T) {
		req, _ := http.NewRequest(http.MethodGet, w.HTTP+"/v1/credentials/headers", nil)
		req.Header.Set("Authorization", "Bearer "+alice)
		req.Header.Set("X-Credbroker-Role", "reports")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		h := resp.Header
		a := answer{issued: issued{AccessKeyID: h.Get("X-Credbroker-Access-Key-Id"), SecretAccessKey: h.Get("X-Credbroker-Secret-Access-Key"), SessionToken: h.Get("X-Credbroker-Session-Token")}}
		if err := w.put(a, "alice/headers"); err != nil {
			t.Errorf("HTTP %d: %v", resp.StatusCode, err)
		}
	})
	t.Run("what broker get prints works with minio-go and mc", func(t *testing.T) { getWorks(t, w, alice) })
	t.Run("credential-process works with aws-sdk-go-v2", func(t *testing.T) { credentialProcessWorks(t, w, alice) })
	t.Run("who may not is told a code and an ID, and the operator why", func(t *testing.T) {
		_, stderr, err := runProgram(t, w.token(map[string]any{"sub": "bob", "groups": []string{"engineering"}}), nil,
			"get", "--endpoint", w.HTTP, "--token-file", "-", "--role", "reports")
		if err == nil || !strings.Contains(stderr, "permission_denied") || strings.Contains(stderr, "finance") {
			t.Fatalf("%v: %s", err, stderr)
		}
		_, id, _ := strings.Cut(stderr, `request "`)
		id, _, _ = strings.Cut(id, `"`)
		out, stderr, err := runProgram(t, "", nil, "admin", "--socket", w.Socket, "explain", id)
		if err != nil || !strings.Contains(out, `"finance" in identity.attrs.groups`) || !strings.Contains(out, `"bob"`) {
			t.Errorf("%v: %s%s", err, out, stderr)
		}
	})
}

func getWorks(t *testing.T, w *world, token string) {
	common := []string{"get", "--endpoint", w.HTTP, "--token-file", w.tokenFile(token), "--role", "reports"}
	out, stderr, err := runProgram(t, "", nil, append(common, "--format", "env")...)
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	// As a user would: a shell evaluates it, and the MinIO client uses the variables.
	script := out + `
export MC_HOST_alice="http://$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY:$AWS_SESSION_TOKEN@` + strings.TrimPrefix(w.minio.Endpoint, "http://") + `"
echo hello | "$MC" --config-dir "$DIR" --quiet pipe alice/reports/alice/mc && "$MC" --config-dir "$DIR" cat alice/reports/alice/mc`
	cmd := exec.Command("bash", "-eu", "-c", script)
	cmd.Env = append(os.Environ(), "MC="+brokertest.Tool(t, "mc"), "DIR="+t.TempDir())
	if text, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(text), "hello") {
		t.Errorf("mc: %v\n%s", err, text)
	}

	out, stderr, err = runProgram(t, "", nil, append(common, "--format", "aws", "--profile", "reports")...)
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := awsconfig.LoadDefaultConfig(t.Context(), awsconfig.WithSharedCredentialsFiles([]string{file}), awsconfig.WithSharedConfigFiles(nil),
		awsconfig.WithSharedConfigProfile("reports"), awsconfig.WithRegion("us-east-1"))
	if err != nil {
		t.Fatal(err)
	}
	putWithSDK(t, w, cfg, "alice/profile")
}

func credentialProcessWorks(t *testing.T, w *world, token string) {
	file := filepath.Join(t.TempDir(), "config")
	text := "[profile reports]\nregion = us-east-1\ncredential_process = " + brokertest.BrokerProgram(t) + " credential-process --endpoint " + w.HTTP +
		" --token-file " + w.tokenFile(token) + " --role reports\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := awsconfig.LoadDefaultConfig(t.Context(), awsconfig.WithSharedConfigFiles([]string{file}), awsconfig.WithSharedCredentialsFiles(nil),
		awsconfig.WithSharedConfigProfile("reports"))
	if err != nil {
		t.Fatal(err)
	}
	creds, err := cfg.Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !creds.CanExpire || time.Until(creds.Expires) > 15*time.Minute {
		t.Errorf("the SDK thinks that they end at %s", creds.Expires)
	}
	putWithSDK(t, w, cfg, "alice/process")
}

func putWithSDK(t *testing.T, w *world, cfg aws.Config, key string) {
	t.Helper()
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.BaseEndpoint, o.UsePathStyle = aws.String(w.minio.Endpoint), true
	})
	if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("reports"), Key: aws.String(key), Body: strings.NewReader("x")}); err != nil {
		t.Error(err)
	}
}

func TestOpenMinIOIsReportedAndNotUsed(t *testing.T) {
	w := newWorld(t)
	w.minio = brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: w.HTTP, NoClientSecret: true})
	w.WriteConfig(w.config(""))
	w.Start()
	w.minio.Start()
	w.furnish()
	alice := w.token(nil)
	brokertest.Eventually(t, 10*time.Second, "the forged token was noticed", func() error {
		if m := w.metric(`credbroker_minio_accepts_forged_tokens{exchanger="minio"}`); m != "1" {
			return errors.New("metric is " + m)
		}
		return nil
	})
	a, err := w.issue(alice, "")
	if err != nil || a.Error.Code != "exchange_unsafe" {
		t.Errorf("got %+v, %v", a, err)
	}
	if status, body, _ := brokertest.Get(w.Ops + "/readyz"); status != 200 || !strings.Contains(body, "accepts forged tokens") {
		t.Errorf("/readyz %d: %s", status, body)
	}
}
