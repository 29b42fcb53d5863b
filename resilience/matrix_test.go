package resilience_test

import (
	"cmp"
	"context"
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
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// What the matrix is made of: layers, each alone and all in the usual order, and endings, each by Invoke and by Submit.
// A layer is one line, of what it changes about how calls end, and an ending is one.

// matrixLayer is what stands before the gates.
type matrixLayer struct {
	name string
	layerTraits
	make func(t *testing.T) []sluice.Interceptor
}

// layerTraits are what a layer does to a call that only reads.
type layerTraits struct {
	repeats bool // what failed and is safe to repeat: up to three attempts, 100 ms and 200 ms apart
	bounds  bool // the whole call to an hour
	answers bool // "instead", for what failed and whose caller has not left
	keeps   bool // results, for the next that asks for the same
	lets    bool // go at once whoever leaves, though the code goes on
	catches bool // a Goexit, so that it does not end the goroutine that called; a submitted call has its own
	writes  bool // the tool is one that does: nothing is shared or kept, and only what has not run is repeated
	faulty  bool // it is no interceptor but around the tool's code
	doubts  bool // whether a tool whose code went on has had its effect
}

func one(x sluice.Interceptor) []sluice.Interceptor { return []sluice.Interceptor{x} }

var matrixLayers = []matrixLayer{
	{"nothing", layerTraits{}, func(*testing.T) []sluice.Interceptor { return nil }},
	{"retry", layerTraits{repeats: true}, func(t *testing.T) []sluice.Interceptor { return one(retry(t, resilience.RetryConfig{})) }},
	{"cache", layerTraits{keeps: true}, func(t *testing.T) []sluice.Interceptor {
		return one(cache(t, resilience.CacheConfig{TTL: 24 * time.Hour}))
	}},
	{"join", layerTraits{lets: true, catches: true}, func(t *testing.T) []sluice.Interceptor { return one(join(t, resilience.JoinConfig{})) }},
	{"fallback", layerTraits{answers: true}, func(t *testing.T) []sluice.Interceptor { return one(insteadOf(t)) }},
	{"timeout", layerTraits{bounds: true, catches: true}, func(t *testing.T) []sluice.Interceptor {
		return one(timeout(t, resilience.TimeoutConfig{Total: time.Hour}))
	}},
	{"hedge", layerTraits{catches: true}, func(t *testing.T) []sluice.Interceptor {
		return one(hedge(t, resilience.HedgeConfig{After: 24 * time.Hour}))
	}},
	{"once", layerTraits{keeps: true, doubts: true}, func(t *testing.T) []sluice.Interceptor {
		return one(sluice.Must(resilience.NewOnce(resilience.OnceConfig{
			TTL:   24 * time.Hour,
			Tools: func(tool sluice.Spec) bool { return tool.Name == "x" },
			Key:   func(sluice.Call) (string, bool) { return "k", true },
		})))
	}},
	{"standard", layerTraits{repeats: true, bounds: true, catches: true}, func(t *testing.T) []sluice.Interceptor {
		c := sluice.Must(resilience.Standard(resilience.StandardConfig{
			Total: time.Hour, Retry: retry(t, resilience.RetryConfig{}).Config(),
		}))
		return c.Interceptors[:len(c.Interceptors)-1] // the cell has gates of its own
	}},
	{"faults", layerTraits{faulty: true}, func(*testing.T) []sluice.Interceptor { return nil }},
	{"the usual stack", layerTraits{repeats: true, bounds: true, answers: true, keeps: true, lets: true, catches: true}, usualStack},
	{"the usual stack, for a tool that writes", layerTraits{writes: true, repeats: true, bounds: true, answers: true, catches: true}, usualStack},
}

// usualStack is what a program stands before its gates, outermost first.
func usualStack(t *testing.T) []sluice.Interceptor {
	return []sluice.Interceptor{
		insteadOf(t), cache(t, resilience.CacheConfig{TTL: 24 * time.Hour}), join(t, resilience.JoinConfig{}),
		timeout(t, resilience.TimeoutConfig{Total: time.Hour}), retry(t, resilience.RetryConfig{}),
	}
}

func insteadOf(t *testing.T) *resilience.Fallback {
	return fallback(t, resilience.FallbackConfig{Func: func(context.Context, sluice.Call, error) (any, error) { return "instead", nil }})
}

// scene is one cell of the matrix, at work.
type scene struct {
	*rig
	t       *testing.T
	limit   *sluice.ConcurrencyLimiter
	rate    *sluice.RateLimiter
	breaker *sluice.CircuitBreaker
	call    func(ctx context.Context) said // of the tool "x", as the cell makes it
	inside  atomic.Int64                   // runs of its code that have not ended
	runs    atomic.Int64                   // that have begun
	mended  atomic.Bool                    // the tool works from now on
}

// said is what became of a call.
type said struct {
	value  any
	err    error
	exited bool // it did not return, but ended the goroutine that made it
	at     time.Duration
}

// matrixEnding is a way in which a call ends where nothing but gates stands around it.
type matrixEnding struct {
	name   string
	refuse bool          // a full limit refuses, and a rate that has no token
	per    time.Duration // how long a token takes; zero is an hour
	policy sluice.Policy
	before func(s *scene)                                      // the call is made
	tool   func(ctx context.Context, s *scene) (string, error) // its code, each time
	left   bool                                                // its caller has, before the call
	leave  time.Duration                                       // when its caller does; zero is never
	close  time.Duration                                       // when the executor is closed; zero is afterwards

	kind  sluice.EventKind // the terminal event's
	value string
	code  string
	is    []error
	at    time.Duration // when its caller knows
	ran   bool
	again bool          // it may be repeated, and ends so again
	exits bool          // the goroutine, unless a layer catches that
	soon  time.Duration // when who repeats it has a value; zero is never
	comes bool          // its caller leaves, or the executor is closed, after it has failed and before it is repeated
	long  bool          // it takes more than an hour
	until time.Duration // when its code has ended, if that is later than at
	hangs bool          // it does, so that who would repeat it finds it running when the wait is over
}

// takes is a tool that ends so after a second.
func takes(value string, err error) func(context.Context, *scene) (string, error) {
	return func(context.Context, *scene) (string, error) { time.Sleep(time.Second); return value, err }
}

// occupied has other calls use all slots for ten seconds.
func occupied(s *scene) {
	for range 2 {
		go s.Invoke(s.ctx, sluice.Request{Tool: "slow", Input: ""})
	}
	synctest.Wait()
}

var errLeft = errors.New("somebody left")

var matrixEndings = []matrixEnding{
	{name: "a value", tool: takes("fine", nil),
		kind: sluice.ToolCompleted, value: "fine", at: time.Second, ran: true},
	{name: "an error", tool: takes("", errBoom),
		kind: sluice.ToolFailed, code: "tool_error", is: []error{errBoom}, at: time.Second, ran: true, again: true},
	{name: "an error that will come again", tool: takes("", never{}),
		kind: sluice.ToolFailed, code: "tool_error", is: []error{never{}}, at: time.Second, ran: true},
	{name: "a failing result", tool: takes("failed", nil),
		kind: sluice.ToolCompleted, value: "failed", at: time.Second, ran: true, again: true},
	{name: "a panic", tool: func(context.Context, *scene) (string, error) { time.Sleep(time.Second); panic(errBoom) },
		kind: sluice.ToolFailed, code: "panic", is: []error{errBoom}, at: time.Second, ran: true},
	{name: "an exit", tool: func(context.Context, *scene) (string, error) {
		time.Sleep(time.Second)
		runtime.Goexit()
		return "", nil
	},
		kind: sluice.ToolFailed, code: "goexit", at: time.Second, ran: true, exits: true},
	{name: "an exit under a time limit", policy: sluice.Policy{Timeout: time.Minute}, tool: func(context.Context, *scene) (string, error) {
		time.Sleep(time.Second)
		runtime.Goexit()
		return "", nil
	},
		kind: sluice.ToolFailed, code: "goexit", at: time.Second, ran: true},
	{name: "a full limit", refuse: true, before: occupied,
		kind: sluice.ToolFailed, code: "saturated", is: []error{sluice.ErrSaturated}},
	{name: "a rate", refuse: true, before: func(s *scene) {
		for range 5 {
			_, err := s.Invoke(s.ctx, sluice.Request{Tool: "fast", Input: ""})
			require.NoError(s.t, err)
		}
	},
		kind: sluice.ToolFailed, code: "rate_limited", is: []error{sluice.ErrRateLimited}},
	{name: "a rate that has a token soon", refuse: true, per: 2 * time.Second, tool: takes("fine", nil), before: func(s *scene) {
		for range 5 {
			_, err := s.Invoke(s.ctx, sluice.Request{Tool: "fast", Input: ""})
			require.NoError(s.t, err)
		}
	},
		kind: sluice.ToolFailed, code: "rate_limited", is: []error{sluice.ErrRateLimited}, soon: 3 * time.Second},
	{name: "an open breaker", before: func(s *scene) { require.NoError(s.t, s.breaker.Trip("x")) },
		kind: sluice.ToolFailed, code: "breaker_open", is: []error{sluice.ErrBreakerOpen}},
	{name: "too long a wait", policy: sluice.Policy{MaxWait: 3 * time.Second}, before: occupied,
		kind: sluice.ToolFailed, code: "wait_too_long", is: []error{sluice.ErrWaitTooLong}, at: 3 * time.Second},
	{name: "the attempt's time, heeded", policy: sluice.Policy{Timeout: time.Second, Cooperative: true}, tool: heeds,
		kind: sluice.ToolFailed, code: "timeout", is: []error{sluice.ErrTimeout, context.DeadlineExceeded}, at: time.Second, ran: true, again: true},
	{name: "the attempt's time, ignored", policy: sluice.Policy{Timeout: time.Second}, tool: func(context.Context, *scene) (string, error) {
		time.Sleep(time.Minute)
		return "late", nil
	},
		kind: sluice.ToolFailed, code: "timeout", is: []error{sluice.ErrTimeout, context.DeadlineExceeded}, at: time.Second, ran: true, until: time.Minute, hangs: true},
	{name: "a caller that has left before", left: true,
		kind: sluice.ToolFailed, code: "canceled", is: []error{errLeft}},
	{name: "a cancel in the queue", before: occupied, leave: 3 * time.Second,
		kind: sluice.ToolFailed, code: "canceled", is: []error{errLeft}, at: 3 * time.Second},
	{name: "a cancel while it runs, heeded", tool: heeds, leave: 3 * time.Second,
		kind: sluice.ToolFailed, code: "canceled", is: []error{context.Canceled}, at: 3 * time.Second, ran: true},
	{name: "a cancel while it runs, ignored", tool: func(context.Context, *scene) (string, error) {
		time.Sleep(10 * time.Second)
		return "late", nil
	}, leave: 3 * time.Second,
		kind: sluice.ToolCompleted, value: "late", at: 10 * time.Second, ran: true, until: 10 * time.Second},
	{name: "a cancel before it is repeated", tool: takes("", errBoom), leave: 1050 * ms,
		kind: sluice.ToolFailed, code: "tool_error", is: []error{errBoom}, at: time.Second, ran: true, again: true, comes: true},
	{name: "two hours, ignored", tool: func(context.Context, *scene) (string, error) {
		time.Sleep(2 * time.Hour)
		return "late", nil
	},
		kind: sluice.ToolCompleted, value: "late", at: 2 * time.Hour, ran: true, until: 2 * time.Hour, long: true},
	{name: "Close before it is repeated", tool: takes("", errBoom), close: 1050 * ms,
		kind: sluice.ToolFailed, code: "tool_error", is: []error{errBoom}, at: time.Second, ran: true, again: true, comes: true},
	{name: "Close in the queue", before: occupied, close: 3 * time.Second,
		kind: sluice.ToolFailed, code: "closed", is: []error{sluice.ErrClosed}, at: 3 * time.Second},
	{name: "Close while it runs", tool: takes("fine", nil), close: 500 * ms,
		kind: sluice.ToolCompleted, value: "fine", at: time.Second, ran: true},
}

// heeds is a tool that ends with its context, or after a minute.
func heeds(ctx context.Context, _ *scene) (string, error) {
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(time.Minute):
		return "late", nil
	}
}

