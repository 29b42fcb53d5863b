package admit

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPromise09_EightDeepOnOneSlot(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	chain := []*Ticket{w.arrive("0", 2, "", k)}
	for i := 1; i < 8; i++ {
		chain = append(chain, w.arrive(fmt.Sprint(i), 2, "", k, under(chain[i-1])))
	}
	w.sees("0 1 2 3 4 5 6 7")
	w.holds(k, 1)
	x := w.arrive("x", 8, "", k)
	for i := 7; i > 0; i-- {
		w.finish(chain[i])
		w.holds(k, 1)
	}
	w.sees("")
	w.finish(chain[0])
	w.sees("x")
	w.finish(x)
	w.rest(k)
}

func TestPromise09_EightDeepEndsFromTheTop(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	chain := []*Ticket{w.arrive("0", 2, "", k)}
	for i := 1; i < 8; i++ {
		chain = append(chain, w.arrive(fmt.Sprint(i), 2, "", k, under(chain[i-1])))
	}
	x := w.arrive("x", 8, "", k)
	w.sees("0 1 2 3 4 5 6 7")
	for _, c := range chain {
		w.holds(k, 1)
		w.sees("")
		w.finish(c)
	}
	w.sees("x")
	w.finish(x)
	w.rest(k)
}

func TestPromise09_BatchOnALentSlot(t *testing.T) {
	for _, c := range []struct {
		limit   int64
		started string
	}{
		{1, "p a"}, // a runs on p's slot
		{2, "p a b"},
		{3, "p a b c"},
	} {
		w := newWorld(t, standard())
		k := slots("tool a", 0, c.limit)
		p := w.arrive("p", 2, "", k)
		var kids []*Ticket
		for _, name := range []string{"a", "b", "c"} {
			kids = append(kids, w.arrive(name, 2, "", k, under(p)))
		}
		w.sees(c.started)
		w.holds(k, min(c.limit, 3))
		for _, kid := range kids {
			running := 0
			for _, x := range kids {
				if x.State() == Running {
					running++
				}
			}
			if running > int(c.limit) {
				t.Errorf("limit %d: %d siblings run at once", c.limit, running)
			}
			w.finish(kid)
		}
		w.holds(k, 1)
		w.finish(p)
		w.rest(k)
		// All slots are there again.
		for i := range c.limit {
			x := w.arrive(fmt.Sprint("x", i), 2, "", k)
			assert.Equal(t, Running, x.State(), "limit %d: slot %d has not come back", c.limit, i)
		}
	}
}

func TestPromise09_SiblingBeforeStrangers(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	p := w.arrive("p", 2, "", k)
	a := w.arrive("a", 2, "", k, under(p))
	x := w.arrive("x", 8, "", k) // more urgent, and earlier than b
	b := w.arrive("b", 2, "", k, under(p))
	c := w.arrive("c", 2, "", k, under(p))
	w.sees("p a")
	w.finish(a)
	w.sees("b")
	w.finish(b)
	w.sees("c")
	w.finish(c)
	w.sees("")
	w.finish(p)
	w.sees("x")
	w.finish(x)
	w.rest(k)
}

// What an ended call gave back to an ancestor is used before what else it gave back, although that is narrower.
func TestPromise09_SiblingBeforeStrangersAtANarrowerLimit(t *testing.T) {
	w := newWorld(t, standard())
	n, k, r := slots("tool a", 0, 1), slots("all", 1, 1), w.rate("per second", 2, 1, sec, 1)
	p := w.arrive("p", 2, "", k)
	a := w.arrive("a", 2, "", n, k, under(p))
	x := w.arrive("x", 8, "", n, r) // more urgent, and earlier than b
	b := w.arrive("b", 2, "", k, r, under(p))
	w.sees("p a")
	w.finish(a)
	w.sees("b")
	w.at(sec)
	w.sees("x")
	w.finish(b, p, x)
	w.rest(n, k)
}

func TestPromise09_TwoCrossingLimits(t *testing.T) {
	w := newWorld(t, standard())
	x, y := slots("x", 0, 1), slots("y", 0, 1)
	a, b := w.arrive("a", 2, "", x), w.arrive("b", 2, "", y)
	a1 := w.arrive("a1", 2, "", y, under(a))
	w.sees("a b")
	b1 := w.arrive("b1", 2, "", x, under(b))
	w.sees("b1!")
	w.refused(b1, Cycle, x, 0)
	assert.Equal(t, "x -> y -> x", b1.Refusal().Detail, "the cycle")
	w.finish(b)
	w.sees("a1")
	w.finish(a1, a)
	w.rest(x, y)
}

