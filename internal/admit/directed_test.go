package admit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A wide head that cannot start must not stand for the narrower lanes behind it.
func TestMistake_WideRepresentativeHidesNarrowLanes(t *testing.T) {
	w := newWorld(t, standard())
	tool, mem := slots("tool a", 0, 1), units("memory", 3, 4)
	h := w.arrive("h", 2, "", tool, mem)
	o := w.arrive("o", 2, "", mem.of(2))
	wide := w.arrive("wide", 2, "", tool, mem.of(4))
	n1 := w.arrive("n1", 2, "", tool, mem)
	n2 := w.arrive("n2", 2, "", tool, mem)
	w.sees("h o")
	w.finish(h) // wide is first at the tool, and too wide for the memory that is free
	w.sees("n1")
	w.finish(n1)
	w.sees("n2")
	w.finish(n2)
	w.sees("")
	w.finish(o)
	w.sees("wide")
	w.finish(wide)
	w.rest(tool, mem)
}

// The same where one lane may stand for many: all need one slot of the full wide limit.
func TestMistake_RepresentativeThatLeaves(t *testing.T) {
	for _, how := range []string{"cancelled", "late", "started"} {
		w := newWorld(t, standard())
		tool, all := slots("tool a", 0, 3), slots("global", 3, 3)
		var hs []*Ticket
		for i := range 3 {
			hs = append(hs, w.arrive(fmt.Sprint("h", i), 2, "", tool, all))
		}
		a := w.arrive("a", 2, "a", tool, all, within(5))
		b := w.arrive("b", 2, "b", tool, all)
		c := w.arrive("c", 2, "c", tool, all)
		w.finish(hs[0])
		w.sees("h0 h1 h2 a")
		x := w.arrive("x", 8, "x", all)
		w.finish(a) // b is first at the tool, x at the global limit: b stands there for c
		w.sees("x")
		switch how {
		case "cancelled":
			w.cancel(b)
			w.finish(x)
			w.sees("c")
			w.finish(c)
		case "late":
			w.at(6)
			w.finish(x)
			w.sees("b")
			w.finish(b)
			w.sees("c")
			w.finish(c)
		default:
			w.finish(x)
			w.sees("b")
			w.finish(hs[1])
			w.sees("c")
			w.finish(b, c)
			hs[1] = hs[2]
		}
		w.finish(hs[2])
		if how != "started" {
			w.finish(hs[1])
		}
		w.rest(tool, all)
	}
}

// claimed returns a world in which both holds the one claim, waits for y and has x kept.
func claimed(t *testing.T, opts ...any) (w *world, x, y *Class, both, g *Ticket) {
	p := standard()
	p.Claim = 1
	w = newWorld(t, p)
	x, y = slots("x", 0, 1), slots("y", 1, 1)
	h := w.arrive("h", 2, "", x)
	g = w.arrive("g", 2, "", y)
	both = w.arrive("both", 2, "", append([]any{x, y}, opts...)...)
	w.finish(h)
	w.sees("h g")
	require.Len(t, w.m.claims, 1, "both does not hold the claim")
	require.Same(t, both, w.m.claims[0].head, "both does not hold the claim")
	return w, x, y, both, g
}

// Whatever frees what the claim lacks starts its holder at that instant.
func TestMistake_ClaimHolderNeverAskedAgain(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(w *world, x, y *Class, g *Ticket)
	}{
		{"an end", func(w *world, x, y *Class, g *Ticket) { w.finish(g) }},
		{"a failure", func(w *world, x, y *Class, g *Ticket) { w.ended(g, breaker.Failure) }},
		{"a cancelled start", func(w *world, x, y *Class, g *Ticket) { w.cancel(g) }},
		{"a larger limit", func(w *world, x, y *Class, g *Ticket) { w.limit(y, 2) }},
		{"an end in a pause that is lifted", func(w *world, x, y *Class, g *Ticket) {
			w.pause(y, 10)
			w.sees("late") // nothing is kept for who waits for an instant
			w.finish(g)
			w.pause(y, 0)
		}},
		{"the end of a pause", func(w *world, x, y *Class, g *Ticket) {
			w.pause(x, 10)
			w.finish(g)
			w.at(9)
			w.sees("z")
			w.at(10)
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w, x, y, both, g := claimed(t)
			w.arrive("z", 2, "", y)
			late := w.arrive("late", 8, "", x)
			require.Equal(t, Waiting, late.State(), "late took the slot that is kept for the claim")
			c.do(w, x, y, g)
			if both.State() != Running && late.State() != Running {
				t.Errorf("neither started: %v", w.news)
			}
			for len(w.calls) > 0 {
				n := len(w.calls)
				for _, c := range w.calls {
					if c.State() == Running {
						w.finish(c)
						break
					}
				}
				if len(w.calls) == n {
					t.Fatalf("%d calls wait for nothing", n)
				}
			}
			w.rest(x, y)
		})
	}
}

