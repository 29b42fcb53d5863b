package admit

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// semaphore is a weighted one with a line, like that of x/sync. In the line stand others, and at
// most one request of the machine's.
type semaphore struct {
	*world
	k       *Class
	size    int64
	machine int64 // held by the machine
	others  int64
	line    []request
	tries   int // that succeeded
}

type request struct {
	n      int64
	others bool
}

// semaphoreOf is a limit of max over a semaphore of the size.
func (w *world) semaphoreOf(name string, max, size int64) *semaphore {
	s := &semaphore{world: w, size: size}
	s.k = &Class{Name: name, Kind: Slots, Rank: 7, Limit: max, Semaphore: s}
	return s
}

func (s *semaphore) TryAcquire(n int64) bool {
	if len(s.line) > 0 || s.machine+s.others+n > s.size {
		return false
	}
	s.machine += n
	s.tries++
	return true
}

func (s *semaphore) Release(n int64) {
	s.machine -= n
	require.GreaterOrEqual(s, s.machine, int64(0), "more was given back than was held")
}

// other has other code acquire n, or stand in line for them; with less than none it releases.
func (s *semaphore) other(n int64) {
	if n < 0 {
		s.others += n
	} else {
		s.line = append(s.line, request{n, true})
	}
	s.serve()
}

// serve has the machine's request stand in the line, as long as there is one, and serves the line
// while that can be.
func (s *semaphore) serve() {
	s.Helper()
	for {
		s.stand()
		if len(s.line) == 0 {
			return
		}
		r := s.line[0]
		if s.machine+s.others+r.n > s.size {
			return
		}
		s.line = s.line[1:]
		if r.others {
			s.others += r.n
			continue
		}
		s.machine += r.n
		s.m.Obtained(s.now, s.cell(s.k), r.n)
		s.collectFrom()
	}
}

// stand does what the stage does after each decision.
func (s *semaphore) stand() {
	lacks := s.m.Lacks(s.cell(s.k))
	if lacks > 0 && len(s.m.Sought()) == 0 {
		s.Fatal("a call lacks slots of a semaphore and does not seek them")
	}
	for i, r := range s.line {
		if r.others {
			continue
		}
		if r.n == lacks {
			return
		}
		s.line = append(s.line[:i:i], s.line[i+1:]...)
		break
	}
	if lacks > 0 {
		s.line = append(s.line, request{lacks, false})
	}
}

// collectFrom is collect, once the machine's request stands in the line: what checks asks.
func (s *semaphore) collectFrom() {
	s.Helper()
	s.stand()
	s.collect()
	if c := s.cell(s.k); c.taken != c.used || s.machine != c.used || len(s.m.loose) > 0 {
		s.Fatalf("%d of the semaphore are held, %d are taken, %d are used", s.machine, c.taken, c.used)
	}
}

// comes has a call arrive, and serves.
func (s *semaphore) comes(name string, level int8, what ...any) *Ticket {
	s.Helper()
	t := s.ticket(name, level, "", what...)
	switch s.m.Arrive(s.now, t) {
	case Running:
		s.news = append(s.news, name)
		s.calls = append(s.calls, t)
	case Refused:
		s.news = append(s.news, name+"!")
	default:
		s.calls = append(s.calls, t)
	}
	s.collectFrom()
	s.serve()
	return t
}

func (s *semaphore) goes(t *Ticket) {
	s.Helper()
	if t.State() == Running {
		s.m.Finish(s.now, t, 0)
	} else {
		s.m.Cancel(s.now, t)
	}
	s.collectFrom()
	s.serve()
}

func TestSharedSemaphoreIsAskedLast(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 4, 4)
	s.k.Rank = 1
	narrow, rate := slots("narrow", 0, 1), w.rate("rate", 7, 1, sec, 1)
	a := s.comes("a", 4, narrow, rate, s.k)
	s.comes("b", 4, narrow, s.k)
	s.comes("c", 4, rate, s.k)
	w.sees("a")
	assert.Equal(t, 1, s.tries, "asked while something else refused")
	s.goes(a)
	w.at(sec)
	w.sees("b c")
}

