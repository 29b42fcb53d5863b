package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/resilience"
)

// newBudget is a desk behind limits, and what stands further in.
func newBudget(t *testing.T, c agent.UsageLimitsConfig, inside ...sluice.Interceptor) (*desk, *agent.UsageLimits) {
	t.Helper()
	l, err := agent.NewUsageLimits(c)
	require.NoError(t, err)
	d := newDesk(t, sluice.Config{Interceptors: append([]sluice.Interceptor{l}, inside...)})
	return d, l
}

// steps is an interceptor of such steps.
type steps sluice.Steps

func (s steps) Steps(sluice.Spec) sluice.Steps { return sluice.Steps(s) }
func (s steps) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return sluice.Steps(s).Wrap(next)
}

// usedUp is the limit that err says is used up.
func usedUp(t *testing.T, err error) *agent.UsageLimitError {
	t.Helper()
	require.ErrorIs(t, err, sluice.ErrDenied)
	require.Equal(t, "usage_limit", sluice.CodeOf(err))
	x, ok := errors.AsType[*agent.UsageLimitError](err)
	require.True(t, ok)
	return x
}

// runOf is what the run of ctx has used.
func runOf(t *testing.T, l *agent.UsageLimits, ctx context.Context) agent.Usage {
	t.Helper()
	run, _, err := l.Used(ctx)
	require.NoError(t, err)
	return run
}

func TestUsageLimits_Config(t *testing.T) {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	defer state.Close()
	many := map[string]int{}
	for i := range 1001 {
		many[fmt.Sprint(i)] = 1
	}
	one := agent.Usage{Calls: 1}
	for want, c := range map[string]agent.UsageLimitsConfig{
		"agent: UsageLimitsConfig.Run and Session are zero: one of them must have a limit":                               {},
		"agent: UsageLimitsConfig.State is nil: must be a SharedState for what Session limits":                           {Session: one},
		"agent: UsageLimitsConfig.Run.Calls is -1: must be zero (any number) or positive":                                {Run: agent.Usage{Calls: -1}},
		"agent: UsageLimitsConfig.Session.Time is -1s: must be zero (any) or positive":                                   {Session: agent.Usage{Time: -time.Second}},
		"agent: UsageLimitsConfig.Run.Bytes is -2: must be zero (any number) or positive":                                {Run: agent.Usage{Bytes: -2}},
		`agent: UsageLimitsConfig.Run.Tools has 0 for "x": must be positive, for a tool's name`:                          {Run: agent.Usage{Tools: map[string]int{"x": 0}}},
		`agent: UsageLimitsConfig.Run.Units has 1 for "": must be positive, for a unit's name`:                           {Run: agent.Usage{Units: map[string]int64{"": 1}}},
		"agent: UsageLimitsConfig.Run has 1001 Tools and 0 Units: must have at most 1000 of each":                        {Run: agent.Usage{Tools: many}},
		"agent: UsageLimitsConfig.Exit is 3: must be ExitContinue, ExitEnd or ExitError":                                 {Run: one, Exit: 3},
		"agent: UsageLimitsConfig.Name has 65 bytes: must be UTF-8, of at most 64":                                       {Run: one, Name: strings.Repeat("x", 65)},
		"agent: UsageLimitsConfig.Lifetime is 1ms: must be zero (24 h) or from 1s to 8760h0m0s":                          {Run: one, Lifetime: time.Millisecond},
		"agent: UsageLimitsConfig.MaxSessions is 1000001: must be zero (10,000) or 1 to 1000000":                         {Run: one, MaxSessions: 1_000_001},
		"agent: UsageLimitsConfig.State: sluice: shared state: no state: the SharedState was not made by NewSharedState": {Session: one, State: new(sluice.SharedState)},
	} {
		_, err := agent.NewUsageLimits(c)
		require.EqualError(t, err, want)
	}
	l, err := agent.NewUsageLimits(agent.UsageLimitsConfig{Run: one})
	require.NoError(t, err)
	require.Equal(t, "usage", l.String())
}

