package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/credbroker/credbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func lines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

func entry(id string) Entry { return Entry{RequestID: id, Decision: Allowed} }

func TestEachOfAThousandConcurrentEntriesIsOneWholeLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for i := range 1000 {
		wait.Go(func() {
			if err := w.Record(t.Context(), entry(fmt.Sprintf("r%d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	seen := map[string]bool{}
	for _, line := range lines(t, path) {
		seen[decode(t, []byte(line + "\n"))["request_id"].(string)] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d different entries", len(seen))
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
}

func TestAnEntryIsInTheFileWhenRecordReturns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range 20 {
		if err := w.Record(t.Context(), entry("r")); err != nil {
			t.Fatal(err)
		}
		if n := len(lines(t, path)); n != i+1 {
			t.Fatalf("%d lines after %d entries", n, i+1)
		}
	}
}

func TestFullDisk(t *testing.T) {
	var failures atomic.Int32
	w, err := Open(Config{Path: "/dev/full", OnError: func(error) { failures.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	err = w.Record(t.Context(), entry("r"))
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if w.Healthy() == nil || failures.Load() != 1 {
		t.Errorf("healthy %v, %d failures reported", w.Healthy(), failures.Load())
	}
}

func TestStalledPipeIsGivenUpAfterASecond(t *testing.T) {
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(pipe, Config{})
	big := entry(strings.Repeat("x", maxString))
	var wait sync.WaitGroup
	start := time.Now()
	var refused atomic.Int32
	for range 500 { // more than a pipe's 64 KiB
		wait.Go(func() {
			if err := w.Record(t.Context(), big); errors.Is(err, ErrUnavailable) {
				refused.Add(1)
			}
		})
	}
	wait.Wait()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("they waited %s", took)
	}
	if refused.Load() == 0 {
		t.Fatal("all were accepted: the pipe isn't stalled")
	}
	if err := w.Healthy(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("healthy while stalled: %v", err)
	}
	if err := w.Record(t.Context(), entry("late")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("while stalled: %v", err)
	}
	if err := w.Close(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("closing a stalled log: %v", err)
	}
	_ = r.Close() // lets the writer end
	<-w.done
	_ = pipe.Close()
}

func TestAStalledPipeThatIsReadAgainRecovers(t *testing.T) {
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(pipe, Config{})
	fill := strings.Repeat("x", maxString)
	for {
		if err := w.Record(t.Context(), entry(fill)); err != nil {
			break
		}
	}
	go io.Copy(io.Discard, r) //nolint:errcheck // ends with the pipe
	deadline := time.Now().Add(5 * time.Second)
	for w.Record(t.Context(), entry("again")) != nil {
		if time.Now().After(deadline) {
			t.Fatal("it did not recover")
		}
	}
	if err := w.Healthy(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	_ = r.Close()
}

// scripted is a file whose writes go as told.
type scripted struct {
	strings.Builder
	steps []func(p []byte) (int, error)
}

func (s *scripted) Write(p []byte) (int, error) {
	if len(s.steps) == 0 {
		return s.Builder.Write(p)
	}
	step := s.steps[0]
	s.steps = s.steps[1:]
	n, err := step(p)
	s.Builder.Write(p[:n])
	return n, err
}

func (s *scripted) Close() error { return nil }

func TestATornLineIsEndedBeforeTheNext(t *testing.T) {
	full := func([]byte) (int, error) { return 0, syscall.ENOSPC }
	out := &scripted{steps: []func([]byte) (int, error){
		func(p []byte) (int, error) { return 10, syscall.ENOSPC }, full,
		func(p []byte) (int, error) { return len(p) / 2, nil }, // short, without an error
	}}
	w := newWriter(out, Config{})
	for i := range 3 {
		if err := w.Record(t.Context(), entry(fmt.Sprint("torn", i))); !errors.Is(err, ErrUnavailable) {
			t.Errorf("torn write %d: %v", i, err)
		}
	}
	if err := w.Record(t.Context(), entry("whole")); err != nil {
		t.Error(err)
	}
	if err := w.Healthy(); err != nil {
		t.Errorf("after a good write: %v", err)
	}
	_ = w.Close()
	all := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if last := decode(t, []byte(all[len(all)-1] + "\n")); last["request_id"] != "whole" || len(all) != 3 {
		t.Errorf("%q", all)
	}
}

// blocked is a file whose first write waits.
type blocked struct {
	strings.Builder
	release chan struct{}
}

func (b *blocked) Write(p []byte) (int, error) {
	<-b.release
	return b.Builder.Write(p)
}

func (b *blocked) Close() error { return nil }

func TestAnEntryGivenUpBeforeItsWriteIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &blocked{release: make(chan struct{})}
		w := newWriter(out, Config{})
		first := make(chan error, 1)
		go func() { first <- w.Record(t.Context(), entry("first")) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		second := make(chan error, 1)
		go func() { second <- w.Record(ctx, entry("second")) }()
		synctest.Wait()
		cancel()
		if err := <-second; !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		close(out.release)
		if err := <-first; err != nil {
			t.Error(err)
		}
		_ = w.Close()
		if strings.Contains(out.String(), "second") {
			t.Errorf("%s", out.String())
		}
	})
}

func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &blocked{release: make(chan struct{})}
		w := newWriter(out, Config{})
		var wait sync.WaitGroup
		for i := range 100 {
			wait.Go(func() {
				if err := w.Record(t.Context(), entry(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		out.release <- struct{}{} // the first batch, whatever it holds
		synctest.Wait()
		out.release <- struct{}{} // all the rest in one write
		wait.Wait()
		_ = w.Close()
	})
}

func TestTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &blocked{release: make(chan struct{})}
		w := newWriter(out, Config{})
		var wait sync.WaitGroup
		var refused atomic.Int32
		for range queueLimit + 2000 {
			wait.Go(func() {
				if w.Record(t.Context(), entry("r")) != nil {
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		if n := refused.Load(); n < 1000 {
			t.Errorf("%d were refused at once", n)
		}
		close(out.release)
		wait.Wait()
		_ = w.Close()
	})
}

func TestReopenAfterTheFileWasMoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	w, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	record := func(id string) {
		if err := w.Record(t.Context(), entry(id)); err != nil {
			t.Fatal(err)
		}
	}
	record("one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	record("two")
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	record("three")
	if n, m := len(lines(t, path+".1")), len(lines(t, path)); n != 2 || m != 1 {
		t.Errorf("%d lines in the old file, %d in the new", n, m)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(); err == nil {
		t.Error("reopening in a directory that is gone: no error")
	}
	record("four") // into the file it had
}

func TestAClosedLogTakesNothing(t *testing.T) {
	w := newWriter(&scripted{}, Config{})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Record(t.Context(), entry("r")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestFingerprint(t *testing.T) {
	a, b := NewFingerprinter(secret.New(strings.Repeat("a", 32))), NewFingerprinter(secret.New(strings.Repeat("b", 32)))
	proof := secret.New("proof")
	if a.Fingerprint(proof) != a.Fingerprint(secret.New("proof")) || len(a.Fingerprint(proof)) != 22 {
		t.Errorf("got %q", a.Fingerprint(proof))
	}
	if a.Fingerprint(proof) == b.Fingerprint(proof) || a.Fingerprint(proof) == a.Fingerprint(secret.New("other")) {
		t.Error("another key or proof has the same fingerprint")
	}
}

func BenchmarkRecord(b *testing.B) {
	w, err := Open(Config{Path: filepath.Join(b.TempDir(), "audit.jsonl")})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := w.Record(b.Context(), sample); err != nil {
				b.Error(err)
			}
		}
	})
}
