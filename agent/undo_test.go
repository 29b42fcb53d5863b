package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
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

type undoData struct {
	File string `json:"file"`
}

// shed is an executor with the tool "write", which does what do says, and an Undo.
type shed struct {
	t      *testing.T
	ctx    context.Context
	state  *sluice.SharedState
	rec    *sluice.Recorder
	undo   *agent.Undo
	exec   *sluice.Executor
	do     func(ctx context.Context, file string) error
	undoes func(ctx context.Context, file string) error

	mu     sync.Mutex
	keys   []string // of calls, in the order in which they began
	undone []string
}

func newShed(t *testing.T, c agent.UndoConfig, p sluice.Policy, outside ...sluice.Interceptor) *shed {
	t.Helper()
	s := &shed{t: t, state: c.State, do: func(ctx context.Context, file string) error { return agent.ReportUndo(ctx, undoData{file}) }}
	if s.state == nil {
		s.state = newState(t)
	}
	s.rec = new(sluice.Recorder)
	s.ctx = sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{RunID: "run-1", SessionID: "s", OrgID: "o"})
	c.State, c.Sink = s.state, s.rec
	c.Undo = map[string]func(context.Context, json.RawMessage) error{"write": func(ctx context.Context, data json.RawMessage) error {
		var d undoData
		if err := json.Unmarshal(data, &d); err != nil {
			return err
		}
		if s.undoes != nil {
			if err := s.undoes(ctx, d.File); err != nil {
				return err
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.undone = append(s.undone, d.File)
		return nil
	}}
	undo, err := agent.NewUndo(c)
	require.NoError(t, err)
	s.undo = undo
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 10_000}}}))
	s.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: append(outside, limits, undo),
	}))
	write := func(ctx context.Context, file string) (string, error) {
		call, _ := sluice.CallFrom(ctx)
		if call.Attempt == 1 {
			s.mu.Lock()
			s.keys = append(s.keys, call.Key.String())
			s.mu.Unlock()
		}
		return file, s.do(ctx, file)
	}
	_, err = sluice.Register(s.exec.Registry(), sluice.Spec{Name: "write", Policy: p, Hints: sluice.Hints{Idempotent: true}}, write)
	require.NoError(t, err)
	_, err = sluice.Register(s.exec.Registry(), sluice.Spec{Name: "plain"}, write)
	require.NoError(t, err)
	return s
}

func (s *shed) write(ctx context.Context, file string) error {
	_, err := s.exec.Invoke(ctx, sluice.Request{ID: "call_1", Tool: "write", Input: file})
	return err
}

func (s *shed) end() {
	s.t.Helper()
	require.NoError(s.t, s.exec.Close(context.Background()))
	require.NoError(s.t, s.state.Close())
}

// order is what was undone, in that order.
func (s *shed) order() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.undone)
}

// key is that of the call that began as number i.
func (s *shed) key(i int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[i]
}

// reason is why a call was not undone; empty if it was.
func reason(err error) string {
	var x *agent.UndoError
	if errors.As(err, &x) {
		return x.Reason
	}
	return fmt.Sprint(err)
}

func TestUndo_Config(t *testing.T) {
	state := newState(t)
	defer state.Close()
	undo := map[string]func(context.Context, json.RawMessage) error{"x": func(context.Context, json.RawMessage) error { return nil }}
	for want, c := range map[string]agent.UndoConfig{
		"agent: UndoConfig.State is nil: must be a state that outlives the runs":      {Undo: undo},
		"agent: UndoConfig.Undo is empty: must say how tools are undone":              {State: state},
		`agent: UndoConfig.Undo of "y" is nil: must be a function`:                    {State: state, Undo: map[string]func(context.Context, json.RawMessage) error{"y": nil}},
		"agent: UndoConfig.Lifetime is -1ns: must be zero (24 h) or positive":         {State: state, Undo: undo, Lifetime: -1},
		"agent: UndoConfig.Timeout is -1ns: must be zero (30 s) or positive":          {State: state, Undo: undo, Timeout: -1},
		"agent: UndoConfig.MaxCalls is -1: must be zero (10,000) or up to 1073741824": {State: state, Undo: undo, MaxCalls: -1},
		"agent: UndoConfig.MaxBytes is -1: must be zero (64 KiB) or up to 1073741824": {State: state, Undo: undo, MaxBytes: -1},
		"agent: UndoConfig.Lease is 1ms: must be zero (30 s) or from 10ms to 24h0m0s": {State: state, Undo: undo, Lease: time.Millisecond},
		"agent: UndoConfig.State: sluice: no state":                                   {State: new(sluice.SharedState), Undo: undo},
	} {
		_, err := agent.NewUndo(c)
		require.ErrorContains(t, err, strings.TrimSuffix(want, " sluice: no state"))
	}
}

