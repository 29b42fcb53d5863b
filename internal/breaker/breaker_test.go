package breaker

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// script drives one breaker along a time line and keeps the permits by name.
type script struct {
	t       *testing.T
	b       *Breaker
	now     int64
	permits map[string]Permit
}

func begin(t *testing.T, c Config) *script {
	t.Helper()
	require.NoError(t, c.Validate("Config"))
	return &script{t: t, b: New(&c), permits: map[string]Permit{}}
}

func (s *script) at(seconds float64) *script {
	now := int64(seconds * 1e9)
	if now < s.now {
		s.t.Helper()
		s.t.Fatalf("the script goes back from %d to %d", s.now, now)
	}
	s.now = now
	return s
}

func (s *script) start(name string) *script {
	s.t.Helper()
	ok, at := s.b.Ready(s.now)
	if !ok {
		s.t.Fatalf("%v: %s is refused until %v, want a start", sec(s.now), name, sec(at))
	}
	if at != s.now {
		s.t.Errorf("%v: Ready says true and %v, want now", sec(s.now), sec(at))
	}
	from := s.b.State(s.now)
	p, changed := s.b.Take(s.now)
	if changed != (from != s.b.State(s.now)) {
		s.t.Errorf("%v: Take says changed=%v, state was %d and is %d", sec(s.now), changed, from, s.b.State(s.now))
	}
	s.permits[name] = p
	return s
}

func (s *script) end(name string, o Outcome) *script {
	s.t.Helper()
	p, ok := s.permits[name]
	require.True(s.t, ok, "no call %s", name)
	delete(s.permits, name)
	from := s.b.State(s.now)
	changed := s.b.Done(s.now, p, o)
	if changed != (from != s.b.State(s.now)) {
		s.t.Errorf("%v: Done says changed=%v, state was %d and is %d", sec(s.now), changed, from, s.b.State(s.now))
	}
	return s
}

func (s *script) call(n int, o Outcome) *script {
	s.t.Helper()
	for range n {
		s.start("call").end("call", o)
	}
	return s
}

func (s *script) is(want State) *script {
	s.t.Helper()
	if got := s.b.State(s.now); got != want {
		s.t.Fatalf("%v: state is %d, want %d", sec(s.now), got, want)
	}
	return s
}

func (s *script) refused(until float64) *script {
	s.t.Helper()
	ok, at := s.b.Ready(s.now)
	if ok || at != int64(until*1e9) {
		s.t.Fatalf("%v: Ready says %v and %v, want false and %vs", sec(s.now), ok, sec(at), until)
	}
	if got := s.b.NextChange(s.now); got != at {
		s.t.Errorf("%v: NextChange is %v, want %v", sec(s.now), sec(got), sec(at))
	}
	before := *s.b
	if p, changed := s.b.Take(s.now); p != (Permit{}) || changed {
		s.t.Fatalf("%v: Take without Ready gave %v and changed=%v", sec(s.now), p, changed)
	}
	if fmt.Sprint(before) != fmt.Sprint(*s.b) {
		s.t.Fatalf("%v: a refused Take changed the breaker", sec(s.now))
	}
	return s
}

// admits starts as many of n calls as it can and says how many those are.
func (s *script) admits(n, want int, prefix string) *script {
	s.t.Helper()
	got := 0
	for i := range n {
		if ok, _ := s.b.Ready(s.now); ok {
			s.start(fmt.Sprint(prefix, i))
			got++
		}
	}
	if got != want {
		s.t.Fatalf("%v: %d of %d calls started, want %d", sec(s.now), got, n, want)
	}
	return s
}

func sec(ns int64) string {
	if ns == Never {
		return "never"
	}
	return fmt.Sprintf("%d.%09ds", ns/second, ns%second)
}

func TestDefaultsFailWaitProbeClosed(t *testing.T) {
	begin(t, Config{}).
		call(4, Failure).is(Closed).
		call(1, Failure).is(Open).refused(5).
		at(5).start("probe").is(HalfOpen).refused(65). // lease of one minute
		end("probe", Success).is(Closed).
		call(20, Success).is(Closed) // one at a time is never refused
}

// Half of at least five results of the last 30 s open it, however many failures there are in a row.
func TestDefaultsAreARatio(t *testing.T) {
	for name, run := range map[string]func(s *script){
		"five of five": func(s *script) { s.call(4, Failure).is(Closed).call(1, Failure).is(Open) },
		"five of ten":  func(s *script) { s.call(5, Success).call(4, Failure).is(Closed).call(1, Failure).is(Open) },
		"four of nine": func(s *script) { s.call(5, Success).call(4, Failure).is(Closed).call(1, Success).is(Closed) },
		"nine in a row of nineteen": func(s *script) {
			s.call(10, Success).call(9, Failure).is(Closed).call(1, Failure).is(Open)
		},
		"three of five, the last a success": func(s *script) {
			s.call(3, Failure).call(2, Success).is(Closed).call(1, Failure).is(Open)
		},
		"three of ten each time": func(s *script) {
			for range 1000 {
				s.call(7, Success).call(3, Failure).is(Closed)
			}
		},
		"just within the window": func(s *script) {
			s.call(4, Failure).at(29.999999999).call(1, Failure).is(Open)
		},
		"out of the window": func(s *script) {
			s.call(4, Failure).at(30).call(4, Failure).is(Closed).call(1, Failure).is(Open)
		},
		"one tenth out of the window": func(s *script) {
			s.call(2, Failure).at(3).call(2, Failure).at(30).call(2, Failure).is(Closed).
				at(32.999999999).call(1, Failure).is(Open)
		},
		"successes go out of the window too": func(s *script) {
			s.call(100, Success).at(29).call(4, Failure).is(Closed).at(30).call(1, Failure).is(Open)
		},
	} {
		t.Run(name, func(t *testing.T) { run(begin(t, Config{})) })
	}
}

