package sim

import (
	"slices"

	"github.com/sluice-go/sluice"
)

// recount follows one bucket from what was charged and when: as if every charge had been
// what is known of its amount now, from its own instant on. So what is given back late
// gives back only what time has not, and what was reported above the estimate is owed from
// the charge on. It knows starts, amounts and the rate, and nothing of how the bucket of
// internal/bucket keeps them.
//
// A charge is kept until it and all before it are final. Correcting one costs time in
// proportion to the charges since.
type recount struct {
	rate *sluice.Rate

	first   int64    // the number of charges[0]
	charges []charge // in the order of their instants
	known   int      // of charges: the first so many have the right owed
	final   int      // of charges: the first so many are final
	before  wide     // owed after the last charge that is not kept
	at      int64    // when that was
}

// charge is an amount taken at an instant.
type charge struct {
	at     int64
	amount int64
	owed   wide // right after it: what the bucket lacks, in tokens times per
	final  bool // the amount will not change
}

// take charges amount at now, and answers the number of the charge, and whether the bucket
// had so much. Nothing can be had of one that is in debt too.
func (r *recount) take(now, amount int64, final bool) (id int64, ok bool) {
	owed := r.owed(now)
	owed.add(times(amount, int64(r.rate.Per)))
	r.charges = append(r.charges, charge{now, amount, owed, final})
	r.known = len(r.charges)
	id = r.first + int64(len(r.charges)) - 1
	r.forget()
	return id, amount == 0 || !owed.above(times(r.rate.Burst, int64(r.rate.Per)))
}

// correct says what a charge that is not final was really.
func (r *recount) correct(id, amount int64) {
	i := int(id - r.first)
	if r.charges[i].amount != amount {
		r.charges[i].amount = amount
		r.known = min(r.known, i)
	}
}

// close makes the amount of a charge final.
func (r *recount) close(id int64) {
	r.charges[id-r.first].final = true
	r.forget()
}

// owed is what the bucket lacks at now, which is not before the last charge.
func (r *recount) owed(now int64) wide {
	owed, at := r.before, r.at
	if r.known > 0 {
		owed, at = r.charges[r.known-1].owed, r.charges[r.known-1].at
	}
	for ; r.known < len(r.charges); r.known++ {
		c := &r.charges[r.known]
		owed.sub(times(r.rate.N, c.at-at))
		owed.add(times(c.amount, int64(r.rate.Per)))
		c.owed, at = owed, c.at
	}
	owed.sub(times(r.rate.N, now-at))
	return owed
}

// forget lets go of the charges that can matter only by their sum.
func (r *recount) forget() {
	for r.final < len(r.charges) && r.charges[r.final].final {
		r.final++
	}
	if r.final < 64 || r.final < len(r.charges)/2 {
		return
	}
	r.owed(r.charges[len(r.charges)-1].at)
	last := &r.charges[r.final-1]
	r.before, r.at = last.owed, last.at
	r.charges = slices.Delete(r.charges, 0, r.final)
	r.first += int64(r.final)
	r.known, r.final = r.known-r.final, 0
}
