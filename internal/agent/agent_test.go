package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker"
	"github.com/credbroker/credbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stand is a source that says what it is told to.
type stand struct {
	mu    sync.Mutex
	asked int
	got   credbroker.Credentials
	err   error
}

func (s *stand) set(got credbroker.Credentials, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got, s.err = got, err
}

func (s *stand) current(context.Context, string, ...credbroker.RoleOption) (credbroker.Credentials, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.got, s.err
}

func credentials(key string, expires time.Time) credbroker.Credentials {
	return credbroker.Credentials{
		AccessKeyID: key, SecretAccessKey: secret.New("canary-secret"), SessionToken: secret.New("canary-session"), Expires: expires, RequestID: "r1",
	}
}

// It asks by itself each second, is ready with the first credentials, and says in the log what changed and no more.
func TestAgentKeepsCredentialsAndSaysWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &stand{err: fmt.Errorf("no credentials: %w", credbroker.ErrUnreachable)}
		a := New(s.current, slog.New(slog.NewTextHandler(&log, nil)), "reports")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { a.Run(ctx); close(done) }()
		said := func(want ...string) {
			t.Helper()
			synctest.Wait()
			lines := strings.Split(strings.TrimSpace(log.String()), "\n")
			log.Reset()
			if len(lines) != len(want) {
				t.Fatalf("it says %q", lines)
			}
			for i := range want {
				if !strings.Contains(lines[i], want[i]) || strings.Contains(lines[i], "canary") {
					t.Errorf("it says %q; want %q", lines[i], want[i])
				}
			}
		}
		ready := func() bool {
			select {
			case <-a.Ready():
				return true
			default:
				return false
			}
		}

		time.Sleep(10*time.Second + 1)
		said(`msg="no credentials"`)
		if ready() || a.healthy(time.Now()) || s.asked != 11 {
			t.Errorf("ready %v, healthy %v, asked %d times", ready(), a.healthy(time.Now()), s.asked)
		}
		s.set(credentials("A", time.Now().Add(100*time.Second)), nil)
		time.Sleep(80 * time.Second)
		said("msg=credentials role=reports")
		if !ready() || !a.healthy(time.Now()) {
			t.Error("not ready with credentials")
		}
		time.Sleep(15 * time.Second)
		said("near their end")
		s.set(credentials("B", time.Now().Add(time.Hour)), nil)
		time.Sleep(2 * time.Second)
		said("msg=credentials")
		s.set(credbroker.Credentials{}, &credbroker.Error{Code: credbroker.CodePermissionDenied})
		time.Sleep(5 * time.Second)
		said("permission_denied")
		if !ready() || a.healthy(time.Now()) {
			t.Error("healthy without credentials")
		}
		s.set(credbroker.Credentials{}, errors.New("no file"))
		time.Sleep(5 * time.Second)
		said("no file")
		cancel()
		<-done
	})
}

// It isn't ready before all roles have had credentials, nor because it ends.
func TestAgentIsReadyWithAllItsRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := func(_ context.Context, role string, _ ...credbroker.RoleOption) (credbroker.Credentials, error) {
			if role == "b" {
				return credbroker.Credentials{}, errors.New("none")
			}
			return credentials("A", time.Now().Add(time.Hour)), nil
		}
		a := New(source, slog.New(slog.DiscardHandler), "a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		a.Run(ctx)
		select {
		case <-a.Ready():
			t.Error("ready without the credentials of one role")
		default:
		}
		if a.healthy(time.Now()) {
			t.Error("healthy without the credentials of one role")
		}
	})
}