func TestPromise09_ThreeCrossingLimits(t *testing.T) {
	w := newWorld(t, standard())
	x, y, z := slots("x", 0, 1), slots("y", 1, 1), slots("z", 2, 1)
	a, b, c := w.arrive("a", 2, "", x), w.arrive("b", 2, "", y), w.arrive("c", 2, "", z)
	a1 := w.arrive("a1", 2, "", y, under(a))
	b1 := w.arrive("b1", 2, "", z, under(b))
	w.sees("a b c")
	c1 := w.arrive("c1", 2, "", x, under(c))
	w.refused(c1, Cycle, x, 0)
	assert.Equal(t, "x -> y -> z -> x", c1.Refusal().Detail, "the cycle")
	w.sees("c1!")
	w.finish(c)
	w.sees("b1")
	w.finish(b1, b)
	w.sees("a1")
	w.finish(a1, a)
	w.rest(x, y, z)
}

func TestPromise09_NoCycleWhileOneHolderRuns(t *testing.T) {
	w := newWorld(t, standard())
	x, y := slots("x", 0, 2), slots("y", 0, 1)
	a, other, b := w.arrive("a", 2, "", x), w.arrive("other", 2, "", x), w.arrive("b", 2, "", y)
	a1 := w.arrive("a1", 2, "", y, under(a))
	b1 := w.arrive("b1", 2, "", x, under(b))
	w.sees("a other b")
	w.finish(other)
	w.sees("b1")
	w.finish(b1, b)
	w.sees("a1")
	w.finish(a1, a)
	w.rest(x, y)
}

// The last holder that runs starts to wait: only now is there a cycle.
func TestPromise09_CycleOfAllHolders(t *testing.T) {
	w := newWorld(t, standard())
	x, y := slots("x", 0, 2), slots("y", 0, 1)
	a, other, b := w.arrive("a", 2, "", x), w.arrive("other", 2, "", x), w.arrive("b", 2, "", y)
	a1 := w.arrive("a1", 2, "", y, under(a))
	b1 := w.arrive("b1", 2, "", x, under(b))
	o1 := w.arrive("o1", 2, "", y, under(other))
	w.sees("a other b o1!")
	w.refused(o1, Cycle, y, 0)
	w.finish(other)
	w.sees("b1")
	w.finish(b1, b)
	w.sees("a1")
	w.finish(a1, a)
	w.rest(x, y)
}

// A cycle may be closed by an end: the call that still ran for a holder has ended, and now
// the holder waits for one that waits.
func TestPromise09_CycleClosedByAnEnd(t *testing.T) {
	w := newWorld(t, standard())
	x, y := slots("x", 0, 1), slots("y", 0, 1)
	a, b := w.arrive("a", 2, "", x), w.arrive("b", 2, "", y)
	a1 := w.arrive("a1", 2, "", under(a))
	a2 := w.arrive("a2", 2, "", y, under(a))
	b1 := w.arrive("b1", 2, "", x, under(b))
	w.sees("a b a1")
	w.finish(a1)
	refused := 0
	for _, c := range []*Ticket{a2, b1} {
		if c.State() == Refused {
			refused++
			if c.Refusal().Reason != Cycle {
				t.Errorf("%v was refused for %+v", c.Owner, c.Refusal())
			}
		}
	}
	require.Equal(t, 1, refused, "nested calls refused, of two")
	for len(w.calls) > 0 {
		n := len(w.calls)
		for i := n - 1; i >= 0; i-- {
			if c := w.calls[i]; c.State() == Running && (c.kin == nil || len(c.kin.children) == 0) {
				w.finish(c)
				break
			}
		}
		require.NotEqual(t, n, len(w.calls), "nobody who runs can end")
	}
	w.rest(x, y)
}

// A claim must not keep free slots from the nested call for whose end it waits.
func TestPromise09_ClaimYieldsToTheChainItWaitsFor(t *testing.T) {
	for _, late := range []bool{false, true} {
		p := standard()
		p.Claim = 1
		w := newWorld(t, p)
		x, y := slots("x", 0, 1), slots("y", 1, 1)
		h := w.arrive("h", 2, "", x)
		b := w.arrive("b", 2, "", y)
		both := w.arrive("both", 2, "", x, y)
		var b1 *Ticket
		if late {
			b1 = w.arrive("b1", 2, "", x, under(b))
			w.finish(h)
		} else {
			w.finish(h) // x is free, and kept for both, which waits for y
			b1 = w.arrive("b1", 2, "", x, under(b))
		}
		w.sees("h b b1")
		w.finish(b1, b)
		w.sees("both")
		w.finish(both)
		w.rest(x, y)
	}
}

