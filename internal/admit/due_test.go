package admit

import (
	"fmt"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/assert"
)

// late lets time pass without a tick, as if the timer were late.
func (w *world) late(now int64) { w.now = now }

// Whatever is due happens before the event that comes, whether the timer has fired or not.
func TestWhatIsDueComesFirst(t *testing.T) {
	for _, x := range []struct {
		name  string
		event func(w *world, k *Class)
		want  string // with the one that was due
	}{
		{"a newcomer of a higher level", func(w *world, k *Class) { w.arrive("new", 8, "", k) }, "waits"},
		{"a newcomer that takes what it can get", func(w *world, k *Class) { w.arrive("new", 8, "", k, within(w.now)) }, "new! waits"},
		{"an end", func(w *world, k *Class) { w.finish(w.calls[0]) }, "waits"},
		{"a cancellation", func(w *world, k *Class) { w.cancel(w.arrive("x", 0, "", slots("other", 0, 1))) }, "x waits"},
		{"a forecast", func(w *world, k *Class) { w.m.Forecast(w.now, w.ticket("f", 0, "", k)); w.collect() }, "waits"},
		{"a report of use", func(w *world, k *Class) { w.m.Settle(w.now, w.calls[0], "", 1); w.collect() }, "waits"},
		{"a judgement", func(w *world, k *Class) { w.m.Judge(w.now, w.calls[0], breaker.Success); w.collect() }, "waits"},
		{"a pause", func(w *world, k *Class) { w.pause(k, w.now+sec) }, "waits"},
		{"a change of the rate", func(w *world, k *Class) { w.m.SetRate(w.now, k, rate(w, 1, sec, 1)); w.collect() }, "waits"},
		{"a change of the policy", func(w *world, k *Class) { w.m.SetPolicy(w.now, standard()); w.collect() }, "waits"},
		{"several changes", func(w *world, k *Class) {
			w.m.Freeze(w.now)
			w.m.Pause(w.now, w.cell(k), w.now+sec)
			w.m.Thaw(w.now)
			w.collect()
		}, "waits"},
		{"a new key", func(w *world, k *Class) {
			keyed := slots("keyed", 2, 1)
			keyed.MaxKeys = 1
			w.m.Cell(w.now, keyed, "x")
			w.collect()
		}, "waits"},
	} {
		for _, by := range []int64{0, 1, 10 * ms} {
			t.Run(fmt.Sprintf("%s, %d ns late", x.name, by), func(t *testing.T) {
				w := newWorld(t, standard())
				k := w.rate("rate", 0, 100, sec, 1)
				w.arrive("first", 4, "", k)
				w.arrive("waits", 0, "batch", k)
				w.sees("first")
				w.late(10*ms + by)
				x.event(w, k)
				w.sees(x.want)
			})
		}
	}
}

// The same at the end of a pause, and of a wait that is over: who waits longer than it may is
// gone before the newcomer asks for its place.
func TestPausesAndWaitsEndBeforeANewcomerIsAsked(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool", 0, 4)
	w.pause(k, sec)
	w.arrive("waits", 0, "", k)
	w.late(sec + 1)
	w.arrive("new", 8, "", k)
	w.sees("waits")

	p := standard()
	p.MaxQueue, p.MaxPerTenant = 1, 1
	w = newWorld(t, p)
	one := slots("one", 0, 1)
	x := w.arrive("runs", 4, "", one)
	w.arrive("late", 4, "", one, within(5))
	w.late(6)
	w.arrive("new", 4, "", one)
	w.sees("runs late!")
	w.finish(x)
	w.sees("new")
}

// A lane that waits has its newcomers wait behind it, also if all cells would let them start.
func TestANewcomerOfAWaitingLaneWaits(t *testing.T) {
	w := newWorld(t, standard())
	k, wide := slots("tool", 0, 2), units("units", 7, 4)
	a, b := w.arrive("a", 4, "", k, wide.of(2)), w.arrive("b", 4, "", k, wide.of(2))
	w.arrive("first", 4, "", k, wide.of(2))
	w.sees("a b")
	w.m.Freeze(w.now) // the slots are back, and nobody has been served yet
	w.m.SetLimit(w.now, k, 9)
	w.m.SetLimit(w.now, wide, 9)
	w.m.frozen = false
	x := w.ticket("second", 4, "", k, wide.of(2))
	if s := w.m.Arrive(w.now, x); s == Running && x.rec.startedAs < 4 {
		t.Errorf("the newcomer started as %d, before the one that waited", x.rec.startedAs)
	}
	w.calls = append(w.calls, x)
	w.collect()
	w.finish(a, b)
}

