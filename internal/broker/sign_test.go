package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/audit"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/s3"
)

func signingWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, func(c *broker.Config) {
		x := c.Exchangers["minio"]
		other := x
		x.S3 = s3.Target{Endpoints: []string{"https://minio", "https://edge"}, Region: "r-1"}
		other.S3 = s3.Target{Endpoints: []string{"https://other"}, Region: "r-1"}
		c.Exchangers = map[string]broker.Exchanger{"minio": x, "other": other, "none": {Exchanger: x.Exchanger, Target: "none"}}
	})
	role := func(name, exchanger, fallback string, operations ...string) policy.Role {
		return policy.Role{Name: name, Source: "f:" + name, When: `identity.subject == "alice"`, Exchanger: exchanger, Fallback: fallback, Policies: []string{"rw"}, Operations: operations}
	}
	rules, err := policy.Compile([]policy.Role{
		role("reader", "minio", "", "s3:GetObject"), role("writer", "minio", "", "s3:PutObject"), role("open", "minio", ""),
		role("nowhere", "none", "", "s3:GetObject"), role("elsewhere", "minio", "other", "s3:GetObject"),
	}, map[string]policy.Backend{"minio": honours, "other": honours, "none": honours})
	if err != nil {
		t.Fatal(err)
	}
	book := w.Rulebook()
	book.Rules = rules
	w.Replace(book)
	return w
}

func signing(token, role string, items ...broker.SignItem) broker.SignRequest {
	return broker.SignRequest{Request: ask(token, role), Items: items}
}

func item(method, key string, headers ...string) broker.SignItem {
	i := broker.SignItem{Input: s3.Input{Method: method, Bucket: "buck", Key: key, Headers: map[string]string{}}}
	for n := 0; n < len(headers); n += 2 {
		i.Headers[headers[n]] = headers[n+1]
	}
	return i
}

func TestSignIsAllOrNothing(t *testing.T) {
	w := signingWorld(t)
	get := item("GET", "a")
	elsewhere := get
	elsewhere.Endpoint = "https://evil"
	streamed := item("PUT", "a")
	streamed.PayloadHash = s3.StreamingTrailer
	presigned := signing("alice", "writer", streamed)
	presigned.Presign = true
	window := func(d time.Duration) broker.SignRequest {
		r := signing("alice", "reader", get)
		r.Window = d
		return r
	}
	for name, tc := range map[string]struct {
		req  broker.SignRequest
		want error
	}{
		"a bad proof":                    {signing("bad", "reader", get), attest.ErrRejected},
		"somebody else":                  {signing("bob", "reader", get), policy.ErrDenied},
		"no such role":                   {signing("alice", "nothing", get), policy.ErrDenied},
		"a role that bounds nothing":     {signing("alice", "open", get), policy.ErrDenied},
		"nowhere to sign for":            {signing("alice", "nowhere", get), policy.ErrDenied},
		"another place with a fall-back": {signing("alice", "elsewhere", get), policy.ErrDenied},
		"another operation":              {signing("alice", "reader", item("PUT", "a")), policy.ErrDenied},
		"the second of two":              {signing("alice", "reader", get, item("DELETE", "a")), policy.ErrDenied},
		"the source of a copy":           {signing("alice", "writer", item("PUT", "a", "x-amz-copy-source", "buck/b")), policy.ErrDenied},
		"the tags of a write":            {signing("alice", "writer", item("PUT", "a", "x-amz-tagging", "a=b")), policy.ErrDenied},
		"a key with dots":                {signing("alice", "reader", get, item("GET", "a/../b")), s3.ErrInvalid},
		"a foreign endpoint":             {signing("alice", "reader", elsewhere), s3.ErrInvalid},
		"no request of S3's":             {signing("alice", "reader", item("POST", "a")), s3.ErrUnsupported},
		"a streamed body, presigned":     {presigned, s3.ErrInvalid},
		"none":                           {signing("alice", "reader"), broker.ErrInvalidRequest},
		"17":                             {signing("alice", "reader", make([]broker.SignItem, 17)...), broker.ErrInvalidRequest},
		"61 seconds":                     {window(61 * time.Second), broker.ErrInvalidRequest},
		"half a second":                  {window(time.Second / 2), broker.ErrInvalidRequest},
		"a past one":                     {window(-time.Second), broker.ErrInvalidRequest},
		"one and a half":                 {window(1500 * time.Millisecond), broker.ErrInvalidRequest},
	} {
		got, err := w.Sign(context.Background(), tc.req)
		if !errors.Is(err, tc.want) || len(got.Requests) != 0 || got.AccessKeyID != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if last := w.audit.entries[len(w.audit.entries)-1]; last.Decision == audit.Allowed || last.AccessKeyID != "" {
			t.Errorf("%s: audited as %+v", name, last)
		}
	}
}

func TestSignSharesCredentialsAndIsAudited(t *testing.T) {
	w := signingWorld(t)
	issued, err := w.Issue(context.Background(), ask("alice", "reader"))
	if err != nil {
		t.Fatal(err)
	}
	edge := item("GET", "b")
	edge.Endpoint = "https://edge"
	got, err := w.Sign(context.Background(), signing("alice", "reader", item("GET", "a"), edge))
	if err != nil || got.AccessKeyID != issued.AccessKeyID || got.Role != "reader" || len(got.Requests) != 2 || got.Requests[0].URL != "https://minio/buck/a" || got.Requests[1].URL != "https://edge/buck/b" ||
		!got.Expires.Equal(w.now().Truncate(time.Second).Add(time.Minute)) || !strings.Contains(got.Requests[0].Headers["authorization"], "/r-1/s3/aws4_request") {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, s := range got.Requests {
		for _, text := range append([]string{s.URL}, s.Headers["authorization"], s.Headers["x-amz-date"]) {
			if strings.Contains(text, issued.SecretAccessKey.Reveal()) {
				t.Errorf("the secret key is in %s", text)
			}
		}
	}
	e := w.audit.entries[len(w.audit.entries)-1]
	if e.Event != "sign_request" || e.Decision != audit.Allowed || e.Result != "hit" || e.AccessKeyID != issued.AccessKeyID || !e.Expires.Equal(got.Expires) || e.Rule != "f:reader" || e.KongRequestID != "k1" ||
		len(e.Operations) != 2 || e.Operations[1] != (audit.Operation{Name: "GetObject", Bucket: "buck", Key: "b"}) {
		t.Errorf("%+v", e)
	}
}
