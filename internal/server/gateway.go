package server

import (
	"crypto/sha256"
	"encoding/hex"
	"net/textproto"
	"strings"

	"github.com/credbroker/credbroker/internal/attest"
)

// Headers of a gateway's word on a consumer, besides attest.GatewayHeaders.
const (
	headerGatewayKeyID     = "X-Credbroker-Gateway-Key-Id"
	headerGatewayTimestamp = "X-Credbroker-Gateway-Timestamp"
	headerGatewayNonce     = "X-Credbroker-Gateway-Nonce"
	headerGatewayMAC       = "X-Credbroker-Gateway-Mac"
	headerAnonymous        = "X-Anonymous-Consumer" // Kong's, where nobody was authenticated
)

// gatewayNames are the headers that mean something, by what is left of a name once all is dropped that a proxy or a framework may
// fold: case, "-", "_" and ".".
var gatewayNames = func() map[string]string {
	out := map[string]string{}
	for _, name := range append([]string{headerGatewayKeyID, headerGatewayTimestamp, headerGatewayNonce, headerGatewayMAC, headerAnonymous}, attest.GatewayHeaders...) {
		name = textproto.CanonicalMIMEHeaderKey(name)
		out[folded(name)] = name
	}
	return out
}()

func folded(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == '.' {
			return -1
		}
		return r
	}, strings.ToLower(name))
}

// gatewayProof writes what a gateway has sent as the text that package gateway verifies: so the MAC is over this very request.
func (c *httpCall) gatewayProof(b body) (attest.Proof, error) {
	h := c.r.Header
	if b.proof != nil && b.proof.Kind != attest.KindJWT || b.actor != nil || len(h["Authorization"]) > 0 {
		return attest.Proof{}, invalid("another proof beside a gateway's word on a consumer")
	}
	for name := range h {
		// One that could be taken for another by somebody on the way is not passed over: it is refused.
		if meant, ok := gatewayNames[folded(name)]; ok && meant != name {
			return attest.Proof{}, invalid("a header that is like an identity header in all but its spelling")
		}
	}
	if len(h[headerAnonymous]) > 0 {
		return attest.Proof{}, invalid("an anonymous consumer")
	}
	var text strings.Builder
	line := func(parts ...string) {
		for _, part := range parts {
			text.WriteString(part)
		}
		text.WriteByte('\n')
	}
	once := func(name string) string {
		if values := h[name]; len(values) == 1 {
			return values[0]
		}
		return "" // which is none of the values that there may be
	}
	line("credbroker-gateway/1")
	line(once(headerGatewayKeyID))
	line(once(headerGatewayTimestamp))
	line(once(headerGatewayNonce))
	line(c.r.Method)
	line(c.r.URL.Path)
	line(c.r.URL.RawQuery)
	hash := sha256.Sum256(c.body)
	line(hex.EncodeToString(hash[:]))
	for _, name := range attest.GatewayHeaders {
		if values, ok := h[textproto.CanonicalMIMEHeaderKey(name)]; ok {
			if len(values) != 1 {
				return attest.Proof{}, invalid("an identity header is there more than once")
			}
			line(name, ":", values[0])
		}
	}
	text.WriteString(once(headerGatewayMAC))
	return newProof(attest.KindGateway, text.String()), nil
}
