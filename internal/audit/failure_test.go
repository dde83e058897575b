package audit

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestFullDisk(t *testing.T) {
	var failures atomic.Int32
	w, err := Open(Config{Path: "/dev/full", OnError: func(error) { failures.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Healthy(); err != nil {
		t.Errorf("before the first entry: %v", err)
	}
	err = w.Record(t.Context(), entry("r"))
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if err := w.Healthy(); !errors.Is(err, ErrUnavailable) || failures.Load() != 1 {
		t.Errorf("health %v, %d failures reported", err, failures.Load())
	}
}

// disk is a file with room for so many bytes.
type disk struct {
	mu sync.Mutex
	strings.Builder
	room  int
	short bool // what doesn't fit is left out without an error
}

func (d *disk) makeRoom() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = 1 << 20
}

func (d *disk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(p), d.room)
	d.room -= n
	d.Builder.Write(p[:n])
	if n < len(p) && !d.short {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (d *disk) Close() error { return nil }

func TestATornLineIsEndedBeforeTheNext(t *testing.T) {
	for name, c := range map[string]struct {
		room  int
		short bool
		want  []string
	}{
		"torn inside the line":          {room: 10, want: []string{"torn", "audit_interrupted", "whole"}},
		"torn without an error":         {room: 10, short: true, want: []string{"torn", "audit_interrupted", "whole"}},
		"torn before its line ending":   {room: len(appendEntry(nil, &Entry{RequestID: "first", Decision: Allowed})) - 1, want: []string{"first", "audit_interrupted", "whole"}},
		"nothing was written":           {room: 0, want: []string{"audit_interrupted", "whole"}},
		"nothing was written, no error": {room: 0, short: true, want: []string{"audit_interrupted", "whole"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := &disk{room: c.room, short: c.short}
				w := newWriter(out, false, Config{})
				for _, id := range []string{"first", "second"} {
					if err := w.Record(t.Context(), entry(id)); !errors.Is(err, ErrUnavailable) {
						t.Errorf("%s entry: %v", id, err)
					}
				}
				out.makeRoom()
				record(t, w, "whole")
				if err := w.Healthy(); err != nil {
					t.Errorf("after a good write: %v", err)
				}
				record(t, w, "next")
				_ = w.Close()
				wantIDs(t, out.String(), append(c.want, "next")...)
			})
		})
	}
}

func TestALogThatFailedIsTriedWithoutEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &disk{}
		var failures atomic.Int32
		w := newWriter(out, false, Config{OnError: func(error) { failures.Add(1) }})
		if err := w.Record(t.Context(), entry("r")); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		time.Sleep(2*retryEvery + time.Second)
		if err := w.Healthy(); err == nil || failures.Load() != 3 {
			t.Errorf("while the disk is full: health %v after %d failures", err, failures.Load())
		}
		out.makeRoom()
		time.Sleep(retryEvery)
		synctest.Wait()
		if err := w.Healthy(); err != nil {
			t.Errorf("when there is room again: %v", err)
		}
		time.Sleep(10 * retryEvery) // and not again
		_ = w.Close()
		wantIDs(t, out.String(), "audit_interrupted")
		m := decode(t, []byte(out.String()))
		if m["latency_us"] != float64(3*retryEvery/time.Microsecond) || m["decision"] != "failed" || m["code"] != "audit_unavailable" {
			t.Errorf("%s", out.String())
		}
	})
}

func TestAStalledPipeIsGivenUpAfterASecond(t *testing.T) {
	t.Parallel()
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(pipe, false, Config{})
	big := entry(strings.Repeat("x", maxString))
	var wait sync.WaitGroup
	var refused atomic.Int32
	start := time.Now()
	for range 500 { // more than a pipe's 64 KiB
		wait.Go(func() {
			if err := w.Record(t.Context(), big); errors.Is(err, ErrUnavailable) {
				refused.Add(1)
			}
		})
	}
	wait.Wait()
	if took := time.Since(start); refused.Load() == 0 || took < maxWait || took > 5*time.Second {
		t.Errorf("%d were refused after %s", refused.Load(), took)
	}
	if err := w.Close(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("closing a stalled log: %v", err)
	}
	_ = r.Close() // lets the writer end
	<-w.done
}

