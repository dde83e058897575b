// Package gateway verifies what a gateway says of a consumer: that the consumer's request is by somebody whom the gateway has
// authenticated. Each word is under the key of a session, for one request, and good once.
//
// The proof is text in lines that end with "\n", the last one excepted:
//
//	credbroker-gateway/1
//	KEY-ID
//	TIMESTAMP       seconds of Unix time
//	NONCE           16 to 64 of A-Z a-z 0-9 _ -
//	METHOD
//	PATH            as it is in the request
//	QUERY           without "?"; empty if there is none
//	BODY-HASH       SHA-256 of the body, in lower-case hex
//	NAME:VALUE      for each identity header that is there, its name in lower case, in the order of Headers
//	MAC             HMAC-SHA-256 by the session's key over all before it, in lower-case hex
//
// The transport builds it of the request that it got (internal/server); a gateway builds the same of the one that it sends.
package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

const (
	// maxAge is how old a word may be, maxAhead how far ahead the gateway's clock.
	maxAge   = 30 * time.Second
	maxAhead = 5 * time.Second
	// markLife is how long one that was used is remembered.
	markLife = maxAge + maxAhead

	maxBytes = 16 << 10
	version  = "credbroker-gateway/1"
	fixed    = 8 // lines before the headers

	maxNames = 64 // of groups, and of scopes
)

// Verifier takes the word of gateways. It is safe for concurrent use.
type Verifier struct {
	sessions attest.GatewaySessions
	replay   attest.Replay
	now      func() time.Time
}

var _ attest.Verifier = (*Verifier)(nil)

// New returns a verifier by sessions and a memory of what was used; now is the clock, time.Now if nil.
func New(sessions attest.GatewaySessions, replay attest.Replay, now func() time.Time) *Verifier {
	if now == nil {
		now = time.Now
	}
	return &Verifier{sessions, replay, now}
}

// assertion is a parsed proof, none of which is believed until its MAC holds.
type assertion struct {
	keyID, nonce string
	at           time.Time
	headers      map[string]string
	signed, mac  string
}

var (
	// sessionIDForm is of sessions, nameForm of gateways with static keys: nothing is both.
	sessionIDForm = regexp.MustCompile(`^[A-Z2-7]{26}$`)
	nameForm      = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	nonceForm     = regexp.MustCompile(`^[A-Za-z0-9_-]{16,64}$`)
	macForm       = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// valueForm is what an identity header may hold: nothing that a list or another header could be made of.
	valueForm = regexp.MustCompile(`^[A-Za-z0-9._@=+/:-]{1,255}$`)
)

// groups splits a list of groups, which are separated by commas with or without a space behind; nil if it is none.
func groups(list string) []string {
	return names(strings.Split(strings.ReplaceAll(list, ", ", ","), ","))
}

// scopes splits a list of OAuth 2.0 scopes, which are separated by single spaces; nil if it is none.
func scopes(list string) []string { return names(strings.Split(list, " ")) }

func names(list []string) []string {
	if len(list) > maxNames || slices.ContainsFunc(list, func(name string) bool { return !valueForm.MatchString(name) }) {
		return nil
	}
	return list
}

func parse(text string) (*assertion, error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("%d bytes, expected at most %d", len(text), maxBytes)
	}
	lines := strings.Split(text, "\n")
	if len(lines) < fixed+1 || len(lines) > fixed+1+len(attest.GatewayHeaders) || lines[0] != version {
		return nil, errors.New("not of " + version)
	}
	a := &assertion{keyID: lines[1], nonce: lines[3], mac: lines[len(lines)-1], headers: map[string]string{}}
	a.signed = text[:len(text)-len(a.mac)]
	seconds, _ := strconv.ParseUint(lines[2], 10, 40)
	if strconv.FormatUint(seconds, 10) != lines[2] { // which is so of whatever it couldn't read
		return nil, errors.New("the timestamp is no whole number of seconds")
	}
	a.at = time.Unix(int64(seconds), 0)
	switch {
	case !sessionIDForm.MatchString(a.keyID) && !nameForm.MatchString(a.keyID):
		return nil, errors.New("the key ID is none")
	case !nonceForm.MatchString(a.nonce):
		return nil, errors.New("the nonce is not 16 to 64 of A-Z a-z 0-9 _ -")
	case !macForm.MatchString(lines[7]) || !macForm.MatchString(a.mac):
		return nil, errors.New("the body's hash or the MAC is not 64 digits of lower-case hex")
	}
	last := -1
	for _, line := range lines[fixed : len(lines)-1] {
		name, value, _ := strings.Cut(line, ":")
		at := slices.Index(attest.GatewayHeaders, name)
		if at <= last {
			return nil, errors.New("an identity header is unknown, there twice or out of order")
		}
		last = at
		sound := valueForm.MatchString(value)
		switch name {
		case attest.GatewayGroups:
			sound = groups(value) != nil
		case attest.GatewayScopes:
			sound = scopes(value) != nil
		}
		if !sound {
			return nil, fmt.Errorf("%s is empty, too long or holds other characters than a name has", name)
		}
		a.headers[name] = value
	}
	return a, nil
}

