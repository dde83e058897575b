package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

const listsReports = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:ListBucket","s3:GetObject"],"Resource":["arn:aws:s3:::reports","arn:aws:s3:::reports/*"]}]}`

// TestStockSDKs has clients that know nothing of the broker list a bucket, ask for credentials anew, and list again: each in an environment that
// holds the variables of docs/sdks.md and nothing else.
func TestStockSDKs(t *testing.T) {
	w := newWorld(t)
	w.WriteConfig(w.config(`
  - name: lister
    when: '"finance" in identity.attrs.groups'
    exchanger: minio
    policies: [reports-rw]
    ttl: {default: 1h, max: 1h, min: 20m}
`))
	w.Start()
	w.minio.Start()
	w.minio.MakeBucket("reports")
	w.minio.PutPolicy("reports-rw", listsReports)
	w.minio.MC("cp", filepath.Join(brokertest.ModuleRoot(t), "go.mod"), "root/reports/a")

	// Projected tokens end without a line break, and not every client drops one.
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(w.token(nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, nil, "--endpoint", w.HTTP, "--token-file", token, "--role", "lister")
	a.waitReady()
	text, _ := os.ReadFile(token)

	s3 := []string{"AWS_ENDPOINT_URL_S3=" + w.minio.Endpoint, "AWS_REGION=us-east-1"}
	const role = "arn:aws:iam::000000000000:role/lister"
	sts := append([]string{"AWS_ENDPOINT_URL_STS=" + w.HTTP + "/sts", "AWS_WEB_IDENTITY_TOKEN_FILE=" + token, "AWS_ROLE_ARN=" + role}, s3...)
	container := append([]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + w.HTTP + "/v1/container-credentials/lister", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + token}, s3...)
	agent := append([]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + a.uri("lister"), "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + a.TokenFile}, s3...)

	t.Run("requests of others", func(t *testing.T) { replay(t, w.HTTP, string(text)) })

	awsGo, minioGo := goClient(t, "aws-sdk-go-v2"), goClient(t, "minio-go")
	mc, cli := brokertest.Tool(t, "mc"), brokertest.Tool(t, "aws")
	twice := func(command string) []string { // a program that ends starts anew
		return []string{"sh", "-ec", "for i in 1 2; do echo objects: $(" + command + " | wc -l); done"}
	}
	for _, c := range []struct {
		client, protocol string
		env, command     []string
		calls            int // at least, of the broker
	}{
		{"aws-sdk-go-v2", "sts", sts, []string{awsGo}, 2},
		{"aws-sdk-go-v2", "container", container, []string{awsGo}, 2},
		{"aws-sdk-go-v2", "agent", agent, []string{awsGo}, 0},
		{"minio-go", "sts", sts, []string{minioGo}, 2},
		{"minio-go", "container", container, []string{minioGo}, 2},
		{"minio-go", "agent", agent, []string{minioGo}, 0},
		{"mc", "sts", []string{
			"MC_HOST_s=" + w.minio.Endpoint, "MC_STS_ENDPOINT_s=" + w.HTTP + "/sts", "MC_WEB_IDENTITY_TOKEN_FILE_s=" + token, "MC_ROLE_ARN_s=" + role,
		}, twice(mc + " --config-dir $HOME/mc ls s/reports"), 2},
		// AWS CLI 2.9 has no AWS_ENDPOINT_URL, nor a file for the token.
		{"aws-cli", "container", []string{container[0], "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + string(text), "AWS_REGION=us-east-1"}, twice(cli + " --endpoint-url " + w.minio.Endpoint + " s3 ls s3://reports"), 2},
		{"aws-cli", "sts", []string{"AWS_REGION=us-east-1"}, twice(cli + " --endpoint-url " + w.HTTP + "/sts sts assume-role-with-web-identity --role-session-name cli --output text --query " +
			"Credentials.AccessKeyId --role-arn " + role + " --web-identity-token file://" + token), 2},
	} {
		t.Run(c.client+" by "+c.protocol, func(t *testing.T) {
			before := lines(t, w.AuditFile)
			cmd := exec.Command(c.command[0], c.command[1:]...)
			cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "BUCKET=reports", "AWS_EC2_METADATA_DISABLED=true"}, c.env...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil || strings.Count(out.String(), "objects: 1\n") != 2 {
				t.Errorf("%v\n%s", err, out.String())
			}
			if calls := lines(t, w.AuditFile) - before; calls < c.calls {
				t.Errorf("the broker was asked %d times; at least %d were expected", calls, c.calls)
			}
		})
	}
}

// replay sends the requests of testdata/sdk-requests as they stand, with this token, and checks what comes back.
func replay(t *testing.T, broker, token string) {
	files, err := filepath.Glob("testdata/sdk-requests/*.http")
	if err != nil || len(files) != 7 {
		t.Fatal(files, err)
	}
	host := strings.TrimPrefix(broker, "http://")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(data), "\n") // whose it is
		parts := strings.Split(strings.TrimSuffix(text, "\n"), "\n\n")
		head, body, want := parts[0], "", parts[len(parts)-1]
		if len(parts) == 3 {
			body = strings.ReplaceAll(parts[1], "{{token}}", token)
		}
		head = strings.NewReplacer("{{token}}", token, "{{host}}", host, "{{length}}", strconv.Itoa(len(body)), "\n", "\r\n").Replace(head)
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(conn, head+"\r\n\r\n"+body); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		conn.Close()
		got := strconv.Itoa(resp.StatusCode) + " " + resp.Header.Get("Content-Type")
		if got != want || strings.Contains(string(answer), "AccessKeyId") != (resp.StatusCode == http.StatusOK) {
			t.Errorf("%s gets %s; want %s\n%.300s", filepath.Base(file), got, want, answer)
		}
	}
}

func lines(t *testing.T, file string) int {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte("\n"))
}

// goClient builds a program of scripts/sdks.
func goClient(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-o", program, "./scripts/sdks/"+name)
	build.Dir = brokertest.ModuleRoot(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatal(fmt.Sprint(err), string(out))
	}
	return program
}
