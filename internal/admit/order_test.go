package admit

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/bucket"
)

// files is an ordered limit by key, of which readers take one and writers all.
func files(limit int64) *Class {
	return &Class{Name: "files", Kind: Slots, Rank: 3, Unit: "weight", Limit: limit, MaxKeys: 100, Ordered: true}
}

func (k *Class) key(key string, n int64) part { return part{k, key, n} }

func reads(k *Class, key string) part  { return k.key(key, 1) }
func writes(k *Class, key string) part { return k.key(key, k.Limit) }

// named is the call of that name that runs or waits.
func (w *world) named(name string) *Ticket {
	return w.calls[slices.IndexFunc(w.calls, func(t *Ticket) bool { return t.Owner == name })]
}

func TestReadersDoNotPassAWaitingWriter(t *testing.T) {
	w, f := newWorld(t, standard()), files(3)
	r1 := w.arrive("r1", 4, "", reads(f, "a"))
	r2 := w.arrive("r2", 4, "", reads(f, "a"))
	w.sees("r1 r2")
	w1 := w.arrive("w1", 4, "", writes(f, "a"))
	r3 := w.arrive("r3", 8, "", reads(f, "a"))
	w.arrive("other", 0, "", reads(f, "b"))
	r4 := w.arrive("r4", 0, "", reads(f, "a"))
	w2 := w.arrive("w2", 8, "", writes(f, "a"))
	w.sees("other")
	w.finish(r1)
	w.sees("")
	w.finish(r2)
	w.sees("w1")
	w.finish(w1)
	w.sees("r3 r4")
	w.finish(r4)
	w.sees("")
	w.finish(r3)
	w.sees("w2")
	w.finish(w2, w.named("other"))
	w.rest(f)
}

func TestPriorityTenantAndWeightDoNotCountInALine(t *testing.T) {
	w, f, open := newWorld(t, standard()), files(4), units("open", 3, 4)
	a, b := w.arrive("a", 4, "", f.key("x", 4)), w.arrive("b", 4, "", open.of(4))
	for _, c := range []struct {
		name   string
		level  int8
		tenant string
		n      int64
	}{{"1", 0, "noisy", 3}, {"2", 0, "noisy", 1}, {"3", 8, "calm", 3}, {"4", 8, "calm", 1}} {
		w.arrive(c.name, c.level, c.tenant, f.key("x", c.n))
		w.arrive(c.name+"'", c.level, c.tenant, open.of(c.n))
	}
	w.sees("a b")
	w.finish(b)
	w.sees("3' 4'")
	w.finish(a)
	w.sees("1 2")
}

func TestSeveralKeysAreTakenAtOneInstant(t *testing.T) {
	w, f := newWorld(t, standard()), files(1)
	a := w.arrive("a", 4, "", f.key("x", 1))
	w.arrive("ab", 4, "", f.key("x", 1), f.key("y", 1))
	w.arrive("ba", 4, "", f.key("y", 1), f.key("z", 1))
	w.arrive("c", 4, "", f.key("z", 1))
	w.arrive("free", 4, "", f.key("u", 1), f.key("v", 1))
	w.sees("a free")
	require.Zero(t, w.m.Cell(0, f, "y").used, "who waits holds nothing")
	w.finish(a)
	w.sees("ab")
	w.finish(w.named("ab"))
	w.sees("ba")
	w.finish(w.named("ba"))
	w.sees("c")
	w.finish(w.named("c"), w.named("free"))
	w.rest(f)
}

func TestWhoIsFirstInLineKeepsItsPlaceWhileItWaitsElsewhere(t *testing.T) {
	for _, x := range []struct {
		name string
		rank uint8 // narrower than the key, or wider
	}{{"at a narrower limit", 0}, {"at a wider limit", 7}} {
		t.Run(x.name, func(t *testing.T) {
			w, f, all := newWorld(t, standard()), files(2), slots("all", x.rank, 1)
			busy := w.arrive("busy", 4, "", all)
			w.arrive("first", 0, "", all, writes(f, "a"))
			w.arrive("second", 8, "", reads(f, "a"))
			w.arrive("both", 8, "", reads(f, "a"), all)
			w.arrive("other", 8, "", reads(f, "b"))
			w.sees("busy other")
			w.arrive("again", 8, "", all)
			w.finish(busy)
			w.sees("again") // which is of a higher level, and needs no key
			w.finish(w.named("again"))
			w.sees("first")
			w.finish(w.named("first"))
			w.sees("second both")
		})
	}
}

