package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/credbroker/credbroker/internal/attest"
)

// records are what is kept sealed for all replicas, each under an ID until it ends.
type records[T any] struct {
	client *Client
	// what says what they are, for operations and messages: session, minted.
	what string
	// purpose is what the keyring seals them for.
	purpose string
	// most bounds one, sealed, in bytes.
	most int
}

// keep seals a record and keeps it under a name for as long as it lives. Its error is attest.ErrUnavailable, or ctx's.
func (r records[T]) keep(ctx context.Context, name, id string, record T, ends time.Time) error {
	plain, err := json.Marshal(record)
	if err != nil {
		return err
	}
	sealed := r.client.cfg.Keyring.Seal(r.purpose, []byte(id), plain)
	life := ends.Sub(r.client.cfg.Now())
	if len(sealed) > r.most || life < time.Millisecond {
		return fmt.Errorf("%w: a %s of %d bytes that lives %s can't be kept", attest.ErrUnavailable, r.what, len(sealed), life)
	}
	err = r.client.do(ctx, "keep_"+r.what, true, func(ctx context.Context) error {
		return r.client.rdb.Set(ctx, name, sealed, life).Err()
	})
	if err != nil {
		return fmt.Errorf("%w: the %s can't be kept: %w", attest.ErrUnavailable, r.what, err)
	}
	return nil
}

// find returns what is kept under a name. What doesn't open, is too big or of another type is none. Its error is attest.ErrRejected if
// there is none, attest.ErrUnavailable if that can't be known, or ctx's.
func (r records[T]) find(ctx context.Context, name, id string) (record T, err error) {
	var sealed []byte
	err = r.client.do(ctx, "find_"+r.what, false, func(ctx context.Context) (err error) {
		sealed, err = r.client.rdb.GetRange(ctx, name, 0, int64(r.most)).Bytes()
		if errors.Is(err, goredis.Nil) {
			err = nil
		}
		return notWrongType(err)
	})
	if err != nil {
		return record, fmt.Errorf("%w: what is kept of a %s can't be read: %w", attest.ErrUnavailable, r.what, err)
	}
	none := fmt.Errorf("%w: no %s of this ID is kept, or it has ended", attest.ErrRejected, r.what)
	if len(sealed) == 0 || len(sealed) > r.most {
		return record, none
	}
	plain, err := r.client.cfg.Keyring.Open(r.purpose, []byte(id), sealed)
	if err != nil {
		r.client.cfg.Observe("open", "error", 0)
		return record, none
	}
	if err := json.Unmarshal(plain, &record); err != nil {
		return record, none
	}
	return record, nil
}
