package stage

import (
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

// Notice is something outside calls that listeners are to hear.
type Notice struct {
	Kind     Kind
	At       time.Time
	By, Key  string        // the constraint that it is about
	Was, Is  breaker.State // Moved
	From, To string        // Changed
	Actor    string        // Moved and Changed: who asked for it; empty if it came about by itself
	After    time.Duration // Paused: for how long; Debt: until it is paid
	Holding  int           // Stalled: calls that need the constraint and run
	Waiting  int           // Stalled: calls that wait for it
}

// Kind is what a notice is about.
type Kind uint8

// The kinds of notices.
const (
	Moved   Kind = iota // a breaker
	Debt                // a report of use was cut: it would have closed a rate for too long
	Stalled             // a limit has released nothing for long, while calls wait
	Paused              // an upstream asked for it
	Changed             // a limit
)

// Listener hears notices, in the order in which they came about. It may block: other notices wait
// for it then, and whoever delivers them, but no decision does. It must not panic.
type Listener interface {
	Hear(*Notice) // valid until it returns, and others hear the same one
	Missed()      // told instead of the return of a Hear that called [runtime.Goexit]
}

// maxNews bounds the notices that wait while a listener blocks.
const maxNews = 1000

// news are the notices that nobody delivers yet. The stage's lock guards them.
type news struct {
	list       []Notice       // in the order in which they came about
	lost       uint64         // beyond the bound
	delivering bool           // somebody is at it, and will come for list
	scratch    []admit.Notice // for those of the machine
}

func (n *news) none() bool { return len(n.list) == 0 }

// begin reports whether whoever asks is to deliver what there is.
func (n *news) begin() bool {
	if n.delivering || n.none() {
		return false
	}
	n.delivering = true
	return true
}

// Lost is how many notices no listener has heard, or will. The stage is locked.
func (s *Stage) Lost() uint64 { return s.news.lost }

// Note has the listeners hear n, from now on, once the stage has been unlocked. It is locked.
func (s *Stage) Note(n Notice) {
	if len(s.news.list) >= maxNews {
		s.news.lost++
		return
	}
	n.At = s.Clock.Time(s.Now())
	s.news.list = append(s.news.list, n)
}

// takeNotices notes what the machine has to say.
func (s *Stage) takeNotices() {
	s.news.scratch = s.M.Notices(s.news.scratch[:0])
	for i := range s.news.scratch {
		x := &s.news.scratch[i]
		n := Notice{By: x.Cell.Class().Name, Key: x.Cell.Key(), Actor: x.By}
		switch x.Kind {
		case admit.StateChanged:
			n.Kind, n.Was, n.Is = Moved, x.From, x.To
		case admit.Debt:
			n.Kind, n.After = Debt, time.Duration(x.After)
		case admit.Stalled:
			n.Kind, n.Holding, n.Waiting = Stalled, x.Holding, x.Waiting
		}
		s.Note(n)
	}
}

// deliver has the listeners hear all there is. One goroutine at a time does it, so that each
// hears the notices in order.
func (s *Stage) deliver() {
	for {
		s.mu.Lock()
		list, clients := s.news.list, slices.Clone(s.clients)
		s.news.list = nil
		if len(list) == 0 {
			s.news.delivering = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if len(clients) == 0 {
			continue
		}
		who := clients[0].Listeners(clients)
		for i := 0; i < len(list)*len(who); {
			i = deliverFrom(i, list, who)
		}
	}
}

// deliverFrom has each of who hear each notice of list, beginning with the i-th such pair. It
// answers the pair after the last that it got to: a Hear may call Goexit. That ends a goroutine
// of its own, and not the one that happened to change something.
func deliverFrom(i int, list []Notice, who []Listener) int {
	done := make(chan struct{})
	go func() {
		normal := false
		defer func() {
			if !normal {
				who[i%len(who)].Missed()
				i++
			}
			close(done)
		}()
		for ; i < len(list)*len(who); i++ {
			who[i%len(who)].Hear(&list[i/len(who)])
		}
		normal = true
	}()
	<-done
	return i
}
