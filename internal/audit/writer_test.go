package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func entry(id string) Entry { return Entry{RequestID: id, Decision: Allowed} }

func open(t *testing.T, path string) *Writer {
	t.Helper()
	w, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func record(t *testing.T, w *Writer, id string) {
	t.Helper()
	if err := w.Record(t.Context(), entry(id)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// ids gives the request ID of each line, "torn" for a line that isn't JSON, and the event of the log's own lines.
func ids(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		_, id, whole := strings.Cut(line, `"request_id":"`)
		id, _, _ = strings.Cut(id, `"`)
		switch {
		case !strings.HasPrefix(line, `{"time":`) || !strings.HasSuffix(line, "}\n") || !whole:
			id = "torn"
		case strings.Contains(line, `"event":"audit_interrupted"`):
			id = "audit_interrupted"
		}
		all = append(all, id)
	}
	return all
}

func wantIDs(t *testing.T, text string, want ...string) {
	t.Helper()
	if got := strings.Join(ids(text), " "); got != strings.Join(want, " ") {
		t.Errorf("got  %s\nwant %s\nin %q", got, strings.Join(want, " "), text)
	}
}

func TestEachOfAThousandConcurrentEntriesIsOneWholeLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w := open(t, path)
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
	seen, lines := map[string]bool{}, 0
	for line := range strings.Lines(read(t, path)) {
		seen[decode(t, []byte(line))["request_id"].(string)] = true
		lines++
	}
	if len(seen) != 1000 || lines != 1000 {
		t.Errorf("%d different entries in %d lines", len(seen), lines)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, %v", info.Mode().Perm(), err)
	}
}

func TestAnEntryIsInTheFileWhenRecordReturns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w := open(t, path)
	var want []string
	for i := range 20 {
		record(t, w, fmt.Sprint(i))
		want = append(want, fmt.Sprint(i))
		wantIDs(t, read(t, path), want...)
	}
}

// gate is a file whose writes wait to be let through.
type gate struct {
	mu   sync.Mutex
	text strings.Builder
	pass chan struct{}
}

func newGate() *gate { return &gate{pass: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	<-g.pass
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.Write(p)
}

func (g *gate) Close() error { return nil }

func (g *gate) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

func TestEntriesThatArriveDuringAWriteShareTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGate()
		w := newWriter(out, false, Config{})
		start := func(id string) {
			go func() {
				if err := w.Record(t.Context(), entry(id)); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		start("0")
		want := []string{"0"}
		for i := range batchLimit {
			start(fmt.Sprint(i + 1))
			want = append(want, fmt.Sprint(i+1))
		}
		start("last")
		for _, written := range []int{1, 1 + batchLimit} { // "0" went alone; one write has batchLimit entries at most
			out.pass <- struct{}{}
			synctest.Wait()
			wantIDs(t, out.String(), want[:written]...)
		}
		out.pass <- struct{}{}
		synctest.Wait()
		wantIDs(t, out.String(), append(want, "last")...)
		_ = w.Close()
	})
}

func TestRecordWaitsASecondAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGate()
		w := newWriter(out, false, Config{})
		start := time.Now()
		time.AfterFunc(time.Second-1, func() {
			if err := w.Healthy(); err != nil {
				t.Errorf("after less than a second: %v", err)
			}
		})
		if err := w.Record(t.Context(), entry("r")); !errors.Is(err, ErrUnavailable) || time.Since(start) != time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
		time.Sleep(time.Nanosecond)
		if err := w.Healthy(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("health of a stalled log: %v", err)
		}
		close(out.pass)
		synctest.Wait()
		if err := w.Healthy(); err != nil {
			t.Errorf("after the stall: %v", err)
		}
		_ = w.Close()
	})
}

func TestAnEntryGivenUpBeforeItsWriteIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGate()
		w := newWriter(out, false, Config{})
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- w.Record(t.Context(), entry("first")) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { second <- w.Record(ctx, entry("second")) }()
		synctest.Wait()
		cancel()
		if err := <-second; !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		close(out.pass)
		if err := <-first; err != nil {
			t.Error(err)
		}
		record(t, w, "third")
		_ = w.Close()
		wantIDs(t, out.String(), "first", "third")
	})
}

func TestAnEntryGivenUpTooLateCountsAsItEnded(t *testing.T) {
	gaveUp := errors.New("gave up")
	ended := &pending{result: make(chan error, 1)}
	ended.settled.Store(true)
	ended.result <- nil
	if err := ended.giveUp(gaveUp); err != nil {
		t.Errorf("written: %v", err)
	}
	underWay := &pending{result: make(chan error, 1)}
	underWay.settled.Store(true)
	if err := underWay.giveUp(gaveUp); !errors.Is(err, gaveUp) {
		t.Errorf("under way: %v", err)
	}
}

func TestCloseWritesWhatIsQueuedAndTakesNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGate()
		w := newWriter(out, false, Config{})
		for _, id := range []string{"under way", "queued"} {
			go func() {
				if err := w.Record(t.Context(), entry(id)); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		closed := make(chan error, 1)
		go func() { closed <- w.Close() }()
		synctest.Wait()
		start := time.Now()
		if err := w.Record(t.Context(), entry("late")); !errors.Is(err, ErrUnavailable) || time.Since(start) != 0 {
			t.Errorf("after Close began: %v after %s", err, time.Since(start))
		}
		close(out.pass)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		wantIDs(t, out.String(), "under way", "queued")
		if err := w.Close(); err != nil {
			t.Errorf("a second Close: %v", err)
		}
		if err := w.Record(t.Context(), entry("late")); !errors.Is(err, ErrUnavailable) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestReopenAfterTheFileWasMoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	w := open(t, path)
	record(t, w, "one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	record(t, w, "two")
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	record(t, w, "three")
	wantIDs(t, read(t, path+".1"), "one", "two")
	wantIDs(t, read(t, path), "three")

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(); err == nil {
		t.Error("reopening in a directory that is gone: no error")
	}
	record(t, w, "four") // into the file it had
	_ = w.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("reopening after Close: %v", err)
	}
}

func TestAFileThatEndsInsideALineGetsItsEndFirst(t *testing.T) {
	for before, want := range map[string]string{"": "", "{}\n": "{}\n", `{"time":"20`: `{"time":"20` + "\n", "\n": "\n"} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		w := open(t, path)
		record(t, w, "r")
		_ = w.Close()
		rest, ok := strings.CutPrefix(read(t, path), want)
		if !ok {
			t.Errorf("%q became %q", before, read(t, path))
		}
		wantIDs(t, rest, "r")
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
