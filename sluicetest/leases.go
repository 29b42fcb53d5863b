package sluicetest

import (
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// renew holds what every answer of Renew says.
func (r *run) renew(s engine.Slots, ttl time.Duration, leases ...engine.Lease) []engine.Lease {
	r.t.Helper()
	list, err := s.Renew(r.ctx, ttl, leases...)
	r.must(err == nil, "Renew of %d leases returned %v", len(leases), err)
	r.must(len(list) == len(leases), "Renew of %d leases returned %d", len(leases), len(list))
	for i, l := range list {
		was := leases[i]
		r.must(l.Key == was.Key && l.Holder == was.Holder, "Renew of the lease of %q of %q returned that of %q of %q in its place", was.Holder, was.Key, l.Holder, l.Key)
		r.must(l.Fence == was.Fence, "Renew changed the fence from %d to %d: it is still the same lease", was.Fence, l.Fence)
		r.must(l.Units == 0 || !l.Until.After(r.Now().Add(ttl)), "a renewed lease ends %v after Renew returned, with a ttl of %v: Until must not be later than the engine's own end", l.Until.Sub(r.Now()), ttl)
	}
	return list
}

// lost holds that l has ended.
func (r *run) lost(s engine.Slots, l engine.Lease, why string) {
	r.t.Helper()
	r.must(r.renew(s, r.Tick, l)[0].Units == 0, "Renew says that a lease goes on: %s", why)
}

// slotsBatch: a holder renews and releases all it has at once, and learns what has become of each.
func slotsBatch(r *run, s engine.Slots) {
	a, b, ttl := r.key("a"), r.key("b"), 6*r.Tick
	var leases []engine.Lease
	for i, key := range []string{a, b, a, a, b} {
		c := r.claim(key, 9)
		c.TTL, c.Units = ttl, 1+i%2
		leases = append(leases, r.acquire(s, c))
	}
	r.release(s, leases[2])
	renewed := r.renew(s, 200*r.Tick, leases...)
	for i, l := range renewed {
		if i == 2 {
			r.must(l.Units == 0, "Renew of 5 leases says that one that was released has %d units: zero says that it has ended", l.Units)
			continue
		}
		r.must(l.Units == leases[i].Units && l.Until.After(leases[i].Until), "Renew of 5 leases, one of which had ended, returned number %d with %d units, not %d, until %v later than before: each is decided by itself, in the order in which they were given", i+1, l.Units, leases[i].Units, l.Until.Sub(leases[i].Until))
	}
	r.Sleep(ttl + r.Slack)
	wide := r.claim(a, 9)
	wide.Units = 7
	r.busy(s, wide, "3 of 9 units are held by leases that were renewed in a batch")

	err := s.Release(r.ctx, renewed...)
	r.must(err == nil, "Release of 5 leases, one of which had ended, returned %v", err)
	for _, key := range []string{a, b} {
		all := r.claim(key, 9)
		all.Units = 9
		r.acquire(s, all)
	}

	none, err := s.Renew(r.ctx, r.Tick)
	r.must(err == nil && len(none) == 0, "Renew of no leases returned %d, %v", len(none), err)
	err = s.Release(r.ctx)
	r.must(err == nil, "Release of no leases returned %v", err)
	many := make([]engine.Lease, engine.MaxBatch+1)
	_, err = s.Renew(r.ctx, r.Tick, many...)
	r.refused(err, "Renew of more than MaxBatch leases")
	err = s.Release(r.ctx, many...)
	r.refused(err, "Release of more than MaxBatch leases")
	_, err = s.Renew(r.ctx, 0, renewed[0])
	r.refused(err, "Renew with a ttl of zero")
}

// slotsWanted: a holder is asked to yield.
func slotsWanted(r *run, s engine.Slots) {
	key := r.key("wanted")
	ttl := 500 * r.Tick
	first := r.acquire(s, r.claim(key, 2))
	second := r.acquire(s, r.claim(key, 2))
	r.must(second.Wanted == 0 && r.renew(s, ttl, first)[0].Wanted == 0, "a lease says that units are wanted, and nobody waits")
	other := r.acquire(s, r.claim(r.key("other"), 2))
	narrow, wide := r.claim(key, 2), r.claim(key, 2)
	narrow.MaxWait, wide.MaxWait, wide.Units = 400*r.Tick, 20*r.Tick, 2
	next := r.wait(s, r.ctx, narrow)
	behind := r.wait(s, r.ctx, wide)
	list := r.renew(s, ttl, first, second, other)
	r.must(list[0].Wanted == 3 && list[1].Wanted == 3, "claims of 1 and 2 units wait, and Renew says that %d and %d are wanted: a holder must learn what others wait for, or it keeps its slots as long as it is busy", list[0].Wanted, list[1].Wanted)
	r.must(list[2].Wanted == 0, "Renew says that %d units are wanted of a key that nobody waits for", list[2].Wanted)
	same, err := s.Resize(r.ctx, first, 1, 2)
	r.must(err == nil && same.Wanted == 3, "claims of 1 and 2 units wait, and Resize returned Wanted %d, %v", same.Wanted, err)
	r.release(s, second)
	r.must(r.until(next.over) && next.err == nil, "a holder gave up what was wanted, and the claim that was next did not get it")
	wanted := r.renew(s, ttl, first)[0].Wanted
	r.must(wanted == 2, "a claim of 2 units waits, and Renew says that %d are wanted", wanted)
	r.must(r.until(func() bool { r.Sleep(r.Tick); return behind.over() }), "Acquire did not give up after its MaxWait")
	wanted = r.renew(s, ttl, first)[0].Wanted
	r.must(wanted == 0, "the claims that waited have got their slots or left, and Renew says that %d units are wanted", wanted)
}

// slotsResize: a holder has more or fewer units without giving its lease up.
func slotsResize(r *run, s engine.Slots) {
	key := r.key("resize")
	c := r.claim(key, 5)
	c.Units = 2
	l := r.acquire(s, c)
	resize := func(units int) (engine.Lease, error) { return s.Resize(r.ctx, l, units, 5) }
	more, err := resize(4)
	r.must(err == nil && more.Units == 4, "Resize from 2 units to 4 of 5, nothing else held, returned %d units, %v", more.Units, err)
	r.must(more.Fence == l.Fence && more.Until.Equal(l.Until), "Resize moved a lease's fence from %d to %d, or its end from %v to %v: it changes units alone", l.Fence, more.Fence, l.Until, more.Until)
	other := r.acquire(s, r.claim(key, 5))
	r.busy(s, r.claim(key, 5), "4 and 1 of 5 units are taken")
	_, err = resize(5)
	r.must(errors.Is(err, engine.ErrBusy), "Resize to more than there is returned %v, not ErrBusy", err)
	got := r.renew(s, c.TTL, l)[0].Units
	r.must(got == 4, "Resize was refused, and the lease has %d units, not 4", got)
	again, err := resize(4)
	r.must(err == nil && again.Units == 4, "Resize to what the holder has returned %d, %v: a repetition does no harm", again.Units, err)

	wide := r.claim(key, 5)
	wide.Units, wide.MaxWait = 3, 400*r.Tick
	w := r.wait(s, r.ctx, wide)
	_, err = resize(3)
	r.must(err == nil, "Resize from 4 units to 3 returned %v: fewer can be had always", err)
	_, err = resize(4)
	r.must(errors.Is(err, engine.ErrBusy), "a claim waits, and Resize to a unit that is free returned %v, not ErrBusy: nobody passes who waits", err)
	r.must(!w.over(), "a claim of 3 units got them with 1 free")
	_, err = resize(1)
	r.must(err == nil && r.until(w.over) && w.err == nil, "a holder kept 1 of 3 units, and the claim that waits for them got %v (Resize returned %v)", w.why(), err)
	r.busy(s, r.claim(key, 5), "1, 1 and 3 of 5 units are taken")

	for _, bad := range [][2]int{{0, 5}, {-1, 5}, {6, 5}, {1, 0}} {
		_, err := s.Resize(r.ctx, l, bad[0], bad[1])
		r.refused(err, "Resize to a number of units that is not from 1 to limit")
	}
	r.release(s, l)
	_, err = resize(1)
	r.must(errors.Is(err, engine.ErrLost), "Resize of a lease that was released returned %v, not ErrLost", err)
	r.release(s, other)
	r.release(s, w.lease)
	all := r.claim(key, 5)
	all.Units, all.TTL = 5, 2*r.Tick
	all = r.shrunk(s, all)
	r.Sleep(all.TTL + r.Slack)
	all.Holder, all.TTL = engine.NewOpID().String(), 500*r.Tick
	r.acquire(s, all)
}

// shrunk acquires c and gives up all but one unit: when that lease ends nothing is left of it.
func (r *run) shrunk(s engine.Slots, c engine.Claim) engine.Claim {
	r.t.Helper()
	l := r.acquire(s, c)
	_, err := s.Resize(r.ctx, l, 1, c.Limit)
	r.must(err == nil, "Resize from %d units to 1 returned %v", c.Units, err)
	return c
}

// slotsResizeStorm: whatever holders do, no more units than Limit are held.
func slotsResizeStorm(r *run, s engine.Slots) {
	const limit, clients, times = 7, 6, 12
	key := r.key("resizes")
	var held gauge
	var grown atomic.Int64
	r.together(clients, func(i int) {
		rnd := rand.New(rand.NewPCG(r.Seed, uint64(i)))
		for range times {
			c := r.claim(key, limit)
			c.MaxWait, c.Units = 900*r.Tick, 1+rnd.IntN(3)
			l, err := s.Acquire(r.ctx, c)
			if err != nil {
				r.fail("Acquire that waits returned %v", err)
				return
			}
			has := l.Units
			held.add(has)
			for range rnd.IntN(4) {
				r.Sleep(time.Duration(rnd.Int64N(int64(r.Tick / 20))))
				units := 1 + rnd.IntN(limit)
				if units < has {
					held.add(units - has) // the holder stops before it says so
				}
				next, err := s.Resize(r.ctx, l, units, limit)
				switch {
				case err == nil && next.Units == units:
					if units > has {
						held.add(units - has)
						grown.Add(1)
					}
					has = units
				case units < has || !errors.Is(err, engine.ErrBusy):
					r.fail("Resize from %d units to %d returned %d, %v (seed %d)", has, units, next.Units, err, r.Seed)
					return
				}
			}
			held.add(-has)
			if err := s.Release(r.ctx, l); err != nil {
				r.fail("Release of a live lease returned %v", err)
				return
			}
		}
	})
	r.must(held.most.Load() <= limit, "%d units were held at once with a Limit of %d (seed %d)", held.most.Load(), limit, r.Seed)
	all := r.claim(key, limit)
	all.Units = limit
	r.acquire(s, all)
}
