package verify

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// Calls that read and write resources, in one or two executors that share these. What the library says of a
// step is held against this model of readers and writers: who runs, who waits, in which order they came.

// access is a call and what it needs.
type access struct {
	seq           int
	reads, writes []string
	parent        *access
	kids          []*access // that have not ended
	came          int       // the ordinal of its arrival
	state         string    // "", "waits", "runs", "ended"
	cancelled     bool
	passes        bool // it has waited for those who waited for its ancestors, and passes them from then on

	ctx    context.Context // inside
	cancel context.CancelFunc
	end    chan string // how it is to end: "return", "error", "panic", "exit"
}

func (x *access) String() string {
	p := ""
	if x.parent != nil {
		p = fmt.Sprintf(" in %d", x.parent.seq)
	}
	return fmt.Sprintf("%d%s (reads %v, writes %v)", x.seq, p, x.reads, x.writes)
}

// needs is how x needs k: 0 not, 1 to read, 2 to write.
func (x *access) needs(k string) int {
	switch {
	case slices.Contains(x.writes, k):
		return 2
	case slices.Contains(x.reads, k):
		return 1
	}
	return 0
}

func (x *access) keys() []string { return append(slices.Clone(x.reads), x.writes...) }

// conflicts reports whether x and y must not run together, at k.
func (x *access) conflicts(y *access, k string) bool {
	a, b := x.needs(k), y.needs(k)
	return a > 0 && b > 0 && a+b > 2
}

// above reports whether x is an ancestor of y.
func (x *access) above(y *access) bool {
	for p := y.parent; p != nil; p = p.parent {
		if p == x {
			return true
		}
	}
	return false
}

// root is the outermost ancestor of x, or x.
func (x *access) root() *access {
	for x.parent != nil {
		x = x.parent
	}
	return x
}

// owner is the nearest ancestor of x that needs k.
func (x *access) owner(k string) *access {
	for p := x.parent; p != nil; p = p.parent {
		if p.needs(k) > 0 {
			return p
		}
	}
	return nil
}

// covered reports whether what an ancestor of x has of k is enough for x.
func (x *access) covered(k string) bool {
	for p := x.owner(k); p != nil; p = p.owner(k) {
		if p.needs(k) >= x.needs(k) {
			return true
		}
	}
	return false
}

type conflicts struct {
	*rapid.T
	execs []*sluice.Executor
	mu    sync.Mutex
	calls []*access
	fresh []string // what has happened in this step
	came  int
	n     *conflictCounts
}

type conflictCounts struct {
	calls, waits, nested, refused, behind, passed, kin, cancelled, together int
}

func newConflicts(rt *rapid.T, n *conflictCounts) *conflicts {
	w := &conflicts{T: rt, n: n}
	of := func(c sluice.Call) (reads, writes []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		x := w.calls[c.Input.(int)]
		return x.reads, x.writes
	}
	list := []sluice.Interceptor{sluice.Must(agent.NewResources(of))}
	if rapid.Bool().Draw(rt, "scheduler") {
		list = append(list, sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})))
	}
	registry := sluice.NewToolRegistry()
	sluice.Must(sluice.Register(registry, sluice.Spec{Name: "work"}, w.run))
	for range rapid.IntRange(1, 2).Draw(rt, "executors") {
		w.execs = append(w.execs, sluice.Must(sluice.NewExecutor(registry, sluice.Config{Interceptors: list})))
	}
	return w
}

func (w *conflicts) run(ctx context.Context, seq int) (int, error) {
	w.mu.Lock()
	x := w.calls[seq]
	x.ctx, x.state = ctx, "runs"
	w.fresh = append(w.fresh, fmt.Sprint("start ", seq))
	w.mu.Unlock()
	switch <-x.end {
	case "error":
		return 0, errors.New("its own")
	case "panic":
		panic("its own")
	case "exit":
		runtime.Goexit()
	}
	return seq, nil
}

