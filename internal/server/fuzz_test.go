package server

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/broker"
)

// FuzzDecodeIssue holds the decoder of POST /v1/credentials against encoding/json: what it takes means the same there, and
// every refusal is one of the request's form.
func FuzzDecodeIssue(f *testing.F) {
	for _, seed := range []string{
		`{"role":"reports","policy":"{}","ttl_seconds":900,"jwt":"a.b.c"}`, `{"role":"a","role":"b"}`, `{"role":"a","r\u006fle":"b"}`,
		`{"role":"a","aws_proof":"k8s-aws-v1.a"}`, `{"role":"a","aws_proof":"k8s-aws-v1.a","jwt":"a.b.c"}`, `{"Role":"a"}`, `{"role":"a","ttl_seconds":"3600s"}`, `{"role":"a","ttl_seconds":1e3}`, `{"role":"a","ttl_seconds":-0}`,
		`{"role":"a","ttl_seconds":1000000000}`, `{"role":"../../sys/seal"}`, `{"role":"a\u0000b"}`, `{"role":"\ud800"}`, `{"role":"a"}{}`, `[[[[[[[[`, "{\"role\":\"\xff\"}", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := decodeIssue(data)
		if err != nil {
			if !errors.Is(err, broker.ErrInvalidRequest) || b != (body{}) {
				t.Fatalf("%v, %+v", err, b)
			}
			return
		}
		var want struct {
			Role   string `json:"role"`
			Policy string `json:"policy"`
			TTL    *int64 `json:"ttl_seconds"`
			Token  string `json:"jwt"`
			AWS    string `json:"aws_proof"`
			Actor  *struct {
				Token string `json:"jwt"`
				AWS   string `json:"aws_proof"`
				Peer  bool   `json:"peer_certificate"`
			} `json:"actor"`
		}
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("taken, and not JSON: %v", err)
		}
		ttl := time.Duration(0)
		if want.TTL != nil {
			ttl = time.Duration(*want.TTL) * time.Second
		}
		var proof attest.Proof
		if b.proof != nil {
			proof = *b.proof
		}
		if b.role != want.Role || b.role == "" || b.policy != want.Policy || b.ttl != ttl || proof.Data.Reveal() != want.Token+want.AWS || want.TTL != nil && ttl < time.Second {
			t.Fatalf("%+v, want %+v", b, want)
		}
		if (b.actor == nil) != (want.Actor == nil) ||
			b.actor != nil && (b.actor.peer != want.Actor.Peer || b.actor.proof.Data.Reveal() != want.Actor.Token+want.Actor.AWS) {
			t.Fatalf("actor %+v, want %+v", b.actor, want.Actor)
		}
	})
}
