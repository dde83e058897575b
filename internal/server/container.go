package server

import (
	"context"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
)

// containerPath is the path of container credentials, with the role in the place of the braces.
const containerPath = "/v1/container-credentials/{role}"

// containerCredentials answers as the credential endpoints of AWS's containers do (AWS SDKs and Tools Reference Guide, "Container
// credential provider"). The role is in the path and goes nowhere but to the policy.
func (a *httpAPI) containerCredentials(ctx context.Context, c *httpCall) error {
	if c.forwarded() {
		return errForwarded
	}
	data, err := c.readBody()
	if err != nil {
		return err
	}
	if len(data) > 0 || c.r.URL.RawQuery != "" || c.r.URL.ForceQuery {
		return invalid("a body or a query where none belongs")
	}
	req := broker.Request{Role: c.role(), Correlation: c.corr, Source: c.source(), Floor: a.opts.Floors.Container}
	switch authorization := c.r.Header["Authorization"]; len(authorization) {
	case 0:
		req.Proof = peerProof(c.r.TLS)
	case 1:
		req.Proof = newProof(attest.KindJWT, authorization[0]) // as it is, without a scheme
	default:
		return invalid("more than one proof")
	}
	issued, err := a.issued(ctx, req)
	if err != nil {
		return err
	}
	a.warnIfShort(c, issued)
	dst := appendString(append(make([]byte, 0, 512+issued.SessionToken.Len()), `{"AccessKeyId":`...), issued.AccessKeyID)
	dst = appendString(append(dst, `,"SecretAccessKey":`...), issued.SecretAccessKey.Reveal())
	dst = appendString(append(dst, `,"Token":`...), issued.SessionToken.Reveal())
	dst = issued.Expires.UTC().AppendFormat(append(dst, `,"Expiration":"`...), time.RFC3339)
	c.write(200, append(dst, `"}`...))
	return nil
}

// role is the last segment of the path.
func (c *httpCall) role() string { return c.r.URL.Path[strings.LastIndexByte(c.r.URL.Path, '/')+1:] }

// forwarded reports whether the request came through a proxy, as far as it tells: then whoever can make some server fetch a URL could
// be asking with the credentials of that server's surroundings.
func (c *httpCall) forwarded() bool {
	if !strings.HasPrefix(c.r.RequestURI, "/") { // absolute-form (RFC 9112, section 3.2.2)
		return true
	}
	for name := range c.r.Header {
		switch name := folded(name); {
		case name == "forwarded", name == "via", name == "xrealip", strings.HasPrefix(name, "xforwarded"):
			return true
		}
	}
	return false
}

// containerError is the body of an error, of which SDKs show both members.
func containerError(p public) []byte {
	dst := appendString([]byte(`{"code":`), p.code)
	dst = appendString(append(dst, `,"message":`...), p.message)
	return append(dst, '}')
}
