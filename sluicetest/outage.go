package sluicetest

import (
	"context"
	"errors"
	"strconv"

	"github.com/sluice-go/sluice/engine"
)

// engineFarCommit: a Commit whose answer was lost is repeated, and takes effect at most once.
func engineFarCommit(r *run, s Setup) {
	far, delay := r.far(s)
	if far == nil {
		return
	}
	near := s.Open().Store()
	key, other := r.key("far"), r.key("other")
	op := engine.NewOpID()
	changes := []engine.Change{{Key: key, Was: engine.AnyRevision, Value: []byte("mine")}, {Key: other, Value: []byte("mine")}}
	short, cancel := context.WithTimeout(r.ctx, delay+delay/2)
	defer cancel()
	_, err := far.Store().Commit(short, op, changes...)
	r.must(err != nil, "Commit with a context of %v returned no error over a link that takes %v each way", delay+delay/2, delay)
	r.Sleep(4 * delay)
	was := r.fetch(near, key)[0]
	if errors.Is(err, engine.ErrRefused) {
		r.must(was.Rev == 0, "a Commit whose answer was on its way returned %v, and took effect: ErrRefused means certainly not", err)
	}
	theirs := engine.Revision(0)
	if was.Rev != 0 {
		theirs = r.write(near, key, was.Rev, "theirs", 0)
	}
	revs := r.commit(far.Store(), op, changes...)
	now := r.fetch(near, key, other)
	if theirs != 0 {
		r.must(now[0].Rev == theirs, "a Commit that had taken effect was repeated with its OpID after an unknown outcome, and wrote over what another had written since: it takes effect once")
		r.must(revs[0] == was.Rev, "a Commit repeated after an unknown outcome returned revision %d, and %d was what it wrote: it is answered like the first", revs[0], was.Rev)
	}
	r.must(now[1].Rev == revs[1] && string(now[1].Value) == "mine", "a Commit was repeated after an unknown outcome, and is not there")
}

// engineLostSlots: an engine that has lost its data gives no slot that somebody may still
// have, and learns from those who renew what they have.
func engineLostSlots(r *run, s Setup) {
	e := s.Open()
	slots := e.Slots()
	const limit = 8
	key, ttl := r.key("cold"), 20*r.Tick
	cold := func(units int) engine.Claim {
		c := r.claim(key, limit)
		c.TTL, c.Units, c.Cold = ttl, units, true
		return c
	}
	asked := r.Now()
	if _, age := r.epoch(e); age < ttl {
		if _, err := slots.Acquire(r.ctx, cold(1)); err == nil || !errors.Is(err, engine.ErrBusy) {
			r.must(r.Now().Sub(asked)+age >= ttl, "an engine that is %v old answered a Cold claim of %v with %v, not ErrBusy: what it gave before it began may go on for so long", age, ttl, err)
		}
		r.Sleep(ttl - age + r.Slack)
	}
	var held []engine.Lease
	for _, units := range []int{1, 2, 1, 3} {
		held = append(held, r.acquire(slots, cold(units)))
	}
	stopped := r.acquire(slots, cold(1)) // whose holder does not renew
	r.busy(slots, cold(1), "8 of 8 units are held")
	r.Sleep(r.Tick)
	if _, ok := r.lose(s, e); !ok {
		return
	}
	asked = r.Now()
	_, age := r.epoch(e)
	warm := asked.Add(ttl - age) // not before
	r.busy(slots, cold(1), "the engine has lost its data, and those to whom it had given its slots go on")
	waits := cold(1)
	waits.MaxWait = 200 * r.Tick
	w := r.wait(slots, r.ctx, waits)
	for i, l := range r.renew(slots, ttl, held...) {
		r.must(l.Units == held[i].Units, "an engine that has lost its data answered Renew of a lease of %d units, which had %v left, with %d: it learns from its holders what is held", held[i].Units, held[i].Left(r.Now()), l.Units)
		r.must(l.Wanted == 1, "a claim waits for a cold engine, and Renew says that %d units are wanted", l.Wanted)
	}
	_, err := slots.Resize(r.ctx, held[0], 2, limit)
	r.must(errors.Is(err, engine.ErrBusy), "Resize to more at a cold engine returned %v, not ErrBusy: it gives nothing new", err)
	_, err = slots.Resize(r.ctx, held[1], 1, limit)
	r.must(err == nil, "Resize to fewer at a cold engine returned %v", err)
	for range 3 {
		r.Sleep(ttl / 4)
		held = r.renew(slots, ttl, held...)
	}
	r.must(!w.over() || r.Now().After(warm), "a Cold claim came back while the engine was cold: %v", w.why())
	r.must(r.until(w.over) && w.err == nil, "an engine is not cold any more, two units are free, and the claim that waited got %v", w.err)
	granted := w.lease.Until.Add(-ttl)
	r.must(!granted.Before(stopped.Until.Add(-r.Slack)), "an engine that had lost its data gave a slot on %v before the lease of its holder had ended", stopped.Until.Sub(granted))
	for _, l := range held {
		r.must(l.Units > 0, "a lease that a cold engine had learned of was lost, though its holder renewed it")
		r.must(w.lease.Fence > l.Fence, "the next lease has fence %d after %d: fences must grow with every lease of a key, those that an engine has learned of too", w.lease.Fence, l.Fence)
	}
	r.lost(slots, stopped, "it ended before it was renewed")
	r.acquire(slots, cold(1))
	r.busy(slots, cold(1), "6 units are held by those who had them before, and 2 were given")
	r.release(slots, held[3])
	r.lost(slots, held[3], "it was released, and the engine has lost nothing since")
	r.acquire(slots, cold(3))
	r.busy(slots, cold(1), "8 of 8 units are held")
}

