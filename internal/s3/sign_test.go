package s3_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/credbroker/credbroker/internal/s3"
	"github.com/credbroker/credbroker/internal/secret"
)

const storeSkew = 15 * time.Minute

// sign signs so that the date in it is the one given.
func sign(t testing.TB, in s3.Input, w s3.Wanted, key s3.Key, date time.Time) s3.Signed {
	t.Helper()
	op, err := s3.Parse(in)
	if err != nil {
		t.Fatalf("%+v: %v", in, err)
	}
	now := date
	if !w.Presign {
		now = date.Add(storeSkew - w.Window)
	}
	w.Operation = op
	if w.Region == "" {
		w.Region = "us-east-1"
	}
	if key.Expires.IsZero() {
		key.Expires = now.Add(time.Hour)
	}
	signed, err := s3.NewSigner(func() time.Time { return now }).Sign(t.Context(), key, w)
	if err != nil {
		t.Fatalf("%+v: %v", in, err)
	}
	return signed
}

const hashOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// The examples of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and sigv4-query-string-auth.html that sign no
// Date header.
func TestExamplesOfAWS(t *testing.T) {
	key := s3.Key{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: secret.New("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")}
	date := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		in        s3.Input
		presign   time.Duration
		signature string
	}{
		"GET Object": {s3.Input{Method: "GET", Key: "test.txt", Headers: map[string]string{"Range": "bytes=0-9"}, PayloadHash: hashOfNothing}, 0,
			"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		"List Objects": {s3.Input{Method: "GET", Query: map[string]string{"max-keys": "2", "prefix": "J"}, PayloadHash: hashOfNothing}, 0,
			"34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
		"presigned": {s3.Input{Method: "GET", Key: "test.txt"}, 24 * time.Hour, "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"},
	} {
		tc.in.Bucket = "examplebucket"
		w := s3.Wanted{Endpoint: "https://s3.amazonaws.com", VirtualHost: true, Window: time.Minute}
		if tc.presign > 0 {
			w.Presign, w.Window = true, tc.presign
		}
		got := sign(t, tc.in, w, key, date)
		if got.Host != "examplebucket.s3.amazonaws.com" || !strings.Contains(got.Headers["authorization"]+got.Query, "ignature="+tc.signature) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

var awkwardKeys = []string{
	"a", "a b", "a+b", "a%2Fb", "100%", "%", "a?b", "a#b", "a&b=c", "ü/日本/🎉", "e\u0301", "~tilde", "a'b\"c", "$&+,/:;=?@", "a*b", "(x)!", "dir/", "a\\b", "[1]{2}|^`", "...", "a./b", ".hidden", "<>", " ", "a//"[:2] + "b",
}

// What is signed is what minio-go, which has its own implementation, would sign.
func TestSignaturesAreMinIOGos(t *testing.T) {
	for i, name := range awkwardKeys {
		differential(t, s3.Input{Method: "PUT", Bucket: "bucket-1", Key: name, Headers: map[string]string{"x-amz-meta-A": "v " + fmt.Sprint(i), "Content-Type": "text/plain"}})
		differential(t, s3.Input{Method: "GET", Bucket: "bucket-1", Query: map[string]string{"list-type": "2", "prefix": name, "delimiter": "/"}})
	}
}

func differential(t *testing.T, in s3.Input) {
	t.Helper()
	key := s3.Key{AccessKeyID: "AK", SecretAccessKey: secret.New("secret"), SessionToken: secret.New("token/+=")}
	query := url.Values{}
	for name, value := range in.Query {
		query.Set(name, value)
	}
	path := "/" + in.Bucket + "/" + in.Key
	r := http.Request{Method: in.Method, Host: "minio:9000", URL: &url.URL{Scheme: "http", Host: "minio:9000", Path: path, RawQuery: query.Encode()}, Header: http.Header{}}
	for name, value := range in.Headers {
		r.Header.Set(name, value)
	}
	r.Header.Set("X-Amz-Content-Sha256", s3.UnsignedPayload)
	theirs := signer.SignV4(r, key.AccessKeyID, key.SecretAccessKey.Reveal(), key.SessionToken.Reveal(), "us-east-1")
	date, err := time.Parse("20060102T150405Z", theirs.Header.Get("X-Amz-Date"))
	if err != nil {
		t.Fatal(err)
	}
	ours := sign(t, in, s3.Wanted{Endpoint: "http://minio:9000", Window: time.Minute}, key, date)
	if ours.Headers["authorization"] != theirs.Header.Get("Authorization") {
		t.Errorf("%q %v:\n%s, minio-go:\n%s", in.Key, in.Query, ours.Headers["authorization"], theirs.Header.Get("Authorization"))
	}
	if u, err := url.Parse(ours.URL); err != nil || u.Path != path || u.Query().Encode() != query.Encode() {
		t.Errorf("%q: %s", in.Key, ours.URL)
	}
}

func TestWindows(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 700_000_000, time.UTC)
	op, err := s3.Parse(s3.Input{Method: "GET", Bucket: "b-1", Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(presign bool, window, life time.Duration) s3.Signed {
		key := s3.Key{AccessKeyID: "AK", SecretAccessKey: secret.New("s"), SessionToken: secret.New("t"), Expires: now.Add(life)}
		signed, err := s3.NewSigner(func() time.Time { return now }).Sign(t.Context(), key,
			s3.Wanted{Operation: op, Endpoint: "https://m:443", Region: "r", Presign: presign, Window: window})
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	if got := sign(false, time.Minute, time.Hour); got.Headers["x-amz-date"] != "20261123T114600Z" || !got.Expires.Equal(now.Truncate(time.Second).Add(time.Minute)) || got.Host != "m" {
		t.Errorf("%+v", got)
	}
	if got := sign(false, time.Second, time.Hour); got.Headers["x-amz-date"] != "20261123T114501Z" {
		t.Errorf("%+v", got)
	}
	got := sign(true, 5*time.Second, 3*time.Second)
	if q, _ := url.ParseQuery(got.Query); q.Get("X-Amz-Date") != "20261123T120000Z" || q.Get("X-Amz-Expires") != "5" || len(got.Headers) != 0 || !got.Expires.Equal(now.Add(3*time.Second)) {
		t.Errorf("%+v", got)
	}
	// A payload's hash is in a header, in both forms.
	hashed := op
	hashed.PayloadHash = hashOfNothing
	signed, err := s3.NewSigner(func() time.Time { return now }).Sign(t.Context(), s3.Key{Expires: now}, s3.Wanted{Operation: hashed, Endpoint: "https://m", Presign: true, Window: time.Second})
	if err != nil || signed.Headers["x-amz-content-sha256"] != hashOfNothing || !strings.Contains(signed.Query, "X-Amz-SignedHeaders=host%3Bx-amz-content-sha256") {
		t.Errorf("%+v, %v", signed, err)
	}
}

// The derived key goes with the credential: another secret under the same access key ID is another key, and those that have ended go.
func TestKeysAreKeptByCredential(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	signer := s3.NewSigner(func() time.Time { return now })
	op, _ := s3.Parse(s3.Input{Method: "GET", Bucket: "b-1", Key: "k"})
	one := func(s *s3.Signer, id, text string) string {
		signed, err := s.Sign(t.Context(), s3.Key{AccessKeyID: id, SecretAccessKey: secret.New(text), Expires: now.Add(time.Minute)}, s3.Wanted{Operation: op, Endpoint: "https://m", Window: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return signed.Headers["authorization"]
	}
	for _, text := range []string{"a", "b", "a"} {
		if got := one(signer, "AK", text); got != one(s3.NewSigner(func() time.Time { return now }), "AK", text) {
			t.Errorf("%s: %s", text, got)
		}
	}
	for i := range 5000 {
		one(signer, fmt.Sprint(i), "a")
	}
	if n := signer.Kept(); n > 4096 {
		t.Errorf("%d keys are kept", n)
	}
	now = now.Add(2 * time.Minute)
	one(signer, "new", "a")
	if n := signer.Kept(); n != 1 {
		t.Errorf("%d keys are kept, one has not ended", n)
	}
}

func BenchmarkSign(b *testing.B) {
	op, err := s3.Parse(s3.Input{Method: "GET", Bucket: "b-1", Key: "a/key with spaces"})
	if err != nil {
		b.Fatal(err)
	}
	key := s3.Key{AccessKeyID: "AK", SecretAccessKey: secret.New("secret"), SessionToken: secret.New(strings.Repeat("t", 700)), Expires: time.Now().Add(time.Hour)}
	w := s3.Wanted{Operation: op, Endpoint: "https://m", Region: "us-east-1", Window: time.Minute}
	run := func(b *testing.B, signer func() *s3.Signer) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := signer().Sign(b.Context(), key, w); err != nil {
				b.Fatal(err)
			}
		}
	}
	kept := s3.NewSigner(time.Now)
	b.Run("key kept", func(b *testing.B) { run(b, func() *s3.Signer { return kept }) })
	b.Run("key derived", func(b *testing.B) { run(b, func() *s3.Signer { return s3.NewSigner(time.Now) }) })
}
