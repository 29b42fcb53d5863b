package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/resilience"
)

var errOwn = errors.New("the tool's own")

// desk is an executor with tools for batches, and what it has come to.
type desk struct {
	t        *testing.T
	exec     *sluice.Executor
	reg      *sluice.ToolRegistry
	rec      *sluice.Recorder
	ctx      context.Context
	started  chan string // ids of calls of "work", in the order of their starts
	running  atomic.Int32
	peak     atomic.Int32
	streamed chan func() // each is what ends a stream
}

// around is the forms of an executor that calls come through in different ways.
var around = map[string]func(gates ...sluice.Interceptor) sluice.Config{
	"gates alone": func(gates ...sluice.Interceptor) sluice.Config { return sluice.Config{Interceptors: gates} },
	"standard": func(gates ...sluice.Interceptor) sluice.Config {
		return sluice.Must(resilience.Standard(resilience.StandardConfig{Gates: gates}))
	},
	"an interceptor outside": func(gates ...sluice.Interceptor) sluice.Config {
		pass := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
		})
		return sluice.Config{Interceptors: append([]sluice.Interceptor{pass}, gates...)}
	},
}

type workIn struct {
	Millis int `json:"millis"`
}

func newDesk(t *testing.T, c sluice.Config) *desk {
	t.Helper()
	d := &desk{t: t, reg: sluice.NewToolRegistry(), started: make(chan string, 1000), streamed: make(chan func(), 1000)}
	d.exec = sluice.Must(sluice.NewExecutor(d.reg, c))
	pc, rec := sluice.NewTestPipelineContext()
	d.rec, d.ctx = rec, sluice.WithPipelineContext(t.Context(), pc)
	work := func(ctx context.Context, in workIn) (int, error) {
		n := d.running.Add(1)
		defer d.running.Add(-1)
		for p := d.peak.Load(); n > p && !d.peak.CompareAndSwap(p, n); p = d.peak.Load() {
		}
		c, _ := sluice.CallFrom(ctx)
		d.started <- c.ID
		select {
		case <-time.After(time.Duration(in.Millis) * time.Millisecond):
			return in.Millis, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	register(d, "work", sluice.Policy{}, work)
	register(d, "other", sluice.Policy{}, work)
	register(d, "urgent", sluice.Policy{Priority: sluice.PriorityInteractive}, work)
	register(d, "idle", sluice.Policy{Priority: sluice.PriorityBatch}, work)
	register(d, "fails", sluice.Policy{}, func(context.Context, workIn) (int, error) { return 0, errOwn })
	register(d, "panics", sluice.Policy{}, func(context.Context, workIn) (int, error) { panic("no") })
	register(d, "exits", sluice.Policy{}, func(context.Context, workIn) (int, error) { runtime.Goexit(); return 0, nil })
	register(d, "late", sluice.Policy{Timeout: time.Millisecond}, work)
	register(d, "streams", sluice.Policy{}, func(ctx context.Context, in workIn) (context.Context, error) {
		stream, done, err := sluice.Hold(ctx)
		d.streamed <- func() { done(nil) }
		return stream, err
	})
	return d
}

func register[Out any](d *desk, name string, p sluice.Policy, f func(context.Context, workIn) (Out, error)) {
	_, err := sluice.Register(d.reg, sluice.Spec{Name: name, Policy: p}, f)
	require.NoError(d.t, err)
}

// close closes the executor, and holds that nothing is left and all was told.
func (d *desk) close() {
	d.t.Helper()
	require.NoError(d.t, d.exec.Close(context.Background()))
	require.NoError(d.t, d.rec.Check())
	s := d.exec.Snapshot()
	require.Zero(d.t, s.InFlight)
	require.Zero(d.t, s.Queued)
}

func (d *desk) runner(c agent.Config) *agent.Runner {
	d.t.Helper()
	r, err := agent.New(d.exec, c)
	require.NoError(d.t, err)
	return r
}

// starts are the calls that have started since it was asked last.
func (d *desk) starts() (ids []string) {
	for {
		select {
		case id := <-d.started:
			ids = append(ids, id)
		default:
			return ids
		}
	}
}

func request(id, tool string, millis int) sluice.Request {
	b, _ := json.Marshal(workIn{millis})
	return sluice.Request{ID: id, Tool: tool, Args: b}
}

// limited is a limit of so many calls, and a queue of that many at most.
func limited(most int, c sluice.PrioritySchedulerConfig) []sluice.Interceptor {
	return []sluice.Interceptor{
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: most}}})),
		sluice.Must(sluice.NewPriorityScheduler(c)),
	}
}

// collected is what an iterator yields, by index and in its order.
func collected(t *testing.T, seq iter.Seq2[int, agent.Reply], n int) (replies []agent.Reply, order []int) {
	t.Helper()
	replies = make([]agent.Reply, n)
	for i, r := range seq {
		require.NotContains(t, order, i)
		replies[i], order = r, append(order, i)
	}
	return replies, order
}
