package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
)

// unknown is the output of an operation that may have taken effect, at any time after it was called, or not.
type unknown struct{}

// fleetStep is step where outcomes may not be known.
func fleetStep(s, in, out any) []any {
	if _, open := out.(unknown); !open {
		if ok, next := step(s, in, out); ok {
			return []any{next}
		}
		return nil
	}
	c, x := s.(state), in.(op)
	next := c
	next.exact = false // whatever version it got is above the last that is known
	matches := c.present && (c.low == x.was || !c.exact && x.was > c.low) || !c.present && x.was == 0
	switch x.kind {
	case 's':
		next.v, next.present = x.arg, true
	case 'a', 'u':
		if !c.present {
			next.v = 0
		}
		next.v, next.present = next.v+x.arg, true
	case 'c':
		if !matches {
			return []any{c}
		}
		next.v, next.present, next.low = x.arg, true, max(c.low, x.was)
	case 'd':
		next = state{low: c.low}
	case 'e':
		if !matches {
			return []any{c}
		}
		next = state{low: max(c.low, x.was)}
	}
	return []any{c, next}
}

var fleetModel = (&porcupine.NondeterministicModel{
	Partition:         keyModel.Partition,
	Init:              func() []any { return []any{state{}} },
	Step:              fleetStep,
	DescribeOperation: keyModel.DescribeOperation,
}).ToModel()

// fleetProcess is one of several that share a state.
type fleetProcess struct {
	real
	way   *sluicetest.Chaos
	fleet *sluice.Fleet
}

// lasting is an engine that goes on when one of the ways to it is closed.
type lasting struct{ engine.Engine }

func (lasting) Close() error { return nil }

func newProcesses(e engine.Engine, n int, seed uint64) (list []fleetProcess) {
	for i := range n {
		way := sluice.Must(sluicetest.NewChaos(sluicetest.ChaosConfig{Seed: seed + uint64(i), Delay: 20 * time.Millisecond,
			Open: func() (engine.Engine, error) { return lasting{e}, nil }}))
		f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: way, Budget: 10 * time.Millisecond}))
		s := sluice.Must(sluice.NewFleetState(f, sluice.FleetStateConfig{}))
		list = append(list, fleetProcess{real{sluice.WithState(context.Background(), s)}, way, f})
	}
	return list
}

func closeProcesses(t *testing.T, list []fleetProcess) {
	for _, p := range list {
		p.way.Set(sluicetest.Healthy)
		p.close()
		if err := errors.Join(p.fleet.Close(context.Background()), p.way.Close()); err != nil {
			t.Error(err)
		}
	}
}

// attempt is do where an operation may be refused, so that it has no part in the history, or end in an unknown way.
func attempt(st store, x op) (out any, ok bool) {
	y := result{}
	var err error
	switch x.kind {
	case 'g':
		y.v, y.version, err = st.Get(x.key)
		if y.ok = err == nil; errors.Is(err, sluice.ErrAbsent) {
			err = nil
		}
	case 's':
		y.version, err = st.Set(x.key, x.arg, x.ttl)
	case 'c':
		y.version, err = st.Swap(x.key, x.was, x.arg, x.ttl)
		if y.ok = err == nil; errors.Is(err, sluice.ErrConflict) {
			err = nil
		}
	case 'a':
		y.v, err = st.Add(x.key, x.arg, x.ttl)
	case 'u':
		y.v, err = st.Update(x.key, x.arg)
	case 'd':
		err = st.Delete(x.key)
	case 'e':
		err = st.DeleteIf(x.key, x.was)
		if y.ok = err == nil; errors.Is(err, sluice.ErrConflict) {
			err = nil
		}
	}
	switch {
	case err == nil:
		return y, true
	case errors.Is(err, sluice.ErrUnsure):
		return unknown{}, true
	case errors.Is(err, engine.ErrRefused):
		return nil, false
	}
	panic(fmt.Sprintf("%+v: %v", x, err))
}

