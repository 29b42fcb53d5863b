package promises_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestListIsSortedAndCurrent(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	for _, k := range []string{"b", "a/2", "a/10", "a", "c", "a/1"} {
		require.NoError(t, second(sluice.Key[string](k).Set(ctx, "v "+k)))
	}
	var keys []string
	for e := range s.List("a") {
		keys = append(keys, e.Key)
		if e.Key == "a/1" { // what goes before its turn is not yielded, what changes is current
			sluice.Key[string]("a/10").Delete(ctx)
			sluice.Key[string]("a/2").Set(ctx, "new")
		}
		if e.Key == "a/2" && e.Value != "new" {
			t.Errorf("a/2 is %v, want new", e.Value)
		}
		_, version, _ := sluice.Key[string](e.Key).Get(ctx)
		assert.Equal(t, e.Version, version)
		assert.Zero(t, e.Lost)
	}
	assert.Equal(t, []string{"a", "a/1", "a/2"}, keys)
}

// Keys that are there during the whole walk are listed exactly once, whatever else
// comes and goes.
func TestListUnderChurn(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	for i := range 500 {
		sluice.Key[int](fmt.Sprintf("stay/%03d", i)).Set(ctx, i)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				for j := range 2000 {
					sluice.Key[int](fmt.Sprint("go/", j)).Set(ctx, i)
				}
				for j := range 2000 {
					sluice.Key[int](fmt.Sprint("go/", j)).Delete(ctx)
				}
			}
		}
	})
	for range 50 {
		n := 0
		for e := range s.List("") {
			if e.Key[0] == 's' {
				if want := fmt.Sprintf("stay/%03d", n); e.Key != want || e.Value != n {
					t.Fatalf("got %v, want %s", e, want)
				}
				n++
			}
		}
		require.Equal(t, 500, n, "of 500 keys were listed")
	}
	close(stop)
	wg.Wait()
}

// collect watches in a goroutine of a bubble until ctx ends.
type collected struct {
	mu      sync.Mutex
	entries []sluice.StateEntry
	ended   time.Time
}

func collect(ctx context.Context, s *sluice.SharedState, prefix string) *collected {
	c := new(collected)
	go func() {
		for e := range s.Watch(ctx, prefix) {
			c.mu.Lock()
			c.entries = append(c.entries, e)
			c.mu.Unlock()
		}
		c.mu.Lock()
		c.ended = time.Now()
		c.mu.Unlock()
	}()
	synctest.Wait()
	return c
}

func (c *collected) String() (out string) {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		out += fmt.Sprintf("%s=%v@%d", e.Key, e.Value, e.Version)
		if e.Lost != 0 {
			out += fmt.Sprintf("(%d lost)", e.Lost)
		}
		out += " "
	}
	return out
}

func TestWatchTellsAllInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, sluice.SharedStateConfig{})
		a, b, n := sluice.Key[string]("w/a"), sluice.Key[string]("w/b"), sluice.Key[int]("w/n")
		b.Set(ctx, "b1")
		a.Set(ctx, "a1")
		sluice.Key[string]("other").Set(ctx, "x")
		wctx, cancel := context.WithCancel(ctx)
		got := collect(wctx, s, "w/")
		a.Set(ctx, "a2")
		sluice.Increment(ctx, n, 5)
		sluice.Increment(ctx, n, 1)
		a.Delete(ctx)
		a.Delete(ctx) // absent: no change
		a.Set(ctx, "a4", sluice.TTL(time.Second))
		b.Update(ctx, func(string, bool) (string, error) { return "b2", nil })
		s.Txn(ctx, func(ctx context.Context) error {
			sluice.Increment(ctx, n, 1)
			_, err := sluice.Increment(ctx, n, 1)
			return err
		})
		sluice.Key[string]("other").Set(ctx, "y")
		time.Sleep(time.Second)
		synctest.Wait() // the expiry comes first
		s.Clear()
		var a4, n4 uint64 = 4, 4
		want := "w/a=a1@1 w/b=b1@1 w/a=a2@2 w/n=5@1 w/n=6@2 w/a=<nil>@3 "
		if g := got.String(); len(g) < len(want) || g[:len(want)] != want {
			t.Fatalf("got  %s\nwant %s…", g, want)
		}
		rest := got.entries[6:]
		if e := rest[0]; e.Value != "a4" || e.Version < a4 {
			t.Errorf("got %+v, want a4", e)
		}
		if e := rest[1]; e.Value != "b2" || e.Version != 2 {
			t.Errorf("got %+v, want b2", e)
		}
		if e := rest[2]; e.Value != 8 || e.Version != n4 {
			t.Errorf("got %+v, want 8 as one change, with the version of the second write", e)
		}
		if e := rest[3]; e.Key != "w/a" || e.Value != nil || e.Version != rest[0].Version+1 {
			t.Errorf("got %+v, want the expiry of w/a", e)
		}
		if len(rest) != 6 || rest[4].Value != nil || rest[5].Value != nil {
			t.Errorf("got %+v, want two deletions at the end", rest[4:])
		}
		cancel()
		synctest.Wait()
		a.Set(ctx, "after the end")
		if n := len(got.entries); n != 12 || got.ended.IsZero() {
			t.Errorf("%d entries after cancel, ended %v", n, got.ended)
		}
	})
}

func TestWatchOfAViewTellsItsKeysAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, sluice.SharedStateConfig{})
		v := sluice.Must(s.View("run/", sluice.SharedStateConfig{}))
		got := collect(ctx, v, "p/")
		sluice.Key[int]("p/x").Set(sluice.WithState(ctx, v), 1)
		sluice.Key[int]("run/p/y").Set(ctx, 2)
		sluice.Key[int]("p/z").Set(ctx, 3)
		assert.Equal(t, "p/x=1@1 p/y=2@1 ", got.String())
		time.Sleep(time.Second)
		v.Close()
		synctest.Wait()
		if got.ended != time.Now() {
			t.Errorf("the watch ended at %v, want now", got.ended)
		}
	})
}

func TestWatchEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, sluice.SharedStateConfig{})
		all := []*collected{collect(ctx, s, ""), collect(ctx, s, "x"), collect(ctx, sluice.Must(s.View("v", sluice.SharedStateConfig{})), "")}
		time.Sleep(time.Second)
		s.Close()
		synctest.Wait()
		for i, c := range all {
			if c.ended != time.Now() {
				t.Errorf("watch %d ended at %v, want now", i, c.ended)
			}
		}
		done, cancel := context.WithCancel(ctx)
		cancel()
		for range s.Watch(done, "") {
			t.Error("a watch whose context is done yielded")
		}
	})
}

func TestAReaderThatNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, sluice.SharedStateConfig{})
		const keys, writes = 10, 100_000
		k := func(i int) sluice.Key[int] { return sluice.Key[int](fmt.Sprint("k", i%keys)) }
		k(0).Set(ctx, -1)
		k(1).Set(ctx, -1)
		gate := make(chan struct{})
		wctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var got []sluice.StateEntry
		go func() {
			for e := range s.Watch(wctx, "") {
				got = append(got, e)
				<-gate
			}
		}()
		synctest.Wait() // it sits on the first entry
		start := time.Now()
		for i := range writes {
			_, err := sluice.Increment(ctx, k(i), 1)
			require.NoError(t, err)
		}
		k(1).Delete(ctx)
		sluice.Key[int]("new").Set(ctx, 5)
		sluice.Key[int]("gone").Set(ctx, 5)
		sluice.Key[int]("gone").Delete(ctx)
		assert.Zero(t, time.Since(start), "the writer waited for")
		close(gate)
		synctest.Wait()

		// First the two entries that were there, then 1,024 changes, then the latest.
		lost, last := 0, make(map[string]sluice.StateEntry)
		for i, e := range got {
			lost += e.Lost
			if e.Lost != 0 && i != 2+1024 {
				t.Errorf("entry %d tells of a loss, want entry %d", i, 2+1024)
			}
			if e.Version <= last[e.Key].Version {
				t.Errorf("entry %d is %+v after version %d", i, e, last[e.Key].Version)
			}
			last[e.Key] = e
		}
		const changes = writes + 4
		delivered := len(got) - 2
		assert.Equal(t, changes, delivered+lost, "%d delivered and %d lost in all", delivered, lost)
		assert.Len(t, got, 2+1024+11, "entries")
		for i := range keys {
			e := last[string(k(i))]
			if want := writes/keys - 1; i == 0 && e.Value != want || i == 1 && e.Value != nil {
				t.Errorf("the last of %s is %+v", e.Key, e)
			}
		}
		if last["new"].Value != 5 || last["gone"].Key != "" {
			t.Errorf("got %+v and %+v, want 5 and nothing", last["new"], last["gone"])
		}
		// And now it is in step again.
		sluice.Increment(ctx, k(2), 1)
		synctest.Wait()
		if e := got[len(got)-1]; e.Key != "k2" || e.Lost != 0 || e.Value != writes/keys+1 {
			t.Errorf("got %+v, want the last change alone", e)
		}
	})
}

