package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// everyFile is a configuration that names every file there can be, each %s being the directory.
const everyFile = `issuer: {url: "https://broker.example"}
listeners:
  grpc: {tls: {cert_file: DIR/grpc.crt, key_file: DIR/grpc.key, client_ca_file: DIR/ca.pem}}
  http: {tls: {cert_file: DIR/http.crt, key_file: DIR/http.key, client_ca_file: DIR/ca.pem}}
  metrics: {tls: {cert_file: DIR/metrics.crt, key_file: DIR/metrics.key, client_ca_file: DIR/ca.pem}}
  admin:
    address: 127.0.0.1:9999
    tls: {cert_file: DIR/admin.crt, key_file: DIR/admin.key, client_ca_file: DIR/admin-ca.pem}
issuers:
  - {name: a, issuer: "https://a.example", jwks_file: DIR/keys.json, audiences: [x]}
  - {name: b, issuer: "https://b.example", pem: {file: DIR/key.pem, kid: k}, audiences: [x]}
  - {name: c, issuer: "https://c.example", ca_file: DIR/issuer-ca.pem, bearer_file: DIR/token, audiences: [x]}
exchangers:
  minio: {kind: minio-web-identity, endpoint: "https://m.example", client_id: c, allowed_policies: [p], ca_file: DIR/minio-ca.pem}
redis:
  addresses: ["127.0.0.1:26379"]
  mode: sentinel
  master_name: m
  password_file: DIR/redis.password
  sentinel_password_file: DIR/sentinel.password
  tls: {enabled: true, ca_file: DIR/redis-ca.pem, cert_file: DIR/redis.crt, key_file: DIR/redis.key}
  sealing_keys_file: DIR/sealing.keys
  key_hmac_keys_file: DIR/hmac.keys
audit: {fingerprint_key_file: DIR/fingerprint.key}
`

var reloadable = []string{
	"grpc.crt", "grpc.key", "ca.pem", "http.crt", "http.key", "metrics.crt", "metrics.key", "admin.crt", "admin.key", "admin-ca.pem",
	"keys.json", "key.pem", "issuer-ca.pem", "sealing.keys", "hmac.keys",
}

var atStart = []string{
	"token", "minio-ca.pem", "fingerprint.key", "redis.password", "sentinel.password", "redis-ca.pem", "redis.crt", "redis.key",
}

// contentsOf is what a file of that name may hold.
func contentsOf(name string) string {
	if strings.HasSuffix(name, ".keys") {
		return keyLine(name)
	}
	return strings.Repeat("k", 32)
}

func keyLine(text string) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%-32.32s", text)) + "\n"
}

func TestFilesAreCheckedByLoadAlone(t *testing.T) {
	dir := t.TempDir()
	text := strings.ReplaceAll(everyFile, "DIR", dir)
	path := writeFile(t, dir, "broker.yaml", text)

	c, err := Parse(path, []byte(text), nil)
	if err != nil {
		t.Fatal("Parse looked at files:", err)
	}
	checked, ok := errors.AsType[Faults](c.CheckFiles())
	if !ok || len(checked) != len(reloadable)+len(atStart)+2 { // ca.pem is named three times
		t.Errorf("%d faults: %v", len(checked), checked)
	}
	if c.Listeners.Admin.Socket != "" {
		t.Error("there is a socket beside the address")
	}
	_, err = Load(path, nil)
	if loaded, _ := errors.AsType[Faults](err); !slices.Equal(loaded, checked) {
		t.Errorf("got %v, want %v", loaded, checked)
	}
	want := fmt.Sprintf("%s:10: issuers[0].jwks_file: %q can't be read: no such file or directory; expected a file that the broker may read", path, filepath.Join(dir, "keys.json"))
	if !strings.Contains(err.Error(), want+"\n") {
		t.Errorf("got %v\nwithout %s", err, want)
	}

	for _, name := range slices.Concat(reloadable, atStart) {
		writeFile(t, dir, name, contentsOf(name))
	}
	c, err = Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckFiles(); err != nil {
		t.Errorf("nothing is wrong: %v", err)
	}
	watched := []string{path}
	for _, name := range reloadable {
		watched = append(watched, filepath.Join(dir, name))
	}
	if got := c.Watched(); !slices.Equal(got, watched) {
		t.Errorf("watched: got %q, want %q", got, watched)
	}
	for _, name := range slices.Concat(reloadable, atStart) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := c.CheckFiles(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is missing: %v", name, err)
		}
		writeFile(t, dir, name, contentsOf(name))
	}
}

func TestFilesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ key, file, want string }{
		"a directory":  {"pem", dir, "is no regular file"},
		"a pipe":       {"pem", pipe, "is no regular file"},
		"empty":        {"pem", writeFile(t, dir, "empty", ""), "is empty"},
		"one byte":     {"pem", writeFile(t, dir, "one", "x"), ""},
		"no secret":    {"key", writeFile(t, dir, "nothing", "\n"), "is empty"},
		"31 bytes":     {"key", writeFile(t, dir, "31", strings.Repeat("k", 31)+"\n"), "holds 31 bytes; expected at least 32"},
		"32 bytes":     {"key", writeFile(t, dir, "32", strings.Repeat("k", 32)+"\n"), ""},
		"4096 bytes":   {"key", writeFile(t, dir, "4096", strings.Repeat("k", 4096)), ""},
		"4097 bytes":   {"key", writeFile(t, dir, "4097", strings.Repeat("k", 4097)), "larger than 4096 bytes"},
		"a dir as key": {"key", dir, "is no regular file"},
	} {
		text := fmt.Sprintf("audit: {fingerprint_key_file: %s}", c.file)
		if c.key == "pem" {
			text = fmt.Sprintf("issuers: [{name: a, issuer: 'https://a.example', audiences: [x], jwks_file: %s}]", c.file)
		}
		_, err := Load(writeFile(t, dir, "broker.yaml", text), nil)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "kkk") {
			t.Errorf("%s: the error holds the secret: %v", name, err)
		}
	}
}

func TestConfigurationThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none.yaml"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := Load(dir, nil); err == nil {
		t.Error("a directory was read")
	}
	path := writeFile(t, dir, "large.yaml", strings.Repeat("#", maxFileBytes+1))
	if _, err := Load(path, nil); err == nil || err.Error() != path+":1: larger than 4194304 bytes" {
		t.Errorf("large: %v", err)
	}
	path = writeFile(t, dir, "largest.yaml", strings.Repeat("#", maxFileBytes))
	if _, err := Load(path, nil); err != nil {
		t.Errorf("largest: %v", err)
	}
}

func TestFaultsOfFilesAndKeysComeTogether(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, dir, "broker.yaml", "audit:\n  fingerprint_key_file: /nowhere\nlog: {level: x}\n")
	_, err := Load(path, nil)
	if faults, _ := errors.AsType[Faults](err); len(faults) != 2 || faults[0].Line != 2 || faults[1].Line != 3 {
		t.Errorf("got %v", err)
	}
}

func TestRedisKeyFiles(t *testing.T) {
	dir := t.TempDir()
	const redis = "redis: {addresses: ['127.0.0.1:6379'], sealing_keys_file: DIR/sealing, key_hmac_keys_file: DIR/hmac}"
	for name, c := range map[string]struct{ sealing, hmac, want string }{
		"one each":           {keyLine("a"), keyLine("b"), ""},
		"two each":           {keyLine("a") + keyLine("b"), keyLine("c") + keyLine("d"), ""},
		"one key for both":   {keyLine("a"), keyLine("a"), "key_hmac_keys_file: one of its keys is a sealing key as well"},
		"the second of both": {keyLine("a") + keyLine("b"), keyLine("c") + keyLine("b"), "key_hmac_keys_file: one of its keys is a sealing key as well"},
		"three":              {keyLine("a") + keyLine("b") + keyLine("c"), keyLine("d"), "sealing_keys_file: "},
		"no base64":          {"secret words that nobody may see", keyLine("d"), "line 1 isn't standard base64"},
		"a short one":        {keyLine("a"), "c2hvcnQ=\n", "line 1 is a key of 5 bytes; expected 32"},
	} {
		writeFile(t, dir, "sealing", c.sealing)
		writeFile(t, dir, "hmac", c.hmac)
		_, err := Load(writeFile(t, dir, "broker.yaml", strings.ReplaceAll(redis, "DIR", dir)), nil)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret words") || strings.Contains(err.Error(), "c2hv")) {
			t.Errorf("%s: the error holds the secret: %v", name, err)
		}
	}
}
