package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

func TestNew_NamesTheWrongField(t *testing.T) {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	for _, c := range []struct {
		exec *sluice.Executor
		conf agent.Config
		want string
	}{
		{nil, agent.Config{}, "agent: the Executor is nil or zero: use sluice.NewExecutor"},
		{new(sluice.Executor), agent.Config{}, "agent: the Executor is nil or zero: use sluice.NewExecutor"},
		{exec, agent.Config{Parallel: -1}, "agent: Config.Parallel is -1: must be zero (any number) or positive"},
		{exec, agent.Config{Deadline: -time.Second}, "agent: Config.Deadline is -1s: must be zero (none) or positive"},
	} {
		_, err := agent.New(c.exec, c.conf)
		require.EqualError(t, err, c.want)
	}
}

// endings are calls, and how each ends.
var endings = map[string]struct {
	call sluice.Request
	want func(t *testing.T, r agent.Reply)
}{
	"a result": {request("x", "work", 5), func(t *testing.T, r agent.Reply) {
		require.NoError(t, r.Err)
		require.Equal(t, 5, r.Result.Value)
	}},
	"its own error": {request("x", "fails", 0), func(t *testing.T, r agent.Reply) { require.Equal(t, errOwn, r.Err) }},
	"a panic": {request("x", "panics", 0), func(t *testing.T, r agent.Reply) {
		var p *sluice.PanicError
		require.ErrorAs(t, r.Err, &p)
		require.Equal(t, "no", p.Value)
	}},
	"an exit": {request("x", "exits", 0), func(t *testing.T, r agent.Reply) {
		var p *sluice.PanicError
		require.ErrorAs(t, r.Err, &p)
		require.True(t, p.Goexit)
	}},
	"a timeout": {request("x", "late", 1000), func(t *testing.T, r agent.Reply) { require.ErrorIs(t, r.Err, sluice.ErrTimeout) }},
	"bad JSON": {sluice.Request{ID: "x", Tool: "work", Args: json.RawMessage(`{"millis":`)}, func(t *testing.T, r agent.Reply) {
		require.ErrorIs(t, r.Err, sluice.ErrInvalidArguments)
		require.ErrorIs(t, r.Err, sluice.ErrRejected)
	}},
	"an unknown tool": {sluice.Request{ID: "x", Tool: "nobody's"}, func(t *testing.T, r agent.Reply) { require.ErrorIs(t, r.Err, sluice.ErrUnknownTool) }},
	"a refusal":       {request("x", "nowait", 0), func(t *testing.T, r agent.Reply) { require.ErrorIs(t, r.Err, sluice.ErrWaitTooLong) }},
	"a stream": {request("x", "streams", 0), func(t *testing.T, r agent.Reply) {
		require.NoError(t, r.Err)
		require.NoError(t, r.Result.Value.(context.Context).Err(), "it can be read after the turn")
	}},
}

func TestRun_HasEveryEndingAtItsIndex(t *testing.T) {
	for form, config := range around {
		for name, x := range endings {
			for _, c := range []agent.Config{{}, {Parallel: 1}, {Parallel: 2}} {
				t.Run(fmt.Sprintf("%s/%s/%d", form, name, c.Parallel), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						for at := range 4 {
							d := newDesk(t, config(limited(4, sluice.PrioritySchedulerConfig{})...))
							busy := sluice.Policy{Concurrency: 1, MaxWait: sluice.NoWait}
							register(d, "nowait", busy, func(ctx context.Context, in workIn) (int, error) { <-ctx.Done(); return 0, nil })
							ctx, stop := context.WithCancel(d.ctx)
							holds := d.exec.Submit(ctx, request("", "nowait", 0))
							synctest.Wait()
							calls := make([]sluice.Request, 4)
							for i := range calls {
								calls[i] = request(fmt.Sprint(i), "work", 10*(4-i))
							}
							calls[at] = x.call
							replies := d.runner(c).Run(d.ctx, calls)
							require.Len(t, replies, 4)
							for i, r := range replies {
								require.Equal(t, calls[i], r.Request)
								if i == at {
									x.want(t, r)
									continue
								}
								require.NoError(t, r.Err)
								require.Equal(t, 10*(4-i), r.Result.Value)
							}
							replies, order := collected(t, d.runner(c).Each(d.ctx, calls), 4)
							require.Len(t, order, 4)
							x.want(t, replies[at])
							for len(d.streamed) > 0 {
								(<-d.streamed)()
							}
							stop()
							<-holds.Done()
							d.close()
						}
					})
				})
			}
		}
	}
}

