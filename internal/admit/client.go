package admit

import (
	"math"

	"github.com/sluice-go/sluice/internal/heap"
)

// Client is whoever makes calls of its own: an executor. The order is everybody's, the
// bounds of the queue are each client's own, so that nobody is refused for what others have
// queued. Make one with [NewClient].
type Client struct {
	waiting  int
	shares   table[share]                         // of tenants
	tools    table[share]                         // of tools
	accounts [Levels]heap.Heap[float64, *account] // while the policy keeps books
	books    table[account]                       // the same
	codel    codel
}

// NewClient returns a client with nobody waiting.
func NewClient() *Client {
	c := new(Client)
	for i := range c.accounts {
		c.accounts[i].Place = func(a *account, i int32) { a.place = i }
	}
	return c
}

// Waiting is how many calls of c wait.
func (c *Client) Waiting() int { return c.waiting }

// Plan is one tool of one client. Its calls share lanes, also with those of another plan of
// the same tool and client: a tool whose policy changes has one after the other.
type Plan struct {
	Tool   uint64
	Client *Client
	Name   string // of the tool, for who looks at the queue
}

const (
	// places is how many calls of one tool, and of one tenant, may wait even if the queue is
	// full: what fills it is not theirs.
	places = 16
	// hosts is how many tenants at once have such places. Tools are registered; tenants anybody
	// may make up.
	hosts = 1000
)

// share is the waiting calls of one tenant, or of one tool, and client. It lives while there
// are lanes.
type share struct {
	tenant   *tenant
	tool     uint64
	n, lanes int
}

// account is the waiting calls of one tenant of one client in one level. There are accounts only
// while the policy may have some call go for what its tenant has there: see [Policy.books].
type account struct {
	level   int8
	client  *Client
	tenant  *tenant
	n       int
	holders int                      // lanes, for which it lives
	lanes   heap.Heap[uint64, *lane] // of them those with calls, that with the newest first
	place   int32                    // among the accounts of its level, most queued per weight first
}

// books reports whether somebody may have to go from the queue, by who has most there.
func (p *Policy) books() bool { return p.Shed || p.Standing }

// ofTenant is what c has of tn, or nil.
func (c *Client) ofTenant(tn *tenant) *share {
	if tn == nil {
		return nil
	}
	return c.shares.find(tn.hash, func(s *share) bool { return s.tenant == tn })
}

// ofTool is what c has of the tool, or nil.
func (c *Client) ofTool(tool uint64) *share {
	return c.tools.find(mix(0, tool), func(s *share) bool { return s.tool == tool })
}

// account is what c has of tn in the level, or nil.
func (c *Client) account(tn *tenant, level int8) *account {
	return c.books.find(mix(tn.hash, uint64(level)), func(a *account) bool { return a.tenant == tn && a.level == level })
}

// enlist has the books of its client know of the new lane l.
func (m *Machine) enlist(l *lane) {
	c := l.plan.Client
	s := c.ofTenant(l.tenant)
	if s == nil {
		s = m.shares.get()
		s.tenant = l.tenant
		c.shares.add(l.tenant.hash, s)
	}
	s.lanes++
	o := c.ofTool(l.plan.Tool)
	if o == nil {
		o = m.shares.get()
		o.tool = l.plan.Tool
		c.tools.add(mix(0, o.tool), o)
	}
	o.lanes++
	l.share, l.ofTool = s, o
	if m.policy.books() {
		m.openAccount(l)
	}
}

// delist has them forget l, which is empty.
func (m *Machine) delist(l *lane) {
	c := l.plan.Client
	if s := l.share; s.lanes == 1 {
		c.shares.remove(l.tenant.hash, s)
		*s = share{}
		m.shares.put(s)
	} else {
		s.lanes--
	}
	if o := l.ofTool; o.lanes == 1 {
		c.tools.remove(mix(0, o.tool), o)
		*o = share{}
		m.shares.put(o)
	} else {
		o.lanes--
	}
	if l.account != nil {
		m.closeAccount(l)
	}
}

// openAccount books the calls of l.
func (m *Machine) openAccount(l *lane) {
	c := l.plan.Client
	a := c.account(l.tenant, l.level)
	if a == nil {
		if a = m.freeAccounts.get(); a.lanes.Place == nil {
			a.lanes.Place = func(l *lane, i int32) { l.booked = i }
		}
		a.level, a.client, a.tenant, a.place = l.level, c, l.tenant, -1
		c.books.add(mix(a.tenant.hash, uint64(a.level)), a)
	}
	a.holders++
	l.account, l.booked = a, -1
	if l.n > 0 {
		a.book(l, l.n)
	}
}

// closeAccount ends that.
func (m *Machine) closeAccount(l *lane) {
	a := l.account
	if l.account = nil; l.booked >= 0 {
		a.lanes.Remove(l.booked)
		a.n -= l.n
		a.weigh()
	}
	if a.holders--; a.holders == 0 {
		a.client.books.remove(mix(a.tenant.hash, uint64(a.level)), a)
		a.tenant, a.client = nil, nil
		m.freeAccounts.put(a)
	}
}

