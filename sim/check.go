package sim

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

// The checker recounts everything from what it sees from outside: who started, who ended,
// what was used. It shares no code with the machine or its buckets, and where it finds more than is
// allowed the simulation ends with an error. Idle capacity and overtaking are counted, not
// excused.

// shadow is the recount of one cell. It is never evicted, so it also shows whether the
// eviction of a cell refreshes a quota.
type shadow struct {
	k *constraint

	used, peak int64
	since      int64   // of used
	busy       float64 // used times nanoseconds

	quota   recount // of a bucket
	charged int64   // units until the end

	begun, paused int64 // nobody starts in this time
	capped        bool  // what a quick bucket re-opens with is taken into account
	emptied       wide  // what the latest pause left missing from a quick bucket, in tokens times Per
	at            int64 // of emptied
	open          bool  // a breaker
	seen          uint64

	order *order
}

// order is how those who wait at one cell are served, watched from outside.
type order struct {
	levels [admit.Levels]waitingLevel
	scan   uint64 // the scan that found anybody here last
}

type waitingLevel struct {
	scan    uint64 // the scan that found somebody of this level here last
	passed  int    // starts of others since its own last one, while it waits
	tenants uint64 // those that wait, a bit each
	next    uint64 // what the scan under way has found
	served  map[int]float64
	widest  int64
}

// checker is the simulation's conscience.
type checker struct {
	luck *rand.Rand // draws made while calls run

	scans     uint64 // scans so far; zero is none
	order     bool   // every event has been scanned lately
	lanes     int    // at the last scan
	top, many int    // the highest level in use, and how many there are
	ordered   bool

	tenants map[string]int // bits
	weights []float64

	idle     idleKind
	idleAt   int64
	found    []lane // scratch
	counting counting
}

// counting is what the checker found, until the end.
type counting struct {
	scans      int64
	idleEvents [3]int64
	idleTime   [3]float64
	overtaken  hist
	worst      [admit.Levels]int // starts of others between two of a level
	beyond     int64             // starts beyond the bound of promise 6
	uneven     float64           // largest difference of tenants, as a share of its bound
	estimates  estimates
}

type estimates struct{ asked, off, refusals, missed int64 }

type idleKind uint8

const (
	notIdle idleKind = iota
	forBucket
	forClaim
)

type lane struct {
	c  *call
	at int // of c.holds
}

// mostLanes is up to how many lanes every event is scanned.
const mostLanes = 32

func (k *checker) init(s *simulation) {
	k.luck = rand.New(rand.NewPCG(s.conf.Seed, 1))
	k.tenants = make(map[string]int)
	k.ordered = s.policy.Ordered
	var used [admit.Levels]bool
	for _, st := range s.streams {
		used[st.priority-sluice.PriorityBatch] = true
		if _, ok := k.tenants[st.traffic.Tenant]; !ok {
			k.tenants[st.traffic.Tenant] = len(k.weights)
			k.weights = append(k.weights, max(1, float64(s.policy.Weights[st.traffic.Tenant])))
		}
	}
	for p, yes := range used {
		if yes {
			k.top = p
			k.many++
		}
	}
}

func (s *simulation) broken(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("sim: invariant broken at %v, seed %d: %s",
			time.Duration(s.now), s.conf.Seed, fmt.Sprintf(format, args...))
	}
}

func (s *simulation) shadow(k *constraint, key string) *shadow {
	sh := k.shadow[key]
	if sh == nil {
		sh = &shadow{k: k, since: s.now, quota: recount{rate: &k.rate}}
		k.shadow[key] = sh
	}
	return sh
}

// level is what c is ordered by.
func (s *simulation) level(c *call) int {
	if !s.ordered {
		return 0
	}
	return int(c.s.priority - sluice.PriorityBatch)
}

// book brings the time that slots were used up to date.
func (sh *shadow) book(now int64) {
	sh.busy += float64(sh.used) * float64(now-sh.since)
	sh.since = now
}

