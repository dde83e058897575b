package issuer

import (
	"context"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/policy"
)

// board is a Board in memory that can fail.
type board struct {
	mu      sync.Mutex
	notices map[string][]byte
	err     error
	reads   int
	hang    bool
}

func (b *board) Post(_ context.Context, replica string, notice []byte, _ time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.notices[replica] = notice
	}
	return b.err
}

func (b *board) Read(ctx context.Context) (map[string][]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	if b.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if b.err != nil {
		return nil, b.err
	}
	return maps.Clone(b.notices), nil
}

func (b *board) Remove(_ context.Context, replicas ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range replicas {
		delete(b.notices, r)
	}
	return b.err
}

func (b *board) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// replica starts an issuer that runs until the test ends.
func replica(t *testing.T, b Board, rotate time.Duration) (*Issuer, context.CancelFunc) {
	t.Helper()
	i, err := New(Config{URL: "https://broker", RotateEvery: rotate, Board: b})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		i.Run(ctx)
	}()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return i, stop
}

func served(t *testing.T, i *Issuer) map[string]bool {
	t.Helper()
	var set struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal(i.JWKS(t.Context()), &set, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, k := range set.Keys {
		if ids[k.Kid] {
			t.Errorf("%s is served twice", k.Kid)
		}
		ids[k.Kid] = true
	}
	return ids
}

func serves(t *testing.T, i, keysOf *Issuer) bool {
	t.Helper()
	ids := served(t, i)
	for _, id := range keysOf.KeyIDs() {
		if !ids[id] {
			return false
		}
	}
	return true
}

func mint(i *Issuer) error {
	s, err := i.Source(SourceConfig{Audience: "minio", AllowedPolicies: []string{"ro"}})
	if err != nil {
		return err
	}
	_, err = s.Token(context.Background(), exchange.Request{Grant: policy.Grant{Policies: []string{"ro"}}}, time.Now().Add(time.Hour))
	return err
}

func TestEveryReplicaServesTheKeysOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}}
		one, _ := replica(t, b, time.Hour)
		synctest.Wait()
		two, stopTwo := replica(t, b, time.Hour)
		synctest.Wait()
		if !serves(t, one, two) || !serves(t, two, one) || !serves(t, one, one) || len(served(t, one)) != 4 {
			t.Errorf("one serves %v, two %v", served(t, one), served(t, two))
		}
		if err := mint(one); err != nil {
			t.Error(err)
		}
		stopTwo()
		time.Sleep(missingFor - time.Second)
		if !serves(t, one, two) {
			t.Error("the keys of a replica whose notice went missing are gone at once")
		}
		time.Sleep(time.Second)
		if serves(t, one, two) {
			t.Error("the keys of a replica that stopped are still served")
		}
	})
}

// A Redis that comes back empty must not make a replica's keys unknown to the others.
func TestNoKeyIsUnknownWhenTheBoardForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}}
		one, _ := replica(t, b, time.Hour)
		two, _ := replica(t, b, time.Hour)
		synctest.Wait()
		_ = served(t, one)
		b.mu.Lock()
		clear(b.notices)
		b.mu.Unlock()
		for range 60 {
			if !serves(t, one, two) {
				t.Fatal("the other's keys aren't served")
			}
			time.Sleep(2 * time.Second)
		}
	})
}

func TestAReplicaThatNeverPublishedMintsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}, err: errors.New("no Redis")}
		i, _ := replica(t, b, time.Hour)
		synctest.Wait()
		if err := mint(i); !errors.Is(err, exchange.ErrUnavailable) || !strings.Contains(i.Status(), "never published") {
			t.Errorf("mint: %v, status %q", err, i.Status())
		}
		if !serves(t, i, i) {
			t.Error("its own keys aren't served")
		}
		b.fail(nil)
		time.Sleep(2 * postAgain)
		synctest.Wait()
		if err := mint(i); err != nil || i.Status() != "" {
			t.Errorf("when Redis came: %v, status %q", err, i.Status())
		}
	})
}

func TestAReplicaThatCantPublishKeepsItsLastPublishedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}}
		one, _ := replica(t, b, time.Hour)
		synctest.Wait()
		two, _ := replica(t, b, 1000*time.Hour)
		synctest.Wait()
		_ = serves(t, two, one)
		b.fail(errors.New("no Redis"))
		known := one.KeyIDs() // current and next, both published
		time.Sleep(10*time.Hour + time.Minute)
		synctest.Wait()
		if signs := one.KeyIDs()[0]; signs != known[1] {
			t.Errorf("signs with %s, want the last one that was published, %s", signs, known[1])
		}
		if err := mint(one); err != nil {
			t.Error(err)
		}
		if !served(t, two)[known[1]] {
			t.Error("the other replica forgot the key while Redis was away")
		}
		b.fail(nil)
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		if signs := one.KeyIDs()[0]; signs == known[1] || !served(t, two)[signs] {
			t.Errorf("signs with %s; the other serves %v", signs, served(t, two))
		}
	})
}

func TestKeysOfAReplicaThatDiedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}}
		dead, err := New(Config{URL: "https://broker", RotateEvery: time.Hour, Board: b})
		if err != nil {
			t.Fatal(err)
		}
		if err := dead.post(t.Context()); err != nil {
			t.Fatal(err)
		}
		one, _ := replica(t, b, 1000*time.Hour)
		time.Sleep(noticeLife - time.Second)
		if !serves(t, one, dead) {
			t.Error("gone too early")
		}
		b.fail(errors.New("no Redis"))
		time.Sleep(time.Second)
		if serves(t, one, dead) {
			t.Error("still served from memory")
		}
		b.fail(nil)
		_ = served(t, one)
		if _, there := b.notices[dead.replicas.id]; there {
			t.Error("its notice wasn't taken down")
		}
	})
}

func TestTheBoardIsReadOnceForAllWhoAskAtOneTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}}
		i, _ := replica(t, b, time.Hour)
		synctest.Wait()
		var wait sync.WaitGroup
		for range 1000 {
			wait.Go(func() { i.JWKS(t.Context()) })
		}
		wait.Wait()
		if b.reads > 2 {
			t.Errorf("read %d times", b.reads)
		}
		reads := b.reads
		for start := time.Now(); time.Since(start) < time.Second; {
			i.JWKS(t.Context())
		}
		if n := b.reads - reads; n < 15 || n > 25 {
			t.Errorf("asked without a pause, read %d times in a second", n)
		}
	})
}

// MinIO must get an answer whatever Redis does.
func TestJWKSAnswersWithoutABoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}, hang: true}
		i, err := New(Config{URL: "https://broker", RotateEvery: time.Hour, Board: b})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if !serves(t, i, i) || time.Since(start) != boardTimeout {
			t.Errorf("answered after %s", time.Since(start))
		}
	})
}

func TestNoticesAreChecked(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	good, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	point := fmt.Sprintf(`{"x":%q,"y":%q}`, good.x, good.y)
	write := func(replica string, posted, ends int64, keys string) string {
		return fmt.Sprintf(`{"replica":%q,"posted":%d,"ends":%d,"keys":[%s]}`, replica, posted, ends, keys)
	}
	n := now.Unix()
	x, errX := base64.RawURLEncoding.DecodeString(good.x)
	y, errY := base64.RawURLEncoding.DecodeString(good.y)
	if errX != nil || errY != nil {
		t.Fatal(errX, errY)
	}
	cut := fmt.Sprintf(`{"x":%q,"y":%q}`, encode(x[:31]), encode(append(x[31:], y...)))
	p224 := elliptic.P256().Params().P // y = p isn't a coordinate
	cases := map[string]struct {
		text string
		ok   bool
	}{
		"good":                     {write("r", n, n+60, point), true},
		"a day":                    {write("r", n, n+86400, point), true},
		"a second more":            {write("r", n, n+86401, point), false},
		"just ended":               {write("r", n-60, n, point), false},
		"clock ahead":              {write("r", n+300, n+400, point), true},
		"clock too far ahead":      {write("r", n+301, n+400, point), false},
		"another's":                {write("s", n, n+60, point), false},
		"no key":                   {write("r", n, n+60, ""), false},
		"three keys":               {write("r", n, n+60, point+","+point+","+point), true},
		"four keys":                {write("r", n, n+60, point+","+point+","+point+","+point), false},
		"not on the curve":         {write("r", n, n+60, fmt.Sprintf(`{"x":%q,"y":%q}`, good.y, good.x)), false},
		"a coordinate too big":     {write("r", n, n+60, fmt.Sprintf(`{"x":%q,"y":%q}`, good.x, encode(p224.FillBytes(make([]byte, 32))))), false},
		"a long coordinate":        {write("r", n, n+60, fmt.Sprintf(`{"x":%q,"y":%q}`, "AA"+good.x, good.y)), false},
		"cut elsewhere":            {write("r", n, n+60, cut), false},
		"a line break":             {write("r", n, n+60, fmt.Sprintf(`{"x":"%s\n","y":%q}`, good.x, good.y)), false},
		"the point at infinity":    {write("r", n, n+60, fmt.Sprintf(`{"x":%q,"y":%q}`, encode(new(big.Int).FillBytes(make([]byte, 32))), encode(make([]byte, 32)))), false},
		"private key":              {write("r", n, n+60, fmt.Sprintf(`{"x":%q,"y":%q,"d":"AA"}`, good.x, good.y)), false},
		"unknown member":           {`{"replica":"r","posted":1,"ends":2,"keys":[],"kid":"x"}`, false},
		"a raw JWK":                {`{"kty":"EC","crv":"P-256","x":"` + good.x + `","y":"` + good.y + `"}`, false},
		"not JSON":                 {`x`, false},
		"doubled member":           {strings.Replace(write("r", n, n+60, point), `"replica":"r"`, `"replica":"s","replica":"r"`, 1), false},
		"something after":          {write("r", n, n+60, point) + "{}", false},
		"an end that overflows":    {write("r", -1<<62, 1<<62, point), false},
		"posted never, ends never": {write("r", 0, 0, point), false},
	}
	for name, c := range cases {
		f, err := parseNotice("r", []byte(c.text), now)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if c.ok && f.keys[0].id != good.id {
			t.Errorf("%s: key %s, want %s", name, f.keys[0].id, good.id)
		}
	}
}

