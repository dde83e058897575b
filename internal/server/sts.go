package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
	"github.com/credbroker/credbroker/internal/exchange"
)

// The STS query API of AWS, as far as SDKs call it (AWS Security Token Service API Reference, version 2011-06-15).
const (
	stsVersion   = "2011-06-15"
	stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"
	// stsSession is the name of a session whose caller gave none.
	stsSession = "credbroker"
)

var xmlType = []string{"text/xml"}

// stsRoutes are those of the listener that speaks nothing else, for clients whose endpoint has no path.
var stsRoutes = map[string]httpRoute{"/": httpRoutes["/sts"]}

// NewSTS returns the HTTP server of the STS query API alone.
func NewSTS(l *Listener, b Broker, o Options) *Server {
	api := newHTTPAPI(b, nil, o)
	api.routes, api.surface = stsRoutes, surfaceSTS
	return serveHTTP(l, api, readTimeout+o.RequestTimeout+5*time.Second, o.Log)
}

// sts answers a call of the query API by its action.
func (a *httpAPI) sts(ctx context.Context, c *httpCall) error {
	f, err := c.readForm()
	if err != nil {
		return err
	}
	if f["Version"] != stsVersion {
		return errAction
	}
	switch f["Action"] {
	case "AssumeRoleWithWebIdentity":
		return a.assumeRoleWithWebIdentity(ctx, c, f)
	case "AssumeRole":
		return asSigned(a.assumeRole(ctx, c, f))
	case "GetCallerIdentity":
		return asSigned(a.callerIdentity(ctx, c, f))
	}
	return errAction
}

func (a *httpAPI) assumeRoleWithWebIdentity(ctx context.Context, c *httpCall, f form) error {
	req, err := decodeAssume(f, "WebIdentityToken")
	if err != nil {
		return err
	}
	if len(c.r.Header["Authorization"]) > 0 {
		return invalid("more than one proof")
	}
	req.Proof = newProof(attest.KindJWT, f["WebIdentityToken"])
	return a.assume(ctx, c, req, "AssumeRoleWithWebIdentity")
}

// assumeRole is for who signs with an access key of the configuration's.
func (a *httpAPI) assumeRole(ctx context.Context, c *httpCall, f form) error {
	req, err := decodeAssume(f, "")
	if err != nil {
		return err
	}
	req.Proof = c.signedProof()
	return a.assume(ctx, c, req, "AssumeRole")
}

func (a *httpAPI) assume(ctx context.Context, c *httpCall, req broker.Request, action string) error {
	req.Correlation, req.Source, req.Floor = c.corr, c.source(), a.opts.Floors.STS
	issued, err := a.issued(ctx, req)
	if err != nil {
		return err
	}
	a.warnIfShort(c, issued)
	c.writeAs(xmlType, 200, appendAssumed(issued, action, a.opts.Account, req.Session, c.corr.RequestID))
	return nil
}

// callerIdentity tells who signs with an access key of the configuration's, or with minted credentials, who that is.
func (a *httpAPI) callerIdentity(ctx context.Context, c *httpCall, f form) error {
	if len(f) != 2 {
		return invalid("a parameter that GetCallerIdentity doesn't have")
	}
	proof := c.signedProof()
	if !proof.Data.IsZero() && len(c.r.Header["X-Amz-Security-Token"]) > 0 {
		proof.Kind = attest.KindMinted
	}
	id, err := a.broker.WhoIs(ctx, broker.Request{Proof: proof, Correlation: c.corr, Source: c.source()})
	if err != nil {
		return err
	}
	arn, userID := "arn:aws:iam::"+a.opts.Account+":user/"+id.Subject, id.Subject
	if id.Kind == attest.KindMinted {
		arn, userID = assumedRole(a.opts.Account, id.Tenant, id.Session), id.Tenant+":"+id.Session
	}
	const action = "GetCallerIdentity"
	var x xmlText
	x.open(action, "Response")
	x.WriteString("<" + action + "Result>")
	x.element("Arn", arn)
	x.element("UserId", userID)
	x.element("Account", a.opts.Account)
	x.WriteString("</" + action + "Result>")
	x.end(action, c.corr.RequestID)
	c.writeAs(xmlType, 200, x.Bytes())
	return nil
}

