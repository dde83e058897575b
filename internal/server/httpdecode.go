package server

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
)

// Headers of the header form. None but these, Authorization and those of correlation.go are read as input.
const (
	headerRole   = "X-Credbroker-Role"
	headerTTL    = "X-Credbroker-Ttl-Seconds"
	headerPolicy = "X-Credbroker-Policy" // refused: what narrows must not be lost in silence
)

// maxTTLSeconds keeps a TTL within a time.Duration; a role's maximum is far below it.
const maxTTLSeconds = 1<<31 - 1

// body is the JSON object of a POST.
type body struct {
	proof        *attest.Proof // nil if there is none
	actor        *actor
	role, policy string
	ttl          time.Duration
}

func (c *httpCall) decodeIssue() (broker.Request, error) {
	var b body
	data, err := c.readJSON()
	if err == nil {
		b, err = decodeIssue(data)
	}
	if err != nil {
		return broker.Request{}, err
	}
	req, err := c.request(b)
	req.Role, req.Policy, req.TTL = b.role, b.policy, b.ttl
	return req, err
}

func (c *httpCall) decodeExplain() (broker.Request, error) {
	var b body
	data, err := c.readJSON()
	if err == nil && len(data) > 0 { // without a body, the token is in the header
		b, err = decodeExplain(data)
	}
	if err != nil {
		return broker.Request{}, err
	}
	return c.request(b)
}

func (c *httpCall) decodeBodiless() (broker.Request, error) {
	data, err := c.readBody()
	if err != nil || len(data) > 0 {
		return broker.Request{}, invalid("a body where none belongs")
	}
	return c.request(body{})
}

func (c *httpCall) decodeHeaderForm() (broker.Request, error) {
	req, err := c.decodeBodiless()
	if err != nil {
		return broker.Request{}, err
	}
	h := c.r.Header
	if len(h[headerPolicy]) > 0 {
		return broker.Request{}, invalid("the header form takes no policy")
	}
	role, ttl := h[headerRole], h[headerTTL]
	if len(role) != 1 || role[0] == "" {
		return broker.Request{}, invalid(headerRole + " must be there once")
	}
	req.Role = role[0]
	switch len(ttl) {
	case 0:
	case 1:
		if req.TTL, err = parseTTL(ttl[0]); err != nil {
			return broker.Request{}, err
		}
	default:
		return broker.Request{}, invalid(headerTTL + " is there more than once")
	}
	return req, nil
}

// request is what every call has: the proof, the correlation and the peer.
func (c *httpCall) request(b body) (broker.Request, error) {
	if c.r.URL.RawQuery != "" || c.r.URL.ForceQuery {
		return broker.Request{}, invalid("a query; all input is in the header and the body")
	}
	req := broker.Request{Correlation: c.corr, Source: c.source()}
	if c.gateway {
		var err error
		req.Proof, err = c.gatewayProof(b)
		req.Forwarded = b.proof
		return req, err
	}
	authorization := c.r.Header["Authorization"]
	switch {
	// Two proofs of the subject are never weighed against each other (RFC 6750, section 3.1: invalid_request).
	case len(authorization) > 1 || len(authorization) == 1 && b.proof != nil:
		return broker.Request{}, invalid("more than one proof")
	case len(authorization) == 1:
		req.Proof = newProof(attest.KindJWT, bearer(authorization[0]))
	case b.proof != nil:
		req.Proof = *b.proof
	default:
		req.Proof = peerProof(c.r.TLS)
	}
	if b.actor != nil {
		p := b.actor.proof
		if b.actor.peer {
			p = peerProof(c.r.TLS)
		}
		req.Actor = &p
	}
	return req, nil
}