// What a call has held does not go to the next that needs just that, past who came earlier.
func TestAHandOverPassesNobodyInALine(t *testing.T) {
	w, f := newWorld(t, standard()), files(1)
	a := w.arrive("a", 4, "", writes(f, "x"))
	b := w.arrive("b", 8, "", writes(f, "x"))
	w.arrive("c", 0, "", writes(f, "x"))
	w.arrive("d", 8, "", writes(f, "x")) // in one lane with b
	w.finish(a)
	w.sees("a b")
	w.finish(b)
	w.sees("c")
}

// Who waits for a key collects nothing for it that others could use.
func TestACallThatWaitsForItsKeyClaimsNothing(t *testing.T) {
	p := standard()
	p.Claim = 1
	w, f, tool := newWorld(t, p), files(2), slots("tool", 0, 1)
	r, busy := w.arrive("r", 4, "", reads(f, "a")), w.arrive("busy", 4, "", tool)
	w.arrive("w", 8, "", tool, writes(f, "a"))
	w.arrive("other", 0, "", tool)
	w.finish(busy)
	w.sees("r busy other")
	require.Zero(t, w.m.Work().Claims)
	w.finish(r, w.named("other"))
	w.sees("w")
}

// Who is first in two lines starts where it stands, although one of higher level waits in the other.
func TestWhoIsFirstInTwoLinesIsNotMoved(t *testing.T) {
	w, f, g := newWorld(t, standard()), files(1), files(1)
	g.Rank = 5
	h := w.arrive("h", 4, "", writes(f, "a"), writes(g, "b"))
	w.arrive("first", 0, "", writes(f, "a"), writes(g, "b"))
	w.arrive("second", 8, "", writes(g, "b"))
	w.finish(h)
	w.sees("h first")
	require.Zero(t, w.m.Work().Moved)
}

// Whoever is first may go in every way there is: the next in line goes on at that instant.
func TestTheNextInLineGoesOnWhenTheFirstLeaves(t *testing.T) {
	for _, x := range []struct {
		name string
		with func(w *world, first *Ticket)
		sees string
	}{
		{"cancelled", func(w *world, first *Ticket) { w.cancel(first) }, "r1 r2"},
		{"too late", func(w *world, _ *Ticket) { w.at(6) }, "w! r1 r2"},
		{"too wide", func(w *world, first *Ticket) { w.limit(first.Needs()[0].Cell.class, 2) }, "w! r1"},
		{"closed", func(w *world, first *Ticket) { w.m.Expel(w.now, first.Plan.Client); w.collect() }, "w! r1 r2"},
	} {
		t.Run(x.name, func(t *testing.T) {
			w, f := newWorld(t, standard()), files(3)
			w.arrive("r0", 4, "", reads(f, "a"))
			own := Plan{Tool: 77, Client: NewClient()}
			first := w.arrive("w", 4, "", writes(f, "a"), within(5), of(&own))
			w.arrive("r1", 4, "", reads(f, "a"))
			w.arrive("r2", 4, "", reads(f, "a"))
			w.sees("r0")
			x.with(w, first)
			w.sees(x.sees)
		})
	}
}

func TestOneBehindTheFirstLeavesWithoutATrace(t *testing.T) {
	w, f := newWorld(t, standard()), files(2)
	a := w.arrive("a", 4, "", writes(f, "x"))
	w.arrive("b", 4, "", reads(f, "x"))
	c := w.arrive("c", 4, "", writes(f, "x"))
	d := w.arrive("d", 4, "", reads(f, "x"))
	require.Equal(t, int64(4), w.m.Cell(0, f, "x").line.load)
	w.cancel(c)
	require.Equal(t, int64(2), w.m.Cell(0, f, "x").line.load)
	w.finish(a)
	w.sees("a b d")
	w.finish(d, w.first())
	w.rest(f)
	require.Zero(t, w.m.lined)
	require.Zero(t, w.m.Cell(0, f, "x").line.load)
}

