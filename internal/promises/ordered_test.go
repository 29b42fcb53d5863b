package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// edit is a call that works on files, all to itself if it writes.
type edit struct {
	Who    string
	Files  []string
	Writes bool
	For    time.Duration
	Then   *edit // called from inside
}

// readers is how many may work on one file at once.
const readers = 3

func filesOf(c sluice.Call) []string { return c.Input.(edit).Files }

func byFile(ordered bool) sluice.Limit {
	return sluice.Limit{Max: readers, Unit: "file", Scope: sluice.ByKeys("file", filesOf), Ordered: ordered}
}

// desk is a rig with a tool that edits files and logs who does when.
type desk struct {
	*rig
	log
}

func newDesk(t *testing.T, list ...sluice.Interceptor) *desk {
	d := &desk{rig: newRig(t, sluice.Config{Interceptors: list})}
	weighs := func(c sluice.Call, _ string) int64 {
		if c.Input.(edit).Writes {
			return readers
		}
		return 1
	}
	_, err := sluice.Register(d.reg, sluice.Spec{Name: "edit", Policy: sluice.Policy{Cost: weighs}},
		func(ctx context.Context, x edit) (int, error) {
			d.add("%s@%d", x.Who, d.at()/time.Second)
			time.Sleep(x.For)
			if x.Then == nil {
				return 0, nil
			}
			_, err := d.Invoke(ctx, sluice.Request{Tool: "edit", Input: *x.Then})
			return 0, err
		})
	require.NoError(t, err)
	return d
}

func (d *desk) edit(ctx context.Context, x edit) error {
	_, err := d.Invoke(ctx, sluice.Request{Tool: "edit", Input: x})
	return err
}

func read(who string, d time.Duration, files ...string) edit { return edit{who, files, false, d, nil} }
func write(who string, d time.Duration, files ...string) edit {
	return edit{who, files, true, d, nil}
}

const sec = time.Second

// Readers of a file work together and writers alone, each in the order in which they came, whatever the
// priority; nobody who works on other files waits for that.
func TestOrdered_ReadersDoNotPassAWriter(t *testing.T) {
	for _, submit := range []bool{false, true} {
		t.Run(fmt.Sprintf("submit %v", submit), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := newDesk(t, limitsOf(byFile(true)), scheduler(sluice.PrioritySchedulerConfig{}))
				defer d.end()
				wait := inOrder(7, func(i int) {
					x := []struct {
						edit
						sluice.Priority
					}{
						{read("r1", 4*sec, "a"), sluice.PriorityNormal},
						{read("r2", 5*sec, "a"), sluice.PriorityNormal},
						{write("w1", 2*sec, "a"), sluice.PriorityBatch},
						{read("r3", 3*sec, "a"), sluice.PriorityInteractive},
						{write("other", 9*sec, "b"), sluice.PriorityBatch},
						{read("r4", 1*sec, "a", "c"), sluice.PriorityBatch},
						{write("w2", 1*sec, "c", "a"), sluice.PriorityInteractive},
					}[i]
					ctx := d.as(x.Priority, fmt.Sprint(i))
					if !submit {
						require.NoError(t, d.edit(ctx, x.edit))
						return
					}
					_, err := d.Submit(ctx, sluice.Request{Tool: "edit", Input: x.edit}).Wait(t.Context())
					require.NoError(t, err)
				})
				wait()
				got := strings.Fields(d.String())
				slices.Sort(got[4:6]) // both at once
				require.Equal(t, "r1@0 r2@0 other@0 w1@5 r3@7 r4@7 w2@10", strings.Join(got, " "))
			})
		})
	}
}