func TestMistake_ClaimHolderStartsFirst(t *testing.T) {
	w, x, y, both, g := claimed(t)
	z := w.arrive("z", 8, "", y) // first in y's order; the claim goes first
	w.finish(g)
	w.sees("both")
	w.finish(both)
	w.sees("z")
	w.finish(z)
	w.rest(x, y)
}

// A claim that ends gives others what was kept for it, at that instant.
func TestMistake_ClaimEndsWithoutMarking(t *testing.T) {
	for _, c := range []struct {
		what, sees string
		do         func(w *world, x, y *Class, both *Ticket)
	}{
		{"cancelled", "late", func(w *world, x, y *Class, both *Ticket) { w.cancel(both) }},
		{"too late", "both! late", func(w *world, x, y *Class, both *Ticket) { w.at(100) }},
		{"paused", "late", func(w *world, x, y *Class, both *Ticket) { w.pause(y, 50) }},
		{"shrunk", "late both!", func(w *world, x, y *Class, both *Ticket) { w.limit(y, 0) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			w, x, y, both, _ := claimed(t, within(99))
			w.arrive("late", 0, "", x)
			w.sees("")
			c.do(w, x, y, both)
			w.sees(c.sees)
		})
	}
}

// An ended claim of a rate that has run dry is dropped as well: nothing idles for a token.
func TestMistake_ClaimWaitsForATokenWithKeptSlots(t *testing.T) {
	p := standard()
	p.Claim = 1
	w := newWorld(t, p)
	x, y, r := slots("x", 0, 1), slots("y", 1, 1), w.rate("rate", 2, 1, sec, 1)
	h, g := w.arrive("h", 2, "", x), w.arrive("g", 2, "", y)
	both := w.arrive("both", 2, "", x, y, r)
	w.finish(h)
	late := w.arrive("late", 2, "", x)
	w.sees("h g") // x is kept
	tok := w.arrive("tok", 2, "", r)
	w.sees("tok late") // the token is gone until 1 s
	w.finish(tok, late, g)
	w.sees("")
	w.at(sec)
	w.sees("both")
	w.finish(both)
	w.rest(x, y)
}

// Who becomes first at a bucket is looked at when it does, not when the one before it was due.
func TestMistake_NewBestAtABucket(t *testing.T) {
	t.Run("the first leaves", func(t *testing.T) {
		w := newWorld(t, standard())
		r := w.rate("rate", 0, 1, sec, 4)
		w.arrive("a", 2, "", r.of(3))
		big := w.arrive("big", 2, "", r.of(4))
		w.arrive("small", 2, "", r)
		w.sees("a")
		w.cancel(big)
		w.sees("small")
	})
	t.Run("the first is late", func(t *testing.T) {
		w := newWorld(t, standard())
		r := w.rate("rate", 0, 1, sec, 4)
		w.arrive("a", 2, "", r.of(3))
		w.arrive("big", 2, "", r.of(4), within(3*sec))
		w.arrive("other", 2, "", r.of(4))
		w.arrive("small", 5, "x", r.of(2))
		w.sees("a")
		w.at(sec)
		w.sees("small")
		w.at(3*sec - 1)
		w.sees("")
		w.at(3 * sec)
		w.sees("big!")
		w.at(5*sec - 1)
		w.sees("")
		w.at(5 * sec)
		w.sees("other")
	})
	t.Run("a cheaper one comes first", func(t *testing.T) {
		w := newWorld(t, standard())
		r := w.rate("rate", 0, 1, sec, 4)
		w.arrive("a", 2, "", r.of(3))
		w.arrive("big", 1, "", r.of(4)) // due at 3 s
		w.arrive("small", 5, "", r.of(2))
		w.sees("a")
		w.at(sec - 1)
		w.sees("")
		w.at(sec)
		w.sees("small")
		w.at(5*sec - 1)
		w.sees("")
		w.at(5 * sec)
		w.sees("big")
	})
	t.Run("a dearer one comes first", func(t *testing.T) {
		w := newWorld(t, standard())
		r := w.rate("rate", 0, 1, sec, 4)
		w.arrive("a", 2, "", r.of(4))
		w.arrive("small", 1, "", r) // due at 1 s
		w.arrive("big", 5, "", r.of(4))
		w.sees("a")
		w.at(4*sec - 1)
		w.sees("")
		w.at(4 * sec)
		w.sees("big")
		w.at(5 * sec)
		w.sees("small")
	})
	t.Run("one comes from another cell", func(t *testing.T) {
		w := newWorld(t, standard())
		k, r := slots("tool a", 0, 1), w.rate("rate", 1, 1, sec, 4)
		h := w.arrive("h", 2, "", k)
		w.arrive("a", 2, "", r.of(3))
		w.arrive("big", 2, "", r.of(4))
		w.arrive("urgent", 5, "", k, r)
		w.sees("h a")
		w.finish(h)
		w.sees("urgent")
		w.at(4 * sec)
		w.sees("big")
	})
	t.Run("the rate grows", func(t *testing.T) {
		w := newWorld(t, standard())
		r := w.rate("rate", 0, 1, sec, 1)
		w.arrive("a", 2, "", r)
		w.arrive("b", 2, "", r)
		fast := w.rate("", 0, 10, sec, 1).Rate
		w.at(sec / 2)
		w.m.SetRate(w.now, r, fast)
		w.collect()
		w.sees("a")
		w.at(sec/2 + 50*ms - 1)
		w.sees("")
		w.at(sec/2 + 50*ms)
		w.sees("b")
	})
}

