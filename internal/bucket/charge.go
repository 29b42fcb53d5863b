package bucket

// A charge whose amount is known only later is kept open: [Bucket.Open] takes what is
// estimated, [Bucket.Correct] changes that as often as need be, [Bucket.Close] ends it.
// At every instant the balance is what it would be if each charge had been its present
// amount from its own instant on. So what a call gives back late is worth only what time
// has not brought back already.
//
// How. Unrolling TAT' = max(TAT, t) + k over all charges j, with S[j] the sum of those
// before j,
//
//	TAT = S + max over j of g[j],  g[j] = t[j] - S[j]
//
// Changing charge i by d adds d to S and takes d from g[j] of every later j. Of the charges
// between two open ones only the greatest g can matter, so it is enough to remember that
// for each gap: a list as long as there are open charges. Taking and closing are O(1), a
// correction is O(open).

// Charge is one charge that may still be corrected. It is part of whoever makes it, and must not be
// moved while it is open.
type Charge struct {
	prev, next *Charge
	g          instant // the greatest of the charges after this one, up to the next open one included
	n          int64   // tokens
	kind       kind
}

// kind is how a charge is corrected.
type kind uint8

const (
	open    kind = iota
	settled      // nothing is given back, see Forgive
	late         // it is in no book, and g is when the bucket was to be full with it, see Late
)

// Tokens is the charge's present amount.
func (c *Charge) Tokens() int64 { return c.n }

// book is the open charges of one bucket, oldest first. It says nothing while there are none.
type book struct {
	base       instant // the greatest g up to the first open charge, that included
	sum        instant // S, counted from when the first of them opened
	head, tail *Charge
}

func (o *book) open() bool { return o.head != nil }

// longAgo is before every charge.
var longAgo = instant{-1 << 62, 0}

// Open is Take for an amount that may be corrected until [Bucket.Close]: c is that charge then.
func (b *Bucket) Open(c *Charge, r *Rate, now, k int64) {
	o := &b.book
	c.g, c.n, c.kind = longAgo, k, open
	if o.tail == nil {
		at := instant{now, 0}
		if o.base = b.tat; at.less(b.tat) {
			at = b.tat
		} else {
			o.base = at
		}
		o.sum = r.time(k)
		b.tat = r.add(at, o.sum)
		o.head, o.tail = c, c
		return
	}
	b.take(r, now, r.time(k))
	c.prev, o.tail.next = o.tail, c
	o.tail = c
}

// charged books k taken at the instant at.
func (o *book) charged(r *Rate, at, k instant) {
	o.backlog(r, at)
	o.sum = r.add(o.sum, k)
}

// backlog notes that the bucket is not full before t whatever becomes of the charges so far.
func (o *book) backlog(r *Rate, t instant) {
	g := &o.base
	if o.tail != nil {
		g = &o.tail.g
	}
	if t = r.sub(t, o.sum); g.less(t) {
		*g = t
	}
}

// before is the instant at which the bucket would be full, were nothing charged after c.
func (o *book) before(r *Rate, c *Charge) instant {
	most := o.base
	for x := o.head; x != c; x = x.next {
		if most.less(x.g) {
			most = x.g
		}
	}
	return r.add(o.sum, most)
}

func (o *book) tat(r *Rate) instant { return o.before(r, nil) }

// Correct makes c's amount k tokens, however many, and answers what it is now: debt is
// bounded, so that no report of use, however wrong, closes a key for ever. An increase is
// cut to what leaves the bucket at most maxDebt nanoseconds, or the time of one refill, below
// empty.
func (b *Bucket) Correct(r *Rate, now int64, c *Charge, k, maxDebt int64) int64 {
	switch c.kind {
	case settled:
		c.n += b.takeMore(r, now, k-c.n, maxDebt)
		return c.n
	case late:
		return b.correctLate(r, now, c, k, maxDebt)
	}
	o := &b.book
	switch {
	case k > c.n:
		d := min(k-c.n, r.room(now, o.before(r, c), maxDebt))
		if d <= 0 {
			return c.n
		}
		k = c.n + d
		t := r.cost(d)
		o.sum = r.add(o.sum, t)
		for x := c; x != nil; x = x.next {
			x.g = r.sub(x.g, t)
		}
	case k < c.n:
		t := r.cost(c.n - k)
		o.sum = r.sub(o.sum, t)
		for x := c; x != nil; x = x.next {
			x.g = r.add(x.g, t)
		}
	default:
		return k
	}
	c.n = k
	b.tat = o.tat(r)
	return k
}

// takeMore takes k more tokens now, or as many of them as debt allows, and answers how many.
func (b *Bucket) takeMore(r *Rate, now, k, maxDebt int64) int64 {
	t := b.tat
	if t.ns < now {
		t = instant{now, 0}
	}
	d := min(k, r.room(now, t, maxDebt))
	if d <= 0 {
		return 0
	}
	b.take(r, now, r.cost(d))
	return d
}

// room is how many tokens more may be charged at an instant after which a bucket is full at
// t. That may be long before now: what time has brought back since then is no debt.
func (r *Rate) room(now int64, t instant, maxDebt int64) int64 {
	if t.ns < now-MaxSpan {
		t = instant{now - MaxSpan, 0}
	}
	return r.tokens(r.sub(r.add(instant{now + max(maxDebt, r.span.ns), 0}, r.span), t))
}

// Close makes c's amount final.
func (b *Bucket) Close(c *Charge) {
	if c.kind != open {
		return
	}
	o := &b.book
	if o.head == o.tail {
		o.head, o.tail = nil, nil
		return
	}
	g := &o.base
	if c.prev != nil {
		g, c.prev.next = &c.prev.g, c.next
	} else {
		o.head = c.next
	}
	if g.less(c.g) {
		*g = c.g
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		o.tail = c.prev
	}
	c.prev, c.next = nil, nil
}

// Forgive lifts a debt: the bucket is empty at now, and no further below. What is charged
// so far is settled: giving it back gives nothing, since it may be what was forgiven, and
// only what is reported beyond it is charged, from then on. Forgive reports whether there was a debt.
func (b *Bucket) Forgive(r *Rate, now int64) bool {
	if t := r.add(instant{now, 0}, r.span); t.less(b.tat) {
		b.tat = t
	} else {
		return false
	}
	o := &b.book
	for c := o.head; c != nil; {
		next := c.next
		c.prev, c.next, c.kind = nil, nil, settled
		c = next
	}
	o.head, o.tail = nil, nil
	return true
}

// reconfigure carries the charges over: how many tokens are missing of each gap's greatest
// backlog is what stays, as in Bucket.Reconfigure.
func (o *book) reconfigure(r, to *Rate, now int64) {
	gap := func(g instant) instant {
		if g.ns <= longAgo.ns/2 {
			return longAgo
		}
		return carry(r, to, now, r.add(o.sum, g))
	}
	o.base = gap(o.base)
	for c := o.head; c != nil; c = c.next {
		c.g = gap(c.g)
	}
	o.sum = instant{}
	o.backlog(to, carry(r, to, now, instant{now, 0})) // no more than the old burst was there
	o.backlog(to, instant{now, 0})                    // and no more than the new one is
}
