package iam_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/policy/iam"
)

// statement wraps one statement's JSON into a policy.
func statement(s string) string { return `{"Version":"2012-10-17","Statement":[` + s + `]}` }

func parse(t testing.TB, text string) iam.Document {
	t.Helper()
	doc, err := iam.ParseTemplate(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return doc
}

func TestParseRendersTheCanonicalForm(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"single values become lists, Sid goes": {
			`{"Statement":{"Resource":"arn:aws:s3:::b/*","Action":"s3:GetObject","Sid":"Read 1","Effect":"Allow"},"Version":"2012-10-17"}`,
			statement(`{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::b/*"]}`),
		},
		"sorted, without duplicates": {
			statement(`{"Effect":"Deny","Action":["s3:b","s3:a","s3:b"],"Resource":["arn:aws:s3:::y","arn:aws:s3:::x"],
				"Condition":{"StringLike":{"s3:prefix":["b","a","a"],"aws:Referer":"x"},"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}}`),
			statement(`{"Effect":"Deny","Action":["s3:a","s3:b"],"Resource":["arn:aws:s3:::x","arn:aws:s3:::y"],` +
				`"Condition":{"IpAddress":{"aws:SourceIp":["10.0.0.0/8"]},"StringLike":{"aws:Referer":["x"],"s3:prefix":["a","b"]}}}`),
		},
		"statements keep their order": {
			statement(`{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::b"},{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::a"}`),
			statement(`{"Effect":"Deny","Action":["s3:*"],"Resource":["arn:aws:s3:::b"]},{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::a"]}`),
		},
		"escapes are read, then written anew": {
			statement(`{"Effect":"\u0041llow","Action":"s3:Get\u004fbject","Resource":"arn:aws:s3:::b\/\"\u00e9<"}`),
			statement(`{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::b/\"é<"]}`),
		},
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := iam.Parse(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := doc.String(); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	const ok = `"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b"`
	for name, tc := range map[string]struct{ in, want string }{
		"nothing":                 {``, "not valid JSON"},
		"broken JSON":             {`{"Version":`, "not valid JSON"},
		"trailing data":           {statement(`{`+ok+`}`) + `{}`, "not valid JSON"},
		"a list":                  {`[]`, "expected an object"},
		"null":                    {`null`, "expected an object"},
		"deep nesting":            {strings.Repeat("[", 15_000), "not valid JSON"},
		"invalid UTF-8":           {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b` + "\xff" + `"}`), "not valid JSON"},
		"duplicate name":          {statement(`{"Effect":"Deny",` + ok + `}`), "stands there already"},
		"duplicate after escape":  {statement(`{"\u0045ffect":"Deny",` + ok + `}`), "stands there already"},
		"no version":              {`{"Statement":{` + ok + `}}`, "Version"},
		"old version":             {`{"Version":"2008-10-17","Statement":{` + ok + `}}`, "Version"},
		"version of a wrong type": {`{"Version":20121017,"Statement":{` + ok + `}}`, "Version"},
		"unknown top name":        {`{"Version":"2012-10-17","Id":"x","Statement":{` + ok + `}}`, `"Id" is not allowed`},
		"name in another case":    {`{"version":"2012-10-17","Statement":{` + ok + `}}`, `"version" is not allowed`},
		"no statement":            {`{"Version":"2012-10-17"}`, "expected an object"},
		"empty statements":        {statement(``), "0 of them"},
		"statement of a string":   {statement(`"x"`), "Statement[0]: expected an object"},
		"null statement":          {statement(`null`), "Statement[0]: expected an object"},
		"unknown name":            {statement(`{` + ok + `,"Principle":"*"}`), `"Principle" is not allowed`},
		"NotAction":               {statement(`{"Effect":"Allow","NotAction":"s3:GetObject","Resource":"arn:aws:s3:::b"}`), `"NotAction" is not allowed`},
		"NotAction beside":        {statement(`{` + ok + `,"NotAction":"s3:GetObject"}`), `"NotAction" is not allowed`},
		"NotResource":             {statement(`{` + ok + `,"NotResource":"arn:aws:s3:::c"}`), `"NotResource" is not allowed`},
		"Principal":               {statement(`{` + ok + `,"Principal":"*"}`), `"Principal" is not allowed`},
		"NotPrincipal":            {statement(`{` + ok + `,"NotPrincipal":"*"}`), `"NotPrincipal" is not allowed`},
		"no effect":               {statement(`{"Action":"s3:GetObject","Resource":"arn:aws:s3:::b"}`), "Effect"},
		"effect in lower case":    {statement(`{"Effect":"allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b"}`), "Effect"},
		"no action":               {statement(`{"Effect":"Allow","Resource":"arn:aws:s3:::b"}`), "Action: expected a string"},
		"no actions":              {statement(`{"Effect":"Allow","Action":[],"Resource":"arn:aws:s3:::b"}`), "Action: 0 of them"},
		"null in actions":         {statement(`{"Effect":"Allow","Action":[null],"Resource":"arn:aws:s3:::b"}`), "Action: expected a string"},
		"number as action":        {statement(`{"Effect":"Allow","Action":1,"Resource":"arn:aws:s3:::b"}`), "Action: expected a string"},
		"bare star action":        {statement(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b"}`), "does not match"},
		"action of MinIO's admin": {statement(`{"Effect":"Allow","Action":"admin:*","Resource":"arn:aws:s3:::b"}`), "does not match"},
		"wildcard in the service": {statement(`{"Effect":"Allow","Action":"?3:*","Resource":"arn:aws:s3:::b"}`), "does not match"},
		"service in upper case":   {statement(`{"Effect":"Allow","Action":"S3:GetObject","Resource":"arn:aws:s3:::b"}`), "does not match"},
		"look-alike action":       {statement(`{"Effect":"Allow","Action":"s3:GetОbject","Resource":"arn:aws:s3:::b"}`), "does not match"},
		"action with a line end":  {statement(`{"Effect":"Allow","Action":"s3:GetObject\n","Resource":"arn:aws:s3:::b"}`), "does not match"},
		"no resource":             {statement(`{"Effect":"Allow","Action":"s3:GetObject"}`), "Resource: expected a string"},
		"bare star resource":      {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}`), "Resource"},
		"empty ARN":               {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::"}`), "Resource"},
		"ARN with a slash first":  {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::/b"}`), "Resource"},
		"ARN of KMS":              {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:minio:kms:::k"}`), "Resource"},
		"ARN in upper case":       {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"ARN:aws:s3:::b"}`), "Resource"},
		"NUL in a resource":       {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b\u0000"}`), "control"},
		"DEL in a resource":       {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b\u007f"}`), "control"},
		"unit separator":          {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b\u001f"}`), "control"},
		"five stars":              {statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::*a*b*c*d*"}`), `more than 4 "*"`},
		"Sid of a number":         {statement(`{` + ok + `,"Sid":1}`), "Sid"},
		"Sid with a placeholder":  {statement(`{` + ok + `,"Sid":"{{subject}}"}`), "Sid"},
		"null condition":          {statement(`{` + ok + `,"Condition":null}`), "Condition"},
		"empty condition":         {statement(`{` + ok + `,"Condition":{}}`), "Condition"},
		"empty operator":          {statement(`{` + ok + `,"Condition":{"StringLike":{}}}`), "Condition.StringLike"},
		"operator with a space":   {statement(`{` + ok + `,"Condition":{"String Like":{"a":"b"}}}`), "does not match"},
		"key with a placeholder":  {statement(`{` + ok + `,"Condition":{"StringLike":{"{{subject}}":"b"}}}`), "does not match"},
		"condition value bool":    {statement(`{` + ok + `,"Condition":{"Bool":{"aws:SecureTransport":true}}}`), "expected a string"},
		"condition values none":   {statement(`{` + ok + `,"Condition":{"Bool":{"aws:SecureTransport":[]}}}`), "0 of them"},
		"condition control":       {statement(`{` + ok + `,"Condition":{"StringLike":{"s3:prefix":"\u0007"}}}`), "control"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, parse := range []func(string) (iam.Document, error){iam.Parse, iam.ParseTemplate} {
				doc, err := parse(tc.in)
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, %v; want an error that says %q", doc, err, tc.want)
				}
			}
		})
	}
}

func TestParseRefusesVariablesOfACaller(t *testing.T) {
	for name, text := range map[string]string{
		"in a resource": statement(`{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::home/${aws:username}/*"}`),
		"escaped":       statement(`{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::home/\u0024{aws:username}/*"}`),
		"in a condition": statement(`{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::b",
			"Condition":{"StringLike":{"s3:prefix":"${jwt:sub}"}}}`),
	} {
		if _, err := iam.Parse(text); err == nil || !strings.Contains(err.Error(), "variables are not allowed") {
			t.Errorf("%s: Parse: %v", name, err)
		}
		if _, err := iam.ParseTemplate(text); err != nil {
			t.Errorf("%s: ParseTemplate: %v", name, err)
		}
	}
}

func TestParseBoundaries(t *testing.T) {
	list := func(n int, item string) string {
		items := make([]string, n)
		for i := range items {
			items[i] = fmt.Sprintf(item, i)
		}
		return strings.Join(items, ",")
	}
	const allow = `"Effect":"Allow","Action":"s3:GetObject","Resource":`
	pad := func(n int) string {
		doc := statement(`{` + allow + `"arn:aws:s3:::b"}`)
		return doc + strings.Repeat(" ", n-len(doc))
	}
	for name, tc := range map[string]struct {
		good, bad string
	}{
		"bytes":      {pad(iam.MaxBytes), pad(iam.MaxBytes + 1)},
		"statements": {statement(list(64, `{`+allow+`"arn:aws:s3:::b%d"}`)), statement(list(65, `{`+allow+`"arn:aws:s3:::b%d"}`))},
		"resources": {
			statement(`{` + allow + `[` + list(64, `"arn:aws:s3:::b%d"`) + `]}`),
			statement(`{` + allow + `[` + list(65, `"arn:aws:s3:::b%d"`) + `]}`),
		},
		"stars": {statement(`{` + allow + `"arn:aws:s3:::a*b*c*d*"}`), statement(`{` + allow + `"arn:aws:s3:::a*b*c*d**"}`)},
		"action length": {
			statement(`{"Effect":"Deny","Action":"s3:` + strings.Repeat("a", 64) + `","Resource":"arn:aws:s3:::b"}`),
			statement(`{"Effect":"Deny","Action":"s3:` + strings.Repeat("a", 65) + `","Resource":"arn:aws:s3:::b"}`),
		},
		"operators": {
			statement(`{` + allow + `"arn:aws:s3:::b","Condition":{` + operators(64) + `}}`),
			statement(`{` + allow + `"arn:aws:s3:::b","Condition":{` + operators(65) + `}}`),
		},
		"one byte resource": {statement(`{` + allow + `"arn:aws:s3:::b"}`), statement(`{` + allow + `"arn:aws:s3:::"}`)},
		"space":             {statement(`{` + allow + `"arn:aws:s3:::b "}`), statement(`{` + allow + `"arn:aws:s3:::b\u001f"}`)},
	} {
		if _, err := iam.Parse(tc.good); err != nil {
			t.Errorf("%s: just within: %v", name, err)
		}
		_, err := iam.Parse(tc.bad)
		if err == nil {
			t.Errorf("%s: just beyond: no error", name)
		}
		if tooLarge := errors.Is(err, iam.ErrTooLarge); tooLarge != (name == "bytes") {
			t.Errorf("%s: ErrTooLarge: %t", name, tooLarge)
		}
	}
}

// operators makes n distinct condition operators.
func operators(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"Op%c%c":{"k":"v"}`, 'a'+i/26, 'a'+i%26)
	}
	return b.String()
}

func TestParseErrorsRepeatLittleOfTheText(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, text := range []string{
		`{"` + long + `":1}`,
		`{"` + long + `":1,"` + long + `":1}`,
		statement(`{"Effect":"` + long + `"}`),
		statement(`{"Effect":"Allow","Action":"` + long + `"}`),
		statement(`{"Effect":"Allow","Action":"s3:*","Resource":"` + long + `"}`),
		statement(`{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::b","Condition":{"` + long + `":{}}}`),
		long,
	} {
		_, err := iam.Parse(text)
		if err == nil || strings.Contains(err.Error(), strings.Repeat("x", 64)) {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}

func TestParseErrorsQuoteShortNamesWhole(t *testing.T) {
	for n, want := range map[int]string{40: `"` + strings.Repeat("x", 40) + `" is`, 41: `"` + strings.Repeat("x", 40) + `"... is`} {
		if _, err := iam.Parse(`{"` + strings.Repeat("x", n) + `":1}`); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestReplaceTouchesResourcesAndConditionValuesAlone(t *testing.T) {
	doc := parse(t, statement(`{"Effect":"Allow","Action":"s3:GetObject","Resource":["arn:aws:s3:::b","arn:aws:s3:::a"],
		"Condition":{"StringLike":{"s3:prefix":["b","a"]}}}`))
	before := doc.String()
	got, err := doc.Replace(func(s string) (string, error) { return "same", nil })
	want := statement(`{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["same"],"Condition":{"StringLike":{"s3:prefix":["same"]}}}`)
	if err != nil || got.String() != want {
		t.Errorf("got %s, %v", got, err)
	}
	if doc.String() != before {
		t.Error("the original changed")
	}
	fail := errors.New("no")
	for _, at := range []string{"arn:aws:s3:::b", "b"} {
		_, err = doc.Replace(func(s string) (string, error) {
			if s == at {
				return "", fail
			}
			return s, nil
		})
		if !errors.Is(err, fail) {
			t.Errorf("failing at %q: %v", at, err)
		}
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add(statement(`{"Effect":"Allow","Action":["s3:GetObject","s3:Put*"],"Resource":"arn:aws:s3:::b/?*"}`))
	f.Add(statement(`{"Sid":"x","Effect":"Deny","Action":"s3:*","Resource":["arn:aws:s3:::b"],"Condition":{"StringLike":{"s3:prefix":["a","${jwt:sub}"]}}}`))
	f.Add(statement(`{"Effect":"Allow","NotAction":"s3:GetObject","Resource":"arn:aws:s3:::b"}`))
	f.Add(`{"Version":"2012-10-17","Version":"2008-10-17"}`)
	f.Fuzz(func(t *testing.T, text string) {
		doc, err := iam.ParseTemplate(text)
		if _, callerErr := iam.Parse(text); callerErr == nil && err != nil {
			t.Fatal("a caller's policy may hold more than a template")
		}
		if err != nil {
			return
		}
		again, err := iam.ParseTemplate(doc.String())
		if err != nil {
			t.Fatalf("%s does not parse: %v", doc, err)
		}
		if again.String() != doc.String() {
			t.Errorf("rendered %s, then %s", doc, again)
		}
		if err := iam.Contains(doc, again); err != nil {
			t.Errorf("a policy does not contain itself: %v", err)
		}
	})
}
