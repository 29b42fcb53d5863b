package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/kv"
)

// maxLeft is how many trips may be under way that nobody waits for any more.
const maxLeft = 32

// answer is what an engine said.
type answer[T any] struct {
	v   T
	err error
}

// Whether somebody waits for a trip.
const (
	awaited = iota
	left
	over
)

// ask makes one trip, and waits no longer than the budget, whatever the engine does. Its errors are as the engine's: they
// match engine.ErrRefused if nothing was done.
func ask[T any](r *Remote, do func(ctx context.Context) (T, error)) (v T, err error) {
	if r.left.Load() >= maxLeft {
		return v, fmt.Errorf("%w: the engine has not returned from %d earlier calls", engine.ErrRefused, maxLeft)
	}
	parent, leave, err := r.link.Enter()
	if err != nil {
		return v, err
	}
	defer func() { r.link.Count(err) }()
	ctx, cancel := context.WithTimeoutCause(parent, r.link.Budget, fmt.Errorf("no answer within %v", r.link.Budget))
	done := make(chan answer[T], 1)
	var stage atomic.Int32
	go func() {
		a := answer[T]{err: fmt.Errorf("%w: the engine ended the goroutine", engine.ErrUnsure)}
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("%w: the engine panicked: %v", engine.ErrUnsure, p)
			}
			done <- a
			cancel()
			if stage.Swap(over) == left {
				r.left.Add(-1)
			}
			leave()
		}()
		a.v, a.err = do(ctx)
	}()
	select {
	case a := <-done:
		return a.v, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-done: // it answered just then
		return a.v, a.err
	default:
	}
	if stage.CompareAndSwap(awaited, left) {
		r.left.Add(1)
	}
	return v, fmt.Errorf("%w: %w", engine.ErrUnsure, context.Cause(ctx))
}

// isUnsure reports whether err leaves open what was done.
func isUnsure(err error) bool { return err != nil && !errors.Is(err, engine.ErrRefused) }

// read asks for what changes nothing, twice if need be.
func read[T any](r *Remote, do func(ctx context.Context) (T, error)) (T, error) {
	v, err := ask(r, do)
	if isUnsure(err) && r.breathe() {
		v, err = ask(r, do)
	}
	return v, err
}

// change asks for a change by a name of its own, and once more by the same name if it is not known what has become of
// it. Then a refusal settles it only if it is for good: a first request that is still on its way would be refused too.
func change[T any](r *Remote, do func(ctx context.Context, op engine.OpID) (T, error), forGood func(error) bool) (T, error) {
	op, began := engine.NewOpID(), time.Now()
	named := func(ctx context.Context) (T, error) { return do(ctx, op) }
	v, err := ask(r, named)
	if !isUnsure(err) || !r.breathe() || time.Since(began)+r.link.Budget >= r.link.Limits.OpMemory/2 {
		return v, err
	}
	again, second := ask(r, named)
	if second == nil || forGood(second) {
		return again, second
	}
	return v, err
}

// breathe waits a little before a trip is repeated, and reports whether it may be.
func (r *Remote) breathe() bool {
	ctx, leave, err := r.link.Enter()
	if err != nil {
		return false
	}
	defer leave()
	return sleep(ctx, time.Millisecond+rand.N(4*time.Millisecond))
}

// sleep waits for d, and reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Backing off: what has met others is repeated at once a few times, since mostly there is one other, and then waits up to
// this long, doubled each time up to a bound.
const (
	atOnce       = 3
	firstBackoff = time.Millisecond
	maxBackoff   = 50 * time.Millisecond
	maxTries     = 1000
)

// Retry implements kv.Far.
func (r *Remote) Retry(ctx context.Context, n int) error {
	if n >= maxTries {
		return kv.Crowded
	}
	if n <= atOnce {
		return nil
	}
	sleep(ctx, rand.N(min(maxBackoff, firstBackoff<<min(n-atOnce, 7))))
	return nil
}

// cause is an engine's error without what it wraps, which may be a context's: only what it says of the outcome.
type cause struct {
	text string
	is   []error
}

func (c *cause) Error() string   { return c.text }
func (c *cause) Unwrap() []error { return c.is }

// failed is err as an end of kv.
func failed(code kv.Code, err error) error {
	c := &cause{text: errwalk.Text(err)}
	if code == kv.Unsure {
		c.is = []error{engine.ErrUnsure}
	} else {
		c.is = []error{engine.ErrRefused}
		for _, is := range []error{engine.ErrFull, engine.ErrClosed} {
			if errors.Is(err, is) {
				c.is = append(c.is, is)
			}
		}
	}
	if code == kv.Away {
		c.is = append(c.is, engine.ErrAway)
	}
	return &kv.Failed{Code: code, Cause: c}
}

// ended is what the end of a change means.
func ended(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, engine.ErrConflict):
		return kv.Conflict
	case errors.Is(err, engine.ErrFull):
		return failed(kv.Full, err)
	case errors.Is(err, engine.ErrRefused):
		return failed(kv.Away, err)
	}
	return failed(kv.Unsure, err)
}

// unread is what it means that something could not be read.
func unread(err error) error {
	if err == nil {
		return nil
	}
	return failed(kv.Away, err)
}

// lied says that an answer cannot be true.
func lied(what string) error { return fmt.Errorf("%w: the engine answered %s", engine.ErrUnsure, what) }
