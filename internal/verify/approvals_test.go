package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// Approvals, in processes that die at any point of what they do, over a state that survives them. What the library
// says is held against what has happened to each approval: who asked, who decided, which call was let in, and when.

type desk struct {
	*ground
	auditor *agent.Approvals // of somebody who does not die
	grants  []*grant
	owners  map[order]*grant
	open    []*deed  // that have not returned, or were not looked at
	inside  []*deed  // that were let in, in this step
	turns   [][]byte // that wait, as they are stored
	cents   int64
	n       *deskCounts
}

type deskCounts struct {
	where map[string]int // processes died

	asked, full, decided, late, ran, again, unknown, forged, edited, refused, deaths, halfway, restarts, resumed, forgotten, races int
}

func newDesk(rt *rapid.T, n *deskCounts) *desk {
	w := &desk{ground: newGround(rt, n.where), owners: map[order]*grant{}, n: n}
	w.begin()
	w.begin()
	w.audited()
	return w
}

func (w *desk) config(state *sluice.SharedState, sink sluice.EventSink) agent.ApprovalsConfig {
	return agent.ApprovalsConfig{State: state, Lifetime: grantLife, Max: maxGrants, Sink: sink,
		Needs: func(c sluice.Call) (string, bool) { return "may it?", c.Tool != "look" }}
}

// begin has a process begin.
func (w *desk) begin() {
	w.start(func(p *process) {
		sink := told{p, w.hear}
		c := clerk{approvals: sluice.Must(agent.NewApprovals(w.config(p.view, sink)))}
		p.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: sink, Interceptors: []sluice.Interceptor{c.approvals, desked{w, p}}}))
		sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "pay"}, func(ctx context.Context, in transfer) (string, error) { return w.moves(ctx, p, in) }))
		sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "wire"}, func(ctx context.Context, in json.RawMessage) (string, error) {
			return w.moves(ctx, p, read(in))
		}))
		sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "look"}, func(context.Context, struct{}) (string, error) { return "seen", nil }))
		c.runner = sluice.Must(agent.New(p.exec, agent.Config{}))
		p.own = c
	})
}

// audited has the auditor look at the state as it is now.
func (w *desk) audited() {
	view := sluice.Must(w.state.View("here/", sluice.SharedStateConfig{}))
	w.auditor = sluice.Must(agent.NewApprovals(w.config(view, auditing{w})))
}

// read is what raw says.
func read(raw []byte) (x transfer) {
	var loose struct {
		To    string
		Cents float64
	}
	if err := json.Unmarshal(raw, &loose); err != nil {
		panic(err)
	}
	return transfer{loose.To, int64(loose.Cents)}
}

func (w *desk) byID(id string) *grant {
	for _, g := range w.grants {
		if g.id == id {
			return g
		}
	}
	return nil
}

// hear counts decisions that are told. The world is locked.
func (w *desk) hear(e *sluice.Event) {
	for _, a := range e.Attrs {
		if g := w.byID(a.Value.String()); e.Kind == "approval.decided" && a.Key == "request_id" && g != nil {
			g.told++
		}
	}
}

// callOf is which deed the call is of, and which grant. The world is locked.
func (w *desk) callOf(ctx context.Context, tool string, x transfer) (*deed, *grant) {
	g := w.owners[order{tool, sluice.PipelineContextFrom(ctx).Tenant, x.Cents}]
	for _, e := range ctx.Value(deedKey{}).(*deed).calls() {
		if g != nil && e.g == g && x.To == "ada" {
			return e, g
		}
	}
	w.fail("%s %v came to run, and nobody asked for that", tool, x)
	return nil, nil
}

// enters is called when a call has been let in.
func (w *desk) enters(ctx context.Context, p *process, c sluice.Call) (*deed, error) {
	raw, err := json.Marshal(c.Input)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	e, g := w.callOf(ctx, c.Tool, read(raw))
	if g == nil || p.dead {
		w.mu.Unlock()
		return nil, errDead
	}
	e.inside = true
	w.inside = append(w.inside, e)
	w.mu.Unlock()
	if !p.point("it is let in") {
		return nil, errDead
	}
	return e, nil
}

