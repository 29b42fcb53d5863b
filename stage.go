package sluice

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/rules"
)

// stage is one admission domain: one lock, one queue, one timer, one instant per decision.
// Which one an executor belongs to is fixed when it is made; see Executor.join. The deciding
// itself is done by the state machine of internal/admit.
type stage struct {
	clock clock.Clock

	mu        sync.Mutex
	m         *admit.Machine
	scheduler *PriorityScheduler

	// written with domains held too, so that either lock is enough to read them
	execs   []*Executor       // that are live
	members map[*stageRef]int // how many of them list each registry, gate and scheduler

	timer *time.Timer
	armed int64 // instant the timer fires at; admit.Never if it does not run

	waiters []*waiter      // spare
	notices []admit.Notice // scratch

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
	return &stage{clock: clock.New(), m: admit.NewMachine(rules.FirstInFirstOut), members: make(map[*stageRef]int), armed: admit.Never}
}

// lock locks s and answers it.
func (s *stage) lock() *stage {
	s.mu.Lock()
	return s
}

// stageRef leads from a registry, a gate or a scheduler to the domain of the live executors
// that list it. Where there is none, the first who asks makes one without executors: nobody
// can wait or run there, so the next executor takes what was counted over.
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
		if r.p.Load() == s {
			return s
		}
		s.mu.Unlock()
	}
}

// move makes r lead to s, from nowhere or from a domain without executors. It returns when
// nobody is inside that any more.
func (r *stageRef) move(s *stage) {
	for {
		switch old := r.p.Load(); old {
		case s:
			return
		case nil:
			r.p.CompareAndSwap(nil, s)
		default:
			old.mu.Lock()
			r.p.Store(s)
			old.mu.Unlock()
		}
	}
}

// domains is held by whoever changes what belongs to which domain, or locks more than one.
// No call does, and nobody asks for it who holds a stage's lock.
var domains sync.Mutex

// member is one of what ties an executor to others.
type member struct {
	ref  *stageRef
	name string
}

// join makes e one of the domain that its registry, gates and scheduler belong to, or makes
// one of them where none belongs to a live executor. It fails, and changes nothing, if they
// belong to two, or if two schedulers would have to order one queue: calls wait and run in
// both, and nobody could say in what order.
func (e *Executor) join(sched *PriorityScheduler) error {
	domains.Lock()
	home, err := e.home(sched)
	if err != nil {
		domains.Unlock()
		return err
	}
	e.stage = home
	for _, x := range e.members {
		x.ref.move(home)
	}
	home.mu.Lock()
	if sched != nil && home.scheduler == nil {
		home.scheduler = sched
		c := sched.Config()
		home.m.SetPolicy(home.now(), c.policy())
	}
	home.execs = append(home.execs, e)
	for _, x := range e.members {
		home.members[x.ref]++
	}
	a := home.release()
	domains.Unlock()
	home.follow(a)
	return nil
}

// home is the domain that e is to join.
func (e *Executor) home(sched *PriorityScheduler) (*stage, error) {
	var home *stage
	var first member
	for _, x := range e.members {
		s := x.ref.p.Load()
		switch {
		case s == nil || len(s.execs) == 0 || s == home:
		case home != nil:
			return nil, fmt.Errorf("sluice: %s belongs to a live executor of %s, and %s to another, of %s: what one executor lists must belong to one domain: close one of the two, or make one that lists both first",
				first.name, home.owner(first), x.name, s.owner(x))
		default:
			home, first = s, x
		}
	}
	if home == nil {
		return newStage(), nil
	}
	if sched != nil && home.scheduler != nil && home.scheduler != sched {
		return nil, fmt.Errorf("sluice: PrioritySchedulers %q and %q would order one queue: executors that share a gate or a registry must list the same scheduler", home.scheduler, sched)
	}
	return home, nil
}

