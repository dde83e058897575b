package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/credbroker/credbroker/internal/brokertest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// ask is one attempt to get credentials, on whatever surface.
type ask struct {
	token, role string
	policy      string // empty if the surface takes none
	ttl         int
}

// surface gets credentials in a protocol of its own. Code is the broker's code of a refusal, wherever the protocol carries it.
type surface struct {
	name string
	// narrows says whether the protocol has a policy and a TTL.
	narrows bool
	get     func(ask) (got answer, code string, err error)
}

// surfaces are all ways to credentials that take a JWT; they are the same broker's.
func surfaces(t *testing.T, w *world, stsURL string) []surface {
	conn, err := grpc.NewClient(w.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client := brokerv1.NewCredentialBrokerServiceClient(conn)
	query := func(endpoint string) func(ask) (answer, string, error) {
		return func(a ask) (answer, string, error) { return assumeByQuery(endpoint, a) }
	}
	return []surface{
		{"gRPC", true, func(a ask) (answer, string, error) {
			req := &brokerv1.IssueCredentialsRequest{Proof: &brokerv1.Proof{Proof: &brokerv1.Proof_Jwt{Jwt: a.token}}, Role: a.role, Policy: a.policy}
			if a.ttl != 0 {
				req.Ttl = durationpb.New(time.Duration(a.ttl) * time.Second)
			}
			resp, err := client.IssueCredentials(t.Context(), req)
			if err != nil {
				for _, d := range status.Convert(err).Details() {
					if info, ok := d.(*errdetails.ErrorInfo); ok {
						return answer{}, strings.ToLower(info.GetReason()), nil
					}
				}
				return answer{}, "", err
			}
			return answer{issued: issued{AccessKeyID: resp.GetAccessKeyId(), SecretAccessKey: resp.GetSecretAccessKey(), SessionToken: resp.GetSessionToken()}}, "", nil
		}},
		{"HTTP", true, func(a ask) (answer, string, error) {
			body := map[string]any{"role": a.role, "jwt": a.token}
			if a.policy != "" {
				body["policy"] = a.policy
			}
			if a.ttl != 0 {
				body["ttl_seconds"] = a.ttl
			}
			data, _ := json.Marshal(body)
			return exchangeHTTP(http.MethodPost, w.HTTP+"/v1/credentials", http.Header{"Content-Type": {"application/json"}}, string(data), func(data []byte) (issued, error) {
				var i issued
				return i, json.Unmarshal(data, &i)
			})
		}},
		{"headers", false, func(a ask) (answer, string, error) {
			var h http.Header
			got, code, err := exchangeHTTP(http.MethodGet, w.HTTP+"/v1/credentials/headers", http.Header{"Authorization": {"Bearer " + a.token}, "X-Credbroker-Role": {a.role}}, "",
				func([]byte) (issued, error) { return issued{}, nil }, &h)
			got.AccessKeyID, got.SecretAccessKey, got.SessionToken = h.Get("X-Credbroker-Access-Key-Id"), h.Get("X-Credbroker-Secret-Access-Key"), h.Get("X-Credbroker-Session-Token")
			return got, code, err
		}},
		{"STS", true, query(w.HTTP + "/sts")},
		{"STS on its own listener", true, query(stsURL)},
		{"container", false, func(a ask) (answer, string, error) {
			return exchangeHTTP(http.MethodGet, w.HTTP+"/v1/container-credentials/"+a.role, http.Header{"Authorization": {a.token}}, "", processCredentials)
		}},
		{"token exchange", false, func(a ask) (answer, string, error) {
			form := url.Values{
				"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "audience": {a.role},
				"subject_token": {a.token}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
			}
			return exchangeHTTP(http.MethodPost, w.HTTP+"/oauth/token", formHeader(), form.Encode(), func(data []byte) (issued, error) {
				var reply struct {
					AccessToken string `json:"access_token"`
				}
				if err := json.Unmarshal(data, &reply); err != nil {
					return issued{}, err
				}
				return processCredentials([]byte(reply.AccessToken))
			})
		}},
	}
}

func formHeader() http.Header {
	return http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
}

// processCredentials reads container credentials or what a credential_process prints.
func processCredentials(data []byte) (issued, error) {
	var c struct{ AccessKeyId, SecretAccessKey, SessionToken, Token string } //nolint:revive // as in the JSON
	err := json.Unmarshal(data, &c)
	return issued{AccessKeyID: c.AccessKeyId, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken + c.Token}, err
}

func exchangeHTTP(method, target string, header http.Header, body string, read func([]byte) (issued, error), out ...*http.Header) (answer, string, error) {
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		return answer{}, "", err
	}
	req.Header = header
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		return answer{}, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, "", err
	}
	for _, h := range out {
		*h = resp.Header
	}
	if resp.StatusCode >= 300 {
		return answer{}, resp.Header.Get("X-Credbroker-Error"), nil
	}
	i, err := read(data)
	return answer{issued: i}, "", err
}

