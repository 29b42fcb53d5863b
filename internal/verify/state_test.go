package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/sluice-go/sluice"
)

// store is what the clients of a history do to a key, so that a mutant can stand in for
// the real one.
type store interface {
	Get(k string) (v int64, version uint64, err error)
	Set(k string, v int64, ttl time.Duration) (uint64, error)
	Swap(k string, was uint64, v int64, ttl time.Duration) (uint64, error)
	Add(k string, d int64, ttl time.Duration) (int64, error)
	Update(k string, d int64) (int64, error)
	Delete(k string) error
	DeleteIf(k string, was uint64) error
	Txn(fn func(store) error) error
}

// real is the store itself.
type real struct{ ctx context.Context }

func newReal() real {
	s := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	return real{sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{State: s})}
}

func (r real) close() { sluice.StateFrom(r.ctx).Close() }

func key(k string) sluice.Key[int64] { return sluice.Key[int64](k) }

func life(d time.Duration) (o []sluice.TTL) {
	if d > 0 {
		o = append(o, sluice.TTL(d))
	}
	return o
}

func (r real) Get(k string) (int64, uint64, error) { return key(k).Get(r.ctx) }
func (r real) Set(k string, v int64, ttl time.Duration) (uint64, error) {
	return key(k).Set(r.ctx, v, life(ttl)...)
}
func (r real) Swap(k string, was uint64, v int64, ttl time.Duration) (uint64, error) {
	return key(k).CompareAndSwap(r.ctx, was, v, life(ttl)...)
}
func (r real) Add(k string, d int64, ttl time.Duration) (int64, error) {
	return sluice.Increment(r.ctx, key(k), d, life(ttl)...)
}
func (r real) Update(k string, d int64) (int64, error) {
	return key(k).Update(r.ctx, func(old int64, ok bool) (int64, error) { return old + d, nil })
}
func (r real) Delete(k string) error               { return key(k).Delete(r.ctx) }
func (r real) DeleteIf(k string, was uint64) error { return key(k).CompareAndDelete(r.ctx, was) }
func (r real) Txn(fn func(store) error) error {
	return sluice.StateFrom(r.ctx).Txn(r.ctx, func(ctx context.Context) error { return fn(real{ctx}) })
}

// op and result are the input and the output of a step.
type op struct {
	kind byte // g get, s set, c swap, a add, u update, d delete, e delete-if
	key  string
	arg  int64
	was  uint64
	ttl  time.Duration
	now  time.Duration // virtual time; the same for call and return
}

type result struct {
	v       int64
	version uint64
	ok      bool // get: present; swap and delete-if: no conflict
}

// state is one key in the model. Not every operation tells the version it made, so the
// model may know no more than that it is above low.
type state struct {
	v       int64
	present bool
	low     uint64 // the version, or if not exact, a version below it
	exact   bool
	expires time.Duration // zero: never
}

// step is the sequential specification of one key.
func step(s, in, out any) (bool, any) {
	c, x, y := s.(state), in.(op), out.(result)
	if c.present && c.expires != 0 && x.now >= c.expires {
		c = state{low: c.low}
	}
	matches := c.present && (c.exact && c.low == x.was || !c.exact && x.was > c.low) || !c.present && x.was == 0
	mayDiffer := !c.present && x.was != 0 || c.present && (!c.exact || c.low != x.was)
	write := func(v int64, clear bool) state {
		n := state{v: v, present: true, low: c.low, expires: c.expires}
		switch {
		case x.ttl > 0:
			n.expires = x.now + x.ttl
		case clear || !c.present:
			n.expires = 0
		}
		if y.version != 0 {
			n.low, n.exact = y.version, true
		}
		return n
	}
	switch x.kind {
	case 'g':
		if !c.present || !y.ok {
			return c.present == y.ok && y.version == 0, c
		}
		if c.v != y.v || c.exact && c.low != y.version || !c.exact && y.version <= c.low {
			return false, nil
		}
		c.low, c.exact = y.version, true
		return true, c
	case 's':
		return y.version > c.low, write(x.arg, true)
	case 'a', 'u':
		v := x.arg
		if c.present {
			v += c.v
		}
		return y.v == v, write(v, false)
	case 'c':
		if !y.ok {
			return mayDiffer, c
		}
		return matches && y.version > c.low && y.version > x.was, write(x.arg, false)
	case 'd':
		return true, state{low: c.low}
	case 'e':
		if !y.ok {
			return mayDiffer, c
		}
		return matches, state{low: max(c.low, x.was)}
	}
	panic("unknown operation")
}

var keyModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		byKey := make(map[string][]porcupine.Operation)
		for _, o := range history {
			k := o.Input.(op).key
			byKey[k] = append(byKey[k], o)
		}
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return state{} },
	Step: step,
	DescribeOperation: func(in, out any) string {
		return fmt.Sprintf("%+v -> %+v", in, out)
	},
}

// clock stamps calls and returns.
type clock struct{ n atomic.Int64 }

func (c *clock) next() int64 { return c.n.Add(1) }

