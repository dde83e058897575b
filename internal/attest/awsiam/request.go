package awsiam

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxProof bounds a proof in bytes, before anything of it is looked at.
	maxProof = 8 << 10
	// postBody is the only body, and postBodyHash its SHA-256.
	postBody     = "Action=GetCallerIdentity&Version=2011-06-15"
	postBodyHash = "ab821ae955788b0e33ebd34c208442ccfc2d406e2edc5e7a39bd6458fbb4f843"
	// presignedPrefix is what a token of aws-iam-authenticator begins with.
	presignedPrefix = "k8s-aws-v1."
	dateLayout      = "20060102T150405Z"
	maxExpires      = 900
)

// The headers that bind a proof to one broker, and the one that makes it different from any other.
const (
	headerServerID      = "x-credbroker-server-id"
	headerVaultServerID = "x-vault-aws-iam-server-id"
	headerClusterID     = "x-k8s-aws-id"
	headerNonce         = "x-credbroker-nonce"
)

// request is what was signed, by its parts. Each is of a closed form, so that what is built from them is no more than what was
// checked.
type request struct {
	endpoint    *endpoint
	presigned   bool
	accessKeyID string
	signature   string // 64 lower-case hexadecimal digits
	token       string // the session token; empty for a user's own keys
	date        time.Time
	expires     time.Duration // of a presigned request
	serverID    string        // empty in a presigned request, where it is not sent
	nonce       string
	signed      []string          // names, lower case, in order
	headers     map[string]string // what is sent and signed, but for host; by lower-case name
}

// loginData is the form of Vault's login (auth/aws/login): method, and URL, body and headers in base64.
type loginData struct {
	Method  string `json:"iam_http_request_method"`
	URL     string `json:"iam_request_url"`
	Body    string `json:"iam_request_body"`
	Headers string `json:"iam_request_headers"`
}

// parse reads a proof: Vault's login data as a JSON object, or a presigned URL as a token of aws-iam-authenticator. It does no
// I/O. The hosts are AWS's and those configured.
func parse(proof string, configured map[string]*endpoint) (*request, error) {
	switch {
	case len(proof) > maxProof:
		return nil, fmt.Errorf("%d bytes, expected at most %d", len(proof), maxProof)
	case strings.HasPrefix(proof, presignedPrefix):
		return parsePresigned(proof[len(presignedPrefix):], configured)
	case strings.HasPrefix(proof, "{"):
		return parseLogin(proof, configured)
	}
	return nil, errors.New("neither a JSON object nor a token of " + presignedPrefix + "BASE64URL")
}

func parseLogin(proof string, configured map[string]*endpoint) (*request, error) {
	var in loginData
	if err := json.Unmarshal([]byte(proof), &in, json.RejectUnknownMembers(true)); err != nil {
		return nil, errors.New("the JSON object isn't login data")
	}
	if in.Method != http.MethodPost {
		return nil, errors.New("iam_http_request_method isn't POST")
	}
	url, err := decodeBase64("iam_request_url", in.URL)
	if err != nil {
		return nil, err
	}
	body, err := decodeBase64("iam_request_body", in.Body)
	if err != nil {
		return nil, err
	}
	if body != postBody {
		return nil, errors.New("iam_request_body isn't " + postBody)
	}
	headers, err := decodeBase64("iam_request_headers", in.Headers)
	if err != nil {
		return nil, err
	}
	r := &request{}
	host, ok := hostOf(url)
	if !ok {
		return nil, errors.New("iam_request_url isn't https://HOST/")
	}
	if r.endpoint, err = endpointOf(host, configured); err != nil {
		return nil, err
	}
	given, err := parseHeaders(headers)
	if err != nil {
		return nil, err
	}
	return r, r.fromHeaders(given)
}

// decodeBase64 takes the canonical form alone (RFC 4648, section 4).
func decodeBase64(field, text string) (string, error) {
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which the decoder passes over
		return "", errors.New(field + " isn't base64")
	}
	return string(data), nil
}