// drain lets tokens come in after a pause: a bucket that refills within that, or a minute, has
// one at most when it ends.
func (sh *shadow) drain(now int64) {
	if r := sh.k.rate; sh.paused > 0 && !sh.capped && now >= sh.paused {
		sh.capped = true
		sh.drain(sh.paused)
		quick := !times(r.Burst, int64(r.Per)).above(times(r.N, max(sh.paused-sh.begun, int64(time.Minute))))
		if most := times(r.Burst-1, int64(r.Per)); quick && most.above(sh.emptied) {
			sh.emptied = most
		}
	}
	if now > sh.at {
		sh.emptied.sub(times(sh.k.rate.N, now-sh.at))
		sh.at = now
	}
}

// lends reports whether a call around c holds slots of sh, which are then c's to run on:
// nested calls come one after another here.
func lends(c *call, sh *shadow) bool {
	for a := c.parent; a != nil; a = a.parent {
		for i := range a.holds {
			if a.holds[i].shadow == sh {
				return true
			}
		}
	}
	return false
}

// limit is how many slots there are now: for an adaptive limit what it says, within bounds.
func (h *hold) limit(now int64) int64 {
	k := h.shadow.k
	if k.class.Adaptive == nil {
		return k.max
	}
	return min(h.cell.Usage(now).Limit, k.max)
}

// started checks that c may start, and books it.
func (s *simulation) started(c *call) {
	for i := range c.holds {
		h := &c.holds[i]
		sh := h.shadow
		if sh.paused > s.now {
			s.broken("%s started while %s is paused until %v", c.s.name, sh.k.class.Name, time.Duration(sh.paused))
		}
		switch sh.k.class.Kind {
		case admit.Slots:
			if c.parent != nil && lends(c, sh) {
				break
			}
			sh.book(s.now)
			sh.used += h.n
			sh.peak = max(sh.peak, sh.used)
			if most := h.limit(s.now); sh.used > most {
				s.broken("%s holds %d of %d", sh.k.class.Name, sh.used, most)
			}
			if o := s.ahead(c, sh); o != nil && c.parent == nil {
				s.broken("%s started at %s before %s, which came earlier", c.s.name, sh.k.class.Name, o.s.name)
			}
		case admit.Tokens:
			var ok bool
			if h.charge, ok = sh.quota.take(s.now, h.n, !slices.Contains(c.s.units, sh.k.class.Unit)); !ok {
				s.broken("%s charged more than its burst and rate allow in some window", sh.k.class.Name)
			}
			if sh.drain(s.now); sh.emptied != (wide{}) {
				sh.emptied.add(times(h.n, int64(sh.k.rate.Per)))
			}
			if !s.ended {
				sh.charged += h.n
			}
		case admit.Breaker:
			if sh.open && sh.seen != s.steps {
				s.broken("%s started while %s is open", c.s.name, sh.k.class.Name)
			}
		}
		if sh.order != nil {
			s.passed(c, sh, h.n)
		}
	}
	if c.t.Place() > 0 && !s.ended {
		s.counting.overtaken.add(int64(s.m.Overtaken(c.t)))
	}
	if c.forecast >= 0 && !s.ended {
		s.estimated(c)
	}
}

// finished books the end of c.
func (s *simulation) finished(c *call) {
	for i := range c.holds {
		h := &c.holds[i]
		switch h.shadow.k.class.Kind {
		case admit.Slots:
			if c.parent == nil || !lends(c, h.shadow) {
				h.shadow.book(s.now)
				h.shadow.used -= h.n
			}
		case admit.Tokens:
			if slices.Contains(c.s.units, h.shadow.k.class.Unit) {
				h.shadow.quota.close(h.charge)
			}
		}
	}
}

// settled books what c really used of a unit.
func (s *simulation) settled(c *call, unit string, used int64) {
	for i := range c.holds {
		h := &c.holds[i]
		sh := h.shadow
		if sh.k.class.Kind != admit.Tokens || sh.k.class.Unit != unit {
			continue
		}
		sh.quota.correct(h.charge, used)
		if !s.ended {
			sh.charged += used - h.n
			c.s.counts.estimated += h.n
			c.s.counts.used += used
			c.s.counts.wrong += max(used-h.n, h.n-used)
		}
	}
}

// paused books that nobody may start at sh before until. The quota is as it was.
func (s *simulation) paused(sh *shadow, until int64) {
	if sh.paused <= s.now {
		if sh.k.class.Kind == admit.Tokens {
			sh.drain(s.now)
		}
		sh.begun, sh.capped = s.now, false
	}
	sh.paused = max(sh.paused, until)
}

