package admit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFrontWaiterCancelsAndOthersRun(t *testing.T) {
	w := newWorld(t, standard())
	k := units("units", 0, 2)
	w.arrive("h", 2, "", k)
	w.arrive("wide", 2, "a", k.of(2))
	w.limit(k, 1) // nothing free, and wide can never start
	w.sees("h wide!")
	w.limit(k, 2)
	wide := w.arrive("wide", 2, "a", k.of(2))
	w.pause(k, 5)
	w.arrive("n", 2, "b", k)
	w.cancel(wide)
	w.sees("")
	w.at(5)
	w.sees("n")
}

func TestFrontOfALaneCancels(t *testing.T) {
	w := newWorld(t, standard())
	k, r := units("units", 0, 4), w.rate("rate", 1, 1, sec, 3)
	w.arrive("h", 2, "", r.of(2))
	first := w.arrive("first", 2, "", k, r.of(3))
	w.arrive("second", 2, "", k, r)
	w.sees("h")
	w.cancel(first) // the token that is there is enough for the second
	w.sees("second")
}

func TestWiderThanTheLimit(t *testing.T) {
	w := newWorld(t, standard())
	k := units("units", 0, 2)
	w.refused(w.arrive("w", 2, "", k.of(3)), TooWide, k, 0)
	h := w.arrive("h", 2, "", k.of(2))
	a, b := w.arrive("a", 2, "", k.of(2)), w.arrive("b", 2, "", k)
	w.limit(k, 1) // a can never start any more
	w.refused(a, TooWide, k, 0)
	w.sees("w! h a!")
	w.finish(h)
	w.sees("b")
	w.finish(b)
	w.rest(k)
}

func TestOneWideEndStartsAllThatFit(t *testing.T) {
	for _, c := range []struct {
		n    []int64
		want string
	}{
		{[]int64{1, 1, 1}, "0 1 2"},
		{[]int64{2, 1}, "0 1"},
		{[]int64{1, 3, 1, 1}, "0 2 3"},
		{[]int64{3, 1}, "0"},
	} {
		w := newWorld(t, standard())
		k := units("units", 0, 3)
		h := w.arrive("h", 2, "", k.of(3))
		for i, n := range c.n {
			w.arrive(fmt.Sprint(i), 2, "", k.of(n))
		}
		w.news = nil
		w.finish(h)
		w.sees(c.want)
	}
}

func TestNeverMoreThanTheLimit(t *testing.T) {
	for limit := int64(1); limit <= 4; limit++ {
		w := newWorld(t, standard())
		k, peak := slots("tool a", 0, limit), 0
		for i := range 64 {
			w.arrive(fmt.Sprint(i), int8(i%Levels), fmt.Sprint(i%3), k)
		}
		for n := 0; len(w.calls) > 0; n++ {
			peak = max(peak, w.m.Running())
			w.finish(w.first())
		}
		assert.Equal(t, int(limit), peak, "limit %d: peak", limit)
		w.rest(k)
	}
}

// A wide head does not hold up narrow calls until it claims, and then it is not passed any more.
func TestWideHeadAndNarrowCalls(t *testing.T) {
	p := standard()
	p.Claim = 2
	w := newWorld(t, p)
	k := units("units", 0, 10)
	w.arrive("h", 2, "", k.of(9))
	w.arrive("wide", 2, "", k.of(10))
	w.arrive("n1", 2, "", k)
	w.sees("h n1")
	for n := 0; n < 4 && w.m.Work().Claims == 0; n++ {
		w.finish(w.calls[slices.IndexFunc(w.calls, func(c *Ticket) bool { return c.Owner != "h" && c.State() == Running })])
		w.arrive(fmt.Sprint("m", n), 2, "", k)
	}
	require.Equal(t, uint64(1), w.m.Work().Claims, "claims")
	w.news = nil
	w.arrive("late", 8, "", k)
	w.sees("")
	for slices.ContainsFunc(w.calls, func(c *Ticket) bool { return c.State() == Running && c.Owner != "wide" }) {
		w.finish(w.first())
	}
	require.NotEmpty(t, w.news)
	assert.Equal(t, "wide", w.news[0])
}

