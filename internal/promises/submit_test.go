package promises_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An outcome that is there is what Wait answers, also if its context has ended.
func TestFuture_WaitPrefersTheOutcome(t *testing.T) {
	r := newRig(t, sluice.Config{})
	r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
	f := r.Submit(r.ctx, sluice.Request{Tool: "x"})
	<-f.Done()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 1000 {
		_, err := f.Wait(ctx)
		require.NoError(t, err, "the outcome was there, and Wait answered")
	}
	r.end()
}

// Ends of submitted calls, however many come at once, are carried by a few goroutines, and
// calls that run and return at once by little more.
func TestSubmit_ManyEndAtOnce(t *testing.T) {
	calls := 20_000
	if underRace {
		calls = 4000
	}
	for _, how := range []string{"cancelled", "refused by Close", "admitted"} {
		t.Run(how, func(t *testing.T) {
			var peak routinePeak
			hold := limitsOf(sluice.Limit{Max: 1})
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
				Interceptors: interceptors(hold, scheduler(sluice.PrioritySchedulerConfig{MaxQueue: calls})),
				Sink:         sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { peak.look(); return nil })}))
			release := make(chan struct{})
			sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, first bool) (int, error) {
				if first {
					<-release
				}
				return 0, nil
			}))
			holder := e.Submit(t.Context(), sluice.Request{Tool: "x", Input: true})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			futures := make([]*sluice.Future, calls)
			for i := range futures {
				futures[i] = e.Submit(ctx, sluice.Request{Tool: "x", Input: false})
			}
			peak.reset()
			switch how {
			case "cancelled":
				cancel()
			case "admitted":
				require.NoError(t, sluice.Reconfigure("me", hold.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: calls + 1}}})))
			default:
				time.AfterFunc(0, func() { e.Close(context.Background()) })
			}
			for _, f := range futures {
				f.Wait(t.Context())
			}
			close(release)
			holder.Wait(t.Context())
			require.NoError(t, e.Close(t.Context()))
			peak.isLow(t, calls, how != "admitted")
		})
	}
}

// However many submitted calls run, each has its goroutine, whatever the others do.
func TestSubmit_AllThatAreAdmittedRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const calls = 300
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(calls), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: calls}))})
		var g gauge
		r.tool(sluice.Spec{Name: "x"}, g.counts(time.Second))
		var futures []*sluice.Future
		for range 2 * calls {
			futures = append(futures, r.Submit(r.ctx, sluice.Request{Tool: "x"}))
		}
		for range 2 {
			synctest.Wait()
			if n := g.inside.Load(); n != calls {
				t.Errorf("at %v %d run, want %d", r.at(), n, calls)
			}
			time.Sleep(time.Second)
		}
		for _, f := range futures {
			_, err := f.Wait(t.Context())
			require.NoError(t, err)
		}
		r.end()
	})
}

// A tool or a sink that exits takes nobody with it who waits for the same goroutine.
func TestSubmit_OthersGoOnAfterAnExit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const calls = 200
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 2 * calls})),
			Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
				if e.Kind == sluice.ToolFailed {
					runtime.Goexit()
				}
				return nil
			})})
		r.tool(sluice.Spec{Name: "exits"}, func(context.Context) error { runtime.Goexit(); return nil })
		r.tool(sluice.Spec{Name: "busy"}, sleeps(time.Second))
		ctx, cancel := context.WithCancel(r.ctx)
		var futures []*sluice.Future
		futures = append(futures, r.Submit(r.ctx, sluice.Request{Tool: "busy"}))
		for range calls {
			futures = append(futures, r.Submit(ctx, sluice.Request{Tool: "busy"}), r.Submit(r.ctx, sluice.Request{Tool: "exits"}))
		}
		cancel()
		for i, f := range futures {
			_, err := f.Wait(t.Context())
			assert.Equal(t, i == 0, err == nil, "call %d: %v", i, err)
		}
		r.end()
	})
}

// TestSubmit_ContextsThatEndTogether: calls whose contexts have one Done channel are
// watched together, end together, and leave nothing behind.
func TestSubmit_ContextsThatEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
		release := make(chan struct{})
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Policy: sluice.Policy{Concurrency: 1}}, func(_ context.Context, n int) (int, error) {
			<-release
			return n, nil
		}))
		holder := exec.Submit(t.Context(), sluice.Request{Tool: "x", Input: 0})
		synctest.Wait()
		odd, cancel := context.WithCancelCause(t.Context())
		even, stop := context.WithCancel(t.Context())
		defer stop()
		mine := errors.New("mine")
		var futures []*sluice.Future
		for i := range 50 {
			ctx := sluice.WithPipelineContext([]context.Context{even, odd}[i%2], sluice.PipelineContext{Tenant: "a"})
			futures = append(futures, exec.Submit(ctx, sluice.Request{Tool: "x", Input: i}))
		}
		never := exec.Submit(context.Background(), sluice.Request{Tool: "x", Input: 50})
		cancel(mine)
		synctest.Wait()
		for i, f := range futures {
			select {
			case <-f.Done():
				if _, err := f.Wait(t.Context()); i%2 == 0 || !errors.Is(err, mine) || !errors.Is(err, sluice.ErrRejected) {
					t.Errorf("call %d ended with %v", i, err)
				}
			default:
				assert.NotEqual(t, 1, i%2, "call %d still waits", i)
			}
		}
		close(release)
		for i, f := range append(futures, never, holder) {
			if r, err := f.Wait(t.Context()); i%2 == 0 && (err != nil || i < 50 && r.Value != i) {
				t.Errorf("call %d: %v, %v", i, r.Value, err)
			}
		}
		late, err := exec.Submit(odd, sluice.Request{Tool: "x", Input: 1}).Wait(t.Context())
		if !errors.Is(err, mine) || late.Value != nil {
			t.Errorf("a call whose context has ended: %v, %v", late.Value, err)
		}
		require.NoError(t, exec.Close(t.Context()))
	})
}

