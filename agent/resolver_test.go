package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// resolved is a bank whose calls wait for resolve. Its gates have one slot.
func resolved(t *testing.T, resolve func(context.Context, agent.Approval) (agent.Decision, error)) *bank {
	t.Helper()
	b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{Lifetime: time.Hour}, limited(1, sluice.PrioritySchedulerConfig{})...)
	require.NoError(t, b.exec.Close(context.Background()))
	resolver := sluice.Must(b.approvals.Resolver(resolve))
	exec := sluice.Must(sluice.NewExecutor(b.exec.Registry(), sluice.Config{
		Interceptors: append([]sluice.Interceptor{resolver, b.approvals}, limited(1, sluice.PrioritySchedulerConfig{})...),
	}))
	b.exec = exec
	return b
}

// A call that waits for its approval holds nothing, and runs then, in its turn.
func TestResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resolved(t, func(_ context.Context, x agent.Approval) (agent.Decision, error) {
			require.Equal(t, "pay somebody", x.Message)
			time.Sleep(30 * time.Minute)
			return agent.Decision{Approve: true, By: "grace"}, nil
		})
		defer b.close()
		began := time.Now()
		f := b.exec.Submit(b.ctx, sluice.Request{ID: "c", Tool: "pay", Args: json.RawMessage(five)})
		synctest.Wait()
		require.Zero(t, b.exec.Snapshot().Queued)
		_, err := b.exec.Invoke(b.ctx, sluice.Request{Tool: "look", Args: json.RawMessage("{}")})
		require.NoError(t, err, "the one slot is free")
		require.Equal(t, time.Duration(0), time.Since(began))
		res, err := f.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, "paid ada", res.Value)
		require.Equal(t, 30*time.Minute, time.Since(began))
		for _, e := range b.rec.Events() {
			require.NotEqual(t, sluice.ToolRetrying, e.Kind, "that is no retry")
		}
	})
}

// Whatever ends the wait, the call does not run unless it is approved.
func TestResolver_Ends(t *testing.T) {
	errNobody, errGone := errors.New("nobody is there"), errors.New("gone")
	for name, x := range map[string]struct {
		resolve func(ctx context.Context, b *bank, x agent.Approval) (agent.Decision, error)
		call    func(ctx context.Context) (context.Context, context.CancelFunc)
		after   time.Duration
		check   func(t *testing.T, err error)
		state   agent.ApprovalState
		runs    int
	}{
		"denied": {
			resolve: func(context.Context, *bank, agent.Approval) (agent.Decision, error) {
				return agent.Decision{Reason: "no"}, nil
			},
			check: func(t *testing.T, err error) { refusedFor(t, err, agent.ApprovalDenied) },
			state: agent.ApprovalDenied,
		},
		"edited": {
			resolve: func(context.Context, *bank, agent.Approval) (agent.Decision, error) {
				return agent.Decision{Approve: true, Arguments: json.RawMessage(`{"to":"ada","cents":1}`)}, nil
			},
			check: func(t *testing.T, err error) { require.NoError(t, err) }, state: agent.ApprovalUsed, runs: 1,
		},
		"fails": {
			resolve: func(context.Context, *bank, agent.Approval) (agent.Decision, error) {
				return agent.Decision{}, errNobody
			},
			check: func(t *testing.T, err error) {
				refusedFor(t, err, agent.ApprovalPending)
				require.ErrorIs(t, err, errNobody)
			},
			state: agent.ApprovalPending,
		},
		"panics": {
			resolve: func(context.Context, *bank, agent.Approval) (agent.Decision, error) { panic("no") },
			check:   func(t *testing.T, err error) { require.ErrorContains(t, err, "has panicked or exited") },
			state:   agent.ApprovalPending,
		},
		"exits": {
			resolve: func(context.Context, *bank, agent.Approval) (agent.Decision, error) {
				runtime.Goexit()
				return agent.Decision{}, nil
			},
			check: func(t *testing.T, err error) { require.ErrorContains(t, err, "has panicked or exited") },
			state: agent.ApprovalPending,
		},
		"expires": {
			resolve: func(ctx context.Context, _ *bank, _ agent.Approval) (agent.Decision, error) {
				<-ctx.Done()
				return agent.Decision{Approve: true}, nil
			},
			after: time.Hour, check: func(t *testing.T, err error) { refusedFor(t, err, agent.ApprovalExpired) }, state: agent.ApprovalExpired,
		},
		"expires, and nobody listens": {
			resolve: func(context.Context, *bank, agent.Approval) (agent.Decision, error) {
				time.Sleep(2 * time.Hour)
				return agent.Decision{Approve: true}, nil
			},
			after: time.Hour, check: func(t *testing.T, err error) { refusedFor(t, err, agent.ApprovalExpired) }, state: agent.ApprovalExpired,
		},
		"somebody else is quicker": {
			resolve: func(ctx context.Context, b *bank, x agent.Approval) (agent.Decision, error) {
				time.AfterFunc(time.Minute, func() { require.NoError(b.t, b.approvals.Decide(b.ctx, x.ID, agent.Decision{Approve: true})) })
				<-ctx.Done()
				return agent.Decision{}, ctx.Err()
			},
			after: time.Minute, check: func(t *testing.T, err error) { require.NoError(t, err) }, state: agent.ApprovalUsed, runs: 1,
		},
		"the caller goes": {
			resolve: func(ctx context.Context, _ *bank, _ agent.Approval) (agent.Decision, error) {
				<-ctx.Done()
				return agent.Decision{Approve: true}, nil
			},
			call: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeoutCause(ctx, time.Minute, errGone)
			},
			after: time.Minute,
			check: func(t *testing.T, err error) {
				require.ErrorIs(t, err, errGone)
				require.ErrorIs(t, err, sluice.ErrRejected)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b *bank
				id := make(chan string, 1)
				b = resolved(t, func(ctx context.Context, a agent.Approval) (agent.Decision, error) {
					id <- a.ID
					return x.resolve(ctx, b, a)
				})
				ctx := b.ctx
				if x.call != nil {
					var cancel context.CancelFunc
					ctx, cancel = x.call(ctx)
					defer cancel()
				}
				began := time.Now()
				_, err := b.pay(ctx, five)
				require.Equal(t, x.after, time.Since(began))
				x.check(t, err)
				require.Len(t, b.paid.all(), x.runs)
				now, err := b.approvals.Get(b.ctx, <-id)
				require.NoError(t, err)
				if x.state != "" {
					require.Equal(t, x.state, now.State)
				} else {
					require.NotEqual(t, agent.ApprovalPending, now.State, "nobody waits for it")
				}
				b.close()
			})
		})
	}
}

// A nested call does not wait while those around it hold a slot: it is refused as pending, at once.
func TestResolver_Nested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resolved(t, func(context.Context, agent.Approval) (agent.Decision, error) {
			require.Fail(t, "it is asked about a nested call")
			return agent.Decision{}, nil
		})
		defer b.close()
		began := time.Now()
		_, err := b.exec.Invoke(b.ctx, sluice.Request{Tool: "outer", Args: json.RawMessage(five)})
		x, ok := errors.AsType[*agent.ApprovalError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, agent.ApprovalPending, x.Approval.State)
		require.Zero(t, time.Since(began))
		require.Empty(t, b.paid.all())
	})
}
