package jwtproof_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/brokertest"
)

func answer(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func TestBadJWKSIsUnavailable(t *testing.T) {
	const limit = 256 << 10
	f := newFixture(t)
	good := string(f.idp.JWKS())
	redirected := brokertest.NewIDP(t)
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		want    string // empty: good
	}{
		"good":           {answer(good), ""},
		"at the bound":   {answer(good + strings.Repeat(" ", limit-len(good))), ""},
		"over the bound": {answer(good + strings.Repeat(" ", limit+1-len(good))), "larger than 262144 bytes"},
		"endless":        {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, io.LimitReader(spaces{}, 1<<30)) }, "larger than 262144 bytes"},
		"redirect":       {http.RedirectHandler(redirected.URL+brokertest.JWKSPath, http.StatusFound).ServeHTTP, "status 302"},
		"garbage":        {answer("<html>"), "JWKS of http"},
		"duplicate kid":  {answer(strings.Replace(good, `[`, `[`+good[strings.Index(good, "[")+1:strings.Index(good, "]")]+",", 1)), "is there twice"},
		"error":          {fail, "status 500"},
		"no content":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "status 204"},
		"broken off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "999")
			_, _ = io.WriteString(w, good)
		}, "EOF"},
		"compressed bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "\x1f\x8b")
		}, "JWKS of"},
	} {
		t.Run(name, func(t *testing.T) {
			f.idp.Handle(brokertest.JWKSPath, tc.handler)
			f.verifier = f.replace(t, nil)
			if tc.want == "" {
				f.expect(t, f.idp.Token(nil), nil, "")
				return
			}
			f.expect(t, f.idp.Token(nil), attest.ErrUnavailable, tc.want)
			if s := strings.Join(f.verifier.Status(), "\n"); !strings.HasPrefix(s, "issuer corp: keys not fetched: ") || !strings.Contains(s, tc.want) {
				t.Errorf("status is %q", s)
			}
		})
	}
	if redirected.Requests(brokertest.JWKSPath) != 0 {
		t.Error("a redirect was followed")
	}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte(" "), len(p))), nil }

func TestLastGoodKeysServeWhileTheIssuerIsDown(t *testing.T) {
	f := newFixture(t)
	f.expect(t, f.idp.Token(nil), nil, "")
	f.idp.Handle(brokertest.JWKSPath, fail)
	f.advance(23 * time.Hour)
	f.expect(t, f.idp.Token(nil), nil, "")
	f.advance(time.Hour)
	f.expect(t, f.idp.Token(nil), attest.ErrUnavailable, "keys not fetched")
	f.idp.Handle(brokertest.JWKSPath, nil)
	f.advance(2 * time.Second)
	f.expect(t, f.idp.Token(nil), nil, "")
}

func TestDiscoveryDocumentIsChecked(t *testing.T) {
	f := newFixture(t)
	elsewhere := brokertest.NewIDP(t)
	doc := func(issuer, jwks string) string { return fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuer, jwks) }
	jwks := f.idp.URL + brokertest.JWKSPath
	for name, tc := range map[string]struct{ body, want string }{
		"good":                         {doc(f.idp.URL, jwks), ""},
		"another issuer":               {doc("https://evil.example", jwks), "the document is of issuer"},
		"issuer with a slash":          {doc(f.idp.URL+"/", jwks), "the document is of issuer"},
		"no issuer":                    {`{"jwks_uri":"` + jwks + `"}`, "the document is of issuer"},
		"duplicate issuer":             {`{"issuer":"` + f.idp.URL + `",` + doc(f.idp.URL, jwks)[1:], "duplicate"},
		"no jwks_uri":                  {`{"issuer":"` + f.idp.URL + `"}`, "jwks_uri: URL  names no host"},
		"jwks_uri in a file":           {doc(f.idp.URL, "file:///etc/passwd"), "jwks_uri: "},
		"jwks_uri with a password":     {doc(f.idp.URL, strings.Replace(jwks, "://", "://u:p@", 1)), "user name or password"},
		"plain http beyond loopback":   {doc(f.idp.URL, "http://192.0.2.1/jwks"), "is not https"},
		"plain http on another origin": {doc(f.idp.URL, elsewhere.URL+brokertest.JWKSPath), "plain http on another origin"},
		"not JSON":                     {"issuer", "discovery: "},
		"too large":                    {doc(f.idp.URL, jwks) + strings.Repeat(" ", 256<<10), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			f.idp.Handle(brokertest.DiscoveryPath, answer(tc.body))
			f.verifier = f.replace(t, nil)
			if tc.want == "" {
				f.expect(t, f.idp.Token(nil), nil, "")
				return
			}
			f.expect(t, f.idp.Token(nil), attest.ErrUnavailable, tc.want)
		})
	}
	f.idp.Handle(brokertest.DiscoveryPath, http.RedirectHandler(elsewhere.URL+brokertest.DiscoveryPath, http.StatusMovedPermanently).ServeHTTP)
	f.verifier = f.replace(t, nil)
	f.expect(t, f.idp.Token(nil), attest.ErrUnavailable, "status 301")
	if elsewhere.Requests(brokertest.DiscoveryPath)+elsewhere.Requests(brokertest.JWKSPath) != 0 {
		t.Error("another origin was asked")
	}
}

