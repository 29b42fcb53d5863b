package promises_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
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

// The tests of this file let very many of everything come and go, and hold that nothing is
// left: neither a goroutine, nor a cell, nor more than a megabyte.

// many is n, or a fiftieth of it where everything is slow or in a hurry.
func many(n int) int {
	if underRace || testing.Short() {
		return n / 50
	}
	return n
}

// calm is how much there was of everything before a storm.
type calm struct {
	routines int
	heap     int64
}

func calmNow() calm { return calm{runtime.NumGoroutine(), heapBytes()} }

// returns holds that it is calm again.
func (c calm) returns(t *testing.T) {
	t.Helper()
	for range 100 { // goroutines that have done all they had to are about to end
		if runtime.NumGoroutine() <= c.routines {
			break
		}
		runtime.GC() // which takes its time in a bubble, too
		time.Sleep(ms)
	}
	if n := runtime.NumGoroutine(); n > c.routines {
		t.Errorf("%d goroutines, there were %d", n, c.routines)
	}
	grown := heapBytes() - c.heap
	t.Logf("%d KiB more", grown>>10)
	if grown > 1<<20 {
		t.Errorf("the heap has grown by %d KiB, want at most 1024", grown>>10)
	}
}

// routines counts the goroutines that are not about to end, and those of them beside the ones
// that have got to a submitted call's code. One that is past that code has only to look for more
// work; how many the machine stops on their way there is its own affair. The runtime's own number
// is some thirty too many while goroutines that have ended change hands.
func routines() (all, beside int64) {
	dump := make([]byte, 1<<20)
	for _, stack := range bytes.Split(dump[:runtime.Stack(dump, true)], []byte("\n\ngoroutine ")) {
		if bytes.Contains(stack, []byte(".helperEnds(")) {
			continue
		}
		all++
		if !bytes.Contains(stack, []byte(".(*Crew).runAll(")) || bytes.Contains(stack, []byte(".Ready(")) {
			beside++
		}
	}
	return all, beside
}

// routinePeak is the most goroutines that somebody saw since it was reset, and how many were
// there then.
type routinePeak struct {
	all, beside           atomic.Int64
	allBefore, hereBefore int64
	looking               sync.Mutex
}

func (p *routinePeak) reset() {
	p.looking.Lock()
	defer p.looking.Unlock()
	p.allBefore, p.hereBefore = routines()
	p.all.Store(0)
	p.beside.Store(0)
}

func (p *routinePeak) look() {
	if int64(runtime.NumGoroutine()) <= p.all.Load() || !p.looking.TryLock() { // a sink that waits has others started
		return
	}
	defer p.looking.Unlock()
	all, beside := routines()
	p.all.Store(max(p.all.Load(), all))
	p.beside.Store(max(p.beside.Load(), beside))
}

// isLow holds that calls that ended at once took four goroutines for each processor, and no more
// than that those that ran if a limit let few run at a time. Without one each call whose code has
// begun has a goroutine, since it may block; how many the machine stops there at a time is its
// own affair.
func (p *routinePeak) isLow(t *testing.T, calls int, limited bool) {
	t.Helper()
	few := int64(4 * runtime.GOMAXPROCS(0))
	if more := p.beside.Load() - p.hereBefore; more > few {
		t.Errorf("%d goroutines more beside %d calls that end at once, want at most %d", more, calls, few)
	}
	most := int64(calls / 20)
	if limited {
		most = few
	}
	more := p.all.Load() - p.allBefore
	t.Logf("%d goroutines more, %d of them beside", more, p.beside.Load()-p.hereBefore)
	if more > most {
		t.Errorf("%d goroutines more for %d calls that end at once, want at most %d", more, calls, most)
	}
}

func (p *routinePeak) sink() sluice.EventSink {
	return sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { p.look(); return nil })
}

// gatesByName is how many keys each constraint has.
func gatesByName(e *sluice.Executor) map[string]int {
	n := map[string]int{}
	for _, g := range e.Snapshot().Gates {
		n[g.Name]++
	}
	return n
}

// throttledFor is an upstream's answer.
type throttledFor time.Duration

func (d throttledFor) Error() string             { return "slow down" }
func (d throttledFor) RetryAfter() time.Duration { return time.Duration(d) }

