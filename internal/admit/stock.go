package admit

import "slices"

// The buckets of a class may be kept elsewhere, shared with other processes: its class has a [Stock], and
// each of its cells a stock of units that have been fetched from there, which calls are paid from. A unit
// is there, or booked for an instant that is known. So a bucket that is far away can be asked what any
// other is asked, when n units can be had, and the one timer serves who waits for one that is booked.
// Units belong to the cell: a waiting call holds none, and leaves none behind. What nobody uses goes back.
//
// Nothing here asks anybody. The machine lists the cells for which there is something to do
// ([Machine.Errands]), and what that is ([Machine.Errand]): fetch so many, give back so many, say how many
// more calls have used. Whoever does it tells what came of it ([Machine.Supply], [Machine.Settled]).

// Op names one fetch where the bucket is kept. What is given back says which fetch it came by.
type Op [16]byte

// Stock says how the cells of a class of Tokens keep units of buckets that are kept elsewhere.
type Stock struct {
	Most    int64  // units in stock, there or booked; what one call needs, if that is more
	Hold    int64  // how long a unit that is there is kept while nobody waits for it
	Ahead   int64  // how far ahead units are booked; nothing is booked for a class that refuses
	Reserve int64  // tokens left to calls of the highest level by fetches for others
	Repeat  int64  // how long what has failed can be repeated under its name
	Shadow  bool   // calls start whatever there is, and count
	Keeper  Keeper // never changes
}

// perUnit is how many units may wait for each that is in stock: a process with much to do has more.
const perUnit = 4

// Keeper makes errands for cells. Its methods are called with the machine locked, and must not block.
type Keeper interface {
	// Run has the errands of c made, by [Machine.Errand], until there are none.
	Run(c *Cell)
	// Hold has everybody be held from c for d, or let go if d is zero.
	Hold(c *Cell, d int64)
}

// Correction is that a fetch was by Units more than it was, or less.
type Correction struct {
	Of    Op // zero if no fetch is known
	Units int64
}

// fetch is what is asked for at once.
type fetch struct {
	Op                     Op
	Min, Max, Ahead, Spare int64
	since                  int64
	urgent                 bool
}

// lot is units of one fetch: the first is due at that instant, each further one every later.
type lot struct {
	units, at, every int64
	op               Op
	urgent           bool // fetched for a call of the highest level
}

// last is when the last of n units of l is due.
func (l *lot) last(n int64) int64 { return l.at + (n-1)*l.every }

// due is how many units of l are due at now.
func (l *lot) due(now int64) int64 {
	switch {
	case l.at > now:
		return 0
	case l.every == 0:
		return l.units
	}
	return min(l.units, 1+(now-l.at)/l.every)
}

// cut takes the first n units off l.
func (l *lot) cut(n int64) {
	l.units -= n
	l.at += n * l.every
}

// stock is what a cell has of a bucket that is kept elsewhere.
type stock struct {
	lots []lot // by when their first unit is due

	back  []Correction // to be said where the bucket is kept
	said  []Correction // what is being said, under the name op, since that instant
	op    Op
	begun int64
	more  int64 // of back and said: units that calls have used beyond what they took
	tell  int64 // nothing is said before

	fetch  fetch // under way, or of unknown outcome
	unsure bool  // it is
	fails  int   // fetches in a row
	next   int64 // no fetch before
	offset int64 // of the wall clock, when it was looked at last

	denied  bool    // the last answer was that there is nothing before next
	running bool    // errands are being made
	lifted  bool    // while errands were made: what they bring may be of before
	closed  bool    // nothing comes any more
	urgent  bool    // whoever came last is of the highest level
	hold    pausing // what the Keeper is to be told

	since       int64 // when the present span of Stock.Hold began, in which
	calls, used int64 // so many came, and took so much;
	most        int64 // and the most of that in the span before, if at least two came

	lent      int64  // in shadow: units that calls have taken of which nobody knows yet whether they are there
	lentCalls uint64 // and how many calls these are
}

