package resilience_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

// order is what a tool is paid for; No is its idempotency key.
type order struct {
	No     string `json:"no"`
	Amount int    `json:"amount"`
}

type receipt struct {
	N     int      `json:"n"`
	Lines []string `json:"lines"`
}

// shop is an executor with a tool that is to have its effect once.
type shop struct {
	*rig
	once *resilience.Once
	runs *atomic.Int64
	pay  func(ctx context.Context, o order) (receipt, error)
}

func byNumber(c sluice.Call) (string, bool) {
	o, ok := c.Input.(order)
	return o.No, ok && o.No != "none"
}

func newState(t *testing.T, c sluice.SharedStateConfig) *sluice.SharedState {
	t.Helper()
	if stateOfFleet {
		return newFleetState(t)
	}
	s, err := sluice.NewSharedState(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// newShop makes a shop; f is told the how manieth execution it is. Gates stand between the two parts of the layer.
func newShop(t *testing.T, c resilience.OnceConfig, spec sluice.Spec, f func(ctx context.Context, n int) error, gates ...sluice.Interceptor) *shop {
	t.Helper()
	s := openShop(t, c, append(gates, anyNumber(), nil)...)
	s.sell(spec, f)
	return s
}

// openShop is newShop without the tool; a last gate that is nil stands for the inner part of the layer.
func openShop(t *testing.T, c resilience.OnceConfig, gates ...sluice.Interceptor) *shop {
	t.Helper()
	if c.Key == nil {
		c.Key = byNumber
	}
	if stateOfFleet && c.State == nil {
		c.State = newFleetState(t)
	}
	once, err := resilience.NewOnce(c)
	require.NoError(t, err)
	list := []sluice.Interceptor{once}
	for _, g := range gates {
		if g == nil {
			g = once.Inner()
		}
		list = append(list, g)
	}
	return &shop{rig: newRig(t, sluice.Config{}, list...), once: once, runs: new(atomic.Int64)}
}

// sell registers the tool.
func (s *shop) sell(spec sluice.Spec, f func(ctx context.Context, n int) error) {
	s.t.Helper()
	if spec.Name == "" {
		spec.Name = "pay"
	}
	runs := s.runs
	pay, err := sluice.Wrap(s.Executor, spec, func(ctx context.Context, o order) (receipt, error) {
		n := int(runs.Add(1))
		return receipt{n, []string{o.No}}, f(ctx, n)
	})
	require.NoError(s.t, err)
	s.pay = pay
}

// key is that of an order of the rig's tenant.
func key(no string) resilience.OnceKey {
	return resilience.OnceKey{Tenant: "org-1", Tool: "pay", Key: no}
}

// payment is how one of several calls has ended.
type payment struct {
	receipt receipt
	err     error
	at      time.Duration
}

// all makes n calls at once, the first one first, and answers how they ended. The first gets ctx.
func (s *shop) all(ctx context.Context, n int, o order) []payment {
	out, done := make([]payment, n), make(chan struct{})
	for i := range n {
		ctx := ctx
		if i > 0 {
			ctx = s.ctx
		}
		go func() {
			ended := false
			defer func() {
				if !ended {
					out[i].err = errExit
				}
				out[i].at = time.Since(s.start)
				done <- struct{}{}
			}()
			out[i].receipt, out[i].err = s.pay(ctx, o)
			ended = true
		}()
		if i == 0 {
			synctest.Wait() // it leads
		}
	}
	for range n {
		<-done
	}
	return out
}

// errExit stands for the end of the caller's goroutine.
var errExit = &sluice.PanicError{Goexit: true}

// anyNumber is a gate that lets all through.
func anyNumber() sluice.Interceptor {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 100_000}}}))
}

func lasts(d time.Duration) func(context.Context, int) error {
	return func(context.Context, int) error { time.Sleep(d); return nil }
}