// Whatever becomes of a call that has left data, it is undone, once.
func TestUndo_AfterEveryEnding(t *testing.T) {
	for name, after := range map[string]func(ctx context.Context, cancel func()) error{
		"success":       func(context.Context, func()) error { return nil },
		"error":         func(context.Context, func()) error { return errOwn },
		"panic":         func(context.Context, func()) error { panic("no") },
		"exit":          func(context.Context, func()) error { runtime.Goexit(); return nil },
		"cancelled":     func(ctx context.Context, cancel func()) error { cancel(); <-ctx.Done(); return ctx.Err() },
		"out of time":   func(ctx context.Context, _ func()) error { <-ctx.Done(); return ctx.Err() },
		"late":          func(context.Context, func()) error { time.Sleep(time.Hour); return nil },
		"reported late": func(ctx context.Context, _ func()) error { <-ctx.Done(); return agent.ReportUndo(ctx, undoData{"a"}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShed(t, agent.UndoConfig{}, sluice.Policy{Timeout: time.Second})
				ctx, cancel := context.WithCancel(s.ctx)
				defer cancel()
				s.do = func(in context.Context, file string) error {
					if name != "reported late" {
						require.NoError(t, agent.ReportUndo(in, undoData{file}))
					}
					return after(in, cancel)
				}
				_ = s.write(ctx, "a")
				if name == "late" { // the effect may not be over
					for range 3 {
						require.Equal(t, "running", reason(s.undo.Call(s.ctx, s.key(0))))
						time.Sleep(19 * time.Minute)
					}
					time.Sleep(3 * time.Minute)
				}
				synctest.Wait()
				require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
				require.Equal(t, "undone", reason(s.undo.Call(s.ctx, s.key(0))), "undoing twice runs once")
				require.Equal(t, []string{"a"}, s.order())
				s.end()
			})
		})
	}
}

// What may be undone, by whom, and until when.
func TestUndo_KeysTenantsLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{Lifetime: time.Hour}, sluice.Policy{})
		other := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{RunID: "run-1", Tenant: "x"})
		for _, f := range []string{"a", "b"} { // with the same id
			require.NoError(t, s.write(s.ctx, f))
		}
		require.NoError(t, s.write(other, "theirs"))
		for _, key := range []string{"", "call_1", s.key(0) + "0", s.key(2)} {
			require.Equal(t, "unknown", reason(s.undo.Call(s.ctx, key)), key)
		}
		require.Equal(t, "unknown", reason(s.undo.Call(other, s.key(0))))
		stranger := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{RunID: "run-1", Tenant: "y"})
		n, err := s.undo.Group(stranger, "run-1")
		require.NoError(t, err)
		require.Zero(t, n)
		require.Empty(t, s.order())
		require.NoError(t, s.undo.Call(s.ctx, s.key(1)))
		require.Equal(t, []string{"b"}, s.order())
		at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		require.Equal(t, []agent.UndoEntry{
			{Key: s.key(1), Tool: "write", CallID: "call_1", At: at, State: agent.UndoDone},
			{Key: s.key(0), Tool: "write", CallID: "call_1", At: at, State: agent.UndoOpen},
		}, s.undo.List(s.ctx, "run-1"))
		time.Sleep(time.Hour - 1)
		require.Len(t, s.undo.List(s.ctx, "run-1"), 2)
		time.Sleep(time.Nanosecond)
		require.Empty(t, s.undo.List(s.ctx, "run-1"))
		require.Equal(t, "unknown", reason(s.undo.Call(s.ctx, s.key(0))))
		ended, cancel := context.WithCancelCause(s.ctx)
		cancel(errOwn)
		require.Equal(t, errOwn, s.undo.Call(ended, s.key(0)))
		require.Equal(t, []string{"b"}, s.order())
		s.end()
	})
}

