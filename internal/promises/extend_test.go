package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// askings are ways in which code may have asked its context before it extends its time.
var askings = map[string]func(context.Context) context.Context{
	"never asked": func(ctx context.Context) context.Context { return ctx },
	"asked": func(ctx context.Context) context.Context {
		ctx.Done()
		return ctx
	},
	"derived": func(ctx context.Context) context.Context {
		ctx, cancel := context.WithCancel(ctx)
		context.AfterFunc(ctx, cancel)
		return ctx
	},
	"a value": func(ctx context.Context) context.Context { return context.WithValue(ctx, ctxKey{}, 1) },
	"a later deadline": func(ctx context.Context) context.Context {
		ctx, cancel := context.WithTimeout(ctx, time.Hour)
		context.AfterFunc(ctx, cancel)
		return ctx
	},
}

// Code that asks for more time has it, on a goroutine of its own or not, whatever it has asked its context
// before, and as far as somebody has said. What it has asked then ends at the time that there is in the end.
func TestExtend_AsFarAsOthersLetIt(t *testing.T) {
	mine := errors.New("the caller's cause")
	left := errors.New("what is left")
	const s = time.Second
	for _, tt := range []struct {
		name    string
		most    time.Duration
		caller  time.Duration // its deadline, if any
		within  time.Duration // of an interceptor, if any
		asks    time.Duration // for so much after 3 of 4 seconds
		has     bool          // so much
		end     time.Duration // at which its time is over
		cause   error
		outcome sluice.BreakerState // of a breaker that opens at the first failure
	}{
		{"nothing beyond Timeout", 0, 0, 0, 3 * s, false, 4 * s, sluice.ErrTimeout, sluice.BreakerOpen},
		{"no more than there is", 0, 0, 0, s, true, 4 * s, sluice.ErrTimeout, sluice.BreakerOpen},
		{"more", 10 * s, 0, 0, 3 * s, true, 6 * s, sluice.ErrTimeout, sluice.BreakerOpen},
		{"up to MaxTimeout", 10 * s, 0, 0, 7 * s, true, 10 * s, sluice.ErrTimeout, sluice.BreakerOpen},
		{"beyond MaxTimeout", 10 * s, 0, 0, 8 * s, false, 10 * s, sluice.ErrTimeout, sluice.BreakerOpen},
		{"for ever", 10 * s, 0, 0, 1<<63 - 1, false, 10 * s, sluice.ErrTimeout, sluice.BreakerOpen},
		{"earlier", 10 * s, 0, 0, -s, true, 4 * s, sluice.ErrTimeout, sluice.BreakerOpen},
		{"up to the caller's deadline", 10 * s, 5 * s, 0, 2 * s, true, 5 * s, mine, sluice.BreakerClosed},
		{"beyond the caller's deadline", 10 * s, 5 * s, 0, 3 * s, false, 5 * s, mine, sluice.BreakerClosed},
		{"the caller's deadline is later", 10 * s, 20 * s, 0, 3 * s, true, 6 * s, sluice.ErrTimeout, sluice.BreakerOpen},
		{"up to what is left", 10 * s, 0, 5 * s, 3 * s, false, 5 * s, left, sluice.BreakerClosed},
		{"what is left is later", 10 * s, 0, 20 * s, 3 * s, true, 6 * s, sluice.ErrTimeout, sluice.BreakerOpen},
		{"what is left is all there is", 10 * s, 0, 4 * s, 3 * s, false, 4 * s, left, sluice.BreakerClosed},
	} {
		for how, ask := range askings {
			for _, way := range []string{"apart", "cooperative", "submitted"} {
				t.Run(fmt.Sprint(tt.name, ", ", how, ", ", way), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
						list := interceptors(b, atMost(1))
						if tt.within > 0 {
							list = append(interceptors(sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
								return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
									return next(ctx, c.Within(tt.within, left))
								}
							})), list...)
						}
						r := newRig(t, sluice.Config{Interceptors: list})
						r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: 4 * s, MaxTimeout: tt.most, Cooperative: way == "cooperative"}},
							func(ctx context.Context) error {
								seen := ask(ctx)
								time.Sleep(3 * s)
								require.NoError(t, seen.Err())
								require.Equal(t, tt.has, sluice.Extend(ctx, tt.asks))
								end, ok := ctx.Deadline()
								require.True(t, ok)
								require.Equal(t, tt.end, end.Sub(r.start))
								time.Sleep(tt.end - r.at() - 1)
								require.NoError(t, seen.Err(), "just before")
								require.False(t, ctxDone(seen))
								time.Sleep(time.Nanosecond)
								synctest.Wait()
								require.Equal(t, context.DeadlineExceeded, seen.Err())
								require.True(t, ctxDone(seen))
								require.ErrorIs(t, context.Cause(seen), tt.cause)
								require.ErrorIs(t, context.Cause(ctx), tt.cause)
								require.False(t, sluice.Extend(ctx, 0), "it is over")
								return seen.Err()
							})
						ctx, cancel := r.ctx, context.CancelFunc(func() {})
						if tt.caller > 0 {
							ctx, cancel = context.WithTimeoutCause(ctx, tt.caller, mine)
						}
						defer cancel()
						var err error
						if way == "submitted" {
							_, err = r.Submit(ctx, sluice.Request{Tool: "x"}).Wait(t.Context())
						} else {
							_, err = r.Invoke(ctx, sluice.Request{Tool: "x"})
						}
						require.ErrorIs(t, err, context.DeadlineExceeded)
						require.Equal(t, tt.end, r.at())
						require.Equal(t, tt.outcome, sluice.Must(b.State("x")))
						r.end()
					})
				})
			}
		}
	}
}

