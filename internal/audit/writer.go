package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxWait is how long a write may take until the log counts as stalled; Record then waits no longer.
	maxWait = time.Second
	// maxBacklog is how long Record waits while writes go on: a burst on a busy machine is no reason to refuse.
	maxBacklog = 5 * time.Second
	// retryEvery is how often a log that failed is tried while no entry comes to try it: a broker that isn't ready
	// since its log failed gets no calls, and would never be ready again.
	retryEvery = 2 * time.Second

	// queueLimit and queueBytes bound the entries that wait while a write is under way, that write's included.
	queueLimit = 16384
	queueBytes = 32 << 20
	// batchLimit bounds the entries of one write.
	batchLimit = 1024
	// keepLine is the largest line whose memory is kept.
	keepLine = 8 << 10
	// keepBuffer is the largest write buffer that is kept for the next write.
	keepBuffer = 4 << 20
)

var errClosed = fmt.Errorf("%w: closed", ErrUnavailable)

// Config says where the log goes.
type Config struct {
	// Path is the file to append to, made with mode 0600 if it isn't there; "-" is standard output.
	Path string
	// OnError is told of every failed write, one call at a time; optional. No entry is written until it returns.
	OnError func(error)
}

// Writer is a Log on a file. Entries that arrive while a write is under way go into the next one together (group commit), so
// a burst costs few system calls and an entry alone waits for nobody.
type Writer struct {
	cfg     Config
	queue   chan *pending
	queued  atomic.Int64 // bytes of the queue and of the write under way
	reopen  chan *reopening
	spares  sync.Pool // of *pending
	closing sync.Once
	stop    chan struct{}
	done    chan struct{}

	// What run alone touches until done is closed.
	out      io.WriteCloser
	torn     bool      // the file ends inside a line
	failedAt time.Time // when the first failed write since the last good one began; zero if there was none
	closeErr error

	lastErr   atomic.Pointer[error]
	writingAt atomic.Int64 // when the write under way began, in Unix nanoseconds; 0 if none is
}

// pending is an entry on its way. Settled decides the race between run, which takes it to write it, and a caller that gives
// it up: whoever sets it first.
type pending struct {
	line    []byte
	settled atomic.Bool
	result  chan error
	timer   *time.Timer
}

// spare returns a pending that nobody has.
func (w *Writer) spare() *pending {
	if p, ok := w.spares.Get().(*pending); ok {
		return p
	}
	p := &pending{line: make([]byte, 0, 1024), result: make(chan error, 1), timer: time.NewTimer(time.Hour)}
	p.timer.Stop()
	return p
}

// reopening hands a new file to run.
type reopening struct {
	out    io.WriteCloser
	torn   bool
	result chan error
}

