package prove_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/compute/metadata"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/prove"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// claims reads a token without verifying it: that is tested with the stand-ins and with the broker.
func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	_, payload, _ := strings.Cut(token, ".")
	payload, _, _ = strings.Cut(payload, ".")
	data, err := base64.RawURLEncoding.DecodeString(payload)
	var out map[string]any
	if err != nil || json.Unmarshal(data, &out) != nil {
		t.Fatalf("no JWT: %v", err)
	}
	return out
}

func expect(t *testing.T, claims map[string]any, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if claims[name] != value {
			t.Errorf("%s is %v, want %s", name, claims[name], value)
		}
	}
}

func TestGCP(t *testing.T) {
	google := brokertest.NewGoogle(t, nil)
	t.Setenv("GCE_METADATA_HOST", google.MetadataHost)
	const audience = "https://broker.example/?a=b&format=standard#c d"
	p := prove.GCP(audience)
	for n := 1; n <= 2; n++ {
		got := claims(t, reveal(t, p))
		expect(t, got, map[string]string{"aud": audience, "iss": brokertest.GoogleIssuer, "email": google.Instance.ServiceAccount})
		if got["google"] == nil {
			t.Error("it says nothing of the instance")
		}
		if asked := google.Requests(brokertest.GoogleIdentityPath); asked != n {
			t.Errorf("asked %d times for %d proofs", asked, n)
		}
	}
	google.Handle(brokertest.GoogleIdentityPath, http.NotFound)
	if _, err := p.Prove(t.Context()); !errors.As(err, new(metadata.NotDefinedError)) {
		t.Errorf("without an account: %v", err)
	}
}

func TestAzure(t *testing.T) {
	entra := brokertest.NewEntra(t, nil)
	for _, pair := range entra.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	credential, err := azidentity.NewManagedIdentityCredential(nil)
	if err != nil {
		t.Fatal(err)
	}
	// azidentity keeps tokens by audience for as long as the process lives.
	for _, audience := range []string{"api://" + rand.Text(), "https://broker.example/" + rand.Text() + "/"} {
		expect(t, claims(t, reveal(t, prove.Azure(credential, audience))), map[string]string{"aud": audience, "iss": entra.Issuer(), "oid": entra.System.ObjectID})
	}
	entra.Handle(brokertest.EntraIdentityPath, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusBadRequest) })
	_, err = prove.Azure(credential, "api://"+rand.Text()).Prove(t.Context())
	if !errors.As(err, new(*azidentity.AuthenticationFailedError)) || strings.Contains(err.Error(), entra.IdentityHeader) {
		t.Errorf("refused: %v", err)
	}
}

