package minio

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// All of the forged token must hold but its signature: else a MinIO that is open would refuse it for another reason.
func TestTheForgedTokenIsSoundButForItsKey(t *testing.T) {
	token, err := forge("client", start)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	mac := hmac.New(sha256.New, nil)
	mac.Write([]byte(parts[0] + "." + parts[1]))
	if parts[2] != base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) {
		t.Error("it isn't signed with the empty key")
	}
	var header, claims map[string]any
	for i, m := range []*map[string]any{&header, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, m); err != nil {
			t.Fatal(err)
		}
	}
	if header["alg"] != "HS256" || header["kid"] != "client" {
		t.Errorf("header %v", header)
	}
	now := float64(start.Unix())
	if claims["aud"] != "client" || claims["sub"] == "" || claims["iat"] != now-30 || claims["exp"] != now+60 {
		t.Errorf("claims %v", claims)
	}
	policies, _ := claims["policy"].([]any)
	if len(policies) != 1 || !strings.HasPrefix(policies[0].(string), "credbroker-self-test-") {
		t.Errorf("it names %v", policies)
	}
	again, err := forge("client", start)
	if err != nil || again.Equal(token) {
		t.Error("the policy's name can be foreseen")
	}
}
