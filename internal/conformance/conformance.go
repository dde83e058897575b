// Package conformance asks an endpoint that hands out credentials - the STS query API, AWS's container credentials, OAuth 2.0 Token
// Exchange - what clients and attackers ask, and says what differs from the protocol's own words. It knows nothing of who made the endpoint.
package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Surface is a protocol.
type Surface string

// The surfaces.
const (
	STS       Surface = "sts"
	Container Surface = "container"
	OAuth     Surface = "oauth"
)

// Surfaces are all of them.
var Surfaces = []Surface{STS, Container, OAuth}

// Target is what is checked.
type Target struct {
	// Endpoint is the URL that a client is configured with: of the STS, of a role's container credentials, or of the token endpoint.
	Endpoint *url.URL
	Surface  Surface
	// Token is one that the endpoint gives credentials for. It is shown to nobody else.
	Token string
	// Role is a role that it gives them of: RoleArn, or audience. Container endpoints have it in their URL.
	Role string
	// Client makes the calls. It mustn't follow redirects nor speak HTTP/2, which can't say all that is asked here.
	Client *http.Client
}

// Result is what became of a check.
type Result struct {
	ID string `json:"id"`
	OK bool   `json:"ok"`
	// Expected is what the protocol wants, in words; Saw is what was there instead, or as well. Saw holds no credentials.
	Expected string `json:"expected"`
	Saw      string `json:"saw"`
	// Source is who says so.
	Source string `json:"source"`
}

// check is one question with what its answer has to be.
type check struct {
	id, expected, source string
	ask                  request
	// judge returns what is wrong with the answer, in words; nothing if it is as expected.
	judge func(t *Target, a *answer) string
}

// request is a call as it goes over the wire.
type request struct {
	method  string // POST, or GET of a container endpoint, if empty
	form    url.Values
	body    string // in place of form
	query   string // added to the URL's
	path    string // in place of the URL's, escaped
	header  http.Header
	typ     string // Content-Type; of a form if empty and there is a body
	absolut bool   // the whole URI in the request line
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	code   string // error code, if there was one where it belongs
	err    error  // no answer
}

const (
	// maxAnswer bounds an answer in bytes.
	maxAnswer = 1 << 20
	// callTimeout bounds a call. An endpoint that needs longer keeps its clients waiting longer than they do.
	callTimeout = 10 * time.Second
)

// Run makes all checks of the target's surface, one after the other.
func Run(ctx context.Context, t *Target) []Result {
	var results []Result
	for _, c := range checks(t) {
		a := t.call(ctx, c.ask)
		wrong := ""
		if a.err != nil {
			wrong = "no answer: " + clip(a.err.Error())
		} else {
			wrong = c.judge(t, a)
		}
		saw := wrong
		if saw == "" {
			saw = a.String()
		}
		results = append(results, Result{ID: string(t.Surface) + "." + c.id, OK: wrong == "", Expected: c.expected, Saw: saw, Source: c.source})
		if ctx.Err() != nil {
			break
		}
	}
	return results
}

func checks(t *Target) []check {
	switch t.Surface {
	case STS:
		return stsChecks(t)
	case Container:
		return containerChecks(t)
	case OAuth:
		return oauthChecks(t)
	}
	return nil
}

