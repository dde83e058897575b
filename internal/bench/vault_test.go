package bench

import (
	"fmt"
	"strings"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// againstVault is a cached call against what Vault does for the same purpose: an identity token, read anew each time.
func againstVault(s *stage) []row {
	what, goal := "cached issue, HTTP/JSON / Vault identity token", atLeast(8, 12)
	b := s.broker()
	token := s.token("cached")
	_, accessKey := s.answers(b, token)
	v := brokertest.StartVault(s.t, brokertest.VaultOptions{})
	v.Prepare([]string{"CLIENT_ID=bench", "POLICIES=bench", "IDENTITY_ISSUER=" + v.URL}, "identity", "approle")
	login := v.Write("auth/approle/login", brokertest.VaultData{
		"role_id": v.Read("auth/approle/role/credbroker/role-id")["role_id"], "secret_id": v.Write("auth/approle/role/credbroker/secret-id", nil)["secret_id"],
	})
	addr, vault := strings.TrimPrefix(b.http, "http://"), strings.TrimPrefix(v.URL, "http://")
	r := s.versus(
		load{call: httpLoad(s.t, addr, inFlight, httpRequest(addr, token, "bench"), []byte(accessKey)), pid: b.pid()},
		load{call: httpLoad(s.t, vault, inFlight, fmt.Appendf(nil, "GET /v1/identity/oidc/token/credbroker HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\n\r\n", vault, login["client_token"]), []byte(`"token":"eyJ`)), pid: v.PID()})
	return []row{r.row(what, goal)}
}
