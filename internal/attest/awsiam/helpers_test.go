package awsiam

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/go-json-experiment/json"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const serverID = "broker.example"

// signing says how the SDK makes a proof.
type signing struct {
	host, region string
	keys         aws.Credentials
	at           time.Time
	header       http.Header // further ones
	body         string
}

func newSigning() signing {
	return signing{
		host: "sts.eu-west-1.amazonaws.com", region: "eu-west-1", at: time.Now().UTC().Truncate(time.Second), body: postBody,
		keys:   aws.Credentials{AccessKeyID: "ASIAIOSFODNN7EXAMPLE", SecretAccessKey: "planted-secret", SessionToken: "planted/session+token=="},
		header: http.Header{"X-Credbroker-Server-Id": {serverID}, "X-Credbroker-Nonce": {"n1"}},
	}
}

// login signs a POST and returns it as Vault's login data, before it is encoded.
func (s signing) login(t testing.TB) map[string]string {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "https://"+s.host+"/", strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	for name, values := range s.header {
		req.Header[name] = values
	}
	hash := sha256.Sum256([]byte(s.body))
	if err := v4.NewSigner().SignHTTP(context.Background(), s.keys, req, hex.EncodeToString(hash[:]), "sts", s.region, s.at); err != nil {
		t.Fatal(err)
	}
	headers, err := json.Marshal(req.Header)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"method": "POST", "url": "https://" + s.host + "/", "body": s.body, "headers": string(headers)}
}

// encode makes the proof of it.
func encode(t testing.TB, in map[string]string) string {
	t.Helper()
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	out, err := json.Marshal(loginData{in["method"], b64(in["url"]), b64(in["body"]), b64(in["headers"])})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// presign is what `aws eks get-token` does, with the server ID as the cluster's name.
func (s signing) presign(t testing.TB) string {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet,
		"https://"+s.host+"/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=60", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(headerClusterID, serverID)
	hash := sha256.Sum256(nil)
	url, _, err := v4.NewSigner().PresignHTTP(context.Background(), s.keys, req, hex.EncodeToString(hash[:]), "sts", s.region, s.at)
	if err != nil {
		t.Fatal(err)
	}
	return url
}

func token(url string) string {
	return presignedPrefix + base64.RawURLEncoding.EncodeToString([]byte(url))
}
