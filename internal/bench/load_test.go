package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	brokerv1 "github.com/credbroker/credbroker/proto/broker/v1"
)

// inFlight is how many calls of a load are under way at one time.
const inFlight = 128

// call makes one call as one of the workers, who are numbered from 0.
type call func(ctx context.Context, worker int) error

// measured is what came of a load.
type measured struct {
	calls int // all
	// steady are the calls that came to an end within the time took, when neither the first nor the last were under way.
	steady int
	took   time.Duration
}

// rate makes calls for some time, as many at one time as there are workers. A call that fails ends it all.
func rate(t testing.TB, workers int, d time.Duration, do call) measured {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var done atomic.Int64
	var over atomic.Bool
	var first sync.Once
	var failure error
	var wait sync.WaitGroup
	for worker := range workers {
		wait.Go(func() {
			for !over.Load() {
				if err := do(ctx, worker); err != nil {
					first.Do(func() { failure = err })
					over.Store(true)
					return
				}
				done.Add(1)
			}
		})
	}
	time.Sleep(d / 5)
	begin, before := time.Now(), done.Load()
	time.Sleep(d)
	m := measured{took: time.Since(begin), steady: int(done.Load() - before)}
	over.Store(true)
	wait.Wait()
	if failure != nil {
		t.Fatal(failure)
	}
	m.calls = int(done.Load())
	return m
}

// median of some numbers.
func median(of []float64) float64 {
	s := slices.Sorted(slices.Values(of))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// dial is a client on a connection of its own.
func dial(t testing.TB, addr string) brokerv1.CredentialBrokerServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return brokerv1.NewCredentialBrokerServiceClient(conn)
}

// grpcLoad asks the server for credentials over four connections. Every answer must be for the access key, if one is given.
func grpcLoad(t testing.TB, addr string, request func(worker int) *brokerv1.IssueCredentialsRequest, accessKey string) call {
	t.Helper()
	var clients [4]brokerv1.CredentialBrokerServiceClient
	for i := range clients {
		clients[i] = dial(t, addr)
	}
	return func(ctx context.Context, worker int) error {
		got, err := clients[worker%len(clients)].IssueCredentials(ctx, request(worker))
		if err != nil {
			return err
		}
		if got.GetAccessKeyId() == "" || accessKey != "" && got.GetAccessKeyId() != accessKey {
			return fmt.Errorf("the access key is %q, expected %q", got.GetAccessKeyId(), accessKey)
		}
		return nil
	}
}

// httpLoad sends one request, as it is on the wire, over a connection for each worker. The answer must be 200 and have want in
// it. It is as thin as a client can be: a client of net/http's costs more than the servers that are compared.
func httpLoad(t testing.TB, addr string, workers int, request, want []byte) call {
	t.Helper()
	type connection struct {
		net.Conn
		r    *bufio.Reader
		body []byte
	}
	conns := make([]*connection, workers)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		conns[i] = &connection{Conn: c, r: bufio.NewReader(c)}
	}
	return func(_ context.Context, worker int) error {
		c := conns[worker]
		if _, err := c.Write(request); err != nil {
			return err
		}
		status, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("the answer begins %q", status)
		}
		length := -1
		for {
			line, err := c.r.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) == 2 {
				break
			}
			if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
					return err
				}
			}
		}
		if length < 0 {
			return errors.New("the answer has no Content-Length")
		}
		c.body = slices.Grow(c.body[:0], length)[:length]
		if _, err := io.ReadFull(c.r, c.body); err != nil {
			return err
		}
		if !bytes.Contains(c.body, want) {
			return fmt.Errorf("the answer lacks %q", want)
		}
		return nil
	}
}

// httpRequest is POST /v1/credentials as it is on the wire.
func httpRequest(addr, token, role string) []byte {
	body := fmt.Sprintf(`{"role":%q}`, role)
	return fmt.Appendf(nil, "POST /v1/credentials HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		addr, token, len(body), body)
}
