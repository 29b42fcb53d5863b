// Package stage is the shell around the machine of internal/admit: one lock, one queue, one timer
// and one instant for each decision. Which executors share a stage is their domain, see [Join].
//
// Whoever wants something of the machine locks the stage, asks M, and unlocks. Nothing of others
// runs under the lock: who is decided on, and whoever listens to what came about, is told once it
// is gone, by whoever unlocked. A stage lock is never taken while another is held, but by those
// who hold the domains.
package stage

import (
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/rules"
)

// Stage is one admission domain. It is made by a [Ref] or by [Join].
type Stage struct {
	Clock clock.Clock    // never changes
	M     *admit.Machine // guarded by the lock

	mu    sync.Mutex
	timer *time.Timer
	armed int64 // instant at which the timer fires; admit.Never if it does not run

	waiters []*waiter // spare
	news    news

	domain
}

// MaxPause bounds what an upstream can ask for.
const MaxPause = 24 * time.Hour

func newStage() *Stage {
	return &Stage{Clock: clock.New(), M: admit.NewMachine(rules.FirstInFirstOut), armed: admit.Never, domain: domain{lists: make(map[*Ref]int)}}
}

// Lock locks s and answers it.
func (s *Stage) Lock() *Stage {
	s.mu.Lock()
	return s
}

// Now is the present instant.
func (s *Stage) Now() int64 { return s.Clock.Now() }

// Unlock ends a decision: it lets the lock go, then wakes whose waiting is over and tells who
// listens. It must not be called while another lock is held.
func (s *Stage) Unlock() {
	if s.news.none() && s.M.Quiet() && s.M.Due() == s.armed { // as when nobody waits
		s.mu.Unlock()
		return
	}
	s.Release().Follow()
}

// Aftermath is what is left to do after a decision, once no lock is held.
type Aftermath struct {
	s          *Stage
	decided    *admit.Ticket
	more, tell bool
}

// Release lets the lock go. Its answer must be followed when no other lock is held either.
func (s *Stage) Release() Aftermath {
	a := Aftermath{s: s, decided: s.M.Decided()}
	s.notices()
	s.arm()
	a.more = s.M.Pending()
	a.tell = s.news.begin()
	s.mu.Unlock()
	return a
}

// Follow wakes, and tells when nobody waits for that any more: who listens may block.
func (a Aftermath) Follow() {
	s, tell := a.s, a.tell
	for wake(a.decided); a.more; wake(a.decided) {
		s.mu.Lock() // a batch at a time, so that others get in between
		s.M.Step(s.Now())
		a = s.Release()
		tell = tell || a.tell
	}
	if tell {
		s.tell()
	}
}

// arm has the timer fire when the machine has something to do.
func (s *Stage) arm() {
	due := s.M.Due()
	if due == s.armed {
		return
	}
	s.armed = due
	switch {
	case due == admit.Never:
		s.timer.Stop()
	case s.timer == nil:
		s.timer = time.AfterFunc(time.Duration(due-s.Now()), s.tick)
	default:
		s.timer.Reset(time.Duration(due - s.Now()))
	}
}

func (s *Stage) tick() {
	s.mu.Lock()
	s.armed = 0 // it has fired: arm it anew whatever is due
	s.M.Tick(s.Now())
	if s.M.Due() == admit.Never {
		s.armed = admit.Never
	}
	s.Unlock()
}

// Together has f change what it likes, for the waiting calls at one instant: nobody is decided on
// before it returns. The stage is locked.
func (s *Stage) Together(f func(now int64)) {
	now := s.Now()
	s.M.Freeze(now)
	defer s.M.Thaw(now)
	f(now)
}

// Pause has nobody start at c for d, or ends a pause if d is not positive. The stage is locked.
func (s *Stage) Pause(c *admit.Cell, d time.Duration) {
	now := s.Now()
	if d <= 0 {
		s.M.Pause(now, c, 0)
		return
	}
	d = min(d, MaxPause)
	s.M.Pause(now, c, now+int64(d))
	s.Note(Notice{Kind: Paused, By: c.Class().Name, Key: c.Key(), After: d})
}
