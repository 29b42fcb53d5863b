package admit

// pause is a time in which nobody starts at a cell, and what follows it. The upstream that
// asked for it knows better than the bucket what is left of its quota, so a quick bucket
// re-opens with one token at most, whatever came back meanwhile. And since those who waited
// would otherwise all start at one instant, the cell re-opens in a ramp: one call at a
// time, then one more for each success, as in slow start (RFC 5681, section 3.1), and at
// least twice as many with each second.
type pause struct {
	begun, end int64  // nobody starts in [begun, end)
	from       uint64 // the machine's starts when it was asked for: later ones are the ramp's
	capped     bool   // the bucket has been told
	running    int64  // of the ramp's calls
	won        int64  // of them, successes
}

const (
	second = int64(1e9)
	// quickRefill is how long a burst may take to refill for its bucket to re-open with one token,
	// if the pause was not longer.
	quickRefill = 60 * second
	// ramp is how long a ramp lasts: a thousand calls may run by then.
	ramp = 10 * second
)

// ends is the instant at which p ends; 0 if there is none.
func (p *pause) ends() int64 {
	if p == nil {
		return 0
	}
	return p.end
}

// over is the instant at which nothing of c's pause is left to remember.
func (p *pause) over(c *Cell) int64 {
	switch {
	case p == nil:
		return 0
	case p.caps(c):
		return p.end + max(ramp, c.class.Rate.Refill())
	}
	return p.end + ramp
}

// caps reports whether c re-opens with one token at most.
func (p *pause) caps(c *Cell) bool {
	return c.kind == Tokens && c.stock == nil && !p.capped && c.class.Rate.Refill() <= max(p.end-p.begun, quickRefill)
}

// pays is the earliest instant at which n tokens are there if c re-opens with one.
func (p *pause) pays(c *Cell, n int64) int64 {
	if !p.caps(c) {
		return 0
	}
	return c.class.Rate.From(p.end, n)
}

// opens is the earliest instant at which c lets one more call start as far as a pause and its
// ramp are concerned.
func (c *Cell) opens(now int64) int64 {
	p := c.pause
	if p == nil {
		return now
	}
	if now < p.end {
		return p.end
	}
	c.reopen(now)
	since := now - p.end
	if since >= ramp {
		c.pause = nil
		return now
	}
	step := since / second
	if p.running < max(1+p.won, 1<<step) {
		return now
	}
	return p.end + (step+1)*second
}

// reopen has the bucket of c told that its pause has ended. Nobody has started since, so
// that may be later than it was.
func (c *Cell) reopen(now int64) {
	if p := c.pause; p != nil && now >= p.end && p.caps(c) {
		if c.bucket.Cap(c.class.Rate, p.end) {
			c.renew()
		}
		p.capped = true
	}
}

// Pause lets nobody start at c before the instant until, unless a pause that is longer
// already holds; the past ends one now.
func (m *Machine) Pause(now int64, c *Cell, until int64) {
	m.advance(now)
	c.shut()
	if c.kind == Breaker {
		m.shutEvery() // as in changed
	}
	if c.stock != nil {
		m.pauseStock(c, until)
	}
	p := c.pause
	held := p != nil && p.end > m.now
	switch {
	case until <= m.now && held:
		p.end = m.now
	case until <= m.now:
	case held:
		p.end = max(p.end, until)
	default:
		c.reopen(m.now) // after one that has ended
		c.pause = &pause{begun: m.now, end: until, from: m.starts}
	}
	if at := c.pause.ends(); c.q != nil && at >= m.now {
		m.waitsSince(c, at)
	}
	m.drop(c)
	m.mark(c)
	m.drain()
}

// Lift ends the pause of c without a ramp, and its debt.
func (m *Machine) Lift(now int64, c *Cell) {
	m.advance(now)
	c.shut()
	c.reopen(m.now) // after one that has ended, whether anybody has looked since or not
	if c.q != nil && c.pause.ends() > m.now {
		m.waitsSince(c, m.now)
	}
	if c.timer >= 0 { // for the end of the pause; whoever waits on sets it anew
		m.timers.Remove(c.timer)
	}
	c.pause = nil
	if c.stock != nil { // what is booked is part of the debt
		c.stock.leave(Never)
		m.liftStock(c)
	} else if c.kind == Tokens && c.bucket.Forgive(c.class.Rate, m.now) {
		c.renew()
	}
	m.drop(c)
	m.mark(c)
	m.drain()
}

// started counts a call into the ramp whose start has that ordinal.
func (p *pause) started(ordinal uint64) {
	if p.from >= ordinal { // of another machine, to which c belonged
		p.from = 0
	}
	p.running++
}

// ended counts it out.
func (p *pause) ended(ordinal uint64, success bool) {
	if ordinal <= p.from {
		return
	}
	p.running--
	if success {
		p.won++
	}
}