// moves is the tool.
func (w *desk) moves(ctx context.Context, p *process, x transfer) (string, error) {
	c, _ := sluice.CallFrom(ctx)
	w.mu.Lock()
	e, g := w.callOf(ctx, c.Tool, x)
	if g == nil || p.dead {
		w.mu.Unlock()
		return "", errDead
	}
	e.ran = true
	if g.runs++; g.runs > 1 {
		w.fail("%v runs again", g.order)
	}
	w.mu.Unlock()
	p.point("the tool has had its effect")
	time.Sleep(e.takes)
	p.point("the tool is about to return")
	switch e.ends {
	case "error":
		return "", errMoney
	case "panic":
		panic("no money")
	case "exit":
		runtime.Goexit()
	}
	return fmt.Sprint("moved ", x.Cents), nil
}

// gives is what a call gives that ends so, and that comes after it.
func (e *deed) gives(o order) string {
	return map[string]string{"return": fmt.Sprint("moved ", o.cents), "error": "tool_error", "panic": "panic", "exit": "goexit"}[e.ends]
}

// gave is what a call gave.
func gave(value any, err error) string {
	if err != nil {
		return sluice.CodeOf(err)
	}
	if s, ok := value.(string); ok {
		return s
	}
	return fmt.Sprintf("%s", value)
}

// context is what the call of e comes with.
func (w *desk) context(e *deed) context.Context {
	return context.WithValue(sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{RunID: "run", Tenant: e.tenant}), deedKey{}, e)
}

// does has the process do e.
func (w *desk) does(e *deed) {
	e.began, e.room = time.Now(), maxGrants
	for range w.state.List("here/approvals/") {
		e.room--
	}
	w.open = append(w.open, e)
	go func() {
		defer func() { // also if the tool calls Goexit
			w.mu.Lock()
			e.back, e.ended = !e.p.dead, time.Now()
			w.mu.Unlock()
			e.p.point("it has returned")
		}()
		if !e.p.point("it begins") {
			return
		}
		own := clerkOf(e.p)
		ctx := w.context(e)
		switch e.what {
		case "decide":
			e.err = own.approvals.Decide(ctx, e.g.id, e.decision)
		case "cancel":
			e.err = own.approvals.Cancel(ctx, e.g.id, e.decision.By, e.decision.Reason)
		case "look":
			e.list, e.err = own.approvals.Pending(ctx)
		case "ask", "come":
			if e.g != nil {
				ctx = agent.WithApproval(ctx, e.g.id)
			}
			e.err = &sluice.PanicError{Goexit: true} // as long as there is no other answer
			res, err := e.p.exec.Invoke(ctx, sluice.Request{ID: "c", Tool: e.tool, Args: json.RawMessage(e.text)})
			e.value, e.err = res.Value, err
		case "turn":
			e.next, e.err = own.runner.Turn(ctx, agent.OpenAIChat, e.message())
		case "resume":
			e.next, e.err = own.runner.Resume(ctx, agent.OpenAIChat, e.turn)
		}
	}()
}

// message is a model's that has a call of a tool that needs no approval, and those of e.
func (e *deed) message() []byte {
	calls := []string{`{"id":"look","type":"function","function":{"name":"look","arguments":"{}"}}`}
	for i, x := range e.parts {
		text, _ := json.Marshal(x.text)
		calls = append(calls, fmt.Sprintf(`{"id":"c%d","type":"function","function":{"name":%q,"arguments":%s}}`, i, x.tool, text))
	}
	return []byte(`{"choices":[{"message":{"role":"assistant","tool_calls":[` + strings.Join(calls, ",") + `]},"finish_reason":"tool_calls"}]}`)
}