// The open time doubles with each opening without recovery, and recovery ends that.
func TestDefaultOpenTimes(t *testing.T) {
	s, at := begin(t, Config{}).call(5, Failure), 0.0
	for _, d := range []float64{5, 10, 20, 40, 80, 120, 120} {
		s.refused(at + d)
		at += d
		s.at(at).call(1, Failure).is(Open)
	}
	at += 120
	s.refused(at).at(at).call(1, Success).is(Closed)        // recovering
	s.at(at+4.999999999).call(4, Failure).is(Closed)        // the probe is not counted
	s.call(1, Failure).is(Open).refused(at + 124.999999999) // not yet recovered
	s.at(at+125).call(1, Success).is(Closed).at(at + 130)   // recovered
	s.call(5, Failure).is(Open).refused(at + 135)           // from the beginning
	s.at(at+135).call(1, Failure).is(Open).refused(at + 135 + 2*5)
}

func TestFailuresInARow(t *testing.T) {
	begin(t, Config{Failures: 5, Cooldown: 30 * second}).
		call(4, Failure).is(Closed).
		call(1, Success).call(4, Failure).is(Closed). // a success ends the row
		call(1, Failure).is(Open).refused(30).
		at(30).start("probe").is(HalfOpen).refused(90). // lease of one minute
		end("probe", Success).is(Closed).
		call(20, Success).is(Closed) // one at a time is never refused
}

func TestCascadingFailure(t *testing.T) {
	s := begin(t, Config{Failures: 3, Probes: 4, Cooldown: 30 * second})
	ran, refused, failed := 0, 0, 0
	for i := range 20 {
		if ok, at := s.b.Ready(s.now); !ok {
			if refused++; at != 30*second {
				t.Errorf("retry at %v, want 30 s", sec(at))
			}
			continue
		}
		ran++
		if i < 14 {
			s.call(1, Success)
		} else {
			s.call(1, Failure)
			failed++
		}
	}
	assert.Equal(t, 17, ran)
	assert.Equal(t, 3, failed)
	assert.Equal(t, 3, refused)
	s.at(30).admits(100, 4, "probe").is(HalfOpen)
}

func TestSuccessesThatClose(t *testing.T) {
	s := begin(t, Config{Failures: 1, Probes: 3}).call(1, Failure).at(30)
	s.start("a").end("a", Success).is(HalfOpen)
	s.admits(10, 2, "p").refused(90) // one has succeeded, two are still needed
	s.end("p0", Success).is(HalfOpen).refused(90)
	s.end("p1", Success).is(Closed)
}

func TestOneFailedProbeOpensAgain(t *testing.T) {
	begin(t, Config{Failures: 1, Probes: 3, Cooldown: 30 * second}).call(1, Failure).
		at(30).start("a").start("b").start("c").end("a", Success).
		at(31).end("b", Failure).is(Open).refused(91). // twice as long
		end("c", Success).is(Open).refused(91)
}

func TestNothingElseChangesTheState(t *testing.T) {
	s := begin(t, Config{Failures: 1}).call(1, Failure).at(30).is(Open).at(1e6).is(Open) // nobody came
	s.start("a").is(HalfOpen).at(2e6).is(HalfOpen)
	s.end("a", Success).is(Closed).at(9e6).is(Closed)
}

func TestOpenRefusesEverything(t *testing.T) {
	s := begin(t, Config{Failures: 1, Cooldown: 5 * second}).call(1, Failure)
	for i := range 1000 {
		s.at(float64(i) / 200).refused(5)
	}
}