func TestRun_OfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		require.Empty(t, d.runner(agent.Config{}).Run(d.ctx, nil))
		_, order := collected(t, d.runner(agent.Config{}).Each(d.ctx, nil), 0)
		require.Empty(t, order)
		d.close()
	})
}

func TestRun_RefusesCallsWithoutAContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		calls := []sluice.Request{request("a", "work", 1), request("b", "work", 1)}
		var none context.Context
		for _, r := range d.runner(agent.Config{}).Run(none, calls) {
			require.ErrorIs(t, r.Err, sluice.ErrInvalidArguments)
		}
		replies, order := collected(t, d.runner(agent.Config{}).Each(none, calls), 2)
		require.Equal(t, []int{0, 1}, order)
		require.ErrorIs(t, replies[1].Err, sluice.ErrInvalidArguments)
		d.close()
	})
}

// TestRun_StartsByPriorityThenCallOrder: 500 calls at a limit of 8 that is taken when they come.
func TestRun_StartsByPriorityThenCallOrder(t *testing.T) {
	for _, form := range []string{"gates alone", "standard"} {
		for _, each := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", form, each), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDesk(t, around[form](limited(8, sluice.PrioritySchedulerConfig{Ageing: 1000})...))
					for i := range 8 {
						d.exec.Submit(d.ctx, request(fmt.Sprint("before", i), "other", 1000))
					}
					synctest.Wait()
					require.Len(t, d.starts(), 8)
					before := runtime.NumGoroutine()
					most, stop := 0, make(chan struct{})
					var looks sync.WaitGroup
					looks.Go(func() { // between the starts
						for wait := 500 * time.Millisecond; ; wait = time.Second {
							select {
							case <-time.After(wait):
								most = max(most, runtime.NumGoroutine())
							case <-stop:
								return
							}
						}
					})
					calls := make([]sluice.Request, 500)
					tools := []string{"work", "idle", "urgent"}
					for i := range calls {
						calls[i] = request(fmt.Sprint(i), tools[i%3], 1000)
					}
					began := time.Now()
					var replies []agent.Reply
					if r := d.runner(agent.Config{}); each {
						replies, _ = collected(t, r.Each(d.ctx, calls), 500)
					} else {
						replies = r.Run(d.ctx, calls)
					}
					close(stop)
					looks.Wait()
					for _, r := range replies {
						require.NoError(t, r.Err)
					}
					require.Equal(t, time.Second+63*time.Second, time.Since(began))
					require.Equal(t, int32(8), d.peak.Load())
					// As many as when 8 other calls ran, and who counts; with a time limit some are kept for the next call.
					require.LessOrEqual(t, most, before+2+map[string]int{"standard": 8}[form])
					require.ElementsMatch(t, inOrder(500), d.starts())
					var started []string
					for _, e := range d.rec.Events() {
						if e.Kind == sluice.ToolStarted && e.Call.Tool != "other" {
							started = append(started, e.Call.ID)
						}
					}
					d.close()
					// Those that start at one instant tell of it in any order.
					for at := 0; at < len(started); at += 8 {
						slices.SortFunc(started[at:min(at+8, 500)], byPriority)
					}
					want := inOrder(500)
					slices.SortStableFunc(want, byPriority)
					require.Equal(t, want, started)
				})
			})
		}
	}
}

// number is i of an id.
func number(id string) (i int) {
	_, _ = fmt.Sscan(id, &i)
	return i
}

