package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/resilience"
)

// counts is a call of a tool that yields so many numbers, one a second, and then what it says.
type counts struct {
	N    int    `json:"n"`
	Ends string `json:"ends"`
}

// counter is an executor of one slot with a tool that counts.
type counter struct {
	t     *testing.T
	exec  *sluice.Executor
	tool  *agent.YieldTool[counts, int]
	rec   *sluice.Recorder
	ctx   context.Context
	ended int // sequences that have ended
	began time.Time
}

func newCounter(t *testing.T, p sluice.Policy, outer ...sluice.Interceptor) *counter {
	one := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: append(outer, one)}))
	pc, rec := sluice.NewTestPipelineContext()
	x := &counter{t: t, exec: exec, rec: rec, ctx: sluice.WithPipelineContext(t.Context(), pc), began: time.Now()}
	x.tool = sluice.Must(agent.RegisterYield(exec.Registry(), sluice.Spec{Name: "count", Policy: p}, func(ctx context.Context, in counts) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			defer func() { x.ended++ }()
			for i := range in.N {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					yield(0, ctx.Err())
					return
				}
				sluice.ReportUsage(ctx, "numbers", int64(i+1))
				if !yield(i, nil) {
					return
				}
			}
			switch in.Ends {
			case "error":
				yield(0, errOwn)
			case "panic":
				panic("its own")
			case "exit":
				runtime.Goexit()
			case "silent": // it ends with its context, without a word
				<-ctx.Done()
			}
		}
	}))
	return x
}

// free holds that the slot is free now, and every sequence that began has ended.
func (x *counter) free(began int) {
	x.t.Helper()
	require.Equal(x.t, began, x.ended)
	require.Zero(x.t, x.exec.Snapshot().InFlight)
	for _, g := range x.exec.Snapshot().Gates {
		require.Zero(x.t, g.Used, g.Name)
	}
}

func (x *counter) close() {
	x.t.Helper()
	require.NoError(x.t, x.exec.Close(context.Background()))
	require.NoError(x.t, x.rec.Check())
}

// all is what ranging over the tool comes to, and when.
func (x *counter) all(ctx context.Context, in counts) (list []int, err error) {
	for v, e := range x.tool.Range(ctx, x.exec, in) {
		if err = e; e == nil {
			list = append(list, v)
		}
	}
	return list, err
}

// A part comes when it is there, and the slot is the stream's until it ends.
func TestYield_Range(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newCounter(t, sluice.Policy{})
		n := 0
		for v, err := range x.tool.Range(x.ctx, x.exec, counts{N: 3}) {
			require.NoError(t, err)
			require.Equal(t, n, v)
			n++
			require.Equal(t, time.Duration(n)*time.Second, time.Since(x.began))
			require.Equal(t, 1, x.exec.Snapshot().InFlight)
		}
		require.Equal(t, 3, n)
		x.free(1)
		require.Equal(t, "count: invoked started completed", x.rec.Trace())
		// Whoever waits for the slot starts when the stream ends.
		go func() {
			for range x.tool.Range(x.ctx, x.exec, counts{N: 5}) {
			}
		}()
		synctest.Wait()
		list, err := x.all(x.ctx, counts{N: 1})
		require.NoError(t, err)
		require.Equal(t, []int{0}, list)
		require.Equal(t, 9*time.Second, time.Since(x.began))
		x.close()
	})
}