func TestRatio(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		run  func(s *script)
	}{
		{"below MinCalls", Config{Ratio: 0.5, MinCalls: 5}, func(s *script) { s.call(4, Failure).is(Closed).call(1, Failure).is(Open) }},
		{"exactly the ratio", Config{Ratio: 0.3, MinCalls: 10}, func(s *script) {
			s.call(7, Success).call(2, Failure).is(Closed).call(1, Failure).is(Open)
		}},
		{"just below the ratio", Config{Ratio: 0.3, MinCalls: 10}, func(s *script) { s.call(8, Success).call(3, Failure).is(Closed) }},
		{"a row alone does not count", Config{Ratio: 0.9, MinCalls: 100}, func(s *script) { s.call(99, Failure).is(Closed) }},
		{"both set", Config{Ratio: 0.9, MinCalls: 100, Failures: 3, Cooldown: 30 * second}, func(s *script) { s.call(3, Failure).is(Open) }},
		{"a success never opens", Config{Ratio: 0.5, MinCalls: 4}, func(s *script) {
			s.call(3, Failure).call(1, Success).is(Closed).call(1, Failure).is(Open)
		}},
		{"neutral is no result", Config{Ratio: 0.5, MinCalls: 4}, func(s *script) {
			s.call(100, Neutral).call(3, Failure).call(100, Neutral).is(Closed).call(1, Failure).is(Open)
		}},
		{"within the window", Config{Ratio: 1, MinCalls: 2, Window: 10 * second}, func(s *script) { s.call(1, Failure).at(9.999999999).call(1, Failure).is(Open) }},
		{"out of the window", Config{Ratio: 1, MinCalls: 2, Window: 10 * second}, func(s *script) { s.call(1, Failure).at(10).call(1, Failure).is(Closed) }},
		{"one tenth falls out", Config{Ratio: 1, MinCalls: 3, Window: 10 * second}, func(s *script) {
			s.call(1, Failure).at(1).call(1, Failure).at(10).call(1, Failure).is(Closed).at(10.5).call(1, Failure).is(Open)
		}},
		{"a long pause empties it", Config{Ratio: 1, MinCalls: 2}, func(s *script) { s.call(1, Failure).at(1e6).call(1, Failure).is(Closed) }},
		{"recovery starts with nothing counted", Config{Ratio: 1, MinCalls: 2, Cooldown: second}, func(s *script) {
			s.call(2, Failure).at(1).call(1, Success).is(Closed).call(1, Failure).is(Closed).call(1, Failure).is(Open)
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(begin(t, c.cfg)) })
	}
}

// A failure rate above the threshold opens it, although every call outlasts the window.
func TestCallsThatOutlastTheWindow(t *testing.T) {
	one := begin(t, Config{Failures: 5, Window: 10 * second}) // one after the other
	for i := range 5 {
		one.is(Closed).start("slow").at(11*float64(i+1)).end("slow", Failure)
	}
	one.is(Open)

	many := begin(t, Config{Ratio: 0.5, MinCalls: 20, Window: 10 * second}).admits(100, 100, "p").at(11)
	for i := range 20 {
		many.is(Closed).end(fmt.Sprint("p", i), Failure)
	}
	many.is(Open)
}

func TestOnlyTheProbesStart(t *testing.T) {
	for _, probes := range []int{1, 2, 7} {
		begin(t, Config{Failures: 1, Probes: probes}).call(1, Failure).at(30.000000001).admits(1000, probes, "p").refused(90.000000001)
	}
}

func TestResultsOfAnOlderState(t *testing.T) {
	s := begin(t, Config{Failures: 2, Cooldown: 30 * second}).start("ok1").start("ok2").start("bad1").start("bad2").start("none").call(2, Failure).is(Open)
	s.at(1).end("ok1", Success).is(Open).refused(30)
	s.at(30).start("probe").is(HalfOpen)
	s.end("ok2", Success).is(HalfOpen).refused(90)
	s.end("bad1", Failure).is(HalfOpen)
	s.end("none", Neutral).refused(90)
	s.end("probe", Success).is(Closed)
	s.call(1, Failure).end("bad2", Failure).is(Closed) // would have been the second
}

func TestPromise15_OlderResultsMoveNothing(t *testing.T) {
	// A permit of every generation so far, ended in every later state, leaves every bit as it was.
	olds := func() *script {
		return begin(t, Config{Failures: 1, Cooldown: second}).start("a").start("b").start("c")
	}
	for name, s := range map[string]*script{
		"open":       olds().call(1, Failure).is(Open),
		"half-open":  olds().call(1, Failure).at(1).start("p").is(HalfOpen),
		"recovering": olds().call(1, Failure).at(1).call(1, Success).is(Closed),
		"tripped":    func() *script { s := olds(); s.b.Trip(0); return s.is(Open) }(),
		"reset":      func() *script { s := olds().call(1, Failure); s.b.Reset(0); return s.is(Closed) }(),
	} {
		before := fmt.Sprint(*s.b)
		s.end("a", Success).end("b", Failure).end("c", Neutral)
		if got := fmt.Sprint(*s.b); got != before {
			t.Errorf("%s: older results changed the breaker\nfrom %s\nto   %s", name, before, got)
		}
	}
}

// How a probe ends (panic and Goexit count as failure in the caller), or that it never does:
// after 1000 h a new probe starts.
func TestLostProbe(t *testing.T) {
	for _, end := range []string{"failure", "neutral", "never"} {
		s := begin(t, Config{Failures: 1}).call(1, Failure).at(30).start("probe")
		switch end {
		case "failure":
			s.end("probe", Failure)
		case "neutral":
			s.end("probe", Neutral)
		}
		s.at(3600 * 1000).start("next").is(HalfOpen)
	}
}

func TestNeutralGivesTheProbeBack(t *testing.T) {
	s := begin(t, Config{Failures: 1}).call(1, Failure).at(30)
	for range 100 {
		s.start("probe").refused(90).end("probe", Neutral).is(HalfOpen)
	}
	s.start("probe").end("probe", Success).is(Closed)
}

