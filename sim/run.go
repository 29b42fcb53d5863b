package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

// Run simulates c and reports. It starts nothing, waits for nothing and reads no clock; it
// returns when every call has ended, those that wait at Duration too, though what happens
// later is not counted. It calls the key, cost and input functions in c. An error names the
// field of c that is out of range, or the invariant of the library that broke, and where.
func Run(c Config) (Report, error) { return run(c, nil) }

// run lets a test change the order.
func run(c Config, change func(*admit.Policy)) (Report, error) {
	s, err := newSimulation(&c, change)
	if err != nil {
		return Report{}, err
	}
	return s.run()
}

func (s *simulation) run() (Report, error) {
	for s.err == nil && s.step() {
	}
	return s.report, s.err
}

// simulation is everything that moves.
type simulation struct {
	*world
	conf    *Config
	m       *admit.Machine
	streams []*stream
	classes map[*admit.Class]*constraint
	end     int64
	ended   bool // what happens now is not counted any more

	events
	now      int64
	steps    uint64 // decisions of the machine
	total    int    // calls
	arrivals uint64 // of calls, again and again too
	waiting  int
	running  int
	spare    *call
	notices  []admit.Notice

	checker
	report Report
	err    error
	begun  func(*call) // told of calls that begin; for tests
}

// call is one call on its way.
type call struct {
	s      *stream
	t      *admit.Ticket
	parent *call
	holds  []hold

	number           uint64 // of its arrival
	arrived, started int64
	service          int64 // how long its own code takes
	deadline         int64 // its caller's
	limit            int64 // it has no more time from then on
	uses             []int64
	fails            bool
	backend          bool // works on it
	queued           bool
	answered         bool    // its caller goes on, before its code has ended
	outcome, late    Outcome // late is what it is once limit has passed
	nested           int     // calls that it has made
	forecast         int64   // of its wait, -1 if nobody asked

	spare *call
}

func newSimulation(c *Config, change func(*admit.Policy)) (*simulation, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	w, err := newWorld(c)
	if err != nil {
		return nil, err
	}
	if change != nil {
		change(&w.policy)
	}
	if c.MaxCalls == 0 {
		c.MaxCalls = defaultMaxCalls
	}
	s := &simulation{world: w, conf: c, m: admit.NewMachine(w.policy), end: int64(c.Duration)}
	s.classes = make(map[*admit.Class]*constraint)
	for _, k := range w.constraints {
		s.classes[k.class] = k
	}
	for i := range c.Tools {
		s.together(w.tools[c.Tools[i].Spec.Name])
	}
	for i := range c.Traffic {
		t := &c.Traffic[i]
		st, err := s.newStream(t, t.name(), t.Tool, nil)
		if err != nil {
			return nil, err
		}
		s.foresee(st)
	}
	s.checker.init(s)
	return s, nil
}

// together tells the machine which cells the calls of t have in common.
func (s *simulation) together(t *tool) {
	var fixed []*admit.Cell
	var keyed []*admit.Class
	for _, k := range t.own {
		if k.scope.Keyed() {
			keyed = append(keyed, k.class)
			continue
		}
		key, _ := k.scope.Fixed(t.Spec.Name, t.Spec.Type)
		fixed = append(fixed, s.m.Cell(0, k.class, key))
	}
	s.m.Together(fixed, keyed)
}

// foresee has the next calls of st arrive.
func (s *simulation) foresee(st *stream) {
	at, n, ok := st.source.next()
	if ok && at < st.until {
		s.push(arrives, event{at: at, s: st, n: n})
	}
}

// step lets the next thing happen. At one instant calls end before the machine's own timers
// fire: a call may start at the very end of its wait.
func (s *simulation) step() bool {
	at, due := s.next(), s.m.Due()
	tick := due < at
	if tick {
		at = due
	}
	if at >= s.end && !s.ended {
		s.now = s.end
		s.close()
		return true
	}
	if at >= never {
		if s.waiting > 0 || s.running > 0 {
			s.broken("%d calls wait and %d run, and nothing will happen", s.waiting, s.running)
		}
		s.report.Drained = time.Duration(s.now - s.end)
		return false
	}
	s.now = max(s.now, at)
	if tick {
		s.m.Tick(s.now)
		s.settle()
		if d := s.m.Due(); d <= s.now && d <= due {
			s.broken("the machine is due again at %d after a tick at %d", d, s.now)
		}
		return true
	}
	e := s.pop()
	switch e.kind() {
	case ends:
		s.over(e.c)
	case resumes:
		s.resume(e.c)
	case judges:
		if e.c.late == TimedOut {
			s.m.Judge(s.now, e.c.t, breaker.Failure)
		} else {
			s.m.Judge(s.now, e.c.t, breaker.Neutral)
		}
		s.settle()
		if e.c.parent == nil {
			e.c.answered = true
			s.follow(e.c, 0)
		}
	case calls:
		s.arrive(e.s, nil)
	case arrives:
		for range e.n {
			if s.arrive(e.s, nil); s.err != nil {
				return false
			}
		}
		s.foresee(e.s)
	}
	return true
}

