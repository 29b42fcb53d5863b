package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// maze is an executor whose tools answer what they are told to.
type maze struct {
	t      *testing.T
	exec   *sluice.Executor
	rec    *sluice.Recorder
	ctx    context.Context // of a run
	answer any             // or an error
	ran    int
}

// newMaze has tools that read ("read"), may change things ("write"), poll ("poll"), and claim to read ("claims").
func newMaze(t *testing.T, c agent.LoopsConfig, inside ...sluice.Interceptor) *maze {
	t.Helper()
	if c.Exempt == nil {
		c.Exempt = func(tool sluice.Spec) bool { return tool.Name == "poll" }
	}
	l, err := agent.NewLoops(c)
	require.NoError(t, err)
	pc, rec := sluice.NewTestPipelineContext()
	w := &maze{t: t, rec: rec, ctx: agent.WithRun(sluice.WithPipelineContext(t.Context(), pc))}
	w.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: append([]sluice.Interceptor{l}, inside...)}))
	for name, hints := range map[string]sluice.Hints{"read": {ReadOnly: true}, "write": {}, "poll": {}, "claims": {ReadOnly: true, Untrusted: true}} {
		sluice.Must(sluice.Wrap(w.exec, sluice.Spec{Name: name, Hints: hints}, func(context.Context, json.RawMessage) (any, error) {
			w.ran++
			if err, failed := w.answer.(error); failed {
				return nil, err
			}
			return w.answer, nil
		}))
	}
	return w
}

func (w *maze) call(tool, args string, answer any) error {
	w.t.Helper()
	w.answer = answer
	_, err := w.exec.Invoke(w.ctx, sluice.Request{Tool: tool, Args: json.RawMessage(args)})
	return err
}

// runs makes calls of tool, and each runs.
func (w *maze) runs(n int, tool, args string, answer any) {
	w.t.Helper()
	for range n {
		was := w.ran
		err := w.call(tool, args, answer)
		if want, failed := answer.(error); failed {
			require.ErrorIs(w.t, err, want)
		} else {
			require.NoError(w.t, err)
		}
		require.Equal(w.t, was+1, w.ran)
	}
}

// loops makes a call that is refused.
func (w *maze) loops(tool, args string) *agent.LoopError {
	w.t.Helper()
	was := w.ran
	err := w.call(tool, args, "other")
	require.ErrorIs(w.t, err, sluice.ErrDenied)
	require.Equal(w.t, "loop_detected", sluice.CodeOf(err))
	require.Equal(w.t, was, w.ran)
	x, ok := errors.AsType[*agent.LoopError](err)
	require.True(w.t, ok)
	return x
}

func (w *maze) close() {
	w.t.Helper()
	require.NoError(w.t, w.exec.Close(context.Background()))
	require.NoError(w.t, w.rec.Check())
}

func TestLoops_Config(t *testing.T) {
	for want, c := range map[string]agent.LoopsConfig{
		"agent: LoopsConfig.Repeats is -1: must be zero (3) or 1 to 1000":                    {Repeats: -1},
		"agent: LoopsConfig.Repeats is 1001: must be zero (3) or 1 to 1000":                  {Repeats: 1001},
		"agent: LoopsConfig.Window is 4: must be zero (64) or from Repeats, 5, to 10000":     {Repeats: 5, Window: 4},
		"agent: LoopsConfig.Window is 10001: must be zero (64) or from Repeats, 3, to 10000": {Window: 10_001},
		"agent: LoopsConfig.Lifetime is -1ns: must be zero (10 min) or positive":             {Lifetime: -1},
		"agent: LoopsConfig.Exit is 9: must be ExitContinue, ExitEnd or ExitError":           {Exit: 9},
	} {
		_, err := agent.NewLoops(c)
		require.EqualError(t, err, want)
	}
	l, err := agent.NewLoops(agent.LoopsConfig{Repeats: 100})
	require.NoError(t, err)
	require.Equal(t, "loops", l.String())
}

