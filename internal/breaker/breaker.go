package breaker

import (
	"math"
	"math/bits"
)

// State is Closed, Open or HalfOpen.
type State uint8

const (
	Closed State = iota
	Open
	HalfOpen
)

// Outcome is how a call ended, as the breaker sees it.
type Outcome uint8

const (
	Success Outcome = iota
	Failure
	Neutral  // says nothing about the callee: no counter moves
	Overload // the callee is too busy, not broken: no counter moves either
)

// Permit is what Take hands to a call and Done takes back, once. The result of the zero
// Permit moves nothing.
type Permit struct {
	gen    uint32
	serial uint32 // of a probe; zero for other calls
	slot   int32
}

// Breaker is one circuit breaker; make it with [New]. Its methods must be serialized. None
// allocates, except that the first probes make room for their leases.
type Breaker struct {
	cfg    *Config
	window window
	probes probes

	until int64 // Closed: end of the recovery; Open: end of the cooldown, Never if tripped
	floor int64 // not before this instant a cooldown ends
	last  int64 // Closed: the last failure; HalfOpen: the last end of a probe

	seed            uint64
	openings        uint32 // numbers the jitter
	gen             uint32
	streak          uint32 // failures in a row, if they are to open it
	running, allows int32  // while it recovers: calls that run, and that may
	state           State
	again           uint8 // openings since it was last closed and well, without the first
}

// past is before every now.
const past int64 = math.MinInt64

var defaults Config

// New returns a closed breaker. It keeps c, which may be shared by breakers and must not be
// changed; nil means all defaults.
func New(c *Config) *Breaker {
	if c == nil {
		c = &defaults
	}
	b := &Breaker{cfg: c, gen: 1, until: past, floor: past, last: past}
	b.window.clear()
	return b
}

// Seed makes open times vary by up to 15 % in both directions, so that breakers that opened
// together do not probe together. Equal seeds give equal times; zero, the default, means
// exact times.
func (b *Breaker) Seed(seed uint64) { b.seed = seed }

// Ready says whether a call may start now. If not, retryAt is the instant at which one may
// if nothing ends before, Never if only Reset helps. It changes nothing.
func (b *Breaker) Ready(now int64) (ok bool, retryAt int64) {
	switch b.state {
	case Closed:
		if now < b.until && b.running >= b.allows {
			return false, b.until
		}
	case Open:
		if now < b.until {
			return false, b.until
		}
		if m := b.cfg.member; m != nil && !m.mayProbe(now) {
			return false, after(now, soon)
		}
	default:
		if m := b.cfg.member; m != nil && !m.mayProbe(now) {
			return false, after(now, soon)
		}
		return b.probes.ready(now, b.cfg.probes())
	}
	return true, now
}

// Take starts a call that Ready let through. Without that it returns the zero Permit, and
// nothing happens. It reports whether the state changed, from Open to HalfOpen.
func (b *Breaker) Take(now int64) (p Permit, changed bool) {
	if b.state == Closed && now >= b.until {
		return Permit{gen: b.gen}, false
	}
	if ok, _ := b.Ready(now); !ok {
		return Permit{}, false
	}
	if b.state == Closed {
		b.running++
		return Permit{gen: b.gen}, false
	}
	if b.state == Open {
		b.probes.reset()
		b.move(HalfOpen)
		changed = true
	}
	slot, serial := b.probes.take(now, after(now, b.cfg.lease()))
	return Permit{b.gen, serial, slot}, changed
}

// IsClean reports whether b is closed, lets every call start, and has nothing to remember of one that
// succeeds, unless it counts results: see Succeeded.
func (b *Breaker) IsClean(now int64) bool {
	return b.state == Closed && now >= b.until && b.streak == 0 && (b.cfg.member == nil || !b.cfg.member.doubt)
}

// CountsUntil is the instant before which a success counts as one at the instant now does, Never if b does
// not count them.
func (b *Breaker) CountsUntil(now int64) int64 {
	if b.cfg.ratio() == 0 {
		return Never
	}
	return edge(now, width(b.cfg.window()))
}

// Succeeded is Done at the instant now of so many calls that succeeded, while b is clean.
func (b *Breaker) Succeeded(now, n int64) {
	if b.cfg.ratio() > 0 && n > 0 {
		b.window.addSuccesses(now, b.cfg.window(), uint64(n))
	}
}

// Generation changes with the state, and PermitOf is what Take gives while b is clean.
func (b *Breaker) Generation() uint32 { return b.gen }

func PermitOf(generation uint32) Permit { return Permit{gen: generation} }

// Done ends the call that holds p and reports whether the state changed.
func (b *Breaker) Done(now int64, p Permit, o Outcome) (changed bool) {
	if p.gen != b.gen {
		return false
	}
	if b.state == Closed {
		return b.count(now, o)
	}
	return b.probed(now, p, o)
}

// count is Done while closed.
func (b *Breaker) count(now int64, o Outcome) bool {
	if now < b.until {
		b.running = max(0, b.running-1)
		if o == Success && b.allows < math.MaxInt32 {
			b.allows++
		}
	}
	switch o {
	case Success:
		if m := b.cfg.member; m != nil {
			m.worked(now)
		}
		b.newRow()
		if b.cfg.ratio() > 0 {
			b.window.add(now, b.cfg.window(), oneResult)
		}
		return false
	case Failure:
		if now >= after(b.last, b.cfg.memory()) {
			b.newRow() // so far apart is none
		}
		b.last = now
		if b.cfg.Failures > 0 {
			b.streak = min(b.streak, math.MaxUint32-2) + 1
			if m := b.cfg.member; m != nil {
				m.failed(now, b.streak)
			}
		}
		if b.cfg.ratio() > 0 {
			b.window.add(now, b.cfg.window(), oneFailure)
		}
		// A success cannot raise the ratio, so only failures open.
		if b.streak < b.cfg.failures() && !b.tooMany() {
			return false
		}
		b.open(now)
		return true
	}
	return false
}

