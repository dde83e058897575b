package redis

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestEncodedCredentialsHaveABound(t *testing.T) {
	c := exchange.Credentials{AccessKeyID: "AK", SecretAccessKey: secret.New("sk"), Expires: time.Unix(1_800_000_000, 5)}
	most := maxEntry - seal.Overhead - (8 + 2 + 2 + 2 + 2)
	c.SessionToken = secret.New(strings.Repeat("t", most))
	b, err := encodeCredentials(c)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := decodeCredentials(b); !ok || got.SessionToken.Len() != most || !got.Expires.Equal(c.Expires) {
		t.Errorf("got %v, %v", got, ok)
	}
	c.SessionToken = secret.New(strings.Repeat("t", most+1))
	if _, err := encodeCredentials(c); err == nil || !strings.Contains(err.Error(), "too big") {
		t.Errorf("a byte more: %v", err)
	}
}

// What is decoded at all encodes to the same bytes: there is one way to write it.
func FuzzDecodeCredentials(f *testing.F) {
	b, err := encodeCredentials(exchange.Credentials{AccessKeyID: "AK", SecretAccessKey: secret.New("sk"), SessionToken: secret.New("st"), Expires: time.Unix(1_800_000_000, 0)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, ok := decodeCredentials(data)
		if !ok {
			return
		}
		again, err := encodeCredentials(c)
		if err != nil {
			if len(data) <= maxEntry-seal.Overhead {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(again, data) {
			t.Errorf("%q became %q", data, again)
		}
	})
}
