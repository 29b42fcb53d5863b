package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

type payment struct {
	To    string `json:"to"`
	Cents int64  `json:"cents"`
	Memo  string `json:"memo,omitempty"`
}

// bank is a process with a tool that needs approval, and others that need none.
type bank struct {
	t         *testing.T
	exec      *sluice.Executor
	state     *sluice.SharedState
	approvals *agent.Approvals
	rec       *sluice.Recorder
	ctx       context.Context
	paid      *ledger
}

// ledger is what payments have been made. It survives processes.
type ledger struct {
	mu      sync.Mutex
	list    []payment
	looked  int
	inside  func() // runs in a payment, once it is made
	failing bool
}

func (l *ledger) all() []payment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]payment(nil), l.list...)
}

// newBank is a process that has a state, with interceptors in front of the approvals and after them.
func newBank(t *testing.T, state *sluice.SharedState, paid *ledger, c agent.ApprovalsConfig, around ...sluice.Interceptor) *bank {
	t.Helper()
	b := &bank{t: t, state: state, paid: paid, rec: new(sluice.Recorder)}
	if b.state == nil {
		b.state = newState(t)
	}
	c.State = b.state
	if c.Needs == nil {
		c.Needs = func(c sluice.Call) (string, bool) { return "pay somebody", c.Tool == "pay" || c.Tool == "raw" }
	}
	b.approvals = sluice.Must(agent.NewApprovals(c))
	b.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: append([]sluice.Interceptor{b.approvals}, around...)}))
	b.ctx = sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{RunID: "run", Tenant: "acme", Sink: b.rec})
	sluice.Must(sluice.Wrap(b.exec, sluice.Spec{Name: "pay"}, func(_ context.Context, p payment) (string, error) {
		paid.mu.Lock()
		paid.list = append(paid.list, p)
		paid.mu.Unlock()
		if paid.inside != nil {
			paid.inside()
		}
		if paid.failing {
			return "", errors.New("no credit")
		}
		return "paid " + p.To, nil
	}))
	sluice.Must(sluice.Wrap(b.exec, sluice.Spec{Name: "look"}, func(context.Context, struct{}) (int, error) {
		paid.mu.Lock()
		defer paid.mu.Unlock()
		paid.looked++
		return len(paid.list), nil
	}))
	sluice.Must(sluice.Wrap(b.exec, sluice.Spec{Name: "raw"}, func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil }))
	sluice.Must(sluice.Wrap(b.exec, sluice.Spec{Name: "outer"}, func(ctx context.Context, p payment) (sluice.Result, error) {
		return b.exec.Invoke(ctx, sluice.Request{Tool: "pay", Input: p})
	}))
	return b
}

// again is the process after a restart: all that it had is gone, but what was stored.
func (b *bank) again(c agent.ApprovalsConfig) *bank {
	b.t.Helper()
	snapshot, err := json.Marshal(b.state)
	require.NoError(b.t, err)
	b.close()
	return newBank(b.t, restored(b.t, snapshot), b.paid, c)
}

func restored(t *testing.T, snapshot []byte) *sluice.SharedState {
	t.Helper()
	s := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	require.NoError(t, json.Unmarshal(snapshot, s))
	return s
}

func (b *bank) close() {
	b.t.Helper()
	require.NoError(b.t, b.exec.Close(context.Background()))
	require.NoError(b.t, b.rec.Check())
	b.state.Close()
}

func (b *bank) pay(ctx context.Context, args string) (sluice.Result, error) {
	return b.exec.Invoke(ctx, sluice.Request{ID: "c", Tool: "pay", Args: json.RawMessage(args)})
}

// awaited is the approval that err says the call waits for.
func awaited(t *testing.T, err error) agent.Approval {
	t.Helper()
	x := refusedFor(t, err, agent.ApprovalPending)
	return x
}

func refusedFor(t *testing.T, err error, want agent.ApprovalState) agent.Approval {
	t.Helper()
	require.ErrorIs(t, err, sluice.ErrDenied)
	require.ErrorIs(t, err, sluice.ErrRejected)
	x, ok := errors.AsType[*agent.ApprovalError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, want, x.Approval.State)
	require.Equal(t, "approval_"+string(want), sluice.CodeOf(err))
	return x.Approval
}