// Verify implements attest.Verifier for attest.KindGateway: Kind is attest.KindKong, Issuer the gateway's subject, Tenant its
// issuer, Subject the consumer's ID, Actor the gateway, Expires the session's end. Attributes are consumer_username, consumer_custom_id, credential_id,
// groups and scopes.
func (v *Verifier) Verify(ctx context.Context, p attest.Proof) (attest.Identity, error) {
	if p.Kind != attest.KindGateway {
		return attest.Identity{}, fmt.Errorf("%w: kind %q, expected %q", attest.ErrMalformed, p.Kind, attest.KindGateway)
	}
	a, err := parse(p.Data.Reveal())
	if err != nil {
		return attest.Identity{}, fmt.Errorf("%w: %w", attest.ErrMalformed, err)
	}
	now := v.now()
	if a.at.Before(now.Add(-maxAge)) || a.at.After(now.Add(maxAhead)) {
		return attest.Identity{}, fmt.Errorf("%w: it was made at %s, which is too long ago or to come", attest.ErrRejected, a.at.UTC().Format(time.RFC3339))
	}
	s, err := v.sessions.Find(ctx, a.keyID)
	if err != nil {
		return attest.Identity{}, err
	}
	if !a.isOf(s.Key) && (s.SecondKey.IsZero() || !a.isOf(s.SecondKey)) {
		return attest.Identity{}, fmt.Errorf("%w: the MAC is not of the session's key", attest.ErrRejected)
	}
	// Only now: what isn't the gateway's own uses up no nonce of it.
	if err := v.replay.Use(ctx, a.name(), a.at.Add(-maxAhead), markLife); err != nil {
		switch {
		case errors.Is(err, attest.ErrUsed): // not to be retried: its nonce was seen
			return attest.Identity{}, fmt.Errorf("%w: the nonce was used before", attest.ErrRejected)
		case errors.Is(err, attest.ErrRejected): // made before the memory began: another one will do
			return attest.Identity{}, fmt.Errorf("%w: %s", attest.ErrUnavailable, err.Error())
		}
		return attest.Identity{}, err
	}
	return a.identity(s)
}

// isOf says whether the MAC was made with the key.
func (a *assertion) isOf(key secret.Secret) bool {
	want := hmac.New(sha256.New, []byte(key.Reveal()))
	want.Write([]byte(a.signed))
	return hmac.Equal([]byte(hex.EncodeToString(want.Sum(nil))), []byte(a.mac))
}

func (a *assertion) name() [sha256.Size]byte {
	h := sha256.New()
	for _, part := range []string{"gateway", a.keyID, a.nonce} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part))) // a hash takes every write
		h.Write([]byte(part))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (a *assertion) identity(s attest.GatewaySession) (attest.Identity, error) {
	consumer, credential := a.headers[attest.GatewayConsumerID], a.headers[attest.GatewayCredential]
	if consumer == "" || credential == "" {
		return attest.Identity{}, fmt.Errorf("%w: there is no consumer, or none with a credential", attest.ErrRejected)
	}
	actor := s.Gateway
	actor.Expires = s.Expires
	id := attest.Identity{
		Kind: attest.KindKong, Issuer: s.Gateway.Subject, Tenant: s.Gateway.Issuer, Subject: consumer, Expires: s.Expires, Actor: &actor,
		Attrs: map[string][]string{"credential_id": {credential}},
	}
	for attr, header := range map[string]string{"consumer_username": attest.GatewayUsername, "consumer_custom_id": attest.GatewayCustomID} {
		if value := a.headers[header]; value != "" {
			id.Attrs[attr] = []string{value}
		}
	}
	if names := groups(a.headers[attest.GatewayGroups]); names != nil {
		id.Attrs["groups"] = names
	}
	if names := scopes(a.headers[attest.GatewayScopes]); names != nil {
		id.Attrs["scopes"] = names
	}
	return id, nil
}
