package secret

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
)

// MAC computes HMAC-SHA-256 (RFC 2104) under one key. It keeps what the key alone makes, so that each sum costs no more than
// its text. It is safe for concurrent use.
type MAC struct{ states *sync.Pool }

type macState struct {
	mac  hash.Hash
	text []byte
	sum  [sha256.Size]byte
}

// NewMAC returns a MAC under the key.
func NewMAC(key Secret) MAC {
	return MAC{&sync.Pool{New: func() any { return &macState{mac: hmac.New(sha256.New, []byte(key.Reveal()))} }}}
}

// Sum is the MAC of a text.
func (m MAC) Sum(text string) [sha256.Size]byte {
	s := m.states.Get().(*macState)
	s.text = append(s.text[:0], text...)
	return m.finish(s)
}

// SumParts is the MAC of texts, each preceded by its length in eight bytes, so that ("ab","c") and ("a","bc") differ.
func (m MAC) SumParts(parts ...string) [sha256.Size]byte {
	s := m.states.Get().(*macState)
	s.text = s.text[:0]
	for _, p := range parts {
		s.text = binary.BigEndian.AppendUint64(s.text, uint64(len(p)))
		s.text = append(s.text, p...)
	}
	return m.finish(s)
}

func (m MAC) finish(s *macState) [sha256.Size]byte {
	s.mac.Reset()
	s.mac.Write(s.text)
	s.mac.Sum(s.sum[:0])
	sum := s.sum
	clear(s.text)
	m.states.Put(s)
	return sum
}
