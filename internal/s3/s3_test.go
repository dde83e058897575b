package s3_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/s3"
)

// input is "METHOD bucket/key?a=b&c=d h:v h:v", nothing of it escaped.
func input(s string) s3.Input {
	parts := strings.Split(s, " ")
	in := s3.Input{Method: parts[0], Query: map[string]string{}, Headers: map[string]string{}}
	path, query, hasQuery := strings.Cut(parts[1], "?")
	in.Bucket, in.Key, _ = strings.Cut(path, "/")
	if hasQuery {
		for p := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(p, "=")
			in.Query[name] = value
		}
	}
	for _, h := range parts[2:] {
		name, value, _ := strings.Cut(h, ":")
		in.Headers[name] = value
	}
	return in
}

// Every operation, and all that it takes.
func TestWhatRequestsMean(t *testing.T) {
	for request, want := range map[string]string{
		"GET ?max-buckets=5": "ListBuckets ListAllMyBuckets@/",

		"GET buck?list-type=2&prefix=a&delimiter=/&start-after=b": "ListObjectsV2 ListBucket@buck/",
		"GET buck":                 "ListObjects ListBucket@buck/",
		"GET buck?prefix=a":        "ListObjects ListBucket@buck/",
		"GET buck?versions=":       "ListObjectVersions ListBucketVersions@buck/",
		"GET buck?uploads=":        "ListMultipartUploads ListBucketMultipartUploads@buck/",
		"HEAD buck":                "HeadBucket ListBucket@buck/",
		"GET buck?location=":       "GetBucketLocation GetBucketLocation@buck/",
		"GET buck?versioning=":     "GetBucketVersioning GetBucketVersioning@buck/",
		"PUT buck?versioning=":     "PutBucketVersioning PutBucketVersioning@buck/",
		"PUT buck":                 "CreateBucket CreateBucket@buck/",
		"DELETE buck":              "DeleteBucket DeleteBucket@buck/",
		"GET buck?x-id=ListBucket": "ListObjects ListBucket@buck/",

		"GET buck/a/b range:bytes=0-1 if-match:x":             "GetObject GetObject@buck/a/b",
		"GET buck/a?versionId=v":                              "GetObject GetObject@buck/a GetObjectVersion@buck/a",
		"HEAD buck/a?partNumber=1":                            "HeadObject GetObject@buck/a",
		"GET buck/a?attributes= x-amz-object-attributes:ETag": "GetObjectAttributes GetObject@buck/a GetObjectAttributes@buck/a",
		"PUT buck/a x-amz-meta-a:b Content-Type:c":            "PutObject PutObject@buck/a",
		"PUT buck/a x-amz-tagging:a=b":                        "PutObject PutObject@buck/a PutObjectTagging@buck/a",
		"PUT buck/a x-amz-acl:private":                        "PutObject PutObject@buck/a PutObjectAcl@buck/a",
		"PUT buck/a x-amz-grant-read:x":                       "PutObject PutObject@buck/a PutObjectAcl@buck/a",
		"PUT buck/a x-amz-object-lock-mode:GOVERNANCE":        "PutObject PutObject@buck/a PutObjectRetention@buck/a",
		"PUT buck/a x-amz-object-lock-legal-hold:ON":          "PutObject PutObject@buck/a PutObjectLegalHold@buck/a",
		"PUT buck/a x-amz-server-side-encryption:AES256":      "PutObject PutObject@buck/a",
		"PUT buck/a x-amz-copy-source:/src1/x%20y":            "CopyObject GetObject@src1/x y PutObject@buck/a",
		"PUT buck/a x-amz-copy-source:src1/x?versionId=v":     "CopyObject GetObject@src1/x GetObjectVersion@src1/x PutObject@buck/a",
		"DELETE buck/a":             "DeleteObject DeleteObject@buck/a",
		"DELETE buck/a?versionId=v": "DeleteObject DeleteObject@buck/a DeleteObjectVersion@buck/a",
		"DELETE buck/a x-amz-bypass-governance-retention:true": "DeleteObject BypassGovernanceRetention@buck/a DeleteObject@buck/a",

		"POST buck/a?uploads=":               "CreateMultipartUpload PutObject@buck/a",
		"PUT buck/a?partNumber=1&uploadId=u": "UploadPart PutObject@buck/a",
		"PUT buck/a?partNumber=1&uploadId=u x-amz-copy-source:src1/x x-amz-copy-source-range:bytes=0-1": "UploadPartCopy GetObject@src1/x PutObject@buck/a",
		"POST buck/a?uploadId=u":   "CompleteMultipartUpload PutObject@buck/a",
		"DELETE buck/a?uploadId=u": "AbortMultipartUpload AbortMultipartUpload@buck/a",
		"GET buck/a?uploadId=u":    "ListParts ListMultipartUploadParts@buck/a",

		"GET buck/a?tagging=":               "GetObjectTagging GetObjectTagging@buck/a",
		"PUT buck/a?tagging=&versionId=v":   "PutObjectTagging PutObjectTagging@buck/a PutObjectVersionTagging@buck/a",
		"DELETE buck/a?tagging=":            "DeleteObjectTagging DeleteObjectTagging@buck/a",
		"GET buck/a?acl=":                   "GetObjectAcl GetObjectAcl@buck/a",
		"PUT buck/a?acl= x-amz-acl:private": "PutObjectAcl PutObjectAcl@buck/a PutObjectAcl@buck/a",
		"GET buck/a?retention=":             "GetObjectRetention GetObjectRetention@buck/a",
		"PUT buck/a?retention= x-amz-bypass-governance-retention:true": "PutObjectRetention BypassGovernanceRetention@buck/a PutObjectRetention@buck/a",
		"GET buck/a?legal-hold=": "GetObjectLegalHold GetObjectLegalHold@buck/a",
		"PUT buck/a?legal-hold=": "PutObjectLegalHold PutObjectLegalHold@buck/a",
	} {
		op, err := s3.Parse(input(request))
		if err != nil {
			t.Errorf("%s: %v", request, err)
			continue
		}
		var needs []string
		for _, n := range op.Needs {
			needs = append(needs, " "+strings.TrimPrefix(n.Action, "s3:")+"@"+strings.TrimPrefix(n.Resource, "arn:aws:s3:::"))
		}
		slices.Sort(needs)
		if got := op.Name + strings.Join(needs, ""); got != want {
			t.Errorf("%s:\n%s, want\n%s", request, got, want)
		}
	}
}

