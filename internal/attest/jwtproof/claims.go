package jwtproof

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/unicode/norm"

	"github.com/credbroker/credbroker/internal/attest"
)

// Bounds of single claims.
const (
	maxSubject = 255          // bytes of `sub`
	maxTokenID = 255          // bytes of `jti`
	maxDate    = 253402300799 // 9999-12-31T23:59:59Z, the last second that RFC 3339 can write
)

// claims are those of RFC 7519, section 4.1, in a token whose signature held.
type claims struct {
	issuer, subject, tokenID string // the issuer is empty if there is no `iss`, the token's ID if there is no `jti`
	issuedAt, expires        time.Time
	notBefore                time.Time // zero if there is no `nbf`
	audience                 []string
	authorizedParty          jsontext.Value
	all                      map[string]jsontext.Value
}

// unverifiedIssuer reads whom the token says it is of, to choose the keys that it is then verified with, and for nothing else: `iss`,
// and the trust domain, spiffe://NAME, of a `sub` that is a SPIFFE ID. One of the two is there.
func unverifiedIssuer(payload []byte) (iss, trustDomain string, err error) {
	var c struct {
		Iss jsontext.Value `json:"iss"`
		Sub jsontext.Value `json:"sub"`
	}
	if err := decodeJSON(payload, &c); err != nil {
		return "", "", fmt.Errorf("payload: %w", err)
	}
	sub, _ := decodeString(c.Sub)
	if name, _, err := attest.ParseSPIFFEID(sub); err == nil {
		trustDomain = spiffeScheme + name
	}
	iss, ok := decodeString(c.Iss)
	if !ok && (c.Iss != nil || trustDomain == "") {
		return "", "", errors.New("iss is missing or not a string")
	}
	return iss, trustDomain, nil
}

// parseClaims reads the payload of a verified token. It checks types, and nothing against the clock or the configuration.
func parseClaims(payload []byte) (claims, error) {
	var c claims
	if err := decodeJSON(payload, &c.all); err != nil {
		return claims{}, fmt.Errorf("payload: %w", err)
	}
	var ok bool
	if c.issuer, ok = decodeString(c.all["iss"]); !ok && c.all["iss"] != nil {
		return claims{}, errors.New("iss is not a string")
	}
	var err error
	if c.expires, err = date(c.all["exp"]); err != nil {
		return claims{}, fmt.Errorf("exp is %w", err)
	}
	if c.issuedAt, err = date(c.all["iat"]); err != nil {
		return claims{}, fmt.Errorf("iat is %w", err)
	}
	if nbf, present := c.all["nbf"]; present {
		if c.notBefore, err = date(nbf); err != nil {
			return claims{}, fmt.Errorf("nbf is %w", err)
		}
	}
	if c.audience, err = audience(c.all["aud"]); err != nil {
		return claims{}, err
	}
	c.authorizedParty = c.all["azp"]
	if c.subject, ok = decodeString(c.all["sub"]); !ok {
		return claims{}, errors.New("sub is missing or not a string")
	}
	if jti, present := c.all["jti"]; present {
		if c.tokenID, _ = decodeString(jti); c.tokenID == "" || len(c.tokenID) > maxTokenID {
			return claims{}, fmt.Errorf("jti is not a string of 1 to %d bytes", maxTokenID)
		}
	}
	return c, nil
}

// date reads a NumericDate (RFC 7519, section 2) that is a whole number without sign, fraction or exponent.
func date(v jsontext.Value) (time.Time, error) {
	if v == nil {
		return time.Time{}, errors.New("missing")
	}
	seconds, err := strconv.ParseUint(string(v), 10, 63)
	if err != nil || seconds > maxDate {
		return time.Time{}, fmt.Errorf("not an integer of 0 to %d", maxDate)
	}
	return time.Unix(int64(seconds), 0), nil
}

// audience reads `aud`, a string or an array of strings (RFC 7519, section 4.1.3).
func audience(v jsontext.Value) ([]string, error) {
	if one, ok := decodeString(v); ok {
		return []string{one}, nil
	}
	list := decodeStrings(v)
	if len(list) == 0 {
		return nil, errors.New("aud is missing, empty, or neither a string nor an array of strings")
	}
	return list, nil
}

func checkSubject(sub string) error {
	if len(sub) == 0 || len(sub) > maxSubject {
		return fmt.Errorf("sub is %d bytes, expected 1 to %d", len(sub), maxSubject)
	}
	// Two subjects that look the same must be the same: policy and audit show them to people.
	if !norm.NFC.IsNormalString(sub) {
		return errors.New("sub is not in Unicode normalization form C")
	}
	if i := strings.IndexFunc(sub, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }); i >= 0 {
		return fmt.Errorf("sub holds a character at byte %d that is not printable", i)
	}
	return nil
}

// checkExpiry says whether the token has ended. It is the last of all checks: its answer, unlike theirs, is told to the caller.
func (c *claims) checkExpiry(now time.Time, skew time.Duration) error {
	if !now.Before(c.expires.Add(skew)) {
		return fmt.Errorf("%w %s ago", attest.ErrExpired, now.Sub(c.expires).Truncate(time.Second))
	}
	return nil
}

// checkTimes holds the dates but the expiry against the clock and one another.
func (c *claims) checkTimes(now time.Time, skew, maxLifetime time.Duration) error {
	if c.issuedAt.After(now.Add(skew)) {
		return fmt.Errorf("token was issued %s in the future", c.issuedAt.Sub(now).Truncate(time.Second))
	}
	if c.notBefore.After(now.Add(skew)) {
		return fmt.Errorf("token is not valid for another %s", c.notBefore.Sub(now).Truncate(time.Second))
	}
	if !c.expires.After(c.issuedAt) {
		return errors.New("exp is not after iat")
	}
	if life := c.expires.Sub(c.issuedAt); life > maxLifetime {
		return fmt.Errorf("token lives for %s, at most %s is accepted", life, maxLifetime)
	}
	return nil
}

// checkAudience holds `aud` and, where it names several, `azp` against the configuration.
func (c *claims) checkAudience(is *Issuer) error {
	if !slices.ContainsFunc(c.audience, func(aud string) bool { return slices.Contains(is.Audiences, aud) }) {
		return fmt.Errorf("aud %q holds none of %q", excerpt(strings.Join(c.audience, " "), 128), is.Audiences)
	}
	if len(c.audience) == 1 {
		return nil
	}
	if is.SoleAudience {
		return fmt.Errorf("aud names %d audiences, expected one", len(c.audience))
	}
	azp, ok := decodeString(c.authorizedParty)
	if !ok {
		return errors.New("aud names several audiences, and azp is missing or not a string")
	}
	if !slices.Contains(is.Audiences, azp) && !slices.Contains(is.AuthorizedParties, azp) {
		return fmt.Errorf("azp %q is neither an audience nor an authorized party", excerpt(azp, 128))
	}
	return nil
}

// checkType holds the header's `typ` against the configured ones, which are in the same canonical form.
func checkType(typ string, accepted []string) error {
	if !slices.Contains(accepted, canonicalType(typ)) {
		return fmt.Errorf("typ %q is none of %q", excerpt(typ, 64), accepted)
	}
	return nil
}

// canonicalType drops case and an "application/" before it (RFC 7515, section 4.1.9).
func canonicalType(typ string) string {
	typ = strings.ToLower(typ)
	if short := strings.TrimPrefix(typ, "application/"); short != "" {
		return short
	}
	return typ // or "application/" would pass for an absent typ
}