// oneOf is one of list.
func oneOf[V any](w *conflicts, what string, list []V) V {
	return list[rapid.IntRange(0, len(list)-1).Draw(w.T, what)]
}

// in is the calls in that state, in the order in which they came.
func (w *conflicts) in(state string) (list []*access) {
	for _, x := range w.calls {
		if x.state == state {
			list = append(list, x)
		}
	}
	slices.SortFunc(list, func(a, b *access) int { return a.came - b.came })
	return list
}

// call has a call come, nested in the parent if there is one.
func (w *conflicts) call(parent *access) {
	if len(w.in("waits")) >= 12 {
		w.Skip("enough wait")
	}
	x := &access{seq: len(w.calls), parent: parent, end: make(chan string, 1), came: w.came, state: "waits"}
	w.came++
	for _, k := range []string{"a", "b", "c", "d"} {
		switch rapid.IntRange(0, 6).Draw(w.T, k) {
		case 0, 1:
			x.reads = append(x.reads, k)
		case 2:
			x.writes = append(x.writes, k)
		}
	}
	from := context.Background()
	if parent != nil {
		from = parent.ctx
		parent.kids = append(parent.kids, x)
		w.n.nested++
	} else {
		from = sluice.WithPipelineContext(from, sluice.PipelineContext{Priority: sluice.Priority(rapid.IntRange(1, 9).Draw(w.T, "priority"))})
	}
	from, x.cancel = context.WithCancel(from)
	w.mu.Lock()
	w.calls = append(w.calls, x)
	w.mu.Unlock()
	w.n.calls++
	exec, request := oneOf(w, "executor", w.execs), sluice.Request{Tool: "work", Input: x.seq}
	if rapid.Bool().Draw(w.T, "submit") {
		f := exec.Submit(from, request)
		go func() {
			_, err := f.Wait(context.Background())
			w.answered(x, err)
		}()
	} else {
		go func() {
			var err error
			defer func() { w.answered(x, err) }() // also if the tool calls Goexit
			_, err = exec.Invoke(from, request)
		}()
	}
	w.check(x)
}

func (w *conflicts) answered(x *access, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := x.state
	x.state = "ended"
	defer func() {
		if x.parent != nil && x.state == "ended" {
			x.parent.kids = slices.DeleteFunc(x.parent.kids, func(k *access) bool { return k == x })
		}
	}()
	if rejected := errors.Is(err, sluice.ErrRejected); rejected != (was == "waits") && err != nil {
		w.fresh = append(w.fresh, fmt.Sprintf("wrong %d answered %v and was %s", x.seq, err, was))
		return
	}
	if was != "waits" {
		return
	}
	switch {
	case x.cancelled:
		w.n.cancelled++
	case errors.Is(err, sluice.ErrNesting):
		x.state = "refused"
	default:
		w.fresh = append(w.fresh, fmt.Sprintf("wrong %d was refused: %v", x.seq, err))
	}
}