// byPriority is the order of the tools urgent, work and idle, which follow each other, and then of numbers.
func byPriority(a, b string) int {
	rank := func(id string) int { return []int{1, 2, 0}[number(id)%3]*1000 + number(id) }
	return rank(a) - rank(b)
}

func inOrder(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprint(i))
	}
	return ids
}

// TestRun_ItsOwnCallsFillNoQueue: a queue of 10, and 500 calls: all run.
func TestRun_ItsOwnCallsFillNoQueue(t *testing.T) {
	for form, config := range around {
		for name, queue := range map[string]sluice.PrioritySchedulerConfig{
			"bound":      {MaxQueue: 10},
			"per tenant": {MaxPerTenant: 10},
			"shed":       {MaxQueue: 10, Shed: true},
		} {
			for _, tools := range [][]string{{"work"}, {"work", "idle", "urgent"}} {
				for _, c := range []agent.Config{{}, {Parallel: 30}} {
					t.Run(fmt.Sprintf("%s/%s/%d/%d", form, name, len(tools), c.Parallel), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							d := newDesk(t, config(limited(8, queue)...))
							calls := make([]sluice.Request, 500)
							for i := range calls {
								calls[i] = request(fmt.Sprint(i), tools[i%len(tools)], 1000)
							}
							began := time.Now()
							for i, r := range d.runner(c).Run(d.ctx, calls) {
								require.NoError(t, r.Err, "call %d", i)
							}
							require.Equal(t, 63*time.Second, time.Since(began), "no slot idles")
							require.Equal(t, int32(8), d.peak.Load())
							ids := d.starts()
							require.ElementsMatch(t, inOrder(500), ids)
							d.close()
							if form != "gates alone" || len(tools) > 1 {
								return
							}
							refused := 0
							for _, e := range d.rec.Events() {
								if e.Kind == sluice.ToolFailed {
									refused++
								}
							}
							if c.Parallel == 0 {
								require.Equal(t, 1, refused, "calls that came to a full queue")
							}
							for at := 0; at < 500; at += 8 {
								slices.SortFunc(ids[at:min(at+8, 500)], func(a, b string) int { return number(a) - number(b) })
							}
							require.Equal(t, inOrder(500), ids)
						})
					})
				}
			}
		}
	}
}

// TestRun_IsRefusedWhereOthersFillTheQueue: what others fill is not waited for.
func TestRun_IsRefusedWhereOthersFillTheQueue(t *testing.T) {
	for form, config := range around {
		if form == "standard" {
			continue // which waits and tries again
		}
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, config(limited(1, sluice.PrioritySchedulerConfig{MaxQueue: 20, MaxPerTenant: 20})...))
				var others []*sluice.Future
				for i := range 21 {
					others = append(others, d.exec.Submit(d.ctx, request(fmt.Sprint("other", i), "work", 1000)))
					synctest.Wait()
				}
				calls := []sluice.Request{request("0", "work", 1), request("1", "work", 1), request("2", "work", 1)}
				began := time.Now()
				for _, r := range d.runner(agent.Config{}).Run(d.ctx, calls) {
					require.ErrorIs(t, r.Err, sluice.ErrQueueFull)
				}
				require.Zero(t, time.Since(began))
				for _, f := range others {
					_, err := f.Wait(d.ctx)
					require.NoError(t, err)
				}
				d.close()
			})
		})
	}
}

// TestRun_AFullQueueKeepsNoOtherToolBack: a call that need not wait starts at once, however long the queue.
func TestRun_AFullQueueKeepsNoOtherToolBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ForTool("work")}}}))
		d := newDesk(t, sluice.Config{Interceptors: []sluice.Interceptor{limits, sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 2}))}})
		calls := make([]sluice.Request, 10)
		for i := range calls {
			calls[i] = request(fmt.Sprint(i), "work", 1000)
		}
		calls[9].Tool = "other"
		began := time.Now()
		for i, r := range d.runner(agent.Config{}).Each(d.ctx, calls) {
			require.NoError(t, r.Err)
			if i == 9 {
				require.Equal(t, time.Second, time.Since(began))
			}
		}
		require.Equal(t, 9*time.Second, time.Since(began))
		d.close()
	})
}

