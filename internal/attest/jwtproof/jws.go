package jwtproof

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a token.
const (
	maxToken = 16 << 10 // bytes of a compact JWS
	maxKeyID = 256      // bytes of a `kid`
)

// jws is a parsed and yet unverified JSON Web Signature in compact serialization (RFC 7515, section 7.1).
type jws struct {
	alg, kid, typ string
	// input is what was signed: the first two parts with the dot between them.
	input     string
	payload   []byte
	signature []byte
}

// header holds the members of a JOSE header that mean something here, and those that are refused.
type header struct {
	Alg jsontext.Value `json:"alg"`
	Kid jsontext.Value `json:"kid"`
	Typ jsontext.Value `json:"typ"`

	Crit jsontext.Value `json:"crit"`
	B64  jsontext.Value `json:"b64"`
	JWK  jsontext.Value `json:"jwk"`
	JKU  jsontext.Value `json:"jku"`
	X5U  jsontext.Value `json:"x5u"`
	X5C  jsontext.Value `json:"x5c"`
	Zip  jsontext.Value `json:"zip"`
}

// parseJWS reads a token strictly. Everything in the result is the sender's word until a key has verified it.
func parseJWS(token string) (jws, error) {
	if len(token) > maxToken {
		return jws{}, fmt.Errorf("token is %d bytes, at most %d are read", len(token), maxToken)
	}
	// Counting first means that a token of dots costs no slice of parts. Encryption (five parts) and the JSON
	// serializations end here too.
	if dots := strings.Count(token, "."); dots != 2 {
		return jws{}, fmt.Errorf("token has %d dots, a compact JWS has 2", dots)
	}
	first, last := strings.IndexByte(token, '.'), strings.LastIndexByte(token, '.')
	t := jws{input: token[:last]}
	head, err := decodeBase64(token[:first])
	if err != nil {
		return jws{}, fmt.Errorf("header: %w", err)
	}
	if t.payload, err = decodeBase64(token[first+1 : last]); err != nil {
		return jws{}, fmt.Errorf("payload: %w", err)
	}
	if t.signature, err = decodeBase64(token[last+1:]); err != nil {
		return jws{}, fmt.Errorf("signature: %w", err)
	}
	if len(t.signature) == 0 {
		return jws{}, errors.New("signature is empty")
	}
	if err := t.readHeader(head); err != nil {
		return jws{}, fmt.Errorf("header: %w", err)
	}
	return t, nil
}

func (t *jws) readHeader(data []byte) error {
	var h header
	if err := decodeJSON(data, &h); err != nil {
		return err
	}
	// Each of these either lets the sender choose the key, or changes what the signature is over.
	for name, v := range map[string]jsontext.Value{
		"crit": h.Crit, "b64": h.B64, "jwk": h.JWK, "jku": h.JKU, "x5u": h.X5U, "x5c": h.X5C, "zip": h.Zip,
	} {
		if v != nil {
			return fmt.Errorf("%s is refused", name)
		}
	}
	var ok bool
	if t.alg, ok = decodeString(h.Alg); !ok {
		return errors.New("alg is missing or not a string")
	}
	if t.kid, ok = decodeString(h.Kid); !ok {
		return errors.New("kid is missing or not a string")
	}
	if len(t.kid) == 0 || len(t.kid) > maxKeyID {
		return fmt.Errorf("kid is %d bytes, expected 1 to %d", len(t.kid), maxKeyID)
	}
	if h.Typ != nil {
		// An empty typ is not the same as none: it would pass where the configuration accepts its absence.
		if t.typ, _ = decodeString(h.Typ); t.typ == "" {
			return errors.New("typ is empty or not a string")
		}
	}
	return nil
}