func TestWhatIsNotSigned(t *testing.T) {
	for request, want := range map[string]error{
		// Keys that something on the way, or the store, takes for others.
		"GET buck/a//b": s3.ErrInvalid, "GET buck//a": s3.ErrInvalid, "GET buck/a/../b": s3.ErrInvalid, "GET buck/..": s3.ErrInvalid, "GET buck/./a": s3.ErrInvalid,
		"GET buck/a/.": s3.ErrInvalid, "GET buck//": s3.ErrInvalid, "GET buck/a\x00": s3.ErrInvalid, "GET buck/a\nb": s3.ErrInvalid, "GET buck/\xff": s3.ErrInvalid,
		"GET buck/" + strings.Repeat("a", 1025): s3.ErrInvalid,
		// Buckets.
		"GET ../a": s3.ErrInvalid, "GET bu..ck/a": s3.ErrInvalid, "GET Buck/a": s3.ErrInvalid, "GET bu/a": s3.ErrInvalid, "GET -buck/a": s3.ErrInvalid, "GET bu%2Fck/a": s3.ErrInvalid,
		"GET .minio.sys/a": s3.ErrInvalid, "GET /a": s3.ErrInvalid, "GET buck@evil/a": s3.ErrInvalid, "GET " + strings.Repeat("b", 64) + "/a": s3.ErrInvalid,
		// Operations and sub-resources.
		"POST buck?delete=": s3.ErrUnsupported, "POST buck": s3.ErrUnsupported, "PUT buck?policy=": s3.ErrUnsupported, "GET buck?policy=": s3.ErrUnsupported,
		"PUT buck?notification=": s3.ErrUnsupported, "PUT buck?replication=": s3.ErrUnsupported, "PUT buck?lifecycle=": s3.ErrUnsupported, "GET buck?events=": s3.ErrUnsupported,
		"POST buck/a?select=&select-type=2": s3.ErrUnsupported, "POST buck/a?restore=": s3.ErrUnsupported, "PATCH buck/a": s3.ErrUnsupported, "get buck/a": s3.ErrUnsupported,
		"GET buck/a?torrent=": s3.ErrUnsupported, "GET buck/a?unknown=1": s3.ErrUnsupported, "OPTIONS buck/a": s3.ErrUnsupported, "PUT ": s3.ErrUnsupported, "CONNECT buck/a": s3.ErrUnsupported,
		"GET buck/a?acl=1": s3.ErrUnsupported, "GET buck?list-type=3": s3.ErrUnsupported, "GET buck?list-type=": s3.ErrUnsupported, "PUT buck/a?uploadId=u": s3.ErrUnsupported,
		"PUT buck/a?partNumber=1": s3.ErrUnsupported, "PUT buck/a?partNumber=&uploadId=u": s3.ErrUnsupported, "DELETE buck/a?uploadId=": s3.ErrUnsupported,
		"GET buck/a?acl=&tagging=": s3.ErrUnsupported, "DELETE buck/a?uploadId=u&versionId=v": s3.ErrUnsupported, "GET buck/a?Acl=": s3.ErrUnsupported,
		// Authentication of the caller's own.
		"GET buck/a?X-Amz-Signature=x": s3.ErrUnsupported, "GET buck/a?X-Amz-Expires=604800": s3.ErrUnsupported, "GET buck/a?x-amz-security-token=x": s3.ErrUnsupported,
		"GET buck/a?AWSAccessKeyId=x": s3.ErrUnsupported, "GET buck/a authorization:x": s3.ErrInvalid, "GET buck/a X-Amz-Date:x": s3.ErrInvalid,
		"GET buck/a x-amz-security-token:x": s3.ErrInvalid, "GET buck/a x-amz-content-sha256:x": s3.ErrInvalid, "GET buck/a host:evil": s3.ErrInvalid,
		// Headers of another operation, or of none.
		"GET buck/a x-amz-copy-source:src1/x": s3.ErrUnsupported, "DELETE buck/a x-amz-copy-source:src1/x": s3.ErrUnsupported, "POST buck/a?uploads= x-amz-copy-source:src1/x": s3.ErrUnsupported,
		"GET buck/a x-amz-meta-a:b": s3.ErrInvalid, "PUT buck/a x-amz-meta-:b": s3.ErrInvalid, "GET buck/a x-amz-acl:public-read": s3.ErrInvalid, "PUT buck/a range:bytes=0-1": s3.ErrInvalid,
		"PUT buck/a x-minio-extract:true": s3.ErrInvalid, "PUT buck/a x-amz-mallory:1": s3.ErrInvalid, "PUT buck/a x_amz_acl:public-read": s3.ErrInvalid, "PUT buck/a x-amz-meta-é:b": s3.ErrInvalid,
		"DELETE buck x-minio-force-delete:true": s3.ErrInvalid, "PUT buck x-amz-bucket-object-lock-enabled:true": s3.ErrInvalid, "PUT buck/a connection:x-amz-date": s3.ErrInvalid,
		"PUT buck/a transfer-encoding:chunked": s3.ErrInvalid, "PUT buck/a expect:100-continue": s3.ErrInvalid, "PUT buck/a x-amz-metadata-directive:COPY": s3.ErrInvalid,
		"PUT buck/a x-amz-meta-a:": s3.ErrInvalid, "PUT buck/a x-amz-meta-a:b\tc": s3.ErrInvalid, "PUT buck/a x-amz-meta-a:b\r\nx-amz-acl:public-read": s3.ErrInvalid,
		"PUT buck/a x-amz-meta-a:b\u00a0c": s3.ErrInvalid, "PUT buck/a x-amz-meta-a:b\xff": s3.ErrInvalid, "PUT buck/a x-amz-meta-a:a X-Amz-Meta-A:b": s3.ErrInvalid,
		// Sources of copies.
		"PUT buck/a x-amz-copy-source:src1": s3.ErrInvalid, "PUT buck/a x-amz-copy-source:src1/": s3.ErrInvalid, "PUT buck/a x-amz-copy-source://src1/x": s3.ErrInvalid,
		"PUT buck/a x-amz-copy-source:src1/a%2F..%2F..%2Fother/x": s3.ErrInvalid, "PUT buck/a x-amz-copy-source:src1/%2e%2e/x": s3.ErrInvalid, "PUT buck/a x-amz-copy-source:src1/a%2F%2Fx": s3.ErrInvalid,
		"PUT buck/a x-amz-copy-source:src1/x%zz": s3.ErrInvalid, "PUT buck/a x-amz-copy-source:src1/x?a=b": s3.ErrInvalid, "PUT buck/a x-amz-copy-source:src1/x?versionId=": s3.ErrInvalid,
		"PUT buck/a x-amz-copy-source:src1/x?versionId=v&versionId=w": s3.ErrInvalid, "PUT buck/a x-amz-copy-source:arn:aws:s3:us-east-1:1:accesspoint/x/object/y": s3.ErrInvalid,
		// Bodies in chunks.
		"PUT buck/a content-encoding:aws-chunked": s3.ErrInvalid, "PUT buck/a content-encoding:gzip,AWS-Chunked": s3.ErrInvalid, "PUT buck/a x-amz-decoded-content-length:5": s3.ErrInvalid,
		"PUT buck/a x-amz-trailer:x-amz-checksum-crc32": s3.ErrInvalid,
	} {
		if op, err := s3.Parse(input(request)); !errors.Is(err, want) {
			t.Errorf("%q: %v %v, want %v", request, op.Name, err, want)
		}
	}
	for hash, want := range map[string]error{
		"STREAMING-AWS4-HMAC-SHA256-PAYLOAD": s3.ErrUnsupported, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER": s3.ErrUnsupported, "STREAMING-UNSIGNED-PAYLOAD": s3.ErrInvalid,
		"unsigned-payload": s3.ErrInvalid, strings.ToUpper(hashOfNothing): s3.ErrInvalid, hashOfNothing[1:]: s3.ErrInvalid, hashOfNothing[1:] + "g": s3.ErrInvalid,
	} {
		if _, err := s3.Parse(s3.Input{Method: "PUT", Bucket: "buck", Key: "a", PayloadHash: hash}); !errors.Is(err, want) {
			t.Errorf("payload hash %s: %v, want %v", hash, err, want)
		}
	}
	if _, err := s3.Parse(s3.Input{Method: "GET", Bucket: "buck", Key: "a", PayloadHash: s3.StreamingTrailer}); !errors.Is(err, s3.ErrInvalid) {
		t.Errorf("a streamed GET: %v", err)
	}
	big := s3.Input{Method: "PUT", Bucket: "buck", Key: "a", Headers: map[string]string{}}
	for i := range 65 {
		big.Headers[fmt.Sprintf("x-amz-meta-%d", i)] = "a"
	}
	if _, err := s3.Parse(big); !errors.Is(err, s3.ErrInvalid) {
		t.Errorf("65 headers: %v", err)
	}
	if _, err := s3.Parse(s3.Input{Method: "PUT", Bucket: "buck", Key: "a", Headers: map[string]string{"x-amz-meta-a": strings.Repeat("a", 8<<10+1)}}); !errors.Is(err, s3.ErrInvalid) {
		t.Errorf("a long header: %v", err)
	}
	if _, err := s3.Parse(s3.Input{Method: "GET", Bucket: "buck", Query: map[string]string{"prefix": strings.Repeat("a", 8<<10+1)}}); !errors.Is(err, s3.ErrInvalid) {
		t.Errorf("a long parameter: %v", err)
	}
}

