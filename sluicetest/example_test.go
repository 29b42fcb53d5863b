package sluicetest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
)

// A module for an engine of its own runs the kits in a test.
func ExampleStore() {
	_ = func(t *testing.T) { // func TestStore(t *testing.T)
		synctest.Test(t, func(t *testing.T) {
			m, err := engine.NewMemory(engine.MemoryConfig{})
			assert.NoError(t, err)
			defer m.Close()
			sluicetest.Store(t, m.Store, sluicetest.Options{Exact: true})
		})
	}
}

// What an engine says of itself, and what holds behind a slow link or after a loss of its
// data, is a kit of its own; this one has no link, and loses its data by a restart.
func ExampleEngine() {
	_ = func(t *testing.T) { // func TestEngine(t *testing.T)
		synctest.Test(t, func(t *testing.T) {
			x, err := sluicetest.NewChaos(sluicetest.ChaosConfig{
				Open: func() (engine.Engine, error) { return engine.NewMemory(engine.MemoryConfig{}) },
			})
			assert.NoError(t, err)
			defer x.Close()
			sluicetest.Engine(t, sluicetest.Setup{
				Open: func() engine.Engine { return x },
				Lose: func() { assert.NoError(t, x.Restart()) },
			}, sluicetest.Options{Exact: true})
		})
	}
}

// Four processes of the test's own binary draw from the server that all of them reach.
func ExampleProcesses() {
	connect := func(addr string) engine.Engine { return nil }
	_ = func(t *testing.T) { // func TestProcesses(t *testing.T)
		addr := os.Getenv("ENGINE_ADDR")
		if addr == "" {
			addr = "127.0.0.1:7000" // that of a server which the test starts
		}
		sluicetest.Processes(t, func() engine.Quota { return connect(addr).Quota() }, []string{"ENGINE_ADDR=" + addr}, sluicetest.Options{})
	}
}

// A Chaos shows how a program stands an engine that has its troubles.
func ExampleNewChaos() {
	x, err := sluicetest.NewChaos(sluicetest.ChaosConfig{
		Open:  func() (engine.Engine, error) { return engine.NewMemory(engine.MemoryConfig{}) },
		Fault: sluicetest.LosingAcks,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer x.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	op := engine.NewOpID()
	_, _, err = x.Store().Add(ctx, op, "runs", 1, nil, 0)
	fmt.Println(errors.Is(err, engine.ErrUnsure))

	x.Set(sluicetest.Healthy)
	total, _, err := x.Store().Add(ctx, op, "runs", 1, nil, 0) // the same operation: once
	fmt.Println(total, err)
	// Output:
	// true
	// 1 <nil>
}

// Half of a tool's calls fail, the same ones in each run of the test.
func ExampleNewFaults() {
	faults, err := sluicetest.NewFaults(sluicetest.FaultsConfig{Seed: 1, Errors: 0.5})
	if err != nil {
		fmt.Println(err)
		return
	}
	search := sluicetest.Faulty(faults, func(_ context.Context, query string) (string, error) { return "found " + query, nil })
	for range 4 {
		fmt.Println(search(context.Background(), "go"))
	}
	fmt.Printf("%+v\n", faults.Counts())
	// Output:
	// sluicetest: a fault
	// found go <nil>
	//  sluicetest: a fault
	// found go <nil>
	// {Calls:4 Errors:2 Lost:0 Throttles:0 Panics:0 Exits:0 Hangs:0}
}

// failures is a sluicetest.T that prints what is wrong; a test hands its *testing.T over.
type failures struct{}

func (failures) Helper()             {}
func (failures) Logf(string, ...any) {}
func (failures) Errorf(f string, args ...any) {
	fmt.Println(strings.SplitN(fmt.Sprintf(f, args...), "\n", 2)[0])
}

// keeper keeps the events that it is given, and not copies of them: they change after Emit.
type keeper struct {
	mu   sync.Mutex
	kept []*sluice.Event
}

func (*keeper) Enabled(sluice.EventKind) bool { return true }

func (k *keeper) Emit(_ context.Context, e *sluice.Event) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = append(k.kept, e)
	return nil
}

// A kit says which rule a sink of one's own breaks.
func ExampleSink() {
	sluicetest.Sink(failures{}, func() (sluice.EventSink, func() []sluice.Event) {
		k := new(keeper)
		return k, func() []sluice.Event {
			var list []sluice.Event
			for _, e := range k.kept {
				list = append(list, *e)
			}
			return list
		}
	}, sluicetest.Options{Seed: 1})
	// Output:
	// Sink.InOrder: events 1 to 4 of a call arrived as []: each once, in order
	// Sink.Together: events 1 to 4 of a call, emitted beside other calls, arrived as []: each once, in order
	// Sink.KeepsCopies: the sink kept an event that it was given: an event is valid until Emit returns; keep a copy of it, *e
}
