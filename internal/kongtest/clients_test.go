package kongtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/minio/minio-go/v7"
	miniocredentials "github.com/minio/minio-go/v7/pkg/credentials"
)

// keyed adds a consumer's key to what an SDK sends.
type keyed struct {
	key  string
	next *http.Transport
}

func (k keyed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Apikey", k.key)
	return k.next.RoundTrip(r)
}

func newKeyed(t *testing.T, key string) keyed {
	k := keyed{key, http.DefaultTransport.(*http.Transport).Clone()}
	t.Cleanup(k.next.CloseIdleConnections)
	return k
}

// awsClient is an S3 client that knows no key but a made-up one, if any.
func awsClient(t *testing.T, base string, provider aws.CredentialsProvider) *s3.Client {
	return s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(base), UsePathStyle: true, Credentials: provider, RetryMaxAttempts: 1,
		HTTPClient: &http.Client{Transport: newKeyed(t, "alice-key")},
	})
}

func noise(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// stored are an object's bytes as MinIO's operator sees them.
func (w *world) stored(t *testing.T, key string) []byte {
	t.Helper()
	object, err := w.minio.Root().GetObject(t.Context(), "reports", key, minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(object)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	_ = object.Close()
	return data
}

func TestClients(t *testing.T) {
	w := newWorld(t)
	g := Start(t, Options{Config: declared(
		service("minio", w.minio.Endpoint, "/s3", keyAuth, w.plugin("")),
		service("minio-root", w.minio.Endpoint, "/", keyAuth, w.plugin("")),
		service("minio-query", w.minio.Endpoint, "/query", keyAuth, w.plugin("sign_query: true")),
	)})
	w.ready(g)
	for name, provider := range map[string]aws.CredentialsProvider{
		"anonymous": aws.AnonymousCredentials{}, "made-up": credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "secret", "token"),
	} {
		for _, path := range []string{"/s3", "/query"} {
			t.Run("aws-sdk-go-v2/"+name+path, func(t *testing.T) { w.throughAWS(t, awsClient(t, g.URL+path, provider), "acme/aws"+name+path[1:]) })
		}
	}
	t.Run("minio-go", func(t *testing.T) { w.throughMinIO(t, g) })
	t.Run("curl", func(t *testing.T) { w.throughCurl(t, g) })
	t.Run("awkward keys", func(t *testing.T) { w.awkward(t, g, "/s3") })
	t.Run("awkward keys by query", func(t *testing.T) { w.awkward(t, g, "/query") })
	t.Run("unsigned trailer", func(t *testing.T) { w.trailer(t, g) })
}

func (w *world) throughAWS(t *testing.T, c *s3.Client, prefix string) {
	ctx, bucket := t.Context(), aws.String("reports")
	content := noise(t, 300_000)
	key := aws.String(prefix + "/one")
	if _, err := c.PutObject(ctx, &s3.PutObjectInput{
		Bucket: bucket, Key: key, Body: bytes.NewReader(content), ContentType: aws.String("application/x-test"), Metadata: map[string]string{"a-b": "c  d", "e_f": "g"},
		Tagging: aws.String("team=x&y=z%20z"),
	}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(w.stored(t, *key), content) {
		t.Error("what is stored is not what was sent")
	}
	head, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: key})
	if err != nil || *head.ContentLength != int64(len(content)) || head.Metadata["e_f"] != "g" || *head.ContentType != "application/x-test" {
		t.Fatalf("head: %v %+v", err, head)
	}
	tags, err := c.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: bucket, Key: key})
	if err != nil || len(tags.TagSet) != 2 {
		t.Errorf("tags: %v %+v", err, tags)
	}
	part, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: key, Range: aws.String("bytes=1000-1999")})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(part.Body); err != nil || !bytes.Equal(data, content[1000:2000]) {
		t.Errorf("range: %v, %d bytes", err, len(data))
	}
	_ = part.Body.Close()
	if _, err := c.CopyObject(ctx, &s3.CopyObjectInput{Bucket: bucket, Key: aws.String(prefix + "/copy of it"), CopySource: aws.String("reports/" + *key)}); err != nil {
		t.Errorf("copy: %v", err)
	}
	// The source of a copy is looked at as well: it is another tenant's.
	var refused interface{ ErrorCode() string }
	if _, err := c.CopyObject(ctx, &s3.CopyObjectInput{Bucket: bucket, Key: aws.String(prefix + "/stolen"), CopySource: aws.String("reports/umbrella/x")}); !errors.As(err, &refused) || refused.ErrorCode() != "AccessDenied" {
		t.Errorf("copy of another tenant's: %v", err)
	}
	w.multipart(ctx, t, c, prefix+"/parts")
	list, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: bucket, Prefix: aws.String(prefix + "/")})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, object := range list.Contents {
		keys = append(keys, *object.Key)
	}
	if want := []string{prefix + "/copy of it", prefix + "/one", prefix + "/parts"}; !slices.Equal(keys, want) {
		t.Errorf("list: %q, want %q", keys, want)
	}
	if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: key}); err != nil {
		t.Error(err)
	}
}

