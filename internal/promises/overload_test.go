package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// capacity is a backend that works on so many calls at once and answers others at once
// that it is too busy.
type capacity struct {
	mu        sync.Mutex
	max       int
	inside    int
	done      int
	overloads int
	busy      time.Duration // time spent working, over all calls
}

// work takes take, or answers busy at once.
func (b *capacity) work(busy error, take func() time.Duration) func(context.Context) error {
	return func(context.Context) error {
		b.mu.Lock()
		if b.inside >= b.max {
			b.overloads++
			b.mu.Unlock()
			return busy
		}
		b.inside++
		d := take()
		b.mu.Unlock()
		time.Sleep(d)
		b.mu.Lock()
		b.inside--
		b.done++
		b.busy += d
		b.mu.Unlock()
		return nil
	}
}

func (b *capacity) set(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.max = n
}

func (b *capacity) overloaded() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.overloads
}

// callers has n callers invoke a tool in turn until ctx ends or the budget is used up.
func (r *rig) callers(ctx context.Context, n int, budget *atomic.Int64, tool string) (wait func()) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil && (budget == nil || budget.Add(-1) >= 0) {
				_ = errOf(r.Invoke(r.ctx, sluice.Request{Tool: tool}))
			}
		})
	}
	return wg.Wait
}

// An adaptive limit finds a backend's capacity from nothing: few calls meet an overload,
// and little of the backend idles.
func TestAdaptive_FindsTheCapacity(t *testing.T) {
	const calls, callers, most = 2400, 30, 8
	rng := rand.New(rand.NewPCG(1, 2)) // used under the backend's lock
	for _, x := range []struct {
		name     string
		busy     error
		classify func(sluice.Call, sluice.Result, error) sluice.Outcome
		take     func() time.Duration
	}{
		{"RetryAfter zero, equal times", busyError{}, nil, func() time.Duration { return 10 * ms }},
		{"RetryAfter zero, random times", busyError{}, nil, func() time.Duration { return time.Duration(rng.ExpFloat64() * float64(10*ms)) }},
		{"Classify, random times", errBusy, func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
			if errors.Is(err, errBusy) {
				return sluice.OutcomeOverload
			}
			return sluice.OutcomeAuto
		}, func() time.Duration { return 5*ms + time.Duration(rng.Int64N(int64(10*ms))) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Classify: x.classify, Interceptors: interceptors(adaptive(1, 100))})
				defer r.end()
				r.ctx = t.Context()
				b := &capacity{max: most}
				r.tool(sluice.Spec{Name: "work"}, b.work(x.busy, x.take))
				budget := new(atomic.Int64)
				budget.Store(calls)
				r.callers(r.ctx, callers, budget, "work")()
				overloads := float64(b.overloads) / calls
				used := float64(b.busy) / float64(r.at()*most)
				t.Logf("%d calls by %d callers in %v: %.2f%% met an overload, %.1f%% of the backend used", calls, callers, r.at(), 100*overloads, 100*used)
				assert.Equal(t, calls, b.done+b.overloads, "%d done and %d overloaded in all", b.done, b.overloads)
				if overloads >= 0.05 {
					t.Errorf("%.2f%% of the calls met an overload, want less than 5%%", 100*overloads)
				}
				if used <= 0.9 {
					t.Errorf("%.1f%% of the backend used, want more than 90%%", 100*used)
				}
			})
		})
	}
}

