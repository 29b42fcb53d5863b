package deadline

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/internal/clock"
	"github.com/stretchr/testify/require"
)

// told notes when it expires.
type told struct {
	Entry
	name string
	to   *notes
}

func (x *told) Expire() { x.to.add(x.name) }

// notes are names and seconds since the start.
type notes struct {
	mu    sync.Mutex
	start time.Time
	all   []string
}

func (n *notes) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, fmt.Sprintf("%s@%v", name, time.Since(n.start)))
}

func (n *notes) said() []string {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all
}

// inSeconds is the instant so many seconds from now.
func inSeconds(t *Timer, n int) int64 { return t.Clock.Now() + int64(n)*int64(time.Second) }

// Each expires at its own instant, in whatever order they are added, unless it is removed.
func TestTimer_EachAtItsInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timer := &Timer{Clock: clock.New()}
		n := &notes{start: time.Now()}
		var all []*told
		for i, s := range []int{5, 1, 4, 2, 3, 9, 7} {
			x := &told{name: string(rune('a' + i)), to: n}
			all = append(all, x)
			timer.Add(x, inSeconds(timer, s))
		}
		require.True(t, timer.Remove(all[2]))
		require.False(t, timer.Remove(all[2]), "once more does nothing")
		require.False(t, timer.Remove(new(told)))
		time.Sleep(6500 * time.Millisecond)
		timer.Remove(all[5])
		require.False(t, timer.Remove(all[0]), "it has expired")
		timer.Add(all[0], inSeconds(timer, 1))
		time.Sleep(time.Hour)
		require.Equal(t, []string{"b@1s", "d@2s", "e@3s", "a@5s", "g@7s", "a@7.5s"}, n.said())
		timer.mu.Lock()
		defer timer.mu.Unlock()
		require.Equal(t, 0, timer.queue.Len())
	})
}

// What was removed early leaves the timer running, which costs less than stopping it; it fires
// for nobody then, and Close stops it.
func TestTimer_RunsOnUntilClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timer := &Timer{Clock: clock.New()}
		n := &notes{start: time.Now()}
		fires := func(in time.Duration) {
			t.Helper()
			synctest.Wait()
			at := int64(0)
			if in > 0 {
				at = timer.Clock.Now() + int64(in)
			}
			timer.mu.Lock()
			defer timer.mu.Unlock()
			require.Equal(t, at, timer.armed)
		}
		pass := func() {
			x := &told{to: n}
			timer.Add(x, inSeconds(timer, 60))
			timer.Remove(x)
		}
		fires(0)
		pass()
		fires(time.Minute)
		time.Sleep(20 * time.Second)
		pass()
		fires(40 * time.Second) // earlier than it must
		time.Sleep(40 * time.Second)
		fires(0)
		pass()
		fires(time.Minute)
		timer.Close()
		fires(0)
		require.Equal(t, 0, len(n.said()))
	})
}

// A goroutine is started while nobody can have learned by Remove that it is needed.
func TestTimer_GoroutineStartedUnderLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timer, n := &Timer{Clock: clock.New()}, &notes{start: time.Now()}
		timer.Go = func(f func()) {
			if timer.mu.TryLock() {
				timer.mu.Unlock()
				t.Error("Go is called without the lock")
			}
			n.add("starts")
			go f()
		}
		timer.Add(&told{name: "expires", to: n}, inSeconds(timer, 1))
		time.Sleep(3 * time.Second)
		require.Equal(t, []string{"starts@1s", "expires@1s"}, n.said())
	})
}

type blocked struct {
	Entry
	release chan struct{}
}

func (x *blocked) Expire() { <-x.release }

// One that blocks holds up nobody else.
func TestTimer_BlockedHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timer := &Timer{Clock: clock.New()}
		n := &notes{start: time.Now()}
		x := &blocked{release: make(chan struct{})}
		timer.Add(x, inSeconds(timer, 1))
		timer.Add(&told{name: "at once", to: n}, inSeconds(timer, 1))
		timer.Add(&told{name: "later", to: n}, inSeconds(timer, 2))
		time.Sleep(3 * time.Second)
		require.Equal(t, []string{"at once@1s", "later@2s"}, n.said())
		close(x.release)
	})
}

// A Timer that was made outside testing/synctest bubbles serves one after the other.
func TestTimer_FromOutsideABubble(t *testing.T) {
	timer := &Timer{Clock: clock.New()}
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			n := &notes{start: time.Now()}
			x, y, z := &told{name: "x", to: n}, &told{name: "y", to: n}, &told{name: "z", to: n}
			for i, e := range []*told{x, y, z} {
				timer.Add(e, inSeconds(timer, i+1))
			}
			timer.Remove(y)
			timer.Add(y, inSeconds(timer, 5))
			timer.Remove(z)
			time.Sleep(time.Hour)
			require.Equal(t, []string{"x@1s", "y@5s"}, n.said())
		})
	}
	require.Equal(t, true, timer.timer == nil)
}

// A timer of its own that fires while its entry is removed and added again does not serve the
// second time.
func TestTimer_OwnTimerFiresTooLate(t *testing.T) {
	timer := &Timer{Clock: clock.New()}
	synctest.Test(t, func(t *testing.T) {
		n := &notes{start: time.Now()}
		x := &told{name: "x", to: n}
		timer.Add(x, inSeconds(timer, 1))
		timer.mu.Lock()
		time.Sleep(time.Second)
		for range 100 {
			runtime.Gosched() // so that it has fired, and waits for the lock
		}
		timer.removeLocked(x)
		timer.addLocked(x, inSeconds(timer, 5), timer.Clock.Now())
		timer.mu.Unlock()
		time.Sleep(time.Hour)
		require.Equal(t, []string{"x@6s"}, n.said())
	})
}

// One that is added while it is there comes at the earlier time, once, also by a timer of its own.
func TestTimer_AddedTwice(t *testing.T) {
	outside := &Timer{Clock: clock.New()}
	for name, timer := range map[string]*Timer{"in the bubble": nil, "from outside": outside} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if timer == nil {
					timer = &Timer{Clock: clock.New()}
				}
				n := &notes{start: time.Now()}
				x, y := &told{name: "x", to: n}, &told{name: "y", to: n}
				timer.Add(x, inSeconds(timer, 5))
				timer.Add(x, inSeconds(timer, 2))
				timer.Add(y, inSeconds(timer, 3))
				timer.Add(y, inSeconds(timer, 9))
				time.Sleep(4 * time.Second)
				timer.Add(x, inSeconds(timer, 4)) // it has come: this is another time
				time.Sleep(time.Hour)
				require.Equal(t, []string{"x@2s", "y@3s", "x@8s"}, n.said())
			})
		})
	}
}
