package admit

import (
	"slices"
	"time"
)

// The slots of a class may be kept elsewhere, shared with other processes: its class has [Leases], and each
// of its cells some leases of slots, for a time that is known. As many slots as its leases have, less those
// that are to go back, are what the cell has: so it is decided as at any other who starts. A waiting call
// holds none of them. A lease belongs to the cell, and which calls run on it is known: when it ends, those
// are told that they must end.
//
// Nothing here asks anybody, as with a [Stock]. Whoever acquires slots for a cell asks what it demands
// ([Machine.Demand]) and tells what came of it ([Machine.Leased]); whoever renews leases and gives back
// slots asks which ([Machine.Leases], [Machine.Given]) and tells that ([Machine.Renewed]).
//
// A cell demands what its calls use and wait for, up to the limit of all processes together. First it tries
// to have all of it at once, or nothing. Where that is not there somebody waits in line for it, one slot at
// a time: what comes free goes to one process after the other. A call that needs more slots than the cell
// has at all has its whole width acquired in one piece, so that two such processes do not keep from each
// other what both have collected in part.

// Leases says how the cells of a class lease their slots.
type Leases struct {
	Name   string // of whoever has the limit
	Linger int64  // how long slots are kept that no call uses
	Retry  int64  // how long a class that refuses calls does so before it asks again
	Repeat int64  // how long what has failed can be repeated under its name: what it got has ended then
	Part   int64  // while leases cannot be had there is one slot for so many; none if it is zero
	Admits bool   // then as many as are asked for
	Shadow bool   // calls start whatever there is, and count
	Lessee Lessee // never changes
}

// Lessee does for the cells of a class what there is to do. Its methods are called with the machine locked,
// and must not block.
type Lessee interface {
	// Run has somebody acquire what c demands, by [Machine.Demand], until it demands nothing.
	Run(c *Cell)
	// CallOff says that nobody needs what is being acquired for c.
	CallOff(c *Cell)
	// Tend has looked at what is to be given back.
	Tend()
}

// Term is so many slots for so long.
type Term struct {
	Units int64
	Until time.Time // as the engine has it
	Left  int64     // until they must not be used any more
	Wall  int64     // the instant of that by the wall clock
}

// Lease is one that a cell has. It is guarded as its machine is.
type Lease struct {
	Op    Op // what it was acquired by
	Fence uint64
	Units int64 // none: it is to be given back as a whole
	Until time.Time
	Key   string // of its cell

	cell      *Cell
	told      int64 // units where it is kept
	used      int64
	end, wall int64
	holders   []holder
	gone      bool
}

// Told is how many units it has where it is kept.
func (l *Lease) Told() int64 { return l.told }

// holder is a call that runs on slots of a lease.
type holder struct {
	t *Ticket
	n int64
}

// tenure is what a cell has by leases.
type tenure struct {
	leases []*Lease
	held   int64 // units of leases
	bound  int64 // of these, what calls run on
	yield  int64 // of these, what goes back as soon as no call runs on it
	wanted int64 // units that others waited for when that was heard last
	low    int64 // the least that was unused since that instant
	since  int64

	demand  Demand // under way, or of unknown outcome
	unsure  bool   // it is
	denied  bool   // there is not at once what is demanded
	running bool   // somebody acquires
	fails   int    // in a row
	next    int64  // nothing is acquired before
}

// has is how many slots calls may use.
func (s *tenure) has() int64 { return s.held - s.yield }

func (s *tenure) isIdle() bool { return len(s.leases) == 0 && !s.running && !s.unsure }

// most is how many slots c can ever have.
func (c *Cell) most() int64 {
	if c.lease != nil {
		return c.class.Limit
	}
	return c.limit
}

// leased is how many slots c has by its leases, or while none can be had.
func (c *Cell) leased() int64 {
	s, k := c.lease, c.class
	switch {
	case k.closed:
		return 0
	case k.Leases.Shadow:
		return Unlimited
	case k.away:
		return max(s.has(), k.apart())
	}
	return s.has()
}

// apart is how many slots a cell of k has while leases cannot be had.
func (k *Class) apart() int64 {
	switch x := k.Leases; {
	case x.Admits:
		return Unlimited
	case x.Part > 0:
		return max(1, k.Limit/x.Part)
	}
	return 0
}

// follow has the limit of c be what it is by its leases.
func (m *Machine) follow(c *Cell) {
	was := c.limit
	if c.limit = c.leased(); c.limit > was && c.q != nil {
		m.released(c)
	}
}

// bind has the running t, which takes n slots of c, run on leases.
func (m *Machine) bind(t *Ticket, c *Cell, n int64) {
	s := c.lease
	m.thirst(c)
	for _, l := range s.leases {
		if k := min(n, l.Units-l.used); k > 0 {
			l.used += k
			s.bound += k
			l.holders = append(l.holders, holder{t, k})
			if n -= k; n == 0 {
				break
			}
		}
	}
	if c.class.Leases.Shadow && c.used > s.has() && c.answered(m.now) {
		c.class.short++
	}
	s.low = min(s.low, max(0, s.has()-c.used))
}

