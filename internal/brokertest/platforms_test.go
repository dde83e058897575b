package brokertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/compute/metadata"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// trusting is a client that trusts a file's certificates, for whatever address they are dialed at.
func trusting(t *testing.T, caFile, addr string) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	if addr != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
	}
	return &http.Client{Transport: transport, Timeout: 5 * time.Second}
}

// verified returns the claims of a token that a published key verifies, by another implementation of JWS.
func verified(t *testing.T, token, jwksURL, caFile string) map[string]any {
	t.Helper()
	resp, err := trusting(t, caFile, "").Get(jwksURL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		t.Fatalf("%s: %v", jwksURL, err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384})
	if err != nil {
		t.Fatal(err)
	}
	keys := set.Key(parsed.Headers[0].KeyID)
	var claims map[string]any
	if len(keys) != 1 {
		t.Fatalf("%d keys with kid %q", len(keys), parsed.Headers[0].KeyID)
	}
	if err := parsed.Claims(keys[0].Key, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestGoogle(t *testing.T) {
	g := NewGoogle(t, nil)
	t.Setenv("GCE_METADATA_HOST", g.MetadataHost)
	const audience = "https://broker.example/?a&b"
	token, err := metadata.GetWithContext(t.Context(), "instance/service-accounts/default/identity?audience="+url.QueryEscape(audience)+"&format=full")
	if err != nil {
		t.Fatal(err)
	}
	claims := verified(t, token, g.URL+GoogleJWKSPath, g.CAFile)
	want(t, "iss", claims["iss"].(string), "https://accounts.google.com")
	want(t, "aud", claims["aud"].(string), audience)
	instance := claims["google"].(map[string]any)["compute_engine"].(map[string]any)
	if claims["exp"].(float64)-claims["iat"].(float64) != 3600 || instance["project_number"].(float64) != 123456789012 || claims["email_verified"] != true {
		t.Errorf("%v", claims)
	}
	const email = "backup@example-project.iam.gserviceaccount.com"
	signed := verified(t, g.AccountToken(email, "credbroker", nil), g.URL+GoogleAccountJWKSPath+email, g.CAFile)
	want(t, "sub of what the account signed", signed["sub"].(string), email)

	for name, c := range map[string]struct {
		query, flavor string
		status        int
	}{
		"no header":         {"?audience=a&format=full", "", http.StatusForbidden},
		"no audience":       {"?format=full", "Google", http.StatusBadRequest},
		"two audiences":     {"?audience=a&audience=b", "Google", http.StatusBadRequest},
		"unknown format":    {"?audience=a&format=fuller", "Google", http.StatusBadRequest},
		"unknown parameter": {"?audience=a&fromat=full", "Google", http.StatusBadRequest},
		"of nobody":         {"x?audience=a", "Google", http.StatusNotFound},
		"standard":          {"?audience=a", "Google", http.StatusOK},
	} {
		req, err := http.NewRequest(http.MethodGet, "http://"+g.MetadataHost+GoogleIdentityPath+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Metadata-Flavor", c.flavor)
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, c.status)
		}
		if c.status == http.StatusOK && verified(t, string(body), g.URL+GoogleJWKSPath, g.CAFile)["google"] != nil {
			t.Errorf("%s: it describes the instance", name)
		}
	}
}

func TestEntra(t *testing.T) {
	for version, more := range map[EntraVersion]map[string]string{
		EntraV1: {"iss": "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/", "ver": "1.0"},
		EntraV2: {"iss": "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0", "ver": "2.0", "aud": "c2a6d1f7-5b1e-4b0c-8d4a-3e5f7a9b2c04"},
	} {
		e := NewEntra(t, nil)
		e.Version = version
		for _, pair := range e.Environ() {
			name, value, _ := strings.Cut(pair, "=")
			t.Setenv(name, value)
		}
		for _, id := range []ManagedIdentity{e.System, e.User} {
			options := &azidentity.ManagedIdentityCredentialOptions{}
			audience := "api://" + random(4) // the library keeps tokens by audience for as long as the process lives
			if id == e.User {
				options.ID = azidentity.ClientID(e.User.AppID)
			}
			credential, err := azidentity.NewManagedIdentityCredential(options)
			if err != nil {
				t.Fatal(err)
			}
			got, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{audience + "/.default"}})
			if err != nil {
				t.Fatal(err)
			}
			claims := verified(t, got.Token, e.URL+e.JWKSPath(), e.CAFile)
			for name, value := range more {
				want(t, name, claims[name].(string), value)
			}
			if version == EntraV1 {
				want(t, "aud", claims["aud"].(string), audience)
			}
			want(t, "oid", claims["oid"].(string), id.ObjectID)
			want(t, "xms_mirid", claims["xms_mirid"].(string), id.Resource)
			if life := claims["exp"].(float64) - claims["iat"].(float64); life != 86700 {
				t.Errorf("it lives %v s", life)
			}
		}
		for name, query := range map[string]string{
			"no api-version": "?resource=a", "another api-version": "?api-version=2017-09-01&resource=a", "no resource": "?api-version=2019-08-01",
			"an unknown parameter": "?api-version=2019-08-01&resource=a&clientid=b", "an unknown identity": "?api-version=2019-08-01&resource=a&client_id=b",
		} {
			if status := e.ask(t, query, e.IdentityHeader); status != http.StatusBadRequest {
				t.Errorf("%s: %d", name, status)
			}
		}
		if status := e.ask(t, "?api-version=2019-08-01&resource=a", "other"); status != http.StatusUnauthorized {
			t.Errorf("another header: %d", status)
		}
	}
}

