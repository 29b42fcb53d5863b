package sluicetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// Slots checks what [engine.Slots] must do. open is called once per rule and may return
// the same slots every time.
func Slots(t T, open func() engine.Slots, o Options) {
	t.Helper()
	each(t, "Slots", o, open, slotRules)
}

var slotRules = []rule[engine.Slots]{
	{"Limit", slotsLimit},
	{"Invalid", slotsInvalid},
	{"Units", slotsUnits},
	{"Fence", slotsFence},
	{"Holder", slotsHolder},
	{"Release", slotsRelease},
	{"Crash", slotsCrash},
	{"Heartbeat", slotsHeartbeat},
	{"Stale", slotsStale},
	{"MaxWait", slotsMaxWait},
	{"HandOver", slotsHandOver},
	{"Cancel", slotsCancel},
	{"Priority", slotsPriority},
	{"FairShare", slotsFairShare},
	{"Wide", slotsWide},
	{"HolderTwice", slotsHolderTwice},
	{"Storm", slotsStorm},
	{"Batch", slotsBatch},
	{"Wanted", slotsWanted},
	{"Resize", slotsResize},
	{"ResizeStorm", slotsResizeStorm},
}

// claim is one by a new holder, for a time that does not end by itself.
func (r *run) claim(key string, limit int) engine.Claim {
	return engine.Claim{Key: key, Holder: engine.NewOpID().String(), Limit: limit, TTL: 500 * r.Tick}
}

func (r *run) acquire(s engine.Slots, c engine.Claim) engine.Lease {
	r.t.Helper()
	before := r.Now()
	l, err := s.Acquire(r.ctx, c)
	r.must(err == nil, "Acquire of a free slot returned %v", err)
	r.lease(c, l, before)
	return l
}

// lease holds what every lease says.
func (r *run) lease(c engine.Claim, l engine.Lease, before time.Time) {
	r.t.Helper()
	r.must(l.Key == c.Key && l.Holder == c.Holder, "Acquire for %q of %q returned the lease of %q of %q", c.Holder, c.Key, l.Holder, l.Key)
	r.must(l.Units == max(c.Units, 1), "Acquire of %d units returned a lease of %d", max(c.Units, 1), l.Units)
	r.must(l.Fence > 0, "a lease has fence 0: fences grow from 1")
	r.must(!l.Until.After(r.Now().Add(c.TTL)), "a lease ends %v after Acquire returned, with a TTL of %v: Until must not be later than the engine's own end", l.Until.Sub(r.Now()), c.TTL)
	r.must(l.Until.After(before), "a lease has ended before it was asked for")
}

func (r *run) busy(s engine.Slots, c engine.Claim, why string) {
	r.t.Helper()
	_, err := s.Acquire(r.ctx, c)
	r.must(err != nil, "Acquire was granted: %s", why)
	r.must(errors.Is(err, engine.ErrBusy), "Acquire of a slot that is taken returned %v, not ErrBusy", err)
}

func (r *run) release(s engine.Slots, l engine.Lease) {
	r.t.Helper()
	err := s.Release(r.ctx, l)
	r.must(err == nil, "Release of a live lease returned %v", err)
}

func slotsLimit(r *run, s engine.Slots) {
	key := r.key("slots")
	var leases []engine.Lease
	for range 3 {
		leases = append(leases, r.acquire(s, r.claim(key, 3)))
	}
	r.busy(s, r.claim(key, 3), "three of three slots are taken")
	r.acquire(s, r.claim(r.key("other"), 1))
	r.release(s, leases[1])
	r.acquire(s, r.claim(key, 3))
	r.busy(s, r.claim(key, 3), "one was released and one acquired")
}

