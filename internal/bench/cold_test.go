package bench

import (
	"fmt"
	"time"
)

// cold is a caller's first request, alone, against the same call to MinIO's STS without a broker in between. The STS is of a second
// MinIO, which trusts the callers' identity provider as the first one trusts the broker.
func cold(s *stage) []row {
	b := s.broker()
	issue, direct := dial(s.t, b.grpc), s.directly(s.startMinIO(s.idp.URL))
	calls := s.size(200, 3)
	var ours, peer []float64
	for round := range s.rounds {
		var o, p []float64
		for i := range calls { // call by call, since a disk has its moods
			subject := fmt.Sprintf("cold-%d-%d", round, i)
			request := issueRequest(s.token(subject), "bench")
			begin := time.Now()
			if _, err := issue.IssueCredentials(s.t.Context(), request); err != nil {
				s.t.Fatal(err)
			}
			o = append(o, time.Since(begin).Seconds())
			p = append(p, direct(subject).Seconds())
		}
		ours, peer = append(ours, median(o)), append(peer, median(p))
	}
	return []row{compared("cold issue, p50 / MinIO STS, p50", "s", ours, peer, atMost(1.25, 1.10))}
}
