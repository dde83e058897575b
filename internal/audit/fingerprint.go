package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"

	"github.com/credbroker/credbroker/internal/secret"
)

// Fingerprinter names proofs without showing them: equal proofs have equal fingerprints under one key, and without the key
// a fingerprint can't be tested against a guess.
type Fingerprinter struct{ key secret.Secret }

// NewFingerprinter returns a Fingerprinter; key is at least 32 random bytes.
func NewFingerprinter(key secret.Secret) Fingerprinter { return Fingerprinter{key} }

// Fingerprint is the first 128 bits of HMAC-SHA-256, in base64url without padding: 22 characters.
func (f Fingerprinter) Fingerprint(proof secret.Secret) string {
	mac := hmac.New(sha256.New, []byte(f.key.Reveal()))
	mac.Write([]byte(proof.Reveal()))
	var sum [sha256.Size]byte
	return base64.RawURLEncoding.EncodeToString(mac.Sum(sum[:0])[:16])
}