// source is the peer's address; the zero value on a Unix socket.
func (c *httpCall) source() netip.Addr {
	addr, err := netip.ParseAddrPort(c.r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Addr().Unmap()
}

// bearer returns the token of `Bearer token` (RFC 6750, section 2.1), or nothing if the header holds anything else:
// another scheme, or a list of two.
func bearer(header string) string {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	token = strings.TrimLeft(token, " ")
	for i := range len(token) {
		c := token[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-._~+/=", rune(c)) {
			return ""
		}
	}
	return token
}

// readJSON returns the body of a JSON request; one without a body needs no Content-Type.
func (c *httpCall) readJSON() ([]byte, error) {
	data, err := c.readBody()
	if err != nil || len(data) == 0 {
		return nil, err
	}
	contentType := c.r.Header["Content-Type"]
	if len(contentType) != 1 || !strings.EqualFold(contentType[0], "application/json") {
		return nil, invalid("Content-Type must be application/json")
	}
	if len(c.r.Header["Content-Encoding"]) > 0 {
		return nil, invalid("the body is encoded")
	}
	return data, nil
}

// smallBody is how much memory an announcement alone may take.
const smallBody = 4 << 10

// maxDropped is how much of a body that is too large is read and forgotten.
const maxDropped = 16 << 20

// readBody returns the whole body, and keeps it. Beyond smallBody, memory grows with what arrives, not with what is announced.
func (c *httpCall) readBody() ([]byte, error) {
	data, err := c.readAll()
	c.body = data
	return data, err
}

func (c *httpCall) readAll() ([]byte, error) {
	if c.r.ContentLength > maxBodyBytes {
		return nil, c.tooLarge()
	}
	if n := c.r.ContentLength; n >= 0 && n <= smallBody { // net/http gives no more than was announced
		data := make([]byte, n)
		if _, err := io.ReadFull(c.r.Body, data); err != nil {
			return nil, invalid("the body broke off")
		}
		return data, nil
	}
	data, err := io.ReadAll(io.LimitReader(c.r.Body, maxBodyBytes+1))
	if err != nil {
		return nil, invalid("the body broke off")
	}
	if len(data) > maxBodyBytes {
		return nil, c.tooLarge()
	}
	return data, nil
}

// tooLarge drops what is left of a body, up to maxDropped: a caller that is still sending when its connection ends doesn't read the
// answer.
func (c *httpCall) tooLarge() error {
	_, _ = io.CopyN(io.Discard, c.r.Body, maxDropped)
	return errTooLarge
}

var decoders sync.Pool // of *jsontext.Decoder

func decodeIssue(data []byte) (body, error) {
	b, err := decodeBody(data, true)
	if err == nil && b.role == "" {
		return body{}, invalid(`"role" is missing`)
	}
	return b, err
}

func decodeExplain(data []byte) (body, error) { return decodeBody(data, false) }

// decodeBody reads one JSON object and nothing after it. The decoder refuses duplicate names and what isn't UTF-8; its
// errors quote the input and are not passed on.
func decodeBody(data []byte, issue bool) (body, error) {
	var b body
	dec, ok := decoders.Get().(*jsontext.Decoder)
	if !ok {
		dec = new(jsontext.Decoder)
	}
	dec.Reset(bytes.NewBuffer(data))
	defer func() {
		dec.Reset(bytes.NewBuffer(nil)) // what it holds may be a token
		decoders.Put(dec)
	}()
	if start, err := dec.ReadToken(); err != nil || start.Kind() != '{' {
		return body{}, invalid("the body is no JSON object")
	}
	for dec.PeekKind() == '"' {
		token, err := dec.ReadToken()
		if err != nil {
			return body{}, invalid("the body has a name twice, or one that is no JSON")
		}
		name := token.String()
		value, err := dec.ReadToken()
		if err != nil {
			return body{}, invalid("the body is no JSON")
		}
		kind, isProof := proofNames[name]
		switch {
		case isProof && value.Kind() == '"':
			if b.proof != nil {
				return body{}, invalid("more than one proof")
			}
			p := newProof(kind, value.String())
			b.proof = &p
		case name == "actor" && value.Kind() == '{':
			if b.actor, err = decodeActor(dec); err != nil {
				return body{}, err
			}
		case name == "role" && issue && value.Kind() == '"':
			b.role = value.String()
		case name == "policy" && issue && value.Kind() == '"':
			b.policy = value.String()
		case name == "ttl_seconds" && issue && value.Kind() == '0':
			if b.ttl, err = parseTTL(value.String()); err != nil {
				return body{}, err
			}
		default:
			return body{}, invalid("the body has a field that is unknown or of the wrong type")
		}
	}
	if _, err := dec.ReadToken(); err != nil { // the closing brace
		return body{}, invalid("the body is no JSON")
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return body{}, invalid("the body goes on after the JSON object")
	}
	return b, nil
}

// proofNames are the fields that hold proofs.
var proofNames = map[string]attest.Kind{"jwt": attest.KindJWT, "aws_proof": attest.KindAWS}

// actor is the proof of who acts for the subject.
type actor struct {
	proof attest.Proof
	peer  bool // the client certificate, instead
}

// decodeActor reads the rest of the object "actor", which holds one proof.
func decodeActor(dec *jsontext.Decoder) (*actor, error) {
	name, err := dec.ReadToken()
	if err != nil || name.Kind() != '"' {
		return nil, invalid(`"actor" holds no proof`)
	}
	field := name.String()
	value, err := dec.ReadToken()
	if err != nil {
		return nil, invalid("the body is no JSON")
	}
	var a actor
	kind, isProof := proofNames[field]
	switch {
	case isProof && value.Kind() == '"':
		a.proof = newProof(kind, value.String())
	case field == "peer_certificate" && value.Kind() == 't':
		a.peer = true
	default:
		return nil, invalid(`"actor" has a field that is unknown or of the wrong type`)
	}
	if end, err := dec.ReadToken(); err != nil || end.Kind() != '}' {
		return nil, invalid(`"actor" holds more than one proof`)
	}
	return &a, nil
}

// parseTTL reads whole seconds, at least 1: digits alone, so that neither "1e3" nor "3600s" nor "+5" is a number.
func parseTTL(s string) (time.Duration, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n < 1 || n > maxTTLSeconds {
		return 0, invalid("the TTL is not a whole number of seconds, at least 1")
	}
	return time.Duration(n) * time.Second, nil
}
