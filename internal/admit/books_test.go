package admit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/breaker"
)

// The books of who has most in the queue are there while the policy needs them, and say then what
// they would if they had always been there.
func TestBooks_WhileThePolicyNeedsThem(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, n))
		p := standard()
		p.MaxQueue, p.MaxPerTenant = 12, 12
		w := newWorld(t, p)
		tools := []*Class{slots("x", 0, Unlimited), slots("y", 0, 1)}
		all := slots("all", 7, 2)
		for i := range 300 {
			w.now++
			switch k := r.IntN(20); {
			case k < 11:
				w.arrive(fmt.Sprint(i), int8(r.IntN(3)), []string{"", "a", "b"}[r.IntN(3)], tools[r.IntN(2)], all)
			case k < 18 && len(w.calls) > 0:
				if x := w.calls[r.IntN(len(w.calls))]; x.State() == Running {
					w.ended(x, breaker.Success)
				} else {
					w.cancel(x)
				}
			default:
				p.Shed, p.Standing, p.Weights = r.IntN(2) == 0, r.IntN(3) == 0, map[string]int{"b": 1 + r.IntN(3)}
				w.m.SetPolicy(w.now, p)
				w.collect()
			}
			require.NoError(t, recount(w), "world %d, step %d", n, i)
		}
	}
}

// recount compares the books with the lanes.
func recount(w *world) error {
	type key struct {
		level  int8
		tenant *tenant
	}
	calls, newest := map[key]int{}, map[key]uint64{}
	for _, l := range w.m.all {
		if l.account != nil != w.m.policy.books() {
			return fmt.Errorf("a lane has an account: %v", l.account != nil)
		}
		if l.account != nil {
			k := key{l.level, l.tenant}
			calls[k] += l.n
			newest[k] = max(newest[k], l.tail.seq)
		}
	}
	if w.me.books.n != len(calls) {
		return fmt.Errorf("there are %d accounts, want %d", w.me.books.n, len(calls))
	}
	for k, n := range calls {
		a := w.me.account(k.tenant, k.level)
		if a == nil || a.n != n || a.lanes.Top().tail.seq != newest[k] {
			return fmt.Errorf("level %d, tenant %q: %+v, want %d calls, the newest %d", k.level, k.tenant.name, a, n, newest[k])
		}
	}
	for p := range w.me.accounts {
		h := &w.me.accounts[p]
		first := 0.0
		for a := range h.All() {
			first = min(first, -float64(a.n)/a.tenant.weight)
		}
		if h.Len() > 0 && h.Min() != first {
			return fmt.Errorf("level %d: most is %v, want %v", p, h.Min(), first)
		}
		if slices.ContainsFunc(slices.Collect(h.All()), func(a *account) bool { return calls[key{a.level, a.tenant}] == 0 }) {
			return fmt.Errorf("level %d: an account without calls", p)
		}
	}
	return nil
}