func (s *simulation) newCall(st *stream, parent *call) *call {
	c := s.spare
	if c == nil {
		c = new(call)
	} else {
		s.spare = c.spare
	}
	s.arrivals++
	*c = call{s: st, parent: parent, holds: c.holds[:0], uses: c.uses[:0], number: s.arrivals, arrived: s.now, started: -1}
	c.deadline, c.forecast = never, -1
	c.service = st.tool.Service.draw(st.rng)
	c.fails = st.rng.Float64() < st.tool.ErrorRate
	for i := range st.uses {
		c.uses = append(c.uses, st.uses[i].draw(st.rng))
	}
	return c
}

func (s *simulation) freeCall(c *call) {
	s.m.Free(c.t)
	c.t, c.parent = nil, nil
	c.spare, s.spare = s.spare, c
}

// nestedWait bounds the wait of a nested call that has no bound of its own.
const nestedWait = time.Minute

// forecastEach is how many calls come for each that is asked how long it will wait.
const forecastEach = 32

// arrive is a call of st at the door.
func (s *simulation) arrive(st *stream, parent *call) {
	if s.total++; s.total > s.conf.MaxCalls {
		s.err = fmt.Errorf("sim: more than Config.MaxCalls %d calls by %v: lower Duration or the "+
			"rates of Traffic, or raise it", s.conf.MaxCalls, time.Duration(s.now))
		return
	}
	c := s.newCall(st, parent)
	s.m.Advance(s.now)
	t := s.m.Ticket()
	c.t = t
	full, err := s.fill(c, t)
	if err != nil {
		s.err = err
		return
	}
	st.n++
	if !s.ended {
		st.counts.arrived++
	}
	if full != nil {
		s.refused(c, admit.Refusal{Reason: admit.Saturated}, full.class.Name)
		return
	}
	policy := &st.tool.Spec.Policy
	t.Plan, t.Level, t.Tenant, t.Owner = st.tool.plan, int8(st.priority-sluice.PriorityBatch), st.traffic.Tenant, c
	if parent != nil {
		t.Parent = parent.t
		c.deadline = parent.limit
	} else if st.traffic.Deadline > 0 {
		c.deadline = s.now + int64(st.traffic.Deadline)
	}
	switch {
	case policy.MaxWait == sluice.NoWait:
		t.AtOnce = true
	case policy.MaxWait > 0:
		t.Limit = s.now + int64(policy.MaxWait)
	case parent != nil:
		t.Limit = s.now + int64(nestedWait)
	}
	if c.deadline < never {
		t.Limit, t.Finish = min(t.Limit, c.deadline-1), c.deadline
	}
	if s.waiting > 0 && s.total%forecastEach == 0 {
		if f := s.m.Forecast(s.now, t); f.By != nil && f.Refusal.Reason == admit.NoReason {
			c.forecast = f.Wait
		}
	}
	state := s.m.Arrive(s.now, t)
	s.heed()
	switch state {
	case admit.Running:
		s.start(c)
	case admit.Refused:
		s.refused(c, t.Refusal(), "")
	default:
		c.queued = true
		s.waiting++
	}
	s.settle()
}

// settle follows up on what the machine has decided.
func (s *simulation) settle() {
	for {
		s.heed()
		for t := s.m.Decided(); t != nil; {
			next, c := t.Next(), t.Owner.(*call)
			if t.State() == admit.Running {
				s.start(c)
			} else {
				s.refused(c, t.Refusal(), "")
			}
			t = next
		}
		if !s.m.Pending() {
			break
		}
		s.m.Step(s.now)
	}
	s.steps++
	s.check()
}

// heed books the breakers that changed, before the calls that they let through start.
func (s *simulation) heed() {
	s.notices = s.m.Notices(s.notices[:0])
	for _, n := range s.notices {
		if n.Kind == admit.StateChanged {
			s.changed(n)
		}
	}
}

// start is c admitted: its code begins.
func (s *simulation) start(c *call) {
	if c.queued {
		s.waiting--
	}
	s.running++
	c.started = s.now
	s.started(c)
	if !s.ended {
		s.count(c)
	}
	tool := c.s.tool
	c.outcome, c.backend = Succeeded, true
	if tool.busy >= tool.capacity(s.now) {
		c.outcome, c.backend = Overloaded, false
		c.service = tool.RejectAfter.draw(s.luck)
	} else {
		tool.busy++
		if o := tool.outage(s.now); o != nil {
			if c.outcome = Failed; !o.After.isZero() {
				c.service = o.After.draw(s.luck)
			}
		} else if c.fails {
			c.outcome = Failed
		}
	}
	timeout := tool.Spec.Policy.Timeout
	if c.limit, c.late = c.deadline, Late; timeout > 0 && s.now+int64(timeout) < c.limit {
		c.limit, c.late = s.now+int64(timeout), TimedOut
	}
	end := s.now + c.service
	if end > c.limit {
		c.outcome = c.late
		if !tool.IgnoresTimeout {
			end = c.limit
		} else if timeout > 0 { // its caller does not wait for it
			s.push(judges, event{at: c.limit, c: c})
		}
	}
	s.push(ends, event{at: end, c: c})
	if s.begun != nil {
		s.begun(c)
	}
}

