package bench

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// cold is a caller's first request, alone, against the same call to MinIO's STS without a broker in between. The STS is of a second
// MinIO, which trusts the callers' identity provider as the first one trusts the broker.
func cold(s *stage) []row {
	b := s.broker()
	direct := s.startMinIO(s.idp.URL)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	issue := dial(s.t, b.grpc)
	ask := func(token string) time.Duration {
		begin := time.Now()
		if _, err := issue.IssueCredentials(s.t.Context(), issueRequest(token, "bench")); err != nil {
			s.t.Fatal(err)
		}
		return time.Since(begin)
	}
	askMinIO := func(token string) time.Duration {
		form := url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "WebIdentityToken": {token}}
		begin := time.Now()
		resp, err := client.PostForm(direct.Endpoint, form)
		if err != nil {
			s.t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		took := time.Since(begin)
		var answer struct {
			AccessKeyID string `xml:"AssumeRoleWithWebIdentityResult>Credentials>AccessKeyId"`
		}
		if err != nil || xml.Unmarshal(data, &answer) != nil || answer.AccessKeyID == "" {
			s.t.Fatalf("MinIO said %s, %v: %s", resp.Status, err, data)
		}
		return took
	}
	calls := s.size(200, 3)
	var ours, peer []float64
	for round := range s.rounds {
		var o, p []float64
		for i := range calls { // call by call, since a disk has its moods
			subject := fmt.Sprintf("cold-%d-%d", round, i)
			token := s.token(subject)
			// As the broker's own tokens: ES256, the policy as a claim.
			forMinIO := s.idp.Token(map[string]any{"sub": subject, "aud": brokertest.ClientID, "policy": "everything", "exp": time.Now().Add(time.Hour).Unix()})
			o = append(o, ask(token).Seconds())
			p = append(p, askMinIO(forMinIO).Seconds())
		}
		ours, peer = append(ours, median(o)), append(peer, median(p))
	}
	return []row{compared("cold issue, p50 / MinIO STS, p50", "s", ours, peer, atMost(1.25, 1.10))}
}
