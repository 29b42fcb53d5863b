package sluicenats

import (
	"encoding/json"
	"math/big"
	"math/bits"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// A meter is what has been charged, and since when. With K tokens charged in all, and c of them
// charged when the bucket was last full, at the instant b, there are at now
//
//	burst - (K - c) + floor((now - b) * N / Per)
//
// tokens. All are whole numbers; nothing is rounded, so nothing adds up.
//
// What a named Take was charged may be corrected later, as if it had been another amount from its
// own instant on. Then it matters when the bucket would have been full otherwise. So each charge
// has its own gap: a pair (b, c) as above, of the instant b at which it was made and the c tokens
// charged before. The bucket is full when all of them say so; the one that says so last is the
// greatest, and counts. Changing a charge by d moves K by d, and c of every later gap. Of the
// gaps between two charges that may be corrected only the greatest can ever count, so a meter
// has a list of these charges, each with the greatest gap after it.
type meter struct {
	N, Per, Burst int64
	Time          int64 // of the last decision; instants are nanoseconds since 1970, by the server's clock
	Held          int64 `json:",omitempty"` // nothing can be used before
	K             int64
	Base          gap        // the greatest before all charges
	Charges       []*charged `json:",omitempty"`
}

type gap struct{ B, C int64 } // B is zero if there is none

type charged struct {
	Op   string
	At   int64
	Said int64 // tokens, by the grant and all Settles
	Now  int64 // tokens that it counts
	Gap  gap   // the greatest after it
	Done bool  `json:",omitempty"` // nothing is given back, and what it counts more is charged when that is said
}

const (
	mostTokens  = 1 << 50 // a burst can have, and what comes in within a day
	farTokens   = 1 << 58
	mostCharges = 64 // of a meter can be corrected
	day         = int64(24 * time.Hour)
	quickRefill = int64(time.Minute) // a hold leaves one token at most to a meter that refills in it
)

// mulDiv is a*b/c for b, c > 0, rounded down or up, and kept far from an overflow.
func mulDiv(a, b, c int64, up bool) int64 {
	const far = 1 << 61
	negative := a < 0
	if negative {
		a, up = -a, !up
	}
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q := uint64(far)
	if hi < uint64(c) {
		var rem uint64
		q, rem = bits.Div64(hi, lo, uint64(c))
		if up && rem > 0 {
			q++
		}
	}
	n := int64(min(q, far))
	if negative {
		return -n
	}
	return n
}

// come is how many whole tokens come in within d, cost how long k tokens take, rounded up.
func (m *meter) come(d int64) int64 { return mulDiv(d, m.N, m.Per, false) }
func (m *meter) cost(k int64) int64 { return mulDiv(k, m.Per, m.N, true) }

// greater reports whether a says later than b that the bucket is full.
func (m *meter) greater(a, b gap) bool {
	if a.B == 0 || b.B == 0 {
		return a.B != 0
	}
	x := new(big.Int).Mul(big.NewInt(a.B-b.B), big.NewInt(m.N))
	return x.Cmp(new(big.Int).Mul(big.NewInt(a.C-b.C), big.NewInt(m.Per))) > 0
}

func (m *meter) higher(a, b gap) gap {
	if m.greater(b, a) {
		return b
	}
	return a
}

// top is the gap that counts when only the first n charges are looked at.
func (m *meter) top(n int) gap {
	g := m.Base
	for _, c := range m.Charges[:n] {
		g = m.higher(g, c.Gap)
	}
	return g
}

// note has g among the gaps after all that was charged.
func (m *meter) note(g gap) {
	if n := len(m.Charges); n > 0 {
		m.Charges[n-1].Gap = m.higher(m.Charges[n-1].Gap, g)
	} else {
		m.Base = m.higher(m.Base, g)
	}
}

// tokens is how many there are, below zero in debt.
func (m *meter) tokens(now int64) int64 {
	g := m.top(len(m.Charges))
	return m.Burst - (m.K - g.C) + m.come(now-g.B)
}

// ready is when k tokens are there.
func (m *meter) ready(now, k int64) int64 {
	g := m.top(len(m.Charges))
	return max(now, m.Held, g.B+m.cost(k-m.Burst+m.K-g.C))
}

// forget makes the first n charges final.
func (m *meter) forget(n int) {
	m.Base = m.top(n)
	m.Charges = m.Charges[n:]
}

// finish has nothing given back of what was charged so far.
func (m *meter) finish() {
	m.Base = m.top(len(m.Charges))
	for _, c := range m.Charges {
		c.Gap, c.Done = gap{}, true
	}
}

// loadMeter is the meter of c's cell as of the time that v has from then on, full if there is
// none, or as if it had been empty at born if that is not zero.
func loadMeter(v *view, c *cell, conf engine.Meter, memory time.Duration, born int64) (*meter, error) {
	fresh := meter{N: conf.N, Per: int64(conf.Per), Burst: conf.Burst}
	if c.seq == 0 || c.marker {
		fresh.Base = gap{v.hi, 0}
		if born != 0 {
			fresh.K, fresh.Base = fresh.Burst, gap{min(born, v.hi), 0}
		}
		fresh.settle(v.hi, memory)
		return &fresh, nil
	}
	m := new(meter)
	if err := json.Unmarshal(c.data, m); err != nil || m.N < 1 || m.Per < 1 || m.Burst < 1 {
		return nil, refuse("what is kept of meter %q is %q", conf.Key, c.data)
	}
	if back := v.reach(m.Time); back > 0 { // no tokens come of that, and none are missing
		m.finish()
		m.Base.B, m.Held = m.Base.B-back, max(0, m.Held-back)
		for _, c := range m.Charges {
			c.At -= back
		}
	}
	if m.N != fresh.N || m.Per != fresh.Per || m.Burst != fresh.Burst {
		m.change(v.hi, fresh)
	}
	m.settle(v.hi, memory)
	return m, nil
}

// change has the rate and burst of to from now on: the tokens there are stay, up to the new burst,
// and so does the part of one that has come in.
func (m *meter) change(now int64, to meter) {
	m.finish()
	have, was := m.tokens(now), m.Burst
	part := new(big.Int).Mul(big.NewInt(now-m.Base.B), big.NewInt(m.N))
	part.Mod(part, big.NewInt(m.Per)) // of a token, in parts of Per
	part.Mul(part, big.NewInt(to.Per)).Quo(part, new(big.Int).Mul(big.NewInt(m.Per), big.NewInt(to.N)))
	m.N, m.Per, m.Burst = to.N, to.Per, to.Burst
	if have >= was || have >= m.Burst {
		m.K, m.Base = 0, gap{now, 0}
	} else {
		m.K, m.Base = m.Burst-have, gap{now - part.Int64(), 0}
	}
}

// settle forgets what no longer matters.
func (m *meter) settle(now int64, memory time.Duration) {
	old := max(0, len(m.Charges)-mostCharges)
	for old < len(m.Charges) && m.Charges[old].At+int64(memory) <= now {
		old++
	}
	if m.K > farTokens {
		old = len(m.Charges)
	}
	m.forget(old)
	if m.top(len(m.Charges)).B <= now && m.tokens(now) >= m.Burst {
		m.note(gap{now, m.K})
	}
	if len(m.Charges) == 0 {
		m.K, m.Base.C = m.K-m.Base.C, 0
	}
}

// charge takes k tokens now, in a name if op is not empty.
func (m *meter) charge(now, k int64, op string) {
	if len(m.Charges) > 0 {
		m.note(gap{now, m.K})
	}
	if op != "" {
		m.Charges = append(m.Charges, &charged{Op: op, At: now, Said: k, Now: k})
	}
	m.K += k
}

// room is how many tokens more may be charged when g says since when: debt is at most a day, or a
// refill.
func (m *meter) room(now int64, g gap) int64 {
	refill := m.cost(m.Burst)
	return max(0, min(m.come(now+max(day, refill)+refill-g.B)-(m.K-g.C), farTokens))
}

// correct changes by delta what the Take named op was charged. If nobody knows of it an increase
// is charged now.
func (m *meter) correct(now int64, op string, delta int64) {
	for i, c := range m.Charges {
		if c.Op != op {
			continue
		}
		c.Said = max(-farTokens, min(farTokens, c.Said+max(-2*farTokens, min(2*farTokens, delta))))
		d := max(0, min(c.Said, c.Now+max(0, min(delta, 2*farTokens)))) - c.Now
		if c.Done {
			if d > 0 {
				d = min(d, m.room(now, m.top(len(m.Charges))))
				m.charge(now, d, "")
				c.Now += d
			}
			return
		}
		if d > 0 {
			d = min(d, m.room(now, m.top(i)))
		}
		m.K, c.Now = m.K+d, c.Now+d
		for _, later := range m.Charges[i:] {
			later.Gap.C += d
		}
		return
	}
	if delta > 0 {
		m.charge(now, min(delta, m.room(now, m.top(len(m.Charges)))), "")
	}
}

// hold keeps everybody from m for d, or ends that.
func (m *meter) hold(now, d int64) {
	switch {
	case d == 0:
		m.Held = 0
		if m.tokens(now) < 0 { // what is owed is forgiven, and nothing of it can be given back
			m.finish()
			m.K, m.Base = m.Burst, gap{now, 0}
		}
	case now+d > m.Held:
		m.Held = now + d
		if m.cost(m.Burst) <= max(d, quickRefill) {
			m.note(gap{m.Held, m.K - (m.Burst - 1)}) // one token is there at most
		}
	}
}

// save is what keeps m until nothing of it matters any more; none if nothing does or did.
func (m *meter) save(v *view, c *cell, memory time.Duration) []put {
	g := m.top(len(m.Charges))
	ends := max(m.Held, g.B+m.cost(m.K-g.C))
	if n := len(m.Charges); n > 0 {
		ends = max(ends, m.Charges[n-1].At+int64(memory))
	}
	if ends <= v.lo {
		if c.seq == 0 || c.marker {
			return nil
		}
		return []put{{subject: c.subject, was: c.seq, marker: true, ttl: time.Second}}
	}
	m.Time = v.hi
	data, _ := json.Marshal(m)
	return []put{{subject: c.subject, was: c.seq, data: data, ttl: min(time.Duration(ends-v.lo)+kept, 20*engine.MaxWait)}}
}

// reach has v be as late as t, at which others have decided. If that is more than a second away
// the server's clock was set back, and by how much is returned.
func (v *view) reach(t int64) (back int64) {
	if t > v.hi+int64(time.Second) {
		return t - v.hi
	}
	v.hi = max(v.hi, t)
	return 0
}
