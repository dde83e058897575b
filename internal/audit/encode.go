package audit

import (
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/credbroker/credbroker/internal/attest"
)

// Bounds of one line. What lies beyond is cut, and the line says so with "truncated":true.
const (
	maxString    = 1024     // bytes of one string, before escaping
	maxAttrs     = 64       // attribute names and values of an identity and its actors
	maxAttrBytes = 16 << 10 // bytes of these, before escaping
	maxActors    = 4        // actors behind actors
	maxOps       = 16       // operations
)

// encoder appends one entry as JSON. It uses no reflection and allocates nothing but the line, since it runs for every call.
type encoder struct {
	buf       []byte
	attrs     int // names and values that there is room for
	attrBytes int
	truncated bool
}

// appendEntry appends the entry as one line with its line ending.
func appendEntry(buf []byte, e *Entry) []byte {
	enc := encoder{buf: buf, attrs: maxAttrs, attrBytes: maxAttrBytes}
	enc.buf = append(enc.buf, `{"time":`...)
	enc.time(e.Time)
	enc.field("event", e.Event)
	enc.field("decision", string(e.Decision))
	enc.optional("code", e.Code)
	enc.field("request_id", e.RequestID)
	enc.optional("kong_request_id", e.KongRequestID)
	enc.optional("traceparent", e.TraceParent)
	if e.Identity != nil {
		enc.key("identity")
		enc.identity(e.Identity, maxActors)
	}
	enc.field("proof_kind", string(e.ProofKind))
	enc.optional("proof_fingerprint", e.ProofFingerprint)
	enc.optional("actor_proof_kind", string(e.ActorProofKind))
	enc.optional("actor_proof_fingerprint", e.ActorProofFingerprint)
	enc.optional("role", e.Role)
	enc.optional("rule", e.Rule)
	enc.optional("rule_set", e.RuleSet)
	enc.optional("access_key_id", e.AccessKeyID)
	if !e.Expires.IsZero() {
		enc.key("expires")
		enc.time(e.Expires)
	}
	enc.optional("result", e.Result)
	enc.optional("exchanger", e.Exchanger)
	if len(e.Operations) > 0 {
		enc.key("operations")
		enc.operations(e.Operations)
	}
	enc.optional("source_address", e.SourceAddress)
	enc.key("latency_us")
	enc.buf = strconv.AppendInt(enc.buf, e.Latency.Microseconds(), 10)
	if enc.truncated {
		enc.buf = append(enc.buf, `,"truncated":true`...)
	}
	return append(enc.buf, '}', '\n')
}

func (enc *encoder) identity(id *attest.Identity, actors int) {
	enc.buf = append(enc.buf, `{"kind":`...)
	enc.string(string(id.Kind))
	enc.field("issuer", id.Issuer)
	enc.optional("tenant", id.Tenant)
	enc.field("subject", id.Subject)
	enc.optional("session", id.Session)
	if len(id.Attrs) > 0 {
		enc.key("attrs")
		enc.attributes(id.Attrs)
	}
	if id.Actor != nil {
		if actors == 0 {
			enc.truncated = true
		} else {
			enc.key("actor")
			enc.identity(id.Actor, actors-1)
		}
	}
	enc.buf = append(enc.buf, '}')
}

func (enc *encoder) operations(list []Operation) {
	if len(list) > maxOps {
		list, enc.truncated = list[:maxOps], true
	}
	separator := byte('[')
	for i := range list {
		enc.buf = append(append(enc.buf, separator), `{"operation":`...)
		enc.string(list[i].Name)
		enc.optional("bucket", list[i].Bucket)
		enc.optional("key", list[i].Key)
		enc.optional("source", list[i].Source)
		enc.buf = append(enc.buf, '}')
		separator = ','
	}
	enc.buf = append(enc.buf, ']')
}

// attributes appends what there is room for, sorted by name, so that the same identity gives the same text.
func (enc *encoder) attributes(attrs map[string][]string) {
	var room [maxAttrs]string
	names := room[:0]
	for name := range attrs {
		names = append(names, name)
	}
	slices.Sort(names)

	enc.buf = append(enc.buf, '{')
	for i, name := range names {
		if !enc.spend(name) {
			break
		}
		if i > 0 {
			enc.buf = append(enc.buf, ',')
		}
		enc.string(name)
		enc.buf = append(enc.buf, ':', '[')
		for j, value := range attrs[name] {
			if !enc.spend(value) {
				break
			}
			if j > 0 {
				enc.buf = append(enc.buf, ',')
			}
			enc.string(value)
		}
		enc.buf = append(enc.buf, ']')
	}
	enc.buf = append(enc.buf, '}')
}

// spend takes the room that s needs, if it is there.
func (enc *encoder) spend(s string) bool {
	size := min(len(s), maxString)
	if enc.attrs < 1 || enc.attrBytes < size {
		enc.attrs, enc.truncated = 0, true
		return false
	}
	enc.attrs--
	enc.attrBytes -= size
	return true
}

func (enc *encoder) key(name string) {
	enc.buf = append(enc.buf, ',', '"')
	enc.buf = append(enc.buf, name...)
	enc.buf = append(enc.buf, '"', ':')
}

func (enc *encoder) field(name, value string) {
	enc.key(name)
	enc.string(value)
}

func (enc *encoder) optional(name, value string) {
	if value != "" {
		enc.field(name, value)
	}
}

func (enc *encoder) time(t time.Time) {
	enc.buf = t.UTC().AppendFormat(enc.buf, `"2006-01-02T15:04:05.000000Z"`)
}

// string appends a JSON string of at most maxString bytes of s. What isn't printable (controls, line separators, characters
// that reverse or hide text) is escaped; each byte that isn't UTF-8 becomes U+FFFD.
func (enc *encoder) string(s string) {
	if len(s) > maxString {
		s, enc.truncated = cut(s), true
	}
	b := append(enc.buf, '"')
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < ' ' || c == 0x7f:
				b = appendEscape(b, rune(c))
			default:
				b = append(b, c)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case unicode.IsPrint(r) && (r != utf8.RuneError || size > 1):
			b = append(b, s[i:i+size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b = appendEscape(appendEscape(b, high), low)
		default:
			b = appendEscape(b, r)
		}
		i += size
	}
	enc.buf = append(b, '"')
}

func appendEscape(b []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}

// cut returns the first maxString bytes of the longer s, or up to three less so as to cut no character in two.
func cut(s string) string {
	for end := maxString; end > maxString-utf8.UTFMax; end-- {
		if utf8.RuneStart(s[end]) {
			return s[:end]
		}
	}
	return s[:maxString]
}