// However many bring a key there is one execution, and each has a result of its own, of the tool's type, until the
// lifetime is over.
func TestOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{TTL: time.Hour}, sluice.Spec{}, lasts(time.Second))
		for _, p := range s.all(s.ctx, 5, order{"a", 1}) {
			require.NoError(t, p.err)
			require.Equal(t, receipt{1, []string{"a"}}, p.receipt)
			require.Equal(t, time.Second, p.at)
			p.receipt.Lines[0] = "changed"
		}
		for _, after := range []time.Duration{0, time.Hour - 1} {
			time.Sleep(after)
			res, err := s.Invoke(s.ctx, sluice.Request{Tool: "pay", Args: json.RawMessage(`{"amount":1,"no":"a"}`)})
			require.NoError(t, err)
			require.Equal(t, receipt{1, []string{"a"}}, res.Value, "the tool's own type")
		}
		time.Sleep(time.Nanosecond)
		p, err := s.pay(s.ctx, order{"a", 1})
		require.NoError(t, err)
		require.Equal(t, 2, p.N, "its lifetime is over")
		kinds := map[sluice.EventKind]int{}
		for _, e := range s.rec.Events() {
			kinds[e.Kind]++
		}
		require.Equal(t, map[sluice.EventKind]int{sluice.ToolInvoked: 8, sluice.ToolStarted: 2, sluice.ToolCompleted: 8, "once.replayed": 6}, kinds)
		require.Equal(t, []sluice.GateState{{Name: "once"}}, s.once.Inspect())
		s.end()
	})
}

// Keys count for a tenant and a tool, and calls without one are not looked at.
func TestOnce_Scope(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{Tools: func(s sluice.Spec) bool { return s.Name != "free" }}, sluice.Spec{}, works)
		first, in := s.pay, func(change func(pc *sluice.PipelineContext)) context.Context {
			pc := sluice.PipelineContextFrom(s.ctx)
			change(&pc)
			return sluice.WithPipelineContext(s.ctx, pc)
		}
		s.sell(sluice.Spec{Name: "other"}, works)
		other := s.pay
		s.sell(sluice.Spec{Name: "free"}, works)
		free := s.pay
		for i, tt := range []struct {
			pay  func(context.Context, order) (receipt, error)
			ctx  context.Context
			o    order
			want int
		}{
			{first, s.ctx, order{"a", 1}, 1},
			{first, s.ctx, order{"a", 1}, 1},
			{first, s.ctx, order{"b", 1}, 2},
			{other, s.ctx, order{"a", 1}, 3},
			{first, in(func(pc *sluice.PipelineContext) { pc.Tenant = "acme" }), order{"a", 1}, 4},
			{first, in(func(pc *sluice.PipelineContext) { pc.OrgID = "acme" }), order{"a", 1}, 4},
			{first, in(func(pc *sluice.PipelineContext) { pc.RunID, pc.UserID = "run-9", "user-9" }), order{"a", 1}, 1},
			{first, in(func(pc *sluice.PipelineContext) { pc.State = newState(t, sluice.SharedStateConfig{}) }), order{"a", 1}, 5},
			{first, s.ctx, order{"none", 1}, 6},
			{first, s.ctx, order{"none", 1}, 7},
			{free, s.ctx, order{"a", 1}, 8},
			{free, s.ctx, order{"a", 1}, 9},
			{first, in(func(pc *sluice.PipelineContext) { pc.Tenant = "a/b" }), order{"c", 1}, 10},
			{first, in(func(pc *sluice.PipelineContext) { pc.Tenant = "a" }), order{"b/c", 1}, 11},
			{first, s.ctx, order{strings.Repeat("k", 255), 1}, 12},
		} {
			p, err := tt.pay(tt.ctx, tt.o)
			require.NoError(t, err, i)
			require.Equal(t, tt.want, p.N, i)
		}
		for no, want := range map[string]string{
			"":                       "resilience: the key has 0 bytes: must have 1 to 255",
			strings.Repeat("k", 256): "resilience: the key has 256 bytes: must have 1 to 255",
			"\xff":                   "resilience: the key is not UTF-8: must be",
		} {
			_, err := first(s.ctx, order{no, 1})
			require.ErrorIs(t, err, sluice.ErrDenied)
			require.ErrorContains(t, err, want)
		}
		require.EqualValues(t, 12, s.runs.Load())
		s.end()
	})
}