func TestPromise09_ChildOutlivesItsParent(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	p := w.arrive("p", 2, "", k)
	c := w.arrive("c", 2, "", k, under(p))
	x := w.arrive("x", 2, "", k)
	w.finish(p)
	w.sees("p c")
	w.holds(k, 1)
	// What the parent left is the child's to lend.
	g := w.arrive("g", 2, "", k, under(c))
	w.sees("g")
	w.holds(k, 1)
	w.finish(c)
	w.holds(k, 1)
	w.finish(g)
	w.sees("x")
	w.finish(x)
	w.rest(k)
}

// The weight that was charged for the parent comes back, whatever the child weighs.
func TestPromise09_ChildOutlivesAWideParent(t *testing.T) {
	for _, n := range []int64{1, 3, 5} {
		w := newWorld(t, standard())
		k := units("tool a", 0, 4)
		p := w.arrive("p", 2, "", k.of(3))
		c := w.arrive("c", 2, "", k.of(n), under(p))
		w.finish(p)
		w.sees("p c")
		w.holds(k, 3)
		w.finish(c)
		w.holds(k, 0)
		w.rest(k)
	}
}

func TestPromise09_BorrowThroughTheMiddle(t *testing.T) {
	for _, first := range []string{"leaf", "middle", "root"} {
		w := newWorld(t, standard())
		k, other := slots("tool a", 0, 1), slots("tool b", 0, 5)
		r := w.arrive("r", 2, "", k)
		m := w.arrive("m", 2, "", other, under(r))
		g := w.arrive("g", 2, "", k, under(m))
		w.sees("r m g")
		w.holds(k, 1)
		x := w.arrive("x", 2, "", k)
		switch first {
		case "leaf":
			w.finish(g, m, r)
		case "middle":
			w.finish(m, g, r)
		default:
			w.finish(r)
			w.holds(k, 1)
			w.sees("")
			w.finish(m, g)
		}
		w.sees("x")
		w.finish(x)
		w.rest(k, other)
	}
}

func TestPromise09_ParentEndsBeforeItsQueuedChildren(t *testing.T) {
	w := newWorld(t, standard())
	x, y := slots("x", 0, 1), slots("y", 0, 1)
	p := w.arrive("p", 2, "", x)
	a := w.arrive("a", 2, "", x, under(p))
	b := w.arrive("b", 2, "", x, under(p))
	h := w.arrive("h", 2, "", y)
	c := w.arrive("c", 2, "", y, under(p))
	w.sees("p a h")
	w.finish(p) // a keeps the slot, b and c wait on
	w.sees("")
	w.holds(x, 1)
	w.finish(a)
	w.sees("b")
	w.finish(h)
	w.sees("c")
	w.finish(b, c)
	w.rest(x, y)
}

func TestPromise09_ParentEndsWhileAllItsChildrenQueue(t *testing.T) {
	w := newWorld(t, standard())
	x, y := slots("x", 0, 1), slots("y", 0, 1)
	h := w.arrive("h", 2, "", y)
	p := w.arrive("p", 2, "", x)
	c := w.arrive("c", 2, "", x, y, under(p)) // would run on p's x
	assert.Equal(t, int64(1), w.cell(x).stuck, "stuck: nobody can run in p")
	w.finish(p)
	w.holds(x, 0)
	q := w.arrive("q", 2, "", x)
	w.sees("h p q")
	w.finish(h) // y is free, x is q's
	w.sees("")
	w.finish(q)
	w.sees("c")
	w.holds(x, 1)
	w.finish(c)
	w.rest(x, y)
}

func TestPromise09_NeverBelowTheAncestor(t *testing.T) {
	for _, c := range []struct {
		parent, child int8
		order         string
	}{
		{6, 1, "c x"}, // as urgent as its parent
		{1, 6, "c x"}, // its own
		{1, 1, "x c"},
		{4, 0, "x c"},
	} {
		w := newWorld(t, standard())
		k, other := slots("tool a", 0, 1), slots("tool b", 0, 1)
		h := w.arrive("h", 2, "", k)
		p := w.arrive("p", c.parent, "", other)
		x := w.arrive("x", 5, "", k)
		child := w.arrive("c", c.child, "", k, under(p))
		w.news = nil
		w.finish(h)
		if x.State() == Running {
			w.finish(x, child)
		} else {
			w.finish(child, x)
		}
		w.sees(c.order)
		w.finish(p)
		w.rest(k, other)
	}
}

func TestPromise09_GrandchildInheritsTheRaisedLevel(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	h := w.arrive("h", 2, "", k)
	p := w.arrive("p", 7, "")
	m := w.arrive("m", 0, "", under(p))
	x := w.arrive("x", 5, "", k)
	g := w.arrive("g", 0, "", k, under(m))
	w.news = nil
	w.finish(h)
	w.sees("g")
	w.finish(g, m, p, x)
	w.rest(k)
}