func TestRun_Parallel(t *testing.T) {
	for form, config := range around {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, config())
				calls := make([]sluice.Request, 20)
				for i := range calls {
					calls[i] = request(fmt.Sprint(i), "work", 1000)
				}
				began := time.Now()
				for _, r := range d.runner(agent.Config{Parallel: 3}).Run(d.ctx, calls) {
					require.NoError(t, r.Err)
				}
				require.Equal(t, 7*time.Second, time.Since(began))
				require.Equal(t, int32(3), d.peak.Load())
				ids := d.starts()
				for at := 0; at < 20; at += 3 {
					slices.SortFunc(ids[at:min(at+3, 20)], func(a, b string) int { return number(a) - number(b) })
				}
				require.Equal(t, inOrder(20), ids)
				d.close()
			})
		})
	}
}

func TestRun_FailFast(t *testing.T) {
	for form, config := range around {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, config(limited(3, sluice.PrioritySchedulerConfig{})...))
				register(d, "breaks", sluice.Policy{}, func(context.Context, workIn) (int, error) { time.Sleep(time.Second); return 0, errOwn })
				calls := []sluice.Request{request("0", "work", 500), request("1", "breaks", 0), request("2", "work", 5000), request("3", "work", 5000), request("4", "work", 5000), request("5", "work", 5000)}
				confs := []agent.Config{{FailFast: true}, {FailFast: true, Parallel: 3}}
				if form == "an interceptor outside" {
					confs = confs[1:] // without a bound, chance decides who is first
				}
				for _, c := range confs {
					began := time.Now()
					replies := d.runner(c).Run(d.ctx, calls)
					require.Equal(t, time.Second, time.Since(began))
					require.NoError(t, replies[0].Err)
					require.Equal(t, errOwn, replies[1].Err)
					for _, r := range replies[2:] {
						require.ErrorIs(t, r.Err, agent.ErrSiblingFailed)
					}
					require.NotErrorIs(t, replies[2].Err, sluice.ErrRejected, "it ran")
					require.ErrorIs(t, replies[5].Err, sluice.ErrRejected, "it did not: call 4 may have had the place")
				}
				replies := d.runner(agent.Config{}).Run(d.ctx, calls)
				require.Equal(t, errOwn, replies[1].Err)
				require.NoError(t, replies[5].Err, "without it, none fails for another")
				d.close()
			})
		})
	}
}

func TestRun_Deadline(t *testing.T) {
	for form, config := range around {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, config(limited(2, sluice.PrioritySchedulerConfig{MaxQueue: 1})...))
				calls := make([]sluice.Request, 20)
				for i := range calls {
					calls[i] = request(fmt.Sprint(i), "work", 1000)
				}
				began := time.Now()
				replies := d.runner(agent.Config{Deadline: 2500 * time.Millisecond}).Run(d.ctx, calls)
				require.Equal(t, 2500*time.Millisecond, time.Since(began))
				done, stopped := 0, 0
				for i, r := range replies {
					switch {
					case r.Err == nil:
						done++
					case !errors.Is(r.Err, sluice.ErrRejected):
						require.ErrorIs(t, r.Err, context.DeadlineExceeded, "call %d", i)
						stopped++
					default:
						require.ErrorIs(t, r.Err, sluice.ErrWaitTooLong, "call %d", i)
					}
				}
				require.Equal(t, 4, done)
				require.Equal(t, 2, stopped)
				require.Len(t, d.starts(), 6)
				d.close()
			})
		})
	}
}

