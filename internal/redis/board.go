package redis

import (
	"context"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

const (
	// maxNotice bounds a sealed notice, maxNotices how many are read at all.
	maxNotice  = 4 << 10
	maxNotices = 1024
)

// readBoard returns names and notices in turn, or one word if they are too many; those that are too big are left out before they leave Redis.
var readBoard = goredis.NewScript(`
local out = {}
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then return {'too many'} end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if #name <= 64 and redis.call('HSTRLEN', KEYS[1], name) <= tonumber(ARGV[2]) then
    out[#out+1] = name
    out[#out+1] = redis.call('HGET', KEYS[1], name)
  end
end
return out`)

// writeBoard puts up a notice, and lets the board live a while longer than it.
var writeBoard = goredis.NewScript(`
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1`)

// Board is where replicas put up notices for one another: one each, sealed, so that nobody else can put one up. It
// implements issuer.Board.
type Board struct{ client *Client }

// Board returns the one of this installation.
func (c *Client) Board() *Board { return &Board{c} }

func (b *Board) name() string { return b.client.cfg.Prefix + ":issuer-keys" }

// Post puts up a replica's notice in place of its former one; it stays for a while at least.
func (b *Board) Post(ctx context.Context, replica string, notice []byte, stays time.Duration) error {
	sealed := b.client.cfg.Keyring.Seal(b.client.sealedBoard, []byte(replica), notice)
	if len(sealed) > maxNotice || len(replica) > 64 {
		return fmt.Errorf("a notice of %d bytes; at most %d fit", len(sealed), maxNotice)
	}
	return b.client.do(ctx, "post", true, func(ctx context.Context) error {
		return writeBoard.Run(ctx, b.client.rdb, []string{b.name()}, replica, sealed, stays.Milliseconds()).Err()
	})
}

// Read returns every notice that was sealed by a replica, by its name. What doesn't open is left out.
func (b *Board) Read(ctx context.Context) (map[string][]byte, error) {
	var answer []string
	err := b.client.do(ctx, "read_board", false, func(ctx context.Context) (err error) {
		answer, err = readBoard.Run(ctx, b.client.rdb, []string{b.name()}, maxNotices, maxNotice).StringSlice()
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(answer) == 1 {
		return nil, fmt.Errorf("%s holds more than %d entries, which replicas don't write: delete it, they put theirs up again", b.name(), maxNotices)
	}
	out := map[string][]byte{}
	for i := 0; i+1 < len(answer); i += 2 {
		notice, err := b.client.cfg.Keyring.Open(b.client.sealedBoard, []byte(answer[i]), []byte(answer[i+1]))
		if err != nil {
			b.client.cfg.Observe("open", "error", 0)
			continue
		}
		out[answer[i]] = notice
	}
	return out, nil
}

// Remove takes down notices.
func (b *Board) Remove(ctx context.Context, replicas ...string) error {
	return b.client.do(ctx, "remove", true, func(ctx context.Context) error {
		return b.client.rdb.HDel(ctx, b.name(), replicas...).Err()
	})
}