// Each limit refuses with words of its own, and is told of.
func TestUsageLimits_Words(t *testing.T) {
	for _, x := range []struct {
		limit agent.Usage
		want  agent.UsageLimitError
		words string
	}{
		{agent.Usage{Calls: 2}, agent.UsageLimitError{Limit: "calls", Max: 2}, "all 2 tool calls that are allowed have been made; make no others, and answer with what you have"},
		{agent.Usage{Tools: map[string]int{"work": 2}}, agent.UsageLimitError{Limit: "tools", Name: "work", Max: 2}, "all 2 calls of this tool that are allowed have been made; do not call it again"},
		{agent.Usage{Time: 14 * time.Millisecond}, agent.UsageLimitError{Limit: "time", Max: int64(14 * time.Millisecond)}, "the time for tools is used up; make no more tool calls, and answer with what you have"},
		{agent.Usage{Bytes: 2}, agent.UsageLimitError{Limit: "bytes", Max: 2}, "tools have given as much output as is allowed; make no more tool calls, and answer with what you have"},
		{agent.Usage{Units: map[string]int64{"zloty": 100, "cents": 20, "euros": 20}}, agent.UsageLimitError{Limit: "units", Name: "cents", Max: 20}, `the "cents" that tools may use are used up; make no more tool calls, and answer with what you have`},
	} {
		for _, scope := range []string{"run", "session"} {
			synctest.Test(t, func(t *testing.T) {
				c, rates := agent.UsageLimitsConfig{Run: x.limit}, []sluice.Rate{}
				if scope == "session" {
					c = agent.UsageLimitsConfig{Session: x.limit, State: sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))}
					defer c.State.Close()
				}
				for _, unit := range []string{"cents", "euros", "zloty"} {
					rates = append(rates, sluice.Rate{N: 1000, Per: time.Second, Unit: unit})
				}
				d, _ := newBudget(t, c, sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: rates})))
				register(d, "priced", sluice.Policy{}, func(ctx context.Context, in workIn) (int, error) {
					sluice.ReportUsage(ctx, "cents", 10)
					sluice.ReportUsage(ctx, "euros", 11)
					time.Sleep(7 * time.Millisecond)
					return in.Millis, nil
				})
				tool := "priced"
				if x.limit.Tools != nil {
					tool = "work"
				}
				ctx := agent.WithRun(d.ctx)
				for range 2 {
					_, err := d.exec.Invoke(ctx, request("", tool, 7))
					require.NoError(t, err)
				}
				_, err := d.exec.Invoke(ctx, request("last", tool, 7))
				got, want := usedUp(t, err), x.want
				want.Scope = scope
				require.Equal(t, want, *got)
				require.Contains(t, sluice.ModelText(err), sluice.ModelText(fmt.Errorf("%s", x.words))[len(`{"type":"tool_error","message":"`):][:len(x.words)-2])
				events := d.rec.Events()
				told, last := events[len(events)-2], events[len(events)-1]
				require.EqualValues(t, "usage.denied", told.Kind)
				require.Equal(t, fmt.Sprintf("[reason=usage_limit scope=%s limit=%s name=%s max=%d]", scope, want.Limit, want.Name, want.Max), fmt.Sprint(told.Attrs))
				require.Equal(t, sluice.ToolDenied, last.Kind)
				require.Equal(t, "last", last.Call.ID)

				if x.limit.Tools != nil { // the others go on
					_, err := d.exec.Invoke(ctx, request("", "other", 7))
					require.NoError(t, err)
				}
				_, err = d.exec.Invoke(d.ctx, request("", tool, 7)) // of no run
				require.NoError(t, err)
				if scope == "run" {
					_, err = d.exec.Invoke(agent.WithRun(d.ctx), request("", tool, 7)) // of another
					require.NoError(t, err)
				}
				d.close()
			})
		}
	}
}