func TestPromise16_NeutralIsNoResult(t *testing.T) {
	s := begin(t, Config{Failures: 3, Ratio: 0.5, MinCalls: 10})
	s.call(2, Failure)
	before := fmt.Sprint(*s.b)
	s.call(1000, Neutral)
	if got := fmt.Sprint(*s.b); got != before {
		t.Errorf("neutral outcomes changed the breaker\nfrom %s\nto   %s", before, got)
	}
	s.is(Closed).call(1, Failure).is(Open) // nor did they end the row
}

func TestCancellationsAndRefusalsAreNeutral(t *testing.T) {
	begin(t, Config{}).call(1000, Neutral).is(Closed).call(4, Failure).call(1000, Neutral).is(Closed).call(1, Failure).is(Open)
}

func TestHangingProbe(t *testing.T) {
	s := begin(t, Config{Failures: 1, Lease: 5 * second}).call(1, Failure).at(30).start("hangs").refused(35)
	s.now = 35*second - 1
	s.refused(35)
	s.at(35).start("second").is(HalfOpen).refused(40)
	s.end("second", Success).is(Closed)
	s.end("hangs", Failure).is(Closed).call(1, Success) // an older generation by now
}

func TestLateResultsGiveNothingBackTwice(t *testing.T) {
	s := begin(t, Config{Failures: 1, Probes: 2, Lease: 5 * second}).call(1, Failure)
	s.at(30).start("a").start("b").refused(35)
	s.at(35).start("c").start("d").refused(40) // in place of a and b
	s.end("a", Neutral).refused(40)            // a has nothing to give back
	s.end("b", Success).refused(45 - 5)        // counts: one more success is needed
	s.end("c", Success).is(Closed)
}

func TestLateSuccessLowersWhatIsNeeded(t *testing.T) {
	s := begin(t, Config{Failures: 1, Probes: 2, Lease: 5 * second, Cooldown: 30 * second}).call(1, Failure)
	s.at(30).start("a").at(31).start("b").at(35).start("c")
	s.end("a", Success)                       // late; b and c run, one is needed
	s.refused(40)                             // b's lease ends at 36, but c runs
	s.at(36).refused(40)                      //
	s.at(40).start("d")                       // now nobody runs
	s.end("b", Failure).is(Open).refused(100) // late failure counts as well
}

func TestBothDirections(t *testing.T) {
	begin(t, Config{Failures: 3}).call(1000, Success).is(Closed).call(2, Failure).is(Closed).call(1, Failure).is(Open)
	begin(t, Config{Ratio: 0.5}).call(1000, Success).is(Closed).call(999, Failure).is(Closed).call(1, Failure).is(Open)
}

func TestExactlyAtTheCooldown(t *testing.T) {
	for _, c := range []struct {
		d  int64
		ok bool
	}{{-1, false}, {0, true}, {1, true}} {
		s := begin(t, Config{Failures: 1, Cooldown: 7 * second}).at(3).call(1, Failure)
		s.now = 10*second + c.d
		for range 3 { // the same answer every time
			if ok, at := s.b.Ready(s.now); ok != c.ok || at != max(s.now, 10*second) {
				t.Errorf("cooldown %+d ns: Ready says %v, %v", c.d, ok, sec(at))
			}
		}
	}
}

func TestExactlyAtTheEndOfALeaseAndOfTheRecovery(t *testing.T) {
	s := begin(t, Config{Failures: 1, Cooldown: 7 * second, Lease: 2 * second}).call(1, Failure)
	s.at(7).start("a")
	s.now = 9*second - 1
	s.refused(9)
	s.now++
	s.start("b").end("b", Success).is(Closed).start("c")
	s.now = 16*second - 1
	s.refused(16)
	s.now++
	s.admits(100, 100, "all")
}

func TestSmallAndIndependent(t *testing.T) {
	if n := unsafe.Sizeof(Breaker{}); n > 200 {
		t.Errorf("a breaker takes %d bytes, want at most 200", n)
	}
}

func TestBreakersOfOneConfigAreIndependent(t *testing.T) {
	c := Config{Failures: 1}
	a, b := New(&c), New(&c)
	p, _ := a.Take(0)
	if !a.Done(0, p, Failure) || a.State(0) != Open || b.State(0) != Closed {
		t.Errorf("states are %d and %d, want Open and Closed", a.State(0), b.State(0))
	}
}

func TestPromise17_HungProbesDelayByOneLease(t *testing.T) {
	s := begin(t, Config{Failures: 1, Probes: 3, Lease: 10 * second}).call(1, Failure).at(30)
	for i := range 100 { // all hang, again and again
		s.admits(10, 3, fmt.Sprint("hung", i, "-")).refused(float64(40 + 10*i)).at(float64(40 + 10*i))
	}
	s.call(3, Success).is(Closed)
}

func TestPromise17_RecoveryIsRamped(t *testing.T) {
	s := begin(t, Config{Failures: 1, Cooldown: 30 * second}).call(1, Failure).at(30).call(1, Success).is(Closed)
	for _, want := range []int{1, 2, 4, 8, 16, 32, 64} { // 100 callers keep asking
		s.admits(100, want, "r").refused(60)
		for i := range want {
			s.end(fmt.Sprint("r", i), Success)
		}
	}
	s.admits(100, 100, "all")
}

