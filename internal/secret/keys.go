package secret

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	// KeySize is the length of a symmetric key in bytes.
	KeySize = 32
	// MaxLiveKeys is how many keys of one purpose are in force at one time: the one in use and the one before or after it.
	MaxLiveKeys = 2
	// MaxKeyFile bounds a key file.
	MaxKeyFile = 512
)

// ReadKeys reads the symmetric keys of one purpose from a file: a line each of standard base64 (RFC 4648, section 4) over
// 32 random bytes, one line or two. The first is the one in use. Each Secret holds the 32 bytes.
//
// To rotate, add the new key as the second line everywhere, then swap the lines everywhere, then take the old one out.
func ReadKeys(path string) ([]Secret, error) {
	text, err := ReadFile(path, MaxKeyFile)
	if err != nil {
		return nil, err
	}
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// ParseKeys is ReadKeys for the text of a file, without the line ending at its end. Its errors name lines, never what stands there.
func ParseKeys(text Secret) ([]Secret, error) {
	lines := strings.Split(text.Reveal(), "\n")
	if len(lines) > MaxLiveKeys {
		return nil, fmt.Errorf("it has %d lines; expected one or two, each a key of 32 bytes in base64", len(lines))
	}
	var keys []Secret
	for n, line := range lines {
		line = strings.TrimSuffix(line, "\r")
		// The decoder skips line breaks wherever they stand.
		if strings.ContainsAny(line, "\r\n") {
			return nil, fmt.Errorf("line %d isn't standard base64; expected a key of %d bytes in it", n+1, KeySize)
		}
		key, err := base64.StdEncoding.Strict().DecodeString(line)
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d isn't standard base64; expected a key of %d bytes in it", n+1, KeySize)
		case len(key) != KeySize:
			return nil, fmt.Errorf("line %d is a key of %d bytes; expected %d", n+1, len(key), KeySize)
		}
		keys = append(keys, New(string(key)))
	}
	if len(keys) == MaxLiveKeys && keys[0].Equal(keys[1]) {
		return nil, errors.New("both lines are the same key; expected two different ones, or one line")
	}
	return keys, nil
}
