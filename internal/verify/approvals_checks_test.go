package verify

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// settle waits until all is quiet, and judges what has happened.
func (w *desk) settle() {
	died := w.quiet()
	w.n.deaths += len(died)
	if len(w.procs) == 0 { // it has restarted
		w.audited()
	}
	for len(w.procs) < 2 {
		w.begin()
	}
	for _, e := range w.open {
		if e.g != nil && e.back && e.err == nil && (e.what == "decide" || e.what == "cancel") {
			w.decides(e)
		}
	}
	lost := slices.DeleteFunc(slices.Clone(w.open), func(e *deed) bool { return e.back || !e.p.dead })
	for _, e := range lost {
		w.leaves(e)
	}
	w.ends()
	for _, e := range w.inside {
		w.enter(e)
	}
	w.inside = nil
	w.ends()
	for _, e := range lost {
		for _, x := range e.calls() {
			w.usedUp(x)
		}
	}
	w.open = slices.DeleteFunc(w.open, func(e *deed) bool { return slices.Contains(lost, e) })
	for _, e := range w.open {
		for _, x := range e.calls() {
			if x.g != nil && !x.noted {
				x.noted, x.was, x.gave, x.vague = true, x.g.path, x.g.gave, x.g.vague
			}
		}
	}
	list := w.open
	w.open = slices.DeleteFunc(slices.Clone(w.open), func(e *deed) bool { return e.back })
	w.judge(slices.DeleteFunc(list, func(e *deed) bool { return !e.back }), len(died) > 0)
	if len(lost) > 0 || w.draw("audit", 0, 1) == 0 {
		w.audit()
	}
}

// is notes what has become of g.
func (g *grant) is(s agent.ApprovalState) { g.path = append(g.path, s) }

// decides has e decide.
func (w *desk) decides(e *deed) {
	g := e.g
	if e.must || g.verdict != "" || g.path[0] != agent.ApprovalPending {
		w.Fatalf("%v counts, and it was %v", e, g.path)
	}
	g.verdict, g.by, g.reason, g.decided = agent.ApprovalDenied, e.decision.By, e.decision.Reason, e.began
	switch {
	case e.what == "cancel":
		g.verdict = agent.ApprovalCancelled
	case e.decision.Approve:
		g.verdict = agent.ApprovalApproved
	}
	if e.decision.Arguments != nil {
		g.edited = read(e.decision.Arguments).Cents
		w.n.edited++
	}
	w.n.decided++
	g.is(g.verdict)
}

// leaves is e, whose process has died in it: somebody else sees how far it came.
func (w *desk) leaves(e *deed) {
	w.n.halfway++
	for _, x := range e.calls() {
		g := x.g
		if g == nil {
			continue
		}
		g.untold = g.untold || !w.alone
		a, err := w.auditor.Get(context.Background(), g.id)
		if err != nil { // the audit says whether it may be
			continue
		}
		if g.verdict == "" && a.Decision.By == x.decision.By && x.decision.By != "" {
			w.decides(x)
		}
		after := w.inside[slices.Index(w.inside, x)+1:]
		if x.left.Equal(e.p.died) && x.refused && a.State == agent.ApprovalUsed && !w.alone && // before it was given back
			!slices.ContainsFunc(after, func(y *deed) bool { return y.g == g }) {
			x.left = time.Time{}
		}
	}
	pending, err := w.auditor.Pending(context.Background())
	if err != nil {
		w.Fatal(err)
	}
	for _, x := range e.calls() {
		for _, a := range pending { // which nobody was told of
			if w.byID(a.ID) == nil && (order{a.Tool, a.Tenant, read(a.Arguments).Cents}) == x.order {
				w.asked(x, a)
			}
		}
	}
}

