package s3

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/credbroker/credbroker/internal/secret"
)

const (
	// MaxWindow is how long a signature is good at most.
	MaxWindow = 60 * time.Second
	// storeSkew is how old the date of signed headers may be: S3 and MinIO take them that long, and there is no way to ask for less.
	storeSkew = 15 * time.Minute

	maxKeptKeys = 4096
)

// Target is where an exchanger's credentials are good.
type Target struct {
	// Endpoints are "scheme://host[:port]"; signatures are for the first one unless another is asked for.
	Endpoints []string
	Region    string
}

// Endpoint returns the target's endpoint of that name, or the first if the name is empty. Nobody signs for an endpoint that isn't configured.
func (t Target) Endpoint(name string) (string, error) {
	if name == "" {
		return t.Endpoints[0], nil
	}
	if !slices.Contains(t.Endpoints, name) {
		return "", invalid("%.64q is none of the endpoints that are signed for", name)
	}
	return name, nil
}

// Key is what a signature is made with.
type Key struct {
	AccessKeyID     string
	SecretAccessKey secret.Secret
	SessionToken    secret.Secret
	// Expires is when the store stops taking it.
	Expires time.Time
}

// Wanted is a signature to be made.
type Wanted struct {
	Operation Operation
	// Endpoint is "scheme://host[:port]"; VirtualHost puts the bucket's name before the host instead of into the path.
	Endpoint    string
	VirtualHost bool
	Region      string
	// Presign puts the signature into the query.
	Presign bool
	// Window is how long the signature shall be good: whole seconds, MaxWindow at most.
	Window time.Duration
}

// Signed is a request to be sent as it is.
type Signed struct {
	Method string
	// URL is all of Host, Path and Query, which are escaped.
	URL, Host, Path, Query string
	// Headers are all that were signed but for Host, by name in lower case.
	Headers map[string]string
	// Expires is when the store refuses it.
	Expires time.Time
}

// Signer signs by SigV4 (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html). It keeps the key that is
// derived from a credential, which takes four HMACs, until the credential ends. It is safe for concurrent use.
type Signer struct {
	now func() time.Time

	mu   sync.Mutex
	kept map[string]keptKey // by access key ID
	next time.Time          // of the next look for those that have ended
}

type keptKey struct {
	secret  secret.Secret
	expires time.Time
	signer  *v4.Signer
}

// NewSigner returns a signer that goes by a clock.
func NewSigner(now func() time.Time) *Signer {
	return &Signer{now: now, kept: map[string]keptKey{}}
}

// Sign signs an operation.
//
// A signature in the query says itself how long it is good. One in headers is good for 15 minutes from its date on: the date is put back so
// far that the window is left of them.
func (s *Signer) Sign(ctx context.Context, key Key, w Wanted) (Signed, error) {
	endpoint, err := url.Parse(w.Endpoint)
	if err != nil {
		return Signed{}, fmt.Errorf("endpoint: %w", err)
	}
	op := w.Operation
	// Clients leave the scheme's own port out of Host, and so do signers.
	host, path := strings.TrimSuffix(endpoint.Host, map[string]string{"https": ":443", "http": ":80"}[endpoint.Scheme]), "/"+escape(op.Key, "/")
	switch {
	case op.Bucket == "":
	case w.VirtualHost:
		host = op.Bucket + "." + host
	default:
		path = "/" + op.Bucket + path
	}
	query := url.Values{}
	for name, value := range op.Query {
		query.Set(name, value)
	}
	now := s.now().UTC().Truncate(time.Second)
	date := now.Add(w.Window - storeSkew)
	if w.Presign {
		date = now
		query.Set("X-Amz-Expires", strconv.Itoa(int(w.Window/time.Second)))
	}
	r := &http.Request{
		Method: op.Method, Host: host, Header: http.Header{},
		// Opaque keeps the path from being escaped anew.
		URL: &url.URL{Scheme: endpoint.Scheme, Host: host, Opaque: "//" + host + path, RawQuery: query.Encode()},
	}
	for name, value := range op.Headers {
		r.Header[name] = []string{value}
	}
	if !w.Presign || op.PayloadHash != UnsignedPayload {
		r.Header["x-amz-content-sha256"] = []string{op.PayloadHash}
	}
	credentials := aws.Credentials{AccessKeyID: key.AccessKeyID, SecretAccessKey: key.SecretAccessKey.Reveal(), SessionToken: key.SessionToken.Reveal()}
	signer, expires := s.signer(key), earlier(now.Add(w.Window), key.Expires)
	if !w.Presign {
		if err := signer.SignHTTP(ctx, credentials, r, op.PayloadHash, "s3", w.Region, date); err != nil {
			return Signed{}, err
		}
		return signedOf(r, host, path, r.URL.RawQuery, r.Header, expires), nil
	}
	uri, headers, err := signer.PresignHTTP(ctx, credentials, r, op.PayloadHash, "s3", w.Region, date)
	if err != nil {
		return Signed{}, err
	}
	delete(headers, "Host")
	_, signedQuery, _ := strings.Cut(uri, "?")
	return signedOf(r, host, path, signedQuery, headers, expires), nil
}

func signedOf(r *http.Request, host, path, query string, headers http.Header, expires time.Time) Signed {
	out := Signed{Method: r.Method, Host: host, Path: path, Query: query, Headers: make(map[string]string, len(headers)), Expires: expires}
	out.URL = r.URL.Scheme + "://" + host + path
	if query != "" {
		out.URL += "?" + query
	}
	for name, values := range headers {
		out.Headers[strings.ToLower(name)] = values[0]
	}
	return out
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// signer returns the one that has the credential's derived key, or will have it once it has signed.
func (s *Signer) signer(key Key) *v4.Signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kept, ok := s.kept[key.AccessKeyID]; ok && kept.secret.Equal(key.SecretAccessKey) {
		return kept.signer
	}
	now := s.now()
	if !now.Before(s.next) || len(s.kept) >= maxKeptKeys {
		maps.DeleteFunc(s.kept, func(_ string, k keptKey) bool { return !now.Before(k.expires) })
		s.next = now.Add(time.Minute)
	}
	if len(s.kept) >= maxKeptKeys {
		for id := range s.kept { // any of them: it is derived anew if it is used
			delete(s.kept, id)
			break
		}
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = true // S3 alone escapes once
		o.DisableHeaderHoisting = true
	})
	s.kept[key.AccessKeyID] = keptKey{secret: key.SecretAccessKey, expires: key.Expires, signer: signer}
	return signer
}
