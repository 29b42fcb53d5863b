package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
)

// Everything at once, from a seed that is printed: executors that come and go over common
// gates, calls of every kind through interceptors of every kind, tools and limits that
// change, and Close at random. In the end nothing is taken, waits or runs, every call has
// reported its end once, and every bucket is full again.
func TestStorm_Everything(t *testing.T) {
	seed := stormSeed(t)
	for i := range rounds(10) {
		t.Run(fmt.Sprintf("bubble %d", seed+uint64(i)), func(t *testing.T) {
			bubble(t, func(t *testing.T) { newStorm(t, seed+uint64(i), time.Second, time.Millisecond).run() })
		})
	}
	for i := range rounds(10) {
		t.Run(fmt.Sprintf("clock %d", seed+uint64(i)), func(t *testing.T) {
			before := runtime.NumGoroutine()
			newStorm(t, seed+uint64(i), 0, time.Microsecond).run()
			for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if n := runtime.NumGoroutine(); n > before {
				t.Errorf("%d goroutines, %d before", n, before)
			}
		})
	}
}

// stormSeed is SLUICE_SEED, or another each time. A test that fails prints it.
func stormSeed(t *testing.T) uint64 {
	seed, err := strconv.ParseUint(os.Getenv("SLUICE_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("SLUICE_SEED=%d", seed)
	return seed
}

// storm is what the executors of one round share.
type storm struct {
	t     *testing.T
	seed  uint64
	slow  time.Duration // how long the slowest asks of outcomes take
	step  time.Duration // what everything else is counted in
	group [2][]sluice.Interceptor
	limit [2]*sluice.ConcurrencyLimiter
	quota [2]*sluice.RateLimiter
	order *sluice.PriorityScheduler
	reg   *sluice.ToolRegistry // of all executors of the first group
	wild  sync.WaitGroup       // what interceptors and tools leave behind

	mu   sync.Mutex
	recs []*sluice.Recorder // of executors that have been closed
}

func newStorm(t *testing.T, seed uint64, slow, step time.Duration) *storm {
	s := &storm{t: t, seed: seed, slow: slow, step: step, reg: sluice.NewToolRegistry()}
	s.order = scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 40, Shed: seed%2 == 0, ShedStanding: seed%3 == 0})
	for i := range s.group {
		s.limit[i] = sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: fmt.Sprint("slots", i), Limits: []sluice.Limit{
			{Max: 4}, {Max: 2, Scope: sluice.ByTool}, {Max: 3, Scope: sluice.ByTenant, MaxKeys: 3}, {Adaptive: &sluice.Adaptive{Max: 5}, Scope: sluice.ByType}}}))
		s.quota[i] = sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: fmt.Sprint("quota", i), Upstream: true, Scope: sluice.ByTenant,
			Rates: []sluice.Rate{{N: 50, Per: 100 * step}, {N: 500, Per: 100 * step, Unit: "tokens"}}}))
		s.group[i] = interceptors(s.limit[i], s.quota[i], breakerOf(sluice.CircuitBreakerConfig{Failures: 5, Cooldown: max(time.Microsecond, 20*step)}))
	}
	s.group[0] = append(s.group[0], s.order)
	return s
}

var errStormBusy = stormBusy{}

type stormBusy struct{}

func (stormBusy) Error() string             { return "busy" }
func (stormBusy) RetryAfter() time.Duration { return 20 * time.Microsecond }

func (s *storm) rand(n uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, n)) }

func (s *storm) sleep(r *rand.Rand, most int64) { time.Sleep(time.Duration(r.Int64N(most+1)) * s.step) }

