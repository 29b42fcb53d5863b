package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An interceptor inside the gates is out of a call's way if it answers the handler that it was given for the tool, and
// only then: it may go around it, and may answer one that it was given for another tool.
func TestWrap_MayAnswerWhatItWasGiven(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var ran, around []string
		chains := map[string]sluice.Handler{}
		pick := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			chains[s.Name] = next
			switch s.Name {
			case "around":
				return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
					around = append(around, c.Tool)
					return next(ctx, c)
				}
			case "other":
				return chains["own"]
			}
			return next
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), pick)})
		for _, n := range []string{"own", "around", "other"} {
			r.tool(sluice.Spec{Name: n}, func(context.Context) error { ran = append(ran, n); return nil })
		}
		for _, n := range []string{"own", "around", "other", "own"} {
			require.NoError(t, r.call(n))
		}
		require.Equal(t, []string{"own", "around", "own", "own"}, ran)
		require.Equal(t, []string{"around"}, around)
		r.end()
	})
}

// Who calls a tool whose chain is still being compiled waits no longer than its context; the
// compiling goes on, later calls use it, and Close waits for it. Other tools are not held up.
func TestWrap_ThatBlocksHoldsUpOnlyItsTool(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		var wraps atomic.Int64
		slow := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			if s.Name == "x" {
				wraps.Add(1)
				<-release
			}
			return next
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(slow, atMost(1))})
		for _, n := range []string{"x", "y"} {
			r.tool(sluice.Spec{Name: n}, func(context.Context) error { return nil })
		}
		for i := range 20 {
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(r.ctx)
			time.AfterFunc(time.Second, func() { cancel(cause) })
			from := r.at()
			_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
			assert.ErrorIs(t, err, sluice.ErrRejected, "call %d", i)
			assert.ErrorIs(t, err, cause, "call %d", i)
			assert.Equal(t, time.Second, r.at()-from, "call %d", i)
		}
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		if d := r.Explain(ctx, sluice.Request{Tool: "x"}); d.Refusal == nil || d.Refusal.Reason != sluice.ErrWaitTooLong {
			t.Errorf("Explain: %+v", d.Refusal)
		}
		require.NoError(t, r.call("y"))
		if n := wraps.Load(); n > 2 {
			t.Errorf("%d goroutines are in Wrap, want at most two for one tool", n)
		}
		done := make(chan error)
		go func() { done <- r.call("x") }()
		synctest.Wait()
		before := wraps.Load()
		close(release)
		require.NoError(t, <-done)
		require.NoError(t, r.call("x"))
		if n := wraps.Load(); n != before {
			t.Errorf("%d wraps, %d before it came through: later calls use what was compiled", n, before)
		}
		r.end()
	})
}

// Close waits for a Wrap under way, and says so if its context ends first.
func TestWrap_CloseWaitsForIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		r := newRig(t, sluice.Config{Interceptors: interceptors(sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			<-release
			return next
		}))})
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { t.Error("it ran"); return nil })
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
		assert.ErrorIs(t, err, sluice.ErrWaitTooLong)
		assert.ErrorIs(t, r.Close(ctx), context.DeadlineExceeded, "Close")
		close(release)
		r.end()
		wantRefusal(t, r.call("x"), sluice.ErrClosed, "", 0)
	})
}

// A Wrap may call the tool that it is for, as one that warms it up does.
func TestWrap_MayCallItsOwnTool(t *testing.T) {
	var r *rig
	var once atomic.Bool
	warm := make(chan error, 1)
	warms := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if once.CompareAndSwap(false, true) {
			warm <- r.call(s.Name)
		}
		return next
	})
	r = newRig(t, sluice.Config{Interceptors: interceptors(warms)})
	defer r.end()
	var n atomic.Int64
	r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { n.Add(1); return nil })
	require.NoError(t, r.call("x"))
	require.NoError(t, <-warm)
	if n.Load() != 2 {
		t.Errorf("the tool ran %d times, want twice", n.Load())
	}
}