func slotsInvalid(r *run, s engine.Slots) {
	key := r.key("invalid")
	for what, change := range map[string]func(*engine.Claim){
		"no key":             func(c *engine.Claim) { c.Key = "" },
		"no holder":          func(c *engine.Claim) { c.Holder = "" },
		"a Limit of zero":    func(c *engine.Claim) { c.Limit = 0 },
		"Units above Limit":  func(c *engine.Claim) { c.Units = 2 },
		"negative Units":     func(c *engine.Claim) { c.Units = -1 },
		"no TTL":             func(c *engine.Claim) { c.TTL = 0 },
		"a negative MaxWait": func(c *engine.Claim) { c.MaxWait = -1 },
		"a negative Weight":  func(c *engine.Claim) { c.Weight = -1 },
	} {
		c := r.claim(key, 1)
		change(&c)
		_, err := s.Acquire(r.ctx, c)
		r.refused(err, "Acquire with "+what)
	}
	_, err := s.Acquire(endedContext(), r.claim(key, 1))
	r.must(err != nil, "Acquire with a context that had ended returned no error")
	if errors.Is(err, engine.ErrRefused) {
		r.acquire(s, r.claim(key, 1))
	}
}

func slotsUnits(r *run, s engine.Slots) {
	key := r.key("units")
	wide := r.claim(key, 5)
	wide.Units = 3
	l := r.acquire(s, wide)
	second := r.claim(key, 5)
	second.Units = 3
	r.busy(s, second, "3 of 5 units are taken and 3 more do not fit")
	second.Units = 2
	r.acquire(s, second)
	r.busy(s, r.claim(key, 5), "5 of 5 units are taken")
	r.release(s, l)
	third := r.claim(key, 5)
	third.Units = 3
	r.acquire(s, third)
}

func slotsFence(r *run, s engine.Slots) {
	key := r.key("fence")
	last := uint64(0)
	for i := range 20 {
		c := r.claim(key, 1)
		if i%5 == 4 {
			c.TTL = r.Tick
		}
		l := r.acquire(s, c)
		r.must(l.Fence > last, "lease number %d has fence %d after %d: fences must grow with every lease of a key, or a resource cannot tell a late holder from the current one", i+1, l.Fence, last)
		last = l.Fence
		if c.TTL == r.Tick {
			r.Sleep(r.Tick + r.Slack)
		} else {
			r.release(s, l)
		}
	}
}

func slotsHolder(r *run, s engine.Slots) {
	key := r.key("holder")
	c := r.claim(key, 2)
	first := r.acquire(s, c)
	second := r.acquire(s, c)
	r.must(second.Fence == first.Fence, "Acquire repeated in the name of one Holder returned fence %d after %d: it must find the lease it has", second.Fence, first.Fence)
	other := r.acquire(s, r.claim(key, 2))
	r.must(other.Fence != first.Fence, "two holders have the same fence, %d", first.Fence)
	r.release(s, second)
	r.acquire(s, r.claim(key, 2))
	r.busy(s, r.claim(key, 2), "two slots are taken")
}

func slotsRelease(r *run, s engine.Slots) {
	key := r.key("release")
	l := r.acquire(s, r.claim(key, 1))
	r.release(s, l)
	err := s.Release(r.ctx, l)
	r.must(err == nil, "Release of a lease that was released returned %v: a repetition does no harm", err)
	r.acquire(s, r.claim(key, 1))
	err = s.Release(r.ctx, l)
	r.must(err == nil, "Release of a lease that was released, with another holder in its place, returned %v", err)
	r.busy(s, r.claim(key, 1), "a lease that had ended was released once more, and that freed the slot of somebody else")
	r.lost(s, l, "it was released")
}

func slotsCrash(r *run, s engine.Slots) {
	key, just := r.key("crash"), r.just()
	c := r.claim(key, 1)
	c.TTL = 4 * r.Tick
	first := r.acquire(s, c)
	r.Sleep(c.TTL - just - r.Slack)
	if early, err := s.Acquire(r.ctx, r.claim(key, 1)); err == nil {
		r.must(!r.Now().Before(first.Until), "Acquire was granted: the holder's lease has not ended yet")
		r.release(s, early) // this test slept too long
	}
	next := r.claim(key, 1)
	next.MaxWait = 10 * r.Tick
	before := r.Now()
	l, err := s.Acquire(r.ctx, next)
	r.must(err == nil, "a holder disappeared and its slot was never given on: a lease ends by itself after its TTL")
	wait := r.Now().Sub(before)
	r.must(wait <= just+2*r.Slack, "a holder disappeared and its slot was given on %v after the lease had ended", wait-just)
	r.lease(next, l, before)
}

