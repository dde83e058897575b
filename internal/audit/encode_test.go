package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/credbroker/credbroker/internal/attest"
)

var sample = Entry{
	Time: time.Date(2026, 11, 22, 13, 0, 0, 123456789, time.FixedZone("", 3600)), Event: "issue_credentials", Decision: Allowed,
	RequestID: "r1", KongRequestID: "k1", TraceParent: "00-a-b-01",
	Identity: &attest.Identity{
		Kind: attest.KindOIDC, Issuer: "https://idp", Tenant: "t", Subject: "alice", Attrs: map[string][]string{"groups": {"b", "a"}, "dept": {"x"}},
		Actor: &attest.Identity{Kind: attest.KindOIDC, Issuer: "https://idp", Subject: "gateway"},
	},
	ProofKind: attest.KindOIDC, ProofFingerprint: "fp", Role: "reports", Rule: "broker.yaml:4", RuleSet: "v1",
	AccessKeyID: "AK", Expires: time.Date(2026, 11, 22, 12, 15, 0, 0, time.UTC), Result: "mint", SourceAddress: "10.0.0.1", Latency: 1500 * time.Microsecond,
}

func TestEntryIsThisLine(t *testing.T) {
	const want = `{"time":"2026-11-22T12:00:00.123456Z","event":"issue_credentials","decision":"allowed","request_id":"r1","kong_request_id":"k1",` +
		`"traceparent":"00-a-b-01","identity":{"kind":"oidc","issuer":"https://idp","tenant":"t","subject":"alice","attrs":{"dept":["x"],"groups":["b","a"]},` +
		`"actor":{"kind":"oidc","issuer":"https://idp","subject":"gateway"}},"proof_kind":"oidc","proof_fingerprint":"fp","role":"reports",` +
		`"rule":"broker.yaml:4","rule_set":"v1","access_key_id":"AK","expires":"2026-11-22T12:15:00Z","result":"mint","source_address":"10.0.0.1","latency_us":1500}` + "\n"
	if got := string(appendEntry(nil, &sample)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEmptyFieldsAreLeftOutButForTheRequired(t *testing.T) {
	const want = `{"time":"0001-01-01T00:00:00.000000Z","event":"","decision":"","request_id":"","proof_kind":"","latency_us":0}` + "\n"
	if got := string(appendEntry(nil, &Entry{})); got != want {
		t.Errorf("got %s", got)
	}
}

func decode(t *testing.T, line []byte) map[string]any {
	t.Helper()
	if bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("\n")) {
		t.Fatalf("not one line: %q", line)
	}
	var m map[string]any
	if err := json.Unmarshal(line, &m); err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	return m
}

func TestALineIsBounded(t *testing.T) {
	e := sample
	attrs := map[string][]string{}
	for i := range 100 {
		attrs[fmt.Sprintf("a%03d", i)] = []string{strings.Repeat("é", 5000), "second"}
	}
	e.Identity = &attest.Identity{Subject: strings.Repeat("s", 5000), Attrs: attrs}
	m := decode(t, appendEntry(nil, &e))
	id := m["identity"].(map[string]any)
	if n := len(id["subject"].(string)); n != maxString {
		t.Errorf("subject of %d bytes", n)
	}
	values := 0
	for _, v := range id["attrs"].(map[string]any) {
		values += len(v.([]any))
	}
	if values != maxValues || m["truncated"] != true {
		t.Errorf("%d values, truncated %v", values, m["truncated"])
	}
}

func TestActorsAreBounded(t *testing.T) {
	id := &attest.Identity{Subject: "0"}
	for range 50 {
		id = &attest.Identity{Subject: "x", Actor: id}
	}
	line := appendEntry(nil, &Entry{Identity: id})
	if n := strings.Count(string(line), `"actor"`); n != maxActors || decode(t, line)["truncated"] != true {
		t.Errorf("%d actors: %s", n, line)
	}
}

func TestNothingInAStringEndsTheLineOrTheString(t *testing.T) {
	for _, s := range []string{"a\nb", "a\r\n", `"},{"`, `\`, "\x00\x1b[2J\x7f", "\u2028\u2029\u0085", "\xff\xfe", "a\xc3", "<script>"} {
		line := appendEntry(nil, &Entry{RequestID: s})
		if got := decode(t, line)["request_id"]; got != strings.ToValidUTF8(s, "\ufffd") && !strings.Contains(s, "\xff") {
			t.Errorf("%q became %q", s, got)
		}
		for _, c := range string(line[:len(line)-1]) {
			if c < ' ' || c == 0x7f || c == '\u2028' || c == '\u2029' || c == '\u0085' {
				t.Errorf("%q: %q is there as it is", s, c)
			}
		}
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("a", "b\n", "c\xff")
	f.Add("\u2028", `"`, strings.Repeat("x", 2000))
	f.Fuzz(func(t *testing.T, id, subject, value string) {
		line := appendEntry(nil, &Entry{RequestID: id, Identity: &attest.Identity{Subject: subject, Attrs: map[string][]string{"a": {value}}}})
		m := decode(t, line)
		if utf8.ValidString(id) && len(id) <= maxString && m["request_id"] != id {
			t.Errorf("%q became %q", id, m["request_id"])
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	b.ReportAllocs()
	buf := make([]byte, 0, 4096)
	for b.Loop() {
		buf = appendEntry(buf[:0], &sample)
	}
}