const five = `{"to":"ada","cents":500}`

func TestApprovals_Config(t *testing.T) {
	state := newState(t)
	defer state.Close()
	needs := func(sluice.Call) (string, bool) { return "", true }
	for want, c := range map[string]agent.ApprovalsConfig{
		"agent: ApprovalsConfig.State is nil: must be a SharedState that outlives the calls":        {Needs: needs},
		"agent: ApprovalsConfig.Needs is nil: must say which calls need approval":                   {State: state},
		"agent: ApprovalsConfig.Lifetime is 1ms: must be zero (24 h) or from 1s to 8760h0m0s":       {State: state, Needs: needs, Lifetime: time.Millisecond},
		"agent: ApprovalsConfig.Lifetime is 8760h0m1s: must be zero (24 h) or from 1s to 8760h0m0s": {State: state, Needs: needs, Lifetime: 8760*time.Hour + time.Second},
		"agent: ApprovalsConfig.Max is -1: must be zero (10,000) or 1 to 1000000":                   {State: state, Needs: needs, Max: -1},
	} {
		_, err := agent.NewApprovals(c)
		require.EqualError(t, err, want)
	}
	_, err := agent.NewApprovals(agent.ApprovalsConfig{State: new(sluice.SharedState), Needs: needs})
	require.ErrorContains(t, err, "agent: ApprovalsConfig.State: ")
	require.ErrorIs(t, err, sluice.ErrNoState)
	a := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{State: state, Needs: needs}))
	_, err = a.Resolver(nil)
	require.EqualError(t, err, "agent: Approvals.Resolver: resolve is nil: must be a function")
	_, err = agent.NewModes(nil)
	require.EqualError(t, err, "agent: NewModes: allowed is nil: must say in which modes a tool is allowed")
	for want, d := range map[string]agent.Decision{
		"Decision.By has 257 bytes":                                 {By: strings.Repeat("x", 257)},
		"Decision.Reason has 1025 bytes":                            {Reason: strings.Repeat("x", 1025)},
		"Decision.Arguments are there: must be nil without Approve": {Arguments: json.RawMessage("{}")},
		`Decision.Arguments has the name "a" twice: must be JSON`:   {Approve: true, Arguments: json.RawMessage(`{"a":1,"a":2}`)},
	} {
		require.ErrorContains(t, a.Decide(t.Context(), "x", d), want)
	}
	require.ErrorIs(t, a.Decide(t.Context(), "x", agent.Decision{Approve: true}), sluice.ErrAbsent)
	require.ErrorIs(t, a.Cancel(t.Context(), "x", "", ""), sluice.ErrAbsent)
	require.ErrorContains(t, a.Cancel(t.Context(), "x", "", strings.Repeat("x", 2000)), "at most 256 and 1024 bytes")
}

// A call comes back at once, and runs once when it is approved and comes again.
func TestApprovals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{}, gates)
		defer b.close()
		var x agent.Approval
		for range 3 { // no token is taken
			_, err := b.pay(b.ctx, five)
			x = awaited(t, err)
			require.JSONEq(t, `{"type":"approval_pending","message":"the call was denied: it waits for approval, and has not run; do not repeat it","retryable":false}`, sluice.ModelText(err))
		}
		require.Empty(t, b.paid.all())
		list, err := b.approvals.Pending(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 3, "each call needs one of its own")
		require.Equal(t, agent.Approval{
			ID: x.ID, State: agent.ApprovalPending, Tool: "pay", Arguments: json.RawMessage(`{"cents":500,"to":"ada"}`), Tenant: "acme", CallID: "c",
			RunID: "run", Message: "pay somebody", Requested: x.Requested, Expires: x.Requested.Add(24 * time.Hour),
		}, x)
		require.Contains(t, list, x)

		time.Sleep(23 * time.Hour)
		require.NoError(t, b.approvals.Decide(b.ctx, x.ID, agent.Decision{Approve: true, By: "grace"}))
		time.Sleep(23 * time.Hour)
		for range 3 {
			res, err := b.pay(agent.WithApproval(b.ctx, x.ID), ` {"cents": 5e2, "to":"\u0061da"} `)
			require.NoError(t, err)
			require.Equal(t, "paid ada", res.Value)
		}
		require.Equal(t, []payment{{To: "ada", Cents: 500}}, b.paid.all(), "the others got the result of the first")
		now, err := b.approvals.Get(t.Context(), x.ID)
		require.NoError(t, err)
		require.Equal(t, agent.ApprovalUsed, now.State)

		// All is freed in the end.
		time.Sleep(72 * time.Hour)
		_, err = b.approvals.Get(t.Context(), x.ID)
		require.ErrorIs(t, err, sluice.ErrAbsent)
		for e := range b.state.List("") {
			require.Fail(t, "something is left", e.Key)
		}
		_, err = b.pay(agent.WithApproval(b.ctx, x.ID), five)
		refusedFor(t, err, agent.ApprovalExpired)
	})
}

