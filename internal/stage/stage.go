// Package stage is the shell around the machine of internal/admit, which decides who starts: one
// lock, one timer and one instant for each decision.
//
// Whoever wants something of the machine locks the stage, asks M, and unlocks. What follows from
// the decision is done by whoever unlocks, once the lock is gone:
//
//	s := ref.Lock()
//	s.M.Arrive(s.Now(), t)
//	s.Unlock() // wakes those who were decided on, delivers what listeners are to hear
//
// No code of users runs under a stage's lock, and nobody waits for anything under it: of limiters
// that are shared with other code the machine asks what does not block. Only who
// holds the package's lock domains may hold the locks of two stages; it comes before theirs.
//
//   - stage.go: the lock, the timer, and what follows from a decision
//   - domain.go: which clients (executors) share a stage, and how several stages are locked at once
//   - wait.go: how a goroutine waits until its ticket has been decided
//   - refuse.go: why a call was turned away
//   - permit.go: what an admitted attempt holds, and what the attempts of a call add up to
//   - stream.go: streams that hold an attempt open
//   - throttle.go: what pauses when an upstream asks for it
//   - news.go: what listeners hear of breakers, limits, rates and pauses
//   - cells.go: the cells that a gate has for one key
//   - lease.go: the contexts of attempts that run on leases
//   - shared.go: who waits for a semaphore that other code uses too
package stage

import (
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/rules"
)

// Stage is one admission domain. A [Ref] or [Join] makes it.
type Stage struct {
	Clock clock.Clock    // never changes
	M     *admit.Machine // guarded by the lock

	mu    sync.Mutex
	timer *time.Timer
	armed int64 // instant at which the timer fires; admit.Never if it does not run, or fired

	waiters []*waiter // spare
	news    news

	acquirers map[*admit.Cell]*acquirer
	acquiring sync.WaitGroup // goroutines of acquirers

	domain
}

// fired is the instant for which a timer that has just fired is armed: no due one.
const fired = math.MinInt64

// newStage returns a stage whose breakers open for times of their own: exact ones where time is virtual,
// since what is tested there is when things happen.
func newStage() *Stage {
	s := &Stage{
		Clock:  clock.New(),
		M:      admit.NewMachine(rules.FirstInFirstOut),
		armed:  admit.Never,
		domain: domain{lists: make(map[*Ref]int)},
	}
	if !s.Clock.IsVirtual() {
		s.M.Seed(rand.Uint64())
	}
	return s
}

// Lock locks s and answers it.
func (s *Stage) Lock() *Stage {
	s.mu.Lock()
	return s
}

// Now is the present instant.
func (s *Stage) Now() int64 { return s.Clock.Now() }

// Unlock ends a decision: it lets the lock go, wakes those who were decided on, and delivers what
// listeners are to hear, which may take as long as they like. It must not be called while another
// lock is held.
func (s *Stage) Unlock() {
	if s.news.none() && len(s.acquirers) == 0 && s.M.Calm(s.armed) {
		t, yields := s.M.Decided(), s.M.HandsOff()
		if s.mu.Unlock(); t != nil {
			if wakeAll(t); yields {
				runtime.Gosched()
			}
		}
		return
	}
	s.Release().Follow()
}

// Aftermath is what is left to do after a decision.
type Aftermath struct {
	s       *Stage
	decided *admit.Ticket // and those after it are to be woken
	ended   []func()      // to be called, each elsewhere: it may ask contexts of anybody's
	yields  bool          // and run first
	more    bool          // the machine has something to do at once
	deliver bool          // there are notices, and nobody delivers them yet
}

// Release lets the lock go, and that is all. Its answer must be followed once no other lock is
// held either.
func (s *Stage) Release() Aftermath {
	a := Aftermath{s: s, decided: s.M.Decided()}
	a.yields = a.decided != nil && s.M.HandsOff()
	s.takeNotices()
	if s.M.Thirsty() {
		s.M.Errands(time.Now().Round(0).UnixNano())
	}
	a.ended = s.M.Ended()
	s.arm()
	s.acquire()
	a.more = s.M.Pending()
	a.deliver = s.news.begin()
	s.mu.Unlock()
	return a
}

// Follow does what is left to do. Listeners come last, since they may block.
func (a Aftermath) Follow() {
	if a.wake() {
		a.s.deliver()
	}
}

// wake wakes those who were decided on, and reports whether whoever follows is to deliver.
func (a Aftermath) wake() (deliver bool) {
	s := a.s
	for {
		if wakeAll(a.decided); a.yields {
			runtime.Gosched()
		}
		for _, end := range a.ended {
			go Harmless(end)
		}
		deliver = deliver || a.deliver
		if !a.more {
			return deliver
		}
		s.mu.Lock() // for a part of the work at a time, so that others get in between
		s.M.Step(s.Now())
		a = s.Release()
	}
}

// followAll follows list, of one stage each: nobody waits there for a listener of another.
func followAll(list []Aftermath) {
	var delivered sync.WaitGroup
	for _, a := range list {
		if a.wake() {
			delivered.Go(a.s.deliver)
		}
	}
	delivered.Wait()
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
	s.armed = fired
	s.M.Tick(s.Now())
	s.Unlock()
}

// AtOnce has f make changes that are felt at one instant, all at once: nobody starts before it
// returns. The stage is locked, and not by [LockAll].
func (s *Stage) AtOnce(f func(now int64)) {
	now := s.Now()
	s.M.Freeze(now)
	defer s.M.Thaw(now)
	f(now)
}

// Pause has nobody start at c for d, or ends a pause if d is not positive. The stage is locked.
func (s *Stage) Pause(c *admit.Cell, d time.Duration) {
	d = min(max(d, 0), MaxPause)
	now := s.Now()
	s.M.Pause(now, c, now+int64(d))
	if d > 0 {
		s.Note(Notice{Kind: Paused, By: c.Class().Name, Key: c.Key(), After: d})
	}
}

// PauseTold is Pause because somebody else has paused c: nobody else needs to be told.
func (s *Stage) PauseTold(c *admit.Cell, d time.Duration) {
	s.Pause(c, d)
	s.M.Told(c)
}

// LiftTold lifts the pause of c because somebody else has, if it is to end at that instant. The stage is locked.
func (s *Stage) LiftTold(c *admit.Cell, end int64) {
	now := s.Now()
	if end > now && c.Usage(now).Paused == end {
		s.M.Lift(now, c)
		s.M.Told(c)
	}
}

// UnlockAside is Unlock for who must not wait for listeners: they hear what there is on another goroutine.
func (s *Stage) UnlockAside() {
	if s.Release().wake() {
		go s.deliver()
	}
}
