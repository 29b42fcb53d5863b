package stage

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
)

// alone is the stage of one client with whom nobody shares it.
func alone(t testing.TB, hears Listener) *Stage {
	c := listing(map[string]*Ref{}, "r")
	c.hears = hears
	return joined(t, c, Order{})
}

// Whoever waits for time to pass starts, or is refused, at the instant that is due, not after it
// and not when somebody else comes by.
func TestTheTimerFiresWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := alone(t, nil), caller()
		rate := []*admit.Class{rateOf(t, "rate", 1, 10*time.Second, 1)}
		full := []*admit.Class{slotsOf("full", 1)}
		for _, k := range [][]*admit.Class{rate, full} {
			wants(t, "the first", arrives(s, p, k).State(), admit.Running)
		}
		paid := submits(s, p, rate)
		wants(t, "armed for the token", s.armed, int64(10*time.Second))
		late := submits(s, p, full, until(3*time.Second))
		wants(t, "armed for the end of a wait", s.armed, int64(3*time.Second))
		later := submits(s, p, full, until(30*time.Second))
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, x := range []struct {
			name     string
			c        *call
			at       time.Duration
			admitted bool
		}{
			{"paid", paid, 10 * time.Second, true},
			{"late", late, 3 * time.Second, false},
			{"later", later, 30 * time.Second, false},
		} {
			wants(t, x.name, x.c.is(), fate{1, x.admitted, int64(x.at)})
		}
	})
}

// The timer does not run while nothing is due.
func TestTheTimerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := alone(t, nil), caller()
		rate := []*admit.Class{rateOf(t, "rate", 1, 10*time.Second, 1)}
		arrives(s, p, rate)
		gone := arrives(s, p, rate)
		wants(t, "armed", s.armed, int64(10*time.Second))
		leaving(s, gone)()
		wants(t, "armed when nobody waits", s.armed, admit.Never)
		wants(t, "it runs when nobody waits", s.timer.Stop(), false)

		start := submits(s, p, rate)
		time.Sleep(10*time.Second - 1)
		synctest.Wait()
		wants(t, "told before it is due", start.is().told, 0)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wants(t, "told when it is due", start.is().told, 1)
		wants(t, "armed after it fired", s.armed, admit.Never)
		wants(t, "it runs after it fired", s.timer.Stop(), false)
	})
}

// A timer that fires late, when somebody else has done what was due, changes nothing.
func TestATimerThatComesLateChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := alone(t, nil), caller()
		rate := []*admit.Class{rateOf(t, "rate", 1, 10*time.Second, 1)}
		arrives(s, p, rate)
		second := submits(s, p, rate)
		third := submits(s, p, rate)
		s.Lock()
		time.Sleep(10 * time.Second) // it has fired, and waits for the lock
		s.M.Advance(s.Now())
		s.Unlock()
		wants(t, "the second", second.is().told, 1)
		time.Sleep(10*time.Second - 1)
		synctest.Wait()
		wants(t, "the third before it is due", third.is().told, 0)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wants(t, "the third", third.is().told, 1)
		wants(t, "armed", s.armed, admit.Never)
	})
}

// A timer that fires before its time, by whatever clock, is armed again.
func TestATimerThatComesEarlyComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := alone(t, nil), caller()
		rate := []*admit.Class{rateOf(t, "rate", 1, 10*time.Second, 1)}
		arrives(s, p, rate)
		waits := submits(s, p, rate)
		s.timer.Stop()
		s.tick()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wants(t, "who waits", waits.is(), fate{1, true, int64(10 * time.Second)})
	})
}

// However many waits end at once, each is told once, at that instant, and others get in between.
func TestWhatIsTooMuchForOneDecisionIsDoneByParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := alone(t, nil), caller()
		full := []*admit.Class{slotsOf("full", 1)}
		arrives(s, p, full)
		const n = 1000
		calls := make([]*call, n)
		var first sync.Once // while that one is told, others are still to be refused
		between := 0
		for i := range calls {
			calls[i] = submits(s, p, full, until(time.Second))
			calls[i].does(func() {
				first.Do(func() {
					s.Lock()
					between = s.M.Waiting()
					s.mu.Unlock()
				})
			})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for i, c := range calls {
			wants(t, fmt.Sprint("call ", i), c.is(), fate{1, false, int64(time.Second)})
		}
		if between <= 0 || between >= n {
			t.Errorf("%d calls waited when the first was told, want some of %d", between, n)
		}
	})
}