// Without Ordered a call that names several files takes all at one instant too, but is passed.
func TestOrdered_SeveralKeysAreAllOrNothing(t *testing.T) {
	for _, ordered := range []bool{true, false} {
		t.Run(fmt.Sprintf("ordered %v", ordered), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				d := newDesk(t, limitsOf(byFile(ordered)))
				defer d.end()
				wait := inOrder(4, func(i int) {
					require.NoError(t, d.edit(d.ctx, []edit{
						write("a", 2*sec, "a"), write("ab", sec, "a", "b", "a", ""), write("ba", sec, "b", "a"), write("b", sec, "b"),
					}[i]))
				})
				used := map[string]int64{}
				for _, g := range d.Snapshot().Gates {
					if g.Key != "" {
						used[g.Key] = g.Used
						require.Equal(t, ordered, g.Ordered)
						require.Equal(t, "per file", g.Scope)
					}
				}
				wait()
				if ordered {
					require.Equal(t, map[string]int64{"a": readers, "b": 0}, used, "who waits holds nothing")
					require.Equal(t, "a@0 ab@2 ba@3 b@4", d.String())
				} else {
					require.Equal(t, map[string]int64{"a": readers, "b": readers}, used)
					require.Equal(t, "a@0 b@0 ab@2 ba@3", d.String())
				}
			})
		})
	}
}

// Whoever is first in line may wait for something else: those behind it wait too, and go on at the instant
// at which it leaves.
func TestOrdered_CancelOfTheFirstLetsTheNextGoOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one := sluice.Limit{Max: 1, Scope: sluice.ByKey("writers", func(c sluice.Call) string {
			if c.Input.(edit).Writes {
				return "all"
			}
			return ""
		})}
		d := newDesk(t, limitsOf(byFile(true), one))
		defer d.end()
		ctx, cancel := context.WithCancelCause(d.ctx)
		left := errors.New("left")
		time.AfterFunc(3*sec, func() { cancel(left) })
		wait := inOrder(4, func(i int) {
			err := d.edit([]context.Context{d.ctx, ctx, d.ctx, d.ctx}[i], []edit{
				write("busy", 10*sec, "z"), write("first", sec, "a"), read("second", sec, "a"), read("other", sec, "b"),
			}[i])
			if i != 1 {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, left)
			require.ErrorIs(t, err, sluice.ErrRejected)
		})
		wait()
		require.Equal(t, "busy@0 other@0 second@3", d.String())
	})
	bubble(t, func(t *testing.T) {
		d := newDesk(t, limitsOf(byFile(true)))
		defer d.end()
		ctx, cancel := context.WithTimeout(d.ctx, 3*sec)
		defer cancel()
		wait := inOrder(4, func(i int) {
			switch i {
			case 1:
				require.ErrorIs(t, d.edit(ctx, write("w", sec, "a")), sluice.ErrWaitTooLong)
				require.Equal(t, 3*sec-1, d.at())
			default:
				require.NoError(t, d.edit(d.ctx, read(fmt.Sprint(i), 5*sec, "a")))
			}
		})
		wait()
		got := strings.Fields(d.String())
		slices.Sort(got)
		require.Equal(t, []string{"0@0", "2@2", "3@2"}, got)
	})
}

// A nested call works on what its ancestor holds, out of turn. For another key it waits for its turn, but
// not behind those who wait for its ancestors.
func TestOrdered_NestedCallsDoNotWaitForTheirAncestors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := newDesk(t, limitsOf(byFile(true)))
		defer d.end()
		own, other := write("own", sec, "a"), read("passes", sec, "b")
		wait := inOrder(5, func(i int) {
			require.NoError(t, d.edit(d.ctx, []edit{
				{"p", []string{"a"}, false, sec, &own},
				{"q", []string{"c"}, false, sec, &other},
				write("w", sec, "a"),
				write("cb", sec, "c", "b"),
				read("b", sec, "b"),
			}[i]))
		})
		wait()
		got := strings.Fields(d.String())
		slices.Sort(got[2:4])
		slices.Sort(got[4:6])
		require.Equal(t, "p@0 q@0 own@1 passes@1 cb@2 w@2 b@3", strings.Join(got, " "))
	})
}

