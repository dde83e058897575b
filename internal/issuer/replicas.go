package issuer

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
)

// Board is where replicas put up their public keys for one another: whichever replica MinIO asks for the JWK set must know
// the keys of all. Nobody but a replica can put up what Read returns.
type Board interface {
	// Post puts up a replica's notice in place of its former one, for so long at least.
	Post(ctx context.Context, replica string, notice []byte, stays time.Duration) error
	// Read returns the notices by replica.
	Read(ctx context.Context) (map[string][]byte, error)
	// Remove takes notices down.
	Remove(ctx context.Context, replicas ...string) error
}

const (
	// noticeLife is how long a notice counts: so long other replicas serve the keys of one that can't reach the board.
	noticeLife = 24 * time.Hour
	// postEvery is how often a notice is put up anew, postAgain how soon after a failure.
	postEvery = 10 * time.Second
	postAgain = time.Second
	// readEvery is the least time between two looks at the board, however often the JWK set is asked for.
	readEvery = 50 * time.Millisecond
	// missingFor is how long a replica's keys are served after its notice went missing: a Redis that was restarted empty, or
	// lost its last writes, has it again by then if the replica lives.
	missingFor = time.Minute
	// minPublished is how long a key is on the board at least before it signs, however short the interval was in which the board
	// could be reached.
	minPublished = time.Minute
	// boardTimeout bounds one look or post.
	boardTimeout = 2 * time.Second
	// maxReplicas is how many replicas' keys are served: those whose notices are newest, so that the notices of replicas that
	// crashed can't push out one that lives.
	maxReplicas = 64
	// clockSlack is how far ahead another replica's clock may be.
	clockSlack = 5 * time.Minute
)

// notice is what a replica puts up.
type notice struct {
	Replica string  `json:"replica"`
	Posted  int64   `json:"posted"` // Unix seconds, as Ends
	Ends    int64   `json:"ends"`
	Keys    []point `json:"keys"` // at most 3, the signing one first
}

type point struct {
	X string `json:"x"`
	Y string `json:"y"`
}

// replicas is an issuer's part in a board.
type replicas struct {
	board Board
	id    string
	// posted is the last own set that is on the board; nil if none ever was. since is when it was first put up, and Run's alone.
	posted atomic.Pointer[keySet]
	since  time.Time
	// others are the keys of the other replicas, from the last look that succeeded. Who looks next holds the turn.
	others atomic.Pointer[[]foreign]
	turn   chan struct{}
	looked time.Time // when the last look began; guarded by turn
}

// foreign are the public keys of another replica.
type foreign struct {
	replica      string
	posted, ends int64
	keys         []*key    // without private keys
	seen         time.Time // when it was last on the board
}

func newReplicas(board Board) *replicas {
	r := &replicas{board: board, id: randomID(), turn: make(chan struct{}, 1)}
	r.others.Store(&[]foreign{})
	return r
}

// published says whether a key was put up where the other replicas see it.
func (r *replicas) published(k *key) bool {
	set := r.posted.Load()
	return set != nil && slices.Contains([]string{set.current.id, set.next.id}, k.id)
}

// errUnpublished is why a replica mints nothing yet.
var errUnpublished = errors.New("this replica's keys were never published to the others (Redis), so that MinIO may not find them")

// Status tells in one line why nothing is minted; empty if something is.
func (i *Issuer) Status() string {
	if i.transit != nil {
		return i.transit.status()
	}
	if i.replicas != nil && !i.replicas.published(i.keys.Load().current) {
		return errUnpublished.Error()
	}
	return ""
}

// runReplicated rotates the keys and keeps them on the board until ctx ends, then takes them down.
func (i *Issuer) runReplicated(ctx context.Context) {
	rotate := time.NewTicker(i.cfg.RotateEvery)
	defer rotate.Stop()
	post := time.NewTimer(0)
	defer post.Stop()
	for due := false; ; {
		// The next key must have been on the board for a while before it signs, for a replica that couldn't read it meanwhile.
		if due && i.replicas.published(i.keys.Load().next) && time.Since(i.replicas.since) >= min(i.cfg.RotateEvery, minPublished) {
			due = i.rotate() != nil // see Run
			post.Reset(0)
		}
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), boardTimeout)
			defer cancel()
			_ = i.replicas.board.Remove(ctx, i.replicas.id) // else it ends by itself
			return
		case <-rotate.C:
			due = true
		case <-post.C:
			wait := postEvery
			if err := i.post(ctx); err != nil {
				i.cfg.Log.Warn("issuer keys not published to the other replicas", "error", err)
				wait = postAgain
			}
			i.look(ctx) // nobody may ask for the JWK set for hours, and then Redis may have been emptied just before
			post.Reset(wait + rand.N(wait/4))
		}
	}
}