func TestStreamedBodies(t *testing.T) {
	op, err := s3.Parse(s3.Input{Method: "PUT", Bucket: "buck", Key: "a", PayloadHash: s3.StreamingTrailer, Headers: map[string]string{
		"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "5", "X-Amz-Trailer": "x-amz-checksum-crc32",
	}})
	if err != nil || op.Name != "PutObject" || op.Headers["x-amz-trailer"] == "" || op.PayloadHash != s3.StreamingTrailer {
		t.Errorf("%+v, %v", op, err)
	}
	if err := op.Presignable(); !errors.Is(err, s3.ErrInvalid) {
		t.Errorf("presigned: %v", err)
	}
	op.PayloadHash = s3.UnsignedPayload
	if err := op.Presignable(); err != nil {
		t.Error(err)
	}
}

// The source of a copy is signed as it was read.
func TestCopySourceIsWrittenAnew(t *testing.T) {
	for given, want := range map[string]string{
		"src1/a b": "/src1/a%20b", "/src1/%61+b": "/src1/a%2Bb", "src1/a%3FversionId=x": "/src1/a%3FversionId%3Dx", "src1/%C3%BC?versionId=v-1": "/src1/%C3%BC?versionId=v-1",
	} {
		op, err := s3.Parse(s3.Input{Method: "PUT", Bucket: "buck", Key: "a", Headers: map[string]string{"X-Amz-Copy-Source": given}})
		if err != nil || op.Headers["x-amz-copy-source"] != want {
			t.Errorf("%s: %v, %v", given, op.Headers, err)
		}
	}
}

