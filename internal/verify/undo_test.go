package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/resilience"
)

// Undoings, in processes that die at any point of what they do, over a state that survives them. What the library says
// and does is held against what the tools have left, and which undo function has run with what.

type shop struct {
	*ground
	auditor *agent.Undo
	calls   []*made
	marks   []*mark
	open    []*undoing
	ids     int
	order   int
	hedged  bool // calls have two attempts at once
	under   int  // calls under way
	ends    int  // instants at which some code has been told to go on
	n       *shopCounts
}

type shopCounts struct {
	where map[string]int // processes died

	reports, full, large, late, undone, failed, refused, groups, steps, resolved, deaths, restarts, races int
}

func newShop(rt *rapid.T, n *shopCounts) *shop {
	w := &shop{ground: newGround(rt, n.where), n: n, hedged: rapid.Bool().Draw(rt, "hedged")}
	w.begin()
	w.begin()
	w.audited()
	return w
}

func (w *shop) config(state *sluice.SharedState, p *process) agent.UndoConfig {
	c := agent.UndoConfig{State: state, Lifetime: undoLife, Lease: undoLease, Timeout: undoTimeout, MaxCalls: maxUndos, MaxBytes: 1000}
	c.Undo = map[string]func(context.Context, json.RawMessage) error{"write": func(ctx context.Context, data json.RawMessage) error { return w.undoes(ctx, p, data) }}
	if p != nil {
		c.Sink = told{p, func(*sluice.Event) {}}
	}
	return c
}

// begin has a process begin.
func (w *shop) begin() {
	w.start(func(p *process) {
		undo := sluice.Must(agent.NewUndo(w.config(p.view, p)))
		again := sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 3, Base: 25 * time.Second, Max: 25 * time.Second, Jitter: resilience.NoJitter,
			Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Min: 1000})),
			If: func(_ sluice.Spec, _ sluice.Attempt, _ sluice.Result, err error) bool {
				return err != nil && !errors.Is(err, errDead)
			}}))
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 10_000}}}))
		hedge := sluice.Must(resilience.NewHedge(resilience.HedgeConfig{Tools: func(sluice.Spec) bool { return w.hedged }, After: 10 * time.Second,
			Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Min: 1000}))}))
		p.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{again, hedge, limits, undo}}))
		spec := sluice.Spec{Name: "write", Policy: sluice.Policy{Timeout: 40 * time.Second}, Hints: sluice.Hints{Idempotent: true}}
		sluice.Must(sluice.Wrap(p.exec, spec, func(ctx context.Context, _ int) (int, error) { return 0, w.writes(ctx, p) }))
		p.own = undo
	})
}

func (w *shop) audited() {
	w.auditor = sluice.Must(agent.NewUndo(w.config(sluice.Must(w.state.View("here/", sluice.SharedStateConfig{})), nil)))
}

// kept is how many calls the state knows.
func (w *shop) kept() (n int) {
	for range w.state.List("here/undo/call/") {
		n++
	}
	return n
}

// writes is an attempt of a call.
func (w *shop) writes(ctx context.Context, p *process) error {
	call, _ := sluice.CallFrom(ctx)
	c, x := ctx.Value(madeKey{}).(*made), &code{p: p}
	w.mu.Lock()
	w.under++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.under--
		x.ended = !p.dead
	}()
	n := int(call.Attempt-1) % len(c.attempts)
	for _, a := range c.attempts[n] {
		time.Sleep(w.about(a.after))
		if !p.point("a tool reports") {
			return errDead
		}
		w.mu.Lock()
		w.ids++
		m := &mark{id: w.ids, of: c, attempt: call.Attempt}
		room := w.kept() < maxUndos
		w.mu.Unlock()
		var err error
		switch a.what {
		case "report":
			err = agent.ReportUndo(ctx, m.id)
		case "take back":
			err = agent.ReportUndo(ctx, nil)
		case "report too much":
			err = agent.ReportUndo(ctx, strings.Repeat("x", 2000))
		}
		w.mu.Lock()
		w.reported(c, x, m, a.what, room, err, call.Key.String())
		w.mu.Unlock()
		if !p.point("it has reported") {
			return errDead
		}
	}
	if c.fails[n] {
		return errMoney
	}
	return nil
}

// about is d, or up to a second more: until an instant at which no other code goes on. Where two go on at one, and one
// of them is the end of their process, nobody can say how far the other has come.
func (w *shop) about(d time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends++
	now, own := time.Now(), time.Duration(w.ends)*time.Microsecond
	end := now.Add(d).Truncate(time.Second).Add(own)
	if end.Before(now.Add(d)) {
		end = end.Add(time.Second)
	}
	return end.Sub(now)
}

