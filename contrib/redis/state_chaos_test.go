package sluiceredis_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
)

// stateEnv is how much of the chaos on states there is, in hundredths of what docs/fleet.md tells.
const stateEnv = "CHAOS_STATE"

// newStateChaos is four processes that have a job with a state, on a server that keeps what it has said.
func newStateChaos(t *testing.T, job worker) (x *chaos, share int64) {
	t.Helper()
	program(t)
	seed := fromEnv(t, seedEnv, rand.Uint64()>>16)
	share = int64(fromEnv(t, stateEnv, 10))
	t.Logf("%s=%d %s=%d", stateEnv, share, seedEnv, seed)
	x = &chaos{t: t, rnd: rand.New(rand.NewPCG(seed, 2)), began: time.Now(), dir: t.TempDir(), processes: 4}
	x.server = start(t, "--appendonly", "yes", "--appendfsync", "no")
	x.conf = job
	x.conf.Dir, x.conf.Addr, x.conf.Count = x.dir, x.server.addr, job.Count*share
	return x, share
}

// enter starts one more worker.
func (x *chaos) enter() {
	w := x.conf
	w.Seed = uint64(len(x.all) + 1)
	w.Name = fmt.Sprint("worker", len(x.all))
	m := launch(x.t, w, "")
	x.alive, x.all = append(x.alive, m), append(x.all, m)
}

// slay kills a worker, and another comes.
func (x *chaos) slay(m *member) {
	x.say("%s is killed, another comes", m.Name)
	require.NoError(x.t, m.cmd.Process.Kill())
	_ = m.cmd.Wait()
	x.alive = slices.DeleteFunc(x.alive, func(o *member) bool { return o == m })
	x.enter()
}

// bounce kills the server, which comes back with what it knew.
func (x *chaos) bounce(least, most time.Duration) {
	d := x.between(least, most)
	x.say("the server is gone for %v", d)
	x.server.kill()
	time.Sleep(d)
	x.server.run()
}

// mischief kills a worker, or the server, cuts connections, or has one of them stand still: all of these in turn.
func (x *chaos) mischief() {
	if len(x.kinds) == 0 {
		x.kinds = x.rnd.Perm(8)
	}
	m, kind := x.alive[x.rnd.IntN(len(x.alive))], x.kinds[0]
	x.kinds = x.kinds[1:]
	switch kind {
	case 0, 1, 2:
		x.slay(m)
	case 3, 4:
		x.bounce(10*time.Millisecond, 600*time.Millisecond)
	case 5:
		x.say("connections are cut")
		x.cut("normal")
	case 6, 7:
		d := x.between(20*time.Millisecond, 350*time.Millisecond)
		of := x.server.cmd.Process
		if kind == 7 {
			of = m.cmd.Process
		}
		x.say("%s stands still for %v", map[int]string{6: "the server", 7: m.Name}[kind], d)
		require.NoError(x.t, of.Signal(syscall.SIGSTOP))
		time.Sleep(d)
		require.NoError(x.t, of.Signal(syscall.SIGCONT))
	}
}

// finish has the workers that live end.
func (x *chaos) finish() {
	for _, m := range x.alive {
		m.end(x.t)
	}
	x.say("all have ended, of %d workers %d were killed", len(x.all), len(x.all)-len(x.alive))
}

// state is the one that the workers have, for the run itself.
func (x *chaos) state() (context.Context, *sluiceredis.Engine) {
	e, err := sluiceredis.New(x.t.Context(), sluiceredis.Config{Client: client(x.t, x.server.addr)})
	require.NoError(x.t, err)
	fleet := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: e, Budget: 10 * time.Second}))
	s := sluice.Must(sluice.NewFleetState(fleet, sluice.FleetStateConfig{}))
	x.t.Cleanup(func() {
		require.NoError(x.t, s.Close())
		require.NoError(x.t, fleet.Close(context.Background()))
		require.NoError(x.t, e.Close())
	})
	return sluice.WithState(context.Background(), s), e
}

// The keys of a state are linearizable over four real processes, while some of them are killed, the server is killed and
// comes back with what it knew, stands still, and connections are cut. What is unsure, or was under way in a process that
// was killed, may have taken effect at any later time, or never.
func TestFleetState_LinearizableThroughRestarts(t *testing.T) {
	x, share := newStateChaos(t, worker{Job: jobHistory, Callers: 3})
	for range x.processes {
		x.enter()
	}
	time.Sleep(x.between(300*time.Millisecond, 600*time.Millisecond))
	for range max(8, 2*share) {
		x.mischief()
		time.Sleep(x.between(100*time.Millisecond, 400*time.Millisecond))
	}
	x.finish()
	var rows []step
	for _, m := range x.all {
		rows = append(rows, readLines[step](t, m.file(rowsFile))...)
	}
	byKey, open := histories(rows)
	longest, n := 0, 0
	var group sync.WaitGroup
	free := make(chan struct{}, 2)
	for key, history := range byKey {
		longest, n = max(longest, len(history)), n+len(history)
		free <- struct{}{}
		group.Go(func() {
			defer func() { <-free }()
			if got := porcupine.CheckOperationsTimeout(keyModel, history, time.Minute); got != porcupine.Ok {
				t.Errorf("the history of %d operations on key %s is %s", len(history), key, got)
				for _, o := range history {
					t.Logf("%+v", o.Input)
				}
			}
		})
	}
	group.Wait()
	x.say("%d operations on %d keys, the longest history has %d; %d are of unknown end", n, len(byKey), longest, open)
	require.Greater(t, n, 500)
	require.NotZero(t, open, "the faults have met nothing")
}

