package agent

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// Code that returns, panics or exits ends alone. In a bubble that the crew is not of, no goroutine is kept: the bubble
// would not end. One that is of it keeps what goes on.
func TestContain(t *testing.T) {
	cause := errors.New("cause")
	for name, c := range map[string]struct {
		f      func()
		value  any
		failed bool
		goexit bool
		gone   bool // and so is its goroutine
	}{
		"returns":           {f: func() {}},
		"panics":            {f: func() { panic(cause) }, failed: true, value: cause},
		"exits":             {f: runtime.Goexit, failed: true, goexit: true, gone: true},
		"exits in a defer":  {f: func() { defer runtime.Goexit(); panic(cause) }, failed: true, goexit: true, gone: true},
		"exits, and panics": {f: func() { defer func() { panic(cause) }(); runtime.Goexit() }, failed: true, value: cause, gone: true},
		"exits further in":  {f: func() { _ = Contain("inner", func() { defer func() {}(); runtime.Goexit() }) }},
	} {
		for _, kept := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					crew := theCrew
					if kept {
						crew = newCrew()
					}
					deferred := false
					err := crew.run("search", func() {
						defer func() { deferred = true }()
						c.f()
					})
					require.True(t, deferred)
					if kept {
						require.Equal(t, !c.gone, len(idle(crew)) == 1)
						again := false
						require.NoError(t, crew.run("search", func() { again = true }))
						require.True(t, again)
						time.Sleep(3 * idleFor)
						require.Empty(t, idle(crew))
					}
					if !c.failed {
						require.NoError(t, err)
						return
					}
					p, ok := errors.AsType[*sluice.PanicError](err)
					require.True(t, ok)
					require.Equal(t, "search", p.Tool)
					require.Equal(t, c.value, p.Value)
					require.Equal(t, c.goexit, p.Goexit)
					require.Contains(t, string(p.Stack), "contain_test.go")
				})
			})
		}
	}
}

// idle are the hands of c that have nothing to do.
func idle(c *crew) (list []*hand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h := c.idle; h != nil; h = h.next {
		list = append(list, h)
	}
	return list
}

// A hand serves one job after the other, as many as there are jobs at once, of which a few stay, for a while after they
// were needed last.
func TestCrewKeepsAFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew()
		together := func(n int) {
			var all sync.WaitGroup
			for range n {
				all.Go(func() { require.NoError(t, c.run("search", func() { time.Sleep(time.Millisecond) })) })
			}
			all.Wait()
			synctest.Wait()
		}
		together(maxIdle + 10)
		require.Len(t, idle(c), maxIdle)
		hands := map[*hand]bool{}
		for range 20 {
			for _, h := range idle(c) {
				hands[h] = true
			}
			together(3)
			time.Sleep(idleFor / 4)
		}
		require.Len(t, hands, maxIdle, "nobody new")
		require.Len(t, idle(c), 3, "those that are needed")
		time.Sleep(3 * idleFor)
		require.Empty(t, idle(c))
		c.mu.Lock()
		require.False(t, c.due, "no timer is left")
		c.mu.Unlock()
		together(1)
		require.Len(t, idle(c), 1)
		time.Sleep(3 * idleFor)
	})
}

// Outside of bubbles, any number of jobs at once come to what they should.
func TestCrewStorm(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Log("seed", seed)
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(seed), uint64(g)))
			for i := range 300 {
				want, got := r.IntN(4), -1
				err := Contain("search", func() {
					if got = i; r.IntN(4) == 0 {
						runtime.Gosched()
					}
					switch want {
					case 1:
						panic(i)
					case 2:
						runtime.Goexit()
					case 3:
						defer func() { panic(i) }()
						runtime.Goexit()
					}
				})
				require.Equal(t, i, got)
				p, failed := errors.AsType[*sluice.PanicError](err)
				require.Equal(t, want > 0, failed)
				if failed {
					require.Equal(t, want == 2, p.Goexit)
					require.Equal(t, want != 2, p.Value == i)
				}
			}
		})
	}
	all.Wait()
}

// Contained code may wait, as any does, and its goroutine may be tied to its thread while it does.
func TestContain_CodeWaits(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	a, b := make(chan int), make(chan int)
	go func() { b <- 1 + <-a }()
	got := 0
	require.NoError(t, Contain("search", func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		a <- 1
		got = <-b
	}))
	require.Equal(t, 2, got)
}

// A goroutine that is kept has no labels of who has needed it first.
func TestContain_NoLabels(t *testing.T) {
	c := newCrew()
	var profile bytes.Buffer
	pprof.Do(t.Context(), pprof.Labels("tenant", "a"), func(context.Context) {
		require.NoError(t, c.run("search", func() { require.NoError(t, pprof.Lookup("goroutine").WriteTo(&profile, 1)) }))
	})
	all := strings.Split(profile.String(), "\n\n")
	i := slices.IndexFunc(all, func(goroutine string) bool {
		return strings.Contains(goroutine, "TestContain_NoLabels") && strings.Contains(goroutine, "(*hand).work")
	})
	require.NotEqual(t, -1, i)
	require.NotContains(t, all[i], "labels")
	c.swept()
	c.swept()
}
