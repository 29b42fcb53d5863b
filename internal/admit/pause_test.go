package admit

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A cell re-opens in a ramp: one call, one more for each success, and at least twice as many
// each second.
func TestAfterAPauseCallsStartInARamp(t *testing.T) {
	for name, make := range map[string]func(w *world) *Class{
		"slots of a tool without limits": func(*world) *Class { return slots("tool", 0, Unlimited) },
		"a rate":                         func(w *world) *Class { return w.rate("rate", 0, 1_000_000, sec, 1_000_000) },
		"a limiter shared with others":   func(*world) *Class { return &Class{Name: "shared", Kind: Foreign, Foreign: plenty{}} },
	} {
		t.Run(name+", by successes", func(t *testing.T) {
			w := newWorld(t, standard())
			k := make(w)
			w.pause(k, 10*sec)
			for range 100 {
				w.arrive("x", 4, "", k)
			}
			w.sees("")
			w.at(10 * sec)
			for most := 1; most <= 8; most *= 2 {
				require.Equal(t, most, w.m.Running(), "run")
				w.now += ms
				for range most {
					x := w.calls[0]
					w.finish(x)
				}
			}
		})
		t.Run(name+", by seconds", func(t *testing.T) {
			w := newWorld(t, standard())
			k := make(w)
			w.pause(k, 10*sec)
			for range 100 {
				w.arrive("x", 4, "", k)
			}
			for s, want := range []int{1, 2, 4, 8, 16, 32, 64, 100} {
				w.at(10*sec + int64(s)*sec - 1)
				w.at(10*sec + int64(s)*sec)
				n := w.m.Running()
				assert.Equal(t, want, n, "%d s after the pause %d run", s, n)
			}
		})
		t.Run(name+", failures win nothing", func(t *testing.T) {
			w := newWorld(t, standard())
			k := make(w)
			w.pause(k, sec)
			for range 9 {
				w.arrive("x", 4, "", k)
			}
			w.at(sec)
			for range 5 {
				w.ended(w.calls[0], breaker.Failure)
				w.at(w.now + ms) // a token has come in
				assert.Equal(t, 1, w.m.Running(), "run after a failure")
			}
			w.at(11 * sec) // long after
			if n := w.m.Running() + w.m.Waiting(); n != 4 || w.m.Waiting() > 0 {
				t.Errorf("%d wait, want none", w.m.Waiting())
			}
		})
	}
}

// plenty is a limiter that always has tokens.
type plenty struct{}

func (plenty) Wait() int64 { return 0 }
func (plenty) Take()       {}
func (plenty) Give(int64)  {}

// A call that ran before the pause is not of the ramp, however it ends; one that never ran gives
// its place back; a new pause begins a new ramp.
func TestWhatTheRampCounts(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool", 0, 9)
	before := w.arrive("before", 4, "", k)
	w.pause(k, sec)
	for _, n := range []string{"a", "b", "c", "d"} {
		w.arrive(n, 4, "", k)
	}
	w.at(sec)
	w.sees("before a")
	w.finish(before)
	w.sees("")
	w.cancel(w.calls[0]) // a, whose code did not run
	w.sees("b")
	w.pause(k, 2*sec)
	w.finish(w.calls[0]) // b, of the ramp before
	w.at(2 * sec)
	w.sees("c")
	w.finish(w.calls[0])
	w.sees("d")
	w.finish(slices.Clone(w.calls)...)
	w.rest(k)
}

