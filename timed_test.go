package sluice_test

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
)

// TestTimed_Context: the context of an attempt with a timeout makes a timer only for who
// asks, and nobody can tell it from the standard library's.
func TestTimed_Context(t *testing.T) {
	const timeout = time.Second
	mine := errors.New("the caller's cause")
	asks := map[string]func(ctx context.Context) context.Context{
		"asked early": func(ctx context.Context) context.Context { ctx.Done(); return ctx },
		"asked late":  func(ctx context.Context) context.Context { return ctx },
		"never asked": func(ctx context.Context) context.Context { return ctx },
		"derived": func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			t.Cleanup(cancel)
			return ctx
		},
		"derived value": func(ctx context.Context) context.Context { return context.WithValue(ctx, ctxKey{}, 1) },
	}
	for _, tt := range []struct {
		name     string
		caller   func(ctx context.Context) (context.Context, context.CancelFunc)
		hold     time.Duration // how long the code runs
		deadline time.Duration
		during   error         // Err when the code has run for so long
		cause    error         // its Cause then
		after    error         // Err once it has ended
		took     time.Duration // the call
	}{
		{"ends in time", nil, timeout / 2, timeout, nil, nil, context.Canceled, timeout / 2},
		{"ends late", nil, 2 * timeout, timeout, context.DeadlineExceeded, sluice.ErrTimeout, context.DeadlineExceeded, timeout},
		{"the caller's deadline is earlier", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, timeout/4, mine)
		}, timeout / 2, timeout / 4, context.DeadlineExceeded, mine, context.DeadlineExceeded, timeout / 4},
		{"the caller gives up", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(timeout/4, func() { cancel(mine) })
			return ctx, func() { cancel(nil) }
		}, timeout / 2, timeout, context.Canceled, mine, context.Canceled, timeout / 2},
	} {
		for how, ask := range asks {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					exec := newExec(t, sluice.Config{Timeout: timeout})
					start := time.Now()
					kept := make(chan context.Context, 1)
					f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(ctx context.Context, _ int) (int, error) {
						if d, ok := ctx.Deadline(); !ok || !d.Equal(start.Add(tt.deadline)) {
							t.Errorf("deadline %v %v, want %v", d.Sub(start), ok, tt.deadline)
						}
						ctx = ask(ctx)
						if ctx.Err() != nil || context.Cause(ctx) != nil {
							t.Errorf("at first Err is %v, Cause %v", ctx.Err(), context.Cause(ctx))
						}
						time.Sleep(tt.hold)
						synctest.Wait()
						if how == "never asked" {
							kept <- ctx
							return 0, nil
						}
						if err := ctx.Err(); err != tt.during {
							t.Errorf("after %v Err is %v, want %v", tt.hold, err, tt.during)
						}
						if err := context.Cause(ctx); !errors.Is(err, tt.cause) {
							t.Errorf("after %v Cause is %v, want %v", tt.hold, err, tt.cause)
						}
						if ctxDone(ctx) != (tt.during != nil) {
							t.Errorf("after %v Done is closed: %v", tt.hold, ctxDone(ctx))
						}
						kept <- ctx
						return 0, nil
					}))
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					if tt.caller != nil {
						ctx, cancel = tt.caller(ctx)
					}
					defer cancel()
					f(ctx, 1)
					if took := time.Since(start); took != tt.took {
						t.Errorf("the call took %v, want %v", took, tt.took)
					}
					after := <-kept
					synctest.Wait()
					if how != "never asked" && (after.Err() != tt.after || !ctxDone(after)) {
						t.Errorf("afterwards Err is %v, Done is closed: %v; want %v", after.Err(), ctxDone(after), tt.after)
					}
					time.Sleep(10 * timeout)
					child, stop := context.WithCancel(after)
					defer stop()
					if err := context.Cause(after); !errors.Is(err, cmp.Or(tt.cause, context.Canceled)) {
						t.Errorf("later Cause is %v, want %v", err, cmp.Or(tt.cause, context.Canceled))
					}
					if after.Err() != tt.after || child.Err() != tt.after {
						t.Errorf("later Err is %v, and %v of a context derived from it; want %v", after.Err(), child.Err(), tt.after)
					}
				})
			})
		}
	}
}

type ctxKey struct{}

func ctxDone(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// TestTimed_ManyDeadlines: attempts end each at its own time, in whatever order their
// deadlines come, though one timer serves them all.
func TestTimed_ManyDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := newExec(t, sluice.Config{})
		start := time.Now()
		release := make(chan struct{})
		timeouts := []time.Duration{5, 1, 4, 4, 2, 3, 9, 1, 7}
		ends := make(chan [2]time.Duration, len(timeouts))
		for i, d := range timeouts {
			d *= time.Second
			name := string(rune('a' + i))
			f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: name, Policy: sluice.Policy{Timeout: d}}, func(context.Context, int) (int, error) {
				<-release
				return 0, nil
			}))
			go func() {
				if _, err := f(t.Context(), 1); !errors.Is(err, sluice.ErrTimeout) {
					t.Errorf("%s: %v, want a timeout", name, err)
				}
				ends <- [2]time.Duration{time.Since(start), d}
			}()
			synctest.Wait()
		}
		for range timeouts {
			if e := <-ends; e[0] != e[1] {
				t.Errorf("ended after %v, want %v", e[0], e[1])
			}
		}
		close(release)
	})
}