// What runs is what was approved: another tool, tenant or other arguments need an approval of their own.
func TestApprovals_AreOfOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{})
		defer b.close()
		_, err := b.pay(b.ctx, five)
		x := awaited(t, err)
		require.NoError(t, b.approvals.Decide(b.ctx, x.ID, agent.Decision{Approve: true}))
		ctx := agent.WithApproval(b.ctx, x.ID)
		pc := sluice.PipelineContextFrom(ctx)
		pc.Tenant = "evil"
		for name, call := range map[string]func() error{
			"other arguments": func() error { _, err := b.pay(ctx, `{"to":"ada","cents":501}`); return err },
			"one more":        func() error { _, err := b.pay(ctx, `{"to":"ada","cents":500,"memo":"x"}`); return err },
			"another tenant":  func() error { _, err := b.pay(sluice.WithPipelineContext(ctx, pc), five); return err },
			"another tool": func() error {
				_, err := b.exec.Invoke(ctx, sluice.Request{Tool: "raw", Args: json.RawMessage(five)})
				return err
			},
		} {
			y := awaited(t, call())
			require.NotEqual(t, x.ID, y.ID, name)
		}
		require.Empty(t, b.paid.all())
		_, err = b.pay(ctx, five)
		require.NoError(t, err, "it is not used up by that")
	})
}

// What cannot be told apart from something else cannot be approved.
func TestApprovals_ArgumentsThatNobodyCanApprove(t *testing.T) {
	b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{})
	defer b.close()
	_, err := b.exec.Invoke(b.ctx, sluice.Request{Tool: "raw", Input: json.RawMessage(`{"a":"\ud800"}`)})
	require.ErrorIs(t, err, sluice.ErrRejected)
	_, err = b.exec.Invoke(b.ctx, sluice.Request{Tool: "raw", Args: json.RawMessage(`{"a":12345678901234567890123}`)})
	x := awaited(t, err)
	require.Equal(t, `{"a":12345678901234567890123e0}`, string(x.Arguments))
}

// Who decides may change the arguments; the call runs with those and no others, checked as any.
func TestApprovals_EditedArguments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{})
		defer b.close()
		for i, args := range []string{five, `{"to":"ada","cents":300}`} { // as it was, and as it is
			_, err := b.pay(b.ctx, five)
			x := awaited(t, err)
			require.NoError(t, b.approvals.Decide(b.ctx, x.ID, agent.Decision{Approve: true, Arguments: json.RawMessage(`{"cents":3e2,"to":"ada"}`)}))
			for range 2 {
				res, err := b.pay(agent.WithApproval(b.ctx, x.ID), args)
				require.NoError(t, err)
				require.Equal(t, "paid ada", res.Value)
			}
			require.Len(t, b.paid.all(), i+1)
			require.Equal(t, payment{To: "ada", Cents: 300}, b.paid.all()[i])
		}
		_, err := b.pay(b.ctx, five)
		x := awaited(t, err)
		require.NoError(t, b.approvals.Decide(b.ctx, x.ID, agent.Decision{Approve: true, Arguments: json.RawMessage(`{"euros":3}`)}))
		_, err = b.pay(agent.WithApproval(b.ctx, x.ID), five)
		require.ErrorIs(t, err, sluice.ErrInvalidArguments)
		require.Len(t, b.paid.all(), 2)
	})
}

