package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxWait is how long Record waits for its entry to be accepted.
const maxWait = time.Second

// queueLimit bounds the entries that wait for one write to end. Those in it have at most maxWait left.
const queueLimit = 16384

// Config says where the log goes.
type Config struct {
	// Path is the file to append to, made with mode 0600 if it isn't there; "-" is standard output.
	Path string
	// OnError is told of every failed write; optional.
	OnError func(error)
}

// Writer is a Log on a file. Entries that arrive while a write is under way go into the next one together (group commit), so
// a burst costs few system calls and an entry alone waits for nobody.
type Writer struct {
	cfg   Config
	queue chan *pending
	stop  chan struct{}
	done  chan struct{}

	mu   sync.Mutex // guards out against Reopen
	out  io.WriteCloser
	torn bool // the last write ended inside a line

	lastErr   atomic.Pointer[error]
	writingAt atomic.Int64 // when the write under way began, in Unix nanoseconds; 0 if none is
}

// pending is an entry on its way. State decides the race between the writer that takes it and the caller that gives up.
type pending struct {
	line   []byte
	state  atomic.Int32
	result chan error
}

const (
	waiting int32 = iota
	taken
	abandoned
)

// Open opens the log and starts its writer. Close ends it.
func Open(cfg Config) (*Writer, error) {
	out, err := openFile(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return newWriter(out, cfg), nil
}

func newWriter(out io.WriteCloser, cfg Config) *Writer {
	if cfg.OnError == nil {
		cfg.OnError = func(error) {}
	}
	w := &Writer{cfg: cfg, out: out, queue: make(chan *pending, queueLimit), stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

func openFile(path string) (io.WriteCloser, error) {
	if path == "-" {
		return keepOpen{os.Stdout}, nil
	}
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
}

// keepOpen is for standard output, which isn't ours to close.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// Record implements Log.
func (w *Writer) Record(ctx context.Context, e Entry) error {
	p := &pending{line: appendEntry(make([]byte, 0, 1024), &e), result: make(chan error, 1)}
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case w.queue <- p:
	default:
		return fmt.Errorf("%w: %d entries are waiting already", ErrUnavailable, queueLimit)
	}
	select {
	case err := <-p.result:
		return err
	case <-timer.C:
		return w.giveUp(p, fmt.Errorf("%w: not written within %s", ErrUnavailable, maxWait))
	case <-ctx.Done():
		return w.giveUp(p, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err()))
	case <-w.done:
		// The writer may have written it as its last act.
		select {
		case err := <-p.result:
			return err
		default:
			return fmt.Errorf("%w: closed", ErrUnavailable)
		}
	}
}

// giveUp withdraws an entry that isn't being written yet. One that is may still reach the file: the decision it tells of was
// taken, and its result was withheld.
func (w *Writer) giveUp(p *pending, err error) error {
	p.state.CompareAndSwap(waiting, abandoned)
	return err
}

// run writes whatever is queued, again and again, until stop and an empty queue.
func (w *Writer) run() {
	defer close(w.done)
	var batch []*pending
	var buf []byte
	for {
		batch, buf = batch[:0], buf[:0]
		select {
		case p := <-w.queue:
			batch = append(batch, p)
		case <-w.stop:
			select {
			case p := <-w.queue:
				batch = append(batch, p)
			default:
				return
			}
		}
		for more := true; more && len(batch) < 1024; {
			select {
			case p := <-w.queue:
				batch = append(batch, p)
			default:
				more = false
			}
		}
		kept := batch[:0]
		for _, p := range batch {
			if p.state.CompareAndSwap(waiting, taken) {
				kept = append(kept, p)
				buf = append(buf, p.line...)
			}
		}
		if len(kept) == 0 {
			continue
		}
		err := w.write(buf)
		for i, p := range kept {
			p.result <- err
			kept[i] = nil
		}
		if cap(buf) > 4<<20 {
			buf = nil
		}
	}
}

// write is one write(2). After a failed one nobody in the batch is told that its entry stands, even if it does.
func (w *Writer) write(buf []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writingAt.Store(time.Now().UnixNano())
	defer w.writingAt.Store(0)
	if w.torn { // the broken line gets its end, so that the next one starts its own
		buf = append([]byte{'\n'}, buf...)
	}
	n, err := w.out.Write(buf)
	if n > 0 {
		w.torn = buf[n-1] != '\n'
	}
	if err == nil && n < len(buf) {
		err = io.ErrShortWrite
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		w.lastErr.Store(&err)
		w.cfg.OnError(err)
		return err
	}
	w.lastErr.Store(nil)
	return nil
}

// Healthy returns why the log takes no entries: the last write failed, or one is stalled. It returns nil otherwise.
func (w *Writer) Healthy() error {
	if err := w.lastErr.Load(); err != nil {
		return *err
	}
	if at := w.writingAt.Load(); at != 0 && time.Since(time.Unix(0, at)) > maxWait {
		return fmt.Errorf("%w: a write has been stalled for more than %s", ErrUnavailable, maxWait)
	}
	return nil
}

// Reopen closes the file and opens its path anew, so that a log that was moved away can be rotated. The old file stays in
// use if the new one can't be opened.
func (w *Writer) Reopen() error {
	out, err := openFile(w.cfg.Path)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	for deadline := time.Now().Add(maxWait); !w.mu.TryLock(); time.Sleep(maxWait / 100) {
		if time.Now().After(deadline) {
			return errors.Join(ErrUnavailable, errors.New("a write is stalled, the former file stays in use"), out.Close())
		}
	}
	old := w.out
	w.out, w.torn = out, false
	w.mu.Unlock()
	return old.Close()
}

// Close writes what is queued and closes the file. It waits for a stalled write no longer than Record would.
func (w *Writer) Close() error {
	close(w.stop)
	select {
	case <-w.done:
		return w.out.Close()
	case <-time.After(2 * maxWait):
		return errors.Join(ErrUnavailable, errors.New("a write is stalled; entries may be lost"))
	}
}