// rebook has there be books if the policy keeps them, and only then.
func (m *Machine) rebook() {
	books := m.policy.books()
	for _, l := range m.all {
		switch {
		case books && l.account == nil:
			m.openAccount(l)
		case books:
			l.account.weigh() // its tenant may have another weight
		case l.account != nil:
			m.closeAccount(l)
		}
	}
}

// book has the books know that n calls more wait in l, or fewer.
func (m *Machine) book(l *lane, n int) {
	m.waiting += n
	c := l.plan.Client
	if c.waiting += n; c.waiting == 0 {
		c.codel = codel{}
	}
	l.share.n += n
	l.ofTool.n += n
	if l.account != nil {
		l.account.book(l, n)
	}
}

// book has a know that n calls more wait in l, or fewer.
func (a *account) book(l *lane, n int) {
	switch {
	case l.tail == nil:
		a.lanes.Remove(l.booked)
	case l.booked < 0:
		a.lanes.Push(^l.tail.seq, 0, l)
	default:
		a.lanes.Fix(l.booked, ^l.tail.seq, 0)
	}
	a.n += n
	a.weigh()
}

func (a *account) weigh() {
	h, key := &a.client.accounts[a.level], -float64(a.n)/a.tenant.weight
	switch {
	case a.n == 0:
		h.Remove(a.place)
	case a.place < 0:
		h.Push(key, 0, a)
	default:
		h.Fix(a.place, key, 0)
	}
}

// room reports whether t may join the queue, in l if that is there, and from which level a
// call has to go for it, if the policy sheds: the newest call of whoever has the most queued
// per weight in the lowest level. It is -1 if none has to.
func (m *Machine) room(t *Ticket, l *lane) (shed int, ok bool) {
	c, p := t.Plan.Client, &m.policy
	bounded := p.Ordered && p.MaxPerTenant != p.MaxQueue
	if c.waiting < p.MaxQueue && !bounded {
		return -1, true
	}
	var tn *tenant
	own := 0
	if l != nil {
		tn, own = l.tenant, l.share.n
	} else if tn = m.tenant(t); c.ofTenant(tn) != nil {
		own = c.ofTenant(tn).n
	}
	if bounded && own >= p.MaxPerTenant {
		return -1, false
	}
	if c.waiting < p.MaxQueue {
		return -1, true
	}
	if p.Shed {
		if low := c.lowest(); c.yields(t, tn, low, p) {
			return low, true
		}
	}
	floor := min(places, p.MaxQueue)
	tool := c.ofTool(t.Plan.Tool)
	return -1, tool == nil || tool.n < floor || own < floor && c.shares.n <= hosts
}

// yields reports whether in the level low, the lowest, a call of c gives way to t, whose
// tenant is tn: not to a call of a lower level, nor to one of whoever has as much queued.
func (c *Client) yields(t *Ticket, tn *tenant, low int, p *Policy) bool {
	if low < 0 || int(t.level) != low {
		return low >= 0 && int(t.level) > low
	}
	heaviest, mine := c.accounts[low].Top(), 1.0
	if tn != nil {
		if a := c.account(tn, t.level); a != nil {
			mine += float64(a.n)
		}
	}
	return mine/p.weight(t.Tenant) < float64(heaviest.n)/heaviest.tenant.weight
}

// lowest is the lowest level in which a call of c waits, -1 if none does.
func (c *Client) lowest() int {
	for p := range c.accounts {
		if c.accounts[p].Len() > 0 {
			return p
		}
	}
	return -1
}

// shed drops the newest call of whoever has the most queued per weight in the level.
func (m *Machine) shed(c *Client, level int) {
	t := c.accounts[level].Top().lanes.Top().tail
	by := t.lane.at
	m.take(t)
	m.refuse(t, Refusal{Reason: Shed, By: by})
	m.emit(t)
}

// codel is controlled delay (RFC 8289) on time in the queue. Its target is not 5 ms but as
// long as the tool itself takes, and its interval not 100 ms but twenty times that.
type codel struct {
	since int64 // when the queue will have stood for an interval; zero while it does not
	count int64 // drops since it does
	next  int64 // instant of the next drop
}

const codelInterval = 20

// stood looks at how long t, which starts, has waited. While calls of the lowest level
// that waits keep waiting longer than the target, the newest call of whoever has the
// most queued per weight there is dropped, ever more often.
func (m *Machine) stood(t *Ticket) {
	c := t.Plan.Client
	d, low := &c.codel, c.lowest()
	if int(t.level) > low { // it came before those who stand, or nobody does
		return
	}
	target := t.takes()
	if target == 0 {
		return
	}
	if m.now-t.arrived < target {
		*d = codel{}
		return
	}
	switch {
	case d.since == 0:
		d.since = m.now + codelInterval*target
	case d.count == 0 && m.now >= d.since, d.count > 0 && m.now >= d.next:
		d.count++
		d.next = m.now + int64(codelInterval*float64(target)/math.Sqrt(float64(d.count)))
		m.shed(c, low)
	}
}