// A backend that falls from 8 to 3 is followed within 5 cuts, in a call's time; one that rises from 3
// to 8 within 10*5 times as long as a call takes.
func TestAdaptive_FollowsTheCapacity(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const call = 10 * ms
		r := newRig(t, sluice.Config{Interceptors: interceptors(adaptive(1, 100))})
		defer r.end()
		r.ctx = t.Context()
		b := &capacity{max: 8}
		r.tool(sluice.Spec{Name: "work"}, b.work(busyError{}, func() time.Duration { return call }))
		ctx, cancel := context.WithCancel(r.ctx)
		wait := r.callers(ctx, 30, nil, "work")
		until := func(ok func(limit int64) bool) time.Duration {
			from := r.at()
			for synctest.Wait(); !ok(r.limitIs()); synctest.Wait() {
				if time.Sleep(ms); r.at()-from > time.Minute {
					t.Errorf("the limit stands at %d", r.limitIs())
					break
				}
			}
			return r.at() - from
		}
		time.Sleep(2*time.Second + ms/2) // not at an instant at which calls end
		for round := range 3 {
			until(func(l int64) bool { return l == 8 })
			before := b.overloaded()
			b.set(3)
			down := until(func(l int64) bool { return l <= 3 })
			met := b.overloaded() - before
			time.Sleep(time.Second)
			until(func(l int64) bool { return l == 3 })
			b.set(8)
			up := until(func(l int64) bool { return l >= 8 })
			t.Logf("round %d: 8 -> 3 in %v after %d overloads, 3 -> 8 in %v", round, down, met, up)
			// Calls that end together let others start together, of which as many meet an
			// overload as the limit is too high: 5, then 4 and so on, and 6 if it tries 9 just then.
			if met > 6+5+4+3+2+1 || down > 2*call {
				t.Errorf("8 -> 3 in %v after %d overloads, want at most 21, within two calls' time", down, met)
			}
			if up > 50*call || up < 35*call {
				t.Errorf("3 -> 8 in %v, want about %v, no more", up, 50*call)
			}
			time.Sleep(time.Second)
		}
		cancel()
		wait()
	})
}

// Eight calls in flight together that all meet an overload cut the limit once.
func TestAdaptive_OneCutForCallsInFlightTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limits := adaptive(8, 100)
		r := newRig(t, sluice.Config{Interceptors: interceptors(limits)})
		defer r.end()
		r.ctx = t.Context()
		answer := error(nil)
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error { time.Sleep(10 * ms); return answer })
		require.NoError(t, r.call("work"))
		c := limits.Config()
		c.Limits[0].Adaptive.Min = 1 // the limit stays at 8
		require.NoError(t, sluice.Reconfigure("test", limits.Change(c)))
		require.Equal(t, int64(8), r.limitIs(), "limit")
		for _, x := range []struct {
			err  error
			want int64
		}{
			{errors.New("failed"), 8}, // a failure is no overload
			{context.Canceled, 8},
			{busyError{}, 7},
			{busyError{}, 6},
		} {
			answer = x.err
			parallel(int(r.limitIs()), func(int) { _ = r.call("work") })
			l := r.limitIs()
			assert.Equal(t, x.want, l, "limit %d after a generation of %v", l, x.err)
		}
		answer = nil
		for range 200 { // never all of the limit
			parallel(5, func(int) { assert.NoError(t, r.call("work")) })
		}
		l := r.limitIs()
		assert.Equal(t, int64(6), l, "limit %d after 1,000 successes of 5 at once", l)
		var wg sync.WaitGroup // a long time in the queue, of calls that succeed
		for range 60 {
			wg.Go(func() { assert.NoError(t, r.call("work")) })
		}
		wg.Wait()
		// 60 successes, but the last 5 end without using the limit up.
		l = r.limitIs()
		assert.Equal(t, int64(6), l, "limit %d after 55 successes at the limit: 60 add one", l)
		parallel(10, func(int) { assert.NoError(t, r.call("work")) })
		l = r.limitIs()
		assert.Equal(t, int64(7), l, "limit %d after 60 successes at the limit", l)
	})
}