// ask sends a request to the identity endpoint by hand.
func (e *Entra) ask(t *testing.T, query, header string) (status int) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, e.IdentityEndpoint+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Identity-Header", header)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestAWSWebIdentityTokens(t *testing.T) {
	s := NewAWSSTS(t)
	s.Add(AWSKey{"ASIA", "secret", "session", AWSPrincipal{"123456789012", "arn:aws:sts::123456789012:assumed-role/reports/i-0123", "AROA:i-0123"}})
	client := func(region string) *sts.Client {
		return sts.New(sts.Options{
			Region: region, Credentials: credentials.NewStaticCredentialsProvider("ASIA", "secret", "session"), HTTPClient: trusting(t, s.CAFile, s.Addr), RetryMaxAttempts: 1,
		})
	}
	for _, alg := range []string{"RS256", "ES384"} {
		got, err := client("eu-west-1").GetWebIdentityToken(t.Context(), &sts.GetWebIdentityTokenInput{Audience: []string{"credbroker"}, SigningAlgorithm: &alg})
		if err != nil {
			t.Fatal(err)
		}
		claims := verified(t, *got.WebIdentityToken, s.WebIdentityURL+AWSJWKSPath, s.CAFile)
		want(t, "sub", claims["sub"].(string), "arn:aws:iam::123456789012:role/reports")
		want(t, "iss", claims["iss"].(string), AWSTokenIssuer("123456789012"))
		want(t, "account", claims["https://sts.amazonaws.com/"].(map[string]any)["aws_account"].(string), "123456789012")
		if claims["exp"].(float64) != float64(got.Expiration.Unix()) {
			t.Errorf("exp is %v, and STS says %s", claims["exp"], got.Expiration)
		}
	}
	for name, in := range map[string]*sts.GetWebIdentityTokenInput{
		"an unknown algorithm": {Audience: []string{"a"}, SigningAlgorithm: aws.String("ES256")},
		"no audience":          {Audience: []string{}, SigningAlgorithm: aws.String("RS256")},
		"too long a life":      {Audience: []string{"a"}, SigningAlgorithm: aws.String("RS256"), DurationSeconds: aws.Int32(3601)},
	} {
		if _, err := client("eu-west-1").GetWebIdentityToken(t.Context(), in); err == nil || !strings.Contains(err.Error(), "ValidationError") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSPIFFEWorkloadAPI(t *testing.T) {
	s := NewSPIFFE(t, "example.org", nil)
	client, err := workloadapi.New(t.Context(), workloadapi.WithAddr(s.Address))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	svid, err := client.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "credbroker"})
	if err != nil {
		t.Fatal(err)
	}
	want(t, "SPIFFE ID", svid.ID.String(), "spiffe://example.org/workload")
	bundles, err := client.FetchJWTBundles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), bundles, []string{"credbroker"}); err != nil {
		t.Error(err)
	}
	x509Context, err := client.FetchX509Context(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if id, _, err := x509svid.Verify(x509Context.DefaultSVID().Certificates, x509Context.Bundles); err != nil || id.String() != s.ID("/workload") {
		t.Errorf("%s, %v", id, err)
	}

	s.SetWorkloads(s.ID("/a"), s.ID("/b"))
	if svid, err = client.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "credbroker", Subject: spiffeid.RequireFromString(s.ID("/b"))}); err != nil {
		t.Fatal(err)
	}
	want(t, "SPIFFE ID asked for", svid.ID.String(), s.ID("/b"))
	refusedWith := func(what string, code codes.Code, err error) {
		if status.Code(err) != code {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = client.FetchJWTSVID(t.Context(), jwtsvid.Params{})
	refusedWith("no audience", codes.InvalidArgument, err)
	s.SetWorkloads()
	_, err = client.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "credbroker"})
	refusedWith("no identity", codes.PermissionDenied, err)
	s.FailWorkloads(status.Error(codes.Unavailable, "restarting"))
	_, err = client.FetchX509Bundles(t.Context())
	refusedWith("as told", codes.Unavailable, err)
	s.FailWorkloads(nil)
	conn, err := grpc.NewClient(s.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = workload.NewSpiffeWorkloadAPIClient(conn).FetchJWTSVID(t.Context(), &workload.JWTSVIDRequest{Audience: []string{"a"}})
	refusedWith("without the header", codes.InvalidArgument, err)
	if n := s.WorkloadCalls("FetchJWTSVID"); n != 5 {
		t.Errorf("%d calls counted", n)
	}
}

