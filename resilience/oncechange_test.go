package resilience_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

// becomes changes the configuration of the layer by f, as an operator would.
func (s *shop) becomes(f func(c *resilience.OnceConfig)) {
	s.t.Helper()
	c := s.once.Config()
	f(&c)
	reconfigure(s.t, s.once.Change(c))
}

// meanwhile has a call of o begin, and f run so long after that; then it answers how the call ended.
func (s *shop) meanwhile(o order, after time.Duration, f func()) (p receipt, err error) {
	s.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p, err = s.pay(s.ctx, o)
	}()
	synctest.Wait()
	time.Sleep(after)
	f()
	<-done
	return p, err
}

// What cannot be is refused, and that by which calls and their duplicates know each other stays. Of changes to layers and
// a gate all are made, or none.
func TestOnce_ChangeRefused(t *testing.T) {
	state, other := newState(t, sluice.SharedStateConfig{}), newState(t, sluice.SharedStateConfig{})
	bound := sluice.Must(resilience.NewOnce(resilience.OnceConfig{Key: byNumber, State: state}))
	free := sluice.Must(resilience.NewOnce(resilience.OnceConfig{Key: byNumber, Name: "idempotency"}))
	gate := limits(sluice.Limit{Max: 4})
	wide := func(n int) sluice.Change {
		return gate.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}})
	}
	for want, list := range map[string][]sluice.Change{
		"resilience: OnceConfig.Key is set: cannot change, must be nil":                            {wide(9), bound.Change(resilience.OnceConfig{Key: byNumber})},
		"resilience: OnceConfig.State is another: cannot change, must be nil or the one of before": {wide(9), bound.Change(resilience.OnceConfig{State: other})},
		`resilience: OnceConfig.Name is "x": cannot change, it is "once"`:                          {wide(9), bound.Change(resilience.OnceConfig{Name: "x"})},
		"resilience: OnceConfig.TTL is -1ns: must be zero (24 h) or positive":                      {wide(9), bound.Change(resilience.OnceConfig{TTL: -1})},
		"resilience: OnceConfig.DoubtTTL is -1ns: must be zero (TTL) or positive":                  {wide(9), bound.Change(resilience.OnceConfig{DoubtTTL: -1})},
		"resilience: OnceConfig.Lease is 1ms: must be zero (30 s) or from 10ms to 24h0m0s":         {wide(9), bound.Change(resilience.OnceConfig{Lease: ms})},
		"sluice: Reconfigure: change 1 is the second of one component: there must be one for each": {free.Change(resilience.OnceConfig{})},
		"sluice: ConcurrencyLimiterConfig.Limits[0].Max is 0: must be from 1 to 1099511627776":     {wide(0)},
	} {
		list = append([]sluice.Change{free.Change(resilience.OnceConfig{TTL: time.Hour})}, list...)
		require.EqualError(t, sluice.Reconfigure("a test", list...), want)
		require.Equal(t, 4, gate.Config().Limits[0].Max, want)
		require.Equal(t, 24*time.Hour, free.Config().TTL, want)
	}
	require.ErrorContains(t, sluice.Reconfigure("a test", free.Change(resilience.OnceConfig{State: other})), "State is another", "it is that of a call's context")

	reconfigure(t, wide(9), free.Change(resilience.OnceConfig{TTL: time.Hour, Lease: time.Minute, Tools: no}),
		bound.Change(resilience.OnceConfig{Name: "once", State: state, DoubtTTL: time.Minute}))
	require.Equal(t, 9, gate.Config().Limits[0].Max)
	f, b := free.Config(), bound.Config()
	require.Equal(t, []any{"idempotency", time.Hour, time.Hour, time.Minute, false, "idempotency inner"},
		[]any{f.Name, f.TTL, f.DoubtTTL, f.Lease, f.Tools(sluice.Spec{}), fmt.Sprint(free.Inner())})
	require.Equal(t, []any{"once", 24 * time.Hour, time.Minute, 30 * time.Second, true}, []any{b.Name, b.TTL, b.DoubtTTL, b.Lease, b.Tools(sluice.Spec{})})
	require.Same(t, state, b.State)
	for _, c := range []resilience.OnceConfig{bound.Config(), {}} {
		reconfigure(t, bound.Change(c))
		require.Same(t, state, bound.Config().State)
	}
}

