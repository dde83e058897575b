package jwtproof

import (
	"strings"
	"testing"
)

const goodHead = `{"alg":"ES256","typ":"JWT","kid":"k"}`

func unsigned(head, payload string) string {
	return compact(head, payload, func(string) []byte { return []byte("sig") })
}

func TestParseJWSReadsTheParts(t *testing.T) {
	token := unsigned(goodHead, `{"a":1}`)
	got, err := parseJWS(token)
	if err != nil {
		t.Fatal(err)
	}
	if got.alg != "ES256" || got.kid != "k" || got.typ != "JWT" || string(got.payload) != `{"a":1}` || string(got.signature) != "sig" ||
		got.input != token[:strings.LastIndex(token, ".")] {
		t.Errorf("got %+v", got)
	}
}

func TestTokenSizeIsBounded(t *testing.T) {
	filler := strings.Repeat("a", maxToken)
	for size, ok := range map[int]bool{maxToken: true, maxToken + 1: false} {
		token := unsigned(goodHead, "")
		dot := strings.LastIndex(token, ".")
		token = token[:dot] + filler[:size-len(token)] + token[dot:]
		_, err := parseJWS(token)
		if !ok {
			mustContain(t, err, "at most 16384 are read")
		} else if err != nil && strings.Contains(err.Error(), "at most") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestDotsAreCountedBeforeSplitting(t *testing.T) {
	for _, token := range []string{"", "a", "a.b", "a.b.c.d", "a.b.c.d.e", strings.Repeat(".", maxToken)} {
		_, err := parseJWS(token)
		mustContain(t, err, "dots")
	}
	if n := testing.AllocsPerRun(10, func() { _, _ = parseJWS(strings.Repeat(".", maxToken)) }); n > 8 {
		t.Errorf("a token of dots costs %v allocations", n)
	}
	// A million dots (CVE-2025-30204) don't even get to be counted.
	_, err := parseJWS(strings.Repeat(".", 1_000_000))
	mustContain(t, err, "at most")
}

func TestOtherSerializationsAreRefused(t *testing.T) {
	good := strings.Split(unsigned(goodHead, `{}`), ".")
	jsonForm := `{"payload":"` + good[1] + `","protected":"` + good[0] + `","signature":"` + good[2] + `"}`
	for name, token := range map[string]string{
		"flattened JSON":          jsonForm,
		"JSON with two dots":      jsonForm + "..",
		"encrypted, five parts":   unsigned(`{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF","kid":"k"}`, "x") + ".eA.eA",
		"encrypted, header in it": unsigned(`{"alg":"dir","enc":"A256GCM","zip":"DEF","kid":"k"}`, "x"),
	} {
		if _, err := parseJWS(token); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestBase64URLIsCanonical(t *testing.T) {
	head, payload, sig := encode([]byte(goodHead)), encode([]byte(`{}`)), "c2ln"
	for name, token := range map[string]string{
		"padding":                  head + "." + payload + "=." + sig,
		"standard alphabet":        head + "." + payload + ".+/+/",
		"line feed in the header":  head[:4] + "\n" + head[4:] + "." + payload + "." + sig,
		"return in the payload":    head + "." + payload + "\r." + sig,
		"line feed in signature":   head + "." + payload + "." + sig + "\n",
		"space":                    head + ". " + payload + "." + sig,
		"unused bits in payload":   head + ".AB." + sig,
		"unused bits in signature": head + "." + payload + ".AB",
		"one character over":       head + "." + payload + ".c2lnA",
		"one over in the payload":  head + "." + encode([]byte("{ }")) + "A." + sig,
		"one over in the header":   encode([]byte(`{"alg":"ES256","kid":"kid"}`)) + "A." + payload + "." + sig,
	} {
		if _, err := parseJWS(token); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	_, err := parseJWS(head + "." + payload + ".")
	mustContain(t, err, "signature is empty")
}

func TestHeaderIsStrictJSON(t *testing.T) {
	for name, head := range map[string]string{
		"not JSON":            `alg`,
		"empty":               ``,
		"array":               `["alg"]`,
		"null":                `null`,
		"trailing data":       goodHead + `{}`,
		"duplicate alg":       `{"alg":"none","alg":"ES256","kid":"k"}`,
		"duplicate unknown":   `{"alg":"ES256","kid":"k","x":1,"x":2}`,
		"duplicate deep":      `{"alg":"ES256","kid":"k","x":{"y":1,"y":2}}`,
		"escaped duplicate":   `{"alg":"none","\u0061lg":"ES256","kid":"k"}`,
		"alg in capitals":     `{"ALG":"ES256","kid":"k"}`,
		"alg is null":         `{"alg":null,"kid":"k"}`,
		"alg is a number":     `{"alg":256,"kid":"k"}`,
		"no alg":              `{"kid":"k"}`,
		"not UTF-8":           "{\"alg\":\"ES256\",\"kid\":\"\xff\"}",
		"typ is empty":        `{"alg":"ES256","kid":"k","typ":""}`,
		"typ is null":         `{"alg":"ES256","kid":"k","typ":null}`,
		"typ is an array":     `{"alg":"ES256","kid":"k","typ":["JWT"]}`,
		"deep nesting":        `{"alg":"ES256","kid":"k","x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
		"deep, never closed":  `{"alg":"ES256","kid":"k","x":` + strings.Repeat(`{"a":`, 1500),
		"byte order mark":     "\ufeff" + goodHead,
		"comment":             `{"alg":"ES256",/**/"kid":"k"}`,
		"lone surrogate":      `{"alg":"ES256","kid":"\ud800"}`,
		"single-quoted value": `{'alg':'ES256','kid':'k'}`,
	} {
		if _, err := parseJWS(unsigned(head, `{}`)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNestingIsBoundedExactly(t *testing.T) {
	arrays := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	objects := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	decode := func(s string) error { var out any; return decodeJSON([]byte(s), &out) }
	for _, nest := range []func(int) string{arrays, objects} {
		if err := decode(nest(maxDepth)); err != nil {
			t.Error(err)
		}
		mustContain(t, decode(nest(maxDepth+1)), "nested deeper than 16")
	}
	// What looks like nesting and isn't.
	if err := decode(`["` + strings.Repeat(`\"[{`, 40) + `"` + strings.Repeat(`,[],{}`, 40) + `]`); err != nil {
		t.Error(err)
	}
}

func TestHeadersThatChooseKeysOrBytesAreRefused(t *testing.T) {
	for name, value := range map[string]string{
		"crit": `["exp"]`, "b64": `false`, "jwk": `{"kty":"oct"}`, "jku": `"http://169.254.169.254/"`,
		"x5u": `"https://evil/"`, "x5c": `["AA"]`, "zip": `"DEF"`,
	} {
		for _, v := range []string{value, "null"} {
			_, err := parseJWS(unsigned(`{"alg":"ES256","kid":"k","`+name+`":`+v+`}`, `{}`))
			mustContain(t, err, name+" is refused")
		}
	}
}

func TestKidIsRequiredAndBounded(t *testing.T) {
	head := func(kid string) string { return `{"alg":"ES256","kid":` + kid + `}` }
	for kid, want := range map[string]string{
		`""`:    "0 bytes",
		`7`:     "not a string",
		`null`:  "not a string",
		`["k"]`: "not a string",
		`"` + strings.Repeat("k", maxKeyID+1) + `"`: "257 bytes",
		`"` + strings.Repeat("k", 64<<10) + `"`:     "at most",
	} {
		_, err := parseJWS(unsigned(head(kid), `{}`))
		mustContain(t, err, want)
	}
	_, err := parseJWS(unsigned(`{"alg":"ES256"}`, `{}`))
	mustContain(t, err, "kid is missing")
	// Any text is a good name, since it is only ever looked up.
	for _, kid := range []string{strings.Repeat("k", maxKeyID), "../../etc/passwd", "' OR 1=1 --"} {
		if got, err := parseJWS(unsigned(head(`"`+kid+`"`), `{}`)); err != nil || got.kid != kid {
			t.Errorf("%s: %q, %v", kid, got.kid, err)
		}
	}
}

func FuzzParseJWS(f *testing.F) {
	f.Add(unsigned(goodHead, `{"iss":"x"}`))
	f.Add(unsigned(`{"alg":"none","kid":"k"}`, `{}`))
	f.Add("...")
	f.Add(unsigned(`{"alg":"ES256","kid":"k","crit":["b64"],"b64":false}`, "x"))
	f.Fuzz(func(t *testing.T, token string) {
		got, err := parseJWS(token)
		if err != nil {
			return
		}
		// Whatever was accepted has one spelling: its parts, written again, are the token.
		parts := strings.Split(token, ".")
		if len(parts) != 3 || got.input+"."+encode(got.signature) != token || encode(got.payload) != parts[1] {
			t.Errorf("%q is not what it was read as: %+v", token, got)
		}
		if got.kid == "" || len(got.kid) > maxKeyID || len(got.signature) == 0 {
			t.Errorf("%q gave %+v", token, got)
		}
	})
}