// newScene has everything stand, in a bubble.
func newScene(t *testing.T, l *matrixLayer, e *matrixEnding, submit bool) *scene {
	s := &scene{t: t,
		limit:   sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2, Refuse: e.refuse}}})),
		rate:    sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 5, Per: 5 * cmp.Or(e.per, time.Hour)}}, Refuse: e.refuse})),
		breaker: sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 5})),
	}
	classify := func(_ sluice.Call, res sluice.Result, _ error) sluice.Outcome {
		if res.Value == "failed" {
			return sluice.OutcomeFailure
		}
		return sluice.OutcomeAuto
	}
	s.rig = newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{s.limit, s.rate, s.breaker}, Classify: classify}, l.make(t)...)
	code := func(ctx context.Context, _ string) (string, error) {
		s.runs.Add(1)
		s.inside.Add(1)
		defer s.inside.Add(-1)
		if e.tool == nil || s.mended.Load() {
			return "fine", nil
		}
		return e.tool(ctx, s)
	}
	if l.faulty {
		code = sluicetest.Faulty(sluice.Must(sluicetest.NewFaults(sluicetest.FaultsConfig{})), code)
	}
	sluice.Must(sluice.Wrap(s.Executor, sluice.Spec{Name: "x", Hints: sluice.Hints{ReadOnly: !l.writes}, Policy: e.policy}, code))
	for name, d := range map[string]time.Duration{"fast": 0, "slow": 10 * time.Second} {
		sluice.Must(sluice.Wrap(s.Executor, sluice.Spec{Name: name}, func(context.Context, string) (string, error) { time.Sleep(d); return "", nil }))
	}
	s.call = func(ctx context.Context) (got said) {
		req := sluice.Request{Tool: "x", Input: "a"}
		done := make(chan struct{})
		go func() {
			defer close(done)
			got.exited = true
			var res sluice.Result
			if submit {
				res, got.err = s.Submit(ctx, req).Wait(context.Background())
			} else {
				res, got.err = s.Invoke(ctx, req)
			}
			got.value, got.exited = res.Value, false
		}()
		<-done
		got.at = time.Since(s.start)
		return got
	}
	_, there := s.Plan("x") // so that layers stand around the first call, too, whatever its context
	require.True(t, there)
	if e.before != nil {
		e.before(s)
	}
	return s
}