func TestTLSNeedsTheConfiguredCA(t *testing.T) {
	c := newClock()
	f := &fixture{clock: c, idp: brokertest.NewIDP(t, brokertest.WithClock(c.now), brokertest.WithTLS())}
	f.issuer = jwtproof.Issuer{Name: "corp", Issuer: f.idp.URL, Keys: jwtproof.KeySource{Discovery: true}, Audiences: []string{"credbroker"}}
	f.verifier = f.replace(t, nil)
	f.expect(t, f.idp.Token(nil), attest.ErrUnavailable, "certificate")
	f.issuer.Keys.CAFile = f.idp.CAFile
	f.verifier = f.replace(t, f.verifier)
	f.expect(t, f.idp.Token(nil), nil, "")

	// The discovery document of an https issuer may name another https host, never an http one.
	other := brokertest.NewIDP(t, brokertest.WithTLS())
	other.Handle(brokertest.JWKSPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(f.idp.JWKS()) })
	plain := brokertest.NewIDP(t)
	both := filepath.Join(t.TempDir(), "ca.pem")
	mine, err := os.ReadFile(f.idp.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(other.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(both, append(mine, theirs...), 0o600); err != nil {
		t.Fatal(err)
	}
	f.issuer.Keys.CAFile = both
	for _, tc := range []struct {
		base string
		want error
		text string
	}{
		{other.URL, nil, ""}, {plain.URL, attest.ErrUnavailable, "plain http"},
		{strings.Replace(f.idp.URL, "https:", "http:", 1), attest.ErrUnavailable, "plain http"},
	} {
		f.idp.Handle(brokertest.DiscoveryPath, answer(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, f.idp.URL, tc.base+brokertest.JWKSPath)))
		f.verifier = f.replace(t, nil)
		f.expect(t, f.idp.Token(nil), tc.want, tc.text)
	}
	if other.Requests(brokertest.JWKSPath) != 1 || plain.Requests(brokertest.JWKSPath) != 0 {
		t.Error("the wrong host was asked")
	}
}