// tooMany reports whether the ratio in the window opens the breaker.
func (b *Breaker) tooMany() bool {
	n := b.window.results()
	// The quotient, unlike Ratio times n, is exact for a Ratio written as a decimal.
	return b.cfg.ratio() > 0 && n >= b.cfg.minCalls() && float64(b.window.failures())/float64(n) >= b.cfg.ratio()
}

// probed is Done while half-open; no permit of an open breaker exists.
func (b *Breaker) probed(now int64, p Permit, o Outcome) bool {
	b.last = now
	b.probes.give(p.slot, p.serial)
	if m := b.cfg.member; m != nil && !m.mayProbe(now) {
		return false // it is somebody else's turn
	}
	switch o {
	case Success:
		if b.probes.passed++; b.probes.passed < b.cfg.probes() {
			return false
		}
		b.close()
		b.until = after(now, b.cfg.cooldown())
		b.running, b.allows = 0, b.cfg.probes()
		return true
	case Failure:
		b.open(now)
		return true
	}
	return false
}

func (b *Breaker) open(now int64) {
	if b.state == HalfOpen || now < b.until {
		b.again = min(b.again+1, maxDoubled)
	} else {
		b.again = 0
	}
	b.openings++
	times := b.again
	if m := b.cfg.member; m != nil {
		if m.opened = true; m.mine() {
			times = min(m.rule.Round+1, maxDoubled)
		}
		m.vote.row = max(1, m.vote.row) // what is there does not say so
	}
	b.move(Open)
	b.until = max(b.floor, after(now, b.jitter(b.cfg.openFor(times))))
}

// jitter is d, moved by up to 15 % if there is a seed.
func (b *Breaker) jitter(d int64) int64 {
	if b.seed == 0 {
		return d
	}
	// The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
	x := b.seed + uint64(b.openings)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	part := d / 20 * 3 // 15 %
	off, _ := bits.Mul64(x, uint64(2*part)+1)
	return max(1, after(d-part, int64(off)))
}

func (b *Breaker) close() {
	b.move(Closed)
	b.until = past
	b.newRow()
	b.window.clear()
}

func (b *Breaker) move(s State) {
	b.state = s
	if b.gen++; b.gen == 0 {
		b.gen = 1 // zero is the zero Permit's
	}
}

// Trip opens b until Reset and reports whether the state changed.
func (b *Breaker) Trip(now int64) (changed bool) {
	if changed = b.state != Open; changed {
		b.move(Open)
	}
	b.until = Never
	b.orders(Tripped)
	return changed
}

// Reset closes b at once, without a gradual recovery, and forgets what it has counted. It
// reports whether the state changed.
func (b *Breaker) Reset(now int64) (changed bool) {
	gen := b.gen
	changed = b.state != Closed
	b.close()
	if !changed {
		b.gen = gen // calls that run still count
	}
	b.floor = past
	b.orders(Whole)
	return changed
}

// Throttle says that the callee asked not to be called before until, as HTTP's Retry-After
// does: if b is open or opens before that, it stays open until then at least. It opens
// nothing.
func (b *Breaker) Throttle(now, until int64) {
	if until <= now {
		return
	}
	b.floor = max(b.floor, min(until, Never-1))
	if b.state == Open {
		b.until = max(b.until, b.floor)
	}
}

// State is what the last change that was reported made it.
func (b *Breaker) State(now int64) State { return b.state }

// NextChange is the first instant after now at which Ready may answer otherwise by the
// passage of time alone, Never if there is none.
func (b *Breaker) NextChange(now int64) int64 {
	if ok, at := b.Ready(now); !ok {
		return at
	}
	return Never
}

// IdleAt is the instant from which b may be forgotten, and made anew when it is asked for again,
// if nothing happens: it is closed then and has no failure to remember, or nothing has happened for
// so long (see Failures of Config) that it would not count any more. Successes alone hold nobody
// up, so they are forgotten. It is Never if b is tripped.
// The caller knows that no call that holds a permit runs.
func (b *Breaker) IdleAt() int64 {
	if m := b.cfg.member; m != nil {
		return max(m.idleAt(), b.idleAt())
	}
	return b.idleAt()
}

func (b *Breaker) idleAt() int64 {
	since := b.last
	switch b.state {
	case Closed:
		at := max(b.floor, b.until)
		if b.window.failures() > 0 {
			at = max(at, b.window.emptyAt(b.cfg.window()))
		}
		if b.streak == 0 {
			return at
		}
		return max(at, after(since, b.cfg.memory()))
	case Open:
		since = b.until
	default:
		since = b.probes.lastLease(since)
	}
	return max(b.floor, after(since, b.cfg.memory()))
}

// Reconfigure replaces the configuration. The state stays, and what has begun (a cooldown, a
// lease, a recovery) ends as it would have; thresholds count from the next result on. A new
// Window or Ratio, and Failures after a time without, start with nothing counted.
func (b *Breaker) Reconfigure(now int64, c *Config) {
	if c == nil {
		c = &defaults
	}
	if c.window() != b.cfg.window() || c.ratio() != b.cfg.ratio() {
		b.window.clear()
	}
	if c.Failures <= 0 {
		b.newRow()
	}
	if m := b.cfg.member; m != nil {
		c = c.of(m)
	}
	b.cfg = c
	// With fewer probes to succeed than have succeeded nobody would be let in to say so.
	b.probes.passed = min(b.probes.passed, c.probes()-1)
}
