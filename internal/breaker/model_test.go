package breaker

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random check; zero means the time")

// model is a breaker that forgets nothing and shares no code with the real one: it keeps
// every call and every result and answers by counting them again.
type model struct {
	cfg        Config // with no zero left
	state      State
	gen        int
	calls      []*mcall  // of this generation
	results    []mresult // of this generation, while closed
	fromStreak int       // results before it do not count in a row
	fromWindow int       // nor these in the window
	forgiven   int       // successes that Reconfigure took away
	openUntil  int64
	tripped    bool
	floor      int64
	reopened   int
	rampEnd    int64
	rampBase   int
}

type mcall struct {
	gen     int
	lease   int64
	over    bool
	success bool
	permit  Permit
}

type mresult struct {
	at   int64
	fail bool
}

// never is the number of failures in a row that does not come.
const never = 1 << 30

func full(c Config) Config {
	if c.Failures == 0 {
		if c.Failures = never; c.Ratio == 0 {
			c.Ratio = 0.5
		}
	}
	if c.MinCalls == 0 {
		c.MinCalls = 5
	}
	if c.Window == 0 {
		c.Window = 30e9
	}
	if c.Cooldown == 0 {
		c.Cooldown = 5e9
	}
	if c.Lease == 0 {
		c.Lease = 60e9
	}
	if c.Probes == 0 {
		c.Probes = 1
	}
	return c
}

func (m *model) enter(s State) {
	m.state = s
	m.gen++
	m.calls, m.results = nil, nil
	m.fromStreak, m.fromWindow, m.forgiven = 0, 0, 0
}

func (m *model) passed() (n int) {
	for _, c := range m.calls {
		if c.over && c.success {
			n++
		}
	}
	return n - m.forgiven
}

func (m *model) ready(now int64) (bool, int64) {
	switch m.state {
	case Closed:
		if now >= m.rampEnd {
			return true, now
		}
		running, may := 0, m.rampBase
		for _, c := range m.calls {
			if !c.over {
				running++
			} else if c.success {
				may++
			}
		}
		if running < may {
			return true, now
		}
		return false, m.rampEnd
	case Open:
		if m.tripped {
			return false, Never
		}
		if at := max(m.openUntil, m.floor); now < at {
			return false, at
		}
		return true, now
	}
	var ends []int64
	for _, c := range m.calls {
		if !c.over && c.lease > now {
			ends = append(ends, c.lease)
		}
	}
	slices.Sort(ends)
	more := m.cfg.Probes - m.passed() - len(ends)
	if more > 0 {
		return true, now
	}
	return false, ends[-more]
}

func (m *model) take(now int64) (*mcall, bool) {
	changed := m.state == Open
	if changed {
		m.enter(HalfOpen)
	}
	c := &mcall{gen: m.gen, lease: now + m.cfg.Lease}
	m.calls = append(m.calls, c)
	return c, changed
}

func (m *model) done(now int64, c *mcall, o Outcome) bool {
	c.over, c.success = true, o == Success
	if c.gen != m.gen || o == Neutral {
		return false
	}
	if m.state == HalfOpen {
		if o == Failure {
			m.reopened++
			m.open(now)
			return true
		}
		if m.passed() < m.cfg.Probes {
			return false
		}
		m.enter(Closed)
		m.rampEnd, m.rampBase = now+m.cfg.Cooldown, m.cfg.Probes
		return true
	}
	m.results = append(m.results, mresult{now, o == Failure})
	if o == Success {
		return false
	}
	row := 0
	for i := len(m.results) - 1; i >= m.fromStreak && m.results[i].fail; i-- {
		row++
	}
	tenth := (m.cfg.Window + 9) / 10
	n, f := 0, 0
	for _, r := range m.results[m.fromWindow:] {
		if r.at/tenth > now/tenth-10 {
			n++
			if r.fail {
				f++
			}
		}
	}
	if row < m.cfg.Failures && !(m.cfg.Ratio > 0 && n >= m.cfg.MinCalls && float64(f)/float64(n) >= m.cfg.Ratio) {
		return false
	}
	if now < m.rampEnd {
		m.reopened++
	} else {
		m.reopened = 0
	}
	m.open(now)
	return true
}

func (m *model) open(now int64) {
	d := m.cfg.Cooldown
	for range m.reopened {
		d = min(2*d, max(m.cfg.Cooldown, int64(2*time.Minute)))
	}
	m.enter(Open)
	m.openUntil = now + d
}

func (m *model) reset() bool {
	changed := m.state != Closed
	if changed {
		m.enter(Closed)
	}
	m.fromStreak, m.fromWindow = len(m.results), len(m.results)
	m.tripped, m.floor, m.reopened, m.rampEnd = false, 0, 0, 0
	return changed
}

func (m *model) reconfigure(c Config) {
	c = full(c)
	if c.Window != m.cfg.Window || c.Ratio != m.cfg.Ratio {
		m.fromWindow = len(m.results)
	}
	if m.cfg.Failures == never { // no row is counted
		m.fromStreak = len(m.results)
	}
	m.cfg = c
	if m.state == HalfOpen {
		m.forgiven += max(0, m.passed()-(c.Probes-1))
	}
}