// tools registers what e's group calls, unless it is there.
func (s *storm) tools(reg *sluice.ToolRegistry, e func() *sluice.Executor, r *rand.Rand) {
	timeout := []time.Duration{0, 5 * s.step, 30 * s.step}
	spec := func(name string) sluice.Spec {
		p := sluice.Policy{Timeout: timeout[r.IntN(3)]}
		switch r.IntN(4) {
		case 0:
			p.Concurrency = 2
		case 1:
			p.Rates = []sluice.Rate{{N: 20, Per: 50 * s.step}}
		case 2:
			p.Breaker = &sluice.BreakerPolicy{Failures: 3, Cooldown: 10 * s.step}
		}
		if r.IntN(3) == 0 {
			p.Classify = func(sluice.Call, sluice.Result, error) sluice.Outcome {
				switch n := rand.IntN(20); {
				case n == 0:
					time.Sleep(2 * s.slow)
				case n == 1:
					panic("classify")
				case n == 2:
					return sluice.OutcomeOverload
				}
				return sluice.OutcomeAuto
			}
		}
		return sluice.Spec{Name: name, Type: name[:1], Policy: p}
	}
	seed := r.Uint64()
	var n atomic.Uint64
	add := func(name string, f func(ctx context.Context, r *rand.Rand) error) {
		_, _ = sluice.Register(reg, spec(name), func(ctx context.Context, _ any) (any, error) {
			return nil, f(ctx, rand.New(rand.NewPCG(seed, n.Add(1))))
		})
	}
	add("fast", func(context.Context, *rand.Rand) error { return nil })
	add("slow", func(_ context.Context, r *rand.Rand) error { s.sleep(r, 10); return nil })
	add("fails", func(_ context.Context, r *rand.Rand) error {
		if r.IntN(2) == 0 {
			return nil
		}
		return errTool
	})
	add("heeds", func(ctx context.Context, r *rand.Rand) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(r.IntN(40)) * s.step):
			return nil
		}
	})
	add("busy", func(ctx context.Context, r *rand.Rand) error {
		switch r.IntN(3) {
		case 0:
			return errStormBusy
		case 1:
			sluice.ReportThrottle(ctx, time.Duration(r.IntN(20))*s.step, sluice.ThrottlePart{Kind: "host", Key: "x"})
		}
		return nil
	})
	add("usage", func(ctx context.Context, r *rand.Rand) error {
		sluice.ReportUsage(ctx, "tokens", r.Int64N(200))
		s.sleep(r, 3)
		sluice.ReportUsage(ctx, "tokens", r.Int64N(30))
		return nil
	})
	add("panics", func(context.Context, *rand.Rand) error { panic("tool") })
	add("exits", func(context.Context, *rand.Rand) error { runtime.Goexit(); return nil })
	add("nests", func(ctx context.Context, r *rand.Rand) error {
		_, err := e().Invoke(ctx, sluice.Request{Tool: stormTools[r.IntN(len(stormTools))]})
		if r.IntN(2) == 0 {
			return err
		}
		f := e().Submit(ctx, sluice.Request{Tool: stormTools[r.IntN(len(stormTools))]})
		if r.IntN(2) == 0 {
			_, err = f.Wait(ctx)
			return err
		}
		return nil
	})
	add("streams", func(ctx context.Context, r *rand.Rand) error {
		for range 1 + r.IntN(2) {
			stream, done, err := sluice.Hold(ctx)
			if err != nil {
				return err
			}
			end := []error{nil, errTool, errStormBusy}[r.IntN(3)]
			wait := time.Duration(r.IntN(20)) * s.step
			s.wild.Go(func() {
				select {
				case <-time.After(wait):
				case <-stream.Done():
				}
				done(end)
			})
		}
		if r.IntN(4) == 0 {
			return errTool
		}
		return nil
	})
}

var stormTools = []string{"fast", "fast", "slow", "fails", "heeds", "busy", "usage", "panics", "exits", "nests", "nests", "streams", "streams", "gone"}

// around is an interceptor outside the gates: it retries, hedges, or leaves its next behind.
func (s *storm) around(r *rand.Rand) sluice.Interceptor {
	how, seed := r.IntN(4), r.Uint64()
	var n atomic.Uint64
	return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			r := rand.New(rand.NewPCG(seed, n.Add(1)))
			type answer struct {
				res sluice.Result
				err error
			}
			out := make(chan answer, 3)
			attempt := func(wait time.Duration) {
				s.wild.Go(func() {
					a := answer{err: errors.New("it left")}
					defer func() {
						if v := recover(); v != nil {
							a.err = fmt.Errorf("%v", v)
						}
						out <- a
					}()
					time.Sleep(wait)
					a.res, a.err = next(ctx, c)
				})
			}
			switch how {
			case 0:
				for try := range 3 {
					res, err := next(ctx, c)
					if err == nil || try == 2 {
						return res, err
					}
					c.ReportRetry(ctx, time.Duration(try)*s.step, err)
					s.sleep(r, 2)
				}
			case 1:
				for range 1 + r.IntN(3) {
					attempt(time.Duration(r.IntN(4)) * s.step)
				}
				select {
				case a := <-out:
					return a.res, a.err
				case <-time.After(time.Duration(r.IntN(30)) * s.step):
					return sluice.Result{}, errors.New("too slow")
				}
			case 2:
				if r.IntN(10) == 0 {
					panic("around")
				}
			}
			return next(ctx, c)
		}
	})
}

