package sluiceredis_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
)

// workerEnv tells a process of this test's program that it is a worker, and of what kind.
const workerEnv = "SLUICE_CHAOS_WORKER"

// worker is a process that calls a tool as often as its rate, which is its fleet's, lets it.
type worker struct {
	Addr    string // of the server, or of a way to it
	Dir     string // where it leaves what it did
	Name    string // of its files
	Rate    sluice.Rate
	Stock   int64
	Reserve int64
	Dearest int64   // what a call costs at most
	Callers int     // who call all the time
	Pace    float64 // or calls a second, which come by chance and do not wait for each other
	Seed    uint64
	Urgent  bool // the calls are interactive
	Alone   bool // the rate is not shared
	Settled bool // a call costs what it is found to have used; before, it is charged the middle of that
	Away    engine.Mode
	Share   int

	Slots int           // instead of a rate: so many calls of all workers run at once
	Lease time.Duration // of a slot
	Call  time.Duration // how long a call takes

	Job    string        // instead of both: what it does with a state that all workers share
	Count  int64         // how often all of them do so
	Budget time.Duration // of its Fleet

	Failures int // instead of a rate: in a row, until its breaker opens
	Quorum   int
	Cooldown time.Duration
}

// A start is in the file of starts, and a time for which the machine did not let the worker run in that of gaps: three
// numbers of eight bytes each. For a start they are the instant, the cost, and for how long the call waited, for a gap the
// instants of its two ends. What was written stays there, however the worker ends. At its end it leaves what its Fleet did.
const startsFile, gapsFile, endFile = ".starts", ".gaps", ".end"

// longGap is that of which it tells.
const longGap = 5 * time.Millisecond

func (w worker) file(kind string) string { return filepath.Join(w.Dir, w.Name+kind) }

// TestChaosWorker is what a worker of TestChaos does: it is run by that, in a process of its own.
func TestChaosWorker(t *testing.T) {
	text := os.Getenv(workerEnv)
	if text == "" {
		t.Skip("this is a process of TestChaos, and does nothing by itself")
	}
	var w worker
	require.NoError(t, json.Unmarshal([]byte(text), &w))
	at := runtime.NumGoroutine()
	var did sluice.FleetState
	switch {
	case w.Job != "":
		w.runOnState(t)
	case w.Slots > 0:
		w.runOnSlots(t, &did)
	case w.Failures > 0:
		w.runOnBreaker(t, &did)
	default:
		w.run(t, &did)
	}
	runtime.GC()
	for range 200 { // the client's and the engine's have been told to end
		if runtime.NumGoroutine() <= at {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > at {
		buf := make([]byte, 1<<20)
		t.Fatalf("%d goroutines are left over:\n%s", n-at, buf[:runtime.Stack(buf, true)])
	}
	data, err := json.Marshal(did)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(w.file(endFile), data, 0o600))
}

// run works until there is no more to read from the standard input. There a line of "rest" or "busy" says what
// the callers do.
func (w worker) run(t *testing.T, did *sluice.FleetState) {
	begins := w.write(t, startsFile)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	gap := w.write(t, gapsFile)
	group.Go(func() { lookForGaps(ctx, gap) })
	defer stop()
	c := sluice.RateLimiterConfig{Rates: []sluice.Rate{w.Rate}}
	if !w.Alone {
		client, e := w.open(t)
		defer client.Close()
		defer func() { require.NoError(t, e.Close()) }()
		fleet, err := sluice.NewFleet(sluice.FleetConfig{Engine: e, Away: w.Away, Share: w.Share})
		require.NoError(t, err)
		c.Fleet, c.Stock, c.Reserve = fleet, w.Stock, w.Reserve
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			require.NoError(t, fleet.Close(ctx))
		}()
	}
	rate, err := sluice.NewRateLimiter(c)
	require.NoError(t, err)
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}})
	require.NoError(t, err)
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if list := exec.Snapshot().Fleets; len(list) > 0 {
			*did = list[0]
		}
		require.NoError(t, exec.Close(ctx))
	}()
	call, err := sluice.Wrap(exec, sluice.Spec{Name: "work", Policy: sluice.Policy{
		Cost: func(c sluice.Call, _ string) int64 {
			if w.Settled {
				return (1 + w.Dearest) / 2
			}
			return c.Input.(task).cost
		},
	}}, func(ctx context.Context, x task) (int, error) {
		now := time.Now()
		begins(now.UnixNano(), x.cost, int64(now.Sub(x.came)))
		if w.Settled {
			sluice.ReportUsage(ctx, w.Rate.Unit, x.cost)
		}
		return 0, nil
	})
	require.NoError(t, err)
	if w.Urgent {
		ctx = sluice.WithPipelineContext(ctx, sluice.PipelineContext{Priority: sluice.PriorityInteractive})
	}
	var resting atomic.Bool
	for i := range w.Callers {
		group.Go(func() {
			for n := int64(i); ctx.Err() == nil; n += 7 {
				if resting.Load() {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				if _, err := call(ctx, task{time.Now(), w.cost(n)}); err != nil && ctx.Err() == nil {
					t.Errorf("a call that nobody has bounded ended with %v", err)
				}
				if w.Away == engine.Admit {
					time.Sleep(time.Millisecond) // they need not show how fast they can be
				}
			}
		})
	}
	if w.Pace > 0 {
		group.Go(func() {
			rnd := rand.New(rand.NewPCG(w.Seed, 0))
			for due := time.Now(); ; {
				due = due.Add(time.Duration(rnd.ExpFloat64() / w.Pace * float64(time.Second)))
				select {
				case <-time.After(time.Until(due)):
				case <-ctx.Done():
					return
				}
				cost := w.cost(rnd.Int64())
				group.Go(func() { _, _ = call(ctx, task{time.Now(), cost}) })
			}
		})
	}
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		resting.Store(lines.Text() == "rest")
	}
	stop()
	group.Wait()
}

// write opens one of w's files, and answers what appends a row.
func (w worker) write(t *testing.T, kind string) func(a, b, c int64) {
	f, err := os.OpenFile(w.file(kind), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return func(a, b, c int64) {
		var row []byte
		for _, n := range []int64{a, b, c} {
			row = binary.LittleEndian.AppendUint64(row, uint64(n))
		}
		_, err := f.Write(row)
		require.NoError(t, err)
	}
}

// lookForGaps tells of each time for which the machine did not let it run.
func lookForGaps(ctx context.Context, tell func(from, to, _ int64)) {
	for last := time.Now(); ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
		now := time.Now()
		if now.Sub(last) > longGap {
			tell(last.UnixNano(), now.UnixNano(), 0)
		}
		last = now
	}
}

// task is what a call is given.
type task struct {
	came time.Time
	cost int64
}

// cost is that of the call n.
func (w worker) cost(n int64) int64 {
	if w.Settled { // in sixteen steps from a sixteenth to all
		return (1 + n&15) * w.Dearest / 16
	}
	return 1 + n%w.Dearest
}

// open is the engine, for which a process that starts while the server is away has to wait.
func (w worker) open(t *testing.T) (rueidis.Client, *sluiceredis.Engine) {
	for n := 0; ; n++ {
		c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{w.Addr}, DisableCache: true, ForceSingleClient: true})
		if err == nil {
			e, wrong := sluiceredis.New(t.Context(), sluiceredis.Config{Client: c})
			if wrong == nil {
				return c, e
			}
			c.Close()
			err = wrong
		}
		require.Less(t, n, 1000, "there is no server: %v", err)
		time.Sleep(20 * time.Millisecond)
	}
}