func (w *world) multipart(ctx context.Context, t *testing.T, c *s3.Client, key string) {
	bucket := aws.String("reports")
	upload, err := c.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	content := noise(t, 6<<20)
	var done []types.CompletedPart
	for i, part := range [][]byte{content[:5<<20], content[5<<20:]} {
		number := aws.Int32(int32(i + 1)) //nolint:gosec // 1 or 2
		sent, err := c.UploadPart(ctx, &s3.UploadPartInput{Bucket: bucket, Key: &key, UploadId: upload.UploadId, PartNumber: number, Body: bytes.NewReader(part)})
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, types.CompletedPart{ETag: sent.ETag, PartNumber: number, ChecksumCRC32: sent.ChecksumCRC32})
	}
	if _, err := c.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: bucket, Key: &key, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(w.stored(t, key), content) {
		t.Error("what is stored of a multipart upload is not what was sent")
	}
}

func minioClient(t *testing.T, g *Gateway, creds *miniocredentials.Credentials) *minio.Client {
	t.Helper()
	c, err := minio.New(strings.TrimPrefix(g.URL, "http://"), &minio.Options{Creds: creds, Region: "us-east-1", MaxRetries: 1, Transport: newKeyed(t, "alice-key")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) throughMinIO(t *testing.T, g *Gateway) {
	c := minioClient(t, g, miniocredentials.NewStaticV4("", "", ""))
	content := noise(t, 17<<20) // more than minio-go sends in one part
	if _, err := c.PutObject(t.Context(), "reports", "acme/minio/a b", bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{UserMetadata: map[string]string{"k": "v"}}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(w.stored(t, "acme/minio/a b"), content) {
		t.Error("what is stored is not what was sent")
	}
	object, err := c.GetObject(t.Context(), "reports", "acme/minio/a b", minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(object); err != nil || !bytes.Equal(data, content) {
		t.Errorf("%v, %d bytes", err, len(data))
	}
	_ = object.Close()
	n := 0
	for info := range c.ListObjects(t.Context(), "reports", minio.ListObjectsOptions{Prefix: "acme/minio/", Recursive: true}) {
		if info.Err != nil {
			t.Fatal(info.Err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d objects", n)
	}
	// With keys of its own, made-up ones, it signs chunk by chunk: the answer says what to change.
	signing := minioClient(t, g, miniocredentials.NewStaticV4("AKIAIOSFODNN7EXAMPLE", "secret", ""))
	_, err = signing.PutObject(t.Context(), "reports", "acme/minio/chunks", bytes.NewReader(content[:1000]), 1000, minio.PutObjectOptions{})
	if answer := minio.ToErrorResponse(err); answer.StatusCode != http.StatusNotImplemented || answer.Code != "NotImplemented" || !strings.Contains(answer.Message, "Set your client") {
		t.Errorf("chunks: %v", err)
	}
}

func (w *world) throughCurl(t *testing.T, g *Gateway) {
	content := noise(t, 100_000)
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	curl := func(args ...string) []byte {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "curl", append([]string{"-sS", "--fail", "-H", "apikey: alice-key"}, args...)...).Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				t.Logf("%s", exit.Stderr)
			}
			t.Fatalf("curl %q: %v", args, err)
		}
		return out
	}
	curl("-T", file, g.URL+"/s3/reports/acme/curl/f")
	if got := curl(g.URL + "/s3/reports/acme/curl/f"); !bytes.Equal(got, content) || !bytes.Equal(w.stored(t, "acme/curl/f"), content) {
		t.Errorf("%d bytes", len(got))
	}
	if got := curl("-r", "10-19", g.URL+"/s3/reports/acme/curl/f"); !bytes.Equal(got, content[10:20]) {
		t.Errorf("%d bytes", len(got))
	}
	if got := curl(g.URL + "/s3/reports?list-type=2&prefix=acme/curl/"); !bytes.Contains(got, []byte("<Key>acme/curl/f</Key>")) {
		t.Errorf("%s", got)
	}
	if got := curl("-I", g.URL+"/s3/reports/acme/curl/f"); !bytes.Contains(got, []byte("Content-Length: 100000")) {
		t.Errorf("%s", got)
	}
}

func (w *world) awkward(t *testing.T, g *Gateway, route string) {
	for _, name := range []string{
		"a b", "a+b", "a%20b", "a%2Fb", "~x", "ü/é", "日本", "q?x=1", "h#y", "semi;colon", `quote'"`, "(1)!*", "a&b=c", "col:on", "at@$,", "[x]{y}|z^`", "...", "a..b", ".hidden", "end/",
	} {
		key := "acme/awkward/" + name
		// As escaped as can be, and as little as may be.
		for _, escaped := range []string{strings.ReplaceAll(url.QueryEscape(key), "+", "%20"), (&url.URL{Path: key}).EscapedPath()} {
			escaped = strings.ReplaceAll(escaped, "%2Facme", "/acme")
			content := []byte(name + escaped)
			if name == "end/" {
				content = nil // a folder
			}
			if resp, body := Do(t, "PUT", g.URL+route+"/reports/"+escaped, header("alice"), content); resp.StatusCode != http.StatusOK {
				t.Errorf("%s as %s: %s %s", name, escaped, resp.Status, body)
				continue
			}
			if got := w.stored(t, key); !bytes.Equal(got, content) {
				t.Errorf("%s as %s: stored %q", name, escaped, got)
			}
			if resp, body := Do(t, "GET", g.URL+route+"/reports/"+escaped, header("alice"), nil); resp.StatusCode != http.StatusOK || body != string(content) {
				t.Errorf("%s as %s: %s %q", name, escaped, resp.Status, body)
			}
			query := "?list-type=2&prefix=" + url.QueryEscape(key) + "&delimiter"
			if resp, body := Do(t, "GET", g.URL+route+"/reports"+query, header("alice"), nil); resp.StatusCode != http.StatusOK || !strings.Contains(body, "<KeyCount>1</KeyCount>") {
				t.Errorf("list %s: %s %s", query, resp.Status, body)
			}
		}
	}
}

// The framing of an unsigned trailer is the one that MinIO takes off itself.
func (w *world) trailer(t *testing.T, g *Gateway) {
	body := "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
	h := header("alice", "X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "Content-Encoding", "aws-chunked", "X-Amz-Decoded-Content-Length", "5", "X-Amz-Trailer", "x-amz-checksum-crc32")
	if resp, answer := Do(t, "PUT", g.URL+"/s3/reports/acme/trailer", h, []byte(body)); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, answer)
	}
	if got := w.stored(t, "acme/trailer"); string(got) != "hello" {
		t.Errorf("stored %q", got)
	}
}