func TestOrdered_ReconfigureIsFeltAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := limitsOf(byFile(true))
		d := newDesk(t, l)
		defer d.end()
		change := func(edit func(*sluice.Limit)) {
			c := l.Config()
			edit(&c.Limits[0])
			require.NoError(t, sluice.Reconfigure("test", l.Change(c)))
			synctest.Wait()
		}
		wait := inOrder(5, func(i int) {
			require.NoError(t, d.edit(d.ctx, []edit{
				read("r1", 9*sec, "a"), write("w1", sec, "a"), read("r2", 2*sec, "a"), write("w2", sec, "a"), read("r3", sec, "a"),
			}[i]))
		})
		require.Equal(t, "r1@0", d.String())
		time.Sleep(sec)
		change(func(l *sluice.Limit) { l.Ordered = false })
		got := strings.Fields(d.String())
		slices.Sort(got)
		require.Equal(t, "r1@0 r2@1 r3@1", strings.Join(got, " "))
		require.False(t, l.Config().Limits[0].Ordered)
		change(func(l *sluice.Limit) { l.Ordered = true })
		d.busyWith(read("r4", sec, "a"))
		time.Sleep(2 * sec)
		change(func(l *sluice.Limit) { l.Max = readers + 1 }) // the reader's one, and a writer's weight of before
		time.Sleep(time.Nanosecond)
		require.True(t, strings.HasSuffix(d.String(), " w1@3"), "%s", d.String())
		change(func(l *sluice.Limit) { l.Max = readers })
		wait()
		time.Sleep(sec)
		require.True(t, strings.HasSuffix(d.String(), " w1@3 w2@9 r4@10"), "%s", d.String())
	})
}

// busyWith starts a call and waits until it is under way or queued.
func (d *desk) busyWith(x edit) {
	go func() { assert.NoError(d.t, d.edit(d.ctx, x)) }()
	synctest.Wait()
}

// What keys a call may have is bounded, and what is wrong with them refuses it.
func TestOrdered_KeysAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := byFile(true)
		l.MaxKeys = 2
		d := newDesk(t, limitsOf(l))
		defer d.end()
		many := make([]string, 65)
		for i := range many {
			many[i] = fmt.Sprint(i)
		}
		for _, x := range []struct {
			files  []string
			reason error
			says   string
		}{
			{many, sluice.ErrInvalidArguments, `sluice: tool "edit": invalid arguments by per file: the call has 65 keys: must have at most 64`},
			{[]string{"a", strings.Repeat("x", 1025)}, sluice.ErrInvalidArguments, `sluice: tool "edit": invalid arguments by per file: key has 1025 bytes: must have at most 1024`},
			{[]string{"a", "b", "c"}, sluice.ErrSaturated, `sluice: tool "edit": saturated by concurrency file per file, retry in 0s: all its keys are busy`},
		} {
			err := d.edit(d.ctx, read("none", sec, x.files...))
			require.ErrorIs(t, err, x.reason)
			require.ErrorIs(t, err, sluice.ErrRejected)
			require.ErrorContains(t, err, strings.Split(x.says, ": ")[3])
		}
		require.NoError(t, d.edit(d.ctx, read("without", 0)))
		require.NoError(t, d.edit(d.ctx, read("empty", 0, "", "")))
		require.NoError(t, d.edit(d.ctx, read("twice", 0, "b", "a", "b", strings.Repeat("a", 1))))
		require.Equal(t, "without@0 empty@0 twice@0", d.String())
	})
}

func TestOrdered_ExplainSaysWhoComesBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := newDesk(t, limitsOf(byFile(true)), scheduler(sluice.PrioritySchedulerConfig{}))
		defer d.end()
		require.NoError(t, d.edit(d.ctx, write("before", 6*sec, "a")))
		wait := inOrder(3, func(i int) {
			require.NoError(t, d.edit(d.as(sluice.PriorityBatch, "org-1"), write(fmt.Sprint(i), 6*sec, "a")))
		})
		x := d.Explain(d.as(sluice.PriorityInteractive, "org-1"), sluice.Request{Tool: "edit", Input: read("x", sec, "b", "a")})
		require.Nil(t, x.Refusal)
		require.Equal(t, 3, x.Place)
		require.Equal(t, []sluice.Wait{{By: "concurrency file per file", For: 14 * sec}}, x.Waits, "two writers' three and its own, of three at once")
		require.Equal(t, []sluice.LaneState{{Tool: "edit", Tenant: "org-1", Waiting: 2, Priority: sluice.PriorityBatch, By: "concurrency file per file", Key: "a"}}, d.Snapshot().Lanes)
		wait()
	})
}

