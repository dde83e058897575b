package server

import (
	"bufio"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// answersTo sends text as it is to a listener and returns the statuses of all that is answered until the connection ends.
func answersTo(t *testing.T, base, text string) []int {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var out []int
	for r := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return out
		}
		_, _ = bufio.NewReader(resp.Body).Discard(1 << 20)
		_ = resp.Body.Close()
		out = append(out, resp.StatusCode)
	}
}

// TestNobodySmugglesARequest sends what two servers in a row read differently. One request comes through at most, and the connection ends with
// it, so that nothing behind is taken for another's; the second one here names another consumer.
func TestNobodySmugglesARequest(t *testing.T) {
	const (
		body    = `{"role":"r"}`
		chunked = "c\n" + body + "\n0\n\n"
		second  = "GET /v1/roles HTTP/1.1\nHost: b\nX-Consumer-Id: admin\nX-Credential-Identifier: k\n\n"
	)
	for listener, serve := range map[string]func(*testing.T, Broker) string{
		"gateway": gatewayServer,
		"public":  func(t *testing.T, b Broker) string { base, _ := httpServer(t, b); return base },
	} {
		b := &fakeBroker{}
		base := serve(t, b)
		for name, tc := range map[string]struct {
			headers, rest string
			want          []int
		}{
			"length and chunks":                {"Content-Length: 150\nTransfer-Encoding: chunked\n", chunked + second, []int{200}},
			"chunks and length":                {"Transfer-Encoding: chunked\nContent-Length: 4\n", chunked + second, []int{200}},
			"two encodings":                    {"Transfer-Encoding: chunked\nTransfer-Encoding: identity\n", chunked + second, []int{501}},
			"an encoding that isn't one":       {"Transfer-Encoding: xchunked\nContent-Length: 12\n", body + second, []int{501}},
			"a space behind the header's name": {"Transfer-Encoding : chunked\nContent-Length: 12\n", body + second, []int{400}},
			"a folded header":                  {"X-A: b\n Transfer-Encoding: chunked\nContent-Length: 12\n", body, []int{200}},
			"two lengths":                      {"Content-Length: 12\nContent-Length: 13\n", body + second, []int{400}},
			"a length with a sign":             {"Content-Length: +12\n", body + second, []int{400}},
			"two hosts":                        {"Host: c\nContent-Length: 12\n", body + second, []int{400}},
		} {
			_, before := b.asked()
			got := answersTo(t, base, "POST /v1/credentials HTTP/1.1\nHost: b\nContent-Type: application/json\nX-Consumer-Id: 5b6a\nX-Credential-Identifier: key-1\n"+tc.headers+"\n"+tc.rest)
			_, after := b.asked()
			want := 0
			if tc.want[0] == http.StatusOK {
				want = 1
			}
			if !slices.Equal(got, tc.want) || after-before != want {
				t.Errorf("%s, %s: %v, %d calls; expected %v, %d", listener, name, got, after-before, tc.want, want)
			}
		}
		// A header that Connection names is the sender's matter, and no reason to leave it out: what the MAC covers is there or refused.
		if got := answersTo(t, base, "POST /v1/credentials HTTP/1.1\nHost: b\nContent-Type: application/json\nX-Consumer-Id: 5b6a\nConnection: close, X-Consumer-Id\nContent-Length: 12\n\n"+body); !slices.Equal(got, []int{200}) {
			t.Errorf("%s: %v", listener, got)
		}
		if req, _ := b.asked(); listener == "gateway" && !strings.Contains(req.Proof.Data.Reveal(), "\nx-consumer-id:5b6a\n") {
			t.Errorf("%q", req.Proof.Data.Reveal())
		}
	}
}
