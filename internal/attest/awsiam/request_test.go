package awsiam

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
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
	want := []string{"content-length", "content-type", "x-amz-date", "x-amz-security-token", headerNonce, headerServerID}
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
	req, err := r.build(t.Context(), serverID)
	if err != nil {
		t.Fatal(err)
	}
	headers, err := parseHeaders(s.login(t)["headers"])
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		if name != "content-length" && req.Header.Get(name) != value {
			t.Errorf("%s: %q became %q", name, value, req.Header.Get(name))
		}
	}
	if req.Method != http.MethodPost || req.URL.String() != "https://sts.eu-west-1.amazonaws.com/" || req.ContentLength != int64(len(postBody)) {
		t.Errorf("%s %s of %d bytes", req.Method, req.URL, req.ContentLength)
	}
	url := s.presign(t)
	if r, err = parse(token(url), nil); err != nil {
		t.Fatal(err)
	}
	if req, err = r.build(t.Context(), serverID); err != nil {
		t.Fatal(err)
	}
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
	capitals := func(in map[string]string) {
		before, signature, _ := strings.Cut(in["headers"], "Signature=")
		in["headers"] = before + "Signature=F" + signature[1:]
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
		"a value that isn't ASCII":      {header("User-Agent", "é"), "printable"},
		"a value of two types":          {swap("headers", `["n1"]`, `["n1",1]`), "one value"},
		"a value in a list that is one": {swap("headers", `["n1"]`, `[1]`), "one value"},
		"a scope of six parts":          {swap("headers", "/aws4_request", "/aws4_request/x"), "scope isn't"},
		"a scope of another end":        {swap("headers", "/aws4_request", "/aws5_request"), "scope isn't"},
		"an access key ID that isn't":   {swap("headers", "Credential=", "Credential=a"), "access key ID"},
		"a scope's day that isn't":      {swap("headers", s.at.Format("20060102")+"/", "2026x101/"), "isn't YYYYMMDD"},
		"no space before the headers":   {swap("headers", ", SignedHeaders=", ",SignedHeaders="), "isn't one of AWS4"},
		"no space before the signature": {swap("headers", ", Signature=", ",Signature="), "isn't one of AWS4"},
		"a signature in capitals":       {capitals, "64 hexadecimal"},
		"parts of a second":             {swap("headers", s.at.Format(dateLayout), s.at.Format("20060102T150405")+".5Z"), "isn't YYYYMMDD"},
		"two values":                    {swap("headers", `["n1"]`, `["n1","n2"]`), "hasn't one value"},
		"no value":                      {swap("headers", `["n1"]`, `[]`), "one value"},
		"a number":                      {swap("headers", `["n1"]`, `1`), "one value that is text"},
		"a duplicate member":            {swap("headers", "{", `{"X-Amz-Date":["x"],`), "isn't a JSON object"},
		"no server ID":                  {swap("headers", `"X-Credbroker-Server-Id":["broker.example"]`, `"User-Agent":["x"]`), "signed and not there"},
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
		"a short signature":             {swap("headers", "Signature=", "Signature=0"), "64 hexadecimal"},
		"an upper-case signature":       {swap("headers", "Signature=", "Signature=A"), "64 hexadecimal"},
		"a date of another form":        {swap("headers", s.at.Format(dateLayout), s.at.Format(time.RFC3339)), "isn't YYYYMMDD"},
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

// What signers leave out, or add, is taken as well.
func TestLoginDataOfOtherSigners(t *testing.T) {
	s := newSigning()
	for name, change := range map[string]func(headers string) string{
		"the host among the headers": func(h string) string { return strings.Replace(h, "{", `{"Host":["sts.eu-west-1.amazonaws.com"],`, 1) },
		"the length not signed":      func(h string) string { return strings.Replace(h, "SignedHeaders=content-length;", "SignedHeaders=", 1) },
		"values that are no lists":   func(h string) string { return strings.Replace(h, `["n1"]`, `"n1"`, 1) },
		"no type": func(h string) string {
			h = strings.Replace(h, `"Content-Type":["application/x-www-form-urlencoded; charset=utf-8"],`, "", 1)
			return strings.Replace(h, "content-type;", "", 1)
		},
	} {
		in := s.login(t)
		changed := change(in["headers"])
		if changed == in["headers"] {
			t.Errorf("%s: nothing changed in %s", name, changed)
		}
		in["headers"] = changed
		if _, err := parse(encode(t, in), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := parse(token(strings.ReplaceAll(s.presign(t), "x-k8s-aws-id", headerServerID)), nil)
	if err != nil || !slices.Equal(r.signed, []string{"host", headerServerID}) {
		t.Errorf("presigned with our own header: %v", err)
	}
}

func TestHeadersThatAreNoObject(t *testing.T) {
	for _, text := range []string{
		"", "null", `"Host"`, `["Host","sts.amazonaws.com"]`, `{"Host":["a"]`, `{"Host":["a"]}{}`, `{"Host":["a"]} x`, `{"Host":["a"],"Host":["b"]}`, `{"Host":["a"],}`, `{"Host":["a"],1}`, "{",
	} {
		if got, err := parseHeaders(text); err == nil || err.Error() != "iam_request_headers isn't a JSON object" {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{`{"Host":`, `{"Host":[`, `{"Host":["a"`, `{"Host":["a","b"]}`, `{"Host":null}`, `{"Host":[null]}`, `{"Host":[["a"]]}`, `{"Host":{"a":"b"}}`, `{"Host":[]}`} {
		if got, err := parseHeaders(text); err == nil || !strings.Contains(err.Error(), "hasn't one value that is text") {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestEscape(t *testing.T) {
	if got := escape("AZaz09-._~@[`{/:% "); got != "AZaz09-._~%40%5B%60%7B%2F%3A%25%20" {
		t.Error(got)
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
	for name, proof := range map[string]string{
		"empty":                     "",
		"text":                      "hello",
		"too large":                 sound + strings.Repeat(" ", maxProof),
		"a list":                    "[" + sound + "]",
		"a further member":          strings.Replace(sound, "{", `{"role":"x",`, 1),
		"a member twice":            strings.Replace(sound, "{", `{"iam_http_request_method":"POST",`, 1),
		"a member in another case":  strings.Replace(sound, "iam_request_url", "IAM_request_url", 1),
		"data after it":             sound + "{}",
		"base64 with a line end":    strings.Replace(sound, `"iam_request_body":"`, `"iam_request_body":"\n`, 1),
		"base64 without padding":    strings.Replace(sound, `==","iam_request_headers`, `","iam_request_headers`, 1),
		"base64 of the other sort":  strings.Replace(sound, `"iam_request_body":"`, `"iam_request_body":"-_`, 1),
		"a token with padding":      token(url) + "=",
		"a token of another prefix": "k8s-aws-v2." + token(url)[len(presignedPrefix):],
		"a token in a token":        presignedPrefix + token(url),
	} {
		if _, err := parse(proof, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, field := range []string{"url", "body", "headers"} {
		name := "iam_request_" + field
		broken := strings.Replace(sound, `"`+name+`":"`, `"`+name+`":"!`, 1)
		if _, err := parse(broken, nil); err == nil || err.Error() != name+" isn't base64" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{"a line end in it": "aHR0\ncHM", "a line end behind it": token(url)[len(presignedPrefix):] + "\n", "bits too many": "YR"} {
		if _, err := parse(presignedPrefix+text, nil); err == nil || !strings.Contains(err.Error(), "isn't base64url") {
			t.Errorf("a token with %s: %v", name, err)
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
		"another action":            {"GetCallerIdentity", "AssumeRole", "isn't GetCallerIdentity"},
		"another version":           {"2011-06-15", "2011-06-16", "isn't GetCallerIdentity"},
		"the action twice":          {"Action=", "Action=GetCallerIdentity&Action=", "there twice"},
		"a case twin":               {"Action=", "action=AssumeRole&Action=", "doesn't have"},
		"an escaped name":           {"Action=", "%41ction=AssumeRole&Action=", "doesn't have"},
		"a further parameter":       {"Action=", "X=1&Action=", "doesn't have"},
		"a semicolon":               {"&Version", ";Version", "isn't escaped"},
		"an empty parameter":        {"&Version", "&&Version", "doesn't have"},
		"an escape that isn't one":  {"X-Amz-Expires=60", "X-Amz-Expires=60%gh", "isn't %XX"},
		"an escape that breaks off": {"X-Amz-Expires=60", "X-Amz-Expires=60%4", "breaks off"},
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
		"a parameter without value": {"X-Amz-Expires=60", "X-Amz-Expires", "doesn't have"},
		"another service":           {"%2Fsts%2F", "%2Fs3%2F", "scope isn't"},
		"a token that isn't ASCII":  {"X-Amz-Security-Token=planted", "X-Amz-Security-Token=%C3%A9", "not printable"},
		"expiry beyond all numbers": {"X-Amz-Expires=60", "X-Amz-Expires=99999999999999999999", "isn't a number"},
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
		req, err := r.build(t.Context(), serverID)
		if err != nil {
			t.Fatalf("%q: %v", proof, err)
		}
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
