package stage

import (
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

// Notice is something outside calls that somebody should be told.
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

// Listener is told of notices, in their order. It may block, and call Goexit: it is called on a
// goroutine of its own then.
type Listener interface {
	Hear(*Notice)
	Missed() // it has called Goexit
}

// maxNews bounds the notices that wait while a listener blocks.
const maxNews = 1000

// news are notices on their way. The stage's lock guards them.
type news struct {
	list    []Notice       // in the order in which they came about
	lost    uint64         // beyond the bound
	telling bool           // somebody delivers them
	scratch []admit.Notice // of the machine's
}

func (n *news) none() bool { return len(n.list) == 0 }

// begin reports whether whoever asks is to deliver what there is.
func (n *news) begin() bool {
	if n.telling || n.none() {
		return false
	}
	n.telling = true
	return true
}

// Lost is how many notices nobody was told of. The stage is locked.
func (s *Stage) Lost() uint64 { return s.news.lost }

// Note has those who listen told of n. The stage is locked.
func (s *Stage) Note(n Notice) {
	if len(s.news.list) >= maxNews {
		s.news.lost++
		return
	}
	n.At = s.Clock.Time(s.Now())
	s.news.list = append(s.news.list, n)
}

// notices takes over what the machine has to say.
func (s *Stage) notices() {
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

// tell delivers notices in order; one goroutine at a time does.
func (s *Stage) tell() {
	for {
		s.mu.Lock()
		list, clients := s.news.list, slices.Clone(s.clients)
		s.news.list = nil
		if len(list) == 0 {
			s.news.telling = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if len(clients) == 0 {
			continue
		}
		who := clients[0].Listeners(clients)
		for i := 0; i < len(list)*len(who); {
			i = deliver(i, list, who)
		}
	}
}

// deliver gives the notices of list to who, from the i-th pair on, and answers where a listener
// ended it by runtime.Goexit: on a goroutine of its own, since the one that happened to change
// something must not end by that.
func deliver(i int, list []Notice, who []Listener) int {
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
