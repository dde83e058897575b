package jwtproof

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// payload is a good one with some members replaced, or left out where the value is "".
func payload(members ...string) []byte {
	list := [][2]string{{"iss", `"https://i"`}, {"sub", `"alice"`}, {"aud", `"broker"`}, {"iat", "1000"}, {"exp", "1300"}}
	for i := 0; i < len(members); i += 2 {
		found := false
		for j := range list {
			if list[j][0] == members[i] {
				list[j][1], found = members[i+1], true
			}
		}
		if !found {
			list = append(list, [2]string{members[i], members[i+1]})
		}
	}
	var out []string
	for _, m := range list {
		if m[1] != "" {
			out = append(out, fmt.Sprintf("%q:%s", m[0], m[1]))
		}
	}
	return []byte("{" + strings.Join(out, ",") + "}")
}

func TestClaimsAreTypedStrictly(t *testing.T) {
	if c, err := parseClaims(payload("nbf", "990", "jti", `"id"`)); err != nil || c.subject != "alice" || c.expires.Unix() != 1300 ||
		c.issuedAt.Unix() != 1000 || c.notBefore.Unix() != 990 || c.tokenID != "id" || c.issuer != "https://i" {
		t.Errorf("%+v, %v", c, err)
	}
	notDates := []string{`"1000"`, "1000.0", "1e3", "-1", "-0", "null", "true", "[1000]", "{}", "253402300800", "99999999999999999999"}
	for _, name := range []string{"exp", "iat", "nbf"} {
		for _, v := range notDates {
			_, err := parseClaims(payload(name, v))
			mustContain(t, err, name+" is not an integer")
		}
		if _, err := parseClaims(payload(name, "253402300799")); err != nil {
			t.Errorf("%s at its bound: %v", name, err)
		}
	}
	for _, name := range []string{"exp", "iat", "sub", "aud"} { // a JWT-SVID needs no iss
		_, err := parseClaims(payload(name, ""))
		mustContain(t, err, name+" is missing")
	}
	for _, name := range []string{"iss", "sub"} {
		for _, v := range []string{"7", "null", `["alice"]`, `{"a":"b"}`, "true"} {
			_, err := parseClaims(payload(name, v))
			mustContain(t, err, "not a string")
		}
	}
	for _, v := range []string{"7", "null", `""`, `["a"]`, `"` + strings.Repeat("j", maxTokenID+1) + `"`} {
		_, err := parseClaims(payload("jti", v))
		mustContain(t, err, "jti is not a string of 1 to 255 bytes")
	}
	if _, err := parseClaims(payload("jti", `"`+strings.Repeat("j", maxTokenID)+`"`)); err != nil {
		t.Error(err)
	}
}