// What is a loop and what is none.
func TestLoops(t *testing.T) {
	errOther := errors.New("another")
	for name, f := range map[string]func(w *maze){
		"the same three times, in any form of the arguments": func(w *maze) {
			w.runs(1, "read", `{"a":1,"b":[2.0]}`, "x")
			w.runs(1, "read", ` { "b": [2], "a": 1e0 }`, "x")
			w.runs(1, "read", `{"a":1,"b":[2]}`, "x")
			x := w.loops("read", `{"a":1,"b":[2.00]}`)
			require.Equal(w.t, agent.LoopError{Repeats: 3}, *x)
			require.EqualError(w.t, x, "this call has been made 3 times with the same arguments and the same result, and nothing has changed since; "+
				"do not repeat it: use the result that you have, try another way, or say what is in the way")
			w.loops("read", `{"b":[2],"a":1}`) // as long as nothing changes
			w.runs(1, "read", `{"a":1,"b":[3]}`, "x")
			w.runs(1, "write", `{"a":1,"b":[2]}`, "x") // another tool
		},
		"the same error": func(w *maze) {
			w.runs(3, "write", `{}`, errOwn)
			x := w.loops("write", `{}`)
			require.True(w.t, x.Failed)
			require.EqualError(w.t, x, "this call has been made 3 times with the same arguments and has failed in the same way each time; "+
				"do not repeat it: change the arguments, try another way, or say what is in the way")
		},
		"results that differ": func(w *maze) {
			for i := range 20 {
				w.runs(1, "write", `{}`, i)
			}
			w.runs(2, "write", `{}`, "done")
			w.runs(1, "write", `{}`, "undone")
			w.runs(2, "write", `{}`, "done")
			w.runs(1, "write", `{}`, "done")
			w.loops("write", `{}`)
		},
		"errors that differ": func(w *maze) {
			w.runs(2, "write", `{}`, errOwn)
			w.runs(2, "write", `{}`, errOther)
			w.runs(2, "write", `{}`, "ok")
			w.runs(3, "write", `{}`, errOwn)
			w.loops("write", `{}`)
		},
		"round and round between reads": func(w *maze) {
			for range 3 {
				w.runs(1, "read", `1`, "x")
				w.runs(1, "read", `2`, "y")
				w.runs(1, "read", `3`, errOwn)
			}
			w.loops("read", `1`)
			w.loops("read", `2`)
			w.loops("read", `3`)
		},
		"round and round between what may write, whose first round counts as a change": func(w *maze) {
			for range 3 {
				w.runs(1, "write", `1`, "x")
				w.runs(1, "write", `2`, "y")
			}
			w.runs(1, "write", `1`, "x") // three since the first of 2
			w.loops("write", `1`)
			w.loops("write", `2`)
		},
		"an edit, and the same tests": func(w *maze) {
			for i := range 10 {
				w.runs(1, "read", `"test"`, "red")
				w.runs(1, "write", fmt.Sprint(i), "ok")
			}
		},
		"edits that fail": func(w *maze) {
			for i := range 3 {
				w.runs(1, "read", `"test"`, "red")
				w.runs(1, "write", fmt.Sprint(i), errOwn)
			}
			w.loops("read", `"test"`)
		},
		"the same edit again": func(w *maze) {
			w.runs(1, "write", `1`, "ok")
			for range 2 {
				w.runs(1, "read", `"test"`, "red")
				w.runs(1, "write", `1`, "ok")
			}
			w.runs(1, "read", `"test"`, "red")
			w.loops("read", `"test"`)
			w.loops("write", `1`)
		},
		"reads of other things": func(w *maze) {
			for i := range 3 {
				w.runs(1, "write", `"bash"`, "red")
				w.runs(1, "read", fmt.Sprint(i), "text")
			}
			w.loops("write", `"bash"`)
		},
		"what nobody vouches for may write": func(w *maze) {
			for i := range 10 {
				w.runs(1, "read", `"test"`, "red")
				w.runs(1, "claims", fmt.Sprint(i), "text")
			}
		},
		"exempt tools, which change nothing": func(w *maze) {
			w.runs(2, "read", `1`, "x")
			for i := range 10 {
				w.runs(2, "poll", `{}`, "running")
				w.runs(1, "poll", fmt.Sprint(i), "running")
			}
			w.runs(1, "read", `1`, "x")
			w.loops("read", `1`)
		},
		"another run": func(w *maze) {
			w.runs(3, "read", `1`, "x")
			first := w.ctx
			w.ctx = agent.WithRun(w.ctx)
			w.runs(3, "read", `1`, "x")
			w.loops("read", `1`)
			w.ctx = first
			w.loops("read", `1`)
		},
		"no run": func(w *maze) {
			w.ctx = w.t.Context()
			w.runs(10, "read", `1`, "x")
		},
		"what is gone from the window": func(w *maze) {
			w.runs(3, "read", `1`, "x")
			w.loops("read", `1`)
			for i := range 62 {
				w.runs(1, "read", fmt.Sprint("1", i), "x")
			}
			w.runs(1, "read", `1`, "x") // of two
			for i := range 61 {
				w.runs(1, "read", fmt.Sprint("2", i), "x")
			}
			w.runs(2, "read", `1`, "x")
			w.loops("read", `1`)
		},
		"what was long ago": func(w *maze) {
			w.runs(2, "read", `1`, "x")
			time.Sleep(5 * time.Minute)
			w.runs(1, "read", `1`, "x")
			w.loops("read", `1`)
			time.Sleep(5*time.Minute - time.Nanosecond)
			w.loops("read", `1`)
			time.Sleep(time.Nanosecond)
			w.runs(2, "read", `1`, "x")
			w.loops("read", `1`)
		},
		"arguments that nobody can compare": func(w *maze) {
			odd := sluice.Must(sluice.Wrap(w.exec, sluice.Spec{Name: "odd"}, func(_ context.Context, in func()) (int, error) { return 0, nil }))
			for range 10 {
				_, err := odd(w.ctx, func() {})
				require.NoError(w.t, err)
			}
		},
		"results without JSON": func(w *maze) {
			w.runs(10, "read", `1`, func() {})
		},
		"cancelled calls": func(w *maze) {
			ctx, cancel := context.WithCancel(w.ctx)
			w.ctx, w.answer = ctx, ""
			cancel()
			for range 10 {
				require.ErrorIs(w.t, w.call("read", `1`, "x"), sluice.ErrRejected)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newMaze(t, agent.LoopsConfig{})
				f(w)
				w.close()
			})
		})
	}
}