// Refusal by estimate is opt-in, says when to retry, and Explain agrees with it.
func TestRefuseLate_IsOptInAndSaysWhen(t *testing.T) {
	const call = 100 * ms
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint("RefuseLate ", late), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{RefuseLate: late}))})
				defer r.end()
				r.ctx = t.Context()
				r.tool(sluice.Spec{Name: "work"}, sleeps(call))
				require.NoError(t, r.call("work")) // so that it is known how long one takes
				var futures []*sluice.Future
				for range 6 { // one runs, five wait
					futures = append(futures, r.Submit(r.ctx, sluice.Request{Tool: "work"}))
				}
				synctest.Wait()
				if s := r.Snapshot(); s.InFlight != 1 || s.Queued != 5 {
					t.Fatalf("%d in flight, %d queued, want 1 and 5", s.InFlight, s.Queued)
				}
				for _, x := range []struct {
					deadline, after time.Duration // after: 600 ms to start, less the latest start
				}{
					{300 * ms, 400 * ms},
					{500 * ms, 200 * ms},
					{699 * ms, ms},
					{50 * ms, 600 * ms},
					{700 * ms, 0}, // in time, to the instant
				} {
					ctx, cancel := context.WithTimeout(r.ctx, x.deadline)
					defer cancel()
					from, d := r.at(), r.Explain(ctx, sluice.Request{Tool: "work"})
					switch {
					case late && x.after > 0:
						err := errOf(r.Invoke(ctx, sluice.Request{Tool: "work"}))
						wantRefusal(t, err, sluice.ErrWaitTooLong, "concurrency global", x.after)
						if r.at() != from {
							t.Errorf("deadline %v: refused after %v, want on arrival", x.deadline, r.at()-from)
						}
						if d.Refusal == nil || d.Refusal.Reason != sluice.ErrWaitTooLong || d.Refusal.By != "concurrency global" || d.Refusal.RetryAfter != x.after {
							t.Errorf("deadline %v: Explain says %+v, want what Invoke does", x.deadline, d.Refusal)
						}
					default:
						f := r.Submit(ctx, sluice.Request{Tool: "work"})
						synctest.Wait()
						assert.Equal(t, 6, r.Snapshot().Queued, "deadline %v: queued", x.deadline)
						require.Nil(t, d.Refusal, "deadline %v", x.deadline)
						assert.Equal(t, 6, d.Place, "deadline %v", x.deadline)
						assert.Equal(t, 600*ms, d.Wait, "deadline %v", x.deadline)
						cancel()
						<-f.Done()
					}
				}
				for _, f := range futures {
					require.NoError(t, errOf(f.Wait(r.ctx)))
				}
			})
		})
	}
}

// Without a deadline and without MaxWait there is nothing to be late for; MaxWait counts
// the start alone.
func TestRefuseLate_MaxWaitCountsTheStartAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{RefuseLate: true}))})
		defer r.end()
		r.ctx = t.Context()
		r.tool(sluice.Spec{Name: "work"}, sleeps(100*ms))
		r.tool(sluice.Spec{Name: "hasty", Policy: sluice.Policy{MaxWait: 250 * ms}}, sleeps(100*ms))
		require.NoError(t, r.call("work"))
		wait := inOrder(2, func(int) { assert.NoError(t, r.call("work")) }) // one runs, one waits: 200 ms
		require.NoError(t, r.call("hasty"))
		wait()
		wait = inOrder(3, func(int) { assert.NoError(t, r.call("work")) }) // 300 ms
		from := r.at()
		wantRefusal(t, r.call("hasty"), sluice.ErrWaitTooLong, "concurrency global", 50*ms)
		if r.at() != from {
			t.Errorf("refused after %v, want on arrival", r.at()-from)
		}
		wait()
	})
}

// dropped is one call that gave way.
type dropped struct {
	at     time.Duration
	tenant string
	p      sluice.Priority
	n      int // the how manieth of its tenant and priority it was
}