func slotsHeartbeat(r *run, s engine.Slots) {
	key := r.key("heartbeat")
	c := r.claim(key, 1)
	c.TTL = 4 * r.Tick
	l := r.acquire(s, c)
	for i := range 10 {
		r.Sleep(3 * r.Tick)
		renewed := r.renew(s, c.TTL, l)[0]
		r.must(renewed.Units > 0, "Renew number %d of a live lease says that it has ended: a holder that renews keeps its slot", i+1)
		r.must(renewed.Until.After(l.Until), "Renew did not move Until")
		l = renewed
		r.busy(s, r.claim(key, 1), "the holder has renewed its lease")
	}
}

func slotsStale(r *run, s engine.Slots) {
	key := r.key("stale")
	c := r.claim(key, 1)
	c.TTL = 2 * r.Tick
	old := r.acquire(s, c)
	r.Sleep(c.TTL + r.Slack)
	r.lost(s, old, "it had ended: a holder that was stopped must learn that its slot is gone")
	l := r.acquire(s, r.claim(key, 1))
	r.must(l.Fence > old.Fence, "the next holder has fence %d after %d: fences must grow with every lease of a key", l.Fence, old.Fence)
	r.lost(s, old, "another has its slot")
	_, err := s.Resize(r.ctx, old, 1, 1)
	r.must(errors.Is(err, engine.ErrLost), "Resize by a holder that had lost its slot to another returned %v, not ErrLost", err)
	err = s.Release(r.ctx, old)
	r.must(err == nil, "Release by a holder that had lost its slot to another returned %v", err)
	r.busy(s, r.claim(key, 1), "Release by a holder that had lost its slot freed that of the next")

	again := c // the same name comes back: a new lease, and the old one stays lost
	again.Key = r.key("again")
	first := r.acquire(s, again)
	r.Sleep(c.TTL + r.Slack)
	second := r.acquire(s, again)
	err = s.Release(r.ctx, first)
	r.must(err == nil, "Release of an old lease of a holder that has a new one returned %v", err)
	r.must(r.renew(s, c.TTL, second)[0].Units > 0, "Release of an old lease of a holder that has a new one ended the new one: the fence tells them apart")
}

func slotsMaxWait(r *run, s engine.Slots) {
	key := r.key("wait")
	r.acquire(s, r.claim(key, 1))
	c := r.claim(key, 1)
	c.MaxWait = 3 * r.Tick
	before := r.Now()
	r.busy(s, c, "the one slot is taken")
	waited := r.Now().Sub(before)
	r.must(waited >= c.MaxWait, "Acquire gave up after %v, with a MaxWait of %v", waited, c.MaxWait)
	r.must(waited <= c.MaxWait+r.Slack, "Acquire gave up only after %v, with a MaxWait of %v", waited, c.MaxWait)
}

// waiter is an Acquire under way.
type waiter struct {
	done  chan struct{}
	lease engine.Lease
	err   error
}

// wait starts an Acquire, and gives it time to queue.
func (r *run) wait(s engine.Slots, ctx context.Context, c engine.Claim) *waiter {
	w := &waiter{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		defer r.caught()
		w.lease, w.err = s.Acquire(ctx, c)
	}()
	r.Sleep(r.Tick / 2) // by then it waits
	return w
}

// why is its error, if it is over.
func (w *waiter) why() error {
	if w.over() {
		return w.err
	}
	return nil
}

func (w *waiter) over() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func slotsHandOver(r *run, s engine.Slots) {
	key := r.key("hand")
	l := r.acquire(s, r.claim(key, 1))
	c := r.claim(key, 1)
	c.MaxWait = 100 * r.Tick
	w := r.wait(s, r.ctx, c)
	r.must(!w.over(), "Acquire that waits came back while the one slot was taken: %v", w.why())
	r.release(s, l)
	r.must(r.until(w.over), "a slot was released and the claim that waits did not get it")
	r.must(w.err == nil, "a slot was released and the claim that waits got %v", w.err)
	r.must(w.lease.Fence > l.Fence, "the next holder has fence %d after %d: fences must grow with every lease of a key", w.lease.Fence, l.Fence)
}