// Buckets whose orders disagree must not send heads back and forth for ever, nor without end
// in one event.
func TestMistake_TwoBucketOrdersChaseEachOther(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 2))
		p := standard()
		p.Claim = 1 + rng.IntN(4)
		w := newWorld(t, p)
		var rs []*Class
		for i := range 3 {
			rs = append(rs, w.rate(fmt.Sprint("r", i), uint8(i/2), int64(1+rng.IntN(9)), 1000, int64(3+rng.IntN(3))))
		}
		k := slots("tool a", 0, int64(1+rng.IntN(3)))
		started, worst := 0, uint64(0)
		for i := range 600 {
			before := w.m.Work().Examined
			w.at(w.now + int64(rng.IntN(200)))
			var what []any
			for _, r := range rs {
				if rng.IntN(2) == 0 {
					what = append(what, r.of(int64(1+rng.IntN(3))))
				}
			}
			if rng.IntN(3) == 0 {
				what = append(what, k)
			}
			w.arrive(fmt.Sprint(i), int8(rng.IntN(3)), fmt.Sprint(rng.IntN(3)), what...)
			if n := len(w.calls); n > 0 {
				if c := w.calls[rng.IntN(n)]; c.State() == Running {
					w.finish(c)
				}
			}
			lanes := uint64(len(w.m.all) + 1)
			worst = max(worst, (w.m.Work().Examined-before)/lanes)
		}
		for range 100_000 {
			if len(w.calls) == 0 {
				break
			}
			for _, c := range w.calls {
				if c.State() == Running {
					w.finish(c)
					started++
					break
				}
			}
			if w.m.Due() != Never {
				w.at(w.m.Due())
			}
		}
		w.rest(append(rs[:0:0], k)...)
		if started == 0 || worst > 200 {
			t.Errorf("seed %d: %d ended, at most %d looks per lane and step", seed, started, worst)
		}
		require.False(t, t.Failed(), "seed %d", seed)
	}
}

// A head that was set aside for its width starts when a pause ends, too.
func TestMistake_PauseEndNotArmedForHeadsAside(t *testing.T) {
	w := newWorld(t, standard())
	k := units("units", 0, 4)
	h, i := w.arrive("h", 2, "", k.of(2)), w.arrive("i", 2, "", k.of(2))
	wide := w.arrive("wide", 2, "", k.of(4))
	w.finish(h) // wide is set aside
	w.sees("h i")
	w.pause(k, 10)
	w.finish(i)
	w.sees("")
	assert.Equal(t, int64(10), w.m.Due(), "due at")
	w.at(9)
	w.sees("")
	w.at(10)
	w.sees("wide")
	w.finish(wide)
	w.rest(k)
}

func TestMistake_PauseEndNotArmedWhileEmpty(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	w.pause(k, 10)
	a := w.arrive("a", 2, "", k)
	w.at(9)
	w.pause(k, 20) // longer
	w.at(19)
	w.sees("")
	w.at(20)
	w.sees("a")
	w.finish(a)
	w.rest(k)
}