// Whoever waits comes before a newcomer, whatever is free by then; before one of a higher level
// it does not, who takes what was acquired for the other.
func TestSharedSemaphoreKeepsTheOrder(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 4, 4)
	s.other(4)
	first := s.comes("first", 4, s.k)
	s.others = 0 // free, but the turn of the line has not come
	s.line = nil
	late := w.ticket("late", 4, "", s.k, of(w.plan())) // of another tool, so it has to ask
	require.Equal(t, Waiting, w.m.Arrive(w.now, late), "a newcomer overtakes who waits")
	require.Equal(t, Waiting, first.State())
	s.others = 4
	w.calls = append(w.calls, late)
	s.collectFrom()
	s.comes("high", 8, s.k)
	w.sees("")
	for range 3 {
		s.other(-1)
	}
	w.sees("high first late")
}

// A call that needs many is not passed by later ones that need few.
func TestSharedSemaphoreServesWideCallsInOrder(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 4, 4)
	s.other(3)
	s.comes("wide", 4, s.k.of(3))
	s.comes("small", 4, s.k)
	w.sees("")
	s.other(-1)
	w.sees("")
	s.other(-1)
	w.sees("wide")
	s.other(-1)
	w.sees("small")
}

// If the first leaves, less may be needed than its turn was for, or more.
func TestSharedSemaphoreGivesBackWhatNobodyNeeds(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 4, 4)
	s.other(3)
	wide := s.comes("wide", 4, s.k.of(3))
	small := s.comes("small", 4, s.k)
	s.goes(wide)
	w.sees("small")
	wide = s.comes("wide", 4, s.k.of(2))
	require.Len(t, s.line, 1)
	s.goes(wide)
	assert.Empty(t, s.line, "in line for nobody")
	w.m.Obtained(w.now, w.cell(s.k), 0) // what comes too late
	s.goes(small)
	assert.Zero(t, s.machine, "held")
	w.rest(s.k)
}

// A chain of nested calls holds one slot.
func TestSharedSemaphoreCountsChains(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 1, 1)
	outer := s.comes("outer", 4, s.k)
	s.other(1)
	inner := s.comes("inner", 4, s.k, under(outer))
	w.sees("outer inner")
	s.goes(outer) // what it held passes to the inner one
	assert.EqualValues(t, 1, s.machine)
	s.goes(inner)
	assert.EqualValues(t, 1, s.others, "others have their turn")
	w.rest(s.k)
}

// A limit that refuses does not wait for the semaphore either.
func TestSharedSemaphoreRefuses(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 2, 2)
	s.k.Refuse = true
	s.other(1)
	s.comes("a", 4, s.k)
	b := s.comes("b", 4, s.k)
	w.refused(b, Saturated, s.k, 0)
	wide := s.comes("wide", 4, s.k.of(3))
	w.refused(wide, TooWide, s.k, 0)
	assert.Empty(t, s.line)
}

// A forecast takes nothing.
func TestSharedSemaphoreForecast(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 2, 2)
	f := w.m.Forecast(w.now, w.ticket("a", 4, "", s.k))
	assert.Nil(t, f.By)
	assert.Zero(t, s.machine, "held")
	s.other(2)
	f = w.m.Forecast(w.now, w.ticket("b", 4, "", s.k))
	assert.Equal(t, w.cell(s.k), f.By)
}

