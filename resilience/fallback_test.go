package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

func fallback(t *testing.T, c resilience.FallbackConfig) *resilience.Fallback {
	t.Helper()
	x, err := resilience.NewFallback(c)
	require.NoError(t, err)
	return x
}

// Who answers, and with what a call ends.
func TestFallback(t *testing.T) {
	second := errors.New("second")
	value := func(context.Context, sluice.Call, error) (any, error) { return page{N: 9}, nil }
	for _, tt := range []struct {
		name string
		conf resilience.FallbackConfig
		err  error // of the tool
		want int   // 1 is the tool's answer, 2 the other's, 9 the function's
		code string
		is   []error
	}{
		{"not needed", resilience.FallbackConfig{Func: value}, nil, 1, "", nil},
		{"a function", resilience.FallbackConfig{Func: value}, errBoom, 9, "", nil},
		{"a tool", resilience.FallbackConfig{To: "other"}, errBoom, 2, "", nil},
		{"not for this error", resilience.FallbackConfig{Func: value, If: func(err error) bool { return err != errBoom }}, errBoom, 0, "tool_error", []error{errBoom}},
		{"not for this tool", resilience.FallbackConfig{Func: value, Tools: func(sluice.Spec) bool { return false }}, errBoom, 0, "tool_error", []error{errBoom}},
		{"a function that fails too", resilience.FallbackConfig{Func: func(_ context.Context, _ sluice.Call, err error) (any, error) {
			return nil, fmt.Errorf("%w after %v", second, err)
		}}, errBoom, 0, "tool_error", []error{errBoom}},
		{"a tool that fails too", resilience.FallbackConfig{To: "broken"}, errBoom, 0, "tool_error", []error{errBoom}},
		{"a tool that there is not", resilience.FallbackConfig{To: "none"}, errBoom, 0, "tool_error", []error{errBoom}},
		{"a function that panics", resilience.FallbackConfig{Func: func(context.Context, sluice.Call, error) (any, error) { panic(second) }}, errBoom, 0, "panic", []error{second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{}, fallback(t, tt.conf))
				f := search(r, "x", sluice.Hints{}, func(context.Context, int) error { return tt.err })
				sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "other"}, func(_ context.Context, in query) (page, error) { return page{N: 2}, nil }))
				search(r, "broken", sluice.Hints{}, func(context.Context, int) error { return second })
				p, err := f(r.ctx, "a")
				require.Equal(t, tt.code, sluice.CodeOf(err), "%v", err)
				if err == nil {
					require.Equal(t, tt.want, p.N)
				}
				for _, is := range tt.is {
					require.ErrorIs(t, err, is)
				}
				require.NotErrorIs(t, err, sluice.ErrRejected, "the tool ran")
				r.end()
			})
		})
	}
}

// A refused call has a fallback too; one whose caller has left needs none; and where nothing has run at all, the error
// says so.
func TestFallback_Refusals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}))
		asked := 0
		layer := fallback(t, resilience.FallbackConfig{Func: func(_ context.Context, c sluice.Call, err error) (any, error) {
			require.ErrorIs(t, err, sluice.ErrBreakerOpen)
			if asked++; asked > 1 {
				return nil, errBoom
			}
			return page{N: 9}, nil
		}})
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{breaker}}, layer)
		f := search(r, "x", sluice.Hints{}, works)
		_, err := f(r.ctx, "a")
		require.NoError(t, err)
		require.NoError(t, breaker.Trip("x"))
		p, err := f(r.ctx, "a")
		require.NoError(t, err)
		require.Equal(t, 9, p.N)
		_, err = f(r.ctx, "a")
		require.ErrorIs(t, err, sluice.ErrRejected)
		require.ErrorIs(t, err, sluice.ErrBreakerOpen)
		var both *resilience.FallbackError
		require.ErrorAs(t, err, &both)
		require.Equal(t, errBoom, both.Fallback)
		require.Equal(t, "breaker_open", sluice.CodeOf(err))
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		cancel()
		_, err = f(ctx, "a")
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 2, asked)
		r.end()
	})
}

// What a fallback answers is not kept as the tool's, if the cache is further in.
func TestFallback_IsNotCached(t *testing.T) {
	bubble(t, func(t *testing.T) {
		down := true
		r := newRig(t, sluice.Config{}, fallback(t, resilience.FallbackConfig{To: "other"}), cache(t, resilience.CacheConfig{}))
		f := search(r, "x", readOnly, func(context.Context, int) error {
			if down {
				return errBoom
			}
			return nil
		})
		sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "other"}, func(context.Context, query) (page, error) { return page{N: 99}, nil }))
		p, err := f(r.ctx, "a")
		require.NoError(t, err)
		require.Equal(t, 99, p.N)
		down = false
		p, err = f(r.ctx, "a")
		require.NoError(t, err)
		require.Equal(t, 2, p.N)
		require.Equal(t, r.rec.Events("x")[0].CallKey, r.rec.Events("other")[0].ParentKey, "nested in the call")
		r.end()
	})
}