func TestANestedCallRunsOnItsAncestorsKeyOutOfTurn(t *testing.T) {
	w, f := newWorld(t, standard()), files(3)
	p := w.arrive("p", 4, "", reads(f, "a"))
	w.arrive("w", 4, "", writes(f, "a"))
	c := w.arrive("c", 4, "", writes(f, "a"), under(p))
	w.sees("p c")
	w.arrive("d", 4, "", reads(f, "a"), under(p)) // the slot is lent
	w.sees("")
	w.finish(c)
	w.sees("d")
	w.holds2(f, "a", 1)
}

// holds2 fails unless n slots of k are taken under the key.
func (w *world) holds2(k *Class, key string, n int64) {
	w.Helper()
	if c := w.m.Cell(w.now, k, key); c.used != n {
		w.Errorf("%s %s: %d slots are taken, want %d", k.Name, key, c.used, n)
	}
}

func TestANestedCallWaitsForItsTurnAtAnotherKey(t *testing.T) {
	w, f := newWorld(t, standard()), files(3)
	r := w.arrive("r", 4, "", reads(f, "b"))
	w1 := w.arrive("w", 4, "", writes(f, "b"))
	p := w.arrive("p", 4, "", reads(f, "a"))
	w.arrive("c", 8, "", reads(f, "b"), under(p))
	w.sees("r p")
	w.finish(r)
	w.sees("w")
	w.finish(w1)
	w.sees("c")
}

// A nested call would wait for itself behind a call that waits for what its ancestor holds: it passes
// that one, and is not refused.
func TestANestedCallPassesWhoWaitsForItsAncestors(t *testing.T) {
	t.Run("for a key", func(t *testing.T) {
		w, f := newWorld(t, standard()), files(2)
		p := w.arrive("p", 4, "", reads(f, "a"))
		w.arrive("w", 4, "", writes(f, "a"), writes(f, "b"))
		c := w.arrive("c", 4, "", writes(f, "b"), under(p))
		w.sees("p c")
		w.arrive("r", 8, "", reads(f, "b"))
		w.finish(c, p)
		w.sees("w")
	})
	t.Run("over two keys", func(t *testing.T) {
		w, f := newWorld(t, standard()), files(2)
		p := w.arrive("p", 4, "", reads(f, "a"))
		w.arrive("1", 4, "", writes(f, "a"), reads(f, "c"))
		w.arrive("2", 4, "", reads(f, "b"), reads(f, "c"))
		w.arrive("c", 4, "", reads(f, "b"), under(p))
		w.sees("p c")
	})
	t.Run("for a limit without order", func(t *testing.T) {
		w, f, all := newWorld(t, standard()), files(2), slots("all", 7, 1)
		p := w.arrive("p", 4, "", all)
		w.arrive("w", 4, "", writes(f, "a"), all)
		w.arrive("c", 4, "", reads(f, "a"), all, under(p))
		w.sees("p c")
	})
	t.Run("for a limit at which another stands for them", func(t *testing.T) {
		w, f, tool, all := newWorld(t, standard()), files(2), slots("tool", 0, 1), slots("all", 7, 2)
		h, p := w.arrive("h", 4, "", tool, all), w.arrive("p", 4, "", all)
		w.arrive("1", 4, "", tool, all)
		w.arrive("w", 4, "", tool, all, writes(f, "a"))
		q := w.arrive("q", 8, "", all)
		w.finish(h) // the first comes to wait for all, for both that wait for the tool
		w.sees("h p q")
		require.Equal(t, int32(1), w.cell(tool).deputies)
		w.arrive("c", 4, "", reads(f, "a"), under(p))
		w.sees("") // q goes on
		w.arrive("d", 4, "", reads(f, "a"), under(q))
		w.sees("c")
	})
	t.Run("which come to wait for them later", func(t *testing.T) {
		w, f, all := newWorld(t, standard()), files(2), slots("all", 7, 1)
		q := w.arrive("q", 4, "", writes(f, "a"))
		p := w.arrive("p", 4, "", all)
		w.arrive("w", 4, "", writes(f, "a"), all)
		w.arrive("c", 4, "", reads(f, "a"), all, under(p))
		w.sees("q p")
		w.finish(q)
		w.sees("c")
	})
	t.Run("but not while one of its ancestors' calls can go on", func(t *testing.T) {
		w, f := newWorld(t, standard()), files(2)
		p := w.arrive("p", 4, "", reads(f, "a"))
		d := w.arrive("d", 4, "", under(p))
		w.arrive("w", 4, "", writes(f, "a"), writes(f, "b"))
		w.arrive("c", 4, "", writes(f, "b"), under(p))
		w.sees("p d")
		w.finish(d)
		w.sees("c")
	})
	t.Run("in a ring of two chains", func(t *testing.T) {
		w, f, d := newWorld(t, standard()), files(2), slots("d", 5, 1)
		p := w.arrive("p", 4, "", d)
		q := w.arrive("q", 4, "", writes(f, "a"))
		w.arrive("v", 4, "", d, under(q))
		w.arrive("w", 4, "", writes(f, "a"), writes(f, "b"))
		x := w.arrive("x", 4, "", reads(f, "b"), under(p))
		w.sees("p q x")
		w.finish(x, p)
		w.sees("v")
	})
}