// engineCutFollow: whoever follows is cut off, and ends with what is there.
func engineCutFollow(r *run, s Setup) {
	e := s.Open().Store()
	if s.Cut == nil {
		r.t.Logf("%s: skipped, Setup.Cut is nil", r.name)
		return
	}
	prefix := r.key("cut/")
	a, b := prefix+"a", prefix+"b"
	f := r.follow(e, prefix)
	defer f.stop()
	rb := r.write(e, b, 0, "b", 0)
	r.must(f.sees(b, rb, false), "Follow did not deliver a Write")
	for round := range 5 {
		s.Cut()
		ra, err := e.Write(r.ctx, a, engine.AnyRevision, []byte(strconv.Itoa(round)), 0)
		r.must(err == nil, "Write returned %v", err)
		if round%2 == 0 {
			err = e.Erase(r.ctx, b, engine.AnyRevision)
		} else {
			rb, err = e.Write(r.ctx, b, engine.AnyRevision, []byte("b"), 0)
		}
		r.must(err == nil, "Write or Erase returned %v", err)
		r.must(f.sees(a, ra, false), "a subscription was cut, and Follow did not deliver a Write that came just then: it has to look what is there when it is back")
		r.must(f.sees(b, rb, round%2 == 0), "a subscription was cut, and Follow did not tell of a record that was erased, or written anew, just then")
	}
	f.check(prefix)
}

// engineCutSlots: a claim that is not told of its slot finds it.
func engineCutSlots(r *run, s Setup) {
	slots := s.Open().Slots()
	if s.Cut == nil {
		r.t.Logf("%s: skipped, Setup.Cut is nil", r.name)
		return
	}
	for range 3 {
		key := r.key("cut")
		l := r.acquire(slots, r.claim(key, 1))
		c := r.claim(key, 1)
		c.MaxWait = 500 * r.Tick
		w := r.wait(slots, r.ctx, c)
		s.Cut()
		r.release(slots, l)
		r.must(r.until(w.over) && w.err == nil, "a subscription was cut just when a slot was handed to a claim that waits, and it has not got it: %v", w.why())
		r.busy(slots, r.claim(key, 1), "the claim that waited has it")
		r.release(slots, w.lease)
	}
}
