package server

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
)

// sendable says whether credentials survive every form of answer unchanged. A header can't carry any character.
func sendable(i broker.Issued) error {
	if !visible(i.AccessKeyID) || !visible(i.SecretAccessKey.Reveal()) || !visible(i.SessionToken.Reveal()) {
		return fmt.Errorf("%w: a key or token holds characters that no header can carry", exchange.ErrBadResult)
	}
	return nil
}

func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// appendIssued writes the answer by hand: it is the hot path, and the only place where secrets become JSON.
func appendIssued(dst []byte, i broker.Issued, requestID string) []byte {
	dst = appendString(append(dst, `{"access_key_id":`...), i.AccessKeyID)
	dst = appendString(append(dst, `,"secret_access_key":`...), i.SecretAccessKey.Reveal())
	dst = appendString(append(dst, `,"session_token":`...), i.SessionToken.Reveal())
	dst = i.Expires.UTC().AppendFormat(append(dst, `,"expires_at":"`...), time.RFC3339)
	dst = appendString(append(dst, `","role":`...), i.Role)
	dst = appendString(append(dst, `,"request_id":`...), requestID)
	return append(dst, '}')
}

// appendString appends a JSON string; what isn't UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // its only error is about UTF-8
	return dst
}

// Headers of the header form's answer.
const (
	headerAccessKeyID     = "X-Credbroker-Access-Key-Id"
	headerSecretAccessKey = "X-Credbroker-Secret-Access-Key" //nolint:gosec // a header's name
	headerSessionToken    = "X-Credbroker-Session-Token"     //nolint:gosec // a header's name
	headerExpiresAt       = "X-Credbroker-Expires-At"
	headerError           = "X-Credbroker-Error"
	headerWarning         = "X-Credbroker-Warning"
)

var shortLived = []string{"short-lived"}

func (c *httpCall) writeIssuedHeaders(i broker.Issued) {
	h := c.w.Header()
	h[headerAccessKeyID] = []string{i.AccessKeyID}
	h[headerSecretAccessKey] = []string{i.SecretAccessKey.Reveal()}
	h[headerSessionToken] = []string{i.SessionToken.Reveal()}
	h[headerExpiresAt] = []string{i.Expires.UTC().Format(time.RFC3339)}
	h[headerRole] = []string{i.Role}
	c.w.WriteHeader(http.StatusNoContent)
}

func (c *httpCall) write(status int, body []byte) { c.writeAs(jsonType, status, body) }

func (c *httpCall) writeAs(contentType []string, status int, body []byte) {
	h := c.w.Header()
	h["Content-Type"] = contentType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.w.WriteHeader(status)
	_, _ = c.w.Write(body) // a caller that has gone learns nothing more
}

func (c *httpCall) writeJSON(v any) error {
	data, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return err
	}
	c.write(http.StatusOK, data)
	return nil
}

func (c *httpCall) writeStatic(contentType []string, data []byte) error {
	h := c.w.Header()
	h["Content-Type"] = contentType
	h["Cache-Control"] = briefly
	h["Content-Length"] = []string{strconv.Itoa(len(data))}
	_, _ = c.w.Write(data)
	return nil
}

// fail writes the answer to an error, as its surface has it. Everything in it but the request ID comes from the table.
func (c *httpCall) fail(err error) {
	p := publicOf(err)
	status, contentType := p.http, jsonType
	var body []byte
	switch c.surface {
	case surfaceSTS:
		status, contentType, body = p.sts.status, xmlType, stsError(p, c.corr.RequestID)
	case surfaceContainer:
		body = containerError(p)
	case surfaceOAuth:
		status, body = p.oauth.status, oauthError(p)
	default:
		body = apiError(p, c.corr.RequestID)
	}
	h := c.w.Header()
	h[headerError] = []string{p.code}
	if status == http.StatusUnauthorized {
		h["Www-Authenticate"] = []string{"Bearer"}
	}
	if p.retryable() {
		h["Retry-After"] = []string{strconv.Itoa(int(p.retryAfter / time.Second))}
	}
	c.writeAs(contentType, status, body)
}

func apiError(p public, requestID string) []byte {
	dst := appendString([]byte(`{"error":{"code":`), p.code)
	dst = appendString(append(dst, `,"message":`...), p.message)
	dst = appendString(append(dst, `,"request_id":`...), requestID)
	dst = strconv.AppendBool(append(dst, `,"retryable":`...), p.retryable())
	return append(dst, "}}"...)
}

type accessJSON struct {
	Identity  *identityJSON `json:"identity"`
	Roles     []roleJSON    `json:"roles"`
	RequestID string        `json:"request_id"`
}

// sessionJSON is the other answer that holds a secret, besides appendIssued's.
type sessionJSON struct {
	KeyID     string `json:"key_id"`
	Key       string `json:"key"`
	ExpiresAt string `json:"expires_at"`
	Role      string `json:"role"`
	RequestID string `json:"request_id"`
}

type rolesJSON struct {
	Roles     []roleJSON `json:"roles"`
	RequestID string     `json:"request_id"`
}

type roleJSON struct {
	Name              string `json:"name"`
	Description       string `json:"description"`
	DefaultTTLSeconds int64  `json:"default_ttl_seconds"`
	MaxTTLSeconds     int64  `json:"max_ttl_seconds"`
}

type identityJSON struct {
	Kind       string              `json:"kind"`
	Issuer     string              `json:"issuer"`
	Tenant     string              `json:"tenant,omitempty"`
	Subject    string              `json:"subject"`
	Attributes map[string][]string `json:"attributes"`
	ExpiresAt  string              `json:"expires_at"`
	Actor      *identityJSON       `json:"actor,omitempty"`
}

func identityToJSON(id *attest.Identity) *identityJSON {
	if id == nil {
		return nil
	}
	return &identityJSON{
		Kind: string(id.Kind), Issuer: id.Issuer, Tenant: id.Tenant, Subject: id.Subject, Attributes: id.Attrs,
		ExpiresAt: id.Expires.UTC().Format(time.RFC3339), Actor: identityToJSON(id.Actor),
	}
}

func rolesToJSON(roles []policy.RoleInfo) []roleJSON {
	list := make([]roleJSON, len(roles))
	for i, r := range roles {
		list[i] = roleJSON{r.Name, r.Description, int64(r.DefaultTTL / time.Second), int64(r.MaxTTL / time.Second)}
	}
	return list
}
