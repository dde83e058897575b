package minio

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
	"github.com/credbroker/credbroker/internal/secret"
)

// Key is the key of a MinIO user. It lasts until somebody takes it away, so it's a secret that the broker holds.
type Key struct {
	AccessKeyID     string
	SecretAccessKey secret.Secret
}

// Keys is where the key of the parent user comes from.
type Keys interface {
	// Key returns the key that is in force now. Its errors are those of exchange.Exchanger.
	Key(ctx context.Context) (Key, error)
}

// KeyFile is the path of a file for secret.ReadAccessKey. It is read for each exchange:
// one that is replaced is in force at once, both parts of it together.
type KeyFile string

// Key implements Keys.
func (f KeyFile) Key(context.Context) (Key, error) {
	id, key, err := secret.ReadAccessKey(string(f))
	if err != nil {
		return Key{}, fmt.Errorf("%w: parent's key: %w", exchange.ErrUnavailable, err)
	}
	return Key{AccessKeyID: id, SecretAccessKey: key}, nil
}

// AssumeRoleConfig configures an AssumeRole.
type AssumeRoleConfig struct {
	Server
	// Parent is whose rights the credentials have, cut by the session policy.
	Parent Keys
	// Region is what requests are signed for: MinIO's own region, us-east-1 if it has none.
	Region string
	// Dangerous lets credentials do all that the parent may. Without it every credential has a session policy.
	Dangerous bool
}

// AssumeRole is an exchange.Exchanger by AssumeRole, with the key of a parent user. Run must run for as long as it is used.
type AssumeRole struct {
	cfg       AssumeRoleConfig
	transport *http.Transport
	attempts  *exchange.Attempts
}

// NewAssumeRole returns an exchanger for one MinIO. Nothing is sent yet.
func NewAssumeRole(cfg AssumeRoleConfig) (*AssumeRole, error) {
	transport, err := newTransport(cfg.CAFile, new(contact))
	if err != nil {
		return nil, err
	}
	return &AssumeRole{
		cfg: cfg, transport: transport,
		attempts: exchange.NewAttempts(exchange.AttemptsConfig{Timeout: cfg.Timeout, Observe: cfg.Observe}),
	}, nil
}

// AssumeRoleHonours is what an AssumeRole honours of a grant: MinIO takes no policies' names there.
func AssumeRoleHonours() policy.Backend {
	return policy.Backend{SessionPolicyBytes: sessionPolicyBytes, MinTTL: minDuration, MaxTTL: maxTTL}
}

// Status implements exchange.Exchanger.
func (x *AssumeRole) Status() string { return x.attempts.Status() }

// Run closes the connections when ctx ends.
func (x *AssumeRole) Run(ctx context.Context) {
	<-ctx.Done()
	x.transport.CloseIdleConnections()
}

// Exchange implements exchange.Exchanger.
func (x *AssumeRole) Exchange(ctx context.Context, req exchange.Request) (exchange.Credentials, error) {
	return x.attempts.Exchange(ctx, func(ctx context.Context) (exchange.Credentials, error) {
		key, err := x.cfg.Parent.Key(ctx)
		if err != nil {
			return exchange.Credentials{}, err
		}
		d, err := duration(req, time.Now())
		if err != nil {
			return exchange.Credentials{}, err
		}
		provider, err := credentials.NewSTSAssumeRole(x.cfg.Endpoint, credentials.STSAssumeRoleOptions{
			AccessKey: key.AccessKeyID, SecretKey: key.SecretAccessKey.Reveal(), Location: x.cfg.Region,
			Policy: boundary(req.Grant, x.cfg.Dangerous), DurationSeconds: int(d / time.Second),
		})
		if err != nil {
			return exchange.Credentials{}, fmt.Errorf("%w: parent's key is incomplete", exchange.ErrRefused)
		}
		c, failure := ask(ctx, provider, x.transport, req.Correlation, key.SecretAccessKey)
		if failure != nil {
			return exchange.Credentials{}, failure.asError()
		}
		return c, exchange.Check(c, time.Now().Add(d), time.Now())
	})
}

// proofMargin keeps credentials that must end within the proof from outliving it by the time that a call takes.
const proofMargin = 2 * time.Second

// duration is how long credentials shall live from when MinIO makes them, in whole seconds.
func duration(req exchange.Request, now time.Time) (time.Duration, error) {
	d := req.Grant.TTL
	if req.Grant.WithinProof {
		d = min(d, req.Identity.Expires.Sub(now)-proofMargin)
	}
	d = d.Truncate(time.Second)
	if d < minDuration {
		return 0, fmt.Errorf("%w: %s are left, MinIO grants no less than %s", exchange.ErrRefused, d, minDuration)
	}
	return d, nil
}
