package admit

import "github.com/sluice-go/sluice/internal/breaker"

// Unjudged is Finish where nobody knows yet what the outcome means. Judge says that later, to the
// breakers only, before t is freed.
func (m *Machine) Unjudged(now int64, t *Ticket) {
	m.advance(now)
	r := t.rec
	judged := r.judged
	r.judged, r.adaptive = true, false // so that nothing learns from it
	m.finish(t, breaker.Neutral, true)
	r.judged = judged
	m.drain()
}

// Cancel ends t before its code has run. Nothing stays taken. If t waits and its start is due
// by now, that comes first, and t is among the Decided: whoever frees it asks Advance before.
func (m *Machine) Cancel(now int64, t *Ticket) {
	m.advance(now)
	switch t.state {
	case Waiting:
		m.take(t)
		t.state = Left
		if t.kin != nil {
			m.part(t)
		}
	case Running:
		m.finish(t, breaker.Neutral, false)
	}
	m.drain()
}

// Finish ends the running t whose code has ended.
func (m *Machine) Finish(now int64, t *Ticket, o breaker.Outcome) {
	nested := t.Parent != nil // whoever called it comes by the lock, too
	if m.waiting == 0 {
		m.now = max(m.now, now)
		m.finish(t, o, true)
	} else {
		m.advance(now)
		if m.handOver(t, o) {
			return
		}
		m.finish(t, o, true)
		m.drain()
	}
	if !nested && t.needs.way != nil {
		m.reopen(t.needs)
	}
}

// finish ends the running t. How long it held its slots is worth remembering if its code ran.
func (m *Machine) finish(t *Ticket, o breaker.Outcome, ran bool) {
	m.shutAll(t.needs)
	if t.kin != nil && t.kin.stuck {
		m.setStuck(t, false)
	}
	r := t.rec
	if r.adaptive {
		m.adapt(t, o)
	}
	t.state = Left
	m.running--
	charges, permits, list := 0, 0, t.needs.list
	for i := range list {
		n := &list[i]
		c := n.Cell
		c.calls--
		if c.pause != nil {
			c.pause.ended(r.startedAs, ran && o == breaker.Success)
		}
		switch c.kind {
		case Slots:
			if ran {
				c.book(m.now - r.granted)
			}
			if t.kin == nil {
				if c.used -= n.N; c.lease != nil {
					m.unbind(t, c)
				}
			} else {
				m.giveBack(t, c, n.N)
			}
			if c.shared {
				c.giveBack()
			}
			if c.q != nil {
				m.released(c)
			}
		case Tokens:
			if !ran {
				m.takeBack(t, c, charges)
			}
			c.bucket.Close(&r.charges[charges])
			charges++
			if c.q != nil {
				m.mark(c)
			}
		case Foreign:
			if !ran {
				c.class.Foreign.Give(m.now - r.granted)
			}
			if c.q != nil {
				m.mark(c)
			}
		default:
			if permits++; !r.judged {
				m.judgeAt(c, r.permit(permits), o)
			}
		}
		if c.idle >= 0 {
			m.fallsIdle(c)
		}
	}
	if t.kin != nil {
		m.returns(t)
		m.part(t)
		m.serveSiblings()
	}
}

// Judge settles what the running t means to its breakers, before it ends: it is out of
// time. Finish does not settle that again.
func (m *Machine) Judge(now int64, t *Ticket, o breaker.Outcome) {
	m.advance(now)
	m.judge(t, o)
	m.drain()
}

func (m *Machine) judge(t *Ticket, o breaker.Outcome) {
	r := t.rec
	if r.judged || !t.needs.breakers {
		return
	}
	r.judged = true
	m.shutAll(t.needs)
	for i := range t.needs.list {
		c := t.needs.list[i].Cell
		if c.kind != Breaker {
			break // they come first
		}
		m.judgeAt(c, r.permit(i+1), o)
	}
}

// judgeAt tells the breaker c what a call that it let through with p meant.
func (m *Machine) judgeAt(c *Cell, p breaker.Permit, o breaker.Outcome) {
	if o == breaker.Overload {
		o = breaker.Neutral
	}
	from := c.breaker.State(m.now)
	if c.breaker.Done(m.now, p, o) {
		m.changed(c, from, "")
	} else if !c.breaker.IsQuiet() {
		m.thirst(c)
	}
}
