package bench

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// load is one of the two that are compared: what is called, and the process that answers.
type load struct {
	call
	pid int
}

// cachedOverGRPC is what a caller costs whose credentials are in memory, against a service that does nothing.
func cachedOverGRPC(s *stage) []row {
	b := s.broker()
	token := s.token("cached")
	dir, accessKey := s.answers(b, token)
	peer := startPeer(s.t, dir)
	request := func(int) *brokerv1.IssueCredentialsRequest { return issueRequest(token, "bench") }
	r := s.versus(load{call: grpcLoad(s.t, b.grpc, request, accessKey), pid: b.pid()}, load{call: grpcLoad(s.t, peer.grpc, request, accessKey), pid: peer.pid})
	s.profile(b, "grpc", grpcLoad(s.t, b.grpc, request, accessKey))
	return []row{r.row("cached issue, gRPC / grpc-go no-op", atLeast(0.70, 0.85))}
}

// cachedOverHTTP is the same over HTTP/JSON.
func cachedOverHTTP(s *stage) []row {
	b := s.broker()
	token := s.token("cached")
	dir, accessKey := s.answers(b, token)
	peer := startPeer(s.t, dir)
	at := func(addr string) call {
		return httpLoad(s.t, addr, inFlight, httpRequest(addr, token, "bench"), []byte(accessKey))
	}
	r := s.versus(load{call: at(strings.TrimPrefix(b.http, "http://")), pid: b.pid()}, load{call: at(peer.http), pid: peer.pid})
	s.profile(b, "http", at(strings.TrimPrefix(b.http, "http://")))
	return []row{r.row("cached issue, HTTP/JSON / net/http handler", atLeast(0.45, 0.60))}
}

// contest is what came of two loads that took turns.
type contest struct{ ours, peer contestant }

type contestant struct {
	rates   []float64 // of each round
	calls   int
	cpuTime time.Duration
}

func (c *contestant) perCall() time.Duration { return c.cpuTime / time.Duration(max(c.calls, 1)) }

// turnsInRound is how many turns there are in a round: whatever else this machine does for a while then hits both alike.
const turnsInRound = 8

// versus warms both up, then has them take turns.
func (s *stage) versus(ours, peer load) contest {
	s.t.Helper()
	return s.versusAt(inFlight, ours, peer)
}

// versusAt is versus with fewer calls in flight.
func (s *stage) versusAt(workers int, ours, peer load) contest {
	s.t.Helper()
	rate(s.t, workers, s.spell/4, ours.call)
	rate(s.t, workers, s.spell/4, peer.call)
	var c contest
	for range s.rounds {
		var took [2]time.Duration
		var calls [2]int
		for turn := range turnsInRound {
			for i := range 2 {
				i = (i + turn) % 2
				l, who := [2]load{ours, peer}[i], [2]*contestant{&c.ours, &c.peer}[i]
				before := cpu(s.t, l.pid)
				m := rate(s.t, workers, s.spell/turnsInRound, l.call)
				who.cpuTime += cpu(s.t, l.pid) - before
				who.calls += m.calls
				calls[i], took[i] = calls[i]+m.steady, took[i]+m.took
			}
		}
		c.ours.rates = append(c.ours.rates, float64(calls[0])/took[0].Seconds())
		c.peer.rates = append(c.peer.rates, float64(calls[1])/took[1].Seconds())
	}
	return c
}

// row is the line of the table. Its note has the processor time that both servers took for a call: that hardly moves when others use
// the machine.
func (c contest) row(what string, goal target) row {
	r := compared(what, "/s", c.ours.rates, c.peer.rates, goal)
	r.Note = fmt.Sprintf("CPU a call: %.1f µs, peer %.1f µs", c.ours.perCall().Seconds()*1e6, c.peer.perCall().Seconds()*1e6)
	return r
}

// profile writes a CPU profile of the broker under load, if such are wanted.
func (s *stage) profile(b *replica, name string, ours call) {
	s.t.Helper()
	if *profilesFlag == "" {
		return
	}
	failed := make(chan error, 1)
	go func() {
		failed <- func() error {
			resp, err := http.Get(b.ops + "/debug/pprof/profile?seconds=8")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			f, err := os.Create(filepath.Join(*profilesFlag, name+".pprof"))
			if err != nil {
				return err
			}
			_, err = io.Copy(f, resp.Body)
			return errors.Join(err, f.Close())
		}()
	}()
	rate(s.t, inFlight, 9*time.Second, ours)
	if err := <-failed; err != nil {
		s.t.Fatal(err)
	}
}
