package sluicetest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

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
