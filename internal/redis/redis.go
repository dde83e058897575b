// Package redis is what replicas of the broker have in common, kept in Redis (7.0 or a compatible one): sealed credentials,
// leases on what is being minted, the issuer's public keys, and which proofs were used up.
//
// Redis is an optimisation for the first two: what is wrong with it makes a miss, or [cache.ErrUnavailable]. For the others
// it is needed, and they fail closed. It is never trusted: credentials and keys are sealed ([seal.Keyring]), so that whoever
// reads or writes it learns nothing from them and can plant none.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
)

// Modes of a Redis.
const (
	Standalone = "standalone"
	Sentinel   = "sentinel"
	Cluster    = "cluster"
)

// Config configures a Client.
type Config struct {
	// Mode is Standalone, Sentinel or Cluster.
	Mode string
	// Addresses are host:port: of the one server, of the sentinels, or of some of the cluster's nodes.
	Addresses []string
	// MasterName is what the sentinels call the primary; with Sentinel alone.
	MasterName string
	// Username and PasswordFile are for Redis (ACL); the file is read again for every connection. Both optional.
	Username, PasswordFile string
	// SentinelUsername and SentinelPassword are for the sentinels; optional.
	SentinelUsername string
	SentinelPassword secret.Secret
	// DB is the database, 0 with Cluster.
	DB int
	// TLS is nil for plaintext.
	TLS *tls.Config
	// Timeout bounds one operation, connecting included.
	Timeout time.Duration
	// Prefix begins every key and channel, so that several installations share a Redis.
	Prefix string
	// Keyring seals what is kept. While it is locked, Redis is done without but for what isn't sealed.
	Keyring *seal.Keyring
	// Observe is told of every operation: its name, ok, error or skipped, and its time; optional.
	Observe func(operation, outcome string, took time.Duration)
	// Log hears when Redis goes and comes.
	Log *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Client is a connection pool to one Redis. It is safe for concurrent use. Run has to be running.
type Client struct {
	cfg Config
	rdb goredis.UniversalClient
	// What is sealed says which installation and what kind of thing it is for.
	sealedCredentials, sealedBoard, sealedSessions, sealedMinted, sealedRevocations string

	health  health
	waiting waiting
}

// New returns a client. It connects to nothing yet: Redis may come later.
func New(cfg Config) (*Client, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, string, time.Duration) {}
	}
	o := &goredis.UniversalOptions{
		Addrs: cfg.Addresses, MasterName: cfg.MasterName, DB: cfg.DB, TLSConfig: cfg.TLS,
		SentinelUsername: cfg.SentinelUsername, SentinelPassword: cfg.SentinelPassword.Reveal(),
		CredentialsProviderContext: cfg.credentials,
		DialTimeout:                cfg.Timeout, ReadTimeout: cfg.Timeout, WriteTimeout: cfg.Timeout, PoolTimeout: cfg.Timeout,
		ContextTimeoutEnabled: true,
		// What fails is done without, or tried again by whoever knows better: a retry here would only add to the wait, and a
		// lease that was taken by a command whose answer was lost would look like another's.
		MaxRetries: -1, DialerRetries: 1,
		ReadBufferSize: 8 << 10, WriteBufferSize: 8 << 10,
		Protocol:                 2, // the third would have every answer looked at for notifications first
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	goredis.SetLogger(libraryLog{cfg.Log}) // it has but one for the process
	c := &Client{cfg: cfg, sealedCredentials: cfg.Prefix + ": credentials", sealedBoard: cfg.Prefix + ": issuer keys", sealedSessions: cfg.Prefix + ": gateway sessions", sealedMinted: cfg.Prefix + ": minted keys", sealedRevocations: cfg.Prefix + ": revocations"}
	c.health.client = c
	switch cfg.Mode {
	case Standalone:
		c.rdb = goredis.NewClient(o.Simple())
	case Sentinel:
		c.rdb = goredis.NewFailoverClient(o.Failover())
	case Cluster:
		c.rdb = goredis.NewClusterClient(o.Cluster())
	default:
		return nil, fmt.Errorf("redis mode %q isn't known", cfg.Mode)
	}
	return c, nil
}