// A rule that refuses at call time cannot be got around by naming the tool, and looks the
// same for every tool it hides.
func TestRulesHoldAtCallTime(t *testing.T) {
	hide := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		if tool.Hints.Destructive {
			return func(_ context.Context, c sluice.Call) (sluice.Result, error) {
				return sluice.Result{}, &sluice.Error{Tool: c.Tool, CallID: c.ID, Reason: sluice.ErrUnknownTool}
			}
		}
		return next
	})
	e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{hide}})
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "drop", Hints: sluice.Hints{Destructive: true}}, func(context.Context, string) (string, error) {
		t.Error("the hidden tool ran")
		return "", nil
	}))
	_, hidden := e.Invoke(t.Context(), sluice.Request{ID: "1", Tool: "drop", Input: ""})
	_, unknown := e.Invoke(t.Context(), sluice.Request{ID: "1", Tool: "none", Input: ""})
	if got, want := strings.ReplaceAll(hidden.Error(), "drop", "none"), unknown.Error(); got != want {
		t.Errorf("hidden %q, unknown %q", got, want)
	}
}

// Wrap is user code: it may use the executor, and may end in any way.
func TestPromise21_WrapHoldsNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e *sluice.Executor
		wraps := 0
		e = newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			switch s.Name {
			case "curious":
				wraps++
				_, err := e.Invoke(t.Context(), sluice.Request{Tool: "plain", Input: ""})
				assert.NoError(t, err)
			case "exits":
				runtime.Goexit()
			}
			return next
		})}})
		for _, name := range []string{"curious", "plain", "exits"} {
			sluice.Must(sluice.Wrap(e, sluice.Spec{Name: name}, echo))
		}
		for range 2 {
			for _, name := range []string{"curious", "plain"} {
				_, err := e.Invoke(t.Context(), sluice.Request{Tool: name, Input: ""})
				assert.NoError(t, err, name)
			}
			_, err := e.Invoke(t.Context(), sluice.Request{Tool: "exits", Input: ""})
			var p *sluice.PanicError
			if !errors.As(err, &p) || !p.Goexit || !errors.Is(err, sluice.ErrRejected) {
				t.Errorf("exits: %v", err)
			}
		}
		assert.Equal(t, 1, wraps, "wrapped %d times", wraps)
	})
}

// An interceptor gets its Calls by value and may change them. Whatever it makes of them,
// the executor lives on.
func TestPromise11_WhateverInterceptorsMakeOfCalls(t *testing.T) {
	for name, change := range map[string]func(*sluice.Call){
		"priority 0":   func(c *sluice.Call) { c.Priority = 0 },
		"priority 99":  func(c *sluice.Call) { c.Priority = 99 },
		"priority -99": func(c *sluice.Call) { c.Priority = -99 },
		"no pipeline":  func(c *sluice.Call) { c.Pipeline = nil },
		"a new one":    func(c *sluice.Call) { *c = sluice.Call{Tool: c.Tool, Input: c.Input, Pipeline: c.Pipeline} },
		"an empty one": func(c *sluice.Call) { *c = sluice.Call{} },
		"other input":  func(c *sluice.Call) { c.Input = make(chan int) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				meddle := atomic.Bool{}
				r := newRig(t, sluice.Config{Interceptors: interceptors(
					sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
						return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
							if meddle.Load() {
								change(&c)
							}
							return next(ctx, c)
						}
					}),
					atMost(1), scheduler(sluice.PrioritySchedulerConfig{}),
					limitsOf(sluice.Limit{Max: 5, Scope: sluice.ByTenant}))})
				defer r.end()
				var g gauge
				add := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "add"}, func(ctx context.Context, i int) (int, error) {
					return i, g.counts(ms)(ctx)
				}))
				r.tool(sluice.Spec{Name: "plain"}, g.counts(ms))
				meddle.Store(true)
				parallel(5, func(i int) {
					v, err := add(r.ctx, i)
					if err == nil && v != i {
						t.Errorf("%d, want %d", v, i)
					}
					if err != nil && !errors.Is(err, sluice.ErrRejected) {
						t.Errorf("%v: want a refusal, the tool did not run", err)
					}
				})
				meddle.Store(false)
				v, err := add(r.ctx, 7)
				assert.Equal(t, 7, v, "afterwards")
				assert.NoError(t, err, "afterwards")
				r.slotsFree("plain", &g, 1)
			})
		})
	}
}

