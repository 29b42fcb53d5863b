package stage

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

// heard is a domain of one client for each of listeners.
func heard(t testing.TB, listeners ...Listener) (s *Stage, clients []*member) {
	refs := map[string]*Ref{}
	for _, l := range listeners {
		c := listing(refs, "r")
		c.hears = l
		s = joined(t, c, Order{})
		clients = append(clients, c)
	}
	return s, clients
}

// notes has those who listen hear notices of those names.
func notes(s *Stage, names ...string) {
	s.Lock()
	for _, n := range names {
		s.Note(Notice{By: n})
	}
	s.Unlock()
}

// Each listener hears each notice once, in their order, with the instant at which it came about.
func TestEachListenerHearsEachNoticeOnceInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := new(ear), new(ear)
		s, _ := heard(t, one, other, one, nil)
		began := time.Now()
		time.Sleep(time.Second)
		notes(s, "a", "b")
		time.Sleep(time.Second)
		notes(s, "c")
		for _, l := range []*ear{one, other} {
			wantsList(t, "heard", l.names(), []string{"a", "b", "c"})
			for i, after := range []time.Duration{1, 1, 2} {
				wants(t, "instant", l.heard[i].At.Sub(began), after*time.Second)
			}
		}
	})
}

// What the machine has to say is heard in the words of notices.
func TestWhatTheMachineNotesIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(ear)
		s, p := alone(t, l), caller()
		circuit, rate, slot := breakerOf("circuit"), rateOf(t, "rate", 1, time.Second, 1), slotsOf("slot", 1)
		slot.MaxKeys = 10
		s.Lock()
		s.M.Trip(s.Now(), s.M.Cell(s.Now(), circuit, ""), "me")
		s.Unlock()

		used := arrives(s, p, []*admit.Class{rate})
		s.Lock()
		s.M.Settle(s.Now(), used, "tokens", 1_000_000)
		s.Unlock()

		keyed := func(t *admit.Ticket) { s.M.Add(t, s.M.Cell(s.Now(), slot, "key"), 1) }
		arrives(s, p, nil, keyed)
		arrives(s, p, nil, keyed)
		arrives(s, p, nil, keyed)
		time.Sleep(61 * time.Second)
		synctest.Wait()

		at := make([]time.Time, len(l.heard))
		for i := range l.heard {
			at[i], l.heard[i].At = l.heard[i].At, time.Time{}
		}
		wantsList(t, "heard", l.heard, []Notice{
			{Kind: Moved, By: "circuit", Was: breaker.Closed, Is: breaker.Open, Actor: "me"},
			{Kind: Debt, By: "rate", After: 24*time.Hour + time.Second},
			{Kind: Stalled, By: "slot", Key: "key", Holding: 1, Waiting: 2},
		})
		wants(t, "the limit stalled after", at[2].Sub(at[1]), time.Minute)
	})
}

// Notices that nobody is there to hear are gone, and those of who has parted are the others'.
func TestOnlyThoseInTheDomainHear(t *testing.T) {
	one, other := new(ear), new(ear)
	s, clients := heard(t, one, other)
	notes(s, "both")
	s.Part(clients[0])
	notes(s, "other")
	s.Part(clients[1])
	for range maxNews + 2 {
		notes(s, "nobody")
	}
	wantsList(t, "who parted first heard", one.names(), []string{"both"})
	wantsList(t, "who parted last heard", other.names(), []string{"both", "other"})
	wants(t, "lost", s.Lock().Lost(), 0)
	s.Unlock()
}

// A listener that blocks holds up nobody but who delivers: others lock, are decided on, are woken
// and note. What is noted meanwhile waits, up to a bound, and is counted beyond.
func TestAListenerThatBlocksHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, other, free := new(ear), new(ear), make(chan struct{})
		slow.does = func(n *Notice) {
			if n.By == "blocks" {
				<-free
			}
		}
		s, clients := heard(t, slow, other)
		delivered := false
		go func() {
			notes(s, "blocks")
			delivered = true
		}()
		synctest.Wait()

		p, slot := caller(), []*admit.Class{slotsOf("slot", 1)}
		run, wait := arrives(s, p, slot), arrives(s, p, slot)
		late := submits(s, p, slot, until(time.Second))
		finish(s, run)
		Await(background, wait, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		wants(t, "who waited too long was told", late.is().told, 1)
		var want []string
		for i := range maxNews + 500 {
			n := fmt.Sprint(i)
			notes(s, n)
			if i < maxNews {
				want = append(want, n)
			}
		}
		wants(t, "lost", s.Lock().Lost(), 500)
		s.Unlock()
		s.Part(clients[1]) // which does not wait for it either
		synctest.Wait()
		wants(t, "heard while one blocks", len(slow.heard)+len(other.heard), 0)
		wants(t, "who delivers has returned", delivered, false)

		close(free)
		synctest.Wait()
		wants(t, "who delivers has returned", delivered, true)
		wantsList(t, "who blocked heard", slow.names(), append([]string{"blocks"}, want...))
		wantsList(t, "who was there heard", other.names(), []string{"blocks"})
		notes(s, "after")
		wants(t, "last", slow.heard[len(slow.heard)-1].By, "after")
		wants(t, "lost for good", s.Lock().Lost(), 500)
		s.Unlock()
	})
}

// A listener that ends its goroutine is told that it missed that, it hears the next, and so do
// the others. Whoever changed something goes on.
func TestAListenerThatExitsMissesOneNotice(t *testing.T) {
	exits, other := new(ear), new(ear)
	exits.does = func(n *Notice) {
		if n.By == "b" || n.By == "d" {
			runtime.Goexit()
		}
	}
	s, _ := heard(t, exits, other)
	went := make(chan bool, 1)
	go func() {
		defer close(went)
		notes(s, "a", "b", "c", "d")
		went <- true
	}()
	if !<-went {
		t.Error("whoever noted it has gone")
	}
	wantsList(t, "who exits heard", exits.names(), []string{"a", "c"})
	wantsList(t, "the other heard", other.names(), []string{"a", "b", "c", "d"})
	wants(t, "missed by who exits", exits.missed, 2)
	wants(t, "missed by the other", other.missed, 0)
	notes(s, "e")
	wantsList(t, "who exits heard", exits.names(), []string{"a", "c", "e"})
}

// What a listener brings about is heard after what came before, and it need not wait for that.
func TestAListenerMayNote(t *testing.T) {
	first, second := new(ear), new(ear)
	s, _ := heard(t, first, second)
	first.does = func(n *Notice) {
		if n.By == "a" {
			notes(s, "of a")
		}
	}
	notes(s, "a", "b")
	for _, l := range []*ear{first, second} {
		wantsList(t, "heard", l.names(), []string{"a", "b", "of a"})
	}
}

// However many note at once, each listener hears all in order, from one goroutine at a time.
func TestNoticesOfManyComeInOrder(t *testing.T) {
	l := new(ear)
	s, _ := heard(t, l)
	const each = 50
	seq := 0 // guarded by the stage
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range each {
				s.Lock()
				seq++
				s.Note(Notice{Holding: seq})
				s.Unlock()
			}
		})
	}
	all.Wait()
	for i := range l.heard {
		wants(t, "number", l.heard[i].Holding, i+1)
	}
	wants(t, "heard", len(l.heard), 8*each)
}
