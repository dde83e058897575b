package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/credbroker/credbroker/internal/brokertest"
)

const anotherRole = `
  - {name: another, when: "true", exchanger: minio, policies: [reports-rw]}
`

// loads is how often a configuration was put in force.
func (w *world) loads() string { return w.metric(`credbroker_config_reloads_total{outcome="ok"}`) }

func (w *world) awaitLoads(n string) {
	w.t.Helper()
	brokertest.Eventually(w.t, 10*time.Second, "configuration load number "+n, func() error {
		if got := w.loads(); got != n {
			return errors.New("there were " + got)
		}
		return nil
	})
}

func TestReload(t *testing.T) {
	w := startWorld(t)
	alice := w.token(nil)
	first := w.mustIssue(alice, "")
	exchanges := func() string { return w.metric(`credbroker_exchanges_total{exchanger="minio",outcome="ok"}`) }
	before := exchanges()

	t.Run("a change that changes nothing for a role costs no exchange", func(t *testing.T) {
		w.WriteConfig(w.config(anotherRole))
		w.awaitLoads("2")
		if a := w.mustIssue(alice, ""); a.AccessKeyID != first.AccessKeyID {
			t.Error("other credentials after the reload")
		}
		if n := exchanges(); n != before {
			t.Errorf("%s exchanges before, %s after", before, n)
		}
	})
	t.Run("SIGHUP reloads", func(t *testing.T) {
		w.Signal(syscall.SIGHUP)
		w.awaitLoads("3")
	})
	t.Run("the admin API reloads and says what needs a restart", func(t *testing.T) {
		out, stderr, err := runProgram(t, "", nil, "admin", "--socket", w.Socket, "reload")
		if err != nil || !strings.Contains(out, "is in force") {
			t.Errorf("%v: %s%s", err, out, stderr)
		}
		w.awaitLoads("4")
		w.WriteConfig(w.config(anotherRole) + "cache: {max_bytes: 128MiB}\n")
		out, stderr, err = runProgram(t, "", nil, "admin", "--socket", w.Socket, "reload")
		if err != nil || !strings.Contains(out, "restart only: cache.max_bytes") {
			t.Errorf("%v: %s%s", err, out, stderr)
		}
	})
	t.Run("a faulty file changes nothing and is reported", func(t *testing.T) {
		w.WriteConfig(strings.Replace(w.config(""), "groups\n", "groups &&\n", 1) + "nonsense: 1\n")
		brokertest.Eventually(t, 10*time.Second, "/readyz reports the fault", func() error {
			status, body, err := brokertest.Get(w.Ops + "/readyz")
			if err != nil || status != http.StatusOK || !strings.Contains(body, "refused") {
				return fmt.Errorf("%d %s %w", status, body, err)
			}
			return nil
		})
		if a := w.mustIssue(alice, ""); a.AccessKeyID != first.AccessKeyID {
			t.Error("other credentials after a refused reload")
		}
		_, stderr, err := runProgram(t, "", nil, "admin", "--socket", w.Socket, "reload")
		if err == nil || !strings.Contains(stderr, "nonsense") || !strings.Contains(stderr, "stays in force") {
			t.Errorf("%v: %s", err, stderr)
		}
		out, _, err := runProgram(t, "", nil, "admin", "--socket", w.Socket, "status")
		if err != nil || !strings.Contains(out, "refused") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("a role that goes takes its cached credentials with it", func(t *testing.T) {
		w.WriteConfig(strings.Replace(w.config(""), "name: reports", "name: renamed", 1))
		brokertest.Eventually(t, 10*time.Second, "the role is gone", func() error {
			a, err := w.issue(alice, "")
			if err != nil || a.Error.Code != "permission_denied" {
				return fmt.Errorf("%d %s %w", a.Status, a.Error.Code, err)
			}
			return nil
		})
	})
	t.Run("an issuer that goes takes its remembered tokens with it", func(t *testing.T) {
		other := brokertest.NewIDP(t)
		w.WriteConfig(strings.Replace(w.config(""), w.idp.URL, other.URL, 1))
		brokertest.Eventually(t, 10*time.Second, "the issuer is gone", func() error {
			a, err := w.issue(alice, "")
			if err != nil || a.Error.Code != "unauthenticated" {
				return fmt.Errorf("%d %s %w", a.Status, a.Error.Code, err)
			}
			return nil
		})
	})
}

func TestAuditLogIsRotatedBySIGHUP(t *testing.T) {
	w := newWorld(t)
	w.Start()
	ask := func() {
		if _, err := w.issue("x", ""); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	if err := os.Rename(w.AuditFile, w.AuditFile+".1"); err != nil {
		t.Fatal(err)
	}
	w.Signal(syscall.SIGHUP)
	brokertest.Eventually(t, 5*time.Second, "the log is there again", func() error {
		_, err := os.Stat(w.AuditFile)
		return err
	})
	ask()
	if n := len(w.Audit()); n != 1 {
		t.Errorf("%d lines in the new file", n)
	}
}

func TestFullAuditDiskHandsOutNothing(t *testing.T) {
	w := newWorld(t, "CREDBROKER__AUDIT__PATH=/dev/full")
	w.Start()
	w.minio.Start()
	w.furnish()
	a, err := w.issue(w.token(nil), "")
	if err != nil || a.Status != http.StatusServiceUnavailable || a.Error.Code != "audit_unavailable" || a.AccessKeyID != "" {
		t.Errorf("got %d %+v, %v", a.Status, a, err)
	}
	if status, body, _ := brokertest.Get(w.Ops + "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "audit log") {
		t.Errorf("/readyz %d: %s", status, body)
	}
}

// A configuration may come before a file that it names.
func TestARefusedConfigurationIsTriedAgain(t *testing.T) {
	w := startWorld(t)
	file := filepath.Join(t.TempDir(), "keys.json")
	w.WriteConfig(strings.Replace(w.config(""), "    algorithms: [ES256]\n", "    algorithms: [ES256]\n    jwks_file: "+file+"\n", 1))
	refused := func() string { return w.metric(`credbroker_config_reloads_total{outcome="refused"}`) }
	brokertest.Eventually(t, 10*time.Second, "the refusal", func() error {
		if n := refused(); n != "1" {
			return errors.New(n + " were refused")
		}
		return nil
	})
	if err := os.WriteFile(file, w.idp.JWKS(), 0o600); err != nil {
		t.Fatal(err)
	}
	brokertest.Eventually(t, 20*time.Second, "the configuration in force", func() error {
		if n := w.loads(); n != "2" {
			return errors.New(n + " were loaded")
		}
		return nil
	})
	if n := refused(); n != "1" {
		t.Errorf("%s refusals are counted", n)
	}
}
