package sluiceotel

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