func TestStorm_ToolsComeAndGo(t *testing.T) {
	const live, remembered = 20, 1000 // of removed tools, for each limit
	bubble(t, func(t *testing.T) {
		quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTool, Upstream: true, Rates: []sluice.Rate{{N: 10}, {N: 1000, Per: time.Hour, Unit: "tokens"}}}))
		breaker := breakerOf(sluice.CircuitBreakerConfig{Failures: 2})
		reg := sluice.NewToolRegistry()
		e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 4, Scope: sluice.ByTool}, sluice.Limit{Max: 9, Scope: sluice.ByType}, sluice.Limit{Max: 100}), quota, breaker)}))
		name := func(i int) string { return fmt.Sprint("session-", i) }
		round := func(from, n int) {
			for i := from; i < from+n; i++ {
				s := sluice.Spec{Name: name(i), Type: fmt.Sprint("type-", i/3), Policy: sluice.Policy{
					Concurrency: 2, Rates: []sluice.Rate{{N: 5}}, Breaker: &sluice.BreakerPolicy{}}}
				rawTool(t, reg, s, func(ctx context.Context) error {
					sluice.ReportUsage(ctx, "tokens", int64(i%7))
					switch i % 4 {
					case 1:
						return errTool
					case 2:
						return throttledFor(time.Hour)
					case 3:
						sluice.ReportThrottle(ctx, time.Minute)
					}
					return nil
				})
				for range 2 {
					_, _ = e.Invoke(t.Context(), sluice.Request{Tool: s.Name})
				}
				switch i % 5 {
				case 0:
					require.NoError(t, quota.Pause(s.Name, 30*time.Minute))
				case 1:
					require.NoError(t, breaker.Trip(s.Name))
				}
				if i >= from+live && !reg.Remove(name(i-live)) {
					t.Fatalf("%s is not there", name(i-live))
				}
				if i%100 == 0 {
					time.Sleep(10 * ms)
				}
				if i%5000 == 0 {
					for gate, n := range gatesByName(e) {
						if n > live+1+remembered {
							t.Errorf("%d cells of %s for %d tools", n, gate, live+1)
						}
					}
				}
			}
		}
		// over ends what tools that there were before the n-th have left behind: those that are
		// tripped stay so until somebody resets them.
		over := func(n int) {
			for i := range n {
				_ = breaker.Reset(name(i))
				reg.Remove(name(i))
			}
			time.Sleep(3 * time.Hour)
			synctest.Wait()
			for gate, n := range gatesByName(e) {
				assert.Equal(t, "concurrency global", gate, "%d cells of %s are left without a tool", n, gate)
			}
		}
		n := many(200_000)
		round(0, n/10)
		over(n / 10)
		before := calmNow()
		round(n/10, n-n/10)
		over(n)
		before.returns(t)
		require.NoError(t, e.Close(t.Context()))
	})
}

// Whoever makes up keys gets at most MaxKeys of them, whether it is by calls, by what an
// upstream answers, by Pause or by Trip; and the table does not grow.
func TestStorm_KeysComeAndGo(t *testing.T) {
	const keys = 1000
	bubble(t, func(t *testing.T) {
		byHost := sluice.ByKey("host", func(c sluice.Call) string { return c.Pipeline.Attrs["host"] })
		quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: byHost, Upstream: true, MaxKeys: keys, Rates: []sluice.Rate{{N: 2}, {N: 1000, Unit: "tokens"}}}))
		breaker := breakerOf(sluice.CircuitBreakerConfig{Scope: byHost, MaxKeys: keys, Failures: 1})
		reg := sluice.NewToolRegistry()
		e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 4, Scope: sluice.ByTenant, MaxKeys: keys}, sluice.Limit{Max: 9, Scope: byHost, MaxKeys: keys}), quota, breaker,
			scheduler(sluice.PrioritySchedulerConfig{}))}))
		ran := 0
		rawTool(t, reg, sluice.Spec{Name: "fetch"}, func(ctx context.Context) error {
			ran++
			c, _ := sluice.CallFrom(ctx)
			switch ran % 4 {
			case 1:
				return errTool
			case 2:
				sluice.ReportThrottle(ctx, time.Second, sluice.ThrottlePart{Kind: "host", Key: "other " + c.Pipeline.Attrs["host"]})
			case 3:
				return throttledFor(time.Second)
			}
			return nil
		})
		check := func() {
			t.Helper()
			for gate, n := range gatesByName(e) {
				if n > keys {
					t.Errorf("%d cells of %s, want at most %d", n, gate, keys)
				}
			}
		}
		round := func(from, n int) {
			for i := from; i < from+n; i++ {
				host := fmt.Sprint("host-", i)
				pc := sluice.PipelineContext{Tenant: "tenant of " + host, Attrs: map[string]string{"host": host}}
				_, err := e.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "fetch"})
				if err != nil && !errors.Is(err, errTool) && !errors.Is(err, throttledFor(time.Second)) && !errors.Is(err, sluice.ErrSaturated) && !errors.Is(err, sluice.ErrWaitTooLong) {
					t.Fatal(err)
				}
				switch i % 5 {
				case 0:
					if err := quota.Pause(host, 10*time.Second); err != nil && !strings.Contains(err.Error(), "keys that it may have are busy") {
						t.Fatal(err)
					}
				case 1:
					if err := breaker.Trip(host); err == nil {
						require.NoError(t, breaker.Reset(host))
					} else if !strings.Contains(err.Error(), "keys that it may have are busy") {
						t.Fatal(err)
					}
				}
				if i%500 == 0 {
					time.Sleep(time.Hour + time.Minute) // a failure is remembered for an hour
				}
				if i%10_000 == 0 {
					check()
				}
			}
		}
		n, full := many(200_000), 2*keys
		round(0, full)
		before := calmNow()
		round(full, n-full)
		check()
		if ran < n*9/10 {
			t.Errorf("%d of %d calls ran, although keys fall idle", ran, n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		before.returns(t)

		for i := range many(200_000) { // tripped and paused ones are in use: the rest are refused
			_ = breaker.Trip(fmt.Sprint("trip-", i))
			_ = quota.Pause(fmt.Sprint("pause-", i), 24*time.Hour)
		}
		check()
		before.returns(t)
		require.NoError(t, e.Close(t.Context()))
	})
}

