package gateway

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// Both keys of a gateway are taken while one replaces the other, and no longer; sessions go on beside them.
func TestStaticKeysRotate(t *testing.T) {
	const old, fresh = "an old key of thirty-two bytes!!", "a new key of thirty-two bytes!!!"
	said := func(key, nonce string) word {
		w := newWord().with(1, "kong").with(3, nonce)
		w.key = key
		return w
	}
	with := func(keys ...string) *Verifier {
		v, clock := newVerifier(t)
		static := map[string][]secret.Secret{}
		for _, k := range keys {
			static["kong"] = append(static["kong"], secret.New(k))
		}
		v.sessions = StaticKeys(static, v.sessions, func() time.Time { return *clock })
		return v
	}
	for name, tc := range map[string]struct {
		keys []string
		word word
		want error
	}{
		"the only key":              {[]string{old}, said(old, "nonce-0123456789"), nil},
		"the first of two":          {[]string{fresh, old}, said(fresh, "nonce-0123456789"), nil},
		"the second of two":         {[]string{fresh, old}, said(old, "nonce-0123456789"), nil},
		"the old one, gone":         {[]string{fresh}, said(old, "nonce-0123456789"), attest.ErrRejected},
		"no key":                    {[]string{fresh, old}, said("", "nonce-0123456789"), attest.ErrRejected},
		"no second key":             {[]string{fresh}, said("", "nonce-0123456789"), attest.ErrRejected},
		"another gateway's name":    {[]string{fresh}, said(fresh, "nonce-0123456789").with(1, "other"), attest.ErrRejected},
		"a name that is none":       {[]string{fresh}, said(fresh, "nonce-0123456789").with(1, "Kong"), attest.ErrMalformed},
		"an empty one":              {[]string{fresh}, said(fresh, "nonce-0123456789").with(1, ""), attest.ErrMalformed},
		"a session beside it":       {[]string{fresh}, newWord(), nil},
		"a static key's session":    {[]string{fresh}, func() word { w := newWord(); w.key = fresh; return w }(), attest.ErrRejected},
		"an unknown session":        {[]string{fresh}, newWord().with(1, strings.Repeat("A", 26)), attest.ErrRejected},
		"no static keys configured": {nil, said(fresh, "nonce-0123456789"), attest.ErrRejected},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := with(tc.keys...).Verify(t.Context(), tc.word.proof()); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
	v := with(fresh, old)
	got, err := v.Verify(t.Context(), said(fresh, "nonce-0123456789").proof())
	want := attest.Identity{
		Kind: attest.KindKong, Issuer: "kong", Tenant: "gateway_keys", Subject: "5b6a", Expires: now.Add(time.Hour), Attrs: map[string][]string{"credential_id": {"key-1"}},
		Actor: &attest.Identity{Kind: attest.KindStaticKey, Issuer: "gateway_keys", Subject: "kong", Expires: now.Add(time.Hour)},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
	// A nonce is used up under whichever key it came.
	if _, err := v.Verify(t.Context(), said(old, "nonce-0123456789").proof()); !errors.Is(err, attest.ErrRejected) {
		t.Errorf("replayed under the other key: %v", err)
	}
	if _, err := v.Verify(t.Context(), said(old, "nonce-9876543210").proof()); err != nil {
		t.Error(err)
	}
}

func TestTheClockOfStaticKeysIsTheMachines(t *testing.T) {
	s, err := StaticKeys(map[string][]secret.Secret{"kong": {secret.New("k")}}, nil, nil).Find(t.Context(), "kong")
	if left := time.Until(s.Expires); err != nil || left > time.Hour || left < time.Hour-time.Minute {
		t.Errorf("%s, %v", left, err)
	}
}

func TestScopesOfAConsumer(t *testing.T) {
	word := func(scopes string) word {
		return newWord("x-consumer-id:5b6a", "x-credential-identifier:key-1", "x-authenticated-scope:"+scopes)
	}
	v, _ := newVerifier(t)
	got, err := v.Verify(t.Context(), word("reports:read reports:write").proof())
	if err != nil || !reflect.DeepEqual(got.Attrs["scopes"], []string{"reports:read", "reports:write"}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, scopes := range []string{"", " ", "a  b", "a ", " a", "a,b", "a\tb", strings.Repeat("a ", 64) + "a"} {
		if _, err := v.Verify(t.Context(), word(scopes).proof()); !errors.Is(err, attest.ErrMalformed) {
			t.Errorf("%q: %v", scopes, err)
		}
	}
	// In its place alone.
	early := newWord("x-consumer-id:5b6a", "x-authenticated-scope:a", "x-credential-identifier:key-1")
	if _, err := v.Verify(t.Context(), early.proof()); !errors.Is(err, attest.ErrMalformed) {
		t.Error(err)
	}
}
