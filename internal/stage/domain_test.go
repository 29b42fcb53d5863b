package stage

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/rules"
)

// Clients that list something in common share a stage, also by way of a third; others do not.
func TestClientsOfOneMemberShareAStage(t *testing.T) {
	refs := map[string]*Ref{}
	a := joined(t, listing(refs, "r1", "g"), Order{})
	b := joined(t, listing(refs, "r2", "g"), Order{})
	c := joined(t, listing(refs, "r2", "h"), Order{})
	apart := joined(t, listing(refs, "r3"), Order{})
	if a != b || b != c || a == apart {
		t.Errorf("stages %p %p %p, and apart %p", a, b, c, apart)
	}
	for _, n := range []string{"r1", "r2", "g", "h"} {
		wants(t, n+" leads there", refs[n].Leads(a), true)
		wants(t, "clients of "+n, len(refs[n].Clients()), 3)
	}
	wants(t, "r3 leads apart", refs["r3"].Leads(apart), true)
	wants(t, "clients of what nobody lists", len(new(Ref).Clients()), 0)
}

// Who lists what belongs to two live domains is refused with words, and nothing has changed.
func TestWhoTiesTwoDomainsIsRefused(t *testing.T) {
	refs := map[string]*Ref{}
	a := joined(t, listing(refs, "r1", "g"), Order{})
	b := joined(t, listing(refs, "r2", "h"), Order{})
	s, err := Join(listing(refs, "new", "g", "h"), Order{})
	const want = "sluice: g belongs to a live executor of [r1 g], and h to another, of [r2 h]: " +
		"what one executor lists must belong to one domain: close one of the two, or make one that lists both first"
	if s != nil || err == nil || err.Error() != want {
		t.Errorf("got %p, %v\nwant %s", s, err, want)
	}
	if refs["new"].p.Load() != nil || !refs["g"].Leads(a) || !refs["h"].Leads(b) {
		t.Error("who was refused has changed where something leads")
	}
	wants(t, "clients of one", len(refs["g"].Clients()), 1)
	wants(t, "clients of the other", len(refs["h"].Clients()), 1)
	wants(t, "the lock of the domains is free", domains.TryLock(), true)
	domains.Unlock()
}

// One queue has one order: a second scheduler is refused by name, the same one is not.
func TestASecondSchedulerIsRefused(t *testing.T) {
	refs := map[string]*Ref{}
	order := func(name string) Order {
		return Order{refs[name], name, func() admit.Policy { return rules.FirstInFirstOut }}
	}
	c := listing(refs, "r", "fair")
	s := joined(t, c, order("fair"))
	joined(t, listing(refs, "r", "fair"), order("fair"))
	joined(t, listing(refs, "r"), Order{}) // which has none of its own
	other := listing(refs, "r", "other")
	_, err := Join(other, order("other"))
	const want = `sluice: PrioritySchedulers "fair" and "other" would order one queue: ` +
		"executors that share a gate or a registry must list the same scheduler"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	wants(t, "what the other leads to", refs["other"].p.Load(), nil)
	wants(t, "ordered by the first", s.OrderedBy(refs["fair"]), true)
	wants(t, "ordered by the other", s.OrderedBy(refs["other"]), false)
}

// A scheduler orders the queue from when the first client lists it until the last one parts.
func TestASchedulerOrdersWhileItIsListed(t *testing.T) {
	refs, asked := map[string]*Ref{}, 0
	stays := listing(refs, "r")
	s := joined(t, stays, Order{})
	slot := slotsOf("slot", 1)
	levels := func() (order []int) {
		p, run := caller(), arrives(s, caller(), []*admit.Class{slot})
		var calls []*call
		for l := range 3 {
			c := submits(s, p, []*admit.Class{slot}, func(t *admit.Ticket) { t.Level = int8(l) })
			c.does(func() { order = append(order, l) })
			calls = append(calls, c)
		}
		for finish(s, run); len(order) < len(calls); {
			finish(s, calls[order[len(order)-1]].t)
		}
		finish(s, calls[order[len(order)-1]].t)
		return order
	}
	wantsList(t, "before", levels(), []int{0, 1, 2})
	two := []*member{listing(refs, "r", "fair"), listing(refs, "r", "fair")}
	for _, c := range two {
		joined(t, c, Order{refs["fair"], "fair", func() admit.Policy {
			asked++
			p := rules.FirstInFirstOut
			p.Ordered = true
			return p
		}})
	}
	wants(t, "times that it was asked", asked, 1)
	wantsList(t, "with the scheduler", levels(), []int{2, 1, 0})
	s.Part(two[0])
	wantsList(t, "with one who lists it", levels(), []int{2, 1, 0})
	s.Part(two[1])
	wantsList(t, "after the last who lists it", levels(), []int{0, 1, 2})
	wants(t, "ordered by nobody", s.OrderedBy(nil), true)
	wants(t, "the registry leads there still", refs["r"].Leads(s), true)
	wants(t, "what the scheduler leads to", refs["fair"].p.Load(), nil)
}

