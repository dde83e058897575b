package jwtproof

import (
	"errors"
	"fmt"
	"strings"

	"encoding/base64"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth is how deep JSON may nest anywhere in this package: tokens and key sets of real providers need four levels.
const maxDepth = 16

// decodeJSON reads one JSON value into out: UTF-8, names unique and compared with case, nothing after it, nested at most
// maxDepth deep. Members that out lacks are passed over, but are held to the same rules.
func decodeJSON(data []byte, out any) error {
	if err := checkDepth(data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return errors.New(excerpt(err.Error(), 200))
	}
	return nil
}

// checkDepth runs before the parser, because the parser's own limit is 10,000 levels.
func checkDepth(data []byte) error {
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '\\':
			i++ // the escaped character can't end the string
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("nested deeper than %d levels", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// decodeString returns the string that v, which was decoded before, is; "" and false for any other type, an absent value
// among them.
func decodeString(v jsontext.Value) (s string, ok bool) {
	if v.Kind() != '"' {
		return "", false
	}
	b, _ := jsontext.AppendUnquote(nil, v)
	return string(b), true
}

// decodeStrings returns the strings of the array that v, which was decoded before, is; nil if it isn't one or holds
// anything else.
func decodeStrings(v jsontext.Value) []string {
	var items []jsontext.Value
	_ = decodeJSON(v, &items) // stays empty if v is no array
	list := make([]string, len(items))
	for i, item := range items {
		var ok bool
		if list[i], ok = decodeString(item); !ok {
			return nil
		}
	}
	return list
}

// decodeBase64 reads base64url without padding (RFC 7515, section 2) in its one canonical form. The library's strict
// mode alone would pass over line breaks.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line break in base64url")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// excerpt cuts text of unknown origin to n bytes for an error or a log line.
func excerpt(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
