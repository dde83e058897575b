package redis

import (
	"context"
	"errors"
	"fmt"

	goredis "github.com/redis/go-redis/v9"
)

// maxDocument bounds the document of wrapped keys.
const maxDocument = 4 << 10

// swapDocument sets KEYS[1] to ARGV[2] if it is ARGV[1] now, which is empty for none.
var swapDocument = goredis.NewScript(`
if redis.call('STRLEN', KEYS[1]) > 65536 or (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1`)

// WrappedKeys is the document with the keys that seal all else here, each wrapped by Vault. It implements datakeys.Store.
type WrappedKeys struct{ client *Client }

// WrappedKeys returns that of this installation.
func (c *Client) WrappedKeys() *WrappedKeys { return &WrappedKeys{c} }

func (w *WrappedKeys) name() string { return w.client.cfg.Prefix + ":keys" }

// Load implements datakeys.Store.
func (w *WrappedKeys) Load(ctx context.Context) (document []byte, err error) {
	err = w.client.do(ctx, opKeys, false, func(ctx context.Context) (err error) {
		document, err = w.client.rdb.GetRange(ctx, w.name(), 0, maxDocument).Bytes()
		return err
	})
	switch {
	case err != nil && !errors.Is(err, goredis.Nil):
		return nil, err
	case len(document) > maxDocument:
		return nil, fmt.Errorf("%s is larger than %d bytes, which no broker writes: delete it", w.name(), maxDocument)
	case len(document) == 0:
		return nil, nil
	}
	return document, nil
}

// Swap implements datakeys.Store.
func (w *WrappedKeys) Swap(ctx context.Context, former, document []byte) (swapped bool, err error) {
	err = w.client.do(ctx, opKeys, true, func(ctx context.Context) error {
		n, err := swapDocument.Run(ctx, w.client.rdb, []string{w.name()}, former, document).Int()
		swapped = n == 1
		return err
	})
	return swapped, err
}