// changed books a breaker's change.
func (s *simulation) changed(ch admit.Notice) {
	k := s.classes[ch.Cell.Class()]
	sh := s.shadow(k, ch.Cell.Key())
	sh.open, sh.seen = ch.To == breaker.Open, s.steps
	if sh.open && !s.ended {
		s.report.Openings++
	}
}

// estimated compares c's wait with what was foreseen.
func (s *simulation) estimated(c *call) {
	e, wait := &s.counting.estimates, s.now-c.arrived
	e.asked++
	d := max(wait-c.forecast, c.forecast-wait)
	if d > int64(time.Millisecond) && (wait > 2*c.forecast || c.forecast > 2*wait) {
		e.off++
	}
	if c.forecast > c.t.Limit-c.arrived {
		e.refusals++
	}
}

// late notes that c was refused because its time was over.
func (s *simulation) late(c *call, r admit.Refusal) {
	if c.forecast >= 0 && c.queued && r.Reason == admit.TooLong {
		e := &s.counting.estimates
		e.asked++
		if c.forecast <= c.t.Limit-c.arrived {
			e.missed++
		}
	}
}

// check looks at everything after a decision.
func (s *simulation) check() {
	if w, r := s.m.Waiting(), s.m.Running(); w != s.waiting || r != s.running {
		s.broken("%d wait and %d run, the machine says %d and %d", s.waiting, s.running, w, r)
	}
	if s.ended {
		return
	}
	if s.idleAt < s.now {
		s.counting.idleTime[s.idle] += float64(s.now - s.idleAt)
		s.idleAt = s.now
	}
	if s.waiting == 0 {
		s.idle, s.order, s.lanes = notIdle, false, 0
		s.scans++ // nobody waits anywhere: what was seen is no more
		return
	}
	if s.lanes > mostLanes && s.steps%uint64(s.lanes/mostLanes+1) != 0 {
		return
	}
	s.scan()
}

// scan looks at who waits: could the first of any lane start, and where do they wait?
func (s *simulation) scan() {
	s.scans++
	s.counting.scans++
	s.found = s.found[:0]
	many := s.lanes > mostLanes
	s.lanes = 0
	for l := range s.m.Lanes() {
		c := l.Owner.(*call)
		s.lanes++
		for i := range c.holds {
			if c.holds[i].cell == l.At {
				s.found = append(s.found, lane{c, i})
				if sh := c.holds[i].shadow; !sh.k.class.Ordered { // else there are no levels to compare
					s.parked(c, sh)
				}
				break
			}
		}
	}
	s.order = !many && s.lanes <= mostLanes
	if s.order {
		for _, l := range s.found {
			if sh := l.c.holds[l.at].shadow; sh.order != nil {
				s.regard(sh)
			}
		}
	}
	s.idle = notIdle
	for _, l := range s.found {
		if s.could(l.c, l.at) {
			k := forClaim
			for i := range l.c.holds {
				if sh := l.c.holds[i].shadow; sh.k.class.Kind == admit.Tokens && sh.order != nil && sh.order.scan == s.scans {
					k = forBucket
				}
			}
			if s.idle = max(s.idle, k); k == forClaim && s.m.Work().Claims == 0 {
				s.broken("%s waits at %s and could start, and nothing is kept for anybody",
					l.c.s.name, l.c.holds[l.at].shadow.k.class.Name)
			}
		}
	}
	s.counting.idleEvents[s.idle]++
}

// could reports whether everything that c needs is there, whoever is before it but where order is kept.
func (s *simulation) could(c *call, parked int) bool {
	if !s.free(c, &c.holds[parked]) {
		return false
	}
	for i := range c.holds {
		if i != parked && !s.free(c, &c.holds[i]) {
			return false
		}
	}
	return true
}

func (s *simulation) free(c *call, h *hold) bool {
	sh := h.shadow
	if h.cell.Usage(s.now).Opens > s.now {
		return false
	}
	switch sh.k.class.Kind {
	case admit.Slots:
		return sh.used+h.n <= h.limit(s.now) && s.ahead(c, sh) == nil || c.parent != nil && lends(c, sh)
	case admit.Tokens:
		sh.drain(s.now)
		lacks := sh.quota.owed(s.now)
		if sh.emptied.above(lacks) {
			lacks = sh.emptied
		}
		lacks.add(times(h.n, int64(sh.k.rate.Per)))
		return !lacks.above(times(sh.k.rate.Burst, int64(sh.k.rate.Per)))
	}
	return h.cell.Usage(s.now).Until == admit.Never
}