// mix is what the clients of a history do.
type mix struct {
	kinds   string // drawn from evenly
	keys    int
	clients int
	ops     int
	ttl     int // lifetimes up to this many nanoseconds of virtual time; zero for none
}

// run makes one history. In a mix with lifetimes it must run in a bubble: all that
// happens at one virtual instant is concurrent, and the instants are exact.
func (m mix) run(st store, seed, n uint64) []porcupine.Operation {
	var all []porcupine.Operation
	var mu sync.Mutex
	var wg sync.WaitGroup
	var stamps clock
	start := time.Now()
	for c := range m.clients {
		r := rand.New(rand.NewPCG(seed, n<<8|uint64(c)))
		wg.Go(func() {
			var mine []porcupine.Operation
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
				o := porcupine.Operation{ClientId: c, Call: stamps.next()}
				y := do(st, x)
				o.Return = stamps.next()
				if y.version != 0 || x.kind == 'g' {
					versions[x.key] = y.version
				}
				o.Input, o.Output = x, y
				mine = append(mine, o)
				if r.IntN(4) == 0 {
					runtime.Gosched()
				}
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	return all
}

// do runs one operation. An error that the model does not know ends the test.
func do(st store, x op) (y result) {
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
	if err != nil {
		panic(fmt.Sprintf("%+v: %v", x, err))
	}
	return y
}

// Update takes no lifetime here, so mixes with lifetimes leave their ttl out of it.
var mixes = map[string]mix{
	"increment and get":  {kinds: "aaag", keys: 1, clients: 4, ops: 12},
	"read-modify-write":  {kinds: "augc", keys: 1, clients: 4, ops: 12},
	"swap":               {kinds: "gccs", keys: 1, clients: 4, ops: 12},
	"deletions":          {kinds: "agdsec", keys: 1, clients: 4, ops: 12},
	"all on three keys":  {kinds: "gsacude", keys: 3, clients: 6, ops: 20},
	"with expiry":        {kinds: "gsagc", keys: 1, clients: 4, ops: 14, ttl: 4},
	"all, with expiry":   {kinds: "gsacde", keys: 2, clients: 5, ops: 16, ttl: 6},
	"increments, expiry": {kinds: "aaag", keys: 1, clients: 4, ops: 12, ttl: 3},
}

// check runs one history and checks it against the model.
func (m mix) check(t *testing.T, st store, seed, n uint64) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(keyModel, m.run(st, seed, n), 20*time.Second)
}

func TestPromise20_Linearizable(t *testing.T) {
	for name, m := range mixes {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			one := func(t *testing.T, n uint64) {
				st := newReal()
				defer st.close()
				if got := m.check(t, st, seed, n); got != porcupine.Ok {
					t.Fatalf("history %d of seed %d is %s", n, seed, got)
				}
			}
			histories := uint64(3000)
			if testing.Short() {
				histories = 300
			}
			if m.ttl == 0 {
				for n := range histories {
					one(t, n)
				}
				return
			}
			for n := uint64(0); n < histories; n += 100 {
				synctest.Test(t, func(t *testing.T) {
					for i := range uint64(100) {
						one(t, n+i)
					}
				})
			}
		})
	}
}

// bank is the model of transactions over several keys: it cannot be partitioned.
const accounts = 3

type bankOp struct {
	kind     byte // m move, r read all, x close an account, a add, g get
	from, to int
	n        int64
}

type bankResult struct {
	all  [accounts]int64
	v    int64
	sold bool // the move was refused
}

var bankModel = porcupine.Model{
	Init: func() any { return [accounts]int64{} },
	Step: func(s, in, out any) (bool, any) {
		c, x, y := s.([accounts]int64), in.(bankOp), out.(bankResult)
		switch x.kind {
		case 'm':
			if short := c[x.from] < x.n; short || y.sold {
				return short == y.sold, c
			}
			c[x.from] -= x.n
			c[x.to] += x.n
			return c == y.all, c
		case 'r':
			return c == y.all, c
		case 'x':
			left := c[x.to]
			c[x.to] = 0
			return left == y.v, c
		case 'a':
			c[x.to] += x.n
			return c[x.to] == y.v, c
		}
		return c[x.to] == y.v, c
	},
}

var errShort = errors.New("not enough")

func readAll(st store) (all [accounts]int64, err error) {
	for i := range all {
		all[i], _, err = st.Get(fmt.Sprint(i))
		if err != nil && !errors.Is(err, sluice.ErrAbsent) {
			return all, err
		}
	}
	return all, nil
}

func bank(st store, x bankOp) (y bankResult) {
	var err error
	to := fmt.Sprint(x.to)
	switch x.kind {
	case 'm':
		err = st.Txn(func(st store) error {
			left, err := st.Add(fmt.Sprint(x.from), -x.n, 0)
			if err != nil {
				return err
			}
			if left < 0 {
				return errShort
			}
			if _, err = st.Add(to, x.n, 0); err != nil {
				return err
			}
			y.all, err = readAll(st)
			return err
		})
		if y.sold = errors.Is(err, errShort); y.sold {
			err = nil
		}
	case 'r':
		err = st.Txn(func(st store) (err error) {
			y.all, err = readAll(st)
			return err
		})
	case 'x':
		err = st.Txn(func(st store) (err error) {
			y.v, _, err = st.Get(to)
			if err != nil && !errors.Is(err, sluice.ErrAbsent) {
				return err
			}
			return st.Delete(to)
		})
	case 'a':
		y.v, err = st.Add(to, x.n, 0)
	case 'g':
		y.v, _, err = st.Get(to)
		if errors.Is(err, sluice.ErrAbsent) {
			err = nil
		}
	}
	if err != nil {
		panic(fmt.Sprintf("%+v: %v", x, err))
	}
	return y
}