// Interceptors that try to lie about it cannot.
func TestPromise12_InterceptorsCannotLieAboutIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// A total timeout made by hand: it gives up on next, which goes on, or begins only then.
		hasty := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			if s.Name != "work" {
				return next
			}
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				done := make(chan struct{})
				var res sluice.Result
				var err error
				go func() {
					defer close(done)
					res, err = next(context.WithoutCancel(ctx), c)
				}()
				go func() {
					time.Sleep(20 * ms)
					_, err := next(context.WithoutCancel(ctx), c)
					assert.Error(t, err, "an attempt succeeds after the call was over")
				}()
				select {
				case <-done:
					return res, err
				case <-time.After(10 * ms):
					return sluice.Result{}, errTool
				}
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(hasty, atMost(1))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "work"}, g.counts(0))
		r.tool(sluice.Spec{Name: "block"}, sleeps(50*ms))
		r.busy("block")
		err := r.call("work")
		time.Sleep(time.Second)
		if ran := g.total.Load() > 0; ran == errors.Is(err, sluice.ErrRejected) {
			t.Errorf("%v, and the tool ran: %v", err, ran)
		}
	})
}

// An interceptor outside the gates may answer at any moment while its next is on the way. Its error is
// a denial exactly if the tool's code has not run by then, and the code does not run afterwards. A call
// whose start has been told has run.
func TestPromise12_DenialIsARejectionIfTheCodeDidNotRun(t *testing.T) {
	for _, tt := range []struct {
		step string // at which the interceptor answers
		ran  bool
		last string
	}{
		{"before next", false, "denied"},
		{"key", false, "denied"},
		{"cost", false, "denied"},
		{"tool.queued", false, "denied"},
		{"waits", false, "denied"},
		{"tool.started", true, "failed"},
		{"code", true, "failed"},
		{"judged", true, "failed"},
	} {
		t.Run(tt.step, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var left sync.WaitGroup
				reached := make(chan struct{})
				at := func(step string) {
					if step == tt.step {
						close(reached)
						time.Sleep(time.Second) // in which the interceptor answers
					}
				}
				answers := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
					if s.Name != "x" {
						return next
					}
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						left.Go(func() {
							at("before next")
							_, err := next(ctx, c)
							assert.Equal(t, tt.ran, err == nil, "the attempt ended with %v", err)
						})
						<-reached
						return sluice.Result{}, errTool
					}
				})
				key := sluice.ByKey("key", func(c sluice.Call) string {
					if c.Tool == "x" {
						at("key")
					}
					return "k"
				})
				r := newRig(t, sluice.Config{
					Interceptors: interceptors(answers, atMost(1), limitsOf(sluice.Limit{Max: 2, Scope: key})),
					Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
						if e.Call.Tool == "x" {
							at(string(e.Kind))
						}
						return nil
					}),
				})
				r.tool(sluice.Spec{Name: "block"}, sleeps(10*ms))
				ran := false
				r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{
					Rates:    []sluice.Rate{{N: 1e6, Unit: "u"}},
					Cost:     func(sluice.Call, string) int64 { at("cost"); return 1 },
					Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { at("judged"); return sluice.OutcomeAuto },
				}}, func(context.Context) error { ran = true; at("code"); return nil })
				r.busy("block")
				left.Go(func() {
					time.Sleep(5 * ms)
					at("waits")
				})
				err := r.call("x")
				r.end()
				left.Wait()
				assert.Equal(t, tt.ran, ran, "the code ran")
				assert.ErrorIs(t, err, errTool)
				assert.Equal(t, !tt.ran, errors.Is(err, sluice.ErrRejected), "rejected: %v", err)
				assert.Equal(t, "tool."+tt.last, string(r.terminal("x").Kind))
			})
		})
	}
}

