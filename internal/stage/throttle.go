package stage

import (
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
)

// MaxPause bounds what an upstream can ask for, and MaxWider what it can ask of what is wider than
// what it speaks of.
const (
	MaxPause = 24 * time.Hour
	MaxWider = time.Minute
)

// Throttle is what an upstream asked for: a pause of so long.
type Throttle struct {
	After time.Duration
	Aim
}

// Aim is what a throttle is about: the keys of its classes, or, without one, those of the call.
type Aim struct {
	Classes []*admit.Class
	Key     string
	Bound   time.Duration // of the pause
}

// Narrowest aims at the last of parts, which go from wide to narrow, that classes tell apart: those
// that count by a key of its kind. Without one it aims at the keys of the call. What is wider than
// the last part pauses for MaxWider at most.
func Narrowest[P ~struct{ Kind, Key string }](parts []P, classes func(kind string) []*admit.Class) Aim {
	bound := MaxPause
	for _, x := range slices.Backward(parts) {
		p := struct{ Kind, Key string }(x)
		if p.Kind == "" || p.Key == "" || len(p.Key) > rules.MaxKeyBytes {
			continue
		}
		if list := classes(p.Kind); len(list) > 0 {
			return Aim{Classes: list, Key: p.Key, Bound: bound}
		}
		bound = MaxWider
	}
	return Aim{Bound: bound}
}

// AimOf aims at the narrowest of parts that the limits of n tell apart, of which keys are what calls are asked for.
func AimOf[P ~struct{ Kind, Key string }](n *Needs, keys []rules.Scope, parts []P) Aim {
	return Narrowest(parts, func(kind string) (list []*admit.Class) {
		for _, l := range n.Parts {
			if l.Class.Upstream && l.Key >= 0 && keys[l.Key].Kind() == rules.ByKey && keys[l.Key].Name() == kind {
				list = append(list, l.Class)
			}
		}
		return list
	})
}

// throttle pauses what the answers to the attempt of p speak of, and keeps open the breakers that are,
// all of it before anybody starts. The stage is locked.
func (s *Stage) throttle(p *Permit, list []Throttle) {
	if len(list) > 0 {
		s.throttleEach(p, list)
	}
}

func (s *Stage) throttleEach(p *Permit, list []Throttle) {
	s.AtOnce(func(now int64) {
		for _, x := range list {
			if d := min(x.After, x.Bound); d > 0 {
				s.pauseAt(p, x.Aim, d)
				s.keepOpen(p, now+int64(min(d, MaxWider)))
			}
		}
	})
}

// keepOpen has the breakers that p's call is subject to stay open until that instant, if they are open or
// open before. It opens none: an upstream that asks for a pause works.
func (s *Stage) keepOpen(p *Permit, until int64) {
	for _, n := range p.ticket.Needs() {
		if n.Cell.Class().Kind == admit.Breaker {
			s.M.Throttle(s.Now(), n.Cell, until)
		}
	}
}

// pauseAt pauses what a means for p's attempt.
func (s *Stage) pauseAt(p *Permit, a Aim, d time.Duration) {
	var cells []*admit.Cell
	for _, k := range a.Classes {
		if c := s.M.Cell(s.Now(), k, a.Key); c != nil {
			cells = append(cells, c)
		}
	}
	if len(cells) == 0 { // the call's own, or the table of the part's is full
		cells = p.upstreams()
		if len(a.Classes) > 0 {
			d = min(d, MaxWider)
		}
	}
	if len(cells) == 0 {
		cells, d = p.own(), min(d, MaxWider)
	}
	for _, c := range cells {
		s.Pause(c, d)
	}
}

// upstreams is the cells of the Upstream rate limiters that apply to p's call, whatever it takes
// from them.
func (p *Permit) upstreams() (cells []*admit.Cell) {
	for _, n := range p.ticket.Needs() {
		if n.Cell.Class().Upstream && !slices.Contains(cells, n.Cell) {
			cells = append(cells, n.Cell)
		}
	}
	for _, c := range p.tool.Upstreams {
		if !slices.Contains(cells, c) {
			cells = append(cells, c)
		}
	}
	return cells
}

// own is the cell of p's tool.
func (p *Permit) own() (cells []*admit.Cell) {
	for _, n := range p.ticket.Needs() {
		if n.Cell.Class() == p.tool.Class {
			cells = append(cells, n.Cell)
		}
	}
	return cells
}