// However the loop or the sequence ends, the call has ended then.
func TestYield_Ends(t *testing.T) {
	for name, f := range map[string]struct {
		loop  func(x *counter)
		trace string
	}{
		"break": {func(x *counter) {
			for range x.tool.Range(x.ctx, x.exec, counts{N: 5}) {
				break
			}
		}, "count: invoked started completed"},
		"a panic of the body": {func(x *counter) {
			require.PanicsWithValue(x.t, "the body's", func() {
				for range x.tool.Range(x.ctx, x.exec, counts{N: 5}) {
					panic("the body's")
				}
			})
		}, "count: invoked started completed"},
		"Goexit of the body": {func(x *counter) {
			done := make(chan bool)
			go func() {
				defer close(done)
				for range x.tool.Range(x.ctx, x.exec, counts{N: 5}) {
					runtime.Goexit()
				}
			}()
			<-done
		}, "count: invoked started completed"},
		"an error": {func(x *counter) {
			list, err := x.all(x.ctx, counts{2, "error"})
			require.Equal(x.t, []int{0, 1}, list)
			require.ErrorIs(x.t, err, errOwn)
		}, "count: invoked started failed"},
		"a panic of the sequence": {func(x *counter) {
			list, err := x.all(x.ctx, counts{2, "panic"})
			require.Equal(x.t, []int{0, 1}, list)
			var p *sluice.PanicError
			require.ErrorAs(x.t, err, &p)
			require.Equal(x.t, "its own", p.Value)
			require.Contains(x.t, string(p.Stack), "yields_test.go")
		}, "count: invoked started failed"},
		"Goexit of the sequence": {func(x *counter) {
			done := make(chan bool)
			go func() {
				defer close(done)
				x.all(x.ctx, counts{2, "exit"})
				panic("not here")
			}()
			<-done
		}, "count: invoked started failed"},
		"the caller goes": {func(x *counter) {
			ctx, cancel := context.WithCancelCause(x.ctx)
			gone := errors.New("gone")
			time.AfterFunc(2500*time.Millisecond, func() { cancel(gone) })
			list, err := x.all(ctx, counts{N: 9})
			require.Equal(x.t, []int{0, 1}, list)
			require.ErrorIs(x.t, err, gone)
			require.Equal(x.t, 2500*time.Millisecond, time.Since(x.began))
		}, "count: invoked started failed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newCounter(t, sluice.Policy{})
				f.loop(x)
				x.free(1)
				require.Equal(t, f.trace, x.rec.Trace())
				x.close()
			})
		})
	}
}

// The time of an attempt bounds the whole stream, also if the body takes it, and frees the slot in time.
func TestYield_Timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newCounter(t, sluice.Policy{Timeout: 3500 * time.Millisecond})
		list, err := x.all(x.ctx, counts{N: 9})
		require.Equal(t, []int{0, 1, 2}, list)
		require.ErrorIs(t, err, sluice.ErrTimeout)
		require.Equal(t, 3500*time.Millisecond, time.Since(x.began))
		synctest.Wait() // the stream's context ends first
		x.free(1)

		list, err = x.all(x.ctx, counts{2, "silent"}) // which ends as if these were all
		require.Equal(t, []int{0, 1}, list)
		require.ErrorIs(t, err, sluice.ErrTimeout)

		var errs []error
		for _, err := range x.tool.Range(x.ctx, x.exec, counts{N: 2}) {
			if errs = append(errs, err); err == nil {
				time.Sleep(time.Hour)
				require.Zero(t, x.exec.Snapshot().InFlight, "nobody waits for that")
			}
		}
		require.Len(t, errs, 2)
		require.ErrorIs(t, errs[1], sluice.ErrTimeout)
		synctest.Wait()
		x.free(3)
		x.close()
	})
}

// Without a time of its own a stream has ten minutes.
func TestYield_EndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newCounter(t, sluice.Policy{})
		list, err := x.all(x.ctx, counts{2, "silent"})
		require.Equal(t, []int{0, 1}, list)
		require.ErrorIs(t, err, sluice.ErrTimeout)
		require.Equal(t, 10*time.Minute, time.Since(x.began))
		synctest.Wait()
		x.free(1)
		x.close()
	})
}

// A sequence that nobody ranges over makes no call, and one that is ranged over twice makes two.
func TestYield_RangedTwiceOrNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newCounter(t, sluice.Policy{})
		seq := x.tool.Range(x.ctx, x.exec, counts{N: 2})
		x.free(0)
		require.Empty(t, x.rec.Events())
		for range 2 {
			n := 0
			for v, err := range seq {
				require.NoError(t, err)
				require.Equal(t, n, v)
				n++
			}
			require.Equal(t, 2, n)
		}
		x.free(2)
		x.close()
	})
}

// An interceptor that drops the stream keeps no slot: it ends with the loop that did not get it.
func TestYield_AStreamThatIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drops := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if _, err := next(ctx, c); err != nil {
					return sluice.Result{}, err
				}
				return sluice.Result{Value: []int{7, 8}}, nil
			}
		})
		x := newCounter(t, sluice.Policy{}, drops)
		list, err := x.all(x.ctx, counts{N: 2})
		require.NoError(t, err)
		require.Equal(t, []int{7, 8}, list)
		synctest.Wait()
		x.free(0)
		x.close()
	})
}