func TestSPIFFERotation(t *testing.T) {
	s := NewSPIFFE(t, "example.org", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(s.Address)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	trustDomain := spiffeid.RequireTrustDomainFromString("example.org")
	before := s.X509SVID(s.ID("/a"), nil)
	s.RotateX509()
	s.RotateJWT()
	Eventually(t, 20*time.Second, "both CAs", func() error {
		bundle, err := source.GetX509BundleForTrustDomain(trustDomain)
		if err == nil && len(bundle.X509Authorities()) != 2 {
			err = errors.New("one")
		}
		return err
	})
	// The bundle is the same over https and in the file, and go-spiffe reads it.
	resp, err := trusting(t, s.CAFile, "").Get(s.URL + SPIFFEBundlePath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	served, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if file, err := os.ReadFile(s.BundleFile); err != nil || !bytes.Equal(file, served) {
		t.Errorf("%v: in the file\n%s\nserved\n%s", err, file, served)
	}
	bundle, err := spiffebundle.Load(trustDomain, s.BundleFile)
	if err != nil || len(bundle.JWTAuthorities()) != 2 || len(bundle.X509Authorities()) != 2 {
		t.Fatalf("%v: %s", err, served)
	}
	for name, svid := range map[string]tls.Certificate{"before": before, "after": s.X509SVID(s.ID("/a"), nil)} {
		if _, _, err := x509svid.Verify([]*x509.Certificate{svid.Leaf}, bundle); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	intermediate := s.X509SVID(s.ID(""), func(c *x509.Certificate) { c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil })
	chain := s.X509SVIDBy(intermediate, s.ID("/b"), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Minute) })
	certificates, err := x509.ParseCertificates(bytes.Join(chain.Certificate, nil))
	if err != nil || len(certificates) != 2 {
		t.Fatalf("%d certificates, %v", len(certificates), err)
	}
	if id, _, err := x509svid.Verify(certificates, bundle); err != nil || id.Path() != "/b" {
		t.Errorf("%s, %v", id, err)
	}
	s.Forget()
	if bundle, err = spiffebundle.Load(trustDomain, s.BundleFile); err != nil || len(bundle.JWTAuthorities()) != 1 || len(bundle.X509Authorities()) != 1 {
		t.Fatal(err)
	}
	if _, _, err := x509svid.Verify([]*x509.Certificate{before.Leaf}, bundle); err == nil {
		t.Error("an SVID of a CA that was withdrawn is good")
	}
}
