package admit

import "slices"

// lane is the waiting calls with the same plan, level, tenant and needs, in the order they
// came. A nested call has a lane of its own, since what its ancestors hold is its to use.
type lane struct {
	plan     *Plan
	hash     uint64
	born     uint64 // the place among all arrivals of the call that it was made for
	index    int32  // in Machine.all
	level    int8
	declared int8 // what its calls ask for: their level, if the policy orders
	nested   bool
	tenant   *tenant
	needs    *needSet

	head, tail *Ticket
	n          int
	share      *share // of its tenant
	ofTool     *share
	account    *account
	booked     int32 // place in it, -1 while it is empty

	at     *Cell // where it is parked
	width  int64 // what one of its calls takes there
	flow   *flow // there, unless set aside
	place  int32 // in the flow
	aside  bool
	stands *Cell // the open, narrower cell whose lanes it stands for at `at`

	fails   int // times its head was at a front and failed elsewhere
	claimed bool

	spots []spot // in the lines of the ordered cells that it needs
}

// need is how much one call of l takes from c.
func (l *lane) need(c *Cell) int64 { return l.needs.need(c) }

// tenant is shared by everything that counts for one name. It lives while it is used.
type tenant struct {
	name   string
	hash   uint64 // of its name
	weight float64
	refs   int // lanes and flows
}

// tenant is t's, or nil if nothing remembers it.
func (m *Machine) tenant(t *Ticket) *tenant {
	if t.lane != nil {
		return t.lane.tenant
	}
	return m.named(t.Tenant, hashName(t.Tenant))
}

func (m *Machine) named(name string, hash uint64) *tenant {
	return m.tenants.find(hash, func(tn *tenant) bool { return tn.name == name })
}

// intern returns t's tenant with one more reference.
func (m *Machine) intern(t *Ticket) *tenant {
	if t.lane != nil {
		t.lane.tenant.refs++
		return t.lane.tenant
	}
	hash := hashName(t.Tenant)
	tn := m.named(t.Tenant, hash)
	if tn == nil {
		tn = m.freeTenants.get()
		tn.name, tn.hash, tn.weight = t.Tenant, hash, m.policy.weight(t.Tenant)
		m.tenants.add(hash, tn)
	}
	tn.refs++
	return tn
}

func (m *Machine) release(t *tenant) {
	if t.refs--; t.refs == 0 {
		m.tenants.remove(t.hash, t)
		*t = tenant{}
		m.freeTenants.put(t)
	}
}

// payer is who the starts of l's calls are charged to: its tenant, or one for all if the
// policy does not order.
func (m *Machine) payer(l *lane) *tenant {
	if m.policy.Ordered {
		return l.tenant
	}
	return &m.everybody
}

// hash is what lanes are found by.
func (t *Ticket) hash() uint64 {
	h := mix(mix(t.Plan.Tool, uint64(t.Level)<<8|uint64(t.level)), hashName(t.Tenant))
	if f := t.needs.fixed; f != nil {
		return mix(h, f.hash)
	}
	return mix(h, t.needs.hash())
}

// lane finds the lane that t belongs to, or nil and what it is to be found by.
func (m *Machine) lane(t *Ticket) (l *lane, hash uint64) {
	fixed := t.needs.fixed
	if fixed != nil {
		if l = fixed.recent[t.level]; l != nil && l.plan == t.Plan && l.declared == t.Level && l.tenant.name == t.Tenant {
			return l, 0
		}
	}
	hash = t.hash()
	l = m.lanes.find(hash, func(l *lane) bool {
		return *l.plan == *t.Plan && l.level == t.level && l.declared == t.Level && l.tenant.name == t.Tenant &&
			(l.needs == t.needs || slices.Equal(l.needs.list, t.needs.list))
	})
	if l != nil && fixed != nil && l.needs == t.needs {
		fixed.recent[t.level] = l
	}
	return l, hash
}