// Virtual time goes on when the last call of a level starts: whoever comes to an empty level begins
// where those who used it have got to, and does not get what they had while it was away.
func TestFairness_AnEmptyLevelKeepsItsTime(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("k", 0, 1)
	run := w.arrive("h", 8, "", k)
	w.arrive("low", 0, "", k) // so that the queue is there all the time
	for i := range 5 {
		next := w.arrive(fmt.Sprint("a", i), 4, "a", k)
		w.finish(run)
		run = next
	}
	w.sees("h a0 a1 a2 a3 a4") // a's next call is tagged 5
	for i := range 3 {
		w.arrive(fmt.Sprint("b", i), 4, "b", k)
	}
	for i := range 3 {
		w.arrive(fmt.Sprint("c", i), 4, "a", k)
	}
	for range 6 {
		w.finish(w.first())
	}
	w.sees("b0 b1 c0 b2 c1 c2")
}

// It goes on as well where a tenant's lane ends and others of the same tenant wait on: each start is
// charged at once, and whoever comes begins where those who wait have got to.
func TestFairness_ALaneThatEndsIsCharged(t *testing.T) {
	w := newWorld(t, standard())
	all := slots("all", 7, 1)
	tools := []*Class{slots("x", 0, Unlimited), slots("y", 0, Unlimited), slots("z", 0, Unlimited)}
	w.arrive("h", 4, "", all)
	for i, tool := range tools { // a lane for each call
		w.arrive(fmt.Sprint("a", i), 4, "a", tool, all)
	}
	for i := range 3 { // and one for all
		w.arrive(fmt.Sprint("b", i), 4, "b", tools[0], all)
	}
	w.finish(w.first())
	w.finish(w.first())
	w.sees("h a0 b0")
	for i := range 2 {
		w.arrive(fmt.Sprint("c", i), 4, "c", tools[1], all)
	}
	for range 6 {
		w.finish(w.first())
	}
	w.sees("a1 b1 c0 a2 b2 c1")
}

// A level ages while it waits, and not while it is away.
func TestAgeing_CountsFromWhenALevelCame(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("k", 0, 1)
	for range 100 {
		w.arrive("x", 4, "", k)
	}
	next := func(n int) {
		w.news = nil
		for range n {
			w.finish(w.first())
		}
	}
	w.cancel(w.arrive("gone", 0, "", k))
	next(40)
	w.arrive("low", 0, "", k)
	next(32) // four levels are worth eight starts each
	w.sees(strings.TrimSpace(strings.Repeat("x ", 32)))
	next(2) // of equals the higher level goes first
	w.sees("x low")
}

func TestResizeWakes(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	for i := range 10 {
		w.arrive(fmt.Sprint(i), 2, "", k)
	}
	w.sees("0")
	w.at(7)
	w.limit(k, 10)
	w.sees("1 2 3 4 5 6 7 8 9")
	for i := range 3 {
		w.arrive(fmt.Sprint("x", i), 2, "", k)
	}
	w.limit(k, 2)
	for range 8 {
		w.finish(w.calls[0])
		w.sees("")
	}
	w.finish(w.calls[0])
	w.sees("x0")
}

// A waiter takes its tokens when it goes: cancelling all of them, in any order, costs nothing.
func TestCancelledWaitersOfARate(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}} {
		w := newWorld(t, standard())
		r := w.rate("rate", 0, 1, sec, 5)
		w.arrive("h", 2, "", r.of(5))
		var ts []*Ticket
		for i := range 4 {
			ts = append(ts, w.arrive(fmt.Sprint(i), 2, "", r.of(5)))
		}
		for _, i := range order {
			w.cancel(ts[i])
		}
		w.arrive("next", 2, "", r)
		w.sees("h")
		w.at(sec - 1)
		w.sees("")
		w.at(sec)
		w.sees("next")
	}
}

