package engine

import (
	"context"
	"strings"
	"time"
)

// Engine is a backend. A part that it does not offer is nil. All parts are safe for
// concurrent use. Close ends every wait and every goroutine of the engine; what was
// acknowledged before stays as [Survives] says. Calls after Close are refused with
// [ErrClosed].
type Engine interface {
	Promises() Promise
	Limits() Limits

	// Epoch says whether the engine still has what it acknowledged: id is another one after
	// it has lost its data, or may have, and age is how long it has had its present ones, by
	// its own clock. No id is zero.
	Epoch(ctx context.Context) (id uint64, age time.Duration, err error)

	Store() Store
	Quota() Quota
	Slots() Slots
	Events() Publisher
	Close() error
}

// Limits says what an engine can do. None of them is zero.
type Limits struct {
	MinTTL   time.Duration // the least time to live of a record or lease that it tells from others
	OpMemory time.Duration // how long an OpID is remembered, and what its Take drew can be settled
	MaxValue int           // bytes of a value or payload
}

// Promise is a set of what an engine guarantees beyond the interfaces.
type Promise uint32

const (
	Atomic        Promise = 1 << iota // each call takes effect at one instant between call and return
	EngineClock                       // every decision about time uses the engine's clock
	FencedForever                     // fences never repeat or go back, failover included
	Pushes                            // Follow is told of changes, it does not poll
	Survives                          // what was acknowledged survives a restart of the engine
)

var promiseNames = [...]string{"Atomic", "EngineClock", "FencedForever", "Pushes", "Survives"}

// Has reports whether p holds all of q.
func (p Promise) Has(q Promise) bool { return p&q == q }

// String names the set, such as "Atomic|Pushes"; "none" if it is empty.
func (p Promise) String() string {
	var names []string
	for i, n := range promiseNames {
		if p.Has(1 << i) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "|")
}
