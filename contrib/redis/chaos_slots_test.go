package sluiceredis_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// spansFile has a row for each call: the instants at which it began and at which it ended, or was told to, and its fence.
const spansFile = ".spans"

// runOnSlots is run of a worker whose calls take turns on slots.
func (w worker) runOnSlots(t *testing.T, did *sluice.FleetState) {
	span, gap := w.write(t, spansFile), w.write(t, gapsFile)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	group.Go(func() { lookForGaps(ctx, gap) })
	client, e := w.open(t)
	defer client.Close()
	defer func() { require.NoError(t, e.Close()) }()
	fleet, err := sluice.NewFleet(sluice.FleetConfig{Engine: e})
	require.NoError(t, err)
	limit, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "slots", Fleet: fleet, Lease: w.Lease, Limits: []sluice.Limit{{Max: w.Slots}}})
	require.NoError(t, err)
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limit}})
	require.NoError(t, err)
	var mu sync.Mutex // of the file
	call, err := sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(ctx context.Context, _ struct{}) (int, error) {
		from := time.Now()
		fence, _ := sluice.Fence(ctx, "slots")
		timer := time.NewTimer(w.Call)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		to := time.Now()
		mu.Lock()
		defer mu.Unlock()
		span(from.UnixNano(), to.UnixNano(), int64(fence))
		return 0, ctx.Err()
	})
	require.NoError(t, err)
	for range w.Callers {
		group.Go(func() {
			for ctx.Err() == nil {
				if _, err := call(ctx, struct{}{}); err != nil && ctx.Err() == nil && !errors.Is(err, sluice.ErrLeaseLost) {
					t.Errorf("a call that nobody has bounded ended with %v", err)
				}
			}
		})
	}
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
	}
	stop()
	group.Wait()
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	*did = exec.Snapshot().Fleets[0]
	require.NoError(t, exec.Close(end))
	require.NoError(t, fleet.Close(end))
}

// flight is what the calls of all workers add up to between two instants: how many ran at most, and on average. What a
// worker ran when it was stopped, or the machine did not let it run for long, ends there: it could not be told.
func flight(t *testing.T, list []*member, from, to int64) (mean float64, most int, calls map[string]int) {
	type edge struct {
		at int64
		n  int
	}
	var edges []edge
	calls = make(map[string]int)
	area := int64(0)
	for _, m := range list {
		stops := slices.Clone(m.stops)
		for _, g := range m.rows(t, gapsFile) {
			if g[1]-g[0] > int64(m.Lease)/20 {
				stops = append(stops, [2]int64{g[0], g[1]})
			}
		}
		for _, s := range m.rows(t, spansFile) {
			for _, x := range stops {
				if s[0] < x[1] && s[1] > x[0] {
					s[1] = max(s[0], min(s[1], x[0]))
				}
			}
			if a, b := max(s[0], from), min(s[1], to); a < b {
				edges = append(edges, edge{a, 1}, edge{b, -1})
				area += b - a
				calls[m.Name]++
			}
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.n, b.n)) })
	n := 0
	for _, e := range edges {
		n += e.n
		most = max(most, n)
	}
	return float64(area) / float64(to-from), most, calls
}

// Four real processes share eight slots on a real server: never more run, hardly any is idle, and few calls cost a trip.
func TestFleet_SharesSlots(t *testing.T) {
	server := start(t)
	w := worker{Dir: t.TempDir(), Slots: 8, Lease: time.Second, Call: 20 * time.Millisecond, Callers: 10}
	var list []*member
	for i := range 4 {
		w.Name = fmt.Sprint("worker", i)
		list = append(list, launch(t, w, server.addr))
	}
	time.Sleep(3 * time.Second)
	from := time.Now()
	time.Sleep(5 * time.Second)
	to := time.Now()
	trips := uint64(0)
	for _, m := range list {
		trips += m.end(t).Trips
	}
	_, most, all := flight(t, list, 0, to.Add(time.Hour).UnixNano())
	mean, _, calls := flight(t, list, from.UnixNano(), to.UnixNano())
	n := 0
	for _, c := range all {
		n += c
	}
	t.Logf("mean %.2f, most %d, calls %v, trips for each %.3f", mean, most, calls, float64(trips)/float64(n))
	require.LessOrEqual(t, most, 8)
	require.Greater(t, mean, 6.5) // of a machine that does other things as well
	require.Less(t, float64(trips)/float64(n), 0.4)
}

