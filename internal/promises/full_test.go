package promises_test

import (
	"context"
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

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fullWorld is limits of which some refuse calls while they are full, at an instant of a random world.
type fullWorld struct {
	*rig
	rnd    *rand.Rand
	limits sluice.ConcurrencyLimiterConfig
	rate   sluice.RateLimiterConfig
	gates  struct {
		limits *sluice.ConcurrencyLimiter
		rate   *sluice.RateLimiter
		broken *sluice.CircuitBreaker
	}
	mu    sync.Mutex
	lines []string
}

func (w *fullWorld) say(format string, a ...any) {
	w.mu.Lock()
	w.lines = append(w.lines, fmt.Sprintf("%v: ", w.at())+fmt.Sprintf(format, a...))
	w.mu.Unlock()
}

func (w *fullWorld) flip() bool { return w.rnd.IntN(2) == 0 }

func newFullWorld(t *testing.T, rnd *rand.Rand, lock bool) *fullWorld {
	w := &fullWorld{rnd: rnd}
	w.limits.Limits = []sluice.Limit{
		{Max: 1 + rnd.IntN(3), Refuse: true},
		{Max: 1 + rnd.IntN(3), Refuse: w.flip(), Scope: sluice.ForType("remote")},
		{Max: 1 + rnd.IntN(2), Refuse: w.flip(), Scope: sluice.ByTenant, MaxKeys: 2 + rnd.IntN(3)},
	}
	if w.flip() { // else most calls have keys
		w.limits.Limits = w.limits.Limits[:2]
	}
	w.rate = sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 8, Per: time.Second, Burst: 3}}, Refuse: w.flip()}
	g := &w.gates
	g.limits = sluice.Must(sluice.NewConcurrencyLimiter(w.limits))
	g.rate = sluice.Must(sluice.NewRateLimiter(w.rate))
	g.broken = breakerOf(sluice.CircuitBreakerConfig{Failures: 2, Cooldown: time.Second})
	list := interceptors(g.limits, g.broken)
	if w.flip() {
		list = append(list, g.rate)
	}
	if lock { // as all calls come that an adaptive limit counts
		list = append(list, sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
			Name: "adaptive", Limits: []sluice.Limit{{Adaptive: &sluice.Adaptive{Min: 1000, Max: 1000}}}})))
	}
	w.rig = newRig(t, sluice.Config{Interceptors: list})
	return w
}

// tools registers them. Their code takes as long as the call's context says, and may fail.
func (w *fullWorld) tools() {
	code := func(ctx context.Context) error {
		d := ctx.Value(ctxKey{}).(time.Duration)
		time.Sleep(d)
		if d%7 == 0 {
			return errTool
		}
		return nil
	}
	w.tool(sluice.Spec{Name: "a", Type: "remote"}, code)
	w.tool(sluice.Spec{Name: "b", Type: "remote", Policy: sluice.Policy{MaxWait: sluice.NoWait}}, code)
	w.tool(sluice.Spec{Name: "c", Policy: sluice.Policy{Timeout: time.Minute, MaxWait: time.Second}}, code)
	w.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
		pause := ctx.Value(ctxKey{}).(time.Duration) / 5 // so that no two calls come, or end, at one instant
		time.Sleep(pause)
		err := errOf(w.Invoke(ctx, sluice.Request{Tool: "a"}))
		time.Sleep(pause)
		return err
	})
}

// step makes a call, changes something or looks, at an instant of its own.
func (w *fullWorld) step(i int, all *sync.WaitGroup) {
	tool := []string{"a", "a", "b", "c", "outer"}[w.rnd.IntN(5)]
	ctx := w.as(0, []string{"", "t", "t", "u", "v"}[w.rnd.IntN(5)])
	ctx = context.WithValue(ctx, ctxKey{}, time.Duration(1+w.rnd.Int64N(int64(400*ms))))
	change := func(c sluice.Change) { require.NoError(w.t, sluice.Reconfigure("me", c)) }
	switch w.rnd.IntN(16) {
	case 0:
		l := &w.limits.Limits[w.rnd.IntN(len(w.limits.Limits))]
		l.Max = 1 + w.rnd.IntN(3)
		change(w.gates.limits.Change(w.limits))
	case 1:
		l := &w.limits.Limits[w.rnd.IntN(len(w.limits.Limits))]
		l.Refuse = !l.Refuse
		change(w.gates.limits.Change(w.limits))
	case 2:
		w.rate.Refuse = !w.rate.Refuse
		change(w.gates.rate.Change(w.rate))
	case 3:
		for _, g := range w.Snapshot().Gates {
			isLimit := strings.Contains(g.Name, "concurrency") && !strings.Contains(g.Name, "adaptive")
			if isLimit && g.Used+int64(g.Waiting) > 0 { // else a key may have been forgotten
				w.say("%s %s has %d of %d, %d wait", g.Name, g.Key, g.Used, g.Limit, g.Waiting)
			}
		}
	case 4:
		d := w.Explain(ctx, sluice.Request{ID: "x", Tool: tool})
		w.say("%s would be refused: %v", tool, d.Refusal)
	case 5:
		if w.flip() {
			require.NoError(w.t, w.gates.broken.Trip("a"))
		} else {
			require.NoError(w.t, w.gates.broken.Reset("a"))
		}
	default:
		all.Go(func() {
			res, err := w.Invoke(ctx, sluice.Request{ID: fmt.Sprint("call ", i), Tool: tool})
			e, _ := err.(*sluice.Error)
			d := res.Decision()
			d.Overtaken = 0 // who comes the quick way counts at no queue
			w.say("call %d of %s: %v, %+v, %+v", i, tool, err, d, e)
		})
		synctest.Wait()
	}
	time.Sleep(time.Duration(1 + w.rnd.Int64N(int64(80*ms))))
}

