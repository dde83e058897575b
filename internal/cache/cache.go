// Package cache keeps credentials until they end.
//
// A cache is an optimisation and never an authority: policy is asked before it on every call, and whatever is wrong with
// an entry makes it a miss.
package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"sync/atomic"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

// ErrMiss is what Get returns for a key without a usable entry, whatever the reason.
var ErrMiss = errors.New("cache miss")

// ErrUnavailable means that a cache outside this process can't be asked now. The cause wrapped with it is for the log.
var ErrUnavailable = errors.New("cache unavailable")

// Key names an entry. It is a keyed hash, so it tells nothing about what it was made of.
type Key [sha256.Size]byte

// Keyer makes keys with the first of its HMAC keys. It is safe for concurrent use.
type Keyer struct {
	keys atomic.Pointer[[]secret.MAC]
}

// NewKeyer returns a Keyer; each key is at least 32 random bytes.
func NewKeyer(keys ...secret.Secret) *Keyer {
	k := &Keyer{}
	k.Replace(keys)
	return k
}

// Replace puts other HMAC keys in force, at least one.
func (k *Keyer) Replace(keys []secret.Secret) {
	macs := make([]secret.MAC, len(keys))
	for i, key := range keys {
		macs[i] = secret.NewMAC(key)
	}
	k.keys.Store(&macs)
}

// Key is the HMAC-SHA-256 over the parts, each preceded by its length, so that ("ab","c") and ("a","bc") differ.
func (k *Keyer) Key(parts ...string) Key { return (*k.keys.Load())[0].SumParts(parts...) }

// Names are what replicas call one entry while their HMAC keys change.
type Names struct {
	// Key is the entry's key in force.
	Key Key
	// Former are its keys under the other HMAC keys that are live.
	Former []Key
	// Lease is the same on all replicas that have the same HMAC keys live, whichever of them is first.
	Lease Key
}

// Names returns the names of the entry with those parts.
func (k *Keyer) Names(parts ...string) Names {
	keys := *k.keys.Load()
	n := Names{Key: keys[0].SumParts(parts...)}
	n.Lease = n.Key
	for _, other := range keys[1:] {
		former := Key(other.SumParts(parts...))
		n.Former = append(n.Former, former)
		if bytes.Compare(former[:], n.Lease[:]) < 0 {
			n.Lease = former
		}
	}
	return n
}

// Cache keeps credentials by key. Implementations pass cachetest.Run and are safe for concurrent use.
type Cache interface {
	// Get returns the entry, ErrMiss, or ErrUnavailable. It never returns an entry that has expired.
	Get(ctx context.Context, key Key) (exchange.Credentials, error)
	// Put keeps the credentials until they expire or room is needed. Credentials that have expired are not kept.
	Put(ctx context.Context, key Key, c exchange.Credentials) error
	// Delete forgets the entry; a missing one is no error.
	Delete(ctx context.Context, key Key) error
}
