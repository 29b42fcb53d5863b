package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// settleStep happens at its time: a Take of take units in a name, which must be granted
// want of them, or a Settle of that name by settle tokens.
type settleStep struct {
	at     time.Duration
	name   string // "" has no OpID
	take   int64
	want   int64
	settle int64
}

// TestALateRefundGivesBackOnlyWhatTimeHasNot: a meter is as if every Take had been its
// final amount from its own instant on.
func TestALateRefundGivesBackOnlyWhatTimeHasNot(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		n, burst int64 // per second
		conf     MemoryConfig
		steps    []settleStep
	}{
		"late": {n: 4, burst: 4, steps: []settleStep{
			{at: 0, name: "a", take: 4, want: 4},
			{at: time.Minute - 1, name: "b", take: 4, want: 4},
			{at: time.Minute, name: "a", settle: -4},
			{at: time.Minute, take: 4, want: 0},
			{at: time.Minute + 250*ms - 2, take: 1, want: 0},
			{at: time.Minute + 250*ms - 1, take: 1, want: 1},
		}},
		"at once": {n: 4, burst: 4, steps: []settleStep{
			{at: 0, name: "a", take: 4, want: 4},
			{at: 0, name: "a", settle: -4},
			{at: 0, take: 4, want: 4},
		}},
		"partly late": {n: 1, burst: 10, steps: []settleStep{
			{at: 0, name: "a", take: 10, want: 10},
			{at: 5 * time.Second, take: 5, want: 5},
			{at: 6 * time.Second, name: "a", settle: -10},
			{at: 6 * time.Second, take: 10, want: 6},
		}},
		"a second one, lower": {n: 4, burst: 4, steps: []settleStep{
			{at: 0, name: "a", take: 1, want: 1},
			{at: 0, name: "a", settle: 7},
			{at: 2 * time.Second, take: 4, want: 4},
			{at: 2 * time.Second, name: "a", settle: -8},
			{at: 2 * time.Second, take: 1, want: 0},
		}},
		"an increase of what time has brought back": {n: 1, burst: 10, steps: []settleStep{
			{at: 0, name: "a", take: 4, want: 4},
			{at: 30 * time.Second, name: "a", settle: 6},
			{at: 30 * time.Second, take: 10, want: 10},
		}},
		"an increase that time has not brought back": {n: 1, burst: 10, steps: []settleStep{
			{at: 0, name: "a", take: 4, want: 4},
			{at: 3 * time.Second, name: "a", settle: 20}, // owes 14 at first
			{at: 14 * time.Second, take: 1, want: 0},
			{at: 15 * time.Second, take: 9, want: 1},
		}},
		"of one of several": {n: 1, burst: 10, steps: []settleStep{
			{at: 0, name: "a", take: 5, want: 5},
			{at: 1 * time.Second, name: "b", take: 6, want: 6},
			{at: 2 * time.Second, name: "c", take: 1, want: 1},
			{at: 3 * time.Second, name: "b", settle: -6},
			{at: 3 * time.Second, take: 10, want: 7},
			{at: 3 * time.Second, name: "a", settle: -5},
			{at: 3 * time.Second, take: 10, want: 3}, // without a 10 were there until c, and at 3 s again
		}},
		"no name": {n: 4, burst: 4, steps: []settleStep{
			{at: 0, take: 4, want: 4},
			{at: 0, settle: -4},
			{at: 0, take: 1, want: 0},
			{at: time.Second, settle: 3},
			{at: time.Second, take: 4, want: 1},
		}},
		"forgotten, for its age": {n: 1, burst: 10, conf: MemoryConfig{OpMemory: 5 * time.Second}, steps: []settleStep{
			{at: 0, name: "a", take: 10, want: 10},
			{at: 5*time.Second - 1, name: "a", settle: -1},
			{at: 5 * time.Second, name: "a", settle: -4},
			{at: 5 * time.Second, take: 10, want: 6},
			{at: 5 * time.Second, name: "a", settle: 2},
			{at: 7 * time.Second, take: 1, want: 0},
			{at: 8 * time.Second, take: 1, want: 1},
		}},
		"forgotten, for later ones": {n: 1, burst: 10, conf: MemoryConfig{MaxOps: 2}, steps: []settleStep{
			{at: 0, name: "a", take: 3, want: 3},
			{at: 0, name: "b", take: 3, want: 3},
			{at: 0, name: "c", take: 3, want: 3},
			{at: 0, name: "a", settle: -3},
			{at: 0, name: "b", settle: -3},
			{at: 0, take: 10, want: 4},
		}},
		"a denied one": {n: 1, burst: 2, steps: []settleStep{
			{at: 0, take: 2, want: 2},
			{at: 0, name: "a", take: 2, want: 0},
			{at: 0, name: "a", settle: -2},
			{at: 0, take: 1, want: 0},
			{at: 2 * time.Second, name: "a", settle: 1},
			{at: 2 * time.Second, take: 2, want: 1},
		}},
		"debt is at most a day": {n: 1, burst: 10, steps: []settleStep{
			{at: 0, name: "a", take: 1, want: 1},
			{at: 0, name: "a", settle: 1 << 62},
			{at: 0, name: "a", settle: 1 << 62},
			{at: 24 * time.Hour, take: 1, want: 0},
			{at: 24*time.Hour + time.Second, take: 2, want: 1},
		}, conf: MemoryConfig{OpMemory: 48 * time.Hour}},
		"an absurd report is taken back": {n: 1, burst: 10, steps: []settleStep{
			{at: 0, name: "a", take: 4, want: 4},
			{at: 0, name: "a", settle: 1 << 62},
			{at: 0, name: "a", settle: 2 - 1<<62},
			{at: 0, take: 10, want: 4},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newMemory(t, c.conf).Quota()
				m := Meter{Key: "m", N: c.n, Per: time.Second, Burst: c.burst}
				names, start := map[string]OpID{}, time.Now()
				for i, s := range c.steps {
					time.Sleep(s.at - time.Since(start))
					var op OpID
					if s.name != "" {
						if _, ok := names[s.name]; !ok {
							names[s.name] = NewOpID()
						}
						op = names[s.name]
					}
					if s.take == 0 {
						require.NoError(t, q.Settle(t.Context(), OpID{}, []Correction{{Of: op, Meter: m, Delta: s.settle}}))
						continue
					}
					g, err := q.Take(t.Context(), Draw{Op: op, Meters: []Meter{m}, Min: 1, Max: s.take})
					if err != nil || g.Units != s.want {
						t.Errorf("step %d at %v: Take of %d was granted %d, %v: want %d", i, s.at, s.take, g.Units, err, s.want)
					}
				}
			})
		})
	}
}

