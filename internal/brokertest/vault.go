package brokertest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
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
)

// Vault is a real Vault server in a process of its own on loopback, with the engines and logins of scripts/vault.
type Vault struct {
	// URL is where it serves.
	URL string
	// Standby is where a second server of the same cluster serves; empty unless VaultOptions asked for it.
	Standby string
	// CAFile holds the root of its certificate; empty without TLS.
	CAFile string
	// RootToken may do everything.
	RootToken string

	process
	program, dir string
	args, env    []string
	unsealKey    string
	client       *http.Client
}

// VaultOptions say what differs from one server in plaintext.
type VaultOptions struct {
	// TLS makes it serve https, with a certificate of its own making. Its login by certificate takes it.
	TLS bool
	// Standby starts a second server, which redirects to the first. Both keep their data in memory, so that they have none after
	// Kill.
	Standby bool
	// CAFiles are roots that it trusts instead of the system's, for what it calls itself.
	CAFiles []string
}

// VaultData is a JSON object of Vault's API.
type VaultData = map[string]any

// StartVault starts a server, initialises and unseals it. Nothing is mounted but what Vault itself needs. It stops with the test.
func StartVault(t testing.TB, opts VaultOptions) *Vault {
	t.Helper()
	dir := t.TempDir()
	v := &Vault{process: process{t: t, name: "Vault", LogFile: filepath.Join(dir, "log")}, program: Tool(t, "vault"), dir: dir}
	address, scheme := fmt.Sprintf("127.0.0.1:%d", holdPort(t)), "http"
	v.args = []string{"-address", address}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	v.client = &http.Client{
		Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if opts.TLS {
		scheme, v.CAFile = "https", filepath.Join(dir, "tls.crt")
		key := filepath.Join(dir, "tls.key")
		WriteCertificate(t, v.CAFile, key)
		v.args = append(v.args, "-tls-cert", v.CAFile, "-tls-key", key)
		transport.TLSClientConfig = &tls.Config{RootCAs: readPool(t, v.CAFile)}
	}
	v.URL = scheme + "://" + address
	if opts.Standby {
		standby := fmt.Sprintf("127.0.0.1:%d", holdPort(t))
		v.Standby = scheme + "://" + standby
		v.args = append(v.args, "-standby", standby)
	} else {
		v.args = append(v.args, "-data", filepath.Join(dir, "data"))
	}
	if len(opts.CAFiles) > 0 {
		var roots []byte
		for _, file := range opts.CAFiles {
			pem, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			roots = append(roots, pem...)
		}
		file := filepath.Join(dir, "roots.pem")
		writeFile(t, file, roots)
		v.env = []string{"SSL_CERT_FILE=" + file, "SSL_CERT_DIR=" + filepath.Join(dir, "none"), "AWS_CA_BUNDLE=" + file} // the last is AWS's SDK's
	}
	v.endsWithTest(func() {
		v.Kill()
		transport.CloseIdleConnections()
	})
	v.Launch()
	v.initialise()
	v.Unseal()
	return v
}

// Launch starts the process and waits until it answers; it is sealed then. It may be called again after Kill: port and data stay.
func (v *Vault) Launch() {
	v.t.Helper()
	cmd := exec.Command(v.program, v.args...)
	cmd.Env = append(os.Environ(), v.env...)
	v.run(cmd)
	v.wait("answers", func(status int) bool { return status != 0 })
}

// Start is Launch and Unseal.
func (v *Vault) Start() {
	v.t.Helper()
	v.Launch()
	v.Unseal()
}

// Seal seals the server: it answers everything with 503 until Unseal.
func (v *Vault) Seal() {
	v.t.Helper()
	v.Write("sys/seal", nil)
}

// Unseal unseals the server and waits until it is the active one.
func (v *Vault) Unseal() {
	v.t.Helper()
	v.unseal(v.URL)
	v.wait("active", func(status int) bool { return status == http.StatusOK })
	if v.Standby != "" { // last, so that it doesn't become the active one
		v.unseal(v.Standby)
		Eventually(v.t, 30*time.Second, "Vault's standby", func() error {
			status, body, err := v.send(v.Standby, "", http.MethodGet, "sys/health", nil)
			if err == nil && status != http.StatusTooManyRequests {
				err = fmt.Errorf("its health is %d: %s", status, body)
			}
			return err
		})
	}
}

func (v *Vault) unseal(server string) {
	v.t.Helper()
	status, body, err := v.send(server, "", http.MethodPut, "sys/unseal", VaultData{"key": v.unsealKey})
	if err != nil || status != http.StatusOK {
		v.t.Fatalf("unseal Vault: %d %v: %s", status, err, body)
	}
}

// initialise makes the unseal key, one alone, and the root token.
func (v *Vault) initialise() {
	v.t.Helper()
	status, body, err := v.send(v.URL, "", http.MethodPut, "sys/init", VaultData{"secret_shares": 1, "secret_threshold": 1})
	if err != nil || status != http.StatusOK {
		v.t.Fatalf("initialise Vault: %d %v: %s", status, err, body)
	}
	var made struct {
		Keys      []string `json:"keys"`
		RootToken string   `json:"root_token"`
	}
	if err := json.Unmarshal(body, &made); err != nil || len(made.Keys) != 1 {
		v.t.Fatalf("initialise Vault: %v", err)
	}
	v.unsealKey, v.RootToken = made.Keys[0], made.RootToken
}

// wait waits for a status of sys/health that will do.
func (v *Vault) wait(what string, good func(status int) bool) {
	v.t.Helper()
	v.waitUntil(what, 60*time.Second, func() error {
		status, body, err := v.send(v.URL, "", http.MethodGet, "sys/health", nil)
		if err == nil && !good(status) {
			err = fmt.Errorf("its health is %d: %s", status, body)
		}
		return err
	})
}

// Call sends a request as the bearer of token, or as root if that is empty, with body as JSON unless it is nil. A path is as in
// "sys/mounts/kv".
func (v *Vault) Call(token, method, path string, body any) (status int, answer []byte, err error) {
	if token == "" {
		token = v.RootToken
	}
	return v.send(v.URL, token, method, path, body)
}

// Wrap writes to a path as root and returns the token that the answer is wrapped in for a time (response wrapping).
func (v *Vault) Wrap(path string, body VaultData, ttl time.Duration) string {
	v.t.Helper()
	status, answer, err := v.send(v.URL, v.RootToken, http.MethodPut, path, body, "X-Vault-Wrap-TTL", ttl.String())
	var out struct {
		Wrap struct{ Token string } `json:"wrap_info"`
	}
	if err == nil {
		err = json.Unmarshal(answer, &out)
	}
	if err != nil || status/100 != 2 || out.Wrap.Token == "" {
		v.t.Fatalf("Vault says %d to a wrapped PUT %s: %v: %s", status, path, err, answer)
	}
	return out.Wrap.Token
}

func (v *Vault) send(server, token, method, path string, body any, headers ...string) (status int, answer []byte, err error) {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(marshal(body))
	}
	req, err := http.NewRequest(method, server+"/v1/"+path, in)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	return resp.StatusCode, answer, err
}

