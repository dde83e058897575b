// Package cachetest holds what every cache.Cache must do. Each implementation's tests run it.
package cachetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/cache"
	"github.com/credbroker/credbroker/internal/exchange"
	"github.com/credbroker/credbroker/internal/secret"
)

// Clock is a clock that tests move.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now is the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Run runs the suite. Open returns an empty cache that goes by the clock and has room for a few thousand entries.
func Run(t *testing.T, open func(t *testing.T, clock *Clock) cache.Cache) {
	keyer := cache.NewKeyer(secret.New(strings.Repeat("k", 32)))
	start := func(t *testing.T) (cache.Cache, *Clock) {
		clock := &Clock{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
		return open(t, clock), clock
	}
	credentials := func(clock *Clock, name string, life time.Duration) exchange.Credentials {
		return exchange.Credentials{
			AccessKeyID: "AK" + name, SecretAccessKey: secret.New("SK" + name), SessionToken: secret.New("ST" + name),
			Expires: clock.Now().Add(life),
		}
	}
	wantMiss := func(t *testing.T, c cache.Cache, key cache.Key) {
		t.Helper()
		if got, err := c.Get(t.Context(), key); !errors.Is(err, cache.ErrMiss) {
			t.Errorf("got %q, %v; want a miss", got.AccessKeyID, err)
		}
	}
	want := func(t *testing.T, c cache.Cache, key cache.Key, creds exchange.Credentials) {
		t.Helper()
		got, err := c.Get(t.Context(), key)
		if err != nil || got.AccessKeyID != creds.AccessKeyID || !got.SecretAccessKey.Equal(creds.SecretAccessKey) ||
			!got.SessionToken.Equal(creds.SessionToken) || !got.Expires.Equal(creds.Expires) {
			t.Errorf("got %q until %s, %v; want %q until %s", got.AccessKeyID, got.Expires, err, creds.AccessKeyID, creds.Expires)
		}
	}
	put := func(t *testing.T, c cache.Cache, key cache.Key, creds exchange.Credentials) {
		t.Helper()
		if err := c.Put(t.Context(), key, creds); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("what was put is got whole", func(t *testing.T) {
		c, clock := start(t)
		key := keyer.Key("a")
		wantMiss(t, c, key)
		creds := credentials(clock, "1", time.Minute)
		put(t, c, key, creds)
		want(t, c, key, creds)
	})
	t.Run("empty fields stay empty", func(t *testing.T) {
		c, clock := start(t)
		creds := exchange.Credentials{AccessKeyID: "only", Expires: clock.Now().Add(time.Minute)}
		put(t, c, keyer.Key("a"), creds)
		want(t, c, keyer.Key("a"), creds)
	})
	t.Run("large values and any bytes come back as they were", func(t *testing.T) {
		c, clock := start(t)
		for name, text := range map[string]string{
			"16 KiB": strings.Repeat("0123456789abcdef", 1024), "not text": "\x00\xff\r\n\"\u2028", "spaces": " a ",
		} {
			creds := exchange.Credentials{
				AccessKeyID: text, SecretAccessKey: secret.New(text + "1"), SessionToken: secret.New(text + "2"), Expires: clock.Now().Add(time.Minute),
			}
			put(t, c, keyer.Key(name), creds)
			want(t, c, keyer.Key(name), creds)
		}
	})
	t.Run("a second put replaces the first, its expiry included", func(t *testing.T) {
		for _, lives := range [][2]time.Duration{{time.Hour, time.Minute}, {time.Minute, time.Hour}} {
			c, clock := start(t)
			key := keyer.Key("a")
			put(t, c, key, credentials(clock, "1", lives[0]))
			second := credentials(clock, "2", lives[1])
			put(t, c, key, second)
			want(t, c, key, second)
			clock.Advance(lives[1] - time.Millisecond)
			want(t, c, key, second)
			clock.Advance(time.Millisecond)
			wantMiss(t, c, key)
		}
	})
	t.Run("an entry that was deleted or has ended can be put again", func(t *testing.T) {
		c, clock := start(t)
		key := keyer.Key("a")
		put(t, c, key, credentials(clock, "1", time.Minute))
		clock.Advance(2 * time.Minute)
		second := credentials(clock, "2", time.Minute)
		put(t, c, key, second)
		want(t, c, key, second)
		if err := c.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
		third := credentials(clock, "3", time.Minute)
		put(t, c, key, third)
		want(t, c, key, third)
	})
	t.Run("other keys are left alone", func(t *testing.T) {
		c, clock := start(t)
		for i := range 1000 {
			put(t, c, keyer.Key(fmt.Sprint(i)), credentials(clock, fmt.Sprint(i), time.Minute+time.Duration(i)*time.Second))
		}
		for i := 0; i < 1000; i += 2 {
			if err := c.Delete(t.Context(), keyer.Key(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		clock.Advance(time.Minute + 500*time.Second) // the end of number 500
		for i := range 1000 {
			if key := keyer.Key(fmt.Sprint(i)); i%2 == 0 || i <= 500 {
				wantMiss(t, c, key)
			} else {
				want(t, c, key, credentials(clock, fmt.Sprint(i), time.Duration(i-500)*time.Second))
			}
		}
	})
	t.Run("deleted is missed, deleting nothing is no error", func(t *testing.T) {
		c, clock := start(t)
		key := keyer.Key("a")
		put(t, c, key, credentials(clock, "1", time.Minute))
		for range 2 {
			if err := c.Delete(t.Context(), key); err != nil {
				t.Error(err)
			}
			wantMiss(t, c, key)
		}
	})
	t.Run("an entry ends at its expiry", func(t *testing.T) {
		c, clock := start(t)
		key := keyer.Key("a")
		creds := credentials(clock, "1", time.Minute)
		put(t, c, key, creds)
		clock.Advance(time.Minute - time.Millisecond)
		want(t, c, key, creds)
		clock.Advance(time.Millisecond)
		wantMiss(t, c, key)
	})
	t.Run("what has expired isn't kept, and takes the former with it", func(t *testing.T) {
		c, clock := start(t)
		key := keyer.Key("a")
		put(t, c, key, credentials(clock, "1", time.Minute))
		put(t, c, key, credentials(clock, "2", 0))
		wantMiss(t, c, key)
	})
	t.Run("keys of parts that join alike differ", func(t *testing.T) {
		c, clock := start(t)
		put(t, c, keyer.Key("ab", "c"), credentials(clock, "1", time.Minute))
		for _, parts := range [][]string{{"a", "bc"}, {"abc"}, {"ab", "c", ""}, {"", "ab", "c"}} {
			wantMiss(t, c, keyer.Key(parts...))
		}
	})
	t.Run("keys of another HMAC key differ", func(t *testing.T) {
		c, clock := start(t)
		put(t, c, keyer.Key("a"), credentials(clock, "1", time.Minute))
		wantMiss(t, c, cache.NewKeyer(secret.New(strings.Repeat("x", 32))).Key("a"))
	})
	t.Run("a context that has ended gives its error", func(t *testing.T) {
		c, clock := start(t)
		kept := credentials(clock, "1", time.Minute)
		put(t, c, keyer.Key("kept"), kept)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Get(ctx, keyer.Key("kept")); !errors.Is(err, context.Canceled) {
			t.Errorf("Get: %v", err)
		}
		if err := c.Put(ctx, keyer.Key("new"), kept); !errors.Is(err, context.Canceled) {
			t.Errorf("Put: %v", err)
		}
		if err := c.Delete(ctx, keyer.Key("kept")); !errors.Is(err, context.Canceled) {
			t.Errorf("Delete: %v", err)
		}
		wantMiss(t, c, keyer.Key("new"))
		want(t, c, keyer.Key("kept"), kept)
	})
	t.Run("many at once never get each other's", func(t *testing.T) {
		c, clock := start(t)
		var wait sync.WaitGroup
		for worker := range 8 {
			wait.Go(func() {
				for i := range 200 {
					name := fmt.Sprint((worker + i) % 50)
					creds := credentials(clock, name, time.Minute)
					if err := c.Put(t.Context(), keyer.Key(name), creds); err != nil {
						t.Error(err)
					}
					got, err := c.Get(t.Context(), keyer.Key(name))
					if err == nil && got.SessionToken.Reveal() != "ST"+name {
						t.Errorf("key of %s gave %s", name, got.AccessKeyID)
					}
					if i%7 == 0 {
						_ = c.Delete(t.Context(), keyer.Key(name))
					}
				}
			})
		}
		wait.Wait()
	})
}
