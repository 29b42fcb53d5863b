package sluice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/internal/fleet"
)

// Fleet shares rates, slots and breakers with other processes: list it in [RateLimiterConfig], [ConcurrencyLimiterConfig]
// and [CircuitBreakerConfig]. It asks the engine in the background, so no call waits for a trip that has a unit in stock,
// or a slot. Make one with [NewFleet], close it after the executors that use it. Safe for concurrent use. See docs/fleet.md.
type Fleet struct {
	core *fleet.Fleet
	conf FleetConfig
}

// FleetConfig configures a [Fleet].
type FleetConfig struct {
	Engine engine.Engine // required; it stays the caller's to close, after the Fleet
	Name   string        // of the quotas' name space on the engine; empty means "fleet"
	Origin string        // of this process, in events and snapshots; empty means a random one
	Budget time.Duration // of a trip; zero means 100 ms

	// Away is what holds while the engine does not answer. With engine.Deny, the default, calls wait, or are refused;
	// with engine.LocalShare this process has 1/Share of each rate and limit; with engine.Admit all calls start. Whatever it
	// says, each process's breakers judge alone then.
	Away  engine.Mode
	Share int // of LocalShare, which needs it: how many processes there are at most

	Shadow bool      // no call waits or is refused; those that would have are counted, see [FleetState]
	Sink   EventSink // hears FleetChanged; nil discards
	_      struct{}
}

// NewFleet returns a Fleet, and starts a goroutine that hears what other processes tell.
func NewFleet(c FleetConfig) (*Fleet, error) {
	f, err := &Fleet{conf: c}, error(nil)
	if f.core, err = fleet.New(fleet.Config{Engine: c.Engine, Name: &f.conf.Name, Origin: &f.conf.Origin, Budget: c.Budget, Mode: c.Away,
		Share: c.Share, Shadow: c.Shadow, Tell: f.hear}); err != nil {
		return nil, fmt.Errorf("sluice: FleetConfig%w", err)
	}
	return f, nil
}

// hear tells the Sink.
func (f *Fleet) hear(n fleet.Notice) error {
	_, err := deliver(context.Background(), f.conf.Sink, &Event{Kind: FleetChanged, Time: n.At, By: n.By, OldLimit: n.From, NewLimit: n.To,
		Err: n.Cause, Actor: f.conf.Origin}, nil)
	return err
}

// Close gives back the units in stock, and slots as calls end. Calls of the Fleet's limiters are refused from then on, with
// [ErrRateLimited] or [ErrSaturated]. It waits until all is given back, or ctx ends: then its error says what is left.
func (f *Fleet) Close(ctx context.Context) error { return f.core.Close(ctx) }

// FleetState is what a [Fleet] has done, in a [Snapshot].
type FleetState struct {
	Name     string `json:"name"`
	Origin   string `json:"origin"`
	Away     bool   `json:"away,omitempty"` // the engine does not answer
	Shadow   bool   `json:"shadow,omitempty"`
	Trips    uint64 `json:"trips"`             // fetches, settlements, and those of states
	Failed   uint64 `json:"failed"`            // those of unknown outcome included
	Denied   uint64 `json:"denied"`            // fetches that brought nothing
	Fetched  int64  `json:"fetched"`           // units
	Returned int64  `json:"returned"`          // units, unused
	Slots    int64  `json:"slots,omitempty"`   // that are leased
	Short    uint64 `json:"short,omitempty"`   // of Shadow: calls that would have waited, or been refused
	Dropped  uint64 `json:"dropped,omitempty"` // events that Sink has not got
}

// state is f's.
func (f *Fleet) state() FleetState {
	c := f.core.Counts()
	return FleetState{f.conf.Name, f.conf.Origin, c.Away, f.conf.Shadow, c.Trips, c.Failed, c.Denied, c.Fetched, c.Settled, c.Slots, c.Short, c.Lost}
}

// ErrLeaseLost is why a tool's context is canceled whose slot is not its own any more: its lease could not be renewed in
// time, or the engine has ended it. A tenth of the lease is left when its time is over. [context.Cause] tells.
var ErrLeaseLost = errors.New("sluice: the lease of a slot has ended")

// Fence is the number of the lease on which the running call, or the nearest around it, has its slot of a [Limit] with a
// Fleet; limit is the limiter's Name, or the limit's as in [Error].By. Each lease of a key has a larger one than all before:
// what a Max of 1 protects should refuse numbers smaller than it has seen, since a process that stood still cannot know that
// its lease has ended. It answers false outside of such a call, and while Away lets it run without a lease.
func Fence(ctx context.Context, limit string) (uint64, bool) {
	for r := callOf(ctx); r != nil; r = r.inv.parent.Load() {
		if n := r.Permit.Fence(limit); n > 0 {
			return n, true
		}
	}
	return 0, false
}