// TestShedStanding_ShedsMoreAndMoreOften: a queue that stands is shed from after twenty times as long
// as the tool takes, then ever more often; from the lowest level, the newest call of the
// tenant with the most queued per weight.
func TestShedStanding_ShedsMoreAndMoreOften(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const call = 10 * ms
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{
			ShedStanding: true, MaxQueue: 100_000, TenantWeights: map[string]int{"heavy": 2},
		}))})
		defer r.end()
		r.ctx = t.Context()
		r.tool(sluice.Spec{Name: "work"}, sleeps(call))
		require.NoError(t, r.call("work"))
		start := r.at()
		var mu sync.Mutex
		var drops []dropped
		var wg sync.WaitGroup
		submit := func(n int, p sluice.Priority, tenant string) {
			pc := sluice.PipelineContext{Priority: p, Tenant: tenant}
			ctx := sluice.WithPipelineContext(t.Context(), pc)
			for i := range n {
				f := r.Submit(ctx, sluice.Request{Tool: "work"})
				wg.Go(func() {
					_, err := f.Wait(t.Context())
					if errors.Is(err, sluice.ErrQueueFull) {
						wantRefusal(t, err, sluice.ErrQueueFull, "concurrency global", 0)
						mu.Lock()
						defer mu.Unlock()
						drops = append(drops, dropped{r.at() - start, tenant, p, i})
					} else if err != nil {
						t.Error(err)
					}
				})
			}
		}
		submit(60, 0, "flood") // 60 per weight
		submit(80, 0, "heavy") // 40 per weight
		submit(10, 0, "light")
		submit(5, sluice.PriorityInteractive, "light") // they come first, and are never dropped
		wg.Wait()
		slices.SortStableFunc(drops, func(a, b dropped) int { return int(a.at - b.at) })
		if len(drops) < 10 {
			t.Fatalf("%d calls dropped of 155 that all wait: %v", len(drops), drops)
		}
		t.Logf("%d dropped, the first: %v", len(drops), drops[:min(6, len(drops))])
		// The 5 interactive ones start at 0 … 50 ms (the first of flood at once). From the
		// first start of the lowest level on, at 60 ms, the queue stands: 200 ms later the
		// first is dropped, then after 200, 200/sqrt(2), 200/sqrt(3) ms, at the next start.
		next := 260 * ms
		for i := range min(6, len(drops)) {
			assert.Equal(t, next, drops[i].at, "drop %d at", i)
			gap := time.Duration(float64(200*ms) / math.Sqrt(float64(i+1)))
			next = (next + gap + call - 1) / call * call
		}
		kept := map[string]int{"flood": 60, "heavy": 80}
		for i, d := range drops {
			assert.Zero(t, d.p, "an interactive call was dropped at %v", d.at)
			if i == 0 && (d.tenant != "flood" || d.n != 59) {
				t.Errorf("first drop is number %d of %s, want the newest of flood", d.n, d.tenant)
			}
			if kept[d.tenant]--; d.tenant == "light" {
				t.Errorf("a call of the light tenant was dropped at %v", d.at)
			}
		}
		for i := 1; i < min(8, len(drops)); i++ {
			if i > 1 && drops[i].at-drops[i-1].at > drops[i-1].at-drops[i-2].at {
				t.Errorf("gap %v after %v: want ever more often", drops[i].at-drops[i-1].at, drops[i-1].at-drops[i-2].at)
			}
		}
	})
}

// A queue that drains is never shed: its calls wait no longer than the tool takes at least
// once within twenty times that.
func TestShedStanding_ADrainingQueueIsLeftAlone(t *testing.T) {
	for _, x := range []struct {
		name  string
		burst int
		every time.Duration
	}{
		{"one burst that ends in time", 20, 0},
		{"bursts that drain, for a minute", 15, 170 * ms},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{ShedStanding: true, MaxQueue: 1000}))})
				defer r.end()
				r.ctx = t.Context()
				r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
				require.NoError(t, r.call("work"))
				var wg sync.WaitGroup
				calls := 0
				for from := r.at(); r.at()-from < time.Minute; time.Sleep(max(x.every, ms)) {
					for range x.burst {
						f := r.Submit(r.ctx, sluice.Request{Tool: "work"})
						wg.Go(func() { assert.NoError(t, errOf(f.Wait(r.ctx))) })
						calls++
					}
					if x.every == 0 {
						break
					}
				}
				wg.Wait()
				t.Logf("%d calls, none shed", calls)
			})
		})
	}
}