// A refusal is told of, with what it says.
func TestLoops_Event(t *testing.T) {
	w := newMaze(t, agent.LoopsConfig{Repeats: 1})
	w.runs(1, "read", `1`, errOwn)
	w.loops("read", `1`)
	events := w.rec.Events()
	told := events[len(events)-2]
	require.EqualValues(t, "loop.denied", told.Kind)
	require.Equal(t, "[reason=loop_detected repeats=1 failed=true]", fmt.Sprint(told.Attrs))
	require.Equal(t, sluice.ToolDenied, events[len(events)-1].Kind)
	w.close()
}

// What was refused further in is no outcome, and what a layer had stored is one.
func TestLoops_FurtherIn(t *testing.T) {
	stored, refuses := false, false
	inside := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			switch {
			case refuses:
				return sluice.Result{}, errOwn
			case stored:
				return sluice.Result{Value: "x"}, nil
			}
			return next(ctx, c)
		}
	})
	w := newMaze(t, agent.LoopsConfig{}, inside)
	w.runs(2, "read", `1`, "x")
	refuses = true
	for range 10 {
		require.ErrorIs(t, w.call("read", `1`, "x"), sluice.ErrDenied)
	}
	refuses, stored = false, true
	require.NoError(t, w.call("read", `1`, "y"))
	w.loops("read", `1`)
	w.close()
}

// Code that calls tools is no model, unless it begins a run.
func TestLoops_Nested(t *testing.T) {
	w := newMaze(t, agent.LoopsConfig{})
	sluice.Must(sluice.Wrap(w.exec, sluice.Spec{Name: "code"}, func(ctx context.Context, agents bool) (int, error) {
		if agents {
			ctx = agent.WithRun(ctx)
		}
		for i := range 10 {
			if _, err := w.exec.Invoke(ctx, sluice.Request{Tool: "read", Args: json.RawMessage(`1`)}); err != nil {
				return i, nil
			}
		}
		return 10, nil
	}))
	w.answer = "x"
	for range 2 {
		for args, want := range map[string]int{"false": 10, "true": 3} {
			res, err := w.exec.Invoke(w.ctx, sluice.Request{Tool: "code", Args: json.RawMessage(args)})
			require.NoError(t, err)
			require.Equal(t, want, res.Value)
		}
	}
	w.runs(3, "read", `1`, "x")
	w.loops("read", `1`)
	w.close()
}

// Calls that stream, and calls at once.
func TestLoops_StreamsAndAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{Interceptors: []sluice.Interceptor{sluice.Must(agent.NewLoops(agent.LoopsConfig{}))}})
		ctx := agent.WithRun(d.ctx)
		for range 5 {
			_, err := d.exec.Invoke(ctx, request("", "streams", 1))
			require.NoError(t, err)
			(<-d.streamed)()
		}
		r := d.runner(agent.Config{})
		calls := []sluice.Request{request("", "work", 1), request("", "work", 1), request("", "work", 1), request("", "work", 1), request("", "fails", 1)}
		for _, x := range r.Run(ctx, calls)[:4] {
			require.NoError(t, x.Err, "nobody knows yet what the others come to")
		}
		replies := r.Run(ctx, calls)
		for _, x := range replies[:4] {
			y, ok := errors.AsType[*agent.LoopError](x.Err)
			require.True(t, ok)
			require.Equal(t, 4, y.Repeats)
		}
		require.ErrorIs(t, replies[4].Err, errOwn)
		d.close()
	})
}

