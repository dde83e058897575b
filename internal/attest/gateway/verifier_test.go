package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Unix(1_800_000_000, 0)

const (
	keyID = "ABCDEFGHIJKLMNOPQRSTUVWX27"
	key   = "an HMAC key of thirty-two bytes."
	hash  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// word is a gateway's word on a consumer, by its lines.
type word struct {
	lines []string
	key   string
}

func newWord(headers ...string) word {
	if headers == nil {
		headers = []string{"x-consumer-id:5b6a", "x-credential-identifier:key-1"}
	}
	return word{append([]string{"credbroker-gateway/1", keyID, fmt.Sprint(now.Unix()), "nonce-0123456789", "POST", "/v1/credentials", "", hash}, headers...), key}
}

// with changes a line.
func (w word) with(line int, text string) word {
	w.lines = append([]string{}, w.lines...)
	w.lines[line] = text
	return w
}

func (w word) proof() attest.Proof {
	text := strings.Join(w.lines, "\n") + "\n"
	mac := hmac.New(sha256.New, []byte(w.key))
	mac.Write([]byte(text))
	return attest.Proof{Kind: attest.KindGateway, Data: secret.New(text + hex.EncodeToString(mac.Sum(nil)))}
}

// newVerifier knows one session, and vouches for a while before now.
func newVerifier(t *testing.T) (*Verifier, *time.Time) {
	t.Helper()
	clock := now.Add(-time.Minute)
	tick := func() time.Time { return clock }
	sessions, replay := attest.NewGatewaySessionMemory(tick), attest.NewReplayMemory(tick)
	clock = now
	err := sessions.Open(t.Context(), attest.GatewaySession{
		KeyID: keyID, Key: secret.New(key), Expires: now.Add(time.Hour),
		Gateway: attest.Identity{Kind: attest.KindSPIFFE, Issuer: "spiffe://prod", Subject: "spiffe://prod/kong", Expires: now.Add(time.Minute)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return New(sessions, replay, tick), &clock
}

func TestAGatewaysWordBecomesAConsumer(t *testing.T) {
	v, _ := newVerifier(t)
	got, err := v.Verify(t.Context(), newWord("x-consumer-id:5b6a", "x-consumer-custom-id:42", "x-consumer-username:reports@corp", "x-credential-identifier:key-1", "x-authenticated-groups:a, b,c").proof())
	want := attest.Identity{
		Kind: attest.KindKong, Issuer: "spiffe://prod/kong", Tenant: "spiffe://prod", Subject: "5b6a", Expires: now.Add(time.Hour),
		Attrs: map[string][]string{"credential_id": {"key-1"}, "consumer_custom_id": {"42"}, "consumer_username": {"reports@corp"}, "groups": {"a", "b", "c"}},
		Actor: &attest.Identity{Kind: attest.KindSPIFFE, Issuer: "spiffe://prod", Subject: "spiffe://prod/kong", Expires: now.Add(time.Hour)},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
}

func TestEachCheckOfAGatewaysWord(t *testing.T) {
	at := func(d time.Duration) string { return fmt.Sprint(now.Add(d).Unix()) }
	other := newWord()
	other.key = "another key"
	unchanged := newWord().proof().Data.Reveal()
	raw := func(text string) attest.Proof { return attest.Proof{Kind: attest.KindGateway, Data: secret.New(text)} }
	malformed, rejected := attest.ErrMalformed, attest.ErrRejected
	for name, tc := range map[string]struct {
		proof attest.Proof
		want  error
		text  string
	}{
		"another key":                 {other.proof(), rejected, "MAC is not"},
		"another MAC":                 {raw(unchanged[:len(unchanged)-1] + map[bool]string{true: "1", false: "0"}[unchanged[len(unchanged)-1] == '0']), rejected, "MAC is not"},
		"another method":              {raw(strings.Replace(unchanged, "POST", "GET", 1)), rejected, "MAC is not"},
		"another path":                {raw(strings.Replace(unchanged, "/v1/credentials", "/v1/explain", 1)), rejected, "MAC is not"},
		"another query":               {raw(strings.Replace(unchanged, "credentials\n\n", "credentials\na\n", 1)), rejected, "MAC is not"},
		"another body":                {raw(strings.Replace(unchanged, "e3b0", "e3b1", 1)), rejected, "MAC is not"},
		"another consumer":            {raw(strings.Replace(unchanged, "5b6a", "5b6b", 1)), rejected, "MAC is not"},
		"another nonce":               {raw(strings.Replace(unchanged, "nonce-0", "nonce-1", 1)), rejected, "MAC is not"},
		"a header moved":              {raw(strings.Replace(unchanged, "x-credential-identifier:key-1", "x-authenticated-groups:key-1", 1)), rejected, "MAC is not"},
		"a header lost on the way":    {raw(strings.Replace(newWord("x-consumer-id:5b6a", "x-credential-identifier:key-1", "x-authenticated-groups:a").proof().Data.Reveal(), "x-authenticated-groups:a\n", "", 1)), rejected, "MAC is not"},
		"a session that isn't there":  {newWord().with(1, "BBCDEFGHIJKLMNOPQRSTUVWX27").proof(), rejected, "no gateway session"},
		"too old":                     {newWord().with(2, at(-31*time.Second)).proof(), rejected, "too long ago"},
		"too far ahead":               {newWord().with(2, at(6*time.Second)).proof(), rejected, "to come"},
		"no consumer":                 {newWord("x-credential-identifier:key-1").with(3, "nonce-of-another").proof(), rejected, "no consumer"},
		"no credential":               {newWord("x-consumer-id:5b6a").with(3, "nonce-of-another").proof(), rejected, "none with a credential"},
		"another kind":                {attest.Proof{Kind: attest.KindJWT, Data: secret.New(unchanged)}, malformed, `kind "jwt"`},
		"another version":             {newWord().with(0, "credbroker-gateway/2").proof(), malformed, "not of credbroker-gateway/1"},
		"a key ID in both cases":      {newWord().with(1, "Abcdefghijklmnopqrstuvwx27").proof(), malformed, "key ID"},
		"a key ID that is none":       {newWord().with(1, "").proof(), malformed, "key ID"},
		"a time with a sign":          {newWord().with(2, "+"+at(0)).proof(), malformed, "timestamp"},
		"a time with a zero before":   {newWord().with(2, "0"+at(0)).proof(), malformed, "timestamp"},
		"no time":                     {newWord().with(2, "").proof(), malformed, "timestamp"},
		"a short nonce":               {newWord().with(3, "nonce-012345678").proof(), malformed, "nonce"},
		"a long nonce":                {newWord().with(3, strings.Repeat("n", 65)).proof(), malformed, "nonce"},
		"a hash in capitals":          {newWord().with(7, strings.ToUpper(hash)).proof(), malformed, "hash"},
		"a MAC in capitals":           {raw(unchanged[:len(unchanged)-64] + strings.ToUpper(unchanged[len(unchanged)-64:])), malformed, "hash or the MAC"},
		"no MAC":                      {raw(unchanged[:len(unchanged)-64]), malformed, "hash or the MAC"},
		"lines missing":               {raw("credbroker-gateway/1\n" + keyID), malformed, "not of"},
		"nothing":                     {raw("x"), malformed, "not of"},
		"too many lines":              {newWord("a:b", "a:b", "a:b", "a:b", "a:b", "a:b", "a:b").proof(), malformed, "not of"},
		"an unknown header":           {newWord("x-consumer-id:a", "x-role:b").proof(), malformed, "identity header is unknown"},
		"a header twice":              {newWord("x-consumer-id:a", "x-consumer-id:b").proof(), malformed, "there twice"},
		"headers out of order":        {newWord("x-credential-identifier:key-1", "x-consumer-id:5b6a").proof(), malformed, "out of order"},
		"an empty consumer":           {newWord("x-consumer-id:", "x-credential-identifier:key-1").proof(), malformed, "x-consumer-id is empty"},
		"a consumer with a space":     {newWord("x-consumer-id:a b", "x-credential-identifier:key-1").proof(), malformed, "x-consumer-id is empty"},
		"a consumer with a comma":     {newWord("x-consumer-id:a,b", "x-credential-identifier:key-1").proof(), malformed, "x-consumer-id is empty"},
		"a consumer that is no ASCII": {newWord("x-consumer-id:é", "x-credential-identifier:key-1").proof(), malformed, "x-consumer-id is empty"},
		"a consumer of 256 bytes":     {newWord("x-consumer-id:"+strings.Repeat("a", 256), "x-credential-identifier:key-1").proof(), malformed, "x-consumer-id is empty"},
		"a header without a value":    {newWord("x-consumer-id", "x-credential-identifier:key-1").proof(), malformed, "x-consumer-id is empty"},
		"a group that is empty":       {newWord("x-consumer-id:a", "x-credential-identifier:b", "x-authenticated-groups:a,,b").proof(), malformed, "x-authenticated-groups"},
		"65 groups":                   {newWord("x-consumer-id:a", "x-credential-identifier:b", "x-authenticated-groups:"+strings.Repeat("a,", 64)+"a").proof(), malformed, "x-authenticated-groups"},
		"too large":                   {raw(strings.Repeat("x", maxBytes+1)), malformed, "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			v, _ := newVerifier(t)
			if _, err := v.Verify(t.Context(), tc.proof); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%v, expected %v with %q", err, tc.want, tc.text)
			}
			if _, err := v.Verify(t.Context(), newWord().proof()); err != nil {
				t.Errorf("and then the good one: %v", err) // nothing of it was used up
			}
		})
	}
	for _, d := range []time.Duration{-30 * time.Second, 5 * time.Second} {
		v, _ := newVerifier(t)
		if _, err := v.Verify(t.Context(), newWord().with(2, at(d)).proof()); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
}

func TestAGatewaysWordIsGoodOnce(t *testing.T) {
	v, clock := newVerifier(t)
	if _, err := v.Verify(t.Context(), newWord().proof()); err != nil {
		t.Fatal(err)
	}
	for _, again := range []word{newWord(), newWord().with(5, "/v1/explain"), newWord().with(2, fmt.Sprint(now.Unix()+1))} {
		if _, err := v.Verify(t.Context(), again.proof()); !errors.Is(err, attest.ErrRejected) || errors.Is(err, attest.ErrUsed) || !strings.Contains(err.Error(), "nonce was used before") {
			t.Errorf("%v", err)
		}
	}
	// It may be from before the memory began.
	fresh := New(v.sessions, attest.NewReplayMemory(func() time.Time { return now }), v.now)
	if _, err := fresh.Verify(t.Context(), newWord().with(3, "nonce-9876543210").proof()); !errors.Is(err, attest.ErrUnavailable) || errors.Is(err, attest.ErrRejected) {
		t.Errorf("after a start: %v", err)
	}
	*clock = now.Add(time.Hour)
	if _, err := v.Verify(t.Context(), newWord().with(2, fmt.Sprint(now.Add(time.Hour).Unix())).with(3, "nonce-9876543210").proof()); !errors.Is(err, attest.ErrRejected) || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("after the session: %v", err)
	}
	if New(v.sessions, v.replay, nil).now == nil {
		t.Error("no clock")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(newWord().proof().Data.Reveal())
	f.Add(newWord("x-consumer-id:a", "x-consumer-custom-id:b", "x-consumer-username:c", "x-credential-identifier:d", "x-authenticated-groups:e, f").proof().Data.Reveal())
	f.Add("credbroker-gateway/1\n\n\n\n\n\n\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parse(text)
		if err != nil {
			return
		}
		if a.signed+a.mac != text || !strings.HasPrefix(a.signed, version+"\n"+a.keyID+"\n"+fmt.Sprint(a.at.Unix())+"\n"+a.nonce+"\n") {
			t.Errorf("%q: %+v", text, a)
		}
		for name, value := range a.headers {
			if !strings.Contains(a.signed, "\n"+name+":"+value+"\n") || value == "" {
				t.Errorf("%q: %s is %q", text, name, value)
			}
		}
	})
}