// Who does not range gets all parts as a list, and those that came before when the time is over.
func TestYield_AsAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newCounter(t, sluice.Policy{Timeout: 3500 * time.Millisecond})
		invoke := func(args string) (sluice.Result, error) {
			return x.exec.Invoke(x.ctx, sluice.Request{Tool: "count", Args: json.RawMessage(args)})
		}
		res, err := invoke(`{"n":3}`)
		require.NoError(t, err)
		require.Equal(t, []int{0, 1, 2}, res.Value)
		res, err = invoke(`{"n":0}`)
		require.NoError(t, err)
		require.Equal(t, []int{}, res.Value)
		res, err = invoke(`{"n":2,"ends":"error"}`)
		require.ErrorIs(t, err, errOwn)
		require.Equal(t, []int{0, 1}, res.Partial())
		res, err = invoke(`{"n":9}`)
		require.ErrorIs(t, err, sluice.ErrTimeout)
		require.Equal(t, []int{0, 1, 2}, res.Partial())
		synctest.Wait()
		x.free(4)
		x.close()
	})
}

// A hedge, a retry and a cache around it do no harm: what is stored or made anew comes as a list.
func TestYield_WithLayersAround(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := sluice.Must(resilience.NewCache(resilience.CacheConfig{TTL: time.Hour}))
		x := newCounter(t, sluice.Policy{}, cache)
		for range 2 {
			list, err := x.all(x.ctx, counts{N: 2})
			require.NoError(t, err)
			require.Equal(t, []int{0, 1}, list)
		}
		x.free(2)
		_, err := x.exec.Invoke(x.ctx, sluice.Request{Tool: "count", Args: json.RawMessage(`{"n":2,"ends":""}`)})
		require.NoError(t, err)
		x.close()
	})
}

func TestYield_ManyParts(t *testing.T) {
	reg := sluice.NewToolRegistry()
	exec := sluice.Must(sluice.NewExecutor(reg, sluice.Config{}))
	many := func(_ context.Context, n int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := 0; i < n && yield(i, nil); i++ {
			}
		}
	}
	tool, err := agent.RegisterYield(reg, sluice.Spec{Name: "many"}, many)
	require.NoError(t, err)
	res, err := exec.Invoke(t.Context(), sluice.Request{Tool: "many", Args: json.RawMessage("100000")})
	require.NoError(t, err)
	require.Len(t, res.Value, 100_000)
	_, err = exec.Invoke(t.Context(), sluice.Request{Tool: "many", Args: json.RawMessage("100001")})
	require.ErrorContains(t, err, "agent: the tool yields more than 100000 parts: must be at most that to be read as a whole")
	n := 0
	for _, err := range tool.Range(t.Context(), exec, 200_000) {
		require.NoError(t, err)
		n++
	}
	require.Equal(t, 200_000, n)
	_, err = agent.RegisterYield[int, int](reg, sluice.Spec{Name: "none"}, nil)
	require.EqualError(t, err, `agent: RegisterYield: the function of "none" is nil: must not be`)
	_, err = agent.RegisterYield(reg, sluice.Spec{Name: "many"}, many)
	require.Error(t, err)
	require.NoError(t, exec.Close(t.Context()))
}

// A tool that yields may read another, or itself, as a whole or in parts.
func TestYield_Nested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newCounter(t, sluice.Policy{})
		outer := sluice.Must(agent.RegisterYield(x.exec.Registry(), sluice.Spec{Name: "outer"}, func(ctx context.Context, n int) iter.Seq2[string, error] {
			return func(yield func(string, error) bool) {
				res, err := x.exec.Invoke(ctx, sluice.Request{Tool: "count", Input: counts{N: n}})
				if !yield(fmt.Sprint(res.Value), err) {
					return
				}
				for v, err := range x.tool.Range(ctx, x.exec, counts{N: n}) {
					if !yield(fmt.Sprint(v), err) {
						return
					}
				}
			}
		}))
		var got []string
		for v, err := range outer.Range(x.ctx, x.exec, 2) {
			require.NoError(t, err)
			got = append(got, v)
		}
		require.Equal(t, []string{"[0 1]", "0", "1"}, got)
		x.free(2)
		x.close()
	})
}