// When there are slots for several, those who came to it from a limit of their own that was full
// start before those of another tool that came later.
func TestSharedSemaphoreKeepsTheOrderBesideOtherLimits(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 4, 4)
	one, two := slots("one", 0, 2), slots("two", 0, 9)
	x := s.comes("x", 4, one.of(2), s.k)
	s.other(3)
	s.other(1)
	s.comes("a", 4, one, s.k)
	b := w.ticket("b", 4, "else", one, s.k)
	require.Equal(t, Waiting, w.m.Arrive(w.now, b))
	w.calls = append(w.calls, b)
	s.comes("c", 4, two, s.k)
	s.goes(x)
	w.sees("x")
	s.other(-4)
	w.sees("a b c")
}

// While those who wait for it could not start anyway, nobody stands in its line: another of their
// limits is full, or it is paused.
func TestSharedSemaphoreIsNotWaitedForInVain(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 4, 4)
	full := slots("full", 7, 1)
	s.other(4)
	s.comes("a", 4, full, s.k)
	b := s.comes("b", 3, full, s.k)
	require.Len(t, s.line, 1)
	x := s.comes("x", 4, full)
	w.sees("x")
	s.other(-4)
	assert.Empty(t, s.line, "a waits for the limit, and stands for b")
	assert.Equal(t, w.cell(s.k), b.WaitsAt(), "b has not been asked")
	w.sees("")
	s.goes(x)
	w.sees("a")

	s.other(4)
	c := s.comes("c", 4, s.k)
	require.Len(t, s.line, 2)
	s.line = nil
	w.m.Pause(w.now, w.cell(s.k), sec)
	s.collectFrom()
	assert.Empty(t, s.line, "it is paused")
	s.others = 0
	for w.now < sec {
		w.now = w.m.Due()
		w.m.Tick(w.now)
		s.collectFrom()
	}
	s.serve()
	assert.Equal(t, Running, c.State())
}

// A slot of the semaphore that has come is a release: a limit that stalls is told again.
func TestSharedSemaphoreThatStallsIsTold(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 2, 2)
	s.other(2)
	s.comes("a", 4, s.k)
	s.comes("b", 4, s.k)
	w.look(61 * sec)
	assert.Equal(t, []string{"shared"}, w.stalled())
	s.other(-1)
	w.sees("a")
	w.look(120 * sec)
	assert.Empty(t, w.stalled())
	w.look(130 * sec)
	assert.Equal(t, []string{"shared"}, w.stalled())
}

// A call that claims waits for the semaphore where all else is kept for it, before others there;
// and for its limit if that cannot be kept.
func TestSharedSemaphoreIsClaimed(t *testing.T) {
	p := standard()
	p.Claim = 1
	w := newWorld(t, p)
	s := w.semaphoreOf("shared", 1, 4)
	busy := slots("busy", 0, 2)
	x, y := s.comes("x", 4, busy), s.comes("y", 4, busy)
	s.other(4)
	both := s.comes("both", 4, busy, s.k)
	w.m.fail(both.lane) // as after many failures at other fronts
	require.True(t, both.lane.claimed)
	s.goes(x)
	assert.Equal(t, w.cell(s.k), both.WaitsAt(), "one of busy is kept for it")
	s.comes("first in order", 8, s.k)
	assert.Equal(t, []request{{1, false}}, s.line)
	w.m.SetLimit(w.now, busy, 1)
	s.collectFrom()
	assert.Equal(t, w.cell(busy), both.WaitsAt(), "what was kept for it is gone")
	assert.Empty(t, s.line, "in line for a call that could not start")
	s.goes(y)
	s.other(-4)
	w.sees("x y both")
}

// Calls that need a limit as well, which others keep busy, start in the end: they claim it.
func TestSharedSemaphoreStarvesNobody(t *testing.T) {
	w := newWorld(t, standard())
	s := w.semaphoreOf("shared", 2, 2)
	busy := slots("busy", 0, 1)
	run := s.comes("", 4, busy)
	s.other(1)
	hold := s.comes("", 4, s.k)
	both := s.comes("both", 4, busy, s.k)
	for i := range 100 {
		next := s.comes("", 4, busy)
		if both.State() == Running {
			assert.Less(t, i, 20)
			return
		}
		s.goes(run)
		run = next
		again := s.comes("", 4, s.k)
		s.goes(hold)
		hold = again
		if next.State() != Running && both.State() != Running {
			t.Fatal("nobody runs")
		}
		if both.State() == Running {
			return
		}
	}
	t.Error("never started")
}

