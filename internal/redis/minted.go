package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// maxMinted bounds what is sealed of one minted key.
const maxMinted = 8 << 10

// Minted keeps what is remembered of minted credentials, sealed, for all replicas. It implements attest.MintedKeys.
type Minted struct{ kept records[minted] }

// Minted returns those of this installation.
func (c *Client) Minted() *Minted {
	return &Minted{records[minted]{client: c, what: "minted", purpose: c.sealedMinted, most: maxMinted}}
}

// name tells nothing of the key: an access key ID is random.
func (m *Minted) name(accessKeyID string) string {
	hash := sha256.Sum256([]byte(accessKeyID))
	return m.kept.client.cfg.Prefix + ":minted:{" + hex.EncodeToString(hash[:]) + "}"
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
	record := minted{[]byte(k.SecretAccessKey.Reveal()), k.Token[:], k.Issuer, k.Subject, k.Role, k.Expires}
	return m.kept.keep(ctx, m.name(k.AccessKeyID), k.AccessKeyID, record, k.Expires)
}

// Find implements attest.MintedKeys.
func (m *Minted) Find(ctx context.Context, accessKeyID string) (attest.Minted, error) {
	k, err := m.kept.find(ctx, m.name(accessKeyID), accessKeyID)
	if err != nil {
		return attest.Minted{}, err
	}
	if len(k.Token) != sha256.Size || !k.Expires.After(m.kept.client.cfg.Now()) {
		return attest.Minted{}, fmt.Errorf("%w: no such key was minted here, or it has ended", attest.ErrRejected)
	}
	return attest.Minted{
		AccessKeyID: accessKeyID, SecretAccessKey: secret.New(string(k.Secret)), Token: [sha256.Size]byte(k.Token),
		Issuer: k.Issuer, Subject: k.Subject, Role: k.Role, Expires: k.Expires,
	}, nil
}
