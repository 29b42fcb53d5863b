package breaker

// probes are the permits of a half-open breaker.
type probes struct {
	slots  []lease
	serial uint32 // of the probe that started last
	passed int32  // probes that succeeded
}

// lease is one permit. A serial tells its holder from a former one whose lease has ended,
// whose late result must not give the permit back a second time.
type lease struct {
	until  int64
	serial uint32 // zero: free
}

// reset frees every permit and forgets the successes.
func (p *probes) reset() {
	clear(p.slots)
	p.passed = 0
}

func (p *probes) running(now int64) (n int32) {
	for i := range p.slots {
		if p.slots[i].held(now) {
			n++
		}
	}
	return n
}

func (l *lease) held(now int64) bool { return l.serial != 0 && now < l.until }

// ready says whether one of most may start, and otherwise when leases that end will let it.
func (p *probes) ready(now int64, most int32) (bool, int64) {
	over := p.passed + p.running(now) - most + 1
	if over <= 0 {
		return true, now
	}
	// The over-th lease to end makes room; nearly always that is the first.
	at, seen := now, int32(0)
	for seen < over {
		next, n := Never, int32(0)
		for i := range p.slots {
			switch l := &p.slots[i]; {
			case !l.held(now) || l.until <= at || l.until > next:
			case l.until == next:
				n++
			default:
				next, n = l.until, 1
			}
		}
		if n == 0 {
			return false, at // fewer leases than that; Reconfigure prevents it
		}
		at, seen = next, seen+n
	}
	return false, at
}

// take starts a probe; ready has said that one may.
func (p *probes) take(now, until int64) (slot int32, serial uint32) {
	if p.serial++; p.serial == 0 {
		p.serial = 1
	}
	for i := range p.slots {
		if !p.slots[i].held(now) {
			p.slots[i] = lease{until, p.serial}
			return int32(i), p.serial
		}
	}
	p.slots = append(p.slots, lease{until, p.serial})
	return int32(len(p.slots) - 1), p.serial
}

// give frees the permit unless somebody else has it by now.
func (p *probes) give(slot int32, serial uint32) {
	if serial != 0 && int(slot) < len(p.slots) && p.slots[slot].serial == serial {
		p.slots[slot] = lease{}
	}
}

// lastLease is when the last lease ends or ended, at least at.
func (p *probes) lastLease(at int64) int64 {
	for i := range p.slots {
		if p.slots[i].serial != 0 {
			at = max(at, p.slots[i].until)
		}
	}
	return at
}