// check waits until all is quiet, and judges what has happened since. The call that has just come is no idler
// before that.
func (w *conflicts) check(last *access) {
	w.mu.Lock()
	before := w.in("waits")
	w.mu.Unlock()
	synctest.Wait()
	w.mu.Lock()
	fresh := w.fresh
	w.fresh = nil
	w.mu.Unlock()
	var started []*access
	for _, f := range fresh {
		seq := 0
		if _, err := fmt.Sscanf(f, "start %d", &seq); err != nil {
			w.Fatal(f)
		}
		started = append(started, w.calls[seq])
	}
	running, waiting := w.in("runs"), w.in("waits")
	for i, x := range running {
		for _, y := range running[:i] {
			for _, k := range x.keys() {
				if x.needs(k)+y.needs(k) == 2 {
					w.n.together++
				}
				if x.conflicts(y, k) && !(y.above(x) && x.covered(k)) && !(x.above(y) && y.covered(k)) {
					w.Fatalf("%v runs beside %v", x, y)
				}
			}
		}
	}
	refused := w.in("refused")
	for _, x := range refused {
		x.state = "waits" // as it did until now
	}
	for _, x := range started { // among those that waited before, and came earlier
		for _, y := range before {
			if y.state != "waits" || slices.Contains(refused, y) || y.came >= x.came {
				continue
			}
			for _, k := range x.keys() {
				if !x.conflicts(y, k) || x.covered(k) {
					continue
				}
				if x.root() == y.root() && x.root() != y {
					w.n.kin++ // of one family, of which one may wait in vain for a moment
					continue
				}
				if !x.passes && !w.inVain(y, x) && !w.before(started, func() bool { w.passing(); return x.passes }) {
					w.Fatalf("%v started before %v, which came earlier", x, y)
				}
				w.n.passed++
			}
		}
	}
	for _, x := range waiting {
		if w.n.waits++; w.free(x, running, waiting) {
			w.Fatalf("%v waits, and need not: %v run, %v wait", x, running, waiting)
		}
	}
	w.before(started, func() bool { w.passing(); return true })
	w.passing()
	for _, x := range refused {
		if x.parent == nil {
			w.Fatalf("%v was refused and is not nested", x)
		}
		switch itself := func() bool { return w.waitsForItself(x) }; {
		case itself() || w.before(started, itself):
		case slices.ContainsFunc(waiting, w.waitsForItself) || w.before(started, func() bool { return slices.ContainsFunc(w.in("waits"), w.waitsForItself) }):
			w.n.behind++ // somebody does: it is rare that another is refused for that
		default:
			w.Fatalf("%v was refused, and nobody waited for himself", x)
		}
		w.n.refused++
	}
	for _, x := range refused {
		x.state = "ended"
		x.parent.kids = slices.DeleteFunc(x.parent.kids, func(k *access) bool { return k == x })
	}
	w.passing()
	if len(waiting) > 0 && !slices.ContainsFunc(running, func(x *access) bool { return len(x.kids) == 0 }) {
		w.Fatalf("nobody can end, and %v wait", waiting)
	}
}

func (w *conflicts) waitsForItself(x *access) bool {
	return w.waitsFor(x, func(z *access) bool { return z.above(x) })
}

// before is what f says of when those that have just started waited.
func (w *conflicts) before(started []*access, f func() bool) bool {
	for _, x := range started {
		x.state = "waits"
	}
	defer func() {
		for _, x := range started {
			x.state = "runs"
		}
	}()
	return f()
}

// passing notes who passes others: a nested call that waits for some who wait for its ancestors.
func (w *conflicts) passing() {
	waiting := w.in("waits")
	for i, x := range waiting {
		x.passes = x.passes || slices.ContainsFunc(waiting[:i], func(y *access) bool {
			return slices.ContainsFunc(x.keys(), func(k string) bool { return x.conflicts(y, k) && !x.covered(k) }) &&
				w.inVain(y, x)
		})
	}
}

// inVain reports whether x, which is nested, would wait for itself behind y, or y waits for somebody who waits
// for himself.
func (w *conflicts) inVain(y, x *access) bool {
	return x.parent != nil && w.waitsFor(y, func(z *access) bool { return z.above(x) || z.above(y) || z.state == "waits" && w.waitsForItself(z) })
}

// free reports whether x, which waits, could start.
func (w *conflicts) free(x *access, running, waiting []*access) bool {
	for _, k := range x.keys() {
		if o := x.owner(k); o != nil && o.needs(k) >= x.needs(k) && !slices.ContainsFunc(running, func(y *access) bool { return y.needs(k) > 0 && y.owner(k) == o }) {
			continue // it is there to run on
		}
		for _, y := range running {
			if x.conflicts(y, k) {
				return false
			}
		}
		for _, y := range waiting {
			if y.came < x.came && x.conflicts(y, k) { // which it passes once nobody else can help
				return false
			}
		}
	}
	return true
}

