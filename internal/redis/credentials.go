package redis

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
)

// maxEntry bounds a sealed entry. Session tokens of MinIO and STS are of a few kilobytes. No more than that is ever read,
// whatever somebody put there.
const maxEntry = 64 << 10

func (c *Client) entryName(key cache.Key) string { return c.cfg.Prefix + ":c:{" + encode(key[:]) + "}" }

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Get implements cache.Cache. An entry that doesn't open, is too big or of another type is a miss.
func (c *Client) Get(ctx context.Context, key cache.Key) (exchange.Credentials, error) {
	found, _, err := c.Find(ctx, key)
	return found, err
}

// Find implements cache.Shared.
func (c *Client) Find(ctx context.Context, keys ...cache.Key) (exchange.Credentials, cache.Key, error) {
	if err := ctx.Err(); err != nil {
		return exchange.Credentials{}, cache.Key{}, err
	}
	reads := make([]*goredis.StringCmd, len(keys))
	err := c.do(ctx, "find", false, func(ctx context.Context) error {
		if len(keys) == 1 {
			reads[0] = c.rdb.GetRange(ctx, c.entryName(keys[0]), 0, maxEntry)
			return notWrongType(reads[0].Err())
		}
		pipe := c.rdb.Pipeline()
		c.readAll(ctx, pipe, keys, reads)
		_, err := pipe.Exec(ctx)
		return notWrongType(err)
	})
	if err != nil {
		return exchange.Credentials{}, cache.Key{}, err
	}
	return c.firstOf(keys, reads)
}

func (c *Client) readAll(ctx context.Context, pipe goredis.Pipeliner, keys []cache.Key, reads []*goredis.StringCmd) {
	for i, key := range keys {
		reads[i] = pipe.GetRange(ctx, c.entryName(key), 0, maxEntry)
	}
}

// notWrongType takes away the error for a key that holds something else than text: an entry like that is a miss.
func notWrongType(err error) error {
	if e, ok := errors.AsType[goredis.Error](err); ok && goredis.HasErrorPrefix(e, "WRONGTYPE") {
		return nil
	}
	return err
}

// firstOf returns the first entry that opens.
func (c *Client) firstOf(keys []cache.Key, reads []*goredis.StringCmd) (exchange.Credentials, cache.Key, error) {
	for i, key := range keys {
		sealed, err := reads[i].Bytes()
		if err != nil || len(sealed) == 0 || len(sealed) > maxEntry {
			continue
		}
		plain, err := c.cfg.Keyring.Open(c.sealedCredentials, key[:], sealed)
		if err != nil {
			c.cfg.Observe("open", "error", 0)
			continue
		}
		if found, ok := decodeCredentials(plain); ok && found.Expires.After(c.cfg.Now()) {
			return found, key, nil
		}
	}
	return exchange.Credentials{}, cache.Key{}, cache.ErrMiss
}

// Put implements cache.Cache.
func (c *Client) Put(ctx context.Context, key cache.Key, creds exchange.Credentials) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	life := creds.Expires.Sub(c.cfg.Now())
	if life < time.Millisecond {
		return c.Delete(ctx, key)
	}
	plain, err := encodeCredentials(creds)
	if err != nil {
		return err
	}
	return c.do(ctx, "put", true, func(ctx context.Context) error {
		return c.rdb.Set(ctx, c.entryName(key), c.cfg.Keyring.Seal(c.sealedCredentials, key[:], plain), life).Err()
	})
}

// Delete implements cache.Cache.
func (c *Client) Delete(ctx context.Context, key cache.Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.do(ctx, "delete", true, func(ctx context.Context) error { return c.rdb.Del(ctx, c.entryName(key)).Err() })
}

// encodeCredentials writes the expiry as nanoseconds of Unix time (8 bytes), then access key and secret key, each after its
// length (2 bytes), then the session token.
func encodeCredentials(c exchange.Credentials) ([]byte, error) {
	id, key, token := c.AccessKeyID, c.SecretAccessKey.Reveal(), c.SessionToken.Reveal()
	size := 8 + 2 + len(id) + 2 + len(key) + len(token)
	if size > maxEntry-seal.Overhead {
		return nil, fmt.Errorf("credentials of %d bytes are too big to be shared; at most %d are", size, maxEntry-seal.Overhead)
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, size), uint64(c.Expires.UnixNano()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(id)))
	b = append(b, id...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	b = append(b, key...)
	return append(b, token...), nil
}

func decodeCredentials(b []byte) (exchange.Credentials, bool) {
	if len(b) < 8 {
		return exchange.Credentials{}, false
	}
	expires := time.Unix(0, int64(binary.BigEndian.Uint64(b)))
	id, b, ok := cutText(b[8:])
	if !ok {
		return exchange.Credentials{}, false
	}
	key, b, ok := cutText(b)
	if !ok {
		return exchange.Credentials{}, false
	}
	return exchange.Credentials{AccessKeyID: id, SecretAccessKey: secret.New(key), SessionToken: secret.New(string(b)), Expires: expires}, true
}

// cutText reads a text that stands after its length.
func cutText(b []byte) (text string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; len(b) < n {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}