// How long a queue has stood counts from when calls wait in it: one that everybody has left does
// not stand, whoever comes later.
func TestShedStanding_AnEmptyQueueDoesNotStand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{ShedStanding: true}))})
		defer r.end()
		r.ctx = t.Context()
		r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
		require.NoError(t, r.call("work"))
		three := func(ctx context.Context) (fs []*sluice.Future) {
			for range 3 {
				fs = append(fs, r.Submit(ctx, sluice.Request{Tool: "work"}))
			}
			return fs
		}
		ctx, cancel := context.WithCancel(t.Context())
		three(ctx)
		time.Sleep(15 * ms) // the second has begun after it had waited for as long as it takes
		cancel()
		time.Sleep(time.Second)
		for i, f := range three(t.Context()) {
			_, err := f.Wait(t.Context())
			assert.NoError(t, err, "call %d", i)
		}
	})
}

// When the queue is full the flooder is hit, and the light tenant is served as if alone.
func TestShed_FullQueueHitsTheFlooder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 50, Shed: true}))})
		defer r.end()
		r.ctx = t.Context()
		r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
		var wg sync.WaitGroup
		var shed, full, served [2]atomic.Int64
		var worst atomic.Int64
		submit := func(who int) {
			ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: []string{"flood", "light"}[who]})
			came := r.at()
			want := r.Explain(ctx, sluice.Request{Tool: "work"})
			f := r.Submit(ctx, sluice.Request{Tool: "work"})
			synctest.Wait()
			atOnce := r.at() == came && isDone(f)
			wg.Go(func() {
				_, err := f.Wait(t.Context())
				switch {
				case err == nil:
					served[who].Add(1)
					if d := int64(r.at() - came); who == 1 && d > worst.Load() {
						worst.Store(d)
					}
				case errors.Is(err, sluice.ErrQueueFull) && atOnce:
					full[who].Add(1)
					if want.Refusal == nil || want.Refusal.Reason != sluice.ErrQueueFull {
						t.Errorf("refused on arrival, and Explain said %+v", want)
					}
				case errors.Is(err, sluice.ErrQueueFull):
					shed[who].Add(1)
				default:
					t.Error(err)
				}
			})
			if !atOnce && want.Refusal != nil {
				t.Errorf("queued, and Explain said %v", want.Refusal)
			}
		}
		for i := range 2000 { // 1,000 of the flood a second, 20 of the light one, 100 can be done
			submit(0)
			if i%50 == 0 {
				submit(1)
			}
			if time.Sleep(ms); i == 0 {
				time.Sleep(ms / 2) // not at an instant at which calls end
			}
		}
		wg.Wait()
		t.Logf("flood: %d served, %d refused, %d shed; light: %d served, %d refused, %d shed, the slowest took %v",
			served[0].Load(), full[0].Load(), shed[0].Load(), served[1].Load(), full[1].Load(), shed[1].Load(), time.Duration(worst.Load()))
		if served[1].Load() != 40 || full[1].Load() != 0 || shed[1].Load() != 0 {
			t.Errorf("light: %d of 40 served", served[1].Load())
		}
		require.NotZero(t, shed[0].Load(), "flood")
		assert.NotZero(t, full[0].Load(), "flood")
		if worst.Load() > int64(30*ms) {
			t.Errorf("a light call took %v, want at most the running call, one of the flood and its own", time.Duration(worst.Load()))
		}
	})
}

func isDone(f *sluice.Future) bool {
	select {
	case <-f.Done():
		return true
	default:
		return false
	}
}

