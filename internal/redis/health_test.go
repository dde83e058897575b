package redis

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// What Redis's behaviour says of it: each step is an operation that failed, or worked if there is no error.
func TestHealth(t *testing.T) {
	var (
		silence        = context.DeadlineExceeded
		answer   error = goredis.Nil
		refusal  error = &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		breaking error = &net.OpError{Op: "read", Err: errors.New("connection reset")}
	)
	type step struct {
		writes bool
		err    error
	}
	read := func(errs ...error) (out []step) {
		for _, err := range errs {
			out = append(out, step{false, err})
		}
		return out
	}
	write := func(errs ...error) (out []step) {
		for _, err := range errs {
			out = append(out, step{true, err})
		}
		return out
	}
	for name, c := range map[string]struct {
		steps      []step
		away, mute bool
	}{
		"two silent reads":                   {read(silence, silence), false, false},
		"three silent reads":                 {read(silence, silence, silence), true, false},
		"an answer between":                  {read(silence, silence, answer, silence, silence), false, false},
		"one that worked between":            {read(silence, silence, nil, silence, silence), false, false},
		"answers that are errors":            {read(answer, answer, answer, answer), false, false},
		"connections that break":             {read(breaking, breaking), false, false},
		"a refused connection":               {read(refusal), true, false},
		"a refused connection for a write":   {write(refusal), true, false},
		"three silent writes":                {write(silence, silence, silence), false, true},
		"two silent writes":                  {write(silence, silence), false, false},
		"writes that break":                  {write(breaking), false, false},
		"answers to writes that are errors":  {write(answer, answer, answer, answer), false, false},
		"reads between silent writes":        {append(append(write(silence, silence), read(nil)...), write(silence)...), false, true},
		"a write that worked between":        {write(silence, silence, nil, silence, silence), false, false},
		"silent reads after silent writes":   {append(write(silence, silence, silence), read(silence, silence, silence)...), true, true},
		"silence of both, not enough of one": {append(write(silence, silence), read(silence, silence)...), false, false},
	} {
		clock := time.Unix(1_800_000_000, 0)
		client := &Client{cfg: Config{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock }}}
		h := &client.health
		h.client = client
		for _, s := range c.steps {
			if s.err != nil {
				h.failed(s.writes, s.err)
			} else {
				h.worked(s.writes)
			}
		}
		if h.isAway.Load() != c.away || h.isMute.Load() != c.mute || h.away(false) != c.away || h.away(true) != (c.away || c.mute) {
			t.Errorf("%s: away %v, mute %v", name, h.isAway.Load(), h.isMute.Load())
		}
	}
}

func TestAFaultIsToldSinceItBegan(t *testing.T) {
	clock := time.Unix(1_800_000_000, 0)
	client := &Client{cfg: Config{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock }}}
	client.health.client = client
	fail := func(writes bool, err error) string {
		clock = clock.Add(time.Minute)
		client.health.failed(writes, err)
		return client.Status()
	}
	first := fail(true, context.DeadlineExceeded)
	if second := fail(true, context.DeadlineExceeded); first != second || !strings.Contains(first, "since 2027-01-15T08:01:00Z") {
		t.Errorf("%q, then %q", first, second)
	}
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	first = fail(false, refused)
	if second := fail(false, refused); first != second || !strings.Contains(first, "away since 2027-01-15T08:03:00Z") {
		t.Errorf("%q, then %q", first, second)
	}
}

// A server that answers is there, whatever it says.
func TestAnAnswerToTheProberEndsAnAbsence(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	client := &Client{rdb: goredis.NewClient(&goredis.Options{Addr: server.Addr}), cfg: Config{Timeout: time.Second, Prefix: "p", Log: slog.New(slog.DiscardHandler), Now: time.Now}}
	defer client.Close()
	h := &client.health
	h.client = client
	server.SetReadOnly(true)
	h.isMute.Store(true)
	if h.probe(t.Context()); h.isMute.Load() {
		t.Error("a server that refuses writes is taken for one that is silent")
	}
	server.SetReadOnly(false)
	server.CLI("ACL", "SETUSER", "default", "-ping")
	h.isAway.Store(true)
	if h.probe(t.Context()); h.isAway.Load() {
		t.Error("a server that refuses PING is taken for one that is away")
	}
	server.Kill()
	h.isAway.Store(true)
	h.isMute.Store(true)
	if h.probe(t.Context()); !h.isAway.Load() {
		t.Error("a server that is gone is back")
	}
	h.isAway.Store(false)
	if h.probe(t.Context()); !h.isMute.Load() {
		t.Error("a server that is gone takes writes")
	}
}