// newLane makes the lane of t.
func (m *Machine) newLane(t *Ticket, hash uint64) *lane {
	l := m.freeLanes.get()
	l.plan, l.hash, l.born, l.level, l.declared = t.Plan, hash, t.seq, t.level, t.Level
	l.tenant, l.needs, l.nested = m.intern(t), t.needs, t.Parent != nil
	m.enlist(l)
	l.needs.refs++
	ordered := false
	for i := range l.needs.list {
		c := l.needs.list[i].Cell
		c.lanes++
		ordered = ordered || c.ordered
	}
	if ordered {
		m.lineUp(l, t)
	}
	l.index = int32(len(m.all))
	m.all = append(m.all, l)
	if !l.nested {
		m.lanes.add(hash, l)
		if l.needs.fixed != nil {
			l.needs.fixed.recent[l.level] = l
		}
	}
	return l
}

// dropLane forgets an empty lane.
func (m *Machine) dropLane(l *lane) {
	if f := l.needs.fixed; f != nil && f.recent[l.level] == l {
		f.recent[l.level] = nil
	}
	if !l.nested {
		m.lanes.remove(l.hash, l)
	}
	last := len(m.all) - 1
	m.all[l.index] = m.all[last]
	m.all[l.index].index = l.index
	m.all[last] = nil
	m.all = m.all[:last]
	for i := range l.needs.list {
		c := l.needs.list[i].Cell
		c.lanes--
		m.drop(c)
	}
	m.unref(l.needs)
	m.delist(l)
	m.release(l.tenant)
	clear(l.spots)
	*l = lane{spots: l.spots[:0]}
	m.freeLanes.put(l)
	if last == 0 && cap(m.all) > keep { // the room for as many as there ever were
		m.all = nil
	}
}

// enqueue puts t at the end of l.
func (m *Machine) enqueue(t *Ticket, l *lane) {
	m.unrecord(t)
	t.state, t.lane = Waiting, l
	if t.needs != l.needs {
		m.unref(t.needs)
		t.needs = l.needs
		l.needs.refs++
	}
	t.prev = l.tail
	if l.tail != nil {
		l.tail.next = t
	} else {
		l.head = t
	}
	l.tail = t
	l.n++
	if c := l.at; c != nil {
		c.q.calls++
		if c.q.levels[l.level].load += l.width; c.lease != nil {
			m.thirst(c)
		}
	}
	l.load(1)
	m.book(l, 1)
	if t.place == 0 { // else it comes again
		t.place = int32(min(m.waiting, 1<<30))
		t.starts = uint32(m.starts)
	}
	t.since, t.by = m.now, l.at
	if t.Limit != Never {
		m.limits.Push(t.Limit, t.seq, t)
	}
}

// unlink takes the waiting t out of its lane, whose head may have changed then.
func (m *Machine) unlink(t *Ticket) {
	l, head := t.lane, t.prev == nil
	m.waited(t)
	if !head {
		t.prev.next = t.next
	} else {
		l.head = t.next
		l.fails = 0
		m.unclaim(l)
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		l.tail = t.prev
	}
	t.prev, t.next, t.lane = nil, nil, nil
	l.n--
	if c := l.at; c != nil {
		c.q.calls--
		if c.q.levels[l.level].load -= l.width; c.lease != nil {
			m.thirst(c)
		}
	}
	l.load(-1)
	if len(l.spots) > 0 {
		if head {
			m.moveUp(l)
		} else {
			m.fewer(l)
		}
	}
	m.book(l, -1)
	if t.limit >= 0 {
		m.limits.Remove(t.limit)
	}
}

// take removes the waiting t from the queue for good, wherever it stands.
func (m *Machine) take(t *Ticket) {
	l, head := t.lane, t.prev == nil
	m.unlink(t)
	switch {
	case !head:
	case l.n == 0:
		if c := l.at; c != nil {
			m.leave(l)
			m.mark(c)
		}
		m.dropLane(l)
	default:
		m.rekey(l)
		m.mark(l.at)
	}
}
