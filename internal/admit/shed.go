package admit

import "github.com/sluice-go/sluice/internal/heap"

// account is the waiting calls of one tenant in one level.
type account struct {
	level  int8
	tenant *tenant
	n      int
	lanes  heap.Heap[uint64, *lane] // that with the newest call first
	place  int32                    // among the accounts of its level, most queued per weight first
}

type accountKey struct {
	level  int8
	tenant *tenant
}

// account is where l is booked, made if need be. It lives while it has lanes.
func (m *Machine) account(l *lane) *account {
	k := accountKey{l.level, l.tenant}
	a := m.books[k]
	if a == nil {
		if n := len(m.freeAccounts); n > 0 {
			a = m.freeAccounts[n-1]
			m.freeAccounts = m.freeAccounts[:n-1]
		} else {
			a = &account{lanes: heap.Heap[uint64, *lane]{Place: func(l *lane, i int32) { l.booked = i }}}
		}
		a.level, a.tenant, a.place = k.level, k.tenant, -1
		m.books[k] = a
	}
	return a
}

// dropAccount forgets a, if it has no lanes any more.
func (m *Machine) dropAccount(a *account) {
	if a.n > 0 {
		return
	}
	delete(m.books, accountKey{a.level, a.tenant})
	a.tenant = nil
	if len(m.freeAccounts) < keep {
		m.freeAccounts = append(m.freeAccounts, a)
	}
}

// book has the books know that n calls more wait in l, or fewer.
func (m *Machine) book(l *lane, n int) {
	a := l.account
	switch {
	case l.tail == nil:
		a.lanes.Remove(l.booked)
	case l.booked < 0:
		a.lanes.Push(^l.tail.seq, 0, l)
	default:
		a.lanes.Fix(l.booked, ^l.tail.seq, 0)
	}
	a.n += n
	m.weigh(a)
}

func (m *Machine) weigh(a *account) {
	h, key := &m.accounts[a.level], -float64(a.n)/a.tenant.weight
	switch {
	case a.n == 0:
		h.Remove(a.place)
	case a.place < 0:
		h.Push(key, 0, a)
	default:
		h.Fix(a.place, key, 0)
	}
}

// room reports whether t may join the queue, in l if that is there, and from which level a call has to go for
// it, if the policy sheds: the newest call of whoever has the most queued per weight in
// the lowest level. It is -1 if none has to.
func (m *Machine) room(t *Ticket, l *lane) (shed int, ok bool) {
	var tn *tenant
	if l != nil {
		tn = l.tenant
	} else {
		tn = m.tenant(t)
	}
	if tn != nil && tn.queued >= m.policy.MaxPerTenant && m.policy.Ordered {
		return -1, false
	}
	if m.waiting < m.policy.MaxQueue {
		return -1, true
	}
	if !m.policy.Shed {
		return -1, false
	}
	low := m.lowest()
	if low < 0 || int(t.level) < low {
		return -1, false
	}
	heaviest := m.accounts[low].Top()
	if int(t.level) == low {
		mine, weight := 1.0, m.policy.weight(t.Tenant)
		if tn != nil {
			if a := m.books[accountKey{t.level, tn}]; a != nil {
				mine += float64(a.n)
			}
		}
		if mine/weight >= float64(heaviest.n)/heaviest.tenant.weight {
			return -1, false
		}
	}
	return low, true
}

// sweep is a pass over all lanes for calls that one cell will never let start.
type sweep struct {
	cell *Cell
	next int // lane to look at; downwards, since lanes are removed by moving the last one
}

// batch is how many calls one Step refuses at most.
const batch = 256

// sweep asks for a pass for c. The pass runs in Step, so that no lock is held for thousands of calls.
func (m *Machine) sweep(c *Cell) {
	if c.lanes > 0 {
		m.sweeps = append(m.sweeps, sweep{c, len(m.all) - 1})
	}
}

// Pending reports whether Step has something to do.
func (m *Machine) Pending() bool { return len(m.sweeps) > 0 || len(m.rest) > 0 || m.overdue() }

// Step does a bounded part of what is pending: after a breaker has opened, a limit has
// shrunk, or many waits have ended at one instant, the waiting calls that cannot start any
// more are refused, up to batch for each of these and up to batch as they come to the front.
func (m *Machine) Step(now int64) {
	m.now = max(m.now, now)
	m.over = max(m.over, m.now-1)
	m.refuseLate()
	left := batch
	for len(m.sweeps) > 0 && left > 0 {
		s := &m.sweeps[0]
		for s.next = min(s.next, len(m.all)-1); s.next >= 0 && left > 0; {
			l := m.all[s.next]
			n := l.need(s.cell)
			refuses := n > 0 && !s.cell.fits(n) && !l.head.shares(s.cell)
			r := Refusal{Reason: TooWide, By: s.cell}
			if n > 0 && s.cell.kind == Breaker {
				ok, at := s.cell.breaker.Ready(m.now)
				refuses, r = !ok, Refusal{Reason: BreakerOpen, By: s.cell, After: max(0, at-m.now)}
			}
			left--
			if !refuses {
				s.next--
				continue
			}
			if l.n == 1 {
				s.next--
			}
			m.refuseHead(l, r)
		}
		if s.next < 0 {
			m.sweeps = m.sweeps[1:]
		}
	}
	m.drain()
}

// Expel refuses up to batch waiting calls whose owner has closed, and reports whether
// there may be more.
func (m *Machine) Expel(now int64, closed func(owner any) bool) bool {
	m.advance(now)
	left := batch
	for i := len(m.all) - 1; i >= 0; i = min(i-1, len(m.all)-1) {
		for t := m.all[i].head; t != nil; {
			next := t.next
			if closed(t.Owner) {
				if left == 0 {
					m.drain()
					return true
				}
				left--
				last := t.lane.n == 1
				m.take(t)
				m.refuse(t, Refusal{Reason: Closed})
				m.emit(t)
				if last {
					break
				}
			}
			t = next
		}
	}
	m.drain()
	return false
}
