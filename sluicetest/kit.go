package sluicetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// T is what the kits use of a *testing.T; *testing.B, *testing.F and testing.TB do as well.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
}

// Options say in what time a kit runs, and how hard it tries. The zero value is for an
// engine in real time.
type Options struct {
	// Tick is the unit of the kit's durations; a call of the engine must take much less.
	// Zero means 100ms, with Exact 1s.
	Tick time.Duration
	// Slack is how late an engine may be: at the end of a lease or a record, with a
	// token. It may never be early. Zero means half a Tick, with Exact nothing.
	Slack time.Duration
	// Exact says that time is virtual, so that an engine has no reason to be late.
	Exact bool
	// Sleep lets time pass, Now reads it. Nil means time.Sleep and time.Now, which is
	// right in a testing/synctest bubble as well. An engine whose clock is set by hand
	// needs both.
	Sleep func(time.Duration)
	Now   func() time.Time
	// Rounds is how many random histories are tried; zero means 30.
	Rounds int
	// Seed is printed with what it broke; zero means a random one.
	Seed uint64
}

func (o Options) normal() Options {
	if o.Tick <= 0 {
		o.Tick = 100 * time.Millisecond
		if o.Exact {
			o.Tick = time.Second
		}
	}
	if o.Slack <= 0 && !o.Exact {
		o.Slack = o.Tick / 2
	}
	if o.Sleep == nil {
		o.Sleep = time.Sleep
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rounds <= 0 {
		o.Rounds = 30
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	return o
}

// rule is one thing an engine must do.
type rule[P any] struct {
	name  string
	check func(r *run, part P)
}

// run is one check of a rule.
type run struct {
	Options
	t    T
	name string
	ctx  context.Context
	rand *rand.Rand
}

// stop ends a check that has failed; of its own goroutine only.
type stop struct{}

// each checks every rule with a part of its own.
func each[P any](t T, kit string, o Options, open func() P, rules []rule[P]) {
	t.Helper()
	o = o.normal()
	for _, one := range rules {
		check(t, kit+"."+one.name, o, func(r *run) { one.check(r, open()) })
	}
}

func check(t T, name string, o Options, f func(*run)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 1000*o.Tick)
	defer cancel()
	r := &run{Options: o, t: t, name: name, ctx: ctx, rand: rand.New(rand.NewPCG(o.Seed, 1))}
	defer r.caught()
	f(r)
}

// fail reports a broken rule; from any goroutine.
func (r *run) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Errorf("%s: %s", r.name, fmt.Sprintf(format, args...))
}

// must reports a broken rule, and ends the check, unless ok.
func (r *run) must(ok bool, format string, args ...any) {
	r.t.Helper()
	if !ok {
		r.fail(format, args...)
		panic(stop{})
	}
}

// key is a key that nobody else uses.
func (r *run) key(what string) string {
	return fmt.Sprintf("kit-%s-%s", engine.NewOpID(), what)
}

// until waits for done, at most a long time.
func (r *run) until(done func() bool) bool {
	for range 200 {
		if done() {
			return true
		}
		r.Sleep(r.Tick / 20)
	}
	return done()
}

// just is the least that tells before from after: the tolerance, or a nanosecond.
func (r *run) just() time.Duration { return max(r.Slack, 1) }

// together runs f for 0 to n-1 at once.
func (r *run) together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			defer r.caught()
			f(i)
		})
	}
	wg.Wait()
}

// caught reports a panic of the engine, deferred on a goroutine of the kit.
func (r *run) caught() {
	switch v := recover().(type) {
	case nil, stop:
	default:
		r.fail("the engine panicked: %v\n%s", v, debug.Stack())
	}
}

// endedContext is one whose end came before the call.
func endedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// gauge is how many there are, and the most there ever were.
type gauge struct{ now, most atomic.Int64 }

func (g *gauge) add(n int) {
	now := g.now.Add(int64(n))
	for {
		most := g.most.Load()
		if now <= most || g.most.CompareAndSwap(most, now) {
			return
		}
	}
}