// What is kept has the time that it was given; what ends after a change, in the middle of which it came, has the new one.
func TestOnce_ChangeOfTTL(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{TTL: time.Hour}, sluice.Spec{}, lasts(time.Second))
		s.gives(order{"a", 1}, 1)
		var list []payment
		_, err := s.meanwhile(order{"b", 1}, 500*ms, func() {
			s.becomes(func(c *resilience.OnceConfig) { c.TTL = 10 * time.Minute })
			list = s.all(s.ctx, 3, order{"b", 1}) // duplicates of before and after share the execution
		})
		require.NoError(t, err)
		for _, p := range list {
			require.NoError(t, p.err)
			require.Equal(t, 2, p.receipt.N)
			require.Equal(t, 2*time.Second, p.at)
		}
		time.Sleep(10*time.Minute - 1)
		s.gives(order{"b", 1}, 2)
		time.Sleep(time.Nanosecond)
		s.gives(order{"b", 1}, 3)
		time.Sleep(50*time.Minute - 2*time.Second - 1)
		s.gives(order{"a", 1}, 1)
		time.Sleep(time.Nanosecond)
		s.gives(order{"a", 1}, 4)
		s.end()
	})
}

// Whether an error is kept is asked by the rule that there is when the code ends, late or not.
func TestOnce_ChangeOfErrors(t *testing.T) {
	all := func(error) bool { return true }
	for _, keeps := range []bool{true, false} {
		for _, late := range []bool{true, false} {
			t.Run(fmt.Sprint("keeps ", keeps, ", late ", late), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					rules := [2]func(error) bool{all, nil}
					if keeps {
						rules = [2]func(error) bool{nil, all}
					}
					var spec sluice.Spec
					if late {
						spec = aSecond
					}
					s := newShop(t, resilience.OnceConfig{Errors: rules[0]}, spec, ignoring(time.Minute, errBoom))
					wait := 30 * time.Second
					if late {
						wait = 500 * ms
					}
					_, err := s.meanwhile(order{"a", 1}, wait, func() { s.becomes(func(c *resilience.OnceConfig) { c.Errors = rules[1] }) })
					require.Error(t, err)
					time.Sleep(time.Minute)
					_, err = s.pay(s.ctx, order{"a", 1})
					if keeps {
						require.EqualError(t, err, "boom")
						require.EqualValues(t, 1, s.runs.Load())
					} else {
						require.NoError(t, err)
						require.EqualValues(t, 2, s.runs.Load())
					}
					s.end()
				})
			})
		}
	}
}

// A key in doubt is that for as long as it was when the doubt came; a key of later for the new time, also if it was
// under way already.
func TestOnce_ChangeOfDoubtTTL(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{DoubtTTL: time.Hour}, aSecond, func(_ context.Context, n int) error {
			if n <= 2 {
				time.Sleep(2 * time.Hour)
			}
			return nil
		})
		_, err := s.pay(s.ctx, order{"a", 1})
		require.ErrorIs(t, err, sluice.ErrTimeout)
		_, err = s.meanwhile(order{"b", 1}, 500*ms, func() {
			s.becomes(func(c *resilience.OnceConfig) { c.DoubtTTL = time.Minute })
			s.doubts(order{"a", 1}, time.Second)
		})
		require.ErrorIs(t, err, sluice.ErrTimeout)
		time.Sleep(time.Minute - 1)
		s.doubts(order{"b", 1}, 2*time.Second)
		time.Sleep(time.Nanosecond)
		s.gives(order{"b", 1}, 3)
		time.Sleep(59*time.Minute - time.Second - 1)
		s.doubts(order{"a", 1}, time.Second)
		time.Sleep(time.Nanosecond)
		s.gives(order{"a", 1}, 4)
		time.Sleep(2 * time.Hour) // what the late code gives changes nothing
		s.gives(order{"a", 1}, 4)
		s.gives(order{"b", 1}, 3)
		s.end()
	})
}

