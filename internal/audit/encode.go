package audit

import (
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/credbroker/credbroker/internal/attest"
)

// Bounds of one line. What lies beyond is cut, and the line says so with "truncated":true.
const (
	maxString = 1024 // bytes of one string
	maxValues = 64   // attribute values of one identity
	maxActors = 4    // actors behind actors
)

// encoder appends one entry as JSON. It uses no reflection, since it runs for every call.
type encoder struct {
	buf       []byte
	truncated bool
}

// appendEntry appends the entry as one line with its line ending.
func appendEntry(buf []byte, e *Entry) []byte {
	enc := encoder{buf: buf}
	enc.buf = append(enc.buf, `{"time":"`...)
	enc.buf = e.Time.UTC().AppendFormat(enc.buf, "2006-01-02T15:04:05.000000Z")
	enc.buf = append(enc.buf, '"')
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
	enc.optional("role", e.Role)
	enc.optional("rule", e.Rule)
	enc.optional("rule_set", e.RuleSet)
	enc.optional("access_key_id", e.AccessKeyID)
	if !e.Expires.IsZero() {
		enc.optional("expires", e.Expires.UTC().Format(time.RFC3339))
	}
	enc.optional("result", e.Result)
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

func (enc *encoder) attributes(attrs map[string][]string) {
	enc.buf = append(enc.buf, '{')
	left := maxValues
	for i, name := range slices.Sorted(maps.Keys(attrs)) {
		if left <= 0 {
			enc.truncated = true
			break
		}
		if i > 0 {
			enc.buf = append(enc.buf, ',')
		}
		enc.string(name)
		enc.buf = append(enc.buf, ':', '[')
		for j, value := range attrs[name] {
			if left == 0 {
				enc.truncated = true
				break
			}
			if j > 0 {
				enc.buf = append(enc.buf, ',')
			}
			enc.string(value)
			left--
		}
		enc.buf = append(enc.buf, ']')
	}
	enc.buf = append(enc.buf, '}')
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

// string appends a JSON string. Control characters are escaped, and so are DEL and the line separators of Unicode, which
// some viewers obey; what isn't UTF-8 becomes U+FFFD.
func (enc *encoder) string(s string) {
	const hex = "0123456789abcdef"
	if len(s) > maxString {
		s, enc.truncated = s[:maxString], true
		for len(s) > 0 { // cut no character in two
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	b := append(enc.buf, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				b = append(b, `\ufffd`...)
			case r == '\u2028' || r == '\u2029' || r >= 0x80 && r <= 0x9f:
				b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			default:
				b = append(b, s[i:i+size]...)
			}
			i += size
			continue
		}
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
		i++
	}
	enc.buf = append(b, '"')
}