func endpointOf(host string, configured map[string]*endpoint) (*endpoint, error) {
	if e := configured[host]; e != nil {
		return e, nil
	}
	if e := awsEndpoints[host]; e != nil {
		return e, nil
	}
	return nil, errors.New("the host is no STS endpoint that is known")
}

// allowed are the headers that a signed request may have, by their names in lower case and as they are sent. Those that aren't signed are
// left out of what is sent.
var allowed = func() map[string]string {
	out := map[string]string{}
	for _, name := range []string{
		"accept", "accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request", "authorization", "connection", "content-length", "content-type",
		"host", "user-agent", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token", "x-amz-user-agent",
		headerNonce, headerServerID, headerVaultServerID,
	} {
		out[name] = http.CanonicalHeaderKey(name)
	}
	return out
}()

// spelled are allowed's names in lower case, by the spellings that signers use.
var spelled = func() map[string]string {
	out := map[string]string{}
	for lower, sent := range allowed {
		out[lower], out[sent] = lower, lower
	}
	return out
}()

// neverSigned are those of allowed that no signer signs.
var neverSigned = []string{"accept", "authorization", "connection", "user-agent"}

// parseHeaders reads a JSON object of headers, each with one text or a list of one. Names come out in lower case, each once.
func parseHeaders(text string) (map[string]string, error) {
	dec := jsontext.NewDecoder(bytes.NewBufferString(text))
	_, _ = dec.ReadToken() // if it is no start of an object, what follows has no end of one
	out := make(map[string]string, len(allowed))
	for dec.PeekKind() == '"' {
		token, err := dec.ReadToken()
		if err != nil { // the same name twice
			return nil, errNoHeaders
		}
		name := token.String()
		lower, known := spelled[name]
		if !known {
			lower = strings.ToLower(name)
			if _, known = allowed[lower]; !known {
				return nil, errors.New("a header that a signed GetCallerIdentity doesn't have")
			}
		}
		if _, twice := out[lower]; twice {
			return nil, fmt.Errorf("the header %s is there twice", lower)
		}
		value, ok := oneText(dec)
		if !ok {
			return nil, fmt.Errorf("the header %s hasn't one value that is text", lower)
		}
		if !printable(value) {
			return nil, fmt.Errorf("the header %s holds something else than printable ASCII, or spaces at an end", lower)
		}
		out[lower] = value
	}
	if end, _ := dec.ReadToken(); end.Kind() != '}' { // nor is what can't be read
		return nil, errNoHeaders
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errNoHeaders
	}
	return out, nil
}

var errNoHeaders = errors.New("iam_request_headers isn't a JSON object")

// oneText reads a text, or a list of one.
func oneText(dec *jsontext.Decoder) (text string, ok bool) {
	list := dec.PeekKind() == '['
	if list {
		_, _ = dec.ReadToken() // it was seen
	}
	token, _ := dec.ReadToken()
	if token.Kind() != '"' { // nor is what can't be read
		return "", false
	}
	text = token.String()
	if list {
		end, _ := dec.ReadToken()
		return text, end.Kind() == ']'
	}
	return text, true
}

// printable says that a header value is sent as it is signed: printable ASCII, single spaces, none at the ends.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s == strings.TrimSpace(s) && !strings.Contains(s, "  ")
}