// Nor if it stands further in, whoever answers: the cache keeps nothing, and of those who share an execution each asks again.
// A result of the tool's is kept and shared as ever.
func TestFallback_FurtherIn(t *testing.T) {
	for name, conf := range map[string]resilience.FallbackConfig{
		"a tool": {To: "other"},
		"a function": {Func: func(context.Context, sluice.Call, error) (any, error) {
			time.Sleep(time.Second)
			return page{N: 99}, nil
		}},
		"one that fails": {Func: func(context.Context, sluice.Call, error) (any, error) {
			time.Sleep(time.Second)
			return nil, errors.New("second")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				down := true
				answers := func(want int, list []outcome) {
					t.Helper()
					for _, o := range list {
						if want == 99 && name == "one that fails" {
							require.ErrorIs(t, o.err, errBoom)
							continue
						}
						require.NoError(t, o.err)
						require.Equal(t, want, o.page.N)
					}
				}
				for _, layer := range []sluice.Interceptor{cache(t, resilience.CacheConfig{ErrorTTL: time.Hour}), join(t, resilience.JoinConfig{})} {
					r := newRig(t, sluice.Config{}, layer, fallback(t, conf))
					f := search(r, "x", readOnly, func(context.Context, int) error {
						if time.Sleep(time.Second); down {
							return errBoom
						}
						return nil
					})
					sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "other"}, func(context.Context, query) (page, error) {
						time.Sleep(time.Second)
						return page{N: 99}, nil
					}))
					answers(99, together(f, r.ctx, r.ctx, r.ctx))
					_, joins := layer.(*resilience.Join)
					runs := 0
					for _, e := range r.rec.Events("x") {
						if e.Kind == sluice.ToolStarted {
							runs++
						}
					}
					require.Equal(t, 3, runs, "each asks the tool itself")
					down = false
					if joins {
						answers(4, together(f, r.ctx, r.ctx, r.ctx))
					} else {
						answers(4, together(f, r.ctx))
						answers(4, together(f, r.ctx, r.ctx, r.ctx))
					}
					down = true
					r.end()
				}
			})
		})
	}
}

func TestFallback_Config(t *testing.T) {
	for _, c := range []resilience.FallbackConfig{{}, {To: "x", Func: func(context.Context, sluice.Call, error) (any, error) { return nil, nil }}} {
		_, err := resilience.NewFallback(c)
		require.EqualError(t, err, "resilience: FallbackConfig: To and Func are both set, or neither: must be one of them")
	}
}

// Where a tool's Goexit ends the goroutine that the call runs on no answer is made; where the call goes on after that
// there is one, as for any other failure.
func TestFallback_Goexit(t *testing.T) {
	total := func(t *testing.T) sluice.Interceptor { return timeout(t, resilience.TimeoutConfig{Total: time.Minute}) }
	for _, tt := range []struct {
		name   string
		policy sluice.Policy
		inside func(t *testing.T) sluice.Interceptor // further in
		exits  bool                                  // if it is invoked
		both   bool                                  // and if it is submitted
	}{
		{"no time limit", sluice.Policy{}, nil, true, false},
		{"a time limit", sluice.Policy{Timeout: time.Minute}, nil, false, false},
		{"a time limit of a cooperative tool", sluice.Policy{Timeout: time.Minute, Cooperative: true}, nil, true, false},
		{"a Timeout", sluice.Policy{}, total, false, false},
		{"a Timeout of a cooperative tool", sluice.Policy{Cooperative: true}, total, true, false},
		{"a Join", sluice.Policy{}, func(t *testing.T) sluice.Interceptor { return join(t, resilience.JoinConfig{}) }, false, false},
		{"a Retry", sluice.Policy{}, func(t *testing.T) sluice.Interceptor { return retry(t, resilience.RetryConfig{}) }, true, false},
		{"an interceptor that is no Stepper", sluice.Policy{}, func(*testing.T) sluice.Interceptor {
			return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next })
		}, true, true},
	} {
		for _, submit := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", submitted ", submit), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					asked := 0
					layers := []sluice.Interceptor{fallback(t, resilience.FallbackConfig{Func: func(_ context.Context, _ sluice.Call, err error) (any, error) {
						var p *sluice.PanicError
						require.ErrorAs(t, err, &p)
						require.True(t, p.Goexit)
						asked++
						return 9, nil
					}})}
					if tt.inside != nil {
						layers = append(layers, tt.inside(t))
					}
					r := newRig(t, sluice.Config{}, layers...)
					r.tool(sluice.Spec{Hints: readOnly, Policy: tt.policy}, func(context.Context, int) error { runtime.Goexit(); return nil })
					ctx, cancel := context.WithCancel(r.ctx) // so that a Join may be left
					defer cancel()
					var res sluice.Result
					err, done := error(errExit), make(chan struct{})
					go func() {
						defer close(done)
						if q := (sluice.Request{Tool: "x", Input: struct{}{}}); submit {
							res, err = r.Submit(ctx, q).Wait(ctx)
						} else {
							res, err = r.Invoke(ctx, q)
						}
					}()
					<-done
					list := r.rec.Events()
					last := list[len(list)-1]
					if tt.exits && (tt.both || !submit) {
						require.Equal(t, submit, err != error(errExit), "the goroutine that called has ended")
						require.Equal(t, "goexit", sluice.CodeOf(err))
						require.Zero(t, asked)
						require.Equal(t, sluice.ToolFailed, last.Kind)
						require.Equal(t, "goexit", sluice.CodeOf(last.Err))
					} else {
						require.NoError(t, err)
						require.Equal(t, 9, res.Value)
						require.Equal(t, "fallback", res.AnsweredBy())
						require.Equal(t, 1, asked)
						require.Equal(t, sluice.ToolCompleted, last.Kind)
					}
					r.end()
				})
			})
		}
	}
}

