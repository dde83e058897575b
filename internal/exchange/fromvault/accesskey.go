package fromvault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/exchange/minio"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/internal/vault"
)

// lastKnown is how long a key that was read is used while Vault is away.
const lastKnown = 15 * time.Minute

// AccessKey is an access key in Vault: of a MinIO user, as a minio.Keys, or one that somebody proves who it is by. It is read at each
// use, so that one that is replaced in Vault is in force at once; while Vault is away the last one is used for a quarter of an hour.
type AccessKey struct {
	cfg AccessKeyConfig

	mu   sync.Mutex
	last minio.Key
	read time.Time
}

// AccessKeyConfig configures an AccessKey.
type AccessKeyConfig struct {
	Client *vault.Client
	// Path is below /v1/, as in kv/data/minio for KV version 2.
	Path string
	// AccessKeyID and SecretAccessKey name members of the answer's data, as Fields do.
	AccessKeyID, SecretAccessKey string
}

// NewAccessKey returns an AccessKey. Nothing is read yet.
func NewAccessKey(cfg AccessKeyConfig) *AccessKey { return &AccessKey{cfg: cfg} }

// Key implements minio.Keys.
func (k *AccessKey) Key(ctx context.Context) (minio.Key, error) {
	key, err := k.fetch(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.last, k.read = key, time.Now()
		return key, nil
	}
	if errors.Is(err, exchange.ErrUnavailable) && !k.read.IsZero() && time.Since(k.read) < lastKnown {
		return k.last, nil
	}
	return minio.Key{}, err
}

func (k *AccessKey) fetch(ctx context.Context) (minio.Key, error) {
	a, err := k.cfg.Client.Do(ctx, vault.Call{Path: k.cfg.Path})
	if err != nil {
		return minio.Key{}, asExchange(err)
	}
	id, err := text(a.Data, k.cfg.AccessKeyID)
	if err != nil {
		return minio.Key{}, fmt.Errorf("%w: %s: %w", exchange.ErrRefused, k.cfg.Path, err)
	}
	key, err := text(a.Data, k.cfg.SecretAccessKey)
	if err != nil {
		return minio.Key{}, fmt.Errorf("%w: %s: %w", exchange.ErrRefused, k.cfg.Path, err)
	}
	return minio.Key{AccessKeyID: id, SecretAccessKey: secret.New(key)}, nil
}
