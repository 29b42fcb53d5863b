package compare

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// chain is a whole guarded call as six closures around a tool, compiled once: observe,
// recover, breaker, rate, concurrency, priority. Each of the gates is a program of its own
// with its own lock, which is what composing libraries gives at best.
//
// It leaves out what fused leaves out, and decides one gate after the other: a token is
// spent before the slot is asked for. A full limit refuses.
type chain struct {
	tools atomic.Pointer[map[string]chainHandler]
}

type chainCall struct {
	id, tool string
	in       any
	now      int64
}

type chainHandler func(ctx context.Context, c chainCall) (any, error)

func newChain(f toolFunc, limit int, sink floorSink) *chain {
	t := newFloorTool(f)
	h := chainHandler(func(ctx context.Context, c chainCall) (any, error) { return t.run(ctx, c.in) })
	h = chainPriority(sink, h)
	h = chainConcurrency(limit, h)
	h = chainRate(1, int64(time.Second), h)
	h = chainBreaker(5, int64(30*time.Second), h)
	h = chainRecover(h)
	h = chainObserve(sink, h)
	x := new(chain)
	x.tools.Store(&map[string]chainHandler{t.name: h})
	return x
}

func (x *chain) invoke(ctx context.Context, id, name string, in any) (any, error) {
	h := (*x.tools.Load())[name]
	if h == nil {
		return nil, errFloorUnknown
	}
	return h(ctx, chainCall{id: id, tool: name, in: in})
}

func chainObserve(sink floorSink, next chainHandler) chainHandler {
	return func(ctx context.Context, c chainCall) (any, error) {
		c.now = clock()
		sink.emit(floorEvent{kind: "invoked", at: c.now, id: c.id, tool: c.tool})
		out, err := next(ctx, c)
		kind := "completed"
		if err != nil {
			kind = "failed"
		}
		end := clock()
		sink.emit(floorEvent{kind: kind, at: end, id: c.id, tool: c.tool, took: end - c.now, err: err})
		return out, err
	}
}

// chainRecover turns a panic into an error. A Goexit passes through, without its event.
func chainRecover(next chainHandler) chainHandler {
	return func(ctx context.Context, c chainCall) (out any, err error) {
		defer func() {
			if v := recover(); v != nil {
				out, err = nil, fmt.Errorf("%w: %v", errFloorPanic, v)
			}
		}()
		return next(ctx, c)
	}
}

func chainBreaker(failures int, cooldown int64, next chainHandler) chainHandler {
	var (
		mu     sync.Mutex
		failed int
		open   int64
	)
	return func(ctx context.Context, c chainCall) (out any, err error) {
		mu.Lock()
		refuse := c.now < open
		mu.Unlock()
		if refuse {
			return nil, errFloorOpen
		}
		normal := false
		defer func() {
			mu.Lock()
			switch {
			case normal && (err == nil || err == errFloorRate || err == errFloorFull):
				failed = 0
			default:
				if failed++; failed >= failures {
					failed, open = 0, clock()+cooldown
				}
			}
			mu.Unlock()
		}()
		out, err = next(ctx, c)
		normal = true
		return out, err
	}
}

func chainRate(interval, burst int64, next chainHandler) chainHandler {
	var (
		mu   sync.Mutex
		full int64
	)
	return func(ctx context.Context, c chainCall) (any, error) {
		mu.Lock()
		at := max(full, c.now)
		ok := at-c.now <= burst-interval
		if ok {
			full = at + interval
		}
		mu.Unlock()
		if !ok {
			return nil, errFloorRate
		}
		return next(ctx, c)
	}
}

func chainConcurrency(limit int, next chainHandler) chainHandler {
	var (
		mu   sync.Mutex
		used int
	)
	return func(ctx context.Context, c chainCall) (any, error) {
		mu.Lock()
		ok := used < limit
		if ok {
			used++
		}
		mu.Unlock()
		if !ok {
			return nil, errFloorFull
		}
		defer func() {
			mu.Lock()
			used--
			mu.Unlock()
		}()
		return next(ctx, c)
	}
}

// chainPriority is a scheduler's fast path: nobody waits, so the call may start.
func chainPriority(sink floorSink, next chainHandler) chainHandler {
	var waiting atomic.Int64
	return func(ctx context.Context, c chainCall) (any, error) {
		if waiting.Load() != 0 {
			return nil, errFloorFull
		}
		sink.emit(floorEvent{kind: "started", at: c.now, id: c.id, tool: c.tool})
		return next(ctx, c)
	}
}
