package admit

import "slices"

// set has l be as it is where it is kept.
func (l *Lease) set(now int64, x Term) {
	l.told, l.Until = x.Units, x.Until
	l.end, l.wall = now+x.Left, x.Wall
}

// Leases appends to buf the leases of the cells of k.
func (m *Machine) Leases(buf []*Lease, k *Class) []*Lease { return append(buf, k.leases...) }

// HeldUnits is how many slots the cells of k have.
func (k *Class) HeldUnits() (n int64) {
	for _, l := range k.leases {
		n += l.Units
	}
	return n
}

// Given is what is to go back of k: leases with no Units as a whole, others down to these. With again they
// are what could not be said before.
func (m *Machine) Given(k *Class, again []*Lease) []*Lease {
	list := append(again, k.given...)
	k.given = nil
	return list
}

// Shrunk tells that as many units of l as it was to have are left where it is kept, or that it has ended there.
func (m *Machine) Shrunk(now int64, l *Lease, units int64, ended bool) {
	m.advance(now)
	if l.told = units; ended && !l.gone {
		m.lose(l.cell, l)
	}
	m.drain()
}

// Renewal is what came of renewing a lease; Units is zero if it had ended.
type Renewal struct {
	*Lease
	Term
	Wanted int64 // slots of its key that others wait for, and this process
}

// Renewed tells what came of renewing leases. It answers the cells that have lost some before their time.
func (m *Machine) Renewed(now int64, list []Renewal) (lost map[*Cell]int64) {
	m.advance(now)
	heard := make(map[*Cell]bool, len(list))
	for _, x := range list {
		l, c := x.Lease, x.cell
		if l.gone {
			continue
		}
		s := c.lease
		m.thirst(c)
		if x.Term.Units < l.Units { // it has ended, before its time
			if lost == nil {
				lost = make(map[*Cell]int64)
			}
			lost[c] += l.Units
			m.lose(c, l)
			continue
		}
		if l.set(m.now, x.Term); l.Units != l.told && !slices.Contains(c.class.given, l) {
			c.class.given = append(c.class.given, l) // what was said before has not come there
		}
		if !heard[c] {
			heard[c] = true
			m.hear(c, x.Wanted)
		}
		s.yield = min(s.yield, s.held)
		m.follow(c)
		m.mark(c)
	}
	m.drain()
	return lost
}

// hear has c give up slots as calls end, if others wait for some: what is more than its part, if each of them
// waits for one and nobody else has any, and one of its part, so that they go round: others may have some. What has not been used for long goes as well.
func (m *Machine) hear(c *Cell, wanted int64) {
	s, k := c.lease, c.class
	if s.running && s.demand.Waits && s.demand.Units == 1 {
		wanted-- // that is this process
	}
	if s.wanted = max(0, wanted); s.wanted > 0 {
		part := k.Limit / (s.wanted + 1)
		s.yield = min(s.held, max(s.yield, s.held-part+1))
	}
	if m.now-s.since >= k.Leases.Linger {
		s.yield = min(s.held, s.yield+max(0, s.low-s.yield))
		s.since, s.low = m.now, max(0, s.has()-c.used)
	}
}

// AreIdle reports whether nobody has, or acquires, leases of k, and none is to go back.
func (m *Machine) AreIdle(k *Class) bool { return len(k.given)+len(k.leases)+k.busy == 0 }

// SetAway says whether leases of k can be had.
func (m *Machine) SetAway(now int64, k *Class, away bool) {
	m.advance(now)
	k.away = away
	for _, c := range k.list {
		m.thirst(c)
		m.follow(c)
		m.mark(c)
	}
	m.drain()
}

// CloseLeases gives back all that the cells of k have as soon as no call runs on it. No call that needs
// some starts any more.
func (m *Machine) CloseLeases(now int64, k *Class) {
	m.advance(now)
	k.closed = true
	for _, c := range k.list {
		s := c.lease
		s.yield = s.held
		m.thirst(c)
		m.follow(c)
		m.mark(c)
	}
	m.drain()
}

// Look has the cells of k looked at that have leases, as the wall clock may have jumped.
func (m *Machine) Look(k *Class) {
	for _, l := range k.leases {
		m.thirst(l.cell)
	}
}

// resize has the cells of k follow a limit that has changed. One that has become less is less for each
// process, by as much.
func (m *Machine) resize(k *Class, was int64) {
	for _, c := range k.list {
		s := c.lease
		if s.running && s.demand.Waits { // by the old limit
			k.Leases.Lessee.CallOff(c)
		}
		if k.Limit < was {
			s.yield = max(s.yield, s.held-s.held*k.Limit/was)
			m.sweep(c)
		}
		m.thirst(c)
		m.follow(c)
		m.mark(c)
	}
}

// restLeases gives back what c has, and has the machine let go of c, if nobody uses it or waits there.
func (m *Machine) restLeases(c *Cell) {
	if s := c.lease; c.q == nil && c.used == 0 {
		s.yield = s.held
		m.give(c)
		m.follow(c)
		if c.timer >= 0 {
			m.timers.Remove(c.timer)
		}
	}
}
