package sluiceredis_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/resilience"
)

// What a worker does with a state of all workers.
const (
	jobHistory    = "history"    // any operation on few keys, of which all is written down
	jobTransfers  = "transfers"  // transactions between accounts
	jobIncrements = "increments" // of one key
	jobOnce       = "once"       // calls that are to execute once
)

// rowsFile has what a worker did, a line of JSON each, or the three numbers of an increment.
const rowsFile = ".rows"

// How an operation ended.
const (
	begun   = "begun" // and no more is known: its process was killed, or it is under way
	done    = "done"
	unsure  = "unsure"
	refused = "refused"
)

// howEnded says that of an operation. An error that is of no kind which docs/fleet.md tells ends the test.
func howEnded(t *testing.T, err error) string {
	switch {
	case err == nil:
		return done
	case errors.Is(err, sluice.ErrUnsure):
		return unsure
	case errors.Is(err, engine.ErrAway), errors.Is(err, sluice.ErrConflict), errors.Is(err, context.Canceled):
		return refused
	}
	t.Errorf("an operation ended with %v", err)
	return unsure
}

// counters are two numbers that all processes of a run count up, in a file that they all have in their memory.
type counters struct{ clock, done *atomic.Int64 }

func openCounters(t *testing.T, dir string) counters {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "counters"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(4096))
	data, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, syscall.Munmap(data)) })
	return counters{(*atomic.Int64)(unsafe.Pointer(&data[0])), (*atomic.Int64)(unsafe.Pointer(&data[64]))}
}

// lines appends values to a file, a line of JSON each in one step, so that what is written stays however the process ends.
func lines(t *testing.T, path string) func(v any) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return func(v any) {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		_, err = f.Write(append(data, '\n'))
		require.NoError(t, err)
	}
}

// readLines is what lines has written.
func readLines[T any](t *testing.T, path string) (list []T) {
	t.Helper()
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) { // it was killed before it began
		return nil
	}
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		var v T
		require.NoError(t, json.Unmarshal([]byte(line), &v), line)
		list = append(list, v)
	}
	return list
}

// runOnState is run of a worker that has a job.
func (w worker) runOnState(t *testing.T) {
	client, e := w.open(t)
	defer client.Close()
	defer func() { require.NoError(t, e.Close()) }()
	fleet, err := sluice.NewFleet(sluice.FleetConfig{Engine: e, Budget: w.Budget})
	require.NoError(t, err)
	state, err := sluice.NewFleetState(fleet, sluice.FleetStateConfig{})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(sluice.WithState(t.Context(), state))
	defer stop()
	var group sync.WaitGroup
	hear := func(string) {}
	callers := func(do func(i int)) {
		for i := range w.Callers {
			group.Go(func() { do(i) })
		}
	}
	switch w.Job {
	case jobHistory:
		tell, count := lines(t, w.file(rowsFile)), openCounters(t, w.Dir)
		callers(func(i int) { w.history(ctx, t, i, count, tell) })
	case jobTransfers:
		tell, count := lines(t, w.file(rowsFile)), openCounters(t, w.Dir)
		callers(func(i int) { w.transfers(ctx, t, i, count, tell) })
	case jobIncrements:
		tell, count := w.write(t, rowsFile), openCounters(t, w.Dir)
		callers(func(int) { w.increments(ctx, t, count, tell) })
	case jobOnce:
		shop := w.newShop(t, state)
		defer shop.close(t)
		hear = func(line string) { group.Go(func() { shop.hear(ctx, line) }) }
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		hear(in.Text())
	}
	stop()
	group.Wait()
	require.NoError(t, state.Close())
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, fleet.Close(end))
}

// keyLife is for how many instants of a history a key is used: so each key's own history is short, and has few operations
// of which nobody knows how they ended.
const keyLife, keysAtOnce = 240, 4

// history does operations until ctx ends, and writes each down twice: before it begins, and when it has ended.
func (w worker) history(ctx context.Context, t *testing.T, caller int, count counters, tell func(any)) {
	rnd := rand.New(rand.NewPCG(w.Seed, uint64(caller)))
	versions := map[string]uint64{}
	for ctx.Err() == nil {
		at := count.clock.Add(1)
		x := step{Client: int(w.Seed)*w.Callers + caller, Call: at, Kind: "ggsacuude"[rnd.IntN(9)], Arg: 1 + rnd.Int64N(5), How: begun,
			Key: fmt.Sprint(at/keyLife*keysAtOnce + rnd.Int64N(keysAtOnce))}
		x.Was = versions[x.Key]
		tell(x)
		x.do(ctx, t)
		x.Return = count.clock.Add(1)
		tell(x)
		switch {
		case x.How != done:
			if x.How == unsure {
				count.clock.Add(keyLife / 8) // on to other keys
			}
			time.Sleep(5 * time.Millisecond)
		case x.Version != 0 || x.Kind == 'g':
			versions[x.Key] = x.Version
		}
	}
}

