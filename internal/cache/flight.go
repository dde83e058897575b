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

// ErrPanicked means that the work panicked.
var ErrPanicked = errors.New("panic during an exchange")

// FlightConfig configures a Flight.
type FlightConfig struct {
	// Timeout bounds the work of one flight; 30 seconds if zero.
	Timeout time.Duration
	// MaxFlights bounds the flights under way at one time; 1024 if zero.
	MaxFlights int
	// OnPanic is told of a panic in the work, with its stack; optional.
	OnPanic func(value any, stack []byte)
}

// Flight lets callers with the same key share one piece of work.
type Flight struct {
	cfg FlightConfig

	mu      sync.Mutex
	flights map[Key]*flight
}

type flight struct {
	done        chan struct{}
	credentials exchange.Credentials
	err         error
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
// The work runs apart from its caller: a caller whose ctx ends leaves with ctx's error and the others go on. A caller whose
// shared flight failed tries once more, so that nobody fails for another's sake alone; the second failure is final. Errors
// are work's, ctx's, ErrBusy or ErrPanicked.
func (f *Flight) Do(ctx context.Context, key Key, work func(context.Context) (exchange.Credentials, error)) (c exchange.Credentials, led bool, err error) {
	for try := 1; ; try++ {
		fl, leads, err := f.join(ctx, key, work)
		if err != nil {
			return exchange.Credentials{}, false, err
		}
		select {
		case <-fl.done:
		case <-ctx.Done():
			return exchange.Credentials{}, false, ctx.Err()
		}
		if fl.err == nil || leads || try == 2 {
			return fl.credentials, leads, fl.err
		}
	}
}

// join returns the flight under way for the key, or starts one.
func (f *Flight) join(ctx context.Context, key Key, work func(context.Context) (exchange.Credentials, error)) (fl *flight, leads bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.flights[key]; ok {
		return fl, false, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	if len(f.flights) >= f.cfg.MaxFlights {
		return nil, false, ErrBusy
	}
	fl = &flight{done: make(chan struct{})}
	f.flights[key] = fl
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.cfg.Timeout)
		defer cancel()
		fl.credentials, fl.err = f.run(ctx, work)
		f.mu.Lock()
		delete(f.flights, key)
		f.mu.Unlock()
		close(fl.done)
	}()
	return fl, true, nil
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
