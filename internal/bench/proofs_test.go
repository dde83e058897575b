package bench

import (
	"fmt"
	"time"

	"github.com/credbroker/credbroker/internal/attest"
	"github.com/credbroker/credbroker/internal/attest/jwtproof"
	"github.com/credbroker/credbroker/internal/secret"
)

// verifier is the verifier of the program, for the stage's identity provider, with so much memory for tokens.
func (s *stage) verifier(memoryBytes int64) *jwtproof.Verifier {
	s.t.Helper()
	v, err := jwtproof.New([]jwtproof.Issuer{{
		Name: "bench", Issuer: s.idp.URL, Keys: jwtproof.KeySource{Discovery: true}, Audiences: []string{"credbroker"},
		Algorithms: []string{"ES256"}, Attributes: map[string]jwtproof.Attribute{"groups": {Claim: "groups"}},
	}}, jwtproof.Options{MemoryBytes: memoryBytes})
	if err != nil {
		s.t.Fatal(err)
	}
	s.verify(v, s.token("first")) // fetches the keys
	return v
}

func (s *stage) verify(v attest.Verifier, token string) {
	if _, err := v.Verify(s.t.Context(), attest.Proof{Kind: attest.KindJWT, Data: secret.New(token)}); err != nil {
		s.t.Fatal(err)
	}
}

// proofs is what verifying costs, against one signature check and nothing else. All of it is on one processor.
func proofs(s *stage) []row {
	v := s.verifier(0)
	n := s.size(3000, 5)
	bare := bareES256(s)
	remembered := s.token("remembered")
	s.verify(v, remembered)
	var old, oldBare, fresh, freshBare []float64
	for round := range s.rounds {
		o, p := inTurns(n, func(int) { s.verify(v, remembered) }, func(int) { bare() })
		old, oldBare = append(old, o), append(oldBare, p)
		tokens := make([]string, n)
		for i := range tokens {
			tokens[i] = s.token(fmt.Sprintf("fresh-%d-%d", round, i))
		}
		o, p = inTurns(n, func(i int) { s.verify(v, tokens[i]) }, func(int) { bare() })
		fresh, freshBare = append(fresh, o), append(freshBare, p)
	}
	return []row{
		compared("remembered JWT / ES256 verify", "s", old, oldBare, atMost(0.15, 0.05)),
		compared("new ES256 JWT / ES256 verify", "s", fresh, freshBare, atMost(1.4, 1.2)),
	}
}

// inTurns makes n calls of each, some of the one and then some of the other, and returns how many seconds one of each takes.
func inTurns(n int, ours, peer func(i int)) (o, p float64) {
	const atATime = 50
	for begin := 0; begin < n; begin += atATime {
		end := min(begin+atATime, n)
		for k := range 2 {
			start := time.Now()
			if (begin/atATime+k)%2 == 0 {
				for i := begin; i < end; i++ {
					ours(i)
				}
				o += time.Since(start).Seconds()
			} else {
				for i := begin; i < end; i++ {
					peer(i)
				}
				p += time.Since(start).Seconds()
			}
		}
	}
	return o / float64(n), p / float64(n)
}