// Two chains that want each other's key wait for themselves, turn or no turn.
func TestChainsThatWantEachOthersKeyAreRefused(t *testing.T) {
	w, f := newWorld(t, standard()), files(1)
	p, q := w.arrive("p", 4, "", f.key("a", 1)), w.arrive("q", 4, "", f.key("b", 1))
	w.arrive("c", 4, "", f.key("b", 1), under(p))
	d := w.arrive("d", 4, "", f.key("a", 1), under(q))
	w.sees("p q d!")
	require.Equal(t, Refusal{Reason: Cycle, By: w.m.Cell(0, f, "a"), Detail: "files -> files -> files"}, d.Refusal())
	w.finish(q)
	w.sees("c")
}

// A call that is not first in line claims nothing: whoever is may need it.
func TestACallClaimsNothingBeforeItsTurn(t *testing.T) {
	p := standard()
	p.Claim = 1
	w, f, x, y := newWorld(t, p), files(2), slots("x", 0, 1), slots("y", 1, 1)
	bx, by := w.arrive("bx", 4, "", x), w.arrive("by", 4, "", y)
	w.arrive("first", 0, "", x, writes(f, "a"))
	w.arrive("second", 8, "", x, y, writes(f, "a"))
	w.sees("bx by")
	w.finish(bx) // the second comes to the front of x and fails at y
	w.sees("first")
	require.Empty(t, w.m.claims)
	w.finish(by, w.named("first"))
	w.sees("second")
}

func TestChangesKeepTheOrderOfALine(t *testing.T) {
	setup := func(t *testing.T) (w *world, f *Class, a *Ticket) {
		w, f = newWorld(t, standard()), files(2)
		a = w.arrive("a", 4, "", writes(f, "x"))
		w.arrive("b", 0, "", reads(f, "x"), of(&Plan{Tool: 1, Client: w.me}))
		w.arrive("c", 8, "", writes(f, "x"), of(&Plan{Tool: 2, Client: w.me}))
		w.arrive("d", 8, "", reads(f, "x"), of(&Plan{Tool: 1, Client: w.me}))
		w.sees("a")
		return w, f, a
	}
	t.Run("a tool's limits", func(t *testing.T) {
		w, f, a := setup(t)
		r, err := bucket.NewRate(1, 1, 100)
		require.NoError(t, err)
		quota := w.cell(&Class{Name: "quota", Kind: Tokens, Rate: &r})
		w.m.Freeze(0)
		w.m.SetLimit(0, f, 4)
		w.m.Replan(0, 1, nil, []Need{{quota, 1}}) // of the first and the last
		w.m.Thaw(0)
		w.collect()
		w.sees("b") // and the writer of two finds one left
		w.finish(a)
		w.sees("c d")
	})
	t.Run("a tool's limits, with room for all", func(t *testing.T) {
		w, f, _ := setup(t)
		w.m.Freeze(0)
		w.m.SetLimit(0, f, 6)
		w.m.Replan(0, 1, nil, nil)
		w.m.Thaw(0)
		w.collect()
		w.sees("b c d")
	})
	t.Run("two tools' limits, the later call's first", func(t *testing.T) {
		w, _, a := setup(t)
		w.m.Freeze(0)
		w.m.Replan(0, 2, nil, nil)
		w.m.Replan(0, 1, nil, nil)
		w.m.Thaw(0)
		w.collect()
		w.finish(a)
		w.sees("b")
		w.finish(w.first())
		w.sees("c")
	})
	t.Run("order is given up, and kept again", func(t *testing.T) {
		w, f, a := setup(t)
		w.m.SetOrdered(0, f, false)
		w.collect()
		w.sees("")
		require.Zero(t, w.m.lined)
		w.finish(a)
		w.sees("c") // by priority now
		w.m.SetOrdered(0, f, true)
		w.collect()
		w.finish(w.first())
		w.sees("b d")
	})
	t.Run("order is kept from now on", func(t *testing.T) {
		w, f := newWorld(t, standard()), files(2)
		f.Ordered = false
		a := w.arrive("a", 4, "", writes(f, "x"))
		w.arrive("b", 0, "", reads(f, "x"))
		w.arrive("c", 8, "", writes(f, "x"))
		r := w.arrive("r", 0, "", reads(f, "y"))
		w.arrive("wide", 0, "", writes(f, "y"))
		w.arrive("passes", 0, "", reads(f, "y"))
		w.sees("a r passes")
		w.arrive("e", 0, "", reads(f, "y"))
		w.m.SetOrdered(0, f, true)
		w.collect()
		w.finish(r)
		w.sees("")
		w.finish(a)
		w.sees("b")
	})
	t.Run("room", func(t *testing.T) {
		w, f, _ := setup(t)
		w.limit(f, 3)
		w.sees("b")
		w.limit(f, 5)
		w.sees("c") // who weighs two, as when it came: no longer alone
		w.limit(f, 6)
		w.sees("d")
	})
}

