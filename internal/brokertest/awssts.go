package brokertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// STSNamespace is the XML namespace of STS's answers.
const STSNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// AWSPrincipal is whose an access key is, as GetCallerIdentity says it.
type AWSPrincipal struct{ Account, ARN, UserID string }

// AWSKey is an access key. SessionToken is empty for a user's own key.
type AWSKey struct {
	ID, Secret, SessionToken string
	Principal                AWSPrincipal
}

// AWSRequest is what AWSSTS received.
type AWSRequest struct {
	Method, Host, Path, Query, Body string
	Header                          http.Header
}

// AWSSTS is a stand-in on loopback for the regional endpoints of AWS STS: GetCallerIdentity over TLS, with Signature Version 4 in the
// header or in the query, and GetWebIdentityToken. It verifies signatures itself, by AWS's documentation, and is strict: a request has
// to be signed for the host that it was sent to. It is safe for concurrent use.
type AWSSTS struct {
	// Addr is where it listens, host:port.
	Addr string
	// CAFile holds the certificate to trust, for every name in Hosts and for 127.0.0.1.
	CAFile string
	// WebIdentityURL is where it publishes the keys of its web identity tokens: AWSJWKSPath on it is a JWK Set. It is an endpoint of
	// eu-west-1 too, as that of a VPC is.
	WebIdentityURL string

	mu       sync.Mutex
	keys     map[string]AWSKey
	roles    map[string]AWSRole
	sessions map[string]AWSSession
	requests []AWSRequest
	answer   http.HandlerFunc
}

// Hosts are the endpoints that an AWSSTS stands for, with their regions.
var Hosts = map[string]string{
	"sts.eu-west-1.amazonaws.com": "eu-west-1", "sts.amazonaws.com": "us-east-1", "sts-fips.us-west-2.amazonaws.com": "us-west-2",
	"sts.us-gov-west-1.amazonaws.com": "us-gov-west-1", "sts.cn-north-1.amazonaws.com.cn": "cn-north-1",
}