// runFullTwin is what becomes of one world, as lines.
func runFullTwin(t *testing.T, seed, n uint64, lock bool) (lines []string) {
	synctest.Test(t, func(t *testing.T) {
		w := newFullWorld(t, rand.New(rand.NewPCG(seed, n)), lock)
		w.tools()
		var all sync.WaitGroup
		for i := range 120 {
			w.step(i, &all)
		}
		if w.flip() {
			all.Wait()
		}
		w.end() // while some run, and some wait
		all.Wait()
		s := w.Snapshot()
		w.say("%d completed, %d failed, %d denied", s.Completed, s.Failed, s.Denied)
		lines = w.lines
		for _, e := range w.rec.Events() {
			if strings.Contains(e.By, "adaptive") {
				t.Error("the limit that keeps calls from coming the quick way is full")
			}
			lines = append(lines, fmt.Sprintf("%s %d %v at %v after %v: attempt %d, queued %v, took %v, by %s, retry after %v, %v",
				e.Call.ID, e.Seq, e.Kind, e.Time.Sub(w.start), e.Elapsed, e.Call.Attempt, e.Queued, e.Duration, e.By, e.RetryAfter, e.Err))
		}
	})
	slices.Sort(lines) // what happens at one instant is in no order
	return lines
}

// Calls that a full limit refuses without the lock get the same errors, and are told of and counted the same
// way, as if all came by the lock: whichever limit is the first, while others wait, come with keys, are nested,
// or what refuses changes.
func TestQuick_FullTheSameAsByTheLock(t *testing.T) {
	sameByTheLock(t, rounds(150), "saturated", runFullTwin)
}

