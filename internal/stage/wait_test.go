package stage

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
)

// never is for who cannot leave.
func never(t testing.TB) func() bool {
	return func() bool {
		t.Error("asked to leave")
		return true
	}
}

// Who waits goes on when its ticket has been decided, either way, whatever its context is.
func TestAwaitEndsWithTheDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, slot := alone(t, nil), caller(), []*admit.Class{slotsOf("slot", 1)}
		ends, cancel := context.WithCancel(background)
		defer cancel()
		for _, ctx := range []context.Context{background, ends} {
			for _, want := range []admit.State{admit.Running, admit.Refused} {
				run := arrives(s, p, slot)
				wait := arrives(s, p, slot, func(t *admit.Ticket) {
					if want == admit.Refused {
						t.Limit = s.Now() + int64(time.Second)
					}
				})
				wants(t, "a goroutine waits with it", Awaited(wait), true)
				decided := make(chan admit.State, 1)
				go func() { decided <- Await(ctx, wait, never(t)) }()
				synctest.Wait()
				wants(t, "decided too early", len(decided), 0)
				if want == admit.Refused {
					time.Sleep(time.Second + 1)
				}
				finish(s, run)
				wants(t, "decided", <-decided, want)
				wants(t, "state", wait.State(), want)
				if want == admit.Running { // its waiter goes back with it
					wants(t, "spare waiters while it runs", len(s.waiters), 0)
					finish(s, wait)
					continue
				}
				s.Lock().Free(wait)
				s.Unlock()
			}
		}
		wants(t, "waiters made for one after the other", len(s.waiters), 1)
	})
}

// Who is told first may be done, and its ticket another's, before the next is told.
func TestWhoIsToldMayGoOnAtOnce(t *testing.T) {
	s, p := alone(t, nil), caller()
	k := slotsOf("slot", 1)
	slot := []*admit.Class{k}
	arrives(s, p, slot)
	first, second := submits(s, p, slot), submits(s, p, slot)
	first.does(func() { finish(s, first.t) })
	s.Lock()
	s.M.SetLimit(s.Now(), k, 3)
	s.Unlock()
	wants(t, "the first", first.is().told, 1)
	wants(t, "the second", second.is().told, 1)
}

// Who waits without a goroutine is nobody's to await.
func TestASubmissionIsNotAwaited(t *testing.T) {
	s, p, slot := alone(t, nil), caller(), []*admit.Class{slotsOf("slot", 1)}
	run := arrives(s, p, slot)
	wait := submits(s, p, slot)
	wants(t, "a goroutine waits with it", Awaited(wait.t), false)
	finish(s, run)
	finish(s, wait.t)
	wants(t, "spare waiters", len(s.waiters), 0)
}

// Who leaves before the decision has left; who was decided on meanwhile has been decided on, and
// its waiter is used again only without a token.
func TestAwaitEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, slot := alone(t, nil), caller(), []*admit.Class{slotsOf("slot", 1)}
		run := arrives(s, p, slot)
		ctx, cancel := context.WithCancel(background)
		cancel()
		gone := arrives(s, p, slot)
		wants(t, "decided", Await(ctx, gone, leaving(s, gone)), admit.Left)
		wants(t, "spare waiters", len(s.waiters), 1)
		wants(t, "who waits", s.M.Waiting(), 0)

		wait := arrives(s, p, slot)
		w, began := wait.Owner.(*waiter), s.Now()
		wants(t, "decided", Await(ctx, wait, func() bool {
			s.Lock()
			s.M.Finish(s.Now(), run, 0)
			a := s.Release()
			time.AfterFunc(time.Second, a.Follow) // until then its token is on the way
			return leaving(s, wait)()
		}), admit.Running)
		wants(t, "waited for its token", s.Now()-began, int64(time.Second))
		wants(t, "state", wait.State(), admit.Running)
		wants(t, "spare waiters before it is taken back", len(s.waiters), 0)
		finish(s, wait)
		wants(t, "tokens of the spare waiter", len(w.ready), 0)
		wants(t, "the waiter is spare", len(s.waiters) == 1 && s.waiters[0] == w, true)
	})
}

