package redis

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/credbroker/credbroker/internal/attest"
)

// replayTags spread the marks over the slots of a cluster. Each tag has a record of how far back its marks go.
const replayTags = 16

// clockSlack is how far the clocks of replicas may be apart: so much longer than the caller says a mark stays.
const clockSlack = 5 * time.Minute

// replayScript marks a proof as used (KEYS[2], for ARGV[1] ms), and returns whether it was the first use, and since when, in
// ms of Unix time, marks can be vouched for; -1 if the server may throw them away, -2 if it doesn't say which run it is.
//
// What vouches is KEYS[1]: it names the server's run, the history of its data set and how much it has thrown away. After a
// restart, a failover to a replica that may lack the last marks, a flush or an eviction, it doesn't match and begins anew, by
// the server's clock or the caller's (ARGV[2], in ms), whichever is later.
var replayScript = goredis.NewScript(replaySource)

const replaySource = `
local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication') .. redis.call('INFO', 'memory') .. redis.call('INFO', 'stats')
local policy = string.match(info, 'maxmemory_policy:([%w-]+)')
local limit = string.match(info, 'maxmemory:(%d+)')
if policy ~= 'noeviction' and limit ~= '0' then return {0, -1} end
local id, history = string.match(info, 'run_id:(%w+)'), string.match(info, 'master_replid:(%w+)')
local evicted = string.match(info, 'evicted_keys:(%d+)')
if not (id and history and evicted) then return {0, -2} end
local run = id .. ' ' .. history .. ' ' .. evicted
local began = redis.call('HMGET', KEYS[1], 'run', 'began')
if began[1] ~= run then
  local now = redis.call('TIME')
  began[2] = string.format('%.0f', math.max(now[1] * 1000 + math.floor(now[2] / 1000), tonumber(ARGV[2])))
  redis.call('HSET', KEYS[1], 'run', run, 'began', began[2])
end
if KEYS[2] == nil then return {1, tonumber(began[2])} end
local first = redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[1])
return {first and 1 or 0, tonumber(began[2])}`

// Replay remembers in Redis which proofs were used up. It implements attest.Replay and fails closed.
type Replay struct{ client *Client }

// Replay returns the one of this installation.
func (c *Client) Replay() *Replay { return &Replay{c} }

// Use implements attest.Replay.
func (r *Replay) Use(ctx context.Context, name [sha256.Size]byte, issued time.Time, life time.Duration) error {
	var answer []int64
	tag := int(name[0]) % replayTags
	err := r.client.do(ctx, opReplay, true, func(ctx context.Context) (err error) {
		answer, err = replayScript.Run(ctx, r.client.rdb, []string{r.began(tag), r.began(tag) + ":" + encode(name[:])}, max(life.Milliseconds(), 1)+clockSlack.Milliseconds(), r.client.cfg.Now().UnixMilli()).Int64Slice()
		return err
	})
	if err == nil && len(answer) != 2 {
		err = fmt.Errorf("%d values in the answer", len(answer))
	}
	if err != nil {
		return fmt.Errorf("%w: whether the proof was used before can't be known: %w", attest.ErrUnavailable, err)
	}
	began := time.UnixMilli(answer[1])
	switch {
	case answer[1] == -2:
		return fmt.Errorf("%w: Redis doesn't tell its run_id, master_replid and evicted_keys (INFO): whether a proof was used before can't be known", attest.ErrUnavailable)
	case answer[1] < 0:
		return fmt.Errorf("%w: Redis may throw away what says that a proof was used: set its maxmemory-policy to noeviction", attest.ErrUnavailable)
	case answer[0] != 1:
		return attest.ErrUsed
	case issued.Before(began):
		return fmt.Errorf("%w: proof is older than Redis's memory of used ones, which began at %s", attest.ErrRejected, stamp(began))
	}
	return nil
}

// begin sees to it that the memory of used proofs has begun, so that the first proof of all isn't older than it; it tries
// until Redis is there, or ctx ends.
func (r *Replay) begin(ctx context.Context) {
	for tag := 0; tag < replayTags; {
		if err := r.client.do(ctx, opReplay, true, func(ctx context.Context) error {
			return replayScript.Run(ctx, r.client.rdb, []string{r.began(tag)}, 0, r.client.cfg.Now().UnixMilli()).Err()
		}); err == nil {
			tag++
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func (r *Replay) began(tag int) string {
	return r.client.cfg.Prefix + ":used:{" + strconv.Itoa(tag) + "}"
}