// Where one tool fails another answers.
func ExampleNewFallback() {
	layer := sluice.Must(resilience.NewFallback(resilience.FallbackConfig{
		To:    "almanac",
		Tools: func(tool sluice.Spec) bool { return tool.Name == "weather" },
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{layer}}))
	defer exec.Close(context.Background())
	weather := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather"}, func(context.Context, string) (string, error) {
		return "", errors.New("no connection")
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "almanac"}, func(_ context.Context, city string) (string, error) {
		return city + ": rain, as in most years", nil
	}))
	fmt.Println(weather(context.Background(), "Bergen"))
	// Output: Bergen: rain, as in most years <nil>
}

// Who gets an answer of a fallback, or of a cache, can see that it is not the tool's.
func TestAnsweredBy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, insteadOf(t), cache(t, resilience.CacheConfig{Name: "memory"}))
		_, err := sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly}, func(_ context.Context, works bool) (string, error) {
			if !works {
				return "", errBoom
			}
			return "fine", nil
		})
		require.NoError(t, err)
		for _, want := range []struct {
			in        bool
			value, by string
		}{{true, "fine", ""}, {true, "fine", "memory"}, {false, "instead", "fallback"}} {
			res, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Input: want.in})
			require.NoError(t, err)
			require.Equal(t, want.value, res.Value)
			require.Equal(t, want.by, res.AnsweredBy())
		}
		r.end()
	})
}

// Hints that nobody vouches for enable nothing by themselves.
func TestUntrustedHints(t *testing.T) {
	h := sluice.Hints{ReadOnly: true, Idempotent: true, Untrusted: true}
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, cache(t, resilience.CacheConfig{}), join(t, resilience.JoinConfig{}),
			retry(t, resilience.RetryConfig{}), hedge(t, resilience.HedgeConfig{After: time.Second}))
		var runs atomic.Int64
		_, err := sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: h}, func(_ context.Context, fails bool) (string, error) {
			runs.Add(1)
			time.Sleep(time.Minute)
			if fails {
				return "", errBoom
			}
			return "fine", nil
		})
		require.NoError(t, err)
		for _, fails := range []bool{false, false, true} {
			_, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Input: fails})
			require.Equal(t, fails, err != nil)
		}
		require.EqualValues(t, 3, runs.Load(), "nothing is kept, repeated, or asked for twice")
		a, b := r.Submit(r.ctx, sluice.Request{Tool: "x", Input: false}), r.Submit(r.ctx, sluice.Request{Tool: "x", Input: false})
		for _, f := range []*sluice.Future{a, b} {
			_, err := f.Wait(r.ctx)
			require.NoError(t, err)
		}
		require.EqualValues(t, 5, runs.Load(), "nor shared")
		r.end()
	})
}

// Where a fallback fails too, what stands around it still knows the attempt: a Retry waits for as long as the
// tool has asked.
func TestFallback_LeavesTheAttempt(t *testing.T) {
	for _, submit := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			var seen []sluice.Attempt
			again := retry(t, resilience.RetryConfig{Attempts: 2, Base: time.Second, Jitter: resilience.NoJitter,
				If: func(_ sluice.Spec, a sluice.Attempt, _ sluice.Result, _ error) bool {
					seen = append(seen, a)
					return true
				}})
			r := newRig(t, sluice.Config{}, again, fallback(t, resilience.FallbackConfig{Func: func(context.Context, sluice.Call, error) (any, error) { return nil, errBoom }}))
			search(r, "x", sluice.Hints{}, func(context.Context, int) error { return later(7 * time.Second) })
			start, req := time.Now(), sluice.Request{Tool: "x", Input: query{Q: "a"}}
			var err error
			if submit {
				_, err = r.Submit(r.ctx, req).Wait(context.Background())
			} else {
				_, err = r.Invoke(r.ctx, req)
			}
			require.ErrorIs(t, err, later(7*time.Second))
			require.Equal(t, 7*time.Second, time.Since(start))
			require.Equal(t, []sluice.Attempt{
				{N: 1, Ran: true, Outcome: sluice.OutcomeOverload, RetryAfter: 7 * time.Second},
				{N: 2, Ran: true, Outcome: sluice.OutcomeOverload, RetryAfter: 7 * time.Second},
			}, seen)
			r.end()
		})
	}
}
