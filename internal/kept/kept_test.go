package kept

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/internal/clock"
	"github.com/stretchr/testify/require"
)

// job is code that does what the test says, and what came of it.
type job struct {
	do  func()
	out int
}

// counted is a pool whose goroutines are counted.
type counted struct {
	*Pool[job]
	now, all atomic.Int64
}

func newCounted(most int) *counted {
	p := new(counted)
	p.Pool = New(clock.New(), func(h *Hand[job]) { h.Job.do(); h.Job.out++ },
		func() { p.now.Add(1); p.all.Add(1) }, func() { p.now.Add(-1) })
	p.most = most
	return p
}

// run runs f, which has so much time, and reports whether it has ended by then.
func (p *counted) run(timeout time.Duration, f func()) bool {
	now := p.clock.Now()
	h := p.Take(now, now+int64(timeout), nil)
	h.Job.do = f
	if !h.Wait() {
		return false
	}
	h.Free()
	return true
}

// left holds that so many goroutines are left, of which so many are idle, and that nobody's time runs.
func (p *counted) left(t *testing.T, all, idle int) {
	t.Helper()
	synctest.Wait()
	require.Equal(t, int64(all), p.now.Load(), "goroutines")
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Len(t, p.idle, idle, "idle")
	require.Nil(t, p.times.head)
	require.Nil(t, p.times.tail)
	require.Zero(t, p.times.early.Len())
	for _, h := range p.idle {
		require.Nil(t, h.Job.do, "what an idle goroutine keeps")
		require.Empty(t, h.in)
		require.Empty(t, h.out)
	}
}

func nap(d time.Duration) func() { return func() { time.Sleep(d) } }

// Whoever waits goes on when the code ends or its time is over, whichever is first.
func TestWait_ForWhoIsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCounted(64)
		for range 3 {
			start := time.Now()
			require.True(t, p.run(2*time.Second, nap(time.Second)))
			require.Equal(t, time.Second, time.Since(start))
			require.False(t, p.run(2*time.Second, nap(3*time.Second)))
			require.Equal(t, 3*time.Second, time.Since(start))
			require.False(t, p.run(0, nap(time.Second)))
			require.Equal(t, 3*time.Second, time.Since(start))
			time.Sleep(2 * time.Second)
		}
		p.left(t, 2, 2)
		p.Close()
		p.left(t, 0, 0)
	})
}

// One goroutine serves one call after the other, also after code that came too late.
func TestTake_TheSameGoroutineAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCounted(64)
		for i := range 100 {
			inTime := p.run(time.Second, nap(time.Duration(i%3)*time.Second+time.Millisecond))
			require.Equal(t, i%3 == 0, inTime)
			time.Sleep(5 * time.Second)
			p.left(t, 1, 1)
		}
		require.Equal(t, int64(1), p.all.Load(), "goroutines have started")
		p.Close()
		p.left(t, 0, 0)
	})
}

// What is said to whoever waited, and was not heard yet, is not heard by the next.
func TestTake_NobodyHearsWhatOthersWereTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCounted(64)
		h := p.Take(p.clock.Now(), p.clock.Now()+1, nil)
		out := h.out
		h.Job.do, h.begun = nap(time.Second), true
		p.starts()
		go h.work()
		time.Sleep(2 * time.Second) // it is late, and has ended, and nobody has listened
		p.left(t, 1, 1)
		require.True(t, p.run(time.Minute, nap(time.Second)))
		require.Equal(t, int64(1), p.all.Load())
		require.False(t, <-out)
		p.Close()
		p.left(t, 0, 0)
	})
}

// The time is over when it is due, also if the instant that it began at has passed when somebody is taken
// for it.
func TestTake_LaterThanItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCounted(64)
		for range 3 {
			began, start := p.clock.Now(), time.Now()
			time.Sleep(time.Second)
			h := p.Take(began, began+int64(3*time.Second), nil)
			h.Job.do = nap(time.Minute)
			require.False(t, h.Wait())
			require.Equal(t, 3*time.Second, time.Since(start))
			time.Sleep(2 * time.Minute)
		}
		p.Close()
		p.left(t, 0, 0)
	})
}

// Code that claims to be first is waited for, however long it takes then; late code cannot.
func TestClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCounted(64)
		for _, tt := range []struct {
			before time.Duration
			want   bool
		}{{0, true}, {time.Second - 1, true}, {time.Second + 1, false}} {
			start, now := time.Now(), p.clock.Now()
			h := p.Take(now, now+int64(time.Second), nil)
			claimed := make(chan bool, 1)
			h.Job.do = func() {
				time.Sleep(tt.before)
				claimed <- h.Claim()
				time.Sleep(time.Minute)
			}
			require.Equal(t, tt.want, h.Wait())
			if tt.want {
				require.Equal(t, tt.before+time.Minute, time.Since(start))
				require.Equal(t, 1, h.Job.out)
				h.Free()
			} else {
				require.Equal(t, time.Second, time.Since(start))
			}
			require.Equal(t, tt.want, <-claimed)
			time.Sleep(2 * time.Minute)
		}
		p.Close()
		p.left(t, 0, 0)
	})
}

