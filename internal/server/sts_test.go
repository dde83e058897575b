package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

// webIdentity is a good call of AssumeRoleWithWebIdentity.
const webIdentity = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Freports&WebIdentityToken=x.y.z"

func formHeader() http.Header {
	return http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
}

// assumed is the answer of AssumeRoleWithWebIdentity as an SDK reads it.
type assumed struct {
	XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleWithWebIdentityResponse"`
	Result  struct {
		Credentials struct {
			AccessKeyID     string `xml:"AccessKeyId"`
			SecretAccessKey string
			SessionToken    string
			Expiration      time.Time
		}
		User struct {
			Arn           string
			AssumedRoleID string `xml:"AssumedRoleId"`
		} `xml:"AssumedRoleUser"`
	} `xml:"AssumeRoleWithWebIdentityResult"`
	RequestID string `xml:"ResponseMetadata>RequestId"`
}

func TestSTSAssumeRoleWithWebIdentity(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	o, _ := testOptions()
	own := "http://" + serving(t, NewSTS(listenLoopback(t, TLSFiles{}), b, o))
	policy := `{"Version":"2012-10-17","Statement":[]}`
	for name, tc := range map[string]struct {
		url, contentType, more string
		want                   broker.Request
		arn                    string
	}{
		"on a path":         {base + "/sts", "application/x-www-form-urlencoded", "", broker.Request{Session: "credbroker"}, "arn:aws:sts::000000000000:assumed-role/reports/credbroker"},
		"at its own":        {own + "/", "application/x-www-form-urlencoded; charset=utf-8", "", broker.Request{Session: "credbroker"}, "arn:aws:sts::000000000000:assumed-role/reports/credbroker"},
		"with what narrows": {base + "/sts", "Application/X-WWW-form-urlencoded;charset=UTF-8", "&RoleSessionName=my-app%40x&DurationSeconds=900&Policy=" + url.QueryEscape(policy), broker.Request{Session: "my-app@x", Policy: policy, TTL: 15 * time.Minute}, "arn:aws:sts::000000000000:assumed-role/reports/my-app@x"},
	} {
		got := send(t, "POST", tc.url, http.Header{"Content-Type": {tc.contentType}}, webIdentity+tc.more)
		var a assumed
		if err := xml.Unmarshal([]byte(got.body), &a); err != nil || got.status != 200 || got.header.Get("Content-Type") != "text/xml" || got.header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%s: %d %s %v", name, got.status, got.body, err)
		}
		c := a.Result.Credentials
		if c.AccessKeyID != "AKIATEST" || c.SecretAccessKey != "s3cr3t/+key" || c.SessionToken != "t0k.en" || !c.Expiration.Equal(expires.Truncate(time.Second)) ||
			a.Result.User.Arn != tc.arn || a.Result.User.AssumedRoleID == "" || a.RequestID != got.header.Get("X-Request-Id") {
			t.Errorf("%s: %+v", name, a)
		}
		req, _ := b.asked()
		if req.Proof.Kind != attest.KindJWT || req.Proof.Data.Reveal() != "x.y.z" || req.Role != "reports" || req.Session != tc.want.Session || req.Policy != tc.want.Policy ||
			req.TTL != tc.want.TTL || req.Floor != 20*time.Minute || req.Source != netip.MustParseAddr("127.0.0.1") || req.Correlation.RequestID != a.RequestID || req.Actor != nil {
			t.Errorf("%s: %+v", name, req)
		}
	}
	if got := send(t, "POST", own+"/sts", formHeader(), webIdentity); got.status != 404 || !strings.Contains(got.body, "<Code>InvalidAction</Code>") {
		t.Errorf("another path of its own listener: %d %s", got.status, got.body)
	}
	if got := send(t, "POST", own+"/v1/credentials", bearerHeader("t"), `{"role":"reports"}`); got.status != 404 {
		t.Errorf("the API on its own listener: %d", got.status)
	}
}