// What no other client lists goes with the client, and all of it with the last one. What it has
// counted stays with it, so whoever lists it next counts on.
func TestADomainDissolvesWithItsLastClient(t *testing.T) {
	refs := map[string]*Ref{}
	one, two := listing(refs, "r", "g"), listing(refs, "r")
	s := joined(t, one, Order{})
	joined(t, two, Order{})
	circuit := breakerOf("circuit")
	refs["g"].Lock().M.Trip(s.Now(), s.M.Cell(s.Now(), circuit, ""), "Trip")
	s.Unlock()
	s.Part(one)
	wants(t, "what g leads to", refs["g"].p.Load(), nil)
	wants(t, "r leads there", refs["r"].Leads(s), true)
	wantsList(t, "clients", refs["r"].Clients(), []Client{two})

	next := joined(t, listing(refs, "elsewhere", "g"), Order{})
	wants(t, "the next has a stage of its own", next != s, true)
	refused := arrives(next, caller(), []*admit.Class{circuit})
	wants(t, "the breaker is open still", refused.State(), admit.Refused)

	s.Part(two)
	wants(t, "what r leads to", refs["r"].p.Load(), nil)
	wants(t, "members left", len(s.lists), 0)
	joined(t, listing(refs, "r", "g"), Order{}) // of which only g belongs to a live domain
	wants(t, "r leads to the domain of g", refs["r"].Leads(next), true)
}

// What is changed before anybody lists it holds for who lists it first.
func TestWhatIsBeforeAnyClientIsTakenOver(t *testing.T) {
	refs := map[string]*Ref{"g": new(Ref)}
	circuit := breakerOf("circuit")
	before := refs["g"].Lock()
	before.M.Trip(before.Now(), before.M.Cell(before.Now(), circuit, ""), "Trip")
	before.Unlock()
	s := joined(t, listing(refs, "r", "g"), Order{})
	wants(t, "the domain is a new one", s != before, true)
	wants(t, "g leads there", refs["g"].Leads(s), true)
	wants(t, "the breaker is open", arrives(s, caller(), []*admit.Class{circuit}).State(), admit.Refused)
}

// A domain that has dissolved arms no timer: nobody waits there.
func TestNoTimerOutlivesADomain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refs := map[string]*Ref{}
		c := listing(refs, "r")
		s := joined(t, c, Order{})
		slot := []*admit.Class{slotsOf("slot", 1)}
		run := arrives(s, caller(), slot)
		wait := submits(s, caller(), slot)
		finish(s, run)
		finish(s, wait.t)
		wants(t, "it is armed, for a queue that may come back", s.armed < admit.Never, true)
		s.Part(c)
		wants(t, "it is not armed", s.armed, admit.Never)
		wants(t, "the timer runs", s.timer.Stop(), false)
	})
}

// Whoever waits for the lock of a stage gets that of the next, if its member has gone there.
func TestLockFollowsAMemberThatGoes(t *testing.T) {
	refs := map[string]*Ref{}
	c := listing(refs, "r")
	s := joined(t, c, Order{})
	s.Lock()
	got := make(chan *Stage)
	go func() { got <- refs["r"].Lock() }()
	time.Sleep(20 * time.Millisecond) // it waits for s by now, most likely
	refs["r"].p.Store(nil)            // as Part does
	s.mu.Unlock()
	next := <-got
	wants(t, "it leads to what is locked", refs["r"].Leads(next) && next != s, true)
	next.Unlock()
}

