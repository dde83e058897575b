package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/credbroker/credbroker/internal/exchange"
)

// ErrBusy means that as many flights are under way as a Flight allows.
var ErrBusy = errors.New("too many exchanges under way")

// ErrPanicked means that the work panicked or left without a result.
var ErrPanicked = errors.New("panic during an exchange")

// FlightConfig configures a Flight.
type FlightConfig struct {
	// Timeout bounds the work of one flight, through its ctx; 30 seconds if zero.
	Timeout time.Duration
	// MaxFlights bounds the flights under way at one time; 1024 if zero.
	MaxFlights int
	// OnPanic is told of a panic in the work, with its stack; optional.
	OnPanic func(value any, stack []byte)
}

// Flight lets callers with the same key share one piece of work. It is for what follows a cache miss and takes a round
// trip: its one lock is held for a map operation.
type Flight struct {
	cfg FlightConfig

	mu      sync.Mutex
	flights map[Key]*flight
}

type flight struct {
	done        chan struct{} // closed when the next two are there to be read
	credentials exchange.Credentials
	err         error
	// retry is the flight that those who shared this one take after it failed; nil until the first of them asks.
	// Flight.mu guards it.
	retry *flight
}

// NewFlight returns a Flight with nothing under way.
func NewFlight(cfg FlightConfig) *Flight {
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.MaxFlights == 0 {
		cfg.MaxFlights = 1024
	}
	if cfg.OnPanic == nil {
		cfg.OnPanic = func(any, []byte) {}
	}
	return &Flight{cfg: cfg, flights: map[Key]*flight{}}
}

// Do returns the result of work, its own call of it or another's with the same key; led says that it was its own.
//
// The work runs apart from its caller, bounded by the timeout alone: a caller whose ctx ends leaves with ctx's error, the
// others go on, and if nobody is left the work still ends and may cache what it got. The ctx of the work has the values of
// its leader's.
//
// Those who shared a flight that failed share one more, so that nobody fails for another's sake alone; however many they
// are, a failure costs two calls of work. The second failure is final, and so is the first for the caller that led.
//
// Errors are work's, ctx's, ErrBusy or ErrPanicked.
func (f *Flight) Do(ctx context.Context, key Key, work func(context.Context) (exchange.Credentials, error)) (c exchange.Credentials, led bool, err error) {
	var failed *flight
	for {
		fl, leads, err := f.join(ctx, key, failed, work)
		if err != nil {
			return exchange.Credentials{}, false, err
		}
		select {
		case <-fl.done:
		case <-ctx.Done():
			return exchange.Credentials{}, leads, ctx.Err()
		}
		if fl.err == nil || leads || failed != nil {
			return fl.credentials, leads, fl.err
		}
		failed = fl
	}
}

// join returns the flight to wait for: the one that others who shared failed (nil at first) go on with, or else the one
// under way for the key, or else a new one.
func (f *Flight) join(ctx context.Context, key Key, failed *flight, work func(context.Context) (exchange.Credentials, error)) (fl *flight, leads bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if failed != nil && failed.retry != nil {
		return failed.retry, false, nil
	}
	fl, ok := f.flights[key]
	if !ok {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		if len(f.flights) >= f.cfg.MaxFlights {
			return nil, false, ErrBusy
		}
		fl = &flight{done: make(chan struct{})}
		f.flights[key] = fl
		go f.fly(context.WithoutCancel(ctx), key, fl, work)
	}
	if failed != nil {
		failed.retry = fl
	}
	return fl, !ok, nil
}

// fly does the work and lands the flight, whatever the work does.
func (f *Flight) fly(ctx context.Context, key Key, fl *flight, work func(context.Context) (exchange.Credentials, error)) {
	fl.err = ErrPanicked // stays if the work ends its goroutine (runtime.Goexit)
	defer func() {
		f.mu.Lock()
		delete(f.flights, key)
		f.mu.Unlock()
		close(fl.done)
	}()
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	fl.credentials, fl.err = f.run(ctx, work)
}

func (f *Flight) run(ctx context.Context, work func(context.Context) (exchange.Credentials, error)) (c exchange.Credentials, err error) {
	defer func() {
		if p := recover(); p != nil {
			f.cfg.OnPanic(p, debug.Stack())
			// The value may quote a caller's input or worse: only its type goes on.
			c, err = exchange.Credentials{}, fmt.Errorf("%w (%T)", ErrPanicked, p)
		}
	}()
	return work(ctx)
}