// pastCall is a call as the model of Loops remembers it.
type pastCall struct {
	at            time.Time
	call, outcome string
	failed        bool
	writes        bool
}

// isLoop is the rule as docs/budgets.md has it.
func isLoop(past []pastCall, now time.Time, c agent.LoopsConfig, call string) bool {
	var row []int // of the latest, the latest first
	from := max(len(past)-c.Window, 0)
	for from < len(past) && now.Sub(past[from].at) >= c.Lifetime {
		from++
	}
	for i := len(past) - 1; i >= from && len(row) < c.Repeats; i-- {
		if past[i].call == call {
			row = append(row, i)
		}
	}
	if len(row) < c.Repeats {
		return false
	}
	for _, i := range row {
		if past[i].outcome != past[row[0]].outcome {
			return false
		}
	}
	for i := row[len(row)-1]; i < len(past); i++ {
		x := past[i]
		if x.call == call || x.failed || !x.writes {
			continue
		}
		repeats := false // at its time, in the window as it was then
		for j := max(i-c.Window, 0); j < i; j++ {
			repeats = repeats || past[j].call == x.call && past[j].outcome == x.outcome && x.at.Sub(past[j].at) < c.Lifetime
		}
		if !repeats {
			return false
		}
	}
	return true
}

// Random calls, with the rule as the model.
func TestLoops_Model(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	refused, ran := 0, 0
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			c := agent.LoopsConfig{Repeats: 1 + rnd.IntN(4), Lifetime: time.Duration(1+rnd.IntN(200)) * time.Second}
			c.Window = c.Repeats + rnd.IntN(12)
			w := newMaze(t, c)
			var past []pastCall
			tools, args, outcomes := 1+rnd.IntN(3), 1+rnd.IntN(3), 1+rnd.IntN(3)
			for range 100 {
				time.Sleep(time.Duration(rnd.IntN(5)) * time.Second)
				tool, arg, outcome := []string{"write", "read", "claims"}[rnd.IntN(tools)], fmt.Sprint(rnd.IntN(args)), rnd.IntN(outcomes)
				var answer any = outcome
				if outcome == 2 {
					answer = errOwn
				}
				was := w.ran
				err := w.call(tool, arg, answer)
				call := tool + " " + arg
				if isLoop(past, time.Now(), c, call) {
					require.Equal(t, "loop_detected", sluice.CodeOf(err))
					refused++
					continue
				}
				require.Equal(t, was+1, w.ran)
				ran++
				past = append(past, pastCall{time.Now(), call, fmt.Sprint(answer), outcome == 2, tool != "read"})
			}
			w.close()
		})
	}
	t.Logf("%d ran, %d were refused", ran, refused)
	require.Greater(t, refused, 1000)
	require.Greater(t, ran, 1000)
}

// Runs at once, each with loops and calls of its own, and runs within them: none sees another's.
func TestLoops_Storm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	d := newDesk(t, sluice.Config{Interceptors: append([]sluice.Interceptor{sluice.Must(agent.NewLoops(agent.LoopsConfig{}))},
		limited(3, sluice.PrioritySchedulerConfig{})...)})
	register(d, "one", sluice.Policy{}, func(context.Context, workIn) (int, error) { return 1, nil })
	parent := agent.WithRun(d.ctx)
	var all sync.WaitGroup
	for range 200 {
		ctx, others := agent.WithRun([]context.Context{d.ctx, parent}[rnd.IntN(2)]), rnd.IntN(4)
		all.Go(func() {
			for range 3 {
				_, err := d.exec.Invoke(ctx, request("", "one", 0))
				require.NoError(t, err)
			}
			for range others { // at once
				all.Go(func() {
					_, err := d.exec.Invoke(ctx, request("", "one", 0))
					require.Equal(t, "loop_detected", sluice.CodeOf(err))
				})
			}
			_, err := d.exec.Invoke(ctx, request("", "one", 0))
			require.Equal(t, "loop_detected", sluice.CodeOf(err))
		})
	}
	all.Wait()
	d.close()
}