// NewAWSSTS starts one that knows no key. It stops with the test.
func NewAWSSTS(t testing.TB) *AWSSTS {
	t.Helper()
	s := &AWSSTS{keys: map[string]AWSKey{}, roles: map[string]AWSRole{}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "STS stand-in"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	for host := range Hosts {
		template.DNSNames = append(template.DNSNames, host)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s.CAFile = filepath.Join(t.TempDir(), "sts-ca.pem")
	if err := os.WriteFile(s.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are part of the tests
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	s.Addr, s.WebIdentityURL = server.Listener.Addr().String(), server.URL
	return s
}

// Add makes keys known.
func (s *AWSSTS) Add(keys ...AWSKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		s.keys[k.ID] = k
	}
}

// Answer has all requests answered by h from now on, without being checked; by the stand-in itself again if h is nil.
func (s *AWSSTS) Answer(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = h
}

// Requests are those received so far.
func (s *AWSSTS) Requests() []AWSRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// ServeHTTP implements http.Handler.
func (s *AWSSTS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	s.requests = append(s.requests, AWSRequest{r.Method, r.Host, r.URL.Path, r.URL.RawQuery, string(body), r.Header.Clone()})
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	if r.Method == http.MethodGet && r.URL.Path == AWSJWKSPath {
		s.keySet(w)
		return
	}
	if strings.HasPrefix(string(body), "Action=AssumeRoleWithWebIdentity&") {
		s.assumeRoleWithWebIdentity(w, string(body))
		return
	}
	key, action, code := s.verify(r, string(body))
	switch {
	case code != "":
		STSError(w, http.StatusForbidden, code)
	case action == "GetCallerIdentity":
		GetCallerIdentityAnswer(w, key.Principal)
	case action == "AssumeRole":
		s.assumeRole(w, string(body), key.Principal)
	default:
		s.getWebIdentityToken(w, r.Host, string(body), key.Principal)
	}
}

// GetCallerIdentityAnswer writes what STS says of a principal.
func GetCallerIdentityAnswer(w http.ResponseWriter, p AWSPrincipal) {
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, `<GetCallerIdentityResponse xmlns="%s">
  <GetCallerIdentityResult>
    <Arn>%s</Arn>
    <UserId>%s</UserId>
    <Account>%s</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata>
    <RequestId>00000000-0000-0000-0000-000000000000</RequestId>
  </ResponseMetadata>
</GetCallerIdentityResponse>
`, STSNamespace, p.ARN, p.UserID, p.Account)
}

// STSError writes an error of STS.
func STSError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<ErrorResponse xmlns="%s">
  <Error>
    <Type>Sender</Type>
    <Code>%s</Code>
    <Message>as told</Message>
  </Error>
  <RequestId>00000000-0000-0000-0000-000000000000</RequestId>
</ErrorResponse>
`, STSNamespace, code)
}

// signature is what a request says of its signature, in either form.
type signature struct {
	credential, date, token, value string
	signed                         []string
	expires                        int // seconds
}

// verify returns whose request it is and what for, or the code of what is wrong
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
func (s *AWSSTS) verify(r *http.Request, body string) (key AWSKey, action, code string) {
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || strings.Trim(r.URL.Path, "/") != "" { // Vault sends "//", which is signed as "/"
		return key, "", "InvalidAction"
	}
	var sig signature
	form := body
	if r.Method == http.MethodGet {
		form = "Action=" + params.Get("Action") + "&Version=" + params.Get("Version")
		sig = signature{
			credential: params.Get("X-Amz-Credential"), date: params.Get("X-Amz-Date"), token: params.Get("X-Amz-Security-Token"),
			value: params.Get("X-Amz-Signature"), signed: strings.Split(params.Get("X-Amz-SignedHeaders"), ";"),
		}
		sig.expires, _ = strconv.Atoi(params.Get("X-Amz-Expires"))
		params.Del("X-Amz-Signature")
	} else {
		rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
		if !ok || len(params) > 0 {
			return key, "", "MissingAuthenticationToken"
		}
		for part := range strings.SplitSeq(rest, ", ") {
			switch name, value, _ := strings.Cut(part, "="); name {
			case "Credential":
				sig.credential = value
			case "SignedHeaders":
				sig.signed = strings.Split(value, ";")
			case "Signature":
				sig.value = value
			}
		}
		sig.date, sig.token, sig.expires = r.Header.Get("X-Amz-Date"), r.Header.Get("X-Amz-Security-Token"), 900
	}
	switch {
	case form == "Action=GetCallerIdentity&Version=2011-06-15":
		action = "GetCallerIdentity"
	case r.Method == http.MethodPost && strings.HasPrefix(form, "Action=GetWebIdentityToken&"):
		action = "GetWebIdentityToken"
	case r.Method == http.MethodPost && strings.HasPrefix(form, "Action=AssumeRole&"):
		action = "AssumeRole"
	default:
		return key, "", "InvalidAction"
	}
	scope := strings.Split(sig.credential, "/")
	at, err := time.Parse("20060102T150405Z", sig.date)
	if err != nil || len(scope) != 5 || !slices.Contains(sig.signed, "host") {
		return key, "", "IncompleteSignature"
	}
	if age := time.Since(at); age < -15*time.Minute || age > time.Duration(sig.expires)*time.Second {
		return key, "", "RequestExpired"
	}
	s.mu.Lock()
	key, known := s.keys[scope[0]]
	s.mu.Unlock()
	if !known || key.SessionToken != sig.token {
		return key, "", "InvalidClientTokenId"
	}
	region := Hosts[r.Host]
	if r.Host == s.Addr {
		region = "eu-west-1"
	}
	if scope[1] != sig.date[:8] || scope[2] != region || scope[3] != "sts" || scope[4] != "aws4_request" {
		return key, "", "SignatureDoesNotMatch"
	}
	canonical := []string{r.Method, "/", strings.ReplaceAll(params.Encode(), "+", "%20")}
	for _, name := range sig.signed {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		canonical = append(canonical, name+":"+strings.TrimSpace(value))
	}
	canonical = append(canonical, "", strings.Join(sig.signed, ";"), hexSHA256(body))
	mac := []byte("AWS4" + key.Secret)
	for _, part := range []string{scope[1], scope[2], scope[3], scope[4], "AWS4-HMAC-SHA256\n" + sig.date + "\n" + strings.Join(scope[1:], "/") + "\n" + hexSHA256(strings.Join(canonical, "\n"))} {
		h := hmac.New(sha256.New, mac)
		h.Write([]byte(part))
		mac = h.Sum(nil)
	}
	if hex.EncodeToString(mac) != sig.value {
		return key, "", "SignatureDoesNotMatch"
	}
	return key, action, ""
}

func hexSHA256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