// TestSettleKeepsToItsTakeAcrossRates: a Take stays open while its meter's rate changes, and
// what it was charged is counted at the rates of its time.
func TestSettleKeepsToItsTakeAcrossRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newMemory(t, MemoryConfig{}).Quota()
		slow := Meter{Key: "m", N: 1, Per: time.Second, Burst: 10}
		fast := Meter{Key: "m", N: 10, Per: time.Second, Burst: 20}
		take := func(m Meter, op OpID, most, want int64) {
			t.Helper()
			g, err := q.Take(t.Context(), Draw{Op: op, Meters: []Meter{m}, Min: 1, Max: most})
			if err != nil || g.Units != want {
				t.Errorf("Take of %d was granted %d, %v: want %d", most, g.Units, err, want)
			}
		}
		settle := func(m Meter, of OpID, delta int64) {
			t.Helper()
			assert.NoError(t, q.Settle(t.Context(), OpID{}, []Correction{{Of: of, Meter: m, Delta: delta}}))
		}
		a, b := NewOpID(), NewOpID()
		take(slow, a, 10, 10)
		time.Sleep(4 * time.Second) // 4 of 10
		take(fast, b, 20, 4)
		time.Sleep(100 * time.Millisecond) // one more
		settle(fast, a, -8)                // then there were 10 at 4 s: 6 more than b took
		take(fast, OpID{}, 20, 7)
		settle(slow, b, -4)
		take(slow, OpID{}, 20, 4)
	})
}

