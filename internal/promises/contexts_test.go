package promises_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type bulk struct{ bytes [1 << 16]byte }

type bulkKey struct{}

// TestKeptContext_KeepsNoInputAndNoResult: a context that a tool keeps beyond its call keeps neither the call's
// input nor its result, however the call was made.
func TestKeptContext_KeepsNoInputAndNoResult(t *testing.T) {
	for name, tt := range map[string]struct {
		conf sluice.Config
		call func(e *sluice.Executor, r sluice.Request) (sluice.Result, error)
	}{
		"Invoke":               {sluice.Config{}, invokeIt},
		"Invoke with Timeout":  {sluice.Config{Timeout: time.Hour}, invokeIt},
		"Submit":               {sluice.Config{}, submitIt},
		"Submit with Timeout":  {sluice.Config{Timeout: time.Hour}, submitIt},
		"Submit, interceptors": {sluice.Config{Interceptors: interceptors(passing)}, submitIt},
	} {
		t.Run(name, func(t *testing.T) {
			reg := sluice.NewToolRegistry()
			exec := sluice.Must(sluice.NewExecutor(reg, tt.conf))
			var kept context.Context
			sluice.Must(sluice.Register(reg, sluice.Spec{Name: "x"}, func(ctx context.Context, in *bulk) (*bulk, error) {
				kept = ctx
				return &bulk{in.bytes}, nil
			}))
			in, out := func() (in, out weak.Pointer[bulk]) {
				v := new(bulk)
				r, err := tt.call(exec, sluice.Request{Tool: "x", Input: v})
				require.NoError(t, err)
				return weak.Make(v), weak.Make(r.Value.(*bulk))
			}()
			if err := exec.Close(t.Context()); err != nil { // so that nobody is in the middle of something
				t.Fatal(err)
			}
			for range 3 {
				runtime.GC()
			}
			if in.Value() != nil || out.Value() != nil {
				t.Errorf("kept: input %v, result %v", in.Value() != nil, out.Value() != nil)
			}
			runtime.KeepAlive(kept)
		})
	}
}

func invokeIt(e *sluice.Executor, r sluice.Request) (sluice.Result, error) {
	return e.Invoke(context.Background(), r)
}

func submitIt(e *sluice.Executor, r sluice.Request) (sluice.Result, error) {
	return e.Submit(context.Background(), r).Wait(context.Background())
}

// TestCallFrom_RunsNowhere: a Call that a tool, a key, a cost or a classify function was
// shown cannot be run through the gates: they say so, and nothing of the call that it was of
// changes.
func TestCallFrom_RunsNowhere(t *testing.T) {
	var h sluice.Handler // the gates, around the tool
	keeps := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler { h = next; return next })
	var shown []sluice.Call
	r := newRig(t, sluice.Config{
		Interceptors: interceptors(keeps, limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByKey("key", func(c sluice.Call) string {
			shown = append(shown, c)
			return "k"
		})})),
		Classify: func(c sluice.Call, _ sluice.Result, _ error) sluice.Outcome {
			shown = append(shown, c)
			return sluice.OutcomeAuto
		},
	})
	r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{
		Rates: []sluice.Rate{{N: 1e6, Unit: "u"}},
		Cost:  func(c sluice.Call, _ string) int64 { shown = append(shown, c); return 1 },
	}}, func(ctx context.Context) error {
		c, ok := sluice.CallFrom(ctx)
		if !ok || c.Tool != "x" || c.Attempt != 1 || c.ID != "call-1" {
			t.Errorf("CallFrom: %+v %v", c, ok)
		}
		shown = append(shown, c)
		for _, c := range shown {
			_, err := h(ctx, c)
			assert.Error(t, err, "the call was run through a gate")
		}
		return nil
	})
	require.NoError(t, r.call("x"))
	assert.Len(t, shown, 4, "calls were shown")
	for _, c := range shown {
		_, err := h(r.ctx, c)
		assert.Error(t, err, "the call was run through a gate")
	}
	r.end()
}

