package crew

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// counted is a crew whose goroutines are counted, as they are for whoever closes.
type counted struct {
	*Crew
	now, most, all atomic.Int64
}

func newCounted() *counted {
	c := new(counted)
	c.Crew = New(func() {
		c.all.Add(1)
		n := c.now.Add(1)
		for m := c.most.Load(); n > m && !c.most.CompareAndSwap(m, n); m = c.most.Load() {
		}
	}, func() { c.now.Add(-1) })
	return c
}

// idle fails the test unless nobody is at work and nothing is left to do.
func (c *counted) idle(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.now.Load(); n != 0 || c.looking != 0 || c.enders != 0 || c.admitted.len() != 0 || c.over.len() != 0 {
		t.Errorf("%d goroutines are counted, %d look, %d end; %d calls are left to run, %d to end",
			n, c.looking, c.enders, c.admitted.len(), c.over.len())
	}
}

// call is a Call that does what the test says, and counts what is done with it.
type call struct {
	ready       func() error
	run, cancel func()
	end         func(error)

	readied, ran, ended, cancelled atomic.Int32
}

func (c *call) Ready() error {
	c.readied.Add(1)
	if c.ready != nil {
		return c.ready()
	}
	return nil
}

func (c *call) Run() {
	c.ran.Add(1)
	if c.run != nil {
		c.run()
	}
}

func (c *call) End(err error) {
	c.ended.Add(1)
	if c.end != nil {
		c.end(err)
	}
}

func (c *call) Cancel() {
	c.cancelled.Add(1)
	if c.cancel != nil {
		c.cancel()
	}
}

// ways are those in which a call comes to a crew.
var ways = map[string]func(*Crew, Call){"Run": (*Crew).Run, "End": (*Crew).End, "Cancel": (*Crew).Cancel}

var errRefused = errors.New("refused")

func refused() error { return errRefused }

// did fails the test unless c was run, ended and cancelled so many times.
func (c *call) did(t *testing.T, run, end, cancel int32) {
	t.Helper()
	if c.ran.Load() != run || c.ended.Load() != end || c.cancelled.Load() != cancel {
		t.Errorf("the call was run %d times, ended %d and cancelled %d, want %d, %d and %d",
			c.ran.Load(), c.ended.Load(), c.cancelled.Load(), run, end, cancel)
	}
}

func TestRun_EveryCallHasItsGoroutineWhateverOthersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 100
		w := newCounted()
		release := make(chan struct{})
		var list []*call
		for range calls {
			c := &call{run: func() { <-release }}
			list = append(list, c)
			w.Run(c)
		}
		synctest.Wait()
		for _, c := range list {
			c.did(t, 1, 0, 0)
		}
		assert.Equal(t, int64(calls), w.now.Load(), "goroutines, want one for each call that is inside its code")
		close(release)
		synctest.Wait()
		w.idle(t)
	})
}

// What keeps Ready, a lock, would keep others too: no second goroutine starts for the next call
// while one is on the way.
func TestRun_OneIsOnTheWayAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCounted()
		locked := make(chan struct{})
		first := &call{ready: func() error { <-locked; return nil }}
		w.Run(first)
		synctest.Wait()
		var rest [20]call
		for i := range rest {
			w.Run(&rest[i])
		}
		synctest.Wait()
		if n := w.all.Load(); n != 1 || rest[0].readied.Load() != 0 {
			t.Errorf("%d goroutines have started, want 1; the next call was taken up %d times", n, rest[0].readied.Load())
		}
		close(locked)
		synctest.Wait()
		first.did(t, 1, 0, 0)
		for i := range rest {
			rest[i].did(t, 1, 0, 0)
		}
		w.idle(t)
	})
}

func TestRun_EndsWhatIsNotReadyAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCounted()
		c := &call{ready: refused, end: func(err error) {
			if err != errRefused {
				t.Errorf("End(%v), want what Ready answered", err)
			}
		}}
		w.Run(c)
		synctest.Wait()
		c.did(t, 0, 1, 0)
		w.idle(t)
	})
}

func TestEnd_RunsWhatIsReadyAfterAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCounted()
		var c call
		w.End(&c)
		synctest.Wait()
		c.did(t, 1, 0, 0)
		w.idle(t)
	})
}

// However many end at once, three goroutines for each processor tell of it; those that run
// are not held up by them.
func TestEnd_AFewDoItForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 200
		w := newCounted()
		few := int64(3 * runtime.GOMAXPROCS(0))
		release := make(chan struct{})
		var list []*call
		for i := range calls {
			c := &call{ready: refused, end: func(error) { <-release }, cancel: func() { <-release }}
			list = append(list, c)
			if i%2 == 0 {
				w.End(c)
			} else {
				w.Cancel(c)
			}
		}
		synctest.Wait()
		assert.Equal(t, few, w.now.Load(), "goroutines that end calls")
		var runs call
		w.Run(&runs)
		synctest.Wait()
		runs.did(t, 1, 0, 0)
		close(release)
		synctest.Wait()
		for i, c := range list {
			c.did(t, 0, int32(1-i%2), int32(i%2))
		}
		n := w.most.Load()
		assert.Equal(t, few+1, n, "at most %d goroutines, want %d and the one that ran a call", n, few)
		w.idle(t)
	})
}

