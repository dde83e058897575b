package agent

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Bounds of an authorization token, in bytes.
const (
	leastToken = 16
	mostToken  = 4 << 10
)

// Authorization is the token that callers have to show. It is in a file, which the agent's clients read as well
// (AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE).
type Authorization struct{ file string }

// OpenAuthorization uses the token in file, 16 to 4,096 visible characters with or without a line break after them; if there is no such
// file, it makes one of mode 0600 with a random token.
func OpenAuthorization(file string) (*Authorization, error) {
	if _, err := os.Lstat(file); errors.Is(err, os.ErrNotExist) {
		if err := makeToken(file); err != nil {
			return nil, fmt.Errorf("authorization file: %w", err)
		}
	}
	a := &Authorization{file: file}
	if _, err := a.token(); err != nil {
		return nil, err
	}
	return a, nil
}

// makeToken writes a new file as a whole or not at all, and never over another.
func makeToken(file string) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".token-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // the file has its other name by then
	_, err = tmp.WriteString(rand.Text() + rand.Text())
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), file); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// token reads the file, anew each time, so that it can be replaced.
func (a *Authorization) token() (string, error) {
	f, err := os.Open(a.file)
	if err != nil {
		return "", fmt.Errorf("authorization file: %w", err)
	}
	defer f.Close() //nolint:errcheck // read-only
	data, err := io.ReadAll(io.LimitReader(f, mostToken+3))
	if err != nil {
		return "", fmt.Errorf("authorization file: %w", err)
	}
	token := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if len(token) < leastToken || len(token) > mostToken || strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
		return "", fmt.Errorf("authorization file: %s must hold one token of %d to %d visible characters", a.file, leastToken, mostToken)
	}
	return token, nil
}

// Accepts says whether a request's Authorization headers are the token, once. A file that can't be read accepts nothing.
func (a *Authorization) Accepts(headers []string) bool {
	token, err := a.token()
	if err != nil || len(headers) != 1 {
		return false
	}
	got, want := sha256.Sum256([]byte(headers[0])), sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}
