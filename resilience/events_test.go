package resilience_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

// told is what layers have told of calls of tool, as "kind attr=value …", in order.
func (r *rig) told(tool string) (list []string) {
	for _, e := range r.rec.Events(tool) {
		if strings.HasPrefix(string(e.Kind), "tool.") {
			continue
		}
		line := string(e.Kind)
		for _, a := range e.Attrs {
			line += fmt.Sprint(" ", a)
		}
		list = append(list, line)
	}
	return list
}

// Each layer tells what it has done for a call that the call's own events do not say, in their order, and no more.
func TestEvents(t *testing.T) {
	value := func(context.Context, sluice.Call, error) (any, error) { return page{N: 9}, nil }
	fails := func(list ...int) func(context.Context, int) error { // in these runs
		return func(_ context.Context, n int) error {
			time.Sleep(time.Second)
			for _, x := range list {
				if x == n {
					return errBoom
				}
			}
			return nil
		}
	}
	for _, tt := range []struct {
		name   string
		layers []sluice.Interceptor
		tool   func(context.Context, int) error
		calls  int // at once, then after two minutes as many again
		want   []string
	}{
		{"a cache", []sluice.Interceptor{cache(t, resilience.CacheConfig{TTL: time.Hour})}, fails(), 1, []string{"cache.hit stale=false"}},
		{"a cache that is stale", []sluice.Interceptor{cache(t, resilience.CacheConfig{StaleTTL: time.Hour})}, fails(2), 1, []string{"cache.hit stale=true"}},
		{"a cache that has nothing", []sluice.Interceptor{cache(t, resilience.CacheConfig{})}, fails(), 1, nil},
		{"a join", []sluice.Interceptor{join(t, resilience.JoinConfig{})}, fails(2), 3, []string{"join.shared", "join.shared", "join.shared", "join.shared"}},
		{"a join of one", []sluice.Interceptor{join(t, resilience.JoinConfig{})}, fails(), 1, nil},
		{"a fallback", []sluice.Interceptor{fallback(t, resilience.FallbackConfig{Func: value})}, fails(2), 1, []string{"fallback.answered by=func"}},
		{"a fallback to a tool", []sluice.Interceptor{fallback(t, resilience.FallbackConfig{To: "other"})}, fails(1), 1, []string{"fallback.answered by=tool"}},
		{"a fallback that fails", []sluice.Interceptor{fallback(t, resilience.FallbackConfig{To: "none"})}, fails(1), 1, nil},
		{"a hedge that wins", []sluice.Interceptor{hedge(t, resilience.HedgeConfig{})}, func(ctx context.Context, n int) error {
			if n == 1 {
				return sleeps(ctx, time.Minute)
			}
			return nil
		}, 1, []string{"hedge.started after=100ms", "hedge.won"}},
		{"a hedge that loses", []sluice.Interceptor{hedge(t, resilience.HedgeConfig{})}, func(ctx context.Context, n int) error { return sleeps(ctx, 150*ms) }, 1,
			[]string{"hedge.started after=100ms", "hedge.started after=100ms"}},
		{"all", nil, fails(), 1, []string{"cache.hit stale=false"}},
	} {
		for _, submit := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, submit %v", tt.name, submit), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					if tt.layers == nil {
						tt.layers = usualStack(t)
					}
					list := tt.layers
					for _, x := range list { // the next time it knows nothing
						if c, ok := x.(*resilience.Cache); ok {
							c.Clear()
						}
					}
					r := newRig(t, sluice.Config{}, list...)
					search(r, "x", readOnly, tt.tool)
					search(r, "other", readOnly, works)
					for range 2 {
						done := make(chan struct{})
						for i := range tt.calls {
							go func() {
								defer func() { done <- struct{}{} }()
								time.Sleep(time.Duration(i))
								_, _ = either(r.Executor, submit, r.ctx, sluice.Request{Tool: "x", Input: query{"a"}})
							}()
						}
						for range tt.calls {
							<-done
						}
						time.Sleep(2 * time.Minute)
					}
					require.Equal(t, tt.want, r.told("x"))
					r.end()
				})
			})
		}
	}
}

// A key that is known is told as replayed, to those who wait for it and to those who come later, and one in doubt as that:
// of the call that leaves it so, and of those that find it so.
func TestEvents_Once(t *testing.T) {
	bubble(t, func(t *testing.T) {
		state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		defer state.Close()
		layer := sluice.Must(resilience.NewOnce(resilience.OnceConfig{State: state, Errors: func(error) bool { return true },
			Key: func(c sluice.Call) (string, bool) { return c.Input.(query).Q, true }}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limits(sluice.Limit{Max: 10}), layer.Inner()}}, layer)
		f := search(r, "x", sluice.Hints{}, func(context.Context, int) error { time.Sleep(time.Second); return nil })
		together(f, r.ctx, r.ctx)
		together(f, r.ctx)
		bad := search(r, "bad", sluice.Hints{}, func(context.Context, int) error { time.Sleep(time.Second); return errBoom })
		together(bad, r.ctx, r.ctx)
		together(bad, r.ctx)
		slow := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "slow", Policy: sluice.Policy{Timeout: time.Second}}, func(context.Context, query) (page, error) {
			time.Sleep(time.Minute)
			return page{}, nil
		}))
		call := func(ctx context.Context, q string) (page, error) { return slow(ctx, query{q}) }
		since := time.Now().Add(time.Second)
		together(call, r.ctx, r.ctx)
		together(call, r.ctx)
		require.Equal(t, []string{"once.replayed failed=false", "once.replayed failed=false"}, r.told("x"))
		require.Equal(t, []string{"once.replayed failed=true", "once.replayed failed=true"}, r.told("bad"))
		doubt := "once.in_doubt since=" + since.UTC().String()
		require.Equal(t, []string{doubt, doubt, doubt}, r.told("slow"))
		r.end()
	})
}

// With nobody who listens, and with somebody, a hit costs little beside what it spares.
func BenchmarkCache(b *testing.B) {
	for name, sink := range map[string]sluice.EventSink{"quiet": nil, "with a sink": sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })} {
		layer := sluice.Must(resilience.NewCache(resilience.CacheConfig{TTL: time.Hour}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{layer}, Sink: sink}))
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Hints: readOnly}, func(context.Context, int) (int, error) { return 0, nil }))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := exec.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "x", Input: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
