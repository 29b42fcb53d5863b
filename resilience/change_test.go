package resilience_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

func reconfigure(t *testing.T, list ...sluice.Change) {
	t.Helper()
	require.NoError(t, sluice.Reconfigure("a test", list...))
}

func no(sluice.Spec) bool { return false }

// What cannot be is refused as where the layer is made, a name cannot change, and then no change is made, of others neither.
func TestChange_Refused(t *testing.T) {
	value := func(context.Context, sluice.Call, error) (any, error) { return page{}, nil }
	c, j := cache(t, resilience.CacheConfig{}), join(t, resilience.JoinConfig{})
	f, d := fallback(t, resilience.FallbackConfig{Func: value}), timeout(t, resilience.TimeoutConfig{Total: time.Hour})
	r, h := retry(t, resilience.RetryConfig{}), sluice.Must(resilience.NewHedge(resilience.HedgeConfig{}))
	for want, x := range map[string]sluice.Change{
		`resilience: CacheConfig.TTL is -1ns: must not be negative`:                             c.Change(resilience.CacheConfig{TTL: -1}),
		`resilience: CacheConfig.Name is "x": cannot change, it is "cache"`:                     c.Change(resilience.CacheConfig{Name: "x"}),
		`resilience: JoinConfig.Name is "x": cannot change, it is "join"`:                       j.Change(resilience.JoinConfig{Name: "x"}),
		`resilience: FallbackConfig: To and Func are both set, or neither: must be one of them`: f.Change(resilience.FallbackConfig{}),
		`resilience: FallbackConfig.Name is "x": cannot change, it is "fallback"`:               f.Change(resilience.FallbackConfig{Name: "x", To: "y"}),
		`resilience: TimeoutConfig.Total is 0s: must be positive`:                               d.Change(resilience.TimeoutConfig{}),
		`resilience: TimeoutConfig.Name is "x": cannot change, it is "timeout"`:                 d.Change(resilience.TimeoutConfig{Name: "x", Total: time.Second}),
		`resilience: RetryConfig.Attempts is -1: must be zero (3) or from 1 to 100`:             r.Change(resilience.RetryConfig{Attempts: -1}),
		`resilience: HedgeConfig.Quantile is 2: must be zero (After alone) or from 0.5 to 0.99`: h.Change(resilience.HedgeConfig{Quantile: 2}),
	} {
		other := cache(t, resilience.CacheConfig{})
		require.ErrorContains(t, sluice.Reconfigure("a test", other.Change(resilience.CacheConfig{TTL: time.Hour}), x), want)
		require.Equal(t, time.Minute, other.Config().TTL)
	}
	reconfigure(t, c.Change(resilience.CacheConfig{TTL: time.Hour, Name: "cache"}), f.Change(resilience.FallbackConfig{To: "y"}),
		d.Change(resilience.TimeoutConfig{Total: time.Minute}), j.Change(resilience.JoinConfig{Tools: no}))
	require.Equal(t, []any{"cache", time.Hour, 1000, "y", time.Minute, "timeout", false, "join"},
		[]any{c.String(), c.Config().TTL, c.Config().MaxEntries, f.Config().To, d.Config().Total, d.Config().Name, j.Config().Tools(sluice.Spec{Hints: readOnly}), j.String()})
	require.True(t, f.Config().Func == nil)
}

// A cache keeps what it has when it changes, as far as there is room; but nothing whose key may mean something else, also
// if the call is under way that will have it.
func TestCache_Change(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x := cache(t, resilience.CacheConfig{})
		r := newRig(t, sluice.Config{}, x)
		f := search(r, "x", readOnly, func(context.Context, int) error { time.Sleep(time.Second); return nil })
		get := func(q string) int {
			t.Helper()
			p, err := f(r.ctx, q)
			require.NoError(t, err)
			return p.N
		}
		entries := func() int64 { return x.Inspect()[0].Used }
		require.Equal(t, []int{1, 2, 1}, []int{get("a"), get("b"), get("a")})

		c := x.Config()
		c.MaxEntries = 1
		reconfigure(t, x.Change(c))
		require.EqualValues(t, 1, entries())
		require.Equal(t, []int{1, 3}, []int{get("a"), get("b")}, "the least used has gone")

		reconfigure(t, x.Change(resilience.CacheConfig{Tools: no}))
		require.Equal(t, 4, get("b"), "no tool's now")
		reconfigure(t, x.Change(resilience.CacheConfig{TTL: time.Hour}))
		require.Equal(t, 3, get("b"))
		time.Sleep(time.Minute)
		require.Equal(t, 5, get("b"), "for the time that it was given")
		time.Sleep(time.Hour - time.Second - 1)
		require.Equal(t, 5, get("b"))

		one := func(sluice.Call) (string, bool) { return "k", true }
		go get("c")
		synctest.Wait()
		reconfigure(t, x.Change(resilience.CacheConfig{Key: one}))
		require.Zero(t, entries())
		time.Sleep(2 * time.Second)
		require.Zero(t, entries(), "nor what came by a key of before")
		require.Equal(t, []int{7, 7}, []int{get("a"), get("b")})
		reconfigure(t, x.Change(resilience.CacheConfig{}))
		require.Zero(t, entries())
		r.end()
	})
}

