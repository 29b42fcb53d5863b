package promises_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// TestCallKey_IsTheEvents: whoever has a Call, and who hears of it, know it by one key, which no other call has,
// also if the caller gives several at once one id.
func TestCallKey_IsTheEvents(t *testing.T) {
	const id, calls = "call_0", 8
	for _, inSteps := range []bool{false, true} {
		for _, timeout := range []time.Duration{0, time.Minute} {
			for _, submit := range []bool{false, true} {
				t.Run(fmt.Sprintf("steps %v, timeout %v, submit %v", inSteps, timeout, submit), func(t *testing.T) {
					var mu sync.Mutex
					seen := map[sluice.CallKey]map[string]int{}
					note := func(k sluice.CallKey, who string) {
						mu.Lock()
						defer mu.Unlock()
						if seen[k] == nil {
							seen[k] = map[string]int{}
						}
						seen[k][who]++
					}
					around := func(who string) sluice.Interceptor {
						return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
							return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
								note(c.Key, who)
								return next(ctx, c)
							}
						})
					}
					outer := around("outer")
					if inSteps {
						outer = &steps{before: func(_ context.Context, s *sluice.Step) { note(s.Call().Key, "outer") }}
					}
					exec := newExec(t, sluice.Config{
						Interceptors: []sluice.Interceptor{outer, atMost(3), around("inner")},
						Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
							note(e.CallKey, string(e.Kind))
							if e.Call.Key != e.CallKey {
								note(e.Call.Key, "another key in the event's Call")
							}
							return nil
						}),
						Timeout: timeout,
					})
					sluice.Must(sluice.Register(exec.Registry(), sluice.Spec{
						Name:  "tool",
						Check: func(_ context.Context, c sluice.Call) error { note(c.Key, "check"); return nil },
						Policy: sluice.Policy{
							Cost:     func(c sluice.Call, _ string) int64 { note(c.Key, "cost"); return 1 },
							Rates:    []sluice.Rate{{N: 1000, Per: time.Second}},
							Classify: func(c sluice.Call, _ sluice.Result, _ error) sluice.Outcome { note(c.Key, "classify"); return 0 },
						},
					}, func(ctx context.Context, _ struct{}) (string, error) {
						c, ok := sluice.CallFrom(ctx)
						if ok {
							note(c.Key, "code")
						}
						return "", nil
					}))
					var wg sync.WaitGroup
					for range calls {
						wg.Go(func() {
							r := sluice.Request{ID: id, Tool: "tool"}
							var err error
							if submit {
								_, err = exec.Submit(t.Context(), r).Wait(t.Context())
							} else {
								_, err = exec.Invoke(t.Context(), r)
							}
							if err != nil {
								note(0, err.Error())
							}
						})
					}
					wg.Wait()
					require.Len(t, seen, calls)
					for k, of := range seen {
						require.NotZero(t, k)
						delete(of, string(sluice.ToolQueued))
						require.Equal(t, map[string]int{
							"outer": 1, "inner": 1, "check": 1, "cost": 1, "classify": 1, "code": 1,
							string(sluice.ToolInvoked): 1, string(sluice.ToolStarted): 1, string(sluice.ToolCompleted): 1,
						}, of)
					}
				})
			}
		}
	}
}