// Nobody is refused by slots that somebody takes in doubt and does not keep. All that call x, and the one
// that may run y, find room; those that do not get the one slot of y have given back theirs.
func TestQuick_NobodyIsRefusedForWhatIsNotKept(t *testing.T) {
	const callers = 2
	both := limitsOf(sluice.Limit{Max: callers + 1, Scope: sluice.ForTool("x", "y"), Refuse: true},
		sluice.Limit{Max: 1, Scope: sluice.ForTool("y"), Refuse: true})
	e := newExec(t, sluice.Config{Interceptors: interceptors(both)})
	var inside atomic.Int32
	code := func(_ context.Context, n int) (int, error) {
		if inside.Add(1); n%8 == 0 {
			runtime.Gosched()
		}
		inside.Add(-1)
		return n, nil
	}
	x := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, code))
	y := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "y"}, code))
	var done atomic.Bool
	var others sync.WaitGroup
	var ran, refused atomic.Int64
	for range 3 {
		others.Go(func() {
			for i := 0; !done.Load(); i++ {
				switch _, err := y(t.Context(), i); {
				case err == nil:
					ran.Add(1)
				case errors.Is(err, sluice.ErrSaturated):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for i := range rounds(20_000) {
				if _, err := x(t.Context(), i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	done.Store(true)
	others.Wait()
	t.Log(ran.Load(), "ran,", refused.Load(), "were refused")
	s := e.Snapshot()
	require.Equal(t, uint64(refused.Load()), s.Failed)
	require.NoError(t, e.Close(t.Context()))
}

// Whatever limits are changed to while calls come and go: no more run than may, whoever is refused is
// counted, a full limit refuses every call, and lets one in once there is room.
func TestQuick_StormOfFullLimits(t *testing.T) {
	for name, c := range map[string]sluice.Config{"plain": {}, "sink": {Sink: new(sluice.Recorder)}, "timeout": {Timeout: time.Hour}, "keys": {Interceptors: interceptors(never())}} {
		t.Run(name, func(t *testing.T) { stormOfFullLimits(t, c) })
	}
}

func stormOfFullLimits(t *testing.T, c sluice.Config) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	conf := sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2, Refuse: true}}}
	limit := sluice.Must(sluice.NewConcurrencyLimiter(conf))
	broken := breakerOf(sluice.CircuitBreakerConfig{})
	c.Interceptors = append(c.Interceptors, limit, broken)
	e := newExec(t, c)
	var most, inside atomic.Int64 // may run, and do
	var ran, refused, left atomic.Int64
	most.Store(2)
	f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, gate chan bool) (bool, error) {
		if n := inside.Add(1); n > most.Load() {
			t.Errorf("%d run, of %d that may", n, most.Load())
		}
		if gate == nil {
			runtime.Gosched()
		} else {
			<-gate
		}
		inside.Add(-1)
		return true, nil
	}))
	call := func(ctx context.Context, gate chan bool) error {
		_, err := f(ctx, gate)
		switch {
		case err == nil:
			ran.Add(1)
		case errors.Is(err, sluice.ErrSaturated):
			refused.Add(1)
			assert.Contains(t, err.Error(), "saturated by concurrency global: all of ")
		case errors.Is(err, sluice.ErrWaitTooLong), errors.Is(err, sluice.ErrTimeout):
			left.Add(1)
		default:
			t.Error(err)
		}
		return err
	}
	change := func(n int, refuse bool) {
		most.Store(max(most.Load(), int64(n))) // those that run stay
		conf.Limits = []sluice.Limit{{Max: n, Refuse: refuse}}
		require.NoError(t, sluice.Reconfigure("me", limit.Change(conf)))
	}
	var done, pause atomic.Bool
	var pausing atomic.Int32
	var others sync.WaitGroup
	const goroutines = 3
	for g := range uint64(goroutines) {
		r := rand.New(rand.NewPCG(seed, 1+g))
		others.Go(func() {
			for !done.Load() {
				ctx, end := context.Background(), func() {}
				if r.IntN(8) == 0 {
					ctx, end = context.WithTimeout(ctx, time.Duration(r.IntN(200))*time.Microsecond)
				}
				call(ctx, nil)
				end()
				pausing.Add(1)
				for pause.Load() {
					runtime.Gosched()
				}
				pausing.Add(-1)
			}
		})
	}
	alone := func() { // until pause is over
		for pause.Store(true); pausing.Load() < goroutines; {
			runtime.Gosched()
		}
	}
	empty := func() { // code may run on whose call's time is over
		for s := e.Snapshot(); s.InFlight+s.Abandoned > 0; s = e.Snapshot() {
			runtime.Gosched()
		}
	}
	for range rounds(100) {
		change(1+rnd.IntN(3), rnd.IntN(3) > 0)
		for range rnd.IntN(4) {
			call(context.Background(), nil)
		}
		n := 1 + rnd.IntN(3)
		change(n, true)
		alone()
		empty()
		most.Store(int64(n))
		gate := make(chan bool)
		var holders sync.WaitGroup
		for range n {
			holders.Go(func() { assert.NoError(t, call(context.Background(), gate)) })
		}
		for inside.Load() < int64(n) {
			runtime.Gosched()
		}
		pause.Store(false)
		for range 1 + rnd.IntN(20) {
			require.ErrorIs(t, call(context.Background(), nil), sluice.ErrSaturated)
		}
		alone()
		close(gate)
		holders.Wait()
		empty()
		require.NoError(t, call(context.Background(), nil))
		pause.Store(false)
	}
	done.Store(true)
	others.Wait()
	s := e.Snapshot()
	require.Equal(t, uint64(ran.Load()), s.Completed)
	require.Equal(t, uint64(refused.Load()+left.Load()), s.Failed)
	require.NoError(t, e.Close(t.Context()))
	t.Logf("%d ran, %d were refused, %d left", ran.Load(), refused.Load(), left.Load())
}

// One call after another is made where the one before was, whatever became of that: nothing of it is to be
// seen in what the next one tells, answers and keeps.
func TestQuick_OneCallLeavesNothingToTheNext(t *testing.T) {
	for name, looks := range map[string]bool{"told": false, "found by a sink": true} {
		t.Run(name, func(t *testing.T) { bubble(t, func(t *testing.T) { callsInOneFrame(t, looks) }) })
	}
}