// fromHeaders fills in a POST.
func (r *request) fromHeaders(given map[string]string) error {
	if host, ok := given["host"]; ok && host != r.endpoint.host {
		return errors.New("the header host isn't the URL's")
	}
	if err := r.parseAuthorization(given["authorization"]); err != nil {
		return err
	}
	r.headers = make(map[string]string, len(r.signed))
	for _, name := range r.signed {
		value, ok := given[name]
		switch {
		case name == "host":
			continue
		case name == "content-length" && !ok: // signers take it from the body, and keep no header
			value = strconv.Itoa(len(postBody))
		case !ok:
			return fmt.Errorf("the header %s is signed and not there", name)
		case slices.Contains(neverSigned, name) || name == "accept-encoding" && value != "identity":
			return fmt.Errorf("the header %s is signed, and nobody signs it", name)
		}
		r.headers[name] = value
	}
	for _, name := range []string{"x-amz-date", "x-amz-security-token", "x-amz-content-sha256", headerServerID, headerVaultServerID, headerNonce} {
		if _, there := given[name]; there && r.headers[name] == "" {
			return fmt.Errorf("the header %s is there and not signed, or empty", name)
		}
	}
	if length, ok := r.headers["content-length"]; ok && length != strconv.Itoa(len(postBody)) {
		return errors.New("the header content-length isn't the body's")
	}
	if kind, ok := given["content-type"]; ok && kind != "application/x-www-form-urlencoded" && kind != "application/x-www-form-urlencoded; charset=utf-8" {
		return errors.New("the header content-type isn't that of a form")
	}
	if hash, ok := r.headers["x-amz-content-sha256"]; ok && hash != postBodyHash {
		return errors.New("the header x-amz-content-sha256 isn't the body's")
	}
	r.token, r.nonce = r.headers["x-amz-security-token"], r.headers[headerNonce]
	ours, vaults := r.headers[headerServerID], r.headers[headerVaultServerID]
	if (ours == "") == (vaults == "") {
		return fmt.Errorf("not one of the headers %s and %s", headerServerID, headerVaultServerID)
	}
	r.serverID = ours + vaults
	return r.parseDate(r.headers["x-amz-date"])
}

// parseAuthorization reads the header as AWS's documentation and SDKs write it
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html), with its scope's date for parseDate.
func (r *request) parseAuthorization(header string) error {
	rest, ok := strings.CutPrefix(header, "AWS4-HMAC-SHA256 Credential=")
	credential, rest, _ := strings.Cut(rest, ", SignedHeaders=")
	signed, signature, whole := strings.Cut(rest, ", Signature=") // which isn't there if what is before it wasn't
	if !ok || !whole {
		return errors.New("the header authorization isn't one of AWS4-HMAC-SHA256")
	}
	return r.parseSignature(credential, signed, signature)
}

// parseSignature checks what both forms have. The scope's date is kept in r.date until parseDate compares it.
func (r *request) parseSignature(credential, signed, signature string) error {
	parts := strings.Split(credential, "/")
	if len(parts) != 5 || parts[3] != "sts" || parts[4] != "aws4_request" {
		return errors.New("the credential's scope isn't KEY/DATE/REGION/sts/aws4_request")
	}
	if !isUniqueID(parts[0]) {
		return errors.New("the access key ID isn't one")
	}
	day, err := time.Parse("20060102", parts[1])
	if err != nil {
		return errors.New("the scope's date isn't YYYYMMDD")
	}
	if parts[2] != r.endpoint.region {
		return errors.New("the scope's region isn't the host's")
	}
	if len(signature) != hex.EncodedLen(sha256.Size) || strings.Trim(signature, "0123456789abcdef") != "" {
		return errors.New("the signature isn't 64 hexadecimal digits")
	}
	r.accessKeyID, r.date, r.signature = parts[0], day, signature
	r.signed = strings.Split(signed, ";")
	for i, name := range r.signed {
		if i > 0 && r.signed[i-1] >= name {
			return errors.New("the signed headers aren't in order, each once")
		}
	}
	if !slices.Contains(r.signed, "host") {
		return errors.New("the host isn't signed")
	}
	return nil
}

// parseDate sets the time of signing, which lies in the day of the scope.
func (r *request) parseDate(text string) error {
	date, _ := time.Parse(dateLayout, text)
	if date.Format(dateLayout) != text { // which is so of whatever it couldn't read, and of parts of seconds
		return errors.New("the date isn't YYYYMMDDTHHMMSSZ")
	}
	if !date.Truncate(24 * time.Hour).Equal(r.date) {
		return errors.New("the date isn't in the day of the scope")
	}
	r.date = date
	return nil
}