// TestDroppedMetersKeepTheirOpenCharges: a full meter of which a charge may still be
// corrected gives way only to one that had no room otherwise, and nothing is spent twice
// then.
func TestDroppedMetersKeepTheirOpenCharges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, MemoryConfig{MaxMeters: 3})
		q, ctx := &m.quota, t.Context()
		meter := func(key string) Meter { return Meter{Key: key, N: 1, Per: time.Second, Burst: 4} }
		take := func(key string, op OpID, want int64) {
			t.Helper()
			g, err := q.Take(ctx, Draw{Op: op, Meters: []Meter{meter(key)}, Min: 1, Max: 4})
			if err != nil || g.Units != want {
				t.Errorf("Take from %s was granted %d, %v: want %d", key, g.Units, err, want)
			}
		}
		settle := func(key string, of OpID, delta int64) {
			t.Helper()
			assert.NoError(t, q.Settle(ctx, OpID{}, []Correction{{Of: of, Meter: meter(key), Delta: delta}}))
		}
		a := NewOpID()
		take("a", a, 4)
		take("b", OpID{}, 4)
		take("c", OpID{}, 4)
		time.Sleep(4 * time.Second) // all are full
		take("d", OpID{}, 4)        // in place of b and c
		if q.meters["a"] == nil || len(q.meters) != 2 {
			t.Errorf("of a, which may be corrected, and three others there are left %d", len(q.meters))
		}
		settle("a", a, 4) // 8 at the beginning: 4 s later nothing is there
		take("a", OpID{}, 0)
		settle("a", a, -4)
		take("e", OpID{}, 4)
		take("f", OpID{}, 4) // in place of a
		assert.Nil(t, q.meters["a"], "a full meter stood in the way of one that is not")
		err := q.Settle(ctx, OpID{}, []Correction{{Of: a, Meter: meter("a"), Delta: 1}})
		assert.ErrorIs(t, err, ErrFull)
		assert.ErrorContains(t, err, "MaxMeters is 3")
		settle("a", a, -4) // needs no meter: it gives back nothing
		time.Sleep(4 * time.Second)
		take("a", OpID{}, 4)
		settle("a", a, -4)
		take("a", OpID{}, 0)
		assert.Len(t, q.ops.found, 1, "operations are remembered")
		time.Sleep(2 * time.Minute)
		take("a", NewOpID(), 4)
		assert.Equal(t, 1, q.meters["a"].open, "charges can be corrected, want that of the last Take")
	})
}

// tape is an independent count of one meter's tokens: everything that was charged, in order,
// recounted from the beginning for every question. Tokens are counted in quarters of a
// millionth, rates in those per nanosecond.
type tape struct {
	burst, rate int64 // at first
	list        []tapeEntry
}

type tapeEntry struct {
	at          int64
	amount      int64 // charged
	rate, burst int64 // from now on, if not zero
	full        bool  // then, full
}

const tapeToken = 4_000_000

func (p *tape) level(now int64) (level, rate, burst int64) {
	return p.levelFrom(now, len(p.list))
}

// levelFrom is the balance if after entry from nothing had been too much for the burst.
func (p *tape) levelFrom(now int64, from int) (level, rate, burst int64) {
	rate, burst = p.rate, p.burst
	level = burst * tapeToken
	last := int64(0)
	for i, e := range append(p.list[:len(p.list):len(p.list)], tapeEntry{at: now}) {
		level += (e.at - last) * rate
		last = e.at
		if i <= from {
			level = min(level, burst*tapeToken)
		}
		if e.rate != 0 {
			rate, burst = e.rate, e.burst
			if i <= from {
				level = min(level, burst*tapeToken)
			}
			if e.full {
				level = burst * tapeToken
			}
		}
		level -= e.amount * tapeToken
	}
	return level, rate, burst
}

// raise makes entry i more by what fits under the bound on debt, as if all that came in
// after it had found room.
func (p *tape) raise(now int64, i int, delta int64) {
	level, rate, burst := p.levelFrom(now, i)
	least := -max(int64(24*time.Hour)*rate, burst*tapeToken)
	p.list[i].amount += min(delta, max(0, level-least)/tapeToken)
}

// TestMemoryQuotaIsThatOfAReplay draws and settles at random, and recounts everything from
// the final amounts.
func TestMemoryQuotaIsThatOfAReplay(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { replayQuota(t, rand.New(rand.NewPCG(seed, 11))) })
		})
	}
}

