package compiled

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/internal/cow"
)

type tool struct{ name string }

type plan struct {
	tool    *tool
	dropped atomic.Int32
}

type snapshot struct {
	tools map[string]*tool
	seq   uint64
	name  string
}

// world is a registry, a table over it, and what the table has asked for.
type world struct {
	Table[*snapshot, tool, plan]
	mu     sync.Mutex // held by writers of latest
	latest atomic.Pointer[snapshot]

	lists   sync.Mutex
	begun   []*plan
	begins  func()      // if not nil: called as a plan is begun
	locked  atomic.Bool // the table is in Drop
	inside  atomic.Int32
	started atomic.Int32
}

// newWorld is a world whose plans take finish to be made, if that is not nil.
func newWorld(t testing.TB, finish func(*plan)) *world {
	w := new(world)
	w.latest.Store(new(snapshot))
	w.Init(Config[*snapshot, tool, plan]{
		Current: w.latest.Load,
		Tool:    func(s *snapshot, name string) *tool { return s.tools[name] },
		Change:  func(s *snapshot) (uint64, string) { return s.seq, s.name },
		Begin: func(x *tool) *plan {
			if w.begins != nil {
				w.begins()
			}
			p := &plan{tool: x}
			w.lists.Lock()
			defer w.lists.Unlock()
			w.begun = append(w.begun, p)
			return p
		},
		Of:     func(p *plan) *tool { return p.tool },
		Name:   func(t *tool) string { return t.name },
		Finish: finish,
		Drop: func(gone []*plan) func() {
			if len(gone) == 0 || !w.locked.CompareAndSwap(false, true) {
				t.Errorf("%d plans are dropped, or somebody else is dropping too", len(gone))
			}
			for _, p := range gone {
				p.dropped.Add(1)
			}
			w.locked.Store(false)
			return func() {
				w.Follow() // whatever has the lock now lets it go
			}
		},
		Starts: func() { w.inside.Add(1); w.started.Add(1) },
		Ends:   func() { w.inside.Add(-1) },
	})
	return w
}

// set makes x, or none if that is nil, the tool of that name.
func (w *world) set(name string, x *tool) *tool {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.latest.Load()
	next := &snapshot{seq: old.seq + 1, name: name}
	if x != nil {
		next.tools = cow.With(old.tools, name, x)
	} else {
		next.tools = cow.Without(old.tools, name)
	}
	w.latest.Store(next)
	return x
}

// find is the plan of the tool of that name, as calls find it.
func (w *world) find(name string) *plan { return w.Find(w.latest.Load(), name) }

// check holds that of all plans made exactly those that can be found, or are set aside, were
// not dropped, and that no plan was dropped twice.
func (w *world) check(t testing.TB) {
	t.Helper()
	kept := make(map[*plan]bool)
	v := w.now.Load()
	for _, list := range []map[string]*plan{v.plans, v.aside} {
		for n, p := range list {
			if n != p.tool.name {
				t.Errorf("the plan of %q is kept for %q", p.tool.name, n)
			}
			kept[p] = true
		}
	}
	w.lists.Lock()
	defer w.lists.Unlock()
	for _, p := range w.begun {
		want := int32(1)
		if kept[p] {
			want = 0
		}
		if n := p.dropped.Load(); n != want {
			t.Errorf("a plan of %q was dropped %d times, want %d", p.tool.name, n, want)
		}
	}
	if len(w.making) > 0 || w.inside.Load() != 0 {
		t.Errorf("%d plans are being made by %d goroutines", len(w.making), w.inside.Load())
	}
}

// want holds that p is the plan of the tool of that name that calls find.
func (w *world) want(t *testing.T, name string, p *plan) {
	t.Helper()
	if q := w.find(name); q != p {
		t.Errorf("the plan of %q is %p, want %p", name, q, p)
	}
}

// wantDropped holds that p was dropped so many times.
func wantDropped(t *testing.T, p *plan, n int32) {
	t.Helper()
	if p.dropped.Load() != n {
		t.Errorf("a plan of %q was dropped %d times, want %d", p.tool.name, p.dropped.Load(), n)
	}
}

// ways are the two ways of making plans.
var ways = map[string]func(*plan){"at once": nil, "with code of others": func(*plan) { runtime.Gosched() }}