// What every interleaving must show: nobody works beside a writer, at most so many readers at once, and of
// two that share a file the one that came earlier starts earlier. A seed says what is drawn.
func TestOrdered_StormKeepsOrder(t *testing.T) {
	seed := stormSeed(t)
	for i := range uint64(8) {
		t.Run(fmt.Sprintf("bubble %d", seed+i), func(t *testing.T) {
			bubble(t, func(t *testing.T) { orderedStorm(t, rand.New(rand.NewPCG(seed+i, 1)), true) })
		})
		t.Run(fmt.Sprintf("clock %d", seed+i), func(t *testing.T) {
			orderedStorm(t, rand.New(rand.NewPCG(seed+i, 2)), false)
		})
	}
}

func orderedStorm(t *testing.T, r *rand.Rand, virtual bool) {
	var mu sync.Mutex
	at := map[string][2]int{}         // of each file, who works on it: readers and writers
	came := map[string][]string{}     // of each file, who names it, in the order they came
	started := map[string]time.Time{} // who has
	begin := func(x edit, n int) (how int) {
		mu.Lock()
		defer mu.Unlock()
		for _, f := range x.Files {
			k := at[f]
			if x.Writes {
				k[1] += n
			} else {
				k[0] += n
			}
			at[f] = k
			if k[1] > 1 || k[1] == 1 && k[0] > 0 || k[0] > readers {
				t.Errorf("%s: %d readers and %d writers of %s", x.Who, k[0], k[1], f)
			}
		}
		if n > 0 {
			started[x.Who] = time.Now()
		}
		return len(started) % 10
	}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(
		limitsOf(byFile(true), sluice.Limit{Max: 4}), scheduler(sluice.PrioritySchedulerConfig{}))}))
	_, err := sluice.Register(exec.Registry(), sluice.Spec{Name: "edit", Policy: sluice.Policy{Cost: func(c sluice.Call, _ string) int64 {
		if c.Input.(edit).Writes {
			return readers
		}
		return 1
	}}}, func(ctx context.Context, x edit) (int, error) {
		how := begin(x, 1)
		defer begin(x, -1)
		if runtime.Gosched(); virtual {
			time.Sleep(x.For)
		}
		if how == 0 {
			panic("storm")
		}
		return 0, nil
	})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 200 {
		x := edit{Who: fmt.Sprint(i), Writes: r.IntN(3) == 0, For: time.Duration(r.IntN(30)) * time.Microsecond}
		for range r.IntN(4) {
			if f := fmt.Sprint("f", r.IntN(5)); !slices.Contains(x.Files, f) {
				x.Files = append(x.Files, f)
				came[f] = append(came[f], x.Who)
			}
		}
		ctx, cancel := context.WithCancel(sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Priority: sluice.Priority(1 + r.IntN(9))}))
		wg.Go(func() {
			defer cancel()
			_, err := exec.Invoke(ctx, sluice.Request{Tool: "edit", Input: x})
			mu.Lock()
			defer mu.Unlock()
			if _, ran := started[x.Who]; ran == errors.Is(err, sluice.ErrRejected) {
				t.Errorf("%s ran %v, error %v", x.Who, ran, err)
			}
		})
		if virtual {
			synctest.Wait() // it has come
		}
		if r.IntN(5) == 0 {
			if cancel(); virtual {
				synctest.Wait() // and gone, unless it works
			}
		}
		if virtual && r.IntN(2) == 0 {
			time.Sleep(time.Duration(r.IntN(20)) * time.Microsecond)
		}
	}
	wg.Wait()
	require.NoError(t, exec.Close(context.Background()))
	for f, n := range at {
		require.Zero(t, n, f)
	}
	for f, list := range came {
		for i, who := range list {
			for _, before := range list[:i] {
				a, b := started[before], started[who]
				if virtual && !a.IsZero() && !b.IsZero() && b.Before(a) {
					t.Errorf("%s: %s started %v before %s, which came earlier", f, who, a.Sub(b), before)
				}
			}
		}
	}
	require.Greater(t, len(started), 100)
}