// Notices of replicas that crash and come back under another name must not push out one that lives.
func TestTheNewestNoticesAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}}
		for range maxReplicas + 10 {
			crashed, err := New(Config{URL: "https://broker", RotateEvery: time.Hour, Board: b})
			if err != nil {
				t.Fatal(err)
			}
			if err := crashed.post(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		alive, _ := replica(t, b, time.Hour)
		synctest.Wait()
		i, _ := replica(t, b, time.Hour)
		synctest.Wait()
		if got := len(served(t, i)); got != 2+2*maxReplicas || !serves(t, i, alive) {
			t.Errorf("%d keys are served, those of the one that lives: %v", got, serves(t, i, alive))
		}
	})
}

func FuzzNotice(f *testing.F) {
	f.Add([]byte(`{"replica":"r","posted":1800000000,"ends":1800000060,"keys":[{"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := parseNotice("r", data, time.Unix(1_800_000_000, 0))
		if err == nil && (len(n.keys) == 0 || len(n.keys) > 3 || n.ends <= 1_800_000_000) {
			t.Errorf("%q was taken", data)
		}
	})
}

// slowBoard is read for a while, or until ctx ends.
type slowBoard struct{ *board }

func (b slowBoard) Read(ctx context.Context) (map[string][]byte, error) {
	select {
	case <-time.After(20 * time.Millisecond):
		return b.board.Read(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A stranger who asks for the JWK set and hangs up doesn't take the look away from those who wait for it.
func TestALookDoesntEndWithWhoeverBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := slowBoard{&board{notices: map[string][]byte{}}}
		a, _ := replica(t, b, time.Hour)
		time.Sleep(time.Second)
		c, _ := replica(t, b, time.Hour)
		time.Sleep(time.Second)
		before := len(served(t, a))
		d, _ := replica(t, b, time.Hour)
		go a.JWKS(t.Context()) // looks at once
		time.Sleep(time.Millisecond)
		stranger, leave := context.WithCancel(t.Context())
		go a.JWKS(stranger) // looks in 50 ms
		synctest.Wait()
		got := make(chan []byte)
		go func() { got <- a.JWKS(t.Context()) }() // waits for the stranger's look
		time.Sleep(60 * time.Millisecond)
		leave()
		if set := <-got; strings.Count(string(set), `"kid"`) != before+2 {
			t.Errorf("%d keys became %s; the newest replica's are %v, and others' %v", before, set, d.KeyIDs(), c.KeyIDs())
		}
	})
}

// What another replica may not put up isn't served, and what was there before it is; without the board all of it is, for as long as it may be.
func TestWhatIsServedOfTheBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}}
		a, _ := replica(t, b, time.Hour)
		c, _ := replica(t, b, time.Hour)
		time.Sleep(time.Minute)
		own := a.replicas.id
		b.mu.Lock()
		b.notices["junk"] = []byte("junk")
		b.notices["echo"] = []byte(strings.Replace(string(b.notices[own]), own, "echo", 1)) // the same keys under another name
		b.mu.Unlock()
		time.Sleep(time.Minute)
		if ids := served(t, a); len(ids) != 4 || !serves(t, a, c) || ids[""] {
			t.Errorf("%v", ids)
		}
		b.fail(errors.New("away"))
		time.Sleep(2 * missingFor)
		if !serves(t, a, c) {
			t.Error("without the board the other's keys are gone")
		}
	})
}

// Nobody has asked for the JWK set for long when the board forgets.
func TestNoKeyIsUnknownAfterAQuietTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}}
		a, _ := replica(t, b, time.Hour)
		c, _ := replica(t, b, time.Hour)
		time.Sleep(5 * time.Minute)
		b.mu.Lock()
		clear(b.notices)
		b.mu.Unlock()
		if !serves(t, a, c) {
			t.Error("a live replica's keys were dropped when the board had just forgotten them")
		}
	})
}

// A key that could be published only now doesn't sign at once, though its time has come.
func TestAKeyIsPublishedForAWhileBeforeItSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{notices: map[string][]byte{}}
		a, _ := replica(t, b, time.Hour)
		synctest.Wait()
		first := a.KeyIDs()[0]
		time.Sleep(time.Hour - time.Minute)
		if a.KeyIDs()[0] != first {
			t.Error("a key signs for less than its interval")
		}
		b.fail(errors.New("away"))
		time.Sleep(2 * time.Minute) // rotates to the key that was published, and makes another
		next := a.KeyIDs()[1]
		time.Sleep(time.Hour)
		b.fail(nil)
		begin := time.Now()
		for a.KeyIDs()[0] != next && time.Since(begin) < time.Hour {
			time.Sleep(time.Second)
		}
		if took := time.Since(begin); took < time.Minute || took > 90*time.Second {
			t.Errorf("it signs %s after the board was back", took)
		}
	})
}
