package awsiam

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/secret"
)

// accept is what a proof costs apart from STS.
func accept(tb testing.TB, proof string) {
	tb.Helper()
	r, err := parse(proof, nil)
	if err != nil {
		tb.Fatal(err)
	}
	_ = r.build(tb.Context(), serverID)
	_ = r.name()
}

// BenchmarkLoginData is parsing, building and naming: the goal is at most twice BenchmarkES256Bare, and 50 allocations.
func BenchmarkLoginData(b *testing.B) {
	proof := encode(b, newSigning().login(b))
	b.ReportAllocs()
	for b.Loop() {
		accept(b, proof)
	}
}

// BenchmarkLargest is the same of a proof of almost 8 KiB, by its session token.
func BenchmarkLargest(b *testing.B) {
	s := newSigning()
	s.keys.SessionToken = strings.Repeat("x", maxProof*3/4-1200)
	proof := encode(b, s.login(b))
	b.ReportAllocs()
	for b.Loop() {
		accept(b, proof)
	}
}

func BenchmarkPresigned(b *testing.B) {
	proof := token(newSigning().presign(b))
	b.ReportAllocs()
	for b.Loop() {
		accept(b, proof)
	}
}

// at answers at once, and takes no network for it.
type at func(*http.Request) (*http.Response, error)

func (f at) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// BenchmarkVerify is all that a good proof costs but for the way to STS.
func BenchmarkVerify(b *testing.B) {
	v, err := New(Config{ServerID: serverID, Accounts: []string{"123456789012"}, Skew: time.Second, Replay: brokenReplay{}})
	if err != nil {
		b.Fatal(err)
	}
	v.client.Transport = at(sound)
	p := attest.Proof{Kind: attest.KindAWS, Data: secret.New(encode(b, newSigning().login(b)))}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkES256Bare(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("a request"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
			b.Fatal("it doesn't hold")
		}
	}
}

// The goal is 50; json/v2 of the standard library makes ten more, of names.
func TestAllocations(t *testing.T) {
	s := newSigning()
	for name, proof := range map[string]string{"login data": encode(t, s.login(t)), "presigned": token(s.presign(t))} {
		if n := testing.AllocsPerRun(10, func() { accept(t, proof) }); n > 60 {
			t.Errorf("%s costs %v allocations", name, n)
		}
	}
	for name, proof := range hostile(t) {
		if n := testing.AllocsPerRun(10, func() { _, _ = parse(proof, nil) }); n > 60 {
			t.Errorf("%s costs %v allocations", name, n)
		}
	}
}

// BenchmarkHostile refuses 8 KiB of whatever: the goal is less than BenchmarkLargest, and in any case than BenchmarkES256Bare.
func BenchmarkHostile(b *testing.B) {
	for name, proof := range hostile(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parse(proof, nil); err == nil {
					b.Fatal("taken")
				}
			}
		})
	}
}

// hostile are proofs of about 8 KiB that are refused, each of which has one part do the most work.
func hostile(tb testing.TB) map[string]string {
	s := newSigning()
	login := func(change func(in map[string]string)) string {
		in := s.login(tb)
		change(in)
		return encode(tb, in)
	}
	headers := func(text string) string { return login(func(in map[string]string) { in["headers"] = text }) }
	room := maxProof*3/4 - 200
	names, spellings := strings.Builder{}, strings.Builder{}
	for n := range room/10 - 20 {
		fmt.Fprintf(&names, `"%04x":"",`, n)
	}
	for n := range 1 << 8 { // case twins of one
		fmt.Fprintf(&spellings, `"%s":"",`, strings.Map(func(r rune) rune {
			if n++; n&4 != 0 {
				return r &^ ' '
			}
			return r
		}, "accept"))
	}
	presigned := func(query string) string { return token("https://" + s.host + "/?" + query) }
	sound, _ := strings.CutPrefix(s.presign(tb), "https://"+s.host+"/?")
	out := map[string]string{
		"text":              strings.Repeat("x", maxProof),
		"braces":            strings.Repeat("{", maxProof),
		"an unknown member": `{"` + strings.Repeat("x", maxProof-10) + `":1}`,
		"a long URL":        login(func(in map[string]string) { in["url"] = "https://" + strings.Repeat("x", room-900) }),
		"escapes":           `{"iam_http_request_method":"` + strings.Repeat(`\u0041`, maxProof/6-10) + `"}`,
		"brackets":          headers(strings.Repeat("[", room)),
		"names":             headers("{" + names.String() + `"":""}`),
		"case twins":        headers("{" + spellings.String() + `"":""}`),
		"a long value":      headers(`{"X-Amz-Date":"` + strings.Repeat("x", room-200) + `"}`),
		"escaped value":     headers(`{"X-Amz-Date":"` + strings.Repeat(`\u0041`, room/6-30) + `"}`),
		"semicolons":        login(func(in map[string]string) { swapIn(in, "host;", "host;"+strings.Repeat(";", room-1400)) }),
		"slashes":           login(func(in map[string]string) { swapIn(in, "/sts/", strings.Repeat("/", room-1400)) }),
		"ampersands":        presigned(strings.Repeat("&", room)),
		"an escaped query":  presigned("Action=" + strings.Repeat("%0A", room/3-30)),
		"a token as well":   presigned(strings.Replace(sound, "X-Amz-Security-Token=", "X-Amz-Security-Token="+strings.Repeat("%2F", room/3-250), 1) + "&X-Amz-Expires=0"),
	}
	s.keys = aws.Credentials{AccessKeyID: s.keys.AccessKeyID, SecretAccessKey: "wrong", SessionToken: strings.Repeat("x", room-1300)}
	out["a long token"] = login(func(in map[string]string) { swapIn(in, "host;", "host;fake;") })
	for name, proof := range out {
		if len(proof) > maxProof || len(proof) < 1<<12 {
			tb.Fatalf("%s: %d bytes", name, len(proof))
		}
	}
	return out
}

func swapIn(in map[string]string, from, to string) {
	in["headers"] = strings.Replace(in["headers"], from, to, 1)
}