// Who fills the queue gives way in it, not who comes last or has little.
func TestMistake_ShedHitsTheLightTenant(t *testing.T) {
	p := standard()
	p.Shed, p.MaxQueue, p.Weights = true, 34, map[string]int{"heavy": 4}
	w := newWorld(t, p)
	k := slots("tool a", 0, 1)
	h := w.arrive("h", 2, "flood", k)
	for i := range 34 {
		w.arrive(fmt.Sprint("f", i), 2, "flood", k)
	}
	w.sees("h")
	w.arrive("f34", 2, "flood", k) // not in its own favour
	w.sees("f34!")
	for i := range 17 {
		w.arrive(fmt.Sprint("l", i), 2, "light", k)
		w.sees(fmt.Sprintf("f%d!", 33-i)) // the newest of the flood
	}
	w.arrive("l17", 2, "light", k) // seventeen each
	w.sees("l17!")                 // would be the heaviest itself
	w.arrive("v0", 2, "heavy", k)
	w.arrive("v1", 2, "heavy", k)
	w.arrive("v2", 2, "heavy", k)
	w.arrive("v3", 2, "heavy", k)
	assert.Len(t, w.news, 4, "calls gave way to the heavy tenant: %v", w.news)
	w.news = nil
	w.arrive("u", 5, "flood", k) // a higher level, whoever it is
	assert.Len(t, w.news, 1, "%v gave way to a higher level", w.news)
	w.news = nil
	w.finish(h)
	w.sees("u")
}

// What fills the queue has to be one's own to be refused for it: each tool and each tenant has
// a few places whoever else waits, and a queue smaller than that as many as it holds.
func TestOneToolCannotFillTheQueueForOthers(t *testing.T) {
	for _, shed := range []bool{false, true} {
		for _, c := range []struct{ queue, places int }{{50, 16}, {16, 16}, {5, 5}, {1, 1}} {
			t.Run(fmt.Sprintf("queue %d, shed %v", c.queue, shed), func(t *testing.T) {
				p := standard()
				p.MaxQueue, p.MaxPerTenant, p.Shed = c.queue, c.queue, shed
				w := newWorld(t, p)
				k, slow, quick := slots("all", 7, 1), slots("slow", 0, 9), slots("quick", 0, 9)
				other := NewClient()
				elsewhere := &Plan{Tool: 77, Client: other}
				w.arrive("h", 4, "", k, slow)
				w.sees("h")
				fill := func(name string, n int, level int8, tenant string, what ...any) {
					t.Helper()
					for range n {
						w.arrive(name, level, tenant, what...)
					}
					w.sees("")
					w.arrive(name, level, tenant, what...)
					w.sees(name + "!")
				}
				fill("s", c.queue, 4, "", k, slow)
				fill("low", 0, 3, "", k, slow)
				fill("q", c.places, 4, "", k, quick)
				if !shed { // else the heavy tenant gives way
					fill("t", c.places, 4, "tenant", k, slow)
				}
				fill("e", c.queue, 4, "", k, slow, of(elsewhere))
				if got, want := w.me.Waiting()+other.Waiting(), w.m.Waiting(); got != want {
					t.Errorf("%d wait, the machine says %d", got, want)
				}
			})
		}
	}
}

// The places of a tool are its own, however often its policy changes meanwhile.
func TestNewPoliciesOpenNoMorePlaces(t *testing.T) {
	p := standard()
	p.MaxQueue, p.MaxPerTenant = 2, 2
	w := newWorld(t, p)
	k := slots("all", 7, 1)
	w.arrive("h", 4, "", k)
	for range 2 {
		w.arrive("q", 4, "", k)
	}
	w.sees("h")
	for range 3 {
		w.arrive("n", 4, "", k, of(&Plan{Tool: 1, Client: w.me})) // later plans of the tool
		w.sees("n!")
	}
}

// A pause that has ended has left one token, whether anybody has come since or not.
func TestALiftAfterAPauseGivesNoTokens(t *testing.T) {
	for _, looked := range []bool{false, true} {
		w := newWorld(t, standard())
		k := w.rate("k", 0, 1, sec, 5)
		c := w.cell(k)
		w.m.Pause(0, c, sec)
		if w.now = sec; looked {
			c.Usage(w.now)
		}
		w.m.Lift(w.now, c)
		assert.Equal(t, int64(4), c.Usage(w.now).Used, "looked at %v: of 5 tokens are used", looked)
	}
}

// A breaker that is tripped when its cooldown is over refuses at once who waits elsewhere.
func TestATripAfterTheCooldownRefusesWhoWaits(t *testing.T) {
	w := newWorld(t, standard())
	br, k := circuit("br", breaker.Config{Failures: 1, Cooldown: sec}), slots("k", 0, 1)
	first := w.arrive("first", 4, "", br)
	w.arrive("holder", 4, "", k)
	w.m.Finish(w.now, first, breaker.Failure)
	w.now = sec
	w.arrive("waits", 4, "", br, k)
	w.sees("first holder")
	w.m.Trip(w.now, w.cell(br), "test")
	w.m.Step(w.now)
	w.collect()
	w.sees("waits!")
}