func TestRefusedCallsChangeNothing(t *testing.T) {
	w := newWorld(t, standard())
	r, k := w.rate("rate", 0, 1, sec, 1), slots("tool a", 1, 1)
	r.Refuse = true
	w.arrive("h", 2, "", r)
	for i := range int64(1000) {
		w.at(i * (sec / 1001))
		w.refused(w.arrive("x", 2, "", r, k), RateLimited, r, sec-w.now)
	}
	w.news = nil
	w.at(sec)
	w.finish(w.arrive("y", 2, "", r, k))
	w.sees("y")
	w.finish(w.calls[0])
	w.rest(k)
}

func TestNewRateReachesWhoWaits(t *testing.T) {
	w := newWorld(t, standard())
	r := w.rate("rate", 0, 1, 3600*sec, 1)
	w.arrive("h", 2, "", r)
	w.arrive("a", 2, "", r)
	w.sees("h")
	w.at(sec)
	w.m.SetRate(w.now, r, w.rate("", 0, 10, sec, 1).Rate)
	w.collect()
	// A second of one per hour is 1/3600 of a token: what is left takes a bit less than 0.1 s.
	due := w.m.Due()
	if due > sec+sec/10 || due < sec+sec/10-sec/30_000 {
		t.Errorf("due at %d, want just before 1.1 s", due)
	}
	w.at(due - 1)
	w.sees("")
	w.at(due)
	w.sees("a")
}

// Keys come and go: the table keeps its bound, and only what remembers nothing makes room.
func TestKeysAreBoundedAndNeverRefreshed(t *testing.T) {
	m := NewMachine(standard())
	w := newWorld(t, standard())
	plan := w.plan()
	r := w.rate("rate", 0, 1, sec, 2)
	r.MaxKeys = 100
	take := func(now int64, key string) (found, started bool) {
		c := m.Cell(now, r, key)
		if c == nil {
			return false, false
		}
		x := m.Ticket()
		x.Plan = plan
		m.Add(x, c, 2)
		x.Limit = now
		s := m.Arrive(now, x)
		if s == Running {
			m.Finish(now, x, breaker.Success)
		}
		m.Free(x)
		return true, s == Running
	}
	take(0, "limited")
	full := 0
	for i := range 100_000 {
		now := int64(i) * 10_000 // one second in all
		if found, _ := take(now, fmt.Sprint("key ", i)); found {
			full++
		}
		if n := len(r.cells); n > 100 {
			t.Fatalf("%d keys", n)
		}
		_, started := take(now, "limited")
		require.False(t, started, "at %d the limited key has a fresh quota", now)
	}
	assert.Equal(t, 99, full, "keys found room: no bucket is full again within 2 s")
	if found, _ := take(2*sec+1, "new"); !found {
		t.Error("no room for a new key once the buckets are full again")
	}
	if _, started := take(2*sec+1, "limited"); !started {
		t.Error("the limited key waits for longer than its rate says")
	}
}

// Asking twice gives the same answer twice.
func TestForecastTakesNothing(t *testing.T) {
	w := newWorld(t, standard())
	k, r := slots("tool a", 0, 1), w.rate("rate", 1, 1, sec, 1)
	for range 3 {
		if f := w.m.Forecast(w.now, w.ticket("x", 2, "", k, r)); f.By != nil || f.Refusal.Reason != NoReason {
			t.Errorf("forecast %+v of a call that may start", f)
		}
	}
	w.arrive("a", 2, "", k, r)
	w.sees("a")
	for range 3 {
		f := w.m.Forecast(w.now, w.ticket("x", 2, "", r))
		if f.By != w.cell(r) || f.Place != 1 || f.Wait != sec {
			t.Errorf("forecast %+v of a call that waits for one token", f)
		}
	}
	w.at(sec)
	w.arrive("b", 2, "", r)
	w.sees("b")
}