// Code that ends in the time that it has asked for is a success, whatever the first time was; afterwards it
// gets no more.
func TestExtend_EndsInTime(t *testing.T) {
	for _, cooperative := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
			var kept context.Context
			r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: time.Second, MaxTimeout: time.Hour, Cooperative: cooperative}},
				func(ctx context.Context) error {
					kept = ctx
					for range 60 { // it is alive
						require.True(t, sluice.Extend(ctx, time.Second))
						time.Sleep(time.Second - 1)
					}
					return nil
				})
			for range 3 {
				start := time.Now()
				require.NoError(t, r.call("x"))
				require.Equal(t, time.Minute-60, time.Since(start))
				require.False(t, sluice.Extend(kept, 0))
				require.Equal(t, context.Canceled, kept.Err())
			}
			r.end()
		})
	}
}

// Outside a tool nobody has time to extend, and code without a timeout has all of its caller's.
func TestExtend_WithoutATimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		var kept context.Context
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{MaxTimeout: time.Second}}, func(ctx context.Context) error {
			kept = ctx
			_, bounded := ctx.Deadline()
			require.True(t, sluice.Extend(ctx, time.Minute))
			require.Equal(t, !bounded, sluice.Extend(ctx, time.Hour))
			return nil
		})
		require.False(t, sluice.Extend(context.Background(), 0))
		require.False(t, sluice.Extend(r.ctx, 0))
		require.NoError(t, r.call("x"))
		require.False(t, sluice.Extend(kept, 0))
		ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
		defer cancel()
		_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
		require.NoError(t, err)
		r.end()
	})
}

// A caller that leaves ends what has been extended at once, with its own cause.
func TestExtend_TheCallerLeaves(t *testing.T) {
	for how, ask := range askings {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				mine := errors.New("the caller's cause")
				r := newRig(t, sluice.Config{})
				r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: time.Second, MaxTimeout: time.Hour}}, func(ctx context.Context) error {
					seen := ask(ctx)
					require.True(t, sluice.Extend(ctx, time.Minute))
					<-seen.Done()
					require.Equal(t, 2*time.Second, r.at())
					require.Equal(t, context.Canceled, seen.Err())
					require.Equal(t, mine, context.Cause(seen))
					require.False(t, sluice.Extend(ctx, 0))
					return seen.Err()
				})
				ctx, cancel := context.WithCancelCause(r.ctx)
				time.AfterFunc(2*time.Second, func() { cancel(mine) })
				_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
				require.ErrorIs(t, err, context.Canceled)
				r.end()
			})
		})
	}
}

// A call extends its own time and not that of the call around it, whose time bounds it; when that is extended,
// a nested call that ended with it goes on, too.
func TestExtend_NestedCalls(t *testing.T) {
	for _, own := range []time.Duration{0, 4 * time.Second, time.Minute} { // of the inner call
		for _, wrapped := range []bool{false, true} { // the context that the inner call is made with
			t.Run(fmt.Sprint(own, wrapped), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
					r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
					r.tool(sluice.Spec{Name: "outer", Policy: sluice.Policy{Timeout: 10 * time.Second, MaxTimeout: 30 * time.Second}}, func(ctx context.Context) error {
						inner := ctx
						if wrapped {
							var cancel context.CancelFunc
							inner, cancel = context.WithCancel(ctx)
							defer cancel()
						}
						time.AfterFunc(9*time.Second, func() { require.True(t, sluice.Extend(ctx, 11*time.Second)) })
						_, err := r.Invoke(inner, sluice.Request{Tool: "inner"})
						return err
					})
					r.tool(sluice.Spec{Name: "inner", Policy: sluice.Policy{Timeout: own, MaxTimeout: time.Minute}}, func(ctx context.Context) error {
						time.Sleep(3 * time.Second)
						require.True(t, sluice.Extend(ctx, 7*time.Second), "as far as the call around it goes")
						require.False(t, sluice.Extend(ctx, 8*time.Second), "and no further")
						end, _ := ctx.Deadline()
						require.Equal(t, 10*time.Second, end.Sub(r.start))
						time.Sleep(6500 * ms) // the call around has extended its own time
						end, _ = ctx.Deadline()
						want := 20 * time.Second
						if own == 4*time.Second {
							want = 10 * time.Second // its own is over then
						}
						require.Equal(t, want, end.Sub(r.start))
						<-ctx.Done()
						require.Equal(t, want, r.at())
						return ctx.Err()
					})
					err := r.call("outer")
					require.ErrorIs(t, err, context.DeadlineExceeded)
					synctest.Wait()
					want := sluice.BreakerClosed // the time of the call around is over
					if own == 4*time.Second {
						want = sluice.BreakerOpen
					}
					require.Equal(t, want, sluice.Must(b.State("inner")))
					r.end()
				})
			})
		}
	}
}

