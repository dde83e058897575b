package kongtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.yaml.in/yaml/v3"

	"github.com/credbroker/credbroker/internal/brokertest"
)

func deployed(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(brokertest.ModuleRoot(t), "deploy", "kong", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// replaced replaces each of old, new, ... in a text, each of which must be there.
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("no %q in it", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// publicKey is the identity provider's key in PEM.
func publicKey(t *testing.T, idp *brokertest.IDP) string {
	t.Helper()
	var set struct {
		Keys []struct{ X, Y string }
	}
	if err := json.Unmarshal(idp.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	x, errX := base64.RawURLEncoding.DecodeString(set.Keys[0].X)
	y, errY := base64.RawURLEncoding.DecodeString(set.Keys[0].Y)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	if err := errors.Join(errX, errY, err); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

var pemBlock = regexp.MustCompile(`(?m)^ *-----BEGIN PUBLIC KEY-----\n(?:.*\n)+? *-----END PUBLIC KEY-----\n`)

// startFront runs the shipped nginx.conf before a gateway and returns a client for s3.example that trusts its certificate.
func startFront(t *testing.T, g *Gateway) *http.Transport {
	t.Helper()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	brokertest.WriteCertificate(t, cert, key)
	address := fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(t, 1)[0])
	temporary := "http {\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("  %s_temp_path %s/%s;\n", kind, dir, kind)
	}
	conf := replaced(t, deployed(t, "nginx.conf"), "listen 443 ssl", "listen "+address+" ssl", "/etc/nginx/tls/tls.crt", cert, "/etc/nginx/tls/tls.key", key,
		"127.0.0.1:8000", strings.TrimPrefix(g.URL, "http://"), "/run/nginx-kong.pid", dir+"/pid", "/var/log/nginx/kong-error.log", dir+"/error.log",
		"worker_processes auto", "daemon off; worker_processes 1", "http {\n", temporary)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(brokertest.Tool(t, "nginx-lua"), "-p", dir, "-c", file)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	root, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	brokertest.Eventually(t, 20*time.Second, "nginx in front", func() error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return transport
}

// bearer adds a token to what an SDK sends.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// kong.yml and nginx.conf as they are shipped, but for hosts, files and the provider's key: from a client over TLS to MinIO.
func TestDeclarativeConfiguration(t *testing.T) {
	w := newWorld(t)
	log := filepath.Join(t.TempDir(), "log")
	config := replaced(t, deployed(t, "kong.yml"), "https://minio.example:9000", w.minio.Endpoint, "https://broker.example:8444", "http://"+w.gateway,
		"https://broker.example:8443", w.HTTP, "role: tenants", "role: reports", "/var/run/secrets/credbroker/token", w.tokenFile, "/dev/stdout", log)
	indented := regexp.MustCompile(`(?m)^`).ReplaceAllString(strings.TrimSuffix(publicKey(t, w.idp), "\n"), "          ") + "\n"
	if len(pemBlock.FindAllString(config, -1)) != 1 {
		t.Fatal("no one public key in kong.yml")
	}
	g := Start(t, Options{Config: pemBlock.ReplaceAllLiteralString(config, indented)})
	transport := startFront(t, g)
	as := func(token string) *s3.Client {
		return s3.New(s3.Options{
			Region: "us-east-1", BaseEndpoint: aws.String("https://s3.example"), UsePathStyle: true, Credentials: aws.AnonymousCredentials{}, RetryMaxAttempts: 1,
			HTTPClient: &http.Client{Transport: bearer{token, transport}},
		})
	}
	alice := as(w.idp.Token(nil))
	bucket, key, content := aws.String("reports"), aws.String("acme/q3 figures"), noise(t, 1<<20)
	brokertest.Eventually(t, 20*time.Second, "alice uploads", func() error {
		_, err := alice.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: key, Body: bytes.NewReader(content)})
		return err
	})
	if !bytes.Equal(w.stored(t, *key), content) {
		t.Error("what is stored is not what was sent")
	}
	// A stream, whose checksum is known at its end alone: over TLS the SDK sends it as an unsigned trailer.
	stream := io.MultiReader(bytes.NewReader(content[:100]), bytes.NewReader(content[100:]))
	if _, err := alice.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: aws.String("acme/stream"), Body: stream, ContentLength: aws.Int64(1 << 20)}); err != nil {
		t.Error(err)
	} else if !bytes.Equal(w.stored(t, "acme/stream"), content) {
		t.Error("what is stored of a stream is not what was sent")
	}
	if list, err := alice.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: bucket, Prefix: aws.String("acme/")}); err != nil || len(list.Contents) != 2 {
		t.Errorf("%v %+v", err, list)
	}
	for name, tc := range map[string]struct {
		token, key string
		want       int
	}{
		"bob, alice's object":          {w.idp.Token(map[string]any{"sub": "bob"}), *key, http.StatusForbidden},
		"alice, bob's prefix":          {w.idp.Token(nil), "umbrella/x", http.StatusForbidden},
		"an expired token":             {w.idp.Token(map[string]any{"exp": time.Now().Add(-time.Second).Unix()}), *key, http.StatusUnauthorized},
		"a token without an end":       {w.idp.Token(map[string]any{"exp": nil}), *key, http.StatusUnauthorized},
		"a token for a day":            {w.idp.Token(map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()}), *key, http.StatusUnauthorized},
		"a subject that is nobody":     {w.idp.Token(map[string]any{"sub": "mallory"}), *key, http.StatusUnauthorized},
		"another provider's token":     {brokertest.NewIDP(t).Token(nil), *key, http.StatusUnauthorized},
		"alice, and all is as it was?": {w.idp.Token(nil), *key, http.StatusOK},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://s3.example/reports/"+strings.ReplaceAll(tc.key, " ", "%20"), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := bearer{tc.token, transport}.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
}

