package agent_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// job is a call that reads and writes resources for a time, and then calls others from inside, all at once.
type job struct {
	Who           string
	Reads, Writes []string
	For           time.Duration
	Then          []job
}

func resourcesOf(c sluice.Call) (reads, writes []string) {
	j, _ := c.Input.(job)
	return j.Reads, j.Writes
}

// library is executors whose calls work on resources that they share, and a log of who starts when.
type library struct {
	t     *testing.T
	execs []*sluice.Executor
	began time.Time
	mu    sync.Mutex
	log   []string
}

func newLibrary(t *testing.T, execs int, more ...sluice.Interceptor) *library {
	l := &library{t: t, began: time.Now()}
	list := append(more, sluice.Must(agent.NewResources(resourcesOf)))
	for range execs {
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: list}))
		_, err := sluice.Register(exec.Registry(), sluice.Spec{Name: "work"}, func(ctx context.Context, j job) (int, error) {
			l.mu.Lock()
			l.log = append(l.log, fmt.Sprintf("%s@%d", j.Who, time.Since(l.began)/time.Second))
			l.mu.Unlock()
			time.Sleep(j.For)
			var wg sync.WaitGroup
			errs := make([]error, len(j.Then))
			for i, x := range j.Then {
				wg.Go(func() { _, errs[i] = exec.Invoke(ctx, callOf(x)) })
			}
			wg.Wait()
			return 0, errors.Join(errs...)
		})
		require.NoError(t, err)
		l.execs = append(l.execs, exec)
	}
	return l
}

func callOf(j job) sluice.Request { return sluice.Request{ID: j.Who, Tool: "work", Input: j} }

func (l *library) close() {
	for _, e := range l.execs {
		require.NoError(l.t, e.Close(context.Background()))
		for _, g := range e.Snapshot().Gates {
			require.Zero(l.t, g.Used, "%s %s", g.Name, g.Key)
		}
	}
}

// started is who started when, those of one instant in the order of their names.
func (l *library) started() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.Clone(l.log)
	at := func(s string) int { _, n, _ := strings.Cut(s, "@"); i, _ := strconv.Atoi(n); return i }
	slices.SortStableFunc(list, func(a, b string) int {
		if x, y := at(a), at(b); x != y {
			return x - y
		}
		return strings.Compare(a, b)
	})
	return strings.Join(list, " ")
}

// later has f called at that second, in the background, after all that was to happen before.
func (l *library) later(wg *sync.WaitGroup, at int, f func()) {
	wg.Go(func() {
		time.Sleep(time.Duration(at) * time.Second)
		f()
	})
}

func list(names ...string) []string { return names }

const sec = time.Second

// Calls of one turn, as a model wrote them: readers of a file together, a writer alone and in its turn.
func TestResources_OfOneTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t, 1)
		r := sluice.Must(agent.New(l.execs[0], agent.Config{}))
		turn := []job{
			{"r1", list("a"), nil, 2 * sec, nil},
			{"r2", list("a", "b"), nil, 3 * sec, nil},
			{"w1", list("b"), list("a"), 4 * sec, nil}, // at 3, when both readers have gone
			{"r3", list("a"), nil, sec, nil},           // after w1
			{"r4", list("b"), nil, sec, nil},           // at once: w1 only reads b
			{"w2", nil, list("c", "a"), 2 * sec, nil},  // after r3
			{"w3", nil, list("c"), sec, nil},           // after w2, though c is free
			{"free", nil, nil, sec, nil},
			{"own", list("z"), list("z"), sec, nil},
		}
		var calls []sluice.Request
		for _, j := range turn {
			calls = append(calls, callOf(j))
		}
		for i, x := range r.Run(t.Context(), calls) {
			require.NoError(t, x.Err, "%d", i)
		}
		require.Equal(t, "free@0 own@0 r1@0 r2@0 r4@0 w1@3 r3@7 w2@8 w3@10", l.started())
		l.close()
	})
}