func TestPromise17_RampStartsWithWhatTheProbesShowed(t *testing.T) {
	begin(t, Config{Failures: 1, Probes: 5}).call(1, Failure).at(30).admits(9, 5, "p").
		end("p0", Success).end("p1", Success).end("p2", Success).end("p3", Success).end("p4", Success).is(Closed).
		admits(100, 5, "r")
}

func TestPromise17_OneCallerIsNeverRefusedByTheRamp(t *testing.T) {
	s := begin(t, Config{Failures: 5, Cooldown: 30 * second}).call(5, Failure).at(30).call(1, Success).is(Closed)
	for _, o := range []Outcome{Neutral, Failure, Failure, Success, Failure, Neutral, Failure, Failure} {
		s.call(1, o).is(Closed)
	}
}

func TestPromise17_HungCallsInTheRampEndWithIt(t *testing.T) {
	begin(t, Config{Failures: 1, Cooldown: 30 * second}).call(1, Failure).at(30).call(1, Success).
		start("hangs").refused(60).at(59).refused(60).at(60).admits(100, 100, "all").
		end("hangs", Success).admits(100, 100, "more")
}

func TestPromise17_FailuresDoNotWidenTheRamp(t *testing.T) {
	begin(t, Config{Failures: 3}).call(3, Failure).at(30).call(1, Success).
		call(2, Failure).call(5, Neutral).admits(10, 1, "r")
}

func TestOpenTimeDoubles(t *testing.T) {
	s := begin(t, Config{Failures: 1, Cooldown: 10 * second}).call(1, Failure)
	at := 0.0
	for _, d := range []float64{10, 20, 40, 80, 120, 120} { // up to two minutes
		s.refused(at + d)
		at += d
		s.at(at).call(1, Failure).is(Open)
	}
	// A failure in the recovery counts as opening again ...
	s.at(at+120).call(1, Success).is(Closed).at(at+129).call(1, Failure).refused(at + 249)
	// ... and one after it does not.
	s.at(at+249).call(1, Success).is(Closed).at(at+259).call(1, Failure).refused(at + 269)
}

func TestOpenTimeLimits(t *testing.T) {
	for _, c := range []struct{ cooldown, n, want int64 }{
		{second, 0, second}, {second, 3, 8 * second}, {second, 6, 64 * second}, {second, 7, 120 * second}, {second, 99, 120 * second},
		{1, 36, 1 << 36}, {1, 37, 120 * second}, // as soon as that is reached
		{30 * second, 0, 30 * second}, {30 * second, 1, 60 * second}, {30 * second, 2, 120 * second}, {30 * second, 3, 120 * second},
		{50 * second, 2, 120 * second},
		{200 * second, 0, 200 * second}, {200 * second, 3, 200 * second},
		{Never, 3, Never}, {0, 0, 5 * second},
	} {
		cfg := Config{Cooldown: c.cooldown}
		if got := cfg.openFor(uint8(min(c.n, maxDoubled))); got != c.want {
			t.Errorf("Cooldown %v, opened again %d times: open for %v, want %v", sec(c.cooldown), c.n, sec(got), sec(c.want))
		}
	}
}

func TestJitter(t *testing.T) {
	cfg := Config{Failures: 1, Cooldown: 100 * second}
	lowest, highest, sum := Never, int64(0), int64(0)
	for seed := range uint64(2000) {
		a, b := New(&cfg), New(&cfg)
		a.Seed(seed)
		b.Seed(seed)
		for _, x := range []*Breaker{a, b} {
			p, _ := x.Take(0)
			x.Done(0, p, Failure)
		}
		d := a.NextChange(0)
		if d != b.NextChange(0) {
			t.Fatalf("seed %d: %v and %v, want the same", seed, sec(d), sec(b.NextChange(0)))
		}
		if seed == 0 && d != 100*second {
			t.Errorf("seed 0 gives %v, want exactly 100 s", sec(d))
		}
		lowest, highest, sum = min(lowest, d), max(highest, d), sum+d
	}
	if lowest < 85*second || lowest > 86*second || highest > 115*second || highest < 114*second {
		t.Errorf("open times from %v to %v, want 85 to 115 s", sec(lowest), sec(highest))
	}
	if mean := sum / 2000; mean < 99*second || mean > 101*second {
		t.Errorf("mean open time is %v, want about 100 s", sec(mean))
	}
}

func TestThrottle(t *testing.T) {
	s := begin(t, Config{Failures: 2, Cooldown: 30 * second})
	s.b.Throttle(0, 45*second)
	s.call(1, Failure).is(Closed)           // a throttle opens nothing
	s.call(1, Failure).is(Open).refused(45) // but is a floor
	s.b.Throttle(0, 40*second)
	s.refused(45) // never earlier
	s.b.Throttle(0, 50*second)
	s.refused(50)
	s.at(50).start("p").is(HalfOpen)
	s.b.Throttle(s.now, 500*second)
	s.end("p", Failure).refused(500)
	s.b.Throttle(s.now, s.now) // over already
	s.b.Throttle(s.now, Never) // no trip
	s.at(60)
	if ok, at := s.b.Ready(s.now); ok || at != Never-1 {
		t.Errorf("throttled for ever: Ready says %v, %v", ok, at)
	}
	s.b.Reset(s.now)
	s.is(Closed).call(2, Failure).is(Open).refused(90) // Reset has lifted the floor
}

