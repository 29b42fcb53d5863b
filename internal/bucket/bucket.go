// Package bucket is an exact token bucket: the generic cell rate algorithm (GCRA,
// ITU-T I.371) in integer arithmetic.
//
// A bucket is one instant, the theoretical arrival time (TAT): the moment at which it
// will be full again. Taking tokens moves it later, time catches up with it. The
// instant is kept in nanoseconds and a fraction whose denominator is the rate's N, so
// a rate like 90,000 per minute (one token each 666,666.6… ns) neither drifts nor
// rounds. (With a burst of one each start is a whole nanosecond after the instant that the
// last one allows, so what rounding up costs adds up: starts any closer would exceed the
// rate.) A charge may be corrected later, see [Charge].
//
// Nothing here reads a clock: every method takes now, in nanoseconds of a clock that the caller
// keeps from going back.
package bucket

//lint:file-ignore ST1005 errors begin with the name of a field, which is a capital

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"
)

// Never is the instant that does not come.
const Never int64 = math.MaxInt64

// MaxSpan bounds the time a whole burst may take to refill, and with it every sum of
// instants: about 36 years.
const MaxSpan int64 = 1 << 60

// Rate is N tokens per Per nanoseconds, at most Burst at once. Use [NewRate].
type Rate struct {
	n, per, burst int64
	span          instant // how long a whole burst takes to refill
	one           instant // how long one token takes
	scale         int64   // see Scale
}

// NewRate returns the rate, or an error that says which value is out of range.
func NewRate(n, per, burst int64) (Rate, error) {
	switch {
	case n < 1:
		return Rate{}, fmt.Errorf("N is %d: must be at least 1", n)
	case per < 1:
		return Rate{}, fmt.Errorf("Per is %d ns: must be positive", per)
	case burst < 1:
		return Rate{}, fmt.Errorf("Burst is %d: must be at least 1", burst)
	}
	r := Rate{n: n, per: per, burst: burst}
	r.one, r.span, r.scale = r.cost(1), r.cost(burst), n/gcd(n, per)
	if r.one.ns >= MaxSpan || r.span.ns >= MaxSpan {
		return Rate{}, fmt.Errorf("N %d per %d ns with Burst %d takes more than 36 years to refill: lower Burst or Per", n, per, burst)
	}
	return r, nil
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Burst is the most tokens the bucket can hold.
func (r *Rate) Burst() int64 { return r.burst }

// Terms is what the rate was made of.
func (r *Rate) Terms() (n, per, burst int64) { return r.n, r.per, r.burst }

// instant is ns + frac/n nanoseconds, 0 <= frac < n of the rate that made it.
type instant struct{ ns, frac int64 }

func (a instant) less(b instant) bool { return a.ns < b.ns || a.ns == b.ns && a.frac < b.frac }

func (r *Rate) add(a, b instant) instant {
	ns, frac := a.ns+b.ns, a.frac-r.n+b.frac // the order of terms cannot overflow
	if frac >= 0 {
		return instant{ns + 1, frac}
	}
	return instant{ns, frac + r.n}
}

func (r *Rate) sub(a, b instant) instant {
	ns, frac := a.ns-b.ns, a.frac-b.frac
	if frac < 0 {
		return instant{ns - 1, frac + r.n}
	}
	return instant{ns, frac}
}

// cost is the time that k tokens take, at most MaxSpan.
func (r *Rate) cost(k int64) instant {
	hi, lo := bits.Mul64(uint64(k), uint64(r.per))
	if hi >= uint64(r.n) {
		return instant{MaxSpan, 0}
	}
	q, rem := bits.Div64(hi, lo, uint64(r.n))
	if q >= uint64(MaxSpan) {
		return instant{MaxSpan, 0}
	}
	return instant{int64(q), int64(rem)}
}

// tokens is how many tokens come in during d, at least none.
func (r *Rate) tokens(d instant) int64 {
	if d.ns < 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(d.ns), uint64(r.n))
	lo, carry := bits.Add64(lo, uint64(d.frac), 0)
	if hi += carry; hi >= uint64(r.per) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(r.per))
	return int64(min(q, math.MaxInt64))
}

func (r *Rate) time(k int64) instant {
	if k == 1 {
		return r.one
	}
	return r.cost(k)
}

// Bucket is the balance of one rate. The zero value is full at every instant from 0 on.
// It is not safe for concurrent use.
type Bucket struct {
	tat  instant
	book book // of the charges that may still be corrected
}

// Ready is the earliest instant, now or later, at which k tokens can be taken if
// nobody else takes any. More than the burst never fit: Never. No tokens are always there,
// whatever is owed.
func (b *Bucket) Ready(r *Rate, now, k int64) int64 {
	if k > r.burst {
		return Never
	}
	if b.tat.ns < now || k == 0 {
		return now
	}
	at := r.sub(r.add(b.tat, r.time(k)), r.span)
	if at.frac > 0 {
		at.ns++ // never early
	}
	return max(now, at.ns)
}

// After is the earliest instant at which k tokens, however many, have come in if nobody
// takes any but whoever waits for them.
func (b *Bucket) After(r *Rate, now, k int64) int64 {
	from := b.tat
	if from.ns < now {
		from = instant{now, 0}
	}
	at := r.sub(r.add(from, r.time(k)), r.span)
	if at.frac > 0 {
		at.ns++
	}
	return max(now, at.ns)
}