// Write writes to a path as root, and returns `auth` of the answer if there is one, else its `data`. It fails the test unless
// Vault does it.
func (v *Vault) Write(path string, body VaultData) VaultData {
	v.t.Helper()
	return v.do(http.MethodPut, path, body)
}

// Read is Write for reading.
func (v *Vault) Read(path string) VaultData {
	v.t.Helper()
	return v.do(http.MethodGet, path, nil)
}

// Delete is Write for deleting.
func (v *Vault) Delete(path string) {
	v.t.Helper()
	v.do(http.MethodDelete, path, nil)
}

// List is the names below a path.
func (v *Vault) List(path string) []string {
	v.t.Helper()
	var names []string
	for _, name := range v.do("LIST", path, nil)["keys"].([]any) {
		names = append(names, name.(string))
	}
	return names
}

func (v *Vault) do(method, path string, body VaultData) VaultData {
	v.t.Helper()
	var in any
	if body != nil {
		in = body
	}
	status, answer, err := v.Call("", method, path, in)
	if err != nil {
		v.t.Fatal(err)
	}
	if status/100 != 2 {
		v.t.Fatalf("Vault says %d to %s %s: %s", status, method, path, answer)
	}
	var out struct{ Auth, Data VaultData }
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &out); err != nil {
			v.t.Fatalf("Vault answers %s %s: %v\n%s", method, path, err, answer)
		}
	}
	if out.Auth != nil {
		return out.Auth
	}
	return out.Data
}

// Policy makes a policy of Vault's of rules, each a path and its capabilities: "read", or "create,update".
func (v *Vault) Policy(name string, rules map[string]string) {
	v.t.Helper()
	var text strings.Builder
	for path, capabilities := range rules {
		fmt.Fprintf(&text, "path %q { capabilities = [\"%s\"] }\n", path, strings.ReplaceAll(capabilities, ",", `","`))
	}
	v.Write("sys/policies/acl/"+name, VaultData{"policy": text.String()})
}

// Token makes a token with policies beside the default one, which ends after ttl unless it is renewed.
func (v *Vault) Token(ttl time.Duration, policies ...string) string {
	v.t.Helper()
	auth := v.Write("auth/token/create", VaultData{"policies": policies, "ttl": ttl.String(), "no_parent": true})
	return auth["client_token"].(string)
}

// readPool is a pool of the certificates in a PEM file.
func readPool(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}