// Each attempt leaves data of its own, in place of what it has left before, and may take it back.
func TestUndo_Attempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 4, Base: time.Second, Jitter: resilience.NoJitter,
			If: func(_ sluice.Spec, _ sluice.Attempt, _ sluice.Result, err error) bool { return err != nil }}))
		s := newShed(t, agent.UndoConfig{}, sluice.Policy{}, retry)
		s.do = func(ctx context.Context, file string) error {
			c, _ := sluice.CallFrom(ctx)
			for range 2 {
				file += fmt.Sprint(c.Attempt)
				require.NoError(t, agent.ReportUndo(ctx, undoData{file}))
			}
			if c.Attempt == 2 {
				require.NoError(t, agent.ReportUndo(ctx, nil))
			}
			if c.Attempt < 4 {
				return errOwn
			}
			return nil
		}
		require.NoError(t, s.write(s.ctx, "f"))
		require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
		require.Equal(t, []string{"f44", "f33", "f11"}, s.order())
		s.end()
	})
}

// A call can be undone between two of its attempts, and what the next leaves is undone again.
func TestUndo_BetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 2, Base: time.Minute, Max: time.Minute, Jitter: resilience.NoJitter,
			If: func(_ sluice.Spec, _ sluice.Attempt, _ sluice.Result, err error) bool { return err != nil }}))
		s := newShed(t, agent.UndoConfig{}, sluice.Policy{}, retry)
		s.do = func(ctx context.Context, file string) error {
			c, _ := sluice.CallFrom(ctx)
			require.NoError(t, agent.ReportUndo(ctx, undoData{fmt.Sprint(file, c.Attempt)}))
			return errOwn
		}
		done := make(chan error)
		go func() { done <- s.write(s.ctx, "f") }()
		time.Sleep(time.Second)
		require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
		require.ErrorIs(t, <-done, errOwn)
		require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
		require.Equal(t, []string{"f1", "f2"}, s.order())
		s.end()
	})
}

// A group is undone in reverse order, up to what cannot be undone.
func TestUndo_Group(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{}, sluice.Policy{})
		turn := agent.WithUndoGroup(s.ctx, "turn-7")
		for _, f := range []string{"a", "b", "c", "d"} {
			require.NoError(t, s.write(turn, f))
		}
		require.NoError(t, s.write(s.ctx, "no part of it"))
		fails := true
		s.undoes = func(_ context.Context, file string) error {
			if fails && file == "b" {
				return errOwn
			}
			return nil
		}
		n, err := s.undo.Group(s.ctx, "turn-7")
		require.Equal(t, 2, n)
		require.ErrorIs(t, err, errOwn)
		require.Equal(t, "failed", reason(err))
		require.Equal(t, []string{"d", "c"}, s.order())
		fails = false
		n, err = s.undo.Group(s.ctx, "turn-7")
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.Equal(t, []string{"d", "c", "b", "a"}, s.order())
		n, err = s.undo.Group(s.ctx, "turn-7")
		require.NoError(t, err)
		require.Zero(t, n)
		s.end()
	})
}

// An undo function may fail in any way: its caller and the sink are told, and it can be tried again.
func TestUndo_FunctionFails(t *testing.T) {
	for want, f := range map[string]func(ctx context.Context) error{
		"failed":   func(context.Context) error { return errOwn },
		"panicked": func(context.Context) error { panic("secret") },
		"exited":   func(context.Context) error { runtime.Goexit(); return nil },
		"timeout":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShed(t, agent.UndoConfig{}, sluice.Policy{})
				require.NoError(t, s.write(s.ctx, "a"))
				s.undoes = func(ctx context.Context, _ string) error { return f(ctx) }
				time.Sleep(time.Second)
				err := s.undo.Call(s.ctx, s.key(0))
				require.Equal(t, want, reason(err))
				require.Equal(t, map[string]string{"failed": "undo_failed", "panicked": "panic", "exited": "undo_exited", "timeout": "timeout"}[want], sluice.CodeOf(err))
				require.NotContains(t, err.Error(), "secret")
				synctest.Wait()
				events := s.rec.Events()
				require.Len(t, events, 1)
				require.Equal(t, sluice.EventKind("tool.undo_failed"), events[0].Kind)
				s.undoes = nil
				require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
				require.Equal(t, []string{"a"}, s.order())
				s.end()
			})
		})
	}
}

// Code that does not heed its context holds up nobody, and counts when it ends.
func TestUndo_FunctionIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{Timeout: time.Second}, sluice.Policy{})
		require.NoError(t, s.write(s.ctx, "a"))
		s.undoes = func(context.Context, string) error { time.Sleep(time.Hour); return nil }
		began := time.Now()
		require.Equal(t, "timeout", reason(s.undo.Call(s.ctx, s.key(0))))
		require.Equal(t, time.Second, time.Since(began))
		for range 3 {
			require.Equal(t, "undoing", reason(s.undo.Call(s.ctx, s.key(0))))
			time.Sleep(19 * time.Minute)
		}
		time.Sleep(3 * time.Minute)
		require.Equal(t, "undone", reason(s.undo.Call(s.ctx, s.key(0))))
		require.Equal(t, []string{"a"}, s.order())
		s.end()
	})
}

