package admit

import "slices"

// Demand is slots to acquire at once, all of them or none.
type Demand struct {
	Op     Op    // names it; the same for a repetition
	Units  int64 //
	Limit  int64 // of all processes
	Waits  bool  // until they come free; else now or not at all
	Urgent bool  // for a call of the highest level
	Fails  int   // tries in a row that have failed
	since  int64
}

// Acquired is what came of a Demand. If Units is zero, and it has not failed, there are not as many.
type Acquired struct {
	Term
	Fence  uint64
	Wanted int64 // slots that others wait for, and this process
	Failed bool
	Sure   bool  // that nothing was got, if it failed
	Pause  int64 // after a failure
}

// attend does for c what there is to do at an instant that is wall by the wall clock.
func (m *Machine) attend(c *Cell, wall int64) {
	s, k := c.lease, c.class
	for i := len(s.leases) - 1; i >= 0; i-- {
		if l := s.leases[i]; l.wall <= wall || l.end <= m.now { // the process may have slept
			m.lose(c, l)
		}
	}
	m.give(c)
	at := Never
	for _, l := range s.leases {
		at = min(at, l.end)
	}
	if over := s.demand.since + k.Leases.Repeat; s.unsure && over > m.now {
		at = min(at, over)
	} else {
		s.unsure = false // what it got has ended
	}
	if !s.running && s.next <= m.now { // what was denied then may be there
		s.denied = false
	}
	d, lacks := m.demands(c)
	switch {
	case s.running && s.demand.Waits && !lacks:
		k.Leases.Lessee.CallOff(c)
	case s.running || !lacks:
	case s.next > m.now:
		at = min(at, s.next)
	default:
		s.running, s.demand.Waits = true, d.Waits
		k.busy++
		k.Leases.Lessee.Run(c)
	}
	if at < Never {
		m.arm(c, max(at, m.now+1))
	}
}

// demands is what to acquire for c, whenever that may be.
func (m *Machine) demands(c *Cell) (d Demand, lacks bool) {
	s, k := c.lease, c.class
	load, width := int64(0), int64(1)
	if k.closed {
		return d, false
	}
	if q := c.q; q != nil {
		for i := range q.levels {
			load += q.levels[i].load
		}
		heads := q.aside[:min(1, len(q.aside))]
		if q.n > 0 {
			heads = append(slices.Clip(heads), q.best(m.policy.Ageing))
		}
		for _, l := range heads {
			width = max(width, l.width)
			d.Urgent = d.Urgent || max(l.level, l.declared) == Levels-1
		}
	}
	has, room := s.has(), k.Limit-s.held
	free := max(0, has-c.used)
	d.Limit, d.Fails = k.Limit, s.fails
	d.Units = min(c.used+load, k.Limit) - has
	wide := load > 0 && width > max(1, has)
	if wide && width > free {
		d.Units = max(d.Units, width-free)
	}
	if d.Units <= 0 {
		return d, false
	}
	if s.unsure {
		again := s.demand
		again.Fails = s.fails
		return again, true
	}
	if s.denied && k.Refuse && s.next <= m.now {
		s.denied = false
	}
	if !s.denied && room > 0 {
		d.Units = min(d.Units, room)
		return d, true
	}
	if d.Waits, d.Units = true, 1; wide {
		d.Units = min(width, k.Limit)
	}
	return d, !k.Refuse && (room > 0 || wide)
}

// Demand is what to acquire for c, by the name op unless it is a repetition. If there is nothing at present
// the Lessee is told when there is.
func (m *Machine) Demand(now int64, c *Cell, op Op) (Demand, bool) {
	m.advance(now)
	s := c.lease
	m.thirst(c)
	s.unsure = s.unsure && m.now-s.demand.since < c.class.Leases.Repeat
	d, lacks := m.demands(c)
	if !lacks || s.next > m.now {
		s.running = false
		c.class.busy--
		return d, false
	}
	if !s.unsure {
		d.Op, d.since = op, m.now
	}
	s.demand = d
	return d, true
}

// Leased tells what came of the demand of c.
func (m *Machine) Leased(now int64, c *Cell, x Acquired) {
	m.advance(now)
	s, d := c.lease, c.lease.demand
	m.thirst(c)
	switch {
	case x.Failed:
		s.fails++
		s.unsure, s.denied, s.next = s.unsure || !x.Sure, true, m.now+x.Pause
	case x.Units == 0:
		s.fails, s.unsure, s.denied = 0, false, !d.Waits
		if s.next = m.now; c.class.Refuse {
			s.next += c.class.Leases.Retry
		}
	default:
		s.fails, s.unsure, s.denied, s.next = 0, false, d.Waits && x.Wanted > 0, m.now
		l := &Lease{Op: d.Op, Fence: x.Fence, Key: c.key, Units: x.Units, cell: c}
		l.set(m.now, x.Term)
		s.leases, c.class.leases = append(s.leases, l), append(c.class.leases, l)
		if s.held += l.Units; c.class.closed {
			s.yield += l.Units
		}
		if len(s.leases) == 1 {
			s.since, s.low = m.now, s.held
			c.class.Leases.Lessee.Tend()
		}
	}
	m.follow(c)
	m.mark(c)
	m.drain()
}
