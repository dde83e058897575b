package awsiam

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
)

const (
	// callTimeout bounds one call of STS, and tries how many there are.
	callTimeout = 3 * time.Second
	tries       = 3
	// maxAnswer bounds an answer in bytes; AWS's have some 500.
	maxAnswer = 16 << 10
	namespace = "https://sts.amazonaws.com/doc/2011-06-15/"
)

// newTransport is one without a proxy. AWS's hosts are dialled only at public addresses, so that no name server can lead the
// broker, with what callers sign, into its own network; configured endpoints at the address that they were given.
func newTransport(roots *x509.CertPool, configured map[string]*endpoint) *http.Transport {
	public := &net.Dialer{Timeout: callTimeout, ControlContext: refusePrivate}
	any := &net.Dialer{Timeout: callTimeout}
	return &http.Transport{
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    callTimeout,
		ResponseHeaderTimeout:  callTimeout,
		MaxResponseHeaderBytes: 16 << 10,
		MaxConnsPerHost:        64,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if e := configured[strings.TrimSuffix(address, ":443")]; e != nil { // the port of every URL that is built
				return any.DialContext(ctx, network, e.address)
			}
			return public.DialContext(ctx, network, address)
		},
	}
}

var (
	// nat64 are addresses that a gateway translates to the IPv4 address in the last four bytes (RFC 6052).
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
	// notGlobal are further networks that aren't of the internet (RFC 6890).
	notGlobal = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b:1::/48"),
		netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
	}
)

var errPrivate = errors.New("the name of an AWS endpoint leads to an address that isn't public")

func refusePrivate(_ context.Context, _, address string, _ syscall.RawConn) error {
	at, _ := netip.ParseAddrPort(address) // what isn't one is not public
	ip := at.Addr().Unmap()
	if nat64.Contains(ip) {
		bytes := ip.As16()
		ip = netip.AddrFrom4([4]byte(bytes[12:]))
	}
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || slices.ContainsFunc(notGlobal, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return errPrivate
	}
	return nil
}

// build makes the request from constants and the checked parts.
func (r *request) build(ctx context.Context, serverID string) *http.Request {
	scope := r.accessKeyID + "/" + r.date.Format("20060102") + "/" + r.endpoint.region + "/sts/aws4_request"
	out := &http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Scheme: "https", Host: r.endpoint.host, Path: "/"},
		Header: http.Header{"Accept": {"text/xml"}, "User-Agent": {"credbroker"}},
	}
	if r.presigned {
		out.URL.RawQuery = r.query(scope)
		out.Header.Set(r.signed[1], serverID) // signed for another broker, it won't hold
		return out.WithContext(ctx)
	}
	out.Method = http.MethodPost
	out.ContentLength = int64(len(postBody))
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(postBody)), nil }
	out.Body, _ = out.GetBody()
	if r.headers["content-type"] == "" { // it needn't be signed
		out.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range r.headers {
		if name != "host" && name != "content-length" { // net/http sends these
			out.Header[canonical[name]] = []string{value}
		}
	}
	out.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+scope+", SignedHeaders="+strings.Join(r.signed, ";")+", Signature="+r.signature)
	return out.WithContext(ctx)
}

// query is that of a presigned request.
func (r *request) query(scope string) string {
	query := "Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" + escape(scope) +
		"&X-Amz-Date=" + r.date.Format(dateLayout) + "&X-Amz-Expires=" + strconv.Itoa(int(r.expires/time.Second))
	if r.token != "" {
		query += "&X-Amz-Security-Token=" + escape(r.token)
	}
	return query + "&X-Amz-SignedHeaders=" + escape(strings.Join(r.signed, ";")) + "&X-Amz-Signature=" + r.signature
}

// ask has STS say who signed the request. Its errors are attest.ErrRejected, attest.ErrUnavailable or ctx's.
func (v *Verifier) ask(ctx context.Context, r *request) (*principal, error) {
	var last error
	for try := range tries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(100*time.Millisecond<<try + rand.N(100*time.Millisecond)):
			}
		}
		p, again, err := v.askOnce(ctx, r)
		if !again {
			return p, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		last = err
	}
	return nil, fmt.Errorf("%w: %w", attest.ErrUnavailable, last)
}