func TestAStalledPipeThatIsReadAgainRecovers(t *testing.T) {
	t.Parallel()
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(pipe, false, Config{})
	fill := entry(strings.Repeat("x", maxString))
	for w.Record(t.Context(), fill) == nil {
	}
	var text strings.Builder
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&text, r)
	}()
	for deadline := time.Now().Add(5 * time.Second); w.Record(t.Context(), entry("again")) != nil; {
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
	<-read
	_ = r.Close()
	for line := range strings.Lines(text.String()) {
		decode(t, []byte(line))
	}
}

func TestEntriesThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id    string
		limit int
	}{
		"in number": {"r", queueLimit},
		"in bytes":  {strings.Repeat("\x00", maxString), queueBytes / len(appendEntry(nil, &Entry{RequestID: strings.Repeat("\x00", maxString), Decision: Allowed}))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := newGate()
				w := newWriter(out, false, Config{})
				start := time.Now()
				var accepted, refused atomic.Int32
				var wait sync.WaitGroup
				send := func() {
					if err := w.Record(t.Context(), entry(c.id)); err == nil {
						accepted.Add(1)
					} else if errors.Is(err, ErrUnavailable) && time.Since(start) == 0 {
						refused.Add(1)
					}
				}
				for range c.limit + 2*batchLimit { // up to batchLimit of them are in the write
					wait.Go(send)
				}
				synctest.Wait()
				if n := refused.Load(); n < batchLimit || n > 2*batchLimit {
					t.Errorf("%d of %d were refused at once", n, c.limit+2*batchLimit)
				}
				close(out.pass)
				wait.Wait()
				if accepted.Load()+refused.Load() != int32(c.limit+2*batchLimit) {
					t.Errorf("%d accepted, %d refused", accepted.Load(), refused.Load())
				}
				synctest.Wait()
				if left := w.queued.Load(); left != 0 {
					t.Errorf("%d bytes are still counted", left)
				}
				_ = w.Close()
			})
		})
	}
}

func TestReopenGivesUpOnAStalledWrite(t *testing.T) {
	t.Parallel()
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(pipe, false, Config{Path: os.DevNull})
	for w.Record(t.Context(), entry(strings.Repeat("x", maxString))) == nil {
	}
	if err := w.Reopen(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	_ = r.Close() // the write fails, and the next to the former file fails as well
	if err := w.Record(t.Context(), entry("r")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after a Reopen that gave up: %v", err)
	}
	if err := w.Reopen(); err != nil {
		t.Errorf("when nothing stalls: %v", err)
	}
	record(t, w, "r")
	_ = w.Close()
}

// sluggish takes a while for each write.
type sluggish struct {
	each time.Duration
	n    int
}

func (s *sluggish) Write(b []byte) (int, error) { time.Sleep(s.each); s.n++; return len(b), nil }
func (s *sluggish) Close() error                { return nil }

// A burst that takes several writes is no reason to refuse, as long as each of them comes to an end.
func TestABacklogIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		each    time.Duration
		refused bool
	}{{600 * time.Millisecond, false}, {890 * time.Millisecond, true}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWriter(&sluggish{each: c.each}, false, Config{})
			var wait sync.WaitGroup
			var refused atomic.Int32
			start := time.Now()
			for range 6 * batchLimit {
				wait.Go(func() {
					if w.Record(t.Context(), entry("r")) != nil {
						refused.Add(1)
					}
				})
			}
			wait.Wait()
			if (refused.Load() > 0) != c.refused || time.Since(start) > maxBacklog {
				t.Errorf("writes of %s: %d refused, after %s", c.each, refused.Load(), time.Since(start))
			}
			_ = w.Close()
		})
	}
}
