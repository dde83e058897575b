package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/awsiam"
	"github.com/credbroker/credbroker/internal/secret"
	"github.com/credbroker/credbroker/prove"
)

// everyProofIsNew is a memory of used proofs that takes no time.
type everyProofIsNew struct{}

func (everyProofIsNew) Use(context.Context, [sha256.Size]byte, time.Time, time.Duration) error {
	return nil
}

// awsProofs is what a signed GetCallerIdentity request costs apart from STS and from the memory of used proofs: it is parsed, checked
// and built anew, and the call that would take it to STS ends before it begins.
func awsProofs(s *stage) []row {
	const serverID = "broker.example"
	v, err := awsiam.New(awsiam.Config{ServerID: serverID, Accounts: []string{"123456789012"}, Skew: time.Minute, Replay: everyProofIsNew{}})
	if err != nil {
		s.t.Fatal(err)
	}
	ended, end := context.WithCancel(s.t.Context())
	end()
	verify := func(proof secret.Secret) error {
		_, err := v.Verify(ended, attest.Proof{Kind: attest.KindAWS, Data: proof})
		return err
	}
	prove := func(tokenSize int) secret.Secret {
		keys := credentials.NewStaticCredentialsProvider("ASIA1234567890EXAMPLE", "secret", strings.Repeat("x", tokenSize))
		p, err := prove.AWS(aws.CredentialsProvider(keys), "eu-west-1", serverID).Prove(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		if err := verify(secret.New(p.Reveal())); !errors.Is(err, context.Canceled) {
			s.t.Fatalf("a good proof didn't get as far as STS: %v", err)
		}
		return secret.New(p.Reveal())
	}
	bare := bareES256(s)
	good, largest := prove(700), prove(4800)
	hostile := hostileAWSProofs(s, largest.Reveal())
	n := s.size(3000, 5)
	accept := func(proof secret.Secret) func(int) { return func(int) { _ = verify(proof) } }
	var ours, peer []float64
	worst := map[string][2][]float64{}
	for range s.rounds {
		o, p := inTurns(n, accept(good), func(int) { bare() })
		ours, peer = append(ours, o), append(peer, p)
		for name, proof := range hostile {
			o, p := inTurns(n, accept(proof), accept(largest))
			worst[name] = [2][]float64{append(worst[name][0], o), append(worst[name][1], p)}
		}
	}
	rows := []row{compared("AWS proof but for STS / ES256 verify", "s", ours, peer, atMost(2, 1))}
	var dearest row
	for name, w := range worst {
		r := compared("8 KiB hostile AWS proof / good one of that size", "s", w[0], w[1], atMost(1, 0.5))
		if r.Note = "the worst of " + fmt.Sprint(len(worst)) + ": " + name; r.Value > dearest.Value {
			dearest = r
		}
	}
	return append(rows, dearest)
}

// hostileAWSProofs are refused, and each has one part of the parser do the most that 8 KiB allow.
func hostileAWSProofs(s *stage, good string) map[string]secret.Secret {
	const most = 8 << 10
	var in map[string]string
	if err := json.Unmarshal([]byte(good), &in); err != nil {
		s.t.Fatal(err)
	}
	with := func(field, value string) string {
		changed := map[string]string{}
		for k, v := range in {
			changed[k] = v
		}
		changed[field] = base64.StdEncoding.EncodeToString([]byte(value))
		data, err := json.Marshal(changed)
		if err != nil {
			s.t.Fatal(err)
		}
		return string(data)
	}
	headers, err := base64.StdEncoding.DecodeString(in["iam_request_headers"])
	if err != nil {
		s.t.Fatal(err)
	}
	const room = most*3/4 - 300
	out := map[string]secret.Secret{}
	for name, proof := range map[string]string{
		"braces":            strings.Repeat("{", most),
		"an unknown member": `{"` + strings.Repeat("x", most-10) + `":1}`,
		"escapes":           `{"iam_http_request_method":"` + strings.Repeat(`\u0041`, most/6-10) + `"}`,
		"a header's value":  with("iam_request_headers", `{"X-Amz-Date":"`+strings.Repeat("x", room-200)+`"}`),
		"an escaped value":  with("iam_request_headers", `{"X-Amz-Date":"`+strings.Repeat(`\u0041`, room/6-60)+`"}`),
		"unsigned headers":  with("iam_request_headers", strings.Replace(string(headers), "host;", "", 1)),
		"brackets":          with("iam_request_headers", strings.Repeat("[", room-200)),
		"an escaped query":  "k8s-aws-v1." + base64.RawURLEncoding.EncodeToString([]byte("https://sts.eu-west-1.amazonaws.com/?Action="+strings.Repeat("%0A", room/3-100))),
		"ampersands":        "k8s-aws-v1." + base64.RawURLEncoding.EncodeToString([]byte("https://sts.eu-west-1.amazonaws.com/?"+strings.Repeat("&", room-200))),
	} {
		if len(proof) > most || len(proof) < most/2 {
			s.t.Fatalf("%s: %d bytes", name, len(proof))
		}
		out[name] = secret.New(proof)
	}
	return out
}

// bareES256 returns one signature check and nothing else.
func bareES256(s *stage) func() {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("input"))
	sigR, sigS, err := ecdsa.Sign(rand.Reader, private, sum[:])
	if err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if !ecdsa.Verify(&private.PublicKey, sum[:], sigR, sigS) {
			s.t.Fatal("a good signature was refused")
		}
	}
}