func bankHistory(st store, seed, n uint64, clients, ops int) (all []porcupine.Operation) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var stamps clock
	for c := range clients {
		r := rand.New(rand.NewPCG(seed, n<<8|uint64(c)))
		wg.Go(func() {
			var mine []porcupine.Operation
			for range ops {
				x := bankOp{kind: "mmrraagx"[r.IntN(8)], from: r.IntN(accounts), n: int64(1 + r.IntN(3))}
				x.to = (x.from + 1 + r.IntN(accounts-1)) % accounts
				o := porcupine.Operation{ClientId: c, Input: x, Call: stamps.next()}
				o.Output = bank(st, x)
				o.Return = stamps.next()
				mine = append(mine, o)
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	return all
}

func TestTransactionsAreStrictlySerializable(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	histories := uint64(3000)
	if testing.Short() {
		histories = 300
	}
	for n := range histories {
		st := newReal()
		got := porcupine.CheckOperationsTimeout(bankModel, bankHistory(st, seed, n, 4, 10), 20*time.Second)
		st.close()
		if got != porcupine.Ok {
			t.Fatalf("history %d of seed %d is %s", n, seed, got)
		}
	}
}

// The mutants: each has one bug, and the checks must find it every time.

// lostUpdate adds by reading and writing.
type lostUpdate struct{ real }

func (m lostUpdate) Add(k string, d int64, ttl time.Duration) (int64, error) {
	v, _, err := m.Get(k)
	if err != nil && !errors.Is(err, sluice.ErrAbsent) {
		return 0, err
	}
	runtime.Gosched()
	_, err = m.Set(k, v+d, ttl)
	return v + d, err
}

// blindSwap compares and swaps in two steps.
type blindSwap struct{ real }

func (m blindSwap) Swap(k string, was uint64, v int64, ttl time.Duration) (uint64, error) {
	_, version, err := m.Get(k)
	if err != nil && !errors.Is(err, sluice.ErrAbsent) {
		return 0, err
	}
	if version != was {
		return 0, sluice.ErrConflict
	}
	runtime.Gosched()
	return m.Set(k, v, ttl)
}

// late lets values live one nanosecond too long.
type late struct{ real }

func (m late) Set(k string, v int64, ttl time.Duration) (uint64, error) {
	if ttl > 0 {
		ttl++
	}
	return m.real.Set(k, v, ttl)
}

// endless forgets lifetimes when it adds.
type endless struct{ real }

func (m endless) Add(k string, d int64, _ time.Duration) (int64, error) {
	v, err := m.real.Add(k, d, 0)
	if err != nil {
		return 0, err
	}
	_, err = m.real.Set(k, v, 0)
	return v, err
}

// torn runs transactions without a transaction.
type torn struct{ real }

func (m torn) Txn(fn func(store) error) error {
	err := fn(gap(m))
	runtime.Gosched()
	return err
}

type gap struct{ real }

func (g gap) Add(k string, d int64, ttl time.Duration) (int64, error) {
	runtime.Gosched()
	return g.real.Add(k, d, ttl)
}

func TestMutantsAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		mix    mix
		mutate func(real) store
	}{
		"lost update":        {mix{kinds: "aaag", keys: 1, clients: 8, ops: 60}, func(r real) store { return lostUpdate{r} }},
		"swap in two steps":  {mix{kinds: "gccc", keys: 1, clients: 8, ops: 60}, func(r real) store { return blindSwap{r} }},
		"lifetime too long":  {mix{kinds: "gs", keys: 1, clients: 2, ops: 200, ttl: 3}, func(r real) store { return late{r} }},
		"lifetime forgotten": {mix{kinds: "gas", keys: 1, clients: 2, ops: 200, ttl: 3}, func(r real) store { return endless{r} }},
	} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			for n := range uint64(20) {
				synctest.Test(t, func(t *testing.T) {
					r := newReal()
					defer r.close()
					if got := c.mix.check(t, c.mutate(r), seed, n); got != porcupine.Illegal {
						t.Errorf("history %d of seed %d is %s, want Illegal", n, seed, got)
					}
				})
			}
		})
	}
	t.Run("torn transaction", func(t *testing.T) {
		seed := rand.Uint64()
		for n := range uint64(20) {
			r := newReal()
			if got := porcupine.CheckOperationsTimeout(bankModel, bankHistory(torn{r}, seed, n, 6, 40), 20*time.Second); got != porcupine.Illegal {
				t.Errorf("history %d of seed %d is %s, want Illegal", n, seed, got)
			}
			r.close()
		}
	})
}
