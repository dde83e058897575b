package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// maxMinted bounds what is sealed of one minted key.
const maxMinted = 8 << 10

// Minted keeps what is remembered of minted credentials, sealed, for all replicas. It implements attest.MintedKeys.
type Minted struct{ client *Client }

// Minted returns those of this installation.
func (c *Client) Minted() *Minted { return &Minted{c} }

// name tells nothing of the key: an access key ID is random.
func (m *Minted) name(accessKeyID string) string {
	hash := sha256.Sum256([]byte(accessKeyID))
	return m.client.cfg.Prefix + ":minted:{" + hex.EncodeToString(hash[:]) + "}"
}

// minted is what is sealed.
type minted struct {
	Secret                []byte
	Token                 []byte
	Issuer, Subject, Role string
	Expires               time.Time
}

// Keep implements attest.MintedKeys.
func (m *Minted) Keep(ctx context.Context, k attest.Minted) error {
	plain, err := json.Marshal(minted{[]byte(k.SecretAccessKey.Reveal()), k.Token[:], k.Issuer, k.Subject, k.Role, k.Expires})
	if err != nil {
		return err
	}
	sealed := m.client.cfg.Keyring.Seal(m.client.sealedMinted, []byte(k.AccessKeyID), plain)
	life := k.Expires.Sub(m.client.cfg.Now())
	if len(sealed) > maxMinted || life < time.Millisecond {
		return fmt.Errorf("%w: a minted key of %d bytes that lives %s can't be kept", attest.ErrUnavailable, len(sealed), life)
	}
	err = m.client.do(ctx, "keep_minted", true, func(ctx context.Context) error {
		return m.client.rdb.Set(ctx, m.name(k.AccessKeyID), sealed, life).Err()
	})
	if err != nil {
		return fmt.Errorf("%w: the minted key can't be kept: %w", attest.ErrUnavailable, err)
	}
	return nil
}

// Find implements attest.MintedKeys. What doesn't open, is too big or of another type is none.
func (m *Minted) Find(ctx context.Context, accessKeyID string) (attest.Minted, error) {
	var sealed []byte
	err := m.client.do(ctx, "find_minted", false, func(ctx context.Context) (err error) {
		sealed, err = m.client.rdb.GetRange(ctx, m.name(accessKeyID), 0, maxMinted).Bytes()
		if errors.Is(err, goredis.Nil) {
			err = nil
		}
		return notWrongType(err)
	})
	if err != nil {
		return attest.Minted{}, fmt.Errorf("%w: minted keys can't be read: %w", attest.ErrUnavailable, err)
	}
	none := fmt.Errorf("%w: no such key was minted here, or it has ended", attest.ErrRejected)
	if len(sealed) == 0 || len(sealed) > maxMinted {
		return attest.Minted{}, none
	}
	plain, err := m.client.cfg.Keyring.Open(m.client.sealedMinted, []byte(accessKeyID), sealed)
	if err != nil {
		m.client.cfg.Observe("open", "error", 0)
		return attest.Minted{}, none
	}
	var k minted
	if err := json.Unmarshal(plain, &k); err != nil || len(k.Token) != sha256.Size || !k.Expires.After(m.client.cfg.Now()) {
		return attest.Minted{}, none
	}
	return attest.Minted{
		AccessKeyID: accessKeyID, SecretAccessKey: secret.New(string(k.Secret)), Token: [sha256.Size]byte(k.Token),
		Issuer: k.Issuer, Subject: k.Subject, Role: k.Role, Expires: k.Expires,
	}, nil
}
