package credbroker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/credbroker/credbroker/internal/secret"
)

// ends is when the stand-in's credentials with this key end.
func (s *standIn) ends(key string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int
	_, _ = fmt.Sscanf(key, "KEY-%d", &n)
	return s.calls[n-1].Add(s.delay + s.life)
}

// useForAnHour asks for credentials every 100 ms of an hour and checks that they have a good part of their life left, and that
// the broker isn't asked for more than are needed.
func useForAnHour(t *testing.T, s *standIn, retrieve func() (string, error)) {
	t.Helper()
	s.delay = 2 * time.Second // of 60
	for start := time.Now(); time.Since(start) < time.Hour; time.Sleep(100 * time.Millisecond) {
		began := time.Now()
		got, err := retrieve()
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > 0 && !began.Equal(start) {
			t.Fatalf("a caller waited %s", waited)
		}
		if left := time.Until(s.ends(got)); left < 8*time.Second { // 20 % less the broker's time, a look a second, a step
			t.Fatalf("%s has %s left", got, left)
		}
	}
	if n := s.count(); n < 60 || n > 90 {
		t.Errorf("%d calls in an hour, for lives of a minute", n)
	}
}

func TestEarlyRenewalWithAWSProvider(t *testing.T) {
	for name, wrap := range map[string]func(aws.CredentialsProvider) aws.CredentialsProvider{
		"bare":   func(p aws.CredentialsProvider) aws.CredentialsProvider { return p },
		"cached": func(p aws.CredentialsProvider) aws.CredentialsProvider { return aws.NewCredentialsCache(p) },
		"cached twice": func(p aws.CredentialsProvider) aws.CredentialsProvider {
			return aws.NewCredentialsCache(aws.NewCredentialsCache(p))
		},
		"cached with a window": func(p aws.CredentialsProvider) aws.CredentialsProvider {
			return aws.NewCredentialsCache(p, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow, o.ExpiryWindowJitterFrac = 10*time.Minute, 0.5 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newStandIn(t)
				p := wrap(c.AWS("reports"))
				useForAnHour(t, s, func() (string, error) {
					got, err := p.Retrieve(t.Context())
					return got.AccessKeyID, err
				})
			})
		})
	}
}

// The SDK's cache must be asked to come back in time, and not with each request.
func TestAnAWSCacheRarelyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newStandIn(t)
		p, asked := c.AWS("reports"), 0
		cache := aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
			asked++
			got, err := p.Retrieve(ctx)
			if !got.CanExpire || !got.Expires.After(time.Now()) {
				t.Errorf("it says that it ends at %s, and it's %s", got.Expires, time.Now())
			}
			return got, err
		}))
		for range 3600 {
			if _, err := cache.Retrieve(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if asked < 8 || asked > 30 {
			t.Errorf("asked %d times in six minutes", asked)
		}
	})
}

func TestAnAWSCacheNeverServesWhatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		cache := aws.NewCredentialsCache(c.AWS("reports"))
		if _, err := cache.Retrieve(t.Context()); err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(time.Minute - lastMoment)
		s.set(func(s *standIn) { s.err = errAway })
		for time.Now().Before(end) {
			if _, err := cache.Retrieve(t.Context()); err != nil {
				t.Fatalf("%s before the end: %v", time.Until(end), err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got, err := cache.Retrieve(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("after the end: %s, %v", got.AccessKeyID, err)
		}
	})
}

func TestEarlyRenewalWithMinIOProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		p := credentials.New(c.MinIO("reports"))
		useForAnHour(t, s, func() (string, error) {
			got, err := p.GetWithContext(&credentials.CredContext{Context: t.Context()})
			return got.AccessKeyID, err
		})
	})
}

func TestEarlyRenewalWithCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		useForAnHour(t, s, func() (string, error) {
			got, err := c.Current(t.Context(), "reports")
			if err == nil && !got.Expires.Equal(s.ends(got.AccessKeyID)) {
				t.Errorf("%s ends at %s, not %s", got.AccessKeyID, s.ends(got.AccessKeyID), got.Expires)
			}
			return got.AccessKeyID, err
		})
	})
}

// Two minio-go clients that share a provider must not keep each other from seeing new credentials.
func TestASharedMinIOProviderServesBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newStandIn(t)
		shared := c.MinIO("reports")
		first, second := credentials.New(shared), credentials.New(shared)
		for range 10 {
			a, errA := first.GetWithContext(nil)
			synctest.Wait()
			b, errB := second.GetWithContext(nil)
			if errA != nil || errB != nil || !a.Expiration.After(time.Now()) || !b.Expiration.After(time.Now()) {
				t.Fatalf("at %s: until %s, %v; until %s, %v", time.Now(), a.Expiration, errA, b.Expiration, errB)
			}
			time.Sleep(29 * time.Second)
		}
	})
}

func TestMinIOProvidersContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.delay = 10 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.MinIO("reports").RetrieveWithCredContext(&credentials.CredContext{Context: ctx}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		//nolint:staticcheck // deprecated, and a part of the interface
		if got, err := c.MinIO("reports").Retrieve(); err != nil || !got.SignerType.IsV4() || got.SecretAccessKey != "planted-secret" || got.SessionToken != "planted-session" {
			t.Errorf("%s, %v", got.AccessKeyID, err)
		}
	})
}

func TestCredentialsPrintNoSecrets(t *testing.T) {
	c := Credentials{AccessKeyID: "KEY", SecretAccessKey: secret.New("planted-secret"), SessionToken: secret.New("planted-session"), Expires: time.Unix(1, 0)}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", c, &c, struct{ inner Credentials }{c})
	}
	for _, v := range []any{c, &c, map[string]any{"c": c}} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(data)
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "c", c)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "c", &c)
	out.Write(logged.Bytes())
	for _, word := range []string{"planted", fmt.Sprintf("%x", "planted")} {
		if strings.Contains(out.String(), word) {
			t.Errorf("%q is in:\n%s", word, out.String())
		}
	}
}

// minio-go asks under a lock: others would wait one after the other.
func TestOneMinIOCallerWaitsInVainForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStandIn(t)
		s.err = errAway
		p := c.MinIO("reports")
		waited := func() time.Duration {
			begin := time.Now()
			if _, err := p.RetrieveWithCredContext(nil); !errors.Is(err, ErrUnreachable) {
				t.Error(err)
			}
			return time.Since(begin)
		}
		if took := waited(); took != waitMost {
			t.Errorf("the first waited %s", took)
		}
		for range 10 {
			if took := waited(); took != 0 {
				t.Errorf("another waited %s", took)
			}
		}
		// Meanwhile the broker is asked again, and whoever comes after its return is served.
		calls := s.count()
		time.Sleep(longestPause)
		waited()
		synctest.Wait()
		if s.count() == calls {
			t.Error("the broker isn't asked")
		}
		s.set(func(s *standIn) { s.err = nil })
		time.Sleep(longestPause)
		_, _ = p.RetrieveWithCredContext(nil)
		synctest.Wait()
		if v, err := p.RetrieveWithCredContext(nil); err != nil || v.AccessKeyID == "" {
			t.Errorf("once the broker was back: %v", err)
		}
		s.set(func(s *standIn) { s.err = errAway })
		time.Sleep(s.life)
		if took := waited(); took != waitMost {
			t.Errorf("when it is away again, the first waited %s", took)
		}
	})
}