// Other arguments under a key are an error, while the first call is under way and afterwards; the same in another
// order are none. What is stored holds no argument.
func TestOnce_Mismatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{}, sluice.Spec{}, lasts(time.Second))
		differs := func() {
			t.Helper()
			_, err := s.pay(s.ctx, order{"a", 2})
			var x *resilience.OnceMismatchError
			require.ErrorAs(t, err, &x)
			require.Equal(t, key("a"), x.OnceKey)
			require.ErrorIs(t, err, sluice.ErrRejected, "it has not run")
			require.Equal(t, "once_mismatch", sluice.CodeOf(err))
			require.NotContains(t, err.Error(), `"a"`)
		}
		go s.pay(s.ctx, order{"a", 1})
		synctest.Wait()
		differs()
		require.Zero(t, time.Since(s.start), "at once")
		_, err := s.pay(s.ctx, order{"a", 1})
		require.NoError(t, err)
		differs()
		require.EqualValues(t, 1, s.runs.Load())
		s.end()
	})
}

// However the first of several calls ends: how many executions there are, what the others get and when, and whether the
// key is free afterwards. The second execution gives a result.
func TestOnce_Endings(t *testing.T) {
	in := func(d time.Duration, err error) func(context.Context, int) error {
		return func(_ context.Context, n int) error {
			if n > 1 {
				return nil
			}
			time.Sleep(d)
			return err
		}
	}
	exits := func(f func()) func(context.Context, int) error {
		return func(_ context.Context, n int) error {
			if time.Sleep(time.Second); n == 1 {
				f()
			}
			return nil
		}
	}
	timed := sluice.Spec{Policy: sluice.Policy{Timeout: time.Second}}
	kept := resilience.OnceConfig{Errors: func(err error) bool { return true }}
	for _, tt := range []struct {
		name          string
		conf          resilience.OnceConfig
		spec          sluice.Spec
		tool          func(ctx context.Context, n int) error
		first, others string // codes
		at            time.Duration
		runs          int    // of three calls
		later         int    // and of one afterwards, after an hour,
		then          string // which ends so
	}{
		{"a result", resilience.OnceConfig{}, sluice.Spec{}, in(time.Second, nil), "", "", time.Second, 1, 1, ""},
		{"an error, which all get who wait for it", resilience.OnceConfig{}, sluice.Spec{}, in(time.Second, errBoom), "tool_error", "tool_error", time.Second, 1, 2, ""},
		{"an error that is kept", kept, sluice.Spec{}, in(time.Second, errBoom), "tool_error", "tool_error", time.Second, 1, 1, "tool_error"},
		{"a panic", resilience.OnceConfig{}, sluice.Spec{}, exits(func() { panic(errBoom) }), "panic", "", 2 * time.Second, 2, 2, ""},
		{"a panic that is kept", kept, sluice.Spec{}, exits(func() { panic(errBoom) }), "panic", "panic", time.Second, 1, 1, "tool_error"},
		{"an exit", resilience.OnceConfig{}, sluice.Spec{}, exits(runtime.Goexit), "goexit", "", 2 * time.Second, 2, 2, ""},
		{"an exit that is kept", kept, sluice.Spec{}, exits(runtime.Goexit), "goexit", "goexit", time.Second, 1, 1, "tool_error"},
		{"a panic with a time limit", resilience.OnceConfig{}, sluice.Spec{Policy: sluice.Policy{Timeout: time.Minute}}, exits(func() { panic(errBoom) }), "panic", "", 2 * time.Second, 2, 2, ""},
		{"an exit with a time limit", resilience.OnceConfig{}, sluice.Spec{Policy: sluice.Policy{Timeout: time.Minute}}, exits(runtime.Goexit), "goexit", "", 2 * time.Second, 2, 2, ""},
		{"a timeout whose code goes on, to a result", resilience.OnceConfig{}, timed, in(time.Minute, nil), "timeout", "once_in_doubt", time.Second, 1, 1, ""},
		{"a timeout whose code goes on, to an error", resilience.OnceConfig{}, timed, in(time.Minute, errBoom), "timeout", "once_in_doubt", time.Second, 1, 2, ""},
		{"a timeout whose code goes on, to an error that is kept", kept, timed, in(time.Minute, errBoom), "timeout", "once_in_doubt", time.Second, 1, 1, "tool_error"},
		{"a timeout whose code has ended", resilience.OnceConfig{}, sluice.Spec{Policy: sluice.Policy{Timeout: time.Second, Cooperative: true}},
			func(ctx context.Context, n int) error {
				if n == 1 {
					<-ctx.Done()
				}
				return ctx.Err()
			}, "timeout", "timeout", time.Second, 1, 2, ""},
		{"a throttle", resilience.OnceConfig{}, sluice.Spec{}, in(time.Second, later(time.Second)), "tool_error", "tool_error", time.Second, 1, 2, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newShop(t, tt.conf, tt.spec, tt.tool)
				for i, p := range s.all(s.ctx, 3, order{"a", 1}) {
					want := tt.others
					if i == 0 {
						want = tt.first
					}
					require.Equal(t, want, sluice.CodeOf(p.err), "%d: %v", i, p.err)
					require.NotErrorIs(t, p.err, sluice.ErrRejected, "%d", i)
					if i > 0 {
						require.Equal(t, tt.at, p.at, i)
					}
				}
				require.EqualValues(t, tt.runs, s.runs.Load())
				time.Sleep(time.Hour)
				_, err := s.pay(s.ctx, order{"a", 1})
				require.NotErrorIs(t, err, sluice.ErrRejected)
				require.EqualValues(t, tt.later, s.runs.Load())
				require.Equal(t, tt.then, sluice.CodeOf(err), "%v", err)
				var x *resilience.OnceFailedError
				if require.Equal(t, tt.then != "", errors.As(err, &x)); x != nil && tt.first != "timeout" {
					require.Equal(t, tt.first, x.Reason)
				}
				s.end()
			})
		})
	}
}

