package credbroker

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// AWS returns a provider of a role's credentials for aws-sdk-go-v2. It renews them as the package's documentation says; make one
// for each role and use it everywhere:
//
//	cfg, err := config.LoadDefaultConfig(ctx, config.WithCredentialsProvider(client.AWS("reports")))
//
// There is no need to wrap it in an [aws.CredentialsCache], and no harm: the SDK's config package does it. The Expires that it
// reports is therefore not when the credentials end, but when to ask the provider again, which is earlier. A cache's ExpiryWindow
// is ignored, since renewal begins early anyway.
//
// A Retrieve without valid credentials waits for 15 seconds at most. Its errors are [*Error], or wrap [ErrUnreachable], the
// prover's error or that of ctx, or are [ErrClosed].
func (c *Client) AWS(role string, opts ...RoleOption) aws.CredentialsProvider {
	return &awsProvider{c, newWant(role, opts)}
}

type awsProvider struct {
	client *Client
	want   want
}

// Retrieve implements aws.CredentialsProvider.
func (p *awsProvider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	got, again, err := p.client.current(ctx, p.want)
	if err != nil {
		return aws.Credentials{}, err
	}
	return aws.Credentials{
		AccessKeyID: got.AccessKeyID, SecretAccessKey: got.SecretAccessKey.Reveal(), SessionToken: got.SessionToken.Reveal(),
		Source: "credbroker", CanExpire: true, Expires: again,
	}, nil
}

// AdjustExpiresBy implements aws.AdjustExpiresByCredentialsCacheStrategy: an ExpiryWindow as long as the credentials live would
// otherwise have the cache ask at every request.
func (p *awsProvider) AdjustExpiresBy(c aws.Credentials, _ time.Duration) (aws.Credentials, error) {
	return c, nil
}

// Current returns credentials of a role that are valid now, for clients that have no provider here. It keeps and renews them as the package's
// documentation says: ask it before each use, or each second.
//
// Without valid credentials it waits for 15 seconds at most, or until ctx ends. Its errors are those of [Client.AWS].
func (c *Client) Current(ctx context.Context, role string, opts ...RoleOption) (Credentials, error) {
	got, _, err := c.current(ctx, newWant(role, opts))
	return got, err
}

// MinIO returns a provider of a role's credentials for minio-go v7. It renews them as the package's documentation says; make one
// for each role and use it everywhere:
//
//	minio.New("minio.internal:9000", &minio.Options{Creds: credentials.New(client.MinIO("reports")), Secure: true})
//
// A Retrieve without valid credentials waits for 15 seconds at most, or until the context of its CredContext ends. minio-go lets one
// call in at a time, whatever the contexts of the others: so when one has waited in vain, those of the next 15 seconds don't wait.
// Its errors are those of [Client.AWS].
func (c *Client) MinIO(role string, opts ...RoleOption) credentials.Provider {
	return &minioProvider{client: c, want: newWant(role, opts)}
}

type minioProvider struct {
	client *Client
	want   want
	// vainUntil, in nanoseconds of Unix time, is set when somebody waited in vain: until then nobody else waits.
	vainUntil atomic.Int64
}

var errVain = errors.New("somebody waited for them in vain just before")

// RetrieveWithCredContext implements credentials.Provider.
func (p *minioProvider) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	ctx := context.Background()
	if cc != nil && cc.Context != nil {
		ctx = cc.Context
	}
	begin := time.Now()
	if begin.UnixNano() < p.vainUntil.Load() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, 0, errVain)
		defer cancel()
	}
	got, _, err := p.client.current(ctx, p.want)
	if err != nil {
		if now := time.Now(); now.Sub(begin) > time.Second {
			p.vainUntil.Store(now.Add(waitMost).UnixNano())
		}
		return credentials.Value{}, err
	}
	p.vainUntil.Store(0)
	return credentials.Value{
		AccessKeyID: got.AccessKeyID, SecretAccessKey: got.SecretAccessKey.Reveal(), SessionToken: got.SessionToken.Reveal(),
		Expiration: got.Expires, SignerType: credentials.SignatureV4,
	}, nil
}

// Retrieve implements credentials.Provider.
func (p *minioProvider) Retrieve() (credentials.Value, error) { return p.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider. It always says so, which has minio-go ask at each request, and the answer comes from
// memory. A provider can't know what a credentials.Credentials holds: two that share it would be told of each other's renewals,
// and go on with what has ended.
func (p *minioProvider) IsExpired() bool { return true }