// Every configuration of the plugin that is shipped passes its schema: what Kong would refuse, or not know, fails here.
func TestEveryFormOfTheConfiguration(t *testing.T) {
	forms := map[string]string{}
	var deck struct {
		Services []struct {
			Plugins []struct {
				Name   string
				Config map[string]any
			}
		}
	}
	for _, name := range []string{"deck.yaml", "kong.yml"} {
		if err := yaml.Unmarshal([]byte(deployed(t, name)), &deck); err != nil {
			t.Fatal(err)
		}
		for _, plugin := range deck.Services[0].Plugins {
			if plugin.Name == "credential-broker" {
				config, _ := json.Marshal(plugin.Config)
				forms[name] = regexp.MustCompile(`\$\{\{.*?\}\}`).ReplaceAllString(string(config), "broker.example")
			}
		}
	}
	documents := yaml.NewDecoder(strings.NewReader(deployed(t, "kubernetes/credential-broker.yaml")))
	named := ""
	for {
		var document struct {
			Kind     string
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
			Plugin string
			Config map[string]any
		}
		if err := documents.Decode(&document); err != nil {
			break
		}
		if document.Plugin == "credential-broker" {
			config, _ := json.Marshal(document.Config)
			forms["KongPlugin"] = string(config)
		}
		if document.Kind == "KongPlugin" {
			named += "," + document.Metadata.Name
		} else if document.Kind == "Ingress" && ","+document.Metadata.Annotations["konghq.com/plugins"] != named {
			t.Errorf("the Ingress names %s, the plugins are %s", document.Metadata.Annotations["konghq.com/plugins"], named)
		}
	}
	if len(forms) != 3 {
		t.Fatalf("%v", forms)
	}
	plugin := func(config string) Options {
		return Options{Config: declared(service("x", "http://127.0.0.1:1", "/", "{name: credential-broker, config: "+config+"}"))}
	}
	for name, config := range forms {
		if err := Check(t, plugin(config)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := forms["kong.yml"]
	for change, want := range map[string]string{
		`"mode":"magic"`:           "config.mode: expected one of",
		`"session_url":null`:       "config.session_url: required field missing",
		`"gateway_role":null`:      "config.gateway_role: required field missing",
		`"token_file":null`:        "config.token_file: required field missing",
		`"role":null`:              "config.role: required field missing",
		`"role":"../../sys"`:       "config.role: invalid value",
		`"broker_url":"broker"`:    "config.broker_url: missing host in url",
		`"proof":"static_key"`:     "config.static_key: required field missing",
		`"proof":"certificate"`:    "config.key_file: required field missing",
		`"proof":"gcp"`:            "config.audience: required field missing",
		`"ttl":0`:                  "config.ttl: value must be greater than 0",
		`"timeout":5`:              "config.timeout: value should be between",
		`"rol":"x"`:                "config.rol: unknown field",
		`"inject_headers":{"x":1}`: "config.inject_headers.x: unknown field",
	} {
		config := map[string]any{}
		if err := errors.Join(json.Unmarshal([]byte(good), &config), json.Unmarshal([]byte("{"+change+"}"), &config)); err != nil {
			t.Fatal(err)
		}
		changed, _ := json.Marshal(config)
		if err := Check(t, plugin(string(changed))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", change, err, want)
		}
	}
}
