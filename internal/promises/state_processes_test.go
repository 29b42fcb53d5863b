package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// processes are several of a fleet, each with a state of the same name, behind an engine that has faults.
type processes struct {
	t      *testing.T
	memory *engine.Memory
	chaos  []*sluicetest.Chaos // one for each: what is between it and the engine
	fleets []*sluice.Fleet
	states []*sluice.SharedState
	ctx    []context.Context
}

// kept is an engine whose Close leaves it.
type kept struct{ *engine.Memory }

func (kept) Close() error { return nil }

func newProcesses(t *testing.T, n int, seed uint64, c sluice.FleetStateConfig) *processes {
	p := &processes{t: t, memory: sluice.Must(engine.NewMemory(engine.MemoryConfig{}))}
	for i := range n {
		x := sluice.Must(sluicetest.NewChaos(sluicetest.ChaosConfig{Seed: seed + uint64(i), Delay: 50 * time.Millisecond,
			Open: func() (engine.Engine, error) { return kept{p.memory}, nil }}))
		f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: x}))
		s, err := sluice.NewFleetState(f, c)
		require.NoError(t, err)
		p.chaos, p.fleets, p.states = append(p.chaos, x), append(p.fleets, f), append(p.states, s)
		p.ctx = append(p.ctx, sluice.WithState(context.Background(), s))
	}
	t.Cleanup(func() {
		for i := range p.fleets {
			p.chaos[i].Set(sluicetest.Healthy)
			require.NoError(t, p.states[i].Close())
			require.NoError(t, p.fleets[i].Close(context.Background()))
			require.NoError(t, p.chaos[i].Close())
		}
		require.NoError(t, p.memory.Close())
	})
	return p
}