// What has not run uses nothing, for whatever reason.
func TestUsageLimits_RefusedUseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		defer state.Close()
		broken := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
			switch tool.Name {
			case "denied":
				return func(context.Context, sluice.Call) (sluice.Result, error) { return sluice.Result{}, errOwn }
			case "stored":
				return func(context.Context, sluice.Call) (sluice.Result, error) { return sluice.Result{Value: 1}, nil }
			case "elsewhere":
				return func(context.Context, sluice.Call) (sluice.Result, error) {
					return sluice.Result{}, sluice.Elsewhere(errOwn)
				}
			case "bad_layer":
				return func(context.Context, sluice.Call) (sluice.Result, error) { panic("no") }
			case "quit_layer":
				return func(context.Context, sluice.Call) (sluice.Result, error) {
					runtime.Goexit()
					return sluice.Result{}, nil
				}
			}
			return next
		})
		panicky := steps{Before: func(_ context.Context, s *sluice.Step) {
			if s.Call().Tool == "bad_step" {
				panic("no")
			}
		}}
		approvals := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{State: state, Needs: func(c sluice.Call) (string, bool) { return "", c.Tool == "approved" }}))
		limits := agent.Usage{Calls: 6, Tools: map[string]int{"work": 3}}
		d, l := newBudget(t, agent.UsageLimitsConfig{Run: limits, Session: limits, State: state},
			append([]sluice.Interceptor{panicky, broken, approvals}, limited(1, sluice.PrioritySchedulerConfig{MaxQueue: 1})...)...)
		for _, name := range []string{"denied", "stored", "elsewhere", "bad_layer", "quit_layer", "bad_step", "approved"} {
			register(d, name, sluice.Policy{}, func(context.Context, workIn) (int, error) { t.Error("it runs"); return 0, nil })
		}
		ctx := agent.WithRun(d.ctx)
		left := func(want int) {
			t.Helper()
			run, session, err := l.Used(ctx)
			require.NoError(t, err)
			require.Equal(t, run, session)
			require.Equal(t, want, run.Calls)
			require.Equal(t, want, run.Tools["work"]+run.Tools["other"])
		}
		for _, name := range []string{"denied", "stored", "elsewhere", "bad_layer", "quit_layer", "bad_step", "approved", "unknown"} {
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, err := d.exec.Invoke(ctx, request("", name, 1))
				require.Equal(t, name == "stored", err == nil, name)
			}()
			<-done
			left(0)
		}
		_, err := d.exec.Invoke(ctx, sluice.Request{Tool: "work", Args: json.RawMessage(`{"millis":"x"}`)})
		require.ErrorIs(t, err, sluice.ErrInvalidArguments)

		first := d.exec.Submit(ctx, request("", "work", 100))
		synctest.Wait()
		waits, cancel := context.WithCancel(ctx)
		second := d.exec.Submit(waits, request("", "work", 100))
		synctest.Wait()
		left(2)
		third := d.exec.Submit(ctx, request("", "work", 100))
		_, err = third.Wait(t.Context())
		require.ErrorIs(t, err, sluice.ErrQueueFull)
		left(2)
		cancel()
		_, err = second.Wait(t.Context())
		require.ErrorIs(t, err, sluice.ErrRejected)
		left(1)
		_, err = first.Wait(t.Context())
		require.NoError(t, err)
		left(1)
		d.close()
	})
}

// What has begun counts, however it ends, and retries count once.
func TestUsageLimits_WhatRunsCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{If: func(sluice.Spec, sluice.Attempt, sluice.Result, error) bool { return true }, Jitter: resilience.NoJitter}))
		d, l := newBudget(t, agent.UsageLimitsConfig{Run: agent.Usage{Calls: 100, Time: time.Hour}}, retry)
		ctx := agent.WithRun(d.ctx)
		for n, name := range []string{"fails", "panics", "exits", "late"} {
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, err := d.exec.Invoke(ctx, request("", name, 5))
				require.Error(t, err)
			}()
			<-done
			require.Equal(t, n+1, runOf(t, l, ctx).Calls, name)
		}
		require.Equal(t, 3*time.Millisecond, runOf(t, l, ctx).Time, "three attempts of 1 ms each of the late one")
		d.close()
	})
}

