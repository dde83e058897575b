// Package secret holds values that must not be printed.
//
// A [Secret] is made the moment a key, token or password is read and is turned back into text only where it
// leaves the process on purpose. Every formatting, logging and encoding path in between prints [Redacted].
package secret

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"
)

// Redacted is what every formatting path prints in place of a secret.
const Redacted = "[redacted]"

// ErrUnprintable is returned by the decoders: a secret is never read back from its redacted form.
var ErrUnprintable = errors.New("secret: a secret can't be decoded from text")

// Secret is a piece of text that redacts itself. The zero value is the empty secret.
//
// The text sits behind a pointer because fmt reaches unexported fields of a surrounding struct by reflection,
// without calling their methods: there it prints an address, not the text.
type Secret struct{ text *string }

// New wraps text.
func New(text string) Secret { return Secret{text: &text} }

// Reveal returns the text. Call it only where the secret leaves the process, or is checked.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Len is the length of the text in bytes.
func (s Secret) Len() int {
	if s.text == nil {
		return 0
	}
	return len(*s.text)
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.Len() == 0 }

// Equal compares two secrets in time that depends on their lengths alone.
func (s Secret) Equal(t Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(t.Reveal())) == 1
}

// String implements fmt.Stringer with [Redacted].
func (s Secret) String() string { return Redacted }

// GoString implements fmt.GoStringer with [Redacted].
func (s Secret) GoString() string { return Redacted }

// Format implements fmt.Formatter, so that no verb (%x and %d included) reaches the text.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// LogValue implements slog.LogValuer with [Redacted].
func (s Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements encoding.TextMarshaler (and so JSON, XML and YAML) with [Redacted].
func (s Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// UnmarshalText refuses: secrets are named in configuration as files, never written there.
func (s *Secret) UnmarshalText([]byte) error { return ErrUnprintable }

// GobEncode refuses: gob would otherwise skip or expose the text silently.
func (s Secret) GobEncode() ([]byte, error) { return nil, ErrUnprintable }

// ReadFile reads a secret of at most limit bytes from a file and trims one line ending from its end.
// An empty file is an error, since an empty key or token is never what was meant. A pipe is read for 5 seconds at most, and is
// empty if nobody writes to it.
func ReadFile(path string, limit int) (Secret, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // or it would wait for somebody to write to a pipe
	if err != nil {
		return Secret{}, err
	}
	defer f.Close()                                        //nolint:errcheck // read-only
	_ = f.SetReadDeadline(time.Now().Add(5 * time.Second)) // only what may have to be waited for takes one
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return Secret{}, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > limit {
		return Secret{}, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 {
		return Secret{}, fmt.Errorf("%s is empty", path)
	}
	return New(string(data)), nil
}
