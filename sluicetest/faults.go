package sluicetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"
)

// ErrFault is what tools fail with by [FaultsConfig].Errors and Lost, unless Err says otherwise.
var ErrFault = errors.New("sluicetest: a fault")

// Faults makes tools fail as backends do, so that a test shows what an agent makes of it: see [Faulty].
// What the n-th call meets is decided by the seed and n alone, whichever tool it is of. Make one with
// [NewFaults]; the zero value is not usable. It is safe for concurrent use.
type Faults struct {
	conf FaultsConfig

	mu     sync.Mutex
	rand   *rand.Rand
	counts FaultCounts
}

// FaultsConfig configures [Faults]. Its shares are of all calls, from 0 to 1 and at most 1 together; the
// zero value makes nothing fail. Waits are on the virtual clock in a testing/synctest bubble.
type FaultsConfig struct {
	Seed    uint64
	Latency time.Duration // each call is held up for a random part of this first, or until its context ends

	Errors    float64 // the tool does not run; the error is Err
	Lost      float64 // the tool runs, and its result is lost; the error is Err
	Throttles float64 // the tool does not run; the error says to wait for RetryAfter
	Panics    float64 // the tool panics
	Exits     float64 // the tool calls runtime.Goexit
	Hangs     float64 // the tool does not answer before HangFor is over

	Err        error         // nil means ErrFault
	RetryAfter time.Duration // zero means 1 s
	HangFor    time.Duration // whatever the context says; zero means until the context ends
	_          struct{}
}

// FaultCounts says what became of the calls of tools with [Faults].
type FaultCounts struct {
	Calls, Errors, Lost, Throttles, Panics, Exits, Hangs int
}

// NewFaults returns Faults, or an error that names the wrong field.
func NewFaults(c FaultsConfig) (*Faults, error) {
	sum := 0.0
	for _, s := range []struct {
		name string
		v    float64
	}{
		{"Errors", c.Errors}, {"Lost", c.Lost}, {"Throttles", c.Throttles},
		{"Panics", c.Panics}, {"Exits", c.Exits}, {"Hangs", c.Hangs},
	} {
		if !(s.v >= 0 && s.v <= 1) {
			return nil, fmt.Errorf("sluicetest: FaultsConfig.%s is %v: must be from 0 to 1", s.name, s.v)
		}
		sum += s.v
	}
	if sum > 1+1e-9 { // as 0.7 + 0.2 + 0.1 may be
		return nil, fmt.Errorf("sluicetest: FaultsConfig: the shares are %v together: must be at most 1", sum)
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"Latency", c.Latency}, {"RetryAfter", c.RetryAfter}, {"HangFor", c.HangFor}} {
		if d.v < 0 {
			return nil, fmt.Errorf("sluicetest: FaultsConfig.%s is %v: must not be negative", d.name, d.v)
		}
	}
	if c.Err == nil {
		c.Err = ErrFault
	}
	if c.RetryAfter == 0 {
		c.RetryAfter = time.Second
	}
	return &Faults{conf: c, rand: rand.New(rand.NewPCG(c.Seed, 1))}, nil
}

// Counts returns what has happened so far.
func (f *Faults) Counts() FaultCounts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

// fate is what a call meets.
type fate uint8

const (
	runs fate = iota
	fails
	losesResult
	isThrottled
	panics
	exits
	hangs
)

// next is what the next call meets, after so long.
func (f *Faults) next() (fate, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, n := &f.conf, &f.counts
	x, part := f.rand.Float64(), f.rand.Float64()
	n.Calls++
	met := runs
	for _, s := range []struct {
		share float64
		fate  fate
		count *int
	}{
		{c.Errors, fails, &n.Errors}, {c.Lost, losesResult, &n.Lost}, {c.Throttles, isThrottled, &n.Throttles},
		{c.Panics, panics, &n.Panics}, {c.Exits, exits, &n.Exits}, {c.Hangs, hangs, &n.Hangs},
	} {
		if x -= s.share; x < 0 {
			met = s.fate
			*s.count++
			break
		}
	}
	return met, time.Duration(part * float64(c.Latency))
}

// Faulty is fn with faults, for [sluice.Register] and [sluice.Wrap]. It waits as f says, beside what fn
// does; a nil f is none.
func Faulty[In, Out any](f *Faults, fn func(context.Context, In) (Out, error)) func(context.Context, In) (Out, error) {
	if f == nil {
		return fn
	}
	return func(ctx context.Context, in In) (out Out, err error) {
		met, late := f.next()
		if err := pause(ctx, late); err != nil {
			return out, err
		}
		switch met {
		case fails:
			return out, f.conf.Err
		case losesResult:
			if _, err := fn(ctx, in); err != nil {
				return out, err
			}
			return out, f.conf.Err
		case isThrottled:
			return out, throttled(f.conf.RetryAfter)
		case panics:
			panic(ErrFault)
		case exits:
			runtime.Goexit()
		case hangs:
			if f.conf.HangFor > 0 {
				time.Sleep(f.conf.HangFor)
				return out, f.conf.Err
			}
			<-ctx.Done()
			return out, context.Cause(ctx)
		}
		return fn(ctx, in)
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// throttled is an upstream's word that it has too much to do.
type throttled time.Duration

func (t throttled) Error() string {
	return fmt.Sprintf("sluicetest: throttled for %v", time.Duration(t))
}

// RetryAfter is how long the upstream asks to wait.
func (t throttled) RetryAfter() time.Duration { return time.Duration(t) }
