package verify

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluice-go/sluice/agent"
)

const (
	undoLife    = time.Hour
	undoLease   = 30 * time.Second
	undoTimeout = 20 * time.Second
	maxUndos    = 6
)

// mark is what an attempt has left.
type mark struct {
	id      int
	of      *made
	attempt int32
	inHand  bool // its undo function runs, or did when its process died
	undone  bool // that has had its effect
}

// code is an attempt whose code has reported. It runs until it has ended, or its process is dead.
type code struct {
	p     *process
	kept  bool // a report of it was
	ended bool
}

// act is what an attempt does after a while.
type act struct {
	after time.Duration
	what  string // report, take back, or report too much
}

// made is a call that may be undone.
type made struct {
	id, tenant, group, key string
	p                      *process
	attempts               [][]act
	fails                  []bool

	first, last time.Time // reports that were kept
	order       int       // among the first ones of all calls
	marks       []*mark   // that are kept
	codes       []*code
	by          *undoing // has one of them in hand; maybe dead
	vague       bool     // it is not known whether somebody has the next one
}

// dead is since when the process is that had a mark in hand.
func (c *made) dead() (since time.Time, is bool) {
	if c.by == nil || !c.by.p.dead {
		return time.Time{}, false
	}
	return c.by.p.died, true
}

// taken is whether a process that died then is taken to live: it was heard of in the last third of the lease.
func taken(died, now time.Time) (may, must bool) {
	age := now.Sub(died)
	return age < undoLease, age < undoLease*2/3
}

// runs reports whether code of c that has reported is taken to run.
func (c *made) runs(now time.Time) (may, must bool) {
	for _, x := range c.codes {
		switch {
		case x.ended:
		case x.p.dead:
			m, n := taken(x.p.died, now)
			may, must = may || m, must || n && x.kept
		default:
			may, must = true, must || x.kept
		}
	}
	return may, must
}

// known reports whether anything is kept of c.
func (c *made) known(now time.Time) bool { return !c.first.IsZero() && now.Sub(c.last) < undoLife }

// states is how c may stand.
func (c *made) states(now time.Time) (list []agent.UndoState) {
	if !c.known(now) {
		return []agent.UndoState{agent.UndoUnknown}
	}
	if c.vague {
		return []agent.UndoState{agent.UndoUndoing, agent.UndoRunning, agent.UndoOpen, agent.UndoInDoubt, agent.UndoDone}
	}
	if died, is := c.dead(); is {
		may, must := taken(died, now)
		if may {
			list = append(list, agent.UndoUndoing)
		}
		if !must {
			list = append(list, agent.UndoInDoubt)
		}
		return list
	}
	if c.by != nil {
		return []agent.UndoState{agent.UndoUndoing}
	}
	may, must := c.runs(now)
	if may {
		list = append(list, agent.UndoRunning)
	}
	switch {
	case must:
	case len(c.marks) == 0:
		list = append(list, agent.UndoDone)
	default:
		list = append(list, agent.UndoOpen)
	}
	return list
}

// over reports whether c may be one that a group passes over.
func (c *made) over(now time.Time) bool {
	return slices.ContainsFunc(c.states(now), func(s agent.UndoState) bool { return s == agent.UndoDone || s == agent.UndoUnknown })
}

// undoing is what a process was asked to do.
type undoing struct {
	p             *process
	what          string // call, group or resolve
	tenant, group string
	c             *made // of a call
	truth         bool  // of a resolution

	takes []time.Duration // of undo functions
	ends  []string
	heeds bool          // they mind their context
	waits time.Duration // its caller does; zero for ever

	began time.Time
	raced bool
	was   []agent.UndoState // c, then
	ran   []*mark           // whose functions have begun
	fails string            // why the last of them did not succeed
	late  bool              // one of them has been out of time

	back bool // it has returned
	at   time.Time
	n    int
	err  error
}

type (
	undoingKey struct{}
	madeKey    struct{}
)

// reason is why x was not undone.
func reason(err error) string {
	x, ok := errors.AsType[*agent.UndoError](err)
	switch {
	case ok:
		return x.Reason
	case errors.Is(err, context.DeadlineExceeded):
		return "left"
	case err != nil:
		return err.Error()
	}
	return ""
}