func TestSTSEscapesWhatItAnswers(t *testing.T) {
	i := issuedCredentials()
	i.Credentials = exchange.Credentials{AccessKeyID: "</AccessKeyId>", SecretAccessKey: secret.New("a&b<c>\"'"), SessionToken: secret.New("]]>"), Expires: expires}
	var a assumed
	text := appendAssumed(i, "AssumeRoleWithWebIdentity", "000000000000", "s<", "r&")
	if err := xml.Unmarshal(text, &a); err != nil || a.Result.Credentials.AccessKeyID != "</AccessKeyId>" || a.Result.Credentials.SecretAccessKey != "a&b<c>\"'" ||
		a.Result.Credentials.SessionToken != "]]>" || a.RequestID != "r&" || !strings.HasSuffix(a.Result.User.Arn, "/s<") {
		t.Errorf("%v %s", err, text)
	}
}

func TestSTSRequestsWithoutTheDocumentedForm(t *testing.T) {
	b := &fakeBroker{}
	base, log := httpServer(t, b)
	replace := func(old, new string) string { return strings.Replace(webIdentity, old, new, 1) }
	for name, tc := range map[string]struct {
		method, path string
		header       http.Header
		body         string
		want         string
	}{
		"no body":                   {"POST", "", formHeader(), "", "InvalidAction 400"},
		"unknown action":            {"POST", "", formHeader(), replace("WithWebIdentity", "WithSAML"), "InvalidAction 400"},
		"action in another case":    {"POST", "", formHeader(), replace("AssumeRole", "assumeRole"), "InvalidAction 400"},
		"wrong version":             {"POST", "", formHeader(), replace("2011-06-15", "2011-06-16"), "InvalidAction 400"},
		"no version":                {"POST", "", formHeader(), replace("&Version=2011-06-15", ""), "InvalidAction 400"},
		"an action twice":           {"POST", "", formHeader(), webIdentity + "&Action=GetCallerIdentity", "ValidationError 400"},
		"an escaped name twice":     {"POST", "", formHeader(), webIdentity + "&%41ction=GetCallerIdentity", "ValidationError 400"},
		"a role twice":              {"POST", "", formHeader(), webIdentity + "&RoleArn=planted", "ValidationError 400"},
		"a semicolon":               {"POST", "", formHeader(), webIdentity + ";Policy=a", "ValidationError 400"},
		"bad escape":                {"POST", "", formHeader(), webIdentity + "&Policy=%gh", "ValidationError 400"},
		"bad escape in a name":      {"POST", "", formHeader(), webIdentity + "&Polic%=a", "ValidationError 400"},
		"not UTF-8":                 {"POST", "", formHeader(), webIdentity + "&Policy=%ff", "ValidationError 400"},
		"no name":                   {"POST", "", formHeader(), webIdentity + "&=a", "ValidationError 400"},
		"no value":                  {"POST", "", formHeader(), webIdentity + "&Policy", "ValidationError 400"},
		"an empty pair":             {"POST", "", formHeader(), webIdentity + "&", "ValidationError 400"},
		"too many parameters":       {"POST", "", formHeader(), webIdentity + strings.Repeat("&a=b", 64), "ValidationError 400"},
		"unknown parameter":         {"POST", "", formHeader(), webIdentity + "&Planted=a", "ValidationError 400"},
		"what narrows on AWS":       {"POST", "", formHeader(), webIdentity + "&PolicyArns.member.1.arn=arn%3Aaws%3Aiam%3A%3Aaws%3Apolicy%2FReadOnlyAccess", "ValidationError 400"},
		"another provider":          {"POST", "", formHeader(), webIdentity + "&ProviderId=www.amazon.com", "ValidationError 400"},
		"all in the query":          {"POST", "?" + webIdentity, formHeader(), "", "ValidationError 400"},
		"in query and body":         {"POST", "?RoleArn=planted", formHeader(), webIdentity, "ValidationError 400"},
		"an empty query":            {"POST", "?", formHeader(), webIdentity, "ValidationError 400"},
		"GET":                       {"GET", "?" + webIdentity, nil, "", "MethodNotAllowed 405"},
		"no role":                   {"POST", "", formHeader(), replace("RoleArn", "Policy"), "MissingParameter 400"},
		"no token":                  {"POST", "", formHeader(), replace("x.y.z", ""), "MissingParameter 400"},
		"session name of XML":       {"POST", "", formHeader(), webIdentity + "&RoleSessionName=%3Cplanted%2F%3E", "ValidationError 400"},
		"session name of 65":        {"POST", "", formHeader(), webIdentity + "&RoleSessionName=" + strings.Repeat("a", 65), "ValidationError 400"},
		"session name of 1":         {"POST", "", formHeader(), webIdentity + "&RoleSessionName=a", "ValidationError 400"},
		"duration with a unit":      {"POST", "", formHeader(), webIdentity + "&DurationSeconds=3600s", "ValidationError 400"},
		"duration of nothing":       {"POST", "", formHeader(), webIdentity + "&DurationSeconds=", "ValidationError 400"},
		"negative duration":         {"POST", "", formHeader(), webIdentity + "&DurationSeconds=-1", "ValidationError 400"},
		"a role's path":             {"POST", "", formHeader(), replace("reports", "..%2F..%2Fsys%2Fseal"), "ValidationError 400"},
		"a role in another case":    {"POST", "", formHeader(), replace("reports", "Reports"), "ValidationError 400"},
		"an ARN of 4 KB":            {"POST", "", formHeader(), replace("reports", strings.Repeat("a", 4096)), "ValidationError 400"},
		"an ARN of 11 digits":       {"POST", "", formHeader(), replace("123456789012", "12345678901"), "ValidationError 400"},
		"an ARN of other digits":    {"POST", "", formHeader(), replace("123456789012", "%D9%A1%D9%A1%D9%A1%D9%A1%D9%A1%D9%A1"), "ValidationError 400"},
		"an ARN of a user":          {"POST", "", formHeader(), replace("role", "user"), "ValidationError 400"},
		"an ARN elsewhere":          {"POST", "", formHeader(), replace("aws", "aws-cn"), "ValidationError 400"},
		"a policy of 10 MB":         {"POST", "", formHeader(), webIdentity + "&Policy=" + strings.Repeat("a", 10<<20), "RequestEntityTooLarge 413"},
		"another proof":             {"POST", "", http.Header{"Content-Type": formHeader()["Content-Type"], "Authorization": {"Bearer t"}}, webIdentity, "ValidationError 400"},
		"JSON":                      {"POST", "", http.Header{"Content-Type": {"application/json"}}, `{"Action":"planted"}`, "ValidationError 400"},
		"no content type":           {"POST", "", nil, webIdentity, "ValidationError 400"},
		"a form in another charset": {"POST", "", http.Header{"Content-Type": {"application/x-www-form-urlencoded; charset=utf-16"}}, webIdentity, "ValidationError 400"},
		"two content types":         {"POST", "", http.Header{"Content-Type": {"application/x-www-form-urlencoded", "application/x-www-form-urlencoded"}}, webIdentity, "ValidationError 400"},
		"encoded":                   {"POST", "", http.Header{"Content-Type": formHeader()["Content-Type"], "Content-Encoding": {"gzip"}}, webIdentity, "ValidationError 400"},
	} {
		t.Run(name, func(t *testing.T) {
			got := send(t, tc.method, base+"/sts"+tc.path, tc.header, tc.body)
			code, status, _ := strings.Cut(tc.want, " ")
			if !strings.Contains(got.body, "<Code>"+code+"</Code>") || status != strconv.Itoa(got.status) || !strings.HasPrefix(got.body, "<ErrorResponse ") {
				t.Errorf("%d %s", got.status, got.body)
			}
			if strings.Contains(strings.ToLower(got.body), "planted") {
				t.Errorf("it repeats its input: %s", got.body)
			}
		})
	}
	if _, n := b.asked(); n != 0 {
		t.Errorf("%d of them reached the pipeline", n)
	}
	if strings.Contains(strings.ToLower(log.String()), "planted") {
		t.Errorf("log:\n%s", log)
	}
}