// owner is what a live executor that lists x lists, as Plan shows it.
func (s *stage) owner(x member) string {
	for _, e := range s.execs {
		if slices.ContainsFunc(e.members, func(y member) bool { return y.ref == x.ref }) {
			return "[" + strings.Join(e.listed(), " ") + "]"
		}
	}
	return "[]"
}

// listed is the names of e's gates and scheduler.
func (e *Executor) listed() []string {
	var names []string
	for _, x := range e.conf.Interceptors {
		if c := coreOf(x); c != nil {
			names = append(names, c.name)
		}
	}
	return names
}

// part takes e, which is closed and whose last call has ended, out of its domain. What no
// other live executor lists belongs to nobody then; what it has counted stays with it.
func (e *Executor) part() {
	domains.Lock()
	e.planning.Lock()
	s := e.stage.lock()
	if t := e.plans.Swap(new(planTable)); t != nil {
		for _, list := range []map[string]*plan{t.plans, t.before} {
			for _, p := range list {
				p.drop(s)
			}
		}
	}
	s.execs = slices.DeleteFunc(s.execs, func(x *Executor) bool { return x == e })
	for _, x := range e.members {
		if s.members[x.ref]--; s.members[x.ref] == 0 {
			delete(s.members, x.ref)
			x.ref.p.Store(nil)
		}
	}
	if o := s.scheduler; o != nil && s.members[o.core.stage] == 0 {
		s.scheduler = nil
		s.m.SetPolicy(s.now(), rules.FirstInFirstOut)
	}
	s.m.Rest()
	a := s.release()
	e.planning.Unlock()
	domains.Unlock()
	s.follow(a)
}

// registries is what the live executors of r's domain find their tools in; nil if there is no
// such executor.
func (r *stageRef) registries() (list []*ToolRegistry) {
	domains.Lock()
	defer domains.Unlock()
	if s := r.p.Load(); s != nil {
		for _, e := range s.execs {
			if !slices.Contains(list, e.registry) {
				list = append(list, e.registry)
			}
		}
	}
	return list
}

func (s *stage) now() int64 { return s.clock.Now() }

// unlock ends a decision: it lets the lock go, then wakes whose waiting is over and tells
// the sinks what changed. No user code runs before the lock is gone.
func (s *stage) unlock() {
	if len(s.events) == 0 && s.m.Quiet() && s.m.Due() == s.armed { // as when nobody waits
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
	s.notices = s.m.Notices(s.notices[:0])
	for i := range s.notices {
		s.event(noticeEvent(&s.notices[i]))
	}
	s.arm()
	a.more = s.m.Pending()
	if a.tell = len(s.events) > 0 && !s.telling; a.tell {
		s.telling = true
	}
	s.mu.Unlock()
	return a
}

// noticeEvent is what the sinks are told of n.
func noticeEvent(n *admit.Notice) Event {
	e := Event{By: n.Cell.Class().Name, Key: n.Cell.Key(), Actor: n.By}
	switch n.Kind {
	case admit.StateChanged:
		e.Kind, e.From, e.To = BreakerStateChanged, breakerState(n.From).String(), breakerState(n.To).String()
	case admit.Debt:
		e.Kind, e.RetryAfter = RateLimitDebt, time.Duration(n.After)
	case admit.Stalled:
		e.Kind, e.Err = LimitStalled, &stalled{n.Holding, n.Waiting}
	}
	return e
}

// stalled is what LimitStalled says.
type stalled struct{ holding, waiting int }

func (e *stalled) Error() string {
	return fmt.Sprintf("sluice: %d calls hold it and released nothing for a minute, while %d wait: does a tool call another without the context it was given?", e.holding, e.waiting)
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
			o.decided(t.State() == admit.Running)
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
	e.Time = s.clock.Time(s.now())
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
			l.exec.deliver(context.Background(), l.sink, &events[i/len(list)], nil)
		}
		normal = true
	}()
	<-done
	return i
}
