package breaker

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// record is what a distant engine has of a key: the rule, or what one member says.
type record struct {
	rule Rule
	row  uint32
	open bool
	end  int64
	rev  uint64 // zero: there is none
}

// distant is an engine that members reach late: changes are made some time after they were asked for, are answered later,
// or never, and are heard of when it pleases.
type distant struct {
	*testing.T
	paper
	rand  *rand.Rand
	list  []*Breaker
	names []string
	there map[string]record // "" is the rule
	ops   map[[16]byte]uint64
	heard []map[string]uint64 // of each member: the revisions that it knows
	asked []*Errand           // what is under way
	op    byte
	rev   uint64
}

func newDistant(t *testing.T, r *rand.Rand, n int) *distant {
	x := &distant{T: t, rand: r, there: map[string]record{}, ops: map[[16]byte]uint64{}, asked: make([]*Errand, n)}
	for i := range n {
		x.names = append(x.names, string(rune('a'+i)))
		x.list = append(x.list, x.member(x.names[i], 2, five))
		x.heard = append(x.heard, map[string]uint64{})
	}
	return x
}

func (x *distant) expire() {
	for k, r := range x.there {
		if r.end > 0 && r.end <= x.now {
			delete(x.there, k)
		}
	}
}

// hears has member i hear of k.
func (x *distant) hears(i int, k string) {
	x.expire()
	b, r := x.list[i], x.there[k]
	if x.heard[i][k] == r.rev {
		return
	}
	if k != "" {
		x.hears(i, "") // in the order of their changes
	}
	x.heard[i][k] = r.rev
	switch {
	case k != "":
		b.HearVote(x.now, k, r.row, max(0, r.end-x.now))
	case r.rev == 0:
		b.Gone(x.now)
	default:
		b.Hear(x.now, r.rule, r.rev, max(0, r.end-x.now-r.rule.KeptFor()), false)
	}
}

// commit has what e asks for done.
func (x *distant) commit(i int, e *Errand) (rev uint64, what Result) {
	if rev, ok := x.ops[e.Op]; ok {
		return rev, Done
	}
	x.expire()
	if e.Rule != nil && !e.Any && e.Was != x.there[""].rev {
		return 0, Refused
	}
	if e.Rule != nil {
		x.rev++
		rev = x.rev
		x.there[""] = record{rule: *e.Rule, rev: rev, end: x.now + e.Rule.KeptFor() + e.Rule.Lasts}
	}
	if e.Vote > 0 {
		x.rev++
		x.there[x.names[i]] = record{row: e.Row, open: e.Row == 0, end: x.now + e.Vote, rev: x.rev}
	} else if e.Vote < 0 {
		delete(x.there, x.names[i])
	}
	x.ops[e.Op] = rev
	return rev, Done
}

// goesOn has member i go on with what it tells.
func (x *distant) goesOn(i int) {
	b := x.list[i]
	if e := x.asked[i]; e != nil {
		x.asked[i] = nil
		rev, what := x.commit(i, e)
		if x.rand.IntN(8) == 0 {
			what = Unsure
		}
		b.Told(x.now, e, rev, what)
		if what == Refused {
			x.heard[i][""] = 0
			x.hears(i, "")
			if x.there[""].rev == 0 {
				b.Gone(x.now)
			}
		}
	} else if !b.cfg.member.busy {
		if !b.Begin(x.now) {
			return
		}
	}
	x.op++
	if e, more := b.Errand(x.now, [16]byte{x.op, byte(i), byte(x.rand.Uint32()), byte(x.rand.Uint32())}); more {
		x.asked[i] = &e
	}
}

// call has member i make one.
func (x *distant) call(i int, o Outcome) {
	b := x.list[i]
	if ok, _ := b.Ready(x.now); !ok {
		b.Asks(x.now)
		return
	}
	p, _ := b.Take(x.now)
	b.Done(x.now, p, o)
}