func TestWaitsInALineAreEstimatedByAllThatComeBefore(t *testing.T) {
	w, f := newWorld(t, standard()), files(2)
	a := w.arrive("a", 4, "", writes(f, "x"))
	w.at(100)
	w.finish(a) // so calls take that long
	w.arrive("b", 4, "", writes(f, "x"))
	w.arrive("c", 0, "", writes(f, "x"))
	d := w.ticket("d", 8, "", reads(f, "x")) // a level above does not help
	got := w.m.Forecast(w.now, d)
	require.Equal(t, Forecast{By: w.m.Cell(0, f, "x"), Place: 2, Wait: 150}, got)
	w.m.Free(d)
}

func TestALimitWhoseFirstWaitsElsewhereDoesNotStall(t *testing.T) {
	w, f, all := newWorld(t, standard()), files(2), slots("all", 7, 1)
	busy := w.arrive("busy", 4, "", all)
	w.arrive("first", 4, "", reads(f, "a"), all)
	w.arrive("second", 4, "", reads(f, "a"))
	stalled := func() (names []string) {
		for _, n := range w.m.Notices(nil) {
			names = append(names, n.Cell.class.Name)
		}
		return names
	}
	w.at(61 * sec)
	for w.m.Pending() {
		w.m.Step(w.now)
	}
	require.Equal(t, []string{"all"}, stalled())
	w.finish(busy)
	w.sees("busy first second")
	w.arrive("w", 4, "", writes(f, "a"))
	w.at(200 * sec)
	for w.m.Pending() {
		w.m.Step(w.now)
	}
	require.Equal(t, []string{"files"}, stalled())
}

// The keys of one call do not make room for one another: each is a cell that there is.
func TestKeysOfOneCallStayTogether(t *testing.T) {
	w, f := newWorld(t, standard()), files(2)
	f.MaxKeys = 2
	x := w.m.Ticket()
	require.True(t, w.m.AddEach(0, x, f, weighing([]string{"a", "b"}, nil), 1, (*Machine).Cell))
	for i, key := range []string{"a", "b"} {
		require.Same(t, f.Lookup(key), x.Needs()[i].Cell)
	}
	w.m.Free(x)
	x = w.m.Ticket()
	require.False(t, w.m.AddEach(0, x, f, weighing([]string{"c", "d", "e"}, nil), 1, (*Machine).Cell))
	w.m.Free(x)
	x = w.m.Ticket()
	require.True(t, w.m.AddEach(0, x, f, weighing([]string{"e", "f"}, nil), 1, (*Machine).Cell), "those of a call that did not come are idle")
	w.m.Free(x)
	for _, c := range f.Cells() {
		require.Zero(t, c.lanes)
	}
}
