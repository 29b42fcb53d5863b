package compare

import (
	"container/heap"
	"context"
	"sync"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
)

// narrow is a limit that makes nearly all of a hundred goroutines queue, because the tool
// yields while it holds its slot.
const narrow = 4

func queuedRows() []Row {
	return []Row{{
		Section: "The whole call",
		Name:    queuedCall,
		Note:    "Four slots, and a tool that lets others run while it holds one, so nearly every call waits for its slot. With HandOff who gives one back lets who gets it run first.",
		Loads:   []Load{hundred, thousand},
		Contestants: []Contestant{
			{byInvoke, Ours, oursCall(yieldingTool, oursConfig{limit: narrow, sink: discard{}})},
			{byInvokeNil, Ours, oursCall(yieldingTool, oursConfig{limit: narrow})},
			{byInvoke + ", HandOff", Ours, oursCall(yieldingTool, oursConfig{limit: narrow, sink: discard{}, handOff: true})},
			{"fused, first in first out", Floor, fusedCall(yieldingTool, narrow, dropSink{}, 0)},
			{byHand, Peer, handmadeCall(yieldingTool, narrow, 0)},
			{byFail, Peer, failCall(yieldingTool, failConfig{limit: narrow})},
		},
	}}
}

func admissionRows() []Row {
	return []Row{{
		Section: "Parts",
		Name:    queuedPart,
		Note:    "One slot; each goroutine takes it and gives it back at once, so all others wait all the time. Workers have different priorities: four in the floor, nine in the heap and the machine.",
		Loads:   []Load{hundred, thousand},
		Contestants: []Contestant{
			{machinePart, Part, func(workers int) (Body, func(), error) {
				s := newMachineSlots(1)
				return queuedBody(workers, func(hold func()) func(int) error {
					return func(worker int) error {
						t := s.acquire(int8(worker % 9))
						hold()
						s.release(t)
						return nil
					}
				}), nil, nil
			}},
			{levelFloor, Floor, func(workers int) (Body, func(), error) {
				s := newLevelSemaphore(1)
				return queuedBody(workers, func(hold func()) func(int) error {
					return func(worker int) error {
						s.acquire(worker % 4)
						hold()
						s.release()
						return nil
					}
				}), nil, nil
			}},
			{"heap, lock, channel", Peer, func(workers int) (Body, func(), error) {
				s := &heapSemaphore{free: 1}
				return queuedBody(workers, func(hold func()) func(int) error {
					return func(worker int) error {
						s.acquire(worker % 9)
						hold()
						s.release()
						return nil
					}
				}), nil, nil
			}},
			{"failsafe-go priority limiter", Peer, func(workers int) (Body, func(), error) {
				l := adaptivelimiter.NewBuilder[int]().WithLimits(1, 1, 1).WithQueueing(1e5, 1e6).
					BuildPrioritized(adaptivelimiter.NewPrioritizer())
				ctx := context.Background()
				return queuedBody(workers, func(hold func()) func(int) error {
					return func(worker int) error {
						p, err := l.AcquirePermitWithLevel(ctx, worker%500)
						if err != nil {
							return err
						}
						hold()
						p.Record()
						return nil
					}
				}), nil, nil
			}},
		},
	}}
}

// queuedBody is n slots taken and given back, each after waiting for it. Whoever holds a
// slot calls hold.
func queuedBody(workers int, make func(hold func()) (once func(worker int) error)) Body {
	m := &muster{workers: int64(workers)}
	once := make(m.hold)
	return func(worker, n int) error {
		m.arrive()
		for range n {
			if err := once(worker); err != nil {
				return err
			}
		}
		return nil
	}
}

// heapSemaphore is what one writes with package container/heap: waiters ordered by level,
// then arrival, each with a channel of its own.
type heapSemaphore struct {
	mu   sync.Mutex
	free int
	seq  uint64
	wait waiterHeap
}

type heapWaiter struct {
	level int
	seq   uint64
	ready chan struct{}
}

type waiterHeap []*heapWaiter

func (h waiterHeap) Len() int { return len(h) }
func (h waiterHeap) Less(i, j int) bool {
	return h[i].level > h[j].level || h[i].level == h[j].level && h[i].seq < h[j].seq
}
func (h waiterHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *waiterHeap) Push(x any)   { *h = append(*h, x.(*heapWaiter)) }
func (h *waiterHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return w
}

func (s *heapSemaphore) acquire(level int) {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return
	}
	s.seq++
	w := &heapWaiter{level, s.seq, make(chan struct{})}
	heap.Push(&s.wait, w)
	s.mu.Unlock()
	<-w.ready
}

func (s *heapSemaphore) release() {
	s.mu.Lock()
	if len(s.wait) == 0 {
		s.free++
		s.mu.Unlock()
		return
	}
	w := heap.Pop(&s.wait).(*heapWaiter)
	s.mu.Unlock()
	close(w.ready)
}