func TestAThrottleShortensNothing(t *testing.T) {
	s := begin(t, Config{Failures: 1, Cooldown: 30 * second}).call(1, Failure)
	s.b.Throttle(0, 20*second)
	s.refused(30)
	s.b.Trip(0)
	s.b.Throttle(0, 40*second)
	ok, at := s.b.Ready(0)
	require.False(t, ok)
	require.Equal(t, Never, at)
}

func TestTripAndReset(t *testing.T) {
	s := begin(t, Config{Failures: 5, Cooldown: 30 * second})
	step := func(changed, want bool, st State) {
		t.Helper()
		assert.Equal(t, want, changed, "changed")
		s.is(st)
	}
	step(s.b.Reset(0), false, Closed)
	step(s.b.Trip(0), true, Open)
	step(s.b.Trip(0), false, Open)
	for _, h := range []float64{1, 1e3, 1e6} {
		s.at(3600 * h)
		if ok, at := s.b.Ready(s.now); ok || at != Never || s.b.NextChange(s.now) != Never || s.now >= s.b.IdleAt() {
			t.Fatalf("tripped, after %v h: Ready says %v, %v", h, ok, at)
		}
	}
	step(s.b.Reset(s.now), true, Closed)
	s.admits(100, 100, "all") // no ramp: somebody has decided
	s.end("all0", Failure)    // their results count
	s.call(4, Failure).is(Open)
	step(s.b.Trip(s.now), false, Open) // also when it is open by itself
	s.at(5e9).is(Open)
	ok, _ := s.b.Ready(s.now)
	assert.False(t, ok, "a tripped breaker let a call start")
	step(s.b.Reset(s.now), true, Closed)
	s.call(4, Failure)
	step(s.b.Reset(s.now), false, Closed)
	s.start("runs").call(4, Failure).is(Closed) // Reset has forgotten the four before
	step(s.b.Reset(s.now), false, Closed)
	s.call(4, Failure).end("runs", Failure).is(Open) // a Reset that changed no state keeps the generation
	s.at(5e9 + 30).start("probe").is(HalfOpen)
	step(s.b.Trip(s.now), true, Open)
	s.end("probe", Success).is(Open)
}

// A row is one of failures that have to do with each other: it ends with a success, or after
// an hour, or a longer setting, in which nothing happened. Until then a breaker is not idle, so
// nobody forgets it.
func TestARowOfFailuresLastsAnHour(t *testing.T) {
	const hour = 3600
	s := begin(t, Config{Failures: 3})
	s.call(2, Failure).at(hour-1).call(1, Failure).is(Open)
	s = begin(t, Config{Failures: 3})
	s.call(2, Failure).at(hour).call(2, Failure).is(Closed).call(1, Failure).is(Open)
	s = begin(t, Config{Failures: 3, Window: 2 * hour * second})
	s.call(2, Failure).at(2*hour-1).call(1, Failure).is(Open)
}

func TestIdle(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		run  func(s *script) *script
		at   float64 // idle from here on
	}{
		{"new", Config{}, func(s *script) *script { return s }, 0},
		{"successes", Config{Failures: 5}, func(s *script) *script { return s.call(9, Success) }, 0},
		{"failures in the window", Config{}, func(s *script) *script { return s.at(4.5).call(4, Failure) }, 33},
		{"successes in the window", Config{}, func(s *script) *script { return s.at(4.5).call(9, Success) }, 0},
		{"and one failure", Config{Window: 10 * second}, func(s *script) *script { return s.call(1, Failure).at(4.5).call(9, Success) }, 14},
		{"which is over", Config{Window: 10 * second}, func(s *script) *script { return s.call(1, Failure).at(10).call(9, Success) }, 0},
		{"a row of failures", Config{Failures: 5}, func(s *script) *script { return s.at(5).call(2, Failure) }, 3605},
		{"long window", Config{Failures: 5, Window: 7200 * second}, func(s *script) *script { return s.at(5).call(2, Failure) }, 7205},
		{"open", Config{Failures: 1, Cooldown: 30 * second}, func(s *script) *script { return s.at(5).call(1, Failure) }, 3635},
		{"half-open, hung", Config{Failures: 1, Cooldown: 30 * second}, func(s *script) *script { return s.call(1, Failure).at(30).start("p") }, 3690},
		{"half-open, given back", Config{Failures: 1, Cooldown: 30 * second}, func(s *script) *script {
			return s.call(1, Failure).at(30).start("p").at(40).end("p", Neutral)
		}, 3640},
		{"recovering", Config{Failures: 1, Cooldown: 30 * second}, func(s *script) *script { return s.call(1, Failure).at(30).call(1, Success) }, 60},
		{"throttled", Config{}, func(s *script) *script { s.b.Throttle(0, 77*second); return s }, 77},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.run(begin(t, c.cfg))
			at := int64(c.at * 1e9)
			if at > 0 && at-1 >= s.b.IdleAt() {
				t.Errorf("idle before %v", sec(at))
			}
			if at < s.b.IdleAt() {
				t.Errorf("not idle at %v", sec(at))
			}
		})
	}
}