// However the lease of an execution changes, nobody executes beside it, nor doubts, in another process neither, where the
// key would be free at the instant at which the lease ran out.
func TestOnce_ChangeOfLease(t *testing.T) {
	for _, tt := range []struct {
		from, to, lasts time.Duration
	}{
		{6 * time.Minute, 10 * ms, 2*time.Minute + 2*time.Second}, // the renewal after 2 minutes is the first of the short ones
		{30 * ms, 24 * time.Hour, 10 * time.Minute},
		{time.Second, time.Minute, 10 * time.Minute},
	} {
		t.Run(fmt.Sprint(tt.from, " to ", tt.to), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				state := newState(t, sluice.SharedStateConfig{})
				conf := resilience.OnceConfig{State: state, Lease: tt.from, DoubtTTL: 1, TTL: 48 * time.Hour}
				a := newShop(t, conf, sluice.Spec{}, lasts(tt.lasts))
				b := newShop(t, conf, sluice.Spec{}, works)
				var list [4]payment
				var wg sync.WaitGroup
				ask := func(i int, after time.Duration) {
					wg.Go(func() {
						time.Sleep(after)
						list[i].receipt, list[i].err = b.pay(b.ctx, order{"a", 1})
						list[i].at = time.Since(b.start)
					})
				}
				p, err := a.meanwhile(order{"a", 1}, tt.from/6, func() {
					ask(0, 0)
					a.becomes(func(c *resilience.OnceConfig) { c.Lease = tt.to })
					ask(1, tt.from/6+1) // past the renewal by the old lease
					ask(2, tt.lasts-time.Second-tt.from/6)
					ask(3, tt.lasts-ms-tt.from/6)
				})
				require.NoError(t, err)
				require.Equal(t, 1, p.N)
				wg.Wait()
				for i, p := range list {
					require.NoError(t, p.err, i)
					require.Equal(t, 1, p.receipt.N, i)
					require.Equal(t, tt.lasts, p.at, i)
				}
				require.Zero(t, b.runs.Load())
				a.end()
				b.end()
			})
		})
	}
}

// If a process dies after a change, the lease and the doubt are as its last renewal has said.
func TestOnce_ProcessDiesAfterAChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		state := newState(t, sluice.SharedStateConfig{})
		dead := newShop(t, resilience.OnceConfig{State: state}, sluice.Spec{}, lasts(10*time.Minute))
		_, err := dead.meanwhile(order{"a", 1}, 35*time.Second, func() { // so the lease was renewed last at 30 s
			dead.becomes(func(c *resilience.OnceConfig) { c.Lease, c.DoubtTTL = 2*time.Minute, 5*time.Minute })
			old := newShop(t, resilience.OnceConfig{State: copied(t, state)}, sluice.Spec{}, works)
			time.Sleep(10 * time.Second) // and here at 40 s, by the change
			young := newShop(t, resilience.OnceConfig{State: copied(t, state)}, sluice.Spec{}, works)
			old.start, young.start = dead.start, dead.start

			_, err := young.pay(young.ctx, order{"a", 1})
			require.Equal(t, "once_in_doubt", sluice.CodeOf(err))
			require.Equal(t, 160*time.Second, time.Since(dead.start))
			old.doubts(order{"a", 1}, time.Minute)
			time.Sleep(5*time.Minute - 1)
			young.doubts(order{"a", 1}, 160*time.Second)
			time.Sleep(time.Nanosecond)
			young.gives(order{"a", 1}, 1)
			old.doubts(order{"a", 1}, time.Minute)
			old.end()
			young.end()
		})
		require.NoError(t, err)
		dead.end()
	})
}