// A gate whose Wrap somebody else calls refuses every call, and says what to do.
func TestPromise22_GatesWrappedByHandRefuse(t *testing.T) {
	for name, x := range map[string]sluice.Interceptor{
		`ConcurrencyLimiter "concurrency"`: atMost(2),
		`RateLimiter "rate"`:               rates(sluice.Rate{N: 1}),
		`CircuitBreaker "breaker"`:         breakerOf(sluice.CircuitBreakerConfig{}),
		`PriorityScheduler "priority"`:     scheduler(sluice.PrioritySchedulerConfig{}),
		`RateLimiter "nil"`:                (*sluice.RateLimiter)(nil),
		`ConcurrencyLimiter ""`:            new(sluice.ConcurrencyLimiter),
	} {
		for place, list := range map[string][]sluice.Interceptor{
			"outside": interceptors(sluice.InterceptorFunc(x.Wrap), atMost(100)),
			"inside":  interceptors(atMost(100), sluice.InterceptorFunc(x.Wrap)),
			"alone":   interceptors(sluice.InterceptorFunc(x.Wrap)),
		} {
			r := newRig(t, sluice.Config{Interceptors: list})
			r.tool(sluice.Spec{Name: "work"}, func(context.Context) error { t.Error("it ran"); return nil })
			err := r.call("work")
			if want := "the Wrap of " + name + " was called by hand"; !errors.Is(err, sluice.ErrRejected) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Config.Interceptors") {
				t.Errorf("%s, %s: %v", name, place, err)
			}
			r.end()
		}
	}
}

type tagged struct {
	*sluice.RateLimiter
	tags []string // so that it cannot be compared
}

type denier struct{ *sluice.ConcurrencyLimiter }

func (denier) Wrap(sluice.Spec, sluice.Handler) sluice.Handler {
	return func(context.Context, sluice.Call) (sluice.Result, error) {
		return sluice.Result{}, errors.New("never")
	}
}

type ordered struct {
	sluice.PriorityScheduler
	_ []int
}

// A struct that has a gate inside is an interceptor like any other: its Wrap is called, wherever
// it stands, and nothing about it needs to be comparable or there.
func TestGates_KnownByTheirType(t *testing.T) {
	for name, tt := range map[string]struct {
		list []sluice.Interceptor
		want string // of the call's error
	}{
		"own Wrap":                 {interceptors(denier{atMost(1)}), "never"},
		"own Wrap of a pointer":    {interceptors(&denier{atMost(1)}), "never"},
		"own Wrap of a nil inside": {interceptors(denier{}, atMost(1)), "never"},
		"the gate's Wrap":          {interceptors(tagged{rates(sluice.Rate{N: 1}), nil}), `RateLimiter "rate" was called by hand, or by a struct that embeds it`},
		"twice":                    {interceptors(tagged{rates(sluice.Rate{N: 1}), nil}, tagged{rates(sluice.Rate{N: 1}), []string{"b"}}, atMost(1)), `RateLimiter "rate" was called by hand`},
		"inside the gates":         {interceptors(atMost(1), tagged{rates(sluice.Rate{N: 1}), nil}), `RateLimiter "rate" was called by hand`},
		"nil inside":               {interceptors(&tagged{}), `RateLimiter "nil" was called by hand`},
		"a scheduler by value":     {interceptors(&ordered{}), `PriorityScheduler "" was called by hand`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: tt.list})
			defer r.end()
			r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { t.Error("it ran"); return nil })
			_, ok := r.Plan("x")
			assert.True(t, ok, "no plan")
			assert.ErrorContains(t, r.call("x"), tt.want)
		})
	}
	// Between the gates it parts them, as any interceptor does.
	_, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(atMost(1), tagged{}, atMost(1))})
	assert.ErrorContains(t, err, "Config.Interceptors[2] (concurrency) stands apart from the other gates")
	for _, x := range interceptors((*sluice.RateLimiter)(nil), (*sluice.CircuitBreaker)(nil), (*sluice.PriorityScheduler)(nil), (*sluice.ConcurrencyLimiter)(nil)) {
		_, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(x)})
		assert.ErrorContains(t, err, "Config.Interceptors[0] is nil", "%T", x)
	}
}