// assumeByQuery is AssumeRoleWithWebIdentity by AWS's own client.
func assumeByQuery(endpoint string, a ask) (answer, string, error) {
	code := ""
	client := sts.New(sts.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(endpoint), RetryMaxAttempts: 1,
		HTTPClient: &http.Client{Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err == nil {
				code = resp.Header.Get("X-Credbroker-Error")
			}
			return resp, err
		})},
	})
	in := &sts.AssumeRoleWithWebIdentityInput{RoleArn: aws.String("arn:aws:iam::000000000000:role/" + a.role), RoleSessionName: aws.String("test"), WebIdentityToken: aws.String(a.token)}
	if a.policy != "" {
		in.Policy = aws.String(a.policy)
	}
	if a.ttl != 0 {
		in.DurationSeconds = aws.Int32(int32(a.ttl))
	}
	out, err := client.AssumeRoleWithWebIdentity(context.Background(), in)
	var api interface {
		error
		ErrorCode() string
	}
	if errors.As(err, &api) {
		if want, ok := stsCodes[code]; !ok || api.ErrorCode() != want {
			return answer{}, code, fmt.Errorf("code %s is %s to the SDK", code, api.ErrorCode())
		}
		return answer{}, code, nil
	}
	if err != nil {
		return answer{}, code, err
	}
	return answer{issued: issued{AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken}}, "", nil
}

