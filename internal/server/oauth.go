package server

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
)

// Names of OAuth 2.0 Token Exchange (RFC 8693) and those of ours.
const (
	grantTokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange" //nolint:gosec // a name
	// tokenS3 is the type of what is issued: the output of a credential_process (AWS SDKs and Tools Reference Guide, "Process credential
	// provider"), as text.
	tokenS3    = "urn:credbroker:token-type:s3-credentials" //nolint:gosec // a name
	roleURN    = "urn:credbroker:role:"
	scopeRole  = "role:"
	tokenNoUse = "N_A" // S3 credentials are not sent as a token is (RFC 8693, section 2.2.1)
)

// tokenTypes are the types of tokens that prove an identity (RFC 8693, section 3). Which of an issuer's JWTs count is that issuer's
// configuration's to say.
var tokenTypes = map[string]attest.Kind{
	"urn:ietf:params:oauth:token-type:jwt":          attest.KindJWT,
	"urn:ietf:params:oauth:token-type:id_token":     attest.KindJWT,
	"urn:ietf:params:oauth:token-type:access_token": attest.KindJWT,
	"urn:credbroker:token-type:aws-proof":           attest.KindAWS,
}

// exchangeToken is the token endpoint.
func (a *httpAPI) exchangeToken(ctx context.Context, c *httpCall) error {
	f, err := c.readForm()
	if err != nil {
		return err
	}
	if len(c.r.Header["Authorization"]) > 0 {
		return errClientAuth
	}
	req, err := decodeExchange(f)
	if err != nil {
		return err
	}
	req.Correlation, req.Source, req.Floor = c.corr, c.source(), a.opts.Floors.OAuth
	issued, err := a.issued(ctx, req)
	if err != nil {
		return err
	}
	a.warnIfShort(c, issued)
	inner := appendProcess(make([]byte, 0, 512+issued.SessionToken.Len()), issued)
	dst := appendString(append(make([]byte, 0, 256+2*len(inner)), `{"access_token":`...), string(inner))
	dst = append(dst, `,"issued_token_type":"`+tokenS3+`","token_type":"`+tokenNoUse+`","expires_in":`...)
	dst = strconv.AppendInt(dst, max(int64(time.Until(issued.Expires)/time.Second), 0), 10)
	c.w.Header()["Pragma"] = noCache
	c.write(200, append(dst, '}'))
	return nil
}

var noCache = []string{"no-cache"}

// appendProcess appends what a credential_process prints.
func appendProcess(dst []byte, i broker.Issued) []byte {
	dst = appendString(append(dst, `{"Version":1,"AccessKeyId":`...), i.AccessKeyID)
	dst = appendString(append(dst, `,"SecretAccessKey":`...), i.SecretAccessKey.Reveal())
	dst = appendString(append(dst, `,"SessionToken":`...), i.SessionToken.Reveal())
	dst = i.Expires.UTC().AppendFormat(append(dst, `,"Expiration":"`...), time.RFC3339)
	return append(dst, `"}`...)
}

// decodeExchange reads the parameters of RFC 8693, section 2.1. What it doesn't know is passed over, as RFC 6749, section 3.2, wants, but
// for what would authenticate the client or narrow what is granted. A parameter without a value counts as not there.
func decodeExchange(f form) (broker.Request, error) {
	switch {
	case f["grant_type"] == "":
		return broker.Request{}, errParameter
	case f["grant_type"] != grantTokenExchange:
		return broker.Request{}, errGrantType
	case f["client_secret"] != "" || f["client_assertion"] != "":
		return broker.Request{}, errClientAuth
	case f["authorization_details"] != "" || f["policy"] != "":
		return broker.Request{}, invalid("authorization_details (RFC 9396) or a policy, which narrow on other surfaces and not here")
	case f["requested_token_type"] != "" && f["requested_token_type"] != tokenS3:
		return broker.Request{}, invalid("requested_token_type is one that isn't issued")
	case f["subject_token"] == "" || f["subject_token_type"] == "" || (f["actor_token"] == "") != (f["actor_token_type"] == ""):
		return broker.Request{}, errParameter
	}
	subject, ok := tokenTypes[f["subject_token_type"]]
	if !ok {
		return broker.Request{}, invalid("subject_token_type is not one that is taken")
	}
	req := broker.Request{Proof: newProof(subject, f["subject_token"])}
	if f["actor_token"] != "" {
		kind, ok := tokenTypes[f["actor_token_type"]]
		if !ok {
			return broker.Request{}, invalid("actor_token_type is not one that is taken")
		}
		actor := newProof(kind, f["actor_token"])
		req.Actor = &actor
	}
	var err error
	req.Role, err = targetRole(f)
	return req, err
}

// targetRole is the one role that audience, resource and scope name.
func targetRole(f form) (string, error) {
	role := ""
	for _, target := range []struct{ parameter, prefix string }{{"audience", ""}, {"resource", roleURN}, {"scope", scopeRole}} {
		value := f[target.parameter]
		if value == "" {
			continue
		}
		name, ok := strings.CutPrefix(value, target.prefix)
		if !ok {
			return "", errTarget
		}
		name, err := roleNamed(name)
		if err != nil {
			return "", err
		}
		if role != "" && role != name {
			return "", errTarget
		}
		role = name
	}
	if role == "" {
		return "", errTarget
	}
	return role, nil
}

// oauthMetadata is the authorization server's metadata (RFC 8414, section 2).
func (a *httpAPI) oauthMetadata(_ context.Context, c *httpCall) error {
	issuer := a.docs.URL()
	dst := appendString([]byte(`{"issuer":`), issuer)
	dst = appendString(append(dst, `,"token_endpoint":`...), issuer+"/oauth/token")
	dst = append(dst, `,"grant_types_supported":["`+grantTokenExchange+`"],"response_types_supported":[],"token_endpoint_auth_methods_supported":["none"]}`...)
	return c.writeStatic(jsonType, dst)
}

// oauthError is the body of an error (RFC 6749, section 5.2). Its description has the characters that the RFC allows.
func oauthError(p public) []byte {
	description := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '\''
		}
		return r
	}, p.message)
	dst := appendString([]byte(`{"error":`), p.oauth.code)
	dst = appendString(append(dst, `,"error_description":`...), description)
	return append(dst, '}')
}