// A call waits for an interceptor's Wrap no longer than its context lasts.
func TestInvokeDoesNotWaitForWrapBeyondItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		block := make(chan struct{})
		slow := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler { <-block; return next })
		r := newRig(t, sluice.Config{Interceptors: interceptors(slow)})
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		for i := range 3 {
			ctx, cancel := context.WithTimeout(r.ctx, 20*ms)
			_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
			if want := time.Duration(i+1) * 20 * ms; !errors.Is(err, sluice.ErrRejected) || !errors.Is(err, context.DeadlineExceeded) || r.at() != want {
				t.Errorf("%v at %v, want its context's end at %v", err, r.at(), want)
			}
			cancel()
		}
		close(block)
		require.NoError(t, r.call("x"))
		r.end()
	})
}

// Wrap on a closed executor is an error, and registers nothing.
func TestWrap_AfterCloseRegistersNothing(t *testing.T) {
	reg := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{}))
	require.NoError(t, e.Close(t.Context()))
	f, err := sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) { return 0, nil })
	if !errors.Is(err, sluice.ErrClosed) || f != nil || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("%v, %v", f == nil, err)
	}
	_, there := reg.Lookup("x")
	assert.False(t, there, "the tool is registered")
}

type stored struct {
	Title string `json:"title"`
	Size  int    `json:"size,omitempty"`
}

// sour cannot be decoded.
type sour struct{ stored }

func (*sour) UnmarshalJSON([]byte) error { panic("sour") }

// What an interceptor has stored as JSON comes back as the tool's own type, to whoever calls.
func TestDecode_StoredResults(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var last json.RawMessage // of whatever tool
		var values []any
		replay := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
				if last == nil {
					if res, err = next(ctx, c); err == nil {
						last, err = res.JSON()
					}
					return res, err
				}
				v, err := s.Decode(last)
				values = append(values, v)
				return sluice.Result{Value: v}, err
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(replay)})
		want := stored{"go", 7}
		find := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "find"}, func(context.Context, string) (stored, error) { return want, nil }))
		pointer := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "pointer"}, func(context.Context, string) (*stored, error) { return nil, nil }))
		raw := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "raw"}, func(context.Context, string) (json.RawMessage, error) { return nil, nil }))
		bad := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "bad"}, func(context.Context, string) (sour, error) { return sour{}, nil }))
		require.NoError(t, sluice.Declare(r.reg, sluice.Spec{Name: "declared"}))

		for range 2 {
			got, err := find(r.ctx, "")
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		require.Equal(t, []any{want}, values, "the second time")
		p, err := pointer(r.ctx, "")
		require.NoError(t, err)
		require.Equal(t, &want, p)
		b, err := raw(r.ctx, "")
		require.NoError(t, err)
		require.JSONEq(t, `{"title":"go","size":7}`, string(b))
		b[0] = 'x'
		require.Equal(t, byte('{'), last[0], "it is a copy")
		_, err = bad(r.ctx, "")
		require.ErrorContains(t, err, "sluice: decoding a result as promises_test.sour: it panicked")

		do := func(context.Context) (stored, error) { return stored{}, errors.New("ran") }
		got, err := sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "declared"}, do)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, json.RawMessage(`{"title":"go","size":7}`), values[len(values)-1])

		last = json.RawMessage(`{"title":3}`)
		_, err = find(r.ctx, "")
		require.ErrorContains(t, err, "sluice: decoding a result as promises_test.stored: json: cannot unmarshal number")
		_, err = sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "declared"}, do)
		require.ErrorContains(t, err, "sluice: decoding a result as promises_test.stored: json: cannot unmarshal number")

		s, ok := r.reg.Lookup("find")
		require.True(t, ok)
		v, err := s.Decode([]byte(`{"title":"x","later":1}`))
		require.NoError(t, err)
		require.Equal(t, stored{"x", 0}, v)
		v, err = sluice.Spec{}.Decode([]byte(`1`))
		require.NoError(t, err)
		require.Equal(t, json.RawMessage(`1`), v)
		r.end()
	})
}