// stsCodes are what AWS's client makes of the codes in these tests.
var stsCodes = map[string]string{
	"unauthenticated": "InvalidIdentityToken", "proof_expired": "ExpiredTokenException", "permission_denied": "AccessDenied", "policy_too_wide": "MalformedPolicyDocument",
	"invalid_policy": "MalformedPolicyDocument", "policy_too_large": "PackedPolicyTooLarge", "invalid_ttl": "ValidationError", "invalid_request": "ValidationError", "rate_limited": "Throttling",
	"proof_already_used": "IDPRejectedClaim", "exchange_unavailable": "ServiceUnavailable",
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestEverySurfaceLeadsToTheSameFolder and refuses the same: no surface is looser than another.
func TestEverySurfaceGivesAndRefusesTheSame(t *testing.T) {
	port := brokertest.FreePorts(t, 1)[0]
	address := fmt.Sprintf("127.0.0.1:%d", port)
	w := newWorld(t, "CREDBROKER__LISTENERS__STS__ADDRESS="+address)
	w.WriteConfig(w.config(`
  - name: nobodys
    when: identity.subject == "nobody"
    exchanger: minio
    policies: [reports-rw]
  - name: gateways
    when: "true"
    gateway: true
`))
	w.Start()
	w.minio.Start()
	w.furnish()

	now := time.Now()
	alice := w.token(nil)
	other := brokertest.NewIDP(t)
	past := map[string]any{"iat": now.Add(-time.Hour).Unix(), "exp": now.Add(-10 * time.Minute).Unix()}
	unsigned := strings.Split(alice, ".")
	const wider = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:PutObject"],"Resource":["arn:aws:s3:::reports/*"]}]}`
	refusals := []struct {
		name string
		ask  ask
		code string
	}{
		{"no token", ask{token: "", role: "reports"}, ""}, // each protocol has its own word for that
		{"what is no token", ask{token: "x", role: "reports"}, "unauthenticated"},
		{"another issuer's token", ask{token: other.Token(map[string]any{"groups": []string{"finance"}}), role: "reports"}, "unauthenticated"},
		{"another audience", ask{token: w.token(map[string]any{"aud": "vault"}), role: "reports"}, "unauthenticated"},
		{"another audience, expired", ask{token: w.token(map[string]any{"aud": "vault", "iat": past["iat"], "exp": past["exp"]}), role: "reports"}, "unauthenticated"},
		{"an expired token", ask{token: w.token(past), role: "reports"}, "proof_expired"},
		{"no signature", ask{token: unsigned[0] + "." + unsigned[1] + ".", role: "reports"}, "unauthenticated"},
		{"alg none", ask{token: "eyJhbGciOiJub25lIn0." + unsigned[1] + ".", role: "reports"}, "unauthenticated"},
		{"a token of 17 KiB", ask{token: alice + strings.Repeat("A", 17<<10), role: "reports"}, "unauthenticated"},
		{"a scheme before the token", ask{token: "Bearer " + alice, role: "reports"}, "unauthenticated"},
		{"a role that there isn't", ask{token: alice, role: "none"}, "permission_denied"},
		{"somebody else's role", ask{token: alice, role: "nobodys"}, "permission_denied"},
		{"a gateway's role", ask{token: alice, role: "gateways"}, "permission_denied"},
		{"somebody without the group", ask{token: w.token(map[string]any{"groups": []string{"engineering"}}), role: "reports"}, "permission_denied"},
		{"a subject that no policy may hold", ask{token: w.token(map[string]any{"sub": "a/*"}), role: "reports"}, "permission_denied"},
		{"a wider policy", ask{token: alice, role: "reports", policy: wider}, "policy_too_wide"},
		{"what is no policy", ask{token: alice, role: "reports", policy: "{"}, "invalid_policy"},
		{"a policy of 20 KB", ask{token: alice, role: "reports", policy: wider + strings.Repeat(" ", 20<<10)}, "policy_too_large"},
		{"a life of 4 s", ask{token: alice, role: "reports", ttl: 4}, "invalid_ttl"},
		{"a life of 100 years", ask{token: alice, role: "reports", ttl: 2147483647}, "invalid_ttl"},
	}
	for _, s := range surfaces(t, w, "http://"+address) {
		t.Run(s.name, func(t *testing.T) {
			a, code, err := s.get(ask{token: alice, role: "reports"})
			if err != nil || code != "" {
				t.Fatalf("%s: %v", code, err)
			}
			if err := w.put(a, "alice/a"); err != nil {
				t.Error(err)
			}
			if err := w.put(a, "bob/a"); !accessDenied(err) {
				t.Errorf("another's folder: %v", err)
			}
			for _, r := range refusals {
				if !s.narrows && (r.ask.policy != "" || r.ask.ttl != 0) {
					continue
				}
				a, code, err := s.get(r.ask)
				if a.SecretAccessKey != "" || r.code != "" && (err != nil || code != r.code) {
					t.Errorf("%s: %q, %v; want %q", r.name, code, err, r.code)
				}
			}
		})
	}
	for _, line := range w.Audit() {
		if strings.Contains(line, `"decision":"allowed"`) && !strings.Contains(line, `"subject":"alice"`) {
			t.Errorf("allowed: %s", line)
		}
	}
}

// TestSDKSurfacesHandOutWhatLasts: what SDKs get has 20 minutes left at least, from the cache as well, although the role's default is 15.
func TestSDKSurfacesHandOutWhatLasts(t *testing.T) {
	w := startWorld(t)
	_, code, err := exchangeHTTP(http.MethodGet, w.HTTP+"/v1/container-credentials/reports", http.Header{"Authorization": {w.token(nil)}}, "", func(data []byte) (issued, error) {
		var c struct{ Expiration time.Time }
		err := json.Unmarshal(data, &c)
		if left := time.Until(c.Expiration); left < 39*time.Minute || left > 40*time.Minute {
			t.Errorf("%s left", left)
		}
		return issued{}, err
	})
	if code != "" || err != nil {
		t.Error(code, err)
	}
	var h http.Header
	form := url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {"reports"}, "WebIdentityToken": {w.token(nil)}, "DurationSeconds": {"900"}, "RoleSessionName": {"ci-run-7"}}
	if _, code, err := exchangeHTTP(http.MethodPost, w.HTTP+"/sts", formHeader(), form.Encode(), func([]byte) (issued, error) { return issued{}, nil }, &h); code != "" || err != nil || h.Get("X-Credbroker-Warning") != "short-lived" {
		t.Error(code, err, h)
	}
	if !strings.Contains(w.Log(), "too short-lived for SDKs") || !strings.Contains(strings.Join(w.Audit(), "\n"), `"session":"ci-run-7"`) {
		t.Errorf("%s\n%v", w.Log(), w.Audit())
	}
}

// TestMintedCredentialsKnowWhoTheyAre has AWS's own client ask with what the broker minted: it learns who that is, and can get nothing by
// it.
func TestMintedCredentialsKnowWhoTheyAre(t *testing.T) {
	w := newWorld(t, "CREDBROKER__STS__CALLER_IDENTITY=true", "CREDBROKER__STS__ACCOUNT=123456789012")
	w.WriteConfig(w.config(`
  - name: anybodys
    when: "true"
    exchanger: minio
    policies: [reports-rw]
`))
	w.Start()
	w.minio.Start()
	w.furnish()
	a := w.mustIssue(w.token(nil), "")
	client := func(id, key, token string) *sts.Client {
		return sts.New(sts.Options{Region: "us-east-1", BaseEndpoint: aws.String(w.HTTP + "/sts"), RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider(id, key, token)})
	}
	who, err := client(a.AccessKeyID, a.SecretAccessKey, a.SessionToken).GetCallerIdentity(t.Context(), nil)
	if err != nil || *who.Arn != "arn:aws:sts::123456789012:assumed-role/reports/"+a.AccessKeyID || *who.UserId != "reports:"+a.AccessKeyID || *who.Account != "123456789012" {
		t.Errorf("%+v, %v", who, err)
	}
	for name, c := range map[string]*sts.Client{
		"another secret": client(a.AccessKeyID, "x", a.SessionToken), "another token": client(a.AccessKeyID, a.SecretAccessKey, "x"), "no token": client(a.AccessKeyID, a.SecretAccessKey, ""),
		"an unknown key": client("AKIDNOBODY", a.SecretAccessKey, a.SessionToken),
	} {
		if _, err := c.GetCallerIdentity(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "api error SignatureDoesNotMatch: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client(a.AccessKeyID, a.SecretAccessKey, a.SessionToken).AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::123456789012:role/anybodys"), RoleSessionName: aws.String("test")}); err == nil || !strings.Contains(err.Error(), "api error SignatureDoesNotMatch: ") {
		t.Errorf("credentials beget credentials: %v", err)
	}
	if audit := strings.Join(w.Audit(), "\n"); !strings.Contains(audit, `"event":"who_is","decision":"allowed"`) || !strings.Contains(audit, `"kind":"minted","issuer":"`+w.idp.URL+`","tenant":"reports","subject":"alice"`) {
		t.Errorf("%s", audit)
	}
}