// ahead is a call that waits, came before c and needs sh, if that keeps order; else nil.
func (s *simulation) ahead(c *call, sh *shadow) *call {
	if !sh.k.class.Ordered {
		return nil
	}
	for l := range s.m.Lanes() {
		o := l.Owner.(*call)
		if o.number < c.number && slices.ContainsFunc(o.holds, func(h hold) bool { return h.shadow == sh }) {
			return o
		}
	}
	return nil
}

// parked notes that c's lane waits at sh.
func (s *simulation) parked(c *call, sh *shadow) {
	if sh.order == nil {
		sh.order = new(order)
	}
	o := sh.order
	o.scan = s.scans
	l := &o.levels[s.level(c)]
	if l.scan != s.scans {
		if l.scan+1 != s.scans {
			l.passed, l.tenants, l.widest = 0, 0, 0
			clear(l.served)
		}
		l.scan, l.next = s.scans, 0
	}
	if bit := s.tenants[c.s.traffic.Tenant]; bit < 64 {
		l.next |= 1 << bit
	}
	for i := range c.holds {
		if c.holds[i].shadow == sh {
			l.widest = max(l.widest, c.holds[i].n)
		}
	}
}

// regard starts to compare tenants anew where others wait than before.
func (s *simulation) regard(sh *shadow) {
	for i := range sh.order.levels {
		if l := &sh.order.levels[i]; l.scan == s.scans && l.next != l.tenants {
			l.tenants = l.next
			clear(l.served)
		}
	}
}

// passed counts the start of c, which takes n of sh, against those who wait there.
func (s *simulation) passed(c *call, sh *shadow, n int64) {
	o := sh.order
	if !s.order || o.scan != s.scans || s.ended {
		return
	}
	mine := s.level(c)
	for p := range o.levels {
		l := &o.levels[p]
		if l.scan != s.scans {
			continue
		}
		if p == mine {
			l.passed = 0
			s.served(l, c, n)
			continue
		}
		l.passed++
		s.counting.worst[p] = max(s.counting.worst[p], l.passed)
		if l.passed > s.bound(p) {
			s.counting.beyond++
		}
	}
}

// bound is how many others may start at one constraint between two starts of level p.
func (s *simulation) bound(p int) int { return s.policy.Ageing*(s.top-p) + s.many - 1 }

// served counts the start of c for its tenant.
func (s *simulation) served(l *waitingLevel, c *call, n int64) {
	bit := s.tenants[c.s.traffic.Tenant]
	if !s.ordered || bit >= 64 || l.tenants&(1<<bit) == 0 || l.tenants&(l.tenants-1) == 0 {
		return
	}
	if l.served == nil {
		l.served = make(map[int]float64)
	}
	l.widest = max(l.widest, n)
	l.served[bit] += float64(n) / s.weights[bit]
	w := float64(l.widest)
	for rest := l.tenants; rest != 0; rest &= rest - 1 {
		o := bits.TrailingZeros64(rest)
		bound := w/s.weights[bit] + w/s.weights[o]
		s.counting.uneven = max(s.counting.uneven, (l.served[bit]-l.served[o])/bound)
	}
}

// wide is an amount of tokens times nanoseconds.
type wide struct{ hi, lo uint64 }

func times(a, b int64) wide {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	return wide{hi, lo}
}

func (x *wide) add(y wide) {
	var carry uint64
	x.lo, carry = bits.Add64(x.lo, y.lo, 0)
	x.hi, _ = bits.Add64(x.hi, y.hi, carry)
}

// sub takes y from x, at most all of it.
func (x *wide) sub(y wide) {
	if y.above(*x) {
		*x = wide{}
		return
	}
	var borrow uint64
	x.lo, borrow = bits.Sub64(x.lo, y.lo, 0)
	x.hi, _ = bits.Sub64(x.hi, y.hi, borrow)
}

func (x wide) above(y wide) bool { return x.hi > y.hi || x.hi == y.hi && x.lo > y.lo }