// post puts up the public keys in force.
func (i *Issuer) post(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, boardTimeout)
	defer cancel()
	set, now := i.keys.Load(), i.cfg.Now()
	n := notice{Replica: i.replicas.id, Posted: now.Unix(), Ends: now.Add(noticeLife).Unix()}
	for _, k := range set.all() {
		n.Keys = append(n.Keys, point{k.x, k.y})
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := i.replicas.board.Post(ctx, i.replicas.id, data, noticeLife); err != nil {
		return err
	}
	if i.replicas.posted.Swap(set) != set {
		i.replicas.since = time.Now()
	}
	return nil
}

// look reads the board, unless a look began after the caller came. Without the board the last look holds.
func (i *Issuer) look(ctx context.Context) {
	r, came := i.replicas, time.Now()
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return
	}
	if r.looked.After(came) {
		return
	}
	select {
	case <-time.After(time.Until(r.looked.Add(readEvery))):
	case <-ctx.Done():
		return
	}
	r.looked = time.Now()
	// Others wait for what this look finds: it doesn't end with whoever began it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), boardTimeout)
	defer cancel()
	notices, err := r.board.Read(ctx)
	if err != nil {
		i.cfg.Log.Warn("other replicas' issuer keys not read: the last known are served", "error", err)
		return
	}
	now := i.cfg.Now()
	var others []foreign
	var ended []string
	for _, replica := range slices.Sorted(maps.Keys(notices)) {
		if replica == r.id {
			continue
		}
		f, err := parseNotice(replica, notices[replica], now)
		switch {
		case errors.Is(err, errEnded):
			ended = append(ended, replica)
		case err != nil:
			i.cfg.Log.Warn("another replica's issuer keys not served", "replica", replica, "error", err)
		default:
			f.seen = now
			others = append(others, f)
		}
	}
	for _, f := range *r.others.Load() {
		if _, there := notices[f.replica]; !there && now.Sub(f.seen) < missingFor {
			others = append(others, f)
		}
	}
	slices.SortStableFunc(others, func(a, b foreign) int { return cmp.Compare(b.posted, a.posted) })
	if len(others) > maxReplicas {
		others = others[:maxReplicas]
	}
	r.others.Store(&others)
	if len(ended) > 0 {
		_ = r.board.Remove(ctx, ended...) // the next look tries again
	}
}

var errEnded = errors.New("it has ended")

// parseNotice checks what a replica put up. It is authentic; but a replica may be of another version, or its clock wrong.
func parseNotice(replica string, data []byte, now time.Time) (foreign, error) {
	var n notice
	if err := json.Unmarshal(data, &n, json.RejectUnknownMembers(true)); err != nil {
		return foreign{}, errors.New("it isn't a notice of this version")
	}
	switch {
	case n.Replica != replica:
		return foreign{}, errors.New("it is another replica's")
	case n.Ends <= now.Unix():
		return foreign{}, errEnded
	case n.Posted > now.Add(clockSlack).Unix() || n.Ends > n.Posted+int64(noticeLife/time.Second):
		return foreign{}, fmt.Errorf("it is from %d until %d, in Unix seconds, and now is %d", n.Posted, n.Ends, now.Unix())
	case len(n.Keys) == 0 || len(n.Keys) > 3:
		return foreign{}, errors.New("it holds " + strconv.Itoa(len(n.Keys)) + " keys")
	}
	f := foreign{replica: replica, posted: n.Posted, ends: n.Ends}
	for _, p := range n.Keys {
		if err := onCurve(p); err != nil {
			return foreign{}, err
		}
		f.keys = append(f.keys, &key{id: thumbprint(p.X, p.Y), x: p.X, y: p.Y})
	}
	return f, nil
}

// onCurve says whether two base64url coordinates are a point of P-256.
func onCurve(p point) error {
	sec1 := []byte{4} // uncompressed (SEC 1, section 2.3.3)
	for _, coordinate := range []string{p.X, p.Y} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(coordinate)
		if err != nil || len(b) != 32 || encode(b) != coordinate {
			return errors.New("a coordinate of a key isn't 32 bytes of base64url")
		}
		sec1 = append(sec1, b...)
	}
	if _, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), sec1); err != nil {
		return errors.New("a key isn't a point of P-256")
	}
	return nil
}

// served are all replicas' keys: the own ones first, then the others' that haven't ended, each once.
func (i *Issuer) served() []*key {
	keys := i.keys.Load().all()
	seen := map[string]bool{}
	for _, k := range keys {
		seen[k.id] = true
	}
	now := i.cfg.Now().Unix()
	for _, f := range *i.replicas.others.Load() {
		for _, k := range f.keys {
			if f.ends > now && !seen[k.id] {
				seen[k.id] = true
				keys = append(keys, k)
			}
		}
	}
	return keys
}