// libraryLog takes what the library would print to standard error: Status and the metrics say the same.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "redis library", "message", clip(fmt.Sprintf(format, args...)))
}

// credentials reads the password anew for each connection, so that it can be rotated.
func (cfg *Config) credentials(context.Context) (username, password string, err error) {
	if cfg.PasswordFile == "" {
		return cfg.Username, "", nil
	}
	p, err := secret.ReadFile(cfg.PasswordFile, 4096)
	if err != nil {
		return "", "", fmt.Errorf("redis password: %w", err)
	}
	return cfg.Username, p.Reveal(), nil
}

// Close ends all connections.
func (c *Client) Close() error { return c.rdb.Close() }

// Run listens for what other replicas landed, and looks for Redis while it is away, until ctx ends.
func (c *Client) Run(ctx context.Context) {
	var work sync.WaitGroup
	work.Go(func() { c.listen(ctx) })
	work.Go(func() { c.Replay().begin(ctx) })
	work.Go(func() { c.health.run(ctx) })
	work.Wait()
}

// The operations on what isn't sealed by Config.Keyring.
const (
	opReplay = "replay"
	opKeys   = "keys"
)

// lockedReason is why nothing else is done while the keyring is locked.
const lockedReason = "its keys, which Vault wraps, are not known yet"

// do runs one operation within the timeout, unless Redis is known to be away. It returns nil, goredis.Nil, ctx's error, or
// one that is cache.ErrUnavailable. An operation that writes is told apart, since a Redis may refuse just these.
func (c *Client) do(ctx context.Context, name string, writes bool, operation func(context.Context) error) error {
	if c.cfg.Keyring.Locked() && name != opReplay && name != opKeys {
		c.cfg.Observe(name, "skipped", 0)
		return fmt.Errorf("%w: %s", cache.ErrUnavailable, lockedReason)
	}
	if c.health.away(writes) {
		c.cfg.Observe(name, "skipped", 0)
		return fmt.Errorf("%w: %s", cache.ErrUnavailable, c.health.reason())
	}
	start := time.Now()
	bounded, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	err := operation(bounded)
	took := time.Since(start)
	switch {
	case err == nil, errors.Is(err, goredis.Nil):
		c.cfg.Observe(name, "ok", took)
		c.health.worked(writes)
		return err
	case ctx.Err() != nil:
		return ctx.Err() // the caller left, which says nothing of Redis
	}
	c.cfg.Observe(name, "error", took)
	c.health.failed(writes, err)
	return fmt.Errorf("%w: %s: %s", cache.ErrUnavailable, name, describe(err))
}

// answered says that err is what Redis said, not that it said nothing.
func answered(err error) bool {
	_, ok := errors.AsType[goredis.Error](err)
	return ok
}

// describe is an error in one line that may be logged: without what a server may have put into its words.
func describe(err error) string {
	if e, ok := errors.AsType[goredis.Error](err); ok {
		word, _, _ := strings.Cut(e.Error(), " ")
		switch word {
		case "OOM":
			return "OOM: Redis is out of memory and takes no writes"
		case "READONLY":
			return "READONLY: Redis is a replica and takes no writes"
		case "LOADING":
			return "LOADING: Redis is reading its data set"
		case "NOAUTH", "WRONGPASS", "NOPERM":
			return word + ": Redis refuses the user, the password or the command; see the commands needed in docs/redis.md"
		case "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "MISCONF", "TRYAGAIN", "WRONGTYPE", "NOSCRIPT", "BUSY", "MOVED", "ASK":
			return word
		}
		return "Redis answered with an error"
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return clip(err.Error())
}

func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 256 {
		return s[:256] + "..."
	}
	return s
}
