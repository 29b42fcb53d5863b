package sluiceprom

// Waiting is of how many calls c remembers what they wait for.
func (c *Collector) Waiting() int {
	c.waiting.mu.Lock()
	defer c.waiting.mu.Unlock()
	return len(c.waiting.by)
}
