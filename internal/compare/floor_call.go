package compare

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// What the floors have in common: a clock that is one subtraction, an event that goes by
// value through an interface, and a tool with its name.

var epoch = time.Now()

func clock() int64 { return int64(time.Since(epoch)) }

type floorEvent struct {
	kind     string
	at       int64
	id, tool string
	took     int64
	err      error
}

type floorSink interface{ emit(floorEvent) }

// dropSink discards.
type dropSink struct{}

func (dropSink) emit(floorEvent) {}

type floorTool struct {
	name string
	run  func(context.Context, any) (any, error)
}

func newFloorTool(f toolFunc) *floorTool {
	return &floorTool{toolName, func(ctx context.Context, in any) (any, error) {
		v, ok := in.(Input)
		if !ok {
			return nil, errFloorInput
		}
		out, err := f(ctx, v)
		return out, err
	}}
}

var (
	errFloorUnknown = errors.New("floor: no such tool")
	errFloorInput   = errors.New("floor: wrong input")
	errFloorOpen    = errors.New("floor: breaker open")
	errFloorRate    = errors.New("floor: rate")
	errFloorFull    = errors.New("floor: full")
	errFloorPanic   = errors.New("floor: panic or Goexit")
)

// fused is a whole guarded call in one function: a registry that is copied on write, a
// breaker that opens after failures in a row, slots with a first-in-first-out queue, a
// rate, panic capture, three events, and one lock for all of it.
//
// It leaves out: priorities and tenants, waiting for the rate (it refuses), giving
// back the token of a call that leaves the queue, a second look at the breaker when it
// leaves it, half-open probes (it stays open for its cooldown and is then closed), generations, keys and
// scopes, nested calls, reconfiguration, errors that say when to retry.
type fused struct {
	tools    atomic.Pointer[map[string]*floorTool]
	sink     floorSink // nil sends no events
	refuse   bool      // when all slots are taken, instead of waiting
	timeout  time.Duration
	interval int64 // nanoseconds per token
	burst    int64 // nanoseconds that the rate may run ahead
	failures int
	cooldown int64

	mu     sync.Mutex
	slots  fifoSlots
	full   int64 // when the bucket is full again (GCRA, ITU-T I.371)
	failed int   // in a row
	open   int64 // until then
}

func newFused(f toolFunc, limit int, sink floorSink) *fused {
	x := &fused{sink: sink, interval: 1, burst: int64(time.Second), failures: 5, cooldown: int64(30 * time.Second)}
	x.slots.limit = limit
	t := newFloorTool(f)
	x.tools.Store(&map[string]*floorTool{t.name: t})
	return x
}

func (x *fused) invoke(ctx context.Context, id, name string, in any) (any, error) {
	t := (*x.tools.Load())[name]
	if t == nil {
		return nil, errFloorUnknown
	}
	now := clock()
	if x.sink != nil {
		x.sink.emit(floorEvent{kind: "invoked", at: now, id: id, tool: name})
	}
	if err := x.admit(ctx, now); err != nil {
		if x.sink != nil {
			x.sink.emit(floorEvent{kind: "failed", at: now, id: id, tool: name, err: err})
		}
		return nil, err
	}
	return x.call(ctx, t, id, in, now)
}

// call runs the tool of an admitted call and settles.
func (x *fused) call(ctx context.Context, t *floorTool, id string, in any, now int64) (out any, err error) {
	if x.sink != nil {
		x.sink.emit(floorEvent{kind: "started", at: now, id: id, tool: t.name})
	}
	normal := false
	defer func() {
		if !normal {
			err = errFloorPanic
			if v := recover(); v != nil {
				err = fmt.Errorf("%w: %v", errFloorPanic, v)
			}
		}
		end := clock()
		x.settle(end, err)
		if x.sink != nil {
			kind := "completed"
			if err != nil {
				kind = "failed"
			}
			x.sink.emit(floorEvent{kind: kind, at: end, id: id, tool: t.name, took: end - now, err: err})
		}
	}()
	if x.timeout > 0 {
		d := newDeadline(ctx, x.timeout)
		defer d.end()
		ctx = d
	}
	out, err = t.run(ctx, in)
	normal = true
	return out, err
}

// admit takes everything at one instant, or queues for a slot, or refuses.
func (x *fused) admit(ctx context.Context, now int64) error {
	x.mu.Lock()
	if now < x.open {
		x.mu.Unlock()
		return errFloorOpen
	}
	full := max(x.full, now)
	if full-now > x.burst-x.interval {
		x.mu.Unlock()
		return errFloorRate
	}
	if x.refuse && x.slots.used == x.slots.limit {
		x.mu.Unlock()
		return errFloorFull
	}
	w := x.slots.takeLocked()
	x.full = full + x.interval
	x.mu.Unlock()
	if w == nil {
		return nil
	}
	return x.slots.wait(ctx, &x.mu, w)
}

func (x *fused) settle(now int64, err error) {
	x.mu.Lock()
	if err == nil {
		x.failed = 0
	} else if x.failed++; x.failed >= x.failures {
		x.failed, x.open = 0, now+x.cooldown
	}
	next := x.slots.giveLocked()
	x.mu.Unlock()
	if next != nil {
		next.ready <- struct{}{}
	}
}