// Real processes take turns on slots, while processes are killed and stand still for longer than a lease and shorter, the
// server is killed and comes back with what it knew or without, for longer than a lease and shorter, and connections are
// cut. At no instant more calls run that could be told to end than there are slots, and once all is well all slots are used.
func TestChaosOnSlots(t *testing.T) {
	program(t)
	seed := fromEnv(t, seedEnv, rand.Uint64()>>16)
	runs, width := fromEnv(t, chaosEnv, 4), fromEnv(t, widthEnv, 2)
	t.Logf("%s=%d %s=%d", chaosEnv, runs, seedEnv, seed)
	free := make(chan struct{}, width)
	var group sync.WaitGroup
	defer group.Wait()
	for i := range runs {
		free <- struct{}{}
		group.Go(func() {
			defer func() { <-free }()
			t.Run(fmt.Sprint(seed+i), func(t *testing.T) { chaosOnSlots(t, seed+i) })
		})
	}
}

func chaosOnSlots(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	x := &chaos{t: t, rnd: rnd, began: time.Now(), dir: t.TempDir(), processes: 2 + rnd.IntN(3)}
	x.server = start(t, "--appendonly", "yes", "--appendfsync", "no")
	x.conf = worker{Dir: x.dir, Slots: 1 + rnd.IntN(8), Lease: time.Second, Call: x.between(5*time.Millisecond, 300*time.Millisecond), Callers: 3 + rnd.IntN(8)}
	x.say("%d processes with %d callers each, %d slots, calls of %v", x.processes, x.conf.Callers, x.conf.Slots, x.conf.Call)
	for range x.processes {
		x.join()
	}
	time.Sleep(x.between(1500*time.Millisecond, 2500*time.Millisecond))
	for range 3 + rnd.IntN(4) {
		m := x.alive[rnd.IntN(len(x.alive))]
		switch rnd.IntN(8) {
		case 0:
			x.say("%s is killed, another comes", m.Name)
			require.NoError(t, m.cmd.Process.Kill())
			_ = m.cmd.Wait()
			x.alive = slices.DeleteFunc(x.alive, func(o *member) bool { return o == m })
			x.join()
		case 1, 2:
			d := x.between(100*time.Millisecond, 2500*time.Millisecond)
			x.say("%s stands still for %v", m.Name, d)
			from := time.Now().UnixNano()
			require.NoError(t, m.cmd.Process.Signal(syscall.SIGSTOP))
			time.Sleep(d)
			require.NoError(t, m.cmd.Process.Signal(syscall.SIGCONT))
			m.stops = append(m.stops, [2]int64{from, time.Now().UnixNano()})
		case 3, 4:
			x.restart(false)
		case 5, 6:
			x.restart(true)
		case 7:
			d := x.between(100*time.Millisecond, 2500*time.Millisecond)
			x.say("%s is cut off for %v", m.Name, d)
			m.link.set(true)
			time.Sleep(d)
			m.link.set(false)
		}
		time.Sleep(x.between(50*time.Millisecond, 1500*time.Millisecond))
	}
	well := time.Now()
	x.say("all is well")
	slow := x.probe(well.Add(4*time.Second), well.Add(6*time.Second))
	for _, m := range x.alive {
		m.end(t)
	}
	for _, m := range x.all {
		require.FileExists(t, filepath.Join(x.dir, m.Name+gapsFile))
	}
	_, most, calls := flight(t, x.all, 0, time.Now().UnixNano())
	mean, _, _ := flight(t, x.all, well.Add(4*time.Second).UnixNano(), well.Add(6*time.Second).UnixNano())
	x.say("at most %d of %d at once, calls %v; once all was well %.2f on average", most, x.conf.Slots, calls, mean)
	require.LessOrEqual(t, most, x.conf.Slots)
	can := min(x.conf.Slots, len(x.alive)*x.conf.Callers)
	require.Greater(t, mean, float64(can)*(0.7-slow.Seconds()/2), "of %d", can)
}
