package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// A gateway with a key that lasts: replaced without a gap, named by check-config, and no more than a gateway with a session.
func TestAGatewayWithAStaticKey(t *testing.T) {
	w := newWorld(t)
	address := fmt.Sprintf("127.0.0.1:%d", brokertest.FreePorts(t, 1)[0])
	file := filepath.Join(t.TempDir(), "edge.keys")
	newKey := func() gatewaySession {
		var key [32]byte
		_, _ = rand.Read(key[:])
		return gatewaySession{KeyID: "edge", Key: base64.StdEncoding.EncodeToString(key[:])}
	}
	write := func(keys ...gatewaySession) {
		var lines []string
		for _, k := range keys {
			lines = append(lines, k.Key)
		}
		// In one step, as a secret's volume does.
		if err := os.WriteFile(file+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	old, fresh := newKey(), newKey()
	write(old)
	w.WriteConfig(w.config(fmt.Sprintf(`
  - {name: edge, gateway: true, when: 'identity.kind == "static_key" && identity.subject == "edge"'}
  - name: consumer
    when: identity.kind == "kong" && identity.subject == "5b6a" && identity.actor.kind == "static_key" && identity.actor.subject == "edge"
    exchanger: minio
    policies: [reports-rw]
    operations: [s3:GetObject, s3:PutObject]
  - name: confirmed
    when: identity.kind == "kong" && "alice" in identity.attrs.token_subject && "write" in identity.attrs.scopes
    exchanger: minio
    policies: [reports-rw]
listeners: {gateway: {address: %q}}
gateway_keys: [{name: edge, key_file: %q}]
`, address, file)))
	w.Start()
	w.minio.Start()
	w.furnish()

	consumer := map[string]string{"x-consumer-id": "5b6a", "x-consumer-custom-id": "alice", "x-credential-identifier": "key-1", "x-authenticated-scope": "read write"}
	status := func(s gatewaySession, body string, want string) error {
		a, err := s.call(address, body, consumer, nil)
		if err == nil && a.Error.Code != want {
			err = fmt.Errorf("%d %q, want %q", a.Status, a.Error.Code, want)
		}
		return err
	}
	a, err := answer{}, error(nil)
	brokertest.Eventually(t, 20*time.Second, "the word is taken", func() error {
		if a, err = old.call(address, `{"role":"consumer"}`, consumer, nil); err == nil && a.Status != http.StatusOK {
			err = errors.New(a.Error.Code)
		}
		return err
	})
	if err := w.put(a, "by-a-static-key"); err != nil {
		t.Error(err)
	}
	sign := `{"role":"consumer","requests":[{"method":"PUT","bucket":"reports","key":"signed"}]}`
	if a, err := old.callPath(address, "/v1/sign", sign, consumer, nil); err != nil || a.Status != http.StatusOK || a.SecretAccessKey != "" {
		t.Errorf("%+v, %v", a.Error, err)
	}
	token := func(claims map[string]any) string {
		return fmt.Sprintf(`{"role":"confirmed","jwt":%q}`, w.token(claims))
	}
	for name, tc := range map[string]struct{ body, want string }{
		"without the token":     {`{"role":"confirmed"}`, "permission_denied"},
		"with it":               {token(nil), ""},
		"with another's":        {token(map[string]any{"sub": "bob"}), "forwarded_token_rejected"},
		"with an expired one":   {token(map[string]any{"exp": time.Now().Add(-time.Hour).Unix(), "iat": time.Now().Add(-2 * time.Hour).Unix()}), "forwarded_token_rejected"},
		"with another client's": {token(map[string]any{"aud": "another"}), "forwarded_token_rejected"},
		"with no token at all":  {`{"role":"confirmed","jwt":"a.b.c"}`, "forwarded_token_rejected"},
	} {
		if err := status(old, tc.body, tc.want); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	// The old key, both, the new one.
	if err := status(fresh, `{"role":"consumer"}`, "unauthenticated"); err != nil {
		t.Errorf("a key that isn't there yet: %v", err)
	}
	write(fresh, old)
	brokertest.Eventually(t, 20*time.Second, "the new key is taken", func() error { return status(fresh, `{"role":"consumer"}`, "") })
	if err := status(old, `{"role":"consumer"}`, ""); err != nil {
		t.Errorf("the old key beside it: %v", err)
	}
	write(fresh)
	brokertest.Eventually(t, 20*time.Second, "the old key is refused", func() error { return status(old, `{"role":"consumer"}`, "unauthenticated") })
	if err := status(fresh, `{"role":"consumer"}`, ""); err != nil {
		t.Error(err)
	}
	out, _, err := runProgram(t, "", nil, "check-config", "--config", w.ConfigFile)
	if err != nil || !strings.Contains(out, "gateway_keys[0] (edge): "+file+" is a secret that lasts") {
		t.Errorf("%s, %v", out, err)
	}
	if strings.Contains(w.Log()+strings.Join(w.Audit(), "\n"), fresh.Key) {
		t.Error("the key is in the log")
	}
}