// Who leaves does not end the undoing.
func TestUndo_CallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{}, sluice.Policy{})
		require.NoError(t, s.write(s.ctx, "a"))
		s.undoes = func(ctx context.Context, _ string) error {
			time.Sleep(10 * time.Second)
			return ctx.Err()
		}
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		require.ErrorIs(t, s.undo.Call(ctx, s.key(0)), context.DeadlineExceeded)
		time.Sleep(10 * time.Second)
		require.Equal(t, []string{"a"}, s.order())
		require.Equal(t, "undone", reason(s.undo.Call(s.ctx, s.key(0))))
		s.end()
	})
}

// The events have Stageflow's names, and more.
func TestUndo_Events(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{}, sluice.Policy{})
		require.NoError(t, s.write(s.ctx, "a"))
		time.Sleep(time.Minute)
		fails := true
		s.undoes = func(context.Context, string) error {
			time.Sleep(250 * time.Millisecond)
			if fails {
				return errOwn
			}
			return nil
		}
		require.Error(t, s.undo.Call(s.ctx, s.key(0)))
		fails = false
		require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
		var got []map[string]any
		for _, e := range s.rec.Events() {
			raw, err := json.Marshal(e)
			require.NoError(t, err)
			var m map[string]any
			require.NoError(t, json.Unmarshal(raw, &m))
			attrs := m["attrs"].(map[string]any)
			require.Equal(t, s.key(0), attrs["call_key"])
			require.Equal(t, "2000-01-01T00:00:00.000000000Z", attrs["original_action_timestamp"])
			require.Equal(t, "write", m["tool_name"])
			require.Equal(t, "call_1", m["action_id"])
			require.Equal(t, "run-1", m["pipeline_run_id"])
			require.Equal(t, 250.0, m["duration_ms"])
			got = append(got, m)
		}
		require.Len(t, got, 2)
		require.Equal(t, "tool.undo_failed", got[0]["type"], "%v", got[0])
		require.Equal(t, "failed", got[0]["attrs"].(map[string]any)["reason"])
		require.Contains(t, got[0]["error_message"], "the tool's own")
		require.Equal(t, "tool.undone", got[1]["type"])
		s.end()
	})
}

// A sink that misbehaves changes nothing.
func TestUndo_SinkFails(t *testing.T) {
	for _, f := range []func(){func() { panic("no") }, runtime.Goexit} {
		state := newState(t)
		undo := sluice.Must(agent.NewUndo(agent.UndoConfig{State: state, Sink: badSink(f), Undo: map[string]func(context.Context, json.RawMessage) error{
			"x": func(context.Context, json.RawMessage) error { return nil }}}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{undo}}))
		key := ""
		x := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(ctx context.Context, _ int) (int, error) {
			c, _ := sluice.CallFrom(ctx)
			key = c.Key.String()
			return 0, agent.ReportUndo(ctx, 1)
		}))
		_, err := x(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, undo.Call(t.Context(), key))
		require.NoError(t, exec.Close(t.Context()))
		require.NoError(t, state.Close())
	}
}

type badSink func()

func (f badSink) Enabled(sluice.EventKind) bool             { f(); return true }
func (f badSink) Emit(context.Context, *sluice.Event) error { f(); return nil }

// What cannot be kept, the tool knows.
func TestUndo_Bounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{MaxCalls: 2, MaxBytes: 200, Lifetime: time.Hour}, sluice.Policy{})
		require.ErrorContains(t, s.write(s.ctx, strings.Repeat("x", 200)), "agent: ReportUndo: the data of the call would have 275 bytes: must have at most 200")
		require.NoError(t, s.write(s.ctx, "a"))
		require.NoError(t, s.write(s.ctx, "b"))
		require.ErrorIs(t, s.write(s.ctx, "c"), sluice.ErrFull)
		time.Sleep(time.Hour)
		require.NoError(t, s.write(s.ctx, "d"))
		s.do = func(ctx context.Context, _ string) error { return agent.ReportUndo(ctx, func() {}) }
		require.ErrorContains(t, s.write(s.ctx, "e"), "the data have no JSON")
		require.ErrorContains(t, s.write(agent.WithUndoGroup(s.ctx, strings.Repeat("g", 256)), "e"), "no JSON")
		s.do = func(ctx context.Context, _ string) error { return agent.ReportUndo(ctx, 1) }
		require.ErrorContains(t, s.write(agent.WithUndoGroup(s.ctx, strings.Repeat("g", 256)), "e"), "has 256 bytes: must have at most 255")
		_, err := s.exec.Invoke(s.ctx, sluice.Request{Tool: "plain", Input: "x"})
		require.ErrorContains(t, err, "of no call of a tool that an Undo has a function for")
		require.ErrorContains(t, agent.ReportUndo(s.ctx, 1), "of no call")
		s.end()
	})
}