// A call that fails with the arguments of the decision has run as much as one that fails with its own.
func TestApprovals_EditedCallFails(t *testing.T) {
	for _, code := range []string{"tool_error", "panic", "timeout"} {
		synctest.Test(t, func(t *testing.T) {
			b, cents := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{}), new(atomic.Int64)
			defer b.close()
			spec := sluice.Spec{Name: "pay", Policy: sluice.Policy{Timeout: time.Minute}}
			sluice.Must(sluice.Replace(b.exec.Registry(), spec, func(_ context.Context, p payment) (string, error) {
				cents.Add(p.Cents)
				switch code {
				case "panic":
					panic("no credit")
				case "timeout":
					time.Sleep(time.Hour)
				}
				return "", errors.New("no credit")
			}))
			_, err := b.pay(b.ctx, five)
			x := awaited(t, err)
			require.NoError(t, b.approvals.Decide(b.ctx, x.ID, agent.Decision{Approve: true, Arguments: json.RawMessage(`{"to":"ada","cents":400}`)}))
			_, err = b.pay(agent.WithApproval(b.ctx, x.ID), five)
			require.Equal(t, code, sluice.CodeOf(err), "%v", err)
			require.NotErrorIs(t, err, sluice.ErrRejected)
			require.EqualValues(t, 400, cents.Load())
		})
	}
}

// A call that is refused further in has not run, and may come again; one that fails has.
func TestApprovals_RefusedFurtherIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		b := newBank(t, nil, &ledger{failing: true}, agent.ApprovalsConfig{}, rate)
		defer b.close()
		_, err := b.exec.Invoke(b.ctx, sluice.Request{Tool: "look", Args: json.RawMessage("{}")})
		require.NoError(t, err)
		_, err = b.pay(b.ctx, five)
		x := awaited(t, err)
		require.NoError(t, b.approvals.Decide(b.ctx, x.ID, agent.Decision{Approve: true}))
		ctx, cancel := context.WithTimeout(agent.WithApproval(b.ctx, x.ID), time.Minute)
		defer cancel()
		_, err = b.pay(ctx, five)
		require.ErrorIs(t, err, sluice.ErrWaitTooLong)
		now, err := b.approvals.Get(t.Context(), x.ID)
		require.NoError(t, err)
		require.Equal(t, agent.ApprovalApproved, now.State)
		time.Sleep(time.Hour)
		for range 2 {
			_, err = b.pay(agent.WithApproval(b.ctx, x.ID), five)
			require.EqualError(t, err, "no credit")
			require.NotErrorIs(t, err, sluice.ErrRejected)
			require.Equal(t, "tool_error", sluice.CodeOf(err))
		}
		require.Len(t, b.paid.all(), 1)
	})
}

// More than Max are refused, and there is room again when what has ended is forgotten.
func TestApprovals_AreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{Max: 2, Lifetime: time.Hour})
		defer b.close()
		for range 2 {
			_, err := b.pay(b.ctx, five)
			awaited(t, err)
		}
		_, err := b.pay(b.ctx, five)
		require.ErrorIs(t, err, sluice.ErrDenied)
		require.ErrorIs(t, err, sluice.ErrFull)
		require.JSONEq(t, `{"type":"approval_unasked","message":"the call was denied: too much waits for approval at present, so it was not asked for, and has not run","retryable":false}`, sluice.ModelText(err))
		require.Empty(t, b.paid.all())
		time.Sleep(2 * time.Hour)
		_, err = b.pay(b.ctx, five)
		awaited(t, err)
	})
}

// Without its state nobody can be asked, and nothing runs.
func TestApprovals_StateIsClosed(t *testing.T) {
	b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{})
	b.state.Close()
	_, err := b.pay(b.ctx, five)
	require.ErrorIs(t, err, sluice.ErrDenied)
	require.ErrorIs(t, err, sluice.ErrNoState)
	require.Contains(t, sluice.ModelText(err), "approval could not be asked for, so it has not run")
	_, err = b.pay(agent.WithApproval(b.ctx, "x"), five)
	require.ErrorIs(t, err, sluice.ErrNoState)
	require.ErrorIs(t, b.approvals.Decide(b.ctx, "x", agent.Decision{Approve: true}), sluice.ErrNoState)
	require.Empty(t, b.paid.all())
	b.close()
}