func TestSPIFFE(t *testing.T) {
	spiffe := brokertest.NewSPIFFE(t, "example.org", nil)
	p := prove.SPIFFE(spiffe.Address, "credbroker")
	for n := 1; n <= 2; n++ {
		expect(t, claims(t, reveal(t, p)), map[string]string{"sub": spiffe.ID("/workload")})
		if asked := spiffe.WorkloadCalls("FetchJWTSVID"); asked != n {
			t.Errorf("asked %d times for %d proofs", asked, n)
		}
	}
	spiffe.SetWorkloads(spiffe.ID("/first"), spiffe.ID("/second"))
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", spiffe.Address)
	expect(t, claims(t, reveal(t, prove.SPIFFE("", "credbroker"))), map[string]string{"sub": spiffe.ID("/first")})
	spiffe.SetWorkloads()
	if _, err := p.Prove(t.Context()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("no identity: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := prove.SPIFFE("unix:///nowhere/api.sock", "credbroker").Prove(ctx); status.Code(err) != codes.Unavailable || ctx.Err() != nil {
		t.Errorf("nobody there: %v", err)
	}
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	if _, err := prove.SPIFFE("", "credbroker").Prove(t.Context()); err == nil {
		t.Error("without an address")
	}
}

// stsClient signs with keys that the stand-in knows, or with others.
func stsClient(t *testing.T, s *brokertest.AWSSTS, secret string) *sts.Client {
	t.Helper()
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return sts.New(sts.Options{
		Region: "eu-west-1", BaseEndpoint: &s.WebIdentityURL, HTTPClient: &http.Client{Transport: transport}, Credentials: credentials.NewStaticCredentialsProvider("ASIA", secret, "session"),
	})
}

func TestAWSToken(t *testing.T) {
	s := brokertest.NewAWSSTS(t)
	s.Add(brokertest.AWSKey{
		ID: "ASIA", Secret: "secret", SessionToken: "session",
		Principal: brokertest.AWSPrincipal{Account: "123456789012", ARN: "arn:aws:sts::123456789012:assumed-role/reports/i-0123", UserID: "AROA:i-0123"},
	})
	p, seen := prove.AWSToken(stsClient(t, s, "secret"), "credbroker"), map[any]bool{}
	for range 2 {
		got := claims(t, reveal(t, p))
		expect(t, got, map[string]string{"aud": "credbroker", "sub": "arn:aws:iam::123456789012:role/reports", "iss": brokertest.AWSTokenIssuer("123456789012")})
		if seen[got["jti"]] {
			t.Error("the same token again")
		}
		seen[got["jti"]] = true
	}
	_, err := prove.AWSToken(stsClient(t, s, "planted"), "credbroker").Prove(t.Context())
	if err == nil || !strings.Contains(err.Error(), "SignatureDoesNotMatch") || strings.Contains(err.Error(), "planted") {
		t.Errorf("other keys: %v", err)
	}
}

// credentialFunc is a credential of azcore.
type credentialFunc func() (string, error)

func (f credentialFunc) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := f()
	return azcore.AccessToken{Token: token}, err
}

func TestPlatformsTellWhatIsMissing(t *testing.T) {
	away := errors.New("away")
	for name, c := range map[string]struct {
		p    prove.Prover
		says string
	}{
		"GCP without an audience":      {prove.GCP(""), "GCP proof: the broker's audience is needed"},
		"Azure without an audience":    {prove.Azure(credentialFunc(nil), ""), "Azure proof: the broker's audience is needed"},
		"SPIFFE without an audience":   {prove.SPIFFE("unix:///s", ""), "SPIFFE proof: the broker's audience is needed"},
		"AWS without an audience":      {prove.AWSToken(sts.New(sts.Options{}), ""), "AWS proof: the broker's audience is needed"},
		"Azure without a credential":   {prove.Azure(nil, "a"), "Azure proof: a credential is needed"},
		"AWS without a client":         {prove.AWSToken(nil, "a"), "AWS proof: a client of STS is needed"},
		"a credential's error":         {prove.Azure(credentialFunc(func() (string, error) { return "planted", away }), "a"), "Azure proof: away"},
		"a credential without a token": {prove.Azure(credentialFunc(func() (string, error) { return "", nil }), "a"), "Azure proof: the token is empty"},
		"what is no token":             {prove.Azure(credentialFunc(func() (string, error) { return "planted planted", nil }), "a"), "byte 8 can't be part of a JWT"},
	} {
		if _, err := c.p.Prove(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := prove.Azure(credentialFunc(func() (string, error) { return "", away }), "a").Prove(t.Context()); !errors.Is(err, away) {
		t.Errorf("the credential's error isn't wrapped: %v", err)
	}
}

// A caller that has enough is let go, whatever the platform does.
func TestPlatformsEndWithTheContext(t *testing.T) {
	google, entra := brokertest.NewGoogle(t, nil), brokertest.NewEntra(t, nil)
	for _, pair := range append(entra.Environ(), "GCE_METADATA_HOST="+google.MetadataHost) {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	credential, err := azidentity.NewManagedIdentityCredential(nil)
	if err != nil {
		t.Fatal(err)
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	google.Handle(brokertest.GoogleIdentityPath, hang)
	entra.Handle(brokertest.EntraIdentityPath, hang)
	for name, p := range map[string]prove.Prover{"GCP": prove.GCP("a"), "Azure": prove.Azure(credential, rand.Text())} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		begin := time.Now()
		if _, err := p.Prove(ctx); err == nil || time.Since(begin) > 4*time.Second {
			t.Errorf("%s: after %s: %v", name, time.Since(begin), err)
		}
		cancel()
	}
}