// TestRun_CancelledAnswersEveryCall: those that run, that wait, and that were never submitted.
func TestRun_CancelledAnswersEveryCall(t *testing.T) {
	cause := errors.New("the user left")
	for form, config := range around {
		for _, c := range []agent.Config{{}, {Parallel: 5}} {
			t.Run(fmt.Sprintf("%s/%d", form, c.Parallel), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDesk(t, config(limited(2, sluice.PrioritySchedulerConfig{MaxQueue: 2})...))
					ctx, cancel := context.WithCancelCause(d.ctx)
					calls := make([]sluice.Request, 50)
					for i := range calls {
						calls[i] = request(fmt.Sprint(i), "work", 1000)
					}
					time.AfterFunc(1500*time.Millisecond, func() { cancel(cause) })
					began := time.Now()
					done, stopped := 0, 0
					for i, r := range d.runner(c).Run(ctx, calls) {
						if r.Err == nil {
							done++
							continue
						}
						require.ErrorIs(t, r.Err, cause, "call %d", i)
						if !errors.Is(r.Err, sluice.ErrRejected) {
							stopped++
						}
					}
					require.Equal(t, 2, done)
					require.Equal(t, 2, stopped)
					require.Equal(t, 1500*time.Millisecond, time.Since(began))
					for _, r := range d.runner(c).Run(ctx, calls) { // whose context has ended
						require.ErrorIs(t, r.Err, cause)
						require.ErrorIs(t, r.Err, sluice.ErrRejected)
					}
					require.Len(t, d.starts(), 4)
					d.close()
				})
			})
		}
	}
}

// TestRun_InsideATool: a batch of a tool's own, at a limit that the tool has taken.
func TestRun_InsideATool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{Interceptors: limited(1, sluice.PrioritySchedulerConfig{})})
		inner := d.runner(agent.Config{Parallel: 2})
		register(d, "delegates", sluice.Policy{}, func(ctx context.Context, in workIn) (int, error) {
			n := 0
			for i, r := range inner.Run(ctx, []sluice.Request{request("a", "work", 1), request("b", "work", 2), request("c", "work", 3)}) {
				if r.Err != nil || r.Result.Value != i+1 {
					return 0, fmt.Errorf("call %d: %v, %w", i, r.Result.Value, r.Err)
				}
				n++
			}
			return n, nil
		})
		calls := []sluice.Request{request("0", "delegates", 0), request("1", "delegates", 0), request("2", "work", 4)}
		replies := d.runner(agent.Config{}).Run(d.ctx, calls)
		for i, want := range []int{3, 3, 4} {
			require.NoError(t, replies[i].Err)
			require.Equal(t, want, replies[i].Result.Value)
		}
		require.Equal(t, int32(1), d.peak.Load())
		d.close()
	})
}

// TestRun_NestedCallsAreNoCallsOfTheTurn: what becomes of them is for the tool that has made them.
func TestRun_NestedCallsAreNoCallsOfTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		register(d, "copes", sluice.Policy{}, func(ctx context.Context, _ workIn) (string, error) {
			for _, tool := range []string{"fails", "nobody's", "work"} {
				_, _ = d.exec.Invoke(ctx, request("0", tool, 0))
			}
			time.Sleep(time.Second)
			return "coped", ctx.Err()
		})
		calls := []sluice.Request{request("0", "copes", 0), request("0", "work", 2000), request("0", "copes", 0)}
		began := time.Now()
		for i, r := range d.runner(agent.Config{FailFast: true, Parallel: 2}).Each(d.ctx, calls) {
			require.NoError(t, r.Err)
			require.Equal(t, []any{"coped", 2000, "coped"}[i], r.Result.Value)
		}
		require.Equal(t, 2*time.Second, time.Since(began))
		d.close()
	})
}

// TestRun_StreamsKeepTheirContext: what a call streams is read after the turn, and then its context ends.
func TestRun_StreamsKeepTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		calls := make([]sluice.Request, 100)
		for i := range calls {
			calls[i] = request(fmt.Sprint(i), "streams", 0)
		}
		for _, c := range []agent.Config{{}, {Parallel: 1}, {Deadline: time.Minute}} {
			replies := d.runner(c).Run(d.ctx, calls)
			for _, r := range replies {
				require.NoError(t, r.Err)
				require.NoError(t, r.Result.Value.(context.Context).Err())
			}
			for range calls {
				(<-d.streamed)()
			}
			for _, r := range replies {
				require.Error(t, r.Result.Value.(context.Context).Err())
			}
		}
		d.close()
	})
}