// askOnce says whether another try is worth it. Its error is then without a sentinel.
func (v *Verifier) askOnce(ctx context.Context, r *request) (p *principal, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := v.client.Do(r.build(ctx, v.config.ServerID))
	if err != nil {
		return nil, true, fmt.Errorf("STS at %s can't be reached: %s", r.endpoint.host, withoutURL(err))
	}
	defer resp.Body.Close() //nolint:errcheck // read-only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer {
		return nil, true, fmt.Errorf("STS at %s: its answer breaks off or is larger than %d bytes", r.endpoint.host, maxAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		code := errorCode(body)
		switch {
		case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests, code == "Throttling", code == "ThrottlingException", code == "RequestLimitExceeded":
			return nil, true, fmt.Errorf("STS at %s answered %d %s", r.endpoint.host, resp.StatusCode, code)
		case resp.StatusCode >= 400:
			return nil, false, fmt.Errorf("%w: STS answered %d %s", attest.ErrRejected, resp.StatusCode, code)
		}
		return nil, false, fmt.Errorf("%w: STS at %s answered %d", attest.ErrUnavailable, r.endpoint.host, resp.StatusCode)
	}
	if kind := resp.Header.Values("Content-Type"); len(kind) != 1 || kind[0] != "text/xml" {
		return nil, false, fmt.Errorf("%w: STS at %s answered with something else than text/xml", attest.ErrUnavailable, r.endpoint.host)
	}
	a, err := parseAnswer(body)
	if err == nil {
		p, err = parsePrincipal(a.arn, a.userID, a.account)
	}
	if err == nil && p.partition != r.endpoint.partition {
		err = errors.New("the ARN's partition isn't the endpoint's")
	}
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", attest.ErrRejected, err)
	}
	return p, false, nil
}

// withoutURL drops what net/http puts around an error, which repeats the URL, and so a presigned request.
func withoutURL(err error) string {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err.Error()
	}
	return err.Error()
}

// errorCode is the Code of an ErrorResponse, if it looks like one; it is for the log.
func errorCode(body []byte) string {
	var e struct {
		Code string `xml:"Error>Code"`
	}
	if xml.Unmarshal(body, &e) != nil || len(e.Code) > 64 || strings.Trim(e.Code, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
		return ""
	}
	return e.Code
}

// answer is what GetCallerIdentity says.
type answer struct{ arn, userID, account string }

// parseAnswer reads a GetCallerIdentityResponse: elements of the namespace alone, each once, with text or elements inside and
// never both; no attributes but the namespace's, no comments, no directives, nothing after it.
func parseAnswer(body []byte) (*answer, error) {
	const root = "GetCallerIdentityResponse"
	leaves := map[string]string{}
	hasText := map[string]bool{
		root: false, root + ">GetCallerIdentityResult": false, root + ">GetCallerIdentityResult>Arn": true,
		root + ">GetCallerIdentityResult>UserId": true, root + ">GetCallerIdentityResult>Account": true,
		root + ">ResponseMetadata": false, root + ">ResponseMetadata>RequestId": true,
	}
	d := xml.NewDecoder(bytes.NewReader(body))
	d.Strict = true
	var path []string
	var text strings.Builder
	for first := true; ; first = false {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.New("the answer isn't XML")
		}
		switch t := token.(type) {
		case xml.ProcInst:
			if !first || t.Target != "xml" {
				return nil, errors.New("the answer has a processing instruction")
			}
		case xml.StartElement:
			for _, a := range t.Attr {
				if a.Name != (xml.Name{Local: "xmlns"}) || a.Value != namespace || len(path) > 0 {
					return nil, errors.New("the answer has an attribute")
				}
			}
			if t.Name.Space != namespace || strings.TrimSpace(text.String()) != "" {
				return nil, errors.New("the answer has an element of another namespace, or text beside one")
			}
			path = append(path, t.Name.Local)
			name := strings.Join(path, ">")
			_, twice := leaves[name]
			if _, known := hasText[name]; twice || !known {
				return nil, errors.New("the answer has an element twice, or one that doesn't belong there")
			}
			leaves[name] = ""
			text.Reset()
		case xml.EndElement:
			name := strings.Join(path, ">")
			if !hasText[name] && strings.TrimSpace(text.String()) != "" {
				return nil, errors.New("the answer has text beside an element")
			}
			leaves[name] = text.String()
			path = path[:len(path)-1]
			text.Reset()
		case xml.CharData:
			if len(path) == 0 && strings.TrimSpace(string(t)) != "" {
				return nil, errors.New("the answer has text around it")
			}
			text.Write(t)
		default:
			return nil, errors.New("the answer has a comment or a directive")
		}
	}
	result := root + ">GetCallerIdentityResult"
	a := &answer{leaves[result+">Arn"], leaves[result+">UserId"], leaves[result+">Account"]}
	if a.arn == "" || a.userID == "" || a.account == "" {
		return nil, errors.New("the answer lacks Arn, UserId or Account")
	}
	return a, nil
}
