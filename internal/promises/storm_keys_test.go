package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// keyed is executors whose limits count by key, in tables that have room for some of the keys.
type keyed struct {
	t      *testing.T
	limit  *sluice.ConcurrencyLimiter
	quota  *sluice.RateLimiter // that gives nothing back for hours
	fast   *sluice.RateLimiter // that makes room after a moment
	broken *sluice.CircuitBreaker
	reg    *sluice.ToolRegistry
	execs  []*sluice.Executor
	inside [5]atomic.Int64 // by tenant
	most   atomic.Int64    // that may be inside for one tenant: the highest limit there was
	paid   sync.Map        // starts by user
	seed   uint64
	draws  atomic.Uint64 // of tools

	ran, full, rated, other atomic.Int64
}

const (
	keyedUsers = 3 // that the quota remembers
	keyedBurst = 40
)

type keyedUser struct{}

func newKeyed(t *testing.T, seed uint64) *keyed {
	user := sluice.ByKey("user", func(c sluice.Call) string { return c.Input.(string) })
	x := &keyed{t: t, seed: seed, reg: sluice.NewToolRegistry(),
		limit:  limitsOf(sluice.Limit{Max: 2, Scope: sluice.ByTenant, MaxKeys: 3, Refuse: true}, sluice.Limit{Max: 50}),
		quota:  sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "quota", Scope: user, Rates: []sluice.Rate{{N: keyedBurst, Per: 1000 * time.Hour}}, Refuse: true, MaxKeys: keyedUsers})),
		fast:   sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "fast", Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 1e6, Burst: 3}}, MaxKeys: 2})),
		broken: breakerOf(sluice.CircuitBreakerConfig{Name: "broken", Scope: sluice.ByTenant, Failures: 1000, Window: time.Millisecond, MaxKeys: 4}),
	}
	x.most.Store(2)
	for range 2 {
		x.execs = append(x.execs, sluice.Must(sluice.NewExecutor(x.reg, sluice.Config{Interceptors: interceptors(x.limit, x.quota, x.fast, x.broken)})))
	}
	x.register("a")
	x.register("b")
	return x
}

func (x *keyed) register(name string) {
	sluice.Must(sluice.Register(x.reg, sluice.Spec{Name: name}, func(ctx context.Context, user string) (int, error) {
		n := ctx.Value(keyedUser{}).(int)
		if in := x.inside[n].Add(1); in > x.most.Load() {
			x.t.Errorf("%d calls of tenant %d are inside, the limit is at most %d", in, n, x.most.Load())
		}
		if user != "" {
			c, _ := x.paid.LoadOrStore(user, new(atomic.Int64))
			c.(*atomic.Int64).Add(1)
		}
		defer x.inside[n].Add(-1)
		x.ran.Add(1)
		r := rand.New(rand.NewPCG(x.seed, 1<<50+x.draws.Add(1)))
		switch k := r.IntN(500); {
		case k == 1:
			return 0, errors.New("bad")
		case k == 2:
			panic("worse")
		case k < 20:
			yield(r.IntN(50))
		case k < 40:
			runtime.Gosched()
		case k == 40 && r.IntN(20) == 0:
			sluice.ReportUsage(ctx, "", 1)
		}
		return 1, nil
	}))
}

func (x *keyed) call(r *rand.Rand) {
	n := min(r.IntN(5), r.IntN(5), r.IntN(5))
	user := ""
	if r.IntN(2) == 0 {
		user = fmt.Sprint("user ", r.IntN(5))
	}
	ctx := context.WithValue(context.Background(), keyedUser{}, n)
	ctx = sluice.WithPipelineContext(ctx, sluice.PipelineContext{Tenant: fmt.Sprint("tenant ", n)})
	e, q := x.execs[r.IntN(2)], sluice.Request{Tool: []string{"a", "b"}[r.IntN(2)], Input: user}
	if r.IntN(50) == 0 {
		e.Explain(ctx, q)
		return
	}
	_, err := e.Invoke(ctx, q)
	if err != nil {
		runtime.Gosched() // so that others run who hold what was refused
	}
	switch {
	case errors.Is(err, sluice.ErrSaturated):
		x.full.Add(1)
	case errors.Is(err, sluice.ErrRateLimited):
		x.rated.Add(1)
	case err != nil:
		x.other.Add(1)
	}
}

