// Package sigv4 verifies requests that were signed with AWS Signature Version 4, in the Authorization header, by keys that the broker
// knows (AWS General Reference, "Signature Version 4 signing process"). The service is sts alone.
//
// The proof is text in lines that end with "\n", the last one excepted:
//
//	credbroker-sigv4/1
//	METHOD
//	PATH            as it is in the request, in which nothing has to be escaped; the request has no query
//	BODY-HASH       SHA-256 of the body, in lower-case hex
//	NAME:VALUE      for each header, by name, its name in lower case; host is one of them
//
// The transport builds it of the request that it got (internal/server): so what is verified is what was asked.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/secret"
)

const (
	version   = "credbroker-sigv4/1"
	algorithm = "AWS4-HMAC-SHA256"
	service   = "sts"
	dateForm  = "20060102T150405Z"

	maxBytes   = 64 << 10
	maxHeaders = 128
	// maxAge is how old a request may be, maxAhead how far ahead its signer's clock: what AWS's services allow.
	maxAge   = 5 * time.Minute
	maxAhead = 5 * time.Minute
)

var (
	pathForm = regexp.MustCompile(`^/([a-z]{1,16}/?)?$`)
	// authorizationForm has the access key ID, the scope's date and region, the signed headers and the signature. AWS's clients write the
	// parts in this order, with ", " between.
	authorizationForm = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([A-Za-z0-9._=@+-]{3,128})/([0-9]{8})/([a-z0-9-]{1,32})/sts/aws4_request, ` +
		`SignedHeaders=([a-z0-9-]+(?:;[a-z0-9-]+)*), Signature=([0-9a-f]{64})$`)
)

// request is a parsed proof, none of which is believed until its signature holds.
type request struct {
	accessKeyID, token string
	at                 time.Time
	date, region       string // of the scope
	canonical          string
	signature          string
}

// parse reads a proof strictly. Its errors repeat nothing of it.
func parse(text string) (*request, error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("%d bytes, expected at most %d", len(text), maxBytes)
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 5 || len(lines) > 4+maxHeaders || lines[0] != version {
		return nil, fmt.Errorf("%d lines, or not of "+version, len(lines))
	}
	method, path, hash := lines[1], lines[2], lines[3]
	if !pathForm.MatchString(path) {
		return nil, errors.New("a path that isn't served, or would have to be escaped")
	}
	headers := make(map[string]string, len(lines)-4)
	for _, line := range lines[4:] {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, errors.New("a line that is no header")
		}
		if _, twice := headers[name]; twice {
			value = "\n" // which no signed header can be, and others may
		}
		headers[name] = value
	}
	m := authorizationForm.FindStringSubmatch(headers["authorization"])
	if m == nil {
		return nil, errors.New("the header Authorization is not " + algorithm + " for " + service)
	}
	r := &request{accessKeyID: m[1], date: m[2], region: m[3], signature: m[5], token: headers["x-amz-security-token"]}
	signed := strings.Split(m[4], ";")
	if err := checkHeaders(headers, signed); err != nil {
		return nil, err
	}
	r.at, _ = time.Parse(dateForm, headers["x-amz-date"]) // what is none becomes the year 1, long past
	if r.at.Format(dateForm[:8]) != r.date {
		return nil, errors.New("the scope is of another day than X-Amz-Date")
	}
	r.canonical = canonical(method, path, hash, headers, signed)
	return r, nil
}

// checkHeaders says whether all that gives the request its meaning is signed, in a form that has one spelling.
func checkHeaders(headers map[string]string, signed []string) error {
	if !slices.IsSorted(signed) || len(slices.Compact(slices.Clone(signed))) != len(signed) {
		return errors.New("SignedHeaders are not sorted, or one is there twice")
	}
	for _, name := range signed {
		value, ok := headers[name]
		// White space in a value is folded before it is signed: one that would have to be is refused instead.
		if !ok || strings.Contains(value, "  ") || strings.ContainsRune(value, '\t') || strings.TrimSpace(value) != value {
			return errors.New("a signed header is missing or has white space that could be folded")
		}
	}
	for name := range headers {
		must := name == "host" || name == "content-type" || strings.HasPrefix(name, "x-amz-")
		if must && !slices.Contains(signed, name) {
			return errors.New("a header that gives the request its meaning is not signed")
		}
	}
	return nil
}

// canonical is the canonical request.
func canonical(method, path, hash string, headers map[string]string, signed []string) string {
	var b strings.Builder
	b.WriteString(method + "\n" + path + "\n\n")
	for _, name := range signed {
		b.WriteString(name + ":" + headers[name] + "\n")
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + hash)
	return b.String()
}

// holds reports whether the key has signed the request.
func (r *request) holds(key secret.Secret) bool {
	scope := r.date + "/" + r.region + "/" + service + "/aws4_request"
	hash := sha256.Sum256([]byte(r.canonical))
	text := algorithm + "\n" + r.at.Format(dateForm) + "\n" + scope + "\n" + hex.EncodeToString(hash[:])
	mac := []byte("AWS4" + key.Reveal())
	for _, part := range []string{r.date, r.region, service, "aws4_request", text} {
		h := hmac.New(sha256.New, mac)
		h.Write([]byte(part))
		mac = h.Sum(nil)
	}
	return hmac.Equal([]byte(hex.EncodeToString(mac)), []byte(r.signature))
}

// checkTime says whether the request was signed now, as far as clocks agree.
func (r *request) checkTime(now time.Time) error {
	switch age := now.Sub(r.at); {
	case age > maxAge:
		return fmt.Errorf("signed %s ago", age.Truncate(time.Second))
	case age < -maxAhead:
		return fmt.Errorf("signed %s in the future", -age.Truncate(time.Second))
	}
	return nil
}
