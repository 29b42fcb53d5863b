package sluiceotel

import "github.com/sluice-go/sluice"

// UnderWay is how many calls o keeps.
func (o *Observer) UnderWay() (n int) {
	for i := range o.calls.shards {
		s := &o.calls.shards[i]
		s.mu.Lock()
		n += len(s.of)
		s.mu.Unlock()
	}
	return n
}

// Fill has o keep as many calls as it can.
func (o *Observer) Fill() {
	for i := range o.calls.shards {
		s := &o.calls.shards[i]
		s.mu.Lock()
		s.of = make(map[sluice.CallKey]*call)
		for k := range sluice.CallKey(maxCalls / shards) {
			s.of[1<<63+k] = nil // no real call has that key
		}
		s.mu.Unlock()
	}
}
