package admit

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// things is a weighted limit by key: of some keys a call takes little, of others much.
func things(limit int64) *Class {
	k := files(limit)
	k.Name, k.Unit, k.Weighted = "things", "", true
	return k
}

// A reader does not wait for one that reads the same and waits for something else, but for one that writes it.
func TestReadersPassReadersThatWaitElsewhere(t *testing.T) {
	w, f := newWorld(t, standard()), things(100)
	a := w.arrive("a", 4, "", writes(f, "a"))
	w.arrive("ab", 4, "", writes(f, "a"), reads(f, "b"))
	w.arrive("b1", 4, "", reads(f, "b"))
	w.sees("a b1")
	b := w.arrive("wb", 4, "", writes(f, "b"))
	w.arrive("b2", 8, "", reads(f, "b"))
	w.arrive("wa", 8, "", writes(f, "a"))
	w.sees("")
	w.cancel(b)
	w.sees("b2")
	w.finish(a)
	w.sees("ab")
	w.finish(w.named("b1"), w.named("b2"), w.named("ab"))
	w.sees("wa")
	w.finish(w.named("wa"))
	w.rest(f)
}

// So those behind a reader that waits elsewhere go on when a writer has gone, each in its turn.
func TestReadersGoOnBehindOneThatWaitsElsewhere(t *testing.T) {
	w, f := newWorld(t, standard()), things(100)
	a, b := w.arrive("a", 4, "", writes(f, "a")), w.arrive("b", 4, "", writes(f, "b"))
	w.arrive("ba", 4, "", reads(f, "b"), writes(f, "a"))
	w.arrive("b1", 0, "", reads(f, "b"))
	w.arrive("b2", 8, "", reads(f, "b"))
	w.arrive("wb", 8, "", writes(f, "b"))
	w.arrive("b3", 8, "", reads(f, "b"))
	w.sees("a b")
	w.finish(b)
	w.sees("b1 b2")
	w.finish(w.named("b1"), w.named("b2"))
	w.sees("")
	w.finish(a)
	w.sees("ba")
	w.finish(w.named("ba"))
	w.sees("wb")
	w.finish(w.named("wb"))
	w.sees("b3")
	w.finish(w.named("b3"))
	w.rest(f)
}

// Whoever passes leaves room for all that it passes: nobody starts later for that.
func TestWhoPassesTakesNothingFromOthers(t *testing.T) {
	w, f := newWorld(t, standard()), things(10)
	a := w.arrive("a", 4, "", writes(f, "a"))
	w.arrive("ab", 4, "", writes(f, "a"), f.key("b", 5))
	w.arrive("b4", 4, "", f.key("b", 4))
	late := w.arrive("b2", 4, "", f.key("b", 2)) // with which ab would have 4 left
	w.arrive("b6", 8, "", f.key("b", 6))         // more than half: it passes nobody
	w.sees("a b4")
	w.finish(w.named("b4"))
	w.sees("b2")
	w.cancel(w.named("ab"))
	w.sees("b6")
	w.finish(a, late, w.named("b6"))
	w.rest(f)
}

// There is more room once one of several that wait elsewhere alike has gone.
func TestWhoPassesGoesOnWhenAnyBeforeItHasGone(t *testing.T) {
	w, f := newWorld(t, standard()), things(10)
	a := w.arrive("a", 4, "", writes(f, "a"), f.key("b", 3))
	w.arrive("ab", 4, "", writes(f, "a"), f.key("b", 3))
	again := w.arrive("again", 4, "", writes(f, "a"), f.key("b", 3))
	b := w.arrive("b", 4, "", f.key("b", 2))
	w.sees("a")
	w.cancel(again)
	w.sees("b")
	w.finish(a)
	w.sees("ab")
	w.finish(b, w.named("ab"))
	w.rest(f)
}

// A nested call runs on what its ancestor has if that is enough, else it needs its own: not its ancestor's.
func TestANestedCallNeedsEnough(t *testing.T) {
	w, f := newWorld(t, standard()), things(10)
	p := w.arrive("p", 4, "", f.key("a", 3))
	c := w.arrive("c", 4, "", f.key("a", 3), under(p))
	w.sees("p c")
	require.Equal(t, int64(3), f.Lookup("a").used)
	d := w.arrive("d", 4, "", f.key("a", 7), under(c))
	w.sees("d")
	require.Equal(t, int64(10), f.Lookup("a").used)
	w.finish(d)
	e := w.arrive("e", 4, "", f.key("a", 8), under(c))
	w.refused(e, Cycle, f, 0)
	w.finish(c, p)
	w.rest(f)
}

// What an ancestor has is found again once a call between, which needed more, has gone.
func TestANestedCallFindsWhatIsEnoughBehindAnother(t *testing.T) {
	w, f := newWorld(t, standard()), things(10)
	p := w.arrive("p", 4, "", f.key("a", 2))
	c := w.arrive("c", 4, "", f.key("a", 4), under(p))
	w.arrive("o", 4, "", f.key("a", 4))
	w.sees("p c o")
	x, y := w.arrive("x", 4, "", f.key("a", 2), under(c)), w.arrive("y", 4, "", f.key("a", 1), under(c))
	w.sees("x") // on what c has; y waits, since that is lent and nothing is left
	w.finish(c) // whose place x has, and behind which p's was out of reach
	w.sees("y")
	w.finish(x, y, p, w.named("o"))
	w.rest(f)
}

// Who is first in a line and waits at a bucket comes to wait elsewhere: the next at the bucket is served.
func TestABucketGoesOnWhenItsFirstIsFoundToWaitElsewhere(t *testing.T) {
	for _, weighted := range []bool{false, true} {
		w, f, n := newWorld(t, standard()), things(10), slots("n", 0, 1)
		f.Weighted = weighted
		r := w.rate("r", 5, 1, 100, 2)
		r.Unit = "tokens"
		used := w.arrive("used", 4, "", r.of(2))
		g := w.arrive("g", 4, "", reads(f, "a"))
		w.arrive("x", 4, "", n.of(1), reads(f, "a"), r.of(2)) // the first in line, until 200
		w.arrive("all", 4, "", writes(f, "a"))
		y := w.arrive("y", 4, "", r.of(1)) // after x
		w.sees("used g")
		z := w.arrive("z", 4, "", n.of(1))
		w.sees("z")
		w.at(100)
		w.sees("")
		w.finish(g) // x is looked at, and waits for z
		w.sees("y")
		w.finish(z)
		w.at(300)
		w.sees("x")
		w.finish(used, y, w.named("x"))
		w.sees("all")
		w.finish(w.named("all"))
		w.rest(f, n)
	}
}

// Once a call has ended that needed more than its ancestor had, those nested in it run on what that has, though what
// the call itself had went to another of them: before strangers, as what comes back to an ancestor does.
func TestNestedCallsReachPastOneThatNeededMore(t *testing.T) {
	w, n, f := newWorld(t, standard()), slots("tool a", 0, 1), things(10)
	r := w.rate("per second", 4, 1, sec, 1)
	p := w.arrive("p", 4, "", f.key("a", 3))
	outer := w.arrive("outer", 4, "", n, f.key("a", 5), under(p)) // not on the three of p
	first := w.arrive("first", 4, "", f.key("a", 4), under(outer))
	x := w.arrive("x", 8, "", n, r) // more urgent, and earlier than the second
	second := w.arrive("second", 4, "", f.key("a", 3), r, under(outer))
	w.sees("p outer first")
	w.finish(outer) // first goes on with its five
	w.sees("second")
	w.at(sec)
	w.sees("x")
	w.finish(x, second, first, p)
	w.rest(n, f)
}