// slowDown is an upstream's word that it wants to be asked later.
type slowDown time.Duration

func (slowDown) Error() string               { return "slow down" }
func (d slowDown) RetryAfter() time.Duration { return time.Duration(d) }

// An interceptor outside the gates sees what each attempt was, whatever has become of it.
func TestAttemptOf(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name string
		conf sluice.Config
		pol  sluice.Policy
		tool func(ctx context.Context) error
		want sluice.Attempt
	}{
		{"success", sluice.Config{}, sluice.Policy{}, func(context.Context) error { return nil },
			sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeSuccess}},
		{"failure", sluice.Config{}, sluice.Policy{}, func(context.Context) error { return boom },
			sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeFailure}},
		{"panic", sluice.Config{}, sluice.Policy{}, func(context.Context) error { panic(boom) },
			sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeFailure}},
		{"overload", sluice.Config{}, sluice.Policy{}, func(context.Context) error { return slowDown(7 * time.Second) },
			sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeOverload, RetryAfter: 7 * time.Second}},
		{"a result that is a failure", sluice.Config{}, sluice.Policy{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeFailure }},
			func(context.Context) error { return nil }, sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeFailure}},
		{"an error that is none", sluice.Config{}, sluice.Policy{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeSuccess }},
			func(context.Context) error { return boom }, sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeSuccess}},
		{"an error that says so", sluice.Config{}, sluice.Policy{}, func(context.Context) error { return fmt.Errorf("of a tool: %w", saying(sluice.OutcomeNeutral)) },
			sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeNeutral}},
		{"an error that says what there is not", sluice.Config{}, sluice.Policy{}, func(context.Context) error { return saying(99) },
			sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeFailure}},
		{"an error that says so, which Classify does not leave to it", sluice.Config{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeSuccess }},
			sluice.Policy{}, func(context.Context) error { return saying(sluice.OutcomeNeutral) }, sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeSuccess}},
		{"a stream", sluice.Config{}, sluice.Policy{}, streams(t, time.Second, nil),
			sluice.Attempt{N: 1, Ran: true, Held: true, Outcome: sluice.OutcomeSuccess}},
		{"a stream that has ended", sluice.Config{}, sluice.Policy{}, func(ctx context.Context) error {
			_, done, err := sluice.Hold(ctx)
			done(nil)
			return err
		}, sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeSuccess}},
		{"late, and goes on", sluice.Config{Timeout: time.Second}, sluice.Policy{}, func(context.Context) error { time.Sleep(time.Minute); return nil },
			sluice.Attempt{N: 1, Ran: true, Running: true, Outcome: sluice.OutcomeFailure}},
		{"late, and ends", sluice.Config{Timeout: time.Second}, sluice.Policy{Cooperative: true}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeFailure}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var got []sluice.Attempt
				layer := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						require.Zero(t, c.AttemptOf(sluice.Result{}, boom), "of none")
						res, err := next(ctx, c)
						got = append(got, c.AttemptOf(res, err))
						return res, err
					}
				})
				tt.conf.Interceptors = interceptors(layer)
				r := newRig(t, tt.conf)
				r.tool(sluice.Spec{Name: "x", Policy: tt.pol}, tt.tool)
				_ = r.call("x")
				require.Equal(t, []sluice.Attempt{tt.want}, got)
				r.end()
			})
		})
	}
}