// A probe that is let through and never runs gives its permit back at once, not after its lease.
func TestAProbeThatNeverRunsIsGivenBack(t *testing.T) {
	w := newWorld(t, standard())
	b := circuit("breaker", breaker.Config{Failures: 1, Cooldown: sec, Lease: 60 * sec})
	w.ended(w.arrive("fails", 4, "", b), breaker.Failure)
	w.at(sec)
	probe := w.arrive("probe", 4, "", b)
	w.arrive("other", 4, "", b)
	w.sees("fails probe other!")
	w.cancel(probe)
	w.finish(w.arrive("next", 4, "", b))
	w.sees("next")
	assert.Equal(t, breaker.Closed, w.cell(b).BreakerState(w.now), "the breaker is in state")
}

// RetryAfter is what is known: nothing of a breaker that somebody has tripped, nor of tokens
// that never come.
func TestNobodyIsToldToRetryAfterNever(t *testing.T) {
	w := newWorld(t, standard())
	b, k := circuit("breaker", breaker.Config{}), slots("tool", 0, 1)
	runs := w.arrive("runs", 4, "", k, b)
	waits := w.arrive("waits", 4, "", k, b)
	w.m.Trip(w.now, w.cell(b), "somebody")
	for w.m.Pending() {
		w.m.Step(w.now)
	}
	w.collect()
	w.refused(waits, BreakerOpen, b, 0)
	w.refused(w.arrive("new", 4, "", k, b), BreakerOpen, b, 0)
	w.finish(runs)

	never := &Class{Name: "shared", Kind: Foreign, Foreign: stuck{}}
	x := w.arrive("bounded", 4, "", never, within(60*sec))
	w.refused(x, TooLong, never, 0)
	y := w.arrive("waits on", 4, "", never)
	w.at(sec)
	assert.Equal(t, Waiting, y.State(), "state: a limiter that will not refill may be changed by whoever shares it")
	w.cancel(y)
}

// stuck is a limiter without tokens.
type stuck struct{}

func (stuck) Wait() int64 { return Never }
func (stuck) Take()       {}
func (stuck) Give(int64)  {}

// An adaptive limit that may be at most smaller is smaller at once, and who does not fit any
// more waits.
func TestAdaptiveWithASmallerMax(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool", 0, 4)
	k.Adaptive = &Adaptive{Min: 4, Max: 8}
	var calls []*Ticket
	for i := range 4 {
		calls = append(calls, w.arrive(fmt.Sprint(i), 4, "", k))
	}
	w.arrive("waits", 4, "", k)
	w.sees("0 1 2 3")
	w.m.SetAdaptive(w.now, k, &Adaptive{Min: 1, Max: 2})
	w.collect()
	assert.Equal(t, int64(2), w.cell(k).Usage(w.now).Limit, "the limit")
	w.finish(calls[0], calls[1], calls[2])
	w.sees("waits")
	got := w.cell(k).Usage(w.now)
	assert.Equal(t, int64(2), got.Used, "slots are taken of %d", got.Limit)
}

// Refusal by estimate counts those of its own and of higher levels ahead, and the rest of a
// pause.
func TestRefuseLateCountsWhatIsAhead(t *testing.T) {
	p := standard()
	p.RefuseLate = true
	for _, c := range []struct {
		level int8
		ahead int
		limit int64
		late  bool
	}{
		{0, 3, 4*sec - 1, true}, // three of a higher level, and its own second
		{0, 3, 4 * sec, false},
		{8, 3, sec, false}, // they are behind it
		{8, 3, sec - 1, true},
		{4, 3, 4*sec - 1, true},
	} {
		w := newWorld(t, p)
		k := slots("tool", 0, 1)
		for range 8 { // so that it is known how long a call takes
			x := w.arrive("x", 4, "", k)
			w.at(w.now + sec)
			w.finish(x)
		}
		w.arrive("runs", 4, "", k)
		for range c.ahead {
			w.arrive("ahead", 4, "", k)
		}
		x := w.arrive("last", c.level, "", k, within(w.now+c.limit))
		if late := x.State() == Refused; late != c.late || late && x.Refusal().Reason != TooLong {
			t.Errorf("%+v: refused: %v", c, late)
		}
	}
	w := newWorld(t, p)
	k := slots("tool", 0, 1)
	w.pause(k, 10*sec)
	w.refused(w.arrive("early", 4, "", k, within(10*sec-1)), TooLong, k, 10*sec)
	x := w.arrive("late", 4, "", k, within(10*sec))
	assert.Equal(t, Waiting, x.State(), "state: it can start as the pause ends")
}