// inside is an interceptor inside the gates, which sometimes does not wait for its next.
func (s *storm) inside(r *rand.Rand) sluice.Interceptor {
	seed := r.Uint64()
	var n atomic.Uint64
	return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			r := rand.New(rand.NewPCG(seed, n.Add(1)))
			switch r.IntN(6) {
			case 0, 1:
				wait, done := time.Duration(r.IntN(3))*s.step, make(chan struct{})
				s.wild.Go(func() {
					defer close(done)
					time.Sleep(wait)
					_, _ = next(ctx, c)
				})
				if r.IntN(2) == 0 {
					<-done
				} else {
					s.sleep(r, 4)
				}
				if r.IntN(2) == 0 {
					return sluice.Result{}, errors.New("gave up")
				}
				return sluice.Result{Value: 1}, nil
			case 2:
				_, _ = next(ctx, c)
			}
			return next(ctx, c)
		}
	})
}

// executor makes one, uses it, and closes it.
func (s *storm) executor(n uint64) {
	t, r := s.t, s.rand(n)
	g := int(n % 2)
	reg := s.reg
	if g == 1 || r.IntN(3) == 0 {
		reg = sluice.NewToolRegistry()
	}
	pc, rec := sluice.NewTestPipelineContext()
	pc.Sink = nil
	conf := sluice.Config{Sink: rec, State: pc.State, MaxDepth: 4, Interceptors: s.group[g]}
	if r.IntN(2) == 0 {
		conf.Interceptors = append(interceptors(s.around(r)), conf.Interceptors...)
	}
	if r.IntN(2) == 0 {
		conf.Interceptors = append(append(interceptors(), conf.Interceptors...), s.inside(r))
	}
	e, err := sluice.NewExecutor(reg, conf)
	if err != nil {
		t.Error(err)
		return
	}
	s.tools(reg, func() *sluice.Executor { return e }, r)
	var futures []*sluice.Future
	var mu sync.Mutex
	var callers sync.WaitGroup
	for i := range 6 {
		seed := r.Uint64()
		callers.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for range 12 {
				ctx, cancel := context.WithCancel(context.Background())
				pc := sluice.PipelineContext{Tenant: fmt.Sprint("t", r.IntN(4)), Priority: sluice.Priority(r.IntN(10))}
				if r.IntN(3) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(30))*s.step)
				}
				ctx = sluice.WithPipelineContext(ctx, pc)
				q := sluice.Request{Tool: stormTools[r.IntN(len(stormTools))]}
				if r.IntN(2) == 0 {
					f := e.Submit(ctx, q)
					mu.Lock()
					futures = append(futures, f)
					mu.Unlock()
					if r.IntN(2) == 0 {
						_, _ = f.Wait(ctx)
					}
				} else {
					done := make(chan struct{})
					go func() { // a tool may end its goroutine
						defer close(done)
						_, _ = e.Invoke(ctx, q)
					}()
					if r.IntN(3) == 0 {
						s.sleep(r, 3)
						cancel()
					}
					<-done
				}
				if r.IntN(4) == 0 {
					cancel()
				}
				defer cancel()
			}
		})
	}
	if r.IntN(3) == 0 {
		callers.Wait()
	} else {
		s.sleep(r, 40)
	}
	mu.Lock()
	early := len(futures)
	mu.Unlock()
	for _, patience := range []time.Duration{s.step, time.Minute} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err = e.Close(ctx)
		cancel()
	}
	if err != nil {
		t.Errorf("%v: %+v", err, e.Snapshot())
		return
	}
	callers.Wait()
	assert.NoError(t, e.Close(context.Background()))
	for i, f := range futures {
		select {
		case <-f.Done():
		default:
			if i < early {
				t.Error("Close has returned, and a future has come to nothing")
			}
			<-f.Done() // refused since the executor was closed
		}
	}
	assert.Zero(t, e.Snapshot().Abandoned, "abandoned")
	assert.NoError(t, pc.State.Close())
	s.mu.Lock()
	s.recs = append(s.recs, rec) // until all have ended, tools of others call e, and are refused
	s.mu.Unlock()
}