// saying is an error that says what it means.
type saying sluice.Outcome

func (saying) Error() string             { return "saying" }
func (s saying) Outcome() sluice.Outcome { return sluice.Outcome(s) }

// An interceptor hears once when the stream that it has passed on has ended, the last one if there are several, in
// whatever way, and only of that; a panic in what it does then ends nothing else.
func TestAfterStream(t *testing.T) {
	for _, tt := range []struct {
		name string
		conf sluice.Config
		tool func(ctx context.Context) error
		want []time.Duration // nil if there is nothing to wait for
	}{
		{"no stream", sluice.Config{}, func(context.Context) error { return nil }, nil},
		{"one that has ended", sluice.Config{}, func(ctx context.Context) error {
			_, done, err := sluice.Hold(ctx)
			done(nil)
			return err
		}, nil},
		{"of an attempt that has failed", sluice.Config{}, func(ctx context.Context) error {
			_, _, err := sluice.Hold(ctx)
			return errors.Join(err, errors.New("boom"))
		}, nil},
		{"done", sluice.Config{}, streams(t, time.Second, nil), []time.Duration{time.Second}},
		{"failed", sluice.Config{}, streams(t, time.Second, errors.New("boom")), []time.Duration{time.Second}},
		{"two", sluice.Config{}, func(ctx context.Context) error {
			return errors.Join(streams(t, 3*time.Second, nil)(ctx), streams(t, time.Second, nil)(ctx))
		}, []time.Duration{3 * time.Second}},
		{"out of time", sluice.Config{Timeout: 2 * time.Second}, func(ctx context.Context) error {
			_, _, err := sluice.Hold(ctx)
			return err
		}, []time.Duration{2 * time.Second}},
		{"never done", sluice.Config{}, func(ctx context.Context) error {
			_, _, err := sluice.Hold(ctx)
			return err
		}, []time.Duration{10 * time.Minute}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var r *rig
				var said bool
				var got, panicked []time.Duration
				layer := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						require.False(t, c.AfterStream(sluice.Result{}, nil), "of none")
						res, err := next(ctx, c)
						c.AfterStream(res, func() { panicked = append(panicked, r.at()); panic("of a layer") })
						said = c.AfterStream(res, func() { got = append(got, r.at()) })
						return res, err
					}
				})
				tt.conf.Interceptors = interceptors(layer)
				r = newRig(t, tt.conf)
				r.tool(sluice.Spec{Name: "x"}, tt.tool)
				_ = r.call("x")
				time.Sleep(time.Hour)
				synctest.Wait()
				require.Equal(t, tt.want, got)
				require.Equal(t, tt.want, panicked)
				require.Equal(t, tt.want != nil, said)
				r.end()
			})
		})
	}
	require.False(t, sluice.Call{}.AfterStream(sluice.Result{}, nil))
}