func TestReconfigure(t *testing.T) {
	s := begin(t, Config{Failures: 5}).call(3, Failure)
	s.b.Reconfigure(0, &Config{Failures: 2, Probes: 3, Cooldown: 5 * second})
	s.is(Closed).call(1, Failure).is(Open).refused(5)
	s.b.Reconfigure(0, &Config{Failures: 2, Probes: 3, Cooldown: 50 * second})
	s.refused(5) // has begun
	s.at(5).call(2, Success).is(HalfOpen)
	s.b.Reconfigure(s.now, &Config{Probes: 1, Lease: second}) // two have succeeded already
	s.start("p").refused(6).end("p", Success).is(Closed)
	s.b.Reconfigure(s.now, nil)
	s.call(4, Failure).is(Closed).call(1, Failure).is(Open).refused(15) // while it recovered

	s = begin(t, Config{Failures: 5}).call(4, Failure)
	s.b.Reconfigure(0, nil)
	s.call(1, Failure).is(Closed)
	s.b.Reconfigure(0, &Config{Failures: 5})
	s.call(4, Failure).is(Closed).call(1, Failure).is(Open) // there was a time without rows

	s = begin(t, Config{Failures: 1, Probes: 4, Lease: second}).call(1, Failure).at(30).
		start("a").at(30.25).start("b").start("c").at(30.5).start("d")
	s.b.Reconfigure(s.now, &Config{Probes: 2, Lease: 9 * second})
	s.refused(31.25) // three of the four have to end: a at 31, b and c at 31.25
	s.at(31).refused(31.25).at(31.25).start("e").refused(31.5)

	s = begin(t, Config{Ratio: 0.5, MinCalls: 4}).call(3, Failure)
	s.b.Reconfigure(0, &Config{Ratio: 0.5, MinCalls: 4, Window: 60 * second})
	s.call(3, Failure).is(Closed).call(1, Failure).is(Open)
}

func TestPromise22_Validate(t *testing.T) {
	nan := 0.0
	nan /= nan
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, ""},
		{Config{Failures: 1, Ratio: 1, MinCalls: 1, Window: 1, Cooldown: 1, Lease: 1, Probes: MaxProbes}, ""},
		{Config{Failures: -1}, "sluice: CircuitBreakerConfig.Failures is -1: must be zero (off) or positive"},
		{Config{Ratio: -0.1}, "sluice: CircuitBreakerConfig.Ratio is -0.1: must be zero (0.5, or off if Failures is set) or at most 1"},
		{Config{Ratio: 1.5}, "sluice: CircuitBreakerConfig.Ratio is 1.5: must be zero (0.5, or off if Failures is set) or at most 1"},
		{Config{Ratio: nan}, "sluice: CircuitBreakerConfig.Ratio is NaN: must be zero (0.5, or off if Failures is set) or at most 1"},
		{Config{MinCalls: -2}, "sluice: CircuitBreakerConfig.MinCalls is -2: must be zero (5) or positive"},
		{Config{Window: -3}, "sluice: CircuitBreakerConfig.Window is -3ns: must be zero (30 s) or positive"},
		{Config{Cooldown: -4}, "sluice: CircuitBreakerConfig.Cooldown is -4ns: must be zero (5 s) or positive"},
		{Config{Lease: -5}, "sluice: CircuitBreakerConfig.Lease is -5ns: must be zero (1 min) or positive"},
		{Config{Probes: 1025}, "sluice: CircuitBreakerConfig.Probes is 1025: must be zero (1) or from 1 to 1024"},
		{Config{Probes: -1}, "sluice: CircuitBreakerConfig.Probes is -1: must be zero (1) or from 1 to 1024"},
	} {
		got := ""
		if err := c.cfg.Validate("sluice: CircuitBreakerConfig"); err != nil {
			got = err.Error()
		}
		assert.Equal(t, c.want, got, "%+v", c.cfg)
	}
}

func TestWindowOfOddLengths(t *testing.T) {
	for _, c := range []struct {
		window, first, second int64
		want                  State
	}{
		{11, 0, 10, Open}, {11, 0, 20, Closed}, {1, 5, 5, Open}, {1, 5, 14, Open}, {1, 5, 15, Closed}, {20, -19, -1, Open}, {20, -21, -1, Closed},
		{20, -1, 17, Open}, {20, -1, 18, Closed}, {Never, 0, Never - 2, Open}, {100, Never - 9, Never, Open},
	} {
		b := New(&Config{Ratio: 1, MinCalls: 2, Window: c.window})
		for _, now := range []int64{c.first, c.second} {
			p, _ := b.Take(now)
			b.Done(now, p, Failure)
		}
		assert.Equal(t, c.want, b.State(c.second),
			"Window %d, failures at %d and %d: state", c.window, c.first, c.second)
	}
}