// fleetHistory has one client of each process do m; its way to the engine fails in a part of the operations, until the
// engine is there again.
func (m mix) fleetHistory(list []fleetProcess, seed, n uint64, faults bool) (all []porcupine.Operation) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var stamps clock
	start := time.Now()
	for c, p := range list {
		r := rand.New(rand.NewPCG(seed, n<<8|uint64(c)))
		wg.Go(func() {
			versions := make(map[string]uint64)
			for range m.ops {
				x := op{kind: m.kinds[r.IntN(len(m.kinds))], key: fmt.Sprint(r.IntN(m.keys)), arg: int64(1 + r.IntN(5))}
				x.was = versions[x.key]
				if m.ttl > 0 {
					time.Sleep(time.Duration(r.IntN(3)))
					if r.IntN(2) == 0 {
						x.ttl = time.Duration(1 + r.IntN(m.ttl))
					}
					x.now = time.Since(start)
				}
				fault := sluicetest.Healthy
				if faults && r.IntN(3) == 0 {
					fault = []sluicetest.Fault{sluicetest.Restarting, sluicetest.Slow, sluicetest.LosingAcks}[r.IntN(3)]
				}
				p.way.Set(fault)
				if fault == sluicetest.LosingAcks && r.IntN(4) > 0 { // only the first answer
					time.AfterFunc(time.Microsecond, func() { p.way.Set(sluicetest.Healthy) })
				}
				o := porcupine.Operation{ClientId: c, Input: x, Call: stamps.next()}
				y, ok := attempt(p, x)
				o.Return = stamps.next()
				if !ok {
					continue
				}
				o.Output = y
				if y, known := y.(result); !known {
					o.Return = math.MaxInt64
				} else if y.version != 0 || x.kind == 'g' {
					versions[x.key] = y.version
				}
				mu.Lock()
				all = append(all, o)
				mu.Unlock()
				if r.IntN(4) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
	return all
}

// The keys of a fleet's state are linearizable, from four processes, whose answers get lost and come late.
func TestFleetState_Linearizable(t *testing.T) {
	for name, m := range mixes {
		if m.ttl > 0 {
			m.kinds = "gsgcde" // an addition with a lifetime may be tried again later, and so begins it later
		}
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			histories, open := uint64(300), 0
			if testing.Short() {
				histories = 30
			}
			for n := range histories {
				synctest.Test(t, func(t *testing.T) {
					e := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
					list := newProcesses(e, 4, seed+n)
					// A lifetime begins when the engine writes it: with faults nobody knows when that is.
					all := m.fleetHistory(list, seed, n, m.ttl == 0)
					closeProcesses(t, list)
					_ = e.Close()
					for _, o := range all {
						if _, ok := o.Output.(unknown); ok {
							open++
						}
					}
					if got := porcupine.CheckOperationsTimeout(fleetModel, all, 20*time.Second); got != porcupine.Ok {
						t.Fatalf("history %d of seed %d is %s", n, seed, got)
					}
				})
			}
			t.Logf("%d operations of unknown outcome", open)
			if m.ttl == 0 && open == 0 {
				t.Error("no outcome was unknown: the faults have met nothing")
			}
		})
	}
}

// Transactions of four processes are strictly serializable.
func TestFleetState_TransactionsAreStrictlySerializable(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	histories := uint64(300)
	if testing.Short() {
		histories = 30
	}
	for n := range histories {
		synctest.Test(t, func(t *testing.T) {
			e := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
			list := newProcesses(e, 4, seed+n)
			for _, p := range list {
				p.way.Set(sluicetest.Slow) // so that trips of several come between each other
			}
			var all []porcupine.Operation
			var mu sync.Mutex
			var wg sync.WaitGroup
			var stamps clock
			for c, p := range list {
				r := rand.New(rand.NewPCG(seed, n<<8|uint64(c)))
				wg.Go(func() {
					for range 8 {
						x := bankOp{kind: "mmrraagx"[r.IntN(8)], from: r.IntN(accounts), n: int64(1 + r.IntN(3))}
						x.to = (x.from + 1 + r.IntN(accounts-1)) % accounts
						o := porcupine.Operation{ClientId: c, Input: x, Call: stamps.next()}
						y, err := bankTry(p, x)
						o.Return = stamps.next()
						if err != nil { // it was late, and so refused: Slow applies nothing then
							continue
						}
						o.Output = y
						mu.Lock()
						all = append(all, o)
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			closeProcesses(t, list)
			_ = e.Close()
			if got := porcupine.CheckOperationsTimeout(bankModel, all, 20*time.Second); got != porcupine.Ok {
				t.Fatalf("history %d of seed %d is %s", n, seed, got)
			}
		})
	}
}

// bankTry is bank where an operation may be refused.
func bankTry(st store, x bankOp) (y bankResult, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return bank(st, x), nil
}
