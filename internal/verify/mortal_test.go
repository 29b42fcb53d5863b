package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-go/sluice"
)

// ground is a state that outlives the processes that work on it.
type ground struct {
	*rapid.T
	state *sluice.SharedState
	procs []*process // that live
	gone  []*process

	deaths map[string]int // of processes, by where they died

	mu    sync.Mutex
	wrong string // what code of a process has found
	alone bool   // one thing is done at a time, so that each write of it is seen
	at    time.Time
	seen  map[string]uint64 // the versions of all keys at the latest point
}

func newGround(rt *rapid.T, deaths map[string]int) *ground {
	return &ground{T: rt, deaths: deaths, state: sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))}
}

// process is an executor and what it has to do with the state. It has a way of its own to that, which is closed when
// it dies: nothing is kept that its code does then.
type process struct {
	g    *ground
	view *sluice.SharedState
	exec *sluice.Executor
	own  any // what else it has
	dead bool
	died time.Time
	fuse int // it dies at that many points from now; zero: it lives on
}

// start has a process begin, which is made by fill.
func (g *ground) start(fill func(*process)) {
	p := &process{g: g, view: sluice.Must(g.state.View("here/", sluice.SharedStateConfig{}))}
	fill(p)
	g.procs = append(g.procs, p)
}

// point is where code of p is about to do something, or has done it: it may die here. It answers whether it lives.
func (p *process) point(where string) bool {
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	if p.dead {
		return false
	}
	p.g.count()
	if p.fuse > 0 {
		if p.fuse--; p.fuse == 0 {
			p.die()
			p.g.deaths[where]++
		}
	}
	return !p.dead
}

// fail notes what is wrong, the first that is. The world is locked.
func (g *ground) fail(format string, args ...any) {
	if g.wrong == "" {
		g.wrong = fmt.Sprintf(format, args...)
	}
}

// dooms has p die at one of its next points.
func (g *ground) dooms(p *process) {
	n := g.draw("points", 1, 5)
	g.mu.Lock()
	defer g.mu.Unlock()
	p.fuse = n
}

// dooming reports whether p is to die at one of its next points.
func (g *ground) dooming(p *process) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return p.fuse > 0
}

// spares has nobody die soon.
func (g *ground) spares() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.procs {
		p.fuse = 0
	}
}

func (p *process) die() {
	p.dead, p.died = true, time.Now()
	p.view.Close()
}

// count holds the points against the state: between two of them one write was made at most, so that who dies at any of
// them dies before each write, and after it. A number that is drawn does not count.
func (g *ground) count() {
	now, seen, writes := time.Now(), map[string]uint64{}, 0
	for e := range g.state.List("") {
		if e.Key == "here/undo/sequence" {
			continue
		}
		seen[e.Key] = e.Version
		if was, ok := g.seen[e.Key]; ok {
			writes += int(e.Version - was)
		} else {
			writes++
		}
	}
	if g.alone && g.seen != nil && now.Equal(g.at) && writes > 1 {
		g.fail("%d writes and no point between them", writes)
	}
	g.at, g.seen = now, seen
}

// goes has code go on, alone or not.
func (g *ground) goes(alone bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.alone = alone
}

// quiet waits until all that can be done has been done, and reports who has died.
func (g *ground) quiet() (died []*process) {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen = nil; g.wrong != "" {
		g.Fatal(g.wrong)
	}
	var live []*process
	for _, p := range g.procs {
		if p.dead {
			died = append(died, p)
		} else {
			live = append(live, p)
		}
	}
	g.procs, g.gone = live, append(g.gone, died...)
	return died
}

// restart has all processes end, and the state go on as its snapshot says.
func (g *ground) restart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	snapshot, err := json.Marshal(g.state)
	if err != nil {
		g.Fatal(err)
	}
	for _, p := range g.procs {
		p.die()
	}
	g.state.Close()
	g.state = sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	if err := json.Unmarshal(snapshot, g.state); err != nil {
		g.Fatal(err)
	}
}

// end waits for all that is under way, also in processes that are dead.
func (g *ground) end() {
	g.goes(false)
	for _, p := range append(g.gone, g.procs...) {
		p.exec.Close(context.Background())
	}
	time.Sleep(24 * time.Hour) // what nobody waits for ends
	synctest.Wait()
	g.state.Close()
}

// draw is a number from a to b.
func (g *ground) draw(what string, a, b int) int { return rapid.IntRange(a, b).Draw(g.T, what) }

// one is one of several.
func one[V any](g *ground, what string, list []V) V { return list[g.draw(what, 0, len(list)-1)] }

// told is a sink of a process, and what it hears.
type told struct {
	p    *process
	hear func(*sluice.Event)
}

func (s told) Enabled(sluice.EventKind) bool { return true }

func (s told) Emit(_ context.Context, e *sluice.Event) error {
	s.p.g.mu.Lock()
	if !s.p.dead {
		s.hear(e)
	}
	s.p.g.mu.Unlock()
	switch e.Kind {
	case "approval.requested", "approval.decided", "tool.undone", "tool.undo_failed":
		s.p.point(string(e.Kind) + " is told")
	}
	return nil
}