// Time, bytes and units count once, wherever calls are made, and those of a stream at its end.
func TestUsageLimits_Amounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most := agent.Usage{Time: time.Hour, Bytes: 1 << 40, Units: map[string]int64{"tokens": 1 << 40}}
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1 << 30, Per: time.Second, Unit: "tokens"}, {N: 1 << 30, Per: time.Second, Unit: "others"}}}))
		state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		defer state.Close()
		d, l := newBudget(t, agent.UsageLimitsConfig{Run: most, Session: most, State: state}, rate)
		report := func(ctx context.Context, n int64) {
			sluice.ReportUsage(ctx, "tokens", n)
			sluice.ReportUsage(ctx, "others", n)
		}
		register(d, "inner", sluice.Policy{}, func(ctx context.Context, in workIn) (string, error) {
			report(ctx, 10)
			time.Sleep(time.Duration(in.Millis) * time.Millisecond)
			return "abc", nil
		})
		register(d, "outer", sluice.Policy{}, func(ctx context.Context, in workIn) (map[string]string, error) {
			report(ctx, 1)
			_, err := d.exec.Invoke(ctx, request("", "inner", in.Millis))
			return map[string]string{"a": "b"}, err
		})
		register(d, "stream", sluice.Policy{}, func(ctx context.Context, in workIn) (context.Context, error) {
			stream, done, err := sluice.Hold(ctx)
			d.streamed <- func() { report(stream, 100); done(nil) }
			return stream, err
		})
		ctx := agent.WithRun(d.ctx)
		want := func(ms time.Duration, bytes, tokens int64) {
			t.Helper()
			run, session, err := l.Used(ctx)
			require.NoError(t, err)
			require.Equal(t, run, session)
			require.Equal(t, ms*time.Millisecond, run.Time)
			require.Equal(t, bytes, run.Bytes)
			require.Equal(t, tokens, run.Units["tokens"])
			require.LessOrEqual(t, len(run.Units), 1)
		}
		_, err := d.exec.Invoke(ctx, request("", "inner", 5))
		require.NoError(t, err)
		want(5, 3, 10)
		_, err = d.exec.Invoke(ctx, request("", "outer", 7))
		require.NoError(t, err)
		want(12, 3+int64(len(`{"a":"b"}`)), 21)
		_, err = d.exec.Invoke(ctx, request("", "stream", 0))
		require.NoError(t, err)
		want(12, 12, 21)
		time.Sleep(30 * time.Millisecond)
		(<-d.streamed)()
		want(42, 12, 121)
		_, err = d.exec.Invoke(ctx, request("", "fails", 0))
		require.ErrorIs(t, err, errOwn)
		want(42, 12, 121)

		// What is given away is a copy.
		run := runOf(t, l, ctx)
		run.Units["tokens"] = 0
		want(42, 12, 121)
		d.close()
	})
}

// A call that a layer makes in the place of another is the same call: the last that is allowed may be approved with other arguments.
func TestUsageLimits_EditedApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		defer state.Close()
		approvals := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{State: state, Needs: func(sluice.Call) (string, bool) { return "", true }}))
		most := agent.Usage{Calls: 1, Tools: map[string]int{"work": 1}, Time: time.Hour, Bytes: 100}
		d, l := newBudget(t, agent.UsageLimitsConfig{Run: most, Session: most, State: state}, approvals)
		ctx := agent.WithRun(d.ctx)
		for _, args := range []string{`{"millis":"x"}`, `{"millis":7}`} {
			_, err := d.exec.Invoke(ctx, request("", "work", 5))
			a := awaited(t, err)
			require.NoError(t, approvals.Decide(ctx, a.ID, agent.Decision{Approve: true, Arguments: json.RawMessage(args)}))
			require.Zero(t, runOf(t, l, ctx).Calls)
			_, err = d.exec.Invoke(agent.WithApproval(ctx, a.ID), request("", "work", 5))
			if args == `{"millis":7}` {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, sluice.ErrInvalidArguments)
				require.Zero(t, runOf(t, l, ctx).Calls)
			}
		}
		run, session, err := l.Used(ctx)
		require.NoError(t, err)
		require.Equal(t, agent.Usage{Calls: 1, Tools: map[string]int{"work": 1}, Time: 7 * time.Millisecond, Bytes: 1}, run)
		require.Equal(t, run, session)
		_, err = d.exec.Invoke(ctx, request("", "work", 9))
		usedUp(t, err)
		d.close()
	})
}