// A nil context is the caller's mistake, and called by its name; the call is reported like
// any other that is refused.
func TestNilContextIsRefusedByName(t *testing.T) {
	for name, list := range map[string][]sluice.Interceptor{"plain": nil, "an interceptor outside": interceptors(passing)} {
		t.Run(name, func(t *testing.T) {
			rec := new(sluice.Recorder)
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: rec, Interceptors: list, Timeout: time.Hour}))
			f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) {
				t.Error("the tool ran")
				return 0, nil
			}))
			var none context.Context
			q := sluice.Request{Tool: "x", Input: 1}
			for how, call := range map[string]func() error{
				"Invoke":  func() error { _, err := e.Invoke(none, q); return err },
				"Submit":  func() error { _, err := e.Submit(none, q).Wait(t.Context()); return err },
				"Explain": func() error { return e.Explain(none, q).Refusal },
				"wrapped": func() error { _, err := f(none, 1); return err },
			} {
				err := call()
				var p *sluice.PanicError
				if errors.As(err, &p) || !errors.Is(err, sluice.ErrInvalidArguments) || !errors.Is(err, sluice.ErrRejected) || !strings.Contains(err.Error(), "the context is nil") {
					t.Errorf("%s: %v", how, err)
				}
			}
			require.NoError(t, rec.Check())
			if got := strings.Count(rec.Trace(), "invoked failed"); got != 3 {
				t.Errorf("%s: want three calls that were invoked and failed", rec.Trace())
			}
			_, err := e.Submit(none, q).Wait(none)
			assert.ErrorContains(t, err, "the context is nil", "Wait")
			assert.ErrorContains(t, e.Close(none), "the context is nil", "Close")
			_, in := sluice.CallFrom(none)
			assert.False(t, in, "CallFrom finds a call")
			require.NoError(t, e.Close(t.Context()))
		})
	}
}

// asksPanic is a context of which one method panics the n-th time that it is asked.
type asksPanic struct {
	context.Context
	method string
	n      int
}

func (c *asksPanic) in(method string) {
	if method == c.method {
		if c.n--; c.n == 0 {
			panic("asked")
		}
	}
}

func (c *asksPanic) Deadline() (time.Time, bool) { c.in("Deadline"); return time.Time{}, false }
func (c *asksPanic) Err() error                  { c.in("Err"); return nil }
func (c *asksPanic) Done() <-chan struct{}       { c.in("Done"); return nil }

// A caller's context that panics, whenever it is asked, keeps no slot and nothing from closing, and its
// call is rejected exactly if the code did not run.
func TestContextThatPanics_KeepsNothing(t *testing.T) {
	for _, method := range []string{"Deadline", "Err", "Done"} {
		for name, own := range map[string]sluice.Policy{
			"plain": {}, "timeout": {Timeout: time.Second}, "cooperative": {Timeout: time.Second, Cooperative: true},
		} {
			for _, fail := range []error{nil, errTool} {
				t.Run(fmt.Sprint(method, " ", name, " ", fail), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						for n, asked := 1, true; asked; n++ {
							asked = panicsOnce(t, method, n, own, fail, 0)
						}
						for n, asked := 1, true; asked; n++ { // a call that takes no lock
							asked = panicsOnce(t, method, n, own, fail, 2)
						}
					})
				})
			}
		}
	}
}

// panicsOnce makes a call whose context panics the n-th time that it is asked, after so many others, and
// reports whether that came to pass.
func panicsOnce(t *testing.T, method string, n int, own sluice.Policy, fail error, before int) (asked bool) {
	t.Helper()
	r := newRig(t, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(atMost(1))})
	ran := false
	r.tool(sluice.Spec{Name: "x", Policy: own}, func(context.Context) error { ran = true; return fail })
	for range before {
		require.Equal(t, fail, r.call("x"))
	}
	ran = false
	ctx := &asksPanic{r.ctx, method, n}
	_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
	var p *sluice.PanicError
	if !errors.As(err, &p) {
		assert.Equal(t, fail, err, "asked %d times", n)
	}
	assert.Equal(t, !ran, errors.Is(err, sluice.ErrRejected), "asked %d times: %v", n, err)
	assert.Equal(t, fail, r.call("x"), "the next call, when the context was asked %d times", n)
	soon, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	require.NoError(t, r.Close(soon), "asked %d times", n)
	r.end()
	return ctx.n <= 0
}

// A result that is kept keeps nothing of its call, whatever there is to say of that.
func TestKeptResult_KeepsNothingOfItsCall(t *testing.T) {
	r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
	costs := sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}
	r.tool(sluice.Spec{Name: "plain"}, func(context.Context) error { return nil })
	r.tool(sluice.Spec{Name: "priced", Policy: costs}, func(context.Context) error { return nil })
	r.tool(sluice.Spec{Name: "streamed", Policy: costs}, streams(t, ms, nil))
	tools := []string{"plain", "priced", "streamed"}
	var kept []sluice.Result
	var contexts []weak.Pointer[bulk]
	for i := range 30 {
		v := new(bulk)
		contexts = append(contexts, weak.Make(v))
		res, err := r.Invoke(context.WithValue(context.Background(), bulkKey{}, v), sluice.Request{Tool: tools[i%3]})
		require.NoError(t, err)
		kept = append(kept, res)
	}
	r.end()
	for range 3 {
		runtime.GC()
	}
	for i, c := range contexts {
		assert.True(t, c.Value() == nil, "the context of call %d, %s, is kept", i, tools[i%3])
	}
	runtime.KeepAlive(kept)
}