func TestWindowIsFull(t *testing.T) {
	var w window
	w.clear()
	w.add(0, 10, oneFailure)
	w.ring[w.head] += math.MaxUint32 - 1
	w.total += math.MaxUint32 - 1
	w.add(0, 10, oneResult)
	w.add(0, 10, oneFailure)
	if w.failures() != 1 || w.results() != math.MaxUint32 {
		t.Errorf("%d failures of %d results, want 1 of 2^32-1", w.failures(), w.results())
	}
}

func TestTheEndOfTime(t *testing.T) {
	b := New(&Config{Failures: 1, Cooldown: Never, Lease: Never})
	p, _ := b.Take(5)
	b.Done(5, p, Failure)
	assert.Equal(t, Never-1, b.NextChange(5), "the cooldown ends at: only Trip is for ever")
	b = New(&Config{Failures: 1, Cooldown: 30 * second, Lease: Never})
	p, _ = b.Take(5)
	b.Done(5, p, Failure)
	_, changed := b.Take(31 * second)
	assert.True(t, changed, "no probe started after the cooldown")
	assert.Equal(t, Never-1, b.NextChange(31*second), "the lease ends at")
}

func TestNoAllocations(t *testing.T) {
	b := New(&Config{Failures: 1 << 20, Ratio: 1, MinCalls: 1 << 20})
	now := int64(0)
	n := testing.AllocsPerRun(1000, func() {
		now += second / 10
		if ok, _ := b.Ready(now); ok {
			p, _ := b.Take(now)
			b.Done(now, p, Success)
		}
	})
	assert.Zero(t, n, "a closed breaker allocates %v times per call", n)
	f := New(&Config{Failures: 1, Probes: 4})
	if n := testing.AllocsPerRun(1000, func() { // fails, opens, probes, recovers
		now += 1e6 * second
		p, _ := f.Take(now)
		f.Done(now, p, Failure)
		now += 30 * second
		for range 4 {
			p, _ = f.Take(now)
			f.Done(now, p, Success)
		}
		if f.State(now) != Closed {
			t.Fatal("not recovered")
		}
	}); n != 0 {
		t.Errorf("a whole outage allocates %v times, want 0", n)
	}
}

func BenchmarkClosedSuccess(b *testing.B) {
	for name, c := range map[string]Config{"row": {Failures: 5}, "ratio": {}} {
		b.Run(name, func(b *testing.B) {
			x := New(&c)
			now := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				now += 1000
				if ok, _ := x.Ready(now); ok {
					p, _ := x.Take(now)
					x.Done(now, p, Success)
				}
			}
		})
	}
}

func BenchmarkOpenRefusal(b *testing.B) {
	x := New(nil)
	x.Trip(0)
	b.ReportAllocs()
	for b.Loop() {
		if ok, _ := x.Ready(1); ok {
			b.Fatal("started")
		}
	}
}

// Many successes at once count as one after the other, in the same tenth of the window.
func TestSucceeded(t *testing.T) {
	for _, cfg := range []Config{{}, {Failures: 5}, {Ratio: 0.5, MinCalls: 5}, {Ratio: 0.1, MinCalls: 20, Window: 3}, {Ratio: 1, Failures: 2, Window: 7 * second}} {
		one, many := begin(t, cfg), begin(t, cfg)
		for i := range 50 {
			at := float64(i*i) / 17
			one.at(at)
			many.at(at)
			until := many.b.CountsUntil(many.now)
			if cfg.Failures == 5 {
				require.Equal(t, Never, until)
				until = many.now + 1
			}
			require.Greater(t, until, many.now)
			for range i % 5 {
				one.now = min(until-1, one.now+1)
				one.call(1, Success)
			}
			many.b.Succeeded(many.now, int64(i%5))
			require.Equal(t, one.b.window, many.b.window, "%+v at %v", cfg, at)
			if i%7 == 0 {
				one.call(1, Failure).call(1, Success)
				many.now = one.now
				many.call(1, Failure).call(1, Success)
			}
			require.Equal(t, one.b.window, many.b.window, "%+v at %v", cfg, at)
		}
	}
	b := New(&Config{Ratio: 0.5})
	b.Succeeded(0, math.MaxInt64)
	require.Equal(t, uint32(math.MaxUint32), b.window.results())
	require.Zero(t, b.window.failures())
	b.Succeeded(0, 1)
	require.Equal(t, uint32(math.MaxUint32), b.window.results())
}

// Three of ten calls fail, whatever was before. Five in a row do so every minute or so by chance, and half
// of the results of a window only while these are few.
func TestTransientFailures(t *testing.T) {
	for name, c := range map[string]struct {
		cfg     Config
		refused int
	}{
		"by default": {Config{}, 2_744},
		"in a row":   {Config{Failures: 5, Cooldown: 30 * second}, 59_006},
	} {
		r := rand.New(rand.NewPCG(3, 10))
		s, refused := begin(t, c.cfg), 0
		for i := range 100_000 { // ten each second
			s.now = int64(i) * second / 10
			if ok, _ := s.b.Ready(s.now); !ok {
				refused++
				continue
			}
			o := Success
			if r.IntN(10) < 3 {
				o = Failure
			}
			s.call(1, o)
		}
		assert.Equal(t, c.refused, refused, name)
	}
}