// Turns, runs and executors that share resources keep one order, whatever their priority and tenant.
func TestResources_AcrossTurnsRunsAndExecutors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t, 2, sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})))
		var runners []*agent.Runner
		for _, e := range l.execs {
			runners = append(runners, sluice.Must(agent.New(e, agent.Config{})))
		}
		as := func(p sluice.Priority, tenant string) context.Context {
			return sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Priority: p, Tenant: tenant})
		}
		var wg sync.WaitGroup
		turn := func(at, exec int, ctx context.Context, jobs ...job) {
			l.later(&wg, at, func() {
				var calls []sluice.Request
				for _, j := range jobs {
					calls = append(calls, callOf(j))
				}
				for _, x := range runners[exec].Run(ctx, calls) {
					require.NoError(t, x.Err)
				}
			})
		}
		turn(0, 0, as(sluice.PriorityBatch, "a"), job{"r1", list("x"), nil, 10 * sec, nil}, job{"w1", nil, list("x"), 10 * sec, nil})
		turn(1, 1, as(sluice.PriorityInteractive, "b"), job{"r2", list("x"), nil, 5 * sec, nil}, job{"r3", list("x", "y"), nil, 5 * sec, nil})
		turn(2, 0, as(sluice.PriorityInteractive, "c"), job{"w2", nil, list("y"), sec, nil})
		turn(3, 1, as(sluice.PriorityNormal, "a"), job{"r4", list("x"), nil, 7 * sec, nil}, job{"w3", nil, list("x"), sec, nil})
		wg.Wait()
		require.Equal(t, "r1@0 w1@10 r2@20 r3@20 r4@20 w2@25 w3@27", l.started())
		l.close()
	})
}

// Those nested in a call work on what it has, also what it writes, and others do not come between.
func TestResources_Nested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t, 1)
		var wg sync.WaitGroup
		invoke := func(at int, j job, says string) {
			l.later(&wg, at, func() {
				_, err := l.execs[0].Invoke(t.Context(), callOf(j))
				if says == "" {
					require.NoError(t, err, j.Who)
					return
				}
				require.ErrorIs(t, err, sluice.ErrNesting, j.Who)
				require.ErrorContains(t, err, says)
			})
		}
		inner := func(who string, reads, writes []string, then ...job) job {
			return job{who, reads, writes, 2 * sec, then}
		}
		invoke(0, inner("o", list("x"), list("a"), inner("i1", list("a"), nil), inner("i2", nil, list("a")), inner("i3", list("x"), list("b"), inner("ii", list("b"), list("b")))), "")
		invoke(1, inner("w", nil, list("a")), "")
		invoke(2, inner("rx", list("x"), nil), "")
		// What reads cannot be written from inside: not beside rx, and not when only its own are left.
		invoke(11, inner("p", list("y"), nil, inner("never", nil, list("y"))), "nested calls wait for each other: concurrency/resources per resource")
		invoke(12, job{"ry", list("y"), nil, 5 * sec, nil}, "")
		invoke(14, inner("wy", nil, list("y")), "")
		wg.Wait()
		// i1 and i2 take turns on what o holds of a; which is first is the scheduler's.
		got := strings.NewReplacer("i1@", "i@", "i2@", "i@").Replace(l.started())
		require.Equal(t, "o@0 i@2 i3@2 rx@2 i@4 ii@4 w@6 p@11 ry@12 wy@17", got)
		l.close()
	})
}

// Two that read one thing and would both write it from inside do not wait for each other: the one that comes
// second is refused, and then the first.
func TestResources_NestedWritersDoNotLockEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t, 1)
		var wg sync.WaitGroup
		for i := range 2 {
			l.later(&wg, i, func() {
				_, err := l.execs[0].Invoke(t.Context(), callOf(job{fmt.Sprint(i), list("a"), nil, 5 * sec, []job{{"in", nil, list("a"), sec, nil}}}))
				require.ErrorIs(t, err, sluice.ErrNesting)
				require.Equal(t, 6*sec, time.Since(l.began))
			})
		}
		wg.Wait()
		require.Equal(t, "0@0 1@1", l.started())
		l.close()
	})
}

