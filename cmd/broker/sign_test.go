package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/credbroker/credbroker/internal/brokertest"
	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

const signerRoles = `
  - name: signer
    when: '"finance" in identity.attrs.groups'
    exchanger: minio
    policies: [all-reports]
    session_policy: |
      {"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Action":["s3:GetObject","s3:PutObject","s3:DeleteObject","s3:AbortMultipartUpload","s3:ListMultipartUploadParts","s3:PutObjectTagging","s3:GetObjectTagging"],
         "Resource":"arn:aws:s3:::reports/{{subject}}/*"},
        {"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::reports","Condition":{"StringLike":{"s3:prefix":"{{subject}}/*"}}}]}
  - name: reader
    when: '"finance" in identity.attrs.groups'
    exchanger: minio
    policies: [all-reports]
    operations: [s3:GetObject]
  - name: unbounded
    when: '"finance" in identity.attrs.groups'
    exchanger: minio
    policies: [all-reports]
`

// signItem is one request to be signed.
type signItem struct {
	Method      string            `json:"method"`
	Bucket      string            `json:"bucket"`
	Key         string            `json:"key,omitempty"`
	Query       map[string]string `json:"query,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	PayloadHash string            `json:"payload_hash,omitempty"`
	VirtualHost bool              `json:"virtual_host,omitempty"`
	Endpoint    string            `json:"endpoint,omitempty"`
}

type signedAnswer struct {
	Status int `json:"-"`
	Signed []struct {
		Method, URL, Host, Path, Query string
		Headers                        map[string]string
	}
	AccessKeyID string `json:"access_key_id"`
	ExpiresAt   string `json:"expires_at"`
	Role        string
	RequestID   string `json:"request_id"`
	Error       struct{ Code, Message string }
}

// sign asks for signatures over HTTP; path is /v1/sign or /v1/presign.
func (w *world) sign(path, role string, seconds int, items ...signItem) signedAnswer {
	w.t.Helper()
	body, err := json.Marshal(map[string]any{"role": role, "expires_in_seconds": seconds, "requests": items})
	if err != nil {
		w.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, w.HTTP+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + w.token(nil)}, "Content-Type": {"application/json"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := signedAnswer{Status: resp.StatusCode}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		w.t.Fatal(err)
	}
	return a
}

// send sends what was signed, as it is, and returns the store's answer. Change alters the request before it goes.
func (a signedAnswer) send(t *testing.T, n int, body string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	s := a.Signed[n]
	u, err := url.Parse(s.URL)
	if err != nil || u.Host != s.Host || u.EscapedPath() != s.Path || u.RawQuery != s.Query {
		t.Fatalf("%+v, %v", s, err)
	}
	req, err := http.NewRequest(s.Method, s.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range s.Headers {
		req.Header.Set(name, value)
	}
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

// do signs one request, sends it and wants a status.
func (w *world) do(want int, body string, item signItem) (*http.Response, string) {
	w.t.Helper()
	a := w.sign("/v1/sign", "signer", 60, item)
	if a.Status != http.StatusOK {
		w.t.Fatalf("%+v: %d %+v", item, a.Status, a.Error)
	}
	resp, data := a.send(w.t, 0, body, nil)
	if resp.StatusCode != want {
		w.t.Errorf("%+v: %d %s", item, resp.StatusCode, data)
	}
	return resp, data
}

func startSigningWorld(t *testing.T) *world {
	w := newWorld(t)
	w.WriteConfig(strings.Replace(w.config(signerRoles), "allowed_policies: [reports-rw]",
		"allowed_policies: [reports-rw, all-reports]\n    s3: {endpoints: ["+w.minio.Endpoint+", https://gateway.example]}", 1))
	w.Start()
	w.minio.Start()
	w.furnish()
	w.minio.PutPolicy("all-reports", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::reports","arn:aws:s3:::reports/*"]}]}`)
	return w
}