// What a tool reports to have used, in units that nobody knows, is not remembered.
func TestStorm_UnitsComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := sluice.NewToolRegistry()
		e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{Interceptors: interceptors(
			rates(sluice.Rate{N: 1000, Unit: "tokens"}))}))
		i := 0
		rawTool(t, reg, sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			for range 100 {
				i++
				sluice.ReportUsage(ctx, fmt.Sprint("unit-", i), 5)
			}
			return nil
		})
		round := func(n int) {
			for range n / 100 {
				_, err := e.Invoke(t.Context(), sluice.Request{Tool: "x"})
				require.NoError(t, err)
			}
		}
		round(1000)
		before := calmNow()
		round(many(200_000))
		before.returns(t)
		require.NoError(t, e.Close(t.Context()))
	})
}

// Tenants come and go one after another, and all at once, with calls that wait.
func TestStorm_TenantsComeAndGo(t *testing.T) {
	n := many(200_000)
	hold := limitsOf(sluice.Limit{Max: 1})
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(
		hold, scheduler(sluice.PrioritySchedulerConfig{MaxQueue: n}))}))
	release := make(chan struct{})
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, first bool) (int, error) {
		if first {
			<-release
		}
		return 0, nil
	}))
	round := func(from, n int) {
		ctx, cancel := context.WithCancel(t.Context())
		holder := e.Submit(t.Context(), sluice.Request{Tool: "x", Input: true})
		futures := make([]*sluice.Future, n)
		for i := range futures {
			pc := sluice.PipelineContext{Tenant: fmt.Sprint("tenant-", from+i)}
			futures[i] = e.Submit(sluice.WithPipelineContext(ctx, pc), sluice.Request{Tool: "x", Input: false})
		}
		cancel()
		for _, f := range futures {
			f.Wait(t.Context())
		}
		release <- struct{}{}
		holder.Wait(t.Context())
	}
	round(0, 100)
	before := calmNow()
	round(0, n)
	before.returns(t)
	for i := range n / 100 {
		round(i*100, 100)
	}
	before.returns(t)
	require.NoError(t, e.Close(t.Context()))
}

// Executors that are closed leave nothing behind in what they shared.
func TestStorm_ExecutorsComeAndGo(t *testing.T) {
	reg, gates := sluice.NewToolRegistry(), interceptors(atMost(4), breakerOf(sluice.CircuitBreakerConfig{}),
		rates(sluice.Rate{N: 1 << 40}), scheduler(sluice.PrioritySchedulerConfig{}))
	rawTool(t, reg, sluice.Spec{Name: "x"}, sleeps(0))
	round := func(n int) {
		var last *sluice.Executor // so that what they share stays theirs
		for range n {
			e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{Interceptors: gates}))
			f := e.Submit(t.Context(), sluice.Request{Tool: "x"})
			_, err := e.Invoke(t.Context(), sluice.Request{Tool: "x"})
			require.NoError(t, err)
			if last != nil {
				require.NoError(t, last.Close(t.Context()))
			}
			_, err = f.Wait(t.Context())
			require.NoError(t, err)
			last = e
			own := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(atMost(1))}))
			require.NoError(t, own.Close(t.Context()))
		}
		require.NoError(t, last.Close(t.Context()))
	}
	round(100)
	before := calmNow()
	round(many(200_000) / 2)
	before.returns(t)
	runtime.KeepAlive(gates)
}

