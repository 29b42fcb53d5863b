package compare

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
)

const sinkBuffer = 1000

// dropped counts what asynchronous contestants lost, so that losing is work for all.
type dropped struct{ atomic.Uint64 }

func sinkRows() []Row {
	return []Row{{
		Section: "Parts",
		Name:    "asynchronous sink, drop mode",
		Note:    "The same event handed over to a goroutine that drops it, through a buffer of 1,000; what does not fit is counted and lost. How much that is differs: the row says what handing over takes, not what delivering does.",
		Loads:   []Load{alone, {1, 2}, hundred},
		Contestants: []Contestant{
			{"AsyncSink", Ours, func(int) (Body, func(), error) {
				a, err := sluice.NewAsyncSink(discard{}, sluice.AsyncSinkConfig{MaxQueue: sinkBuffer})
				if err != nil {
					return nil, nil, err
				}
				ctx := context.Background()
				return eventBody(func(e *sluice.Event) { a.Emit(ctx, e) }), func() { a.Close(ctx) }, nil
			}},
			{"ring behind a lock", Floor, func(int) (Body, func(), error) {
				r := newFloorRing(sinkBuffer, discard{})
				return eventBody(r.emit), r.close, nil
			}},
			{"channel, select with default", Peer, func(int) (Body, func(), error) {
				ch := make(chan sluice.Event, sinkBuffer)
				var lost dropped
				done := make(chan struct{})
				go func() {
					defer close(done)
					ctx := context.Background()
					for e := range ch {
						discard{}.Emit(ctx, &e)
					}
				}()
				return eventBody(func(e *sluice.Event) {
						select {
						case ch <- *e:
						default:
							lost.Add(1)
						}
					}), func() {
						close(ch)
						<-done
					}, nil
			}},
		},
	}}
}

var someCall = sluice.Call{ID: "call_1", Tool: toolName, Attempt: 1, Pipeline: new(sluice.PipelineContext)}

// eventBody hands over n events that are not terminal, so that priority among events,
// where there is one, has nothing to do.
func eventBody(emit func(*sluice.Event)) Body {
	e := sluice.Event{Kind: sluice.ToolStarted, Time: time.Unix(1, 0), Call: someCall, Seq: 2}
	return func(_, n int) error {
		for range n {
			emit(&e)
		}
		return nil
	}
}

// floorRing is a bounded queue behind a lock, with a goroutine that takes all there is at
// once.
//
// It leaves out: priority among events, a bound on how long closing may take.
type floorRing struct {
	mu     sync.Mutex
	more   sync.Cond
	fill   []sluice.Event
	size   int
	lost   uint64
	closed bool
	done   chan struct{}
}

func newFloorRing(size int, to sluice.EventSink) *floorRing {
	r := &floorRing{fill: make([]sluice.Event, 0, size), size: size, done: make(chan struct{})}
	r.more.L = &r.mu
	go r.run(to)
	return r
}

func (r *floorRing) emit(e *sluice.Event) {
	r.mu.Lock()
	if len(r.fill) == r.size || r.closed {
		r.lost++
		r.mu.Unlock()
		return
	}
	r.fill = append(r.fill, *e)
	first := len(r.fill) == 1
	r.mu.Unlock()
	if first {
		r.more.Signal()
	}
}

func (r *floorRing) run(to sluice.EventSink) {
	defer close(r.done)
	ctx := context.Background()
	spare := make([]sluice.Event, 0, r.size)
	for {
		r.mu.Lock()
		for len(r.fill) == 0 && !r.closed {
			r.more.Wait()
		}
		batch := r.fill
		r.fill = spare
		closed := r.closed
		r.mu.Unlock()
		for _, e := range batch {
			to.Emit(ctx, &e)
		}
		if closed && len(batch) == 0 {
			return
		}
		clear(batch)
		spare = batch[:0]
	}
}

func (r *floorRing) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.more.Signal()
	<-r.done
}