func replayQuota(t *testing.T, rnd *rand.Rand) {
	keep := time.Duration(1+rnd.Int64N(400)) * time.Millisecond
	most := 1 + rnd.IntN(12)
	q := newMemory(t, MemoryConfig{OpMemory: keep, MaxOps: most}).Quota()
	start := time.Now()

	keys := []string{"calls", "words"}
	each := []int64{1, 3}
	rates := []int64{1, 4}
	bursts := []int64{1 + rnd.Int64N(9), 3 + rnd.Int64N(20)}
	tapes := []*tape{{burst: bursts[0], rate: rates[0]}, {burst: bursts[1], rate: rates[1]}}
	meter := func(i int) Meter {
		return Meter{Key: keys[i], N: rates[i], Per: 4 * time.Millisecond, Burst: bursts[i], Each: each[i]}
	}

	type name struct {
		op    OpID
		until int64
		index [2]int // of the tape's entry; -1 if it was not charged
		said  [2]int64
		again func() error // a Settle
	}
	var names, old []*name // remembered, forgotten
	forget := func(now int64, n int) {
		for len(names) > n || len(names) > 0 && names[0].until <= now {
			if names[0].again == nil {
				old = append(old, names[0])
			}
			names = names[1:]
		}
	}
	for step := range 400 {
		switch {
		case rnd.IntN(60) == 0:
			time.Sleep(24*time.Hour + time.Duration(rnd.Int64N(int64(24*time.Hour))))
		case rnd.IntN(3) > 0:
			time.Sleep(time.Duration(rnd.Int64N(int64(8 * time.Millisecond))))
		case rnd.IntN(3) > 0:
			time.Sleep(time.Duration(rnd.Int64N(4)) * time.Millisecond)
		}
		now := int64(time.Since(start))
		forget(now, most)
		known := func(i int) bool { // a charge of the meter may be corrected
			return slices.ContainsFunc(names, func(n *name) bool { return n.again == nil && n.index[i] >= 0 })
		}
		use := func(i int) { // the meter as it is configured now
			level, rate, burst := tapes[i].level(now)
			if rate != rates[i] || burst != bursts[i] {
				full := level == burst*tapeToken && !known(i)
				tapes[i].list = append(tapes[i].list, tapeEntry{at: now, rate: rates[i], burst: bursts[i], full: full})
			}
		}
		switch what := rnd.IntN(20); {
		case what == 0: // another rate, of whoever comes next
			i := rnd.IntN(2)
			rates[i], bursts[i] = 1<<rnd.IntN(3), 3+rnd.Int64N(20)
		case what < 9:
			var d Draw
			var on []int
			for i := range keys {
				if rnd.IntN(3) > 0 {
					d.Meters, on = append(d.Meters, meter(i)), append(on, i)
				}
			}
			if len(on) == 0 {
				continue
			}
			d.Max = 1 + rnd.Int64N(6)
			d.Min = 1
			if rnd.IntN(3) > 0 {
				d.Op = NewOpID()
			}
			want := d.Max
			for _, i := range on {
				use(i)
				level, _, _ := tapes[i].level(now)
				want = max(0, min(want, level/tapeToken/each[i]))
			}
			g, err := q.Take(t.Context(), d)
			if err != nil || g.Units != want {
				t.Fatalf("step %d at %v: Take of 1 to %d of %v was granted %d, %v: want %d", step, time.Duration(now), d.Max, on, g.Units, err, want)
			}
			if want == 0 {
				continue
			}
			n := &name{op: d.Op, until: now + int64(keep), index: [2]int{-1, -1}}
			for _, i := range on {
				n.index[i] = len(tapes[i].list)
				n.said[i] = want * each[i]
				tapes[i].list = append(tapes[i].list, tapeEntry{at: now, amount: n.said[i]})
			}
			if !d.Op.IsZero() {
				forget(now, most-1)
				names = append(names, n)
			}
		default:
			var n *name
			if all := append(names[:len(names):len(names)], old...); len(all) > 0 && rnd.IntN(8) > 0 {
				n = all[rnd.IntN(len(all))]
			} else {
				n = &name{index: [2]int{-1, -1}}
			}
			if n.again != nil {
				require.NoError(t, n.again(), "step %d: a Settle repeated with its OpID", step)
				continue
			}
			i, delta := rnd.IntN(2), rnd.Int64N(17)-10
			if rnd.IntN(20) == 0 {
				delta = []int64{1 << 62, -1 << 62, 1 << 40, -1 << 40}[rnd.IntN(4)]
			}
			m, op := meter(i), OpID{}
			if rnd.IntN(3) == 0 {
				op = NewOpID()
			}
			switch open := slices.Contains(names, n) && n.index[i] >= 0; {
			case open:
				use(i)
				n.said[i] = sum(n.said[i], delta)
				e := &tapes[i].list[n.index[i]]
				if delta > 0 {
					if more := max(0, n.said[i]) - e.amount; more > 0 {
						tapes[i].raise(now, n.index[i], min(more, delta))
					}
				} else {
					e.amount = min(e.amount, max(0, n.said[i]))
				}
			case delta > 0:
				use(i)
				tapes[i].list = append(tapes[i].list, tapeEntry{at: now})
				tapes[i].raise(now, len(tapes[i].list)-1, delta)
			}
			settle := func() error { return q.Settle(t.Context(), op, []Correction{{Of: n.op, Meter: m, Delta: delta}}) }
			require.NoError(t, settle(), "step %d", step)
			if !op.IsZero() {
				forget(now, most-1)
				names = append(names, &name{op: op, until: now + int64(keep), again: settle})
			}
		}
	}
}
