package conformance

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"
	stsReference = "AWS STS API Reference"
	urlsAreKept  = "URLs end in logs"
	narrow       = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::conformance-narrowed/*"]}]}`
)

// assumed is a successful answer.
type assumed struct {
	XMLName xml.Name
	Result  struct {
		Credentials struct{ AccessKeyId, SecretAccessKey, SessionToken, Expiration string } //nolint:revive // the protocol's names
		User        struct{ Arn, AssumedRoleId string }                                     `xml:"AssumedRoleUser"` //nolint:revive // as above
	} `xml:"AssumeRoleWithWebIdentityResult"`
	RequestID string `xml:"ResponseMetadata>RequestId"`
}

// stsFault is an error.
type stsFault struct {
	XMLName xml.Name
	Error   struct{ Type, Code, Message string }
	// RequestID stands beside Error, or in ResponseMetadata of some.
	RequestID string `xml:"RequestId"`
}

// decodeXML reads one document with nothing after it.
func decodeXML(data []byte, into any) error {
	d := xml.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(into); err != nil {
		return err
	}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if text, ok := token.(xml.CharData); err != nil || !ok || len(bytes.TrimSpace(text)) > 0 {
			return errors.New("something follows the document")
		}
	}
}

// errorCode finds the code where the surface has it.
func errorCode(s Surface, body []byte) string {
	if s == STS {
		var f stsFault
		if decodeXML(body, &f) != nil || f.XMLName.Local != "ErrorResponse" {
			return ""
		}
		return f.Error.Code
	}
	var f map[string]any
	if json.Unmarshal(body, &f) != nil {
		return ""
	}
	name := "code"
	if s == OAuth {
		name = "error"
	}
	code, _ := f[name].(string)
	return code
}

// granted judges by a successful answer's fields.
func granted(judge func(assumed) string) func(*Target, *answer) string {
	return func(_ *Target, a *answer) string {
		var got assumed
		if err := decodeXML(a.body, &got); a.status != http.StatusOK || err != nil || got.XMLName.Local != "AssumeRoleWithWebIdentityResponse" {
			return a.String() + ", and no AssumeRoleWithWebIdentityResponse"
		}
		c := got.Result.Credentials
		if c.AccessKeyId == "" || c.SecretAccessKey == "" || c.SessionToken == "" || c.Expiration == "" {
			return "Credentials without AccessKeyId, SecretAccessKey, SessionToken or Expiration"
		}
		return judge(got)
	}
}

func fine(assumed) string { return "" }

// stsShape wants an ErrorResponse as SDKs read it.
func stsShape(_ *Target, a *answer) string {
	var f stsFault
	if err := decodeXML(a.body, &f); err != nil || f.XMLName.Local != "ErrorResponse" {
		return a.String() + ", and no ErrorResponse in XML"
	}
	switch {
	case f.XMLName.Space != stsNamespace:
		return fmt.Sprintf("namespace %q", clip(f.XMLName.Space))
	case f.Error.Code == "" || f.Error.Message == "" || f.Error.Type != "Sender":
		return fmt.Sprintf("Type %q, Code %q, and a message of %d bytes", clip(f.Error.Type), clip(f.Error.Code), len(f.Error.Message))
	case f.RequestID == "":
		return "no RequestId"
	}
	return ""
}

func stsChecks(t *Target) []check {
	form := func(changes ...string) url.Values {
		f := url.Values{
			"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {t.Role}, "RoleSessionName": {"conformance"}, "WebIdentityToken": {t.Token},
		}
		for i := 0; i < len(changes); i += 2 {
			if f.Set(changes[i], changes[i+1]); changes[i+1] == "" {
				f.Del(changes[i])
			}
		}
		return f
	}
	good, now, bad := request{form: form()}, time.Now(), []int{400}
	return []check{
		{"success", "200 with AccessKeyId, SecretAccessKey, SessionToken, Expiration in AssumeRoleWithWebIdentityResult", stsReference, good, granted(fine)},
		{"content-type", "text/xml", stsReference, good, contentType("text/xml", "application/xml")},
		{"namespace", stsNamespace, stsReference, good, granted(func(got assumed) string {
			if got.XMLName.Space != stsNamespace {
				return fmt.Sprintf("%q", clip(got.XMLName.Space))
			}
			return ""
		})},
		{"expiration", "Expiration in UTC and in the future, as 2006-01-02T15:04:05Z", stsReference, good, granted(func(got assumed) string {
			return expires(got.Result.Credentials.Expiration, now)
		})},
		{"life", "15 minutes or more left: SDKs ask again at each use below that", "botocore's advisory refresh", good, granted(func(got assumed) string {
			return left(got.Result.Credentials.Expiration, now)
		})},
		{"assumed-role-user", "AssumedRoleUser with Arn and AssumedRoleId", stsReference, good, granted(func(got assumed) string {
			if u := got.Result.User; u.Arn == "" || !strings.HasSuffix(u.AssumedRoleId, ":conformance") {
				return fmt.Sprintf("Arn %q, AssumedRoleId %q", clip(u.Arn), clip(u.AssumedRoleId))
			}
			return ""
		})},
		{"request-id", "ResponseMetadata with RequestId", stsReference, good, granted(func(got assumed) string {
			if got.RequestID == "" {
				return "none"
			}
			return ""
		})},
		{"no-store", "credentials with Cache-Control: no-store", "RFC 9111, 5.2.2.5", good, noStore},
		{"charset", "a form whose Content-Type says charset=utf-8 is taken, as botocore sends it", "botocore", request{form: form(), typ: "application/x-www-form-urlencoded; charset=utf-8"}, granted(fine)},
		{"duration", "DurationSeconds=900 gives 900 seconds at most", stsReference, request{form: form("DurationSeconds", "900")}, granted(func(got assumed) string {
			if at, err := time.Parse(time.RFC3339, got.Result.Credentials.Expiration); err != nil || at.Sub(now) > 930*time.Second {
				return at.Sub(now).Round(time.Second).String()
			}
			return ""
		})},
		{"error-shape", "ErrorResponse in the namespace with Type Sender, Code, Message, RequestId", stsReference, request{form: form("WebIdentityToken", "x.y.z")}, stsShape},
		{"bad-token", "400 InvalidIdentityToken", stsReference, request{form: form("WebIdentityToken", t.Token+"x")}, refused(bad, "InvalidIdentityToken")},
		{"no-token", "400 MissingParameter or ValidationError", "AWS common errors", request{form: form("WebIdentityToken", "")}, refused(bad, "MissingParameter", "ValidationError")},
		{"unknown-role", "403 AccessDenied", stsReference, request{form: form("RoleArn", "arn:aws:iam::000000000000:role/conformance-no-such-role")}, refused([]int{403}, "AccessDenied")},
		{"no-action", "400 InvalidAction or MissingAction", "AWS common errors", request{form: form("Action", "")}, refused(bad, "InvalidAction", "MissingAction")},
		{"unknown-action", "400 InvalidAction", "AWS common errors", request{form: form("Action", "AssumeEverything")}, refused(bad, "InvalidAction")},
		{"wrong-version", "400 InvalidAction", "AWS common errors", request{form: form("Version", "2010-05-08")}, refused(bad, "InvalidAction")},
		{"bad-duration", "400 ValidationError for DurationSeconds=3600s", stsReference, request{form: form("DurationSeconds", "3600s")}, refused(bad, "ValidationError", "InvalidParameterValue", "MalformedInput")},
		{"negative-duration", "400 ValidationError for DurationSeconds=-1", stsReference, request{form: form("DurationSeconds", "-1")}, refused(bad, "ValidationError", "InvalidParameterValue")},
		{"bad-policy", "400 MalformedPolicyDocument", stsReference, request{form: form("Policy", `{"Version":`)}, refused(bad, "MalformedPolicyDocument")},
		{"large-policy", "400 PackedPolicyTooLarge, or 413, for a policy of 1 MB", stsReference, request{form: form("Policy", strings.Replace(narrow, "narrowed", strings.Repeat("a", 1<<20), 1))}, refused([]int{400, 413})},
		{"long-role-arn", "refused: RoleArn of 4 KB; AWS's are 2,048 at most", stsReference, request{form: form("RoleArn", "arn:aws:iam::000000000000:role/"+strings.Repeat("a", 4<<10))}, refused(clientFault)},
		{"hostile-session-name", "refused in well-formed XML: RoleSessionName with < & and a quote", stsReference, request{form: form("RoleSessionName", `<a>&"b`)}, all(refused(bad), stsShape)},
		{"twice", "refused: RoleArn twice", "two readers may take another one each", request{body: form().Encode() + "&RoleArn=other"}, refused(clientFault)},
		{"query-and-body", "refused: RoleArn in the query too", urlsAreKept, request{form: form(), query: "RoleArn=other"}, refused(clientFault)},
		{"query", "refused: everything in the query of a POST", urlsAreKept, request{query: form().Encode()}, refused(clientFault)},
		{"get", "refused: everything in the query of a GET", urlsAreKept, request{method: http.MethodGet, query: form().Encode()}, refused(clientFault)},
		{"json", "refused: a form that calls itself JSON", stsReference, request{form: form(), typ: "application/json"}, refused(clientFault)},
		{"put", "refused: PUT", stsReference, request{method: http.MethodPut, form: form()}, refused(clientFault)},
	}
}