// The lowest level gets its share of a saturated limit, and the bound of it is stated.
func TestLowLevelsAreNotStarved(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	running := w.arrive("h", 8, "", k)
	w.arrive("low", 0, "", k)
	others := 0
	for others = 0; others < 100; others++ {
		w.arrive("high", 8, "", k)
		w.arrive("high", 8, "", k)
		w.news = nil
		w.finish(running)
		if w.news[0] == "low" {
			break
		}
		running = w.calls[slices.IndexFunc(w.calls, func(c *Ticket) bool { return c.State() == Running })]
	}
	if bound := 8*8 + Levels - 1; others > bound || others < 8*8-1 {
		t.Errorf("%d others before the lowest level, promised at most %d", others, bound)
	}
}

// Ageing does not turn the queue into first come, first served: after long saturation a
// fresh high call still goes before all low ones.
func TestAgeingKeepsTheLevels(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	w.arrive("h", 2, "", k)
	for range 500 {
		w.arrive("low", 0, "", k)
	}
	var high, low []int64
	for range 400 {
		w.now += 10 * ms
		i := slices.IndexFunc(w.calls, func(c *Ticket) bool { return c.State() == Running })
		if w.calls[i].Level == 4 {
			high = append(high, w.calls[i].Granted()-w.calls[i].Arrived())
		} else {
			low = append(low, w.calls[i].Granted()-w.calls[i].Arrived())
		}
		if w.now%(30*ms) == 0 {
			w.arrive("high", 4, "", k)
		}
		w.finish(w.calls[i])
	}
	slices.Sort(high)
	slices.Sort(low)
	if high[len(high)-1] > 20*ms || low[len(low)/2] < 10*high[len(high)/2] {
		t.Errorf("high waits at most %d ns, low %d ns in the middle", high[len(high)-1], low[len(low)/2])
	}
}

// The order depends on what happened, not on when somebody looks.
func TestOrderDoesNotChangeWithTime(t *testing.T) {
	order := func(seed uint64) string {
		rng := rand.New(rand.NewPCG(39, 1))
		w := newWorld(t, standard())
		k := slots("tool a", 0, 1)
		w.arrive("h", 2, "", k)
		for i := range 60 {
			w.arrive(fmt.Sprint(i), int8(rng.IntN(Levels)), fmt.Sprint(rng.IntN(4)), k)
		}
		times := rand.New(rand.NewPCG(seed, 2))
		for len(w.calls) > 0 {
			w.at(w.now + times.Int64N(1e15))
			w.finish(w.first())
		}
		return fmt.Sprint(w.news)
	}
	want := order(0)
	for seed := range uint64(20) {
		if got := order(seed); got != want {
			t.Fatalf("other times, other order:\n%s\n%s", got, want)
		}
	}
}

// Who was idle has saved up nothing.
func TestIdleTenantHasNoCredit(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	w.arrive("h", 2, "busy", k)
	for range 300 {
		w.arrive("busy", 2, "busy", k)
	}
	end := func() {
		w.finish(w.first())
	}
	for range 150 {
		w.at(w.now + 24*sec)
		end()
	}
	for range 100 {
		w.arrive("idle", 2, "idle", k)
	}
	w.news = nil
	for range 100 {
		end()
	}
	n := 0
	for _, name := range w.news {
		if name == "idle" {
			n++
		}
	}
	if n < 48 || n > 52 {
		t.Errorf("%d of 100 starts went to the tenant that was idle for an hour, want 50", n)
	}
}

func TestWaitLimitWithoutOtherTraffic(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("tool a", 0, 1)
	w.arrive("h", 2, "", k)
	a := w.arrive("a", 2, "", k, within(15*sec))
	assert.Equal(t, 15*sec, w.m.Due(), "due at")
	w.at(15*sec - 1)
	w.sees("h")
	w.at(3600 * sec)
	w.sees("a!")
	require.Equal(t, TooLong, a.Refusal().Reason)
	assert.Zero(t, w.m.Waiting())
}

