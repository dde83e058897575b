package audit

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/attest"
)

var sample = Entry{
	Time: time.Date(2026, 11, 22, 13, 0, 0, 123456789, time.FixedZone("", 3600)), Event: "issue_credentials", Decision: Allowed,
	RequestID: "r1", KongRequestID: "k1", TraceParent: "00-a-b-01",
	Identity: &attest.Identity{
		Kind: attest.KindOIDC, Issuer: "https://idp", Tenant: "t", Subject: "alice", Session: "laptop", Attrs: map[string][]string{"groups": {"b", "a"}, "dept": {"x"}},
		Actor: &attest.Identity{Kind: attest.KindOIDC, Issuer: "https://idp", Subject: "gateway"},
	},
	ProofKind: attest.KindJWT, ProofFingerprint: "fp", Role: "reports", Rule: "broker.yaml:4", RuleSet: "v1",
	AccessKeyID: "AK", Expires: time.Date(2026, 11, 22, 12, 15, 0, 0, time.UTC), Result: "mint", Exchanger: "minio", SourceAddress: "10.0.0.1", Latency: 1500 * time.Microsecond,
}

func TestEntryIsThisLine(t *testing.T) {
	const want = `{"time":"2026-11-22T12:00:00.123456Z","event":"issue_credentials","decision":"allowed","request_id":"r1","kong_request_id":"k1",` +
		`"traceparent":"00-a-b-01","identity":{"kind":"oidc","issuer":"https://idp","tenant":"t","subject":"alice","session":"laptop","attrs":{"dept":["x"],"groups":["b","a"]},` +
		`"actor":{"kind":"oidc","issuer":"https://idp","subject":"gateway"}},"proof_kind":"jwt","proof_fingerprint":"fp","role":"reports",` +
		`"rule":"broker.yaml:4","rule_set":"v1","access_key_id":"AK","expires":"2026-11-22T12:15:00.000000Z","result":"mint","exchanger":"minio","source_address":"10.0.0.1","latency_us":1500}` + "\n"
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

// decode checks that line is exactly one line and strict JSON (UTF-8, no name twice), and returns the object.
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

func TestNothingInAStringEndsTheLineOrTheString(t *testing.T) {
	for s, want := range map[string]string{
		"a\nb\r":           `a\u000ab\u000d`,
		`"},{"\`:           `\"},{\"\\`,
		"\x00\x1b[2J\x1f":  `\u0000\u001b[2J\u001f`,
		" ~\x7f\u0080":     ` ~\u007f\u0080`,
		"\u2028\u2029":     `\u2028\u2029`,
		"\u0085\u009b1m":   `\u0085\u009b1m`,     // C1 controls: a new line, and CSI
		"a\u202eb\u200b":   `a\u202eb\u200b`,     // right-to-left override, zero-width space
		"\U000e0041\uffff": `\udb40\udc41\uffff`, // a tag character: invisible
		"\xff\xfe":         `\ufffd\ufffd`,
		"a\xc3":            `a\ufffd`,
		"\ufffd":           "\ufffd",
		"<script>é語😀":      "<script>é語😀",
	} {
		if got := string(appendEntry(nil, &Entry{RequestID: s})); !strings.Contains(got, `"request_id":"`+want+`",`) {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
}

func TestAStringIsCutWithoutBreakingACharacter(t *testing.T) {
	for _, c := range []struct {
		in   string
		kept int // bytes of in
	}{
		{strings.Repeat("a", maxString), maxString},
		{strings.Repeat("a", maxString+1), maxString},
		{strings.Repeat("a", maxString-1) + "é", maxString - 1},
		{strings.Repeat("a", maxString-2) + "é" + "x", maxString},
		{strings.Repeat("a", maxString-3) + "😀", maxString - 3},
		{strings.Repeat("a", maxString-2) + "\xf0\x80\x80\x80\x80", maxString - 2},
		{strings.Repeat("\x80", maxString+9), maxString},
		{strings.Repeat("\xff", maxString+9), maxString},
	} {
		m := decode(t, appendEntry(nil, &Entry{Code: c.in}))
		if want := string([]rune(c.in[:c.kept])); m["code"] != want {
			t.Errorf("%d bytes: got %d, want %d", len(c.in), len(m["code"].(string)), len(want))
		}
		if cut := len(c.in) > c.kept; (m["truncated"] == true) != cut {
			t.Errorf("%d bytes: truncated is %v", len(c.in), m["truncated"])
		}
	}
}

// attrsOf counts attribute names and values of an identity and its actors.
func attrsOf(identity any) (names, values int) {
	id, ok := identity.(map[string]any)
	if !ok {
		return 0, 0
	}
	names, values = attrsOf(id["actor"])
	attrs, _ := id["attrs"].(map[string]any)
	for _, v := range attrs {
		names++
		values += len(v.([]any))
	}
	return names, values
}

func TestAttributesAreBoundedTogether(t *testing.T) {
	list := func(n int) []string { return slices.Repeat([]string{"v"}, n) }
	long := strings.Repeat("v", maxString)
	fill := maxAttrBytes/maxString - 1 // values of maxString bytes that leave maxString bytes for the rest
	for name, c := range map[string]struct {
		identity      attest.Identity
		names, values int
		truncated     bool
	}{
		"as many as there may be": {attest.Identity{Attrs: map[string][]string{"a": list(maxAttrs - 1)}}, 1, maxAttrs - 1, false},
		"one value too many":      {attest.Identity{Attrs: map[string][]string{"a": list(maxAttrs)}}, 1, maxAttrs - 1, true},
		"no room for a name":      {attest.Identity{Attrs: map[string][]string{"a": list(maxAttrs - 1), "b": nil}}, 1, maxAttrs - 1, true},
		"the actor's count too": {attest.Identity{
			Attrs: map[string][]string{"a": list(40)}, Actor: &attest.Identity{Attrs: map[string][]string{"a": list(40)}},
		}, 2, maxAttrs - 2, true},
		"as many bytes as there may be": {attest.Identity{Attrs: map[string][]string{"aa": append(slices.Repeat([]string{long}, fill), long[2:])}}, 1, fill + 1, false},
		"a byte too many":               {attest.Identity{Attrs: map[string][]string{"aa": append(slices.Repeat([]string{long}, fill), long[1:])}}, 1, fill, true},
		"nothing after what was cut":    {attest.Identity{Attrs: map[string][]string{"a": slices.Repeat([]string{long}, fill+2), "b": {"v"}}}, 1, fill, true},
	} {
		m := decode(t, appendEntry(nil, &Entry{Identity: &c.identity}))
		if names, values := attrsOf(m["identity"]); names != c.names || values != c.values || (m["truncated"] == true) != c.truncated {
			t.Errorf("%s: %d names, %d values, truncated %v; want %d, %d, %v", name, names, values, m["truncated"], c.names, c.values, c.truncated)
		}
	}
}

func TestActorsAreBounded(t *testing.T) {
	id := &attest.Identity{Subject: "0"}
	for n := 1; n <= maxActors+1; n++ {
		id = &attest.Identity{Subject: "x", Actor: id}
		line := appendEntry(nil, &Entry{Identity: id})
		m := decode(t, line)
		if got := strings.Count(string(line), `"actor"`); got != min(n, maxActors) || (m["truncated"] == true) != (n > maxActors) {
			t.Errorf("of %d actors: %d, truncated %v", n, got, m["truncated"])
		}
	}
}

func TestALineIsBounded(t *testing.T) {
	huge := strings.Repeat("\x00", 1<<20)
	var id *attest.Identity
	for range 50 {
		attrs := map[string][]string{}
		for i := range 200 {
			attrs[fmt.Sprint(i)] = []string{huge, huge}
		}
		id = &attest.Identity{Kind: attest.Kind(huge), Issuer: huge, Tenant: huge, Subject: huge, Attrs: attrs, Actor: id}
	}
	line := appendEntry(nil, &Entry{
		Event: huge, Decision: Decision(huge), Code: huge, RequestID: huge, KongRequestID: huge, TraceParent: huge, Identity: id,
		ProofKind: attest.Kind(huge), ProofFingerprint: huge, Role: huge, Rule: huge, RuleSet: huge, AccessKeyID: huge, Result: huge, SourceAddress: huge,
	})
	decode(t, line)
	if len(line) > 320<<10 {
		t.Errorf("a line of %d bytes", len(line))
	}
}

func TestEncodingAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = appendEntry(buf[:0], &sample) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("a", "b\n", "c\xff", "groups", int64(1500))
	f.Add("\u2028\u202e", `"`, strings.Repeat("x", 2000), "", int64(-1))
	f.Add("\U000e0041\U0010ffff", "\x7f\x00", strings.Repeat("é", 600), "\\", int64(1)<<62)
	f.Fuzz(func(t *testing.T, id, subject, value, name string, latency int64) {
		line := appendEntry(nil, &Entry{
			RequestID: id, SourceAddress: subject, Latency: time.Duration(latency),
			Identity: &attest.Identity{Subject: subject, Attrs: map[string][]string{name: {value, id}}},
		})
		m := decode(t, line)
		identity := m["identity"].(map[string]any)
		same := func(field, in string, got any) {
			t.Helper()
			// What isn't UTF-8 is replaced byte by byte, as a conversion to runes does.
			whole, text := string([]rune(in)), got.(string)
			if len(in) <= maxString && text != whole || len(in) > maxString && (!strings.HasPrefix(whole, text) || m["truncated"] != true) {
				t.Errorf("%s: %q became %q", field, in, text)
			}
		}
		same("request_id", id, m["request_id"])
		same("subject", subject, identity["subject"])
		for key, list := range identity["attrs"].(map[string]any) {
			same("name", name, key)
			same("value", value, list.([]any)[0])
			same("value", id, list.([]any)[1])
		}
		for _, r := range string(line[:len(line)-1]) {
			if !unicode.IsPrint(r) {
				t.Errorf("%U is there as it is: %q", r, line)
			}
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
