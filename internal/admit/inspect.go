package admit

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"github.com/sluice-go/sluice/internal/breaker"
)

// Lookup returns k's cell for key, or nil if nobody has asked for it.
func (k *Class) Lookup(key string) *Cell { return k.cells[key] }

// Cells is all of k's, by key.
func (k *Class) Cells() []*Cell {
	cells := slices.Collect(maps.Values(k.cells))
	slices.SortFunc(cells, func(a, b *Cell) int { return cmp.Compare(a.key, b.key) })
	return cells
}

// Order is the order in which the cells of a call are asked.
func (k *Class) Order() int { return k.order() }

// Peek is what Cell would answer, but a new cell is kept nowhere and nobody makes room.
func (m *Machine) Peek(now int64, k *Class, key string) *Cell {
	if c := k.cells[key]; c != nil {
		return c
	}
	m.advance(now)
	if k.MaxKeys > 0 && len(k.cells) >= k.MaxKeys && m.idlest(k) == nil {
		return nil
	}
	return newCell(k, key)
}

// BreakerState is the state of the breaker c. One whose cooldown is over counts as half-open.
func (c *Cell) BreakerState(now int64) breaker.State {
	c.shut()
	s := c.breaker.State(now)
	if s == breaker.Open {
		if ok, _ := c.breaker.Ready(now); ok {
			return breaker.HalfOpen
		}
	}
	return s
}

// Limit is how many slots c has; of leased ones, how many all processes have together.
func (c *Cell) Limit() int64 { return c.most() }

// IsAnonymous reports whether c is of calls without the key by which others are told apart.
func (c *Cell) IsAnonymous() bool { return c.class.MaxKeys > 0 && c.key == "" }

// Usage is what a snapshot says of a cell.
type Usage struct {
	Limit, Used int64
	Waiting     int   // calls in the lanes parked here
	Paused      int64 // instant
	Opens       int64 // when a pause, or the ramp after it, lets a call start; now if it does already
	Stalled     bool  // it has released nothing for long, while calls wait
	Until       int64 // of a breaker: when its state may change by itself
	Full        int64 // of a bucket that is not full: when it is again, if nothing more is charged
}

// Usage is the state of c at now.
func (c *Cell) Usage(now int64) Usage {
	c.shut()
	u := Usage{Opens: c.opens(now), Paused: c.pause.ends(), Stalled: c.q != nil && c.q.stalled}
	switch c.kind {
	case Slots:
		u.Limit, u.Used = c.most(), c.used
	case Tokens:
		u.Limit = c.class.Rate.Burst()
		if u.Used = u.Limit; c.stock != nil {
			u.Used = max(0, u.Limit-c.stock.due(now)) + c.stock.more
		} else {
			u.Used -= c.bucket.Tokens(c.class.Rate, now)
			if at := c.bucket.FullAt(); at > now {
				u.Full = at
			}
		}
	case Breaker:
		u.Until = c.breaker.NextChange(now)
	}
	if c.q != nil {
		u.Waiting = c.q.calls
	}
	return u
}

// Lane is what a snapshot says of a lane.
type Lane struct {
	Born    uint64 // tells it from every other lane of its machine
	Tool    string // the name that its plan has
	Owner   any    // of its head
	Tenant  string
	Level   int8
	Waiting int
	Since   int64 // its head's arrival
	At      *Cell
}

// Calm reports whether nothing is to be told or done but to read Decided, and Due is due, as where all
// that wait do so for slots. It may be false all the same.
func (m *Machine) Calm(due int64) bool {
	return m.watch == due &&
		len(m.notices)|len(m.thirsty)|len(m.sought)|len(m.sweeps)|len(m.rest)|m.timers.Len()|m.limits.Len() == 0
}

func (l *lane) view() Lane {
	return Lane{l.born, l.plan.Name, l.head.Owner, l.tenant.name, max(l.level, l.declared), l.n, l.head.arrived, l.at}
}

// Lanes is all that wait.
func (m *Machine) Lanes() iter.Seq[Lane] {
	return func(yield func(Lane) bool) {
		for _, l := range m.all {
			if !yield(l.view()) {
				return
			}
		}
	}
}

// LaneBatch appends to buf up to n of the lanes that wait, as [Class.Batch] does the cells.
// Begin with [Machine.LaneCount].
func (m *Machine) LaneBatch(buf []Lane, from, n int) (_ []Lane, next int) {
	from = min(from, len(m.all))
	next = max(0, from-n)
	for i := from - 1; i >= next; i-- {
		buf = append(buf, m.all[i].view())
	}
	return buf, next
}

// LaneCount is how many lanes wait.
func (m *Machine) LaneCount() int { return len(m.all) }

// WaitsAt is the cell at which the lane of the waiting t is parked.
func (t *Ticket) WaitsAt() *Cell { return t.lane.at }

// Overtaken is how many calls that came later than t, at least, started earlier. Of one that has
// started nothing of m is read.
func (m *Machine) Overtaken(t *Ticket) int {
	if t.place == 0 {
		return 0
	}
	var until uint64
	if s := t.read().startedAs; s > 0 {
		until = s - 1
	} else {
		until = m.starts
	}
	return max(0, int(int32(uint32(until)-t.starts))-int(t.place-1))
}

// Forecast is what Arrive would do.
type Forecast struct {
	Refusal Refusal // Reason is NoReason if it would not be refused
	By      *Cell   // where it would wait; nil if it would start
	Place   int
	Wait    int64 // estimate; zero if nothing is known
}

// Forecast says what Arrive would do with t, and changes nothing.
func (m *Machine) Forecast(now int64, t *Ticket) Forecast {
	m.advance(now)
	defer m.returnLoose()
	m.drain()
	if t.needs == nil {
		t.needs = m.newNeeds()
	}
	m.shutAll(t.needs)
	t.seq = m.seq + 1
	m.rank(t)
	if r, ok := m.hopeless(t); ok {
		return Forecast{Refusal: r}
	}
	var at *Cell
	var l *lane
	if t.Parent == nil {
		if l, _ = m.lane(t); l != nil {
			at = l.at
		}
	}
	if at == nil {
		v := m.examine(t)
		if v.cell == nil {
			return Forecast{}
		}
		at = v.cell
	}
	if r, ok := m.timely(t, at); !ok {
		return Forecast{Refusal: r}
	}
	low, ok := m.room(t, l)
	if !ok {
		return Forecast{Refusal: Refusal{Reason: QueueFull}}
	}
	f := Forecast{By: at, Place: m.waiting + 1}
	if low >= 0 {
		f.Place-- // one gives way to it
	}
	f.Wait = m.estimate(at, t)
	return f
}