// reported is a report that has ended with err. The world is locked.
func (w *shop) reported(c *made, x *code, m *mark, what string, room bool, err error, key string) {
	if x.p.dead {
		return
	}
	now := time.Now()
	if !slices.Contains(c.codes, x) {
		c.codes = append(c.codes, x)
	}
	switch known := c.known(now); {
	case what == "report too much":
		w.n.large++
		if err == nil || !strings.Contains(err.Error(), "must have at most 1000") {
			w.fail("%s: too much was kept: %v", c.id, err)
		}
		return
	case !known && !room:
		w.n.full++
		if !errors.Is(err, sluice.ErrFull) {
			w.fail("%s: more calls than %d were kept: %v", c.id, maxUndos, err)
		}
		return
	case err != nil:
		w.fail("%s: %v", c.id, err)
		return
	case !known: // it is a call that nobody knew, by now
		c.marks, c.by, c.vague, c.first, c.key = nil, nil, false, now, key
		w.order++
		c.order = w.order
	}
	w.n.reports++
	c.last, x.kept = now, true
	at := slices.IndexFunc(c.marks, func(y *mark) bool { return y.attempt == m.attempt && !y.inHand })
	switch {
	case what == "take back" && at >= 0:
		c.marks = slices.Delete(slices.Clone(c.marks), at, at+1)
	case what == "take back":
	case at >= 0:
		c.marks[at] = m
	default:
		c.marks = append(c.marks, m)
	}
	if what == "report" {
		w.marks = append(w.marks, m)
	}
}

// undoes is the undo function.
func (w *shop) undoes(ctx context.Context, p *process, data json.RawMessage) error {
	x := ctx.Value(undoingKey{}).(*undoing)
	w.mu.Lock()
	if p == nil || p.dead {
		w.mu.Unlock()
		return errDead
	}
	m := w.takes(x, data)
	w.mu.Unlock()
	if m == nil || !p.point("an undo function begins") {
		return errDead
	}
	i := len(x.ran) - 1
	d, ends := x.takes[min(i, len(x.takes)-1)], x.ends[min(i, len(x.ends)-1)]
	if d > 0 {
		d = w.about(d)
	}
	if x.heeds {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			if ends = "timeout"; w.dooming(p) { // when its caller is told, and dies maybe
				time.Sleep(w.about(0))
			}
		}
	} else {
		time.Sleep(d)
	}
	if !p.point("it has waited") {
		return errDead
	}
	w.mu.Lock()
	m.undone = ends == "return" && !p.dead
	w.mu.Unlock()
	if !p.point("it has had its effect") {
		return errDead
	}
	w.mu.Lock()
	x.late = x.late || d > undoTimeout
	w.settled(x, m, ends)
	w.mu.Unlock()
	switch ends {
	case "error":
		return errMoney
	case "panic":
		panic("no money")
	case "exit":
		runtime.Goexit()
	case "timeout":
		return ctx.Err()
	}
	return nil
}

// takes has x take a mark in hand, and holds against the world that it may. The world is locked.
func (w *shop) takes(x *undoing, data json.RawMessage) *mark {
	now, id := time.Now(), 0
	if err := json.Unmarshal(data, &id); err != nil {
		w.fail("%v", err)
		return nil
	}
	m := w.marks[slices.IndexFunc(w.marks, func(m *mark) bool { return m.id == id })]
	c := m.of
	_, runs := c.runs(now)
	switch {
	case c.tenant != x.tenant || x.c != nil && x.c != c || x.what == "group" && x.group != c.group:
		w.fail("%s of %s/%s is undone for %s/%s", c.id, c.tenant, c.group, x.tenant, x.group)
	case !c.known(now):
		w.fail("%s is undone after %v", c.id, now.Sub(c.last))
	case x.late:
		w.fail("%s is undone, and who asked was told that the time is over", c.id)
	case m.undone || m.inHand:
		w.fail("what %s left is undone again", c.id)
	case c.by != nil && c.by != x:
		w.fail("%s is undone, and somebody has it in hand", c.id)
	case runs:
		w.fail("%s is undone, and its code runs", c.id)
	case len(c.marks) == 0 || c.marks[len(c.marks)-1] != m:
		w.fail("what %s left is undone in another order", c.id)
	}
	for _, y := range w.calls { // of a group, the latest first
		if x.what == "group" && y.tenant == x.tenant && y.group == x.group && y.order > c.order && y.last.Before(x.began) && !y.over(now) {
			w.fail("%s is undone before %s, which came later", c.id, y.id)
		}
	}
	if w.wrong != "" {
		return nil // lest it goes on for ever
	}
	w.n.steps++
	m.inHand, c.by, c.vague = true, x, false
	x.ran = append(x.ran, m)
	return m
}