// A stream that holds a call open has the time that was asked for, by the tool or by the stream.
func TestExtend_WhileAStreamHoldsTheCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: time.Second, MaxTimeout: time.Minute}}, func(ctx context.Context) error {
			stream, done, err := sluice.Hold(ctx)
			require.NoError(t, err)
			go func() {
				for range 10 {
					require.True(t, sluice.Extend(stream, time.Second))
					time.Sleep(time.Second - 1)
				}
				<-stream.Done()
				time.Sleep(time.Nanosecond)
				done(nil) // which comes too late
			}()
			return nil
		})
		require.NoError(t, r.call("x"))
		require.NoError(t, r.Close(context.Background()))
		require.Equal(t, 10*time.Second-9, r.at())
		time.Sleep(time.Nanosecond)
		require.ErrorIs(t, r.terminal("x").Err, sluice.ErrTimeout)
		r.end()
	})
}

// MaxTimeout is no less than Timeout.
func TestExtend_MaxTimeoutIsChecked(t *testing.T) {
	reg := sluice.NewToolRegistry()
	f := func(context.Context, int) (int, error) { return 0, nil }
	for _, tt := range []struct {
		p    sluice.Policy
		want string
	}{
		{sluice.Policy{Timeout: 2 * time.Second, MaxTimeout: time.Second}, "sluice: Policy.MaxTimeout is 1s: must be zero, or at least Timeout, which is 2s"},
		{sluice.Policy{MaxTimeout: -1}, "sluice: Policy.MaxTimeout is -1ns: must be zero or positive"},
		{sluice.Policy{MaxTimeout: 30}, "sluice: Policy.MaxTimeout is 30ns"},
	} {
		_, err := sluice.Register(reg, sluice.Spec{Name: "x", Policy: tt.p}, f)
		require.ErrorContains(t, err, tt.want)
	}
	_, err := sluice.Register(reg, sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: time.Second, MaxTimeout: time.Second}}, f)
	require.NoError(t, err)
}

// Who is first, the end of the time or who extends it, is what both are told: code that was told that it has
// time is waited for. Several extend it at once, and the code ends whenever it likes.
func TestExtend_Storm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	exec := newExec(t, sluice.Config{Interceptors: interceptors(atMost(4))})
	type run struct {
		takes, sleeps []time.Duration
		extended      atomic.Bool // it was told that it has more time than it needs
	}
	f := func(ctx context.Context, x *run) (int, error) {
		var all sync.WaitGroup
		defer all.Wait()
		for _, d := range x.sleeps {
			all.Go(func() {
				time.Sleep(d)
				sluice.Extend(ctx, d)
			})
		}
		for _, d := range x.takes {
			time.Sleep(d)
			if sluice.Extend(ctx, time.Minute) {
				x.extended.Store(true)
			}
		}
		return 7, nil
	}
	tools := []func(context.Context, *run) (int, error){}
	for _, cooperative := range []bool{false, true} {
		tools = append(tools, sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: fmt.Sprint("x", cooperative),
			Policy: sluice.Policy{Timeout: ms, MaxTimeout: time.Hour, Cooperative: cooperative}}, f)))
	}
	var all sync.WaitGroup
	for g := range uint64(4) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, g))
			for range 100 {
				x := new(run)
				for range 1 + r.IntN(3) {
					x.takes = append(x.takes, time.Duration(r.IntN(1200))*time.Microsecond)
					x.sleeps = append(x.sleeps, time.Duration(r.IntN(1200))*time.Microsecond)
				}
				cooperative := r.IntN(2)
				n, err := tools[cooperative](t.Context(), x)
				if err != nil {
					assert.ErrorIs(t, err, sluice.ErrTimeout)
					assert.False(t, x.extended.Load(), "nobody waits for it although it was told that it has time")
				} else {
					assert.Equal(t, 7, n)
				}
			}
		})
	}
	all.Wait()
	require.NoError(t, exec.Close(t.Context()))
}
