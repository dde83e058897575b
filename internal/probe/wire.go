package probe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/credbroker/credbroker/internal/secret"
)

const (
	// callTimeout bounds each call.
	callTimeout = 10 * time.Second
	// maxBody is how much of an answer is read.
	maxBody = 64 << 10
	// maxSaid is how much of a store's words is repeated.
	maxSaid = 160
)

// answer is what of a store's answer counts.
type answer struct {
	action                     string
	status                     int
	code, message              string
	accessKeyID                string
	secretAccessKey, sessionID secret.Secret
	expires                    time.Time
	// err says that there was no answer, or none that is XML.
	err error
}

// ok tells whether it is credentials.
func (a answer) ok() bool {
	return a.err == nil && a.status == http.StatusOK && a.accessKeyID != "" && !a.secretAccessKey.IsZero()
}

// like tells whether two answers say the same but for the name of what was asked.
func (a answer) like(b answer) bool {
	return a.status == b.status && a.code == b.code &&
		strings.ReplaceAll(a.message, a.action, "") == strings.ReplaceAll(b.message, b.action, "")
}

// said is the answer in a line, with nothing in it but printable characters.
func (a answer) said() string {
	switch {
	case a.ok():
		return "credentials"
	case a.err != nil:
		return line(a.err.Error())
	}
	return line(strings.TrimSpace(fmt.Sprintf("%d %s: %s", a.status, a.code, a.message)))
}

func line(s string) string {
	if len(s) > maxSaid {
		s = s[:maxSaid] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r == '\uFFFD' || !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// ask makes one call of the STS, signed if that is how and there is a key.
func (t *Target) ask(ctx context.Context, action string, parameters url.Values, how how) answer {
	form := copied(parameters)
	form.Set("Action", action)
	form.Set("Version", "2011-06-15")
	at, body := *t.Endpoint, form.Encode()
	if at.Path == "" {
		at.Path = "/"
	}
	if how.inQuery {
		at.RawQuery, body = body, ""
	}
	a := t.call(ctx, http.MethodPost, &at, body, func(req *http.Request) *http.Request {
		if !how.signed || t.AccessKeyID == "" {
			return req
		}
		return signer.SignV4STS(*req, t.AccessKeyID, t.SecretAccessKey.Reveal(), t.Region)
	})
	a.action = action
	// A store may repeat what it was shown.
	for _, shown := range []secret.Secret{t.Token, t.SecretAccessKey} {
		if !shown.IsZero() {
			a.message = strings.ReplaceAll(a.message, shown.Reveal(), "[hidden]")
		}
	}
	return a
}

// listsBuckets tells whether credentials may list buckets.
func (t *Target) listsBuckets(ctx context.Context, with answer) bool {
	at := *t.Endpoint
	at.Path = "/"
	a := t.call(ctx, http.MethodGet, &at, "", func(req *http.Request) *http.Request {
		return signer.SignV4(*req, with.accessKeyID, with.secretAccessKey.Reveal(), with.sessionID.Reveal(), t.Region)
	})
	return a.err == nil && a.status == http.StatusOK
}

func (t *Target) call(ctx context.Context, method string, at *url.URL, body string, sign func(*http.Request) *http.Request) answer {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, at.String(), strings.NewReader(body))
	if err != nil {
		return answer{err: errors.New("the URL can't be used")}
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	sum := sha256.Sum256([]byte(body))
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	resp, err := t.Client.Do(sign(req))
	if err != nil {
		// The URL that the error would repeat may hold parameters.
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return answer{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	read, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return answer{err: err}
	case len(read) > maxBody && method == http.MethodGet:
		return answer{status: resp.StatusCode} // a long list of buckets
	case len(read) > maxBody:
		return answer{err: fmt.Errorf("the answer has more than %d bytes", maxBody)}
	}
	a := answer{status: resp.StatusCode}
	a.err = a.read(read)
	return a
}

// read takes the first element of each name that counts, wherever a store puts it.
func (a *answer) read(body []byte) error {
	found := map[string]string{}
	d := xml.NewDecoder(bytes.NewReader(body))
	name := ""
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%d, and what isn't XML", a.status)
		}
		switch token := token.(type) {
		case xml.StartElement:
			name = token.Name.Local
		case xml.EndElement:
			name = ""
		case xml.CharData:
			if _, seen := found[name]; !seen && name != "" {
				found[name] = string(token)
			}
		}
	}
	a.code, a.message = found["Code"], found["Message"]
	a.accessKeyID, a.secretAccessKey, a.sessionID = found["AccessKeyId"], secret.New(found["SecretAccessKey"]), secret.New(found["SessionToken"])
	a.expires, _ = time.Parse(time.RFC3339, found["Expiration"])
	return nil
}

// denyAll is a policy of n bytes that allows nothing; as short as it can be if n is less.
func denyAll(n int) string {
	const head, tail = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":["s3:*"],"Resource":["arn:aws:s3:::*","arn:aws:s3:::a`, `"]}]}`
	return head + strings.Repeat("a", max(0, n-len(head)-len(tail))) + tail
}

func copied(v url.Values) url.Values { return maps.Clone(v) }
