package sluicetest_test

import (
	"context"
	"errors"
	"fmt"
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