// Transfers between accounts, by four real processes, are made wholly or not at all, whatever is killed meanwhile: at any
// instant the sum is what was paid in, and in the end each account is what the receipts say, which those transfers have that
// were made, those may have that are unsure, and no other has.
func TestFleetState_TransfersKeepTheSum(t *testing.T) {
	x, _ := newStateChaos(t, worker{Job: jobTransfers, Callers: 4, Count: 200})
	ctx, e := x.state()
	count := openCounters(t, x.dir)
	for i := range accounts {
		_, err := account(i).Set(ctx, deposit)
		require.NoError(t, err)
	}
	for range x.processes {
		x.enter()
	}
	over := make(chan struct{})
	var group sync.WaitGroup
	audits, failed := 0, 0
	group.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(10 * time.Millisecond):
			}
			sum, err := sum(ctx, e)
			if err != nil {
				failed++ // the server is away
				continue
			}
			audits++
			if sum != accounts*deposit {
				t.Errorf("the sum is %d: must be %d", sum, accounts*deposit)
			}
		}
	})
	for count.done.Load() < x.conf.Count && !t.Failed() {
		time.Sleep(x.between(20*time.Millisecond, 150*time.Millisecond))
		x.mischief()
	}
	x.finish()
	close(over)
	group.Wait()

	asked := map[string]transfer{}
	made, open := 0, 0
	for _, m := range x.all {
		for _, y := range readLines[transfer](t, m.file(rowsFile)) {
			asked[y.ID] = y
		}
	}
	want := make([]int64, accounts)
	for i := range want {
		want[i] = deposit
	}
	there := map[string]bool{}
	for e := range sluice.StateFrom(ctx).List("receipt/") {
		require.NoError(t, e.Err)
		id := e.Key[len("receipt/"):]
		y, ok := asked[id]
		require.True(t, ok, id)
		require.NotEqual(t, refused, y.How, "%s was refused, and has been made", id)
		there[id] = true
		want[y.From] -= y.N
		want[y.To] += y.N
	}
	for id, y := range asked {
		switch y.How {
		case done:
			made++
			require.True(t, there[id], "%s was made, and has left nothing", id)
		case begun, unsure:
			open++
		}
	}
	for i, n := range want {
		got, _, err := account(i).Get(ctx)
		require.NoError(t, err)
		require.Equal(t, n, got, "account %d", i)
	}
	x.say("%d transfers of %d were made, %d are of unknown end, of which %d were made; the sum was right %d times, and could not be read %d times",
		made, len(asked), open, len(there)-made, audits, failed)
	require.GreaterOrEqual(t, int64(made), x.conf.Count)
	require.NotZero(t, audits)
}

// sum is that of all accounts at one instant of the engine.
func sum(ctx context.Context, e *sluiceredis.Engine) (sum int64, err error) {
	var names []string
	for i := range accounts {
		names = append(names, "sluice1-state/fleet/state/"+string(account(i)))
	}
	list, err := e.Store().Fetch(ctx, names...)
	for _, rec := range list {
		n, _ := strconv.ParseInt(string(rec.Value), 10, 64)
		sum += n
	}
	return sum, err
}

// Increments of one key, by four real processes, are counted once each, or say that they are unsure, while the server and
// processes are killed: no two are told the same sum, none a sum that is not reached, and what is there in the end is more
// than were told by the unsure ones at most, and those that were under way in what was killed.
func TestFleetState_IncrementsAreExact(t *testing.T) {
	x, share := newStateChaos(t, worker{Job: jobIncrements, Callers: 32, Count: 10_000})
	count := openCounters(t, x.dir)
	for range x.processes {
		x.enter()
	}
	each := x.conf.Count / max(2, min(20, share)) // between two faults
	faults := int64(0)
	for count.clock.Load() < x.conf.Count && !t.Failed() {
		time.Sleep(10 * time.Millisecond)
		if count.done.Load() > (faults+1)*each {
			faults++
			switch x.rnd.IntN(4) {
			case 0:
				x.slay(x.alive[x.rnd.IntN(len(x.alive))])
			case 1: // what has taken effect, and not said so, is asked for again
				x.say("connections are cut")
				x.cut("normal")
			default:
				x.bounce(10*time.Millisecond, 600*time.Millisecond)
			}
		}
	}
	x.finish()
	lasted := time.Since(x.began)
	told := make(map[int64][3]int64, x.conf.Count) // by their sums
	numbers := make(map[int64]bool, x.conf.Count)
	open := 0
	for _, m := range x.all {
		for _, row := range m.rows(t, rowsFile) {
			require.False(t, numbers[row[0]], "number %d was made twice", row[0])
			numbers[row[0]] = true
			if row[1] == 0 {
				open++
				continue
			}
			other, again := told[row[1]]
			require.False(t, again, "two increments were told %d: number %d after %v, number %d after %v", row[1],
				other[0], time.Duration(other[2]-x.began.UnixNano()), row[0], time.Duration(row[2]-x.began.UnixNano()))
			told[row[1]] = row
		}
	}
	lost := int(x.conf.Count) - len(numbers)
	ctx, _ := x.state()
	total, _, err := hits.Get(ctx)
	require.NoError(t, err)
	x.say("%d increments in %v: %d were told their sum, %d are unsure, %d were under way in a process that was killed; the sum is %d",
		x.conf.Count, lasted.Round(time.Millisecond), len(told), open, lost, total)
	require.GreaterOrEqual(t, total, int64(len(told)))
	require.LessOrEqual(t, total, int64(len(told)+open+lost))
	require.LessOrEqual(t, slices.Max(slices.Collect(maps.Keys(told))), total)
	require.LessOrEqual(t, lost, (len(x.all)-len(x.alive))*x.conf.Callers)
	require.Greater(t, len(told), int(x.conf.Count)*8/10, "more than a server's absence makes unsure")
}