// capacity is how many calls the backend can work on at the instant now.
func (t *tool) capacity(now int64) int {
	most := math.MaxInt
	for i := range t.Capacity {
		if int64(t.Capacity[i].From) > now {
			break
		}
		most = t.Capacity[i].Max
	}
	return most
}

func (t *tool) outage(now int64) *Outage {
	for i := range t.Outages {
		if o := &t.Outages[i]; int64(o.From) <= now && now < int64(o.From+o.For) {
			return o
		}
	}
	return nil
}

// over is the end of c's own code. Nested calls follow, in the same slot.
func (s *simulation) over(c *call) {
	if c.backend {
		c.s.tool.busy--
	}
	if c.outcome == Succeeded && len(c.s.subs) > 0 {
		s.resume(c)
		return
	}
	s.finish(c)
}

// resume makes c's next nested call, or ends c.
func (s *simulation) resume(c *call) {
	switch {
	case s.now >= c.limit:
		c.outcome = c.late
		s.finish(c)
	case c.nested == len(c.s.subs):
		s.finish(c)
	default:
		c.nested++
		s.arrive(c.s.subs[c.nested-1], c)
	}
}

// finish is the end of c. Everything it holds goes back.
func (s *simulation) finish(c *call) {
	st, outcome := c.s, breaker.Neutral
	switch c.outcome {
	case Succeeded:
		outcome = breaker.Success
	case Failed, TimedOut:
		outcome = breaker.Failure
	case Overloaded:
		outcome = breaker.Overload
	}
	if c.outcome <= Overloaded {
		for i, unit := range st.units {
			used := c.uses[i]
			if c.outcome == Overloaded {
				used = 0
			}
			s.settled(c, unit, used)
			s.m.Settle(s.now, c.t, unit, used)
			s.settle() // who that lets start does so before what follows
			st.tool.learned.Learn(unit, used)
		}
	}
	if c.outcome == Overloaded && !st.tool.RetryAfter.isZero() {
		s.throttle(c, st.tool.RetryAfter.draw(s.luck))
	}
	s.running--
	s.finished(c)
	s.m.Finish(s.now, c.t, outcome)
	s.left(c, "")
	if !c.answered {
		s.follow(c, 0)
	}
	s.freeCall(c)
	s.settle()
}

// throttle pauses what the backend's answer speaks of: the keys of the call's Upstream rate limiters,
// or, without one, its tool, for a minute at most. Breakers stay open for as long, if they are.
func (s *simulation) throttle(c *call, d int64) {
	if d <= 0 {
		return
	}
	d = min(d, int64(24*time.Hour))
	wider := min(d, int64(time.Minute))
	tool, found := c.holds[0], false
	for _, h := range c.holds {
		k := h.cell.Class()
		if k == c.s.tool.slots().class {
			tool = h
		}
		if k.Upstream {
			s.pause(h, d)
			found = true
		}
		if k.Kind == admit.Breaker {
			s.m.Throttle(s.now, h.cell, s.now+wider)
		}
	}
	if !found {
		s.pause(tool, wider)
	}
}

func (t *tool) slots() *constraint { return t.own[0] }

func (s *simulation) pause(h hold, d int64) {
	s.paused(h.shadow, s.now+d)
	s.m.Pause(s.now, h.cell, s.now+d)
}

// refused is the end of a call that has not run.
func (s *simulation) refused(c *call, r admit.Refusal, by string) {
	if c.queued {
		s.waiting--
	}
	if r.By != nil {
		by = r.By.Class().Name
	}
	c.outcome = Refused
	s.left(c, by)
	if !s.ended {
		c.s.counts.refuse(reason(r.Reason), by)
		s.late(c, r)
	}
	s.follow(c, max(r.After, int64(time.Millisecond)))
	s.freeCall(c)
}

func reason(r admit.Reason) string {
	switch r {
	case admit.Saturated:
		return sluice.ErrSaturated.Error()
	case admit.RateLimited:
		return sluice.ErrRateLimited.Error()
	case admit.BreakerOpen:
		return sluice.ErrBreakerOpen.Error()
	case admit.QueueFull:
		return sluice.ErrQueueFull.Error()
	case admit.Shed:
		return sluice.ErrQueueFull.Error() + ", shed"
	case admit.TooLong:
		return sluice.ErrWaitTooLong.Error()
	case admit.TooWide:
		return sluice.ErrSaturated.Error() + ", too wide"
	case admit.Cycle:
		return sluice.ErrNesting.Error()
	}
	return fmt.Sprintf("reason %d", r)
}

// follow has whoever waits for c go on: the call around it, or the loop that made it.
func (s *simulation) follow(c *call, advice int64) {
	if c.parent != nil {
		s.push(resumes, event{at: s.now, c: c.parent})
		return
	}
	if c.s.kind != callers {
		return
	}
	at := s.now + advice + c.s.dist.draw(c.s.source.rng)
	if at = max(at, c.arrived+int64(time.Microsecond)); at < c.s.until {
		s.push(calls, event{at: at, s: c.s})
	}
}
