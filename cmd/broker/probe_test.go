package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/probe"
)

func TestProbeOfMinIO(t *testing.T) {
	idp := brokertest.NewIDP(t)
	server := brokertest.StartMinIO(t, brokertest.MinIOOptions{IssuerURL: idp.URL, TLS: true})
	server.PutPolicy("everything", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::*"]}]}`)
	server.AddUser("parent", "parents-secret-key", "everything")
	server.MakeBucket("reports")
	token := idp.Token(map[string]any{"aud": brokertest.ClientID, "policy": "everything", "exp": time.Now().Add(time.Hour).Unix()})
	files := map[string]string{"parent": `{"access_key_id":"parent","secret_access_key":"parents-secret-key"}`, "token": token + "\n"}
	for name, text := range files {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files[name] = path
	}
	args := []string{"probe", server.Endpoint, "--ca-file", server.CAFile, "--parent-file", files["parent"], "--token-file", files["token"]}
	table, stderr, err := runProgram(t, "", nil, args...)
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	for _, line := range []string{"2048 bytes (of 16384 that were tried)", "900 s asked for, 900 s given", "minio-web-identity: {kind: minio-web-identity, endpoint: \"" + server.Endpoint, "kind: minio-assume-role, "} {
		if !strings.Contains(table, line) {
			t.Errorf("no %q in\n%s", line, table)
		}
	}
	// What it prints is a configuration, once the blanks are filled in.
	_, settings, _ := strings.Cut(table, "\nexchangers:\n")
	config := filepath.Join(t.TempDir(), "broker.yaml")
	text := "issuer: {url: \"https://broker.example\"}\nexchangers:\n" + strings.NewReplacer("CLIENT-ID", "credbroker", "[POLICY]", "[reports-rw]", "FILE", files["parent"]).Replace(settings)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, stderr, err := runProgram(t, "", nil, "check-config", "--config", config); err != nil {
		t.Errorf("%v: %s%s\n%s", err, out, stderr, text)
	}
	out, stderr, err := runProgram(t, "", nil, append(args, "--format", "json")...)
	var report probe.Report
	if err != nil || json.Unmarshal([]byte(out), &report) != nil || len(report.Limits) != 2 || len(report.Advice) != 3 {
		t.Errorf("%v: %s%s", err, out, stderr)
	}
	if all := table + out + stderr; strings.Contains(all, token) || strings.Contains(all, "parents-secret-key") {
		t.Error("it prints a secret")
	}
}
