package admit

import (
	"cmp"
	"slices"
)

// Absorb makes m admit everything that o did: two machines become one when a call needs
// cells of both. Who waits in o joins m's queue in the order it came; who runs there goes
// on, and finishes in m. o must not be used any more.
func (m *Machine) Absorb(now int64, o *Machine) {
	m.advance(max(now, o.now))
	o.advance(m.now)
	m.over = max(m.over, o.over)
	var waiting []*Ticket
	for _, l := range o.all {
		for t := l.head; t != nil; t = t.next {
			waiting = append(waiting, t)
		}
	}
	slices.SortFunc(waiting, func(a, b *Ticket) int { return cmp.Compare(a.seq, b.seq) })
	m.recount(uint32(o.starts))
	o.recount(uint32(m.starts))
	for _, t := range waiting {
		o.take(t)
	}
	o.settleDirty()
	m.running += o.running
	m.starts += o.starts
	m.changes = append(m.changes, o.changes...)
	for t := o.Decided(); t != nil; {
		next := t.next
		m.emit(t)
		t = next
	}
	for _, t := range waiting {
		t.state = New
		m.arrive(t, true)
		if t.state != Waiting {
			m.emit(t)
		}
	}
	m.drain()
}

// recount has starts that m did not count, and will have counted, overtake nobody in it.
func (m *Machine) recount(starts uint32) {
	for _, l := range m.all {
		for t := l.head; t != nil; t = t.next {
			t.starts += starts
		}
	}
	for t := m.out; t != nil; t = t.next {
		if t.state == Refused {
			t.starts += starts
		}
	}
}