// A nested call comes back too: what is around it goes on, and holds what it holds no longer for that.
func TestApprovals_NestedCallIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{})
		defer b.close()
		outer := func(ctx context.Context) error {
			_, err := b.exec.Invoke(ctx, sluice.Request{Tool: "outer", Args: json.RawMessage(five)})
			return err
		}
		err := outer(b.ctx)
		require.NotErrorIs(t, err, sluice.ErrRejected, "it has run")
		x, ok := errors.AsType[*agent.ApprovalError](err)
		require.True(t, ok)
		require.NoError(t, b.approvals.Decide(b.ctx, x.Approval.ID, agent.Decision{Approve: true}))
		require.NoError(t, outer(agent.WithApproval(b.ctx, x.Approval.ID)))
		require.Len(t, b.paid.all(), 1)
	})
}

// Events have Stageflow's fields, the request within the call's own, and a decision is told once.
func TestApprovals_Events(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{Lifetime: time.Hour})
		defer b.close()
		var ids []string
		for range 4 {
			_, err := b.pay(b.ctx, five)
			ids = append(ids, awaited(t, err).ID)
		}
		require.NoError(t, b.approvals.Decide(b.ctx, ids[0], agent.Decision{Approve: true, By: "grace"}))
		require.Error(t, b.approvals.Decide(b.ctx, ids[0], agent.Decision{By: "eve"}))
		require.NoError(t, b.approvals.Decide(b.ctx, ids[1], agent.Decision{By: "grace"}))
		require.NoError(t, b.approvals.Cancel(b.ctx, ids[2], "alan", "over"))
		time.Sleep(time.Hour)
		for range 2 {
			list, err := b.approvals.Pending(b.ctx)
			require.NoError(t, err)
			require.Empty(t, list)
		}
		var requested, decided []string
		for _, e := range b.rec.Events() {
			raw, err := json.Marshal(e)
			require.NoError(t, err)
			if e.Kind != "approval.requested" && e.Kind != "approval.decided" {
				continue
			}
			type fields struct {
				Tool     string `json:"tool_name"`
				ID       string `json:"action_id"`
				Run      string `json:"pipeline_run_id"`
				Request  string `json:"request_id"`
				Message  string `json:"approval_message"`
				Decision string `json:"decision"`
				By       string `json:"decided_by"`
				Key      string `json:"call_key"`
			}
			var x struct {
				fields
				Attrs fields `json:"attrs"`
			}
			require.NoError(t, json.Unmarshal(raw, &x))
			of := x.fields
			if e.Kind == "approval.decided" {
				of = x.Attrs
				require.Zero(t, e.CallKey, "the call is over")
				require.NotEmpty(t, of.Key)
			}
			require.Equal(t, []string{"pay", "c", "run", "pay somebody"}, []string{of.Tool, of.ID, of.Run, x.Attrs.Message}, "%s", raw)
			if e.Kind == "approval.requested" {
				requested = append(requested, x.Attrs.Request)
			} else {
				decided = append(decided, fmt.Sprint(x.Attrs.Request, " ", x.Attrs.Decision, " ", x.Attrs.By))
			}
		}
		require.Equal(t, ids, requested)
		require.Equal(t, []string{ids[0] + " approved grace", ids[1] + " denied grace", ids[2] + " cancelled alan", ids[3] + " expired "}, decided)
	})
}

// A sink that breaks decides nothing.
func TestApprovals_BrokenSink(t *testing.T) {
	b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{Sink: brokenSink{}})
	defer b.close()
	_, err := b.pay(b.ctx, five)
	require.NoError(t, b.approvals.Decide(b.ctx, awaited(t, err).ID, agent.Decision{Approve: true}))
}

type brokenSink struct{}

func (brokenSink) Enabled(sluice.EventKind) bool             { return true }
func (brokenSink) Emit(context.Context, *sluice.Event) error { panic("no") }

