package engine

import (
	"bytes"
	"context"
	"fmt"
	"sync"
)

// memoryEvents is the publisher of a [Memory].
type memoryEvents struct {
	conf  MemoryConfig
	clock clock

	mu      sync.Mutex
	closed  bool
	ring    []Event // the last MaxEvents, from next on once it is full
	next    int
	dropped uint64
	seen    opLog[string, struct{}]
}

func (p *memoryEvents) open(c MemoryConfig) {
	p.conf, p.clock = c, newClock()
	p.seen = newOpLog[string, struct{}](c.OpMemory, c.MaxOps)
}

func (p *memoryEvents) Publish(ctx context.Context, events []Event) (int, error) {
	if ctx.Err() != nil {
		return 0, ended(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, ErrClosed
	}
	now := p.clock.now()
	for i, e := range events {
		if err := p.check(&e); err != nil {
			return i, err
		}
		if _, ok := p.seen.get(now, e.ID); ok {
			continue
		}
		p.seen.put(now, e.ID, struct{}{})
		e.Payload = bytes.Clone(e.Payload)
		if len(p.ring) < p.conf.MaxEvents {
			p.ring = append(p.ring, e)
			continue
		}
		p.ring[p.next] = e
		p.next = (p.next + 1) % len(p.ring)
		p.dropped++
	}
	return len(events), nil
}

func (p *memoryEvents) check(e *Event) error {
	switch {
	case e.ID == "" || len(e.ID) > MaxKey:
		return fmt.Errorf("%w: length of Event.ID is %d: must be from 1 to %d", ErrPoison, len(e.ID), MaxKey)
	case len(e.Payload) > p.conf.MaxValue:
		return fmt.Errorf("%w: length of Event.Payload is %d: must be at most %d", ErrPoison, len(e.Payload), p.conf.MaxValue)
	}
	return nil
}

func (p *memoryEvents) published() ([]Event, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Event, 0, len(p.ring))
	out = append(out, p.ring[p.next:]...)
	out = append(out, p.ring[:p.next]...)
	for i := range out {
		out[i].Payload = bytes.Clone(out[i].Payload)
	}
	return out, p.dropped
}

func (p *memoryEvents) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.seen = opLog[string, struct{}]{}
	return nil
}
