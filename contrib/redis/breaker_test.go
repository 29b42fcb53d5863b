package sluiceredis_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// What the tool of all workers does is a file in their directory that is there, or not: it works, else it fails; or it
// does not answer.
const worksFile, hangsFile = "works", "hangs"

// runOnBreaker is run of a worker that has a breaker with others. Its calls come by their pace, one after the other. A row of
// the file of starts is the instant of a call that reached the tool, and one if that worked.
func (w worker) runOnBreaker(t *testing.T, did *sluice.FleetState) {
	begins := w.write(t, startsFile)
	client, e := w.open(t)
	defer client.Close()
	defer func() { require.NoError(t, e.Close()) }()
	fleet, err := sluice.NewFleet(sluice.FleetConfig{Engine: e, Origin: w.Name})
	require.NoError(t, err)
	breaker, err := sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Fleet: fleet, Failures: w.Failures, Quorum: w.Quorum, Cooldown: w.Cooldown})
	require.NoError(t, err)
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{breaker}})
	require.NoError(t, err)
	is := func(name string) bool {
		_, err := os.Stat(filepath.Join(w.Dir, name))
		return err == nil
	}
	call, err := sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(ctx context.Context, _ struct{}) (int, error) {
		now, works := time.Now().UnixNano(), int64(0)
		if is(worksFile) {
			works = 1
		}
		begins(now, works, 0)
		if is(hangsFile) {
			<-ctx.Done()
		}
		if works == 0 {
			return 0, errors.New("dead")
		}
		return 0, nil
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		for ctx.Err() == nil {
			_, _ = call(ctx, struct{}{})
			select {
			case <-time.After(time.Duration(float64(time.Second) / w.Pace)):
			case <-ctx.Done():
			}
		}
	})
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

// came is a call that reached the tool.
type came struct {
	at   int64
	who  *member
	well bool
}

// reached is all that came to the tool of list, in order.
func reached(t *testing.T, list []*member) (calls []came) {
	for _, m := range list {
		for _, row := range m.rows(t, startsFile) {
			calls = append(calls, came{row[0], m, row[1] == 1})
		}
	}
	slices.SortFunc(calls, func(a, b came) int { return cmp.Compare(a.at, b.at) })
	return calls
}

// Eight real processes on a real server, each with 20 calls a second, call a tool that is dead. It is called as often as a
// quorum of them needs to open, and then once in each round. One process is killed while it probes, and
// another probes soon. Once the tool works, one process recovers, and the others follow.
func TestFleet_BreakersVote(t *testing.T) {
	server, dir := start(t), t.TempDir()
	const failures, quorum = 5, 2
	set := func(name string, is bool) {
		if is {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		} else {
			require.NoError(t, os.Remove(filepath.Join(dir, name)))
		}
	}
	set(worksFile, true)
	var list []*member
	for i := range 8 {
		w := worker{Dir: dir, Name: fmt.Sprint("worker", i), Failures: failures, Quorum: quorum, Cooldown: time.Second, Pace: 20}
		list = append(list, launch(t, w, server.addr))
	}
	require.Eventually(t, func() bool {
		for _, m := range list {
			if len(m.rows(t, startsFile)) < 3 {
				return false
			}
		}
		return true
	}, 30*time.Second, 20*time.Millisecond, "all call, and it works")

	set(worksFile, false)
	time.Sleep(6 * time.Second)
	var dead []came
	for _, c := range reached(t, list) {
		if !c.well {
			dead = append(dead, c)
		}
	}
	rounds := 0
	for i, c := range dead {
		if i >= quorum*failures && c.at-dead[i-1].at > int64(500*time.Millisecond) {
			rounds++
		}
	}
	by := map[string]int{}
	for _, c := range dead {
		by[c.who.Name]++
	}
	t.Logf("dead for 6s: %d calls reached it, %v; rounds at 1, 3 s: %d", len(dead), by, rounds)
	require.LessOrEqual(t, len(dead)-rounds, quorum*failures+len(list)-1, "each may have been about to call")
	require.LessOrEqual(t, rounds, 4)
	require.GreaterOrEqual(t, rounds, 2)

	// The next probe does not come back, and its process is killed.
	set(hangsFile, true)
	var prober *member
	known := len(reached(t, list))
	require.Eventually(t, func() bool {
		calls := reached(t, list)
		if len(calls) > known {
			prober = calls[len(calls)-1].who
		}
		return prober != nil
	}, 20*time.Second, 10*time.Millisecond)
	time.Sleep(6 * time.Second)
	require.Len(t, reached(t, list), known+1, "one probe of all, and its turn goes on while its process is there")
	require.NoError(t, prober.cmd.Process.Kill())
	_ = prober.cmd.Wait()
	killed := time.Now()
	set(hangsFile, false)
	set(worksFile, true)
	var well came
	require.Eventually(t, func() bool {
		for _, c := range reached(t, list)[known+1:] {
			if c.well {
				well = c
				return true
			}
		}
		return false
	}, 20*time.Second, 10*time.Millisecond)
	t.Logf("%s was killed while it probed; %s probed %v later", prober.Name, well.who.Name, time.Unix(0, well.at).Sub(killed))
	require.Less(t, time.Unix(0, well.at).Sub(killed), 8*time.Second, "its turn ends 5 s after it was prolonged last")

	// One recovers for a second, then all are back.
	time.Sleep(4 * time.Second)
	first := map[string]int64{}
	for _, c := range reached(t, list)[known+1:] {
		if first[c.who.Name] == 0 {
			first[c.who.Name] = c.at - well.at
		}
	}
	require.Len(t, first, 7)
	for name, d := range first {
		if name != well.who.Name {
			require.Greater(t, d, int64(900*time.Millisecond), "%s does not wait for who recovers", name)
		}
	}
	for _, m := range list {
		if m != prober {
			did := m.end(t)
			t.Logf("%s: %d trips, %d of them failed", m.Name, did.Trips, did.Failed)
		}
	}
}