func slotsCancel(r *run, s engine.Slots) {
	key := r.key("cancel")
	l := r.acquire(s, r.claim(key, 1))
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	gone, next := r.claim(key, 1), r.claim(key, 1)
	gone.MaxWait, next.MaxWait = 400*r.Tick, 400*r.Tick
	gone.Priority = 3
	leaver := r.wait(s, ctx, gone)
	stayer := r.wait(s, r.ctx, next)
	cancel()
	r.must(r.until(leaver.over), "Acquire did not return when its context ended: every wait ends with its context")
	r.must(leaver.err != nil, "Acquire returned a lease after its context had ended")
	r.must(!stayer.over(), "a claim that waits came back when another left: %v", stayer.why())
	r.release(s, l)
	r.must(r.until(stayer.over) && stayer.err == nil, "a slot was released and the claim behind one that had left did not get it: whoever leaves must hold nothing and be skipped")
}

func slotsPriority(r *run, s engine.Slots) {
	key := r.key("priority")
	l := r.acquire(s, r.claim(key, 1))
	var list []*waiter
	for _, p := range []int{0, -2, 3, 0} {
		c := r.claim(key, 1)
		c.MaxWait, c.Priority = 400*r.Tick, p
		list = append(list, r.wait(s, r.ctx, c))
	}
	for _, want := range []int{2, 0, 3, 1} {
		r.release(s, l)
		r.must(r.until(list[want].over), "claims of priority 0, -2, 3 and 0 wait, and number %d is not the next: the highest priority is, then whoever came first", want+1)
		r.must(list[want].err == nil, "a claim that waits got %v", list[want].err)
		l = list[want].lease
	}
}

func slotsFairShare(r *run, s engine.Slots) {
	key := r.key("fair")
	const rounds = 10
	l := r.acquire(s, r.claim(key, 1))
	type mine struct {
		*waiter
		tenant string
	}
	var list []mine
	for _, tenant := range []string{"gold", "iron"} {
		for range 4 * rounds {
			c := r.claim(key, 1)
			c.MaxWait, c.Tenant, c.Weight = 900*r.Tick, tenant, 1
			if tenant == "gold" {
				c.Weight = 3
			}
			list = append(list, mine{r.wait(s, r.ctx, c), tenant})
		}
	}
	got := map[string]int{}
	for range 4 * rounds {
		r.release(s, l)
		next := -1
		r.must(r.until(func() bool {
			for i, w := range list {
				if w.over() {
					next = i
					return true
				}
			}
			return false
		}), "a slot was released and nobody got it")
		r.must(list[next].err == nil, "a claim that waits got %v", list[next].err)
		got[list[next].tenant]++
		l = list[next].lease
		list = append(list[:next], list[next+1:]...)
		gold, iron := got["gold"], got["iron"]
		r.must(gold <= 3*(iron+1)+1 && iron <= gold/3+2, "tenants of weight 3 and 1 have got %d and %d slots: their shares may differ from their weights by one claim each", gold, iron)
	}
	r.must(got["gold"] >= 3*rounds-3 && got["gold"] <= 3*rounds+3, "of %d slots tenants of weight 3 and 1 got %d and %d", 4*rounds, got["gold"], got["iron"])
}

func slotsWide(r *run, s engine.Slots) {
	key := r.key("wide")
	a, b := r.acquire(s, r.claim(key, 2)), r.acquire(s, r.claim(key, 2))
	wide, narrow := r.claim(key, 2), r.claim(key, 2)
	wide.Units, wide.MaxWait, narrow.MaxWait = 2, 400*r.Tick, 400*r.Tick
	first := r.wait(s, r.ctx, wide)
	second := r.wait(s, r.ctx, narrow)
	r.release(s, a)
	r.Sleep(r.Tick / 2)
	r.must(!first.over(), "a claim of 2 units got them with 1 free")
	r.must(!second.over(), "a narrow claim passed a wide one that was next: so the wide one may never get its turn")
	r.release(s, b)
	r.must(r.until(first.over) && first.err == nil, "two units are free and the claim of two that was next did not get them")
	r.release(s, first.lease)
	r.must(r.until(second.over) && second.err == nil, "the claim behind a wide one did not get its slot")
}

