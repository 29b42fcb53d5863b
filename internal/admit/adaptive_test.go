package admit

import (
	"fmt"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// adaptiveAt is an adaptive limit that stands at limit; past its slow start if probed.
func (w *world) adaptiveAt(limit int64, a Adaptive, probed bool) (*Class, *Cell) {
	k := slots("backend", 0, limit)
	k.Adaptive = &a
	c := w.cell(k)
	c.aimd.probed = probed
	return k, c
}

// batchOf has n calls arrive and answers those that run.
func (w *world) batchOf(k *Class, n int64) (running []*Ticket) {
	for i := range n {
		if t := w.arrive(fmt.Sprint("c", i), 4, "", k); t.State() == Running {
			running = append(running, t)
		}
	}
	return running
}

// One overload cuts by a tenth, at least by one, never below Min; and the whole
// generation that was in flight together cuts once.
func TestAdaptive_OneCutPerGeneration(t *testing.T) {
	for _, x := range []struct{ min, limit, want int64 }{
		{1, 1, 1}, {1, 2, 1}, {1, 3, 2}, {1, 8, 7}, {1, 10, 9}, {1, 11, 9}, {1, 20, 18}, {1, 100, 90}, {1, 1000, 900}, {7, 8, 7}, {8, 8, 8},
	} {
		w := newWorld(t, standard())
		k, c := w.adaptiveAt(x.limit, Adaptive{x.min, 2000}, true)
		running := w.batchOf(k, x.limit)
		for i, call := range running {
			w.now += ms
			w.ended(call, breaker.Overload)
			assert.Equal(t, x.want, c.limit,
				"limit %d, min %d: after %d overloads of one generation", x.limit, x.min, i+1)
		}
		w.rest(k)
	}
}

// Calls admitted after a cut are a generation of their own; those from before it have
// nothing new to say, however late they end.
func TestAdaptive_LateOverloadsSayNothingNew(t *testing.T) {
	w := newWorld(t, standard())
	k, c := w.adaptiveAt(8, Adaptive{1, 100}, true)
	old := w.batchOf(k, 8)
	step := func(call *Ticket, want int64) {
		t.Helper()
		w.ended(call, breaker.Overload)
		assert.Equal(t, want, c.limit, "limit")
	}
	step(old[0], 7) // the cut
	step(old[1], 7)
	fresh := w.batchOf(k, 1) // 7 of 7
	step(old[2], 7)
	step(fresh[0], 6) // admitted under 7, and still too much
	step(old[3], 6)
	fresh = w.batchOf(k, 2)
	step(fresh[1], 5)
	step(fresh[0], 5) // it came with the one that cut
	for _, call := range old[4:] {
		step(call, 5)
	}
	w.rest(k)
}

// Slow start doubles the limit with each round of successes, until the first overload.
func TestAdaptive_SlowStartDoubles(t *testing.T) {
	w := newWorld(t, standard())
	k, c := w.adaptiveAt(1, Adaptive{1, 100}, false)
	w.batchOf(k, 400)
	for _, want := range []int64{2, 4, 8, 16, 32, 64, 100, 100} {
		w.now += 10 * ms
		round := append([]*Ticket(nil), w.calls...)
		for _, call := range round {
			if call.State() == Running && call.Granted() < w.now {
				w.ended(call, breaker.Success)
			}
		}
		if c.limit != want {
			t.Errorf("at %d ms: limit %d, want %d", w.now/ms, c.limit, want)
		}
	}
}

// After slow start exactly ten rounds of successes at the limit add one slot; failures and
// neutral outcomes neither count nor set back; an overload starts the count anew.
func TestAdaptive_GrowsByTenRounds(t *testing.T) {
	w := newWorld(t, standard())
	k, c := w.adaptiveAt(3, Adaptive{1, 100}, true)
	running := w.batchOf(k, 3)
	next := func(o breaker.Outcome) {
		t.Helper()
		w.now += ms
		w.ended(running[0], o)
		running = append(running[1:], w.batchOf(k, c.limit-c.used)...)
	}
	for limit := int64(3); limit <= 6; limit++ {
		for i := range limit*growEvery - 1 {
			next(breaker.Success)
			next(breaker.Failure)
			next(breaker.Neutral)
			if c.limit != limit {
				t.Fatalf("limit %d after %d successes at %d, want no change", c.limit, i+1, limit)
			}
		}
		next(breaker.Success)
		require.Equal(t, limit+1, c.limit, "limit %d after %d successes at %d", c.limit, limit*growEvery, limit)
	}
	for range 69 {
		next(breaker.Success)
	}
	next(breaker.Overload)
	require.Equal(t, int64(6), c.limit, "limit")
	for i := range 59 {
		if next(breaker.Success); c.limit != 6 {
			t.Fatalf("limit %d after %d successes since the cut, want 6", c.limit, i+1)
		}
	}
}

// Only a limit that is used up grows, in slow start and after it; and neither how long
// calls take nor how long they queue changes anything.
func TestAdaptive_OnlyAUsedLimitGrows(t *testing.T) {
	for _, probed := range []bool{false, true} {
		w := newWorld(t, standard())
		k, c := w.adaptiveAt(4, Adaptive{1, 100}, probed)
		for range 1000 {
			running := w.batchOf(k, 3)
			w.now += ms
			for _, call := range running {
				w.ended(call, breaker.Success)
			}
		}
		assert.Equal(t, int64(4), c.limit,
			"probed %v: limit %d after 3,000 successes with a slot to spare", probed, c.limit)
	}
	var trace [2][]int64
	for i, step := range []int64{ms, 3600 * sec} { // a thousandth of a second, or an hour, in queue and tool
		w := newWorld(t, standard())
		k, c := w.adaptiveAt(2, Adaptive{1, 100}, true)
		for n := range 500 {
			for len(w.calls) < 10 {
				w.arrive(fmt.Sprint("c", n), 4, "", k)
			}
			w.now += step
			for _, call := range w.calls {
				if call.State() == Running {
					w.ended(call, breaker.Success)
					break
				}
			}
			trace[i] = append(trace[i], c.limit)
		}
	}
	if fmt.Sprint(trace[0]) != fmt.Sprint(trace[1]) || trace[0][499] < 5 {
		t.Errorf("the limit depends on time: %v and %v", trace[0][499], trace[1][499])
	}
}

// What a breaker's opening or a shrunk limit does to thousands of waiting calls happens a
// bounded batch at a time, and others get in between.
func TestOverload_SweepsAreBounded(t *testing.T) {
	w := newWorld(t, standard())
	br := circuit("breaker", breaker.Config{})
	k := slots("tool", 0, 1)
	other := slots("other", 0, 1)
	first := w.arrive("first", 4, "", br, k)
	for i := range 5000 {
		w.arrive(fmt.Sprint("w", i%10), int8(i%Levels), fmt.Sprint("tenant", i%7), br, k)
	}
	w.news = nil
	w.m.Trip(w.now, w.cell(br), "")
	w.m.Finish(w.now, first, breaker.Failure) // its slot is free: those in line come to the front, and may not start
	events, refused := 0, 0
	count := func(most int) {
		t.Helper()
		n := 0
		for x := w.m.Decided(); x != nil; x = x.Next() {
			if n++; x.State() != Refused || x.Refusal().Reason != BreakerOpen || x.Refusal().By.class != br {
				t.Fatalf("%+v", x.Refusal())
			}
		}
		if n > most {
			t.Errorf("%d calls refused in one event, want at most %d", n, most)
		}
		events++
		refused += n
	}
	count(batch)
	for w.m.Pending() {
		w.m.Step(w.now)
		count(2 * batch) // of the pass, and at the front
		x := w.m.Ticket()
		x.Plan = w.plan()
		w.m.Add(x, w.cell(other), 1)
		require.Equal(t, Running, w.m.Arrive(w.now, x), "a call of another tool must start between two batches")
		count(batch)
		w.m.Finish(w.now, x, breaker.Success)
		count(batch)
	}
	t.Logf("%d calls refused in %d events", refused, events)
	if refused != 5000 || w.m.Waiting() != 0 || events < 5000/(2*batch) {
		t.Errorf("%d refused, %d still wait, %d events", refused, w.m.Waiting(), events)
	}
}

// Thousands of waits that end at one instant are refused a bounded batch at a time. Others
// get in between, and nobody whose wait is over starts, whoever leaves meanwhile.
func TestOverload_ExpiryIsBounded(t *testing.T) {
	for _, x := range []struct {
		by     string
		leaves bool // whoever holds the only slot, after the first batch
	}{{"tick", true}, {"tick", false}, {"event", true}, {"event", false}} {
		t.Run(fmt.Sprint(x.by, " leaves=", x.leaves), func(t *testing.T) {
			w := newWorld(t, standard())
			k, other := slots("tool", 0, 1), slots("other", 0, 1)
			first := w.arrive("first", 4, "", k)
			for i := range 5000 {
				w.arrive("late", int8(i%Levels), fmt.Sprint("tenant", i%7), k, within(10))
			}
			w.news = nil
			events, refused := 0, 0
			started := ""
			count := func(most int) {
				t.Helper()
				n := 0
				for x := w.m.Decided(); x != nil; x = x.Next() {
					if x.State() == Running {
						started += x.Owner.(string)
						continue
					}
					if n++; x.State() != Refused || x.Refusal().Reason != TooLong || x.Refusal().By.class != k {
						t.Fatalf("%+v", x.Refusal())
					}
				}
				if n > most {
					t.Errorf("%d calls refused in one event, want at most %d", n, most)
				}
				events++
				refused += n
			}
			plan := w.plan()
			arrive := func(name string, k *Class) (*Ticket, State) {
				x := w.m.Ticket()
				x.Plan = plan
				x.Owner = name
				w.m.Add(x, w.cell(k), 1)
				return x, w.m.Arrive(w.now, x)
			}
			if w.now = 10; x.by == "tick" {
				w.m.Tick(w.now)
			} else {
				w.now = 11
				w.m.Settle(w.now, first, "nothing", 1)
			}
			count(batch)
			require.Equal(t, 5000-batch, w.m.Waiting(), "wait after the first batch")
			_, s := arrive("in time", k)
			require.Equal(t, Waiting, s, "in time")
			count(0)
			if x.leaves {
				w.m.Finish(w.now, first, breaker.Success)
				count(batch) // at the front
			}
			for w.m.Pending() {
				w.m.Step(w.now)
				count(2 * batch) // by their limit, and at the front
				x, s := arrive("", other)
				require.Equal(t, Running, s, "a call of another tool must start between two batches")
				count(batch)
				w.m.Finish(w.now, x, breaker.Success)
				count(batch)
			}
			if !x.leaves {
				w.m.Finish(w.now, first, breaker.Success)
				count(0)
			}
			if refused != 5000 || started != "in time" || w.m.Waiting() != 0 || events < 5000/(2*batch) {
				t.Errorf("%d refused, %q started, %d still wait, %d events", refused, started, w.m.Waiting(), events)
			}
		})
	}
}