// A ticket that is forgotten takes its waiter along: somebody may be about to write to it.
func TestAForgottenWaiterIsNotUsedAgain(t *testing.T) {
	s, p, slot := alone(t, nil), caller(), []*admit.Class{slotsOf("slot", 1)}
	run := arrives(s, p, slot)
	lost := arrives(s, p, slot)
	s.Lock()
	s.M.Finish(s.Now(), run, 0)
	a := s.Release() // lost has been admitted, and is woken later
	s.Lock()
	s.M.Cancel(s.Now(), lost)
	s.Unlock()
	next := arrives(s, p, slot)
	wants(t, "the next", next.State(), admit.Running)
	wait := arrives(s, p, slot)
	a.Follow()
	wants(t, "tokens of who waits", len(wait.Owner.(*waiter).ready), 0)
	leaving(s, wait)()
	wants(t, "spare waiters", len(s.waiters), 1)
}

// Waiters are kept, up to a bound.
func TestSpareWaitersAreBounded(t *testing.T) {
	s, slot := alone(t, nil), []*admit.Class{slotsOf("slot", 1)}
	callers := []*admit.Plan{caller(), caller()} // the queue of one is shorter
	arrives(s, callers[0], slot)
	list := make([]*admit.Ticket, maxWaiters+10)
	for i := range list {
		list[i] = arrives(s, callers[i%2], slot)
	}
	for _, x := range list {
		leaving(s, x)()
	}
	wants(t, "spare", len(s.waiters), maxWaiters)
}

// Whatever the order in which calls are decided and their callers leave, each ends once, nobody
// is woken for another, and nothing stays taken.
func TestStormOfDecisionsAndLeaves(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := alone(t, nil)
	const width, callers, rounds = 2, 8, 200
	slot := []*admit.Class{slotsOf("slot", width)}
	p := caller()
	var inside, ran, left, late atomic.Int32
	var all sync.WaitGroup
	for i := range callers {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() {
			for range rounds {
				ctx, cancel := context.WithCancel(background)
				limit := time.Duration(r.IntN(200)) * time.Microsecond
				x := arrives(s, p, slot, func(t *admit.Ticket) {
					if limit > 0 {
						t.Limit = s.Now() + int64(limit)
					}
				})
				if Awaited(x) {
					switch r.IntN(3) {
					case 0:
						cancel()
					case 1:
						time.AfterFunc(time.Duration(r.IntN(100))*time.Microsecond, cancel)
					}
					if Await(ctx, x, leaving(s, x)) == admit.Left {
						cancel()
						left.Add(1)
						continue
					}
				}
				cancel()
				if x.State() == admit.Refused {
					late.Add(1)
					s.Lock().Free(x)
					s.Unlock()
					continue
				}
				if n := inside.Add(1); x.State() != admit.Running || n > width {
					t.Errorf("state %d, %d inside", x.State(), n)
				}
				runtime.Gosched()
				ran.Add(1)
				inside.Add(-1)
				finish(s, x)
			}
		})
	}
	all.Wait()
	t.Logf("ran %d, left %d, late %d", ran.Load(), left.Load(), late.Load())
	s.Lock()
	defer s.Unlock()
	wants(t, "ended", ran.Load()+left.Load()+late.Load(), callers*rounds)
	wants(t, "waiting", s.M.Waiting(), 0)
	wants(t, "running", s.M.Running(), 0)
	seen := map[*waiter]bool{}
	for _, w := range s.waiters {
		if len(w.ready) > 0 || seen[w] {
			t.Errorf("a spare waiter has %d tokens, twice there %v", len(w.ready), seen[w])
		}
		seen[w] = true
	}
	if len(seen) == 0 || len(seen) > callers {
		t.Errorf("%d waiters for %d callers", len(seen), callers)
	}
}