// goes makes the call that ends so.
func (s *scene) goes(e *matrixEnding) said {
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	if e.left {
		cancel(errLeft)
	}
	if e.leave > 0 {
		time.AfterFunc(e.leave, func() { cancel(errLeft) })
	}
	if e.close > 0 {
		time.AfterFunc(e.close, func() { _ = s.Close(context.Background()) })
	}
	return s.call(ctx)
}

// wanted is how a call must end.
type wanted struct {
	matrixEnding
	starts  int  // attempts that begin
	told    int  // retries that are announced
	gaveUp  bool // the error is a RetryError
	overdue bool // or a TimeoutError
}

// as is how a call ends so with these layers around it.
func (e matrixEnding) as(l *matrixLayer, submit bool) wanted {
	w := wanted{matrixEnding: e}
	if e.ran || e.code == "" {
		w.starts = 1
	}
	if l.repeats {
		switch {
		case l.writes && e.soon == 0:
		case e.hangs:
			w.told, w.at = 1, e.at+100*ms
		case e.comes && e.leave > 0: // who waits is let go
			w.told, w.gaveUp, w.at, w.is = 1, true, e.leave, append(w.is, errLeft)
		case e.comes: // the wait ends, and the second attempt is refused
			w.told, w.gaveUp, w.at = 1, true, e.close
		case e.again:
			w.starts, w.told, w.gaveUp, w.at = 3, 2, e.code != "", 3*e.at+300*ms
		case e.soon > 0:
			w.starts, w.told, w.at, w.kind, w.value, w.code = 1, 1, e.soon, sluice.ToolCompleted, "fine", ""
		}
	}
	if l.bounds && e.long {
		w.kind, w.value, w.code, w.at = sluice.ToolFailed, "", "timeout", time.Hour
		w.is, w.overdue = []error{sluice.ErrTimeout, context.DeadlineExceeded}, true
	}
	if l.lets && e.leave > 0 && e.leave <= w.at {
		w.kind, w.value, w.code, w.at, w.gaveUp = sluice.ToolFailed, "", "canceled", e.leave, false
		w.is = []error{context.Canceled, errLeft}
	}
	if l.catches || submit {
		w.exits = false
	}
	if left := e.left || e.leave > 0 && e.leave <= w.at; l.answers && w.code != "" && !left && (l.catches || submit || !e.exits) {
		w.kind, w.value, w.code = sluice.ToolCompleted, "instead", ""
	}
	w.until = max(w.until, w.at)
	return w
}