// transfer is one between two accounts.
type transfer struct {
	ID       string
	From, To int
	N        int64
	How      string
}

const accounts, deposit = 24, 1000

func account(i int) sluice.Key[int64] { return sluice.Key[int64](fmt.Sprint("account/", i)) }

func receipt(id string) sluice.Key[transfer] { return sluice.Key[transfer]("receipt/" + id) }

// transfers makes some until Count have been made by all.
func (w worker) transfers(ctx context.Context, t *testing.T, caller int, count counters, tell func(any)) {
	rnd := rand.New(rand.NewPCG(w.Seed, uint64(caller)))
	for n := 0; ctx.Err() == nil && count.done.Load() < w.Count; n++ {
		x := transfer{ID: fmt.Sprintf("%s-%d-%d", w.Name, caller, n), From: rnd.IntN(accounts), N: 1 + rnd.Int64N(9), How: begun}
		x.To = (x.From + 1 + rnd.IntN(accounts-1)) % accounts
		tell(x)
		x.How = howEnded(t, sluice.StateFrom(ctx).Txn(ctx, func(ctx context.Context) error {
			for i, by := range map[int]int64{x.From: -x.N, x.To: x.N} {
				had, _, err := account(i).Get(ctx)
				if err == nil {
					_, err = account(i).Set(ctx, had+by)
				}
				if err != nil {
					return err
				}
			}
			_, err := receipt(x.ID).Set(ctx, x)
			return err
		}))
		tell(x)
		if x.How == done {
			count.done.Add(1)
		} else {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

const hits = sluice.Key[int64]("hits")

// increments are made until all have made Count. Of each there is a row: its number, the sum that it was told, which is
// none, zero, if it is unsure, and when.
func (w worker) increments(ctx context.Context, t *testing.T, count counters, tell func(a, b, c int64)) {
	for ctx.Err() == nil {
		n := count.clock.Add(1)
		if n > w.Count {
			return
		}
		for {
			sum, err := sluice.Increment(ctx, hits, 1)
			how := howEnded(t, err)
			if how == refused {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			tell(n, sum, time.Now().UnixNano()) // which is zero with an error
			break
		}
		count.done.Add(1)
	}
}

// shop is a tool whose calls are to execute once.
type shop struct {
	once *resilience.Once
	exec *sluice.Executor
	pay  func(context.Context, order) (receiptOf, error)
	tell func(any)
	name string
}

type order struct{ No string }

type receiptOf struct{ By string } // the execution

// effect is what an execution leaves where no process of a run can take it back.
type effect struct {
	Key, Name, By string
	Ended         bool
}

// asked is what became of what the run asked for.
type asked struct {
	Line string
	By   string // of a call: whose result it got
	How  string
	At   int64
}

// What else becomes of a call.
const (
	inDoubt = "in doubt"
	noState = "no state"
	unkept  = "the call has ended, but what with could not be kept" // see resilience.OnceFailedError
)

const effectsFile = "effects"

func (w worker) newShop(t *testing.T, state *sluice.SharedState) *shop {
	s := &shop{tell: lines(t, w.file(rowsFile)), name: w.Name}
	effects := lines(t, filepath.Join(w.Dir, effectsFile))
	s.once = sluice.Must(resilience.NewOnce(resilience.OnceConfig{State: state, Lease: w.Lease, Key: func(c sluice.Call) (string, bool) {
		o, ok := c.Input.(order)
		return o.No, ok
	}}))
	limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1000}}}))
	s.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{s.once, limit, s.once.Inner()}}))
	s.pay = sluice.Must(sluice.Wrap(s.exec, sluice.Spec{Name: "pay"}, func(_ context.Context, o order) (receiptOf, error) {
		e := effect{o.No, w.Name, engine.NewOpID().String(), false}
		effects(e)
		time.Sleep(w.Call)
		e.Ended = true
		effects(e)
		return receiptOf{e.By}, nil
	}))
	return s
}

func (s *shop) close(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, s.exec.Close(ctx))
}

// hear does what a line says: "call KEY", "forget KEY" or "resolve KEY".
func (s *shop) hear(ctx context.Context, line string) {
	what, key, _ := strings.Cut(line, " ")
	key, _, _ = strings.Cut(key, " ")
	id := resilience.OnceKey{Tool: "pay", Key: key}
	a := asked{Line: line, How: done}
	var err error
	switch what {
	case "call":
		var got receiptOf
		got, err = s.pay(ctx, order{key})
		a.By = got.By
	case "forget":
		err = s.once.Forget(ctx, id)
	case "resolve":
		err = s.once.Resolve(ctx, id, receiptOf{"resolved"})
	}
	if err != nil {
		var doubt *resilience.OnceInDoubtError
		var state *resilience.OnceStateError
		switch {
		case errors.As(err, &doubt):
			a.How = inDoubt
		case errors.As(err, &state):
			a.How = noState
		default:
			a.How = err.Error()
		}
	}
	a.At = time.Now().UnixNano()
	s.tell(a)
}
