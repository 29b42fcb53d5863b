package admit

// The cells of a class by plan are those of tools, or of types of tools: their keys come and
// go with the plans that need them. A plan pins the cells it needs. One that no plan pins any
// more is forgotten as soon as it remembers nothing: no holder, no waiter, a full bucket, a
// breaker without failures, no pause. So a tool that is removed and comes back at once finds
// its debts, and tools that come and go for ever leave nothing behind.

// maxRemembered bounds the cells of a class that no plan pins and that remember something.
const maxRemembered = 1000

// Pin is k's cell for key, made if need be. If k is by plan, it stays until it is unpinned as
// often.
func (m *Machine) Pin(now int64, k *Class, key string) *Cell {
	m.advance(now)
	c := k.cells[key]
	if c == nil {
		c = m.makeCell(k, key)
	}
	if k.ByPlan {
		if c.pins++; c.idle >= 0 {
			k.idle.Remove(c.idle)
		}
	}
	return c
}

// Unpin ends what one Pin began. Where too much is remembered without a plan, what would be
// forgotten first is forgotten now, unless a call is under way there.
func (m *Machine) Unpin(now int64, c *Cell) {
	m.advance(now)
	c.shut()
	if !c.class.ByPlan {
		return
	}
	if c.pins--; c.pins > 0 {
		return
	}
	m.mayIdle(c)
	m.prune(c.class)
	for k := c.class; k.idle.Len() > maxRemembered; {
		if m.idlest(k); m.idleAt(k.idle.Top()) == Never {
			return
		}
		k.forget(k.idle.Top())
	}
}

// Prune forgets what no plan pins and remembers nothing any more.
func (m *Machine) Prune(now int64, k *Class) {
	m.advance(now)
	if k.ByPlan {
		m.prune(k)
	}
}

func (m *Machine) prune(k *Class) {
	for k.idle.Len() > 0 && k.idle.Min() <= m.now {
		c := k.idle.Top()
		if at := m.idleAt(c); at > m.now {
			c.idleFrom = at
			k.idle.Fix(0, at, 0)
			continue
		}
		k.forget(c)
	}
}

// spare reports whether k, a class by plan, may remember one cell more that no plan pins.
func (m *Machine) spare(k *Class) bool {
	if k.idle.Len() >= maxRemembered {
		m.prune(k)
	}
	return k.idle.Len() < maxRemembered
}

// Batch appends to buf up to n of k's cells, from the from-th on downwards, and answers where
// to go on, zero at the end. Begin with [Class.Len]. Between two batches cells may come and
// go: each that is there all the while is in one of them, and some may be in two.
func (k *Class) Batch(buf []*Cell, from, n int) (_ []*Cell, next int) {
	from = min(from, len(k.list))
	next = max(0, from-n)
	for i := from - 1; i >= next; i-- {
		buf = append(buf, k.list[i])
	}
	return buf, next
}

// Len is how many cells k has.
func (k *Class) Len() int { return len(k.list) }
