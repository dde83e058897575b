package server

import (
	"bytes"
	"context"
	"encoding/xml"
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
	if f["Action"] == "AssumeRoleWithWebIdentity" && f["Version"] == stsVersion {
		return a.assumeRoleWithWebIdentity(ctx, c, f)
	}
	return errAction
}

func (a *httpAPI) assumeRoleWithWebIdentity(ctx context.Context, c *httpCall, f form) error {
	req, err := decodeWebIdentity(f)
	if err != nil {
		return err
	}
	if len(c.r.Header["Authorization"]) > 0 {
		return invalid("more than one proof")
	}
	req.Correlation, req.Source, req.Floor = c.corr, c.source(), a.opts.Floors.STS
	issued, err := a.issued(ctx, req)
	if err != nil {
		return err
	}
	a.warnIfShort(c, issued)
	c.writeAs(xmlType, 200, appendAssumed(issued, "AssumeRoleWithWebIdentity", a.opts.Account, req.Session, c.corr.RequestID))
	return nil
}

// decodeWebIdentity reads the parameters of AssumeRoleWithWebIdentity. Those that there are not, PolicyArns and ProviderId among them,
// are refused: what narrows must not be lost in silence.
func decodeWebIdentity(f form) (broker.Request, error) {
	req := broker.Request{Session: stsSession}
	var arn, token string
	for name, value := range f {
		var err error
		switch name {
		case "Action", "Version":
		case "RoleArn":
			arn = value
		case "WebIdentityToken":
			token = value
		case "Policy":
			req.Policy = value
		case "DurationSeconds":
			req.TTL, err = parseTTL(value)
		case "RoleSessionName":
			if req.Session = value; !isSessionName(value) {
				err = invalid("RoleSessionName is not 2 to 64 of A-Z a-z 0-9 _ + = , . @ -")
			}
		default:
			err = invalid("a parameter that AssumeRoleWithWebIdentity doesn't have here")
		}
		if err != nil {
			return broker.Request{}, err
		}
	}
	if arn == "" || token == "" {
		return broker.Request{}, errParameter
	}
	var err error
	if req.Role, err = roleNamed(arn); err != nil {
		return broker.Request{}, err
	}
	req.Proof = newProof(attest.KindJWT, token)
	return req, nil
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
	_ = xml.EscapeText(x, []byte(text)) // a buffer takes everything
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