// Of a thousand who decide at once, one does, and of a thousand calls that come then, one runs; with a restart between.
func TestApprovals_AThousandDeciders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := agent.ApprovalsConfig{Lifetime: time.Hour}
		b := newBank(t, nil, &ledger{}, c)
		for round := range 4 {
			_, err := b.pay(b.ctx, five)
			x := awaited(t, err)
			time.Sleep(time.Hour - time.Duration(round%2)) // in every second round all come too late
			other := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{State: b.state, Lifetime: time.Hour, Needs: func(sluice.Call) (string, bool) { return "", true }}))
			var won, approved, late, ran, refused atomic.Int32
			var group sync.WaitGroup
			for i := range 1000 {
				group.Go(func() {
					err := [2]*agent.Approvals{b.approvals, other}[i%2].Decide(b.ctx, x.ID, agent.Decision{Approve: i%4 != 0, By: fmt.Sprint(i)})
					if err == nil {
						won.Add(1)
						if i%4 != 0 {
							approved.Add(1)
						}
						return
					}
					x, ok := errors.AsType[*agent.ApprovalError](err)
					if ok && x.Approval.State == agent.ApprovalExpired {
						late.Add(1)
					}
				})
			}
			group.Wait()
			if round%2 == 0 {
				require.Zero(t, won.Load())
				require.EqualValues(t, 1000, late.Load())
			} else {
				require.EqualValues(t, 1, won.Load())
			}
			b = b.again(c)
			before := len(b.paid.all())
			for range 1000 {
				group.Go(func() {
					res, err := b.pay(agent.WithApproval(b.ctx, x.ID), five)
					if err == nil && res.Value == "paid ada" {
						ran.Add(1)
					} else if _, ok := errors.AsType[*agent.ApprovalError](err); ok {
						refused.Add(1)
					}
				})
			}
			group.Wait()
			require.EqualValues(t, 1000, ran.Load()+refused.Load())
			require.EqualValues(t, approved.Load(), len(b.paid.all())-before)
			require.Equal(t, approved.Load() == 1, ran.Load() > 0)
		}
		b.close()
	})
}

// A decision and the end of the lifetime meet: one is first, for everybody.
func TestApprovals_DecisionMeetsExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{Lifetime: time.Second})
		defer b.close()
		for i := range 50 {
			_, err := b.pay(b.ctx, five)
			x := awaited(t, err)
			var group sync.WaitGroup
			won := false
			group.Go(func() {
				time.Sleep(time.Second - time.Duration(i%2))
				won = b.approvals.Decide(b.ctx, x.ID, agent.Decision{Approve: true}) == nil
			})
			group.Go(func() {
				time.Sleep(time.Second - time.Duration(i%2))
				_, err := b.approvals.Pending(b.ctx)
				require.NoError(t, err)
			})
			group.Wait()
			now, err := b.approvals.Get(b.ctx, x.ID)
			require.NoError(t, err)
			require.Equal(t, i%2 == 1, won)
			require.Equal(t, won, now.State == agent.ApprovalApproved)
			require.Equal(t, !won, now.State == agent.ApprovalExpired)
		}
	})
}

// An entry that nobody here understands is left alone, and lets nothing run.
func TestApprovals_ForeignEntry(t *testing.T) {
	state := newState(t)
	ctx := sluice.WithState(t.Context(), state)
	entry := json.RawMessage(`{"v":2,"id":"x","state":"approved","tool":"pay","arguments":{"cents":500,"to":"ada"}}`)
	sluice.Must(sluice.Key[json.RawMessage]("approvals/x").Set(ctx, entry))
	var snapshot bytes.Buffer
	require.NoError(t, json.NewEncoder(&snapshot).Encode(state))
	b := newBank(t, restored(t, snapshot.Bytes()), &ledger{}, agent.ApprovalsConfig{})
	defer b.close()
	_, err := b.pay(agent.WithApproval(b.ctx, "x"), five)
	require.ErrorContains(t, err, "its entry is of version 2: must be 1")
	require.Empty(t, b.paid.all())
	require.ErrorContains(t, b.approvals.Decide(b.ctx, "x", agent.Decision{}), "version 2")
}