// Who leaves the line lets the next go on at that instant, and who is cancelled while it works keeps what it
// has until its code has ended.
func TestResources_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t, 1)
		left := errors.New("left")
		var wg sync.WaitGroup
		invoke := func(at, until int, j job, want error) {
			l.later(&wg, at, func() {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if until > 0 {
					time.AfterFunc(time.Duration(until-at)*time.Second, func() { cancel(left) })
				}
				_, err := l.execs[0].Invoke(ctx, callOf(j))
				require.ErrorIs(t, err, want, j.Who)
			})
		}
		invoke(0, 0, job{"r1", list("a"), nil, 10 * sec, nil}, nil)
		invoke(1, 4, job{"w1", nil, list("a", "b"), sec, nil}, left)
		invoke(2, 0, job{"r2", list("a"), nil, 2 * sec, nil}, nil)    // when w1 has left
		invoke(3, 0, job{"w2", nil, list("b"), 9 * sec, nil}, nil)    // likewise
		invoke(5, 7, job{"w3", list("b"), list("a"), sec, nil}, left) // while others read a and write b
		invoke(6, 0, job{"r3", list("a"), nil, 10 * sec, nil}, nil)   // then
		invoke(11, 12, job{"w4", nil, list("c"), 6 * sec, nil}, nil)  // it does not look at its context
		invoke(13, 0, job{"w5", nil, list("c"), sec, nil}, nil)
		wg.Wait()
		require.Equal(t, "r1@0 r2@4 w2@4 r3@7 w4@11 w5@17", l.started())
		l.close()
	})
}

// A call may name many resources, and hundreds are in use at once: those that share none go beside each other.
func TestResources_Hundreds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLibrary(t, 1)
		r := sluice.Must(agent.New(l.execs[0], agent.Config{}))
		var calls []sluice.Request
		var want []string
		for i := range 300 { // three writers of 64 each, in a ring of which neighbours share half
			var names []string
			for k := range 64 {
				names = append(names, fmt.Sprint("f", (i/3*64+k)%(100*64)))
			}
			calls = append(calls, callOf(job{fmt.Sprintf("w%03d", i), nil, names, sec, nil}))
			want = append(want, fmt.Sprintf("w%03d@%d", i, i%3))
		}
		for _, x := range r.Run(t.Context(), calls) {
			require.NoError(t, x.Err)
		}
		got := strings.Fields(l.started())
		slices.Sort(got)
		require.Equal(t, want, got)
		var many []string
		for i := range 65 {
			many = append(many, fmt.Sprint(i))
		}
		_, err := l.execs[0].Invoke(t.Context(), callOf(job{"many", many, nil, 0, nil}))
		require.ErrorIs(t, err, sluice.ErrInvalidArguments)
		require.ErrorContains(t, err, "the call has 65 keys: must have at most 64")
		l.close()
	})
}

func TestResources_AFunctionThatPanicsRefuses(t *testing.T) {
	_, err := agent.NewResources(nil)
	require.EqualError(t, err, "agent: NewResources: of is nil: must say what a call reads and writes")
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{
		sluice.Must(agent.NewResources(func(c sluice.Call) (reads, writes []string) {
			if c.Input.(int) == 1 {
				panic("no")
			}
			runtime.Goexit()
			return nil, nil
		})),
	}}))
	_, err = sluice.Register(exec.Registry(), sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) { return 0, errOwn })
	require.NoError(t, err)
	_, err = exec.Invoke(t.Context(), sluice.Request{Tool: "x", Input: 1})
	require.ErrorIs(t, err, sluice.ErrRejected)
	var p *sluice.PanicError
	require.ErrorAs(t, err, &p)
	require.Equal(t, "no", p.Value)
	require.NoError(t, exec.Close(t.Context()))
}