// A fallback's call is one of its own.
func TestUsageLimits_Fallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		instead := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
			if tool.Name != "fails" {
				return next
			}
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if res, err := next(ctx, c); err == nil {
					return res, nil
				}
				return c.Invoke(ctx, request("", "work", 6))
			}
		})
		d, l := newBudget(t, agent.UsageLimitsConfig{Run: agent.Usage{Calls: 3, Time: time.Hour, Bytes: 100}}, instead)
		ctx := agent.WithRun(d.ctx)
		_, err := d.exec.Invoke(ctx, request("", "fails", 0))
		require.NoError(t, err)
		require.Equal(t, agent.Usage{Calls: 2, Time: 6 * time.Millisecond, Bytes: 1}, runOf(t, l, ctx))
		_, err = d.exec.Invoke(ctx, request("", "fails", 0))
		require.Error(t, err, "it runs, but not its fallback")
		require.Equal(t, 3, runOf(t, l, ctx).Calls)
		d.close()
	})
}

// Sessions are a tenant's, outlive runs and processes, and are forgotten in the end.
func TestUsageLimits_Sessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		conf := agent.UsageLimitsConfig{Session: agent.Usage{Calls: 2}, State: state, Lifetime: time.Minute, MaxSessions: 4}
		d, _ := newBudget(t, conf)
		call := func(tenant, org, session string) error {
			pc := sluice.PipelineContext{Tenant: tenant, OrgID: org, SessionID: session}
			_, err := d.exec.Invoke(agent.WithRun(sluice.WithPipelineContext(d.ctx, pc)), request("", "work", 0))
			return err
		}
		for range 3 {
			require.NoError(t, call("a", "", ""), "it is of no session")
		}
		for _, who := range [][3]string{{"a", "", "1"}, {"a", "", "2"}, {"", "a1", ""}, {"", "b", "1"}, {"", "", "secret"}} {
			for range 2 {
				require.NoError(t, call(who[0], who[1], who[2]))
			}
		}
		require.Equal(t, "session", usedUp(t, call("a", "", "1")).Scope)
		usedUp(t, call("", "b", "1"))
		usedUp(t, call("b", "c", "1"))
		err := call("c", "", "1")
		require.Equal(t, "usage_unknown", sluice.CodeOf(err), "there are four")
		require.ErrorIs(t, err, sluice.ErrFull)
		require.Contains(t, sluice.ModelText(err), "it is not known how much tools may still be used here, so it has not run")

		snapshot, err := json.Marshal(state)
		require.NoError(t, err)
		require.NotContains(t, string(snapshot), "secret")
		d.close()
		require.NoError(t, state.Close())
		conf.State = restored(t, snapshot)
		defer conf.State.Close()
		d, l := newBudget(t, conf)
		usedUp(t, call("a", "", "1"))
		time.Sleep(59 * time.Second)
		usedUp(t, call("a", "", "1"))
		time.Sleep(time.Second)
		require.NoError(t, call("a", "", "1"), "it is forgotten")
		_, session, err := l.Used(sluice.WithPipelineContext(d.ctx, sluice.PipelineContext{Tenant: "a", SessionID: "1"}))
		require.NoError(t, err)
		require.Equal(t, 1, session.Calls)
		_, session, err = l.Used(sluice.WithPipelineContext(d.ctx, sluice.PipelineContext{Tenant: "b", SessionID: "1"}))
		require.NoError(t, err)
		require.Zero(t, session)

		require.NoError(t, conf.State.Close())
		require.Equal(t, "usage_unknown", sluice.CodeOf(call("a", "", "1")))
		_, _, err = l.Used(sluice.WithPipelineContext(d.ctx, sluice.PipelineContext{Tenant: "a", SessionID: "1"}))
		require.ErrorIs(t, err, sluice.ErrNoState)
		d.close()
	})
}

// Entries of another version are not understood, and refuse.
func TestUsageLimits_OtherVersion(t *testing.T) {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	d, l := newBudget(t, agent.UsageLimitsConfig{Session: agent.Usage{Calls: 2}, State: state})
	ctx := agent.WithRun(d.ctx)
	_, err := d.exec.Invoke(ctx, request("", "work", 0))
	require.NoError(t, err)
	snapshot, err := json.Marshal(state)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(strings.Replace(string(snapshot), `"v":1`, `"v":2`, 1)), state))
	_, err = d.exec.Invoke(ctx, request("", "work", 0))
	require.Equal(t, "usage_unknown", sluice.CodeOf(err))
	_, _, err = l.Used(ctx)
	require.EqualError(t, err, "agent: UsageLimits.Used: the session: its entry is of version 2: must be 1")
	require.Equal(t, 1, runOf(t, l, agent.WithRun(context.Background())).Calls+1)
	d.close()
	state.Close()
}