// askedContext runs code of its own when somebody asks to be told of its end, and when nobody
// wants to be any more.
type askedContext struct {
	context.Context
	asked, left func()
}

func (c askedContext) AfterFunc(f func()) (stop func() bool) {
	c.asked()
	end := context.AfterFunc(c.Context, f)
	return func() bool { c.left(); return end() }
}

// Value hides what the standard library would ask instead.
func (askedContext) Value(any) any { return nil }

// A context of the caller's own type is asked under no lock: its code may submit calls, and
// see others end. If it panics or calls Goexit, the call ends by that, and nothing is left.
func TestSubmit_ContextWithCodeOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
		release := make(chan struct{})
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Policy: sluice.Policy{Concurrency: 1}}, func(_ context.Context, n int) (int, error) {
			<-release
			return n, nil
		}))
		holder := exec.Submit(t.Context(), sluice.Request{Tool: "x", Input: 0})
		synctest.Wait()
		base, cancel := context.WithCancel(t.Context())
		var others []*sluice.Future
		asked := 0
		inner := func() {
			if asked++; asked > 10 {
				return
			}
			others = append(others, exec.Submit(base, sluice.Request{Tool: "x", Input: 1}))
		}
		f := exec.Submit(askedContext{base, inner, inner}, sluice.Request{Tool: "x", Input: 2})
		own, cancelOwn := context.WithCancel(t.Context())
		g := exec.Submit(askedContext{own, inner, inner}, sluice.Request{Tool: "x", Input: 3})
		bad := exec.Submit(askedContext{own, func() { panic("asked") }, func() {}}, sluice.Request{Tool: "x", Input: 4})
		for range 2 {
			var p *sluice.PanicError
			lone, end := context.WithCancel(t.Context())
			if _, err := exec.Submit(askedContext{lone, func() { panic("asked") }, func() {}}, sluice.Request{Tool: "x", Input: 5}).Wait(t.Context()); !errors.As(err, &p) || !errors.Is(err, sluice.ErrRejected) {
				t.Errorf("a context that panics: %v", err)
			}
			end()
		}
		cancel()
		synctest.Wait()
		for i, f := range append(others, f) {
			if _, err := f.Wait(t.Context()); !errors.Is(err, context.Canceled) || !errors.Is(err, sluice.ErrRejected) {
				t.Errorf("call %d ended with %v", i, err)
			}
		}
		close(release)
		for _, f := range []*sluice.Future{holder, g, bad} {
			_, err := f.Wait(t.Context())
			assert.NoError(t, err)
		}
		cancelOwn()
		assert.NotEmpty(t, others, "the context was not asked")
		assert.NoError(t, exec.Close(t.Context()))
	})
}

// oddContext has a method that misbehaves once it is armed.
type oddContext struct {
	context.Context
	armed *atomic.Bool
	how   func()
}

func (c oddContext) Err() error {
	if c.armed.Load() {
		c.how()
	}
	return c.Context.Err()
}

// A context that panics or calls Goexit while its call waits ends that call, however it waits
// and whatever is decided. What it held is given back, and others go on.
func TestPromise10_ContextThatMisbehavesWhileItsCallWaits(t *testing.T) {
	for name, how := range map[string]func(){"panic": func() { panic("asked") }, "Goexit": runtime.Goexit} {
		for _, submit := range []bool{false, true} {
			for _, end := range []string{"admitted", "cancelled", "refused"} {
				t.Run(fmt.Sprint(name, ", submit ", submit, ", ", end), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						policy := sluice.Policy{Concurrency: 1}
						if end == "refused" {
							policy.MaxWait = time.Second
						}
						exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
						release := make(chan struct{})
						x := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Policy: policy}, func(_ context.Context, n int) (int, error) {
							if n == 0 {
								<-release
							}
							return n, nil
						}))
						holder := exec.Submit(t.Context(), sluice.Request{Tool: "x", Input: 0})
						synctest.Wait()
						base, cancel := context.WithCancel(t.Context())
						defer cancel()
						ctx := oddContext{base, new(atomic.Bool), how}
						var f *sluice.Future
						if submit {
							f = exec.Submit(ctx, sluice.Request{Tool: "x", Input: 1})
						} else {
							go func() {
								defer func() { recover() }()
								exec.Invoke(ctx, sluice.Request{Tool: "x", Input: 1})
							}()
						}
						synctest.Wait()
						ctx.armed.Store(true)
						switch end {
						case "cancelled":
							cancel()
							synctest.Wait()
						case "refused":
							time.Sleep(2 * time.Second)
						}
						close(release)
						synctest.Wait()
						if f != nil {
							select {
							case <-f.Done():
							default:
								t.Error("the call has not ended")
							}
						}
						for range 3 { // one slot, and nobody holds it
							n, err := x(t.Context(), 7)
							require.Equal(t, 7, n, "later")
							require.NoError(t, err, "later")
							if res, err := exec.Submit(t.Context(), sluice.Request{Tool: "x", Input: 8}).Wait(t.Context()); res.Value != any(8) || err != nil {
								t.Fatalf("later: %v, %v", res.Value, err)
							}
						}
						_, err := holder.Wait(t.Context())
						assert.NoError(t, err)
						ctx.armed.Store(false)
						assert.NoError(t, exec.Close(t.Context()))
					})
				})
			}
		}
	}
}