// A nested call of a tool that cannot be undone leaves nothing in the name of the call around it.
func TestUndo_Nested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{}, sluice.Policy{})
		s.do = func(ctx context.Context, file string) error {
			if file == "inner" {
				return agent.ReportUndo(ctx, undoData{file})
			}
			_, err := s.exec.Invoke(ctx, sluice.Request{Tool: "plain", Input: "inner"})
			return err
		}
		require.ErrorContains(t, s.write(s.ctx, "outer"), "of no call")
		require.Empty(t, s.undo.List(s.ctx, "run-1"))
		s.end()
	})
}

// A thousand at once, in two processes that share a state: one undoes.
func TestUndo_AThousandCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{}, sluice.Policy{})
		other := newShed(t, agent.UndoConfig{State: s.state}, sluice.Policy{})
		require.NoError(t, s.write(s.ctx, "a"))
		var runs atomic.Int32
		slow := func(context.Context, string) error { runs.Add(1); time.Sleep(20 * time.Second); return nil }
		s.undoes, other.undoes = slow, slow
		var undone, told atomic.Int32
		var wg sync.WaitGroup
		for i := range 1000 {
			u := []*agent.Undo{s.undo, other.undo}[i%2]
			wg.Go(func() {
				time.Sleep(time.Duration(i/10) * time.Second)
				switch err := u.Call(s.ctx, s.key(0)); reason(err) {
				case "<nil>":
					undone.Add(1)
				case "undoing", "undone":
					told.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, []int32{1, 1, 999}, []int32{runs.Load(), undone.Load(), told.Load()})
		require.NoError(t, other.exec.Close(t.Context()))
		s.end()
	})
}

// moved is what another process finds when that of s has died: nothing that s does is kept any more.
func (s *shed) moved() *sluice.SharedState {
	s.t.Helper()
	raw, err := json.Marshal(s.state)
	require.NoError(s.t, err)
	require.NoError(s.t, s.state.Close())
	next := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	require.NoError(s.t, json.Unmarshal(raw, next))
	return next
}

// A process that dies leaves what was reported; what it was just undoing is in doubt, and its own code taken to run,
// until the lease has run out.
func TestUndo_ProcessDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{Lease: 30 * time.Second}, sluice.Policy{})
		require.NoError(t, s.write(s.ctx, "a"))
		s.undoes = func(context.Context, string) error { time.Sleep(10 * time.Minute); return nil }
		go s.undo.Call(s.ctx, s.key(0))
		s.do = func(ctx context.Context, file string) error {
			require.NoError(t, agent.ReportUndo(ctx, undoData{file}))
			time.Sleep(10 * time.Minute)
			return nil
		}
		go s.write(s.ctx, "b")
		time.Sleep(35 * time.Second) // the leases are renewed
		next := newShed(t, agent.UndoConfig{State: s.moved()}, sluice.Policy{})
		require.Equal(t, "undoing", reason(next.undo.Call(s.ctx, s.key(0))))
		require.Equal(t, "running", reason(next.undo.Call(s.ctx, s.key(1))))
		time.Sleep(25*time.Second - 1)
		require.Equal(t, "undoing", reason(next.undo.Call(s.ctx, s.key(0))))
		require.Equal(t, "undoing", reason(next.undo.Resolve(s.ctx, s.key(0), true)))
		time.Sleep(time.Nanosecond)
		require.Equal(t, "in_doubt", reason(next.undo.Call(s.ctx, s.key(0))))
		require.NoError(t, next.undo.Call(s.ctx, s.key(1)))
		require.Equal(t, "unknown", reason(next.undo.Resolve(t.Context(), s.key(0), false)), "another tenant's")
		require.NoError(t, next.undo.Resolve(s.ctx, s.key(0), false))
		require.NoError(t, next.undo.Call(s.ctx, s.key(0)))
		require.Equal(t, []string{"b", "a"}, next.order())
		time.Sleep(10 * time.Minute)
		require.NoError(t, s.exec.Close(t.Context()))
		next.end()
	})
}