// Who joins takes nothing over while somebody is inside.
func TestJoinWaitsForWhoIsInside(t *testing.T) {
	refs := map[string]*Ref{"g": new(Ref)}
	before := refs["g"].Lock()
	done := make(chan *Stage)
	go func() {
		s, _ := Join(listing(refs, "g"), Order{})
		done <- s
	}()
	time.Sleep(20 * time.Millisecond) // it waits for the lock by now, most likely
	wants(t, "g leads there still", refs["g"].Leads(before), true)
	before.Unlock()
	s := <-done
	wants(t, "g leads to the new one", refs["g"].Leads(s) && s != before, true)
}

// What follows from joining follows when the domains are free: a listener may make a client.
func TestJoinHoldsNothingWhenItIsHeardOf(t *testing.T) {
	refs := map[string]*Ref{}
	c, l := listing(refs, "r"), new(ear)
	c.hears = l
	l.does = func(*Notice) {
		wants(t, "the domains are free", domains.TryLock(), true)
		domains.Unlock()
	}
	s := joined(t, c, Order{})
	other := listing(refs, "r", "fair")
	joined(t, other, Order{refs["fair"], "fair", func() admit.Policy {
		s.Note(Notice{By: "order"})
		return rules.FirstInFirstOut
	}})
	wantsList(t, "heard", l.names(), []string{"order"})
}

// Whoever locks what leads to a stage is alone there, however often that changes.
func TestNobodyIsInsideTwoStagesOfOneMember(t *testing.T) {
	refs := map[string]*Ref{"r": new(Ref), "g": new(Ref)}
	const rounds = 300
	var inside, turns int // guarded by whatever g leads to
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for range rounds {
				s := refs["g"].Lock()
				inside++
				turns++
				if inside != 1 || !refs["g"].Leads(s) {
					t.Errorf("%d inside", inside)
				}
				runtime.Gosched()
				inside--
				s.Unlock()
			}
		})
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i := range 2 {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() {
			for range rounds {
				c := &member{lists: []Member{{refs["g"], "g"}}}
				if r.IntN(2) == 0 {
					c.lists = append(c.lists, Member{refs["r"], "r"})
				}
				s, err := Join(c, Order{})
				if err != nil { // g and r each had a client, but none had both
					continue
				}
				if r.IntN(2) == 0 {
					runtime.Gosched()
				}
				s.Part(c)
			}
		})
	}
	all.Wait()
	wants(t, "turns", turns, 3*rounds)
	for n, x := range refs {
		wants(t, "clients of "+n, len(x.Clients()), 0)
	}
}

// two is two domains, each with a full slot and a call that waits for it.
func two(t *testing.T, refs map[string]*Ref) (stages [2]*Stage, slots [2]*admit.Class, waits [2]*call) {
	for i, n := range []string{"r0", "r1"} {
		stages[i] = joined(t, listing(refs, n), Order{})
		slots[i] = slotsOf("slot", 1)
		arrives(stages[i], caller(), slots[i:i+1])
		waits[i] = submits(stages[i], caller(), slots[i:i+1])
	}
	return stages, slots, waits
}

// Changes that are made together hold at one instant in all stages, each locked once. Who may
// start by that is told when no lock is held any more.
func TestHoldChangesStagesAtOneInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refs := map[string]*Ref{}
		stages, slots, waits := two(t, refs)
		for i := range waits {
			waits[i].does(func() {
				for _, s := range stages {
					wants(t, "a stage is free", s.mu.TryLock(), true)
					s.mu.Unlock()
				}
				wants(t, "the domains are free", domains.TryLock(), true)
				domains.Unlock()
			})
		}
		time.Sleep(time.Second)
		calls := 0
		err := LockAll(func() ([]*Ref, error) {
			wants(t, "the domains are free when it is asked for refs", domains.TryLock(), false)
			return []*Ref{refs["r0"], refs["r1"], refs["r0"]}, nil
		}, func(h *Held) {
			calls++
			wants(t, "instant", h.Now, int64(time.Second))
			for i, s := range stages {
				wants(t, "a stage is free", s.mu.TryLock(), false)
				wants(t, "its ref leads there", h.Stage(refs[[]string{"r0", "r1"}[i]]), s)
				s.M.SetLimit(h.Now, slots[i], 2)
			}
			for _, w := range waits {
				wants(t, "who waits", w.t.State(), admit.Waiting)
			}
		})
		if err != nil || calls != 1 {
			t.Errorf("error %v, %d calls", err, calls)
		}
		for _, w := range waits {
			wants(t, "who waited", w.is(), fate{1, true, int64(time.Second)})
		}
	})
}

