package credbroker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/credbroker/credbroker"
	"github.com/credbroker/credbroker/prove"
)

// exampleBroker stands in for a broker with one role, reports.
func exampleBroker() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); !strings.Contains(string(body), `"role":"reports"`) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"error":{"code":"permission_denied","message":"the role doesn't exist or this identity may not use it","request_id":"7KQ2","retryable":false}}`)
			return
		}
		fmt.Fprintf(w, `{"access_key_id":"KEY","secret_access_key":"SECRET","session_token":"SESSION","expires_at":%q,"role":"reports","request_id":"7KQ1"}`,
			time.Now().Add(15*time.Minute).UTC().Format(time.RFC3339))
	}))
}

// exampleStore stands in for an object store: it says whose key signed a request.
func exampleStore() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, key, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		key, _, _ = strings.Cut(key, "/")
		fmt.Println(r.Method, r.URL.Path, "signed with", key)
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Etag", `"1"`)
	}))
}

func ExampleClient_Credentials() {
	broker := exampleBroker()
	defer broker.Close()

	client, err := credbroker.New(broker.URL, prove.Token("eyJ.of.alice"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	got, err := client.Credentials(context.Background(), "reports", credbroker.WithTTL(15*time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(got.AccessKeyID, got.SecretAccessKey, time.Until(got.Expires).Round(time.Minute))
	// Output: KEY [redacted] 15m0s
}

func ExampleClient_AWS() {
	broker, store := exampleBroker(), exampleStore()
	defer broker.Close()
	defer store.Close()
	ctx := context.Background()

	client, err := credbroker.New(broker.URL, prove.Token("eyJ.of.alice"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion("us-east-1"), config.WithCredentialsProvider(client.AWS("reports")))
	if err != nil {
		fmt.Println(err)
		return
	}
	bucket := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.BaseEndpoint, o.UsePathStyle = aws.String(store.URL), true
	})
	if _, err := bucket.PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String("reports"), Key: aws.String("q3.txt"), Body: strings.NewReader("figures"),
	}); err != nil {
		fmt.Println(err)
	}
	// Output: PUT /reports/q3.txt signed with KEY
}

func ExampleClient_MinIO() {
	broker, store := exampleBroker(), exampleStore()
	defer broker.Close()
	defer store.Close()

	client, err := credbroker.New(broker.URL, prove.Token("eyJ.of.alice"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	bucket, err := minio.New(strings.TrimPrefix(store.URL, "http://"), &minio.Options{
		Creds: credentials.New(client.MinIO("reports")), Region: "us-east-1",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := bucket.PutObject(context.Background(), "reports", "q3.txt", strings.NewReader("figures"), 7, minio.PutObjectOptions{}); err != nil {
		fmt.Println(err)
	}
	// Output: PUT /reports/q3.txt signed with KEY
}

func ExampleError() {
	broker := exampleBroker()
	defer broker.Close()

	client, err := credbroker.New(broker.URL, prove.Token("eyJ.of.alice"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	_, err = client.Credentials(context.Background(), "payroll")
	if refusal, ok := errors.AsType[*credbroker.Error](err); ok && refusal.Code == credbroker.CodePermissionDenied {
		fmt.Println("ask whoever runs the broker about request", refusal.RequestID)
	}
	// Output: ask whoever runs the broker about request 7KQ2
}

// In a pod: the kubelet rotates the token, and the file is read anew for each call.
func ExampleNew() {
	client, err := credbroker.New("https://broker.internal:8443",
		prove.TokenFile("/var/run/secrets/tokens/credbroker"),
		credbroker.WithCAFile("/etc/ssl/internal-ca.pem"),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
}