func TestSignedRequestsReachARealMinIO(t *testing.T) {
	w := startSigningWorld(t)

	t.Run("put, head, get, range and delete of awkward keys", func(t *testing.T) {
		for _, name := range []string{"plain", "with space", "plus+plus", "100%", "%2F", "ü/日本/🎉", "a?b#c&d=e", "it's \"(*)!\"", "~t", "$,:;@=", "dir/", "[x]{y}|^`<>"} {
			key, content := "alice/"+name, "content of "+name
			if strings.HasSuffix(key, "/") {
				content = ""
			}
			item := signItem{Method: "PUT", Bucket: "reports", Key: key, Headers: map[string]string{"x-amz-meta-Note": "n", "content-type": "text/plain"}}
			w.do(200, content, item)
			resp, _ := w.do(200, "", signItem{Method: "HEAD", Bucket: "reports", Key: key})
			if resp.Header.Get("X-Amz-Meta-Note") != "n" || resp.Header.Get("Content-Type") != "text/plain" {
				t.Errorf("%q: %v", key, resp.Header)
			}
			if _, data := w.do(200, "", signItem{Method: "GET", Bucket: "reports", Key: key}); data != content {
				t.Errorf("%q holds %q", key, data)
			}
			if content != "" {
				if _, data := w.do(206, "", signItem{Method: "GET", Bucket: "reports", Key: key, Headers: map[string]string{"range": "bytes=0-6"}}); data != "content" {
					t.Errorf("%q: %q", key, data)
				}
			}
			found := false
			for object := range w.minio.Root().ListObjects(t.Context(), "reports", minio.ListObjectsOptions{Recursive: true}) {
				found = found || object.Key == key
			}
			if !found {
				t.Errorf("%q is not in the store by that name", key)
			}
			w.do(204, "", signItem{Method: "DELETE", Bucket: "reports", Key: key})
		}
	})
	t.Run("list of an own prefix", func(t *testing.T) {
		w.do(200, "x", signItem{Method: "PUT", Bucket: "reports", Key: "alice/l/a b"})
		_, data := w.do(200, "", signItem{Method: "GET", Bucket: "reports", Query: map[string]string{"list-type": "2", "prefix": "alice/l/", "delimiter": "/"}})
		if !strings.Contains(data, "<Key>alice/l/a b</Key>") {
			t.Error(data)
		}
	})
	t.Run("multipart", func(t *testing.T) {
		key := "alice/multi part"
		_, data := w.do(200, "", signItem{Method: "POST", Bucket: "reports", Key: key, Query: map[string]string{"uploads": ""}})
		var started struct{ UploadId string }
		if err := xml.Unmarshal([]byte(data), &started); err != nil {
			t.Fatal(err)
		}
		parts := []string{strings.Repeat("a", 5<<20), "the end"}
		complete := "<CompleteMultipartUpload>"
		for i, part := range parts {
			resp, _ := w.do(200, part, signItem{Method: "PUT", Bucket: "reports", Key: key, Query: map[string]string{"partNumber": fmt.Sprint(i + 1), "uploadId": started.UploadId}})
			complete += fmt.Sprintf("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, resp.Header.Get("ETag"))
		}
		w.do(200, "", signItem{Method: "GET", Bucket: "reports", Key: key, Query: map[string]string{"uploadId": started.UploadId}})
		w.do(200, complete+"</CompleteMultipartUpload>", signItem{Method: "POST", Bucket: "reports", Key: key, Query: map[string]string{"uploadId": started.UploadId}})
		if _, data := w.do(200, "", signItem{Method: "GET", Bucket: "reports", Key: key}); data != parts[0]+parts[1] {
			t.Errorf("%d bytes", len(data))
		}
	})
	t.Run("copy and tags", func(t *testing.T) {
		w.do(200, "to be copied", signItem{Method: "PUT", Bucket: "reports", Key: "alice/src ü+", Headers: map[string]string{"x-amz-tagging": "a=b"}})
		w.do(200, "", signItem{Method: "PUT", Bucket: "reports", Key: "alice/dst", Headers: map[string]string{"x-amz-copy-source": "/reports/alice/src%20%C3%BC%2B"}})
		if _, data := w.do(200, "", signItem{Method: "GET", Bucket: "reports", Key: "alice/dst"}); data != "to be copied" {
			t.Error(data)
		}
		if _, data := w.do(200, "", signItem{Method: "GET", Bucket: "reports", Key: "alice/src ü+", Query: map[string]string{"tagging": ""}}); !strings.Contains(data, "<Key>a</Key>") {
			t.Error(data)
		}
	})
	t.Run("a given hash and a streamed body", func(t *testing.T) {
		const hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
		w.do(200, "hello", signItem{Method: "PUT", Bucket: "reports", Key: "alice/h", PayloadHash: hello})
		w.do(400, "HELLO", signItem{Method: "PUT", Bucket: "reports", Key: "alice/h", PayloadHash: hello})
		w.do(200, "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n", signItem{Method: "PUT", Bucket: "reports", Key: "alice/s", PayloadHash: "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
			Headers: map[string]string{"content-encoding": "aws-chunked", "x-amz-decoded-content-length": "5", "x-amz-trailer": "x-amz-checksum-crc32"}})
		if _, data := w.do(200, "", signItem{Method: "GET", Bucket: "reports", Key: "alice/s"}); data != "hello" {
			t.Errorf("%q", data)
		}
	})
	t.Run("presigned URLs, in a batch", func(t *testing.T) {
		a := w.sign("/v1/presign", "signer", 60, signItem{Method: "PUT", Bucket: "reports", Key: "alice/p q+", Headers: map[string]string{"content-type": "text/x"}},
			signItem{Method: "GET", Bucket: "reports", Key: "alice/p q+", Query: map[string]string{"response-content-disposition": "attachment; filename=\"a b\""}})
		if a.Status != 200 || len(a.Signed) != 2 || len(a.Signed[1].Headers) != 0 {
			t.Fatalf("%+v", a)
		}
		if resp, data := a.send(t, 0, "pq", nil); resp.StatusCode != http.StatusOK {
			t.Error(data)
		}
		if resp, data := a.send(t, 1, "", nil); data != "pq" || resp.Header.Get("Content-Disposition") != `attachment; filename="a b"` || resp.Header.Get("Content-Type") != "text/x" {
			t.Errorf("%s %v", data, resp.Header)
		}
	})
	t.Run("gRPC", func(t *testing.T) {
		conn, err := grpc.NewClient(w.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := brokerv1.NewCredentialBrokerServiceClient(conn)
		proof := &brokerv1.Proof{Proof: &brokerv1.Proof_Jwt{Jwt: w.token(nil)}}
		signed, err := client.SignRequest(t.Context(), &brokerv1.SignRequestRequest{Proof: proof, Role: "signer", Window: durationpb.New(30 * time.Second),
			Requests: []*brokerv1.S3Request{{Method: "PUT", Bucket: "reports", Key: "alice/grpc", Headers: map[string]string{"x-amz-meta-a": "b"}}}})
		if err != nil {
			t.Fatal(err)
		}
		presigned, err := client.PresignURL(t.Context(), &brokerv1.PresignURLRequest{Proof: proof, Role: "signer", Requests: []*brokerv1.S3Request{{Method: "GET", Bucket: "reports", Key: "alice/grpc"}}})
		if err != nil || signed.GetAccessKeyId() == "" || presigned.GetAccessKeyId() != signed.GetAccessKeyId() {
			t.Fatalf("%v, %v", presigned.GetRole(), err)
		}
		s := signed.GetSigned()[0]
		req, _ := http.NewRequest(s.GetMethod(), s.GetUrl(), strings.NewReader("by gRPC"))
		for name, value := range s.GetHeaders() {
			req.Header.Set(name, value)
		}
		if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", resp, err)
		} else {
			resp.Body.Close()
		}
		if status, body, err := brokertest.Get(presigned.GetSigned()[0].GetUrl()); err != nil || status != 200 || body != "by gRPC" {
			t.Errorf("%d %s, %v", status, body, err)
		}
	})
	t.Run("virtual host and other endpoints", func(t *testing.T) {
		a := w.sign("/v1/sign", "signer", 60, signItem{Method: "GET", Bucket: "reports", Key: "alice/x y", VirtualHost: true, Endpoint: "https://gateway.example"})
		if a.Status != 200 || a.Signed[0].URL != "https://reports.gateway.example/alice/x%20y" {
			t.Errorf("%+v", a)
		}
	})
}

// What a signature doesn't say is not done by it, and not for long.
func TestSignaturesAreNarrow(t *testing.T) {
	w := startSigningWorld(t)
	own := signItem{Method: "GET", Bucket: "reports", Key: "alice/a"}

	t.Run("refused", func(t *testing.T) {
		for name, tc := range map[string]struct {
			role string
			item signItem
			want string
		}{
			"another's folder":           {"signer", signItem{Method: "GET", Bucket: "reports", Key: "bob/a"}, "permission_denied"},
			"another bucket":             {"signer", signItem{Method: "GET", Bucket: "secrets", Key: "alice/a"}, "permission_denied"},
			"a prefix of everybody's":    {"signer", signItem{Method: "GET", Bucket: "reports", Query: map[string]string{"list-type": "2", "prefix": ""}}, "permission_denied"},
			"a list without a prefix":    {"signer", signItem{Method: "GET", Bucket: "reports", Query: map[string]string{"list-type": "2"}}, "permission_denied"},
			"another's prefix":           {"signer", signItem{Method: "GET", Bucket: "reports", Query: map[string]string{"list-type": "2", "prefix": "bob/"}}, "permission_denied"},
			"versions of an own object":  {"signer", signItem{Method: "GET", Bucket: "reports", Key: "alice/a", Query: map[string]string{"versionId": "null"}}, "permission_denied"},
			"a copy of another's":        {"signer", signItem{Method: "PUT", Bucket: "reports", Key: "alice/a", Headers: map[string]string{"x-amz-copy-source": "reports/bob/a"}}, "permission_denied"},
			"an ACL":                     {"signer", signItem{Method: "PUT", Bucket: "reports", Key: "alice/a", Headers: map[string]string{"x-amz-acl": "public-read"}}, "permission_denied"},
			"a write by a reader":        {"reader", signItem{Method: "PUT", Bucket: "reports", Key: "alice/a"}, "permission_denied"},
			"a role that bounds nothing": {"unbounded", own, "permission_denied"},
			"no such role":               {"nobody", own, "permission_denied"},
			"dots":                       {"signer", signItem{Method: "GET", Bucket: "reports", Key: "alice/../bob/a"}, "invalid_s3_request"},
			"a foreign endpoint":         {"signer", signItem{Method: "GET", Bucket: "reports", Key: "alice/a", Endpoint: "https://evil.example"}, "invalid_s3_request"},
			"a policy":                   {"signer", signItem{Method: "PUT", Bucket: "reports", Query: map[string]string{"policy": ""}}, "unsupported_s3_request"},
			"chunks that are signed":     {"signer", signItem{Method: "PUT", Bucket: "reports", Key: "alice/a", PayloadHash: "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}, "unsupported_s3_request"},
			"no method":                  {"signer", signItem{Bucket: "reports", Key: "alice/a"}, "unsupported_s3_request"},
		} {
			for _, path := range []string{"/v1/sign", "/v1/presign"} {
				if a := w.sign(path, tc.role, 60, tc.item); a.Error.Code != tc.want || len(a.Signed) != 0 {
					t.Errorf("%s: %+v", name, a)
				}
				// All or none.
				if a := w.sign(path, tc.role, 60, own, tc.item); a.Error.Code != tc.want || len(a.Signed) != 0 {
					t.Errorf("%s, in a batch: %+v", name, a)
				}
			}
		}
		if a := w.sign("/v1/sign", "signer", 60, make([]signItem, 17)...); a.Error.Code != "invalid_request" {
			t.Errorf("17: %+v", a)
		}
	})
	t.Run("changed on the way", func(t *testing.T) {
		w.do(200, "a", signItem{Method: "PUT", Bucket: "reports", Key: "alice/a"})
		w.do(200, "b", signItem{Method: "PUT", Bucket: "reports", Key: "alice/b"})
		for name, change := range map[string]func(*http.Request){
			"another key":          func(r *http.Request) { r.URL.Path = "/reports/alice/b" },
			"another method":       func(r *http.Request) { r.Method = "DELETE" },
			"another sub-resource": func(r *http.Request) { r.URL.RawQuery += "&tagging=" },
			"another host":         func(r *http.Request) { r.Host = "elsewhere" },
			"another range":        func(r *http.Request) { r.Header.Set("Range", "bytes=0-0") },
		} {
			ranged := own
			ranged.Headers = map[string]string{"range": "bytes=0-5"}
			for _, path := range []string{"/v1/sign", "/v1/presign"} {
				if resp, data := w.sign(path, "signer", 60, ranged).send(t, 0, "", change); resp.StatusCode != http.StatusForbidden {
					t.Errorf("%s, %s: %d %s", name, path, resp.StatusCode, data)
				}
			}
		}
	})
	// As docs/signing.md says: the store obeys it, within the session policy.
	t.Run("an unsigned source of a copy", func(t *testing.T) {
		for source, want := range map[string]int{"/reports/alice/a": 200, "/reports/bob/a": 403} {
			for _, path := range []string{"/v1/sign", "/v1/presign"} {
				a := w.sign(path, "signer", 60, signItem{Method: "PUT", Bucket: "reports", Key: "alice/unsigned"})
				if resp, data := a.send(t, 0, "", func(r *http.Request) { r.Header.Set("X-Amz-Copy-Source", source) }); resp.StatusCode != want {
					t.Errorf("%s of %s: %d %s", path, source, resp.StatusCode, data)
				}
			}
		}
	})
	t.Run("the window", func(t *testing.T) {
		for _, path := range []string{"/v1/sign", "/v1/presign"} {
			a := w.sign(path, "signer", 3, own)
			ends, err := time.Parse(time.RFC3339, a.ExpiresAt)
			if err != nil || time.Until(ends) > 3*time.Second {
				t.Fatalf("%+v, %v", a, err)
			}
			if resp, data := a.send(t, 0, "", nil); resp.StatusCode != http.StatusOK {
				t.Errorf("%s, at once: %d %s", path, resp.StatusCode, data)
			}
			brokertest.Eventually(t, 10*time.Second, "the signature ends", func() error {
				if resp, data := a.send(t, 0, "", nil); resp.StatusCode != http.StatusForbidden {
					return fmt.Errorf("%d %s", resp.StatusCode, data)
				}
				return nil
			})
			if late := time.Since(ends); late > 2*time.Second {
				t.Errorf("%s: it ended %s late", path, late)
			}
		}
	})
	t.Run("audit", func(t *testing.T) {
		w.sign("/v1/sign", "signer", 60, signItem{Method: "PUT", Bucket: "reports", Key: "alice/c", Headers: map[string]string{"x-amz-copy-source": "reports/alice/ü"}})
		lines := w.Audit()
		if last := lines[len(lines)-1]; !strings.Contains(last, `"event":"sign_request"`) || !strings.Contains(last, `"operations":[{"operation":"CopyObject","bucket":"reports","key":"alice/c","source":"reports/alice/%C3%BC"}]`) {
			t.Error(last)
		}
		w.sign("/v1/presign", "signer", 60, signItem{Method: "GET", Bucket: "reports", Key: "bob/c"})
		lines = w.Audit()
		if last := lines[len(lines)-1]; !strings.Contains(last, `"event":"presign_url"`) || !strings.Contains(last, `"decision":"denied"`) || !strings.Contains(last, `"key":"bob/c"`) {
			t.Error(last)
		}
	})
}