// trouble has the ways to the engine fail, in all manners in turn, until end is called.
func (p *processes) trouble(seed uint64) (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		r := rand.New(rand.NewPCG(seed, 1))
		faults := []sluicetest.Fault{sluicetest.Healthy, sluicetest.Slow, sluicetest.Gone, sluicetest.Refusing, sluicetest.LosingAcks,
			sluicetest.Dropping, sluicetest.Restarting, sluicetest.Panicking, sluicetest.Exiting}
		var left []int
		for {
			if len(left) == 0 {
				left = r.Perm(len(faults))
			}
			p.chaos[r.IntN(len(p.chaos))].Set(faults[left[0]])
			left = left[1:]
			select {
			case <-time.After(time.Duration(1+r.IntN(40)) * time.Millisecond):
			case <-stop:
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-done
		for _, x := range p.chaos {
			x.Set(sluicetest.Healthy)
		}
	}
}

// known fails the test if err is none that a caller can act on: it took effect, it certainly has not, or it may have.
func (p *processes) known(err error) (done, unsure bool) {
	switch {
	case err == nil:
		return true, false
	case errors.Is(err, sluice.ErrUnsure):
		assert.NotErrorIs(p.t, err, engine.ErrRefused)
		assert.ErrorIs(p.t, err, engine.ErrUnsure)
		return false, true
	case errors.Is(err, engine.ErrRefused), errors.Is(err, sluice.ErrConflict):
		assert.NotErrorIs(p.t, err, engine.ErrUnsure)
		return false, false
	}
	assert.NoError(p.t, err)
	return false, false
}

// size is n, or less of it in short tests.
func size(n int) int {
	if testing.Short() || underRace {
		return n / 20
	}
	return n
}

// Increments of four processes whose ways to the engine fail are exact, or say that they are unsure; and no sum is
// returned twice.
func TestFleetState_IncrementsAreExactOrUnsure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := rand.Uint64()
		t.Log("seed ", seed)
		p := newProcesses(t, 4, seed, sluice.FleetStateConfig{})
		end := p.trouble(seed)
		hits := sluice.Key[int64]("hits")
		var mu sync.Mutex
		var wg sync.WaitGroup
		var done, unsure, refused int64
		seen := map[int64]bool{}
		each := size(10_000)
		for i := range 40 {
			wg.Go(func() {
				for n := range each {
					sum, err := sluice.Increment(p.ctx[i%4], hits, 1)
					ok, open := p.known(err)
					mu.Lock()
					switch {
					case ok:
						done++
						assert.False(t, seen[sum], "the sum %d was returned twice", sum)
						seen[sum] = true
					case open:
						unsure++
					default:
						refused++
					}
					mu.Unlock()
					if n%max(1, each/500) == 0 { // for half a second, in which there are some faults of all kinds
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		end()
		total, _, err := hits.Get(p.ctx[0])
		require.NoError(t, err)
		t.Logf("%d done, %d unsure, %d refused; the sum is %d", done, unsure, refused, total)
		require.GreaterOrEqual(t, total, done)
		require.LessOrEqual(t, total, done+unsure)
		require.Positive(t, done)
		require.Positive(t, refused)
	})
}

// Transfers of four processes keep the sum, whatever becomes of their ways to the engine, and though processes vanish in
// the middle.
func TestFleetState_TransfersKeepTheSum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const accounts = 20
		seed := rand.Uint64()
		t.Log("seed ", seed)
		p := newProcesses(t, 4, seed, sluice.FleetStateConfig{})
		account := func(i int) sluice.Key[int] { return sluice.Key[int](fmt.Sprint("account/", i)) }
		for i := range accounts {
			require.NoError(t, second(account(i).Set(p.ctx[0], 100)))
		}
		end := p.trouble(seed)
		var mu sync.Mutex
		var wg sync.WaitGroup
		moved, open := 0, 0
		for w := range 16 {
			r := rand.New(rand.NewPCG(seed, uint64(100+w)))
			wg.Go(func() {
				for range size(10_000) / 16 {
					from, to, n := r.IntN(accounts), r.IntN(accounts-1), r.IntN(30)
					if to >= from {
						to++
					}
					ctx, cancel := context.WithCancel(p.ctx[w%4])
					vanishes := r.IntN(10) == 0
					inGoroutine(func() {
						err := p.states[w%4].Txn(ctx, func(tx context.Context) error {
							left, err := sluice.Increment(tx, account(from), -n)
							if err != nil {
								return err
							}
							if left < 0 {
								return errors.ErrUnsupported
							}
							if vanishes {
								cancel()
							}
							return second(sluice.Increment(tx, account(to), n))
						})
						if errors.Is(err, errors.ErrUnsupported) || vanishes && errors.Is(err, context.Canceled) {
							return
						}
						done, unsure := p.known(err)
						mu.Lock()
						defer mu.Unlock()
						if done {
							moved++
						}
						if unsure {
							open++
						}
					})
					cancel()
					if r.IntN(4) == 0 {
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		end()
		sum := 0
		require.NoError(t, p.states[1].Txn(p.ctx[1], func(tx context.Context) error {
			sum = 0
			for i := range accounts {
				n, _, err := account(i).Get(tx)
				if err != nil {
					return err
				}
				require.GreaterOrEqual(t, n, 0)
				sum += n
			}
			return nil
		}))
		t.Logf("%d moved, %d unsure", moved, open)
		require.Equal(t, accounts*100, sum)
		require.Positive(t, moved)
	})
}

// A write whose answer is lost is asked for again by the same name: it takes effect once and has succeeded. If that
// answer is lost, too, the outcome is not known; one that was refused has not taken effect.
func TestFleetState_LostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcesses(t, 2, 1, sluice.FleetStateConfig{})
		ctx, x := p.ctx[0], p.chaos[0]
		k, n := sluice.Key[string]("k"), sluice.Key[int64]("n") // which is added to in one step
		lose := func(f sluicetest.Fault, d time.Duration) {
			x.Set(f)
			go func() {
				time.Sleep(d)
				x.Set(sluicetest.Healthy)
			}()
		}
		// The pause before the repetition takes a millisecond at least.
		lose(sluicetest.LosingAcks, time.Microsecond)
		require.NoError(t, second(k.Set(ctx, "a")))
		lose(sluicetest.LosingAcks, time.Microsecond)
		sum, err := sluice.Increment(ctx, n, 5)
		require.NoError(t, err)
		require.Equal(t, int64(5), sum)
		lose(sluicetest.LosingAcks, time.Microsecond)
		_, version, err := k.Get(ctx) // which is also read again
		require.NoError(t, err)
		lose(sluicetest.LosingAcks, time.Microsecond)
		require.NoError(t, second(k.CompareAndSwap(ctx, version, "b", sluice.TTL(time.Hour))))
		lose(sluicetest.Dropping, time.Microsecond)
		require.NoError(t, k.Delete(ctx))
		wantAbsent(t, p.ctx[1], k)
		synctest.Wait()

		for fault, took := range map[sluicetest.Fault]int64{sluicetest.LosingAcks: 1, sluicetest.Dropping: 0, sluicetest.Lying: 1,
			sluicetest.Panicking: 0, sluicetest.Exiting: 0, sluicetest.Gone: 0} {
			before, _, err := n.Get(p.ctx[1])
			require.NoError(t, err)
			x.Set(fault)
			began := time.Now()
			_, err = sluice.Increment(ctx, n, 1)
			require.ErrorIs(t, err, sluice.ErrUnsure, fault)
			require.ErrorIs(t, err, engine.ErrUnsure)
			require.NotErrorIs(t, err, context.DeadlineExceeded, "the budget is not the caller's")
			require.Less(t, time.Since(began), 210*time.Millisecond, "two budgets and a pause")
			if fault != sluicetest.Lying { // of a value nobody knows
				_, _, err = n.Get(ctx)
				require.ErrorIs(t, err, engine.ErrAway)
				require.NotErrorIs(t, err, sluice.ErrUnsure, "a reading has no outcome")
			}
			after, _, err := n.Get(p.ctx[1])
			require.NoError(t, err)
			require.Equal(t, before+took, after, fault)
		}
		x.Set(sluicetest.Refusing)
		require.ErrorIs(t, second(k.Set(ctx, "c")), engine.ErrAway)
		require.ErrorIs(t, second(sluice.Increment(ctx, n, 1)), engine.ErrRefused)
		for e := range p.states[0].List("") {
			require.ErrorIs(t, e.Err, engine.ErrAway)
		}
		require.ErrorIs(t, second(p.states[0].MarshalJSON()), engine.ErrAway)
		x.Set(sluicetest.Healthy)
		wantAbsent(t, ctx, k)
	})
}

// A watch tells of what another process writes, and of what was changed while it was cut off.
func TestFleetState_WatchGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcesses(t, 2, 1, sluice.FleetStateConfig{})
		a, b, c := sluice.Key[string]("w/a"), sluice.Key[int]("w/b"), sluice.Key[bool]("w/c")
		require.NoError(t, second(b.Set(p.ctx[1], 1)))
		require.NoError(t, second(a.Set(p.ctx[1], "a", sluice.TTL(time.Minute))))
		require.NoError(t, second(a.Set(p.ctx[1], "elsewhere")))
		require.NoError(t, second(sluice.Key[int]("other").Set(p.ctx[1], 1)))
		ctx, cancel := context.WithCancel(context.Background())
		var got []string
		var last sluice.StateEntry
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for e := range sluice.Must(p.states[0].View("w/", sluice.SharedStateConfig{})).Watch(ctx, "") {
				raw, _ := e.Value.(json.RawMessage)
				got, last = append(got, e.Key+"="+string(raw)), e
			}
		}()
		synctest.Wait()
		require.Equal(t, []string{`a="elsewhere"`, "b=1"}, got)
		require.NoError(t, second(sluice.Increment(p.ctx[1], b, 1)))
		synctest.Wait()
		require.NoError(t, b.Delete(p.ctx[1]))
		synctest.Wait()
		require.Equal(t, []string{"b=2", "b="}, got[2:])
		require.Nil(t, last.Value)
		deleted := last.Version
		version, err := b.Set(p.ctx[1], 3, sluice.TTL(time.Second))
		require.NoError(t, err)
		require.Greater(t, version, deleted)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, []string{"b=3", "b="}, got[4:], "the end of a lifetime is a deletion, at its instant")
		require.Greater(t, last.Version, version)

		p.chaos[0].Set(sluicetest.Refusing) // whoever follows is not cut off by that
		require.NoError(t, second(c.Set(p.ctx[1], true)))
		synctest.Wait()
		require.Equal(t, []string{"c=true"}, got[6:])
		cancel()
		<-ended
	})
}