// Calls that come after a change share nothing with those of before, which go on as they would have.
func TestJoin_Change(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x := join(t, resilience.JoinConfig{Key: func(sluice.Call) (string, bool) { return "k", true }})
		r := newRig(t, sluice.Config{}, x)
		f := search(r, "x", readOnly, func(context.Context, int) error { time.Sleep(time.Second); return nil })
		var got [5]int
		var wg sync.WaitGroup
		call := func(i int, q string) {
			wg.Go(func() {
				p, err := f(r.ctx, q)
				if err == nil {
					got[i] = p.N
				}
			})
			synctest.Wait()
		}
		call(0, "a")
		call(1, "b")
		reconfigure(t, x.Change(resilience.JoinConfig{Key: func(sluice.Call) (string, bool) { return "k", true }}))
		call(2, "c")
		require.EqualValues(t, 2, x.Inspect()[0].Used)
		reconfigure(t, x.Change(resilience.JoinConfig{Tools: no}))
		call(3, "c")
		call(4, "c")
		wg.Wait()
		require.Equal(t, [5]int{1, 1, 2, 3, 4}, got)
		r.end()
	})
}

// Who is called instead, and for what, may change at any time, also for a call that is under way.
func TestFallback_Change(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x := fallback(t, resilience.FallbackConfig{To: "other"})
		r := newRig(t, sluice.Config{}, x)
		f := search(r, "x", readOnly, func(context.Context, int) error { time.Sleep(time.Second); return errBoom })
		for i, name := range []string{"other", "another"} {
			sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: name}, func(context.Context, query) (page, error) { return page{N: 10 * (i + 1)}, nil }))
		}
		p, err := f(r.ctx, "a")
		require.NoError(t, err)
		require.Equal(t, 10, p.N)
		time.AfterFunc(ms, func() { reconfigure(t, x.Change(resilience.FallbackConfig{To: "another"})) })
		p, err = f(r.ctx, "a")
		require.NoError(t, err)
		require.Equal(t, 20, p.N)
		reconfigure(t, x.Change(resilience.FallbackConfig{To: "x"}))
		_, err = f(r.ctx, "a")
		require.ErrorIs(t, err, errBoom, "not of itself")
		reconfigure(t, x.Change(resilience.FallbackConfig{To: "other", Tools: no}))
		_, err = f(r.ctx, "a")
		require.ErrorIs(t, err, errBoom)
		r.end()
	})
}

// A call has the time that there was when it came, and its error says so, whether it was waiting or running.
func TestTimeout_Change(t *testing.T) {
	for _, full := range []bool{false, true} {
		t.Run(fmt.Sprint("waits ", full), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				x := timeout(t, resilience.TimeoutConfig{Total: 10 * time.Second})
				r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limits(sluice.Limit{Max: 1, Scope: sluice.ForTool("x")})}}, x)
				f := r.tool(sluice.Spec{}, func(context.Context, int) error { time.Sleep(time.Hour); return nil })
				if full {
					reconfigure(t, x.Change(resilience.TimeoutConfig{Total: time.Second, Tools: no}))
					go f(r.ctx)
					synctest.Wait()
					reconfigure(t, x.Change(resilience.TimeoutConfig{Total: 10 * time.Second}))
				}
				for _, total := range []time.Duration{10 * time.Second, 5 * time.Second, 20 * time.Second} {
					began := time.Now()
					time.AfterFunc(time.Second, func() {
						reconfigure(t, x.Change(resilience.TimeoutConfig{Total: map[time.Duration]time.Duration{10e9: 5e9, 5e9: 20e9, 20e9: 1e9}[total]}))
					})
					err := f(r.ctx)
					var over *resilience.TimeoutError
					require.ErrorAs(t, err, &over)
					require.Equal(t, total, over.Total)
					require.Equal(t, total, time.Since(began).Round(ms), "in the queue a nanosecond less")
					if !full {
						time.Sleep(2 * time.Hour) // its code has ended
					}
				}
				r.end()
			})
		})
	}
}

// A fallback answers nobody whose time is over, by a deadline of its own or an interceptor further out: nobody waits.
func TestFallback_TooLate(t *testing.T) {
	for _, queued := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			asked := 0
			layer := fallback(t, resilience.FallbackConfig{If: func(error) bool { asked++; return true },
				Func: func(context.Context, sluice.Call, error) (any, error) { return 9, nil }})
			r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limits(sluice.Limit{Max: 1})}},
				timeout(t, resilience.TimeoutConfig{Total: 5 * time.Second, Tools: func(s sluice.Spec) bool { return s.Name == "x" }}), layer)
			f := r.tool(sluice.Spec{}, func(context.Context, int) error { time.Sleep(time.Hour); return nil })
			if queued {
				slow := r.tool(sluice.Spec{Name: "slow"}, func(context.Context, int) error { time.Sleep(time.Minute); return nil })
				go slow(r.ctx)
				synctest.Wait()
			}
			err := f(r.ctx)
			var over *resilience.TimeoutError
			require.ErrorAs(t, err, &over)
			require.Zero(t, asked)
			require.Equal(t, 5*time.Second, time.Since(r.start).Round(ms))
			if queued {
				ctx, cancel := context.WithTimeout(r.ctx, time.Second)
				defer cancel()
				require.ErrorIs(t, f(ctx), sluice.ErrWaitTooLong, "a nanosecond before its deadline")
				require.Zero(t, asked)
			}
			r.end()
		})
	}
}
