package sigv4_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/sigv4"
	"github.com/credbroker/credbroker/internal/secret"
)

const (
	keyID  = "AKIDVAULT"
	theKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	body   = "Action=GetCallerIdentity&Version=2011-06-15"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// call is a request before it is signed, and the signer.
type call struct {
	method, path, body  string
	header              map[string]string
	service, id, secret string
	token               string
	at                  time.Time
}

func goodCall() call {
	return call{
		method: "POST", path: "/", body: body, header: map[string]string{"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
		service: "sts", id: keyID, secret: theKey, at: now,
	}
}

// proof has AWS's own signer sign the call, and writes it as the transport does.
func (c call) proof(t testing.TB) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), c.method, "https://broker.example:8443"+c.path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	sum := sha256.Sum256([]byte(c.body))
	hash := hex.EncodeToString(sum[:])
	signer := v4.NewSigner()
	if err := signer.SignHTTP(context.Background(), aws.Credentials{AccessKeyID: c.id, SecretAccessKey: c.secret, SessionToken: c.token}, req, hash, c.service, "us-east-1", c.at); err != nil {
		t.Fatal(err)
	}
	lines := []string{"credbroker-sigv4/1", c.method, c.path, hash, "host:broker.example:8443", "user-agent:a  b", "content-length:43"}
	for name, values := range req.Header {
		for _, value := range values {
			lines = append(lines, strings.ToLower(name)+":"+value)
		}
	}
	return strings.Join(lines, "\n")
}

