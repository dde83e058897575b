package awssts_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/exchange/awssts"
	"github.com/credbroker/credbroker/internal/issuer"
	"github.com/credbroker/credbroker/internal/policy"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const (
	roleARN = "arn:aws:iam::123456789012:role/reports"
	broker  = "arn:aws:sts::123456789012:assumed-role/broker/i-1"
	session = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::reports/*"]}]}`
)

var own = brokertest.AWSKey{ID: "ASIA1111111111BROKER", Secret: "brokers-own-secret", SessionToken: "brokers-own-token", Principal: brokertest.AWSPrincipal{Account: "123456789012", ARN: broker}}

func newExchanger(t *testing.T, s *brokertest.AWSSTS, change func(*awssts.Config)) *awssts.Exchanger {
	t.Helper()
	cfg := awssts.Config{
		RoleARN: roleARN, Region: "eu-west-1", Endpoint: "https://" + s.Addr, CAFile: s.CAFile, Timeout: 2 * time.Second,
		Credentials: credentials.NewStaticCredentialsProvider(own.ID, own.Secret, own.SessionToken),
	}
	change(&cfg)
	x, err := awssts.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); x.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return x
}

func request(ttl time.Duration) exchange.Request {
	return exchange.Request{
		Identity: attest.Identity{Kind: attest.KindOIDC, Issuer: "https://idp.example", Subject: "alice@corp/x"},
		Grant:    policy.Grant{Role: "reports", SessionPolicy: session, TTL: ttl, SessionTags: []policy.Tag{{Key: "team", Value: "finance"}}},
	}
}

func TestAssumeRole(t *testing.T) {
	s := brokertest.NewAWSSTS(t)
	s.Add(own)
	s.AddRole(brokertest.AWSRole{ARN: roleARN, Principal: broker, ExternalID: "credbroker"})
	x := newExchanger(t, s, func(c *awssts.Config) { c.ExternalID, c.SourceIdentity = "credbroker", true })
	c, err := x.Exchange(t.Context(), request(20*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	got := s.Session(c.AccessKeyID)
	if c.SecretAccessKey.Reveal() != got.Secret || c.SessionToken.Reveal() != got.SessionToken || !c.Expires.Equal(got.Expires) {
		t.Error("the answer was read otherwise than it was written")
	}
	if left := time.Until(c.Expires); left > 20*time.Minute || left < 19*time.Minute {
		t.Errorf("lives %s", left)
	}
	if got.Role != roleARN || got.Policy != session || got.Tags["team"] != "finance" || !strings.HasPrefix(got.Name, "alice@corp_x-") || got.SourceIdentity != got.Name {
		t.Errorf("%+v", got)
	}
	// Another identity with a subject that comes to the same has another name.
	other := request(20 * time.Minute)
	other.Identity.Issuer = "https://other.example"
	if c, err = x.Exchange(t.Context(), other); err != nil || s.Session(c.AccessKeyID).Name == got.Name {
		t.Errorf("%q %v", s.Session(c.AccessKeyID).Name, err)
	}
	acting := request(20 * time.Minute)
	acting.Identity.Actor = &attest.Identity{Kind: attest.KindSPIFFE, Subject: "gateway"}
	if c, err = x.Exchange(t.Context(), acting); err != nil || s.Session(c.AccessKeyID).Name == got.Name {
		t.Errorf("%q %v", s.Session(c.AccessKeyID).Name, err)
	}
	long := request(20 * time.Minute)
	long.Identity.Subject = strings.Repeat("ä b", 200)
	if c, err = x.Exchange(t.Context(), long); err != nil || len(s.Session(c.AccessKeyID).Name) != 64 {
		t.Errorf("%q %v", s.Session(c.AccessKeyID).Name, err)
	}
	wrong := newExchanger(t, s, func(*awssts.Config) {})
	if _, err := wrong.Exchange(t.Context(), request(20*time.Minute)); !errors.Is(err, exchange.ErrRefused) || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("without the external ID: %v", err)
	}
	if _, err := x.Exchange(t.Context(), request(2*time.Hour)); !errors.Is(err, exchange.ErrRefused) {
		t.Errorf("longer than the role's maximum: %v", err)
	}
	stranger := newExchanger(t, s, func(c *awssts.Config) {
		c.ExternalID, c.Credentials = "credbroker", credentials.NewStaticCredentialsProvider(own.ID, "wrong-secret", own.SessionToken)
	})
	if _, err := stranger.Exchange(t.Context(), request(20*time.Minute)); !errors.Is(err, exchange.ErrRefused) {
		t.Errorf("a wrong signature: %v", err)
	}
	none := newExchanger(t, s, func(c *awssts.Config) {
		c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, errors.New("no role here") })
	})
	if _, err := none.Exchange(t.Context(), request(20*time.Minute)); !errors.Is(err, exchange.ErrUnavailable) || !strings.Contains(none.Status(), "no credentials of AWS") {
		t.Errorf("%v; %s", err, none.Status())
	}
}

func TestAssumeRoleWithWebIdentity(t *testing.T) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	iss, err := issuer.New(issuer.Config{URL: server.URL, RotateEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(iss.Discovery()) })
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(iss.JWKS(r.Context())) })
	s := brokertest.NewAWSSTS(t)
	s.AddRole(brokertest.AWSRole{ARN: roleARN, Issuer: server.URL, Audience: awssts.Audience})
	tokens := func(audience string) exchange.TokenSource {
		source, err := iss.Source(issuer.SourceConfig{Audience: audience, NoPolicies: true})
		if err != nil {
			t.Fatal(err)
		}
		return source
	}
	x := newExchanger(t, s, func(c *awssts.Config) { c.Credentials, c.Tokens = nil, tokens(awssts.Audience) })
	req := request(15 * time.Minute)
	req.Grant.SessionTags = nil
	c, err := x.Exchange(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Session(c.AccessKeyID); got.Policy != session || !strings.HasPrefix(got.Name, "alice@corp_x-") {
		t.Errorf("%+v", got)
	}
	for _, r := range s.Requests() {
		if r.Header.Get("Authorization") != "" {
			t.Error("it was signed")
		}
	}
	other := newExchanger(t, s, func(c *awssts.Config) { c.Credentials, c.Tokens = nil, tokens("elsewhere") })
	if _, err := other.Exchange(t.Context(), req); !errors.Is(err, exchange.ErrRefused) || !strings.Contains(err.Error(), "InvalidIdentityToken") {
		t.Errorf("another audience: %v", err)
	}
	server.Close()
	if _, err := x.Exchange(t.Context(), req); !errors.Is(err, exchange.ErrUnavailable) {
		t.Errorf("AWS can't reach the issuer: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	s := brokertest.NewAWSSTS(t)
	answer := func(life time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `<AssumeRoleResponse xmlns="%s"><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>S</SecretAccessKey>`+
				`<SessionToken>T</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`, brokertest.STSNamespace, time.Now().Add(life).UTC().Format(time.RFC3339))
		}
	}
	refuse := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { brokertest.STSError(w, status, code) }
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"as granted": {answer(20 * time.Minute), nil},
		"longer":     {answer(20*time.Minute + 5*time.Second), exchange.ErrBadResult},
		"over":       {answer(-time.Second), exchange.ErrBadResult},
		"no credentials": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `<AssumeRoleResponse xmlns="%s"><AssumeRoleResult></AssumeRoleResult></AssumeRoleResponse>`, brokertest.STSNamespace)
		}, exchange.ErrBadResult},
		"no XML": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }, exchange.ErrBadResult},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<AssumeRoleResponse>"+strings.Repeat("<a>x</a>", 1<<15))
		}, exchange.ErrBadResult},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example/", http.StatusFound)
		}, exchange.ErrBadResult},
		"throttled":        {refuse(400, "Throttling"), exchange.ErrUnavailable},
		"throttled by 429": {refuse(429, "SlowDown"), exchange.ErrUnavailable},
		"broken":           {refuse(500, "InternalFailure"), exchange.ErrUnavailable},
		"packed too large": {refuse(400, "PackedPolicyTooLarge"), exchange.ErrRefused},
		"denied":           {refuse(403, "AccessDenied"), exchange.ErrRefused},
	} {
		s.Answer(c.answer)
		x := newExchanger(t, s, func(c *awssts.Config) { c.Timeout = 300 * time.Millisecond })
		if _, err := x.Exchange(t.Context(), request(20*time.Minute)); !errors.Is(err, c.want) || err != nil && strings.Contains(err.Error(), own.Secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Answer(answer(20 * time.Minute))
	x := newExchanger(t, s, func(*awssts.Config) {})
	short := request(15*time.Minute - time.Second)
	within := request(time.Hour)
	within.Grant.WithinProof, within.Identity.Expires = true, time.Now().Add(15*time.Minute+time.Second)
	for name, req := range map[string]exchange.Request{"too short": short, "the proof ends too soon": within} {
		if _, err := x.Exchange(t.Context(), req); !errors.Is(err, exchange.ErrRefused) || !strings.Contains(err.Error(), "no less than 15m0s") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewWantsOneOfBoth(t *testing.T) {
	for _, c := range []awssts.Config{{}, {Credentials: aws.AnonymousCredentials{}, Tokens: exchange.CallerToken{}}, {Tokens: exchange.CallerToken{}, CAFile: "/nonexistent"}} {
		if _, err := awssts.New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