// Whatever comes and goes, the semaphore is never held beyond its size, nothing is kept of it
// that no call holds, calls of one level and width start as they came, and nothing is left.
func TestSharedSemaphoreModel(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := standard()
		p.Ordered = r.IntN(3) > 0
		w := newWorld(t, p)
		size := 1 + r.Int64N(4)
		s := w.semaphoreOf("shared", 1+r.Int64N(size), size)
		other := slots("other", uint8(r.IntN(8)), 1+r.Int64N(3))
		tokens := w.rate("tokens", 3, 1+r.Int64N(3), sec, 1)
		kinds := [][]any{{s.k}, {other, s.k}, {tokens, s.k}, {other}, {s.k.of(min(2, s.k.Limit))}, {other, tokens, s.k}}
		plans := []*Plan{{Tool: 1 << 40, Client: w.me}, {Tool: 1 << 41, Client: w.me}}
		var live []*Ticket
		var plain [3][]*Ticket // those that need one slot and nothing else, by level, as they came
		for i := range 150 {
			switch r.IntN(8) {
			case 0:
				level := int8(r.IntN(3))
				t := s.comes(fmt.Sprint(i), level, s.k, of(plans[r.IntN(2)]))
				live, plain[level] = append(live, t), append(plain[level], t)
			case 1, 2:
				what := kinds[r.IntN(len(kinds))]
				if len(live) > 0 && r.IntN(4) == 0 {
					if up := live[r.IntN(len(live))]; up.State() == Running {
						what = append([]any{under(up)}, what...)
					}
				}
				live = append(live, s.comes(fmt.Sprint(i), int8(r.IntN(3)), what...))
			case 3, 4, 5:
				if len(live) > 0 {
					j := r.IntN(len(live))
					t := live[j]
					live = append(live[:j:j], live[j+1:]...)
					if t.State() == Running || t.State() == Waiting {
						s.goes(t)
					}
				}
			case 6:
				if s.others > 0 {
					s.other(-1)
				} else if len(s.line) < 3 {
					s.other(1 + r.Int64N(size))
				}
			default:
				w.now += r.Int64N(sec)
				w.m.Tick(w.now)
				s.collectFrom()
				s.serve()
			}
			for _, list := range plain {
				waits := false
				for _, x := range list {
					waits = waits || x.State() == Waiting
					if waits && x.State() == Running {
						t.Fatalf("seed %d: %v has overtaken an earlier call of its level", seed, x.Owner)
					}
				}
			}
			if s.machine+s.others > s.size {
				t.Fatalf("seed %d: %d are held by calls and %d by others, of %d", seed, s.machine, s.others, s.size)
			}
		}
		for i := 0; len(live) > 0 || s.others > 0; i++ {
			if i > 10_000 {
				t.Fatalf("seed %d: %d calls are left, %d waiting", seed, len(live), w.m.Waiting())
			}
			if s.others > 0 {
				s.other(-s.others)
			}
			w.now += sec
			w.m.Tick(w.now)
			s.collectFrom()
			s.serve()
			for j := len(live) - 1; j >= 0; j-- {
				if live[j].State() == Running {
					s.goes(live[j])
				}
				if x := live[j].State(); x != Running && x != Waiting {
					live = append(live[:j:j], live[j+1:]...)
				}
			}
		}
		w.at(w.now + 100*sec)
		w.rest(s.k, other)
		if t.Failed() || s.machine != 0 || len(s.line) > 0 {
			t.Fatalf("seed %d: %d are held in the end, %d stand in line", seed, s.machine, len(s.line))
		}
	}
}