// A bucket that refills within its pause, or within a minute, re-opens with one token, whatever
// came back meanwhile; a slower one with what it had.
func TestWhatARateReopensWith(t *testing.T) {
	for _, c := range []struct {
		name          string
		n, per, burst int64
		takes         int64 // before
		back          bool  // and gives back during the pause
		pause         int64
		starts        int64 // in the first second after
	}{
		{"quick", 10, 60 * sec, 10, 0, false, 30 * sec, 1},
		{"quick, all of it came back", 10, 60 * sec, 10, 8, true, 30 * sec, 1},
		{"quick, used up", 60, 60 * sec, 60, 60, false, 1500 * ms, 1},
		{"slow, full", 250, 24 * 3600 * sec, 250, 0, false, 30 * sec, 250},
		{"slow, nearly used up", 250, 24 * 3600 * sec, 250, 240, false, 30 * sec, 10},
		{"slow, and all of it came back", 250, 24 * 3600 * sec, 250, 240, true, 30 * sec, 250},
		{"slow, but within a long pause", 10, 3600 * sec, 10, 0, false, 2 * 3600 * sec, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, standard())
			k := w.rate("rate", 0, c.n, c.per, c.burst)
			var takes *Ticket
			if c.takes > 0 {
				takes = w.arrive("before", 4, "", k.of(c.takes))
			}
			w.pause(k, c.pause)
			if c.back {
				w.late(c.pause / 2)
				w.cancel(takes)
			}
			w.at(c.pause)
			n := int64(0)
			for w.now < c.pause+sec {
				x := w.arrive("x", 4, "", k)
				if x.State() != Running {
					w.cancel(x)
					break
				}
				w.finish(x)
				n++
			}
			assert.Equal(t, c.starts, n, "started")
		})
	}
}

// Who needs more than the one token is told when it is there, and starts then.
func TestForecastsKnowWhatARateReopensWith(t *testing.T) {
	w := newWorld(t, standard())
	k := w.rate("rate", 0, 1, sec, 10)
	w.pause(k, 5*sec)
	w.refused(w.arrive("x", 4, "", k.of(3), within(7*sec-1)), TooLong, k, 7*sec)
	w.arrive("y", 4, "", k.of(3), within(7*sec))
	if f := w.m.Forecast(w.now, w.ticket("f", 4, "", k)); f.By == nil || f.Wait != 8*sec {
		t.Errorf("%+v, want 8 s: three tokens go to the one ahead", f)
	}
	w.at(7*sec - 1)
	w.sees("x!")
	w.at(7 * sec)
	w.sees("y")
}

// A call that takes nothing from a rate is held by its pause alone: by no debt, and by nobody who
// waits for tokens; and what it turns out to have used is charged.
func TestACallThatTakesNothing(t *testing.T) {
	w := newWorld(t, standard())
	k, other := w.rate("rate", 0, 1, sec, 4), slots("other", 7, 9)
	w.m.Settle(w.now, w.arrive("debtor", 4, "", k.of(4), other), "", 40)
	w.arrive("waits", 8, "", k, other)
	free := w.arrive("free", 0, "", k.of(0), other)
	w.sees("debtor free")
	w.m.Settle(w.now, free, "", 3)
	assert.Equal(t, int64(43), w.cell(k).Usage(w.now).Used, "of the rate are used")
	w.pause(k, 2*sec)
	held := w.arrive("held", 0, "", k.of(0), other)
	w.at(2*sec - 1)
	w.sees("")
	w.at(2 * sec)
	w.sees("held") // while the other waits for tokens
	w.finish(held)
	w.cancel(free)
	assert.Equal(t, int64(38), w.cell(k).Usage(w.now).Used,
		"of the rate are used: it never ran, and two seconds have passed")
	w.at(60 * sec)
	w.sees("waits")
	w.finish(slices.Clone(w.calls)...)
	w.rest(k, other)
}

// Lift ends pause and debt, and nobody has to wait for a ramp.
func TestLift(t *testing.T) {
	w := newWorld(t, standard())
	k := w.rate("rate", 0, 1, sec, 3)
	w.m.Settle(w.now, w.arrive("debtor", 4, "", k), "", 1<<50)
	if n := w.m.Notices(nil); len(n) != 1 || n[0].Kind != Debt || n[0].After != 24*3600*sec+sec {
		t.Errorf("notices %+v, want a debt of a day and a second", n)
	}
	w.pause(k, 1000*sec)
	for _, n := range []string{"a", "b"} {
		w.arrive(n, 4, "", k)
	}
	w.sees("debtor")
	w.m.Lift(w.now, w.cell(k))
	w.collect()
	w.at(sec)
	w.sees("a")
	w.at(2 * sec)
	w.sees("b")

	s := slots("tool", 0, 9)
	w.pause(s, 1000*sec)
	for i := range 4 {
		w.arrive(fmt.Sprint(i), 4, "", s)
	}
	w.m.Lift(w.now, w.cell(s))
	w.collect()
	w.sees("0 1 2 3")
}

