package sluice

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
)

// stage is one admission domain: one lock, one queue, one timer, one instant per
// decision. Executors that share a gate share a stage; two stages that turn out to share
// one become one. The deciding itself is done by the state machine of internal/admit.
type stage struct {
	clock clock

	mu        sync.Mutex
	into      atomic.Pointer[stage] // set once this stage has become part of another
	m         *admit.Machine
	scheduler *PriorityScheduler
	execs     []*Executor

	timer *time.Timer
	armed int64 // instant the timer fires at; admit.Never if it does not run

	waiters []*waiter      // spare
	changes []admit.Change // scratch

	events  []Event // outside calls, in the order they happened
	telling bool    // somebody delivers them
	lost    uint64  // events beyond the bound, while sinks blocked
}

const maxStageEvents = 1000

// waiter is where a queued call waits that has a goroutine.
type waiter struct {
	ready chan struct{} // one token when its ticket has been decided
	plan  *plan
}

// planOf is the plan of the waiting call whose ticket has that owner.
func planOf(owner any) *plan {
	if f, ok := owner.(*submission); ok {
		return f.inv.plan
	}
	return owner.(*waiter).plan
}

func newStage() *stage {
	return &stage{clock: newClock(), m: admit.NewMachine(firstInFirstOut), armed: admit.Never}
}

// stageRef leads to a stage, also after that has become part of another.
type stageRef struct{ p atomic.Pointer[stage] }

// lock returns the stage, locked.
func (r *stageRef) lock() *stage {
	for {
		s := r.p.Load()
		if s == nil {
			r.p.CompareAndSwap(nil, newStage())
			continue
		}
		s.mu.Lock()
		if s.into.Load() == nil {
			return s
		}
		r.p.CompareAndSwap(s, s.into.Load())
		s.mu.Unlock()
	}
}

// joining is held by whoever locks more than one stage.
var joining sync.Mutex

// join makes one stage of all that refs lead to, and lets sched order it. It fails, and
// changes nothing, if two schedulers would have to.
func join(sched *PriorityScheduler, refs ...*stageRef) error {
	joining.Lock()
	s, err := joinLocked(sched, refs)
	if err != nil {
		joining.Unlock()
		return err
	}
	a := s.release()
	joining.Unlock()
	s.follow(a)
	return nil
}

// joinLocked answers the one stage, locked.
func joinLocked(sched *PriorityScheduler, refs []*stageRef) (*stage, error) {
	var stages []*stage
	for _, r := range refs {
		s := r.lock()
		s.mu.Unlock()
		if !slices.Contains(stages, s) { // nobody else makes two of them one meanwhile
			stages = append(stages, s)
		}
	}
	for _, s := range stages {
		s.mu.Lock()
	}
	for _, s := range stages {
		if s.scheduler != nil && sched != nil && s.scheduler != sched {
			for _, s := range stages {
				s.mu.Unlock()
			}
			return nil, fmt.Errorf("sluice: PrioritySchedulers %q and %q would order one queue: executors that share a gate must list the same scheduler", s.scheduler, sched)
		}
		if s.scheduler != nil {
			sched = s.scheduler
		}
	}
	s := stages[0]
	for _, o := range stages[1:] {
		s.m.Absorb(s.now(), o.m)
		s.execs = append(s.execs, o.execs...)
		s.events = append(s.events, o.events...)
		o.events = nil
		if o.timer != nil {
			o.timer.Stop()
		}
		o.into.Store(s)
		o.mu.Unlock()
	}
	if sched != nil && s.scheduler != sched {
		s.scheduler = sched
		c := sched.Config()
		s.m.SetPolicy(s.now(), c.policy())
	}
	return s, nil
}

func (s *stage) now() int64 { return s.clock.now() }

// unlock ends a decision: it lets the lock go, then wakes whose waiting is over and tells
// the sinks what changed. No user code runs before the lock is gone.
func (s *stage) unlock() {
	if s.armed == admit.Never && len(s.events) == 0 && s.m.Quiet() { // as when nobody waits
		s.mu.Unlock()
		return
	}
	s.follow(s.release())
}

// aftermath is what is left to do after a decision, once no lock is held.
type aftermath struct {
	decided    *admit.Ticket
	more, tell bool
}

// follow wakes, and tells when nobody waits for it any more: a sink may block.
func (s *stage) follow(a aftermath) {
	tell := a.tell
	for wakeAll(a.decided); a.more; wakeAll(a.decided) {
		s.mu.Lock() // a batch at a time, so that others get in between
		if s.into.Load() != nil {
			s.mu.Unlock()
			break
		}
		s.m.Step(s.now())
		a = s.release()
		tell = tell || a.tell
	}
	if tell {
		s.tell()
	}
}