// A tool that is left out has no keys from then on, nor is anything kept of its calls; those that have one go on, however
// late they start and end, and what is known counts again once the tool is back.
func TestOnce_ChangeOfTools(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := openShop(t, resilience.OnceConfig{}, limits(sluice.Limit{Max: 1, Scope: sluice.ForType("one")}), nil)
		s.sell(sluice.Spec{Type: "one", Policy: sluice.Policy{Timeout: time.Second}}, ignoring(time.Minute, nil))
		s.sell(sluice.Spec{Name: "other"}, works)
		other := s.pay
		s.sell(sluice.Spec{Name: "slow", Type: "one"}, lasts(10*time.Second))
		slow := s.pay
		s.pay = func(ctx context.Context, o order) (receipt, error) {
			res, err := s.Invoke(ctx, sluice.Request{Tool: "pay", Input: o})
			p, _ := res.Value.(receipt)
			return p, err
		}
		_, err := other(s.ctx, order{"a", 1})
		require.NoError(t, err)
		s.runs.Store(-1)
		go slow(s.ctx, order{"none", 1})
		synctest.Wait()
		_, err = s.meanwhile(order{"a", 1}, time.Second, func() { // it waits for the slot
			s.becomes(func(c *resilience.OnceConfig) { c.Tools = no })
			for n := range 2 {
				p, err := other(s.ctx, order{"a", 1})
				require.NoError(t, err)
				require.Equal(t, n+1, p.N)
			}
			s.runs.Store(0)
			require.Equal(t, []sluice.GateState{{Name: "once", Used: 1}}, s.once.Inspect())
		})
		require.ErrorIs(t, err, sluice.ErrTimeout)
		require.Equal(t, 11*time.Second, time.Since(s.start))
		s.becomes(func(c *resilience.OnceConfig) { c.Tools = nil })
		s.doubts(order{"a", 1}, 11*time.Second)
		p, err := other(s.ctx, order{"a", 1})
		require.NoError(t, err)
		require.Equal(t, 1, p.N, "of before")
		time.Sleep(time.Minute)
		s.gives(order{"a", 1}, 1)
		require.EqualValues(t, 1, s.runs.Load())
		s.end()
	})
}

// The layer is seen where the others are.
func TestOnce_IsSeen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{Name: "idempotency"}, sluice.Spec{}, lasts(time.Second))
		plan, ok := s.Plan("pay")
		require.True(t, ok)
		require.Equal(t, "idempotency → admit[concurrency] → idempotency inner → pay", plan)
		layers := func() (list []sluice.GateState) {
			for _, g := range s.Snapshot().Gates {
				if g.Kind == "layer" {
					list = append(list, g)
				}
			}
			return list
		}
		_, err := s.meanwhile(order{"a", 1}, 500*ms, func() {
			go s.pay(s.ctx, order{"a", 1})
			go s.pay(s.ctx, order{"b", 1})
			synctest.Wait()
			s.becomes(func(c *resilience.OnceConfig) { c.TTL = time.Hour })
			require.Equal(t, []sluice.GateState{{Name: "idempotency", Kind: "layer", Used: 2}}, layers())
		})
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, []sluice.GateState{{Name: "idempotency", Kind: "layer"}}, layers())
		s.end()
	})
}