// The table of a class shrinks to a bound that was lowered, as its keys fall idle.
func TestATableShrinksAsItsKeysFallIdle(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("keyed", 2, 1)
	k.MaxKeys = 50
	var calls []*Ticket
	for i := range 50 {
		calls = append(calls, w.arrive("x", 4, "", part{k, fmt.Sprint(i), 1}))
	}
	w.finish(calls[:20]...)
	w.m.SetMaxKeys(w.now, k, 10)
	assert.Equal(t, 30, k.Len(), "keys, want those of the 30 that run")
	w.finish(calls[20:45]...)
	assert.Equal(t, 10, k.Len(), "keys")
	w.finish(calls[45:]...)
	w.arrive("new", 4, "", part{k, "new", 1})
	assert.Equal(t, 10, k.Len(), "keys")

	many := slots("many", 2, 1)
	many.MaxKeys = 1000
	for i := range many.MaxKeys {
		w.finish(w.arrive("x", 4, "", part{many, fmt.Sprint(i), 1}))
	}
	w.m.SetMaxKeys(w.now, many, 10)
	for i := range 10 { // there is room, even if it takes more than one step to make all of it
		w.finish(w.arrive("new", 4, "", part{many, fmt.Sprint("new ", i), 1}))
	}
	assert.Equal(t, 10, many.Len(), "keys")

	r := w.rate("rate", 2, 1, sec, 2)
	r.MaxKeys = 2
	w.arrive("a", 4, "", part{r, "a", 2})
	w.at(500 * ms)
	w.arrive("b", 4, "", part{r, "b", 1})
	w.finish(slices.Clone(w.calls)...)
	at := w.m.Vacancy(r)
	assert.Equal(t, 1500*ms, at, "there is room from %d on, when b is full", at)

	c := circuit("ratio", breaker.Config{})
	c.MaxKeys = 1
	w.at(4 * sec)
	w.ended(w.arrive("succeeds", 4, "", part{c, "a", 1}), breaker.Success)
	assert.Equal(t, w.now, w.m.Vacancy(c), "a success makes room")
	w.ended(w.arrive("fails", 4, "", part{c, "a", 1}), breaker.Failure)
	assert.Equal(t, 33*sec, w.m.Vacancy(c), "there is room when the tenth of the window that has the failure is out of it")

	b := circuit("breaker", breaker.Config{Failures: 5})
	b.MaxKeys = 1
	w.ended(w.arrive("fails", 4, "", part{b, "a", 1}), breaker.Failure)
	at = w.m.Vacancy(b)
	assert.Equal(t, w.now+3600*sec, at,
		"there is room from %d on, want in an hour, when the failure is forgotten", at)
	w.m.Trip(w.now, w.m.Cell(w.now, b, "a"), "")
	at = w.m.Vacancy(b)
	assert.Equal(t, Never, at, "there is room from %d on, and the only breaker is tripped", at)
}

// A call that waits for a ramp has no slots kept for it, and nobody forgets it: it starts when the
// ramp lets it.
func TestAClaimWaitsForNoRamp(t *testing.T) {
	p := standard()
	p.Claim = 1
	w := newWorld(t, p)
	a, b := slots("a", 0, 2), slots("b", 7, 9)
	w.pause(b, sec)
	w.at(sec)
	w.arrive("first", 4, "", b) // all that the ramp lets start for a second
	x, y := w.arrive("x", 4, "", a), w.arrive("y", 4, "", a)
	w.arrive("both", 4, "", a, b)
	w.finish(x) // to the front, where the ramp refuses it
	w.arrive("z", 4, "", a)
	w.sees("first x y z")
	w.finish(y)
	w.at(2*sec - 1)
	w.sees("")
	w.at(2 * sec)
	w.sees("both")
}