// Take takes k tokens for good, at most the burst. The balance may go into debt, which
// Ready waits out.
func (b *Bucket) Take(r *Rate, now, k int64) {
	b.take(r, now, r.time(k))
}

func (b *Bucket) take(r *Rate, now int64, k instant) {
	from, at := b.tat, instant{now, 0}
	if from.ns < now {
		from = at
	}
	if b.book.open() {
		b.book.charged(r, at, k)
	}
	b.tat = r.add(from, k)
}

// Cap leaves at most one token in the bucket at the instant at, which must not be before
// the last charge: the next one comes one token's time later. It never adds tokens, and
// what is given back later of earlier charges does not undo it. Cap reports whether it took any.
func (b *Bucket) Cap(r *Rate, at int64) bool {
	t := r.sub(r.add(instant{at, 0}, r.span), r.one)
	if b.book.open() {
		b.book.backlog(r, t)
	}
	if !b.tat.less(t) {
		return false
	}
	b.tat = t
	return true
}

// Refill is how long a whole burst takes to come in.
func (r *Rate) Refill() int64 { return r.span.ns }

// From is the earliest instant at which k tokens are there if one is at the instant at.
func (r *Rate) From(at, k int64) int64 {
	if k <= 1 {
		return at
	}
	d := r.cost(k - 1)
	if d.frac > 0 {
		d.ns++
	}
	return at + d.ns
}

// Full reports whether nothing is missing.
func (b *Bucket) Full(now int64) bool {
	return b.tat.ns < now || b.tat.ns == now && b.tat.frac == 0
}

// FullAt is the instant at which nothing is missing any more if nobody takes any.
func (b *Bucket) FullAt() int64 {
	if b.tat.frac > 0 {
		return b.tat.ns + 1
	}
	return b.tat.ns
}

// Tokens is the balance in whole tokens, rounded down; negative in debt, at least
// math.MinInt64.
func (b *Bucket) Tokens(r *Rate, now int64) int64 {
	if b.Full(now) {
		return r.burst
	}
	missing := r.missing(b.tat, now)
	num, den := missing.Num(), missing.Denom()
	q, rem := new(big.Int).QuoRem(num, den, new(big.Int))
	if rem.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	if !q.IsInt64() {
		return math.MinInt64
	}
	return r.burst - q.Int64()
}

// missing is how many tokens, exactly, separate now from t.
func (r *Rate) missing(t instant, now int64) *big.Rat {
	ns := new(big.Rat).SetFrac64(t.frac, r.n)
	ns.Add(ns, new(big.Rat).SetInt64(t.ns-now))
	return ns.Mul(ns, big.NewRat(r.n, r.per))
}

// Reconfigure carries the balance from rate r to rate to: the tokens there are stay,
// clipped to the new burst; none is created. What was charged and may still be corrected
// stays so.
func (b *Bucket) Reconfigure(r, to *Rate, now int64) {
	if b.book.open() {
		b.book.reconfigure(r, to, now)
		b.tat = b.book.tat(to)
		return
	}
	if b.tat.ns < now {
		b.tat = instant{now, 0}
	}
	if b.tat = carry(r, to, now, b.tat); b.tat.ns < now {
		b.tat = instant{now, 0}
	}
}

// carry is the instant at which a bucket of rate to, which lacks as many tokens of its
// burst as one of rate r that is full at t, is full: what is missing beyond that is the
// difference of the bursts.
func carry(r, to *Rate, now int64, t instant) instant {
	lack := r.missing(t, now)
	lack.Add(lack, new(big.Rat).SetInt64(to.burst-r.burst))
	return to.fullIn(lack, now)
}

// fullIn is the instant at which a bucket that lacks so many tokens at now is full, rounded
// up to what the rate can say: that creates nothing.
func (r *Rate) fullIn(lack *big.Rat, now int64) instant {
	lack.Mul(lack, big.NewRat(r.per, r.n)) // nanoseconds until full
	whole, rem := new(big.Int).DivMod(lack.Num(), lack.Denom(), new(big.Int))
	switch {
	case !whole.IsInt64() || whole.Int64() > MaxSpan || whole.Int64() < -MaxSpan:
		if lack.Sign() < 0 {
			return longAgo
		}
		return instant{now + MaxSpan, 0}
	}
	frac := new(big.Int).Mul(rem, big.NewInt(r.n))
	up := new(big.Int)
	if frac.DivMod(frac, lack.Denom(), up); up.Sign() > 0 {
		frac.Add(frac, big.NewInt(1))
	}
	t := instant{now + whole.Int64(), frac.Int64()}
	if t.frac >= r.n {
		t.ns, t.frac = t.ns+1, 0
	}
	return t
}

// Share is how full the bucket is, from 0 (empty or in debt) to 1.
func (b *Bucket) Share(r *Rate, now int64) *big.Rat {
	if b.Full(now) {
		return big.NewRat(1, 1)
	}
	have := new(big.Rat).SetInt64(r.burst)
	have.Sub(have, r.missing(b.tat, now))
	if have.Sign() <= 0 {
		return new(big.Rat)
	}
	return have.Quo(have, new(big.Rat).SetInt64(r.burst))
}

// Fill makes a new bucket as full as share says.
func (b *Bucket) Fill(r *Rate, now int64, share *big.Rat) {
	lack := new(big.Rat).Sub(big.NewRat(1, 1), share)
	b.tat = r.fullIn(lack.Mul(lack, new(big.Rat).SetInt64(r.burst)), now)
}