// Whatever of a call calls Goexit, the calls behind it are carried on, by no more goroutines
// than otherwise.
func TestGoexit_OthersAreCarriedOn(t *testing.T) {
	exit := func() { runtime.Goexit() }
	exitOf := func(error) { runtime.Goexit() }
	exitErr := func() error { runtime.Goexit(); return nil }
	for name, tt := range map[string]struct {
		bring func(*Crew, Call)
		exits func() *call
		few   bool
	}{
		"Ready of one that runs":   {(*Crew).Run, func() *call { return &call{ready: exitErr} }, false},
		"Run":                      {(*Crew).Run, func() *call { return &call{run: exit} }, false},
		"End of one that ran late": {(*Crew).Run, func() *call { return &call{ready: refused, end: exitOf} }, false},
		"Ready of one that ends":   {(*Crew).End, func() *call { return &call{ready: exitErr} }, true},
		"End":                      {(*Crew).End, func() *call { return &call{ready: refused, end: exitOf} }, true},
		"Cancel":                   {(*Crew).Cancel, func() *call { return &call{cancel: exit} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCounted()
				start := make(chan struct{})
				tt.bring(w.Crew, &call{ready: func() error { <-start; return nil }, cancel: func() { <-start }})
				const calls = 50
				var odd, even [calls]*call
				for i := range calls {
					odd[i], even[i] = tt.exits(), new(call)
					tt.bring(w.Crew, odd[i])
					tt.bring(w.Crew, even[i])
				}
				close(start)
				synctest.Wait()
				for i := range calls {
					n := odd[i].readied.Load() + odd[i].cancelled.Load()
					assert.Equal(t, int32(1), n, "a call that exits was carried on %d times", n)
					n = even[i].ran.Load() + even[i].cancelled.Load()
					assert.Equal(t, int32(1), n, "a call behind one that exits was carried on %d times", n)
				}
				// A goroutine's last act is to be counted out, after its successor was counted in.
				if most := 2 * int64(3*runtime.GOMAXPROCS(0)); tt.few && w.most.Load() > most {
					t.Errorf("%d goroutines at a time, want at most %d", w.most.Load(), most)
				}
				w.idle(t)
			})
		})
	}
}

// The last call is brought at the instant at which the last goroutine finds nothing to do.
func TestRun_NoneIsLeftBehindAsTheLastGoroutineEnds(t *testing.T) {
	for name, bring := range ways {
		t.Run(name, func(t *testing.T) {
			w := newCounted()
			for range 2000 {
				done := make(chan struct{})
				tell := func() { close(done) }
				bring(w.Crew, &call{run: tell, cancel: tell})
				<-done // its goroutine looks for the next, and finds it or not
			}
		})
	}
}

// Everything from many goroutines at once: each call is carried on once, as it was brought.
func TestCrew_EverythingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCounted()
		const each = 300
		var lists [6][each]call
		var wg sync.WaitGroup
		for n := range lists {
			wg.Go(func() {
				for i := range lists[n] {
					c := &lists[n][i]
					if i%7 == 0 {
						c.run = runtime.Goexit
						c.cancel = runtime.Goexit
						c.end = func(error) { runtime.Goexit() }
					}
					switch n % 3 {
					case 0:
						w.Run(c)
					case 1:
						c.ready = refused
						w.End(c)
					default:
						w.Cancel(c)
					}
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		for n := range lists {
			want := [3]int32{}
			want[n%3] = 1
			for i := range lists[n] {
				lists[n][i].did(t, want[0], want[1], want[2])
			}
		}
		w.idle(t)
	})
}

// A goroutine is counted in before it exists: whoever brings a call and waits for the count to be
// zero has waited for the call.
func TestCrew_IsCountedFromTheStart(t *testing.T) {
	for name, bring := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCounted()
				bring(w.Crew, new(call))
				assert.Equal(t, int64(1), w.all.Load(), "goroutines were counted in when the call had been brought")
				synctest.Wait()
				w.idle(t)
			})
		})
	}
}

func TestQueue_FirstInFirstOutAndNoRoomWhenEmpty(t *testing.T) {
	var q queue[int]
	for round := range 3 {
		for i := range 10 {
			q.push(i)
		}
		var got []int
		for q.len() > 0 {
			got = append(got, q.pop())
		}
		assert.Equal(t, "[0 1 2 3 4 5 6 7 8 9]", fmt.Sprint(got),
			"round %d: %v, with room for %d", round, got, cap(q.list))
		require.Nil(t, q.list, "round %d: %v, with room for %d", round, got, cap(q.list))
		assert.Zero(t, q.done, "round %d: %v, with room for %d", round, got, cap(q.list))
	}
}