// release lets the lock go. Its answer must be followed when no other lock is held either.
func (s *stage) release() (a aftermath) {
	a.decided = s.m.Decided()
	s.changes = s.m.Changes(s.changes[:0])
	for _, c := range s.changes {
		s.event(Event{
			Kind:  BreakerStateChanged,
			By:    c.Cell.Class().Name,
			Key:   c.Cell.Key(),
			From:  breakerState(c.From).String(),
			To:    breakerState(c.To).String(),
			Actor: c.By,
		})
	}
	s.arm()
	a.more = s.m.Pending()
	if a.tell = len(s.events) > 0 && !s.telling; a.tell {
		s.telling = true
	}
	s.mu.Unlock()
	return a
}

// arm has the timer fire when the machine has something to do.
func (s *stage) arm() {
	due := s.m.Due()
	if due == s.armed {
		return
	}
	s.armed = due
	switch {
	case due == admit.Never:
		s.timer.Stop()
	case s.timer == nil:
		s.timer = time.AfterFunc(time.Duration(due-s.now()), s.tick)
	default:
		s.timer.Reset(time.Duration(due - s.now()))
	}
}

func (s *stage) tick() {
	s.mu.Lock()
	if s.into.Load() != nil {
		s.mu.Unlock()
		return
	}
	s.armed = 0 // it has fired: arm it anew whatever is due
	s.m.Tick(s.now())
	if s.m.Due() == admit.Never {
		s.armed = admit.Never
	}
	s.unlock()
}

func wakeAll(t *admit.Ticket) {
	for t != nil {
		next := t.Next() // t is its owner's again once that is woken
		switch o := t.Owner.(type) {
		case *waiter:
			o.ready <- struct{}{}
		case *submission:
			o.decided()
		}
		t = next
	}
}

func (s *stage) newWaiter(p *plan) *waiter {
	var w *waiter
	if n := len(s.waiters); n > 0 {
		w = s.waiters[n-1]
		s.waiters = s.waiters[:n-1]
	} else {
		w = &waiter{ready: make(chan struct{}, 1)}
	}
	w.plan = p
	return w
}

// freeWaiter takes back the waiter of t, whose waiting is over, unless it is a submission.
func (s *stage) freeWaiter(t *admit.Ticket) {
	w, ok := t.Owner.(*waiter)
	if !ok {
		return
	}
	w.plan = nil
	if len(s.waiters) < 1024 {
		s.waiters = append(s.waiters, w)
	}
}

// pause holds c for d, or lifts a pause.
func (s *stage) pause(c *admit.Cell, d time.Duration) {
	now := s.now()
	until := now + int64(min(max(d, 0), maxPause))
	if d <= 0 {
		until = 0
	}
	s.m.Pause(now, c, until)
	if d > 0 {
		s.event(Event{Kind: RateLimitPaused, By: c.Class().Name, Key: c.Key(), RetryAfter: min(d, maxPause)})
	}
}

// maxPause bounds what an upstream can ask for.
const maxPause = 24 * time.Hour

// event has the sinks told of something outside calls.
func (s *stage) event(e Event) {
	if len(s.events) >= maxStageEvents {
		s.lost++
		return
	}
	e.Time = s.clock.time(s.now())
	s.events = append(s.events, e)
}

// tell delivers events in order; one goroutine at a time does.
func (s *stage) tell() {
	for {
		s.mu.Lock()
		events, execs := s.events, slices.Clone(s.execs)
		s.events = nil
		if len(events) == 0 {
			s.telling = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		list := listeners(execs)
		for i := 0; i < len(events)*len(list); {
			i = deliverFrom(i, events, list)
		}
	}
}

// deliverFrom gives events to listeners, from the i-th pair on, and answers where a sink
// ended it by runtime.Goexit: on a goroutine of its own, since the one that happened to
// change something must not end by that.
func deliverFrom(i int, events []Event, list []listener) int {
	done := make(chan struct{})
	go func() {
		normal := false
		defer func() {
			if !normal {
				list[i%len(list)].exec.dropped.Add(1)
				i++
			}
			close(done)
		}()
		for ; i < len(events)*len(list); i++ {
			l := list[i%len(list)]
			l.exec.deliver(background, l.sink, &events[i/len(list)], new(values))
		}
		normal = true
	}()
	<-done
	return i
}