// isUniqueID says whether s is an access key ID, or the unique ID of a user or role.
func isUniqueID(s string) bool {
	return len(s) >= 16 && len(s) <= 128 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
}

// parsePresigned reads a presigned GET, as `aws eks get-token` prints it: base64url of the URL, with no padding.
func parsePresigned(text string, configured map[string]*endpoint) (*request, error) {
	data, _ := base64.RawURLEncoding.DecodeString(text)
	if base64.RawURLEncoding.EncodeToString(data) != text {
		return nil, errors.New("the token isn't base64url without padding")
	}
	url, query, ok := strings.Cut(string(data), "/?")
	host, https := hostOf(url)
	if !ok || !https {
		return nil, errors.New("the URL isn't https://HOST/?QUERY")
	}
	r := &request{presigned: true}
	var err error
	if r.endpoint, err = endpointOf(host, configured); err != nil {
		return nil, err
	}
	params, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	switch {
	case params["Action"] != "GetCallerIdentity" || params["Version"] != "2011-06-15":
		return nil, errors.New("the action isn't GetCallerIdentity of 2011-06-15")
	case params["X-Amz-Algorithm"] != "AWS4-HMAC-SHA256":
		return nil, errors.New("the algorithm isn't AWS4-HMAC-SHA256")
	}
	if err := r.parseSignature(params["X-Amz-Credential"], params["X-Amz-SignedHeaders"], params["X-Amz-Signature"]); err != nil {
		return nil, err
	}
	if !slices.Equal(r.signed, []string{"host", headerServerID}) && !slices.Equal(r.signed, []string{"host", headerClusterID}) {
		return nil, fmt.Errorf("the signed headers aren't host and %s or %s", headerClusterID, headerServerID)
	}
	seconds, _ := strconv.Atoi(params["X-Amz-Expires"])
	if seconds < 1 || seconds > maxExpires || strconv.Itoa(seconds) != params["X-Amz-Expires"] {
		return nil, fmt.Errorf("X-Amz-Expires isn't a number of 1 to %d", maxExpires)
	}
	r.expires = time.Duration(seconds) * time.Second
	var there bool
	if r.token, there = params["X-Amz-Security-Token"]; there && (r.token == "" || !printable(r.token)) {
		return nil, errors.New("X-Amz-Security-Token is empty or not printable ASCII")
	}
	return r, r.parseDate(params["X-Amz-Date"])
}

// queryNames is the closed set of a presigned request's parameters.
var queryNames = []string{
	"Action", "Version", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Security-Token", "X-Amz-Signature", "X-Amz-SignedHeaders",
}

// parseQuery reads NAME=VALUE&..., each name once and as it is written above.
func parseQuery(query string) (map[string]string, error) {
	params := make(map[string]string, len(queryNames))
	for pair := range strings.SplitSeq(query, "&") {
		name, escaped, ok := strings.Cut(pair, "=")
		if !ok || !slices.Contains(queryNames, name) {
			return nil, errors.New("a query parameter that a presigned GetCallerIdentity doesn't have")
		}
		if _, twice := params[name]; twice {
			return nil, fmt.Errorf("the query parameter %s is there twice", name)
		}
		value, err := unescape(escaped)
		if err != nil {
			return nil, fmt.Errorf("the query parameter %s: %w", name, err)
		}
		params[name] = value
	}
	return params, nil
}

// unescape takes values as SigV4 writes them: unreserved characters as they are, all else as %XX in upper case.
func unescape(s string) (string, error) {
	data := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			data = append(data, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errors.New("an escape breaks off")
		}
		b, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return "", errors.New("an escape isn't %XX")
		}
		data, i = append(data, b[0]), i+2
	}
	if escape(string(data)) != s {
		return "", errors.New("it isn't escaped as SigV4 does")
	}
	return string(data), nil
}

// escape is SigV4's UriEncode.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