// Processes come and go over a state that survives, at any instant; tools and undo functions fail, and take their time.
// No effect is undone twice, none is undone whose undoing may have happened, and in the end all are undone once.
func TestUndo_Storm(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		seed := rand.Uint64()
		synctest.Test(t, func(t *testing.T) { undoStorm(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func undoStorm(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	type effect struct{ begun, failed, undone int } // undoings
	var mu sync.Mutex
	effects, keys := map[string]*effect{}, map[string]string{}
	var all []string // keys
	upTo := func(d time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(rnd.Int64N(int64(d)))
	}
	one := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	state := (*sluice.SharedState)(nil)
	n := 0
	for process := range 4 {
		s := newShed(t, agent.UndoConfig{State: state, Lease: 9 * time.Second, Timeout: 5 * time.Second}, sluice.Policy{Timeout: 3 * time.Second})
		var dead atomic.Bool
		s.do = func(ctx context.Context, file string) error {
			time.Sleep(upTo(time.Second))
			c, _ := sluice.CallFrom(ctx)
			mu.Lock()
			keys[file] = c.Key.String()
			mu.Unlock()
			if err := agent.ReportUndo(ctx, undoData{file}); err != nil {
				return err // without an effect
			}
			mu.Lock()
			if !dead.Load() {
				effects[file] = &effect{}
				all = append(all, keys[file])
			}
			mu.Unlock()
			time.Sleep(upTo(6 * time.Second))
			return []error{nil, errOwn}[one(2)]
		}
		s.undoes = func(_ context.Context, file string) error {
			mu.Lock()
			e := effects[file]
			if dead.Load() || e == nil {
				mu.Unlock()
				return errOwn
			}
			if e.begun != e.failed {
				t.Errorf("seed %d: %s is undone again: %+v", seed, file, *e)
			}
			e.begun++
			mu.Unlock()
			time.Sleep(upTo(8 * time.Second))
			mu.Lock()
			defer mu.Unlock()
			if dead.Load() { // in the middle
				return nil
			}
			if rnd.IntN(3) == 0 {
				e.failed++
				return errOwn
			}
			e.undone++
			return nil
		}
		var wg sync.WaitGroup
		for range 10 {
			n++
			file := fmt.Sprint("f", n)
			wg.Go(func() { time.Sleep(upTo(20 * time.Second)); _ = s.write(s.ctx, file) })
			for range 3 {
				wg.Go(func() {
					time.Sleep(upTo(40 * time.Second))
					mu.Lock()
					key := "none"
					if len(all) > 0 {
						key = all[rnd.IntN(len(all))]
					}
					mu.Unlock()
					if !dead.Load() {
						_ = s.undo.Call(s.ctx, key)
					}
				})
			}
		}
		if process < 3 {
			time.Sleep(upTo(40 * time.Second))
		} else {
			wg.Wait()
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		mu.Lock()
		dead.Store(true)
		state = s.moved()
		mu.Unlock()
		wg.Wait()
		require.NoError(t, s.exec.Close(t.Context()))
	}
	time.Sleep(time.Minute) // all leases have run out
	s := newShed(t, agent.UndoConfig{State: state}, sluice.Policy{})
	s.undoes = func(_ context.Context, file string) error {
		effects[file].begun++
		effects[file].undone++
		return nil
	}
	for _, x := range s.undo.List(s.ctx, "run-1") {
		var file string
		for f, key := range keys {
			if key == x.Key {
				file = f
			}
		}
		e := effects[file]
		if e == nil { // the process has died between the report and the effect
			e = &effect{}
			effects[file] = e
		}
		if x.State == agent.UndoInDoubt {
			require.Equal(t, 1, e.begun-e.failed, "seed %d: %s is in doubt", seed, file)
			require.NoError(t, s.undo.Resolve(s.ctx, x.Key, e.undone == 1))
			e.begun = e.failed
		}
		err := s.undo.Call(s.ctx, x.Key)
		require.Contains(t, []string{"<nil>", "undone"}, reason(err), "seed %d: %s", seed, file)
	}
	for file, e := range effects {
		require.Equal(t, 1, e.undone, "seed %d: %s", seed, file)
	}
	require.True(t, slices.ContainsFunc(s.undo.List(s.ctx, "run-1"), func(x agent.UndoEntry) bool { return x.State == agent.UndoDone }))
	s.end()
}
