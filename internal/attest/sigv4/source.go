package sigv4

import (
	"context"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// Source is where a key is that isn't at hand, such as Vault.
type Source interface {
	// Key returns the key that is in force now, both parts of it together.
	Key(ctx context.Context) (accessKeyID string, secretAccessKey secret.Secret, err error)
}

const (
	// keptFor is how long a key of a Source is used before it is asked again, however many requests come, whatever keys they name.
	keptFor = 10 * time.Second
	// failedFor is how long a Source isn't asked after it failed.
	failedFor = time.Second
)

// fetched is a key of a Source as it was got last.
type fetched struct {
	turn chan struct{} // who has it may use what follows; one asks, the others wait

	key    Key
	err    error
	expiry time.Time
}

func newFetched(k Key) *fetched { return &fetched{turn: make(chan struct{}, 1), key: k} }

// get returns the key, with its ID and secret. Its errors are attest.ErrUnavailable, or ctx's.
func (f *fetched) get(ctx context.Context, now func() time.Time) (Key, error) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return Key{}, ctx.Err()
	}
	if !now().Before(f.expiry) {
		id, key, err := f.key.Source.Key(ctx)
		if ctx.Err() != nil {
			return Key{}, ctx.Err() // this caller left; the next one asks
		}
		f.expiry = now().Add(keptFor)
		f.key.AccessKeyID, f.key.SecretAccessKey, f.err = id, key, nil
		if err != nil {
			f.expiry = now().Add(failedFor)
			f.key.AccessKeyID, f.key.SecretAccessKey = "", secret.Secret{}
			f.err = fmt.Errorf("%w: access key %s: %w", attest.ErrUnavailable, f.key.Name, err)
		}
	}
	return f.key, f.err
}