// A key that was deleted while a watch was cut off is told of when it is back.
func TestFleetState_WatchIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcesses(t, 2, 1, sluice.FleetStateConfig{})
		key := func(i int) sluice.Key[int] { return sluice.Key[int](strconv.Itoa(i)) }
		for i := range 3 {
			require.NoError(t, second(key(i).Set(p.ctx[1], i)))
		}
		p.chaos[0].Set(sluicetest.LosingAcks) // a Follow that begins now ends after its first record
		ctx, cancel := context.WithCancel(context.Background())
		var got []string
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for e := range p.states[0].Watch(ctx, "") {
				raw, _ := e.Value.(json.RawMessage)
				got = append(got, e.Key+"="+string(raw))
			}
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, got, "not before it is known what is there")
		p.chaos[0].Set(sluicetest.Healthy)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"0=0", "1=1", "2=2"}, got)
		cancel()
		<-ended
	})
}

// What is under way ends with the Fleet, and later operations are refused.
func TestFleetState_EndsWithItsFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
		defer m.Close()
		f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m}))
		s := sluice.Must(sluice.NewFleetState(f, sluice.FleetStateConfig{}))
		ctx, k := sluice.WithState(context.Background(), s), sluice.Key[int]("k")
		require.NoError(t, second(k.Set(ctx, 1)))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range s.Watch(context.Background(), "") {
			}
		}()
		synctest.Wait()
		require.NoError(t, f.Close(context.Background()))
		<-ended
		_, _, err := k.Get(ctx)
		require.ErrorIs(t, err, engine.ErrClosed)
		require.ErrorIs(t, second(k.Set(ctx, 2)), engine.ErrClosed)
		require.NoError(t, s.Close())
		require.ErrorIs(t, second(k.Set(ctx, 2)), sluice.ErrNoState)
	})
}