// A run that does not hear of its calls refuses them.
func TestWithRun_LostSink(t *testing.T) {
	d, _ := newBudget(t, agent.UsageLimitsConfig{Run: agent.Usage{Calls: 2}}, sluice.Must(agent.NewLoops(agent.LoopsConfig{})))
	lost := sluice.WithPipelineContext(agent.WithRun(d.ctx), sluice.PipelineContext{})
	_, err := d.exec.Invoke(lost, request("", "work", 0))
	require.ErrorIs(t, err, sluice.ErrDenied)
	require.ErrorContains(t, err, "agent: WithRun: the call's PipelineContext has not the Sink of its run")
	for _, run := range []context.Context{agent.WithRun(d.ctx), agent.WithRun(context.Background())} {
		pc := sluice.PipelineContextFrom(run)
		pc.Topology = "other"
		kept := sluice.WithPipelineContext(run, pc.Fork())
		for range 2 {
			_, err = d.exec.Invoke(kept, request("", "work", 0))
			require.NoError(t, err)
		}
		_, err = d.exec.Invoke(kept, request("", "work", 0))
		usedUp(t, err)
	}
	d.close()
}

// Runs within runs count for both, and a session once; nobody's limit is taken if another's is used up.
func TestWithRun_Parts(t *testing.T) {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	defer state.Close()
	d, l := newBudget(t, agent.UsageLimitsConfig{Run: agent.Usage{Calls: 3, Tools: map[string]int{"other": 1}}, Session: agent.Usage{Calls: 5}, State: state})
	all := agent.WithRun(d.ctx)
	a, b := agent.WithRun(all), agent.WithRun(all)
	calls := func(want ...int) {
		t.Helper()
		var got []int
		for _, ctx := range []context.Context{all, a, b} {
			got = append(got, runOf(t, l, ctx).Calls)
		}
		_, session, err := l.Used(all)
		require.NoError(t, err)
		require.Equal(t, want, append(got, session.Calls))
	}
	invoke := func(ctx context.Context, tool string) error {
		_, err := d.exec.Invoke(ctx, request("", tool, 0))
		return err
	}
	require.NoError(t, invoke(a, "work"))
	calls(1, 1, 0, 1)
	require.NoError(t, invoke(b, "other"))
	calls(2, 1, 1, 2)
	require.Equal(t, "tools", usedUp(t, invoke(a, "other")).Limit)
	require.NoError(t, invoke(a, "work"))
	calls(3, 2, 1, 3)
	require.Equal(t, "calls", usedUp(t, invoke(a, "work")).Limit)
	calls(3, 2, 1, 3)
	next := agent.WithRun(d.ctx)
	require.NoError(t, invoke(next, "work"))
	require.NoError(t, invoke(next, "work"))
	require.Equal(t, "session", usedUp(t, invoke(next, "work")).Scope)
	require.Equal(t, 2, runOf(t, l, next).Calls)
	d.close()
}