func verifier(t testing.TB, at time.Time) *sigv4.Verifier {
	t.Helper()
	v, err := sigv4.New([]sigv4.Key{{Name: "vault", AccessKeyID: keyID, SecretAccessKey: secret.New(theKey)}, {Name: "other", AccessKeyID: "AKIDOTHER", SecretAccessKey: secret.New("other")}}, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func verify(t testing.TB, text string, at time.Time) (attest.Identity, error) {
	return verifier(t, at).Verify(t.Context(), attest.Proof{Kind: attest.KindSigV4, Data: secret.New(text)})
}

func TestWhatAWSSigns(t *testing.T) {
	for name, path := range map[string]string{"at the root": "/", "on a path": "/sts", "on a path with a slash": "/sts/"} {
		c := goodCall()
		c.path = path
		id, err := verify(t, c.proof(t), now.Add(time.Minute))
		if err != nil || id.Kind != attest.KindAccessKey || id.Issuer != attest.IssuerAccessKeys || id.Subject != "vault" || !id.Expires.Equal(now.Add(5*time.Minute)) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
}

func TestSignedRequestsAreRefused(t *testing.T) {
	good := goodCall().proof(t)
	if _, err := verify(t, good, now); err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*call)) string {
		c := goodCall()
		change(&c)
		return c.proof(t)
	}
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	drop := func(prefix string) string {
		var kept []string
		for line := range strings.SplitSeq(good, "\n") {
			if !strings.HasPrefix(line, prefix) {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "\n")
	}
	sum := sha256.Sum256([]byte(body))
	hash := hex.EncodeToString(sum[:])
	for name, tc := range map[string]struct {
		text string
		at   time.Time
		want error
	}{
		"another secret":                  {edit(func(c *call) { c.secret = "other" }), now, attest.ErrRejected},
		"another key's secret":            {edit(func(c *call) { c.id = "AKIDOTHER" }), now, attest.ErrRejected},
		"an unknown key":                  {edit(func(c *call) { c.id = "AKIDNOBODY" }), now, attest.ErrRejected},
		"what stands in for unknown keys": {edit(func(c *call) { c.id, c.secret = "AKIDNOBODY", "" }), now, attest.ErrRejected},
		"another service":                 {edit(func(c *call) { c.service = "s3" }), now, attest.ErrMalformed},
		"a session token":                 {edit(func(c *call) { c.token = "t" }), now, attest.ErrRejected},
		"5 minutes and a second old":      {good, now.Add(301 * time.Second), attest.ErrRejected},
		"5 minutes and a second ahead":    {good, now.Add(-301 * time.Second), attest.ErrRejected},
		"another body":                    {strings.ReplaceAll(good, hash, strings.Repeat("0", 64)), now, attest.ErrRejected},
		"another path":                    {replace("\n/\n", "\n/sts\n"), now, attest.ErrRejected},
		"another method":                  {replace("\nPOST\n", "\nPUT\n"), now, attest.ErrRejected},
		"another host":                    {replace("host:broker", "host:brokes"), now, attest.ErrRejected},
		"another content type":            {replace("charset=utf-8", "charset=utf-9"), now, attest.ErrRejected},
		"another date":                    {replace("x-amz-date:20260301T120000Z", "x-amz-date:20260301T120001Z"), now, attest.ErrRejected},
		"another region":                  {replace("us-east-1", "us-east-2"), now, attest.ErrRejected},
		"another day in the scope":        {replace("/20260301/", "/20260302/"), now, attest.ErrMalformed},
		"a header for AWS unsigned":       {good + "\nx-amz-mallory:<?xml>", now, attest.ErrMalformed},
		"a token unsigned":                {good + "\nx-amz-security-token:t", now, attest.ErrMalformed},
		"another content hash":            {good + "\nx-amz-content-sha256:" + strings.Repeat("0", 64), now, attest.ErrMalformed},
		"the host twice":                  {good + "\nhost:evil", now, attest.ErrMalformed},
		"the date twice":                  {good + "\nx-amz-date:20260301T120000Z", now, attest.ErrMalformed},
		"Authorization twice":             {good + "\nauthorization:AWS4-HMAC-SHA256", now, attest.ErrMalformed},
		"no Authorization":                {drop("authorization:"), now, attest.ErrMalformed},
		"no date":                         {drop("x-amz-date:"), now, attest.ErrMalformed},
		"no host":                         {drop("host:"), now, attest.ErrMalformed},
		"a signed header gone":            {drop("content-type:"), now, attest.ErrMalformed},
		"a date that is none":             {replace("x-amz-date:20260301T120000Z", "x-amz-date:20260301"), now, attest.ErrMalformed},
		"the host not signed":             {replace(";host", ""), now, attest.ErrMalformed},
		"the date not signed":             {replace(";x-amz-date", ""), now, attest.ErrMalformed},
		"the content type not signed":     {replace("content-type;", ""), now, attest.ErrMalformed},
		"signed headers unsorted":         {replace("content-length;content-type", "content-type;content-length"), now, attest.ErrMalformed},
		"a signed header named twice":     {replace(";host", ";host;host"), now, attest.ErrMalformed},
		"white space that is folded":      {replace("x-www-form-urlencoded; charset", "x-www-form-urlencoded;  charset"), now, attest.ErrMalformed},
		"another algorithm":               {replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), now, attest.ErrMalformed},
		"a signature in upper case":       {good[:strings.Index(good, "Signature=")] + strings.ToUpper(good[strings.Index(good, "Signature="):]), now, attest.ErrMalformed},
		"more in Authorization":           {replace(", Signature=", ", More=a, Signature="), now, attest.ErrMalformed},
		"a slash in the key ID":           {replace("Credential="+keyID, "Credential=a/b"), now, attest.ErrMalformed},
		"another version":                 {replace("credbroker-sigv4/1", "credbroker-sigv4/2"), now, attest.ErrMalformed},
		"no header line":                  {good + "\nplanted", now, attest.ErrMalformed},
		"too many headers":                {good + strings.Repeat("\na:b", 129), now, attest.ErrMalformed},
		"too long":                        {good + "\na:" + strings.Repeat("a", 64<<10), now, attest.ErrMalformed},
		"a path to escape":                {replace("\n/\n", "\n/%73ts\n"), now, attest.ErrMalformed},
		"nothing":                         {"", now, attest.ErrMalformed},
		"nothing but the version":         {"credbroker-sigv4/1", now, attest.ErrMalformed},
		"a tab that could be folded":      {edit(func(c *call) { c.header["Content-Type"] = "application/x-www-form-urlencoded;\tcharset=utf-8" }), now, attest.ErrMalformed},
	} {
		if id, err := verify(t, tc.text, tc.at); !errors.Is(err, tc.want) || id.Subject != "" {
			t.Errorf("%s: %+v, %v", name, id, err)
		} else if strings.Contains(err.Error(), "planted") || strings.Contains(err.Error(), "Signature=") {
			t.Errorf("%s: the error quotes it: %v", name, err)
		}
	}
	if _, err := verifier(t, now).Verify(t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(good)}); !errors.Is(err, attest.ErrMalformed) {
		t.Errorf("another kind: %v", err)
	}
	for _, at := range []time.Time{now.Add(5 * time.Minute), now.Add(-5 * time.Minute)} {
		if _, err := verify(t, good, at); err != nil {
			t.Errorf("at %s: %v", at, err)
		}
	}
	// Others than the signer may add headers that mean nothing here, even twice.
	if _, err := verify(t, good+"\nvia:a\nvia:b", now); err != nil {
		t.Error(err)
	}
}

func TestTwoKeysOfOneID(t *testing.T) {
	if _, err := sigv4.New([]sigv4.Key{{Name: "a", AccessKeyID: "x"}, {Name: "b", AccessKeyID: "x"}}, nil); err == nil || !strings.Contains(err.Error(), "a and b") {
		t.Error(err)
	}
}