// Open opens the log and starts its writer. Close ends it.
func Open(cfg Config) (*Writer, error) {
	out, torn, err := openFile(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return newWriter(out, torn, cfg), nil
}

func newWriter(out io.WriteCloser, torn bool, cfg Config) *Writer {
	if cfg.OnError == nil {
		cfg.OnError = func(error) {}
	}
	w := &Writer{
		cfg: cfg, out: out, torn: torn, queue: make(chan *pending, queueLimit), reopen: make(chan *reopening),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go w.run()
	return w
}

// Record implements Log. An entry whose caller gave up is not written, unless its write had begun: then it may be, and
// says truly what was decided, though the result was withheld.
func (w *Writer) Record(ctx context.Context, e Entry) error {
	p := w.spare()
	p.line = appendEntry(p.line[:0], &e)
	p.settled.Store(false)
	if err := w.enqueue(p); err != nil {
		return err
	}
	p.timer.Reset(maxWait)
	for waited := maxWait; ; waited += maxWait {
		select {
		case err := <-p.result:
			p.timer.Stop()
			if cap(p.line) <= keepLine {
				w.spares.Put(p) // its result was taken, so run has done with it
			}
			return err
		case <-p.timer.C:
			// The write that this entry waits for may have begun a moment after it came.
			if waited >= maxBacklog || w.writingFor(maxWait*9/10) {
				return p.giveUp(fmt.Errorf("%w: not written within %s", ErrUnavailable, waited))
			}
			p.timer.Reset(maxWait)
		case <-ctx.Done():
			p.timer.Stop()
			return p.giveUp(fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err()))
		case <-w.done:
			p.timer.Stop()
			return p.giveUp(errClosed)
		}
	}
}

// writingFor says that one write has taken so long already.
func (w *Writer) writingFor(d time.Duration) bool {
	at := w.writingAt.Load()
	return at != 0 && time.Since(time.Unix(0, at)) >= d
}

func (w *Writer) enqueue(p *pending) error {
	select {
	case <-w.stop:
		return errClosed
	default:
	}
	size := int64(len(p.line))
	if w.queued.Add(size) <= queueBytes {
		select {
		case w.queue <- p:
			return nil
		default:
		}
	}
	w.queued.Add(-size)
	return fmt.Errorf("%w: too many entries are waiting", ErrUnavailable)
}

// giveUp withdraws the entry. If it is too late for that, and its write has ended just now, that is what counts.
func (p *pending) giveUp(err error) error {
	if !p.settled.CompareAndSwap(false, true) {
		select {
		case err := <-p.result:
			return err
		default:
		}
	}
	return err
}

// run owns the file: it writes what is queued, again and again, until Close and an empty queue.
func (w *Writer) run() {
	defer close(w.done)
	defer func() { w.closeErr = w.out.Close() }()
	var b batch
	for {
		var retry <-chan time.Time
		if !w.failedAt.IsZero() {
			retry = time.After(retryEvery)
		}
		select {
		case p := <-w.queue:
			w.commit(&b, p)
		case r := <-w.reopen:
			r.result <- w.out.Close()
			w.out, w.torn = r.out, r.torn
		case <-retry:
			_ = w.write(nil)
		case <-w.stop:
			for {
				select {
				case p := <-w.queue:
					w.commit(&b, p)
				default:
					return
				}
			}
		}
	}
}

// batch is the entries of one write; it is kept for its memory.
type batch struct {
	entries []*pending
	text    []byte
}

// commit writes first and whatever else is queued by now.
func (w *Writer) commit(b *batch, first *pending) {
	size := int64(0)
	for p := first; p != nil; {
		size += int64(len(p.line))
		if p.settled.CompareAndSwap(false, true) {
			b.entries = append(b.entries, p)
			b.text = append(b.text, p.line...)
		}
		p = nil
		if len(b.entries) < batchLimit {
			select {
			case p = <-w.queue:
			default:
			}
		}
	}
	if len(b.entries) > 0 {
		err := w.write(b.text)
		for _, p := range b.entries {
			p.result <- err
		}
	}
	w.queued.Add(-size)
	clear(b.entries)
	b.entries, b.text = b.entries[:0], b.text[:0]
	if cap(b.text) > keepBuffer {
		b.text = nil
	}
}

// write is one write(2). After a failed one nobody in the batch is told that its entry stands, even if it does.
func (w *Writer) write(text []byte) error {
	start := time.Now()
	if w.torn || !w.failedAt.IsZero() {
		text = append(w.resumption(start), text...)
	}
	w.writingAt.Store(start.UnixNano())
	n, err := w.out.Write(text)
	w.writingAt.Store(0)
	if n > 0 {
		w.torn = text[n-1] != '\n'
	}
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	if err == nil {
		w.failedAt = time.Time{}
		w.lastErr.Store(nil)
		return nil
	}
	if w.failedAt.IsZero() {
		w.failedAt = start
	}
	err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	w.lastErr.Store(&err)
	w.cfg.OnError(err)
	return err
}

// resumption ends a broken line, so that the next one starts its own, and tells readers of the log that entries are missing.
func (w *Writer) resumption(now time.Time) []byte {
	var text []byte
	if w.torn {
		text = append(text, '\n')
	}
	if !w.failedAt.IsZero() {
		text = appendEntry(text, &Entry{
			Time: now, Event: "audit_interrupted", Decision: Failed, Code: "audit_unavailable", Latency: now.Sub(w.failedAt),
		})
	}
	return text
}

// Healthy returns why the log takes no entries: the last write failed, or one is stalled. It returns nil otherwise. A log
// that failed is tried every other second, so it turns healthy again without entries.
func (w *Writer) Healthy() error {
	if err := w.lastErr.Load(); err != nil {
		return *err
	}
	if w.writingFor(maxWait) {
		return fmt.Errorf("%w: a write has been stalled for more than %s", ErrUnavailable, maxWait)
	}
	return nil
}

// Reopen closes the file and opens its path anew, so that a log that was moved away can be rotated. The old file stays in
// use if the new one can't be opened, or while a write to the old one is stalled.
func (w *Writer) Reopen() error {
	out, torn, err := openFile(w.cfg.Path)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	r := &reopening{out: out, torn: torn, result: make(chan error, 1)}
	select {
	case w.reopen <- r:
		return <-r.result
	case <-w.done:
		return errors.Join(errClosed, out.Close())
	case <-time.After(maxWait):
		stalled := fmt.Errorf("%w: a write is stalled, the former file stays in use", ErrUnavailable)
		return errors.Join(stalled, out.Close())
	}
}

// Close writes what is queued and closes the file; entries that come later are refused. It waits two seconds for a stalled
// write and then leaves the file open.
func (w *Writer) Close() error {
	w.closing.Do(func() { close(w.stop) })
	select {
	case <-w.done:
		return w.closeErr
	case <-time.After(2 * maxWait):
		return fmt.Errorf("%w: a write is stalled, entries may be lost", ErrUnavailable)
	}
}
