// Package cache keeps credentials until they end.
//
// A cache is an optimisation and never an authority: policy is asked before it on every call, and whatever is wrong with
// an entry makes it a miss.
package cache

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

// ErrMiss is what Get returns for a key without a usable entry, whatever the reason.
var ErrMiss = errors.New("cache miss")

// Key names an entry. It is a keyed hash, so it tells nothing about what it was made of.
type Key [sha256.Size]byte

// Keyer makes keys with one HMAC key.
type Keyer struct{ key secret.Secret }

// NewKeyer returns a Keyer; key is at least 32 random bytes.
func NewKeyer(key secret.Secret) Keyer { return Keyer{key} }

// Key is the HMAC-SHA-256 over the parts, each preceded by its length, so that ("ab","c") and ("a","bc") differ.
func (k Keyer) Key(parts ...string) Key {
	mac := hmac.New(sha256.New, []byte(k.key.Reveal()))
	var buf []byte
	for _, p := range parts {
		buf = binary.BigEndian.AppendUint64(buf[:0], uint64(len(p)))
		buf = append(buf, p...)
		mac.Write(buf)
	}
	var key Key
	mac.Sum(key[:0])
	return key
}

// Cache keeps credentials by key. Implementations pass cachetest.Run and are safe for concurrent use.
type Cache interface {
	// Get returns the entry, or ErrMiss. It never returns an entry that has expired.
	Get(ctx context.Context, key Key) (exchange.Credentials, error)
	// Put keeps the credentials until they expire or room is needed. Credentials that have expired are not kept.
	Put(ctx context.Context, key Key, c exchange.Credentials) error
	// Delete forgets the entry; a missing one is no error.
	Delete(ctx context.Context, key Key) error
}