// Submissions that end at once, for whatever reason, are carried by few goroutines, and
// leave nothing behind.
func TestStorm_SubmissionsThatEndAtOnce(t *testing.T) {
	n := many(300_000)
	var peak routinePeak
	type storm struct {
		e       *sluice.Executor
		hold    *sluice.ConcurrencyLimiter
		release chan struct{}
	}
	// begin is an executor with one call under way, behind which others wait.
	begin := func() storm {
		hold := limitsOf(sluice.Limit{Max: 1})
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: peak.sink(), Interceptors: interceptors(
			hold, scheduler(sluice.PrioritySchedulerConfig{MaxQueue: n}))}))
		release := make(chan struct{})
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, first bool) (int, error) {
			if peak.look(); first {
				<-release
			}
			return 0, nil
		}))
		e.Submit(t.Context(), sluice.Request{Tool: "x", Input: true})
		return storm{e, hold, release}
	}
	for _, tt := range []struct {
		name    string
		limited bool
		run     func(s storm, submit func(ctx context.Context)) (end func())
	}{
		{"run at once", false, func(s storm, submit func(context.Context)) func() {
			close(s.release)
			submit(t.Context())
			return func() {}
		}},
		{"are admitted together", false, func(s storm, submit func(context.Context)) func() {
			submit(t.Context())
			return func() {
				assert.NoError(t, sluice.Reconfigure("me", s.hold.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n + 1}}})))
			}
		}},
		{"are admitted a few at a time", true, func(s storm, submit func(context.Context)) func() {
			submit(t.Context())
			return func() {
				assert.NoError(t, sluice.Reconfigure("me", s.hold.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1 + runtime.GOMAXPROCS(0)}}})))
			}
		}},
		{"are admitted one by one", true, func(s storm, submit func(context.Context)) func() {
			submit(t.Context())
			return func() { close(s.release) }
		}},
		{"are cancelled together", true, func(s storm, submit func(context.Context)) func() {
			ctx, cancel := context.WithCancel(t.Context())
			submit(ctx)
			return cancel
		}},
		{"are refused together", true, func(s storm, submit func(context.Context)) func() {
			submit(t.Context())
			return func() { go s.e.Close(t.Context()) }
		}},
		{"are refused on arrival", true, func(s storm, submit func(context.Context)) func() {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			submit(ctx)
			return func() {}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := begin()
			for s.e.Snapshot().InFlight == 0 {
				runtime.Gosched()
			}
			before := calmNow()
			peak.reset()
			futures := make([]*sluice.Future, n)
			end := tt.run(s, func(ctx context.Context) {
				for i := range futures {
					futures[i] = s.e.Submit(ctx, sluice.Request{Tool: "x", Input: false})
				}
			})
			end()
			for _, f := range futures {
				f.Wait(t.Context())
			}
			select {
			case <-s.release:
			default:
				close(s.release)
			}
			peak.isLow(t, n, tt.limited)
			futures = nil
			for i := 0; i < 1000 && s.e.Snapshot().InFlight > 0; i++ {
				time.Sleep(ms)
			}
			before.returns(t)
			require.NoError(t, s.e.Close(t.Context()))
		})
	}
}

// Ten thousand live tools are registered, called and removed in reasonable time.
func TestStorm_ManyLiveTools(t *testing.T) {
	n := many(10_000)
	start := time.Now()
	reg := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{Interceptors: interceptors(
		limitsOf(sluice.Limit{Max: 4, Scope: sluice.ByTool}), breakerOf(sluice.CircuitBreakerConfig{}))}))
	before := calmNow()
	name := func(i int) string { return fmt.Sprint("tool-", i) }
	for i := range n {
		rawTool(t, reg, sluice.Spec{Name: name(i)}, sleeps(0))
	}
	for i := range n / 4 {
		_, err := e.Invoke(t.Context(), sluice.Request{Tool: name(i)})
		require.NoError(t, err)
	}
	for gate, cells := range gatesByName(e) {
		if cells > n {
			t.Errorf("%d cells of %s for %d tools", cells, gate, n)
		}
	}
	for i := range n {
		reg.Remove(name(i))
	}
	if d := time.Since(start); d > time.Minute { // a few seconds, unless each change looks at all of them
		t.Errorf("%d tools were registered, called and removed in %v", n, d)
	}
	before.returns(t)
	require.NoError(t, e.Close(t.Context()))
}
