package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

// works says whether fresh credentials can be had and used; each call asks for another TTL, so that none are cached.
func (w *world) works(token string, n int) error {
	a, err := w.issue(token, fmt.Sprintf(`,"ttl_seconds":%d`, 600+n%2000))
	if err != nil {
		return err
	}
	if a.Status != http.StatusOK {
		return fmt.Errorf("%d %s", a.Status, a.Error.Code)
	}
	return w.put(a, "alice/works")
}

func TestMinIOStartedBeforeTheBroker(t *testing.T) {
	w := newWorld(t)
	w.minio.Launch()
	// It is up, and waits for the issuer.
	brokertest.Eventually(t, 30*time.Second, "MinIO's port is open", func() error {
		_, _, err := brokertest.Get(w.minio.Endpoint + "/minio/health/live")
		return err
	})
	w.Start()
	start := time.Now()
	w.minio.WaitReady()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("MinIO worked %s after the broker was ready", took)
	}
	w.furnish() // a policy can be made only now
	alice := w.token(nil)
	brokertest.Eventually(t, 5*time.Second, "an exchange", func() error { return w.works(alice, 0) })
}

func TestMinIORestartedWhileTheBrokerIsAway(t *testing.T) {
	w := startWorld(t)
	alice := w.token(nil)
	if err := w.works(alice, 0); err != nil {
		t.Fatal(err)
	}
	w.Stop()
	w.minio.Kill()
	w.minio.Launch()
	brokertest.Eventually(t, 30*time.Second, "MinIO's port is open", func() error {
		_, _, err := brokertest.Get(w.minio.Endpoint + "/minio/health/live")
		return err
	})
	w.Start()
	brokertest.Eventually(t, 5*time.Second, "it works after the broker's return", func() error { return w.works(alice, 1) })
}

// TestMinIORestartedUnderLoad: cached calls never fail; cold ones fail only while MinIO is away, plus two seconds, and always
// with a code that says "retry".
func TestMinIORestartedUnderLoad(t *testing.T) {
	w := startWorld(t)
	alice := w.token(nil)
	w.mustIssue(alice, "") // cached from here on

	var stop atomic.Bool
	var wait sync.WaitGroup
	var mu sync.Mutex
	var lastFailure time.Time
	failures, cached, cold := map[string]int{}, 0, 0
	wait.Go(func() {
		for !stop.Load() {
			a, err := w.issue(alice, "")
			if err != nil || a.Status != http.StatusOK {
				t.Errorf("a cached call failed: %d %+v, %v", a.Status, a.Error, err)
			}
			mu.Lock()
			cached++
			mu.Unlock()
		}
	})
	for worker := range 4 {
		wait.Go(func() {
			for n := 0; !stop.Load(); n++ {
				a, err := w.issue(alice, fmt.Sprintf(`,"ttl_seconds":%d`, 600+worker*700+n%700))
				mu.Lock()
				cold++
				if err != nil {
					t.Errorf("a cold call got no answer: %v", err)
				} else if a.Status != http.StatusOK {
					failures[a.Error.Code]++
					lastFailure = time.Now()
					if !a.Error.Retryable {
						t.Errorf("a cold call failed for good: %d %+v", a.Status, a.Error)
					}
				}
				mu.Unlock()
			}
		})
	}
	w.minio.Kill()
	brokertest.Eventually(t, 20*time.Second, "cold calls fail while MinIO is away", func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(failures) == 0 {
			return errors.New("none has failed yet")
		}
		return nil
	})
	w.minio.Start() // returns when MinIO's IAM answers
	back := time.Now()
	brokertest.Eventually(t, 2*time.Second, "cold calls work", func() error { return w.works(alice, int(time.Now().UnixNano()%2000)) })
	// A while longer: none may fail later than 2 s after MinIO's return.
	brokertest.Eventually(t, 20*time.Second, "three more seconds of load", func() error {
		if time.Since(back) < 3*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	stop.Store(true)
	wait.Wait()
	if late := lastFailure.Sub(back); late > 2*time.Second {
		t.Errorf("a cold call failed %s after MinIO was back", late)
	}
	t.Logf("%d cached calls, %d cold calls, failures %v, the last %s after MinIO's return", cached, cold, failures, lastFailure.Sub(back))
}

func TestGracefulStop(t *testing.T) {
	w := newWorld(t)
	// Slow keys: the call is under way when the signal comes.
	arrived, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.idp.Handle(brokertest.JWKSPath, func(rw http.ResponseWriter, _ *http.Request) {
		once.Do(func() { close(arrived) })
		<-release
		_, _ = rw.Write(w.idp.JWKS())
	})
	w.Start()
	alice := w.token(nil)
	got := make(chan answer, 1)
	go func() {
		a, err := w.issue(alice, "")
		if err != nil {
			t.Errorf("the call under way was cut off: %v", err)
		}
		got <- a
	}()
	<-arrived
	w.Signal(syscall.SIGTERM)
	brokertest.Eventually(t, 5*time.Second, "no new connections", func() error {
		if _, _, err := brokertest.Get(w.HTTP + "/jwks"); err == nil {
			return errors.New("still answering")
		}
		return nil
	})
	close(release)
	// MinIO was never started; that the broker got as far as to say so shows that the call went on.
	if a := <-got; a.Error.Code != "exchange_unavailable" {
		t.Errorf("the call under way got %d %+v", a.Status, a.Error)
	}
	w.Stop()
	if log := w.Log(); !strings.Contains(log, `"msg":"stopped"`) {
		t.Error("the log doesn't say that it stopped")
	}
}

func TestNotReadyWhileDraining(t *testing.T) {
	w := newWorld(t)
	w.WriteConfig(strings.Replace(w.config(""), "drain: 0s", "drain: 3s", 1))
	w.Start()
	w.Signal(syscall.SIGTERM)
	brokertest.Eventually(t, 2*time.Second, "/readyz says 503 while the broker still answers", func() error {
		status, body, err := brokertest.Get(w.Ops + "/readyz")
		if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, "stopping") {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		if status, _, err := brokertest.Get(w.HTTP + "/jwks"); err != nil || status != http.StatusOK {
			t.Fatalf("while draining: %d, %v", status, err)
		}
		return nil
	})
}