func (t *Target) call(ctx context.Context, r request) *answer {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	at := *t.Endpoint
	if r.path != "" {
		path, err := url.PathUnescape(r.path)
		if err != nil {
			return &answer{err: err}
		}
		at.Path, at.RawPath = path, r.path
	}
	at.RawQuery = r.query
	if r.absolut {
		at.Opaque = "//" + at.Host + at.EscapedPath()
	}
	method, body := r.method, r.body
	if body == "" {
		body = r.form.Encode()
	}
	if method == "" {
		if method = http.MethodPost; t.Surface == Container {
			method = http.MethodGet
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, at.String(), strings.NewReader(body))
	if err != nil {
		return &answer{err: err}
	}
	req.URL = &at // with what String doesn't say
	if r.header != nil {
		req.Header = r.header.Clone()
	}
	switch {
	case body == "":
		req.Body, req.GetBody, req.ContentLength = http.NoBody, nil, 0
	case r.typ != "":
		req.Header.Set("Content-Type", r.typ)
	default:
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := t.Client.Do(req)
	if err != nil {
		return &answer{err: fmt.Errorf("%s: %w", method, bare(err))}
	}
	defer resp.Body.Close() //nolint:errcheck // read-only
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return &answer{err: err}
	}
	a := &answer{status: resp.StatusCode, header: resp.Header, body: data}
	a.code = errorCode(t.Surface, data)
	return a
}

// bare drops the URL that net/http puts around an error: a query could hold a token.
func bare(err error) error {
	if wrapped, ok := err.(*url.Error); ok { //nolint:errorlint // the outermost alone
		return wrapped.Err
	}
	return err
}

// String is an answer without what is secret in it.
func (a *answer) String() string {
	text := fmt.Sprint(a.status)
	if a.code != "" {
		text += " " + clip(a.code)
	}
	return text
}

// clip makes a stranger's text fit for a line of a terminal.
func clip(s string) string {
	const most = 120
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// all judges by several.
func all(judges ...func(*Target, *answer) string) func(*Target, *answer) string {
	return func(t *Target, a *answer) string {
		for _, judge := range judges {
			if wrong := judge(t, a); wrong != "" {
				return wrong
			}
		}
		return ""
	}
}

// refused wants one of the statuses, one of the codes (any if none is given) and neither credentials nor the caller's token in the answer.
func refused(statuses []int, codes ...string) func(*Target, *answer) string {
	return func(t *Target, a *answer) string {
		if a.status == http.StatusOK {
			return "200: it is answered all the same"
		}
		if bytes.Contains(a.body, []byte(t.Token)) {
			return a.String() + ", and repeats the token"
		}
		if !within(a.status, statuses) {
			return a.String()
		}
		for _, code := range codes {
			if a.code == code {
				return ""
			}
		}
		if len(codes) > 0 {
			return a.String()
		}
		return ""
	}
}

// clientFault is any status that has a client not try again.
var clientFault = []int{400, 401, 403, 404, 405, 411, 413, 414, 415, 422}

func within(status int, list []int) bool {
	for _, s := range list {
		if s == status {
			return true
		}
	}
	return false
}

// noStore wants an answer that no cache keeps.
func noStore(_ *Target, a *answer) string {
	for part := range strings.SplitSeq(strings.Join(a.header.Values("Cache-Control"), ","), ",") {
		if strings.EqualFold(strings.TrimSpace(part), "no-store") {
			return ""
		}
	}
	return fmt.Sprintf("%s, Cache-Control %q", a, clip(a.header.Get("Cache-Control")))
}

// contentType wants one of these media types.
func contentType(types ...string) func(*Target, *answer) string {
	return func(_ *Target, a *answer) string {
		media, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
		for _, want := range types {
			if strings.EqualFold(strings.TrimSpace(media), want) {
				return ""
			}
		}
		return fmt.Sprintf("%s, Content-Type %q", a, clip(a.header.Get("Content-Type")))
	}
}

// expires checks the time that an SDK reads, and what is left of it: in seconds, UTC, and in the future.
func expires(text string, now time.Time) string {
	at, err := time.Parse(time.RFC3339, text)
	switch {
	case err != nil || !strings.HasSuffix(text, "Z"):
		return fmt.Sprintf("%q", clip(text))
	case !at.After(now):
		return clip(text) + " is past"
	}
	return ""
}

// left checks that an SDK, which asks again 5 to 15 minutes before the end, doesn't do so at each use.
func left(text string, now time.Time) string {
	if at, err := time.Parse(time.RFC3339, text); err != nil || at.Sub(now) < 15*time.Minute {
		return fmt.Sprintf("%s left", at.Sub(now).Round(time.Second))
	}
	return ""
}
