package awsiam

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/brokertest"
)

const soundAnswer = `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>arn:aws:sts::123456789012:assumed-role/reports/i-0123456789</Arn>
    <UserId>AROA1234567890EXAMPLE:i-0123456789</UserId>
    <Account>123456789012</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata>
    <RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId>
  </ResponseMetadata>
</GetCallerIdentityResponse>
`

func TestParseAnswer(t *testing.T) {
	for _, text := range []string{soundAnswer, `<?xml version="1.0" encoding="UTF-8"?>` + soundAnswer} {
		a, err := parseAnswer([]byte(text))
		if err != nil || a.arn != "arn:aws:sts::123456789012:assumed-role/reports/i-0123456789" || a.userID != "AROA1234567890EXAMPLE:i-0123456789" || a.account != "123456789012" {
			t.Errorf("%+v, %v", a, err)
		}
	}
}

// threats.md: exactly one result, in the right namespace, and no trailing data, comment or DTD.
func TestAnswersThatAreRefused(t *testing.T) {
	result := soundAnswer[strings.Index(soundAnswer, "<GetCallerIdentityResult>") : strings.Index(soundAnswer, "</GetCallerIdentityResult>")+len("</GetCallerIdentityResult>")]
	for name, c := range map[string]struct{ from, to, want string }{
		"nothing":                     {soundAnswer, "", "lacks"},
		"no result":                   {result, "", "lacks"},
		"two results":                 {result, result + result, "twice"},
		"two ARNs":                    {"<Arn>", "<Arn>arn:aws:iam::123456789012:user/admin</Arn><Arn>", "twice"},
		"an empty ARN":                {"arn:aws:sts::123456789012:assumed-role/reports/i-0123456789", "", "lacks"},
		"no account":                  {"<Account>123456789012</Account>", "", "lacks"},
		"another namespace":           {"doc/2011-06-15/", "doc/2011-06-16/", "attribute"},
		"no namespace":                {` xmlns="https://sts.amazonaws.com/doc/2011-06-15/"`, "", "namespace"},
		"another root":                {"GetCallerIdentityResponse", "AssumeRoleWithWebIdentityResponse", "doesn't belong"},
		"a foreign element":           {"<Account>", "<Mallory/><Account>", "doesn't belong"},
		"an element too deep":         {"<Arn>", "<Arn><Arn>x</Arn>", "doesn't belong"},
		"an attribute":                {"<Arn>", `<Arn a="b">`, "attribute"},
		"a prefix":                    {"<Arn>", `<x:Arn xmlns:x="https://sts.amazonaws.com/doc/2011-06-15/">`, ""},
		"trailing data":               {"</GetCallerIdentityResponse>\n", "</GetCallerIdentityResponse>x", "around"},
		"a second document":           {"</GetCallerIdentityResponse>\n", "</GetCallerIdentityResponse>" + soundAnswer, "twice"},
		"its namespace twice":         {"<Arn>", `<Arn xmlns="https://sts.amazonaws.com/doc/2011-06-15/">`, "attribute"},
		"another attribute of it":     {" xmlns=", ` a="https://sts.amazonaws.com/doc/2011-06-15/" xmlns=`, "attribute"},
		"no user ID":                  {"<UserId>AROA1234567890EXAMPLE:i-0123456789</UserId>", "", "lacks"},
		"an instruction at the start": {"<GetCallerIdentityResponse ", `<?php x?><GetCallerIdentityResponse `, "processing"},
		"a second declaration":        {"<GetCallerIdentityResponse ", `<?xml version="1.0"?><?xml version="1.0"?><GetCallerIdentityResponse `, "processing"},
		"another encoding":            {"<GetCallerIdentityResponse ", `<?xml version="1.0" encoding="utf-7"?><GetCallerIdentityResponse `, "XML"},
		"text before it":              {"<GetCallerIdentityResponse ", `x<GetCallerIdentityResponse `, "around"},
		"a comment":                   {"<Arn>", "<Arn><!-- x -->", "comment"},
		"a DTD":                       {"<GetCallerIdentityResponse ", `<!DOCTYPE a [<!ENTITY b "c">]><GetCallerIdentityResponse `, "directive"},
		"an entity":                   {"assumed-role", "&b;", "XML"},
		"a processing instruction":    {"<Arn>", "<?php x?><Arn>", "processing"},
		"text beside elements":        {"<Arn>", "x<Arn>", "text"},
		"text after an element":       {"</Account>", "</Account>x", "text beside"},
		"XML in a JSON reply":         {soundAnswer, `{"GetCallerIdentityResponse": "` + strings.ReplaceAll(soundAnswer, `"`, `\"`) + `"}`, "around"},
		"an unfinished document":      {"</GetCallerIdentityResponse>", "", "XML"},
		"an end that isn't its start": {"</Arn>", "</UserId>", "XML"},
	} {
		text := strings.Replace(soundAnswer, c.from, c.to, 1)
		if name == "another root" { // with its end
			text = strings.ReplaceAll(soundAnswer, c.from, c.to)
		}
		if a, err := parseAnswer([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v, expected %q", name, a, err, c.want)
		}
	}
}

func TestParsePrincipal(t *testing.T) {
	const account, user, role = "123456789012", "AIDA1234567890EXAMPLE", "AROA1234567890EXAMPLE"
	longest := "arn:aws:iam::123456789012:user/" + strings.Repeat("a/", 1008) + "b" // 2048 bytes
	for _, c := range []struct {
		arn, userID string
		want        principal
		canonical   string
	}{
		{"arn:aws:iam::123456789012:user/alice", user, principal{"aws", account, "user", "alice", "/", "", user}, "arn:aws:iam::123456789012:user/alice"},
		{"arn:aws-cn:iam::123456789012:user/a/b/alice", user, principal{"aws-cn", account, "user", "alice", "/a/b/", "", user}, "arn:aws-cn:iam::123456789012:user/a/b/alice"},
		{"arn:aws:iam::123456789012:user/" + strings.Repeat("!", 512), user, principal{"aws", account, "user", strings.Repeat("!", 512), "/", "", user}, "arn:aws:iam::123456789012:user/" + strings.Repeat("!", 512)},
		{"arn:aws:iam::123456789012:user/~", user, principal{"aws", account, "user", "~", "/", "", user}, "arn:aws:iam::123456789012:user/~"},
		{longest, user, principal{"aws", account, "user", "b", strings.TrimSuffix(longest[len("arn:aws:iam::123456789012:user"):], "b"), "", user}, longest},
		{"arn:aws-us-gov:sts::123456789012:assumed-role/reports/s", role + ":s", principal{"aws-us-gov", account, "role", "reports", "/", "s", role}, "arn:aws-us-gov:iam::123456789012:role/reports"},
	} {
		p, err := parsePrincipal(c.arn, c.userID, account)
		if err != nil || *p != c.want || p.arn() != c.canonical {
			t.Errorf("%s: %+v, %v", c.arn, p, err)
		}
	}
	for name, c := range map[string][3]string{
		"an account's root":            {"arn:aws:iam::123456789012:root", account, account},
		"a federated user":             {"arn:aws:sts::123456789012:federated-user/x", "123456789012:x", account},
		"an assumed role of two parts": {"arn:aws:sts::123456789012:assumed-role/reports", role + ":s", account},
		"an assumed role of four":      {"arn:aws:sts::123456789012:assumed-role/reports/s/t", role + ":s/t", account},
		"an assumed role of IAM":       {"arn:aws:iam::123456789012:assumed-role/reports/s", role + ":s", account},
		"a user of STS":                {"arn:aws:sts::123456789012:user/alice", user, account},
		"a federated user of three":    {"arn:aws:sts::123456789012:federated-user/x/s", role + ":s", account},
		"a role of IAM of three":       {"arn:aws:sts::123456789012:role/reports/s", role + ":s", account},
		"a role without a session":     {"arn:aws:sts::123456789012:assumed-role/reports/", role, account},
		"a role ID of no session":      {"arn:aws:sts::123456789012:assumed-role/reports/", role + ":", account},
		"two sessions":                 {"arn:aws:sts::123456789012:assumed-role/reports/s", role + ":s:s", account},
		"a space in the name":          {"arn:aws:iam::123456789012:user/a b", user, account},
		"another alphabet":             {"arn:aws:iam::123456789012:user/\u00e9", user, account},
		"a control character":          {"arn:aws:iam::123456789012:user/a\x7f", user, account},
		"a question mark":              {"arn:aws:iam::123456789012:user/a?", user, account},
		"a name of 513 bytes":          {"arn:aws:iam::123456789012:user/" + strings.Repeat("a", 513), user, account},
		"2049 bytes":                   {longest[:len(longest)-1] + "bb", user, account},
		"a long unique ID":             {"arn:aws:iam::123456789012:user/alice", strings.Repeat("A", 129), account},
		"an account of letters":        {"arn:aws:iam::12345678901a:user/alice", user, "12345678901a"},
		"a role itself":                {"arn:aws:iam::123456789012:role/reports", role, account},
		"another account":              {"arn:aws:iam::210987654321:user/alice", user, account},
		"a short account":              {"arn:aws:iam::12345678901:user/alice", user, "12345678901"},
		"an empty account":             {"arn:aws:iam:::user/alice", user, ""},
		"a wildcard":                   {"arn:aws:iam::123456789012:user/*", user, account},
		"an empty name":                {"arn:aws:iam::123456789012:user/", user, account},
		"no name":                      {"arn:aws:iam::123456789012:user", user, account},
		"a colon in the name":          {"arn:aws:iam::123456789012:user/a:b", user, account},
		"another partition":            {"arn:\xd3:iam::123456789012:user/alice", user, account},
		"no partition":                 {"arn::iam::123456789012:user/alice", user, account},
		"a region":                     {"arn:aws:iam:eu-west-1:123456789012:user/alice", user, account},
		"another scheme":               {"urn:aws:iam::123456789012:user/alice", user, account},
		"too few parts":                {"arn:aws:iam::123456789012", user, account},
		"a user ID with a session":     {"arn:aws:iam::123456789012:user/alice", user + ":s", account},
		"a role ID without one":        {"arn:aws:sts::123456789012:assumed-role/reports/s", role, account},
		"another session":              {"arn:aws:sts::123456789012:assumed-role/reports/s", role + ":t", account},
		"a short unique ID":            {"arn:aws:iam::123456789012:user/alice", "AIDA", account},
		"a unique ID in lower case":    {"arn:aws:iam::123456789012:user/alice", strings.ToLower(user), account},
		"longer than any":              {"arn:aws:iam::123456789012:user/" + strings.Repeat("a/", 1100) + "b", user, account},
	} {
		if p, err := parsePrincipal(c[0], c[1], c[2]); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestPrivateAddressesAreRefused(t *testing.T) {
	for address, public := range map[string]bool{
		"52.94.236.1:443": true, "[2600:1f00::1]:443": true, "[64:ff9b::345e:ec01]:443": true, "100.128.0.1:443": true, "198.20.0.1:443": true,
		"[64:ff9b::a00:1]:443": false, "[64:ff9b::7f00:1]:443": false, "[64:ff9b::a9fe:a9fe]:443": false, "[64:ff9b:1::1]:443": false,
		"0.1.2.3:443": false, "192.0.0.1:443": false, "198.19.0.1:443": false, "240.0.0.1:443": false, "255.255.255.255:443": false, "[fec0::1]:443": false, "[2002:a00:1::1]:443": false,
		"10.0.0.1:443": false, "127.0.0.1:443": false, "169.254.169.254:443": false, "100.64.0.1:443": false, "192.168.1.1:443": false,
		"[::1]:443": false, "[fe80::1]:443": false, "[fd00:ec2::254]:443": false, "[::ffff:10.0.0.1]:443": false, "0.0.0.0:443": false, "224.0.0.1:443": false,
	} {
		if err := refusePrivate(t.Context(), "tcp", address, nil); (err == nil) != public {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := refusePrivate(t.Context(), "tcp", "nonsense", nil); err == nil {
		t.Error("nonsense is public")
	}
}

// What STS says of an error is for the log, and so is a name or nothing.
func TestErrorCode(t *testing.T) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" + "AccessDenied"
	answer := func(code string) string {
		return "<ErrorResponse><Error><Code>" + code + "</Code></Error></ErrorResponse>"
	}
	for body, want := range map[string]string{
		answer("ExpiredToken"): "ExpiredToken", answer(""): "", answer(letters): letters, answer(letters + "x"): "",
		answer("a b"): "", answer("a1"): "", answer("&#10;a"): "", "": "", "{}": "",
		strings.TrimSuffix(answer("ExpiredToken"), "</ErrorResponse>"): "",
	} {
		if got := errorCode([]byte(body)); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
}

// answers has STS answer with each in turn; the time that passes is a bubble's.
type answers []func(*http.Request) (*http.Response, error)

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	next := (*a)[0]
	*a = (*a)[1:]
	return next(r)
}

func refused(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func sound(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/xml"}}, Body: io.NopCloser(strings.NewReader(soundAnswer))}, nil
}

func fails(status int, code string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		brokertest.STSError(w, status, code)
		return w.Result(), nil
	}
}

// asking returns a function that asks STS, and says how long it took.
func asking(t *testing.T) func(context.Context, answers) (time.Duration, error) {
	t.Helper()
	r, err := parse(encode(t, newSigning().login(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, transport answers) (time.Duration, error) {
		v := &Verifier{config: Config{ServerID: serverID}, client: &http.Client{Transport: &transport}}
		start := time.Now()
		_, err := v.ask(ctx, r)
		return time.Since(start), err
	}
}

func TestWhatIsTriedAgain(t *testing.T) {
	ask := asking(t)
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			status int
			code   string
		}{{500, "InternalFailure"}, {503, "ServiceUnavailable"}, {429, "Other"}, {400, "Throttling"}, {400, "ThrottlingException"}, {400, "RequestLimitExceeded"}} {
			answer := fails(c.status, c.code)
			if took, err := ask(t.Context(), answers{answer, answer, sound}); err != nil || took == 0 {
				t.Errorf("%d %s: after %s, %v", c.status, c.code, took, err)
			}
			if _, err := ask(t.Context(), answers{answer, answer, answer}); !errors.Is(err, attest.ErrUnavailable) || !strings.Contains(err.Error(), fmt.Sprintf("%d %s", c.status, c.code)) {
				t.Errorf("%d %s: %v", c.status, c.code, err)
			}
		}
		for _, status := range []int{400, 403, 404, 428, 430, 499} {
			if _, err := ask(t.Context(), answers{fails(status, "Other")}); !errors.Is(err, attest.ErrRejected) {
				t.Errorf("%d: %v", status, err)
			}
		}
	})
}

func TestTriesAreApart(t *testing.T) {
	ask := asking(t)
	synctest.Test(t, func(t *testing.T) {
		if took, err := ask(t.Context(), answers{sound}); err != nil || took != 0 {
			t.Errorf("at once: after %s, %v", took, err)
		}
		if took, err := ask(t.Context(), answers{refused, refused, sound}); err != nil || took < 600*time.Millisecond || took > 800*time.Millisecond {
			t.Errorf("the third time: after %s, %v", took, err)
		}
		if took, err := ask(t.Context(), answers{refused, refused, refused}); !errors.Is(err, attest.ErrUnavailable) || took > 800*time.Millisecond {
			t.Errorf("never: after %s, %v", took, err)
		}
		silent := func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() }
		if took, err := ask(t.Context(), answers{silent, silent, silent}); !errors.Is(err, attest.ErrUnavailable) || took < tries*callTimeout || took > tries*callTimeout+time.Second {
			t.Errorf("without an answer: after %s, %v", took, err)
		}
		for _, patience := range []time.Duration{50 * time.Millisecond, 350 * time.Millisecond} { // between tries
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if took, err := ask(ctx, answers{refused, refused, refused}); !errors.Is(err, context.DeadlineExceeded) || took != patience {
				t.Errorf("a caller of %s: after %s, %v", patience, took, err)
			}
			cancel()
		}
		ctx, cancel := context.WithCancel(t.Context())
		last := func(*http.Request) (*http.Response, error) { cancel(); return nil, ctx.Err() }
		if _, err := ask(ctx, answers{refused, refused, last}); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that leaves at the last: %v", err)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(soundAnswer)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAnswer([]byte(text))
		if err != nil {
			return
		}
		// What is taken means the same to encoding/xml's own decoding.
		var want struct {
			Arn     string `xml:"GetCallerIdentityResult>Arn"`
			UserID  string `xml:"GetCallerIdentityResult>UserId"`
			Account string `xml:"GetCallerIdentityResult>Account"`
		}
		if err := xml.Unmarshal([]byte(text), &want); err != nil || want.Arn != a.arn || want.UserID != a.userID || want.Account != a.account {
			t.Errorf("%q: %+v, %+v, %v", text, a, want, err)
		}
	})
}

func FuzzParsePrincipal(f *testing.F) {
	f.Add("arn:aws:sts::123456789012:assumed-role/reports/s", "AROA1234567890EXAMPLE:s", "123456789012")
	f.Fuzz(func(t *testing.T, arn, userID, account string) {
		p, err := parsePrincipal(arn, userID, account)
		if err != nil {
			return
		}
		if p.kind == "user" && p.arn() != arn || p.account != account || !strings.HasPrefix(userID, p.uniqueID) || strings.ContainsAny(p.name, "/:*?") {
			t.Errorf("%q %q: %+v", arn, userID, p)
		}
		if _, err := json.Marshal(p.arn()); err != nil {
			t.Errorf("%q isn't UTF-8", p.arn())
		}
	})
}
