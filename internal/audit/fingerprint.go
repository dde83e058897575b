package audit

import (
	"encoding/base64"

	"github.com/credbroker/credbroker/internal/secret"
)

// Fingerprinter names proofs without showing them: equal proofs have equal fingerprints under one key, and without the key
// a fingerprint can't be tested against a guess.
type Fingerprinter struct{ mac secret.MAC }

// NewFingerprinter returns a Fingerprinter; key is at least 32 random bytes.
func NewFingerprinter(key secret.Secret) Fingerprinter { return Fingerprinter{secret.NewMAC(key)} }

// Fingerprint is the first 128 bits of HMAC-SHA-256, in base64url without padding: 22 characters.
func (f Fingerprinter) Fingerprint(proof secret.Secret) string {
	sum := f.mac.Sum(proof.Reveal())
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}