// unbind ends that: the slots are free.
func (m *Machine) unbind(t *Ticket, c *Cell) {
	for _, l := range c.lease.leases {
		for i := len(l.holders) - 1; i >= 0; i-- {
			if x := l.holders[i]; x.t == t {
				l.used -= x.n
				c.lease.bound -= x.n
				l.holders = slices.Delete(l.holders, i, i+1)
			}
		}
	}
	m.thirst(c)
}

// rebind has to run on what from ran on.
func (c *Cell) rebind(from, to *Ticket) {
	for _, l := range c.lease.leases {
		for i := range l.holders {
			if l.holders[i].t == from {
				l.holders[i].t = to
			}
		}
	}
}

// fence is the largest number of the leases of c that t runs on.
func (c *Cell) fence(t *Ticket) (fence uint64) {
	for _, l := range c.lease.leases {
		if l.Fence > fence && slices.ContainsFunc(l.holders, func(h holder) bool { return h.t == t }) {
			fence = l.Fence
		}
	}
	return fence
}

// Fence is the number of the lease on which the running t has slots of a class of that name, or of the
// limiter of that name: of several keys the largest, of several such classes that of the narrowest. It is zero
// if there is none.
func (m *Machine) Fence(t *Ticket, name string) (fence uint64) {
	var of *Class
	for _, n := range t.needs.list {
		c, owner := n.Cell, t
		if k := c.class; c.lease == nil || of != nil && k != of || k.Name != name && k.Leases.Name != name {
			continue
		}
		of = c.class
		for owner.kin != nil {
			i := find(owner.kin.borrowed, c)
			if i < 0 {
				break
			}
			owner = owner.kin.borrowed[i].with
		}
		fence = max(fence, c.fence(owner))
	}
	return fence
}

// OnEnd has end called, without the lock, once a lease ends that the running t has. It answers false if
// one has ended already.
func (m *Machine) OnEnd(t *Ticket, end func()) bool {
	r := t.rec
	if r.severed {
		return false
	}
	r.end = end
	return true
}

// Ended is what is to be called because leases have ended.
func (m *Machine) Ended() []func() {
	list := m.ended
	m.ended = nil
	return list
}

// sever tells t, and those who run on its slots of c, that they must end.
func (m *Machine) sever(t *Ticket, c *Cell) {
	if r := t.rec; !r.severed {
		if r.severed = true; r.end != nil {
			m.ended = append(m.ended, r.end)
		}
	}
	if t.kin != nil {
		if i := find(t.kin.lent, c); i >= 0 {
			m.sever(t.kin.lent[i].with, c)
		}
	}
}

// forgetLease takes l out of what c has.
func (c *Cell) forgetLease(l *Lease) {
	for _, list := range []*[]*Lease{&c.lease.leases, &c.class.leases} {
		if i := slices.Index(*list, l); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

// lose ends the lease l of c. The calls that run on it are told so, as far as there is nothing else for them.
func (m *Machine) lose(c *Cell, l *Lease) {
	s := c.lease
	l.gone = true
	c.forgetLease(l)
	s.held -= l.Units
	s.bound -= l.used
	s.yield, s.low = min(s.yield, s.held), min(s.low, s.held)
	m.thirst(c)
	m.follow(c)
	over := c.used - s.bound
	if k := c.class; k.Leases.Shadow {
		over = 0
	} else if k.away {
		over -= k.apart()
	}
	for _, h := range slices.Backward(l.holders) {
		if over > 0 {
			m.sever(h.t, c)
		}
		over -= h.n
	}
}

// endLeases ends those of c that have ended, by the machine's clock.
func (m *Machine) endLeases(c *Cell) {
	for i := len(c.lease.leases) - 1; i >= 0; i-- {
		if l := c.lease.leases[i]; l.end <= m.now {
			m.lose(c, l)
		}
	}
}

// give has go back what is to, as far as no call runs on it.
func (m *Machine) give(c *Cell) {
	s, k := c.lease, c.class
	if idle := s.has() - c.used; idle > 0 && s.wanted > 0 && c.lanes == 0 {
		n := min(idle, s.wanted)
		s.yield += n
		s.wanted -= n
		m.follow(c)
	}
	left := min(s.yield, s.held-s.bound)
	if left <= 0 {
		return
	}
	for whole := range 2 { // first what goes back in one piece
		for i := 0; i < len(s.leases) && left > 0; i++ {
			l := s.leases[i]
			n := min(left, l.Units-l.used)
			if n == 0 || whole == 0 && n < l.Units {
				continue
			}
			left -= n
			s.held -= n
			s.yield -= n
			if l.Units -= n; l.Units == 0 {
				l.gone = true
				c.forgetLease(l)
				i--
			}
			if !slices.Contains(k.given, l) {
				k.given = append(k.given, l)
			}
		}
	}
	k.Leases.Lessee.Tend()
}