func TestBearerIsReadAtEachFetchAndKeptToTheIssuer(t *testing.T) {
	c := newClock()
	f := &fixture{clock: c, idp: brokertest.NewIDP(t, brokertest.WithClock(c.now), brokertest.WithTLS())}
	path := filepath.Join(t.TempDir(), "bearer")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	note := func(then http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			seen = append(seen, r.URL.Path+" "+r.Header.Get("Authorization"))
			then(w, r)
		}
	}
	expectSeen := func(want ...string) {
		t.Helper()
		if strings.Join(seen, "|") != strings.Join(want, "|") {
			t.Errorf("saw %q, expected %q", seen, want)
		}
		seen = nil
	}
	discovery := fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, f.idp.URL, f.idp.URL+brokertest.JWKSPath)
	f.idp.Handle(brokertest.DiscoveryPath, note(answer(discovery)))
	f.idp.Handle(brokertest.JWKSPath, note(answer(string(f.idp.JWKS()))))
	f.issuer = jwtproof.Issuer{Name: "corp", Issuer: f.idp.URL, Audiences: []string{"credbroker"},
		Keys: jwtproof.KeySource{Discovery: true, CAFile: f.idp.CAFile, BearerFile: path}}
	write("first\n")
	f.verifier = f.replace(t, nil)
	f.expect(t, f.idp.Token(nil), nil, "")
	expectSeen("/.well-known/openid-configuration Bearer first", "/jwks Bearer first")

	write("second\n")
	f.advance(24 * time.Hour)
	f.expect(t, f.idp.Token(nil), nil, "")
	expectSeen("/.well-known/openid-configuration Bearer second", "/jwks Bearer second")

	// jwks_uri on another origin - here the same server under another name - gets no bearer.
	f.idp.Handle(brokertest.DiscoveryPath, note(answer(strings.Replace(discovery, `"jwks_uri":"https://127.0.0.1`, `"jwks_uri":"https://[::ffff:127.0.0.1]`, 1))))
	f.verifier = f.replace(t, nil)
	f.expect(t, f.idp.Token(nil), nil, "")
	expectSeen("/.well-known/openid-configuration Bearer second", "/jwks ")

	f.issuer.Keys.Discovery, f.issuer.Keys.JWKSURL = false, f.idp.URL+brokertest.JWKSPath
	f.verifier = f.replace(t, nil)
	f.expect(t, f.idp.Token(nil), nil, "")
	expectSeen("/jwks Bearer second")

	write("")
	f.verifier = f.replace(t, nil)
	f.expect(t, f.idp.Token(nil), attest.ErrUnavailable, "bearer_file: ")
	expectSeen()
}

func TestIssuerWithAPathIsDiscoveredBelowIt(t *testing.T) {
	for _, path := range []string{"/tenant", "/tenant/"} {
		f := newFixture(t)
		f.issuer.Issuer += path
		f.idp.Handle("/tenant"+brokertest.DiscoveryPath, answer(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, f.issuer.Issuer, f.idp.URL+brokertest.JWKSPath)))
		f.verifier = f.replace(t, nil)
		f.expect(t, f.idp.Token(map[string]any{"iss": f.issuer.Issuer}), nil, "")
	}
}

func TestFetchesAreLogged(t *testing.T) {
	f := newFixture(t)
	var out bytes.Buffer
	v, err := jwtproof.New([]jwtproof.Issuer{f.issuer}, jwtproof.Options{Now: f.now, Log: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	f.verifier = v
	f.idp.Handle(brokertest.JWKSPath, answer(strings.Replace(string(f.idp.JWKS()), "[", `[{"kty":"EC","kid":"bad"},{"kty":"oct","kid":"o"},`, 1)))
	f.expect(t, f.idp.Token(nil), nil, "")
	if got := out.String(); !strings.Contains(got, `level=WARN msg="keys fetched" issuer=corp keys=1 foreign=1 malformed=1`) {
		t.Error(got)
	}
	again := func(want string, n int) {
		t.Helper()
		out.Reset()
		f.advance(24 * time.Hour)
		_, _ = f.verify(f.idp.Token(nil))
		if got := out.String(); strings.Count(got, "keys fetched") != n || !strings.Contains(got, want) {
			t.Errorf("log is %q, expected %d of %q", got, n, want)
		}
	}
	again("", 0) // the same keys
	f.idp.Handle(brokertest.JWKSPath, nil)
	again("level=INFO", 1)
	f.idp.Rotate()
	again("keys=2", 1)
	f.idp.Publish("key-1", 0)
	f.idp.Publish("key-2", 0)
	again("level=WARN", 1)
	f.idp.Handle(brokertest.JWKSPath, fail)
	f.advance(24 * time.Hour)
	f.expect(t, f.idp.Token(nil), attest.ErrUnavailable, "")
	if got := out.String(); !strings.Contains(got, `level=WARN msg="keys not fetched" issuer=corp error=`) {
		t.Error(got)
	}
}