// usedUp is x, if its process died between using the approval and what came of that, which others had it do.
func (w *desk) usedUp(x *deed) {
	if x.g == nil || x.what != "come" || x.inside || w.alone || !x.g.entered.IsZero() {
		return
	}
	if a, err := w.auditor.Get(context.Background(), x.g.id); err == nil && a.State == agent.ApprovalUsed {
		x.g.entered, x.g.holder = x.began, x
		x.g.is(agent.ApprovalUsed)
	}
}

// asked is the request that the call e has made.
func (w *desk) asked(e *deed, a agent.Approval) {
	got := order{a.Tool, a.Tenant, read(a.Arguments).Cents}
	if got != e.order || read(a.Arguments).To != "ada" || a.Message != "may it?" || w.byID(a.ID) != nil || w.owners[got] != nil || a.State != agent.ApprovalPending {
		w.Fatalf("%v asked for %+v", e, a)
	}
	g := &grant{order: got, id: a.ID, asked: e.began, path: []agent.ApprovalState{agent.ApprovalPending}}
	w.grants, w.owners[got] = append(w.grants, g), g
	w.n.asked++
}

// enter is e, whose call was let in.
func (w *desk) enter(e *deed) {
	g := e.g
	if x := g.holder; x != nil && !g.entered.IsZero() {
		if !x.refused || x.left.IsZero() {
			w.Fatalf("%v was let in, and %v was", e, x)
		}
		w.givesBack(x)
	}
	switch {
	case e.must:
		w.Fatalf("%v was let in, of whom nobody knows", e)
	case g.verdict != agent.ApprovalApproved || e.began.Sub(g.decided) >= grantLife:
		w.Fatalf("%v was let in, and it was %v", e, g.path)
	case e.order != g.order && e.order != g.approved():
		w.Fatalf("%v was let in as %v", e, g.approved())
	}
	g.entered, g.holder, g.latest = e.began, e, e.began
	g.is(agent.ApprovalUsed)
}

// givesBack is x, which was refused further in.
func (w *desk) givesBack(x *deed) {
	g := x.g
	if g.holder != x {
		return
	}
	if x.left.Sub(g.entered) >= grantLife {
		g.gone = true
	} else {
		g.entered, g.latest = time.Time{}, x.left
		g.is(g.state(x.left))
	}
	g.holder = nil
	w.n.refused++
}

// ends has an effect for those who were let in and whose calls are over.
func (w *desk) ends() {
	for _, e := range w.open {
		for _, x := range e.calls() {
			if g := x.g; g != nil && g.holder == x && !x.left.IsZero() {
				w.over(e, x, g)
			}
		}
	}
}

func (w *desk) over(e, x *deed, g *grant) {
	switch {
	case x.refused:
		w.givesBack(x)
		return
	case x.left.Sub(g.entered) >= grantLife:
		g.gone = true
	case x.ends == "exit" || x.left.Equal(e.p.died) && !w.alone:
		g.vague, g.latest, g.gave = true, x.left, x.gives(g.approved())
	default:
		g.ended, g.gave = x.left, x.gives(g.approved())
	}
	g.holder = nil
}

// judge holds what deeds were told against what has happened.
func (w *desk) judge(list []*deed, died bool) {
	asked, full, room := 0, 0, 0
	for _, e := range list {
		room = e.room
		switch e.what {
		case "decide", "cancel":
			w.judgeDecision(e)
		case "look":
			w.judgeLook(e)
		case "turn", "resume":
			w.judgeTurn(e)
		}
		if e.what != "ask" && e.what != "come" && e.what != "turn" && e.what != "resume" {
			continue
		}
		for _, x := range e.calls() {
			switch a, f := w.judgeCall(x); {
			case a:
				asked++
			case f:
				full++
			}
		}
	}
	if !died && full > 0 && room != asked || asked > room && asked > 0 {
		w.Fatalf("%d were asked for and %d were too many, with room for %d", asked, full, room)
	}
	w.n.full += full
}

