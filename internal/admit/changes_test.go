package admit

import (
	"testing"

	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func rate(t testing.TB, n, per, burst int64) *bucket.Rate {
	t.Helper()
	r, err := bucket.NewRate(n, per, burst)
	require.NoError(t, err)
	return &r
}

// A limit goes up and another down: nobody starts in between.
func TestPromise03_ChangesHoldTogether(t *testing.T) {
	w := newWorld(t, standard())
	a, b := slots("a", 0, 1), slots("b", 7, 4)
	first := w.arrive("first", 4, "", a, b)
	w.arrive("second", 4, "", a, b)
	w.arrive("third", 4, "", a, b)
	w.sees("first")
	w.m.Freeze(w.now)
	w.m.SetLimit(w.now, w.cell(a).class, 4)
	w.m.SetLimit(w.now, w.cell(b).class, 1)
	w.m.Thaw(w.now)
	w.collect()
	w.sees("")
	w.holds(b, 1)
	w.finish(first)
	w.sees("second")
}

// The same with a plan that changes: its waiting calls arrive again after the last change.
func TestPromise03_ReplanWaitsForTheOtherChanges(t *testing.T) {
	w := newWorld(t, standard())
	tool, gone, other := slots("tool", 0, 9), slots("gone", 0, 1), slots("other", 7, 9)
	first := w.arrive("first", 4, "", tool, gone, other)
	second := w.arrive("second", 4, "", tool, gone, other)
	w.sees("first")
	w.m.Freeze(w.now)
	w.m.Replan(w.now, second.Plan.Tool, map[*Class]bool{gone: true}, nil)
	w.m.SetLimit(w.now, other, 1)
	w.m.Thaw(w.now)
	w.collect()
	w.sees("")
	w.finish(first)
	w.sees("second")
	w.finish(second)
	w.rest(tool, gone, other)
}

// A call that waits for more tokens than a bucket holds after a change would wait for ever,
// and so would everybody behind it.
func TestPromise04_ANarrowerBucketCutsWhatWaits(t *testing.T) {
	w := newWorld(t, standard())
	k := w.rate("k", 0, 1, ms, 5)
	w.arrive("all", 4, "", k.of(5))
	w.arrive("wide", 4, "", k.of(3))
	w.arrive("unit", 4, "", k)
	w.arrive("wide too", 4, "", k.of(4))
	w.sees("all")
	w.m.SetRate(w.now, k, rate(t, 1, ms, 2))
	w.collect()
	w.at(2*ms - 1)
	w.sees("")
	w.at(2 * ms)
	w.sees("wide")
	w.at(3 * ms)
	w.sees("unit")
	w.at(5 * ms)
	w.sees("wide too")
}

// While changes are made who waits is out of the queue, and yet its key is in use: it is not
// given up, or calls that come later would be counted elsewhere.
func TestPromise03_ChangesForgetNoKeyThatSomebodyWaitsFor(t *testing.T) {
	for _, byPlan := range []bool{false, true} {
		w := newWorld(t, standard())
		k, quota := slots("k", 0, 1), w.rate("quota", 7, 1, ms, 3)
		if k.ByPlan = byPlan; !byPlan {
			k.MaxKeys = 2
		}
		w.arrive("first", 4, "", quota.of(3))
		second := w.arrive("second", 4, "", part{k, "x", 1}, quota.of(3))
		w.sees("first")
		c := w.m.Cell(w.now, k, "x")
		w.m.Cell(w.now, k, "y")
		w.m.Freeze(w.now)
		w.m.SetRate(w.now, quota, rate(t, 1, ms, 1))
		w.m.SetMaxKeys(w.now, k, k.MaxKeys/2)
		w.m.Prune(w.now, k)
		w.m.Thaw(w.now)
		w.collect()
		assert.Same(t, c, k.Lookup("x"), "by plan %v: the key that a call waits for has been forgotten", byPlan)
		w.at(ms)
		w.sees("second")
		w.finish(second)
		if c.lanes != 0 || c.calls != 0 {
			t.Errorf("by plan %v: %d lanes and %d calls need the key of a call that has ended", byPlan, c.lanes, c.calls)
		}
	}
}

// A replan and a narrower bucket at once: each call has both, in either order.
func TestPromise04_ReplannedAndCut(t *testing.T) {
	for _, order := range []string{"replan first", "rate first"} {
		t.Run(order, func(t *testing.T) {
			w := newWorld(t, standard())
			k, gone := w.rate("k", 7, 1, ms, 5), w.rate("gone", 0, 1, sec, 1)
			w.arrive("all", 4, "", k.of(5), gone)
			x := w.arrive("wide", 4, "", k.of(3), gone)
			w.sees("all")
			w.m.Freeze(w.now)
			if order == "rate first" {
				w.m.SetRate(w.now, k, rate(t, 1, ms, 2))
			}
			w.m.Replan(w.now, x.Plan.Tool, map[*Class]bool{gone: true}, nil)
			if order != "rate first" {
				w.m.SetRate(w.now, k, rate(t, 1, ms, 2))
			}
			w.m.Thaw(w.now)
			w.collect()
			w.at(2*ms - 1)
			w.sees("")
			w.at(2 * ms)
			w.sees("wide")
		})
	}
}

// The newcomer has to wait only for what is kept for the call that is shed for it.
func TestPromise04_TheShedOneHadTheClaim(t *testing.T) {
	p := standard()
	p.Claim, p.MaxQueue, p.Shed = 1, 1, true
	w := newWorld(t, p)
	a, b := slots("a", 0, 2), slots("b", 7, 1)
	holder := w.arrive("holder", 4, "", b)
	x, y := w.arrive("x", 4, "", a), w.arrive("y", 4, "", a)
	w.arrive("claimant", 0, "heavy", a, b)
	w.finish(x) // to the front, where b refuses it: a slot of a is kept for it
	w.sees("holder x y")
	require.Len(t, w.m.claims, 1, "claims")
	z := w.arrive("newcomer", 8, "", a)
	w.sees("newcomer claimant!")
	w.finish(holder, y, z)
	w.rest(a, b)
}

// Nested calls that wait for slots kept for a claim are in no cycle: the claimant waits
// for somebody who runs.
func TestPromise09_AClaimIsNoCycle(t *testing.T) {
	p := standard()
	p.Claim = 1
	w := newWorld(t, p)
	a1, a2, d := slots("a1", 0, 1), slots("a2", 0, 2), slots("d", 7, 1)
	runs := w.arrive("runs", 4, "", d)
	p2, q := w.arrive("p2", 4, "", a2), w.arrive("q", 4, "", a2)
	claimant := w.arrive("claimant", 4, "", a2, d)
	w.finish(q)
	p1 := w.arrive("p1", 4, "", a1)
	x2 := w.arrive("x2", 4, "", a1, under(p2))
	x1 := w.arrive("x1", 4, "", a2, under(p1))
	w.sees("runs p2 q p1")
	w.finish(runs)
	w.sees("claimant")
	w.finish(claimant)
	w.sees("x1")
	w.finish(x1, p1)
	w.sees("x2")
	w.finish(x2, p2)
	w.rest(a1, a2, d)
}

// New weights say who has the most queued for its weight, from the next call that is shed.
func TestChange_WeightsCountForShedding(t *testing.T) {
	p := standard()
	p.Shed, p.MaxQueue = true, 5
	w := newWorld(t, p)
	k := slots("k", 0, 1)
	w.arrive("h", 2, "a", k)
	for _, name := range []string{"a1", "a2", "a3"} {
		w.arrive(name, 2, "a", k)
	}
	w.arrive("b1", 2, "b", k)
	w.arrive("b2", 2, "b", k)
	w.sees("h")
	p.Weights = map[string]int{"a": 10}
	w.m.SetPolicy(w.now, p)
	w.arrive("urgent", 8, "c", k)
	w.sees("b2!") // three tenths are less than two
}