func TestClockGoesBack(t *testing.T) {
	w := newWorld(t, standard())
	r, k := w.rate("rate", 0, 1, sec, 1), slots("tool a", 1, 1)
	w.at(10 * sec)
	w.arrive("a", 2, "", r)
	w.arrive("b", 2, "", r)
	h := w.arrive("h", 2, "", k)
	w.m.Tick(0)
	w.m.Pause(3, w.cell(k), 5) // in the machine's past
	w.m.Finish(2, h, breaker.Success)
	x := w.ticket("x", 2, "", k)
	s := w.m.Arrive(-5, x)
	assert.Equal(t, Running, s)
	assert.Equal(t, 10*sec, x.Granted())
	assert.Equal(t, 11*sec, w.m.Due(), "due at")
	w.m.Tick(11*sec - 1)
	assert.Nil(t, w.m.Decided(), "a token came early")
	w.m.Tick(11 * sec)
	if d := w.m.Decided(); d == nil || d.Owner != "b" || d.Next() != nil {
		t.Error("b did not start when its token came")
	}
}

// Settings change all the time under load: nothing is lost, nothing hangs.
func TestReconfigureUnderLoad(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 45))
		w := newWorld(t, standard())
		k, r, b := slots("tool a", 0, 3), w.rate("rate", 1, 5, sec, 5), circuit("breaker", breaker.Config{})
		w.cell(k)
		w.cell(r)
		w.cell(b)
		came, ended := 0, 0
		for range 400 {
			w.at(w.now + rng.Int64N(sec/4))
			switch rng.IntN(9) {
			case 0:
				w.limit(k, 1+rng.Int64N(5))
			case 1:
				w.m.SetRate(w.now, r, w.rate("", 0, 1+rng.Int64N(20), sec, 1+rng.Int64N(9)).Rate)
			case 2:
				w.m.SetBreaker(w.now, b, &breaker.Config{})
			case 3:
				p := standard()
				p.Ageing, p.Claim = 1+rng.IntN(20), 1+rng.IntN(5)
				w.m.SetPolicy(w.now, p)
			case 4:
				w.pause(k, w.now+rng.Int64N(sec))
			default:
				w.arrive("x", int8(rng.IntN(Levels)), fmt.Sprint(rng.IntN(3)), b, k, r)
				came++
			}
			w.collect()
			if i := slices.IndexFunc(w.calls, func(c *Ticket) bool { return c.State() == Running }); i >= 0 && rng.IntN(2) == 0 {
				w.finish(w.calls[i])
				ended++
			}
		}
		for n := 0; len(w.calls) > 0 && n < 10_000; n++ {
			if i := slices.IndexFunc(w.calls, func(c *Ticket) bool { return c.State() == Running }); i >= 0 {
				w.finish(w.calls[i])
				ended++
			} else if w.m.Due() == Never {
				t.Fatalf("seed %d: %d wait for nothing", seed, len(w.calls))
			} else {
				w.at(w.m.Due())
			}
		}
		if ended != came {
			t.Errorf("seed %d: %d came, %d ended", seed, came, ended)
		}
		w.rest(k)
	}
}

// Extreme ageing: the arithmetic of the order does not overflow into nonsense.
func TestExtremeAgeing(t *testing.T) {
	for _, ageing := range []int{0, 1, math.MaxInt32 / Levels} {
		p := standard()
		p.Ageing = ageing
		w := newWorld(t, p)
		k := slots("tool a", 0, 1)
		h := w.arrive("h", 2, "", k)
		w.arrive("low", 0, "", k)
		w.arrive("high", 8, "", k)
		w.news = nil
		w.finish(h)
		w.finish(w.first())
		w.sees("high low")
	}
}