// What every interleaving must show, on the real clock and the virtual one: nobody works beside a writer, and of
// two that share a resource which one of them writes, the one that came earlier starts earlier.
func TestResources_Storm(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("SLUICE_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("SLUICE_SEED=%d", seed)
	for i := range uint64(6) {
		t.Run(fmt.Sprintf("clock %d", seed+i), func(t *testing.T) { resourcesStorm(t, rand.New(rand.NewPCG(seed+i, 1)), false) })
		t.Run(fmt.Sprintf("bubble %d", seed+i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { resourcesStorm(t, rand.New(rand.NewPCG(seed+i, 2)), true) })
		})
	}
}

func resourcesStorm(t *testing.T, r *rand.Rand, virtual bool) {
	var mu sync.Mutex
	at := map[string][2]int{} // of each resource, who works on it: readers and writers
	order := map[string]int{} // the ordinal of each start
	enter := func(j job, n int) int {
		mu.Lock()
		defer mu.Unlock()
		reads, writes := resourcesOf(sluice.Call{Input: j})
		for k, list := range [][]string{reads, writes} {
			for _, f := range list {
				x := at[f]
				x[k] += n
				if at[f] = x; x[1] > 1 || x[1] == 1 && x[0] > 0 {
					t.Errorf("%s: %d readers and %d writers of %s", j.Who, x[0], x[1], f)
				}
			}
		}
		if n > 0 {
			order[j.Who] = len(order)
		}
		return len(order)
	}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{
		sluice.Must(agent.NewResources(resourcesOf)),
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 6}}})),
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})),
	}}))
	_, err := sluice.Register(exec.Registry(), sluice.Spec{Name: "work"}, func(ctx context.Context, j job) (int, error) {
		n := enter(j, 1)
		defer enter(j, -1)
		if runtime.Gosched(); virtual {
			time.Sleep(j.For)
		}
		switch n % 12 {
		case 0:
			panic("storm")
		case 1:
			runtime.Goexit()
		}
		return 0, nil
	})
	require.NoError(t, err)
	var wg sync.WaitGroup
	var came []job
	for i := range 250 {
		j := job{Who: fmt.Sprint(i), For: time.Duration(r.IntN(30)) * time.Microsecond}
		for f := range 5 {
			switch name := fmt.Sprint("f", f); r.IntN(6) {
			case 0:
				j.Writes = append(j.Writes, name)
			case 1, 2:
				j.Reads = append(j.Reads, name)
			}
		}
		came = append(came, j)
		ctx, cancel := context.WithCancel(sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Priority: sluice.Priority(1 + r.IntN(9))}))
		wg.Go(func() {
			defer cancel()
			_, err := exec.Invoke(ctx, callOf(j))
			mu.Lock()
			defer mu.Unlock()
			if _, ran := order[j.Who]; ran == errors.Is(err, sluice.ErrRejected) {
				t.Errorf("%s ran %v, error %v", j.Who, ran, err)
			}
		})
		if virtual {
			synctest.Wait() // it has come
		}
		if r.IntN(6) == 0 {
			if cancel(); virtual {
				synctest.Wait() // and gone, unless it works
			}
		}
		if virtual && r.IntN(2) == 0 {
			time.Sleep(time.Duration(r.IntN(20)) * time.Microsecond)
		}
	}
	wg.Wait()
	require.NoError(t, exec.Close(context.Background()))
	for f, x := range at {
		require.Zero(t, x, f)
	}
	require.Greater(t, len(order), 100)
	if !virtual {
		return // nobody knows in which order they came
	}
	conflict := func(a, b job) bool {
		return slices.ContainsFunc(a.Writes, func(f string) bool { return slices.Contains(b.Writes, f) || slices.Contains(b.Reads, f) }) ||
			slices.ContainsFunc(b.Writes, func(f string) bool { return slices.Contains(a.Reads, f) })
	}
	for i, b := range came {
		for _, a := range came[:i] {
			x, ran := order[a.Who]
			if y, ranToo := order[b.Who]; ran && ranToo && y < x && conflict(a, b) {
				t.Errorf("%s started before %s, which came earlier", b.Who, a.Who)
			}
		}
	}
}