func TestTheClockIsTheMachines(t *testing.T) {
	v, err := sigv4.New([]sigv4.Key{{Name: "vault", AccessKeyID: keyID, SecretAccessKey: secret.New(theKey)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for ago, want := range map[time.Duration]error{0: nil, time.Hour: attest.ErrRejected} {
		c := goodCall()
		c.at = time.Now().UTC().Add(-ago)
		if _, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindSigV4, Data: secret.New(c.proof(t))}); !errors.Is(err, want) {
			t.Errorf("signed %s ago: %v", ago, err)
		}
	}
}

func TestReadKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	for text, ok := range map[string]bool{
		`{"access_key_id":"a","secret_access_key":"planted"}`: true, `{"access_key_id":"a"}`: false, `{"secret_access_key":"planted"}`: false, `planted`: false,
		`{"access_key_id":"a","secret_access_key":"planted","more":1}`: false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := sigv4.ReadKey("n", file)
		if (err == nil) != ok || ok && (k.AccessKeyID != "a" || k.SecretAccessKey.Reveal() != "planted" || k.Name != "n") || err != nil && strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzVerify changes requests that were signed: none that says something else may pass.
func FuzzVerify(f *testing.F) {
	c := goodCall()
	good := c.proof(f)
	for _, seed := range []string{good, "", "credbroker-sigv4/1\nPOST\n/\n\n", strings.Replace(good, "host:", "Host:", 1), good + "\nhost:evil", good + "\nx-amz-mallory:a", strings.ReplaceAll(good, "20260301", "20260302")} {
		f.Add(seed)
	}
	v := verifier(f, now)
	// What was signed: these lines, in whatever order, and any that means nothing here.
	meaning := func(text string) string {
		lines := strings.Split(text, "\n")
		kept := slices.Clone(lines[:min(4, len(lines))])
		for _, name := range []string{"authorization:", "content-length:", "content-type:", "host:", "x-amz-"} {
			for _, line := range lines[min(4, len(lines)):] {
				if strings.HasPrefix(line, name) {
					kept = append(kept, line)
				}
			}
		}
		return strings.Join(kept, "\n")
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindSigV4, Data: secret.New(text)})
		if err == nil && meaning(text) != meaning(good) {
			t.Fatalf("taken for %s: %q", id.Subject, text)
		}
		if err != nil && !errors.Is(err, attest.ErrMalformed) && !errors.Is(err, attest.ErrRejected) {
			t.Fatal(err)
		}
	})
}

// mintedKeys knows one key.
type mintedKeys struct{ attest.Minted }

func (m mintedKeys) Keep(context.Context, attest.Minted) error { return nil }
func (m mintedKeys) Find(_ context.Context, id string) (attest.Minted, error) {
	switch id {
	case m.AccessKeyID:
		return m.Minted, nil
	case "AKIDLATER":
		return attest.Minted{}, attest.ErrUnavailable
	}
	return attest.Minted{}, attest.ErrRejected
}

func TestMintedCredentialsSign(t *testing.T) {
	keys := mintedKeys{attest.Minted{
		AccessKeyID: keyID, SecretAccessKey: secret.New(theKey), Token: sha256.Sum256([]byte("the.session.token")), Issuer: "https://idp", Subject: "alice", Role: "reports", Expires: now.Add(time.Hour),
	}}
	v := sigv4.NewMinted(keys, func() time.Time { return now })
	minted := func(change func(*call)) string {
		c := goodCall()
		c.token = "the.session.token"
		if change != nil {
			change(&c)
		}
		return c.proof(t)
	}
	id, err := v.Verify(t.Context(), attest.Proof{Kind: attest.KindMinted, Data: secret.New(minted(nil))})
	if err != nil || id.Kind != attest.KindMinted || id.Issuer != "https://idp" || id.Subject != "alice" || id.Tenant != "reports" || id.Session != keyID || !id.Expires.Equal(keys.Expires) {
		t.Errorf("%+v, %v", id, err)
	}
	for name, tc := range map[string]struct {
		kind attest.Kind
		text string
		want error
	}{
		"another kind":        {attest.KindSigV4, minted(nil), attest.ErrMalformed},
		"no request":          {attest.KindMinted, "a", attest.ErrMalformed},
		"another secret":      {attest.KindMinted, minted(func(c *call) { c.secret = "other" }), attest.ErrRejected},
		"another token":       {attest.KindMinted, minted(func(c *call) { c.token = "another.session.token" }), attest.ErrRejected},
		"no token":            {attest.KindMinted, minted(func(c *call) { c.token = "" }), attest.ErrRejected},
		"an unknown key":      {attest.KindMinted, minted(func(c *call) { c.id = "AKIDNOBODY" }), attest.ErrRejected},
		"old":                 {attest.KindMinted, minted(func(c *call) { c.at = now.Add(-time.Hour) }), attest.ErrRejected},
		"a memory that's out": {attest.KindMinted, minted(func(c *call) { c.id = "AKIDLATER" }), attest.ErrUnavailable},
	} {
		if id, err := v.Verify(t.Context(), attest.Proof{Kind: tc.kind, Data: secret.New(tc.text)}); !errors.Is(err, tc.want) || id.Subject != "" {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	c := goodCall()
	c.token, c.at = "the.session.token", time.Now().UTC()
	if _, err := sigv4.NewMinted(keys, nil).Verify(t.Context(), attest.Proof{Kind: attest.KindMinted, Data: secret.New(c.proof(t))}); err != nil {
		t.Errorf("by the machine's clock: %v", err)
	}
}