// settle has all be told and heard.
func (x *distant) settle() {
	for n := 0; ; n++ {
		require.Less(x, n, 300, "it does not come to an end")
		for i := range x.list {
			x.goesOn(i)
		}
		for i := range x.list {
			for _, k := range append([]string{""}, x.names...) {
				x.hears(i, k)
			}
		}
		if !slices.ContainsFunc(x.asked, func(e *Errand) bool { return e != nil }) && !slices.ContainsFunc(x.list, func(b *Breaker) bool { return b.Begin(x.now) }) {
			return
		}
	}
}

// right holds that everybody knows what there is to know.
func (x *distant) right() {
	x.expire()
	rule, sum := x.there[""], uint64(0)
	for i, b := range x.list {
		m := b.cfg.member
		require.False(x, m.works && m.rule.Phase == Whole, "%s has a success to tell", x.names[i])
		if m.rule.Phase != Whole {
			return
		}
		r := x.there[x.names[i]]
		switch {
		case b.state == Closed && b.row() == 0:
			require.Zero(x, r.rev, "what %s has said is to be taken back: %+v", x.names[i], m)
		case b.state == Closed:
			if r.rev != 0 {
				require.Equal(x, b.row(), r.row, x.names[i])
			} else {
				require.GreaterOrEqual(x, x.now-b.last, rowTold)
			}
			sum += uint64(b.row())
		case r.rev != 0:
			require.True(x, r.open || b.state == HalfOpen || x.now >= b.until, "%s is open", x.names[i])
		}
		for j, o := range x.list {
			v, knows := o.cfg.member.votes[x.names[i]]
			if j == i || !knows || v.end.now <= x.now {
				require.False(x, j != i && r.rev > rule.rev, "%s has not heard of %s, which is there since %d, after %d", x.names[j], x.names[i], r.rev, rule.rev)
				continue
			}
			require.NotZero(x, r.rev, "%s still counts %s", x.names[j], x.names[i])
			require.Equal(x, r.row, v.row)
		}
	}
	require.Less(x, sum, uint64(10), "all are to be open")
}

// well has all that are closed meet a success, after which nobody has anything to tell, or to look at.
func (x *distant) well() (n int) {
	for i := range x.list {
		x.call(i, Success)
	}
	x.settle()
	x.right()
	if slices.ContainsFunc(x.list, func(b *Breaker) bool { return b.state != Closed || x.now < b.until }) {
		return 0
	}
	for i, b := range x.list {
		require.True(x, b.IsClean(x.now) && b.IsQuiet(), "%s: %+v", x.names[i], b.cfg.member)
	}
	for _, name := range x.names {
		require.NotContains(x, x.there, name)
	}
	return 1
}

// Whenever all has been told and heard, everybody knows who has met how many failures, nothing is there that is to be
// taken back, and enough of them have opened all; and once all have met a success there is nothing left of them.
func TestMember_RowsStorm(t *testing.T) {
	seed, rounds := uint64(time.Now().UnixNano()), 2000
	t.Logf("seed %d", seed)
	worked, opened, well := 0, 0, 0
	for round := range rounds {
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		x := newDistant(t, r, 2+r.IntN(4))
		good, step := r.IntN(100), second/50
		if r.IntN(2) == 0 {
			step = 4 * second
		}
		for range 200 {
			i := r.IntN(len(x.list))
			switch r.IntN(5) {
			case 0, 1:
				o := Failure
				if r.IntN(100) < good {
					o = Success
				}
				x.call(i, o)
			case 2:
				x.goesOn(i)
			case 3:
				x.hears(i, append([]string{""}, x.names...)[r.IntN(len(x.names)+1)])
			default:
				x.now += r.Int64N(step)
			}
			if r.IntN(40) == 0 {
				x.settle()
				x.right()
			}
			switch rule := x.there[""].rule; {
			case rule.By != "" && rule.Phase == Whole:
				worked++
			case rule.Phase == Cooling:
				opened++
			}
		}
		well += x.well()
	}
	require.NotZero(t, worked)
	require.NotZero(t, opened)
	require.Greater(t, well, rounds/10)
}