// change changes something about the limits, or looks at them.
func (x *keyed) change(r *rand.Rand) {
	switch r.IntN(10) {
	case 0:
		most := 1 + r.IntN(4)
		x.most.Store(max(x.most.Load(), int64(most)))
		c := x.limit.Config()
		c.Limits[0].Max, c.Limits[0].MaxKeys = most, 2+r.IntN(3)
		require.NoError(x.t, sluice.Reconfigure("storm", x.limit.Change(c)))
	case 1:
		c := x.fast.Config()
		c.Rates[0].N, c.MaxKeys = 1_000_000<<r.IntN(3), 2+r.IntN(3)
		c.Rates[0].Burst = 1 + r.Int64N(4)
		require.NoError(x.t, sluice.Reconfigure("storm", x.fast.Change(c)))
	case 2:
		x.execs[0].Snapshot()
	case 3:
		x.broken.Reset(fmt.Sprint("tenant ", r.IntN(5)))
	case 4:
		name := []string{"a", "b"}[r.IntN(2)]
		x.reg.Remove(name)
		x.register(name)
	case 5:
		name := []string{"a", "b"}[r.IntN(2)]
		require.NoError(x.t, sluice.Reconfigure("storm", x.reg.WithPolicy(name, sluice.Policy{Concurrency: 5 + r.IntN(3)})))
	case 6:
		tenant := fmt.Sprint("tenant ", r.IntN(5))
		x.fast.Pause(tenant, time.Hour)
		yield(r.IntN(50))
		x.fast.Lift(tenant)
	}
}

// Few keys, tables that have no room for all of them, and everything else at once: no limit is
// passed, no token is given twice, no key in use is forgotten, and in the end nothing is left.
func TestStorm_Keys(t *testing.T) {
	seed := stormSeed(t)
	x := newKeyed(t, seed)
	var over atomic.Bool
	var changing sync.WaitGroup
	changing.Go(func() {
		r := rand.New(rand.NewPCG(seed, 1<<40))
		for !over.Load() {
			x.change(r)
			yield(r.IntN(300))
		}
	})
	parallel(6, func(i int) {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		for range rounds(20_000) {
			x.call(r)
		}
	})
	over.Store(true)
	changing.Wait()
	users := 0
	x.paid.Range(func(user, n any) bool {
		if users++; n.(*atomic.Int64).Load() > keyedBurst {
			t.Errorf("%v has been paid for %d times, want at most %d", user, n.(*atomic.Int64).Load(), keyedBurst)
		}
		return true
	})
	if users > keyedUsers {
		t.Errorf("%d users have been let in, want at most %d", users, keyedUsers)
	}
	for n := range 5 {
		x.fast.Lift(fmt.Sprint("tenant ", n))
		x.broken.Reset(fmt.Sprint("tenant ", n))
	}
	s := x.execs[0].Snapshot()
	require.Zero(t, s.InFlight)
	for _, g := range s.Gates {
		if g.Kind == "concurrency" && g.Used > 0 {
			t.Errorf("%s/%s: %d are in use", g.Name, g.Key, g.Used)
		}
	}
	for n := range 5 { // each finds room, one after the other
		ctx := context.WithValue(context.Background(), keyedUser{}, n)
		ctx = sluice.WithPipelineContext(ctx, sluice.PipelineContext{Tenant: fmt.Sprint("new ", n)})
		for range 2 {
			_, err := x.execs[1].Invoke(ctx, sluice.Request{Tool: "a", Input: ""})
			require.False(t, errors.Is(err, sluice.ErrRejected), "%v", err)
		}
	}
	for _, e := range x.execs {
		require.NoError(t, e.Close(context.Background()))
	}
	t.Logf("%d ran, %d were refused by limits or full tables, %d by rates, %d failed", x.ran.Load(), x.full.Load(), x.rated.Load(), x.other.Load())
}