func TestPayloadIsStrictJSON(t *testing.T) {
	good := string(payload())
	for name, data := range map[string]string{
		"empty": "", "null": "null", "array": "[" + good + "]", "string": `"x"`, "trailing data": good + "x",
		"two objects": good + good, "duplicate sub": string(payload("x", `1,"sub":"bob"`)), "duplicate iss": string(payload("x", `1,"iss":"https://j"`)),
		"deep duplicate": string(payload("x", `{"a":1,"a":2}`)), "not UTF-8": string(payload("x", "\"\xff\"")),
		"deep": string(payload("x", strings.Repeat("[", 100)+strings.Repeat("]", 100))),
	} {
		if _, err := parseClaims([]byte(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, _, err := unverifiedIssuer([]byte(data)); err == nil {
			t.Errorf("%s: an issuer was read", name)
		}
	}
	for _, iss := range []string{"", "null", "7", `["https://i"]`} {
		_, _, err := unverifiedIssuer(payload("iss", iss))
		mustContain(t, err, "iss is missing or not a string")
	}
	// Case and look-alikes name other claims: the long s of "ſub" folds onto "sub".
	for _, other := range []string{"Sub", "SUB", "ſub"} {
		_, err := parseClaims(payload("sub", "", other, `"alice"`))
		mustContain(t, err, "sub is missing")
	}
}

func TestTimesAtTheirBounds(t *testing.T) {
	const skew, life = 30 * time.Second, time.Hour
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	for name, tc := range map[string]struct {
		iat, nbf, exp int64
		now           time.Time
		want          string
	}{
		"good":                          {1000, 1000, 1300, at(1100), ""},
		"expired within skew":           {1000, 0, 1300, at(1330).Add(-1), ""},
		"expired at skew":               {1000, 0, 1300, at(1330), "expired 30s ago"},
		"issued within skew":            {1000, 0, 1300, at(970), ""},
		"issued beyond skew":            {1000, 0, 1300, at(970).Add(-1), "issued 30s in the future"},
		"not before within skew":        {1000, 1100, 1300, at(1070), ""},
		"not before beyond skew":        {1000, 1100, 1300, at(1070).Add(-1), "not valid for another 30s"},
		"exp is iat":                    {1300, 0, 1300, at(1300), "exp is not after iat"},
		"exp before iat":                {1301, 0, 1300, at(1300), "exp is not after iat"},
		"exp a second after iat":        {1299, 0, 1300, at(1300), ""},
		"longest life":                  {1000, 0, 1000 + 3600, at(1100), ""},
		"a second over the longest":     {1000, 0, 1000 + 3601, at(1100), "lives for 1h0m1s, at most 1h0m0s"},
		"issued in 1970, for 300 years": {0, 0, 9_000_000_000, at(1100), "lives for"},
	} {
		c := claims{issuedAt: at(tc.iat), expires: at(tc.exp)}
		if tc.nbf != 0 {
			c.notBefore = at(tc.nbf)
		}
		err := c.checkTimes(tc.now, skew, life)
		if err == nil {
			err = c.checkExpiry(tc.now, skew)
		}
		if tc.want != "" {
			mustContain(t, err, tc.want)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifiedIssuerIsHeldAgainstTheChosenOne(t *testing.T) {
	c, err := parseClaims(payload())
	if err != nil {
		t.Fatal(err)
	}
	is := &issuer{config: goodIssuer()}
	mustContain(t, is.check(&c, "JWT", c.issuedAt), "iss is not the issuer whose key verified the token")
}

func TestAudience(t *testing.T) {
	contains := &Issuer{Audiences: []string{"broker", "broker-2"}, AuthorizedParties: []string{"portal"}}
	sole := &Issuer{Audiences: []string{"broker"}, SoleAudience: true}
	for _, tc := range []struct {
		is       *Issuer
		aud, azp string
		want     string // empty: accepted
	}{
		{contains, `"broker"`, "", ""},
		{contains, `["broker-2"]`, "", ""},
		{contains, `["broker"]`, `"anyone"`, ""}, // azp is looked at only where there are several
		{contains, `"broker-3"`, "", "holds none of"},
		{contains, `"Broker"`, "", "holds none of"},
		{contains, `"broker/"`, "", "holds none of"},
		{contains, `"xbroker"`, "", "holds none of"},
		{contains, `"broker broker-2"`, "", "holds none of"},
		{contains, `""`, "", "holds none of"},
		{contains, `["other","broker"]`, `"broker"`, ""},
		{contains, `["other","broker"]`, `"portal"`, ""},
		{contains, `["other","broker"]`, `"other"`, "neither an audience nor an authorized party"},
		{contains, `["other","broker"]`, "", "azp is missing"},
		{contains, `["other","broker"]`, "null", "azp is missing or not a string"},
		{contains, `["other","broker"]`, `["broker"]`, "azp is missing or not a string"},
		{contains, `["other","another"]`, `"broker"`, "holds none of"},
		{sole, `"broker"`, "", ""},
		{sole, `["broker"]`, "", ""},
		{sole, `["broker","other"]`, `"broker"`, "names 2 audiences, expected one"},
		{sole, `["broker","broker"]`, `"broker"`, "names 2 audiences, expected one"},
		{contains, `[]`, "", "aud is missing, empty"},
		{contains, `null`, "", "aud is missing, empty"},
		{contains, `7`, "", "aud is missing, empty"},
		{contains, `[["broker"]]`, "", "aud is missing, empty"},
		{contains, `["broker",7]`, "", "aud is missing, empty"},
		{contains, `{"aud":"broker"}`, "", "aud is missing, empty"},
		{contains, "", "", "aud is missing, empty"},
	} {
		c, err := parseClaims(payload("aud", tc.aud, "azp", tc.azp))
		if err == nil {
			err = c.checkAudience(tc.is)
		}
		if tc.want != "" {
			mustContain(t, err, tc.want)
		} else if err != nil {
			t.Errorf("aud %s, azp %s: %v", tc.aud, tc.azp, err)
		}
	}
}

func TestTypeIsOfTheIssuersList(t *testing.T) {
	for _, tc := range []struct {
		accepted, typ string
		ok            bool
	}{
		{"JWT,", "JWT", true}, {"JWT,", "jwt", true}, {"JWT,", "application/JWT", true}, {"JWT,", "APPLICATION/jwt", true},
		{"JWT,", "", true}, {"JWT,", "at+jwt", false}, {"JWT,", "application/", false}, {"JWT,", "JWT ", false},
		{"JWT", "", false}, {"at+jwt", "at+JWT", true}, {"at+jwt", "application/at+jwt", true}, {"at+jwt", "JWT", false},
		{"application/at+jwt", "at+jwt", true}, {"at+jwt", "application/application/at+jwt", false},
	} {
		is := Issuer{Name: "n", Issuer: "https://i", Audiences: []string{"a"}, Keys: KeySource{Discovery: true}, Types: strings.Split(tc.accepted, ",")}
		if _, err := is.normalize(); err != nil {
			t.Fatal(err)
		}
		if err := checkType(tc.typ, is.Types); (err == nil) != tc.ok {
			t.Errorf("typ %q where %q is accepted: %v", tc.typ, tc.accepted, err)
		}
	}
}

func TestSubject(t *testing.T) {
	for _, sub := range []string{"a", strings.Repeat("s", maxSubject), "Ünïcödé", "a b", "../../x", "system:serviceaccount:ns:sa", "日本"} {
		if err := checkSubject(sub); err != nil {
			t.Errorf("%q: %v", sub, err)
		}
	}
	for sub, want := range map[string]string{
		"":                                "sub is 0 bytes",
		strings.Repeat("s", maxSubject+1): "sub is 256 bytes",
		"e\u0301":                         "normalization form C",
		"a\x00":                           "byte 1 that is not printable",
		"a\nb":                            "not printable",
		"\u202ebob":                       "not printable",
		"a\u200b":                         "not printable",
		"a\u00a0b":                        "not printable",
		"a\ufffd":                         "not printable",
	} {
		mustContain(t, checkSubject(sub), want)
	}
}

func FuzzClaims(f *testing.F) {
	f.Add(payload())
	f.Add(payload("nbf", "1000", "jti", `"x"`, "aud", `["a","b"]`, "azp", `"a"`))
	f.Add(payload("groups", `["a","b"]`, "realm_access", `{"roles":["x"]}`, "email", `"a@b"`, "email_verified", "true"))
	f.Add([]byte(`{"iss":"a","iss":"b"}`))
	paths := map[string][]string{"groups": {"groups"}, "roles": {"realm_access", "roles"}, "first": {"groups", "0"}, "email": {"email"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		iss, trustDomain, err := unverifiedIssuer(data)
		c, errAll := parseClaims(data)
		if errAll != nil {
			return
		}
		if (err == nil) != (iss != "" || trustDomain != "" || c.all["iss"] != nil) || err == nil && iss != c.issuer {
			t.Errorf("%s: chosen by %q (%v), verified as %q", data, iss, err, c.issuer)
		}
		if trustDomain != "" && !strings.HasPrefix(c.subject, trustDomain+"/") {
			t.Errorf("%s: of %q", data, trustDomain)
		}
		if c.expires.IsZero() || c.issuedAt.IsZero() || len(c.audience) == 0 {
			t.Errorf("%s: %+v", data, c)
		}
		for name, values := range c.attributes(paths) {
			if len(values) == 0 || len(values) > maxValues {
				t.Errorf("%s: attribute %s has %d values", data, name, len(values))
			}
		}
	})
}