// pausing is what a Keeper is told of a pause.
type pausing uint8

const (
	nothing pausing = iota
	holds
	lifts
)

// total is how many units there are, due or not.
func (s *stock) total() (n int64) {
	for i := range s.lots {
		n += s.lots[i].units
	}
	return n
}

// due is how many units are due at now.
func (s *stock) due(now int64) (n int64) {
	for i := range s.lots {
		n += s.lots[i].due(now)
	}
	return n
}

// first is an instant at which n units are due, the earliest if those of one lot are due before those of the
// next: Never if there are fewer.
func (s *stock) first(now, n int64) int64 {
	if s.due(now) >= n {
		return now
	}
	at := now
	for i := range s.lots {
		l := &s.lots[i]
		k := min(n, l.units)
		at = max(at, l.last(k))
		if n -= k; n == 0 {
			return at
		}
	}
	return Never
}

// add adds a lot.
func (s *stock) add(l lot) {
	i := len(s.lots)
	for i > 0 && s.lots[i-1].at > l.at {
		i--
	}
	s.lots = slices.Insert(s.lots, i, l)
}

// take takes n units that are due at now, and tells of each part of a lot.
func (s *stock) take(now, n int64, tell func(op Op, units, at int64)) {
	for i := 0; i < len(s.lots) && n > 0; i++ {
		l := &s.lots[i]
		k, at := min(n, l.due(now)), l.at
		if k == 0 {
			continue
		}
		l.cut(k)
		if n -= k; tell != nil {
			tell(l.op, k, at)
		}
	}
	s.tidy()
}

// tidy forgets the lots of which nothing is left.
func (s *stock) tidy() {
	s.lots = slices.DeleteFunc(s.lots, func(l lot) bool { return l.units == 0 })
}

// leave gives back what is due by the instant at; all there is if that is Never.
func (s *stock) leave(at int64) {
	for i := range s.lots {
		l := &s.lots[i]
		n := l.units
		if at != Never {
			n = l.due(at)
		}
		if n > 0 {
			s.correct(l.op, -n)
			l.cut(n)
		}
	}
	s.tidy()
}

// maxCorrections bounds what is to be said. What is given back beyond it is lost: time brings it back.
const maxCorrections = 4096

// correct has it said that a fetch was by so many units more, or less.
func (s *stock) correct(of Op, units int64) {
	if units > 0 {
		s.more += units
	}
	for i := len(s.back) - 1; i >= max(0, len(s.back)-perErrand); i-- {
		if x := &s.back[i]; x.Of == of && (x.Units < 0) == (units < 0) {
			x.Units += units
			return
		}
	}
	switch {
	case len(s.back) < maxCorrections:
		s.back = append(s.back, Correction{of, units})
	case units > 0: // the first is as good as any, and what is owed is not forgotten
		s.back[0] = Correction{Units: max(0, s.back[0].Units) + units}
	}
}

// came notes that calls have come, and what they took.
func (s *stock) came(now, span, calls, units int64) {
	s.turn(now, span)
	s.calls += calls
	s.used += units
}

// turn begins another span if the present one is over.
func (s *stock) turn(now, span int64) {
	switch over := now - s.since; {
	case over < span:
		return
	case over < 2*span && s.calls > 1:
		s.most = s.used
	default:
		s.most = 0
	}
	s.since, s.calls, s.used = now, 0, 0
}

// expects is how many units will be used within a span, as far as the past tells. Who comes once in a
// while costs more to be ready for than to be fetched for.
func (s *stock) expects(now, span int64) int64 {
	s.turn(now, span)
	if s.calls < 2 {
		return s.most
	}
	return max(s.most, s.used)
}

// isIdle reports whether nothing is left to be remembered.
func (s *stock) isIdle() bool {
	return len(s.lots)|len(s.back)|len(s.said) == 0 && !s.running && !s.unsure && s.hold == nothing
}
