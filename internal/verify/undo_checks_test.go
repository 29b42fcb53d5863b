package verify

import (
	"errors"
	"slices"
	"time"

	"github.com/sluice-go/sluice/agent"
)

// settle waits until all is quiet, and judges what has happened.
func (w *shop) settle() {
	died := w.quiet()
	w.n.deaths += len(died)
	if len(w.procs) == 0 { // it has restarted
		w.audited()
	}
	for len(w.procs) < 2 {
		w.begin()
	}
	w.open = slices.DeleteFunc(w.open, func(x *undoing) bool { return x.back })
	if w.draw("audit", 0, 1) == 0 {
		w.audit()
	}
}

// judge holds what x was told against what has happened. The world is locked.
func (w *shop) judge(x *undoing) {
	why := reason(x.err)
	own := x.fails
	if x.late && own == "" || x.late && len(x.ran) > 0 && x.ran[len(x.ran)-1].inHand {
		own = "timeout"
	}
	switch {
	case x.what == "resolve":
		if why == "" && !slices.Contains(x.was, agent.UndoInDoubt) || why != "" && !slices.Contains(x.was, agent.UndoState(why)) || why == "in_doubt" {
			w.fail("%s of %s is told %q, and it was %v", x.what, x.c.id, why, x.was)
		}
	case why == "left":
		if x.waits == 0 || x.at.Sub(x.began) != x.waits {
			w.fail("%s leaves after %v", x.what, x.at.Sub(x.began))
		}
	case x.what == "call" && len(x.ran) == 0:
		w.n.refused++
		if x.raced && (why == "undoing" || why == "undone") {
			w.n.races++
		} else if !slices.Contains(x.was, agent.UndoState(why)) || why == "open" {
			w.fail("%s of %s is told %q (%v), and it was %v", x.what, x.c.id, why, x.err, x.was)
		}
	case x.what == "call":
		w.judgeEnd(x, why)
	default:
		w.judgeGroup(x, why)
	}
}

// judgeEnd is for x, whose undo functions have begun.
func (w *shop) judgeEnd(x *undoing, why string) {
	m := x.ran[len(x.ran)-1]
	switch c := m.of; {
	case why == "":
		w.n.undone++
		if !m.undone {
			w.fail("%s is told that %s is undone, which ended as %q", x.what, c.id, x.fails)
		}
		if c.known(x.at) && !x.raced && len(c.marks) > 0 && c.last.Before(x.began) {
			w.fail("%s is told that %s is undone, of which %d are left", x.what, c.id, len(c.marks))
		}
	case why == "timeout":
		w.n.late++
		if x.late || x.fails == "timeout" || m.inHand {
			return
		}
		w.fail("%s is told that %s is out of time, which ended as %q", x.what, c.id, x.fails)
	case why == "running":
		if may, _ := c.runs(x.at); !may || !m.undone {
			w.fail("%s is told that code of %s runs", x.what, c.id)
		}
	default:
		w.n.failed++
		if why != x.fails {
			w.fail("%s of %s is told %q, and it ended as %q", x.what, c.id, why, x.fails)
		}
	}
}

func (w *shop) judgeGroup(x *undoing, why string) {
	w.n.groups++
	calls := map[*made]bool{}
	for _, m := range x.ran {
		calls[m.of] = true
	}
	n := len(calls)
	var last *mark
	if n > 0 {
		last = x.ran[len(x.ran)-1]
	}
	var stop *agent.UndoError
	switch errors.As(x.err, &stop); {
	case why == "":
	case last != nil && last.of.key == stop.Key:
		if w.judgeEnd(x, why); !slices.Contains([]string{"undoing", "in_doubt", "open"}, why) {
			n--
		}
	}
	if x.n != n {
		w.fail("a group of which %d calls were undone is told %d, %v", n, x.n, x.err)
	}
	for _, c := range w.calls {
		if c.tenant != x.tenant || c.group != x.group || c.first.IsZero() || !c.last.Before(x.began) {
			continue
		}
		switch before := stop == nil; {
		case before || c.order > w.orderOf(stop.Key):
			if !c.over(x.at) {
				w.fail("a group is told %q (%v), and %s is %v", why, x.err, c.id, c.states(x.at))
			}
		case c.key == stop.Key && !calls[c]:
			if !slices.Contains(c.states(x.at), agent.UndoState(why)) && why != "timeout" {
				w.fail("a group stops at %s for %q, which is %v", c.id, why, c.states(x.at))
			}
		}
	}
}

func (w *shop) orderOf(key string) int {
	for _, c := range w.calls {
		if c.key == key {
			return c.order
		}
	}
	w.fail("there is no call %q", key)
	return 0
}

// audit compares all that is known with what has happened.
func (w *shop) audit() {
	now := time.Now()
	for _, tenant := range []string{"t1", "t2", "t3"} {
		for _, group := range []string{"g1", "g2"} {
			var want []*made
			for _, c := range w.calls {
				if c.tenant == tenant && c.group == group && c.known(now) {
					want = append(want, c)
				}
			}
			slices.SortFunc(want, func(a, b *made) int { return b.order - a.order })
			list := w.auditor.List(w.context(tenant), group)
			if len(list) != len(want) {
				w.Fatalf("%s/%s has %+v: must be %d", tenant, group, list, len(want))
			}
			for i, x := range list {
				if c := want[i]; x.Key != c.key || x.CallID != c.id || x.Tool != "write" || !x.At.Equal(c.first) || !slices.Contains(c.states(now), x.State) {
					w.Fatalf("%s/%s has %+v at %d: must be %s since %v, %v", tenant, group, x, i, c.id, c.first, c.states(now))
				}
			}
		}
	}
}

// passes has time pass.
func (w *shop) passes(d time.Duration) {
	w.goes(false)
	time.Sleep(d)
	w.settle()
}