// operate changes what can be changed, until it is told to stop.
func (s *storm) operate(stop *atomic.Bool) {
	r := s.rand(1 << 40)
	for !stop.Load() {
		g := r.IntN(2)
		switch key := fmt.Sprint("t", r.IntN(4)); r.IntN(9) {
		case 0:
			_ = s.quota[g].Pause(key, time.Duration(r.IntN(10))*s.step)
		case 1:
			_ = s.quota[g].Lift(key)
		case 2:
			c := s.limit[g].Config()
			c.Limits[0].Max = 1 + r.IntN(5)
			c.Limits[2].MaxKeys = 2 + r.IntN(4)
			q := s.quota[g].Config()
			q.Rates[1].Burst = 100 + r.Int64N(900)
			assert.NoError(s.t, sluice.Reconfigure("storm", s.limit[g].Change(c), s.quota[g].Change(q)))
		case 3:
			c := s.order.Config()
			c.MaxQueue = 1 + r.IntN(40)
			c.MaxPerTenant = 1 + r.IntN(c.MaxQueue)
			_ = sluice.Reconfigure("storm", s.order.Change(c))
		case 4:
			s.reg.Remove(stormTools[r.IntN(len(stormTools))])
		case 5:
			if _, err := sluice.Register(s.reg, sluice.Spec{Name: "gone", Type: "x"}, func(context.Context, any) (any, error) { return 1, nil }); err != nil {
				_, _ = sluice.Replace(s.reg, sluice.Spec{Name: "gone", Type: "y", Policy: sluice.Policy{Concurrency: 1 + r.IntN(2)}}, func(context.Context, any) (any, error) { return 2, nil })
			}
		case 6:
			name := stormTools[r.IntN(len(stormTools))]
			if spec, ok := s.reg.Lookup(name); ok {
				p := spec.Policy
				p.Concurrency = r.IntN(3)
				p.Rates = nil
				if r.IntN(2) == 0 {
					p.Rates = []sluice.Rate{{N: 10, Per: 20 * s.step}}
				}
				_ = sluice.Reconfigure("storm", s.reg.WithPolicy(name, p))
			}
		case 7:
			_ = s.reg.Lift(stormTools[r.IntN(len(stormTools))])
		case 8:
			if e, err := sluice.NewExecutor(s.reg, sluice.Config{Interceptors: s.group[0]}); err == nil {
				_ = e.Snapshot()
				_ = e.Explain(context.Background(), sluice.Request{Tool: stormTools[r.IntN(len(stormTools))]})
				assert.NoError(s.t, e.Close(context.Background()))
			}
		}
		s.sleep(r, 3)
		runtime.Gosched()
	}
}

func (s *storm) run() {
	var stop atomic.Bool
	var operator, all sync.WaitGroup
	operator.Go(func() { s.operate(&stop) })
	for n := range uint64(6) {
		all.Go(func() {
			for i := range uint64(3) {
				s.executor(n + 10*i)
			}
		})
	}
	all.Wait()
	s.wild.Wait()
	for _, rec := range s.recs {
		assert.NoError(s.t, rec.Check())
	}
	stop.Store(true)
	operator.Wait()
	if s.step == time.Millisecond {
		time.Sleep(48 * time.Hour) // until rates are full and pauses over; the rest is at once
	}
	for g := range s.group {
		reg := s.reg
		if g == 1 {
			reg = sluice.NewToolRegistry()
		}
		e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{Interceptors: s.group[g]}))
		x := e.Snapshot()
		assert.Zero(s.t, x.InFlight)
		assert.Zero(s.t, x.Queued)
		assert.Empty(s.t, x.Lanes)
		for _, c := range x.Gates {
			if c.Waiting != 0 || c.Used != 0 && (c.Kind == "concurrency" || s.step == time.Millisecond) {
				s.t.Errorf("%+v", c)
			}
			if strings.Contains(c.Name, "per tool") && s.step == time.Millisecond && c.Kind != "breaker" {
				_, ok := reg.Lookup(c.Key)
				assert.True(s.t, ok, "a removed tool is remembered: %+v", c)
			}
		}
		assert.NoError(s.t, e.Close(context.Background()))
	}
}