// A throttle opens no breaker, but one that is open stays so for as long, and one that opens before its end.
func TestAThrottleKeepsABreakerOpen(t *testing.T) {
	w := newWorld(t, standard())
	br := circuit("br", breaker.Config{Failures: 1, Cooldown: 3 * sec})
	w.m.Throttle(w.now, w.cell(br), 10*sec)
	first := w.arrive("first", 4, "", br)
	w.sees("first")
	w.at(sec)
	w.ended(first, breaker.Failure)
	w.refused(w.arrive("x", 4, "", br), BreakerOpen, br, 9*sec)
	w.m.Throttle(w.now, w.cell(br), 5*sec)
	w.refused(w.arrive("x", 4, "", br), BreakerOpen, br, 9*sec)
	w.at(2 * sec)
	w.m.Throttle(w.now, w.cell(br), 20*sec)
	w.refused(w.arrive("x", 4, "", br), BreakerOpen, br, 18*sec)
	w.at(20*sec - 1)
	w.refused(w.arrive("x", 4, "", br), BreakerOpen, br, 1)
	w.at(20 * sec)
	w.news = nil
	probe := w.arrive("probe", 4, "", br)
	w.sees("probe")
	w.m.Throttle(w.now, w.cell(br), 50*sec) // while it is half-open
	w.ended(probe, breaker.Success)
	w.finish(w.arrive("closed", 4, "", br))
	w.sees("closed")
	w.m.Reset(w.now, w.cell(br), "test") // takes that back
	w.ended(w.arrive("last", 4, "", br), breaker.Failure)
	w.refused(w.arrive("x", 4, "", br), BreakerOpen, br, 3*sec)
}

// A breaker that is throttled when its cooldown is over refuses at once who waits elsewhere.
func TestAThrottleAfterTheCooldownRefusesWhoWaits(t *testing.T) {
	w := newWorld(t, standard())
	br, k := circuit("br", breaker.Config{Failures: 1, Cooldown: sec}), slots("k", 0, 1)
	first := w.arrive("first", 4, "", br)
	w.arrive("holder", 4, "", k)
	w.m.Finish(w.now, first, breaker.Failure)
	w.now = sec
	x := w.arrive("waits", 4, "", br, k)
	w.sees("first holder")
	w.m.Throttle(w.now, w.cell(br), 5*sec)
	require.True(t, w.m.Pending())
	w.m.Step(w.now)
	w.collect()
	w.refused(x, BreakerOpen, br, 4*sec)
}

// A bound of tenants above that of the queue holds for the places on top of the queue.
func TestAWideBoundOfTenantsHolds(t *testing.T) {
	p := standard()
	p.MaxQueue, p.MaxPerTenant = 2, 3
	w := newWorld(t, p)
	k := slots("all", 7, 1)
	w.arrive("h", 4, "x", k)
	w.sees("h")
	for i, want := range []string{"", "", "", "q!"} {
		w.arrive("q", 4, "x", k, of(&Plan{Tool: uint64(10 + i), Client: w.me}))
		w.sees(want)
	}
}

// Calls that came before and after a change of their tool's policy wait in one line.
func TestOneLineForAllPoliciesOfATool(t *testing.T) {
	w := newWorld(t, standard())
	narrow, wide := slots("narrow", 0, 1), slots("wide", 7, 2)
	w.arrive("h", 4, "", narrow, wide)
	w.arrive("g", 4, "", wide)
	w.sees("h g")
	first := w.arrive("1", 4, "", narrow, wide)
	w.arrive("2", 4, "", narrow, wide, of(&Plan{Tool: first.Plan.Tool, Client: w.me}))
	n := w.m.LaneCount()
	assert.Equal(t, 1, n, "they wait in %d lines", n)
}

func TestMistake_NewestFirst(t *testing.T) {
	w := newWorld(t, standard())
	x, y, all := slots("x", 0, 9), slots("y", 0, 9), slots("global", 3, 1)
	h := w.arrive("h", 2, "", all)
	want := ""
	for i := range 12 {
		what := []any{all}
		if i%3 == 0 {
			what = append(what, x)
		} else if i%3 == 1 {
			what = append(what, y)
		}
		w.arrive(fmt.Sprint(i), 2, "", what...)
		want += fmt.Sprint(" ", i)
	}
	w.news = nil
	w.finish(h)
	for len(w.calls) > 0 {
		for _, c := range w.calls {
			if c.State() == Running {
				w.finish(c)
				break
			}
		}
	}
	w.sees(want[1:])
	w.rest(x, y, all)
}

