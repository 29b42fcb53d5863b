package fleet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// Whatever happens to the engine and to processes: while the record at the engine says that the breaker is not closed,
// nobody calls but whose turn it is, once, unless he cannot reach the engine; and once all is well, all are closed.
func TestFleet_VotesStorm(t *testing.T) {
	seed := *stormSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for i := range *storms {
		if !t.Run("", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { votesStorm(t, seed+uint64(i)) }) }) {
			return
		}
	}
}

// seen is a record of what all have agreed on, as it came to be.
type seen struct {
	at     time.Duration
	Phase  string        `json:"phase"`
	By     string        `json:"by"`
	Origin string        `json:"origin"`
	Turn   string        `json:"turn"`
	Lasts  time.Duration `json:"lasts_ns"`
	gone   bool
}

// witness is who looks at the engine from outside, and at the tool.
type witness struct {
	mu    sync.Mutex
	begin time.Time
	log   []seen
	names map[string]string // by what is told in records
	calls []attempt
	sick  map[int][]spell // when a process could not reach the engine, or not be told what it did
}

type attempt struct {
	who  int
	from time.Duration
}

type spell struct{ from, to time.Duration }

const wellAfter = time.Second // a process that can reach the engine again has found that out

func (w *witness) watch(ctx context.Context, s engine.Store) {
	for rec, err := range s.Follow(ctx, "sluice1/fleet/rule/") {
		if err != nil {
			return
		}
		if rec.Caught {
			continue
		}
		x := seen{at: time.Since(w.begin), gone: rec.Gone}
		if !rec.Gone && json.Unmarshal(rec.Value, &x) != nil {
			panic("a record that nobody can read: " + string(rec.Value))
		}
		w.mu.Lock()
		w.names[x.By] = x.Origin
		w.log = append(w.log, x)
		w.mu.Unlock()
	}
}

func (w *witness) isSick(who int, at time.Duration) bool {
	for _, s := range w.sick[who] {
		if at >= s.from && at <= s.to+wellAfter {
			return true
		}
	}
	return false
}

// allows reports whether that x lets a process begin a call, as if nothing came after it.
func (w *witness) allows(x seen, who int, at time.Duration) bool {
	switch x.Phase {
	case "", "closed":
		return true
	case "probing", "ramping":
		return w.names[x.Turn] == fmt.Sprintf("process%d", who) && at <= x.at+x.Lasts
	}
	return false
}

// judge says what is wrong with a call, or nothing.
func (w *witness) judge(c attempt) string {
	const slack = time.Millisecond // for things of one instant
	last := seen{}
	for _, x := range w.log {
		if x.at > c.from {
			break
		}
		if x.at >= c.from-slack && w.allows(last, c.who, c.from) {
			return ""
		}
		last = x
	}
	if w.allows(last, c.who, c.from) {
		return ""
	}
	return fmt.Sprintf("process %d calls at %v, when it is %q since %v, and the turn of %q", c.who, c.from, last.Phase, last.at, w.names[last.Turn])
}

