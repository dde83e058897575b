package redis

import (
	"bytes"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/credbroker/credbroker/internal/brokertest"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/seal"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestEncodedCredentialsHaveABound(t *testing.T) {
	c := exchange.Credentials{AccessKeyID: "AK", SecretAccessKey: secret.New("sk"), Expires: time.Unix(1_800_000_000, 5)}
	most := maxEntry - seal.Overhead - (8 + 2 + 2 + 2 + 2)
	c.SessionToken = secret.New(strings.Repeat("t", most))
	b, err := encodeCredentials(c)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := decodeCredentials(b); !ok || got.SessionToken.Len() != most || !got.Expires.Equal(c.Expires) {
		t.Errorf("got %v, %v", got, ok)
	}
	c.SessionToken = secret.New(strings.Repeat("t", most+1))
	if _, err := encodeCredentials(c); err == nil || !strings.Contains(err.Error(), "too big") {
		t.Errorf("a byte more: %v", err)
	}
}

// A server that doesn't say which run it is, as a compatible one may not, can't vouch for anything.
func TestAServerThatTellsNothingOfItselfVouchesForNothing(t *testing.T) {
	server := brokertest.StartRedis(t, brokertest.RedisOptions{})
	rdb := goredis.NewClient(&goredis.Options{Addr: server.Addr})
	defer rdb.Close()
	const whole = "maxmemory:0 run_id:a1 master_replid:b2 evicted_keys:0"
	for _, c := range []struct {
		missing string
		want    int64
	}{{"nothing", 0}, {"run_id", -2}, {"master_replid", -2}, {"evicted_keys", -2}, {"maxmemory", -1}} {
		info := strings.ReplaceAll(whole, c.missing, "left_out")
		source := strings.Replace(replaySource, "redis.call('INFO', 'server')", "'"+info+"'", 1)
		for _, section := range []string{"replication", "memory", "stats"} {
			source = strings.Replace(source, "redis.call('INFO', '"+section+"')", "''", 1)
		}
		if strings.Contains(source, "INFO") {
			t.Fatal("the script asks for more than was replaced")
		}
		answer, err := goredis.NewScript(source).Run(t.Context(), rdb, []string{"began", "mark-" + c.missing}, 1000, 0).Int64Slice()
		if err != nil || len(answer) != 2 || min(answer[1], 0) != c.want || (answer[0] == 1) != (c.want == 0) {
			t.Errorf("without %s: %v, %v", c.missing, answer, err)
		}
	}
}

// What is decoded at all encodes to the same bytes: there is one way to write it.
func FuzzDecodeCredentials(f *testing.F) {
	b, err := encodeCredentials(exchange.Credentials{AccessKeyID: "AK", SecretAccessKey: secret.New("sk"), SessionToken: secret.New("st"), Expires: time.Unix(1_800_000_000, 0)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, ok := decodeCredentials(data)
		if !ok {
			return
		}
		again, err := encodeCredentials(c)
		if err != nil {
			if len(data) <= maxEntry-seal.Overhead {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(again, data) {
			t.Errorf("%q became %q", data, again)
		}
	})
}