// However many calls come at once, of several runs of a session and of runs within runs, in two processes: so many run
// as are allowed, and never one more; what is refused or cancelled makes room for others.
func TestUsageLimits_Storm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for round := range 10 {
		const calls = 1000
		state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		perRun, perTool, perSession := 1+rnd.IntN(200), 1+rnd.IntN(100), 1+rnd.IntN(600)
		conf := agent.UsageLimitsConfig{
			Run:     agent.Usage{Calls: perRun, Tools: map[string]int{"count": perTool}, Time: time.Hour},
			Session: agent.Usage{Calls: perSession, Time: time.Hour}, State: state,
		}
		gates := limited(1+rnd.IntN(8), sluice.PrioritySchedulerConfig{MaxQueue: 1 + rnd.IntN(50)})
		desks := make([]*desk, 2)
		layers := make([]*agent.UsageLimits, 2)
		var ran [2][4]atomic.Int64 // by tool and run
		for i := range desks {
			desks[i], layers[i] = newBudget(t, conf, gates...)
			for k, tool := range []string{"count", "sum"} {
				register(desks[i], tool, sluice.Policy{}, func(_ context.Context, in workIn) (int, error) { ran[k][in.Millis].Add(1); return 0, nil })
			}
		}
		pc, rec := sluice.NewTestPipelineContext()
		ctx := sluice.WithPipelineContext(t.Context(), pc)
		runs := []context.Context{agent.WithRun(ctx), agent.WithRun(ctx), nil, nil} // the first two in one process each
		runs[2], runs[3] = agent.WithRun(runs[0]), agent.WithRun(runs[1])
		var over, busy atomic.Int64
		var all sync.WaitGroup
		for range calls {
			run, tool, leaves, spins := rnd.IntN(4), []string{"count", "sum"}[rnd.IntN(2)], rnd.IntN(3) == 0, rnd.IntN(3000)
			all.Go(func() {
				d := desks[run%2]
				ctx, cancel := context.WithCancel(runs[run])
				defer cancel()
				if leaves {
					go func() {
						for i := 0; i < spins && ctx.Err() == nil; i++ {
							runtime.Gosched()
						}
						cancel()
					}()
				}
				_, err := d.exec.Invoke(ctx, request("", tool, run))
				switch {
				case err == nil:
				case sluice.CodeOf(err) == "usage_limit":
					over.Add(1)
				case errors.Is(err, sluice.ErrRejected):
					busy.Add(1)
				default:
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		all.Wait()
		sum := 0
		for run := range 2 { // each with the run that is part of it
			count, every := 0, 0
			for _, r := range []int{run, run + 2} {
				count += int(ran[0][r].Load())
				every += int(ran[0][r].Load() + ran[1][r].Load())
			}
			require.LessOrEqual(t, every, perRun)
			require.LessOrEqual(t, count, perTool)
			used := runOf(t, layers[run], runs[run])
			require.Equal(t, every, used.Calls)
			require.Equal(t, count, used.Tools["count"])
			part := runOf(t, layers[run], runs[run+2])
			require.EqualValues(t, ran[0][run+2].Load()+ran[1][run+2].Load(), part.Calls)
			sum += every
		}
		require.LessOrEqual(t, sum, perSession)
		_, session, err := layers[0].Used(ctx)
		require.NoError(t, err)
		require.Equal(t, sum, session.Calls)

		// And not one less: what is left can be used, one by one.
		for run := range 2 {
			for {
				if _, err := desks[run].exec.Invoke(runs[run], request("", "sum", run)); err != nil {
					usedUp(t, err)
					break
				}
			}
		}
		first, second := runOf(t, layers[0], runs[0]).Calls, runOf(t, layers[1], runs[1]).Calls
		_, session, err = layers[1].Used(ctx)
		require.NoError(t, err)
		require.Equal(t, first+second, session.Calls)
		if session.Calls < perSession {
			require.Equal(t, [2]int{perRun, perRun}, [2]int{first, second})
		} else {
			require.Equal(t, perSession, session.Calls)
		}
		require.NoError(t, rec.Check())
		for _, d := range desks {
			d.close()
		}
		state.Close()
		t.Logf("round %d: %d ran of %d; %d found a limit, %d no room", round, sum, calls, over.Load(), busy.Load())
	}
}

// A thousand calls at once of one turn: exactly as many run as are allowed, and all are answered.
func TestUsageLimits_OneTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := newBudget(t, agent.UsageLimitsConfig{Run: agent.Usage{Calls: 700, Tools: map[string]int{"work": 300}, Time: time.Hour}}, limited(5, sluice.PrioritySchedulerConfig{MaxQueue: 50})...)
		var calls []sluice.Request
		for i := range 1000 {
			calls = append(calls, request(fmt.Sprint(i), []string{"work", "other"}[i%2], 1))
		}
		ran := map[string]int{}
		ctx := agent.WithRun(d.ctx)
		for i, r := range d.runner(agent.Config{}).Run(ctx, calls) {
			require.Equal(t, fmt.Sprint(i), r.Request.ID)
			if r.Err == nil {
				ran[r.Request.Tool]++
			} else {
				usedUp(t, r.Err)
			}
		}
		require.Equal(t, map[string]int{"work": 300, "other": 400}, ran)
		require.Equal(t, agent.Usage{Calls: 700, Tools: map[string]int{"work": 300}, Time: 700 * time.Millisecond}, runOf(t, l, ctx))
		d.close()
	})
}