// Goodput at twice, five and ten times the load that can be borne is what the backend can
// do, and whoever is admitted has waited no longer than the queue and MaxWait allow.
func TestOverload_GoodputAndBoundedWait(t *testing.T) {
	const slots, call, span = 10, 10 * ms, 10 * time.Second // 1,000 a second
	for _, shed := range []bool{false, true} {
		for _, load := range []int{2, 5, 10} {
			t.Run(fmt.Sprintf("load %d shed %v", load, shed), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{MaxWait: 150 * ms, Interceptors: interceptors(atMost(slots), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 100, Shed: shed, ShedStanding: shed}))})
					defer r.end()
					r.ctx = t.Context()
					var g gauge
					r.tool(sluice.Spec{Name: "work"}, g.counts(call))
					rng := rand.New(rand.NewPCG(uint64(load), 7))
					var mu sync.Mutex
					var waits []time.Duration
					refused, next := 0, time.Duration(0)
					var wg sync.WaitGroup
					for r.at() < span {
						next += time.Duration(rng.ExpFloat64() * float64(ms) / float64(load))
						time.Sleep(next - r.at())
						came := r.at()
						wg.Go(func() {
							res, err := r.Invoke(r.ctx, sluice.Request{Tool: "work"})
							mu.Lock()
							defer mu.Unlock()
							if err != nil {
								if refused++; !errors.Is(err, sluice.ErrQueueFull) && !errors.Is(err, sluice.ErrWaitTooLong) {
									t.Error(err)
								}
								return
							}
							if w := res.Decision().Wait; w != r.at()-came-call {
								t.Errorf("reported wait %v, took %v", w, r.at()-came)
							}
							waits = append(waits, r.at()-came-call)
						})
					}
					wg.Wait()
					slices.Sort(waits)
					good := float64(len(waits)) / float64(r.at()/ms) // of 1 per ms
					p99 := waits[len(waits)*99/100]
					t.Logf("%d of %d served, %.1f%% of what can be done, p99 wait %v", len(waits), len(waits)+refused, 100*good, p99)
					if good < 0.95 {
						t.Errorf("goodput %.1f%% of capacity, want at least 95%%", 100*good)
					}
					if p99 > 110*ms { // 100 waiting at 1,000 a second, and one call
						t.Errorf("p99 wait %v, want at most 110ms", p99)
					}
				})
			})
		}
	}
}

// The estimate counts who is ahead at the call's own level and above, and a pause.
func TestRefuseLate_CountsWhoIsAheadAndPauses(t *testing.T) {
	const call = 100 * ms
	try := func(r *rig, deadline time.Duration, refused time.Duration) {
		r.t.Helper()
		ctx, cancel := context.WithTimeout(r.as(5, ""), deadline)
		defer cancel()
		f := r.Submit(ctx, sluice.Request{Tool: "work"})
		synctest.Wait()
		select {
		case <-f.Done():
			var e *sluice.Error
			if _, err := f.Wait(r.t.Context()); !errors.As(err, &e) || e.Reason != sluice.ErrWaitTooLong || e.RetryAfter != refused || refused == 0 {
				r.t.Errorf("deadline %v: %v, want refusal for %v", deadline, err, refused)
			}
		default:
			if refused > 0 {
				r.t.Errorf("deadline %v: it waits, want it refused on arrival", deadline)
			}
			cancel()
			<-f.Done()
		}
	}
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{RefuseLate: true}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(call))
		require.NoError(t, r.call("work"))
		var wg sync.WaitGroup
		for _, p := range []sluice.Priority{5, 9, 9, 7, 1, 1, 1} { // the first runs, three are ahead
			wg.Go(func() { assert.NoError(t, errOf(r.Invoke(r.as(p, ""), sluice.Request{Tool: "work"}))) })
			synctest.Wait()
		}
		try(r, 500*ms-1, 1) // to start at 400 ms, and be done at 500
		try(r, 500*ms, 0)
		wg.Wait()
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(scheduler(sluice.PrioritySchedulerConfig{RefuseLate: true}))})
		defer r.end()
		throttle := false
		r.tool(sluice.Spec{Name: "work", Policy: sluice.Policy{Concurrency: 1}}, func(ctx context.Context) error {
			time.Sleep(call)
			if throttle {
				throttle = false
				sluice.ReportThrottle(ctx, time.Second)
			}
			return nil
		})
		require.NoError(t, r.call("work"))
		throttle = true
		require.NoError(t, r.call("work"))
		wait := inOrder(2, func(int) { assert.NoError(t, errOf(r.Invoke(r.as(5, ""), sluice.Request{Tool: "work"}))) })
		try(r, 1400*ms-1, 1) // a second of pause, two ahead and itself
		try(r, 1400*ms, 0)
		wait()
	})
}