// A lent slot carries any weight, also for the sibling that has to wait for it.
func TestPromise09_WideSiblings(t *testing.T) {
	w := newWorld(t, standard())
	k := units("tool a", 0, 2)
	p := w.arrive("p", 2, "", k)
	a := w.arrive("a", 2, "", k.of(5), under(p))
	b := w.arrive("b", 2, "", k.of(5), under(p))
	w.sees("p a")
	w.finish(a)
	w.sees("b")
	w.finish(b, p)
	w.rest(k)
}

// Who waits for a lent slot that is narrower than itself cannot start once nobody lends.
func TestPromise09_WideSiblingAfterItsParent(t *testing.T) {
	w := newWorld(t, standard())
	k := units("tool a", 0, 2)
	p := w.arrive("p", 2, "", k)
	a := w.arrive("a", 2, "", k.of(5), under(p))
	b := w.arrive("b", 2, "", k.of(5), under(p))
	w.finish(p)
	w.finish(a)
	w.sees("p a b!")
	w.refused(b, TooWide, k, 0)
	w.rest(k)
}

func TestPromise09_CancelledNestedCallsLeaveNothing(t *testing.T) {
	w := newWorld(t, standard())
	x, y := slots("x", 0, 1), slots("y", 0, 1)
	a, b := w.arrive("a", 2, "", x), w.arrive("b", 2, "", y)
	a1 := w.arrive("a1", 2, "", y, under(a))
	w.cancel(a1)
	b1 := w.arrive("b1", 2, "", x, under(b)) // a runs again: no cycle
	w.sees("a b")
	w.finish(a)
	w.sees("b1")
	w.cancel(b1) // before its code ran
	w.finish(b)
	w.rest(x, y)
}

func TestPromise09_RatesAreChargedForEveryCall(t *testing.T) {
	w := newWorld(t, standard())
	k, r := slots("tool a", 0, 1), w.rate("per second", 0, 1, sec, 1)
	p := w.arrive("p", 2, "", k, r)
	c := w.arrive("c", 2, "", k, r, under(p))
	w.sees("p")
	w.at(sec - 1)
	w.sees("")
	w.at(sec)
	w.sees("c")
	w.holds(k, 1)
	w.finish(c, p)
	w.rest(k)
}

// Random trees over crossing limits: whoever runs without running children can end, so as
// long as somebody runs or waits such a one must exist, and in the end nothing is left.
func TestPromise09_RandomTreesAlwaysEnd(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 9))
		p := standard()
		p.Claim = 1 + rng.IntN(4)
		w := newWorld(t, p)
		var ks []*Class
		for i := range 4 {
			ks = append(ks, units(fmt.Sprint("k", i), uint8(i/2), int64(1+rng.IntN(3))))
		}
		name := 0
		for range 300 {
			w.now++
			if rng.IntN(3) > 0 {
				var what []any
				for _, k := range ks {
					if rng.IntN(3) == 0 {
						what = append(what, k.of(1+rng.Int64N(min(2, k.Limit))))
					}
				}
				if n := len(w.calls); n > 0 && rng.IntN(3) > 0 {
					if a := w.calls[rng.IntN(n)]; a.State() == Running {
						what = append(what, under(a))
					}
				}
				name++
				w.arrive(fmt.Sprint(name), int8(rng.IntN(Levels)), fmt.Sprint(rng.IntN(3)), what...)
				continue
			}
			if n := len(w.calls); n > 0 {
				switch c := w.calls[rng.IntN(n)]; {
				case c.State() == Waiting && rng.IntN(3) == 0, c.State() == Running && rng.IntN(9) == 0:
					w.cancel(c)
				case c.State() == Running:
					w.finish(c)
				}
			}
			for _, k := range ks {
				if c := w.cell(k); c.used > c.limit || c.used < 0 || c.stuck < 0 || c.stuck > c.used {
					t.Fatalf("seed %d: %s used %d, stuck %d, limit %d", seed, k.Name, c.used, c.stuck, c.limit)
				}
			}
		}
		for len(w.calls) > 0 {
			n := len(w.calls)
			for _, c := range w.calls {
				// A tool that has called others ends after them.
				if c.State() == Running && (c.kin == nil || len(c.kin.children) == 0) {
					w.finish(c)
					break
				}
			}
			if len(w.calls) == n {
				t.Fatalf("seed %d: %d calls, and none can end: a deadlock", seed, n)
			}
		}
		w.rest(ks...)
		require.False(t, t.Failed(), "seed %d", seed)
	}
}
