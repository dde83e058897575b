package server

import (
	"encoding/json"
	"errors"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
)

// FuzzDecodeIssue holds the decoder of POST /v1/credentials against encoding/json: what it takes means the same there, and
// every refusal is one of the request's form.
func FuzzDecodeIssue(f *testing.F) {
	for _, seed := range []string{
		`{"role":"reports","policy":"{}","ttl_seconds":900,"jwt":"a.b.c"}`, `{"role":"a","role":"b"}`, `{"role":"a","r\u006fle":"b"}`,
		`{"role":"a","aws_proof":"k8s-aws-v1.a"}`, `{"role":"a","aws_proof":"k8s-aws-v1.a","jwt":"a.b.c"}`, `{"Role":"a"}`, `{"role":"a","ttl_seconds":"3600s"}`, `{"role":"a","ttl_seconds":1e3}`, `{"role":"a","ttl_seconds":-0}`,
		`{"role":"a","ttl_seconds":1000000000}`, `{"role":"../../sys/seal"}`, `{"role":"a\u0000b"}`, `{"role":"\ud800"}`, `{"role":"a"}{}`, `[[[[[[[[`, "{\"role\":\"\xff\"}", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := decodeIssue(data)
		if err != nil {
			if !errors.Is(err, broker.ErrInvalidRequest) || b != (body{}) {
				t.Fatalf("%v, %+v", err, b)
			}
			return
		}
		var want struct {
			Role   string `json:"role"`
			Policy string `json:"policy"`
			TTL    *int64 `json:"ttl_seconds"`
			Token  string `json:"jwt"`
			AWS    string `json:"aws_proof"`
			Actor  *struct {
				Token string `json:"jwt"`
				AWS   string `json:"aws_proof"`
				Peer  bool   `json:"peer_certificate"`
			} `json:"actor"`
		}
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("taken, and not JSON: %v", err)
		}
		ttl := time.Duration(0)
		if want.TTL != nil {
			ttl = time.Duration(*want.TTL) * time.Second
		}
		var proof attest.Proof
		if b.proof != nil {
			proof = *b.proof
		}
		if b.role != want.Role || b.role == "" || b.policy != want.Policy || b.ttl != ttl || proof.Data.Reveal() != want.Token+want.AWS || want.TTL != nil && ttl < time.Second {
			t.Fatalf("%+v, want %+v", b, want)
		}
		if (b.actor == nil) != (want.Actor == nil) ||
			b.actor != nil && (b.actor.peer != want.Actor.Peer || b.actor.proof.Data.Reveal() != want.Actor.Token+want.Actor.AWS) {
			t.Fatalf("actor %+v, want %+v", b.actor, want.Actor)
		}
	})
}

// FuzzParseForm holds the reader of forms against net/url: what it takes means the same there, with every name once.
func FuzzParseForm(f *testing.F) {
	for _, seed := range []string{
		webIdentity, tokenExchange, "", "a=b&a=c", "a=b&%61=c", "a=b;c=d", "a=%gh", "a=%", "=a", "a", "a=b&", "&a=b", "a=+%20%2B", "%00=%00", "a=\xff", "a=%ff", "a==b",
		"Action=GetCallerIdentity&Action=AssumeRole", strings.Repeat("a=b&", 100),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseForm(text)
		if err != nil {
			if !errors.Is(err, broker.ErrInvalidRequest) || got != nil {
				t.Fatalf("%v, %v", err, got)
			}
			return
		}
		want, err := url.ParseQuery(text)
		if err != nil || len(want) != len(got) || len(got) > maxParameters {
			t.Fatalf("%v: %v, want %v", err, got, want)
		}
		for name, values := range want {
			if len(values) != 1 || got[name] != values[0] || name == "" || !utf8.ValidString(name+values[0]) {
				t.Fatalf("%q: %v, want %v", name, got, want)
			}
		}
	})
}

// FuzzRoleNamed: what names a role is that role's name or its one ARN, and nothing else.
func FuzzRoleNamed(f *testing.F) {
	for _, seed := range []string{
		"reports", "arn:aws:iam::123456789012:role/reports", "arn:aws:iam::12345678901:role/reports", "arn:aws:iam::123456789012:user/reports", "arn:aws:iam::123456789012:role/a/b",
		"arn:aws-cn:iam::123456789012:role/reports", "arn:aws:iam::123456789012:role/", "arn:aws:iam::", "ARN:aws:iam::123456789012:role/reports", "../../sys/seal", "a%2fb", "a\x00b", "Reports", "", strings.Repeat("a", 4096),
		"arn:aws:iam::١٢٣٤٥٦:role/reports",
	} {
		f.Add(seed)
	}
	arn := regexp.MustCompile(`^(arn:aws:iam::[0-9]{12}:role/)?([a-z0-9][a-z0-9_-]{0,62})$`)
	f.Fuzz(func(t *testing.T, text string) {
		name, err := roleNamed(text)
		m := arn.FindStringSubmatch(text)
		if (err == nil) != (m != nil) || err == nil && name != m[2] || err != nil && (name != "" || !errors.Is(err, broker.ErrInvalidRequest)) {
			t.Fatalf("%q: %q, %v", text, name, err)
		}
	})
}