// settled is a mark whose undo function has ended. The world is locked.
func (w *shop) settled(x *undoing, m *mark, ends string) {
	now, c := time.Now(), m.of
	m.inHand, x.fails = false, map[string]string{"return": "", "error": "failed", "panic": "panicked", "exit": "exited", "timeout": "timeout"}[ends]
	if c.by != x { // it has been forgotten meanwhile
		return
	}
	if ends == "return" {
		c.marks = slices.DeleteFunc(slices.Clone(c.marks), func(y *mark) bool { return y == m })
	}
	may, must := c.runs(now)
	switch {
	case ends != "return" || len(c.marks) == 0 || x.late || must:
		c.by = nil
	case may:
		c.by, c.vague = nil, true
	}
}

// write has a process make a call that may be undone.
func (w *shop) write() {
	w.ids++
	c := &made{id: fmt.Sprint("c", w.ids), p: one(w.ground, "who", w.procs), tenant: one(w.ground, "tenant", []string{"t1", "t2"}), group: one(w.ground, "group", []string{"g1", "g2"})}
	for range 3 {
		var acts []act
		for range w.draw("acts", 0, 3) {
			after := time.Duration(max(0, w.draw("after", -20, 30))) * time.Second
			acts = append(acts, act{after, one(w.ground, "what", []string{"report", "report", "report", "take back", "report too much"})})
		}
		if n := w.draw("long", 0, 5); n < 2 && len(acts) > 0 {
			acts[len(acts)-1].after += time.Duration(w.draw("longer", 1, 90)) * []time.Duration{time.Minute, 2 * time.Second}[n]
		}
		c.attempts, c.fails = append(c.attempts, acts), append(c.fails, w.draw("fails", 0, 2) == 0)
	}
	w.goes(true)
	w.mu.Lock()
	w.calls = append(w.calls, c)
	w.under++
	w.mu.Unlock()
	go func() {
		ctx := context.WithValue(w.context(c.tenant), madeKey{}, c)
		_, _ = c.p.exec.Invoke(agent.WithUndoGroup(ctx, c.group), sluice.Request{ID: c.id, Tool: "write", Input: 1})
		w.mu.Lock()
		defer w.mu.Unlock()
		w.under--
	}()
	w.settle()
}

func (w *shop) context(tenant string) context.Context {
	return sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{RunID: "run", Tenant: tenant})
}

// undoing is one that some process is to do.
func (w *shop) undoing(what string) *undoing {
	c := w.some()
	x := &undoing{p: one(w.ground, "who", w.procs), what: what, c: c, tenant: c.tenant, group: c.group, truth: true}
	if w.draw("stranger", 0, 7) == 0 {
		x.tenant = one(w.ground, "tenant", []string{"t1", "t2", "t3"})
	}
	if what == "group" {
		x.c = nil
	}
	for range 3 {
		x.takes = append(x.takes, time.Duration(max(0, w.draw("takes", -40, 90)))*time.Second)
		x.ends = append(x.ends, one(w.ground, "ends", []string{"return", "return", "return", "return", "error", "panic", "exit"}))
	}
	x.heeds = w.draw("heeds", 0, 1) == 0
	if w.draw("leaves", 0, 4) == 0 {
		x.waits = time.Duration(w.draw("waits", 1, 15)) * time.Second
	}
	w.ids++
	return x
}

// some is a call that has left something, one of the later ones more often.
func (w *shop) some() *made {
	list := slices.DeleteFunc(slices.Clone(w.calls), func(c *made) bool { return c.key == "" })
	if len(list) == 0 {
		w.Skip("nothing was left")
	}
	if w.draw("old", 0, 3) > 0 {
		list = list[max(0, len(list)-4):]
	}
	return one(w.ground, "which", list)
}

// step has all of them be done at once, and judges what has come of it.
func (w *shop) step(list ...*undoing) {
	for _, x := range list {
		x.began, x.raced = time.Now(), len(list) > 1
		if x.c != nil {
			if x.was = x.c.states(x.began); x.c.tenant != x.tenant {
				x.was = []agent.UndoState{agent.UndoUnknown}
			}
			if x.what == "resolve" {
				if m := x.c.doubtful(); m != nil {
					x.truth = m.undone
				}
			}
		}
	}
	w.open = append(w.open, list...)
	w.goes(len(list) == 1)
	for _, x := range list {
		go func() {
			if !x.p.point("it begins") {
				w.mu.Lock()
				defer w.mu.Unlock()
				x.back = true
				return
			}
			defer x.p.point("it has returned")
			undo, ctx := x.p.own.(*agent.Undo), context.WithValue(w.context(x.tenant), undoingKey{}, x)
			if x.waits > 0 {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, x.waits)
				defer cancel()
			}
			n, err := 0, error(nil)
			switch x.what {
			case "call":
				err = undo.Call(ctx, x.c.key)
			case "group":
				n, err = undo.Group(ctx, x.group)
			case "resolve":
				err = undo.Resolve(ctx, x.c.key, x.truth)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if x.back, x.at, x.n, x.err = true, time.Now(), n, err; x.p.dead {
				return
			}
			if x.what == "resolve" && err == nil {
				w.resolves(x)
			}
			w.judge(x)
		}()
	}
	w.settle()
}