// Two processes whose configurations change at random all the time, their leases from milliseconds to a day, and keys that
// are free as soon as a lease runs out: no two executions of a key at once, none after one that gave a result, no doubt.
func TestOnce_ChangeStorm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	bubble(t, func(t *testing.T) {
		const keys, callers, rounds = 300, 16, 60
		state := newState(t, sluice.SharedStateConfig{})
		var inside, done [keys]atomic.Int64
		var runs, changes, doubts atomic.Int64
		random := func(rnd *rand.Rand) resilience.OnceConfig {
			pick := func(list ...time.Duration) time.Duration { return list[rnd.IntN(len(list))] }
			return resilience.OnceConfig{Lease: pick(10*ms, 100*ms, time.Second, 24*time.Hour), DoubtTTL: pick(1, ms, time.Hour),
				TTL: pick(48*time.Hour, 72*time.Hour), Errors: func(error) bool { return false }}
		}
		var processes []*shop
		for i := range 2 {
			c := random(rand.New(rand.NewPCG(seed, uint64(100+i))))
			c.State = state
			s := openShop(t, c, anyNumber(), nil)
			s.pay = sluice.Must(sluice.Wrap(s.Executor, sluice.Spec{Name: "pay"}, func(_ context.Context, o order) (receipt, error) {
				k := o.Amount
				if done[k].Load() > 0 {
					t.Errorf("key %d is executed after a result", k)
				}
				if inside[k].Add(1) > 1 {
					t.Errorf("key %d is executed twice at once", k)
				}
				defer inside[k].Add(-1)
				n := runs.Add(1)
				time.Sleep(time.Duration(n*7919%2000) * ms)
				switch n % 4 {
				case 0:
					return receipt{}, errBoom
				case 1:
					panic(errBoom)
				}
				done[k].Add(1)
				return receipt{N: k}, nil
			}))
			processes = append(processes, s)
		}
		var wg, changing sync.WaitGroup
		over := make(chan struct{})
		for i, s := range processes {
			changing.Go(func() {
				for rnd := rand.New(rand.NewPCG(seed, uint64(i))); ; changes.Add(1) {
					select {
					case <-over:
						return
					case <-time.After(time.Duration(rnd.IntN(100)) * ms):
					}
					reconfigure(t, s.once.Change(random(rnd)))
				}
			})
		}
		for g := range callers {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(10+g)))
				for range rounds {
					k := rnd.IntN(keys)
					p, err := processes[rnd.IntN(2)].pay(t.Context(), order{fmt.Sprint(k), k})
					switch code := sluice.CodeOf(err); {
					case code == "once_in_doubt":
						doubts.Add(1)
					case err == nil && p.N != k, err != nil && code != "tool_error" && code != "panic":
						t.Errorf("%d: %+v, %v", k, p, err)
					}
					time.Sleep(time.Duration(rnd.IntN(50)) * ms)
				}
			})
		}
		wg.Wait()
		close(over)
		changing.Wait()
		require.Zero(t, doubts.Load())
		require.Greater(t, changes.Load(), int64(20))
		for _, s := range processes {
			require.NoError(t, s.Close(context.Background()))
			require.Zero(t, s.once.Inspect()[0].Used)
		}
		t.Logf("%d executions, %d changes, in %v", runs.Load(), changes.Load(), time.Since(processes[0].start))
	})
}

// How long results are kept, and which errors, an operator changes while payments are under way.
func ExampleOnce_Change() {
	once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{
		Key:   func(c sluice.Call) (string, bool) { return "A-17", true },
		State: sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{})),
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{once}}))
	defer exec.Close(context.Background())

	c := once.Config() // all but the Key, which stays
	c.TTL = 7 * 24 * time.Hour
	c.Errors = func(error) bool { return true } // the effect may have come before the error
	fmt.Println(sluice.Reconfigure("ops", once.Change(c)))

	pay := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "pay"}, func(context.Context, int) (string, error) {
		fmt.Println("paying")
		return "", fmt.Errorf("connection lost")
	}))
	for range 2 {
		_, err := pay(context.Background(), 20)
		fmt.Println(err)
	}
	c.Key = func(c sluice.Call) (string, bool) { return c.ID, true }
	fmt.Println(sluice.Reconfigure("ops", once.Change(c)))
	// Output:
	// <nil>
	// paying
	// connection lost
	// connection lost
	// resilience: OnceConfig.Key is set: cannot change, must be nil
}