// bubble runs f with code of others and without: both ways of making plans keep the rules.
func bubble(t *testing.T, f func(*testing.T, *world)) {
	for name, finish := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, finish)
				f(t, w)
				synctest.Wait()
				w.check(t)
			})
		})
	}
}

func TestFirstCallsThatMeetUseOnePlan(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		x := w.set("x", &tool{"x"})
		w.want(t, "x", nil)
		got := make([]*plan, 16)
		var all sync.WaitGroup
		for i := range got {
			all.Go(func() { got[i] = w.Make(x, nil) })
		}
		all.Wait()
		for _, p := range got {
			w.want(t, "x", p)
		}
		w.want(t, "x", w.Make(x, nil))
	})
}

func TestFirstCallsThatBothMadeAPlanUseTheFirstOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		x := w.set("x", &tool{"x"})
		both := make(chan struct{})
		w.begins = func() { <-both }
		got := make(chan *plan)
		for range 2 {
			go func() { got <- w.Make(x, nil) }()
		}
		synctest.Wait()
		close(both)
		p, q := <-got, <-got
		w.want(t, "x", p)
		w.want(t, "x", q)
		if len(w.begun) != 2 {
			t.Errorf("%d plans were made, want one by each", len(w.begun))
		}
		w.check(t)
	})
}

func TestPlansOfOtherToolsStayWhenOneChanges(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		x, y := w.set("x", &tool{"x"}), w.set("y", &tool{"y"})
		p, q := w.Make(x, nil), w.Make(y, nil)
		w.set("z", &tool{"z"})
		w.want(t, "x", nil)
		w.Follow()
		w.want(t, "x", p)
		w.set("y", nil)
		w.set("a", &tool{"a"}) // two changes at once: each tool is looked at
		w.Follow()
		w.want(t, "x", p)
		w.want(t, "y", nil)
		wantDropped(t, q, 1)
	})
}

func TestPlanOfARemovedToolIsDroppedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.Make(w.set("x", &tool{"x"}), nil)
		w.set("x", nil)
		w.Follow()
		wantDropped(t, p, 1)
		q := w.Make(w.set("x", &tool{"x"}), nil)
		if p == q {
			t.Error("a tool that came back has the plan it had")
		}
	})
}

func TestPlanOfAReplacedToolStaysUntilTheNewOneIsThere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.Make(w.set("x", &tool{"x"}), nil)
		next := w.set("x", &tool{"x"})
		w.Follow()
		w.want(t, "x", nil)
		wantDropped(t, p, 0)
		again := w.set("x", &tool{"x"}) // whose own plan nobody made meanwhile
		w.Follow()
		wantDropped(t, p, 0)
		q := w.Make(again, nil)
		wantDropped(t, p, 1)
		w.want(t, "x", q)
		if q.tool == next {
			t.Error("the plan is that of the tool in between")
		}
	})
}

func TestPlanOfAReplacedToolIsDroppedWhenTheToolIsRemoved(t *testing.T) {
	for _, jump := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			p := w.Make(w.set("x", &tool{"x"}), nil)
			w.set("x", &tool{"x"})
			w.Follow()
			w.set("x", nil)
			if jump {
				w.set("y", &tool{"y"})
			}
			w.Follow()
			wantDropped(t, p, 1)
		})
	}
}

func TestPlanOfAToolThatGoesWhileItIsMadeServesItsCallAndIsDropped(t *testing.T) {
	for _, then := range []*tool{nil, {"x"}} {
		synctest.Test(t, func(t *testing.T) {
			goes := make(chan struct{})
			w := newWorld(t, func(p *plan) { <-goes })
			x := w.set("x", &tool{"x"})
			got := make(chan *plan)
			go func() { got <- w.Make(x, nil) }()
			synctest.Wait()
			w.set("x", then)
			w.Follow()
			close(goes)
			p := <-got
			if p.tool != x {
				t.Error("the call got the plan of another tool")
			}
			wantDropped(t, p, 1)
			w.want(t, "x", nil)
			synctest.Wait()
			w.check(t)
		})
	}
}

func TestWhoMakesAPlanMayAskForItsTool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *world
		var once atomic.Bool
		var inner *plan
		w = newWorld(t, func(p *plan) {
			if once.CompareAndSwap(false, true) {
				inner = w.Make(p.tool, nil)
			}
		})
		p := w.Make(w.set("x", &tool{"x"}), nil)
		synctest.Wait()
		w.want(t, "x", p)
		if p == nil || inner != p || w.started.Load() != maxRuns {
			t.Errorf("plans %p and %p, made by %d goroutines: want the one that was there first, by two",
				p, inner, w.started.Load())
		}
		w.check(t)
	})
}