// deed is one that some process is to do.
func (w *desk) deed(what string, g *grant) *deed {
	e := &deed{p: one(w.ground, "who", w.procs), what: what, g: g}
	w.cents++
	switch what {
	case "decide", "cancel":
		e.order = g.order
		e.decision = agent.Decision{By: fmt.Sprint("by ", w.cents), Reason: fmt.Sprint("because ", w.cents)}
		if e.decision.Approve = what == "decide" && w.draw("approve", 0, 3) > 0; e.decision.Approve && w.draw("edit", 0, 2) == 0 {
			o := g.order
			o.cents = w.cents
			w.owners[o] = g
			e.decision.Arguments = json.RawMessage(o.text(w.draw("form", 0, 1)))
		}
	case "come":
		if e.order = g.order; g.edited != 0 && w.draw("as edited", 0, 1) == 0 {
			e.order = g.approved()
		}
	case "ask":
		e.order = order{one(w.ground, "tool", []string{"pay", "wire"}), one(w.ground, "tenant", []string{"t1", "t2"}), w.cents}
	}
	e.text = e.order.text(w.draw("form", 0, map[string]int{"pay": 1, "wire": 2}[e.tool]))
	e.refused = w.draw("refused", 0, 4) == 0
	e.takes = time.Duration(max(0, w.draw("takes", -30, 100))) * time.Minute
	e.ends = one(w.ground, "ends", []string{"return", "return", "error", "panic", "exit"})
	return e
}

// forge is a call that comes with the approval of another.
func (w *desk) forge(g *grant) *deed {
	e := w.deed("come", g)
	switch w.draw("forged", 0, 3) {
	case 0:
		e.tool = map[string]string{"pay": "wire", "wire": "pay"}[g.tool]
	case 1:
		e.tenant = map[string]string{"t1": "t2", "t2": "t1"}[g.tenant]
	case 2:
		e.cents = w.cents
	case 3:
		if e.order = g.order; g.edited == 0 {
			w.Skip("nothing was edited")
		}
		e.order = g.approved()
		e.tenant = map[string]string{"t1": "t2", "t2": "t1"}[g.tenant]
	}
	if e.text = e.order.text(0); w.owners[e.order] != nil {
		w.Skip("it has been asked")
	}
	return e
}

// some is one of the approvals.
func (w *desk) some() *grant {
	if len(w.grants) == 0 {
		w.Skip("nothing was asked")
	}
	if w.draw("old", 0, 3) == 0 {
		return one(w.ground, "which", w.grants)
	}
	return one(w.ground, "which", w.grants[max(0, len(w.grants)-4):])
}

// ready is one that is approved.
func (w *desk) ready() *grant {
	var list []*grant
	for _, g := range w.grants {
		if g.state(time.Now()) == agent.ApprovalApproved {
			list = append(list, g)
		}
	}
	if len(list) == 0 {
		w.Skip("nothing is approved")
	}
	return one(w.ground, "which", list)
}

// step has all of them be done at once, and judges what comes of it.
func (w *desk) step(list ...*deed) {
	x := list[0] // others write of several approvals in one go: which of them had expired, say
	w.goes(len(list) == 1 && x.parts == nil && x.what != "look" && !x.forged())
	now := time.Now()
	for _, g := range w.grants {
		g.path = []agent.ApprovalState{g.state(now)}
	}
	for _, e := range list {
		for _, x := range e.calls() {
			if x.began = now; x.g != nil {
				x.may, x.must = x.g.forgotten(now)
				x.known = x.g.gave != "" && !x.g.vague
			}
		}
		w.does(e)
	}
	w.settle()
}

// turn is an deed of a turn of some calls.
func (w *desk) turn() *deed {
	e := w.deed("turn", nil)
	e.tenant = one(w.ground, "tenant", []string{"t1", "t2"})
	for range w.draw("calls", 1, 3) {
		x := w.deed("ask", nil)
		x.p, x.tenant = e.p, e.tenant
		e.parts = append(e.parts, x)
	}
	return e
}