func callsInOneFrame(t *testing.T, looks bool) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var told []sluice.Event
	var e *sluice.Executor
	var kept []context.Context
	var inCall func()
	limit := limitsOf(sluice.Limit{Max: 1, Scope: sluice.ForTool("full"), Refuse: true})
	broken := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour, Scope: sluice.ForTool("open")})
	e = newExec(t, sluice.Config{Interceptors: interceptors(limit, broken), Sink: sluice.EventSinkFunc(func(ctx context.Context, x *sluice.Event) error {
		told = append(told, *x)
		if inCall != nil {
			inCall()
		} else if looks && x.CallKey != 0 && rnd.IntN(3) == 0 {
			require.ErrorContains(t, e.Close(ctx), x.Call.ID, "it is the call's context")
			kept = append(kept, ctx)
		}
		return nil
	})})
	gate := make(chan bool)
	for _, tool := range []string{"plain", "fails", "open", "full"} {
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: tool, Type: "type of " + tool}, func(_ context.Context, in any) (any, error) {
			switch tool {
			case "fails", "open":
				return nil, errTool
			case "full":
				<-gate
			}
			return in, nil
		}))
	}
	require.ErrorIs(t, errOf(e.Invoke(t.Context(), sluice.Request{Tool: "open", Input: 1})), errTool)
	holder := e.Submit(t.Context(), sluice.Request{Tool: "full", Input: 1})
	synctest.Wait()
	time.Sleep(time.Minute)

	shown := func(x sluice.Event) string { // what is the same of every such call
		x.Call.ID, x.Call.Key, x.CallKey = "", 0, 0
		err := strings.ReplaceAll(fmt.Sprint(x.Err), "\n", " ")
		x.Err = nil
		return fmt.Sprintf("%+v %s", x, err)
	}
	first := map[string][]string{}
	errs := map[string]error{}
	for i := range rounds(3000) {
		tool, id := []string{"plain", "fails", "open", "full", "unknown"}[rnd.IntN(5)], fmt.Sprint("call ", i)
		pc := sluice.PipelineContext{Tenant: []string{"", "a"}[rnd.IntN(2)]}
		told = nil
		ctx := t.Context()
		if pc.Tenant != "" {
			ctx = sluice.WithPipelineContext(ctx, pc)
		}
		res, err := e.Invoke(ctx, sluice.Request{ID: id, Tool: tool, Input: i})
		var lines []string
		for j, x := range told {
			require.Equal(t, []any{id, uint32(j + 1), told[0].CallKey, pc.Tenant}, []any{x.Call.ID, x.Seq, x.CallKey, x.Call.Pipeline.Tenant})
			x.Call.Pipeline = nil
			lines = append(lines, shown(x))
		}
		if first[tool] == nil {
			first[tool] = lines
		}
		require.Equal(t, first[tool], lines, "call %d, of %s", i, tool)
		if own, ok := err.(*sluice.Error); ok {
			require.Equal(t, []any{tool, id}, []any{own.Tool, own.CallID})
			require.Same(t, own, told[len(told)-1].Err)
			errs[id+" of "+tool+": "+err.Error()] = err
		}
		if require.Equal(t, tool == "plain", err == nil); err == nil {
			require.Equal(t, any(i), res.Value)
		} else {
			require.Nil(t, res.Value)
		}
		require.Empty(t, res.Decision())
	}
	for was, err := range errs {
		own := err.(*sluice.Error)
		require.Equal(t, was, own.CallID+" of "+own.Tool+": "+err.Error(), "an error that is kept")
	}
	require.Equal(t, time.Hour-time.Minute, errsOf(t, e, "open").RetryAfter)
	close(gate)
	<-holder.Done()
	synctest.Wait()
	s := e.Snapshot()
	require.Equal(t, s.Completed+s.Failed, uint64(rounds(3000))+3)
	if looks { // what a sink has of a call that was refused leads to no call that is made where that was
		for kept = nil; kept == nil; {
			require.ErrorIs(t, errsOf(t, e, "open"), sluice.ErrBreakerOpen)
		}
		inCall = func() {
			inCall = nil
			ctx, end := context.WithTimeout(kept[0], time.Second)
			defer end()
			require.ErrorContains(t, e.Close(ctx), "1 calls still run")
		}
		require.ErrorIs(t, errOf(e.Invoke(t.Context(), sluice.Request{Tool: "plain", Input: 1})), sluice.ErrClosed)
	}
	require.NoError(t, e.Close(t.Context()))
}

// errsOf is the refusal of one call more.
func errsOf(t *testing.T, e *sluice.Executor, tool string) *sluice.Error {
	_, err := e.Invoke(t.Context(), sluice.Request{Tool: tool, Input: 1})
	require.IsType(t, &sluice.Error{}, err)
	return err.(*sluice.Error)
}