func TestPromise01_AWaitingCallHoldsNothing(t *testing.T) {
	w := newWorld(t, standard())
	x, y, r := slots("x", 0, 1), slots("y", 1, 1), w.rate("rate", 2, 1, sec, 1)
	b := circuit("breaker", breaker.Config{})
	h := w.arrive("h", 2, "", y)
	wait := w.arrive("wait", 8, "", b, x, y, r)
	w.sees("h")
	w.holds(x, 0)
	c := w.cell(r)
	assert.True(t, c.bucket.Full(w.now), "a waiting call took a token")
	assert.Zero(t, w.cell(b).calls, "a waiting call has a permit of the breaker")
	a := w.arrive("a", 0, "", x, r) // what the other needs is free for others
	w.sees("a")
	w.finish(h, a)
	w.sees("")
	w.at(sec - 1)
	w.sees("")
	w.at(sec)
	w.sees("wait")
	w.finish(wait)
	w.rest(x, y, b)
}

// Whichever cell refuses, nothing is taken of the others.
func TestPromise02_AllOrNothing(t *testing.T) {
	for refuser := range 4 {
		w := newWorld(t, standard())
		ks := []*Class{slots("a", 0, 2), slots("b", 1, 2), w.rate("r", 1, 2, sec, 2), slots("c", 2, 2)}
		block := []*Ticket{w.arrive("h0", 2, "", ks[refuser]), w.arrive("h1", 2, "", ks[refuser])}
		w.news = nil
		want := ""
		for i := range 5 {
			w.arrive(fmt.Sprint(i), 2, "", ks[0], ks[1], ks[2], ks[3])
		}
		for i, k := range ks {
			c := w.cell(k)
			if taken := c.count().used > 0 || !c.bucket.Full(w.now); taken != (i == refuser) {
				t.Errorf("%s refuses, and at %s: used %d, full %v", ks[refuser].Name, k.Name, c.count().used, c.bucket.Full(w.now))
			}
		}
		w.sees(want)
		if ks[refuser].Kind == Tokens {
			w.at(sec / 2)
			w.sees("0")
			w.at(sec)
			w.sees("1")
		} else {
			w.finish(block...)
			w.sees("0 1")
		}
		for _, k := range ks {
			if k.Kind == Slots && (k != ks[refuser] || refuser != 2) && w.cell(k).used != 2 {
				t.Errorf("%s: used %d, want 2", k.Name, w.cell(k).used)
			}
		}
	}
}

// Never more than the limit, also while it shrinks and grows.
func TestPromise03_LimitUnderResize(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 8)
	for i := range 20 {
		w.arrive(fmt.Sprint(i), 2, "", k)
	}
	w.sees("0 1 2 3 4 5 6 7")
	w.limit(k, 2)
	for i := range 6 {
		w.finish(w.calls[0])
		w.holds(k, int64(7-i))
		w.sees("")
	}
	w.finish(w.calls[0]) // below 2
	w.sees("8")
	w.holds(k, 2)
	w.limit(k, 5)
	w.sees("9 10 11")
	w.limit(k, 0) // nobody can ever start
	w.sees("12! 13! 14! 15! 16! 17! 18! 19!")
}

func TestPromise03_RandomResize(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t, standard())
		k := units("tool a", 0, 4)
		limit := int64(4)
		for i := range 500 {
			before := w.cell(k).used
			switch rng.IntN(5) {
			case 0, 1:
				w.arrive(fmt.Sprint(i), int8(rng.IntN(Levels)), fmt.Sprint(rng.IntN(3)), k.of(1+rng.Int64N(3)))
			case 2, 3:
				if n := len(w.calls); n > 0 {
					if c := w.calls[rng.IntN(n)]; c.State() == Running {
						w.finish(c)
					} else {
						w.cancel(c)
					}
				}
			default:
				limit = 1 + rng.Int64N(8)
				w.limit(k, limit)
			}
			held := int64(0)
			for _, c := range w.calls {
				if c.State() == Running {
					held += c.needs.list[0].N
				}
			}
			if used := w.cell(k).used; used != held || used > limit && used > before {
				t.Fatalf("seed %d, event %d: used %d (before %d), held %d, limit %d", seed, i, used, before, held, limit)
			}
			w.news = nil
		}
	}
}

// No capacity idles: one wide end starts as many narrow ones as fit, at that instant, across lanes.
func TestPromise04_WorkConserving(t *testing.T) {
	w := newWorld(t, standard())
	k, tool := units("units", 3, 4), slots("tool a", 0, 1)
	h := w.arrive("h", 2, "", k.of(4))
	w.arrive("a", 5, "a", k, tool)
	w.arrive("b", 5, "b", k, tool) // the tool has one slot
	w.arrive("c", 4, "c", k)
	w.arrive("d", 3, "d", k.of(2))
	w.sees("h")
	w.finish(h)
	w.sees("a c d")
	w.holds(k, 4)
}

