package awsiam

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxProof bounds a proof in bytes, before anything of it is looked at.
	maxProof = 8 << 10
	// maxEscapes bounds those in a JSON text, which take longer to read than anything else in it. Some signers escape the slashes of
	// base64, a 64th of it.
	maxEscapes = 256
	// postBody is the only body, with its canonical base64 (RFC 4648, section 4), its length and its SHA-256.
	postBody       = "Action=GetCallerIdentity&Version=2011-06-15"
	postBodyBase64 = "QWN0aW9uPUdldENhbGxlcklkZW50aXR5JlZlcnNpb249MjAxMS0wNi0xNQ=="
	postBodyLength = "43"
	postBodyHash   = "ab821ae955788b0e33ebd34c208442ccfc2d406e2edc5e7a39bd6458fbb4f843"
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
	signed      []string // names, lower case, in order
	headers     headers  // what is sent and signed
}

// loginData is the form of Vault's login (auth/aws/login): method, and URL, body and headers in base64.
type loginData struct {
	Method  string `json:"iam_http_request_method"`
	URL     string `json:"iam_request_url"`
	Body    string `json:"iam_request_body"`
	Headers string `json:"iam_request_headers"`
}

// field is where the text of a member goes; nil if there is no such member.
func (l *loginData) field(name string) *string {
	switch name {
	case "iam_http_request_method":
		return &l.Method
	case "iam_request_url":
		return &l.URL
	case "iam_request_body":
		return &l.Body
	case "iam_request_headers":
		return &l.Headers
	}
	return nil
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
	if strings.Count(proof, `\`) > maxEscapes {
		return nil, errEscapes
	}
	d := jsontext.NewDecoder(bytes.NewBufferString(proof))
	if err := readObject(d, func(name jsontext.Token) error {
		field := in.field(name.String())
		if field == nil {
			return errors.New("there is another member")
		}
		var ok bool
		if *field, ok = readText(d); !ok {
			return errors.New("a member isn't text")
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("the JSON object isn't login data: %w", err)
	}
	if in.Method != http.MethodPost {
		return nil, errors.New("iam_http_request_method isn't POST")
	}
	if in.Body != postBodyBase64 {
		return nil, errors.New("iam_request_body isn't " + postBody + " in base64")
	}
	url, err := decodeBase64("iam_request_url", base64Std, in.URL)
	if err != nil {
		return nil, err
	}
	host, ok := hostOf(string(url))
	if !ok {
		return nil, errors.New("iam_request_url isn't https://HOST/")
	}
	r := &request{}
	if r.endpoint, err = endpointOf(host, configured); err != nil {
		return nil, err
	}
	data, err := decodeBase64("iam_request_headers", base64Std, in.Headers)
	if err != nil {
		return nil, err
	}
	if bytes.Count(data, []byte(`\`)) > maxEscapes {
		return nil, errEscapes
	}
	d.Reset(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(true)) // parseHeaders looks for them itself
	given, err := parseHeaders(d)
	if err != nil {
		return nil, fmt.Errorf("iam_request_headers: %w", err)
	}
	return r, r.fromHeaders(given)
}

// readObject reads one JSON object, with nothing after it, up to the first fault. The value of each member is
// read by member; the name is good until then.
func readObject(d *jsontext.Decoder, member func(name jsontext.Token) error) error {
	if !reads(d, '{') {
		return errNoObject
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return errNoObject
		}
		if err := member(name); err != nil {
			return err
		}
	}
	_, _ = d.ReadToken() // its end; or an error, and then the next is one as well
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errNoObject
	}
	return nil
}

var errEscapes = fmt.Errorf("a JSON text has more than %d escapes", maxEscapes)

var errNoObject = errors.New("it isn't one JSON object, or it has a member twice")

// reads says whether what comes next is of a kind.
func reads(d *jsontext.Decoder, kind jsontext.Kind) bool {
	t, err := d.ReadToken()
	return err == nil && t.Kind() == kind
}

func readText(d *jsontext.Decoder) (text string, ok bool) {
	t, _ := d.ReadToken() // with an error, none
	if t.Kind() != '"' {
		return "", false
	}
	return t.String(), true
}

var base64Std, base64URL = base64.StdEncoding.Strict(), base64.RawURLEncoding.Strict()

// decodeBase64 takes the canonical form alone.
func decodeBase64(field string, form *base64.Encoding, text string) ([]byte, error) {
	data, err := form.DecodeString(text)
	if err != nil || len(text) != form.EncodedLen(len(data)) { // the decoder passes over line ends
		return nil, errors.New(field + " isn't base64 as it should be")
	}
	return data, nil
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

// allowed are the headers that a signed request may have. Those that aren't signed are left out of what is sent.
var allowed = []string{
	"accept", "accept-encoding", "amz-sdk-invocation-id", "amz-sdk-request", "authorization", "connection", "content-length", "content-type",
	"host", "user-agent", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token", "x-amz-user-agent",
	headerNonce, headerServerID, headerVaultServerID,
}

// canonical are the names of allowed as net/http has them.
var canonical = func() map[string]string {
	table := map[string]string{}
	for _, name := range allowed {
		table[name] = http.CanonicalHeaderKey(name)
	}
	return table
}()

// neverSigned are those of allowed that no signer signs.
var neverSigned = []string{"accept", "authorization", "connection", "user-agent"}

// headers are those of login data, by lower-case name.
type headers map[string]string

// parseHeaders reads a JSON object of headers, each with one text or a list of one. It ends at the first header that doesn't belong
// there.
func parseHeaders(d *jsontext.Decoder) (headers, error) {
	h := make(headers, 8) // SDKs send six or seven
	return h, readObject(d, func(given jsontext.Token) error {
		name, ok := headerName(given.String())
		if !ok {
			return errors.New("a header that a signed GetCallerIdentity doesn't have")
		}
		if _, twice := h[name]; twice {
			return fmt.Errorf("the header %s is there twice", name)
		}
		if h[name], ok = headerValue(d); !ok {
			return fmt.Errorf("the header %s isn't one text", name)
		}
		if !printable(h[name]) {
			return fmt.Errorf("the header %s holds something else than printable ASCII, or spaces at an end", name)
		}
		return nil
	})
}

// headerName finds a name in allowed. Letters of other alphabets aren't equal to ASCII's: they have more bytes.
func headerName(given string) (name string, ok bool) {
	i := slices.IndexFunc(allowed, func(name string) bool { return len(name) == len(given) && strings.EqualFold(name, given) })
	if i < 0 {
		return "", false
	}
	return allowed[i], true
}

// headerValue reads a text, or a list of one.
func headerValue(d *jsontext.Decoder) (value string, ok bool) {
	if d.PeekKind() != '[' {
		return readText(d)
	}
	begun := reads(d, '[')
	value, ok = readText(d)
	return value, begun && ok && reads(d, ']')
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
func (r *request) fromHeaders(given headers) error {
	if host, ok := given["host"]; ok && host != r.endpoint.host {
		return errors.New("the header host isn't the URL's")
	}
	if err := r.parseAuthorization(given["authorization"], given["x-amz-date"]); err != nil {
		return err
	}
	for _, name := range r.signed {
		value, ok := given[name]
		switch {
		case !ok && name != "host" && name != "content-length": // signers take these from elsewhere, and may keep no header
			return fmt.Errorf("the header %s is signed and not there", name)
		case slices.Contains(neverSigned, name), name == "accept-encoding" && value != "identity":
			return fmt.Errorf("the header %s is signed, and nobody signs it", name)
		}
	}
	for _, name := range []string{"x-amz-date", "x-amz-security-token", "x-amz-content-sha256", headerServerID, headerVaultServerID, headerNonce} {
		if value, there := given[name]; there && (value == "" || !slices.Contains(r.signed, name)) {
			return fmt.Errorf("the header %s is there and not signed, or empty", name)
		}
	}
	if length, ok := given["content-length"]; ok && length != postBodyLength {
		return errors.New("the header content-length isn't the body's")
	}
	if kind, ok := given["content-type"]; ok && kind != "application/x-www-form-urlencoded" && kind != "application/x-www-form-urlencoded; charset=utf-8" {
		return errors.New("the header content-type isn't that of a form")
	}
	if hash, ok := given["x-amz-content-sha256"]; ok && hash != postBodyHash {
		return errors.New("the header x-amz-content-sha256 isn't the body's")
	}
	r.token, r.nonce = given["x-amz-security-token"], given[headerNonce]
	ours, vaults := given[headerServerID], given[headerVaultServerID]
	if (ours == "") == (vaults == "") {
		return fmt.Errorf("not one of the headers %s and %s", headerServerID, headerVaultServerID)
	}
	r.serverID = ours + vaults
	maps.DeleteFunc(given, func(name, _ string) bool { return !slices.Contains(r.signed, name) })
	r.headers = given
	return nil
}

// parseAuthorization reads the header as AWS's documentation and SDKs write it
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
func (r *request) parseAuthorization(header, date string) error {
	rest, ok := strings.CutPrefix(header, "AWS4-HMAC-SHA256 Credential=")
	credential, rest, _ := strings.Cut(rest, ", SignedHeaders=") // without them, the rest is empty
	signed, signature, ok2 := strings.Cut(rest, ", Signature=")
	if !ok || !ok2 {
		return errors.New("the header authorization isn't one of AWS4-HMAC-SHA256")
	}
	return r.parseSignature(credential, signed, signature, date)
}

// parseSignature checks what both forms have.
func (r *request) parseSignature(credential, signed, signature, date string) error {
	parts := strings.SplitN(credential, "/", 6)
	if len(parts) != 5 || parts[3] != "sts" || parts[4] != "aws4_request" {
		return errors.New("the credential's scope isn't KEY/DATE/REGION/sts/aws4_request")
	}
	if !isUniqueID(parts[0]) {
		return errors.New("the access key ID isn't one")
	}
	if parts[2] != r.endpoint.region {
		return errors.New("the scope's region isn't the host's")
	}
	if len(signature) != hex.EncodedLen(sha256.Size) || strings.Trim(signature, "0123456789abcdef") != "" {
		return errors.New("the signature isn't 64 hexadecimal digits")
	}
	var err error
	if r.date, err = time.Parse(dateLayout, date); err != nil || len(date) != len(dateLayout) { // Parse takes fractions of a second
		return errors.New("the date isn't YYYYMMDDTHHMMSSZ")
	}
	if parts[1] != date[:len("20060102")] {
		return errors.New("the date isn't in the day of the scope")
	}
	r.accessKeyID, r.signature = parts[0], signature
	r.signed = strings.SplitN(signed, ";", len(allowed)+1) // more aren't there
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

// isUniqueID says whether s is an access key ID, or the unique ID of a user or role.
func isUniqueID(s string) bool {
	return len(s) >= 16 && len(s) <= 128 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
}

// parsePresigned reads a presigned GET, as `aws eks get-token` prints it: base64url of the URL, with no padding.
func parsePresigned(text string, configured map[string]*endpoint) (*request, error) {
	data, err := decodeBase64("the token", base64URL, text)
	if err != nil {
		return nil, err
	}
	url, query, ok := strings.Cut(string(data), "/?")
	host, https := strings.CutPrefix(url, "https://")
	if !ok || !https {
		return nil, errors.New("the URL isn't https://HOST/?QUERY")
	}
	r := &request{presigned: true}
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
	if err := r.parseSignature(params["X-Amz-Credential"], params["X-Amz-SignedHeaders"], params["X-Amz-Signature"], params["X-Amz-Date"]); err != nil {
		return nil, err
	}
	if !slices.Equal(r.signed, []string{"host", headerServerID}) && !slices.Equal(r.signed, []string{"host", headerClusterID}) {
		return nil, fmt.Errorf("the signed headers aren't host and %s or %s", headerClusterID, headerServerID)
	}
	seconds, _ := strconv.Atoi(params["X-Amz-Expires"]) // of what isn't a number it is none of these
	if seconds < 1 || seconds > maxExpires || strconv.Itoa(seconds) != params["X-Amz-Expires"] {
		return nil, fmt.Errorf("X-Amz-Expires isn't a number of 1 to %d", maxExpires)
	}
	r.expires = time.Duration(seconds) * time.Second
	var there bool
	if r.token, there = params["X-Amz-Security-Token"]; there && (r.token == "" || !printable(r.token)) {
		return nil, errors.New("X-Amz-Security-Token is empty or not printable ASCII")
	}
	return r, nil
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
		c := s[i]
		if !unreserved(c) {
			if c != '%' || i+2 >= len(s) {
				return "", errors.New("it isn't escaped as SigV4 does")
			}
			high, low := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
			c, i = byte(high<<4|low), i+2
			if high < 0 || low < 0 || unreserved(c) {
				return "", errors.New("it isn't escaped as SigV4 does")
			}
		}
		data = append(data, c)
	}
	return string(data), nil
}

// escape is SigV4's UriEncode.
func escape(s string) string {
	data := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		if c := s[i]; unreserved(c) {
			data = append(data, c)
		} else {
			data = append(data, '%', hexDigits[c>>4], hexDigits[c&0xf])
		}
	}
	return string(data)
}

const hexDigits = "0123456789ABCDEF"

func unreserved(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}