func TestConditionValues(t *testing.T) {
	op, err := s3.Parse(input("GET buck?list-type=2&prefix=a/&delimiter=/&max-keys=5"))
	if want := map[string]string{"s3:prefix": "a/", "s3:delimiter": "/", "s3:max-keys": "5"}; err != nil || !maps.Equal(op.Values, want) {
		t.Errorf("%v, %v", op.Values, err)
	}
	op, err = s3.Parse(input("PUT buck/a x-amz-acl:private x-amz-storage-class:S x-amz-server-side-encryption:AES256"))
	if want := map[string]string{"s3:x-amz-acl": "private", "s3:x-amz-storage-class": "S", "s3:x-amz-server-side-encryption": "AES256"}; err != nil || !maps.Equal(op.Values, want) {
		t.Errorf("%v, %v", op.Values, err)
	}
	op, err = s3.Parse(input("GET buck/a?versionId=v"))
	if want := map[string]string{"s3:versionid": "v"}; err != nil || !maps.Equal(op.Values, want) {
		t.Errorf("%v, %v", op.Values, err)
	}
}

func TestEndpointsAreConfigured(t *testing.T) {
	target := s3.Target{Endpoints: []string{"https://a:1", "https://b"}}
	if got, err := target.Endpoint(""); got != "https://a:1" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := target.Endpoint("https://b"); got != "https://b" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	for _, name := range []string{"https://evil", "https://b/", "http://b", "https://b:443", "b", "https://b@evil", "HTTPS://b"} {
		if got, err := target.Endpoint(name); !errors.Is(err, s3.ErrInvalid) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

// Whatever is understood is of one meaning: it needs something, its parts are those that came, and what is signed of it is read again as the
// same.
func FuzzParse(f *testing.F) {
	for _, key := range awkwardKeys {
		f.Add("PUT", "bucket-1", key, "", "", "x-amz-meta-a", "b", "")
		f.Add("GET", "bucket-1", "", "prefix", key, "", "", "")
	}
	f.Add("PUT", "bucket-1", "k", "", "", "x-amz-copy-source", "/src1/a%20b?versionId=v", "")
	f.Add("GET", "bucket-1", "a/../b", "versionId", "v", "range", "bytes=0-1", hashOfNothing)
	f.Add("PUT", "bucket-1", "k", "partNumber", "1", "content-encoding", "aws-chunked", s3.StreamingTrailer)
	f.Fuzz(func(t *testing.T, method, bucket, key, parameter, value, header, headerValue, hash string) {
		in := s3.Input{Method: method, Bucket: bucket, Key: key, Query: map[string]string{}, Headers: map[string]string{}, PayloadHash: hash}
		if parameter != "" {
			in.Query[parameter] = value
		}
		if header != "" {
			in.Headers[header] = headerValue
		}
		op, err := s3.Parse(in)
		if err != nil {
			if !errors.Is(err, s3.ErrInvalid) && !errors.Is(err, s3.ErrUnsupported) {
				t.Fatalf("%v", err)
			}
			return
		}
		if len(op.Needs) == 0 || op.Method != method || op.Bucket != bucket || op.Key != key {
			t.Fatalf("%+v", op)
		}
		again, err := s3.Parse(s3.Input{Method: op.Method, Bucket: op.Bucket, Key: op.Key, Query: op.Query, Headers: op.Headers, PayloadHash: op.PayloadHash})
		if err != nil || again.Name != op.Name || !slices.Equal(again.Needs, op.Needs) || !maps.Equal(again.Headers, op.Headers) {
			t.Fatalf("%+v, then %+v, %v", op, again, err)
		}
		if method == http.MethodPut && bucket == "bucket-1" && op.Name == "PutObject" && op.PayloadHash == s3.UnsignedPayload || op.Name == "ListObjects" {
			in.Bucket, in.Headers = "bucket-1", op.Headers
			differential(t, in)
		}
	})
}
