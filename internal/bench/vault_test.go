package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// vaultProgram is Vault's own program, if there is one: $VAULT_PROGRAM, or vault on the PATH.
func vaultProgram() string {
	if path := os.Getenv("VAULT_PROGRAM"); path != "" {
		return path
	}
	path, err := exec.LookPath("vault")
	if err != nil {
		return ""
	}
	return path
}

// againstVault is a cached call against what Vault does for the same purpose: an identity token, read anew each time.
func againstVault(s *stage) []row {
	what, goal := "cached issue, HTTP/JSON / Vault identity token", atLeast(8, 12)
	program := vaultProgram()
	if program == "" {
		return []row{{What: what, Unit: "/s", target: goal, Verdict: absent, Note: "no Vault here"}}
	}
	b := s.broker()
	token := s.token("cached")
	_, accessKey := s.answers(b, token)
	v := s.startVault(program)
	addr := strings.TrimPrefix(b.http, "http://")
	r := s.versus(
		load{call: httpLoad(s.t, addr, inFlight, httpRequest(addr, token, "bench"), []byte(accessKey)), pid: b.pid()},
		load{call: httpLoad(s.t, v.addr, inFlight, fmt.Appendf(nil, "GET /v1/identity/oidc/token/bench HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\n\r\n", v.addr, v.token), []byte(`"token":"eyJ`)), pid: v.pid})
	return []row{r.row(what, goal)}
}

// vault is a Vault in memory with an identity that may read a token of ES256.
type vault struct {
	addr, token string
	pid         int
}

func (s *stage) startVault(program string) vault {
	s.t.Helper()
	const root = "root"
	v := vault{addr: fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(s.t, 1)[0])}
	cmd := exec.Command(program, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id="+root, "-dev-listen-address="+v.addr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	v.pid = cmd.Process.Pid
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	brokertest.Eventually(s.t, 30*time.Second, "Vault ready", func() error {
		status, body, err := brokertest.Get("http://" + v.addr + "/v1/sys/health")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	v.do(s, root, "sys/auth/userpass", `{"type":"userpass"}`)
	v.do(s, root, "sys/policies/acl/bench", `{"policy":"path \"identity/oidc/token/*\" { capabilities = [\"read\"] }"}`)
	v.do(s, root, "auth/userpass/users/bench", `{"password":"bench","token_policies":"bench"}`)
	v.do(s, root, "identity/oidc/key/bench", `{"algorithm":"ES256","allowed_client_ids":["*"]}`)
	v.do(s, root, "identity/oidc/role/bench", `{"key":"bench","ttl":"1h"}`)
	var login struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		}
	}
	if err := json.Unmarshal(v.do(s, "", "auth/userpass/login/bench", `{"password":"bench"}`), &login); err != nil || login.Auth.ClientToken == "" {
		s.t.Fatal("Vault gave no token", err)
	}
	v.token = login.Auth.ClientToken
	return v
}

// do writes to a path of Vault's API and returns the answer.
func (v vault) do(s *stage, token, path, body string) []byte {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodPut, "http://"+v.addr+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(resp.Body); err != nil || resp.StatusCode >= 300 {
		s.t.Fatalf("Vault: %s: %s %v: %s", path, resp.Status, err, answer.String())
	}
	return answer.Bytes()
}