// waitsFor reports whether x waits for somebody of whom is says yes, and for whoever that waits for.
func (w *conflicts) waitsFor(x *access, is func(*access) bool) bool {
	running, waiting := w.in("runs"), w.in("waits")
	seen := map[*access]bool{}
	var look func(x *access) bool
	look = func(x *access) bool {
		if seen[x] {
			return false
		}
		seen[x] = true
		if x.state == "runs" {
			return slices.ContainsFunc(x.kids, func(y *access) bool { return is(y) || look(y) })
		}
		for _, k := range x.keys() {
			for _, y := range running {
				if x.conflicts(y, k) && (is(y) || look(y)) {
					return true
				}
			}
			for _, y := range waiting {
				if y.came < x.came && x.conflicts(y, k) && (is(y) || look(y)) {
					return true
				}
			}
		}
		return false
	}
	return look(x)
}

// ends has a call end that runs and has called nobody who has not ended.
func (w *conflicts) ends(how []string) bool {
	list := slices.DeleteFunc(w.in("runs"), func(x *access) bool { return len(x.kids) > 0 })
	if len(list) == 0 {
		return false
	}
	oneOf(w, "who ends", list).end <- oneOf(w, "how", how)
	w.check(nil)
	return true
}

// cancels has a waiting call be cancelled.
func (w *conflicts) cancels() {
	list := w.in("waits")
	if len(list) == 0 {
		w.Skip("nobody waits")
	}
	x := oneOf(w, "who leaves", list)
	x.cancelled = true
	x.cancel()
	w.check(nil)
	if x.state != "ended" {
		w.Fatalf("%v was cancelled and is %s", x, x.state)
	}
}

func (w *conflicts) wind() {
	for w.ends([]string{"return"}) {
	}
	if list := w.in("waits"); len(list) > 0 {
		w.Fatalf("%v wait in the end", list)
	}
	for _, e := range w.execs {
		if err := e.Close(context.Background()); err != nil {
			w.Fatal(err)
		}
		for _, g := range e.Snapshot().Gates {
			if g.Used != 0 {
				w.Fatalf("%s %s: %d are used in the end", g.Name, g.Key, g.Used)
			}
		}
	}
}

// abort ends what a failure has left.
func (w *conflicts) abort() {
	for range 1000 {
		for _, x := range w.calls {
			x.cancel()
			select {
			case x.end <- "return":
			default:
			}
		}
		if synctest.Wait(); len(w.in("runs")) == 0 {
			break
		}
	}
	for _, e := range w.execs {
		e.Close(context.Background())
	}
}

// TestConflicts drives calls that read and write the same resources, nested and cancelled, through executors
// that share them: no two writers, no reader beside a writer, in the order in which they came, nobody waits who
// need not, and nobody for himself.
func TestConflicts(t *testing.T) {
	checks := 10_000
	if raceDetector {
		checks = 1000
	}
	given := setChecks(t, checks)
	var n conflictCounts
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			w := newConflicts(rt, &n)
			defer w.abort()
			call := func(*rapid.T) { w.call(nil) }
			rt.Repeat(map[string]func(*rapid.T){
				"call": call, "call 2": call, "call 3": call,
				"nest": func(*rapid.T) {
					list := w.in("runs")
					if len(list) == 0 {
						w.Skip("nobody runs")
					}
					w.call(oneOf(w, "parent", list))
				},
				"end": func(*rapid.T) {
					if !w.ends([]string{"return", "return", "error", "panic", "exit"}) {
						w.Skip("nobody can end")
					}
				},
				"cancel": func(*rapid.T) { w.cancels() },
			})
			w.wind()
		})
	})
	t.Logf("%+v", n)
	if n.behind > n.refused/20 {
		t.Errorf("%d of %d were refused who did not wait for themselves", n.behind, n.refused)
	}
	if checks < 10_000 || given || testing.Short() {
		return // too few to have met everything
	}
	for name, k := range map[string]int{"waits": n.waits, "nested calls": n.nested, "refusals": n.refused, "passed": n.passed, "cancelled": n.cancelled, "readers together": n.together} {
		if k == 0 {
			t.Errorf("no %s: the run tests less than it should", name)
		}
	}
}