func TestPromise04_NoIdleRate(t *testing.T) {
	w := newWorld(t, standard())
	r := w.rate("rate", 0, 90_000, 60*sec, 2)
	for i := range 1000 {
		w.arrive(fmt.Sprint(i), int8(i%Levels), fmt.Sprint(i%5), r)
	}
	w.at(998 * 2 * ms / 3) // two at 0, then one each 666,666.6... ns
	assert.Len(t, w.news, 999, "calls that have started")
	w.at(998*2*ms/3 + 1)
	assert.Len(t, w.news, 1000, "calls that have started")
}

// Fifty calls wait for a rate of their own: tool b starts as often as without them.
func TestPromise05_OwnConstraintDelaysNobodyElse(t *testing.T) {
	count := func(others int) (n int) {
		w := newWorld(t, standard())
		all, r := slots("global", 3, 8), w.rate("tool a", 0, 1, sec, 1)
		for i := range others {
			w.arrive(fmt.Sprint("a", i), 8, "a", r, all)
		}
		var running []*Ticket
		for w.now < 3*sec {
			for _, c := range w.calls {
				if c.State() == Running && c.needs.list[0].Cell.class == r {
					w.finish(c) // takes no time
					break
				}
			}
			for len(running) < 8 {
				c := w.arrive("b", 0, "b", all)
				if c.State() != Running {
					w.Fatalf("b waits at %d for %s", w.now, c.lane.at.class.Name)
				}
				running = append(running, c)
				n++
			}
			w.at(w.now + 10*ms)
			w.finish(running...)
			running = running[:0]
		}
		return n
	}
	if alone, beside := count(0), count(50); alone != beside || alone != 2400 {
		t.Errorf("%d starts alone, %d beside 50 calls that wait for their own rate; want 2400 both times", alone, beside)
	}
}

func TestPromise05_BucketIsPaidInItsOrder(t *testing.T) {
	w := newWorld(t, standard())
	r := w.rate("rate", 0, 1, sec, 5)
	w.arrive("a", 2, "", r.of(5))
	w.arrive("b", 2, "", r.of(3))
	w.arrive("c", 2, "", r)
	w.sees("a")
	w.at(3*sec - 1)
	w.sees("")
	w.at(3 * sec)
	w.sees("b")
	w.at(4 * sec)
	w.sees("c")
}

func TestPromise07_CancelledWaiterCostsNothing(t *testing.T) {
	for _, at := range []int{0, 1, 2} {
		w := newWorld(t, standard())
		k, r := slots("tool a", 0, 1), w.rate("rate", 1, 1, sec, 1)
		h := w.arrive("h", 2, "", k)
		var ws []*Ticket
		for i := range 3 {
			ws = append(ws, w.arrive(fmt.Sprint(i), 2, "", k, r))
		}
		w.cancel(ws[at])
		w.sees("h")
		require.Equal(t, 2, w.m.Waiting())
		assert.Equal(t, Left, ws[at].State())
		w.finish(h)
		first, second := ws[(3-at)/3], ws[2-at/2]
		w.sees(first.Owner.(string))
		w.finish(first)
		w.at(sec)
		w.sees(second.Owner.(string))
		w.finish(second)
		w.rest(k)
	}
}

// A limit that passes without any other event ends the wait at that instant.
func TestPromise07_TimedOutWaiter(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	h := w.arrive("h", 2, "", k)
	a := w.arrive("a", 2, "", k, within(5))
	b := w.arrive("b", 2, "", k)
	assert.Equal(t, int64(5), w.m.Due(), "due at")
	w.at(4)
	w.sees("h")
	w.at(5)
	w.sees("a!")
	w.refused(a, TooLong, k, 0)
	w.finish(h)
	w.sees("b")
	w.finish(b)
	w.rest(k)
}

// A slot that comes at the very instant of the limit is in time.
func TestPromise07_TheLastInstantCounts(t *testing.T) {
	w := newWorld(t, standard())
	r := w.rate("rate", 0, 1, sec, 1)
	w.arrive("a", 2, "", r)
	w.arrive("b", 2, "", r, within(sec))
	w.arrive("c", 2, "", r, within(sec-1))
	w.sees("a c!")
	w.at(sec)
	w.sees("b")
}