func TestShortLivedRolesAreToldOf(t *testing.T) {
	b := &fakeBroker{short: true}
	base, log := httpServer(t, b)
	for range 3 {
		for _, got := range []answer{
			send(t, "POST", base+"/sts", formHeader(), webIdentity),
			send(t, "GET", base+"/v1/container-credentials/reports", http.Header{"Authorization": {"x.y.z"}}, ""),
			send(t, "POST", base+"/oauth/token", formHeader(), tokenExchange),
		} {
			if got.status != 200 || got.header.Get("X-Credbroker-Warning") != "short-lived" {
				t.Errorf("%d %v", got.status, got.header)
			}
		}
	}
	if n := strings.Count(log.String(), "too short-lived"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	b.short = false
	if got := send(t, "POST", base+"/sts", formHeader(), webIdentity); got.header.Get("X-Credbroker-Warning") != "" {
		t.Error("a warning of nothing")
	}
}

func TestSTSSignedActions(t *testing.T) {
	b := &fakeBroker{}
	base, _ := httpServer(t, b)
	signed := formHeader()
	signed.Set("Authorization", "AWS4-HMAC-SHA256 Credential=a")
	signed["X-Amz-Date"] = []string{"20260301T120000Z", "twice"}
	const who = "Action=GetCallerIdentity&Version=2011-06-15"
	got := send(t, "POST", base+"/sts/", signed.Clone(), who)
	want := `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>arn:aws:iam::000000000000:user/vault</Arn><UserId>vault</UserId><Account>000000000000</Account></GetCallerIdentityResult>`
	if got.status != 200 || !strings.HasPrefix(got.body, want) {
		t.Errorf("%d %s", got.status, got.body)
	}
	sum := sha256.Sum256([]byte(who))
	req, _ := b.asked()
	text := req.Proof.Data.Reveal()
	if req.Proof.Kind != attest.KindSigV4 || !strings.HasPrefix(text, "credbroker-sigv4/1\nPOST\n/sts/\n"+hex.EncodeToString(sum[:])+"\nhost:"+strings.TrimPrefix(base, "http://")+"\n") || !req.Source.IsValid() {
		t.Errorf("%q", text)
	}
	for _, line := range []string{"authorization:AWS4-HMAC-SHA256 Credential=a", "x-amz-date:20260301T120000Z", "x-amz-date:twice", "content-length:43", "content-type:application/x-www-form-urlencoded"} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("it lacks %q: %q", line, text)
		}
	}
	const assume = "Action=AssumeRole&Version=2011-06-15&RoleArn=reports&RoleSessionName=s-1&DurationSeconds=900&Policy=%7B%7D"
	got = send(t, "POST", base+"/sts", signed.Clone(), assume)
	if req, _ := b.asked(); got.status != 200 || !strings.HasPrefix(got.body, "<AssumeRoleResponse ") || req.Proof.Kind != attest.KindSigV4 || req.Role != "reports" || req.Session != "s-1" || req.TTL != 15*time.Minute || req.Policy != "{}" || req.Floor != 20*time.Minute {
		t.Errorf("%d %s %+v", got.status, got.body, req)
	}
	for name, body := range map[string]string{
		"a token beside the signature": assume + "&WebIdentityToken=a", "tags": assume + "&Tags.member.1.Key=a", "an external ID": assume + "&ExternalId=a", "more than there is": who + "&RoleArn=reports",
	} {
		if got := send(t, "POST", base+"/sts", signed.Clone(), body); !strings.Contains(got.body, "<Code>ValidationError</Code>") {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	send(t, "POST", base+"/sts", formHeader(), who)
	if req, _ := b.asked(); !req.Proof.Data.IsZero() {
		t.Errorf("not signed: %+v", req) // which the pipeline refuses
	}
	for _, err := range []error{attest.ErrRejected, attest.ErrMalformed} {
		b.fail(err)
		for _, body := range []string{who, assume} {
			if got := send(t, "POST", base+"/sts", signed.Clone(), body); got.status != 403 || !strings.Contains(got.body, "<Code>SignatureDoesNotMatch</Code>") {
				t.Errorf("%v: %d %s", err, got.status, got.body)
			}
		}
	}
}