// holds checks what became of a call, and what was told of it.
func (s *scene) holds(got said, want wanted) {
	t := s.t
	t.Helper()
	require.Equal(t, want.at, got.at, "%v", got.err)
	require.Equal(t, want.exits, got.exited)
	switch {
	case want.exits:
	case want.code == "":
		require.NoError(t, got.err)
		require.Equal(t, want.value, got.value)
	default:
		require.Nil(t, got.value)
		require.Equal(t, want.code, sluice.CodeOf(got.err), "%v", got.err)
		for _, is := range want.is {
			require.ErrorIs(t, got.err, is)
		}
		require.Equal(t, !want.ran, errors.Is(got.err, sluice.ErrRejected), "%v", got.err)
		require.NotErrorIs(t, got.err, sluice.ErrDenied)
		var p *sluice.PanicError
		require.Equal(t, want.code == "panic" || want.code == "goexit", errors.As(got.err, &p), "%v", got.err)
		if p != nil {
			require.Equal(t, want.code == "goexit", p.Goexit)
		}
		var gaveUp *resilience.RetryError
		require.Equal(t, want.gaveUp, errors.As(got.err, &gaveUp), "%v", got.err)
		var over *resilience.TimeoutError
		require.Equal(t, want.overdue, errors.As(got.err, &over), "%v", got.err)
	}
	kinds := map[sluice.EventKind]int{}
	for _, e := range s.rec.Events("x") {
		if kinds[e.Kind]++; e.Kind == want.kind {
			require.Equal(t, want.code, sluice.CodeOf(e.Err))
		}
	}
	require.Equal(t, 1, kinds[sluice.ToolInvoked])
	require.Equal(t, 1, kinds[want.kind], "%v", kinds)
	require.Equal(t, 1, kinds[sluice.ToolCompleted]+kinds[sluice.ToolFailed]+kinds[sluice.ToolDenied], "%v", kinds)
	require.Equal(t, want.starts, kinds[sluice.ToolStarted])
	require.Equal(t, want.told, kinds[sluice.ToolRetrying])
	require.EqualValues(t, want.starts, s.runs.Load())
}