// No more are kept than may be, and others end with their code.
func TestFree_KeepsAFew(t *testing.T) {
	for _, most := range []int{0, 1, 5} {
		synctest.Test(t, func(t *testing.T) {
			p := newCounted(most)
			for _, takes := range []time.Duration{time.Second, 3 * time.Second} { // in time, and late
				var all sync.WaitGroup
				for range 20 {
					all.Go(func() { p.run(2*time.Second, nap(takes)) })
				}
				all.Wait()
				time.Sleep(time.Minute / 30)
				p.left(t, most, most)
			}
			p.Close()
			p.left(t, 0, 0)
		})
	}
}

// Whoever is not needed for some seconds ends, and nobody else.
func TestIdle_EndsAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCounted(64)
		together := func(n int) {
			var all sync.WaitGroup
			for range n {
				all.Go(func() { p.run(time.Minute, nap(time.Second)) })
			}
			all.Wait()
		}
		together(10)
		p.left(t, 10, 10)
		for range 30 { // three are enough from now on
			together(3)
		}
		p.left(t, 3, 3)
		time.Sleep(2*idleFor + time.Second)
		p.left(t, 0, 0)
		require.Equal(t, int64(10), p.all.Load())
		together(2)
		time.Sleep(idleFor - 1)
		p.left(t, 2, 2)
		time.Sleep(idleFor + 1)
		p.left(t, 0, 0)
		p.Close()
		p.left(t, 0, 0)
	})
}

// Goexit ends the goroutine, whether somebody waits for it or not, and no other; whoever waits is told.
func TestGoexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCounted(64)
		for range 3 {
			require.True(t, p.run(time.Second, nap(1)))
			p.left(t, 1, 1)
			require.True(t, p.run(time.Second, runtime.Goexit))
			p.left(t, 0, 0)
			require.True(t, p.run(time.Second, nap(1)))
			require.False(t, p.run(time.Second, func() { time.Sleep(time.Minute); runtime.Goexit() }))
			time.Sleep(59*time.Second - idleFor)
			p.run(time.Second, nap(1))
			time.Sleep(idleFor)
			p.left(t, 1, 1)
		}
		p.Close()
		p.left(t, 0, 0)
	})
}

// In a bubble, which waits for whoever is left, nobody is kept.
func TestNew_KeepsNobodyInABubble(t *testing.T) {
	none := func() {}
	require.Equal(t, 64, New(clock.New(), nothing, none, none).most)
	synctest.Test(t, func(t *testing.T) {
		require.Equal(t, 0, New(clock.New(), nothing, none, none).most)
	})
}

func nothing(*Hand[job]) {}

// After Close nobody is kept, and code that is under way goes on, and has its time.
func TestClose_WhileCodeRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCounted(64)
		start := time.Now()
		var all sync.WaitGroup
		for i, want := range []bool{true, false} {
			all.Go(func() { require.Equal(t, want, p.run(5*time.Second, nap(time.Duration(4+4*i)*time.Second))) })
		}
		all.Go(func() { p.run(time.Hour, nap(6*time.Second)) })
		p.run(time.Second, nap(1))
		p.Close()
		synctest.Wait()
		require.Equal(t, int64(3), p.now.Load())
		require.True(t, p.run(time.Second, nap(1)))
		require.False(t, p.run(time.Second, nap(2*time.Second)))
		all.Wait()
		require.Equal(t, 6*time.Second, time.Since(start))
		time.Sleep(2 * time.Second)
		p.left(t, 0, 0)
		require.Zero(t, p.times.armed, "the timer runs")
		p.Close()
	})
}

// Each is late at its own instant, in whatever order they come, unless it has ended.
func TestTimes_EachAtItsInstant(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, n))
			p := newCounted(64)
			var all sync.WaitGroup
			for range 60 {
				at, timeout, takes := time.Duration(r.IntN(1000)), time.Duration(1+r.IntN(4)*(1+r.IntN(300))), time.Duration(1+r.IntN(600))
				if timeout == takes {
					takes++
				}
				all.Go(func() {
					time.Sleep(at)
					start := time.Now()
					require.Equal(t, takes < timeout, p.run(timeout, nap(takes)))
					require.Equal(t, min(takes, timeout), time.Since(start))
				})
			}
			all.Wait()
			time.Sleep(time.Second)
			p.Close()
			p.left(t, 0, 0)
		})
	}
}

// What ends in time leaves the timer running, which costs less than stopping it; it fires for nobody
// then, and Close stops it.
func TestTimes_TheTimerRunsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCounted(64)
		fires := func(in time.Duration) {
			t.Helper()
			synctest.Wait()
			at := int64(0)
			if in > 0 {
				at = p.clock.Now() + int64(in)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			require.Equal(t, at, p.times.armed)
		}
		time.Sleep(time.Nanosecond)
		fires(0)
		p.run(time.Minute, nap(time.Second))
		fires(59 * time.Second)
		p.run(time.Minute, nap(time.Second))
		fires(58 * time.Second) // earlier than it must
		time.Sleep(58 * time.Second)
		fires(0)
		p.run(time.Minute, nap(time.Second))
		p.run(time.Second, nap(time.Millisecond))
		fires(999 * time.Millisecond)
		p.Close()
		fires(0)
	})
}

