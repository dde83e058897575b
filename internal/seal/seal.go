// Package seal keeps what the broker puts into a store that others can read and write: AES-256-GCM (NIST SP 800-38D) under
// a key of the broker's, bound to the place where it lies.
//
// A sealed value is one byte of format version, eight bytes of key ID, a random nonce of 12 bytes, and the ciphertext with
// its tag of 16: [Overhead] bytes more than what it holds. Version, key ID, purpose and name are associated data, so that
// nothing opens that was moved elsewhere. Random nonces allow 2^32 values under one key: at a thousand a second that is a
// month and a half, so rotate the key at least monthly (docs/configuration.md says how).
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/credbroker/credbroker/internal/secret"
)

// version is the format's.
const version = 1

const (
	idSize   = 8
	prefix   = 1 + idSize
	overhead = 12 + 16
	// Overhead is how much longer a sealed value is than what it holds.
	Overhead = prefix + overhead
)

// ErrOpen is what Open returns whatever is wrong: of another key, of another place, changed, cut short, or no sealed value.
var ErrOpen = errors.New("sealed value doesn't open")

// Keyring seals with the first of its keys and opens with any. It is safe for concurrent use.
type Keyring struct {
	keys   atomic.Pointer[[]sealingKey]
	locked atomic.Bool
}

type sealingKey struct {
	id   [idSize]byte
	aead cipher.AEAD
}

// NewKeyring returns a keyring of one or two keys of 32 bytes each, as secret.ReadKeys gives them.
func NewKeyring(keys []secret.Secret) (*Keyring, error) {
	k := &Keyring{}
	return k, k.Replace(keys)
}

// NewLockedKeyring returns a keyring whose keys are still to come by Replace. Until then it has one of its own that nobody else has, so
// that it opens nothing of others'.
func NewLockedKeyring() (*Keyring, error) {
	var key [secret.KeySize]byte
	_, _ = rand.Read(key[:]) // crypto/rand.Read never fails
	k, err := NewKeyring([]secret.Secret{secret.New(string(key[:]))})
	if err != nil {
		return nil, err
	}
	k.locked.Store(true)
	return k, nil
}

// Locked says that the keys are still to come: nothing that is sealed now can be opened by anybody else, or later.
func (k *Keyring) Locked() bool { return k.locked.Load() }

// Replace puts other keys in force. With an error, the former stay.
func (k *Keyring) Replace(keys []secret.Secret) error {
	if len(keys) == 0 || len(keys) > secret.MaxLiveKeys {
		return fmt.Errorf("%d sealing keys; expected one or two", len(keys))
	}
	set := make([]sealingKey, len(keys))
	for i, key := range keys {
		if key.Len() != secret.KeySize {
			return fmt.Errorf("a sealing key of %d bytes; expected %d", key.Len(), secret.KeySize)
		}
		block, err := aes.NewCipher([]byte(key.Reveal()))
		if err != nil {
			return err
		}
		if set[i].aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return err
		}
		mac := hmac.New(sha256.New, []byte(key.Reveal()))
		mac.Write([]byte("credbroker sealing key id"))
		copy(set[i].id[:], mac.Sum(nil))
	}
	k.keys.Store(&set)
	k.locked.Store(false)
	return nil
}

// Seal seals plaintext for one place: purpose says what kind of thing it is, name which one.
func (k *Keyring) Seal(purpose string, name, plaintext []byte) []byte {
	key := &(*k.keys.Load())[0]
	out := make([]byte, prefix, Overhead+len(plaintext))
	out[0] = version
	copy(out[1:], key.id[:])
	return key.aead.Seal(out, nil, plaintext, associated(out[:prefix], purpose, name)) //nolint:gosec // G407: it makes its own random nonce, and takes none
}

// Open returns what was sealed for that place, or ErrOpen.
func (k *Keyring) Open(purpose string, name, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead || sealed[0] != version {
		return nil, ErrOpen
	}
	for _, key := range *k.keys.Load() {
		if string(key.id[:]) != string(sealed[1:prefix]) {
			continue
		}
		plaintext, err := key.aead.Open(nil, nil, sealed[prefix:], associated(sealed[:prefix], purpose, name))
		if err != nil {
			return nil, ErrOpen
		}
		return plaintext, nil
	}
	return nil, ErrOpen
}

// associated is version and key ID, and purpose and name, each of these two preceded by its length.
func associated(header []byte, purpose string, name []byte) []byte {
	ad := make([]byte, 0, len(header)+16+len(purpose)+len(name))
	ad = append(ad, header...)
	ad = binary.BigEndian.AppendUint64(ad, uint64(len(purpose)))
	ad = append(ad, purpose...)
	ad = binary.BigEndian.AppendUint64(ad, uint64(len(name)))
	return append(ad, name...)
}