func randomConfig(r *rand.Rand) Config {
	c := Config{
		Failures: r.IntN(5), MinCalls: 1 + r.IntN(12), Probes: r.IntN(5),
		Window: int64(1+r.IntN(40)) * 1e8, Cooldown: int64(1+r.IntN(50)) * 1e8, Lease: int64(1+r.IntN(30)) * 1e8,
	}
	switch r.IntN(9) {
	case 0:
		c.MinCalls, c.Window, c.Cooldown = 0, 0, 0 // what is so by default
	case 1, 2, 3, 4:
		c.Ratio = float64(1+r.IntN(10)) / 10
	}
	return c
}

// The breaker and the model get the same random events and must agree about everything that
// can be seen, after every one of them.
func TestRandomAgainstModel(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (run again with -seed=%d)", seed, seed)
	r := rand.New(rand.NewPCG(seed, 1))
	seen := map[string]int{}
	const rounds, steps = 600, 500
	for round := range rounds {
		cfg := randomConfig(r)
		first := cfg // the breaker keeps what it is given
		b, m := New(&first), &model{cfg: full(cfg)}
		var running []*mcall
		now, failing := int64(0), r.IntN(11)
		check := func(what string, got, want any) {
			if got != want {
				t.Fatalf("seed %d, round %d, at %d: %s is %v, the model says %v\nconfig %+v\nbreaker %+v\nmodel %+v", seed, round, now, what, got, want, cfg, *b, *m)
			}
		}
		for range steps {
			switch k := r.IntN(100); {
			case k < 45: // start
				ok, _ := m.ready(now)
				p, changed := b.Take(now)
				check("a permit given", p != (Permit{}), ok)
				if !ok {
					check("changed", changed, false)
					seen["refused"]++
					break
				}
				c, want := m.take(now)
				c.permit = p
				check("changed", changed, want)
				running = append(running, c)
			case k < 75 && len(running) > 0: // end
				i := r.IntN(len(running))
				c := running[i]
				running = slices.Delete(running, i, i+1)
				o := Success
				if x := r.IntN(12); x == 11 {
					o = Neutral
				} else if x < failing {
					o = Failure
				}
				switch was, ramp := m.state, m.state == Closed && now < m.rampEnd; {
				case c.gen != m.gen:
					seen["older result"]++
				case was == HalfOpen && now >= c.lease:
					seen["late probe"]++
				case was == HalfOpen && o == Neutral:
					seen["neutral probe"]++
				case ramp && o == Failure:
					seen["failure in the recovery"]++
				}
				re := m.reopened
				changed := b.Done(now, c.permit, o)
				check("changed", changed, m.done(now, c, o))
				if changed {
					seen["became "+[]string{"closed", "open", "half-open"}[m.state]]++
				}
				if m.reopened > re && m.reopened >= 3 {
					seen["opened four times and more"]++
				}
			case k < 94: // time passes, often to an interesting instant
				if at := b.NextChange(now); at != Never && r.IntN(3) == 0 {
					now = max(now, at+int64(r.IntN(3))-1)
					break
				}
				now += r.Int64N(int64(1) << (10 + r.IntN(24)))
			case k < 95:
				if r.IntN(4) == 0 {
					want := m.state != Open
					if want {
						m.enter(Open)
					}
					m.tripped = true
					check("changed by Trip", b.Trip(now), want)
					seen["trip"]++
				}
			case k < 97:
				if m.tripped || r.IntN(8) == 0 {
					check("changed by Reset", b.Reset(now), m.reset())
					seen["reset"]++
				}
			case k < 98:
				until := now + r.Int64N(8e9) - 1e9
				b.Throttle(now, until)
				if until > now {
					m.floor = max(m.floor, until)
				}
			case k < 99:
				cfg = randomConfig(r)
				c := cfg
				b.Reconfigure(now, &c)
				m.reconfigure(c)
				failing = r.IntN(11)
				seen["reconfigure"]++
			}
			check("state", b.State(now), m.state)
			ok, at := b.Ready(now)
			wantOK, wantAt := m.ready(now)
			check("Ready", ok, wantOK)
			check("retryAt", at, wantAt)
			if m.state == HalfOpen {
				n := 0
				for _, c := range m.calls {
					if !c.over && now < c.lease {
						n++
					}
				}
				if n > MaxProbes || ok && n >= m.cfg.Probes {
					t.Fatalf("seed %d: %d probes run, Probes is %d and one more may start", seed, n, m.cfg.Probes)
				}
			}
			if now >= b.IdleAt() && (m.tripped || m.state == Closed && now < m.rampEnd || now < m.floor) {
				t.Fatalf("seed %d, round %d, at %d: idle with something to remember", seed, round, now)
			}
		}
	}
	t.Logf("%d events, of them %v", rounds*steps, seen)
	for _, what := range []string{"refused", "older result", "late probe", "neutral probe", "failure in the recovery", "became closed",
		"became open", "opened four times and more", "trip", "reset", "reconfigure"} {
		if seen[what] < 50 {
			t.Errorf("%q happened %d times, want at least 50: the check says little", what, seen[what])
		}
	}
}
