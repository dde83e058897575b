package awsiam

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

func TestParseLoginData(t *testing.T) {
	s := newSigning()
	r, err := parse(encode(t, s.login(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.presigned || r.accessKeyID != s.keys.AccessKeyID || len(r.signature) != 64 || r.token != s.keys.SessionToken || !r.date.Equal(s.at) ||
		r.serverID != serverID || r.nonce != "n1" || r.endpoint.region != "eu-west-1" || r.endpoint.partition != "aws" {
		t.Errorf("%+v", r)
	}
	want := []string{"content-type", "x-amz-date", "x-amz-security-token", headerNonce, headerServerID}
	if got := slices.Sorted(maps.Keys(r.headers)); !slices.Equal(got, want) {
		t.Errorf("signed are %q", got)
	}
}

func TestParsePresigned(t *testing.T) {
	s := newSigning()
	r, err := parse(token(s.presign(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !r.presigned || r.accessKeyID != s.keys.AccessKeyID || r.token != s.keys.SessionToken || !r.date.Equal(s.at) || r.expires != time.Minute ||
		!slices.Equal(r.signed, []string{"host", headerClusterID}) {
		t.Errorf("%+v", r)
	}
}

// What is built is the parsed proof again, and nothing else.
func TestBuildIsTheSameRequest(t *testing.T) {
	s := newSigning()
	r, err := parse(encode(t, s.login(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	req := r.build(t.Context(), serverID)
	headers, err := parseHeaders(jsontext.NewDecoder(strings.NewReader(s.login(t)["headers"])))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		if name != "content-length" && req.Header.Get(name) != value {
			t.Errorf("%s: %q became %q", name, value, req.Header.Get(name))
		}
	}
	if again, err := req.GetBody(); err != nil { // net/http sends it again where a server closed a connection
		t.Error(err)
	} else if body, err := io.ReadAll(io.MultiReader(req.Body, again)); err != nil || string(body) != postBody+postBody {
		t.Errorf("%q, %v", body, err)
	}
	if req.Method != http.MethodPost || req.URL.String() != "https://sts.eu-west-1.amazonaws.com/" || req.ContentLength != int64(len(postBody)) {
		t.Errorf("%s %s of %d bytes", req.Method, req.URL, req.ContentLength)
	}
	url := s.presign(t)
	if r, err = parse(token(url), nil); err != nil {
		t.Fatal(err)
	}
	req = r.build(t.Context(), serverID)
	if req.Method != http.MethodGet || req.URL.Host != "sts.eu-west-1.amazonaws.com" || req.URL.Path != "/" || req.Header.Get(headerClusterID) != serverID {
		t.Errorf("%s %s, %v", req.Method, req.URL, req.Header)
	}
	_, query, _ := strings.Cut(url, "?")
	want, got := strings.Split(query, "&"), strings.Split(req.URL.RawQuery, "&")
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("%q\nbecame %q", want, got)
	}
}

func TestEndpoints(t *testing.T) {
	for host, want := range map[string]endpoint{
		"sts.amazonaws.com":                           {partition: "aws", region: "us-east-1"},
		"sts.eu-central-1.amazonaws.com":              {partition: "aws", region: "eu-central-1"},
		"sts.eu-central-1.api.aws":                    {partition: "aws", region: "eu-central-1"},
		"sts-fips.us-west-2.amazonaws.com":            {partition: "aws", region: "us-west-2"},
		"sts-fips.us-west-2.api.aws":                  {partition: "aws", region: "us-west-2"},
		"sts.us-gov-west-1.amazonaws.com":             {partition: "aws-us-gov", region: "us-gov-west-1"},
		"sts.cn-north-1.amazonaws.com.cn":             {partition: "aws-cn", region: "cn-north-1"},
		"sts.cn-north-1.api.amazonwebservices.com.cn": {partition: "aws-cn", region: "cn-north-1"},
	} {
		e, err := endpointOf(host, nil)
		if err != nil || e.partition != want.partition || e.region != want.region || e.host != host || e.address != "" {
			t.Errorf("%s: %+v, %v", host, e, err)
		}
	}
	own := map[string]*endpoint{"vpce-1.sts.eu-west-1.vpce.amazonaws.com": {host: "vpce-1.sts.eu-west-1.vpce.amazonaws.com", address: "10.0.0.1:443"}}
	if e, err := endpointOf("vpce-1.sts.eu-west-1.vpce.amazonaws.com", own); err != nil || e.address != "10.0.0.1:443" {
		t.Errorf("%+v, %v", e, err)
	}
	for _, host := range []string{"", "sts.eu-west-1.amazonaws.com.evil", "STS.eu-west-1.amazonaws.com", "sts.evil.amazonaws.com", "sts.eu-west-1.amazonaws.com:443", "sts.eu-west-1.amazonaws.com."} {
		if _, err := endpointOf(host, nil); err == nil {
			t.Errorf("%q is an endpoint", host)
		}
	}
}

// threats.md's catalogue for login data: each differs in one thing from a sound proof, and nothing leaves for STS.
func TestLoginDataThatIsRefused(t *testing.T) {
	s := newSigning()
	header := func(name, value string) func(map[string]string) {
		return func(in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "{", `{"`+name+`":["`+value+`"],`, 1)
		}
	}
	swap := func(field, from, to string) func(map[string]string) {
		return func(in map[string]string) {
			if !strings.Contains(in[field], from) {
				t.Errorf("%s has no %q: %s", field, from, in[field])
			}
			in[field] = strings.Replace(in[field], from, to, 1)
		}
	}
	for name, c := range map[string]struct {
		change func(map[string]string)
		want   string
	}{
		"another method":                {swap("method", "POST", "GET"), "isn't POST"},
		"lower-case method":             {swap("method", "POST", "post"), "isn't POST"},
		"foreign host":                  {swap("url", "sts.eu-west-1.amazonaws.com", "evil.example"), "no STS endpoint"},
		"host with a suffix":            {swap("url", "amazonaws.com", "amazonaws.com.evil"), "no STS endpoint"},
		"user information":              {swap("url", "https://", "https://sts.amazonaws.com@evil/"), "no STS endpoint"},
		"a port":                        {swap("url", ".com/", ".com:443/"), "no STS endpoint"},
		"plaintext":                     {swap("url", "https", "http"), "isn't https"},
		"a path":                        {swap("url", ".com/", ".com/x"), "no STS endpoint"},
		"a dot segment":                 {swap("url", ".com/", ".com//"), "no STS endpoint"},
		"a query on the POST form":      {swap("url", ".com/", ".com/?Action=AssumeRole"), "no STS endpoint"},
		"a fragment":                    {swap("url", ".com/", ".com/#x"), "no STS endpoint"},
		"a malformed region":            {swap("url", "eu-west-1", "eu-west-1.evil.com#"), "no STS endpoint"},
		"another region than the scope": {swap("url", "eu-west-1", "eu-west-2"), "region isn't the host's"},
		"another action":                {swap("body", "GetCallerIdentity", "AssumeRoleWithWebIdentity"), "isn't Action=GetCallerIdentity"},
		"the action twice":              {swap("body", "Action", "Action=GetCallerIdentity&Action"), "isn't Action=GetCallerIdentity"},
		"a semicolon":                   {swap("body", "&", ";"), "isn't Action=GetCallerIdentity"},
		"an escaped action":             {swap("body", "Action", "%41ction"), "isn't Action=GetCallerIdentity"},
		"a header with XML":             {header("X-Amz-Mallory-Header", "<?xml>"), "doesn't have"},
		"a case twin":                   {header("x-aMz-date", "20260101T000000Z"), "there twice"},
		"a foreign Host header":         {header("Host", "evil.example"), "host isn't the URL's"},
		"a forwarded header":            {header("X-Forwarded-For", "1"), "doesn't have"},
		"a transfer encoding":           {header("Transfer-Encoding", "chunked"), "doesn't have"},
		"a line break in a value":       {header("User-Agent", `a\r\nX: b`), "printable"},
		"another alphabet in a value":   {header("User-Agent", "\u00e9"), "printable"},
		"a control character":           {header("User-Agent", `\u007f`), "printable"},
		"more escapes than there are":   {header("User-Agent", strings.Repeat(`\u0041`, maxEscapes+1)), "escapes"},
		"a tab in a value":              {header("User-Agent", `a\tb`), "printable"},
		"a space at the start":          {header("User-Agent", " a"), "printable"},
		"a space at the end":            {header("User-Agent", "a "), "printable"},
		"two spaces in a value":         {header("User-Agent", "a  b"), "printable"},
		"a name of another alphabet":    {swap("headers", "X-Amz-Security-Token", "X-Amz-Security-To\u212aen"), "doesn't have"},
		"a name with a space":           {header("User-Agent ", "x"), "doesn't have"},
		"a value of two types":          {swap("headers", `["n1"]`, `["n1",1]`), "isn't one text"},
		"two values":                    {swap("headers", `["n1"]`, `["n1","n2"]`), "isn't one text"},
		"no value":                      {swap("headers", `["n1"]`, `[]`), "isn't one text"},
		"a number":                      {swap("headers", `["n1"]`, `1`), "isn't one text"},
		"a number in a list":            {header("User-Agent", `x",1,"`), "isn't one text"},
		"a list in a list":              {swap("headers", `["n1"]`, `[["n1"]]`), "isn't one text"},
		"a value that breaks off":       {swap("headers", `["n1"]`, `["n1`), "isn't one text"},
		"headers in a list":             {swap("headers", "{", "[{"), "isn't one JSON object"},
		"headers that break off":        {swap("headers", "}", ""), "isn't one JSON object"},
		"data after the headers":        {swap("headers", "}", "}{}"), "isn't one JSON object"},
		"no headers":                    {func(in map[string]string) { in["headers"] = "null" }, "isn't one JSON object"},
		"a duplicate member":            {swap("headers", "{", `{"X-Amz-Date":["x"],`), "there twice"},
		"no server ID":                  {swap("headers", `"X-Credbroker-Server-Id":["broker.example"]`, `"User-Agent":["x"]`), "signed and not there"},
		"a signed header that isn't":    {swap("headers", ";host;", ";fake;host;"), "signed and not there"},
		"server ID twice, two names":    {header("X-Vault-AWS-IAM-Server-ID", serverID), "there and not signed"},
		"server ID unsigned":            {swap("headers", ";x-credbroker-server-id", ""), "there and not signed"},
		"nonce unsigned":                {swap("headers", ";x-credbroker-nonce", ""), "there and not signed"},
		"token unsigned":                {swap("headers", ";x-amz-security-token", ""), "there and not signed"},
		"date unsigned":                 {swap("headers", ";x-amz-date", ""), "there and not signed"},
		"host unsigned":                 {swap("headers", ";host", ""), "host isn't signed"},
		"signed headers out of order":   {swap("headers", "host;x-amz-date", "x-amz-date;host"), "aren't in order"},
		"a signed header twice":         {swap("headers", "host;", "host;host;"), "aren't in order"},
		"user-agent signed":             {swap("headers", ";host;", ";host;user-agent;"), "signed and not there"},
		"another algorithm":             {swap("headers", "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), "isn't one of AWS4"},
		"another service":               {swap("headers", "/sts/", "/s3/"), "scope isn't"},
		"a scope of another day":        {swap("headers", s.at.Format("20060102")+"/", "19900101/"), "day of the scope"},
		"a scope of four parts":         {swap("headers", "/sts/aws4_request", "/sts"), "scope isn't"},
		"a scope of six parts":          {swap("headers", "/aws4_request", "/aws4_request/x"), "scope isn't"},
		"another end of the scope":      {swap("headers", "/aws4_request", "/aws5_request"), "scope isn't"},
		"a short access key ID":         {swap("headers", "ASIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EX"), "access key ID"},
		"a long access key ID":          {swap("headers", "ASIAIOSFODNN7EXAMPLE", strings.Repeat("A", 129)), "access key ID"},
		"a lower-case access key ID":    {swap("headers", "ASIAIOSFODNN7EXAMPLE", "asiaiosfodnn7example"), "access key ID"},
		"a scope's day that is none":    {swap("headers", s.at.Format("20060102")+"/", "2026x101/"), "day of the scope"},
		"no space before the headers":   {swap("headers", ", SignedHeaders=", ",SignedHeaders="), "isn't one of AWS4"},
		"no space before the signature": {swap("headers", ", Signature=", ",Signature="), "isn't one of AWS4"},
		"no signed headers":             {swap("headers", ", SignedHeaders=", ", Signed="), "isn't one of AWS4"},
		"no signature":                  {swap("headers", ", Signature=", ", Sign="), "isn't one of AWS4"},
		"a signature after it":          {swap("headers", "Signature=", "Signature=0, Signature="), "64 hexadecimal"},
		"no authorization":              {swap("headers", `"Authorization"`, `"User-Agent"`), "isn't one of AWS4"},
		"a short signature":             {func(in map[string]string) { in["headers"] = withSignature(in["headers"], strings.Repeat("0", 63)) }, "64 hexadecimal"},
		"a long signature":              {swap("headers", "Signature=", "Signature=0"), "64 hexadecimal"},
		"an upper-case signature":       {func(in map[string]string) { in["headers"] = withSignature(in["headers"], strings.Repeat("A", 64)) }, "64 hexadecimal"},
		"a date of another form":        {swap("headers", s.at.Format(dateLayout), s.at.Format(time.RFC3339)), "isn't YYYYMMDD"},
		"a date with a fraction":        {swap("headers", s.at.Format("150405Z"), s.at.Format("150405.5Z")), "isn't YYYYMMDD"},
		"a date that is none":           {swap("headers", s.at.Format("0102T150405Z"), "1302T150405Z"), "isn't YYYYMMDD"},
		"no date":                       {swap("headers", `"X-Amz-Date"`, `"User-Agent"`), "isn't YYYYMMDD"},
		"another length":                {header("Content-Length", "44"), "content-length"},
		"another content type":          {swap("headers", "application/x-www-form-urlencoded; charset=utf-8", "application/json"), "content-type"},
		"another hash":                  {header("X-Amz-Content-Sha256", strings.Repeat("0", 64)), "there and not signed"},
	} {
		in := s.login(t)
		c.change(in)
		if _, err := parse(encode(t, in), nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %q", name, err, c.want)
		}
	}
}

func TestEscapesOfTheLoginDataAreBounded(t *testing.T) {
	proof := encode(t, newSigning().login(t))
	escaped := strings.Replace(proof, "{", `{"\u0069am_http_request_method":"POST",`, 1)
	for n, want := range map[int]string{maxEscapes - 1: "member twice", maxEscapes: "escapes"} {
		if _, err := parse(strings.Replace(escaped, "POST", strings.Repeat(`\u0050`, n), 1), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d more: %v, expected %q", n, err, want)
		}
	}
}

// withSignature puts another signature at the end of the header Authorization.
func withSignature(headers, signature string) string {
	before, after, _ := strings.Cut(headers, "Signature=")
	return before + "Signature=" + signature + after[strings.Index(after, `"`):]
}

// What signers may leave out, or say besides, makes no other request of it.
func TestLoginDataThatIsTaken(t *testing.T) {
	for name, change := range map[string]func(in map[string]string){
		"no slash at the end": func(in map[string]string) { in["url"] = strings.TrimSuffix(in["url"], "/") },
		"the URL's host": func(in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "{", `{"Host":["sts.eu-west-1.amazonaws.com"],`, 1)
		},
		"texts without lists": func(in map[string]string) {
			in["headers"] = strings.NewReplacer("[", "", "]", "").Replace(in["headers"])
		},
		"slashes escaped, as PHP does": func(in map[string]string) { in["headers"] = strings.ReplaceAll(in["headers"], "/", `\/`) },
		"as many escapes as may be": func(in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "{", `{"User-Agent":["`+strings.Repeat(`\u0041`, maxEscapes)+`"],`, 1)
		},
		"names in lower case": func(in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "X-Amz-Date", "x-amz-date", 1)
		},
		"the body's length": func(in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "{", `{"Content-Length":["43"],`, 1)
		},
		"a length not signed": func(in map[string]string) { in["headers"] = strings.Replace(in["headers"], "content-length;", "", 1) },
		"what isn't signed": func(in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "{", `{"User-Agent":["x y"],"Accept-Encoding":["gzip"],"Accept":[""],`, 1)
		},
		"a type not signed": func(in map[string]string) { in["headers"] = strings.Replace(in["headers"], "content-type;", "", 1) },
		"no type": func(in map[string]string) {
			in["headers"] = strings.NewReplacer("content-type;", "", "Content-Type", "Accept").Replace(in["headers"])
		},
		"the type of Java's SDK": func(in map[string]string) { in["headers"] = strings.Replace(in["headers"], "; charset=utf-8", "", 1) },
		"a key ID of 16": func(in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "ASIAIOSFODNN7EXAMPLE", strings.Repeat("A", 16), 1)
		},
		"a key ID of 128": func(in map[string]string) {
			in["headers"] = strings.Replace(in["headers"], "ASIAIOSFODNN7EXAMPLE", strings.Repeat("A", 128), 1)
		},
	} {
		in := newSigning().login(t)
		before := maps.Clone(in)
		change(in)
		r, err := parse(encode(t, in), nil)
		if err != nil || maps.Equal(in, before) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		req := r.build(t.Context(), serverID)
		want := "application/x-www-form-urlencoded"
		if slices.Contains(r.signed, "content-type") && name != "the type of Java's SDK" {
			want += "; charset=utf-8"
		}
		if req.Header.Get("Content-Type") != want || req.Header.Get("Accept") != "text/xml" || req.Header.Get("User-Agent") != "credbroker" || req.Header.Get("Accept-Encoding") != "" ||
			req.Header["Host"] != nil || req.Header["Content-Length"] != nil {
			t.Errorf("%s: is sent with %v", name, req.Header)
		}
	}
}

func TestHeadersThatAreNoObject(t *testing.T) {
	for want, texts := range map[string][]string{
		errNoObject.Error(): {"", "null", `"Host"`, `["Host","sts.amazonaws.com"]`, `{"Host":["a"]`, `{"Host":["a"]}{}`, `{"Host":["a"]} x`, `{"Host":["a"],}`, `{"Host":["a"],1}`, "{", `{"Host`},
		"isn't one text":    {`{"Host":`, `{"Host":[`, `{"Host":["a"`, `{"Host":["a","b"]}`, `{"Host":null}`, `{"Host":[null]}`, `{"Host":[["a"]]}`, `{"Host":{"a":"b"}}`, `{"Host":[]}`},
		"there twice":       {`{"Host":["a"],"Host":["b"]}`, `{"Host":["a"],"HOST":["a"]}`, `{"Host":"a","\u0048ost":"a"}`},
	} {
		for _, text := range texts {
			if got, err := parseHeaders(jsontext.NewDecoder(strings.NewReader(text), jsontext.AllowDuplicateNames(true))); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, %v", text, got, err)
			}
		}
	}
}

// A proof of the largest size is read, and not a byte more.
func TestTheSizeOfAProof(t *testing.T) {
	proof := encode(t, newSigning().login(t))
	proof += strings.Repeat(" ", maxProof-len(proof))
	if _, err := parse(proof, nil); err != nil {
		t.Error(err)
	}
	if _, err := parse(proof+" ", nil); err == nil || !strings.Contains(err.Error(), "at most 8192") {
		t.Errorf("one byte more: %v", err)
	}
}

func TestSignedHeadersThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		header http.Header
		want   string
	}{
		"no server ID":     {http.Header{}, "not one of the headers"},
		"two server IDs":   {http.Header{"X-Credbroker-Server-Id": {serverID}, "X-Vault-Aws-Iam-Server-Id": {serverID}}, "not one of the headers"},
		"an empty one":     {http.Header{"X-Credbroker-Server-Id": {""}}, "signed, or empty"},
		"an empty nonce":   {http.Header{"X-Credbroker-Server-Id": {serverID}, "X-Credbroker-Nonce": {""}}, "signed, or empty"},
		"another hash":     {http.Header{"X-Credbroker-Server-Id": {serverID}, "X-Amz-Content-Sha256": {strings.Repeat("0", 64)}}, "isn't the body's"},
		"accept is signed": {http.Header{"X-Credbroker-Server-Id": {serverID}, "Accept": {"x"}}, "nobody signs it"},
		"gzip is signed":   {http.Header{"X-Credbroker-Server-Id": {serverID}, "Accept-Encoding": {"gzip"}}, "nobody signs it"},
	} {
		s := newSigning()
		s.header = c.header
		if _, err := parse(encode(t, s.login(t)), nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %q", name, err, c.want)
		}
	}
	for name, header := range map[string]http.Header{
		"Vault's": {"X-Vault-Aws-Iam-Server-Id": {serverID}},
		"its own": {"X-Credbroker-Server-Id": {serverID}, "Accept-Encoding": {"identity"}, "X-Amz-Content-Sha256": {postBodyHash}},
	} {
		s := newSigning()
		s.header = header
		if r, err := parse(encode(t, s.login(t)), nil); err != nil || r.serverID != serverID {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEncodingsThatAreRefused(t *testing.T) {
	s := newSigning()
	sound := encode(t, s.login(t))
	url := s.presign(t)
	end := len(sound) - 1
	for name, c := range map[string]struct{ proof, want string }{
		"empty":                       {"", "neither"},
		"text":                        {"hello", "neither"},
		"too large":                   {sound + strings.Repeat(" ", maxProof), "at most"},
		"a list":                      {"[" + sound + "]", "neither"},
		"a further member":            {strings.Replace(sound, "{", `{"role":"x",`, 1), "isn't login data"},
		"a further member at the end": {sound[:end] + `,"role":"x"}`, "isn't login data"},
		"a member twice":              {sound[:end] + `,"iam_http_request_method":"POST"}`, "isn't login data"},
		"a member in another case":    {strings.Replace(sound, "iam_request_url", "IAM_request_url", 1), "isn't login data"},
		"a member that isn't text":    {strings.Replace(sound, `"POST"`, "1", 1), "a member isn't text"},
		"no members":                  {"{}", "isn't POST"},
		"data after it":               {sound + "{}", "isn't login data"},
		"base64 with a line end":      {strings.Replace(sound, `"iam_request_url":"`, `"iam_request_url":"\n`, 1), "iam_request_url isn't base64"},
		"base64 with a return":        {strings.Replace(sound, `"iam_request_headers":"`, `"iam_request_headers":"\r`, 1), "iam_request_headers isn't base64"},
		"base64 without padding":      {strings.Replace(sound, `==","iam_request_headers`, `","iam_request_headers`, 1), "iam_request_body isn't"},
		"base64 of the other sort":    {strings.Replace(sound, `"iam_request_url":"`, `"iam_request_url":"-_`, 1), "iam_request_url isn't base64"},
		"base64 with other last bits": {`{"iam_http_request_method":"POST","iam_request_body":"` + postBodyBase64 + `","iam_request_url":"QR=="}`, "iam_request_url isn't base64"},
		"a token with other bits":     {presignedPrefix + "QR", "the token isn't base64"},
		"a body with a line end":      {strings.Replace(sound, `"iam_request_body":"`, `"iam_request_body":"\n`, 1), "iam_request_body isn't"},
		"headers that aren't base64":  {strings.Replace(sound, `"iam_request_headers":"`, `"iam_request_headers":"-_`, 1), "iam_request_headers isn't base64"},
		"a token with padding":        {token(url) + "=", "the token isn't base64"},
		"a token with a line end":     {token(url) + "\n", "the token isn't base64"},
		"a token of another prefix":   {"k8s-aws-v2." + token(url)[len(presignedPrefix):], "neither"},
		"a token in a token":          {presignedPrefix + token(url), "the token isn't base64"},
	} {
		if c.proof == sound {
			t.Errorf("%s: nothing is changed", name)
		}
		if _, err := parse(c.proof, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %q", name, err, c.want)
		}
	}
}

func TestPresignedRequestsThatAreRefused(t *testing.T) {
	url := newSigning().presign(t)
	for name, c := range map[string]struct{ from, to, want string }{
		"plaintext":                 {"https:", "http:", "isn't https"},
		"a foreign host":            {"sts.eu-west-1.amazonaws.com", "evil.example", "no STS endpoint"},
		"a path":                    {".com/?", ".com/x/?", "no STS endpoint"},
		"no path":                   {".com/?", ".com?", "isn't https"},
		"two slashes":               {".com/?", ".com//?", "no STS endpoint"},
		"no query":                  {".com/?", ".com/", "isn't https"},
		"a parameter of no value":   {"Version=2011-06-15", "Version", "doesn't have"},
		"another service":           {"%2Fsts%2F", "%2Fs3%2F", "scope isn't"},
		"another region":            {"%2Feu-west-1%2F", "%2Feu-west-2%2F", "region isn't the host's"},
		"three signed headers":      {"host%3Bx-k8s-aws-id", "host%3Bx-k8s-aws-id%3Bx-z", "signed headers aren't"},
		"a token with a line break": {"planted%2F", "planted%0A", "printable"},
		"expiry with more":          {"X-Amz-Expires=60", "X-Amz-Expires=60s", "isn't a number"},
		"expiry with a zero":        {"X-Amz-Expires=60", "X-Amz-Expires=060", "isn't a number"},
		"expiry beyond any number":  {"X-Amz-Expires=60", "X-Amz-Expires=99999999999999999999", "isn't a number"},
		"another action":            {"GetCallerIdentity", "AssumeRole", "isn't GetCallerIdentity"},
		"another version":           {"2011-06-15", "2011-06-16", "isn't GetCallerIdentity"},
		"the action twice":          {"Action=", "Action=GetCallerIdentity&Action=", "there twice"},
		"a case twin":               {"Action=", "action=AssumeRole&Action=", "doesn't have"},
		"an escaped name":           {"Action=", "%41ction=AssumeRole&Action=", "doesn't have"},
		"a further parameter":       {"Action=", "X=1&Action=", "doesn't have"},
		"a semicolon":               {"&Version", ";Version", "isn't escaped"},
		"an empty parameter":        {"&Version", "&&Version", "doesn't have"},
		"an escape that isn't one":  {"X-Amz-Expires=60", "X-Amz-Expires=60%gh", "isn't escaped"},
		"an escape that breaks off": {"X-Amz-Expires=60", "X-Amz-Expires=60%4", "isn't escaped"},
		"a needless escape":         {"X-Amz-Expires=60", "X-Amz-Expires=%360", "isn't escaped"},
		"a lower-case escape":       {"%2F", "%2f", "isn't escaped"},
		"expiry too long":           {"X-Amz-Expires=60", "X-Amz-Expires=901", "isn't a number"},
		"expiry far too long":       {"X-Amz-Expires=60", "X-Amz-Expires=9999999", "isn't a number"},
		"expiry of nothing":         {"X-Amz-Expires=60", "X-Amz-Expires=0", "isn't a number"},
		"expiry with a sign":        {"X-Amz-Expires=60", "X-Amz-Expires=%2B60", "isn't a number"},
		"no expiry":                 {"X-Amz-Expires=60&", "", "isn't a number"},
		"another algorithm":         {"AWS4-HMAC-SHA256", "AWS4", "algorithm"},
		"server ID unsigned":        {"host%3Bx-k8s-aws-id", "host", "signed headers aren't"},
		"another header signed":     {"x-k8s-aws-id", "x-k8s-aws-ie", "signed headers aren't"},
		"a token of nothing":        {"X-Amz-Security-Token=planted%2Fsession%2Btoken%3D%3D", "X-Amz-Security-Token=", "empty"},
		"1990":                      {"X-Amz-Date=20", "X-Amz-Date=19", "day of the scope"},
	} {
		changed := strings.Replace(url, c.from, c.to, 1)
		if changed == url {
			t.Errorf("%s: %q isn't in %s", name, c.from, url)
		}
		if _, err := parse(token(changed), nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %q", name, err, c.want)
		}
	}
}

func TestPresignedRequestsThatAreTaken(t *testing.T) {
	url := newSigning().presign(t)
	for name, c := range map[string]struct{ from, to string }{
		"the longest expiry":    {"X-Amz-Expires=60", "X-Amz-Expires=900"},
		"the shortest expiry":   {"X-Amz-Expires=60", "X-Amz-Expires=1"},
		"our server ID":         {"x-k8s-aws-id", headerServerID},
		"a user's own keys":     {"&X-Amz-Security-Token=planted%2Fsession%2Btoken%3D%3D", ""},
		"another order of them": {"Action=GetCallerIdentity&Version=2011-06-15", "Version=2011-06-15&Action=GetCallerIdentity"},
	} {
		changed := strings.Replace(url, c.from, c.to, 1)
		r, err := parse(token(changed), nil)
		if err != nil || changed == url && name != "another order of them" {
			t.Errorf("%s: %v", name, err)
			continue
		}
		req := r.build(t.Context(), serverID)
		_, query, _ := strings.Cut(changed, "?")
		want, got := strings.Split(query, "&"), strings.Split(req.URL.RawQuery, "&")
		slices.Sort(want)
		if slices.Sort(got); !slices.Equal(want, got) || req.Header.Get(r.signed[1]) != serverID || len(req.Header) != 3 {
			t.Errorf("%s: %q became %q with %v", name, want, got, req.Header)
		}
	}
}

// SigV4's UriEncode, byte by byte, and nothing but what it writes.
func TestEscape(t *testing.T) {
	for c := range 256 {
		text, want := string([]byte{byte(c)}), fmt.Sprintf("%%%02X", c)
		if strings.Contains("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", text) {
			want = text
		}
		if got := escape(text); got != want {
			t.Errorf("%q is escaped as %s", text, got)
		}
		if got, err := unescape(want); err != nil || got != text {
			t.Errorf("%s is %q, %v", want, got, err)
		}
	}
	for _, text := range []string{"%", "%2", "a%2", "%%2F", "%2f", "%0g", "%g0", "%0\n", "%41", "%7E", "a b", "a+b", "a/b", ";0A", "\x00", "\xff"} {
		if got, err := unescape(text); err == nil {
			t.Errorf("%q is taken, as %q", text, got)
		}
	}
}

// What is parsed can be built, and what is built says nothing that wasn't checked.
func FuzzParse(f *testing.F) {
	s := newSigning()
	f.Add(encode(f, s.login(f)))
	f.Add(token(s.presign(f)))
	f.Fuzz(func(t *testing.T, proof string) {
		r, err := parse(proof, nil)
		if err != nil {
			return
		}
		req := r.build(t.Context(), serverID)
		if awsEndpoints[req.URL.Host] == nil || req.URL.Path != "/" || req.URL.User != nil || req.URL.Scheme != "https" {
			t.Errorf("%q leads to %s", proof, req.URL)
		}
		for name, values := range req.Header {
			if len(values) != 1 || !printable(values[0]) {
				t.Errorf("%q: %s: %q", proof, name, values)
			}
		}
	})
}
