package bucket

// Others may keep the balance for a while: as one number, in units of which a whole number makes a
// token and the same whole number, the scale, a nanosecond. Units count from an instant, the base.

// Scale is how many units of r make a nanosecond.
func (r *Rate) Scale() int64 { return r.scale }

// Units is how many units one token and a whole burst take to come in.
func (r *Rate) Units() (one, span int64) { return r.units(r.one), r.units(r.span) }

// units is d, which must be small enough.
func (r *Rate) units(d instant) int64 { return d.ns*r.scale + d.frac/(r.n/r.scale) }

// instant is so many units after base.
func (r *Rate) instant(base, units int64) instant {
	return instant{base + units/r.scale, units % r.scale * (r.n / r.scale)}
}

// Whole reports whether units can say exactly what is missing at now.
func (b *Bucket) Whole(r *Rate, now int64) bool {
	return b.tat.frac%(r.n/r.scale) == 0 || b.Full(now) // else it is what a change of the rate has left
}

// FullIn is how many units after base nothing is missing any more, at least none.
func (b *Bucket) FullIn(r *Rate, base int64) int64 {
	if b.tat.ns < base { // it is full, and has been
		return 0
	}
	return r.units(r.sub(b.tat, instant{base, 0}))
}

// Taken tells b that others have taken tokens, up to now, and that it is full so many units after
// base for that. For the charges that may still be corrected, what was taken counts as taken now,
// unless the bucket has been full in between: then they are past giving back.
func (b *Bucket) Taken(r *Rate, now, base, units int64) {
	t, from := r.instant(base, units), b.tat
	if from.ns < base {
		from = instant{base, 0} // as FullIn has it
	}
	if !from.less(t) {
		return
	}
	if o := &b.book; o.open() {
		at := instant{now, 0}
		if from.less(at) {
			at = from
		}
		o.backlog(r, at)
		o.sum = r.add(o.sum, r.sub(t, from))
	}
	b.tat = t
}

// Late makes c, which is not open, a charge of one token that was taken while others kept the
// balance: b was to be full so many units after base with it. Correct changes it as if what was
// taken since had been taken at the instant of the correction. Once anything else has changed the
// balance, another's correction included, c must be settled.
func (c *Charge) Late(r *Rate, base, units int64) {
	c.g, c.n, c.kind = r.instant(base, units), 1, late
}

// Settle makes c a charge of n tokens of which nothing is given back. It must not be open.
func (c *Charge) Settle(n int64) { c.n, c.kind = n, settled }

// correctLate is Correct for a late charge.
func (b *Bucket) correctLate(r *Rate, now int64, c *Charge, k, maxDebt int64) int64 {
	if b.tat.less(c.g) { // a debt was lifted
		c.Settle(c.n)
		return b.Correct(r, now, c, k, maxDebt)
	}
	since := r.sub(b.tat, c.g) // taken
	alone, at := since == instant{}, instant{now, 0}
	switch {
	case k < c.n:
		t := r.sub(b.tat, r.cost(c.n-k))
		if least := r.add(at, since); !alone && t.less(least) {
			if t = least; b.tat.less(t) {
				t = b.tat
			}
		}
		b.book.sum = r.sub(b.book.sum, r.sub(b.tat, t))
		b.tat = t
	case alone:
		k = c.n + max(0, min(k-c.n, r.room(now, c.g, maxDebt)))
		d := r.cost(k - c.n)
		b.book.sum, b.tat = r.add(b.book.sum, d), r.add(b.tat, d)
	default:
		k = c.n + b.takeMore(r, now, k-c.n, maxDebt)
	}
	c.g, c.n = r.sub(b.tat, since), k
	return k
}