// However much follows from a decision, what came about with it is heard.
func TestWhatCameAboutBeforeTheRestIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(ear)
		s, p := alone(t, l), caller()
		full := []*admit.Class{slotsOf("full", 1)}
		arrives(s, p, full)
		for range 999 {
			submits(s, p, full, until(time.Second))
		}
		s.Lock()
		time.Sleep(time.Second)
		s.M.Tick(s.Now())
		wants(t, "there is more to do", s.M.Pending(), true)
		s.Note(Notice{By: "note"})
		s.Unlock()
		synctest.Wait()
		wantsList(t, "heard", l.names(), []string{"note"})
	})
}

// Release only lets go: who was decided on is told when that is followed.
func TestWhatFollowsWaitsUntilItIsFollowed(t *testing.T) {
	l := new(ear)
	s, p := alone(t, l), caller()
	slot := []*admit.Class{slotsOf("slot", 1)}
	run, wait := arrives(s, p, slot), submits(s, p, slot)
	s.Lock()
	s.M.Finish(s.Now(), run, 0)
	s.Note(Notice{By: "note"})
	a := s.Release()
	wants(t, "the lock is free", s.mu.TryLock(), true)
	s.mu.Unlock()
	wants(t, "decided", wait.t.State(), admit.Running)
	wants(t, "told before", wait.is().told, 0)
	wants(t, "heard before", len(l.heard), 0)
	a.Follow()
	wants(t, "told", wait.is().told, 1)
	wants(t, "heard", len(l.heard), 1)
}

// Nobody starts by half of a change.
func TestChangesMadeTogetherAreFeltTogether(t *testing.T) {
	s, p := alone(t, nil), caller()
	a, b := slotsOf("a", 1), slotsOf("b", 1)
	arrives(s, p, []*admit.Class{a})
	arrives(s, p, []*admit.Class{b})
	onlyA := submits(s, p, []*admit.Class{a})
	both := submits(s, p, []*admit.Class{a, b})
	s.Lock()
	s.AtOnce(func(now int64) {
		s.M.SetLimit(now, a, 3)
		wants(t, "who waits for a", onlyA.t.State(), admit.Waiting)
		s.M.SetLimit(now, b, 2)
		wants(t, "who waits for both", both.t.State(), admit.Waiting)
	})
	wants(t, "who waited for a", onlyA.t.State(), admit.Running)
	wants(t, "who waited for both", both.t.State(), admit.Running)
	s.Unlock()
	wants(t, "told", onlyA.is().told+both.is().told, 2)
}

// A pause holds those who come, for a day at most, and listeners hear of it; no time, or less,
// ends it, and is nothing to hear of.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(ear)
		s, p := alone(t, l), caller()
		rate := []*admit.Class{rateOf(t, "rate", 1, time.Second, 1)}
		pause := func(d time.Duration) {
			s.Lock()
			s.Pause(s.M.Cell(s.Now(), rate[0], ""), d)
			s.Unlock()
		}
		began := s.Now()
		pause(1000 * time.Hour)
		waits := submits(s, p, rate)
		wants(t, "who comes", waits.state(), admit.Waiting)
		time.Sleep(24*time.Hour - 1)
		synctest.Wait()
		wants(t, "told before the end", waits.is().told, 0)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wants(t, "started after", time.Duration(waits.is().at-began), 24*time.Hour)
		finish(s, waits.t)

		for _, end := range []time.Duration{0, -time.Second} {
			pause(time.Hour)
			again := submits(s, p, rate)
			time.Sleep(time.Minute)
			synctest.Wait()
			wants(t, "told in a pause", again.is().told, 0)
			pause(end)
			wants(t, "told when it was ended", again.is().told, 1)
			finish(s, again.t)
		}
		var heard []time.Duration
		for _, n := range l.heard {
			heard = append(heard, n.After)
			if n.Kind != Paused || n.By != "rate" {
				t.Errorf("heard %+v", n)
			}
		}
		wantsList(t, "heard", heard, []time.Duration{24 * time.Hour, time.Hour, time.Hour})
	})
}