func (w *desk) judgeDecision(e *deed) {
	x, ok := errors.AsType[*agent.ApprovalError](e.err)
	switch {
	case e.err == nil:
	case errors.Is(e.err, sluice.ErrAbsent):
		if !e.may {
			w.Fatalf("%v: nobody knows it, and it was %v", e, e.was)
		}
		e.g.gone = true
	case !ok || !slices.Contains(e.was, x.Approval.State) || x.Approval.State == agent.ApprovalPending || e.must:
		w.Fatalf("%v: %v, and it was %v", e, e.err, e.was)
	default:
		w.n.late++
	}
}

func (w *desk) judgeLook(e *deed) {
	var want, got []string
	for _, g := range w.grants {
		if g.state(e.began) == agent.ApprovalPending {
			want = append(want, g.id)
		}
	}
	for _, a := range e.list {
		got = append(got, a.ID)
	}
	slices.Sort(want)
	slices.Sort(got)
	if e.err != nil || !slices.Equal(want, got) {
		w.Fatalf("%v wait, not %v: %v", want, got, e.err)
	}
}

// judgeTurn sorts out what the calls of a turn came to, and keeps it if it waits.
func (w *desk) judgeTurn(e *deed) {
	if e.err != nil {
		w.Fatalf("%v: %v", e, e.err)
	}
	t, at := e.next, 0
	var waits []string
	for i, r := range t.Replies {
		if i == 0 {
			if got := gave(r.Result.Value, r.Err); got != "seen" && got != `"seen"` {
				w.Fatalf("what needs no approval gave %q", got)
			}
			continue
		}
		if e.turn != nil && !slices.ContainsFunc(e.turn.Pending, func(a agent.Approval) bool { return isOf(e.turn.Replies[i].Err, a.ID) }) {
			continue // it has been answered
		}
		x := e.parts[at]
		x.back, x.ended, x.value, x.err = true, e.ended, r.Result.Value, r.Err
		if a, ok := errors.AsType[*agent.ApprovalError](r.Err); ok && a.Approval.State == agent.ApprovalPending {
			waits = append(waits, a.Approval.ID)
		}
		at++
	}
	got := []string(nil)
	for _, a := range t.Pending {
		got = append(got, a.ID)
	}
	if at != len(e.parts) || !slices.Equal(got, waits) || (len(waits) == 0) != (t.Messages != nil) {
		w.Fatalf("a turn waits for %v, not for %v, with the messages %s", got, waits, t.Messages)
	}
	if e.what == "resume" {
		w.n.resumed++
	}
	if len(waits) > 0 {
		raw, err := json.Marshal(t)
		if err != nil {
			w.Fatal(err)
		}
		w.turns = append(w.turns, raw)
	}
}

// isOf reports whether err says that a call waits for that approval.
func isOf(err error, id string) bool {
	x, ok := errors.AsType[*agent.ApprovalError](err)
	return ok && x.Approval.ID == id
}

