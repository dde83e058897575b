package server

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// maxParameters bounds those of one form.
const maxParameters = 64

// form is an application/x-www-form-urlencoded body, each name in it once.
type form map[string]string

// readForm reads the body of a call whose every parameter is in it: a query would end in the logs of everything on the way, and two
// places for one thing are two meanings.
func (c *httpCall) readForm() (form, error) {
	if c.r.URL.RawQuery != "" || c.r.URL.ForceQuery {
		return nil, invalid("a query; all parameters are in the body")
	}
	data, err := c.readBody()
	if err != nil {
		return nil, err
	}
	if contentType := c.r.Header["Content-Type"]; len(contentType) != 1 || !isForm(contentType[0]) {
		return nil, invalid("Content-Type must be application/x-www-form-urlencoded")
	}
	if len(c.r.Header["Content-Encoding"]) > 0 {
		return nil, invalid("the body is encoded")
	}
	return parseForm(string(data))
}

// isForm reports whether a Content-Type is that of a form in UTF-8.
func isForm(contentType string) bool {
	media, parameter, more := strings.Cut(contentType, ";")
	return strings.EqualFold(media, "application/x-www-form-urlencoded") && (!more || strings.EqualFold(strings.TrimSpace(parameter), "charset=utf-8"))
}

// parseForm reads name=value pairs with "&" between, "+" and %XX in either (WHATWG URL, section 5.1), and refuses what that section lets
// pass: broken escapes, a ";", a name twice or empty, a pair without "=", and what isn't UTF-8.
func parseForm(text string) (form, error) {
	if text == "" {
		return form{}, nil
	}
	if n := strings.Count(text, "&"); n >= maxParameters {
		return nil, invalid("too many parameters")
	}
	f := make(form, 8)
	for pair := range strings.SplitSeq(text, "&") {
		rawName, rawValue, ok := strings.Cut(pair, "=")
		if !ok || strings.Contains(pair, ";") {
			return nil, invalid("the body is no form")
		}
		name, err := url.QueryUnescape(rawName)
		if err != nil || name == "" {
			return nil, invalid("the form has a name that is empty or badly escaped")
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil || !utf8.ValidString(name) || !utf8.ValidString(value) {
			return nil, invalid("the form has a value that is badly escaped or not UTF-8")
		}
		if _, twice := f[name]; twice {
			return nil, invalid("the form has a name twice")
		}
		f[name] = value
	}
	return f, nil
}
