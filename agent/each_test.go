package agent_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

func TestEach_YieldsInTheOrderOfTheEnds(t *testing.T) {
	for form, config := range around {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, config())
				calls := []sluice.Request{request("0", "work", 300), request("1", "work", 100), request("2", "streams", 0), request("3", "work", 200), request("4", "nobody's", 0)}
				began, order := time.Now(), []int(nil)
				for i, r := range d.runner(agent.Config{}).Each(d.ctx, calls) {
					require.Equal(t, calls[i], r.Request)
					require.Equal(t, []time.Duration{300, 100, 0, 200, 0}[i]*time.Millisecond, time.Since(began))
					order = append(order, i)
				}
				require.Equal(t, []int{1, 3, 0}, order[2:])
				(<-d.streamed)()
				d.close()
			})
		})
	}
}

// TestEach_GoesOnWhileItsBodyRuns: a body that takes long keeps no call back.
func TestEach_GoesOnWhileItsBodyRuns(t *testing.T) {
	for form, config := range around {
		for _, c := range []agent.Config{{Parallel: 2}, {}} {
			t.Run(fmt.Sprintf("%s/%d", form, c.Parallel), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDesk(t, config(limited(2, sluice.PrioritySchedulerConfig{MaxQueue: 1})...))
					calls := make([]sluice.Request, 10)
					for i := range calls {
						calls[i] = request(fmt.Sprint(i), "work", 1000)
					}
					n := 0
					for _, r := range d.runner(c).Each(d.ctx, calls) {
						require.NoError(t, r.Err)
						if n++; n == 1 {
							time.Sleep(time.Minute)
							require.Len(t, d.starts(), 10)
							require.Zero(t, d.running.Load())
						}
					}
					require.Equal(t, 10, n)
					d.close()
				})
			})
		}
	}
}

// TestEach_LeftEarly: whichever way the loop is left, nobody is waited for, and nothing is left behind.
func TestEach_LeftEarly(t *testing.T) {
	for form, config := range around {
		for name, leave := range map[string]func(){
			"break": nil,
			"panic": func() { panic("the caller's") },
			"exit":  runtime.Goexit,
		} {
			for _, c := range []agent.Config{{}, {Parallel: 3}, {Deadline: time.Hour}} {
				t.Run(fmt.Sprintf("%s/%s/%d", form, name, c.Parallel), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						d := newDesk(t, config(limited(3, sluice.PrioritySchedulerConfig{MaxQueue: 2})...))
						stuck := make(chan struct{})
						register(d, "stuck", sluice.Policy{}, func(ctx context.Context, _ workIn) (int, error) { <-stuck; return 0, ctx.Err() })
						calls := []sluice.Request{request("0", "stuck", 0), request("1", "work", 1000), request("2", "work", 5000)}
						for i := range 20 {
							calls = append(calls, request(fmt.Sprint(i+3), "work", 5000))
						}
						if form == "an interceptor outside" && c.Parallel == 0 {
							calls = calls[:3] // of more, chance decides who is first
						}
						began, n, ended := time.Now(), 0, make(chan any)
						go func() {
							defer func() { ended <- recover() }()
							for range d.runner(c).Each(d.ctx, calls) {
								if n++; leave != nil {
									leave()
								}
								break
							}
						}()
						v := <-ended
						require.Equal(t, name == "panic", v != nil)
						require.Equal(t, 1, n)
						require.Equal(t, time.Second, time.Since(began), "it waits for nobody")
						synctest.Wait()
						require.Zero(t, d.running.Load(), "who minds the context has ended")
						require.Zero(t, d.exec.Snapshot().Queued)
						started := len(d.starts())
						close(stuck)
						d.close()
						require.Empty(t, d.starts())
						require.LessOrEqual(t, started, 3)
						ends := 0
						for _, e := range d.rec.Events() {
							if e.Kind == sluice.ToolInvoked {
								ends++
							} else if e.Err != nil && e.Call.ID != "0" && !errors.Is(e.Err, sluice.ErrQueueFull) {
								require.ErrorIs(t, e.Err, context.Canceled)
							}
						}
						require.Less(t, ends, 10, "what was not submitted is not")
					})
				})
			}
		}
	}
}

// TestEach_LeftWhileACallIsSubmitted: nobody submits another after that.
func TestEach_LeftWhileACallIsSubmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		n, hold := 0, make(chan struct{})
		_, err := sluice.Register(d.reg, sluice.Spec{Name: "checked", Check: func(context.Context, sluice.Call) error {
			if n++; n == 2 {
				<-hold
			}
			return nil
		}}, func(context.Context, workIn) (int, error) {
			time.Sleep(time.Millisecond) // so that whoever ranges waits for the end
			return 1, nil
		})
		require.NoError(t, err)
		calls := make([]sluice.Request, 5)
		for i := range calls {
			calls[i] = request(fmt.Sprint(i), "checked", 0)
		}
		for i, r := range d.runner(agent.Config{Parallel: 1}).Each(d.ctx, calls) {
			require.Zero(t, i)
			require.Equal(t, 1, r.Result.Value)
			synctest.Wait() // for the second, which somebody submits meanwhile
			require.Equal(t, 2, n)
			break
		}
		close(hold)
		synctest.Wait()
		require.Equal(t, 2, n)
		d.close()
	})
}

// TestEach_ACallThatEndsItsSubmitter: a check that calls Goexit has an outcome, too, and the others go on.
func TestEach_ACallThatEndsItsSubmitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		_, err := sluice.Register(d.reg, sluice.Spec{Name: "checked", Check: func(context.Context, sluice.Call) error {
			runtime.Goexit()
			return nil
		}}, func(context.Context, workIn) (int, error) { return 0, nil })
		require.NoError(t, err)
		calls := []sluice.Request{request("0", "work", 1), request("1", "checked", 0), request("2", "work", 1)}
		n := 0
		for i, r := range d.runner(agent.Config{Parallel: 1}).Each(d.ctx, calls) {
			require.Equal(t, n, i)
			if n++; i != 1 {
				require.NoError(t, r.Err)
			} else {
				require.ErrorIs(t, r.Err, sluice.ErrRejected)
				var p *sluice.PanicError
				require.ErrorAs(t, r.Err, &p)
				require.True(t, p.Goexit)
			}
			synctest.Wait() // for the next, which somebody submits meanwhile
		}
		require.Equal(t, 3, n)
		d.close()
	})
}

func TestEach_IsForOneRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		calls := []sluice.Request{request("0", "work", 1), request("1", "work", 1)}
		seq := d.runner(agent.Config{}).Each(d.ctx, calls)
		calls[0].Tool = "nobody's"
		require.Empty(t, d.rec.Events(), "nothing is called before the range")
		replies, order := collected(t, seq, 2)
		require.Len(t, order, 2)
		require.NoError(t, replies[0].Err)
		_, order = collected(t, seq, 2)
		require.Empty(t, order)
		require.Len(t, d.starts(), 2)
		d.close()
	})
}

// TestEach_AStreamIsYieldedAtOnce: also where calls before it take long, and others wait for its place.
func TestEach_AStreamIsYieldedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		calls := []sluice.Request{request("0", "work", 5000), request("1", "streams", 0), request("2", "streams", 0), request("3", "work", 1000)}
		began := time.Now()
		for i, r := range d.runner(agent.Config{Parallel: 2}).Each(d.ctx, calls) {
			require.NoError(t, r.Err)
			require.Equal(t, []time.Duration{5, 0, 0, 1}[i]*time.Second, time.Since(began))
		}
		(<-d.streamed)()
		(<-d.streamed)()
		d.close()
	})
}