// Whatever the writers do and however slow the reader is: versions grow, nothing comes
// twice, and in the end the reader knows exactly what is there.
func TestWatchStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	gaps := 0
	for round := range 10 {
		synctest.Test(t, func(t *testing.T) {
			s, ctx := newState(t, sluice.SharedStateConfig{})
			for i := range 20 {
				sluice.Key[int](fmt.Sprint("k", i)).Set(ctx, -1)
			}
			wctx, cancel := context.WithCancel(ctx)
			var reader, writers sync.WaitGroup
			seen, versions := make(map[string]any), make(map[string]uint64)
			reader.Go(func() {
				for e := range s.Watch(wctx, "k") {
					if e.Version <= versions[e.Key] {
						t.Errorf("%+v after version %d", e, versions[e.Key])
					}
					versions[e.Key] = e.Version
					if seen[e.Key] = e.Value; e.Value == nil {
						delete(seen, e.Key)
					}
					if e.Lost > 0 {
						gaps++
					}
					if round > 0 {
						time.Sleep(time.Duration(round))
					}
				}
			})
			for g := range 4 {
				r := rand.New(rand.NewPCG(seed, uint64(g+round*10)))
				writers.Go(func() {
					for range 3000 {
						k := sluice.Key[int](fmt.Sprint("k", r.IntN(40)))
						switch r.IntN(8) {
						case 0:
							k.Delete(ctx)
						case 1, 2:
							k.Set(ctx, r.IntN(100), sluice.TTL(time.Duration(1+r.IntN(10))))
						case 3:
							time.Sleep(time.Duration(r.IntN(4)))
						case 4:
							s.Txn(ctx, func(ctx context.Context) error {
								k.Delete(ctx)
								_, err := sluice.Increment(ctx, k+"t", 1)
								return err
							})
						default:
							sluice.Increment(ctx, k, 1)
						}
					}
				})
			}
			writers.Wait()
			time.Sleep(time.Hour) // all that expires has expired, and the reader has read
			synctest.Wait()
			now := make(map[string]any)
			for e := range s.List("") {
				now[e.Key] = e.Value
			}
			if fmt.Sprint(now) != fmt.Sprint(seen) {
				t.Errorf("round %d: the reader believes %v,\nthe store holds %v", round, seen, now)
			}
			cancel()
			reader.Wait()
		})
	}
	assert.NotZero(t, gaps, "no reader fell behind: the test has not tried it")
}

// A watch that begins among writes tells each of them once: as a first entry or as a
// change, and never one after a later one.
func TestWatchBeginsAmongWrites(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	const keys = 5000
	k := make([]sluice.Key[int], keys)
	for i := range k {
		k[i] = sluice.Key[int](fmt.Sprint("k", i))
		k[i].Set(ctx, 1)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				sluice.Increment(ctx, k[i%keys*7919%keys], 1)
			}
		}
	})
	for range 15 {
		seen, n, gap := make(map[string]int), 0, false
		for e := range s.Watch(ctx, "") {
			if n++; n > keys+3000 {
				break
			}
			gap = gap || e.Lost > 0
			v, before := e.Value.(int), seen[e.Key]
			if int(e.Version) != v || v <= before || !gap && n > keys && v != before+1 {
				t.Fatalf("entry %d is %+v after %d", n, e, before)
			}
			seen[e.Key] = v
		}
	}
	close(stop)
	wg.Wait()
}

// Exact account of every change without expiry: delivered + lost = changes, and the
// final picture is right even if the reader fell behind many times.
func TestNothingIsLostSilently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 1))
		s, ctx := newState(t, sluice.SharedStateConfig{})
		wctx, cancel := context.WithCancel(ctx)
		seen, versions := make(map[string]any), make(map[string]uint64)
		lost, delivered, gaps := 0, 0, 0
		tick := make(chan int)
		go func() {
			left := 0
			for e := range s.Watch(wctx, "") {
				for left == 0 {
					left = <-tick
				}
				left--
				if e.Version <= versions[e.Key] {
					t.Errorf("%+v after version %d", e, versions[e.Key])
				}
				versions[e.Key] = e.Version
				if seen[e.Key] = e.Value; e.Value == nil {
					delete(seen, e.Key)
				}
				delivered++
				if e.Lost > 0 {
					gaps++
				}
				lost += e.Lost
			}
		}()
		synctest.Wait()
		changes := 0
		write := func() {
			k := sluice.Key[int](fmt.Sprint("k", r.IntN(300)))
			if r.IntN(3) == 0 {
				if _, version, _ := k.Get(ctx); version != 0 {
					changes++
				}
				k.Delete(ctx)
			} else {
				sluice.Increment(ctx, k, 1)
				changes++
			}
		}
		for range 300 {
			for range r.IntN(1000) {
				write()
			}
			select {
			case tick <- r.IntN(600):
			default:
			}
			synctest.Wait()
		}
		for range 100_000 {
			select {
			case tick <- 1000:
			default:
			}
			synctest.Wait()
			if lost+delivered == changes {
				break
			}
		}
		if lost+delivered != changes || gaps < 3 {
			t.Errorf("%d delivered and %d lost in %d gaps, want %d in all and some gaps", delivered, lost, gaps, changes)
		}
		now := make(map[string]any)
		for e := range s.List("") {
			now[e.Key] = e.Value
		}
		if fmt.Sprint(now) != fmt.Sprint(seen) {
			t.Errorf("the reader believes %v,\nthe store holds %v", seen, now)
		}
		cancel()
		select {
		case tick <- 1:
		default:
		}
		synctest.Wait()
	})
}
