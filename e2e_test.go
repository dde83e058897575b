package credbroker_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/credbroker/credbroker"
	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/prove"
)

// brokerConfig has a role whose credentials live 12 seconds.
const brokerConfig = `
issuers:
  - {name: test, issuer: %q, audiences: [credbroker]}
exchangers:
  minio: {kind: minio-web-identity, endpoint: %q, client_id: %s, allowed_policies: [reports-rw]}
roles:
  - {name: reports, when: identity.subject == "alice", exchanger: minio, policies: [reports-rw], ttl: {default: 12s, max: 1h, min: 2s}}
limits: {max_mints: 1000}
shutdown: {drain: 0s}
`

// user is a program that writes and reads an object over and over, each time another.
type user struct {
	name     string
	put      func(ctx context.Context, key, text string) error
	get      func(ctx context.Context, key string) (string, error)
	requests atomic.Int64
}

func (u *user) work(ctx context.Context) error {
	n := u.requests.Add(1)
	key, text := fmt.Sprintf("%s/%d", u.name, n%10), fmt.Sprint(n)
	if err := u.put(ctx, key, text); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if got, err := u.get(ctx, key); err != nil || got != text {
		return fmt.Errorf("get: %q, %w", got, err)
	}
	return nil
}

func awsUser(t *testing.T, name string, client *credbroker.Client, store *brokertest.MinIO, transport *http.Transport) *user {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("us-east-1"), config.WithRetryMaxAttempts(1),
		config.WithCredentialsProvider(client.AWS("reports")))
	if err != nil {
		t.Fatal(err)
	}
	bucket := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.BaseEndpoint, o.UsePathStyle, o.HTTPClient = aws.String(store.Endpoint), true, &http.Client{Transport: transport}
	})
	return &user{name: name,
		put: func(ctx context.Context, key, text string) error {
			_, err := bucket.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("reports"), Key: aws.String(key), Body: strings.NewReader(text)})
			return err
		},
		get: func(ctx context.Context, key string) (string, error) {
			got, err := bucket.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("reports"), Key: aws.String(key)})
			if err != nil {
				return "", err
			}
			defer got.Body.Close()
			data, err := io.ReadAll(got.Body)
			return string(data), err
		},
	}
}

func minioUser(t *testing.T, name string, client *credbroker.Client, store *brokertest.MinIO, transport *http.Transport) *user {
	t.Helper()
	bucket, err := minio.New(strings.TrimPrefix(store.Endpoint, "http://"), &minio.Options{
		Creds: credentials.New(client.MinIO("reports")), Region: "us-east-1", MaxRetries: 1, Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &user{name: name,
		put: func(ctx context.Context, key, text string) error {
			_, err := bucket.PutObject(ctx, "reports", key, strings.NewReader(text), int64(len(text)), minio.PutObjectOptions{})
			return err
		},
		get: func(ctx context.Context, key string) (string, error) {
			got, err := bucket.GetObject(ctx, "reports", key, minio.GetObjectOptions{})
			if err != nil {
				return "", err
			}
			defer got.Close()
			data, err := io.ReadAll(got)
			return string(data), err
		},
	}
}

// TestRequestsGoOnWhileCredentialsEndAndTheBrokerIsKilled: programs with both SDKs, over both of the broker's protocols, outlive
// their credentials several times, a broker that is killed and comes back, and a token that is replaced. No request fails.
func TestRequestsGoOnWhileCredentialsEndAndTheBrokerIsKilled(t *testing.T) {
	idp := brokertest.NewIDP(t)
	b := brokertest.NewBroker(t, brokertest.BrokerOptions{})
	store := brokertest.NewMinIO(t, brokertest.MinIOOptions{IssuerURL: b.HTTP})
	b.WriteConfig(fmt.Sprintf(brokerConfig, idp.URL, store.Endpoint, brokertest.ClientID))
	b.Start()
	store.Start()
	store.MakeBucket("reports")
	store.PutPolicy("reports-rw", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::reports/*"]}]}`)

	tokenFile := filepath.Join(t.TempDir(), "token")
	replaceToken := func() {
		if err := os.WriteFile(tokenFile+".next", []byte(idp.Token(map[string]any{"jti": fmt.Sprint(time.Now().UnixNano())})+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tokenFile+".next", tokenFile); err != nil {
			t.Fatal(err)
		}
	}
	replaceToken()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()

	var users []*user
	var clients []*credbroker.Client
	for _, url := range []string{b.HTTP, "grpc://" + b.GRPC} {
		client, err := credbroker.New(url, prove.TokenFile(tokenFile))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		scheme, _, _ := strings.Cut(url, "://")
		clients = append(clients, client)
		users = append(users, awsUser(t, scheme+"-aws", client, store, transport), minioUser(t, scheme+"-minio", client, store, transport))
	}

	ctx, stop := context.WithTimeout(t.Context(), 35*time.Second)
	defer stop()
	var wait sync.WaitGroup
	for _, u := range users {
		wait.Go(func() {
			for ctx.Err() == nil {
				if err := u.work(t.Context()); err != nil {
					t.Errorf("%s, request %d: %v", u.name, u.requests.Load(), err)
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	issued := func() (n int) {
		for _, line := range b.Audit() {
			if strings.Contains(line, `"decision":"allowed"`) {
				n++
			}
		}
		return n
	}
	time.Sleep(10 * time.Second) // load goes on; by now each client has renewed
	before := issued()
	b.Signal(syscall.SIGKILL)
	b.Stop()
	replaceToken()
	time.Sleep(4 * time.Second) // an outage, longer than the last part of a credential's life
	b.Start()
	wait.Wait()

	for _, u := range users {
		t.Logf("%s: %d requests", u.name, u.requests.Load())
	}
	after := issued() - before
	t.Logf("%d credentials before the kill, %d after", before, after)
	// Two clients, a renewal in each 8 to 10 s, and a few answers from the broker's cache.
	if before < 4 || before > 12 || after < 4 || after > 24 {
		t.Errorf("%d credentials in 10 s, and %d in the 20 s after the broker's return", before, after)
	}
	for _, client := range clients {
		_ = client.Close()
	}
}