// A payment that is asked for twice, as by a model that did not see the answer, is made once.
func ExampleNewOnce() {
	once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{
		Key: func(c sluice.Call) (string, bool) {
			o, ok := c.Input.(order)
			return o.No, ok
		},
		State: sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{})), // that of the fleet
	}))
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{once, limits, once.Inner()},
	}))
	defer exec.Close(context.Background())
	pay := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "pay"}, func(_ context.Context, o order) (string, error) {
		fmt.Println("paying", o.Amount)
		return "receipt 1", nil
	}))
	fmt.Println(pay(context.Background(), order{No: "A-17", Amount: 20}))
	fmt.Println(pay(context.Background(), order{No: "A-17", Amount: 20}))
	_, err := pay(context.Background(), order{No: "A-17", Amount: 30})
	fmt.Println(sluice.CodeOf(err))
	// Output:
	// paying 20
	// receipt 1 <nil>
	// receipt 1 <nil>
	// once_mismatch
}

// Of a payment that did not answer in time nobody knows whether it was made. It is not made again before
// somebody has looked.
func ExampleOnce_Resolve() {
	once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{
		Key:   func(c sluice.Call) (string, bool) { return "A-17", true },
		State: sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{})),
	}))
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{once, limits, once.Inner()}, Timeout: 100 * time.Millisecond,
	}))
	hangs := make(chan struct{})
	pay := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "pay"}, func(context.Context, int) (string, error) {
		<-hangs // whatever its context says
		return "", errors.New("lost")
	}))
	_, err := pay(context.Background(), 20)
	fmt.Println(sluice.CodeOf(err))
	_, err = pay(context.Background(), 20)
	fmt.Println(sluice.CodeOf(err))

	var doubt *resilience.OnceInDoubtError
	if errors.As(err, &doubt) { // the bank says that it was made
		fmt.Println(once.Resolve(context.Background(), doubt.OnceKey, "receipt 1"))
	}
	fmt.Println(pay(context.Background(), 20))
	close(hangs)
	exec.Close(context.Background())
	// Output:
	// timeout
	// once_in_doubt
	// <nil>
	// receipt 1 <nil>
}