func votesStorm(t *testing.T, seed uint64) {
	t.Logf("-storm-seed %d", seed)
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	n := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	const cooldown = time.Second
	threshold, processes := 1+n(4), 2+n(5)
	c := sluice.CircuitBreakerConfig{Failures: threshold, Cooldown: cooldown, Quorum: 1 + n(processes)}
	b := newBench(t, processes, c)
	w := &witness{begin: b.x.begin, names: map[string]string{}, sick: map[int][]spell{}}
	watching, unwatch := context.WithCancel(context.Background())
	var watchers sync.WaitGroup
	watch := func() { e := b.e; watchers.Go(func() { w.watch(watching, e.Store()) }) }
	watch()
	isSick := map[int]bool{}
	sick := func(i int, is bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		at := time.Since(w.begin)
		switch {
		case is && !isSick[i]:
			w.sick[i] = append(w.sick[i], spell{at, 1 << 62})
		case !is && isSick[i]:
			w.sick[i][len(w.sick[i])-1].to = at
		}
		isSick[i] = is
	}
	dead := map[int]context.CancelFunc{}
	call := func(i int) {
		ctx, cancel := context.WithCancel(b.ctx)
		dead[i] = cancel
		every := time.Duration(10+n(200)) * time.Millisecond
		if n(4) == 0 {
			every *= 50
		}
		p := b.list[i]
		for range 1 + n(3) {
			b.group.Go(func() {
				for ctx.Err() == nil {
					_, _ = p.tool(ctx, struct{}{})
					select {
					case <-time.After(every + time.Duration(n(1000))*time.Microsecond):
					case <-ctx.Done():
					}
				}
			})
		}
	}
	for i := range processes {
		call(i)
	}
	if n(2) == 0 {
		b.x.mu.Lock()
		b.x.takes = time.Duration(n(20)) * time.Millisecond
		b.x.mu.Unlock()
	}
	byHand := 0
	for range 60 {
		i := n(len(b.list))
		switch n(9) {
		case 0, 1:
			b.x.set(true)
		case 2:
			b.x.set(false)
		case 3:
			sick(i, true)
			b.rails[i].cut(true)
		case 4:
			for i, r := range b.rails {
				if r.isAlive() {
					r.loses(0)
					r.cut(false)
					sick(i, false)
				}
			}
		case 5:
			sick(i, true)
			b.rails[i].loses(1 + n(3))
		case 6:
			if len(dead) > 0 && n(2) == 0 { // a process dies: nothing more is heard of it
				sick(i, true)
				dead[i]()
				b.rails[i].dies()
			} else { // another begins
				b.rails = append(b.rails, newRail(b.e))
				b.list = append(b.list, newJudge(b.rails[len(b.rails)-1], b.x, len(b.list), c))
				sick(len(b.list)-1, true)
				sick(len(b.list)-1, false)
				call(len(b.list) - 1)
			}
		case 7:
			if n(2) == 0 {
				was := b.e
				b.e = sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
				for i, r := range b.rails {
					if !isSick[i] {
						sick(i, true)
						sick(i, false)
					}
					r.to(b.e)
				}
				w.mu.Lock()
				w.log = append(w.log, seen{at: time.Since(w.begin), gone: true}) // until somebody tells it again
				w.mu.Unlock()
				require.NoError(t, was.Close())
				watch()
			}
		case 8:
			if n(3) == 0 && !isSick[i] {
				byHand++
				f := b.list[i].breaker.Trip
				if n(2) == 0 {
					f = b.list[i].breaker.Reset
				}
				require.NoError(t, f("work"))
			}
		}
		time.Sleep(time.Duration(n(4000)) * time.Millisecond)
	}
	b.x.set(false)
	var alive []int
	for i, r := range b.rails {
		if r.isAlive() {
			r.loses(0)
			r.cut(false)
			sick(i, false)
			alive = append(alive, i)
		}
	}
	if len(alive) > 0 {
		time.Sleep(wellAfter)
		require.NoError(t, b.list[alive[0]].breaker.Reset("work"))
		time.Sleep(wellAfter)
		b.x.set(true) // and once more, with nobody in the way
		time.Sleep(time.Minute)
		b.x.set(false)
		time.Sleep(3 * time.Minute)
		states := b.states()
		for _, i := range alive {
			require.Equal(t, closed, states[i], "process %d, once all is well", i)
		}
	}
	b.stop()
	b.group.Wait()
	unwatch()
	watchers.Wait()
	for i, at := range b.x.reached {
		w.calls = append(w.calls, attempt{b.x.by[i], at})
	}
	wrong, free := []string{}, 0
	for _, c := range w.calls {
		if w.isSick(c.who, c.from) {
			free++
			continue
		}
		if s := w.judge(c); s != "" {
			wrong = append(wrong, s)
		}
	}
	wrong = append(wrong, w.probes()...)
	t.Logf("%d processes, quorum %d, threshold %d, %d calls, %d of them by processes cut off, %d rules, %d by hand",
		len(b.list), c.Quorum, threshold, len(w.calls), free, len(w.log), byHand)
	if len(wrong) > 0 {
		for _, x := range w.log {
			t.Logf("%v: %s, turn of %q for %v, by %s, gone %v", x.at, x.Phase, w.names[x.Turn], x.Lasts, x.Origin, x.gone)
		}
		t.Logf("cut off: %v", w.sick)
	}
	require.Empty(t, strings.Join(wrong, "\n"))
	for i, p := range b.list {
		if !b.rails[i].isAlive() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			require.NoError(t, p.exec.Close(ctx))
			_ = p.fleet.Close(ctx)
			cancel()
			continue
		}
		p.close(t)
	}
	require.NoError(t, b.e.Close())
}

// probes says which turns were used for more than one call before what came of it was told.
func (w *witness) probes() (wrong []string) {
	for i, x := range w.log {
		if x.Phase != "probing" || i > 0 && w.log[i-1].Phase == "probing" && w.log[i-1].Turn == x.Turn {
			continue
		}
		end := time.Duration(1 << 62)
		for _, y := range w.log[i+1:] {
			if y.Phase != "probing" || y.Turn != x.Turn {
				end = y.at
				break
			}
		}
		began := 0
		for _, c := range w.calls {
			if c.from > x.at && c.from < end && !w.isSick(c.who, c.from) && w.names[x.Turn] == fmt.Sprintf("process%d", c.who) {
				began++
			}
		}
		if began > 1 {
			wrong = append(wrong, fmt.Sprintf("%d calls of one turn of %q, from %v to %v", began, w.names[x.Turn], x.at, end))
		}
	}
	return wrong
}

// loses has so many answers be lost.
func (r *rail) loses(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lose = n
}

// dies has it be cut for ever.
func (r *rail) dies() {
	r.cut(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead = true
}

func (r *rail) isAlive() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.dead
}