// slotsHolderTwice: whoever asks again while its lost request still waits goes on from there.
func slotsHolderTwice(r *run, s engine.Slots) {
	key := r.key("twice")
	l := r.acquire(s, r.claim(key, 1))
	mine, other := r.claim(key, 1), r.claim(key, 1)
	mine.MaxWait, other.MaxWait = 400*r.Tick, 400*r.Tick
	first := r.wait(s, r.ctx, mine)
	behind := r.wait(s, r.ctx, other)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	second := r.wait(s, ctx, mine)
	r.must(r.until(first.over), "a Holder asked again while it waited, and its first Acquire goes on to wait: the second one waits in its place")
	r.must(errors.Is(first.err, engine.ErrLost), "a Holder asked again while it waited, and its first Acquire returned %v, not ErrLost", first.err)
	r.must(!second.over(), "the second Acquire of a Holder that waits came back while the slot was taken: %v", second.why())
	differs := mine
	differs.Priority = 7
	_, err := s.Acquire(r.ctx, differs)
	r.refused(err, "Acquire of a Holder that waits, with another priority,")
	r.must(!second.over(), "a Holder that waits asked for what it cannot change, and lost its place: %v", second.why())
	r.release(s, l)
	r.must(r.until(second.over) && second.err == nil, "a Holder that asked again did not get its slot, though another came later: it keeps the place that it had (%v)", second.err)
	r.must(!behind.over(), "a Holder that asked twice had two places, or gave its own away")
	again := r.acquire(s, mine)
	r.must(again.Fence == second.lease.Fence, "a Holder that asked twice and has its lease asked once more and got fence %d after %d: it must find the lease it has", again.Fence, second.lease.Fence)
	r.release(s, again)
	r.must(r.until(behind.over) && behind.err == nil, "a Holder that asked twice released its lease, and the next did not get the slot: it had one lease")
	r.release(s, behind.lease)

	// Whoever leaves after it has asked again leaves nothing behind.
	l = r.acquire(s, r.claim(key, 1))
	first = r.wait(s, r.ctx, mine)
	second = r.wait(s, ctx, mine)
	r.must(r.until(first.over) && errors.Is(first.err, engine.ErrLost), "a Holder asked again while it waited, and its first Acquire returned %v, not ErrLost", first.why())
	cancel()
	r.must(r.until(second.over) && second.err != nil, "the second Acquire of a Holder did not return when its context ended")
	r.release(s, l)
	r.acquire(s, r.claim(key, 1))
}

func slotsStorm(r *run, s engine.Slots) {
	const limit, clients, times = 3, 12, 8
	key := r.key("storm")
	var held gauge
	var mu sync.Mutex
	fences := map[uint64]bool{}
	r.together(clients, func(i int) {
		for range times {
			c := r.claim(key, limit)
			c.MaxWait = 900 * r.Tick
			c.Tenant = fmt.Sprint(i % 3)
			l, err := s.Acquire(r.ctx, c)
			if err != nil {
				r.fail("Acquire that waits returned %v", err)
				return
			}
			held.add(1)
			mu.Lock()
			if fences[l.Fence] {
				r.fail("two leases of one key have the same fence, %d", l.Fence)
			}
			fences[l.Fence] = true
			mu.Unlock()
			r.Sleep(r.Tick / 50)
			held.add(-1)
			if err := s.Release(r.ctx, l); err != nil {
				r.fail("Release of a live lease returned %v", err)
				return
			}
		}
	})
	r.must(held.most.Load() <= limit, "%d leases were live at once with a Limit of %d", held.most.Load(), limit)
	for range limit {
		r.acquire(s, r.claim(key, limit))
	}
}