func TestWhoIsDoneWaitingLeavesThePlanForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		comes := make(chan struct{})
		w := newWorld(t, func(p *plan) { <-comes })
		x, y := w.set("x", &tool{"x"}), w.set("y", &tool{"y"})
		for range 10 {
			over := make(chan struct{})
			time.AfterFunc(time.Second, func() { close(over) })
			from := time.Now()
			if p := w.Make(x, over); p != nil || time.Since(from) != time.Second {
				t.Errorf("plan %p after %v, want none after a second", p, time.Since(from))
			}
		}
		if w.started.Load() != maxRuns || w.inside.Load() != maxRuns {
			t.Errorf("%d goroutines were started, %d are inside, want two", w.started.Load(), w.inside.Load())
		}
		got := make(chan *plan, 2)
		go func() { got <- w.Make(x, nil) }()
		go func() { got <- w.Make(y, nil) }()
		synctest.Wait()
		close(comes)
		for range 2 {
			p := <-got
			w.want(t, p.tool.name, p)
		}
		synctest.Wait()
		w.check(t)
	})
}

// The first of the two who make a plan has made it for everybody: one that blocks for ever holds
// up nobody who comes later.
func TestOneOfTwoIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var once atomic.Bool
		never := make(chan struct{})
		w := newWorld(t, func(p *plan) {
			if once.CompareAndSwap(false, true) {
				<-never
			}
		})
		x := w.set("x", &tool{"x"})
		over := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(over) })
		if p := w.Make(x, over); p != nil {
			t.Errorf("plan %p, want none", p)
		}
		p := w.Make(x, nil)
		synctest.Wait()
		w.want(t, "x", p)
		if p == nil || w.inside.Load() != 1 {
			t.Errorf("plan %p, %d goroutines inside, want the one that blocks", p, w.inside.Load())
		}
		close(never)
		synctest.Wait()
		w.check(t)
	})
}

func TestPlanWhoseCodeCallsGoexitIsUsedAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(*plan) { runtime.Goexit() })
		p := w.Make(w.set("x", &tool{"x"}), nil)
		w.want(t, "x", p)
		synctest.Wait()
		w.check(t)
	})
}

func TestClearDropsAllThatIsKept(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.Make(w.set("x", &tool{"x"}), nil)
		q := w.Make(w.set("y", &tool{"y"}), nil)
		w.set("x", &tool{"x"})
		w.Follow()
		w.Clear()
		wantDropped(t, p, 1)
		wantDropped(t, q, 1)
		w.want(t, "y", nil)
		w.set("x", nil)
		w.Follow()
		w.Clear()
	})
}

// Whatever comes together, every plan is kept or dropped, and none is dropped twice; whoever
// follows the registry finds no plan of a tool that was removed before.
func TestPlansAreKeptOrDroppedWhateverMeets(t *testing.T) {
	for name, finish := range ways {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, finish)
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for range 200 {
						name := fmt.Sprint(rand.N(3))
						switch rand.N(8) {
						case 0:
							w.set(name, &tool{name})
						case 1:
							w.set(name, nil)
							w.Follow()
						default:
							s := w.latest.Load()
							x := s.tools[name]
							if x == nil {
								continue
							}
							p := w.Find(s, name)
							if p == nil {
								p = w.Make(x, nil)
							}
							if p == nil || p.tool != x {
								t.Errorf("a plan of another tool: %v", p)
							}
						}
					}
				})
			}
			all.Wait()
			for w.inside.Load() > 0 {
				runtime.Gosched()
			}
			w.check(t)
			w.Clear()
			w.check(t)
		})
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.Make(w.set("x", &tool{"x"}), nil)
	if n := testing.AllocsPerRun(100, func() { w.find("x") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFind(b *testing.B) {
	w := newWorld(b, nil)
	for i := range 100 {
		name := fmt.Sprint(i)
		w.set(name, &tool{name})
	}
	w.Make(w.latest.Load().tools["7"], nil)
	b.ReportAllocs()
	for b.Loop() {
		w.find("7")
	}
}