// Woken and cancelled at one instant: what it took goes to the next.
func TestPromise07_CancelledAfterTheStart(t *testing.T) {
	w := newWorld(t, standard())
	k, r := slots("tool a", 0, 1), w.rate("rate", 1, 1, sec, 2)
	h := w.arrive("h", 2, "", k)
	a := w.arrive("a", 2, "", k, r.of(2))
	b := w.arrive("b", 2, "", k, r.of(2))
	w.finish(h)
	w.sees("h a")
	w.cancel(a) // before its code ran: slot and tokens come back
	w.sees("b")
	w.finish(b)
	w.rest(k)
}

func TestPromise08_RefusedOnArrival(t *testing.T) {
	w := newWorld(t, standard())
	r := w.rate("rate", 0, 3, sec, 3)
	k := slots("tool a", 0, 1)
	w.arrive("a", 2, "", r.of(3))
	w.sees("a")
	for _, c := range []struct {
		n, limit int64
		after    int64 // zero: it waits
	}{
		{1, 333_333_333, 333_333_334},
		{1, 0, 333_333_334},
		{1, 333_333_334, 0},
		{2, 333_333_334, 666_666_667},
		{2, 666_666_667, 0},
		{3, sec - 1, sec},
		{3, sec, 0},
		{4, Never - 1, 0}, // more than the burst: nobody can say when
	} {
		x := w.arrive("x", 2, "", r.of(c.n), within(c.limit))
		if c.after == 0 && c.n <= 3 {
			assert.Equal(t, Waiting, x.State(), "%+v: state, want it to wait", c)
			w.cancel(x)
			continue
		}
		w.refused(x, TooLong, r, c.after)
	}
	// Who waits ahead is an estimate and no reason: only its own cost is.
	ahead := w.arrive("ahead", 2, "", r.of(3))
	x := w.arrive("x", 2, "", r, within(333_333_334))
	if x.State() != Waiting {
		t.Errorf("refused because of who waits ahead: %+v", x.Refusal())
	}
	w.cancel(ahead, x)
	// A pause counts like a missing token; both count from its end.
	w.pause(k, 500)
	y := w.arrive("y", 2, "", k, within(499))
	w.refused(y, TooLong, k, 500)
	y = w.arrive("y", 2, "", k, within(500))
	w.at(500)
	if y.State() != Running {
		t.Errorf("y has state %d at the end of the pause", y.State())
	}
	w.finish(y, w.calls[0])
	w.rest(k)
}

// Retrying after exactly what a refusal says succeeds if nobody else came, a nanosecond earlier not.
func TestPromise08_RetryAfterIsExact(t *testing.T) {
	for _, early := range []int64{0, 1} {
		w := newWorld(t, standard())
		r := w.rate("rate", 0, 7, sec, 2)
		r.Refuse = true
		w.arrive("a", 2, "", r.of(2))
		x := w.arrive("b", 2, "", r)
		w.refused(x, RateLimited, r, 142_857_143)
		w.at(x.Refusal().After - early)
		w.arrive("c", 2, "", r)
		if early == 0 {
			w.sees("a b! c")
		} else {
			w.sees("a b! c!")
		}
	}
}

// A call that does not wait starts on arrival or is refused, also at once for the queue, and
// changes nothing for those who wait.
func TestAtOnce(t *testing.T) {
	p := standard()
	p.MaxQueue = 1
	w := newWorld(t, p)
	atOnce := option(func(t *Ticket) { t.AtOnce = true })
	x := slots("x", 0, 1)
	a := w.arrive("a", 2, "", x, atOnce)
	w.refused(w.arrive("b", 2, "", x, atOnce), TooLong, x, 0)
	w.arrive("c", 2, "", x) // the queue is full now
	w.refused(w.arrive("d", 8, "", x, atOnce), TooLong, x, 0)
	w.at(10)
	w.sees("a b! d!")
	w.finish(a)
	w.sees("c")
}

// A newcomer goes behind its lane also while the machine has not yet got to those who wait
// there, though a slot is free: of so many whose time is over only a batch goes at a time.
func TestANewcomerWaitsBehindItsLane(t *testing.T) {
	w := newWorld(t, standard())
	x := slots("x", 0, 1)
	h := w.arrive("h", 2, "", x)
	for range 3 * batch {
		w.arrive("late", 2, "", x, within(10))
	}
	w.arrive("first", 2, "", x)
	w.sees("h")
	w.now = 20
	w.finish(h)
	require.True(t, w.m.Pending(), "nothing is left for the next step")
	w.arrive("newcomer", 2, "", x)
	for w.m.Pending() {
		w.m.Step(w.now)
		w.collect()
	}
	w.news = slices.DeleteFunc(w.news, func(s string) bool { return s == "late!" })
	w.sees("first")
}
