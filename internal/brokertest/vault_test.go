package brokertest

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestVaultKeepsItsDataThroughSealAndKill holds the helper to what other tests build on.
func TestVaultKeepsItsDataThroughSealAndKill(t *testing.T) {
	v := StartVault(t, VaultOptions{TLS: true})
	for _, engine := range []string{"aws", "pki", "transit"} {
		v.Write("sys/mounts/"+engine, VaultData{"type": engine})
	}
	v.Write("sys/mounts/kv1", VaultData{"type": "kv"})
	v.Write("sys/mounts/kv", VaultData{"type": "kv", "options": VaultData{"version": "2"}})
	for _, login := range []string{"approle", "aws", "azure", "cert", "gcp", "jwt", "kubernetes"} {
		v.Write("sys/auth/"+login, VaultData{"type": login})
	}
	v.Write("kv1/a", VaultData{"b": "c"})
	v.Policy("reader", map[string]string{"kv1/a": "read", "kv1/x": "create,update"})
	token := v.Token(time.Hour, "reader")
	v.Seal()
	if status, body, err := v.Call(token, http.MethodGet, "kv1/a", nil); status != http.StatusServiceUnavailable || err != nil {
		t.Fatalf("sealed: %d %v %s", status, err, body)
	}
	v.Unseal()
	v.Kill()
	if _, _, err := v.Call(token, http.MethodGet, "kv1/a", nil); err == nil {
		t.Fatal("killed, and it answers")
	}
	v.Start()
	for path, want := range map[string]int{"kv1/a": http.StatusOK, "kv1/b": http.StatusForbidden} {
		if status, body, err := v.Call(token, http.MethodGet, path, nil); status != want || err != nil || want == http.StatusOK && !strings.Contains(string(body), `"b":"c"`) {
			t.Errorf("%s: %d %v %s", path, status, err, body)
		}
	}
}

func TestVaultStandbyRedirects(t *testing.T) {
	v := StartVault(t, VaultOptions{Standby: true})
	resp, err := v.client.Get(v.Standby + "/v1/sys/mounts")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect || resp.Header.Get("Location") != v.URL+"/v1/sys/mounts" {
		t.Fatalf("%d %s", resp.StatusCode, resp.Header.Get("Location"))
	}
}
