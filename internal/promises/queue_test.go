package promises_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A paused or slow tool that has filled the queue with its waiters leaves 16 places to every
// other tool, and to every other tenant; its own calls are refused at exactly MaxQueue.
func TestQueueBound_OneToolFillsItForNobodyElse(t *testing.T) {
	const queue = 50
	for name, c := range map[string]*sluice.PrioritySchedulerConfig{
		"no scheduler": nil, "scheduler": {MaxQueue: queue}, "Shed": {MaxQueue: queue, Shed: true}, "a small queue": {MaxQueue: 5}, "a small queue, Shed": {MaxQueue: 5, Shed: true},
	} {
		for _, blocked := range []string{"paused", "slow"} {
			t.Run(name+", "+blocked, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					conf, n := sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByTool}))}, 1000
					if c != nil {
						conf.Interceptors, n = append(conf.Interceptors, scheduler(*c)), c.MaxQueue
					}
					r := newRig(t, conf)
					r.ctx = t.Context()
					tool := func(name string) {
						r.tool(sluice.Spec{Name: name}, func(ctx context.Context) error {
							if blocked == "paused" && r.at() == 0 {
								return retryIn(time.Minute)
							}
							time.Sleep(time.Minute)
							return nil
						})
					}
					tool("full")
					if blocked == "paused" {
						_ = r.call("full")
					} else {
						r.busy("full")
					}
					var list []*sluice.Future
					ctx := r.as(0, "flood")
					submit := func(tool string, n int) (refused int) {
						for range n {
							f := r.Submit(ctx, sluice.Request{Tool: tool})
							synctest.Wait()
							select {
							case <-f.Done():
								if _, err := f.Wait(t.Context()); !errors.Is(err, sluice.ErrQueueFull) {
									t.Errorf("%s: %v, want ErrQueueFull", tool, err)
								}
								refused++
							default:
								list = append(list, f)
							}
						}
						return refused
					}
					assert.Equal(t, 20, submit("full", n+20),
						"of %d refused of the tool that fills the queue", n+20)
					floor := min(16, n)
					for i := range 3 {
						other := fmt.Sprint("other", i)
						r.tool(sluice.Spec{Name: other}, sleeps(time.Minute))
						r.busy(other)
						assert.Equal(t, 3, submit(other, floor+3), "%s: of %d refused", other, floor+3)
					}
					ctx = r.as(0, "other tenant")
					assert.Zero(t, submit("full", floor), "another tenant: of %d refused", floor)
					for _, f := range list {
						if c != nil && c.Shed {
							<-f.Done() // one of the flood may have gone for another tenant's
							continue
						}
						_, err := f.Wait(t.Context())
						require.NoError(t, err)
					}
					r.end()
				})
			})
		}
	}
}

// The bound of the queue is each executor's own, also where both list the same gates and the
// same scheduler.
func TestQueueBound_IsEachExecutorsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit, s := atMost(1), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 20})
		reg := sluice.NewToolRegistry()
		a := rigOver(t, reg, sluice.Config{Interceptors: interceptors(limit, s)})
		b := rigOver(t, reg, sluice.Config{Interceptors: interceptors(limit, s)})
		rawTool(t, reg, sluice.Spec{Name: "x"}, sleeps(ms))
		a.busy("x")
		for _, r := range []*rig{a, b} {
			refused := 0
			for range 30 {
				f := r.Submit(r.ctx, sluice.Request{Tool: "x"})
				synctest.Wait()
				select {
				case <-f.Done():
					refused++
				default:
				}
			}
			assert.Equal(t, 10, refused, "of 30 refused")
		}
		time.Sleep(time.Second)
		a.end()
		b.end()
	})
}