// judgeCall holds what a call was told against what has happened. It reports whether an approval was asked for, or
// could not be.
func (w *desk) judgeCall(e *deed) (asked, full bool) {
	g := e.g
	x, waits := errors.AsType[*agent.ApprovalError](e.err)
	if waits && (!errors.Is(e.err, sluice.ErrDenied) || !errors.Is(e.err, sluice.ErrRejected) || sluice.CodeOf(e.err) != "approval_"+string(x.Approval.State)) {
		w.Fatalf("%v: %v has the code %s", e, e.err, sluice.CodeOf(e.err))
	}
	switch forged := e.forged(); {
	case g == nil || forged:
		if forged {
			w.n.forged++
		}
		if forged && e.may && isOf(e.err, g.id) && x.Approval.Arguments == nil { // nobody knows whose it was
			g.gone = true
			return false, false
		}
		if forged && e.must {
			w.Fatalf("%v: %v, and nobody can know it", e, e.err)
		}
		if waits {
			w.asked(e, x.Approval)
			return true, false
		}
		if sluice.CodeOf(e.err) != "approval_unasked" || !errors.Is(e.err, sluice.ErrFull) {
			w.Fatalf("%v: %v", e, e.err)
		}
		return false, true
	case e.inside && e.refused:
		if !errors.Is(e.err, errRoom) || e.ran {
			w.Fatalf("%v: %v, and there was no room", e, e.err)
		}
	case e.inside:
		if got := gave(e.value, e.err); !e.ran || got != e.gives(g.approved()) {
			w.Fatalf("%v: %v, %v, and it gave %s", e, e.value, e.err, e.gives(g.approved()))
		}
		w.n.ran++
	case waits:
		s := x.Approval.State
		switch {
		case s == agent.ApprovalExpired && e.may && x.Approval.Arguments == nil:
			g.gone = true
			w.n.forgotten++
		case e.must || x.Approval.ID != g.id || !slices.Contains(e.was, s) || s == agent.ApprovalApproved:
			w.Fatalf("%v: it is %s, and was %v", e, s, e.was)
		case s == agent.ApprovalUsed && e.known:
			w.Fatalf("%v: %v, and %s is known", e, e.err, e.gave)
		case (s == agent.ApprovalDenied || s == agent.ApprovalCancelled) && !strings.Contains(sluice.ModelText(e.err), g.reason):
			w.Fatalf("%v: the model is told %s, and not %s", e, sluice.ModelText(e.err), g.reason)
		}
		w.n.unknown++
	default:
		want := e.gave
		if want == "panic" || want == "goexit" {
			want = "tool_error" // which it is to who was not there
		}
		if got := gave(e.value, e.err); e.must || e.gave == "" || got != want || e.ran {
			w.Fatalf("%v: it gives %q (%v), and gave %q", e, got, e.err, e.gave)
		}
		w.n.again++
	}
	return false, false
}

// look has a process list what waits.
func (w *desk) look() {
	e := w.deed("look", nil)
	w.step(e)
}

// audit compares all that is known with what has happened.
func (w *desk) audit() {
	now, pending := time.Now(), []string{}
	for _, g := range w.grants {
		a, err := w.auditor.Get(context.Background(), g.id)
		may, must := g.forgotten(now)
		switch {
		case errors.Is(err, sluice.ErrAbsent) && may:
			g.gone = true
			continue
		case err != nil || must:
			w.Fatalf("%v %s: %v %v, and it was %s since %v", g.order, g.id, a, err, g.state(now), now.Sub(g.since()))
		case a.State != g.state(now) || a.Decision.By != g.by || a.Tool != g.tool || a.Tenant != g.tenant || read(a.Arguments).Cents != g.cents:
			w.Fatalf("%v %s is %+v: must be %s by %q", g.order, g.id, a, g.state(now), g.by)
		}
		told := 1
		if a.State == agent.ApprovalPending {
			told = 0
			pending = append(pending, g.id)
		}
		if g.told != told && (g.told != 0 || !g.untold) {
			w.Fatalf("%v %s is %s, which was told %d times", g.order, g.id, a.State, g.told)
		}
	}
	list, err := w.auditor.Pending(context.Background())
	if err != nil || len(list) != len(pending) || slices.ContainsFunc(list, func(a agent.Approval) bool { return !slices.Contains(pending, a.ID) }) {
		w.Fatalf("%v wait, not %+v: %v", pending, list, err)
	}
}

// wind ends all, and sees that nothing stays.
func (w *desk) wind() {
	for len(w.open) > 0 {
		w.goes(false)
		time.Sleep(time.Hour)
		w.settle()
	}
	w.audit()
	w.goes(false)
	time.Sleep(4 * grantLife)
	for x := range w.state.List("here/approvals/") {
		w.Fatalf("%s is kept for ever", x.Key)
	}
	for _, g := range w.grants {
		if g.runs > 1 {
			w.Fatalf("%v ran %d times", g.order, g.runs)
		}
	}
}