// left holds that nothing of any call is.
func (s *scene) left() {
	t := s.t
	t.Helper()
	require.Zero(t, s.inside.Load())
	require.NoError(t, s.rec.Check())
	n := s.Snapshot()
	require.Zero(t, n.InFlight+n.Queued+n.Abandoned)
	require.Empty(t, n.Lanes)
	for _, g := range n.Gates {
		require.Zero(t, g.Waiting, g.Name)
		if g.Kind == "concurrency" || strings.HasPrefix(g.Name, "join") {
			require.Zero(t, g.Used, g.Name)
		}
	}
}

// Each layer, each ending, and either way to make the call: it ends as it must, once, and when Close has returned nothing
// of it runs.
func TestMatrix(t *testing.T) {
	eachCell(t, func(t *testing.T, l *matrixLayer, e *matrixEnding, submit bool) {
		s := newScene(t, l, e, submit)
		others := len(s.rec.Events("slow")) > 0
		got := s.goes(e)
		want := e.as(l, submit)
		s.holds(got, want)
		goesOn := 0
		if want.until > want.at {
			goesOn = 1
		}
		synctest.Wait()
		require.EqualValues(t, goesOn, s.inside.Load())
		require.Equal(t, goesOn, s.Snapshot().Abandoned)
		require.NoError(t, s.Close(context.Background()))
		if !others {
			require.Equal(t, want.until, time.Since(s.start), "Close waits for the code, and for nothing else")
		}
		s.left()
	})
}

// However a call has ended, with the next that asks for the same nothing stands in its way: all slots are free, and what
// it gets is the tool's, unless a cache has kept what the tool gave before.
func TestMatrix_TheNext(t *testing.T) {
	eachCell(t, func(t *testing.T, l *matrixLayer, e *matrixEnding, submit bool) {
		s := newScene(t, l, e, submit)
		got := s.goes(e)
		if e.close == 0 {
			time.Sleep(6 * time.Hour)
			require.NoError(t, s.breaker.Reset("x"))
			s.mended.Store(true)
			runs, want := s.runs.Load()+1, "fine"
			if w := e.as(l, submit); l.keeps && w.code == "" && w.value != "failed" && w.value != "instead" {
				runs, want = runs-1, w.value
			}
			next := s.call(s.ctx)
			if l.doubts && e.hangs {
				var doubt *resilience.OnceInDoubtError
				require.ErrorAs(t, next.err, &doubt)
				require.NoError(t, s.Close(context.Background()))
				s.left()
				return
			}
			require.NoError(t, next.err)
			require.Equal(t, want, next.value)
			require.Equal(t, runs, s.runs.Load())
			require.Equal(t, time.Duration(0), next.at-got.at-6*time.Hour)
			occupied(s)
			require.Equal(t, 2, s.Snapshot().InFlight)
		}
		require.NoError(t, s.Close(context.Background()))
		s.left()
	})
}

func eachCell(t *testing.T, f func(t *testing.T, l *matrixLayer, e *matrixEnding, submit bool)) {
	for _, l := range matrixLayers {
		for _, e := range matrixEndings {
			for _, submit := range []bool{false, true} {
				how := "Invoke"
				if submit {
					how = "Submit"
				}
				t.Run(fmt.Sprint(l.name, "/", e.name, "/", how), func(t *testing.T) {
					bubble(t, func(t *testing.T) { f(t, &l, &e, submit) })
				})
			}
		}
	}
}