// A listener of one domain that blocks holds up neither the calls of another that was changed with
// it, nor who listens there.
func TestHoldWaitsForNoListenerBeforeItWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refs := map[string]*Ref{}
		stages, slots, waits := two(t, refs)
		free, slow, other := make(chan struct{}), new(ear), new(ear)
		slow.does = func(*Notice) { <-free }
		for i, l := range []*ear{slow, other} {
			refs[[]string{"r0", "r1"}[i]].Clients()[0].(*member).hears = l
		}
		done := false
		go func() {
			_ = LockAll(func() ([]*Ref, error) { return []*Ref{refs["r0"], refs["r1"]}, nil }, func(h *Held) {
				for i, s := range stages {
					s.M.SetLimit(h.Now, slots[i], 2)
					s.Note(Notice{Kind: Changed, By: "slot"})
				}
			})
			done = true
		}()
		synctest.Wait()
		wants(t, "done while one hears of it", done, false)
		wants(t, "calls told", waits[0].is().told+waits[1].is().told, 2)
		wants(t, "heard by who does not block", len(other.heard), 1)
		close(free)
		synctest.Wait()
		wants(t, "done", done, true)
		wants(t, "heard by who blocked", len(slow.heard), 1)
	})
}

// If what is to be changed is refused, nothing is, and nothing stays locked.
func TestHoldThatIsRefusedChangesNothing(t *testing.T) {
	refs := map[string]*Ref{"nobody's": new(Ref)}
	stages, _, waits := two(t, refs)
	no := errors.New("no")
	err := LockAll(func() ([]*Ref, error) { return []*Ref{refs["r0"], refs["nobody's"]}, no },
		func(*Held) { t.Error("it was asked to change something") })
	wants(t, "error", err, no)
	wants(t, "what nobody's leads to", refs["nobody's"].p.Load(), nil)
	wants(t, "the domains are free", domains.TryLock(), true)
	domains.Unlock()
	for i, s := range stages {
		wants(t, "a stage is free", s.mu.TryLock(), true)
		s.mu.Unlock()
		wants(t, "who waits", waits[i].state(), admit.Waiting)
	}
}

// What belongs to nobody yet can be changed with the others.
func TestHoldMakesTheStagesThatThereAreNot(t *testing.T) {
	r, circuit := new(Ref), breakerOf("circuit")
	if err := LockAll(func() ([]*Ref, error) { return []*Ref{r}, nil }, func(h *Held) {
		s := h.Stage(r)
		s.M.Trip(h.Now, s.M.Cell(h.Now, circuit, ""), "Trip")
	}); err != nil {
		t.Fatal(err)
	}
	s := r.Lock()
	wants(t, "breaker", s.M.Cell(s.Now(), circuit, "").BreakerState(s.Now()), breaker.Open)
	s.Unlock()
}

// Several who hold the same stages, in any order, do not lock each other out.
func TestHoldersOfTheSameStagesTakeTurns(t *testing.T) {
	refs := map[string]*Ref{}
	two(t, refs)
	count := 0 // guarded by both
	var all sync.WaitGroup
	for i := range 4 {
		list := []*Ref{refs["r0"], refs["r1"]}
		if i%2 == 0 {
			list[0], list[1] = list[1], list[0]
		}
		all.Go(func() {
			for range 100 {
				_ = LockAll(func() ([]*Ref, error) { return list, nil }, func(*Held) { count++ })
			}
		})
	}
	all.Wait()
	wants(t, "holds", count, 400)
}