// A Pool that was made outside testing/synctest bubbles serves one after the other, with goroutines and
// timers of their own.
func TestPool_FromOutsideABubble(t *testing.T) {
	p := newCounted(64)
	require.True(t, p.run(time.Hour, func() {}))
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			require.True(t, p.run(time.Minute, nap(time.Second)))
			require.False(t, p.run(time.Minute, nap(time.Hour)))
			require.Equal(t, 61*time.Second, time.Since(start))
			time.Sleep(time.Hour)
		})
	}
	require.Equal(t, int64(1), p.now.Load())
	p.Close()
	for p.now.Load() > 0 {
		runtime.Gosched()
	}
}

// Everything at once, by the clock of the machine: each is told once, has what came of its code if that
// was first, and no goroutine is left.
func TestPool_Storm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(20) {
		p := newCounted(3)
		var all sync.WaitGroup
		var ran, asked atomic.Int64
		for g := range uint64(8) {
			all.Go(func() {
				r := rand.New(rand.NewPCG(seed, 8*n+g))
				for range 60 {
					var f func()
					switch r.IntN(6) {
					case 0:
						f = func() { ran.Add(1); runtime.Goexit() }
					case 1:
						d := time.Duration(r.IntN(100)) * time.Microsecond
						f = func() { time.Sleep(d); ran.Add(1) }
					default:
						f = func() { ran.Add(1) }
					}
					asked.Add(1)
					now := p.clock.Now()
					h := p.Take(now, now+[]int64{int64(time.Hour), 50_000, 0, 1}[r.IntN(4)], nil)
					h.Job = job{do: f}
					if r.IntN(4) == 0 {
						h.Job.do = func() { h.Claim(); f() }
					}
					if h.Wait() {
						h.Free()
					}
				}
			})
		}
		if n%2 == 0 {
			p.Close()
		}
		all.Wait()
		p.Close()
		for p.now.Load() > 0 {
			runtime.Gosched()
		}
		require.Equal(t, asked.Load(), ran.Load(), "jobs have run")
		require.Empty(t, p.idle)
		require.Nil(t, p.times.head)
		require.Zero(t, p.times.early.Len())
	}
}

// In the ordinary case nothing is allocated.
func TestTake_AllocatesNothing(t *testing.T) {
	p := newCounted(64)
	f := func() {}
	require.Zero(t, testing.AllocsPerRun(1000, func() { p.run(time.Hour, f) }))
	p.Close()
}

// BenchmarkPool is code that does nothing, on a goroutine that is kept, and on a new one each time. With
// frames as deep as those of a call a new one takes far longer: see the benchmark of package stack.
func BenchmarkPool(b *testing.B) {
	for name, most := range map[string]int{"kept": 64, "new": 0} {
		b.Run(name, func(b *testing.B) {
			p := newCounted(most)
			f := func() {}
			b.ReportAllocs()
			for b.Loop() {
				p.run(time.Hour, f)
			}
			p.Close()
		})
	}
}

// term is a time that can be extended.
type term struct{ due, asked atomic.Int64 }

func (x *term) Expire(int64) int64 { x.asked.Add(1); return x.due.Load() }

// Whoever waits goes on when the time is over that there is in the end, however often it has been extended
// meanwhile, and when the code ends if that is sooner; also with a Pool from outside the bubble.
func TestTerm_IsExtended(t *testing.T) {
	outside := newCounted(64)
	for name, p := range map[string]*counted{"in the bubble": nil, "from outside": outside} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if p == nil {
					p = newCounted(64)
				}
				for _, takes := range []time.Duration{5 * time.Second, time.Minute} {
					start, x := time.Now(), new(term)
					at := func(d time.Duration) int64 { return p.clock.Now() - int64(time.Since(start)) + int64(d) }
					x.due.Store(at(time.Second))
					h := p.Take(at(0), at(time.Second), x)
					other := make(chan time.Duration)
					go func() {
						p.run(2*time.Second, nap(time.Minute))
						other <- time.Since(start)
					}()
					h.Job.do = func() {
						time.Sleep(900 * time.Millisecond)
						x.due.Store(at(4 * time.Second))
						time.Sleep(2 * time.Second)
						x.due.Store(at(9 * time.Second))
						time.Sleep(takes - 2900*time.Millisecond)
					}
					inTime := h.Wait()
					require.Equal(t, takes == 5*time.Second, inTime)
					require.Equal(t, min(takes, 9*time.Second), time.Since(start))
					if inTime {
						h.Free()
					}
					require.Equal(t, 2*time.Second, <-other)
					time.Sleep(2 * time.Minute)
					require.Equal(t, map[bool]int64{true: 2, false: 3}[inTime], x.asked.Load(), "asked")
				}
				p.left(t, 0, 0)
			})
		})
	}
	outside.Close()
	require.Zero(t, outside.now.Load())
}
