package audit

import (
	"strings"
	"testing"

	"github.com/credbroker/credbroker/internal/secret"
)

func TestFingerprint(t *testing.T) {
	f := NewFingerprinter(secret.New(strings.Repeat("a", 32)))
	// printf proof | openssl dgst -sha256 -hmac aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa -binary | head -c 16 | basenc --base64url
	const want = "3wZpSHozgoDxArruY6OGFA"
	if got := f.Fingerprint(secret.New("proof")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if f.Fingerprint(secret.New("other")) == want {
		t.Error("another proof has the same fingerprint")
	}
	if NewFingerprinter(secret.New(strings.Repeat("b", 32))).Fingerprint(secret.New("proof")) == want {
		t.Error("another key gives the same fingerprint")
	}
}
