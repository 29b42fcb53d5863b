package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

const (
	grantLife = time.Hour
	maxGrants = 10
)

// transfer is what needs approval.
type transfer struct {
	To    string `json:"to"`
	Cents int64  `json:"cents"`
}

// order is a call: a tool, for a tenant, with arguments. No two are the same, unless one is a copy of the other.
type order struct {
	tool, tenant string
	cents        int64
}

// text is the arguments, in one of several forms.
func (o order) text(form int) string {
	return fmt.Sprintf([]string{`{"to":"ada","cents":%d}`, `{ "cents" : %d, "to" : "\u0061da" }`, `{"cents":%d.0e0,"to":"ada"}`}[form], o.cents)
}

// grant is an approval, and what has happened to it.
type grant struct {
	order
	id     string
	asked  time.Time
	edited int64 // the cents that the call is to have instead

	verdict    agent.ApprovalState // somebody's; empty if nobody has decided
	by, reason string
	decided    time.Time

	entered time.Time // its call was let in
	ended   time.Time // and what it gave is kept
	gave    string
	vague   bool      // that may be kept, or not
	latest  time.Time // when it was written again, after it was let in

	runs, told int
	untold     bool // a process has died that may have been about to tell
	gone       bool // nobody knows it any more

	path   []agent.ApprovalState // what it has been in this step
	holder *deed                 // that was let in
}

// approved is the call that may run.
func (g *grant) approved() order {
	o := g.order
	if g.edited != 0 {
		o.cents = g.edited
	}
	return o
}

// state is what has become of it.
func (g *grant) state(now time.Time) agent.ApprovalState {
	switch {
	case !g.entered.IsZero():
		return agent.ApprovalUsed
	case g.verdict == agent.ApprovalDenied || g.verdict == agent.ApprovalCancelled:
		return g.verdict
	case now.Sub(g.since()) >= grantLife:
		return agent.ApprovalExpired
	case g.verdict == agent.ApprovalApproved:
		return agent.ApprovalApproved
	}
	return agent.ApprovalPending
}

// since is when it came to be what it is, but for time.
func (g *grant) since() time.Time {
	switch {
	case !g.ended.IsZero():
		return g.ended
	case !g.entered.IsZero():
		return g.entered
	case g.verdict != "":
		return g.decided
	}
	return g.asked
}

// forgotten reports whether nobody need know it any more, and whether nobody can.
func (g *grant) forgotten(now time.Time) (may, must bool) {
	age, last := now.Sub(g.since()), now.Sub(g.latest)
	switch g.state(now) {
	case agent.ApprovalPending, agent.ApprovalApproved:
		return g.gone, g.gone
	case agent.ApprovalExpired: // it is kept anew when somebody finds that
		return g.gone || age >= 2*grantLife, g.gone || age >= 3*grantLife && last >= grantLife
	}
	return g.gone || age >= grantLife, g.gone || age >= grantLife && last >= grantLife
}

// deed is what a process was asked to do.
type deed struct {
	p        *process
	what     string // ask, decide, cancel, come, look, turn or resume
	g        *grant // of a decision, and of a call that comes again
	order           // of a call
	text     string
	decision agent.Decision
	parts    []*deed // the calls of a turn
	turn     *agent.Turn

	refused bool          // its call is, further in
	takes   time.Duration // the call does, or until it is refused
	ends    string        // how it ends

	began       time.Time
	inside, ran bool
	left        time.Time // its call was inside, and its process lived still
	room        int       // for so many approvals, when it began

	back  bool // it has returned, and to a process that lives
	ended time.Time
	value any
	err   error
	list  []agent.Approval
	next  *agent.Turn

	may, must bool // g might be forgotten when it began, or had to be
	known     bool // and what it gave was known
	noted     bool // what g was then is in was
	was       []agent.ApprovalState
	gave      string
	vague     bool
}

func (e *deed) String() string {
	s := fmt.Sprintf("%s %v %q", e.what, e.order, e.text)
	if e.g != nil {
		s += fmt.Sprintf(" of %v %s", e.g.order, e.g.id)
	}
	return s
}

// forged reports whether e comes with the approval of another call.
func (e *deed) forged() bool { return e.g != nil && e.order != e.g.order && e.order != e.g.approved() }

// calls is the calls that e makes.
func (e *deed) calls() []*deed {
	if e.parts != nil {
		return e.parts
	}
	return []*deed{e}
}

type deedKey struct{}

var (
	errRoom  = &sluice.Error{Reason: sluice.ErrDenied, Cause: errors.New("there is no room")}
	errDead  = errors.New("the process is dead")
	errMoney = errors.New("no money")
)

// clerk is what a process has.
type clerk struct {
	approvals *agent.Approvals
	runner    *agent.Runner
}

func clerkOf(p *process) clerk { return p.own.(clerk) }

// desked is the interceptor after the approvals of p.
type desked struct {
	w *desk
	p *process
}

func (d desked) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		if c.Tool == "look" {
			return next(ctx, c)
		}
		e, err := d.w.enters(ctx, d.p, c)
		if err != nil {
			return sluice.Result{}, err
		}
		defer func() { // however it ends
			d.w.mu.Lock()
			defer d.w.mu.Unlock()
			if !d.p.dead {
				e.left = time.Now()
			}
		}()
		if e.refused {
			time.Sleep(e.takes)
			d.p.point("it is refused further in")
			return sluice.Result{}, errRoom
		}
		return next(ctx, c)
	}
}

// auditing hears what the auditor finds, which lives.
type auditing struct{ w *desk }

func (a auditing) Enabled(sluice.EventKind) bool { return true }

func (a auditing) Emit(_ context.Context, e *sluice.Event) error {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.w.hear(e)
	return nil
}