// resumed is an deed of a turn that goes on, maybe again.
func (w *desk) resumed() *deed {
	if len(w.turns) == 0 {
		w.Skip("no turn waits")
	}
	e := w.deed("resume", nil)
	e.turn = new(agent.Turn)
	if err := json.Unmarshal(one(w.ground, "turn", w.turns), e.turn); err != nil {
		w.Fatal(err)
	}
	for _, a := range e.turn.Pending {
		x := w.deed("come", w.byID(a.ID))
		x.p, x.order, e.tenant = e.p, x.g.order, x.g.tenant
		e.parts = append(e.parts, x)
	}
	return e
}

// passes has time pass, maybe to the very instant at which something is over.
func (w *desk) passes(to bool) {
	d := time.Duration(w.draw("minutes", 1, 30)) * time.Minute
	if to {
		g := w.some()
		d = time.Until(g.since().Add(grantLife)) - time.Duration(w.draw("before", 0, 1))
		if d <= 0 {
			w.Skip("it is over")
		}
	}
	w.goes(false)
	time.Sleep(d)
	w.settle()
}

// TestApprovals drives approvals and turns in processes that die anywhere.
func TestApprovals(t *testing.T) {
	checks := 2000
	if raceDetector {
		checks = 300
	}
	given := setChecks(t, checks)
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	n := deskCounts{where: map[string]int{}}
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			w := newDesk(rt, &n)
			defer w.end()
			ask := func(*rapid.T) { w.step(w.deed("ask", nil)) }
			decide := func(*rapid.T) { w.step(w.deed("decide", w.some())) }
			come := func(*rapid.T) { w.step(w.deed("come", w.some())) }
			rt.Repeat(map[string]func(*rapid.T){
				"ask": ask, "ask 2": ask, "decide": decide, "decide 2": decide, "come": come,
				"run": func(*rapid.T) { w.step(w.deed("come", w.ready())) },
				"run and die": func(*rapid.T) {
					e := w.deed("come", w.ready())
					w.dooms(e.p)
					w.step(e)
				},
				"cancel": func(*rapid.T) { w.step(w.deed("cancel", w.some())) },
				"forge":  func(*rapid.T) { w.step(w.forge(w.some())) },
				"look":   func(*rapid.T) { w.look() },
				"turn":   func(*rapid.T) { w.step(w.turn()) },
				"resume": func(*rapid.T) { w.step(w.resumed()) },
				"race": func(*rapid.T) {
					g := w.some()
					var list []*deed
					for range w.draw("several", 2, 5) {
						list = append(list, w.deed(one(w.ground, "what", []string{"decide", "decide", "come", "come", "cancel"}), g))
					}
					n.races++
					w.step(list...)
				},
				"time": func(*rapid.T) { w.passes(false) }, "time to the end": func(*rapid.T) { w.passes(true) },
				"die soon": func(*rapid.T) { w.dooms(one(w.ground, "who", w.procs)) },
				"restart": func(*rapid.T) {
					n.restarts++
					w.goes(false)
					w.restart()
					w.settle()
				},
			})
			w.wind()
		})
	})
	t.Logf("%+v", n)
	if checks < 2000 || given || testing.Short() {
		return // too few to have met everything
	}
	for name, k := range map[string]int{"asked": n.asked, "refused for room": n.full, "decided": n.decided, "decided late": n.late, "ran": n.ran, "came again": n.again,
		"came and it was not known": n.unknown, "forged": n.forged, "edited": n.edited, "refused further in": n.refused, "died": n.deaths, "died halfway": n.halfway,
		"resumed": n.resumed, "forgotten": n.forgotten} {
		if k == 0 {
			t.Errorf("nobody %s: the run tests less than it should", name)
		}
	}
	for _, where := range []string{"it begins", "approval.requested is told", "approval.decided is told", "it is let in", "it is refused further in",
		"the tool has had its effect", "the tool is about to return", "it has returned"} {
		if n.where[where] == 0 {
			t.Errorf("nobody died when %s: the run tests less than it should", where)
		}
	}
}