// A refusal says when; an attempt that goes on has ended later; what another call gave is no attempt of this one; of
// many attempts the last are remembered; and attempts at once are told apart.
func TestAttemptOf_Several(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var got []sluice.Attempt
		var kept sluice.Result // of an earlier call
		layer := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
				note := func() { got = append(got, c.AttemptOf(res, err)) }
				switch s.Name {
				case "refused":
					res, err = next(ctx, c)
					note()
				case "goes_on":
					res, err = next(ctx, c)
					note()
					time.Sleep(10 * time.Second)
					note()
				case "many":
					first, _ := next(ctx, c)
					var ninth sluice.Result
					for n := 2; n <= 201; n++ {
						if res, err = next(ctx, c); n == 193 {
							ninth = res
						}
					}
					note()
					res = first
					note()
					res = ninth // from the end: forgotten, and nobody says that it has not run
					note()
					second := kept
					res = second
					note()
					kept = first
				case "at_once":
					var wg sync.WaitGroup
					list := make([]sluice.Attempt, 3)
					for range list {
						wg.Go(func() {
							res, err := next(ctx, c)
							a := c.AttemptOf(res, err)
							list[a.N-1] = a
						})
					}
					wg.Wait()
					got = append(got, list...)
				}
				return res, err
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(layer), Timeout: 5 * time.Second})
		tool := func(name string, p sluice.Policy, f func(context.Context) error) {
			r.tool(sluice.Spec{Name: name, Policy: p}, f)
		}
		tool("refused", sluice.Policy{Rates: []sluice.Rate{{N: 1, Per: time.Minute}}, MaxWait: sluice.NoWait}, func(context.Context) error { return nil })
		tool("goes_on", sluice.Policy{}, func(context.Context) error { time.Sleep(8 * time.Second); return errors.New("late") })
		tool("many", sluice.Policy{}, func(context.Context) error { return nil })
		tool("at_once", sluice.Policy{}, func(context.Context) error {
			time.Sleep(time.Second)
			return nil
		})
		expect := func(name string, want ...sluice.Attempt) {
			t.Helper()
			got = nil
			_ = r.call(name)
			require.Equal(t, want, got, name)
		}
		ok := func(n int) sluice.Attempt {
			return sluice.Attempt{N: n, Ran: true, Outcome: sluice.OutcomeSuccess}
		}
		expect("refused", ok(1))
		expect("refused", sluice.Attempt{N: 1, Outcome: sluice.OutcomeNeutral, RetryAfter: time.Minute})
		late := sluice.Attempt{N: 1, Ran: true, Running: true, Outcome: sluice.OutcomeFailure}
		ended := late
		ended.Running = false
		expect("goes_on", late, ended)
		expect("many", ok(201), ok(1), sluice.Attempt{}, sluice.Attempt{})
		expect("many", ok(201), ok(1), sluice.Attempt{}, sluice.Attempt{})
		expect("at_once", ok(1), ok(2), ok(3))
		r.end()
	})
}

// Close waits for what a call's interceptor has left behind; once the call is over it starts nothing, and a panic ends
// nothing else.
func TestGoOfACall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var kept sluice.Call
		var ended time.Duration
		var r *rig
		layer := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				kept = c
				require.True(t, c.Go(func() { panic("here") }))
				require.True(t, c.Go(runtime.Goexit))
				require.True(t, c.Go(func() {
					time.Sleep(time.Minute)
					ended = r.at()
				}))
				return next(ctx, c)
			}
		})
		r = newRig(t, sluice.Config{Interceptors: interceptors(layer)})
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		require.NoError(t, r.call("x"))
		require.Zero(t, r.at())
		require.False(t, kept.Go(func() { t.Error("it runs") }))
		require.False(t, sluice.Call{}.Go(func() { t.Error("it runs") }))
		require.NoError(t, r.Close(context.Background()))
		require.Equal(t, time.Minute, ended)
		require.Equal(t, time.Minute, r.at())
		r.end()
	})
}

// What an interceptor does when its stream ends is done when the call has ended, also if it ends the goroutine.
func TestAfterStream_BeforeTheCallEnds(t *testing.T) {
	for _, exits := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			done := false
			layer := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
					res, err := next(ctx, c)
					c.AfterStream(res, func() {
						time.Sleep(time.Second)
						done = true
						if exits {
							runtime.Goexit()
						}
					})
					return res, err
				}
			})
			r := newRig(t, sluice.Config{Interceptors: interceptors(layer)})
			r.tool(sluice.Spec{Name: "x"}, streams(t, time.Second, nil))
			require.NoError(t, r.call("x"))
			require.NoError(t, r.Close(context.Background()))
			require.True(t, done)
			require.Equal(t, 2*time.Second, r.at())
		})
	}
}