// doubtful is what is in hand of somebody who is dead.
func (c *made) doubtful() *mark {
	if _, dead := c.dead(); !dead {
		return nil
	}
	for _, m := range c.marks {
		if m.inHand {
			return m
		}
	}
	return nil
}

// resolves is x, who has decided about a call in doubt. The world is locked.
func (w *shop) resolves(x *undoing) {
	w.n.resolved++
	c, m := x.c, x.c.doubtful()
	if c.by = nil; m == nil {
		return
	}
	if m.inHand = false; x.truth {
		c.marks = slices.DeleteFunc(slices.Clone(c.marks), func(y *mark) bool { return y == m })
	}
}

// busy reports whether a call is under way, or code of it.
func (w *shop) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.under > 0
}

// wind waits for all, decides about what is in doubt, and undoes what is left: then all is undone, once.
func (w *shop) wind() {
	for w.busy() || len(w.open) > 0 {
		w.passes(time.Minute + time.Nanosecond)
	}
	w.passes(6 * time.Minute) // for undo functions whose callers have left, and leases
	for range 2 {
		for _, c := range w.calls {
			if c.key == "" {
				continue
			}
			p := w.procs[0]
			w.spares()
			for _, what := range []string{"resolve", "call"} {
				w.step(&undoing{p: p, what: what, c: c, tenant: c.tenant, truth: true, takes: []time.Duration{0}, ends: []string{"return"}})
			}
		}
	}
	for _, c := range w.calls {
		if now := time.Now(); c.known(now) && len(c.marks) > 0 {
			w.Fatalf("%s has left %d in the end", c.id, len(c.marks))
		}
	}
	w.passes(undoLife)
	if n := w.kept(); n > 0 {
		w.Fatalf("%d calls are kept for ever", n)
	}
}

// TestUndo drives calls and undoings in processes that die anywhere.
func TestUndo(t *testing.T) {
	checks := 2000
	if raceDetector {
		checks = 300
	}
	given := setChecks(t, checks)
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	n := shopCounts{where: map[string]int{}}
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			w := newShop(rt, &n)
			defer w.end()
			write := func(*rapid.T) { w.write() }
			undo := func(*rapid.T) { w.step(w.undoing("call")) }
			group := func(*rapid.T) { w.step(w.undoing("group")) }
			rt.Repeat(map[string]func(*rapid.T){
				"write": write, "write 2": write, "write 3": write, "undo": undo, "undo 2": undo, "group": group, "group 2": group,
				"resolve": func(*rapid.T) { w.step(w.undoing("resolve")) },
				"race": func(*rapid.T) {
					x := w.undoing("call")
					list := []*undoing{x}
					w.spares() // whose point it is that one dies at does not tell then how far another has come
					for range w.draw("several", 1, 4) {
						y := *x
						y.p = one(w.ground, "who", w.procs)
						list = append(list, &y)
					}
					w.step(list...)
				},
				"time":      func(*rapid.T) { w.passes(time.Duration(w.draw("seconds", 1, 60)) * time.Second) },
				"time 2":    func(*rapid.T) { w.passes(time.Duration(w.draw("seconds", 1, 60)) * time.Second) },
				"much time": func(*rapid.T) { w.passes(time.Duration(w.draw("minutes", 1, 40)) * time.Minute) },
				"time to the end": func(*rapid.T) {
					d := time.Until(w.some().last.Add(undoLife)) - time.Duration(w.draw("before", 0, 1))
					if d <= 0 {
						w.Skip("it is over")
					}
					w.passes(d)
				},
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
	for name, k := range map[string]int{"reports": n.reports, "calls too many": n.full, "reports too large": n.large, "late undo functions": n.late, "undone calls": n.undone,
		"failures": n.failed, "refusals": n.refused, "groups": n.groups, "decisions": n.resolved, "deaths": n.deaths, "races": n.races} {
		if k == 0 {
			t.Errorf("no %s: the run tests less than it should", name)
		}
	}
	for _, where := range []string{"it begins", "a tool reports", "it has reported", "an undo function begins", "it has waited", "it has had its effect",
		"tool.undone is told", "tool.undo_failed is told", "it has returned"} {
		if n.where[where] == 0 {
			t.Errorf("nobody died when %s: the run tests less than it should", where)
		}
	}
}