// decodeAssume reads the parameters of the actions that assume a role. Those that there are not here, PolicyArns, Tags and ExternalId among
// them, are refused: what narrows must not be lost in silence. Proof is the parameter with the proof; empty if the request is signed.
func decodeAssume(f form, proof string) (broker.Request, error) {
	req := broker.Request{Session: stsSession}
	for name, value := range f {
		var err error
		switch name {
		case "Action", "Version", "RoleArn":
		case "Policy":
			req.Policy = value
		case "DurationSeconds":
			req.TTL, err = parseTTL(value)
		case "RoleSessionName":
			if req.Session = value; !isSessionName(value) {
				err = invalid("RoleSessionName is not 2 to 64 of A-Z a-z 0-9 _ + = , . @ -")
			}
		default:
			if name != proof {
				err = invalid("a parameter that the action doesn't have here")
			}
		}
		if err != nil {
			return broker.Request{}, err
		}
	}
	if f["RoleArn"] == "" || proof != "" && f[proof] == "" {
		return broker.Request{}, errParameter
	}
	var err error
	req.Role, err = roleNamed(f["RoleArn"])
	return req, err
}

// asSigned is what a caller is told whose signed request was refused as a proof.
func asSigned(err error) error {
	if errors.Is(err, attest.ErrRejected) || errors.Is(err, attest.ErrMalformed) {
		return fmt.Errorf("%w: %w", errSigned, err)
	}
	return err
}

// signedProof writes what was sent as the text that package sigv4 verifies: so the signature is over this very request.
func (c *httpCall) signedProof() attest.Proof {
	if len(c.r.Header["Authorization"]) == 0 {
		return attest.Proof{}
	}
	lines := make([]string, 0, len(c.r.Header)+1)
	lines = append(lines, "host:"+c.r.Host)
	for name, values := range c.r.Header {
		for _, value := range values {
			lines = append(lines, strings.ToLower(name)+":"+value)
		}
	}
	hash := sha256.Sum256(c.body)
	head := []string{"credbroker-sigv4/1", c.r.Method, c.r.URL.Path, hex.EncodeToString(hash[:])}
	return newProof(attest.KindSigV4, strings.Join(append(head, lines...), "\n"))
}

// isSessionName reports whether s is ^[A-Za-z0-9_+=,.@-]{2,64}$, as AWS has it.
func isSessionName(s string) bool {
	if len(s) < 2 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_+=,.@-", rune(c)) {
			return false
		}
	}
	return true
}

// appendAssumed is the answer of the actions that assume a role; the name of the action and what is in it come from closed sets or
// are escaped.
func appendAssumed(i broker.Issued, action, account, session, requestID string) []byte {
	var x xmlText
	x.Grow(1024 + i.SessionToken.Len())
	x.open(action, "Response")
	x.WriteString("<" + action + "Result><Credentials>")
	x.credentials(i.Credentials)
	x.WriteString("</Credentials><AssumedRoleUser>")
	x.element("Arn", assumedRole(account, i.Role, session))
	x.element("AssumedRoleId", i.Role+":"+session)
	x.WriteString("</AssumedRoleUser></" + action + "Result>")
	x.end(action, requestID)
	return x.Bytes()
}

// assumedRole is the ARN of a session of a role.
func assumedRole(account, role, session string) string {
	return "arn:aws:sts::" + account + ":assumed-role/" + role + "/" + session
}

// xmlText is an XML document in the making.
type xmlText struct{ bytes.Buffer }

func (x *xmlText) open(action, suffix string) {
	x.WriteString("<" + action + suffix + ` xmlns="` + stsNamespace + `">`)
}

func (x *xmlText) end(action, requestID string) {
	x.WriteString("<ResponseMetadata>")
	x.element("RequestId", requestID)
	x.WriteString("</ResponseMetadata></" + action + "Response>")
}

func (x *xmlText) element(name, text string) {
	x.WriteString("<" + name + ">")
	if visible(text) && !strings.ContainsAny(text, "<>&\"'") { // as keys and tokens are, for which escaping takes long
		x.WriteString(text)
	} else {
		_ = xml.EscapeText(x, []byte(text)) // a buffer takes everything
	}
	x.WriteString("</" + name + ">")
}

func (x *xmlText) credentials(c exchange.Credentials) {
	x.element("AccessKeyId", c.AccessKeyID)
	x.element("SecretAccessKey", c.SecretAccessKey.Reveal())
	x.element("SessionToken", c.SessionToken.Reveal())
	x.element("Expiration", c.Expires.UTC().Format(time.RFC3339))
}

// stsError is the body of an error (AWS query APIs, "ErrorResponse").
func stsError(p public, requestID string) []byte {
	fault := "Sender"
	if p.sts.status >= 500 {
		fault = "Receiver"
	}
	var x xmlText
	x.open("Error", "Response")
	x.WriteString("<Error>")
	x.element("Type", fault)
	x.element("Code", p.sts.code)
	x.element("Message", p.message)
	x.WriteString("</Error>")
	x.element("RequestId", requestID)
	x.WriteString("</ErrorResponse>")
	return x.Bytes()
}
