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

// ParentKey is the key of a MinIO user in Vault, a minio.Keys. It is read for each exchange, so that one that is replaced in Vault is in
// force at once; while Vault is away the last one is used for a quarter of an hour.
type ParentKey struct {
	cfg ParentKeyConfig

	mu   sync.Mutex
	last minio.Key
	read time.Time
}

// ParentKeyConfig configures a ParentKey.
type ParentKeyConfig struct {
	Client *vault.Client
	// Path is below /v1/, as in kv/data/minio for KV version 2.
	Path string
	// AccessKeyID and SecretAccessKey name members of the answer's data, as Fields do.
	AccessKeyID, SecretAccessKey string
}

// NewParentKey returns a ParentKey. Nothing is read yet.
func NewParentKey(cfg ParentKeyConfig) *ParentKey { return &ParentKey{cfg: cfg} }

// Key implements minio.Keys.
func (p *ParentKey) Key(ctx context.Context) (minio.Key, error) {
	key, err := p.fetch(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.last, p.read = key, time.Now()
		return key, nil
	}
	if errors.Is(err, exchange.ErrUnavailable) && !p.read.IsZero() && time.Since(p.read) < lastKnown {
		return p.last, nil
	}
	return minio.Key{}, err
}

func (p *ParentKey) fetch(ctx context.Context) (minio.Key, error) {
	a, err := p.cfg.Client.Do(ctx, vault.Call{Path: p.cfg.Path})
	if err != nil {
		return minio.Key{}, asExchange(err)
	}
	id, err := text(a.Data, p.cfg.AccessKeyID)
	if err != nil {
		return minio.Key{}, fmt.Errorf("%w: %s: %w", exchange.ErrRefused, p.cfg.Path, err)
	}
	key, err := text(a.Data, p.cfg.SecretAccessKey)
	if err != nil {
		return minio.Key{}, fmt.Errorf("%w: %s: %w", exchange.ErrRefused, p.cfg.Path, err)
	}
	return minio.Key{AccessKeyID: id, SecretAccessKey: secret.New(key)}, nil
}
