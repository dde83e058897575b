package awsiam

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"net/url"
	"strings"
	"testing"
)

// FuzzAgainstOthers holds what is taken of a proof against what encoding/base64, encoding/json and net/url read of it.
func FuzzAgainstOthers(f *testing.F) {
	s := newSigning()
	f.Add(encode(f, s.login(f)))
	f.Add(token(s.presign(f)))
	f.Fuzz(func(t *testing.T, proof string) {
		r, err := parse(proof, nil)
		if err != nil {
			return
		}
		if r.presigned {
			data, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(proof, presignedPrefix))
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(string(data))
			if err != nil {
				t.Fatal(err)
			}
			query, err := url.ParseQuery(u.RawQuery)
			if err != nil || u.Host != r.endpoint.host || u.Path != "/" || u.Scheme != "https" || u.User != nil || u.Fragment != "" {
				t.Fatalf("%s: %v", u, err)
			}
			for name, values := range query {
				if len(values) != 1 {
					t.Errorf("%s: %q", name, values)
				}
			}
			if query.Get("Action") != "GetCallerIdentity" || query.Get("X-Amz-Signature") != r.signature || query.Get("X-Amz-Security-Token") != r.token ||
				query.Get("X-Amz-Date") != r.date.Format(dateLayout) || !strings.HasPrefix(query.Get("X-Amz-Credential"), r.accessKeyID+"/") {
				t.Errorf("%q is read as %+v", query, r)
			}
			return
		}
		var login map[string]string
		if err := json.Unmarshal([]byte(proof), &login); err != nil || len(login) != 4 {
			t.Fatalf("%q: %v", login, err)
		}
		decoded := func(name string) string {
			data, err := base64.StdEncoding.DecodeString(login[name])
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
		if decoded("iam_request_body") != postBody || decoded("iam_request_url") != "https://"+r.endpoint.host+"/" && decoded("iam_request_url") != "https://"+r.endpoint.host {
			t.Errorf("%q", login)
		}
		var headers map[string]any
		if err := json.Unmarshal([]byte(decoded("iam_request_headers")), &headers); err != nil {
			t.Fatal(err)
		}
		theirs := map[string]string{}
		for name, value := range headers {
			if list, ok := value.([]any); ok && len(list) == 1 {
				value = list[0]
			}
			text, ok := value.(string)
			if _, twice := theirs[strings.ToLower(name)]; !ok || twice {
				t.Errorf("%s: %v", name, value)
			}
			theirs[strings.ToLower(name)] = text
		}
		for name, value := range r.headers {
			if text, there := theirs[name]; text != value && (there || name != "content-length") {
				t.Errorf("%s is %q, read as %q", name, text, value)
			}
		}
		if theirs["x-amz-date"] != r.date.Format(dateLayout) || !strings.HasSuffix(theirs["authorization"], r.signature) {
			t.Errorf("%q is read as %+v", theirs, r)
		}
	})
}

// FuzzAnswersAgainstXML holds what is taken of STS's answers against what encoding/xml reads by its structure.
func FuzzAnswersAgainstXML(f *testing.F) {
	f.Add(soundAnswer)
	f.Add(strings.Replace(soundAnswer, "<Arn>", "<Arn>x</Arn><Arn>", 1))
	f.Fuzz(func(t *testing.T, data string) {
		a, err := parseAnswer([]byte(data))
		if err != nil {
			return
		}
		var theirs struct {
			XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResponse"`
			Result  []struct {
				ARN     []string `xml:"Arn"`
				UserID  []string `xml:"UserId"`
				Account []string `xml:"Account"`
			} `xml:"GetCallerIdentityResult"`
		}
		if err := xml.Unmarshal([]byte(data), &theirs); err != nil || len(theirs.Result) != 1 {
			t.Fatalf("%s: %v", data, err)
		}
		r := theirs.Result[0]
		if len(r.ARN) != 1 || r.ARN[0] != a.arn || len(r.UserID) != 1 || r.UserID[0] != a.userID || len(r.Account) != 1 || r.Account[0] != a.account {
			t.Errorf("%s: %+v, read as %+v", data, r, a)
		}
	})
}
